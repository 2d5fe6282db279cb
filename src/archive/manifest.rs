//! The manifest: which files are the archive, what is in them, and which records they are. What a reader may rely on.
//!
//! ```text
//! manifest/commits/000000000017.json         one commit, never changed; it names the BLAKE3 of the one before: a chain
//! manifest/checkpoints/000000000016.json     everything up to a commit; the newest two are kept
//! requests/hour=2026-11-23T04/bucket=03/…    the files (schema.rs)
//! proofs/…, drafts/…                         beside each file (proof.rs); what is being written, in a directory
//! ```
//!
//! **Reading**: the checkpoint with the highest number (none: an empty [`Manifest`]), then the commits behind it, one after the other
//! until there is none. [`Manifest::files`] is then exactly what there is: every record that the archive took is in one row of one of
//! them, except those that retention removed. A file that no commit adds is not part of it, and may vanish. A file that a commit
//! removes stays readable for an hour (who reads a manifest may go on with it), unless it was removed to erase something.
//!
//! **Pruning**: table, hour, bucket and times of a file are in its entry; inside, rows are sorted by account and time, with statistics,
//! page index and bloom filters.
//!
//! **Completeness**: a commit says, for each (node, epoch, shard) that it brought records of, how far all is there and which seqs are
//! missing in between, with the times they lie between. [`Manifest::holes`] answers it for a span of time.
//!
//! **Sums**: of the nine byte columns (deltas), by file; and of everything that was ever taken by stream, as the ledger keeps
//! them too (`rollup::Tally`), so the two can be held against one another whatever was erased or has grown too old.
//!
//! **What it does not say**: nothing of anybody. Accounts are in it only where a legal hold names one.
//!
//! **A crash** leaves a commit whole or not at all: it is created in one step, after all of its files are durable. Two writers cannot
//! make the same commit: the second finds the number taken, reads it, and goes on behind it or begins again.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::schema::Table;
use super::{Error, Place};
use crate::store::{Gap, Move, StreamPlace, StreamRow};
use crate::units::COLUMNS;
use crate::wire::Hash;

/// Form of commits and checkpoints. A reader refuses what is higher.
pub const FORMAT: u32 = 1;
/// Folder of the commits.
pub const COMMITS: &str = "manifest/commits";
/// Folder of the checkpoints.
pub const CHECKPOINTS: &str = "manifest/checkpoints";
/// A checkpoint is made after so many commits.
pub const CHECKPOINT_EVERY: u64 = 64;

/// Why a commit was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// Records came.
    Append,
    /// Small files became a large one: the same rows.
    Compact,
    /// Rows grew too old.
    Retain,
    /// Somebody's data went: the same rows with less in them.
    Erase,
    /// A legal hold was set or lifted.
    Hold,
}

/// A file and what is in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Where, from the archive's root.
    pub path: String,
    /// Of which table.
    pub table: Table,
    /// First µs of the UTC hour of all its rows.
    pub hour_us: i64,
    /// Of all its rows' accounts.
    pub bucket: u32,
    /// Among how many buckets.
    pub buckets: u32,
    /// How many rows.
    pub rows: i64,
    /// Size.
    pub file_bytes: i64,
    /// Written in haste, with hardly any statistics and no bloom filters: it is joined with others, or written anew, once its hour is over.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_provisional: bool,
    /// Of all its bytes.
    pub blake3: Hash,
    /// Least `at`.
    pub first_at_us: i64,
    /// Greatest `at`.
    pub last_at_us: i64,
    /// Least and greatest id, in hexadecimal: of requests `request_id`, of sessions `session_id`. Ids begin with the time when what they
    /// name began, so few files can hold a given one. None: no row has one, or it is a file of before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ids: Option<[String; 2]>,
    /// Whose rows, and between which seqs.
    pub streams: Vec<Rows>,
    /// Sums of the byte columns (deltas), in the order of [`crate::units::Column`].
    pub sums: [i64; COLUMNS],
    /// Of the proof by which single rows are found that were altered (`proof.rs`).
    pub proof: Hash,
}

/// Rows of a stream in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "RowsRead")]
pub struct Rows {
    /// Which stream.
    #[serde(flatten)]
    pub place: StreamPlace,
    /// The lowest seq.
    pub first_seq: i64,
    /// Behind the highest; those in between are in this file or in others.
    pub next_seq: i64,
    /// How many.
    pub rows: i64,
}

/// The same as it is read: serde keeps a copy of everything that it reads for a flattened field, and there is one of these or more for
/// each file.
#[derive(Deserialize)]
struct RowsRead {
    node: String,
    epoch: i64,
    shard: i64,
    first_seq: i64,
    next_seq: i64,
    rows: i64,
}

impl From<RowsRead> for Rows {
    fn from(read: RowsRead) -> Self {
        let RowsRead { node, epoch, shard, first_seq, next_seq, rows } = read;
        Self { place: StreamPlace { node, epoch, shard }, first_seq, next_seq, rows }
    }
}

/// A file that is no longer part of the archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// Where it was.
    pub path: String,
    /// Whether its rows are in files that the same commit adds. If not, they are gone.
    pub is_replaced: bool,
}

/// Rows of a table that are gone because they grew too old.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expired {
    /// Table that they were in.
    pub table: Table,
    /// Whose they were, and between which seqs.
    pub streams: Vec<Rows>,
    /// Sums of their byte columns.
    pub sums: [i64; COLUMNS],
}

/// Bytes of a source that are no record: what they held is a hole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unreadable {
    /// The source.
    pub source: String,
    /// Its part.
    pub part: String,
    /// Where in it.
    pub position: i64,
    /// When it was written, as far as is known, µs.
    pub at_us: i64,
    /// What is wrong.
    pub reason: String,
}

/// What is not to be erased and does not grow too old.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Its name.
    pub name: String,
    /// Only this account's; none: everybody's.
    pub account: Option<String>,
    /// From this µs on.
    pub from_us: i64,
    /// Up to before this one.
    pub to_us: i64,
    /// Why.
    pub reason: String,
    /// Who set it.
    pub actor: String,
    /// When, µs.
    pub at_us: i64,
}

/// That something was erased, and how. It does not say whose: `subject` is the BLAKE3 of a receipt that whoever asked was given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// BLAKE3 of the text `<receipt> <what was asked for>`.
    pub subject: Hash,
    /// `account` or `address`.
    pub kind: String,
    /// Who did it.
    pub actor: String,
    /// When, µs.
    pub at_us: i64,
    /// Keys that were destroyed.
    pub keys: i64,
    /// Files that were rewritten.
    pub files: i64,
    /// Rows that hold less now.
    pub rows: i64,
    /// Rows that were left because they keep only a network that the address lies in: they identify nobody.
    #[serde(default)]
    pub rows_of_network: i64,
    /// Rows that were left because nobody can tell whose they are without a key that is gone, or was not there.
    #[serde(default)]
    pub rows_unreadable: i64,
}

/// One commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// [`FORMAT`] of its writer.
    pub format: u32,
    /// Gapless from 1.
    pub number: u64,
    /// BLAKE3 of the bytes of the commit before; none in the first.
    pub previous: Option<Hash>,
    /// When it was made, µs.
    pub at_us: i64,
    /// Why.
    pub why: Why,
    /// Files that are part of the archive from now on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<File>,
    /// Files that no longer are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<Removed>,
    /// Rows that are gone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expired: Vec<Expired>,
    /// How far the sources were read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub moves: Vec<Move>,
    /// What came of each stream, all in all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub streams: Vec<StreamRow>,
    /// Gaps that are no more, or not as they were.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gaps_gone: Vec<Gap>,
    /// Gaps that are new, or changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<Gap>,
    /// What could not be read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unreadable: Vec<Unreadable>,
    /// A hold that is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
    /// Name of one that is lifted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifted: Option<String>,
    /// What was erased.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Certificate>,
}

impl Commit {
    /// An empty one behind this manifest.
    pub fn after(manifest: &Manifest, at_us: i64, why: Why) -> Self {
        Self {
            format: FORMAT,
            number: manifest.number + 1,
            previous: manifest.head,
            at_us,
            why,
            add: Vec::new(),
            remove: Vec::new(),
            expired: Vec::new(),
            moves: Vec::new(),
            streams: Vec::new(),
            gaps_gone: Vec::new(),
            gaps: Vec::new(),
            unreadable: Vec::new(),
            hold: None,
            lifted: None,
            certificate: None,
        }
    }

    /// Where it lies.
    pub fn path(number: u64) -> String {
        format!("{COMMITS}/{number:012}.json")
    }
}

/// Everything that all commits say together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT`] of its writer.
    pub format: u32,
    /// Of the last commit; 0 before the first.
    pub number: u64,
    /// BLAKE3 of the last commit's bytes: equal heads are equal archives.
    pub head: Option<Hash>,
    /// All files, by path.
    #[serde(with = "listed")]
    pub files: BTreeMap<String, File>,
    /// All streams, in order.
    pub streams: Vec<StreamRow>,
    /// All gaps.
    pub gaps: Vec<Gap>,
    /// Where reading goes on: source, part, position; in order.
    pub positions: Vec<(String, String, i64)>,
    /// Rows that are gone, by table.
    pub expired: Vec<Expired>,
    /// What could not be read.
    pub unreadable: Vec<Unreadable>,
    /// What is held.
    pub holds: Vec<Hold>,
    /// What was erased.
    pub certificates: Vec<Certificate>,
}

/// Why a span of time is not known to be complete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Hole {
    /// Nothing was heard of a stream after this time.
    Silent {
        /// Which.
        #[serde(flatten)]
        place: StreamPlace,
        /// Time of its latest record, µs.
        last_at_us: i64,
    },
    /// Records did not come.
    Gap(Gap),
    /// Bytes could not be read.
    Unreadable(Unreadable),
}

impl Manifest {
    /// Of an archive, as it is now.
    pub fn read(place: &Place) -> Result<Self, Error> {
        let mut manifest = Self::checkpoint(place)?.unwrap_or_default();
        manifest.follow(place)?;
        Ok(manifest)
    }

    /// Takes the commits that were made since.
    pub fn follow(&mut self, place: &Place) -> Result<(), Error> {
        while let Some((commit, hash)) = read_commit(place, self.number + 1)? {
            self.take(commit, hash)?;
        }
        Ok(())
    }

    /// Makes a commit, behind whatever others commit meanwhile. False: those have changed what it is about.
    pub fn commit(&mut self, place: &Place, mut commit: Commit) -> Result<bool, Error> {
        loop {
            (commit.number, commit.previous) = (self.number + 1, self.head);
            let path = Commit::path(commit.number);
            let bytes = serde_json::to_vec(&commit)
                .map_err(|error| Error::Damaged { path: path.clone(), reason: error.to_string() })?;
            let hash = Hash::of(&bytes);
            // Where the answer was lost, it is there and it is ours.
            let is_ours =
                place.create(&path, bytes)? || place.read(&path)?.is_some_and(|found| Hash::of(&found) == hash);
            if is_ours {
                self.take(commit, hash)?;
                if self.number.is_multiple_of(CHECKPOINT_EVERY) {
                    self.write_checkpoint(place)?;
                }
                return Ok(true);
            }
            self.follow(place)?;
            if !self.allows(&commit) {
                return Ok(false);
            }
        }
    }

    /// Whether what a commit goes on from is still as it was.
    fn allows(&self, commit: &Commit) -> bool {
        let position = |of: &Move| {
            let found =
                self.positions.binary_search_by(|(source, part, _)| (source, part).cmp(&(&of.source, &of.part)));
            found.ok().map(|at| self.positions[at].2)
        };
        let revision = |row: &StreamRow| {
            let found = self.streams.binary_search_by(|known| known.place.cmp(&row.place));
            found.map_or(0, |at| self.streams[at].revision)
        };
        commit.moves.iter().all(|of| position(of) == of.from)
            && commit.streams.iter().all(|row| revision(row) == row.revision)
            && commit.remove.iter().all(|removed| self.files.contains_key(&removed.path))
    }

    /// Files that commits since this time have removed: who reads may still have them open.
    pub fn removed_since(&self, place: &Place, since_us: i64) -> Result<BTreeSet<String>, Error> {
        let mut removed = BTreeSet::new();
        for number in (1..=self.number).rev() {
            let Some((commit, _)) = read_commit(place, number)? else { break };
            if commit.at_us < since_us {
                break;
            }
            removed.extend(commit.remove.into_iter().map(|removed| removed.path));
        }
        Ok(removed)
    }

    fn write_checkpoint(&self, place: &Place) -> Result<(), Error> {
        let path = format!("{CHECKPOINTS}/{:012}.json", self.number);
        let bytes = serde_json::to_vec(self)
            .map_err(|error| Error::Damaged { path: path.clone(), reason: error.to_string() })?;
        place.write(&path, bytes)?;
        let older = place.list(CHECKPOINTS)?;
        for found in older.iter().rev().skip(2) {
            place.remove(&found.path)?;
        }
        Ok(())
    }

    fn checkpoint(place: &Place) -> Result<Option<Self>, Error> {
        let Some(path) = place.list(CHECKPOINTS)?.into_iter().map(|found| found.path).max() else { return Ok(None) };
        let Some(bytes) = place.read(&path)? else { return Ok(None) };
        let found: Self = parse(&path, &bytes)?;
        supported(&path, found.format)?;
        Ok(Some(found))
    }

    /// Goes on by a commit, whose bytes have this hash.
    pub fn take(&mut self, commit: Commit, hash: Hash) -> Result<(), Error> {
        let path = Commit::path(commit.number);
        supported(&path, commit.format)?;
        if commit.number != self.number + 1 || commit.previous != self.head {
            return Err(Error::Chain { path, expected: self.head });
        }
        self.format = self.format.max(commit.format);
        (self.number, self.head) = (commit.number, Some(hash));
        for removed in commit.remove {
            self.files.remove(&removed.path);
        }
        self.files.extend(commit.add.into_iter().map(|file| (file.path.clone(), file)));
        for mut row in commit.streams {
            row.revision += 1;
            match self.streams.binary_search_by(|known| known.place.cmp(&row.place)) {
                Ok(at) => self.streams[at] = row,
                Err(at) => self.streams.insert(at, row),
            }
        }
        self.gaps.retain(|gap| !commit.gaps_gone.contains(gap));
        self.gaps.extend(commit.gaps);
        for Move { source, part, to, .. } in commit.moves {
            match self.positions.binary_search_by(|(of, its, _)| (of, its).cmp(&(&source, &part))) {
                Ok(at) => self.positions[at].2 = to,
                Err(at) => self.positions.insert(at, (source, part, to)),
            }
        }
        for gone in commit.expired {
            match self.expired.iter_mut().find(|known| known.table == gone.table) {
                Some(known) => known.join(gone),
                None => self.expired.push(gone),
            }
        }
        self.unreadable.extend(commit.unreadable);
        self.holds.retain(|hold| commit.lifted.as_ref() != Some(&hold.name));
        self.holds.extend(commit.hold);
        self.certificates.extend(commit.certificate);
        Ok(())
    }

    /// What is not known to be there of a time, `from_us` up to before `to_us`; none: every record of it is.
    pub fn holes(&self, from_us: i64, to_us: i64) -> Vec<Hole> {
        let silent = self.streams.iter().filter(|row| row.next_seq > 0 && !row.is_complete && row.last_at_us < to_us);
        let silent = silent.map(|row| Hole::Silent { place: row.place.clone(), last_at_us: row.last_at_us });
        let gaps = self.gaps.iter().filter(|gap| gap.from_us < to_us && gap.to_us >= from_us);
        let unreadable = self.unreadable.iter().filter(|found| found.at_us >= from_us);
        silent.chain(gaps.cloned().map(Hole::Gap)).chain(unreadable.cloned().map(Hole::Unreadable)).collect()
    }

    /// Up to when everything has come, µs: before the first gap, and before what is last known of the node that is furthest behind.
    /// None: nothing more is expected, and nothing is missing.
    pub fn complete_until_us(&self) -> Option<i64> {
        let heard = self.streams.iter().filter(|row| row.next_seq > 0 && !row.is_complete).map(|row| row.last_at_us);
        heard.chain(self.gaps.iter().map(|gap| gap.from_us)).min()
    }

    /// Files of a table that may have rows of this time and account.
    pub fn files_of(&self, table: Table, from_us: i64, to_us: i64, account: Option<&str>) -> Vec<&File> {
        let is_wanted = |file: &&File| {
            file.table == table
                && file.first_at_us < to_us
                && file.last_at_us >= from_us
                && account.is_none_or(|account| super::schema::bucket(account, file.buckets) == file.bucket)
        };
        self.files.values().filter(is_wanted).collect()
    }

    /// The hold that keeps something of this account's in a span of time, if any.
    pub fn hold_on(&self, account: &str, from_us: i64, to_us: i64) -> Option<&Hold> {
        let is_theirs = |hold: &Hold| hold.account.as_deref().is_none_or(|held| held == account);
        self.holds.iter().find(|hold| is_theirs(hold) && hold.from_us < to_us && from_us < hold.to_us)
    }

    /// The hold that keeps a file, because it may have rows that are held.
    pub fn hold_on_file(&self, file: &File) -> Option<&Hold> {
        let may_have = |hold: &Hold| {
            let is_theirs = |account: &String| super::schema::bucket(account, file.buckets) == file.bucket;
            hold.account.as_ref().is_none_or(is_theirs)
        };
        let overlaps = |hold: &Hold| hold.from_us <= file.last_at_us && file.first_at_us < hold.to_us;
        self.holds.iter().find(|hold| overlaps(hold) && may_have(hold))
    }
}

impl Expired {
    /// Adds another's of the same table.
    pub fn join(&mut self, other: Self) {
        for rows in other.streams {
            match self.streams.iter_mut().find(|known| known.place == rows.place) {
                Some(known) => {
                    known.first_seq = known.first_seq.min(rows.first_seq);
                    known.next_seq = known.next_seq.max(rows.next_seq);
                    known.rows += rows.rows;
                }
                None => self.streams.push(rows),
            }
        }
        self.sums = std::array::from_fn(|column| self.sums[column] + other.sums[column]);
    }
}

/// A commit and the hash of its bytes; none where there is no such one yet.
pub fn read_commit(place: &Place, number: u64) -> Result<Option<(Commit, Hash)>, Error> {
    let path = Commit::path(number);
    let Some(bytes) = place.read(&path)? else { return Ok(None) };
    let commit: Commit = parse(&path, &bytes)?;
    if commit.number != number {
        return Err(Error::Damaged { path, reason: format!("it says that it is commit {}", commit.number) });
    }
    Ok(Some((commit, Hash::of(&bytes))))
}

fn parse<T: serde::de::DeserializeOwned>(path: &str, bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|error| Error::Damaged { path: path.to_owned(), reason: error.to_string() })
}

fn supported(path: &str, format: u32) -> Result<(), Error> {
    if format > FORMAT {
        let reason = format!("it has format {format}, and this release knows those up to {FORMAT}");
        return Err(Error::Damaged { path: path.to_owned(), reason });
    }
    Ok(())
}

/// Files as a list: their paths are in them.
mod listed {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serializer};

    use super::File;

    pub(super) fn serialize<S: Serializer>(files: &BTreeMap<String, File>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(files.values())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, File>, D::Error> {
        let files = Vec::<File>::deserialize(deserializer)?;
        Ok(files.into_iter().map(|file| (file.path.clone(), file)).collect())
    }
}
