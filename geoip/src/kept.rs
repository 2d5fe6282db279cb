//! Snapshots of tables that were used, for questions about the past: one file a table, named by its time and id.
//!
//! A table is kept only if the licence of each of its sources lets it be kept, and no longer than the strictest of them
//! says; what is older is deleted when the next is written.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::source::seconds;
use crate::{Error, Table, snapshot};

const SUFFIX: &str = ".weirgeo";
const DAY_S: i64 = 86_400;
/// Digits of the id in a file's name.
const ID_DIGITS: usize = 16;

/// Writes a snapshot of a table in use, if that may be. Answers where it is.
pub fn keep(table: &Table, directory: &Path) -> Result<Option<PathBuf>, Error> {
    let days_max = days_max(table);
    if days_max == Some(0) {
        return Ok(None);
    }
    std::fs::create_dir_all(directory).map_err(|source| Error::Write { path: directory.to_path_buf(), source })?;
    // The days that it may be kept stand in its name, so that deleting it needs no reading.
    let days = days_max.map_or_else(String::new, |days| format!("-{days}d"));
    let id = table.id().get(..ID_DIGITS).unwrap_or_default();
    let path = directory.join(format!("{:012}-{id}{days}{SUFFIX}", table.facts().valid_from));
    snapshot::write(table, &path, None)?;
    Ok(Some(path))
}

/// How long the strictest of its sources lets a snapshot be kept; None is for ever.
fn days_max(table: &Table) -> Option<u32> {
    table.sources().iter().filter_map(|source| source.keep_days_max).min()
}

/// Deletes snapshots that may be kept no longer.
pub fn prune(directory: &Path, now: SystemTime) -> Result<(), Error> {
    for kept in list(directory)? {
        if kept.days_max.is_some_and(|days| seconds(now) >= kept.valid_from.saturating_add(i64::from(days) * DAY_S)) {
            std::fs::remove_file(&kept.path).map_err(|source| Error::Write { path: kept.path.clone(), source })?;
        }
    }
    Ok(())
}

/// A kept snapshot, by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// From when on it was used, seconds since 1970.
    pub valid_from: i64,
    /// The beginning of its id.
    pub id: String,
    /// Days that it may be kept.
    pub days_max: Option<u32>,
    /// The file.
    pub path: PathBuf,
}

/// All kept snapshots, the oldest first. Other files are left alone; a directory that is not there has none.
pub fn list(directory: &Path) -> Result<Vec<Kept>, Error> {
    let failed = |source| Error::Read { path: directory.to_path_buf(), source };
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut all = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let Some(name) = name.and_then(|name| name.strip_suffix(SUFFIX)) else { continue };
        let mut parts = name.split('-');
        let (Some(Ok(valid_from)), Some(id)) = (parts.next().map(str::parse), parts.next()) else { continue };
        let days_max = parts.next().and_then(|days| days.strip_suffix('d')).and_then(|days| days.parse().ok());
        all.push(Kept { valid_from, id: id.to_owned(), days_max, path });
    }
    all.sort_by(|a, b| a.valid_from.cmp(&b.valid_from).then(a.path.cmp(&b.path)));
    Ok(all)
}

/// Which of them was used at a time; None if it was not kept, or may be no longer.
pub fn used(directory: &Path, at: SystemTime) -> Result<Option<Kept>, Error> {
    Ok(list(directory)?.into_iter().rfind(|kept| kept.valid_from <= seconds(at)))
}

/// The table that was used at a time; None as of [`used`].
pub fn as_of(directory: &Path, at: SystemTime) -> Result<Option<Table>, Error> {
    used(directory, at)?.map(|kept| snapshot::read(&kept.path, None)).transpose()
}
