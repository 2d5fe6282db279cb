//! `weir ip --stdin`: an address a line in, a JSON object a line out, in the same order.
//!
//! Most addresses of a file share few records, so what is of a record is made once and copied. A line that is no address
//! is answered with `{"input":…,"error":"invalid_ip"}` in its place.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::net::IpAddr;
use std::time::SystemTime;

use weir_geoip::RecordId;

use super::{Knowledge, print};

/// Records whose text is kept at hand; at this many all are forgotten.
const TAILS_MAX: usize = 1 << 16;
/// A longer line is no address; what is beyond is not kept.
const LINE_BYTES_MAX: u64 = 4_096;

/// Answers every line; says how many were no addresses.
pub(super) fn run(knowledge: &Knowledge, at: SystemTime, input: impl Read, out: impl Write) -> io::Result<u64> {
    let mut input = BufReader::with_capacity(1 << 18, input);
    let mut out = BufWriter::with_capacity(1 << 18, out);
    let mut tails: HashMap<RecordId, String> = HashMap::new();
    let mut bad = 0;
    let mut read = Vec::new();
    let mut line = Vec::new();
    loop {
        read.clear();
        if input.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut read)? == 0 {
            out.flush()?;
            return Ok(bad);
        }
        if read.last() != Some(&b'\n') && read.len() as u64 == LINE_BYTES_MAX {
            input.skip_until(b'\n')?;
        }
        let text = read.trim_ascii();
        if text.is_empty() {
            continue;
        }
        line.clear();
        let parsed = std::str::from_utf8(text).ok().and_then(|text| Some((text, text.parse::<IpAddr>().ok()?)));
        match parsed {
            Some((text, address)) => {
                let id = knowledge.table.lookup(address);
                if tails.len() >= TAILS_MAX && !tails.contains_key(&id) {
                    tails.clear();
                }
                let tail = tails
                    .entry(id)
                    .or_insert_with(|| print::json_tail(&knowledge.table, knowledge.screen.as_ref(), address, at));
                print::json_line(&mut line, text, address, tail);
            }
            None => {
                bad += 1;
                invalid(&mut line, text);
            }
        }
        out.write_all(&line)?;
    }
}

/// The answer to a line that is no address.
pub(super) fn invalid(line: &mut Vec<u8>, text: &[u8]) {
    let answer = serde_json::json!({ "input": String::from_utf8_lossy(text), "error": "invalid_ip" });
    line.extend_from_slice(answer.to_string().as_bytes());
    line.push(b'\n');
}
