//! A chunk: one file of slots, and every store into them.
//!
//! ```text
//! byte 0      magic "WEIRSLT1" | version u32, entries u32 | epoch u32, shard u32 | chunk u64 | crc32c of these
//!      1024   a note on its way: slot plus one, generation, note word, 480 bytes        (see `set_note`)
//!      4096   entries x 128 bytes, hot:   generation | 9 counters | pending | outcome | started_at_us | note word | closing_seq |
//!                                        kind u8, requests u56
//!      ...    entries x 744 bytes, cold:  3 x recorded { generation u32, crc32c u32 | seq | 9 counters } | note, 480 bytes
//!             (before version 4: two such blocks, without a checksum)
//! ```
//!
//! One thread writes a slot. Its stores are made in program order (each Release; counting alone is Relaxed, the counters being
//! independent), so a killed process leaves a prefix of them, and every prefix is a valid state:
//! * a slot is live while its generation is odd; that word is stored last when it opens and first when it is freed;
//! * a `recorded` block counts if it has the slot's generation and a seq below the published one; the one replaced is neither the newest
//!   nor the newest of a record that survives a power cut;
//! * a sum is the same blocks, with a version for the seq: how many slots it has taken; the newest one counts;
//! * a slot is closed by its closing word: the seq of its last record, once published, or the version of the sum that takes it;
//! * a note counts if its word's checksum agrees.
//!
//! A power cut leaves no prefix: each sector is as of some moment since its last sync. So a block has a checksum, which recovery looks at.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::allocation::{allocate_file, ensure_allocated};
use super::mapping::Mapping;
use super::outcome::{Outcome, SlotKind};
use super::words::{copy_in, copy_out, make_free, make_live, read_live};
use super::{Error, FORMAT_VERSION, checksum, io_error};
use crate::units::{COLUMNS, Column, Counters};

/// The longest note of a slot.
pub const NOTE_BYTES_MAX: usize = 480;

const MAGIC: u64 = u64::from_le_bytes(*b"WEIRSLT1");
const REDO: usize = 1024 / 8;
const ENTRIES_AT: usize = 4096 / 8;
const HOT_WORDS: usize = 16;
const BLOCK_WORDS: usize = 2 + COLUMNS;
const NOTE_WORDS: usize = NOTE_BYTES_MAX / 8;
/// `recorded` blocks of a slot, and how many there were before version 4.
const BLOCKS: usize = 3;
const OLD_BLOCKS: usize = 2;

const GENERATION: usize = 0;
const COUNTERS: usize = 1;
const PENDING: usize = 10;
const OUTCOME: usize = 11;
const STARTED_AT: usize = 12;
const NOTE: usize = 13;
const CLOSING_SEQ: usize = 14;
const KIND: usize = 15;

/// The low bits of the last hot word; above them, requests.
const KIND_BITS: u32 = 8;

/// No seq: an intent taken back, or none.
pub(super) const NO_SEQ: u64 = u64::MAX;

/// In a closing word: not a seq but a sum's version and, in the low bits, its number.
const INTO_SUM: u64 = 1 << 63;
const NUMBER_BITS: u32 = 28;

/// The closing word of a slot that the sum in slot `number` takes as its `version`.
pub(super) fn into_sum(number: u32, version: u64) -> u64 {
    assert!(version < 1 << (63 - NUMBER_BITS), "a sum of {version}");
    INTO_SUM | version << NUMBER_BITS | u64::from(number)
}

/// Number and version of the sum that a closing word names.
pub(super) fn sum_of(closing: u64) -> Option<(u32, u64)> {
    let is_sum = closing != NO_SEQ && closing & INTO_SUM != 0;
    is_sum.then_some((closing as u32 & ((1 << NUMBER_BITS) - 1), (closing & !INTO_SUM) >> NUMBER_BITS))
}

/// Where a note lies in its 480 bytes, and its checksum, in one word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct NoteWord {
    offset: usize,
    bytes: usize,
    checksum: u32,
}

impl NoteWord {
    fn pack(self) -> u64 {
        self.offset as u64 | (self.bytes as u64) << 16 | u64::from(self.checksum) << 32
    }

    fn unpack(word: u64) -> Option<Self> {
        let note = Self {
            offset: (word & 0xffff) as usize,
            bytes: (word >> 16 & 0xffff) as usize,
            checksum: (word >> 32) as u32,
        };
        let fits = note.offset + note.bytes <= NOTE_BYTES_MAX && note.offset.is_multiple_of(8);
        fits.then_some(note)
    }
}

/// A copy of a slot's note.
#[derive(Clone, Copy)]
pub struct Note {
    bytes: [u8; NOTE_BYTES_MAX],
    length: usize,
}

impl Note {
    pub(super) fn empty() -> Self {
        Self { bytes: [0; NOTE_BYTES_MAX], length: 0 }
    }
}

impl std::ops::Deref for Note {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl std::fmt::Debug for Note {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Note({} bytes)", self.length)
    }
}

/// One of a slot's two `recorded` blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Block {
    pub(super) seq: u64,
    pub(super) counters: Counters,
}

/// A mapped chunk.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) mapping: Mapping,
    pub(super) file: File,
    pub(super) path: PathBuf,
    pub(super) number: u32,
    pub(super) entries: u32,
    /// `recorded` blocks of each slot.
    blocks: usize,
}

/// Why a chunk file cannot be used.
#[derive(Debug)]
pub(super) enum Unusable {
    Damaged(&'static str),
    Error(Error),
}

impl Chunk {
    pub(super) fn path(directory: &Path, number: u32) -> PathBuf {
        directory.join(format!("slots-{number:04}"))
    }

    fn file_bytes(entries: u32, blocks: usize) -> u64 {
        ((ENTRIES_AT + (HOT_WORDS + cold_words(blocks)) * entries as usize) * 8) as u64
    }

    /// A new chunk, all slots free. It gets its name once it is whole.
    pub(super) fn create(directory: &Path, epoch: u32, shard: u16, number: u32, entries: u32) -> Result<Self, Error> {
        let path = Self::path(directory, number);
        let unnamed = path.with_extension("new");
        let bytes = Self::file_bytes(entries, BLOCKS);
        let file = allocate_file(&unnamed, bytes)?;
        let mapping = Mapping::new(&file, bytes).map_err(io_error("map", &unnamed))?;
        let words = mapping.words();
        for (word, value) in words.iter().zip(header(epoch, shard, number, entries)) {
            word.store(value, Ordering::Release);
        }
        std::fs::rename(&unnamed, &path).map_err(io_error("name", &path))?;
        Ok(Self { mapping, file, path, number, entries, blocks: BLOCKS })
    }

    /// Opens a chunk of a dead epoch and finishes a note that was on its way.
    pub(super) fn open(directory: &Path, epoch: u32, shard: u16, number: u32) -> Result<Self, Unusable> {
        let path = Self::path(directory, number);
        let opened = OpenOptions::new().read(true).write(true).open(&path);
        let file = opened.map_err(io_error("open", &path)).map_err(Unusable::Error)?;
        let length = file.metadata().map_err(io_error("look at", &path)).map_err(Unusable::Error)?.len();
        if length < 4096 {
            return Err(Unusable::Damaged("shorter than its header"));
        }
        let mapping = Mapping::new(&file, length).map_err(io_error("map", &path)).map_err(Unusable::Error)?;
        let word = |at: usize| mapping.words()[at].load(Ordering::Acquire);
        let (version, entries) = (word(1) as u32, (word(1) >> 32) as u32);
        let found = [word(0), word(1), word(2), word(3)];
        let expected = header(epoch, shard, number, entries);
        if word(0) != MAGIC || word(4) != u64::from(header_checksum(found)) {
            return Err(Unusable::Damaged("slots header"));
        }
        if version > FORMAT_VERSION {
            return Err(Unusable::Error(Error::NewerFormat { path, version }));
        }
        if found[2..] != expected[2..4] {
            return Err(Unusable::Damaged("slots of another journal"));
        }
        // A truncated file has no slots worth keeping past its end, and where the cold parts lie at all depends on the whole.
        let blocks = if version < 4 { OLD_BLOCKS } else { BLOCKS };
        if length < Self::file_bytes(entries, blocks) {
            return Err(Unusable::Damaged("slots cut off"));
        }
        let chunk = Self { mapping, file, path, number, entries, blocks };
        // After a power cut the file may have holes, in which a store on a full disk is SIGBUS.
        ensure_allocated(&chunk.file, length).map_err(io_error("allocate", &chunk.path)).map_err(Unusable::Error)?;
        chunk.finish_note();
        Ok(chunk)
    }

    #[inline]
    fn hot(&self, entry: u32) -> &[AtomicU64] {
        let at = ENTRIES_AT + entry as usize * HOT_WORDS;
        &self.mapping.words()[at..at + HOT_WORDS]
    }

    #[inline]
    fn cold(&self, entry: u32) -> &[AtomicU64] {
        let words = cold_words(self.blocks);
        let at = ENTRIES_AT + self.entries as usize * HOT_WORDS + entry as usize * words;
        &self.mapping.words()[at..at + words]
    }

    /// The room of a slot's note.
    #[inline]
    fn note_words(&self, entry: u32) -> &[AtomicU64] {
        &self.cold(entry)[self.blocks * BLOCK_WORDS..]
    }

    fn block(&self, entry: u32, which: usize) -> &[AtomicU64] {
        &self.cold(entry)[which * BLOCK_WORDS..(which + 1) * BLOCK_WORDS]
    }

    /// Opens a free slot; its generation, now odd.
    pub(super) fn begin(&self, entry: u32, kind: SlotKind, requests: u64, started_at_us: u64, note: &[u8]) -> u64 {
        let hot = self.hot(entry);
        let before = hot[GENERATION].load(Ordering::Relaxed);
        assert!(before.is_multiple_of(2), "slot {entry} is taken already");
        make_live(&hot[GENERATION], || {
            for counter in &hot[COUNTERS..COUNTERS + COLUMNS] {
                counter.store(0, Ordering::Relaxed);
            }
            hot[PENDING].store(0, Ordering::Relaxed);
            hot[OUTCOME].store(0, Ordering::Relaxed);
            hot[STARTED_AT].store(started_at_us, Ordering::Relaxed);
            hot[CLOSING_SEQ].store(NO_SEQ, Ordering::Relaxed);
            hot[KIND].store(kind as u64 | requests << KIND_BITS, Ordering::Relaxed);
            let word = self.write_note(entry, 0, note);
            hot[NOTE].store(word.pack(), Ordering::Relaxed);
        })
    }

    /// Frees a live slot.
    pub(super) fn free(&self, entry: u32) {
        let generation = &self.hot(entry)[GENERATION];
        let live = generation.load(Ordering::Relaxed);
        assert!(!live.is_multiple_of(2), "slot {entry} is free already");
        make_free(generation);
    }

    /// What `read` finds while the slot is of this generation.
    pub(super) fn read_live<T>(&self, entry: u32, generation: u64, read: impl FnOnce() -> T) -> Option<T> {
        read_live(&self.hot(entry)[GENERATION], generation, read)
    }

    #[inline]
    pub(super) fn generation(&self, entry: u32) -> u64 {
        self.hot(entry)[GENERATION].load(Ordering::Acquire)
    }

    #[inline]
    pub(super) fn counter(&self, entry: u32, column: Column) -> &AtomicU64 {
        &self.hot(entry)[COUNTERS + column as usize]
    }

    pub(super) fn totals(&self, entry: u32) -> Counters {
        load(&self.hot(entry)[COUNTERS..])
    }

    #[inline]
    pub(super) fn pending(&self, entry: u32) -> &AtomicU64 {
        &self.hot(entry)[PENDING]
    }

    pub(super) fn outcome(&self, entry: u32) -> Outcome {
        Outcome::unpack(self.hot(entry)[OUTCOME].load(Ordering::Acquire))
    }

    pub(super) fn set_outcome(&self, entry: u32, outcome: Outcome) {
        self.hot(entry)[OUTCOME].store(outcome.pack(), Ordering::Release);
    }

    pub(super) fn started_at_us(&self, entry: u32) -> u64 {
        self.hot(entry)[STARTED_AT].load(Ordering::Relaxed)
    }

    pub(super) fn kind(&self, entry: u32) -> Option<SlotKind> {
        SlotKind::from_octet(self.hot(entry)[KIND].load(Ordering::Relaxed) as u8)
    }

    pub(super) fn requests(&self, entry: u32) -> u64 {
        self.hot(entry)[KIND].load(Ordering::Relaxed) >> KIND_BITS
    }

    pub(super) fn set_requests(&self, entry: u32, requests: u64) {
        let word = &self.hot(entry)[KIND];
        let kind = word.load(Ordering::Relaxed) & ((1 << KIND_BITS) - 1);
        word.store(kind | requests << KIND_BITS, Ordering::Release);
    }

    pub(super) fn closing_seq(&self, entry: u32) -> u64 {
        self.hot(entry)[CLOSING_SEQ].load(Ordering::Acquire)
    }

    pub(super) fn set_closing_seq(&self, entry: u32, seq: u64) {
        self.hot(entry)[CLOSING_SEQ].store(seq, Ordering::Release);
    }

    /// The block's seq, intents included, if it is of the slot's present generation.
    fn block_seq(&self, entry: u32, which: usize) -> Option<u64> {
        let block = self.block(entry, which);
        let seq = block[1].load(Ordering::Acquire);
        let is_ours = block[0].load(Ordering::Relaxed) as u32 == self.generation(entry) as u32;
        Some(seq).filter(|seq| is_ours && *seq != NO_SEQ)
    }

    /// The seqs of all blocks that have one.
    pub(super) fn block_seqs(&self, entry: u32) -> impl Iterator<Item = u64> {
        (0..self.blocks).filter_map(move |which| self.block_seq(entry, which))
    }

    /// The newest block.
    pub(super) fn recorded(&self, entry: u32) -> Option<Block> {
        let newest = (0..self.blocks).filter_map(|which| Some((self.block_seq(entry, which)?, which))).max();
        newest.map(|(seq, which)| Block { seq, counters: load(&self.block(entry, which)[2..]) })
    }

    /// States that the record `seq` will hold everything up to `totals`; says in which block. Records below `durable_seq` survive a
    /// power cut.
    pub(super) fn begin_recorded(&self, entry: u32, seq: u64, totals: &Counters, durable_seq: u64) -> usize {
        let which = self.fill_block(entry, seq, totals, durable_seq);
        self.store_seq(entry, which, seq);
        which
    }

    /// Fills a block, which counts once [`Self::store_seq`] was called.
    pub(super) fn fill_block(&self, entry: u32, seq: u64, totals: &Counters, durable_seq: u64) -> usize {
        let newest_below = |seq_max: u64| {
            let seqs = (0..self.blocks).filter_map(|which| Some((self.block_seq(entry, which)?, which)));
            seqs.filter(|(seq, _)| *seq < seq_max).max().map(|(_, which)| which)
        };
        let (newest, newest_durable) = (newest_below(NO_SEQ), newest_below(durable_seq));
        let others = (0..self.blocks).filter(|which| Some(*which) != newest);
        // The oldest; of only two, as there were once, it may have to be the durable one.
        let which = others.min_by_key(|which| (Some(*which) == newest_durable, self.block_seq(entry, *which)));
        let which = which.unwrap_or(0);
        let block = self.block(entry, which);
        block[1].store(NO_SEQ, Ordering::Release);
        for (word, value) in block[2..].iter().zip(totals.to_array()) {
            word.store(value, Ordering::Release);
        }
        block[0].store(self.block_word(self.generation(entry), seq, totals), Ordering::Release);
        which
    }

    /// First word of a block.
    fn block_word(&self, generation: u64, seq: u64, counters: &Counters) -> u64 {
        let generation = u64::from(generation as u32);
        if self.blocks == OLD_BLOCKS {
            return generation;
        }
        let words = [generation, seq].into_iter().chain(counters.to_array());
        let checksum = words.fold(0, |checksum, word| crc32c::crc32c_append(checksum, &word.to_le_bytes()));
        generation | u64::from(checksum) << 32
    }

    /// Takes back the blocks that a power cut left half-written.
    pub(super) fn revoke_torn(&self, entry: u32) {
        for which in 0..self.blocks {
            let Some(seq) = self.block_seq(entry, which) else { continue };
            let block = self.block(entry, which);
            let expected = self.block_word(self.generation(entry), seq, &load(&block[2..]));
            if block[0].load(Ordering::Relaxed) != expected {
                self.revoke_recorded(entry, which);
            }
        }
    }

    /// Makes a filled block count: seq of a record, or version of a sum.
    pub(super) fn store_seq(&self, entry: u32, which: usize, seq: u64) {
        self.block(entry, which)[1].store(seq, Ordering::Release);
    }

    /// How many slots a sum has taken, and what they counted.
    pub(super) fn sum(&self, entry: u32) -> (u64, Counters) {
        self.recorded(entry).map_or((0, Counters::default()), |block| (block.seq, block.counters))
    }

    /// Takes an intent back.
    pub(super) fn revoke_recorded(&self, entry: u32, which: usize) {
        self.block(entry, which)[1].store(NO_SEQ, Ordering::Release);
    }

    /// Takes back every intent from `next_seq` on; whether there was one.
    pub(super) fn revoke_from(&self, entry: u32, next_seq: u64) -> bool {
        let mut any = false;
        // A sum's blocks hold versions.
        let is_sum = self.kind(entry).is_some_and(SlotKind::is_sum);
        for which in 0..self.blocks {
            if !is_sum && self.block_seq(entry, which).is_some_and(|seq| seq >= next_seq) {
                self.revoke_recorded(entry, which);
                any = true;
            }
        }
        let closing = self.closing_seq(entry);
        if closing != NO_SEQ && closing >= next_seq {
            self.set_closing_seq(entry, NO_SEQ);
            any = true;
        }
        any
    }

    fn write_note(&self, entry: u32, offset: usize, note: &[u8]) -> NoteWord {
        assert!(note.len() <= NOTE_BYTES_MAX, "a note of {} bytes", note.len());
        let at = offset / 8;
        copy_in(&self.note_words(entry)[at..at + note.len().div_ceil(8)], note);
        NoteWord { offset, bytes: note.len(), checksum: checksum::append(0, note) }
    }

    /// The note; `None` if its checksum disagrees (replaced at this moment by another thread, or damaged).
    pub(super) fn note(&self, entry: u32) -> Option<Note> {
        let word = NoteWord::unpack(self.hot(entry)[NOTE].load(Ordering::Acquire))?;
        let mut note = Note { bytes: [0; NOTE_BYTES_MAX], length: word.bytes };
        copy_out(&self.note_words(entry)[word.offset / 8..], &mut note.bytes[..word.bytes]);
        (crc32c::crc32c(&note) == word.checksum).then_some(note)
    }

    /// Makes the note longer: `note` begins with the `kept_bytes` that are there already. False, and nothing done, where that is not so
    /// or there is no room behind it. What is there stays as it is, so killed at any store the old note counts or the new one.
    #[inline]
    pub(super) fn extend_note(&self, entry: u32, note: &[u8], kept_bytes: usize) -> bool {
        let hot = self.hot(entry);
        let Some(old) = NoteWord::unpack(hot[NOTE].load(Ordering::Relaxed)) else { return false };
        if old.bytes != kept_bytes || old.offset + note.len() > NOTE_BYTES_MAX {
            return false;
        }
        let Some(added) = note.get(kept_bytes..) else { return false };
        // From the last word on that was begun: its first octets are stored again as they are.
        let begun = kept_bytes / 8;
        let at = old.offset / 8;
        copy_in(&self.note_words(entry)[at + begun..at + note.len().div_ceil(8)], &note[begun * 8..]);
        let checksum = checksum::append(old.checksum, added);
        hot[NOTE].store(NoteWord { offset: old.offset, bytes: note.len(), checksum }.pack(), Ordering::Release);
        true
    }

    /// Replaces the note if both fit beside each other: the word decides, so killed at any store either the old or the new one counts.
    /// False, and nothing done, where they do not.
    pub(super) fn set_note_beside(&self, entry: u32, note: &[u8]) -> bool {
        assert!(note.len() <= NOTE_BYTES_MAX, "a note of {} bytes", note.len());
        let hot = self.hot(entry);
        let old = NoteWord::unpack(hot[NOTE].load(Ordering::Relaxed));
        let (start, end) =
            old.map_or((0, NOTE_BYTES_MAX), |old| (old.offset, (old.offset + old.bytes).next_multiple_of(8)));
        let room = note.len().next_multiple_of(8);
        let beside = if room <= start {
            Some(0)
        } else if end + room <= NOTE_BYTES_MAX {
            Some(end)
        } else {
            None
        };
        if let Some(offset) = beside {
            let word = self.write_note(entry, offset, note);
            hot[NOTE].store(word.pack(), Ordering::Release);
        }
        beside.is_some()
    }

    /// Replaces the note where [`Self::set_note_beside`] cannot: it first goes whole to the chunk's page, from which recovery can finish
    /// the move. Callers that share a chunk must not do this at the same time.
    pub(super) fn set_note_by_the_page(&self, entry: u32, note: &[u8]) {
        let redo = &self.mapping.words()[REDO..REDO + 3 + NOTE_WORDS];
        copy_in(&redo[3..3 + note.len().div_ceil(8)], note);
        let word = NoteWord { offset: 0, bytes: note.len(), checksum: crc32c::crc32c(note) };
        redo[1].store(self.generation(entry), Ordering::Release);
        redo[2].store(word.pack(), Ordering::Release);
        redo[0].store(u64::from(entry) + 1, Ordering::Release);
        self.finish_note();
    }

    /// Moves a note from the chunk's page to its slot, if there is one and the slot still is what it was.
    fn finish_note(&self) {
        let redo = &self.mapping.words()[REDO..REDO + 3 + NOTE_WORDS];
        let target = redo[0].load(Ordering::Acquire);
        let Some(entry) = target.checked_sub(1).and_then(|entry| u32::try_from(entry).ok()) else {
            return;
        };
        let word = NoteWord::unpack(redo[2].load(Ordering::Acquire));
        if let (true, Some(word)) = (entry < self.entries, word)
            && self.generation(entry) == redo[1].load(Ordering::Acquire)
        {
            let mut note = [0; NOTE_BYTES_MAX];
            let note = &mut note[..word.bytes];
            copy_out(&redo[3..], note);
            if crc32c::crc32c(note) == word.checksum {
                // From here to the last store the old note is gone and the new one not yet there: a kill is finished by recovery.
                std::sync::atomic::compiler_fence(Ordering::SeqCst);
                let word = self.write_note(entry, 0, note);
                self.hot(entry)[NOTE].store(word.pack(), Ordering::Release);
            }
        }
        redo[0].store(0, Ordering::Release);
    }
}

/// Words of a slot's cold part.
#[inline]
fn cold_words(blocks: usize) -> usize {
    blocks * BLOCK_WORDS + NOTE_WORDS
}

fn header(epoch: u32, shard: u16, number: u32, entries: u32) -> [u64; 5] {
    let fixed = [
        MAGIC,
        u64::from(FORMAT_VERSION) | u64::from(entries) << 32,
        u64::from(epoch) | u64::from(shard) << 32,
        u64::from(number),
    ];
    let [a, b, c, d] = fixed;
    [a, b, c, d, u64::from(header_checksum(fixed))]
}

fn header_checksum(fixed: [u64; 4]) -> u32 {
    fixed.iter().fold(0, |checksum, word| crc32c::crc32c_append(checksum, &word.to_le_bytes()))
}

fn load(words: &[AtomicU64]) -> Counters {
    Counters::from_array(std::array::from_fn(|column| words[column].load(Ordering::Relaxed)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk() -> (tempfile::TempDir, Chunk) {
        let directory = tempfile::tempdir().unwrap();
        let chunk = Chunk::create(directory.path(), 1, 0, 0, 64).unwrap();
        (directory, chunk)
    }

    #[test]
    fn the_newer_block_survives_the_writing_of_the_next() {
        let (_directory, chunk) = chunk();
        chunk.begin(3, SlotKind::Session, 0, 1, b"note");
        let totals = |n| Counters::from_array([n; COLUMNS]);
        for seq in 0..10 {
            let before = chunk.recorded(3);
            chunk.fill_block(3, seq, &totals(7), 0);
            assert_eq!(chunk.recorded(3), before);
            chunk.begin_recorded(3, seq, &totals(seq + 1), 0);
            assert_eq!(chunk.recorded(3).unwrap().counters, totals(seq + 1));
        }
        assert!(chunk.revoke_from(3, 9));
        assert_eq!(chunk.recorded(3).unwrap().seq, 8);
        assert!(!chunk.revoke_from(3, 9));
    }

    #[test]
    fn the_newest_durable_block_survives_the_writing_of_any_number() {
        let (_directory, chunk) = chunk();
        chunk.begin(3, SlotKind::Session, 0, 1, b"note");
        let totals = |n| Counters::from_array([n; COLUMNS]);
        for seq in 0..20 {
            let durable_seq = seq / 5 * 5;
            chunk.begin_recorded(3, seq, &totals(seq), durable_seq);
            assert!(durable_seq == 0 || chunk.block_seqs(3).any(|seq| seq == durable_seq - 1));
        }
        chunk.revoke_from(3, 15);
        assert_eq!(chunk.recorded(3).unwrap().counters, totals(14));
    }

    #[test]
    fn a_block_torn_anywhere_does_not_count() {
        let (_directory, chunk) = chunk();
        chunk.begin(3, SlotKind::Session, 0, 1, b"note");
        let of = |seq: u64| Counters::from_array(std::array::from_fn(|at| seq * 100 + at as u64));
        (1..4).for_each(|seq| assert!(chunk.begin_recorded(3, seq, &of(seq), 0) < BLOCKS));
        let words = |which| chunk.block(3, which).iter().map(|word| word.load(Ordering::Relaxed)).collect::<Vec<u64>>();
        let old = words(0);
        assert_eq!(chunk.begin_recorded(3, 4, &of(4), 0), 0);
        let new = words(0);
        for cut in 0..=BLOCK_WORDS {
            for (at, word) in chunk.block(3, 0).iter().enumerate() {
                word.store(if at < cut { new[at] } else { old[at] }, Ordering::Relaxed);
            }
            chunk.revoke_torn(3);
            let counts = chunk.block_seq(3, 0);
            let whole = if cut == 0 { Some(1) } else { (cut == BLOCK_WORDS).then_some(4) };
            assert_eq!(counts, whole, "{cut}");
        }
    }

    #[test]
    fn closing_words_of_sums_are_no_seqs() {
        for (number, version) in [(0, 1), (7, 1 << 30), ((1 << 28) - 1, 9)] {
            assert_eq!(sum_of(into_sum(number, version)), Some((number, version)));
        }
        assert_eq!((sum_of(NO_SEQ), sum_of(0), sum_of(1 << 62)), (None, None, None));
    }

    #[test]
    fn slots_of_an_older_format_are_read() {
        let (directory, chunk) = chunk();
        let Chunk { mapping, file, path, number, entries, .. } = chunk;
        let words = mapping.words();
        words[1].store(3 | 64 << 32, Ordering::Relaxed);
        let found: [u64; 4] = std::array::from_fn(|at| words[at].load(Ordering::Relaxed));
        words[4].store(u64::from(header_checksum(found)), Ordering::Relaxed);
        let chunk = Chunk { mapping, file, path, number, entries, blocks: OLD_BLOCKS };
        chunk.begin(63, SlotKind::Session, 0, 1, b"old");
        let totals = |n| Counters::from_array([n; COLUMNS]);
        (5..8).for_each(|seq| assert!(chunk.begin_recorded(63, seq, &totals(seq), 0) < OLD_BLOCKS));
        chunk.file.set_len(Chunk::file_bytes(64, OLD_BLOCKS)).unwrap();
        drop(chunk);
        let chunk = Chunk::open(directory.path(), 1, 0, 0).unwrap();
        chunk.revoke_torn(63);
        assert_eq!(&*chunk.note(63).unwrap(), b"old");
        assert_eq!(chunk.recorded(63), Some(Block { seq: 7, counters: totals(7) }));
        assert_eq!(chunk.block(63, 0)[0].load(Ordering::Relaxed), 1, "a release before this one knows it by that");
    }

    #[test]
    fn blocks_of_an_earlier_generation_do_not_count() {
        let (_directory, chunk) = chunk();
        chunk.begin(3, SlotKind::Session, 0, 1, b"");
        chunk.begin_recorded(3, 5, &Counters::from_array([9; COLUMNS]), 0);
        chunk.free(3);
        chunk.begin(3, SlotKind::Request, 0, 2, b"");
        assert_eq!(chunk.recorded(3), None);
        assert_eq!(chunk.kind(3), Some(SlotKind::Request));
    }

    #[test]
    fn notes_of_every_size_replace_each_other() {
        let (_directory, chunk) = chunk();
        chunk.begin(0, SlotKind::Session, 0, 1, b"");
        for size in [0, 1, 200, 240, 241, 480, 480, 3, 479, 8, 0, 300] {
            let note = vec![size as u8; size];
            if !chunk.set_note_beside(0, &note) {
                chunk.set_note_by_the_page(0, &note);
            }
            assert_eq!(&*chunk.note(0).unwrap(), note.as_slice(), "{size}");
        }
    }

    #[test]
    fn a_note_grows_in_place_and_is_whole_at_every_store() {
        for (first, then) in [(0, 1), (1, 8), (7, 9), (8, 8), (100, 155), (100, 104), (479, 480)] {
            let (_directory, chunk) = chunk();
            let note: Vec<u8> = (0..then).map(|at| at as u8 | 1).collect();
            chunk.begin(0, SlotKind::Session, 0, 1, &note[..first]);
            let word = chunk.hot(0)[NOTE].load(Ordering::Relaxed);
            assert!(!chunk.extend_note(0, &note, first + 1), "of another length");
            assert!(chunk.extend_note(0, &note, first));
            assert_eq!(&*chunk.note(0).unwrap(), note.as_slice());
            // The word is stored last: killed before, the note is still the old one.
            chunk.hot(0)[NOTE].store(word, Ordering::Relaxed);
            assert_eq!(&*chunk.note(0).unwrap(), &note[..first]);
        }
        let (_directory, chunk) = chunk();
        chunk.begin(0, SlotKind::Session, 0, 1, &[1; 100]);
        assert!(chunk.set_note_beside(0, &[2; 104]));
        assert!(!chunk.extend_note(0, &[2; 480], 104), "no room behind the other");
        assert_eq!(&*chunk.note(0).unwrap(), &[2; 104]);
    }

    #[test]
    fn a_note_killed_on_its_way_is_finished_at_the_next_open() {
        let (directory, chunk) = chunk();
        let generation = chunk.begin(7, SlotKind::Session, 0, 1, &[1; 480]);
        let redo = &chunk.mapping.words()[REDO..];
        copy_in(&redo[3..], &[2; 400]);
        let word = NoteWord { offset: 0, bytes: 400, checksum: crc32c::crc32c(&[2; 400]) };
        redo[1].store(generation, Ordering::Relaxed);
        redo[2].store(word.pack(), Ordering::Relaxed);
        redo[0].store(8, Ordering::Relaxed);
        // Half of it has been moved already.
        copy_in(chunk.note_words(7), &[2; 160]);
        drop(chunk);
        let chunk = Chunk::open(directory.path(), 1, 0, 0).unwrap();
        assert_eq!(&*chunk.note(7).unwrap(), &[2; 400]);
    }

    #[test]
    fn a_foreign_cut_or_overwritten_file_is_unusable() {
        let (directory, chunk) = chunk();
        let path = chunk.path.clone();
        let open = |epoch, shard| Chunk::open(directory.path(), epoch, shard, 0);
        assert!(open(1, 0).is_ok());
        assert!(matches!(open(2, 0), Err(Unusable::Damaged(_))));
        assert!(matches!(open(1, 1), Err(Unusable::Damaged(_))));
        drop(chunk);
        let whole = std::fs::read(&path).unwrap();
        for length in [0, 4095, 4096, whole.len() - 1] {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert!(matches!(open(1, 0), Err(Unusable::Damaged(_))), "{length}");
        }
        std::fs::write(&path, vec![0; whole.len()]).unwrap();
        assert!(matches!(open(1, 0), Err(Unusable::Damaged(_))));
    }
}
