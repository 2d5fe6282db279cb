//! Time: the wall clock read once, then carried forward by the monotonic clock, so that no duration is negative.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use weir_geoip::date;

/// Microseconds in an hour: no record spans two.
pub const HOUR_US: i64 = 3_600_000_000;

/// Microseconds in a day.
pub const DAY_US: i64 = 24 * HOUR_US;

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

/// Year, month and day of a time, µs; UTC.
pub fn date_of(at_us: i64) -> (i64, i64, i64) {
    date::civil(at_us.div_euclid(DAY_US))
}

/// The first µs of a day, UTC.
pub fn day_us(year: i64, month: i64, day: i64) -> i64 {
    date::days(year, month, day) * DAY_US
}

/// RFC 3339 in UTC, to the microsecond.
pub fn utc_text(at_us: i64) -> String {
    let (year, month, day) = date_of(at_us);
    let us = at_us.rem_euclid(DAY_US);
    let seconds = us / 1_000_000;
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:06}Z", us % 1_000_000)
}

/// µs since the Unix epoch of a text that [`date::parse`] reads: `2025-07-01`, `2025-07-01T12:30:00Z`.
pub fn parse_utc(text: &str) -> Option<i64> {
    date::parse(text)?.checked_mul(1_000_000)
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
    fn dates_are_the_calendars() {
        for (text, at_us) in [
            ("1970-01-01", Some(0)),
            ("2000-02-29T12:00:01Z", Some(951_825_601_000_000)),
            ("2026-11-22T18:17:00Z", Some(1_795_371_420_000_000)),
            ("2016-12-31T23:59:60Z", Some(1_483_228_800_000_000)),
            ("2026-02-29", None),
            ("1969-12-31T23:59:59Z", Some(-1_000_000)),
            ("", None),
        ] {
            assert_eq!(parse_utc(text), at_us, "{text}");
        }
        assert_eq!(utc_text(951_825_601_000_007), "2000-02-29T12:00:01.000007Z");
        for day in -200_000..200_000 {
            let (year, month, day_of_month) = date_of(day * DAY_US);
            assert_eq!(day_us(year, month, day_of_month), day * DAY_US);
        }
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
