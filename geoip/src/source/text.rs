//! What the operator's files have in common: rows of fields with line numbers, networks, times.

use std::net::IpAddr;

use ipnet::IpNet;

use super::Input;
use crate::Error;
use crate::address;

/// The rows of a CSV file with their lines. The first line may name the columns: it is skipped if its first field is
/// `header`. Empty lines and lines that begin with `#` say nothing.
pub(crate) fn rows(
    input: &Input,
    header: &str,
    mut row: impl FnMut(&csv::StringRecord, u64) -> Result<(), String>,
) -> Result<(), Error> {
    let text = input.text()?;
    let wrong = |line: u64, reason: String| Error::Line { path: input.path.clone(), line, reason };
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .comment(Some(b'#'))
        .trim(csv::Trim::All)
        .from_reader(text.as_bytes());
    let mut record = csv::StringRecord::new();
    let mut lines = Lines::new(text);
    let mut first = true;
    for position in 1.. {
        input.deadline.check_row(position)?;
        let more = reader.read_record(&mut record);
        let line = lines.of(&reader);
        if !more.map_err(|error| wrong(line, error.to_string()))? {
            break;
        }
        if std::mem::take(&mut first) && record.get(0) == Some(header) {
            continue;
        }
        row(&record, line).map_err(|reason| wrong(line, reason))?;
    }
    Ok(())
}

/// Which line a row is in. The reader's own count is that of where it began to look, before comments and empty lines.
pub(crate) struct Lines<'a> {
    text: &'a [u8],
    counted: usize,
    line: u64,
}

impl<'a> Lines<'a> {
    pub(crate) fn new(text: &'a str) -> Lines<'a> {
        Lines { text: text.as_bytes(), counted: 0, line: 1 }
    }

    /// The line in which the row that was just read ends, from 1.
    pub(crate) fn of<R: std::io::Read>(&mut self, reader: &csv::Reader<R>) -> u64 {
        // The row's own end is read too.
        let end = usize::try_from(reader.position().byte()).unwrap_or(usize::MAX).saturating_sub(1);
        let new = self.text.get(self.counted..end).unwrap_or_default();
        self.line += new.iter().filter(|byte| **byte == b'\n').count() as u64;
        self.counted = self.counted.max(end);
        self.line
    }
}

/// A network as it is looked up; an address alone is a network of one.
pub(crate) fn network(text: &str) -> Result<IpNet, String> {
    let network = match text.parse::<IpNet>() {
        Ok(network) => network,
        Err(_) => text.parse::<IpAddr>().map(IpNet::from).map_err(|_| format!("{text:?} is no network"))?,
    };
    if network.addr() != network.network() {
        return Err(format!("{text} has bits set after its prefix; did you mean {}?", network.trunc()));
    }
    address::canonical_network(network)
        .ok_or_else(|| format!("{text} carries IPv4 addresses, which are looked up as such: write the IPv4 network"))
}

/// A time in seconds since 1970 (RFC 3339, or a date, which is its midnight in UTC), or no time at all.
pub(crate) fn time(text: &str) -> Result<Option<i64>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    crate::date::parse(text)
        .map(Some)
        .ok_or_else(|| format!("{text:?} is no time; write 2025-07-01 or 2025-07-01T00:00:00Z"))
}
