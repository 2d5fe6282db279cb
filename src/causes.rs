//! An error and what brought it about, as one line for a log.

use std::error::Error;

/// `cannot open x: permission denied`: the error, then each of its sources.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
