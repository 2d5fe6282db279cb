//! The calendar, and times as text: RFC 3339 to the second, or a date alone. All of weir reads and writes times by this.

/// Days from 1970-01-01 to a date of the Gregorian calendar (Howard Hinnant's algorithm).
pub fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// Year, month, day of a day since 1970.
pub fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// Seconds since 1970 of `2025-07-01` (its first moment in UTC), `2025-07-01T12:00:00Z` or `2025-07-01T12:00:00+02:00`. Parts of a
/// second are left out; a leap second is the next minute's first.
pub fn parse(text: &str) -> Option<i64> {
    let date = text.get(..10)?;
    let field = |text: &str, from: usize, to: usize| -> Option<i64> {
        let digits = text.get(from..to)?;
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    let (year, month, day) = (field(date, 0, 4)?, field(date, 5, 7)?, field(date, 8, 10)?);
    let midnight = days(year, month, day);
    if date.as_bytes()[4] != b'-' || date.as_bytes()[7] != b'-' || civil(midnight) != (year, month, day) {
        return None;
    }
    let rest = &text[10..];
    if rest.is_empty() {
        return Some(midnight * 86_400);
    }
    let (hour, minute, second) = (field(rest, 1, 3)?, field(rest, 4, 6)?, field(rest, 7, 9)?);
    let marks = rest.as_bytes();
    if !matches!(marks[0], b'T' | b't' | b' ')
        || marks[3] != b':'
        || marks[6] != b':'
        || hour > 23
        || minute > 59
        || second > 60
    {
        return None;
    }
    let mut zone = &rest[9..];
    if let Some(fraction) = zone.strip_prefix('.') {
        let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
        zone = fraction.get(digits..).filter(|_| digits > 0)?;
    }
    let offset = match zone {
        "Z" | "z" => 0,
        _ => {
            let (hours, minutes) = (field(zone, 1, 3)?, field(zone, 4, 6)?);
            let marks = zone.as_bytes();
            if zone.len() != 6 || marks[3] != b':' || hours > 23 || minutes > 59 {
                return None;
            }
            let east = hours * 3_600 + minutes * 60;
            match marks[0] {
                b'+' => east,
                b'-' => -east,
                _ => return None,
            }
        }
    };
    Some(midnight * 86_400 + hour * 3_600 + minute * 60 + second - offset)
}

/// `2025-07-01T12:00:00Z` of seconds since 1970.
pub fn print(seconds: i64) -> String {
    let (year, month, day) = civil(seconds.div_euclid(86_400));
    let of_day = seconds.rem_euclid(86_400);
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_written() {
        assert_eq!(parse("1970-01-01"), Some(0));
        assert_eq!(parse("2025-07-01"), Some(1_751_328_000));
        assert_eq!(parse("2025-07-01T00:00:00Z"), Some(1_751_328_000));
        assert_eq!(parse("2025-07-01T02:00:00+02:00"), Some(1_751_328_000));
        assert_eq!(parse("2025-06-30T19:00:00.75-05:00"), Some(1_751_328_000));
        assert_eq!(parse("2024-02-29"), Some(1_709_164_800));
        assert_eq!(parse("2016-12-31T23:59:60Z"), parse("2017-01-01"));
        assert_eq!(parse("1969-12-31T23:59:59Z"), Some(-1));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "2025",
            "2025-02-29",
            "2025-13-01",
            "2025-07-01T",
            "2025-07-01T00:00:00",
            "2025-07-01T24:00:00Z",
            "2025-07-01T00:00:61Z",
            "2025-7-1",
            "+025-07-01",
            "2025/07/01",
            "2025-07-01T00:00:00+0200",
            "2025-07-0١",
            "2025-07-01T00:00:00.Z",
            "2025-07-01T0é:00:00Z",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn printing_and_reading_are_inverse() {
        for seconds in (-2_208_988_800..4_102_444_800).step_by(86_399 * 37) {
            assert_eq!(parse(&print(seconds)), Some(seconds));
        }
    }
}
