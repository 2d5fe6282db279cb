//! What a request's target says: an address in the path, and as of when, percent-encoded or not.

use std::time::SystemTime;

use anyhow::bail;

/// The time of `as_of=TIME`. Any other parameter is an error, so that a misspelt one is not answered as if it were not there.
pub(super) fn as_of(query: &str) -> anyhow::Result<Option<SystemTime>> {
    let mut at = None;
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let Some(("as_of", text)) = parameter.split_once('=') else { bail!("unknown parameter") };
        let Some(text) = decoded(text).filter(|_| at.is_none()) else { bail!("as_of is said twice, or is no text") };
        at = Some(super::time(&text)?);
    }
    Ok(at)
}

/// Without percent-encoding; None for what is none, or no text.
pub(super) fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        if *first != b'%' {
            bytes.push(*first);
            rest = after;
            continue;
        }
        let ([high, low], after) = after.split_first_chunk::<2>()?;
        let digit = |byte: &u8| char::from(*byte).to_digit(16);
        bytes.push((digit(high)? * 16 + digit(low)?) as u8);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_decoded_or_refused() {
        for (text, expected) in [
            ("2001%3Adb8%3a%3A1", Some("2001:db8::1")),
            ("8.8.8.8", Some("8.8.8.8")),
            ("", Some("")),
            ("%3", None),
            ("%zz", None),
            ("%+1", None),
            ("%ff", None),
        ] {
            assert_eq!(decoded(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn a_time_is_read_once_and_nothing_else_is_taken() {
        assert_eq!(as_of("").unwrap(), None);
        let expected = Some(super::super::time("2026-01-31T10:00:00Z").unwrap());
        assert_eq!(as_of("as_of=2026-01-31T12%3A00:00%2B02:00").unwrap(), expected);
        for wrong in ["as_of=", "as_of", "asof=2026-01-31", "as_of=2026-01-31&as_of=2026-01-31", "as_of=%zz", "x=1"] {
            assert!(as_of(wrong).is_err(), "{wrong}");
        }
    }
}
