//! Records in files: JSON lines, or length-delimited `UsageBatch` messages.
//!
//! One file per (epoch, shard) at a time, `usage-<epoch>-<shard>-<first seq>.jsonl` or `.binpb`, rotated by size and age.
//! A batch is acknowledged after `fdatasync`. Killed in between, the successor finds what was written beyond the journal's
//! cursor: it cuts a torn tail off and skips the records that are there already, so each is in the files once.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use prost::Message;

use super::{Batch, Boundary, Error, Outcome, Sent, Sink, Ticket};
use crate::config::{self, SinkFormat};
use crate::event::v1::UsageBatch;
use crate::event::{Position, UsageRecord, json_line};
use crate::wire;

/// Writes files in one directory.
pub struct FileSink {
    config: config::FileSink,
    open: HashMap<(u32, u16), Open>,
    written: Vec<Ticket>,
}

struct Open {
    file: File,
    path: PathBuf,
    bytes: u64,
    since: Instant,
    /// The seq behind the last record in the files.
    next_seq: u64,
}

impl FileSink {
    /// Makes the directory if needed.
    pub fn new(config: &config::FileSink) -> Result<Self, Error> {
        std::fs::create_dir_all(&config.path).map_err(io("make", &config.path))?;
        Ok(Self { config: config.clone(), open: HashMap::new(), written: Vec::new() })
    }

    /// Writes the batch; durable when it returns.
    pub fn write(&mut self, batch: &Batch<'_>) -> Result<(), Error> {
        let key = (batch.epoch, batch.shard);
        if !self.open.contains_key(&key) {
            let resumed = self.resume(batch)?;
            self.open.insert(key, resumed);
        }
        self.rotate_if_due(key, batch)?;
        let Some(open) = self.open.get_mut(&key) else { return Ok(()) };
        let skip = usize::try_from(open.next_seq.saturating_sub(batch.first_seq)).unwrap_or(usize::MAX);
        if skip >= batch.records.len() {
            return Ok(());
        }
        let fresh = Batch { first_seq: batch.first_seq + skip as u64, records: &batch.records[skip..], ..*batch };
        let bytes = match self.config.format {
            SinkFormat::Json => json(&fresh)?,
            SinkFormat::Protobuf => protobuf(&fresh)?,
        };
        let written = open.file.write_all(&bytes).and_then(|()| open.file.sync_data());
        if let Err(source) = written {
            // What is in the file now is unknown: it is looked at again before the next attempt.
            let path = open.path.clone();
            self.open.remove(&key);
            return Err(io("write", &path)(source));
        }
        open.bytes += bytes.len() as u64;
        open.next_seq = fresh.first_seq + fresh.records.len() as u64;
        Ok(())
    }

    fn rotate_if_due(&mut self, key: (u32, u16), batch: &Batch<'_>) -> Result<(), Error> {
        let due = self.open.get(&key).is_some_and(|open| {
            open.bytes >= self.config.rotate_bytes
                || (open.bytes > 0 && open.since.elapsed() >= self.config.rotate_interval)
        });
        if !due {
            return Ok(());
        }
        let next_seq = self.open.remove(&key).map_or(batch.first_seq, |open| open.next_seq);
        let path = self.path_of(batch, next_seq);
        let begun = begin(path, next_seq)?;
        self.open.insert(key, begun);
        Ok(())
    }

    fn path_of(&self, batch: &Batch<'_>, first_seq: u64) -> PathBuf {
        let ending = match self.config.format {
            SinkFormat::Json => "jsonl",
            SinkFormat::Protobuf => "binpb",
        };
        let name = format!("usage-{:010}-{:02}-{first_seq:020}.{ending}", batch.epoch, batch.shard);
        self.config.path.join(name)
    }

    /// Goes on in the newest file of this shard, or begins the first.
    fn resume(&self, batch: &Batch<'_>) -> Result<Open, Error> {
        let prefix = format!("usage-{:010}-{:02}-", batch.epoch, batch.shard);
        let entries = std::fs::read_dir(&self.config.path).map_err(io("list", &self.config.path))?;
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.starts_with(&prefix))
            .collect();
        names.sort_unstable();
        let Some(name) = names.pop() else {
            return begin(self.path_of(batch, batch.first_seq), batch.first_seq);
        };
        let path = self.config.path.join(&name);
        let mut file = OpenOptions::new().read(true).write(true).open(&path).map_err(io("open", &path))?;
        let whole = match self.config.format {
            SinkFormat::Json => whole_lines(&file),
            SinkFormat::Protobuf => whole_batches(&mut file),
        };
        let (bytes, last) = whole.map_err(io("read", &path))?;
        file.set_len(bytes).and_then(|()| file.seek(SeekFrom::End(0))).map_err(io("cut the torn tail of", &path))?;
        let first = name[prefix.len()..].split('.').next().and_then(|seq| seq.parse().ok()).unwrap_or(0);
        let next_seq = last.map_or(first, |seq| seq + 1);
        Ok(Open { file, path, bytes, since: Instant::now(), next_seq })
    }
}

impl Sink for FileSink {
    fn open(&mut self) -> Result<(), Error> {
        Ok(())
    }

    fn send(&mut self, ticket: Ticket, batch: &Batch<'_>) -> Result<Sent, Error> {
        self.write(batch)?;
        self.written.push(ticket);
        // Files are not chained: they are read where they were written.
        let next_seq = batch.first_seq + batch.records.len() as u64;
        Ok(Sent::Taken(Boundary { next_seq, hash: None }))
    }

    fn poll(&mut self, wait: Duration, outcomes: &mut Vec<Outcome>) {
        if self.written.is_empty() {
            std::thread::sleep(wait);
        }
        outcomes.extend(self.written.drain(..).map(|ticket| Outcome { ticket, result: Ok(()) }));
    }

    fn reset(&mut self) {
        self.written.clear();
    }

    fn complaint(&self) -> Option<String> {
        None
    }
}

fn begin(path: PathBuf, next_seq: u64) -> Result<Open, Error> {
    let file = OpenOptions::new().create(true).append(true).mode(0o640).open(&path).map_err(io("make", &path))?;
    Ok(Open { file, path, bytes: 0, since: Instant::now(), next_seq })
}

fn json(batch: &Batch<'_>) -> Result<Vec<u8>, Error> {
    let mut text = Vec::with_capacity(batch.records.len() * 1024);
    for (seq, record) in records(batch) {
        let position = Position { node: batch.node, epoch: batch.epoch, shard: batch.shard, seq };
        let line = json_line(&position, &record?).map_err(|error| Error::Json(seq, error))?;
        text.extend_from_slice(line.as_bytes());
        text.push(b'\n');
    }
    Ok(text)
}

fn protobuf(batch: &Batch<'_>) -> Result<Vec<u8>, Error> {
    let records = records(batch).map(|(_, record)| record).collect::<Result<Vec<_>, _>>()?;
    let message = UsageBatch {
        node: batch.node.to_owned(),
        epoch: i64::from(batch.epoch),
        shard: i32::from(batch.shard),
        first_seq: i64::try_from(batch.first_seq).unwrap_or(i64::MAX),
        count: i32::try_from(records.len()).unwrap_or(i32::MAX),
        records,
        ..Default::default()
    };
    Ok(message.encode_length_delimited_to_vec())
}

fn records<'a>(batch: &'a Batch<'_>) -> impl Iterator<Item = (u64, Result<UsageRecord, Error>)> + 'a {
    (batch.first_seq..).zip(batch.records).map(|(seq, bytes)| {
        let record = UsageRecord::decode(*bytes);
        (seq, record.map_err(|source| Error::Record { epoch: batch.epoch, shard: batch.shard, seq, source }))
    })
}

/// How many bytes are whole lines, and the last line's seq.
fn whole_lines(file: &File) -> std::io::Result<(u64, Option<u64>)> {
    #[derive(serde::Deserialize)]
    struct Seq {
        seq: u64,
    }
    let mut reader = BufReader::new(file);
    let (mut bytes, mut last) = (0, None);
    let mut line = Vec::new();
    loop {
        line.clear();
        let n = reader.read_until(b'\n', &mut line)?;
        if n == 0 || line.last() != Some(&b'\n') {
            return Ok((bytes, last));
        }
        let Ok(Seq { seq }) = serde_json::from_slice(&line) else { return Ok((bytes, last)) };
        bytes += n as u64;
        last = Some(seq);
    }
}

/// How many bytes are whole batches, and the last record's seq.
fn whole_batches(file: &mut File) -> std::io::Result<(u64, Option<u64>)> {
    let mut all = Vec::new();
    file.read_to_end(&mut all)?;
    let (mut bytes, mut last) = (0, None);
    for (whole, batch) in wire::batches(&all) {
        bytes += whole.len() as u64;
        if batch.count > 0 {
            last = u64::try_from(batch.first_seq + i64::from(batch.count) - 1).ok();
        }
    }
    Ok((bytes, last))
}

fn io(operation: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    move |source| Error::Io { operation, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sink(dir: &Path, format: SinkFormat, rotate_bytes: u64) -> FileSink {
        let rotate_interval = Duration::from_secs(3600);
        FileSink::new(&config::FileSink { path: dir.to_owned(), format, rotate_bytes, rotate_interval }).unwrap()
    }

    fn record(at: i64) -> Vec<u8> {
        UsageRecord { at, ..Default::default() }.encode_to_vec()
    }

    fn batch<'a>(first_seq: u64, records: &'a [&'a [u8]]) -> Batch<'a> {
        Batch { node: "n", epoch: 1, shard: 0, first_seq, after: Boundary::default(), records }
    }

    fn lines(dir: &Path) -> Vec<u64> {
        let mut paths: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        let text: String = paths.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
        text.lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["seq"].as_u64().unwrap())
            .collect()
    }

    #[test]
    fn a_batch_that_comes_again_is_written_once() {
        for format in [SinkFormat::Json, SinkFormat::Protobuf] {
            let dir = tempfile::tempdir().unwrap();
            let all = [1, 2, 3, 4].map(record);
            let all = all.each_ref().map(Vec::as_slice);
            sink(dir.path(), format, 1 << 30).write(&batch(0, &all[..3])).unwrap();
            let mut second = sink(dir.path(), format, 1 << 30);
            second.write(&batch(1, &all[1..])).unwrap();
            if format == SinkFormat::Json {
                assert_eq!(lines(dir.path()), [0, 1, 2, 3]);
            }
            let open = second.open.values().next().unwrap();
            assert_eq!(open.next_seq, 4);
        }
    }

    #[test]
    fn a_torn_tail_is_cut_off_and_written_again() {
        let dir = tempfile::tempdir().unwrap();
        sink(dir.path(), SinkFormat::Json, 1 << 30).write(&batch(0, &[&record(1), &record(2)])).unwrap();
        let path = std::fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
        let length = std::fs::metadata(&path).unwrap().len();
        OpenOptions::new().write(true).open(&path).unwrap().set_len(length - 5).unwrap();
        sink(dir.path(), SinkFormat::Json, 1 << 30).write(&batch(0, &[&record(1), &record(2)])).unwrap();
        assert_eq!(lines(dir.path()), [0, 1]);
    }

    #[test]
    fn a_full_file_is_followed_by_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let mut sink = sink(dir.path(), SinkFormat::Json, 10);
        for seq in 0..3 {
            sink.write(&batch(seq, &[&record(1)])).unwrap();
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3);
        assert_eq!(lines(dir.path()), [0, 1, 2]);
    }
}
