//! How fast records may go: a bucket of bytes that refills at a steady rate.

use std::time::{Duration, Instant};

/// How much of a second's bytes may go at once.
const BURST: Duration = Duration::from_millis(100);

/// What may be sent now. Time is given to it, so that it can be tested.
#[derive(Debug)]
pub struct Pace {
    bytes_per_s: u64,
    /// When everything sent so far is paid for.
    free_at: Instant,
}

impl Pace {
    /// Never more than this in the long run.
    pub fn new(bytes_per_s: u64, now: Instant) -> Self {
        Self { bytes_per_s: bytes_per_s.max(1), free_at: now }
    }

    /// How long until something may go; zero if now.
    pub fn wait(&self, now: Instant) -> Duration {
        self.free_at.saturating_duration_since(now + BURST)
    }

    /// So much has gone.
    pub fn spend(&mut self, bytes: usize, now: Instant) {
        let cost = Duration::from_secs_f64(bytes as f64 / self.bytes_per_s as f64);
        self.free_at = self.free_at.max(now) + cost;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_the_long_run_no_more_goes_than_the_rate() {
        let begin = Instant::now();
        let mut pace = Pace::new(1000, begin);
        let (mut now, mut sent) = (begin, 0);
        while now < begin + Duration::from_secs(10) {
            if pace.wait(now).is_zero() {
                pace.spend(50, now);
                sent += 50;
            } else {
                now += pace.wait(now);
            }
        }
        assert!((9_900..=10_200).contains(&sent), "{sent}");
    }

    #[test]
    fn a_rest_is_not_saved_up() {
        let begin = Instant::now();
        let mut pace = Pace::new(1000, begin);
        let now = begin + Duration::from_secs(60);
        let mut sent = 0;
        while pace.wait(now).is_zero() {
            pace.spend(50, now);
            sent += 50;
        }
        assert!(sent <= 200, "{sent}");
    }
}
