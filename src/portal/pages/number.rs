//! Numbers and times for people. What is rounded always has the exact figure beside it.

use maud::{Markup, html};

use crate::clock::{date_of, utc_text};
use crate::config::{Meter, MeterColumn};
use crate::units::grouped;

/// What a meter counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Bytes,
    Count,
    Seconds,
}

impl Unit {
    pub(super) fn of(meter: &Meter) -> Self {
        match meter.column {
            MeterColumn::Bytes(_) => Self::Bytes,
            MeterColumn::SessionSeconds => Self::Seconds,
            MeterColumn::Requests | MeterColumn::Sessions => Self::Count,
        }
    }

    /// For the script.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::Count => "count",
            Self::Seconds => "seconds",
        }
    }

    /// Short: three or four digits and a unit.
    pub(super) fn short(self, n: i64) -> String {
        match self {
            Self::Bytes => scaled(n, &[" B", " kB", " MB", " GB", " TB", " PB", " EB"]),
            Self::Count if n.unsigned_abs() < 100_000 => exact(n),
            Self::Count => scaled(n, &["", " k", " M", " G", " T", " P", " E"]),
            Self::Seconds => duration(n),
        }
    }

    /// Every digit, and the unit.
    pub(super) fn exact(self, n: i64) -> String {
        match self {
            Self::Bytes => exact(n) + " B",
            Self::Count => exact(n),
            Self::Seconds => exact(n) + " s",
        }
    }
}

/// `-1234567` as `−1,234,567`.
pub(super) fn exact(n: i64) -> String {
    let sign = if n < 0 { "−" } else { "" };
    format!("{sign}{}", grouped(n.unsigned_abs()))
}

/// Decimal multiples, as invoices have them; rounded down, so that nothing looks reached before it is.
fn scaled(n: i64, units: &[&str]) -> String {
    let sign = if n < 0 { "−" } else { "" };
    let (mut rest, mut unit) = (u128::from(n.unsigned_abs()) * 100, 0);
    while rest >= 100_000 && unit + 1 < units.len() {
        rest /= 1000;
        unit += 1;
    }
    let (whole, hundredths) = (rest / 100, rest % 100);
    let digits = match (unit, whole) {
        (0, _) => whole.to_string(),
        (_, 0..10) => format!("{whole}.{hundredths:02}"),
        (_, 10..100) => format!("{whole}.{}", hundredths / 10),
        _ => whole.to_string(),
    };
    format!("{sign}{digits}{}", units[unit])
}

/// Seconds as `3 d 4 h`.
pub(super) fn duration(s: i64) -> String {
    let (sign, s) = (if s < 0 { "−" } else { "" }, s.unsigned_abs());
    let text = match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min {} s", s / 60, s % 60),
        3600..86_400 => format!("{} h {} min", s / 3600, s / 60 % 60),
        _ => format!("{} d {} h", s / 86_400, s / 3600 % 24),
    };
    format!("{sign}{text}")
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

fn month_of(at_us: i64) -> (&'static str, i64, i64) {
    let (year, month, day) = date_of(at_us);
    (MONTHS[usize::try_from(month - 1).unwrap_or(0) % 12], year, day)
}

/// `November 2026`.
pub(super) fn month(at_us: i64) -> String {
    let (month, year, _) = month_of(at_us);
    format!("{month} {year}")
}

/// `23 November 2026`.
pub(super) fn day(at_us: i64) -> String {
    let (month, year, day) = month_of(at_us);
    format!("{day} {month} {year}")
}

/// `23 Nov`.
pub(super) fn short_day(at_us: i64) -> String {
    let (month, _, day) = month_of(at_us);
    format!("{day} {}", &month[..3])
}

/// `14:05`.
pub(super) fn hour(at_us: i64) -> String {
    utc_text(at_us)[11..16].to_owned()
}

/// A moment, for people and exact: `<time>`.
pub(super) fn time(at_us: i64) -> Markup {
    let text = utc_text(at_us);
    html! { time datetime=(text) title=(text) { (short_day(at_us)) " " (&text[11..19]) } }
}

/// An hour as a query's parameter.
pub(super) fn query_time(at_us: i64) -> String {
    utc_text(at_us)[..19].to_owned() + "Z"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_read_is_never_more_than_there_is() {
        for (n, expected) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (1999, "1.99 kB"),
            (12_345, "12.3 kB"),
            (999_999, "999 kB"),
            (1_000_000, "1.00 MB"),
            (-1_500_000, "−1.50 MB"),
            (i64::MAX, "9.22 EB"),
            (i64::MIN, "−9.22 EB"),
        ] {
            assert_eq!(Unit::Bytes.short(n), expected, "{n}");
        }
        assert_eq!(Unit::Count.short(99_999), "99,999");
        assert_eq!(Unit::Count.short(1_234_567), "1.23 M");
        assert_eq!(Unit::Seconds.short(90_061), "1 d 1 h");
        assert_eq!(exact(-1234), "−1,234");
    }
}
