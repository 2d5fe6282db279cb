//! How often one may ask: so many times a minute, all of them at once if one likes.
//!
//! Of each key one instant is kept: when everything asked so far would be done at an even pace. Keys whose time is over are forgotten;
//! when there are too many that are not, a new one is refused.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const KEYS_MAX: usize = 20_000;
const MINUTE: Duration = Duration::from_secs(60);

/// Rates of many.
pub(super) struct Rates<K> {
    interval: Duration,
    until: Mutex<HashMap<K, Instant>>,
}

impl<K: Hash + Eq> Rates<K> {
    /// So many a minute of each.
    pub(super) fn new(per_minute_max: u32) -> Self {
        Self { interval: MINUTE / per_minute_max.max(1), until: Mutex::new(HashMap::new()) }
    }

    /// Counts one more; an error says how many seconds to wait.
    pub(super) fn take(&self, key: K, now: Instant) -> Result<(), u64> {
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        if until.len() >= KEYS_MAX && !until.contains_key(&key) {
            until.retain(|_, until| *until > now);
            if until.len() >= KEYS_MAX {
                return Err(MINUTE.as_secs());
            }
        }
        let next = until.get(&key).map_or(now, |until| now.max(*until)) + self.interval;
        let ahead = next - now;
        if ahead > MINUTE {
            return Err((ahead - MINUTE).as_secs() + 1);
        }
        until.insert(key, next);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_a_minute_and_no_more() {
        let (rates, now) = (Rates::new(60), Instant::now());
        for n in 0..60 {
            assert_eq!(rates.take("a", now), Ok(()), "{n}");
        }
        assert_eq!(rates.take("a", now), Err(2));
        assert_eq!(rates.take("b", now), Ok(()));
        assert_eq!(rates.take("a", now + Duration::from_secs(1)), Ok(()));
        assert!(rates.take("a", now + Duration::from_secs(1)).is_err());
        for _ in 0..60 {
            assert_eq!(rates.take("a", now + Duration::from_secs(70)), Ok(()));
        }
    }

    #[test]
    fn a_crowd_is_bounded_and_forgotten() {
        let (rates, now) = (Rates::new(60), Instant::now());
        for key in 0..KEYS_MAX {
            assert_eq!(rates.take(key, now), Ok(()));
        }
        assert!(rates.take(KEYS_MAX, now).is_err());
        assert_eq!(rates.take(KEYS_MAX, now + Duration::from_secs(2)), Ok(()));
    }
}
