//! Arbitrary text is a configuration or a list of errors, never a panic.

use std::path::Path;

use proptest::prelude::*;

use super::super::Config;
use super::{EVERY_OPTION, uncommented};

/// A text that is wrong has errors, and every place they name is in the text.
fn check(text: &str) {
    let Err(errors) = Config::parse(text, "x", Path::new("/nonexistent")) else {
        return;
    };
    assert!(!errors.errors().is_empty());
    assert!(!errors.to_string().is_empty());
    for error in errors.errors() {
        let Some(position) = error.position else {
            continue;
        };
        assert!(position.line <= text.lines().count() + 1, "{error} at {position:?}");
    }
}

/// Words that configurations are made of.
const WORDS: &[&str] = &[
    "[[listeners]]\n",
    "[listeners]\n",
    "[listeners.tls]\n",
    "[[listeners.routes]]\n",
    "[[upstreams]]\n",
    "[upstreams.health]\n",
    "[[attribution]]\n",
    "[[account_tables]]\n",
    "[[screening.rules]]\n",
    "[privacy]\n",
    "[limits]\n",
    "[sink]\n",
    "name",
    "listen",
    "upstream",
    "servers",
    "kind",
    "tls",
    "account_from",
    "subdivisions",
    "client_ip",
    "headers_max",
    " = ",
    " = ",
    " = ",
    "\n",
    "\n",
    "\n",
    "\"web\"",
    "\"127.0.0.1:80\"",
    "\"*.é\"",
    "\"a:1\"",
    "[1, \"a\", {}]",
    "{ header = 1 }",
    "-1",
    "99999999999999999999",
    "true",
    "1979-05-27",
    "'''",
    ".",
    "#",
    "nan",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_text_is_survived(text in any::<String>()) {
        check(&text);
    }

    #[test]
    fn any_words_are_survived(words in proptest::collection::vec(proptest::sample::select(WORDS), 0..60)) {
        check(&words.concat());
    }

    #[test]
    fn any_change_of_the_full_file_is_survived(
        from in 0usize..16_000,
        length in 0usize..40,
        new in ".{0,12}",
        examples in any::<bool>(),
    ) {
        let text = if examples { uncommented() } else { EVERY_OPTION.to_string() };
        let mut text: Vec<char> = text.chars().collect();
        let from = from % text.len();
        let to = (from + length).min(text.len());
        text.splice(from..to, new.chars());
        check(&text.into_iter().collect::<String>());
    }
}
