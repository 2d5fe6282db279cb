//! Who asked what: an append-only log that nobody can change unseen.
//!
//! A file of JSON lines. Each entry names, as `previous`, the BLAKE3 of the line before it, as it lies there: whoever alters, removes or
//! inserts a line breaks the chain at the next one, and [`read`] says where. What the chain alone cannot show is that lines are
//! missing at the end; so each answer carries a receipt, the number and hash of its entry: whoever keeps one can hold the log to it.
//!
//! An entry is on disk before the first row is shown (`begun`); its end is another (`ended`), which names it. A question without an
//! end was cut off by a kill. Writers take the file's lock, so several processes may write. A line that a crash cut short stays,
//! belongs to the chain, and is named; the question it was for was never answered.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use weir::clock::{Clock, utc_text};
use weir::ids::hex;

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
    /// Parameters by name.
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

/// Appends an entry, and has it on disk when it returns.
pub fn append(path: &Path, what: What) -> Result<Receipt, Error> {
    let failed = |operation| move |source| Error::File { operation, path: path.to_owned(), source };
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(failed("make the directory of"))?;
    }
    let is_new = !path.exists();
    let mut options = OpenOptions::new();
    let mut file = options.read(true).append(true).create(true).mode(0o600).open(path).map_err(failed("open"))?;
    file.lock().map_err(failed("lock"))?;
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
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Log::default()),
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

    fn asked(sql: &str) -> What {
        What::Begun(Asked { who: "jo".into(), sql: sql.into(), ..Asked::default() })
    }

    fn log_of(directory: &Path, entries: usize) -> PathBuf {
        let path = directory.join("access.jsonl");
        for n in 0..entries {
            assert_eq!(append(&path, asked(&format!("SELECT {n}"))).unwrap().seq, n as u64);
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
            assert_eq!(append(&path, asked("SELECT 2")).unwrap().seq, 1);
            let log = read(&path).unwrap();
            assert_eq!((log.entries.len(), log.torn, log.flaws.len()), (2, 1, 0), "{:?}", log.flaws);
            std::fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn writers_do_not_get_in_each_others_way() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.jsonl");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..25).for_each(|n| drop(append(&path, asked(&format!("SELECT {n}"))).unwrap())));
            }
        });
        let log = read(&path).unwrap();
        assert_eq!((log.entries.len(), log.flaws.len(), log.torn), (100, 0, 0));
    }
}
