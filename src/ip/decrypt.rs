//! `weir ip decrypt`: whose an address is that records keep encrypted, for those who hold the key.
//!
//! Addresses come as arguments, or a line each; answers are a line each, in the same order. The key comes from its file
//! alone. A text that is no address ends it: an answer for another line would be worse than none.

use std::io::{BufRead, BufWriter, Write};
use std::path::Path;

use super::address;
use crate::privacy;

pub(super) fn run(key: &Path, addresses: &[String]) -> anyhow::Result<()> {
    let cipher = privacy::cipher(key)?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    for text in addresses {
        writeln!(out, "{}", cipher.decrypt_ipaddr(address(text)?))?;
    }
    if addresses.is_empty() {
        for line in std::io::stdin().lock().lines() {
            writeln!(out, "{}", cipher.decrypt_ipaddr(address(line?.trim())?))?;
        }
    }
    Ok(out.flush()?)
}
