//! The handle of a live slot, and a view of it for other threads.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::chunk::{Block, Chunk, Note};
use super::outcome::{Outcome, SlotKind};
use super::table::Table;
use crate::units::{Column, Counters};

/// A live slot: the counters of one open session or request. One owner, one writer.
///
/// [`Self::free`] is the only way to end it. Dropped without that (a task cut off, a panic) it stays live in the file and counted in
/// [`super::SlotTable::orphans`]; the next start recovers it, so that its bytes are not lost.
#[derive(Debug)]
pub struct Slot {
    table: Arc<Table>,
    chunk: Arc<Chunk>,
    entry: u32,
    generation: u64,
    /// Syncs of the slots that had begun when it was opened.
    opened_in: u64,
    freed: bool,
    one_thread: PhantomData<Cell<()>>,
}

impl Slot {
    pub(super) fn new(table: Arc<Table>, chunk: Arc<Chunk>, entry: u32, generation: u64, opened_in: u64) -> Self {
        Self { table, chunk, entry, generation, opened_in, freed: false, one_thread: PhantomData }
    }

    /// Counts `n` bytes: a plain load and store.
    #[inline]
    pub fn add(&self, column: Column, n: u64) {
        let counter = self.chunk.counter(self.entry, column);
        let sum = counter.load(Ordering::Relaxed) + n;
        counter.store(sum, Ordering::Relaxed);
    }

    /// The cumulative bytes of a column.
    #[inline]
    pub fn get(&self, column: Column) -> u64 {
        self.chunk.counter(self.entry, column).load(Ordering::Relaxed)
    }

    /// Sets the cumulative bytes of a column.
    #[inline]
    pub fn set(&self, column: Column, bytes: u64) {
        self.chunk.counter(self.entry, column).store(bytes, Ordering::Relaxed);
    }

    /// Everything counted so far.
    pub fn totals(&self) -> Counters {
        self.chunk.totals(self.entry)
    }

    /// What the records written so far add up to.
    pub fn recorded(&self) -> Counters {
        self.recorded_block().map(|block| block.counters).unwrap_or_default()
    }

    pub(super) fn recorded_block(&self) -> Option<Block> {
        self.chunk.recorded(self.entry)
    }

    /// States the size in bytes of a write that is about to be made, 0 once it has been counted.
    #[inline]
    pub fn set_pending(&self, n: u64) {
        self.chunk.pending(self.entry).store(n, Ordering::Release);
    }

    /// Size in bytes of the write in flight.
    pub fn pending(&self) -> u64 {
        self.chunk.pending(self.entry).load(Ordering::Acquire)
    }

    /// Keeps how it stands.
    pub fn set_outcome(&self, outcome: Outcome) {
        self.chunk.set_outcome(self.entry, outcome);
    }

    /// How it stands.
    pub fn outcome(&self) -> Outcome {
        self.chunk.outcome(self.entry)
    }

    /// What it stands for. Only a damaged slots file makes it `None`.
    pub fn kind(&self) -> Option<SlotKind> {
        self.chunk.kind(self.entry)
    }

    /// How many requests a session has begun; of a request, how many its session had begun with it.
    pub fn requests(&self) -> u64 {
        self.chunk.requests(self.entry)
    }

    /// Replaces [`Self::requests`].
    #[inline]
    pub fn set_requests(&self, requests: u64) {
        self.chunk.set_requests(self.entry, requests);
    }

    /// When it opened, in µs since the Unix epoch.
    pub fn started_at_us(&self) -> u64 {
        self.chunk.started_at_us(self.entry)
    }

    /// The identity part of its records; empty if a power cut damaged it.
    pub fn note(&self) -> Note {
        self.try_note().unwrap_or_else(Note::empty)
    }

    pub(super) fn try_note(&self) -> Option<Note> {
        self.chunk.note(self.entry)
    }

    /// Replaces the note, at most [`super::NOTE_BYTES_MAX`] bytes (longer is a bug of the caller). A kill leaves the old one or the new one.
    pub fn set_note(&self, note: &[u8]) {
        self.table.set_note(&self.chunk, self.entry, note);
    }

    /// Makes the note longer: `note` begins with the first `kept_bytes` of it, which are all that it has. At most
    /// [`super::NOTE_BYTES_MAX`] bytes. A kill leaves the old one or the new one.
    #[inline]
    pub fn extend_note(&self, note: &[u8], kept_bytes: usize) {
        if !self.chunk.extend_note(self.entry, note, kept_bytes) {
            self.set_note(note);
        }
    }

    /// The intent of a record: the one that [`super::Writer::append`] is about to give `seq`, which must be its
    /// [`super::Writer::next_seq`], holds everything up to `totals`. The next append, whichever it is, is taken for it.
    /// `closing`: nothing of this slot follows.
    pub fn begin_record(&self, seq: u64, totals: &Counters, closing: bool) {
        self.table.begin_record(&self.chunk, self.entry, self.generation, seq, totals, closing);
    }

    pub(super) fn chunk(&self) -> &Chunk {
        &self.chunk
    }

    pub(super) fn entry(&self) -> u32 {
        self.entry
    }

    pub(super) fn table(&self) -> &Table {
        &self.table
    }

    /// Of a sum: how many slots it has taken, and what they counted.
    pub(super) fn sum(&self) -> (u64, Counters) {
        self.chunk.sum(self.entry)
    }

    /// Corrects what its records add up to: the record at `seq`, already published, says so.
    pub fn restate(&self, seq: u64, totals: &Counters) {
        self.table.begin_recorded(&self.chunk, self.entry, seq, totals);
    }

    /// Ends it; its place is free for another, of a slot that was synced once its last record is too.
    pub fn free(mut self) {
        self.freed = true;
        self.table.free(&self.chunk, self.entry, self.opened_in);
    }

    /// A view for other threads.
    pub fn view(&self) -> SlotView {
        SlotView { chunk: Arc::clone(&self.chunk), entry: self.entry, generation: self.generation }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if !self.freed {
            self.table.orphan();
        }
    }
}

/// A read-only view of a slot, for any thread. It knows by the generation whether the slot is still what it was.
#[derive(Clone, Debug)]
pub struct SlotView {
    chunk: Arc<Chunk>,
    entry: u32,
    generation: u64,
}

/// What a [`SlotView`] saw. Each number is one that was there; they need not be of the same instant.
#[derive(Clone, Debug)]
pub struct SlotReading {
    /// What it stands for.
    pub kind: Option<SlotKind>,
    /// When it opened, in µs since the Unix epoch.
    pub started_at_us: u64,
    /// Everything counted.
    pub totals: Counters,
    /// Size in bytes of a write in flight.
    pub pending: u64,
    /// How it stands.
    pub outcome: Outcome,
}

impl SlotView {
    /// Whether the session or request is still open.
    pub fn is_live(&self) -> bool {
        self.chunk.generation(self.entry) == self.generation
    }

    /// What is counted now; `None` once it has been closed.
    pub fn read(&self) -> Option<SlotReading> {
        self.chunk.read_live(self.entry, self.generation, || SlotReading {
            kind: self.chunk.kind(self.entry),
            started_at_us: self.chunk.started_at_us(self.entry),
            totals: self.chunk.totals(self.entry),
            pending: self.chunk.pending(self.entry).load(Ordering::Relaxed),
            outcome: self.chunk.outcome(self.entry),
        })
    }

    /// Its note; `None` once it has been closed or while it is being replaced.
    pub fn note(&self) -> Option<Note> {
        self.chunk.read_live(self.entry, self.generation, || self.chunk.note(self.entry)).flatten()
    }
}
