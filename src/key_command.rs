//! `weir key hash`: the keyed hash of an API key, as a table of keys holds it.
//!
//! Keys come on standard input, a line each, and the secret from its file: neither is ever an argument, which every process
//! of the machine could see. A hash a line goes out, in the same order; the keys are written nowhere.

use std::io::{BufRead, BufWriter, Write};

use anyhow::bail;

use crate::attribution::Secret;
use crate::cli::{KeyArgs, KeyCommand};

/// Runs one of them.
pub fn run(args: &KeyArgs) -> anyhow::Result<()> {
    let KeyCommand::Hash { hash_key } = &args.command;
    let secret = Secret::read(hash_key)?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    for (line, text) in (1..).zip(std::io::stdin().lock().lines()) {
        let text = text?;
        let api_key = text.trim();
        if api_key.is_empty() {
            bail!("line {line} of standard input holds no key");
        }
        for byte in secret.hash(api_key).as_ref() {
            write!(out, "{byte:02x}")?;
        }
        writeln!(out)?;
    }
    Ok(out.flush()?)
}
