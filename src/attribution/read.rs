//! Reading a table of accounts: CSV with a header line, `name,account_id,valid_from,valid_to`.
//!
//! The first column is called `host` in a table of names and `hash` in a table of keys, where it is the HMAC-SHA256 of the key in
//! hexadecimal: the keys themselves are nowhere. The last two may be missing or empty (no limit); they are UTC dates or times of RFC
//! 3339, and the period is half open. Lines that begin with # are passed over. All errors are told at once, by line.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::table::{NAME_BYTES_MAX, ROWS_MAX, Row, Table};
use crate::clock::parse_utc;
use crate::config::TableKind;
use crate::ids::unhex;

/// The largest file that is read.
const FILE_BYTES_MAX: u64 = 256 << 20;
/// Errors beyond these are not told.
const FAULTS_MAX: usize = 20;

/// Why a table cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file.
    #[error("cannot read {}", path.display())]
    Read {
        /// Its name.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Its size.
    #[error("{} is larger than {FILE_BYTES_MAX} bytes; split it or leave out what is over", path.display())]
    TooLarge {
        /// Its name.
        path: PathBuf,
    },
    /// Its lines; each says which.
    #[error("{}", faults.join("\n"))]
    Lines {
        /// `FILE:LINE: what; do this`.
        faults: Vec<String>,
    },
    /// The secret that keys are hashed with.
    #[error("{} holds a secret of {bytes} bytes; write at least 32 hexadecimal digits", path.display())]
    Secret {
        /// Its file.
        path: PathBuf,
        /// How long it is.
        bytes: usize,
    },
}

/// Reads a file of at most so many bytes.
pub(super) fn file(path: &Path) -> Result<Vec<u8>, Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    if std::fs::metadata(path).map_err(failed)?.len() > FILE_BYTES_MAX {
        return Err(Error::TooLarge { path: path.to_owned() });
    }
    std::fs::read(path).map_err(failed)
}

/// Makes a table of a file's content. Its version is a hash of the content, 48 bits.
pub fn table(path: &Path, content: &[u8], kind: TableKind) -> Result<Table, Error> {
    let mut faults = Vec::new();
    let mut fault = |line: u64, what: String| {
        if faults.len() < FAULTS_MAX {
            faults.push(format!("{}:{line}: {what}", path.display()));
        }
    };
    let mut rows: Vec<Row> = Vec::new();
    let mut reader =
        csv::ReaderBuilder::new().flexible(true).comment(Some(b'#')).trim(csv::Trim::All).from_reader(content);
    match reader.headers() {
        Ok(headers) => check_header(headers, kind).unwrap_or_else(|what| fault(1, what)),
        Err(error) => fault(1, error.to_string()),
    }
    let mut accounts = std::collections::HashMap::<String, Arc<str>>::new();
    let mut record = csv::StringRecord::new();
    loop {
        let line = reader.position().line();
        match reader.read_record(&mut record) {
            Ok(false) => break,
            Ok(true) => {}
            Err(error) => {
                fault(line, error.to_string());
                if error.is_io_error() {
                    break;
                }
                continue;
            }
        }
        let line = record.position().map_or(line, csv::Position::line);
        if rows.len() == ROWS_MAX {
            fault(line, format!("more than {ROWS_MAX} rows; split the table"));
            break;
        }
        match row(&record, kind, line, &mut accounts) {
            Ok(row) => rows.push(row),
            Err(what) => fault(line, what),
        }
    }
    if faults.is_empty() {
        let version = blake3::hash(content).as_bytes()[..6].iter().fold(0, |sum, byte| sum << 8 | i64::from(*byte));
        match Table::new(rows, version) {
            Ok(table) => return Ok(table),
            Err(overlaps) => {
                faults = overlaps
                    .iter()
                    .take(FAULTS_MAX)
                    .map(|overlap| {
                        format!(
                            "{0}:{1}: names another account than {0}:{2} for the same time; end one before the other begins",
                            path.display(),
                            overlap.line,
                            overlap.other_line
                        )
                    })
                    .collect();
            }
        }
    }
    Err(Error::Lines { faults })
}

fn check_header(headers: &csv::StringRecord, kind: TableKind) -> Result<(), String> {
    let first = match kind {
        TableKind::Names => "host",
        TableKind::Keys => "hash",
    };
    let wanted = [first, "account_id", "valid_from", "valid_to"];
    if headers.len() < 2 || headers.len() > 4 || headers.iter().zip(wanted).any(|(header, wanted)| header != wanted) {
        return Err(format!(
            "the first line is {:?}; write {}",
            headers.iter().collect::<Vec<_>>().join(","),
            wanted.join(",")
        ));
    }
    Ok(())
}

fn row(
    record: &csv::StringRecord,
    kind: TableKind,
    line: u64,
    accounts: &mut std::collections::HashMap<String, Arc<str>>,
) -> Result<Row, String> {
    if record.len() > 4 {
        return Err(format!("has {} columns; write at most 4", record.len()));
    }
    let name = record.get(0).unwrap_or_default();
    let name = match kind {
        TableKind::Names => host(name).ok_or_else(|| format!("{name:?} is no host; write a name or *.domain"))?,
        TableKind::Keys => {
            hash(name).ok_or("the hash is not 64 hexadecimal digits; write the HMAC-SHA256 of the key")?
        }
    };
    let account = record.get(1).unwrap_or_default();
    if account.is_empty() || account.len() > super::ACCOUNT_BYTES_MAX || account.chars().any(char::is_control) {
        return Err(format!("{account:?} is no account; write 1 to 128 bytes without control characters"));
    }
    let account = match accounts.get(account) {
        Some(known) => known.clone(),
        None => accounts.entry(account.to_owned()).or_insert_with(|| Arc::from(account)).clone(),
    };
    let time = |column: usize, otherwise: i64| match record.get(column).unwrap_or_default() {
        "" => Ok(otherwise),
        text => parse_utc(text).ok_or_else(|| format!("{text:?} is no time; write 2025-07-01 or 2025-07-01T12:00:00Z")),
    };
    let (valid_from_us, valid_to_us) = (time(2, i64::MIN)?, time(3, i64::MAX)?);
    if valid_from_us >= valid_to_us {
        return Err("its period ends before it begins; correct valid_from or valid_to".to_owned());
    }
    Ok(Row { name, account, valid_from_us, valid_to_us, line })
}

/// Lower case, a wildcard as its domain with the dot.
fn host(text: &str) -> Option<Vec<u8>> {
    let name = text.to_ascii_lowercase();
    let domain = name.strip_prefix("*.").unwrap_or(&name);
    let good = |byte: u8| byte.is_ascii_graphic() && !b"*,\"".contains(&byte);
    if domain.is_empty() || domain.starts_with('.') || name.len() > NAME_BYTES_MAX || !domain.bytes().all(good) {
        return None;
    }
    Some(if domain.len() == name.len() { name.into_bytes() } else { format!(".{domain}").into_bytes() })
}

fn hash(text: &str) -> Option<Vec<u8>> {
    unhex(text.as_bytes()).filter(|bytes| bytes.len() == 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(content: &str, kind: TableKind) -> String {
        table(Path::new("t.csv"), content.as_bytes(), kind).unwrap_err().to_string()
    }

    #[test]
    fn a_table_of_hosts_is_read() {
        let content = "host,account_id,valid_from,valid_to\n# ours\nA.test,acme,,2025-07-01\n*.B.test,\"a, b\"\n\na.test,later,2025-07-01,\n";
        let table = table(Path::new("t.csv"), content.as_bytes(), TableKind::Names).unwrap();
        let day = parse_utc("2025-07-01").unwrap();
        assert_eq!(table.host("a.test", day - 1).map(|account| &**account), Some("acme"));
        assert_eq!(table.host("a.test", day).map(|account| &**account), Some("later"));
        assert_eq!(table.host("x.b.test", day).map(|account| &**account), Some("a, b"));
        assert!(table.version() > 0 && table.version() < 1 << 48);
    }

    #[test]
    fn every_fault_is_named_by_line() {
        let content = "host,account_id,valid_from,valid_to\n*.*,a\nok.test,\nok.test,a,yesterday\nok.test,a,2025-07-02,2025-07-01\nok.test,a,,,more\n";
        assert_eq!(
            faults(content, TableKind::Names),
            "t.csv:2: \"*.*\" is no host; write a name or *.domain\n\
             t.csv:3: \"\" is no account; write 1 to 128 bytes without control characters\n\
             t.csv:4: \"yesterday\" is no time; write 2025-07-01 or 2025-07-01T12:00:00Z\n\
             t.csv:5: its period ends before it begins; correct valid_from or valid_to\n\
             t.csv:6: has 5 columns; write at most 4"
        );
        assert_eq!(
            faults("host,account_id\na.test,x\nA.test,y\n", TableKind::Names),
            "t.csv:3: names another account than t.csv:2 for the same time; end one before the other begins"
        );
        assert!(faults("name,account\n", TableKind::Names).starts_with("t.csv:1: the first line is"));
        // What a key may be is not repeated.
        let secret = faults("hash,account_id\nmy-own-key,x\n", TableKind::Keys);
        assert!(secret.starts_with("t.csv:2: the hash") && !secret.contains("my-own-key"), "{secret}");
    }
}
