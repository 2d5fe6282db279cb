//! Proof: everything that the manifest says is there, as it was written, and nothing else is.
//!
//! | what somebody did | how it is found and named |
//! |---|---|
//! | deleted a file | the manifest names it, with its rows' streams and seqs |
//! | added a file | no commit names it (younger than an hour: said to be on its way) |
//! | altered a file | its BLAKE3; then its rows are read: which are altered (`proof.rs`), which seqs are gone, which are too many |
//! | deleted, altered or added a commit | the chain: each names the BLAKE3 of the one before |
//! | cut off the newest commits | nothing in the archive can tell: hold `head` against one noted before, or the sums against the ledger's |
//! | lost or doubled a record | each seq of each stream is in exactly one row, or in a gap, or has grown too old |
//! | changed the sums | Σ of the files = Σ of what was ever taken − what has grown too old = the ledger's, by stream |
//!
//! **Memory**: the manifest; 8,192 rows; 8 octets for each row of a file, and 24 for each record of an hour, until they are known to be without
//! holes; of a bucket, a file as it is there.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::file::{Batches, PAGE_ROWS};
use super::manifest::{COMMITS, Commit, File, Manifest, read_commit};
use super::ranges::{Found, Range};
use super::schema::Table;
use super::upkeep::LEFT_ALONE_US;
use super::{Error, Object, Place, file, manifest, proof, ranges};
use crate::clock::utc_text;
use crate::rollup::{Tally, tally_of};
use crate::store::{SUM_COLUMNS, StreamPlace, StreamRow};
use crate::units::COLUMNS;
use crate::wire::Hash;

/// Rows, or ranges of seqs, that are named one by one of a file or stream; of more, the number.
const NAMED_MAX: usize = 20;

/// What was found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Proof {
    /// Commits in the chain.
    pub commits: u64,
    /// BLAKE3 of the last one: what to note somewhere else.
    pub head: Option<Hash>,
    /// Files looked at.
    pub files: u64,
    /// Rows in them.
    pub rows: i64,
    /// Σ of the byte columns over requests, sessions and gaps.
    pub sums: [i64; COLUMNS],
    /// What is wrong, a sentence each; none: nothing is.
    pub wrong: Vec<String>,
    /// What is not, and should be known.
    pub notes: Vec<String>,
}

/// Looks at all of it.
pub fn verify(place: &Place, now_us: i64) -> Result<Proof, Error> {
    let mut proof = Proof::default();
    let manifest = chain(place, &mut proof)?;
    proof.head = manifest.head;
    strangers(place, &manifest, now_us, &mut proof)?;
    let mut files: Vec<&File> = manifest.files.values().collect();
    // All of an hour at once: then hardly a seq of it is missing.
    files.sort_by_key(|file| file.hour_us);
    let mut seqs: BTreeMap<StreamPlace, Found> = BTreeMap::new();
    for hour in files.chunk_by(|a, b| a.hour_us == b.hour_us) {
        for file in hour {
            rows(place, file, &mut proof, &mut seqs)?;
        }
        seqs.values_mut().for_each(Found::settle);
    }
    whole(&manifest, seqs, &mut proof);
    summed(&manifest, &mut proof);
    Ok(proof)
}

/// Walks all commits, from the first on, without a checkpoint.
fn chain(place: &Place, proof: &mut Proof) -> Result<Manifest, Error> {
    let mut manifest = Manifest::default();
    let listed: BTreeSet<String> = place.list(COMMITS)?.into_iter().map(|found| found.path).collect();
    loop {
        let number = manifest.number + 1;
        match read_commit(place, number) {
            Ok(Some((commit, hash))) => match manifest.take(commit, hash) {
                Ok(()) => proof.commits += 1,
                Err(error) => {
                    proof.wrong.push(error.to_string());
                    break;
                }
            },
            Ok(None) => break,
            Err(error @ Error::Damaged { .. }) => {
                proof.wrong.push(error.to_string());
                break;
            }
            Err(error) => return Err(error),
        }
    }
    let behind = Commit::path(manifest.number);
    for path in listed.iter().filter(|path| **path > behind) {
        if *path != Commit::path(manifest.number + 1) {
            let due = Commit::path(manifest.number + 1);
            proof.wrong.push(format!(
                "{path} is there, and {due}, which it follows, is not, or does not follow: it was deleted or altered"
            ));
        }
    }
    for path in listed.iter().filter(|path| !is_commit(path)) {
        proof.wrong.push(format!("{path} is no commit: somebody put it there"));
    }
    let by_checkpoint = Manifest::read(place);
    match by_checkpoint {
        Ok(found) if proof.wrong.is_empty() && found != manifest && found.number == manifest.number => {
            proof.wrong.push("the newest checkpoint says something else than the commits: it was altered".to_owned());
        }
        Ok(_) => {}
        Err(error) => {
            let error = error.to_string();
            if !proof.wrong.contains(&error) {
                proof.wrong.push(error);
            }
        }
    }
    Ok(manifest)
}

/// Whether a commit has this hash.
pub fn has_head(place: &Place, head: &str) -> Result<bool, Error> {
    let mut number = 1;
    while let Some((_, hash)) = read_commit(place, number)? {
        if hash.to_string() == head {
            return Ok(true);
        }
        number += 1;
    }
    Ok(false)
}

fn is_commit(path: &str) -> bool {
    let number =
        path.strip_prefix(COMMITS).and_then(|name| name.strip_prefix('/')?.strip_suffix(".json")?.parse().ok());
    number.is_some_and(|number| Commit::path(number) == path)
}

/// Files that no commit names.
fn strangers(place: &Place, manifest: &Manifest, now_us: i64, proof: &mut Proof) -> Result<(), Error> {
    let removed = manifest.removed_since(place, now_us - LEFT_ALONE_US)?;
    for table in Table::ALL {
        for found in place.list(table.name())? {
            if manifest.files.contains_key(&found.path) {
                continue;
            }
            if found.modified_us > now_us - LEFT_ALONE_US || removed.contains(&found.path) {
                proof.notes.push(format!(
                    "{} is named by no commit: on its way, replaced, or a leftover that is swept",
                    found.path
                ));
            } else {
                proof.wrong.push(format!("{} was added: no commit names it", found.path));
            }
        }
    }
    Ok(())
}

/// One file, and where it is not as it was written its rows.
fn rows(place: &Place, file: &File, to: &mut Proof, seqs: &mut BTreeMap<StreamPlace, Found>) -> Result<(), Error> {
    let path = &file.path;
    to.files += 1;
    let Some(mut object) = place.object(path)? else {
        let whose: Vec<String> = file
            .streams
            .iter()
            .map(|of| {
                format!("{} of {} between seqs {} and {}", of.rows, named(&of.place), of.first_seq, of.next_seq - 1)
            })
            .collect();
        to.wrong.push(format!("{path} was deleted: {} rows are gone ({})", file.rows, whose.join("; ")));
        return Ok(());
    };
    let hash = object.blake3().map_err(|source| Error::Io { operation: "read", path: path.into(), source })?;
    let is_altered = hash != file.blake3;
    let found = match Rows::read(file, object, is_altered) {
        Ok(found) => found,
        Err(error) => {
            let is = if is_altered { "was altered and" } else { "is as it was written and" };
            to.wrong.push(format!("{path} {is} cannot be read: {error}; its {} rows are gone", file.rows));
            return Ok(());
        }
    };
    to.rows += found.count;
    for (of, found) in &found.positions {
        seqs.entry(of.clone()).or_default().add(found);
    }
    to.sums = std::array::from_fn(|column| to.sums[column] + found.sums[column]);
    if is_altered {
        to.wrong.push(format!("{path} was altered: its BLAKE3 is not the manifest's"));
        altered(place, file, &found, to)?;
    }
    Ok(())
}

/// What the rows of a file come to.
#[derive(Default)]
struct Rows {
    count: i64,
    sums: [i64; COLUMNS],
    positions: BTreeMap<StreamPlace, Vec<i64>>,
    /// Of each, where they are asked for.
    hashes: Vec<u32>,
}

impl Rows {
    fn read(file: &File, object: Object, is_hashed: bool) -> Result<Self, Error> {
        let mut all = Self::default();
        for rows in Batches::of(&file.path, object, PAGE_ROWS)? {
            let rows = rows?;
            all.count += rows.num_rows() as i64;
            let sums = file::sums_of(file.table, &rows)?;
            all.sums = std::array::from_fn(|column| all.sums[column] + sums[column]);
            for (place, seqs) in file::positions_of(file.table, &rows)? {
                all.positions.entry(place).or_default().extend(seqs);
            }
            if is_hashed {
                all.hashes.extend(proof::row_hashes(&rows));
            }
        }
        Ok(all)
    }
}

/// Which rows of a file are not as they were written.
fn altered(place: &Place, file: &File, found: &Rows, to: &mut Proof) -> Result<(), Error> {
    let path = &file.path;
    for column in (0..COLUMNS).filter(|column| found.sums[*column] != file.sums[*column]) {
        let difference = found.sums[column] - file.sums[column];
        to.wrong.push(format!("{path}: the sum of {} differs by {difference}", SUM_COLUMNS[column]));
    }
    let known = place.read(&proof::path(path))?.filter(|proof| Hash::of(proof) == file.proof);
    let Some(known) = known else {
        to.wrong.push(format!(
            "{}: altered or deleted as well, so which rows of the file are altered cannot be said",
            proof::path(path)
        ));
        return Ok(());
    };
    let Some(altered) = proof::altered(&known, &found.hashes) else {
        to.wrong.push(format!("{path}: it has {} rows, and had {}", found.count, file.rows));
        return Ok(());
    };
    let Some(object) = place.object(path)? else { return Ok(()) };
    let mut named = altered.iter().copied().take(NAMED_MAX).peekable();
    let mut first = 0;
    for rows in Batches::of(path, object, PAGE_ROWS)? {
        let rows = rows?;
        while let Some(row) = named.next_if(|row| (first..first + rows.num_rows()).contains(row)) {
            to.wrong.push(format!("{path}: row {row} was altered ({})", shown(file.table, &rows, row - first)?));
        }
        first += rows.num_rows();
    }
    if altered.len() > NAMED_MAX {
        to.wrong.push(format!("{path}: {} rows were altered", altered.len()));
    }
    Ok(())
}

/// A row in a few words, as it is now.
fn shown(table: Table, rows: &arrow_array::RecordBatch, row: usize) -> Result<String, Error> {
    use arrow_array::types::TimestampMicrosecondType;
    let one = rows.slice(row, 1);
    let at = file::column::<TimestampMicrosecondType>(table, &one, "at")?.value(0);
    let (accounts, account) = file::words_of(table, &one, "account")?;
    let account = account.first().and_then(|at| accounts.get(*at)).cloned().unwrap_or_default();
    let positions = file::positions_of(table, &one)?;
    let position =
        positions.first().map(|(of, seqs)| format!("{} seq {}", named(of), seqs.first().copied().unwrap_or_default()));
    Ok(format!("now {}, account {account}, at {}", position.unwrap_or_default(), utc_text(at)))
}

fn named(place: &StreamPlace) -> String {
    format!("node {} epoch {} shard {}", place.node, place.epoch, place.shard)
}

/// Each seq of each stream is in one row, or in a gap, or too old.
fn whole(manifest: &Manifest, mut seqs: BTreeMap<StreamPlace, Found>, to: &mut Proof) {
    for stream in &manifest.streams {
        let (found, doubled) = seqs.remove(&stream.place).unwrap_or_default().finish();
        let name = named(&stream.place);
        told(&mut to.wrong, doubled.into_iter(), |seq| format!("{name}: seq {seq} is in two rows"));
        let mut gaps: Vec<Range> = manifest
            .gaps
            .iter()
            .filter(|gap| gap.place == stream.place)
            .map(|gap| (gap.first_seq, gap.next_seq))
            .collect();
        gaps.sort_unstable();
        let due = ranges::minus(&[(0, stream.next_seq)], &gaps);
        let strange = ranges::minus(&found, &due);
        told(&mut to.wrong, ranges::seqs(&strange), |seq| {
            format!("{name}: a row says seq {seq}, which was never archived: it was added")
        });
        let expired: Vec<&manifest::Rows> = manifest
            .expired
            .iter()
            .flat_map(|gone| gone.streams.iter().filter(|rows| rows.place == stream.place))
            .collect();
        let expired_rows: i64 = expired.iter().map(|rows| rows.rows).sum();
        let lacking = stream.records - expired_rows - (ranges::count(&found) - ranges::count(&strange));
        if lacking == 0 {
            continue;
        }
        if lacking < 0 {
            to.wrong.push(format!("{name}: {} rows more than there can be", -lacking));
        }
        // Where rows have grown too old, a seq that is not there may rightly be gone.
        let is_certain =
            |(first, next): &Range| !expired.iter().any(|gone| *first < gone.next_seq && gone.first_seq < *next);
        to.wrong.push(format!("{name}: {lacking} records are gone that were archived"));
        let absent = ranges::minus(&due, &found);
        told(&mut to.wrong, absent.into_iter().filter(is_certain), |(first, next)| {
            format!("{name}: seqs {first} to {} are gone", next - 1)
        });
    }
    for (place, found) in seqs {
        let rows = ranges::count(&found.finish().0);
        to.wrong
            .push(format!("{}: {rows} rows of a stream of which nothing was archived: they were added", named(&place)));
    }
}

/// Says the first of them, and how many there are.
fn told<T>(wrong: &mut Vec<String>, mut found: impl Iterator<Item = T>, say: impl Fn(T) -> String) {
    wrong.extend(found.by_ref().take(NAMED_MAX).map(say));
    let more = found.count();
    if more > 0 {
        wrong.push(format!("and {more} more like the last"));
    }
}

/// Σ of the files against what was ever taken.
fn summed(manifest: &Manifest, to: &mut Proof) {
    let mut taken = Tally::default();
    for row in &manifest.streams {
        match tally_of(row) {
            Ok(tally) => taken.join(&tally),
            Err(error) => to.wrong.push(error),
        }
    }
    let mut held = [0; COLUMNS];
    let sums = manifest.files.values().map(|file| file.sums).chain(manifest.expired.iter().map(|gone| gone.sums));
    for sums in sums {
        held = std::array::from_fn(|column| held[column] + sums[column]);
    }
    for (column, (name, held)) in SUM_COLUMNS.iter().zip(held).enumerate() {
        let due = taken.sessions[column] + taken.requests[column] + taken.gaps[column];
        if held != due {
            to.wrong.push(format!(
                "the sum of {name} over all files, and what grew too old, is {held}; the records that came had {due}"
            ));
        }
    }
}

/// The archive's sums against a ledger's, stream by stream. What one has read and the other has not yet is a note.
pub fn compare(manifest: &Manifest, ledger: &[StreamRow], to: &mut Proof) {
    let theirs: BTreeMap<&StreamPlace, &StreamRow> = ledger.iter().map(|row| (&row.place, row)).collect();
    let mut seen = BTreeSet::new();
    for row in manifest.streams.iter().filter(|row| row.next_seq > 0) {
        seen.insert(&row.place);
        let name = named(&row.place);
        let Some(other) = theirs.get(&row.place) else {
            to.notes.push(format!("{name}: the ledger has read nothing of it"));
            continue;
        };
        if (row.next_seq, row.records) != (other.next_seq, other.records) {
            to.notes.push(format!(
                "{name}: the archive has {} records up to seq {}, the ledger {} up to {}",
                row.records,
                row.next_seq - 1,
                other.records,
                other.next_seq - 1
            ));
            continue;
        }
        match (tally_of(row), tally_of(other)) {
            // Which gap records count depends on what each had read when they came.
            (Ok(ours), Ok(others)) if (Tally { gaps_counted: others.gaps_counted, ..ours }) != others => {
                to.wrong.push(format!("{name}: the ledger has other sums of the same records"));
            }
            (Ok(_), Ok(_)) => {}
            (Err(error), _) | (_, Err(error)) => to.wrong.push(error),
        }
    }
    for other in ledger.iter().filter(|row| row.next_seq > 0 && !seen.contains(&row.place)) {
        to.notes.push(format!("{}: the ledger has {} records, the archive none", named(&other.place), other.records));
    }
}
