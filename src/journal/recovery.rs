//! Taking over a dead epoch's shard.
//!
//! In order, and each step is the same when it is done again after a kill: refuse newer formats untouched → put aside (`*.bad`) files of
//! other journals and put misplaced ones where they belong → read every frame → decide `next_seq` → take back every intent that was
//! not published → hand over the slots left open. The caller writes their closes with the returned writer, which makes them closed.
//!
//! *After a kill* the kernel still has every store: a frame is whole or was never published. *After a power cut* (`EpochDir::machine_restarted`) pages
//! are of different moments: frames that were published but never synced may be gone (they are a torn tail, never shipped, their seqs are used
//! again), and slots may be older than the records: then [`OpenSlot::later_record`] is the session's last record, whose cumulative
//! numbers say what is recorded.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::chunk::{Chunk, NO_SEQ, Unusable, sum_of};
use super::cursor::Cursor;
use super::frame;
use super::outcome::{Outcome, SlotKind};
use super::reader::{DamagedRange, Entry, Frame, Reader};
use super::segment::{FRAMES_AT, FirstPage, Header, Mark, Name, Names, Segment, read_first_page};
use super::shared::Shared;
use super::slots::Slot;
use super::statedir::EpochDir;
use super::table::Table;
use super::writer::Writer;
use super::{Budget, Error, FORMAT_VERSION, Options, io_error, lock};
use crate::units::{Column, Counters};

/// A slot that was open when its process died.
#[derive(Debug)]
pub struct OpenSlot {
    /// The slot: write its close, then free it.
    pub slot: Slot,
    /// What it stands for.
    pub kind: SlotKind,
    /// When it opened, in µs since the Unix epoch.
    pub started_at_us: u64,
    /// The identity part of its records.
    pub note: Vec<u8>,
    /// The note could not be read (only after a power cut); `note` is empty.
    pub note_damaged: bool,
    /// Everything counted.
    pub totals: Counters,
    /// What its records add up to.
    pub recorded: Counters,
    /// The seq of the record that made it so, if there is one.
    pub recorded_seq: Option<u64>,
    /// A record of it that is newer than `recorded` knows, the last one (only after a power cut): its cumulative numbers count instead.
    pub later_record: Option<Frame>,
    /// Size in bytes of a write that was in flight.
    pub pending: u64,
    /// How many slots it has taken, if it is a sum.
    pub taken: u64,
    /// How it stood.
    pub outcome: Outcome,
}

/// What [`Writer::reopen`] found.
#[derive(Debug, Default)]
pub struct Recovery {
    /// Records that are good.
    pub frames: u64,
    /// Bytes of records that were being written and were never published, or never synced before a power cut.
    pub torn_bytes: u64,
    /// Records that were there and are lost, and damage that cost none (`first_seq` = `next_seq`).
    pub damaged: Vec<DamagedRange>,
    /// Files put aside, under the names they have now.
    pub quarantined: Vec<PathBuf>,
    /// Live slots that say nothing sensible; they were freed.
    pub damaged_slots: u64,
    /// Slots left open, in no order.
    pub open: Vec<OpenSlot>,
    /// The last good record.
    pub last_frame: Option<Frame>,
    /// When a file of the shard was last written to, as far as the file system knows.
    pub last_modified: Option<SystemTime>,
    /// Whether not only the process had died.
    pub machine_restarted: bool,
}

/// When slots were opened that are found open: before any sync.
const RECOVERED: u64 = u64::MAX;

/// The newest record of a live slot's generation.
struct Latest {
    generation: u32,
    seq: u64,
    closes: bool,
    payload: Vec<u8>,
}

impl Writer {
    /// Takes over a shard of a dead epoch, of this node if no file of it says of which. Killed at any moment, it can be run again. What the closes need is taken from the budget even
    /// if that is spent.
    pub fn reopen(
        epoch: &EpochDir,
        shard: u16,
        node: &str,
        options: &Options,
        budget: Arc<Budget>,
    ) -> Result<(Self, Recovery), Error> {
        options.check()?;
        let directory = epoch.shard_path(shard);
        refuse_newer(&directory)?;
        let mut recovery = Recovery {
            machine_restarted: epoch.machine_restarted(),
            last_modified: last_modified(&directory)?,
            ..Recovery::default()
        };
        remove_unnamed(&directory)?;
        let newest = Names::of(&directory)?.effective.pop();
        settle_segments(&directory, epoch.epoch(), shard, &mut recovery)?;
        let chunks = open_chunks(&directory, epoch.epoch(), shard, options, &mut recovery)?;

        // Then everything was made durable before, and many may wait for their sink.
        let is_sealed = chunks.is_empty() && recovery.damaged.is_empty();
        let mut latest = live_generations(&chunks);
        let walk = walk(&directory, &mut latest, &mut recovery)?;
        let mut next_seq = walk.next_seq(&directory, &chunks)?;
        // Or what bore the newest name was another file.
        let gone = newest.filter(|newest| newest.first_seq >= next_seq && !newest.path(&directory).exists());
        let gone = gone.map(|newest| (newest.first_seq, newest.path(&directory)));
        if let Some((first_seq, path)) = walk.unknown.clone().or(gone) {
            // Readers and the sink may have seen more of it than is left: no seq that it can have held is used again.
            let beyond = first_seq + (options.segment_bytes - FRAMES_AT) / frame::HEADER_BYTES as u64;
            let (first_seq, reason) = (next_seq, "how many records there were is lost too: at most these");
            next_seq = next_seq.max(beyond);
            recovery.damaged.push(DamagedRange { path, offset: 0, bytes: 0, first_seq, next_seq, reason });
        }
        let written_by = Names::of(&directory)?.node(&directory)?;

        let slots_max = options.slots_max.max(slot_count(&chunks));
        let table = Table::new(directory.clone(), epoch.epoch(), shard, slots_max, chunks);
        let table = Arc::new(table);
        let shared = Arc::new(Shared::new(
            directory.clone(),
            (epoch.epoch(), shard),
            written_by.unwrap_or_else(|| node.to_owned()),
            options.clone(),
            Arc::clone(&table),
            budget,
        ));
        let names = Names::of(&directory)?;
        for name in names.effective.iter().chain(&names.superseded) {
            let path = name.path(&directory);
            let file = File::open(&path).map_err(io_error("open", &path))?;
            let bytes = file.metadata().map_err(io_error("look at", &path))?.len();
            shared.take_budget(bytes, true);
            if is_sealed {
                continue;
            }
            // What a killed process had not synced yet must be durable before it counts as synced.
            file.sync_data().map_err(io_error("sync", &path))?;
        }

        table.records_are_durable(next_seq);
        take_slots(&table, next_seq, &mut latest, &mut recovery);
        // Before any seq is used again, no slot may still claim it.
        shared.sync_slots()?;

        let resumable = walk.tail.as_ref().filter(|_| !recovery.machine_restarted && walk.next == next_seq);
        let writer = match resumable {
            Some((header, mark)) => {
                let segment = Arc::new(Segment::resume(&directory, header, *mark)?);
                let files_of = Arc::clone(&shared);
                let writer = Self::on(shared, segment, *mark, true);
                if is_sealed {
                    lock(&files_of.files).directory_dirty = false;
                }
                writer
            }
            None => {
                // A file of that first seq may be there, empty or with nothing good in it; one of a higher generation replaces it.
                let taken = names.effective.last().is_some_and(|name| name.first_seq >= next_seq);
                let generation = names.effective.iter().map(|name| name.generation).max();
                let generation = generation.unwrap_or(0) + u32::from(taken);
                Self::start(shared, next_seq, generation, true)?
            }
        };
        Ok((writer, recovery))
    }
}

/// What reading all frames came to.
struct Walk {
    /// The seq behind the last one that counts.
    next: u64,
    /// The last segment and its fill, if one can go on in it.
    tail: Option<(Header, Mark)>,
    /// First seq of the last segment, if nothing in it says how many records it held.
    unknown: Option<(u64, PathBuf)>,
}

impl Walk {
    /// The first seq that no record ever had and no sink ever saw.
    fn next_seq(&self, directory: &Path, chunks: &[Chunk]) -> Result<u64, Error> {
        let next = self.next.max(Cursor::peek(directory)?);
        if !Names::of(directory)?.effective.is_empty() {
            return Ok(next);
        }
        // Every segment is gone. The slots still know seqs that were used, or about to be.
        let used = chunks.iter().flat_map(|chunk| {
            (0..chunk.entries).flat_map(|entry| {
                let closing = Some(chunk.closing_seq(entry)).filter(|seq| *seq != NO_SEQ && sum_of(*seq).is_none());
                let is_sum = chunk.kind(entry).is_some_and(SlotKind::is_sum);
                let live = !chunk.generation(entry).is_multiple_of(2);
                let recorded = chunk.block_seqs(entry).filter(move |_| !is_sum);
                recorded.chain(closing).filter(move |_| live)
            })
        });
        Ok(used.max().map_or(next, |seq| next.max(seq + 1)))
    }
}

fn walk(directory: &Path, latest: &mut HashMap<u32, Latest>, recovery: &mut Recovery) -> Result<Walk, Error> {
    let names = Names::of(directory)?.effective;
    let oldest = names.first().map_or(0, |name| name.first_seq);
    let mut reader = Reader::recover(directory, oldest.min(Cursor::peek(directory)?))?;
    let freed = Cursor::peek(directory)?;
    let synced = synced_seq(directory, &names)?.max(freed);
    while let Some(entry) = reader.next()? {
        let frame = match entry {
            // Not damage but the tail that a power cut may take: published, never synced, and nobody saw it. Nor what is behind it.
            Entry::Damaged(damaged)
                if recovery.machine_restarted
                    && damaged.first_seq >= synced
                    && damaged.next_seq > damaged.first_seq =>
            {
                recovery.torn_bytes += damaged.bytes;
                return Ok(Walk { next: damaged.first_seq, tail: None, unknown: None });
            }
            Entry::Damaged(damaged) => {
                // Below the cursor the sink has them all.
                if damaged.next_seq > freed || damaged.first_seq == damaged.next_seq {
                    recovery.damaged.push(damaged);
                }
                continue;
            }
            Entry::Frame(frame) => frame,
        };
        recovery.frames += 1;
        if let Some((head, _, _)) = reader.last()
            && let Some(number) = head.about.number()
            && let Some(slot) = latest.get_mut(&number)
            && slot.generation == head.about.generation
        {
            (slot.seq, slot.closes) = (frame.seq, head.about.closes());
            slot.payload.clone_from(&frame.payload);
        }
        recovery.last_frame = Some(frame);
    }
    let mut walk = Walk { next: reader.next_seq(), tail: None, unknown: None };
    let Some((segment, mark)) = reader.position() else {
        return Ok(walk);
    };
    // Blank it is only where a power cut came before its first sync.
    let is_foreign = matches!(segment.header, FirstPage::Damaged(_)) && segment.published.is_none();
    if is_foreign || (segment.header == FirstPage::Blank && !recovery.machine_restarted) {
        walk.unknown = Some((segment.name.first_seq, segment.path.clone()));
    }
    let damaged_here = recovery.damaged.iter().any(|damaged| damaged.path == segment.path);
    if let Some(header) = segment.header_of(segment.name.first_seq) {
        recovery.torn_bytes += segment.torn_bytes(walk.next)?;
        let whole = segment.published.is_some() && segment.bytes.is_multiple_of(4096);
        if !damaged_here && whole && mark.count + segment.name.first_seq == walk.next {
            walk.tail = Some((header.clone(), mark));
        }
    } else if !damaged_here {
        // The frames are good, the page that describes them is not.
        if let FirstPage::Damaged(reason) = segment.header {
            recovery.damaged.push(DamagedRange {
                path: segment.path.clone(),
                offset: 0,
                bytes: 4096,
                first_seq: walk.next,
                next_seq: walk.next,
                reason,
            });
        }
    }
    Ok(walk)
}

/// Lower seqs survived a power cut, as the segments say: one is synced after those before it.
fn synced_seq(directory: &Path, names: &[Name]) -> Result<u64, Error> {
    let mut synced_seq = 0;
    for name in names {
        let path = name.path(directory);
        let file = File::open(&path).map_err(io_error("open", &path))?;
        if let (_, _, Some(synced)) = read_first_page(&file, &path)?
            && synced.count > 0
        {
            synced_seq = synced_seq.max(name.first_seq + synced.count);
        }
    }
    Ok(synced_seq)
}

/// The live slots of `chunks`, by number, with no record yet.
fn live_generations(chunks: &[Chunk]) -> HashMap<u32, Latest> {
    let mut live = HashMap::new();
    for chunk in chunks {
        for entry in 0..chunk.entries {
            let generation = chunk.generation(entry);
            if !generation.is_multiple_of(2) {
                let latest = Latest { generation: generation as u32, seq: NO_SEQ, closes: false, payload: Vec::new() };
                live.insert(chunk.number * chunk.entries + entry, latest);
            }
        }
    }
    live
}

fn slot_count(chunks: &[Chunk]) -> u32 {
    chunks.iter().map(|chunk| chunk.entries).sum()
}

/// Frees the slots that a sum has taken; what was about to be taken is still the slot's.
fn settle_sums(table: &Arc<Table>) {
    let chunks = table.chunks();
    let has_taken = |number: u32, version: u64| {
        let entries = chunks.first().map_or(1, |chunk| chunk.entries);
        let Some(chunk) = chunks.get((number / entries) as usize) else { return false };
        let entry = number % entries;
        let is_live = !chunk.generation(entry).is_multiple_of(2);
        is_live && chunk.kind(entry).is_some_and(SlotKind::is_sum) && chunk.sum(entry).0 >= version
    };
    for chunk in &chunks {
        for entry in 0..chunk.entries {
            if chunk.generation(entry).is_multiple_of(2) {
                continue;
            }
            let Some((number, version)) = sum_of(chunk.closing_seq(entry)) else { continue };
            if has_taken(number, version) {
                table.free(chunk, entry, RECOVERED);
            } else {
                chunk.set_closing_seq(entry, NO_SEQ);
            }
        }
    }
}

fn take_slots(table: &Arc<Table>, next_seq: u64, latest: &mut HashMap<u32, Latest>, recovery: &mut Recovery) {
    for chunk in table.chunks() {
        for entry in 0..chunk.entries {
            if !chunk.generation(entry).is_multiple_of(2) {
                chunk.revoke_torn(entry);
            }
        }
    }
    settle_sums(table);
    for chunk in table.chunks() {
        // All intents first: once one seq is used again, an old claim to it would look true.
        for entry in 0..chunk.entries {
            if !chunk.generation(entry).is_multiple_of(2) {
                chunk.revoke_from(entry, next_seq);
            }
        }
    }
    for chunk in table.chunks() {
        for entry in 0..chunk.entries {
            let generation = chunk.generation(entry);
            if generation.is_multiple_of(2) {
                continue;
            }
            let record = latest.remove(&(chunk.number * chunk.entries + entry));
            let record = record.filter(|record| record.seq != NO_SEQ && record.seq < next_seq);
            let closed = chunk.closing_seq(entry) != NO_SEQ || record.as_ref().is_some_and(|record| record.closes);
            let Some(kind) = chunk.kind(entry).filter(|_| !closed) else {
                recovery.damaged_slots += u64::from(!closed);
                table.free(&chunk, entry, RECOVERED);
                continue;
            };
            let slot = Slot::new(Arc::clone(table), Arc::clone(&chunk), entry, generation, RECOVERED);
            recovery.open.push(open_slot(slot, kind, record));
        }
    }
}

fn open_slot(slot: Slot, kind: SlotKind, record: Option<Latest>) -> OpenSlot {
    if kind.is_sum() {
        return open_sum(slot, kind);
    }
    let block = slot.recorded_block();
    let recorded = block.map(|block| block.counters).unwrap_or_default();
    // After a power cut the counters may be of an earlier moment than what was recorded of them.
    let totals = slot.totals().max(&recorded);
    for column in Column::ALL {
        slot.set(column, totals.get(column));
    }
    let note = slot.try_note();
    let recorded_seq = block.map(|block| block.seq);
    let later = record.filter(|record| recorded_seq.is_none_or(|seq| record.seq > seq));
    OpenSlot {
        kind,
        started_at_us: slot.started_at_us(),
        note_damaged: note.is_none(),
        note: note.map(|note| note.to_vec()).unwrap_or_default(),
        totals,
        recorded,
        recorded_seq,
        later_record: later.map(|record| Frame { seq: record.seq, payload: record.payload }),
        pending: slot.pending(),
        taken: 0,
        outcome: slot.outcome(),
        slot,
    }
}

/// A sum is recorded once, with its close: nothing of it is recorded yet.
fn open_sum(slot: Slot, kind: SlotKind) -> OpenSlot {
    let (taken, sum) = slot.sum();
    let note = slot.try_note();
    OpenSlot {
        kind,
        started_at_us: slot.started_at_us(),
        note_damaged: note.is_none(),
        note: note.map(|note| note.to_vec()).unwrap_or_default(),
        // The first format counted in the slot itself.
        totals: sum.checked_add(&slot.totals()).unwrap_or(sum),
        recorded: Counters::default(),
        recorded_seq: None,
        later_record: None,
        pending: 0,
        taken: taken + slot.pending(),
        outcome: slot.outcome(),
        slot,
    }
}

/// An error, before anything is touched, if a later release wrote any of it.
fn refuse_newer(directory: &Path) -> Result<(), Error> {
    let names = Names::of(directory)?;
    for name in names.effective.iter().chain(&names.superseded) {
        let path = name.path(directory);
        let file = File::open(&path).map_err(io_error("open", &path))?;
        if let (FirstPage::Newer(version), ..) = read_first_page(&file, &path)? {
            return Err(Error::NewerFormat { path, version });
        }
    }
    for number in chunk_numbers(directory)? {
        let path = Chunk::path(directory, number);
        let file = File::open(&path).map_err(io_error("open", &path))?;
        let version = Chunk::version(&file).map_err(io_error("read", &path))?;
        if let Some(version) = version.filter(|version| *version > FORMAT_VERSION) {
            return Err(Error::NewerFormat { path, version });
        }
    }
    Ok(())
}

fn file_names(directory: &Path) -> Result<Vec<String>, Error> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(io_error("list", directory))? {
        let entry = entry.map_err(io_error("list", directory))?;
        names.extend(entry.file_name().into_string());
    }
    names.sort_unstable();
    Ok(names)
}

fn last_modified(directory: &Path) -> Result<Option<SystemTime>, Error> {
    let names = file_names(directory)?;
    let times = names.iter().filter_map(|name| directory.join(name).metadata().ok()?.modified().ok());
    Ok(times.max())
}

/// Removes what has no name of its own yet: a spare, files half-made.
fn remove_unnamed(directory: &Path) -> Result<(), Error> {
    for name in file_names(directory)? {
        if name == "spare" || name.ends_with(".new") {
            let path = directory.join(name);
            std::fs::remove_file(&path).map_err(io_error("remove", &path))?;
        }
    }
    Ok(())
}

/// Puts files of other journals aside and misplaced ones where they belong. Files whose header is damaged stay: their frames
/// say themselves whose they are.
fn settle_segments(directory: &Path, epoch: u32, shard: u16, recovery: &mut Recovery) -> Result<(), Error> {
    let names = Names::of(directory)?;
    for name in names.effective.iter().chain(&names.superseded) {
        let path = name.path(directory);
        if segment_in(&path, *name, (epoch, shard))?.is_some_and(|found| found != Some(*name)) {
            put_aside(&path, recovery)?;
        }
    }
    for file_name in file_names(directory)? {
        let Some(name) = file_name.split_once(".bad").and_then(|(name, _)| Name::parse(name)) else {
            continue;
        };
        let path = directory.join(&file_name);
        let Some(Some(found)) = segment_in(&path, name, (epoch, shard))? else {
            continue;
        };
        let proper = found.path(directory);
        if proper.exists() {
            if segment_in(&proper, found, (epoch, shard))?.is_some() {
                continue;
            }
            // Nothing says that what is there belongs there, and this does.
            put_aside(&proper, recovery)?;
        }
        std::fs::rename(&path, &proper).map_err(io_error("rename", &path))?;
        recovery.quarantined.retain(|aside| *aside != path);
        recovery.damaged.push(DamagedRange {
            path: proper,
            offset: 0,
            bytes: 0,
            first_seq: found.first_seq,
            next_seq: found.first_seq,
            reason: "found under another segment's name",
        });
    }
    Ok(())
}

/// The segment that a file holds, by its header or, where that is damaged, by its first frame: `Some(None)` if it is another
/// shard's, `None` if nothing tells.
fn segment_in(path: &Path, name: Name, (epoch, shard): (u32, u16)) -> Result<Option<Option<Name>>, Error> {
    let file = File::open(path).map_err(io_error("open", path))?;
    match read_first_page(&file, path)?.0 {
        FirstPage::Good(header) => {
            let found = Name { first_seq: header.first_seq, generation: header.generation };
            let ours = (header.epoch, header.shard) == (epoch, shard);
            Ok(Some(ours.then_some(found)))
        }
        FirstPage::Damaged(_) => {
            let mut bytes = vec![0; frame::frame_bytes(frame::PAYLOAD_BYTES_MAX)];
            let read = file.read_at(&mut bytes, FRAMES_AT).map_err(io_error("read", path))?;
            let head = frame::read(&bytes[..read], frame::seed(epoch, shard)).map(|(head, _)| head);
            Ok(head.map(|head| Some(Name { first_seq: head.seq, ..name })))
        }
        FirstPage::Blank | FirstPage::Newer(_) => Ok(None),
    }
}

/// Renames a file to `*.bad`, or `*.bad1` and so on.
fn put_aside(path: &Path, recovery: &mut Recovery) -> Result<(), Error> {
    let mut aside = PathBuf::from(format!("{}.bad", path.display()));
    let mut number = 0;
    while aside.exists() {
        number += 1;
        aside = PathBuf::from(format!("{}.bad{number}", path.display()));
    }
    std::fs::rename(path, &aside).map_err(io_error("rename", path))?;
    recovery.quarantined.push(aside);
    Ok(())
}

fn chunk_numbers(directory: &Path) -> Result<Vec<u32>, Error> {
    let names = file_names(directory)?;
    Ok(names.iter().filter_map(|name| name.strip_prefix("slots-")?.parse().ok()).collect())
}

/// The chunks that can be used, numbered from 0; what is missing or put aside below the last is replaced by an empty one.
fn open_chunks(
    directory: &Path,
    epoch: u32,
    shard: u16,
    options: &Options,
    recovery: &mut Recovery,
) -> Result<Vec<Chunk>, Error> {
    let mut good: Vec<Chunk> = Vec::new();
    let mut damaged = Vec::new();
    for number in chunk_numbers(directory)? {
        let path = Chunk::path(directory, number);
        match Chunk::open(directory, epoch, shard, number) {
            Ok(chunk) if good.first().is_none_or(|first| first.entries == chunk.entries) => {
                good.push(chunk);
            }
            Ok(_) => damaged.push((path, "slots of another size")),
            Err(Unusable::Damaged(reason)) => damaged.push((path, reason)),
            Err(Unusable::Error(error)) => return Err(error),
        }
    }
    for (path, reason) in damaged {
        put_aside(&path, recovery)?;
        let bytes = recovery.quarantined.last().and_then(|aside| aside.metadata().ok());
        recovery.damaged.push(DamagedRange {
            path,
            offset: 0,
            bytes: bytes.map_or(0, |metadata| metadata.len()),
            first_seq: 0,
            next_seq: 0,
            reason,
        });
    }
    let entries = good.first().map_or(Table::chunk_entries(options.slots_max), |chunk| chunk.entries);
    let count = good.last().map_or(0, |chunk| chunk.number + 1);
    let mut there = good.into_iter().peekable();
    let mut chunks = Vec::new();
    for number in 0..count {
        match there.next_if(|chunk| chunk.number == number) {
            Some(chunk) => chunks.push(chunk),
            None => chunks.push(Chunk::create(directory, epoch, shard, number, entries)?),
        }
    }
    Ok(chunks)
}

impl Chunk {
    /// The version that a file of slots claims, if it is one.
    fn version(file: &File) -> std::io::Result<Option<u32>> {
        let mut start = [0; 16];
        match file.read_exact_at(&mut start, 0) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
        let [.., a, b, c, d, _, _, _, _] = start;
        let is_slots = start[..8] == *b"WEIRSLT1";
        Ok(is_slots.then_some(u32::from_le_bytes([a, b, c, d])))
    }
}
