//! The journal of a state directory, beside the process that writes it, or after its death.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};

use prost::Message;

use super::{Error, io};
use crate::event::UsageRecord;
use crate::journal::{self, Entry, Reader};
use crate::rollup::book::{Book, Spot};
use crate::wire::StreamId;

/// The source's name in the store.
const SOURCE: &str = "journal";
/// Consecutive records that go into the book at once.
const RECORDS: usize = 500;

/// All epochs and shards of a state directory.
pub struct JournalFeed {
    state_dir: PathBuf,
    shards: BTreeMap<(u32, u16), Shard>,
    /// Directories read since the last commit, and the first seq read there.
    read: BTreeMap<PathBuf, u64>,
}

struct Shard {
    stream: StreamId,
    path: PathBuf,
    reader: Reader,
    /// Records right before the next one that are damaged.
    skipped: u64,
}

impl JournalFeed {
    /// Of this state directory.
    pub fn new(state_dir: &Path) -> Self {
        Self { state_dir: state_dir.to_owned(), shards: BTreeMap::new(), read: BTreeMap::new() }
    }

    pub(super) fn rewind(&mut self) {
        self.shards.clear();
        self.read.clear();
    }

    pub(super) fn read(&mut self, book: &mut Book, records_max: u64) -> Result<bool, Error> {
        if !self.state_dir.is_dir() {
            return Ok(false);
        }
        self.find(book)?;
        for shard in self.shards.values_mut() {
            loop {
                if book.counts().0 >= records_max {
                    return Ok(true);
                }
                let first_seq = shard.reader.next_seq();
                if !shard.read(book)? {
                    break;
                }
                self.read.entry(shard.path.clone()).or_insert(first_seq);
            }
        }
        Ok(false)
    }

    /// New epochs and shards; those whose directories are gone are done with.
    fn find(&mut self, book: &Book) -> Result<(), Error> {
        let mut there = BTreeSet::new();
        for epoch in journal::list(&self.state_dir)? {
            for shard in epoch.shards {
                // A shard without a segment has nothing to read, and does not say whose it is.
                if shard.node.is_empty() {
                    continue;
                }
                let key = (epoch.epoch, shard.shard);
                there.insert(key);
                if self.shards.contains_key(&key) {
                    continue;
                }
                let stream = StreamId { node: shard.node.clone(), epoch: epoch.epoch, shard: shard.shard };
                let position = book.position(SOURCE, &stream.to_string()).and_then(|seq| u64::try_from(seq).ok());
                let Some(reader) = shard.reader(position.unwrap_or(0))? else { continue };
                self.shards.insert(key, Shard { stream, path: shard.path, reader, skipped: 0 });
            }
        }
        self.shards.retain(|key, _| there.contains(key));
        Ok(())
    }

    /// The kernel has it, or a killed process would have lost it; now the disk has it too. A successor that recovers this journal
    /// after a power cut would else give these seqs to other records.
    pub(super) fn harden(&mut self) -> Result<(), Error> {
        for (path, first_seq) in std::mem::take(&mut self.read) {
            let entries = match std::fs::read_dir(&path) {
                Ok(entries) => entries,
                // Shipped and freed meanwhile: it was durable.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(io("list", &path)(error)),
            };
            let mut segments: Vec<String> = entries
                .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
                .filter(|name| name.starts_with("seg-"))
                .collect();
            segments.sort_unstable();
            let begins = |name: &String| name[4..].split('.').next().and_then(|seq| seq.parse().ok()).unwrap_or(0);
            let at = segments.partition_point(|name| begins(name) <= first_seq).saturating_sub(1);
            for name in &segments[at..] {
                let file = path.join(name);
                match File::open(&file) {
                    Ok(open) => open.sync_data().map_err(io("sync", &file))?,
                    // Shipped and freed meanwhile: it was durable.
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    Err(error) => return Err(io("open", &file)(error)),
                }
            }
        }
        Ok(())
    }
}

impl Shard {
    /// Takes some consecutive records. False: there are none.
    fn read(&mut self, book: &mut Book) -> Result<bool, Error> {
        let part = self.stream.to_string();
        let mut records = Vec::new();
        let mut first_seq = self.reader.next_seq();
        let spot = |book: &Book, first_seq: u64, next_seq: u64, at_us: i64| Spot {
            source: SOURCE.to_owned(),
            // What was freed before it was read shows as a gap.
            from: book.position(SOURCE, &part).unwrap_or_else(|| signed(first_seq)),
            part: part.clone(),
            to: signed(next_seq),
            at_us,
        };
        while records.len() < RECORDS {
            match self.reader.next()? {
                None => break,
                Some(Entry::Frame(frame)) => {
                    if records.is_empty() {
                        first_seq = frame.seq;
                    } else if frame.seq != first_seq + records.len() as u64 {
                        // Segments were freed in between: this one begins the next piece.
                        self.give(book, &spot, first_seq, std::mem::take(&mut records))?;
                        first_seq = frame.seq;
                    }
                    match UsageRecord::decode(frame.payload.as_slice()) {
                        Ok(record) => records.push(record),
                        Err(error) => {
                            self.give(book, &spot, first_seq, std::mem::take(&mut records))?;
                            let at = spot(book, frame.seq, frame.seq + 1, 0);
                            book.unreadable(at, format!("record {}: {error}", frame.seq), frame.payload)?;
                            return Ok(true);
                        }
                    }
                }
                Some(Entry::Damaged(range)) => {
                    self.give(book, &spot, first_seq, std::mem::take(&mut records))?;
                    tracing::error!(?range, "records in the journal are damaged and lost");
                    self.skipped += range.next_seq - range.first_seq;
                    return Ok(true);
                }
            }
        }
        if records.is_empty() {
            return Ok(false);
        }
        self.give(book, &spot, first_seq, records)?;
        Ok(true)
    }

    fn give(
        &mut self,
        book: &mut Book,
        spot: &impl Fn(&Book, u64, u64, i64) -> Spot,
        first_seq: u64,
        records: Vec<UsageRecord>,
    ) -> Result<(), Error> {
        let Some(last) = records.last() else { return Ok(()) };
        let at = spot(book, first_seq, first_seq + records.len() as u64, last.at);
        let skipped = std::mem::take(&mut self.skipped);
        Ok(book.records(at, self.stream.clone(), first_seq, skipped, records)?)
    }
}

fn signed(seq: u64) -> i64 {
    i64::try_from(seq).unwrap_or(i64::MAX)
}
