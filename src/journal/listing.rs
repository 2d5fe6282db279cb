//! What is in a state directory, for people and for readers that choose: takes no lock, changes nothing.

use std::path::{Path, PathBuf};

use super::cursor::Cursor;
use super::reader::Reader;
use super::segment::Names;
use super::segment_file::SegmentFile;
use super::statedir::{epoch_path, epochs, is_gone, is_live, shard_path, shards};
use super::{Error, io_error};

/// A shard, as [`list`] finds it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ShardListing {
    /// Its number.
    pub shard: u16,
    /// Its directory.
    pub path: PathBuf,
    /// The node that wrote it; empty if no segment says.
    pub node: String,
    /// The first seq that is still there.
    pub first_seq: u64,
    /// The seq behind the last published one.
    pub next_seq: u64,
    /// The first seq that is not acknowledged.
    pub cursor_seq: u64,
    /// Segment files.
    pub segments: usize,
    /// Bytes of all its files.
    pub bytes: u64,
}

/// An epoch, as [`list`] finds it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EpochListing {
    /// Its number.
    pub epoch: u32,
    /// Its directory.
    pub path: PathBuf,
    /// Whether a process is writing it.
    pub live: bool,
    /// Its shards, in order.
    pub shards: Vec<ShardListing>,
}

impl ShardListing {
    /// [`Reader::open`]; none if the shard was shipped and freed since it was listed.
    pub fn reader(&self, from_seq: u64) -> Result<Option<Reader>, Error> {
        match Reader::open(&self.path, from_seq) {
            Ok(reader) => Ok(Some(reader)),
            Err(_) if is_gone(&self.path) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Everything in a state directory, epochs and shards in order; not those that are freed meanwhile. Takes no lock and changes nothing.
pub fn list(state_dir: &Path) -> Result<Vec<EpochListing>, Error> {
    let mut listing = Vec::new();
    for epoch in epochs(state_dir)? {
        let path = epoch_path(state_dir, epoch);
        match list_epoch(path.clone(), epoch) {
            Ok(epoch) => listing.push(epoch),
            Err(_) if is_gone(&path) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(listing)
}

fn list_epoch(path: PathBuf, epoch: u32) -> Result<EpochListing, Error> {
    let live = is_live(&path)?;
    let found = shards(&path)?.into_iter().map(|shard| list_shard(shard_path(&path, shard), epoch, shard));
    let shards = found.collect::<Result<_, _>>()?;
    Ok(EpochListing { epoch, path, live, shards })
}

fn list_shard(path: PathBuf, epoch: u32, shard: u16) -> Result<ShardListing, Error> {
    let names = Names::of(&path)?;
    let mut listing = ShardListing {
        shard,
        node: names.node(&path)?.unwrap_or_default(),
        first_seq: names.effective.first().map_or(0, |name| name.first_seq),
        next_seq: 0,
        cursor_seq: Cursor::peek(&path)?,
        segments: names.effective.len() + names.superseded.len(),
        bytes: 0,
        path,
    };
    if let Some(name) = names.effective.last()
        && let Some(segment) = SegmentFile::open(&listing.path, *name, epoch, shard)?
    {
        let count = segment.published.map_or(0, |mark| mark.count);
        listing.next_seq = name.first_seq + count;
    }
    let entries = std::fs::read_dir(&listing.path).map_err(io_error("list", &listing.path))?;
    for entry in entries {
        let entry = entry.map_err(io_error("list", &listing.path))?;
        listing.bytes += entry.metadata().map_or(0, |metadata| metadata.len());
    }
    Ok(listing)
}
