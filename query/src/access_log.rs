//! Who asked what: an append-only log that nobody can change unseen.
//!
//! A file of JSON lines. Each entry names, as `previous`, the BLAKE3 of the line before it, as it lies there: whoever alters, removes or
//! inserts a line breaks the chain at the next one, and [`read`] says where. What the chain alone cannot show is that lines are
//! missing at the end; so each answer carries a receipt, the number and hash of its entry: whoever keeps one can hold the log to it.
//!
//! An entry is on disk before the first row is shown (`begun`); its end is another (`ended`), which names it. A question without an
//! end was cut off by a kill. Writers take the file's lock, so several processes may write. A line that a crash cut short stays,
//! belongs to the chain, and is named; the question it was for was never answered.
//!
//! No address is in it: `hidden.rs` says what stands in its place. The key of that is in the file `<log>.key`, made with the log.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use weir::clock::{Clock, utc_text};
use weir::ids::hex;

use crate::hidden::Key;

/// The longest line: a question, its parameters and the rest.
const LINE_BYTES_MAX: u64 = 1 << 20;

/// What the log cannot do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file.
    #[error("cannot {operation} the access log {}; without it nothing is answered", path.display())]
    File {
        /// What was to be done.
        operation: &'static str,
        /// Its name.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Its end.
    #[error("the access log {} ends with a line of more than {LINE_BYTES_MAX} bytes: it is not one of ours", .0.display())]
    NotOurs(PathBuf),
    /// The key of marks.
    #[error("{} is no key of an access log: bring back the one that was there, or remove it, and marks begin anew", .0.display())]
    Key(PathBuf),
    /// An entry.
    #[error("an entry of the access log cannot be written as JSON")]
    Json(#[from] serde_json::Error),
}

/// What is asked, by whom and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// Who: a token's subject, or the system's user.
    pub who: String,
    /// By which way: `command` or `portal`.
    pub via: String,
    /// Whose records could be seen; none: everybody's.
    pub account: Option<String>,
    /// `query` or the report's name.
    pub what: String,
    /// The statement; empty for reports.
    pub sql: String,
    /// Parameters by name; addresses in them, as in `sql` and `purpose`, as their marks.
    pub parameters: std::collections::BTreeMap<String, String>,
    /// Of which time, RFC 3339; empty where it was not said.
    pub from: String,
    /// Not included.
    pub to: String,
    /// Why, in the asker's words.
    pub purpose: String,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// `seq` of the entry that began it.
    pub of: u64,
    /// `answered`, or why not.
    pub outcome: String,
    /// Rows shown.
    pub rows: u64,
    /// How long it took, ms.
    pub took_ms: u64,
}

/// One of the two.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// A question.
    Begun(Asked),
    /// Its end.
    Ended(Ended),
}

/// A line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// From 0, gapless.
    pub seq: u64,
    /// When, RFC 3339.
    pub at: String,
    /// BLAKE3 of the line before; empty in the first.
    pub previous: String,
    /// What happened.
    #[serde(flatten)]
    pub what: What,
}

/// By which a log can be held to an entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Receipt {
    /// The entry's number.
    pub seq: u64,
    /// BLAKE3 of its line.
    pub hash: String,
}

/// What a log says.
#[derive(Debug, Default)]
pub struct Log {
    /// In order.
    pub entries: Vec<Entry>,
    /// What is wrong with it, by line; none: nothing was changed.
    pub flaws: Vec<String>,
    /// Lines that a crash cut short.
    pub torn: u64,
    /// The last line's hash; empty without any.
    pub head: String,
}

/// Appends an entry, without addresses, and has it on disk when it returns.
pub fn append(path: &Path, what: What) -> Result<Receipt, Error> {
    let failed = |operation| move |source| Error::File { operation, path: path.to_owned(), source };
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(failed("make the directory of"))?;
    }
    let is_new = !path.exists();
    let mut options = OpenOptions::new();
    let mut file = options.read(true).append(true).create(true).mode(0o600).open(path).map_err(failed("open"))?;
    file.lock().map_err(failed("lock"))?;
    let what = match what {
        What::Begun(asked) => What::Begun(hidden(asked, &key(path)?)),
        ended @ What::Ended(_) => ended,
    };
    let last = last_line(&mut file, path)?;
    let previous = last.line.as_deref().map(digest).unwrap_or_default();
    let entry = Entry { seq: last.next, at: utc_text(Clock::anchored().now_us()), previous, what };
    let line = serde_json::to_vec(&entry)?;
    let mut bytes = Vec::with_capacity(line.len() + 2);
    if last.is_torn {
        bytes.push(b'\n');
    }
    bytes.extend_from_slice(&line);
    bytes.push(b'\n');
    file.write_all(&bytes).and_then(|()| file.sync_data()).map_err(failed("write"))?;
    if is_new && let Some(directory) = path.parent() {
        File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed("write"))?;
    }
    Ok(Receipt { seq: entry.seq, hash: digest(&line) })
}

/// The whole log, checked; an empty one where there is none.
pub fn read(path: &Path) -> Result<Log, Error> {
    let failed = |source| Error::File { operation: "read", path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Log::default()),
        Err(error) => return Err(failed(error)),
    };
    let (mut log, mut next, mut number) = (Log::default(), 0, 0_u64);
    let mut lines = BufReader::new(file);
    loop {
        let mut line = Vec::new();
        if (&mut lines).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).map_err(failed)? == 0 {
            return Ok(log);
        }
        number += 1;
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        match serde_json::from_slice::<Entry>(&line) {
            Ok(entry) => {
                if entry.previous != log.head {
                    log.flaws.push(format!(
                        "line {number}: what stands before it is not what stood there when it was written"
                    ));
                }
                if entry.seq != next {
                    log.flaws.push(format!("line {number}: it is entry {}, and {next} was to come", entry.seq));
                }
                next = entry.seq + 1;
                log.entries.push(entry);
            }
            // The next line's chain says whether it was cut short or altered.
            Err(_) => log.torn += 1,
        }
        log.head = digest(&line);
    }
}

/// What stands in the log for an address; none: nothing was ever written.
pub fn mark(path: &Path, address: std::net::IpAddr) -> Result<Option<String>, Error> {
    let path = key_path(path);
    Ok(kept_key(&path)?.map(|key| key.mark(address)))
}

fn hidden(asked: Asked, key: &Key) -> Asked {
    let parameters = asked.parameters.iter().map(|(name, value)| (name.clone(), key.hide(value))).collect();
    Asked { sql: key.hide(&asked.sql), purpose: key.hide(&asked.purpose), parameters, ..asked }
}

fn key_path(log: &Path) -> PathBuf {
    log.with_added_extension("key")
}

/// The log's, made if there is none. Whoever calls has the log's lock.
fn key(log: &Path) -> Result<Key, Error> {
    let path = key_path(log);
    if let Some(key) = kept_key(&path)? {
        return Ok(key);
    }
    let failed = |source| Error::File { operation: "make the key of", path: log.to_owned(), source };
    let key = Key::random().map_err(failed)?;
    // Whole or not at all: a mark that nobody can make again says nothing.
    let unfinished = path.with_added_extension("new");
    let mut file = OpenOptions::new();
    let file = file.write(true).create(true).truncate(true).mode(0o600).open(&unfinished);
    let written = file.and_then(|mut file| file.write_all(key.bytes()).and_then(|()| file.sync_all()));
    written.and_then(|()| std::fs::rename(&unfinished, &path)).map_err(failed)?;
    Ok(key)
}

fn kept_key(path: &Path) -> Result<Option<Key>, Error> {
    match std::fs::read(path) {
        Ok(bytes) => Key::of(&bytes).map(Some).ok_or_else(|| Error::Key(path.to_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::File { operation: "read the key of", path: path.to_owned(), source }),
    }
}

struct Last {
    line: Option<Vec<u8>>,
    /// Number of the next entry.
    next: u64,
    is_torn: bool,
}

/// The last line, and the number after that of the last whole entry.
fn last_line(file: &mut File, path: &Path) -> Result<Last, Error> {
    let failed = |source| Error::File { operation: "read", path: path.to_owned(), source };
    let end = file.seek(SeekFrom::End(0)).map_err(failed)?;
    if end == 0 {
        return Ok(Last { line: None, next: 0, is_torn: false });
    }
    // Two lines: one of them may be torn.
    file.seek(SeekFrom::Start(end.saturating_sub(2 * LINE_BYTES_MAX))).map_err(failed)?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail).map_err(failed)?;
    let is_torn = tail.last() != Some(&b'\n');
    if !is_torn {
        tail.pop();
    }
    let mut lines = tail.rsplit(|byte| *byte == b'\n');
    let line = lines.next().unwrap_or_default().to_vec();
    if line.len() as u64 > LINE_BYTES_MAX {
        return Err(Error::NotOurs(path.to_owned()));
    }
    let whole =
        std::iter::once(line.as_slice()).chain(lines).find_map(|line| serde_json::from_slice::<Entry>(line).ok());
    Ok(Last { line: Some(line), next: whole.map_or(0, |entry| entry.seq + 1), is_torn })
}

fn digest(line: &[u8]) -> String {
    hex(blake3::hash(line).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked_of(sql: &str) -> What {
        What::Begun(Asked { who: "jo".into(), sql: sql.into(), ..Asked::default() })
    }

    fn log_of(directory: &Path, entries: usize) -> PathBuf {
        let path = directory.join("access.jsonl");
        for n in 0..entries {
            assert_eq!(append(&path, asked_of(&format!("SELECT {n}"))).unwrap().seq, n as u64);
        }
        path
    }

    #[test]
    fn what_was_written_is_read_and_the_receipt_is_its_hash() {
        let directory = tempfile::tempdir().unwrap();
        let path = log_of(directory.path(), 3);
        let ended = Ended { of: 2, outcome: "answered".into(), rows: 7, took_ms: 1 };
        let receipt = append(&path, What::Ended(ended.clone())).unwrap();
        let log = read(&path).unwrap();
        assert_eq!((log.entries.len(), log.flaws.len(), log.torn), (4, 0, 0));
        assert_eq!(log.entries[3].what, What::Ended(ended));
        assert_eq!((receipt.seq, receipt.hash), (3, log.head));
        assert!(read(&directory.path().join("none")).unwrap().entries.is_empty());
    }

    #[test]
    fn every_change_of_a_line_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let path = log_of(directory.path(), 4);
        let whole = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = whole.lines().collect();
        let swapped = [lines[0], lines[2], lines[1], lines[3]].join("\n") + "\n";
        let removed = [lines[0], lines[2], lines[3]].join("\n") + "\n";
        let doubled = [lines[0], lines[1], lines[1], lines[2], lines[3]].join("\n") + "\n";
        let altered = whole.replacen("SELECT 1", "SELECT 9", 1);
        let beheaded = lines[1..].join("\n") + "\n";
        for changed in [swapped, removed, doubled, altered, beheaded] {
            std::fs::write(&path, &changed).unwrap();
            assert!(!read(&path).unwrap().flaws.is_empty(), "{changed}");
        }
        std::fs::write(&path, &whole).unwrap();
        assert!(read(&path).unwrap().flaws.is_empty());
    }

    #[test]
    fn a_line_that_a_crash_cut_short_stays_and_is_named() {
        let directory = tempfile::tempdir().unwrap();
        for kept in [1, 20, 60] {
            let path = log_of(directory.path(), 2);
            let whole = std::fs::read(&path).unwrap();
            let second = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
            std::fs::write(&path, &whole[..second + kept]).unwrap();
            assert_eq!(append(&path, asked_of("SELECT 2")).unwrap().seq, 1);
            let log = read(&path).unwrap();
            assert_eq!((log.entries.len(), log.torn, log.flaws.len()), (2, 1, 0), "{:?}", log.flaws);
            std::fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn no_address_is_in_it_and_its_mark_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.jsonl");
        let address = "192.0.2.7".parse().unwrap();
        assert_eq!(mark(&path, address).unwrap(), None);
        let parameters = [("address".to_owned(), "192.0.2.7".to_owned())].into();
        let asked = Asked { parameters, ..Asked::default() };
        append(&path, What::Begun(asked)).unwrap();
        append(&path, asked_of("192.0.2.7")).unwrap();
        let (text, mark) = (std::fs::read_to_string(&path).unwrap(), mark(&path, address).unwrap().unwrap());
        assert!(!text.contains("192.0.2.7") && text.matches(&mark).count() == 2, "{text}");
        assert!(read(&path).unwrap().flaws.is_empty());
        std::fs::write(key_path(&path), b"short").unwrap();
        assert!(matches!(append(&path, asked_of("x")), Err(Error::Key(_))));
    }

    #[test]
    fn writers_do_not_get_in_each_others_way() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.jsonl");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..25).for_each(|n| drop(append(&path, asked_of(&format!("SELECT {n}"))).unwrap())));
            }
        });
        let log = read(&path).unwrap();
        assert_eq!((log.entries.len(), log.flaws.len(), log.torn), (100, 0, 0));
    }
}
