//! The files of a file sink: JSON lines, or length-delimited `UsageBatch` messages. Only what is whole is taken: a tail that is still
//! being written, or was torn by a kill, is left for the sink to go on with.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::{Error, io};
use crate::event::UsageRecord;
use crate::rollup::book::{Book, Spot};
use crate::wire::{self, StreamId};

/// The source's name in the store.
const SOURCE: &str = "files";
/// Read at once; a batch or a line that is larger is read in steps of it.
const READ_BYTES: usize = 4 << 20;
/// No batch of weir's is larger: more is not one.
const BATCH_BYTES_MAX: usize = 128 << 20;
/// Consecutive records that go into the book at once.
const RECORDS: usize = 500;

/// A directory of files.
pub struct FilesFeed {
    directory: PathBuf,
    /// What was read of each beyond what the store has.
    tails: BTreeMap<String, Vec<u8>>,
    read: BTreeSet<PathBuf>,
}

impl FilesFeed {
    /// Of this directory, or this one file.
    pub fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), tails: BTreeMap::new(), read: BTreeSet::new() }
    }

    pub(super) fn rewind(&mut self) {
        self.tails.clear();
        self.read.clear();
    }

    pub(super) fn harden(&mut self) -> Result<(), Error> {
        for path in std::mem::take(&mut self.read) {
            File::open(&path).and_then(|file| file.sync_data()).map_err(io("sync", &path))?;
        }
        Ok(())
    }

    fn names(&self) -> Result<Vec<String>, Error> {
        if !self.directory.is_dir() {
            return Ok(Vec::new());
        }
        let entries = std::fs::read_dir(&self.directory).map_err(io("list", &self.directory))?;
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.ends_with(".jsonl") || name.ends_with(".binpb"))
            .collect();
        names.sort_unstable();
        Ok(names)
    }

    pub(super) fn read(&mut self, book: &mut Book, records_max: u64) -> Result<bool, Error> {
        let names = self.names()?;
        for (at, name) in names.iter().enumerate() {
            // The sink goes on in the newest file of a shard only: usage-<epoch>-<shard>-<first seq>.
            let shard = name.rsplit_once('-').map_or("", |(shard, _)| shard);
            let is_finished = names.get(at + 1).is_some_and(|next| !shard.is_empty() && next.starts_with(shard));
            loop {
                if book.counts().0 >= records_max {
                    return Ok(true);
                }
                if !self.read_file(book, name, is_finished)? {
                    break;
                }
            }
        }
        Ok(false)
    }

    /// Takes what is whole of the next bytes. False: there is nothing more for now.
    fn read_file(&mut self, book: &mut Book, name: &str, is_finished: bool) -> Result<bool, Error> {
        let path = self.directory.join(name);
        let position = book.position(SOURCE, name).unwrap_or(0);
        let pending = self.tails.remove(name).unwrap_or_default();
        let offset = u64::try_from(position).unwrap_or(0) + pending.len() as u64;
        let mut file = File::open(&path).map_err(io("open", &path))?;
        file.seek(SeekFrom::Start(offset)).map_err(io("read", &path))?;
        let mut bytes = pending;
        let old = bytes.len();
        file.take(READ_BYTES as u64).read_to_end(&mut bytes).map_err(io("read", &path))?;
        let is_end = bytes.len() - old < READ_BYTES;
        if bytes.is_empty() || (bytes.len() == old && !is_finished) {
            return Ok(false);
        }
        self.read.insert(path);
        let used = if name.ends_with(".jsonl") {
            lines(book, name, position, &bytes)?
        } else {
            batches(book, name, position, &bytes)?
        };
        let rest = &bytes[used..];
        let is_lost = rest.len() > BATCH_BYTES_MAX || (is_finished && is_end);
        if is_lost && !rest.is_empty() {
            // Nobody will make it whole.
            let from = position + used as i64;
            let spot = spot(name, from, from + rest.len() as i64, 0);
            book.unreadable(spot, "is no whole record".to_owned(), rest.to_vec())?;
            return Ok(!is_end);
        }
        // What is left is read again from the file: a sink that finds a torn tail cuts it off and writes it anew.
        Ok(used > 0 || !is_end && self.keep(name, rest))
    }

    /// For a piece that is larger than what is read at once.
    fn keep(&mut self, name: &str, rest: &[u8]) -> bool {
        self.tails.insert(name.to_owned(), rest.to_vec());
        true
    }
}

fn spot(name: &str, from: i64, to: i64, at_us: i64) -> Spot {
    Spot { source: SOURCE.to_owned(), part: name.to_owned(), from, to, at_us }
}

/// Consecutive records of one stream, collected from lines.
#[derive(Default)]
struct Run {
    stream: Option<StreamId>,
    first_seq: u64,
    records: Vec<UsageRecord>,
    from: i64,
}

impl Run {
    fn give(&mut self, book: &mut Book, name: &str, to: i64) -> Result<(), Error> {
        let records = std::mem::take(&mut self.records);
        let (Some(stream), Some(last)) = (self.stream.take(), records.last()) else { return Ok(()) };
        Ok(book.records(spot(name, self.from, to, last.at), stream, self.first_seq, 0, records)?)
    }

    fn takes(&self, stream: &StreamId, seq: u64) -> bool {
        let next_seq = self.first_seq + self.records.len() as u64;
        self.records.len() < RECORDS && self.stream.as_ref() == Some(stream) && seq == next_seq
    }
}

fn lines(book: &mut Book, name: &str, position: i64, bytes: &[u8]) -> Result<usize, Error> {
    let (mut used, mut run) = (0, Run::default());
    for line in bytes.split_inclusive(|byte| *byte == b'\n').take_while(|line| line.ends_with(b"\n")) {
        let from = position + used as i64;
        used += line.len();
        match wire::json_line(line) {
            Ok((stream, seq, record)) => {
                if !run.takes(&stream, seq) {
                    run.give(book, name, from)?;
                    run = Run { stream: Some(stream), first_seq: seq, records: Vec::new(), from };
                }
                run.records.push(record);
            }
            Err(error) => {
                run.give(book, name, from)?;
                book.unreadable(spot(name, from, position + used as i64, 0), error, line.to_vec())?;
            }
        }
    }
    run.give(book, name, position + used as i64)?;
    Ok(used)
}

fn batches(book: &mut Book, name: &str, position: i64, bytes: &[u8]) -> Result<usize, Error> {
    let mut used = 0;
    for (whole, batch) in wire::batches(bytes) {
        let from = position + used as i64;
        used += whole.len();
        let at_us = batch.records.last().map_or(0, |record| record.at);
        let spot = spot(name, from, position + used as i64, at_us);
        match wire::position(batch.node, (batch.epoch, i64::from(batch.shard), batch.first_seq)) {
            Ok((stream, first_seq)) => book.records(spot, stream, first_seq, 0, batch.records)?,
            Err(error) => book.unreadable(spot, error, whole.to_vec())?,
        }
    }
    Ok(used)
}
