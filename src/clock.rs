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

/// µs since the Unix epoch of a UTC date (its first moment) or time as RFC 3339 writes it: `2025-07-01`, `2025-07-01T12:30:00Z`.
pub fn parse_utc(text: &str) -> Option<i64> {
    let (date, time) = match text.split_once(['T', ' ']) {
        Some((date, time)) => (date, time.strip_suffix('Z')?),
        None => (text, "00:00:00"),
    };
    let [year, month, day] = three(date, '-', [4, 2, 2])?;
    let [hour, minute, second] = three(time, ':', [2, 2, 2])?;
    if !(1..=12).contains(&month) || day < 1 || day > days_of(year, month) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    // Years begin in March, so that the day that some have more is their last (days since 0000-03-01, less the epoch's).
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    let days = days + (153 * month + 2) / 5 + day - 1 - 719_468;
    Some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1_000_000)
}

fn three(text: &str, between: char, digits: [usize; 3]) -> Option<[i64; 3]> {
    let mut parts = text.split(between);
    let mut numbers = [0; 3];
    for (number, digits) in numbers.iter_mut().zip(digits) {
        let part = parts.next()?;
        if part.len() != digits || !part.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        *number = part.parse().ok()?;
    }
    parts.next().is_none().then_some(numbers)
}

fn days_of(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
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
    fn dates_and_times_are_read_as_utc() {
        let second = |text: &str| parse_utc(text).map(|us| us / 1_000_000);
        assert_eq!(second("1970-01-01"), Some(0));
        assert_eq!(second("2025-07-01"), Some(1_751_328_000));
        assert_eq!(second("2024-02-29T23:59:59Z"), Some(1_709_251_199));
        assert_eq!(second("1969-12-31T23:59:59Z"), Some(-1));
        for wrong in
            ["", "2025-7-1", "2025-02-29", "2025-13-01", "2025-01-01T24:00:00Z", "2025-01-01T00:00:00", "+025-01-01"]
        {
            assert_eq!(parse_utc(wrong), None, "{wrong}");
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
