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
    let mut first = true;
    loop {
        let more = reader
            .read_record(&mut record)
            .map_err(|error| wrong(error.position().map_or(0, csv::Position::line), error.to_string()))?;
        if !more {
            return Ok(());
        }
        let line = record.position().map_or(0, csv::Position::line);
        if std::mem::take(&mut first) && record.get(0) == Some(header) {
            continue;
        }
        row(&record, line).map_err(|reason| wrong(line, reason))?;
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
