//! What a query asks for. Everything that is not understood is an error that says what would be: a typing error never shows as usage.

use std::borrow::Cow;

use axum::http::Uri;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;

use super::Problem;
use crate::clock::{day_us, parse_utc};

/// Longest value of a parameter.
const VALUE_BYTES_MAX: usize = 1024;

/// The parameters of a request, each at most once.
pub struct Asked {
    pairs: Vec<(String, String)>,
}

impl Asked {
    /// Of a request whose endpoint knows these parameters.
    pub fn of(uri: &Uri, known: &[&str]) -> Result<Self, Problem> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for (name, value) in form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
            if !known.contains(&&*name) {
                let name: String = name.chars().take(64).collect();
                return Err(Problem::bad(format!("{name:?} is no parameter here; there are {}", known.join(", "))));
            }
            if pairs.iter().any(|(there, _)| *there == name) {
                return Err(Problem::bad(format!("`{name}` is given twice")));
            }
            if value.len() > VALUE_BYTES_MAX {
                return Err(Problem::bad(format!("`{name}` is longer than {VALUE_BYTES_MAX} octets")));
            }
            if value.chars().any(char::is_control) {
                return Err(Problem::bad(format!("`{name}` holds a control character")));
            }
            pairs.push((name.into_owned(), value.into_owned()));
        }
        Ok(Self { pairs })
    }

    /// A text as it was given; none where it is missing or empty.
    pub fn text(&self, name: &str) -> Option<&str> {
        let given = self.pairs.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        given.filter(|value| !value.is_empty())
    }

    /// A text as it was given, which may be empty.
    pub fn given(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Texts with commas between them.
    pub fn list(&self, name: &str) -> Vec<&str> {
        self.text(name).map_or_else(Vec::new, |list| list.split(',').map(str::trim).collect())
    }

    /// A word among these.
    pub fn choice<T: Copy>(&self, name: &str, known: &[(&str, T)]) -> Result<Option<T>, Problem> {
        self.text(name).map(|word| chosen(name, word, known)).transpose()
    }

    /// A time in UTC, µs: a date, or a time as RFC 3339 writes it; fractions of a second are dropped.
    pub fn time(&self, name: &str) -> Result<Option<i64>, Problem> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let whole: Cow<'_, str> = match text.split_once('.') {
            Some((whole, rest)) => match rest.strip_suffix('Z').or_else(|| rest.strip_suffix("+00:00")) {
                Some(digits) if (1..=9).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                    format!("{whole}Z").into()
                }
                _ => text.into(),
            },
            None => match text.strip_suffix("+00:00") {
                Some(whole) => format!("{whole}Z").into(),
                None => text.into(),
            },
        };
        let at_us = parse_utc(&whole).filter(|at_us| *at_us >= 0 && *at_us < day_us(9999, 12, 31));
        at_us.map(Some).ok_or_else(|| {
            Problem::bad(format!("`{name}` is no time: write 2026-01-31 or 2026-01-31T12:00:00Z (UTC, since 1970)"))
        })
    }

    /// A number within limits.
    pub fn number(&self, name: &str, default: usize, max: usize) -> Result<usize, Problem> {
        let Some(text) = self.text(name) else { return Ok(default) };
        let number = text.parse().ok().filter(|number| (1..=max).contains(number));
        number.ok_or_else(|| Problem::bad(format!("`{name}` is no number from 1 to {max}")))
    }

    /// Where the page before ended: what [`cursor`] wrote.
    pub fn cursor<T: serde::de::DeserializeOwned>(&self) -> Result<Option<T>, Problem> {
        let Some(text) = self.text("cursor") else { return Ok(None) };
        let read = BASE64.decode(text).ok().and_then(|json| serde_json::from_slice(&json).ok());
        read.map(Some).ok_or_else(|| Problem::bad("`cursor` is none: take `next_cursor` of the page before as it is"))
    }
}

/// A word among these.
pub fn chosen<T: Copy>(name: &str, word: &str, known: &[(&str, T)]) -> Result<T, Problem> {
    known.iter().find(|(known, _)| *known == word).map(|(_, choice)| *choice).ok_or_else(|| {
        let words: Vec<&str> = known.iter().map(|(word, _)| *word).collect();
        let word: String = word.chars().take(64).collect();
        Problem::bad(format!("`{name}` cannot be {word:?}; there are {}", words.join(", ")))
    })
}

/// Where a page ends, as text.
pub fn cursor<T: serde::Serialize>(at: &T) -> Option<String> {
    serde_json::to_vec(at).ok().map(|json| BASE64.encode(json))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(query: &str) -> Result<Asked, Problem> {
        let known = ["from", "limit", "cursor", "host"];
        Asked::of(&format!("/v1/x?{query}").parse().unwrap(), &known)
    }

    #[test]
    fn what_is_not_understood_is_said() {
        for (query, expected) in [
            ("form=1", "\"form\" is no parameter here; there are from, limit, cursor, host"),
            ("from=1&from=2", "`from` is given twice"),
            ("host=a%00b", "`host` holds a control character"),
        ] {
            assert_eq!(asked(query).err().unwrap().detail, expected);
        }
        for wrong in
            ["x", "2026-02-30", "2026-01-01T25:00:00Z", "1969-12-31", "99999-01-01", "-1", "2026-01-01T00:00:00.Z"]
        {
            assert!(asked(&format!("from={wrong}")).unwrap().time("from").is_err(), "{wrong}");
        }
        for wrong in ["0", "-1", "1001", "99999999999999999999999", "1e3", "x"] {
            assert!(asked(&format!("limit={wrong}")).unwrap().number("limit", 5, 1000).is_err(), "{wrong}");
        }
        for wrong in ["x", "e30", "%F0%9F%98%80", "W10"] {
            assert!(asked(&format!("cursor={wrong}")).unwrap().cursor::<(i64, String)>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_understood_is_taken() {
        let day_us = parse_utc("2026-01-31").unwrap();
        for text in ["2026-01-31", "2026-01-31T00:00:00Z", "2026-01-31T00:00:00.123456Z", "2026-01-31T00:00:00%2B00:00"]
        {
            assert_eq!(asked(&format!("from={text}")).unwrap().time("from").unwrap(), Some(day_us), "{text}");
        }
        let at = (5_i64, "acme".to_owned());
        let query = format!("cursor={}", cursor(&at).unwrap());
        assert_eq!(asked(&query).unwrap().cursor().unwrap(), Some(at));
        assert_eq!(asked("limit=").unwrap().number("limit", 5, 1000).unwrap(), 5);
    }
}
