//! CSV (RFC 4180), which people open in spreadsheets.
//!
//! Clients choose much of what a record says (`host`, `path`, `sni`): a text that a spreadsheet would take for a formula has an apostrophe
//! before it, as OWASP advises. Numbers are numbers. Programs take JSON or Parquet, where texts are what they were.

use std::borrow::Cow;

/// What a formula begins with, in halfwidth and fullwidth, and what spreadsheets skip before one.
const FORMULA: [char; 11] = ['=', '+', '-', '@', '＝', '＋', '－', '＠', '\t', '\r', '\n'];

/// A text that is a text in a spreadsheet too.
pub fn without_formula(text: &str) -> Cow<'_, str> {
    if text.starts_with(FORMULA) { Cow::Owned(format!("'{text}")) } else { Cow::Borrowed(text) }
}

/// The field of a text: no formula, and quoted where it must be.
pub fn text_field(text: &str) -> Cow<'_, str> {
    let text = without_formula(text);
    if text.contains(['"', ',', '\n', '\r']) {
        return Cow::Owned(format!("\"{}\"", text.replace('"', "\"\"")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_quoted_where_they_must_be_and_are_no_formulas() {
        for (text, field) in [
            ("acme", "acme"),
            ("a,\"b\"", "\"a,\"\"b\"\"\""),
            ("a\nb", "\"a\nb\""),
            ("=1+1", "'=1+1"),
            ("=HYPERLINK(\"http://x\",1)", "\"'=HYPERLINK(\"\"http://x\"\",1)\""),
            ("\r=1", "\"'\r=1\""),
            ("＠x", "'＠x"),
            ("/x?a=-1", "/x?a=-1"),
            ("", ""),
        ] {
            assert_eq!(text_field(text), field);
        }
    }
}
