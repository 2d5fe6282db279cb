//! Hours, days and months: always UTC, always whole hours, because records never span one. No clock.
//!
//! A leap second has no µs of its own since 1970: what moved in 23:59:60 counts in the next hour's first second.

use crate::clock::{DAY_US, HOUR_US, date_of, day_us, utc_text};

/// What usage is cut into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// Hours.
    Hour,
    /// Days.
    Day,
    /// Months.
    Month,
}

impl Window {
    /// The window's name and first µs, of a time in it.
    pub fn of(self, at_us: i64) -> (String, i64) {
        match self {
            Self::Hour => {
                let from_us = at_us - at_us.rem_euclid(HOUR_US);
                (utc_text(from_us)[..13].to_owned() + "Z", from_us)
            }
            Self::Day => {
                let from_us = at_us - at_us.rem_euclid(DAY_US);
                (utc_text(from_us)[..10].to_owned(), from_us)
            }
            Self::Month => {
                let (year, month, _) = date_of(at_us);
                (month_name(at_us), day_us(year, month, 1))
            }
        }
    }
}

/// The first µs behind the window that a time lies in.
pub fn window_end(window: Window, at_us: i64) -> i64 {
    let (name, from_us) = window.of(at_us);
    match window {
        Window::Hour => from_us + HOUR_US,
        Window::Day => from_us + DAY_US,
        Window::Month => month(&name).map_or(i64::MAX, |(_, to_us)| to_us),
    }
}

/// Like `2026-11`.
pub(super) fn month_name(at_us: i64) -> String {
    let (year, month, _) = date_of(at_us);
    format!("{year:04}-{month:02}")
}

/// First µs of a month like `2026-11`, and the first one behind it.
pub fn month(name: &str) -> Option<(i64, i64)> {
    let (year, month) = name.split_once('-')?;
    let (year, month): (i64, i64) = (year.parse().ok()?, month.parse().ok()?);
    let (next_year, next_month) = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
    let good = (1970..=9999).contains(&year) && (1..=12).contains(&month) && name.len() == 7;
    good.then(|| (day_us(year, month, 1), day_us(next_year, next_month, 1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::parse_utc;

    #[test]
    fn windows_begin_where_the_calendar_says() {
        let at_us = parse_utc("2028-02-29T23:59:59Z").unwrap() + 999_999;
        assert_eq!(Window::Hour.of(at_us), ("2028-02-29T23Z".to_owned(), parse_utc("2028-02-29T23:00:00Z").unwrap()));
        assert_eq!(Window::Day.of(at_us).0, "2028-02-29");
        assert_eq!(Window::Month.of(at_us).0, "2028-02");
        assert_eq!(Window::Month.of(at_us + 1).0, "2028-03");
        // The leap second at the end of 2016 is the next year's first.
        assert_eq!(Window::Month.of(parse_utc("2016-12-31T23:59:60Z").unwrap()).0, "2017-01");
    }

    #[test]
    fn months_follow_one_another() {
        assert_eq!(month("2026-12").map(|(_, to)| to), month("2027-01").map(|(from, _)| from));
        for wrong in ["2026-13", "2026", "2026-1", "26-01", "2026-01-01", ""] {
            assert_eq!(month(wrong), None, "{wrong}");
        }
    }
}
