//! Upkeep: small files become large ones, old rows go, leftovers are swept. Each is a commit of its own (sweeping is none: what no
//! commit names is not part of the archive), so a crash costs nothing, and it may run beside an archiver and beside queries.

use std::collections::{BTreeMap, BTreeSet};

use arrow_array::{RecordBatch, UInt32Array};
use arrow_select::concat::concat_batches;
use arrow_select::take::take_record_batch;

use super::file::{self, Effort, Encoded};
use super::keys::Keys;
use super::manifest::{Commit, Expired, File, Manifest, Removed, Why};
use super::schema::Table;
use super::{Error, Place, proof};
use crate::clock::{DAY_US, HOUR_US};
use crate::config::Archive;
use crate::wire::Hash;

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
    /// Files that were joined.
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
        files.retain(|file| file.rows < ROWS_MAX / 2);
        let mut rows = 0;
        files.retain(|file| {
            rows += file.rows;
            rows <= ROWS_MAX
        });
        if files.len() < 2 || !is_over && files.len() < FILES_MAX {
            continue;
        }
        let mut batches = Vec::with_capacity(files.len());
        for file in &files {
            batches.push(read(place, file)?);
        }
        let rows = joined(table, &batches)?;
        drop(batches);
        let mut commit = Commit::after(manifest, now_us, Why::Compact);
        let encoded = Encoded::new(table, (hour_us, bucket, buckets), commit.number, &rows, Effort::Thorough)?;
        let sums = files.iter().fold([0; crate::units::COLUMNS], |sums, file| {
            std::array::from_fn(|column| sums[column] + file.sums[column])
        });
        assert_eq!(encoded.file.sums, sums, "joining files changes no sum");
        commit.add.push(encoded.write(place)?);
        commit.remove = files.iter().map(|file| Removed { path: file.path.clone(), is_replaced: true }).collect();
        // Somebody else was faster: what was written is swept.
        if manifest.commit(place, commit)? {
            kept.joined += files.len();
            kept.into += 1;
        }
    }
    Ok(())
}

/// The rows of a file, which is what the manifest says.
pub(super) fn read(place: &Place, file: &File) -> Result<RecordBatch, Error> {
    let damaged = |reason: &str| Error::Damaged { path: file.path.clone(), reason: reason.to_owned() };
    let bytes = place.read(&file.path)?.ok_or_else(|| damaged("it is not there"))?;
    if Hash::of(&bytes) != file.blake3 {
        return Err(damaged("its BLAKE3 is not the manifest's"));
    }
    file::decode(&file.path, bytes)
}

fn joined(table: Table, batches: &[RecordBatch]) -> Result<RecordBatch, Error> {
    let failed = |source| Error::Columns { table: table.name(), source };
    let all = concat_batches(&table.schema(), batches).map_err(failed)?;
    let mut order: Vec<u32> = (0..u32::try_from(all.num_rows()).unwrap_or(u32::MAX)).collect();
    file::sort(table, &all, &mut order)?;
    take_record_batch(&all, &UInt32Array::from(order)).map_err(failed)
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
