//! Time: the wall clock read once, then carried forward by the monotonic clock, so that no duration is negative.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Microseconds in an hour: no record spans two.
pub const HOUR_US: i64 = 3_600_000_000;

/// A clock anchored once: Unix time in µs that never goes back.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// None: it stands still.
    anchor: Option<Instant>,
    anchor_us: i64,
}

impl Clock {
    /// Anchors to the wall clock's present reading.
    pub fn anchored() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self { anchor: Some(Instant::now()), anchor_us: micros(since_epoch) }
    }

    /// A clock that stands still: for what is written about the past.
    pub fn stopped(at_us: i64) -> Self {
        Self { anchor: None, anchor_us: at_us }
    }

    /// µs since the Unix epoch.
    #[inline]
    pub fn now_us(&self) -> i64 {
        self.anchor_us + self.anchor.map_or(0, |anchor| micros(anchor.elapsed()))
    }

    /// How far the wall clock is ahead by now, µs; 0 for a clock that stands still.
    pub fn wall_ahead_us(&self) -> i64 {
        if self.anchor.is_none() {
            return 0;
        }
        micros(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO)) - self.now_us()
    }
}

/// The first µs of the UTC hour that `at_us` lies in.
pub fn hour_of(at_us: i64) -> i64 {
    at_us - at_us.rem_euclid(HOUR_US)
}

/// Without the 128 bits of [`Duration::as_micros`]: it is asked for twice in each request.
#[inline]
fn micros(duration: Duration) -> i64 {
    let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    seconds.saturating_mul(1_000_000).saturating_add(i64::from(duration.subsec_micros()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_begins_at_its_first_microsecond() {
        assert_eq!(hour_of(HOUR_US - 1), 0);
        assert_eq!(hour_of(HOUR_US), HOUR_US);
        assert_eq!(hour_of(-1), -HOUR_US);
    }

    #[test]
    fn time_never_goes_back() {
        let clock = Clock::anchored();
        let first = clock.now_us();
        assert!(clock.now_us() >= first);
        assert!(clock.wall_ahead_us().abs() < 1_000_000);
        assert_eq!(Clock::stopped(7).wall_ahead_us(), 0);
    }
}
