//! Errors of a configuration, each with its place in the file; kept together because a reader wants all of them at once.

use std::fmt;
use std::ops::Range;

/// A place in the file, both counted from 1; the column counts characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Line.
    pub line: usize,
    /// Column, in characters.
    pub column: usize,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {what}; {action}")]
pub struct ConfigError {
    /// None when the place is not in a file (flags), or is the file as a whole.
    pub position: Option<Position>,
    /// The key, for example `listeners.web.listen`, or the flag.
    pub key: String,
    /// What is wrong, with the offending value.
    pub what: String,
    /// What to do about it.
    pub action: String,
}

/// Everything wrong with one configuration, in the order of the file. Prints one line per error,
/// `file:line:column: key: what; do this`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors {
    source: Option<String>,
    /// Byte offsets where lines begin, and the text's length, to turn spans into positions.
    text: String,
    errors: Vec<ConfigError>,
}

impl std::error::Error for ConfigErrors {}

impl ConfigErrors {
    /// None so far, for a file named `source` with this text.
    pub(super) fn new(source: &str, text: &str) -> ConfigErrors {
        ConfigErrors { source: Some(source.to_string()), text: text.to_string(), errors: Vec::new() }
    }

    /// None so far, for flags: there is no file to point into.
    pub(super) fn of_flags() -> ConfigErrors {
        ConfigErrors { source: None, text: String::new(), errors: Vec::new() }
    }

    /// The only one there is when the file cannot be read.
    pub(super) fn unreadable(source: &str, error: &std::io::Error) -> ConfigErrors {
        let mut errors = ConfigErrors::new(source, "");
        errors.push(None, "configuration file", format!("cannot be read: {error}"), "check its name and permissions");
        errors
    }

    /// Adds one. An empty span is a place that is not in the file.
    pub(super) fn push(
        &mut self,
        span: Option<Range<usize>>,
        key: impl Into<String>,
        what: impl Into<String>,
        action: impl Into<String>,
    ) {
        let position = match span {
            Some(span) if self.source.is_some() => Some(self.position(span.start)),
            _ => None,
        };
        let key = match self.source {
            Some(_) => key.into(),
            None => flag_of(key.into()),
        };
        let error = ConfigError { position, key, what: what.into(), action: action.into() };
        if !self.errors.contains(&error) {
            self.errors.push(error);
        }
    }

    /// The errors, in the order of the file.
    pub fn errors(&self) -> &[ConfigError] {
        &self.errors
    }

    pub(super) fn is_empty(&self) -> bool {
        self.errors.is_empty()
    }

    pub(super) fn sorted(mut self) -> ConfigErrors {
        self.errors.sort_by_key(|error| error.position);
        self
    }

    fn position(&self, offset: usize) -> Position {
        let before = self.text.get(..offset).unwrap_or(&self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        Position { line, column: before[line_start..].chars().count() + 1 }
    }
}

/// The flag that gave the value of a key, see `raw::for_flags`.
fn flag_of(key: String) -> String {
    match key.as_str() {
        "listeners.web.upstream" => "--upstream".to_string(),
        "listeners.web.listen" => "--listen".to_string(),
        "state_dir" => "--state".to_string(),
        _ => key,
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.errors.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            match (&self.source, error.position) {
                (Some(source), Some(at)) => write!(f, "{source}:{}:{}: {error}", at.line, at.column)?,
                (Some(source), None) => write!(f, "{source}: {error}")?,
                (None, _) => write!(f, "{error}")?,
            }
        }
        Ok(())
    }
}
