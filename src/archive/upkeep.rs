//! Upkeep: small files become large ones, old rows go, leftovers are swept. Each is a commit of its own (sweeping is none: what no
//! commit names is not part of the archive), so a crash costs nothing, and it may run beside an archiver and beside queries.
//!
//! **Memory**: joining has some 131,072 rows of all its files together, and the file that they become as it will be on the disk: at most
//! 4 million rows, some 30 bytes each. Of a bucket, the files that are joined too, as they are there.

use std::collections::{BTreeMap, BTreeSet};

use super::file::{Batches, Effort, Encoder};
use super::keys::Keys;
use super::manifest::{Commit, Expired, File, Manifest, Removed, Why};
use super::merge::merge;
use super::schema::Table;
use super::{Error, Place, proof};
use crate::clock::{DAY_US, HOUR_US};
use crate::config::Archive;
use crate::units::COLUMNS;

/// An hour's files are joined this long after its end, µs.
const SETTLED_US: i64 = 10 * 60 * 1_000_000;
/// Or when they are so many.
const FILES_MAX: usize = 16;
/// Rows of a joined file.
const ROWS_MAX: i64 = 4_000_000;
/// What no commit names, or one has removed, is left alone for so long: a commit may be about to name it, and who reads may still have it
/// open.
pub(super) const LEFT_ALONE_US: i64 = HOUR_US;

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Kept {
    /// Files that were joined, or alone in their hour and written anew.
    pub joined: usize,
    /// Files that they became.
    pub into: usize,
    /// Files whose rows grew too old.
    pub expired: usize,
    /// Of those that did, files that a legal hold keeps.
    pub held: usize,
    /// Files that no commit named, removed.
    pub swept: usize,
}

/// Does all of it.
pub fn keep(place: &Place, config: &Archive, now_us: i64) -> Result<Kept, Error> {
    let mut manifest = Manifest::read(place)?;
    let mut kept = Kept::default();
    retain(place, config, &mut manifest, now_us, &mut kept)?;
    compact(place, &mut manifest, now_us, &mut kept)?;
    sweep(place, &mut manifest, now_us, &mut kept)?;
    Ok(kept)
}

fn compact(place: &Place, manifest: &mut Manifest, now_us: i64, kept: &mut Kept) -> Result<(), Error> {
    let mut parts: BTreeMap<(Table, i64, u32, u32), Vec<File>> = BTreeMap::new();
    for file in manifest.files.values() {
        let part = (file.table, file.hour_us, file.bucket, file.buckets);
        parts.entry(part).or_default().push(file.clone());
    }
    for ((table, hour_us, bucket, buckets), mut files) in parts {
        let is_over = hour_us + HOUR_US + SETTLED_US < now_us;
        // Those that are large already are as good as they get.
        files.retain(|file| file.is_provisional || file.rows < ROWS_MAX / 2);
        let mut rows = 0;
        files.retain(|file| {
            rows += file.rows;
            rows <= ROWS_MAX
        });
        let is_needed = files.len() > 1 || files.iter().any(|file| file.is_provisional);
        if !is_needed || !is_over && files.len() < FILES_MAX {
            continue;
        }
        let mut commit = Commit::after(manifest, now_us, Why::Compact);
        let expected = files.iter().map(|file| usize::try_from(file.rows).unwrap_or(0)).sum();
        let mut encoder = Encoder::new(table, (hour_us, bucket, buckets), commit.number, expected, Effort::Thorough)?;
        merge(place, table, &files, |rows| encoder.push(rows))?;
        let joined = encoder.finish()?.write(place)?;
        same(&files, &joined)?;
        commit.add.push(joined);
        commit.remove = files.iter().map(|file| Removed { path: file.path.clone(), is_replaced: true }).collect();
        // Somebody else was faster: what was written is swept.
        if manifest.commit(place, commit)? {
            kept.joined += files.len();
            kept.into += 1;
        }
    }
    Ok(())
}

/// The rows of a file, so many at a time; the file is what the manifest says.
pub(super) fn open(place: &Place, file: &File, rows_max: usize) -> Result<Batches, Error> {
    let damaged = |reason: &str| Error::Damaged { path: file.path.clone(), reason: reason.to_owned() };
    let mut object = place.object(&file.path)?.ok_or_else(|| damaged("it is not there"))?;
    let hash = object.blake3().map_err(|error| damaged(&error.to_string()))?;
    if hash != file.blake3 {
        return Err(damaged("its BLAKE3 is not the manifest's"));
    }
    Batches::of(&file.path, object, rows_max)
}

/// An error unless a file has as many rows, and the sums, of those that it is to stand for.
pub(super) fn same(files: &[File], file: &File) -> Result<(), Error> {
    let rows: i64 = files.iter().map(|file| file.rows).sum();
    let sums = files.iter().fold([0; COLUMNS], |sums, file| std::array::from_fn(|at| sums[at] + file.sums[at]));
    if (rows, sums) == (file.rows, file.sums) {
        return Ok(());
    }
    let reason = format!("it was to have the {rows} rows of {} files, with their sums, and has not", files.len());
    Err(Error::Damaged { path: file.path.clone(), reason })
}

fn retain(place: &Place, config: &Archive, manifest: &mut Manifest, now_us: i64, kept: &mut Kept) -> Result<(), Error> {
    let days = |table: Table| match table {
        Table::Requests => config.keep_requests_days,
        Table::Sessions => config.keep_sessions_days,
        Table::Nodes => config.keep_nodes_days,
    };
    let mut commit = Commit::after(manifest, now_us, Why::Retain);
    for file in manifest.files.values() {
        let days = i64::from(days(file.table));
        if days == 0 || file.last_at_us >= now_us - days * DAY_US {
            continue;
        }
        if manifest.hold_on_file(file).is_some() {
            kept.held += 1;
            continue;
        }
        commit.remove.push(Removed { path: file.path.clone(), is_replaced: false });
        let gone = Expired { table: file.table, streams: file.streams.clone(), sums: file.sums };
        match commit.expired.iter_mut().find(|known| known.table == gone.table) {
            Some(known) => known.join(gone),
            None => commit.expired.push(gone),
        }
    }
    let count = commit.remove.len();
    if count > 0 && manifest.commit(place, commit)? {
        kept.expired = count;
        let (requests, sessions) = (config.keep_requests_days, config.keep_sessions_days);
        if config.keys.is_dir() && requests > 0 && sessions > 0 {
            // Of days of which no row is left, and of which none would stay.
            let left = manifest.files.values().filter(|file| file.table != Table::Nodes).map(|file| file.first_at_us);
            let due_us = now_us - i64::from(requests.max(sessions)) * DAY_US;
            Keys::open(&config.keys)?.destroy_before(left.fold(due_us, i64::min))?;
        }
    }
    Ok(())
}

fn sweep(place: &Place, manifest: &mut Manifest, now_us: i64, kept: &mut Kept) -> Result<(), Error> {
    let mut found = Vec::new();
    for folder in Table::ALL.map(Table::name).into_iter().chain(["proofs"]) {
        found.extend(place.list(folder)?);
    }
    kept.swept += place.sweep_drafts(now_us - LEFT_ALONE_US)?;
    // Read behind the listing: what was committed in between is named.
    manifest.follow(place)?;
    let mut kept_paths = manifest.removed_since(place, now_us - LEFT_ALONE_US)?;
    kept_paths.extend(manifest.files.keys().cloned());
    let proofs: BTreeSet<String> = kept_paths.iter().map(|path| proof::path(path)).collect();
    for object in found {
        let is_kept = kept_paths.contains(&object.path) || proofs.contains(&object.path);
        if !is_kept && object.modified_us < now_us - LEFT_ALONE_US {
            place.remove(&object.path)?;
            kept.swept += 1;
        }
    }
    Ok(())
}
