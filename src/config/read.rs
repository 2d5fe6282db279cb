//! From text to the raw types, with every error that can be seen.
//!
//! serde stops at the first error. So that a reader sees all of them, [`read`] notes the error, takes the key it is about out of
//! the parsed table, and tries again; each round removes one key, so it ends. The text itself may have several syntax errors
//! too: the parser recovers from them.

use std::ops::Range;

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::errors::ConfigErrors;
use super::raw::RawConfig;
use super::suggest;

/// Errors beyond these are not looked for: the file is then hardly a configuration of ours.
const READ_ERRORS_MAX: usize = 200;

/// Reads as much of the text as can be read and notes everything that cannot. None after a syntax error: what the parser
/// guesses behind one says nothing about what was meant.
pub(super) fn read(text: &str, errors: &mut ConfigErrors) -> Option<RawConfig> {
    let (mut table, syntax_errors) = DeTable::parse_recoverable(text);
    for error in &syntax_errors {
        let what = error.message().replace('\n', ", ");
        errors.push(error.span().or(Some(0..0)), "syntax", what, "see https://toml.io for the format");
    }
    if !syntax_errors.is_empty() {
        return None;
    }
    for _ in 0..READ_ERRORS_MAX {
        let error = match RawConfig::deserialize(toml::de::Deserializer::from(table.clone())) {
            Ok(raw) => return Some(raw),
            Err(error) => error,
        };
        let taken = error.span().and_then(|span| take(table.get_mut(), &span, String::new()));
        let Some(taken) = taken else {
            errors.push(error.span(), "configuration", error.message(), "correct it and check again");
            break;
        };
        report(taken, error.message(), errors);
    }
    None
}

/// A key that was taken out of the table because of an error.
struct Taken {
    key: String,
    name: String,
    span: Range<usize>,
    /// The value as a reader would recognise it.
    value: String,
}

/// Takes out the innermost key (or list element) whose name or value lies where the error is.
fn take(table: &mut DeTable<'_>, error: &Range<usize>, path: String) -> Option<Taken> {
    let mut found = None;
    for (key, value) in table.iter_mut() {
        let key_path = join(&path, key.get_ref());
        if contains(&key.span(), error) {
            found = Some((key.get_ref().to_string(), key_path, key.span()));
            break;
        }
        if let Some(taken) = take_inside(value, error, &key_path) {
            return Some(taken);
        }
        if contains(&value.span(), error) {
            found = Some((key.get_ref().to_string(), key_path, value.span()));
            break;
        }
    }
    let (name, key, span) = found?;
    let value = table.remove(name.as_str())?;
    Some(Taken { key, name, span, value: shown(value.get_ref()) })
}

fn take_inside(value: &mut Spanned<DeValue<'_>>, error: &Range<usize>, path: &str) -> Option<Taken> {
    match value.get_mut() {
        DeValue::Table(table) => take(table, error, path.to_string()),
        DeValue::Array(array) => {
            for index in 0..array.len() {
                let element = array.get_mut(index)?;
                let element_path = match named(element.get_ref()) {
                    Some(name) => join(path, &name),
                    None => format!("{path}[{index}]"),
                };
                if let Some(taken) = take_inside(element, error, &element_path) {
                    return Some(taken);
                }
                if contains(&element.span(), error) && !element.get_ref().is_table() {
                    let (span, value) = (element.span(), shown(element.get_ref()));
                    let elements = array.clone().into_iter().enumerate();
                    *array = elements.filter(|(at, _)| *at != index).map(|(_, kept)| kept).collect();
                    return Some(Taken { key: element_path, name: String::new(), span, value });
                }
            }
            None
        }
        _ => None,
    }
}

fn contains(outer: &Range<usize>, inner: &Range<usize>) -> bool {
    outer.start <= inner.start && inner.end <= outer.end
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_string() } else { format!("{path}.{key}") }
}

fn named(value: &DeValue<'_>) -> Option<String> {
    Some(value.as_table()?.get("name")?.get_ref().as_str()?.to_string())
}

fn shown(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(truth) => truth.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        DeValue::Array(_) => "a list".to_string(),
        DeValue::Table(_) => "a table".to_string(),
    }
}

/// Says in the reader's words what serde says in Rust's.
fn report(taken: Taken, message: &str, errors: &mut ConfigErrors) {
    let Taken { key, name, span, value } = taken;
    if message.starts_with("unknown field") {
        // serde lists the known keys in backticks after the unknown one.
        let known: Vec<&str> = message.split('`').skip(3).step_by(2).collect();
        let action = match suggest::nearest(&name, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("known here: {}", known.join(", ")),
        };
        errors.push(Some(span), key, "unknown key", action);
        return;
    }
    let expected = message.rsplit_once("expected ").map_or("", |(_, expected)| expected);
    let (what, action) = match expected.trim() {
        "u64" if value.starts_with('-') => (format!("{value} is negative"), "write a whole number from 0".to_string()),
        "u64" if value.starts_with('"') => {
            (format!("{value} is text"), "write a whole number without quotes".to_string())
        }
        "u64" if value.bytes().all(|byte| byte.is_ascii_digit()) => {
            (format!("{value} is above the limit"), "write a smaller number".to_string())
        }
        "u64" => (format!("{value} is not a whole number"), "write a whole number from 0".to_string()),
        "a string" => (format!("{value} is not text"), "write it in quotes".to_string()),
        "a boolean" => {
            (format!("{value} is neither true nor false"), "write true or false, without quotes".to_string())
        }
        "a sequence" if value == "a table" => {
            ("is a table".to_string(), format!("write [[{key}]] with double brackets"))
        }
        "a sequence" => (format!("{value} is not a list"), "write it in [brackets]".to_string()),
        other if other.contains("struct") || other.contains("map") => {
            (format!("{value} is not a table"), "write { key = value }".to_string())
        }
        _ => (format!("{value}: {message}"), "correct it".to_string()),
    };
    errors.push(Some(span), key, what, action);
}

#[cfg(test)]
pub(super) fn known_keys(message: &str) -> Vec<String> {
    message.split('`').skip(3).step_by(2).map(str::to_string).collect()
}
