//! `weir journal status | verify | export`: the operator's view of a state directory.
//!
//! All three only read: they take no lock, change nothing, and may run beside the process that writes. `export` is the last resort,
//! for the disk of a node that will not start again: it works on a copy, in which it closes what was left open, so that its records
//! state every byte that the node counted.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use prost::Message;

use crate::cli::{ExportForm, JournalArgs, JournalCommand};
use crate::event::v1::UsageBatch;
use crate::event::{Position, UsageRecord, json_line};
use crate::journal::{self, Budget, Entry, EpochListing, Options, Reader, ShardListing, StateDir, Writer};
use crate::metrics::metrics;
use crate::proxy::close_estate;

/// Records in one exported batch.
const BATCH_RECORDS: usize = 500;

/// Runs one of the three.
pub fn run(args: &JournalArgs) -> anyhow::Result<()> {
    match &args.command {
        JournalCommand::Status { state, json } => status(&directory(state)?, *json),
        JournalCommand::Verify { state, json } => verify(&directory(state)?, *json),
        JournalCommand::Export { state, to, form, unshipped, as_is } => {
            export(&directory(state)?, to, *form, *unshipped, *as_is)
        }
    }
}

fn directory(given: &Option<PathBuf>) -> anyhow::Result<PathBuf> {
    let path = given.clone().unwrap_or_else(crate::config::default_state_dir);
    if !path.is_dir() {
        bail!("{} is no state directory: nothing has run there", path.display());
    }
    Ok(path)
}

fn epochs(state: &Path) -> anyhow::Result<Vec<EpochListing>> {
    journal::list(state).with_context(|| format!("cannot read {}", state.display()))
}

fn status(state: &Path, json: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let epochs = epochs(state)?;
    if !json {
        writeln!(
            out,
            "epoch      state shard          first           next   acknowledged        waiting segments        bytes node"
        )?;
    }
    for epoch in &epochs {
        for shard in &epoch.shards {
            let waiting = shard.next_seq.saturating_sub(shard.cursor_seq);
            let state = if epoch.live { "live" } else { "dead" };
            if json {
                let line = serde_json::json!({
                    "epoch": epoch.epoch, "live": epoch.live, "shard": shard.shard, "node": shard.node,
                    "first_seq": shard.first_seq, "next_seq": shard.next_seq, "cursor_seq": shard.cursor_seq,
                    "waiting_records": waiting, "segments": shard.segments, "bytes": shard.bytes,
                });
                writeln!(out, "{line}")?;
                continue;
            }
            writeln!(
                out,
                "{:<10} {state:<5} {:>5} {:>14} {:>14} {:>14} {waiting:>14} {:>8} {:>12} {}",
                epoch.epoch,
                shard.shard,
                shard.first_seq,
                shard.next_seq,
                shard.cursor_seq,
                shard.segments,
                shard.bytes,
                shard.node
            )?;
        }
    }
    Ok(())
}

/// Reads every record. An error if any is lost.
fn verify(state: &Path, json: bool) -> anyhow::Result<()> {
    let (mut good, mut lost, mut damages) = (0u64, 0u64, 0usize);
    let mut out = std::io::stdout().lock();
    for epoch in epochs(state)? {
        for shard in &epoch.shards {
            let Some(mut reader) = shard.reader(0)? else { continue };
            let mut here = 0u64;
            while let Some(entry) = reader.next()? {
                let range = match entry {
                    Entry::Frame(frame) if UsageRecord::decode(frame.payload.as_slice()).is_ok() => {
                        here += 1;
                        continue;
                    }
                    Entry::Frame(frame) => journal::DamagedRange {
                        path: shard.path.clone(),
                        offset: 0,
                        bytes: frame.payload.len() as u64,
                        first_seq: frame.seq,
                        next_seq: frame.seq + 1,
                        reason: "no record of this version",
                    },
                    Entry::Damaged(range) => range,
                };
                damages += 1;
                lost += range.next_seq - range.first_seq;
                let (epoch, shard) = (epoch.epoch, shard.shard);
                if json {
                    let line = serde_json::json!({
                        "epoch": epoch, "shard": shard, "damaged": range.reason, "file": range.path, "offset": range.offset,
                        "bytes": range.bytes, "first_seq": range.first_seq, "next_seq": range.next_seq,
                    });
                    writeln!(out, "{line}")?;
                } else {
                    writeln!(
                        out,
                        "epoch {epoch} shard {shard}: seq {} to {} lost: {}, {} bytes at {} of {}",
                        range.first_seq,
                        range.next_seq.saturating_sub(1),
                        range.reason,
                        range.bytes,
                        range.offset,
                        range.path.display()
                    )?;
                }
            }
            good += here;
            if json {
                writeln!(
                    out,
                    "{}",
                    serde_json::json!({ "epoch": epoch.epoch, "shard": shard.shard, "good_records": here })
                )?;
            } else {
                writeln!(out, "epoch {} shard {}: {here} records good", epoch.epoch, shard.shard)?;
            }
        }
    }
    if lost > 0 {
        bail!("{lost} records lost in {damages} places, {good} good");
    }
    Ok(())
}

/// Writes all records, or those that no sink has acknowledged, to a new file.
fn export(state: &Path, to: &Path, form: ExportForm, unshipped: bool, as_is: bool) -> anyhow::Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to);
    let file = file.with_context(|| format!("cannot make {}", to.display()))?;
    let mut out = Exported { out: BufWriter::new(file), form, batch: UsageBatch::default(), records: 0 };
    for epoch in epochs(state)? {
        let closed = if epoch.live || as_is { None } else { Some(close_copy(&epoch, to)?) };
        for shard in &epoch.shards {
            let path = match &closed {
                Some(copy) => copy.epoch.join(name_of(&shard.path)?),
                None => shard.path.clone(),
            };
            one_shard(&path, epoch.epoch, shard, unshipped, &mut out)?;
        }
    }
    out.flush()?;
    let file = out.out.into_inner().map_err(std::io::IntoInnerError::into_error)?;
    file.sync_all().with_context(|| format!("cannot write {}", to.display()))?;
    eprintln!("weir: {} records in {}", out.records, to.display());
    Ok(())
}

fn one_shard(path: &Path, epoch: u32, shard: &ShardListing, unshipped: bool, out: &mut Exported) -> anyhow::Result<()> {
    let from_seq = if unshipped { shard.cursor_seq } else { 0 };
    let mut reader = Reader::open(path, from_seq)?;
    while let Some(entry) = reader.next()? {
        match entry {
            Entry::Frame(frame) => {
                let position = Position { node: &shard.node, epoch, shard: shard.shard, seq: frame.seq };
                let record = UsageRecord::decode(frame.payload.as_slice());
                let record =
                    record.with_context(|| format!("epoch {epoch} shard {} seq {}", shard.shard, frame.seq))?;
                out.take(&position, record)?;
            }
            Entry::Damaged(range) => {
                eprintln!(
                    "weir: epoch {epoch} shard {}: seq {} to {} lost: {} in {}",
                    shard.shard,
                    range.first_seq,
                    range.next_seq.saturating_sub(1),
                    range.reason,
                    range.path.display()
                );
            }
        }
    }
    out.flush()
}

/// A copy of a dead epoch, removed again when this is dropped.
struct ClosedCopy {
    /// The state directory that holds nothing else.
    path: PathBuf,
    /// The epoch's directory in it.
    epoch: PathBuf,
}

/// Directories in the copy are named as in the original.
fn name_of(directory: &Path) -> anyhow::Result<&OsStr> {
    directory.file_name().with_context(|| format!("{} has no name", directory.display()))
}

impl Drop for ClosedCopy {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            eprintln!("weir: {} is left: {error}", self.path.display());
        }
    }
}

/// Copies a dead epoch beside the output and closes there what the node left open.
fn close_copy(epoch: &EpochListing, to: &Path) -> anyhow::Result<ClosedCopy> {
    let mut path = to.as_os_str().to_owned();
    path.push(".closing");
    let path = PathBuf::from(path);
    let copy = ClosedCopy { epoch: path.join(name_of(&epoch.path)?), path };
    let copied = copy_tree(&epoch.path, &copy.epoch);
    copied.with_context(|| format!("cannot copy epoch {} to {}", epoch.epoch, copy.path.display()))?;
    let opened = StateDir::open(&copy.path)?;
    for dead in opened.abandoned()? {
        for shard in dead.shards()? {
            let (writer, recovery) =
                Writer::reopen(&dead, shard, "", &Options::default(), Arc::new(Budget::new(u64::MAX)))?;
            close_estate(writer, recovery, metrics());
        }
    }
    Ok(copy)
}

fn copy_tree(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), &target)?;
            // When the node died is told by when it last wrote.
            OpenOptions::new().write(true).open(&target)?.set_modified(entry.metadata()?.modified()?)?;
        }
    }
    Ok(())
}

/// The file being written.
struct Exported {
    out: BufWriter<File>,
    form: ExportForm,
    batch: UsageBatch,
    records: u64,
}

impl Exported {
    fn take(&mut self, position: &Position<'_>, record: UsageRecord) -> anyhow::Result<()> {
        self.records += 1;
        if self.form == ExportForm::Json {
            writeln!(self.out, "{}", json_line(position, &record)?)?;
            return Ok(());
        }
        let seq = i64::try_from(position.seq).unwrap_or(i64::MAX);
        let follows = self.batch.first_seq + self.batch.records.len() as i64 == seq;
        if !follows || self.batch.records.len() >= BATCH_RECORDS {
            self.flush()?;
        }
        if self.batch.records.is_empty() {
            self.batch.node = position.node.to_owned();
            self.batch.epoch = i64::from(position.epoch);
            self.batch.shard = i32::from(position.shard);
            self.batch.first_seq = seq;
        }
        self.batch.records.push(record);
        Ok(())
    }

    /// Ends a batch: batches are of one shard.
    fn flush(&mut self) -> anyhow::Result<()> {
        if self.batch.records.is_empty() {
            return Ok(());
        }
        self.batch.count = i32::try_from(self.batch.records.len()).unwrap_or(i32::MAX);
        self.out.write_all(&std::mem::take(&mut self.batch).encode_length_delimited_to_vec())?;
        Ok(())
    }
}
