//! Reading sources. Each file is read whole, never mapped: truncating a mapped file kills the process.
//!
//! Text of the operator's own (accounts, labels, overrides) and lists that clouds publish become steps in memory. A
//! database is walked when the table is merged, and each of its records is decoded once.

pub(crate) mod accounts;
pub(crate) mod labels;
pub(crate) mod lists;
pub(crate) mod mmdb;
pub(crate) mod overrides;
pub(crate) mod ranges;
pub(crate) mod text;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

use crate::Error;
use crate::answer::{Answer, Vocabulary};
use crate::plan::{Kind, Source};
use crate::sources::SourceFacts;
use crate::steps::{Family, Range, Steps, flatten};

/// Rows of a text between two looks at the clock.
const ROWS_BETWEEN_CHECKS: u64 = 4_096;

/// When reading and merging have to be done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    at: Instant,
    compile_ms_max: u64,
}

impl Deadline {
    /// So long from now on.
    pub(crate) fn after_ms(compile_ms_max: u64) -> Deadline {
        let at = Instant::now() + Duration::from_millis(compile_ms_max.min(86_400_000));
        Deadline { at, compile_ms_max }
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        if Instant::now() > self.at {
            return Err(Error::Budget { limit: format!("compile_ms_max = {}", self.compile_ms_max) });
        }
        Ok(())
    }

    /// As [`Deadline::check`], but looks at the clock at some rows only.
    pub(crate) fn check_row(&self, row: u64) -> Result<(), Error> {
        if row.is_multiple_of(ROWS_BETWEEN_CHECKS) { self.check() } else { Ok(()) }
    }
}

/// A file as it was read.
#[derive(Debug)]
pub(crate) struct Input {
    pub(crate) path: PathBuf,
    pub(crate) bytes: Vec<u8>,
    /// When its rows have to be read.
    pub(crate) deadline: Deadline,
    sha256: [u8; 32],
    modified_s: i64,
}

impl Input {
    pub(crate) fn read(path: &Path, deadline: Deadline) -> Result<Input, Error> {
        let failed = |source| Error::Read { path: path.to_path_buf(), source };
        let before = std::fs::metadata(path).map_err(failed)?;
        let bytes = std::fs::read(path).map_err(failed)?;
        let after = std::fs::metadata(path).map_err(failed)?;
        let modified = after.modified().map_err(failed)?;
        if before.modified().map_err(failed)? != modified || after.len() != bytes.len() as u64 {
            return Err(Error::Changing { path: path.to_path_buf() });
        }
        let modified_s = modified.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
        Ok(Input { path: path.to_path_buf(), sha256: Sha256::digest(&bytes).into(), bytes, deadline, modified_s })
    }

    /// As text whose last line ends.
    pub(crate) fn text(&self) -> Result<&str, Error> {
        let text = std::str::from_utf8(&self.bytes).map_err(|error| {
            let before = self.bytes.get(..error.valid_up_to()).unwrap_or_default();
            let line = 1 + before.iter().filter(|byte| **byte == b'\n').count() as u64;
            Error::Line { path: self.path.clone(), line, reason: "not UTF-8".to_owned() }
        })?;
        if !text.is_empty() && !text.ends_with('\n') {
            return Err(Error::CutShort { path: self.path.clone() });
        }
        Ok(text)
    }
}

/// What is known of these files as one source.
pub(crate) fn facts(name: &str, kind: &str, inputs: &[&Input]) -> SourceFacts {
    let sha256 = match inputs {
        [only] => only.sha256,
        several => {
            several.iter().fold(Sha256::new(), |digest, input| digest.chain_update(input.sha256)).finalize().into()
        }
    };
    SourceFacts {
        name: name.to_owned(),
        kind: kind.to_owned(),
        build_epoch: inputs.iter().map(|input| input.modified_s).max().unwrap_or(0),
        sha256: hexadecimal(&sha256),
        bytes: inputs.iter().map(|input| input.bytes.len() as u64).sum(),
        ..SourceFacts::default()
    }
}

pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a String does not fail.
        write!(text, "{byte:02x}").ok();
        text
    })
}

/// Seconds since 1970.
pub(crate) fn seconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

/// One source, read.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) facts: SourceFacts,
    pub(crate) parts: Vec<Part>,
}

/// What one file of it says.
#[derive(Debug)]
pub(crate) enum Part {
    Mmdb(mmdb::Database),
    Answers(Answers),
}

/// Steps of answers.
#[derive(Debug)]
pub(crate) struct Answers {
    pub(crate) v4: Steps,
    pub(crate) v6: Steps,
    /// A step's value is a position here; the first says nothing.
    pub(crate) answers: Vec<Answer>,
}

impl Answers {
    /// Of ranges of both families whose values are positions in `answers`. Inside another range only the inner counts;
    /// its labels add to those of the outer where `labels` says so.
    pub(crate) fn of(
        ranges4: Vec<Range>,
        ranges6: Vec<Range>,
        mut answers: Vec<Answer>,
        words: &mut Vocabulary,
    ) -> Answers {
        let mut inside = |outer: u32, inner: u32| {
            let outer = answers.get(outer as usize).map_or(0, |answer| answer.labels);
            let Some(answer) = answers.get(inner as usize).copied() else { return inner };
            let labels = words.union(answer.labels, outer);
            if labels == answer.labels {
                return inner;
            }
            answers.push(Answer { labels, ..answer });
            answers.len() as u32 - 1
        };
        let v4 = flatten(Family::V4, ranges4, &mut inside);
        let v6 = flatten(Family::V6, ranges6, &mut inside);
        Answers { v4, v6, answers }
    }

    /// What is said of one address.
    pub(crate) fn at(&self, family: Family, address: u128) -> Answer {
        self.answers.get(self.steps(family).at(address) as usize).copied().unwrap_or_default()
    }

    pub(crate) fn steps(&self, family: Family) -> &Steps {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }
}

/// Reads all files of a source.
pub(crate) fn load(source: &Source, words: &mut Vocabulary, deadline: Deadline) -> Result<Loaded, Error> {
    let inputs = source.paths.iter().map(|path| Input::read(path, deadline)).collect::<Result<Vec<Input>, Error>>()?;
    let mut facts = facts(&source.name, source.kind.name(), &inputs.iter().collect::<Vec<_>>());
    facts.licence.clone_from(&source.licence);
    facts.attribution.clone_from(&source.attribution);
    facts.keep_days_max = source.keep_days_max;
    facts.stale_after_days = source.stale_after_days;
    facts.expired_after_days = source.expired_after_days;
    let mut parts = Vec::with_capacity(inputs.len());
    let mut built = None;
    for input in inputs {
        parts.push(match source.kind {
            Kind::Mmdb => {
                let database = mmdb::Database::open(input, source)?;
                facts.database_type = database.database_type().to_owned();
                built = built.max(Some(database.build_epoch()));
                Part::Mmdb(database)
            }
            Kind::Ranges => {
                let (answers, rows) = ranges::read(&input, source, words)?;
                facts.rows += rows;
                Part::Answers(answers)
            }
            Kind::Aws | Kind::Gcp | Kind::Azure | Kind::Cloudflare | Kind::Fastly | Kind::Tor => {
                let list = lists::read(&input, source.kind, words)?;
                facts.rows += list.rows;
                built = built.max(list.build_epoch);
                Part::Answers(list.answers)
            }
        });
    }
    if let Some(built) = built {
        facts.build_epoch = built;
    }
    Ok(Loaded { facts, parts })
}
