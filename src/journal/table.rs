//! All slots of a shard: which are free, and the intent of the record being written.
//!
//! Free slots are kept last in, first out, and the lowest chunk is used first, so that the hot set stays small and high chunks empty out;
//! a chunk that is wholly free gives its resident pages back. When all `slots_max` are taken or the disk has no room for another
//! chunk, [`SlotTable::open`] says [`SlotsFull`]: the caller refuses the session, nothing is counted outside a slot.
//!
//! *Power cuts.* What a sync has seen in a slot must not go from it before the record that states it survives a power cut too: such a
//! slot is freed only then ([`Table::free`]). What came and went between two syncs is freed at once.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use super::chunk::{Chunk, NO_SEQ, sum_of};
use super::frame::SlotRef;
use super::outcome::SlotKind;
use super::shared::remove_if_there;
use super::slots::Slot;
use super::words::{begin_sync, syncs_begun};
use super::{Error, is_disk_full, lock};
use crate::units::Counters;

/// Slots of a chunk file.
const ENTRIES: u32 = 4096;

/// No slot for another session or request.
#[derive(Debug, thiserror::Error)]
pub enum SlotsFull {
    /// All are taken.
    #[error("all {max} slots are taken")]
    Taken {
        /// How many there are.
        max: u32,
    },
    /// The disk has no room for more.
    #[error("the disk has no room for more slots")]
    Disk(#[source] Error),
    /// The file for more could not be made.
    #[error("cannot make more slots")]
    Failed(#[source] Error),
}

/// The slots of a shard. Used by the shard's one thread; clones are the same table.
#[derive(Clone, Debug)]
pub struct SlotTable {
    pub(super) table: Arc<Table>,
}

impl SlotTable {
    /// A slot for a session or request that opened at `started_at_us` (µs since the Unix epoch). `note` is the identity part of its
    /// records, at most [`super::NOTE_BYTES_MAX`] bytes.
    pub fn open(&self, kind: SlotKind, started_at_us: u64, note: &[u8]) -> Result<Slot, SlotsFull> {
        self.open_with(kind, 0, started_at_us, note)
    }

    /// [`Self::open`], for a slot that says from its first store on how many requests there are ([`Slot::requests`]).
    pub fn open_with(&self, kind: SlotKind, requests: u64, started_at_us: u64, note: &[u8]) -> Result<Slot, SlotsFull> {
        let (chunk, entry) = self.table.take()?;
        let opened_in = self.table.syncs_begun.load(Ordering::Relaxed);
        let generation = chunk.begin(entry, kind, requests, started_at_us, note);
        Ok(Slot::new(Arc::clone(&self.table), chunk, entry, generation, opened_in))
    }

    /// Slots in use.
    pub fn open_count(&self) -> u32 {
        let state = lock(&self.table.state);
        state.open - state.closed.len() as u32
    }

    /// What is stored by now, to ask [`Self::is_synced`] for later.
    pub fn stored(&self) -> Stored {
        Stored(syncs_begun(&self.table.syncs_begun))
    }

    /// Whether all that was stored then survives a power cut.
    pub fn is_synced(&self, stored: Stored) -> bool {
        self.table.syncs_done.load(Ordering::Acquire) > stored.0
    }

    /// Slots whose owner went without freeing them; they are recovered at the next start.
    pub fn orphans(&self) -> u64 {
        self.table.orphans.load(Ordering::Relaxed)
    }
}

/// A moment in the life of all slots of a shard ([`SlotTable::stored`]).
#[derive(Clone, Copy, Debug)]
pub struct Stored(u64);

/// What [`Slot::begin_record`] stated and [`super::Writer::append`] makes true or takes back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Intent {
    pub(super) seq: u64,
    pub(super) about: SlotRef,
    /// Which `recorded` block; for a close there is none.
    which: Option<usize>,
}

#[derive(Debug)]
pub(super) struct Table {
    pub(super) directory: PathBuf,
    epoch: u32,
    shard: u16,
    entries: u32,
    slots_max: u32,
    state: Mutex<State>,
    orphans: AtomicU64,
    /// Syncs of the slots that have begun, and the number of the last that ended.
    syncs_begun: AtomicU64,
    syncs_done: AtomicU64,
    /// Lower seqs survive a power cut.
    durable_seq: AtomicU64,
    /// A sum waits for the next sync.
    sums_wait: AtomicBool,
    /// The intent, in words that one thread stores and loads: seq, slot reference, block.
    intent_seq: AtomicU64,
    intent_about: AtomicU64,
    intent_which: AtomicU32,
}

#[derive(Debug, Default)]
struct State {
    chunks: Vec<Arc<Chunk>>,
    /// Free entries of each chunk, the last freed last.
    free: Vec<Vec<u32>>,
    /// Seq and number of slots that are free once that record survives a power cut.
    closed: Vec<(u64, u32)>,
    /// No chunk below it has a free entry.
    lowest: usize,
    free_count: u32,
    open: u32,
}

impl State {
    fn add(&mut self, chunk: Chunk) {
        let free: Vec<u32> =
            (0..chunk.entries).rev().filter(|entry| chunk.generation(*entry).is_multiple_of(2)).collect();
        self.open += chunk.entries - free.len() as u32;
        self.free_count += free.len() as u32;
        self.chunks.push(Arc::new(chunk));
        self.free.push(free);
        self.lowest = 0;
    }

    fn take(&mut self) -> Option<(Arc<Chunk>, u32)> {
        while let Some(free) = self.free.get_mut(self.lowest) {
            if let Some(entry) = free.pop() {
                self.free_count -= 1;
                self.open += 1;
                return Some((Arc::clone(&self.chunks[self.lowest]), entry));
            }
            self.lowest += 1;
        }
        None
    }
}

impl Table {
    /// A table over `chunks` (none for a new shard), numbered from 0 without a hole.
    pub(super) fn new(directory: PathBuf, epoch: u32, shard: u16, slots_max: u32, chunks: Vec<Chunk>) -> Self {
        let entries = chunks.first().map_or(Self::chunk_entries(slots_max), |chunk| chunk.entries);
        let mut state = State::default();
        for chunk in chunks {
            state.add(chunk);
        }
        Self {
            directory,
            epoch,
            shard,
            entries,
            slots_max,
            state: Mutex::new(state),
            orphans: AtomicU64::new(0),
            syncs_begun: AtomicU64::new(0),
            syncs_done: AtomicU64::new(0),
            durable_seq: AtomicU64::new(0),
            sums_wait: AtomicBool::new(false),
            intent_seq: AtomicU64::new(NO_SEQ),
            intent_about: AtomicU64::new(0),
            intent_which: AtomicU32::new(0),
        }
    }

    /// Slots of a chunk file, where up to `slots_max` are wanted.
    pub(super) fn chunk_entries(slots_max: u32) -> u32 {
        ENTRIES.min(slots_max)
    }

    fn take(&self) -> Result<(Arc<Chunk>, u32), SlotsFull> {
        {
            let mut state = lock(&self.state);
            if state.open >= self.slots_max {
                return Err(SlotsFull::Taken { max: self.slots_max });
            }
            if let Some(taken) = state.take() {
                return Ok(taken);
            }
        }
        self.grow().map_err(
            |error| {
                if is_disk_full(&error) { SlotsFull::Disk(error) } else { SlotsFull::Failed(error) }
            },
        )?;
        lock(&self.state).take().ok_or(SlotsFull::Taken { max: self.slots_max })
    }

    /// Adds a chunk. Two threads may try at once: the one that makes the file adds it.
    pub(super) fn grow(&self) -> Result<(), Error> {
        let number = lock(&self.state).chunks.len();
        let chunk = Chunk::create(&self.directory, self.epoch, self.shard, number as u32, self.entries);
        let mut state = lock(&self.state);
        if state.chunks.len() == number {
            state.add(chunk?);
        }
        Ok(())
    }

    /// Makes the next chunk before it is needed. Called by the keeper.
    pub(super) fn prepare(&self) -> Result<(), Error> {
        let wanted = {
            let state = lock(&self.state);
            let all = state.free_count + state.open;
            state.free_count < self.entries / 8 && all < self.slots_max
        };
        if wanted { self.grow() } else { Ok(()) }
    }

    /// The chunks there are.
    pub(super) fn chunks(&self) -> Vec<Arc<Chunk>> {
        lock(&self.state).chunks.clone()
    }

    pub(super) fn number(&self, chunk: &Chunk, entry: u32) -> u32 {
        chunk.number * self.entries + entry
    }

    /// Ends a slot that was opened when so many syncs had begun.
    pub(super) fn free(&self, chunk: &Chunk, entry: u32, opened_in: u64) {
        let mut state = lock(&self.state);
        if opened_in != self.syncs_begun.load(Ordering::Relaxed) {
            let seq = chunk.closing_seq(entry);
            if seq != NO_SEQ && sum_of(seq).is_none() && seq >= self.durable_seq.load(Ordering::Relaxed) {
                state.closed.push((seq, self.number(chunk, entry)));
                return;
            }
        }
        self.free_now(state, chunk, entry);
    }

    fn free_now(&self, mut state: MutexGuard<'_, State>, chunk: &Chunk, entry: u32) {
        let at = chunk.number as usize;
        chunk.free(entry);
        state.free[at].push(entry);
        state.lowest = state.lowest.min(at);
        state.free_count += 1;
        state.open -= 1;
        let all_free = state.free[at].len() as u32 == chunk.entries;
        // Only where the chunks below have room, or the next open would bring the pages back at once.
        if all_free && at > 0 && state.free_count - chunk.entries >= self.entries / 4 {
            drop(state);
            if let Err(error) = chunk.mapping.give_pages_back() {
                tracing::debug!(%error, path = %chunk.path.display(), "slots keep their pages");
            }
        }
    }

    /// Records below `seq` survive a power cut; `u64::MAX` where nothing does any more.
    pub(super) fn records_are_durable(&self, seq: u64) {
        let closed = {
            let mut state = lock(&self.state);
            if seq != u64::MAX {
                self.durable_seq.store(seq, Ordering::Relaxed);
            }
            state.closed.extract_if(.., |(closing, _)| *closing < seq).collect::<Vec<_>>()
        };
        for (_, number) in closed {
            let state = lock(&self.state);
            let chunk = Arc::clone(&state.chunks[(number / self.entries) as usize]);
            self.free_now(state, &chunk, number % self.entries);
        }
    }

    /// A sync of the slots begins; its number.
    pub(super) fn sync_begins(&self) -> u64 {
        self.sums_wait.store(false, Ordering::Relaxed);
        begin_sync(&self.syncs_begun)
    }

    /// The sync of that number has ended: what had been stored when it began survives a power cut.
    pub(super) fn sync_ended(&self, number: u64) {
        self.syncs_done.fetch_max(number, Ordering::Release);
    }

    /// A sum goes on once the slots have been synced.
    pub(super) fn ask_for_sync(&self) {
        self.sums_wait.store(true, Ordering::Relaxed);
    }

    /// Whether one waits.
    pub(super) fn is_asked_for_sync(&self) -> bool {
        self.sums_wait.load(Ordering::Relaxed)
    }

    /// Removes the files, if there are some and no slot is open; whether it did.
    pub(super) fn remove(&self) -> Result<bool, Error> {
        let mut state = lock(&self.state);
        if state.open > 0 || state.chunks.is_empty() {
            return Ok(false);
        }
        for chunk in std::mem::take(&mut *state).chunks {
            remove_if_there(&chunk.path)?;
        }
        Ok(true)
    }

    pub(super) fn orphan(&self) {
        self.orphans.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn set_note(&self, chunk: &Chunk, entry: u32, note: &[u8]) {
        if chunk.set_note_beside(entry, note) {
            return;
        }
        // The lock is for the chunk's one page that the note passes through.
        let state = lock(&self.state);
        chunk.set_note_by_the_page(entry, note);
        drop(state);
    }

    pub(super) fn begin_record(
        &self,
        chunk: &Chunk,
        entry: u32,
        generation: u64,
        seq: u64,
        totals: &Counters,
        closing: bool,
    ) {
        if let Some(forgotten) = self.take_intent() {
            self.revoke(&forgotten);
        }
        let which = if closing {
            chunk.set_closing_seq(entry, seq);
            None
        } else {
            Some(self.begin_recorded(chunk, entry, seq, totals))
        };
        let about = SlotRef::new(self.number(chunk, entry), generation, closing);
        let about = u64::from(about.slot) | u64::from(about.generation) << 32;
        self.intent_about.store(about, Ordering::Relaxed);
        let which = which.map_or(u32::MAX, |which| which as u32);
        self.intent_which.store(which, Ordering::Relaxed);
        self.intent_seq.store(seq, Ordering::Relaxed);
    }

    pub(super) fn begin_recorded(&self, chunk: &Chunk, entry: u32, seq: u64, totals: &Counters) -> usize {
        chunk.begin_recorded(entry, seq, totals, self.durable_seq.load(Ordering::Relaxed))
    }

    #[inline]
    pub(super) fn take_intent(&self) -> Option<Intent> {
        let seq = self.intent_seq.load(Ordering::Relaxed);
        if seq == NO_SEQ {
            return None;
        }
        self.intent_seq.store(NO_SEQ, Ordering::Relaxed);
        let about = self.intent_about.load(Ordering::Relaxed);
        let which = self.intent_which.load(Ordering::Relaxed);
        Some(Intent {
            seq,
            about: SlotRef { slot: about as u32, generation: (about >> 32) as u32 },
            which: (which != u32::MAX).then_some(which as usize),
        })
    }

    /// Takes an intent back whose record was not published: its seq will be another's.
    pub(super) fn revoke(&self, intent: &Intent) {
        let Some(number) = intent.about.number() else {
            return;
        };
        let chunk = {
            let state = lock(&self.state);
            Arc::clone(&state.chunks[(number / self.entries) as usize])
        };
        let entry = number % self.entries;
        // Freed in between, it may be another's by now, whose generation differs.
        if chunk.generation(entry) as u32 != intent.about.generation {
            return;
        }
        match intent.which {
            Some(which) => chunk.revoke_recorded(entry, which),
            None => chunk.set_closing_seq(entry, NO_SEQ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Column;

    fn table(slots_max: u32) -> (tempfile::TempDir, SlotTable) {
        let directory = tempfile::tempdir().unwrap();
        let table = Table::new(directory.path().to_owned(), 1, 0, slots_max, vec![]);
        let slots = SlotTable { table: Arc::new(table) };
        (directory, slots)
    }

    #[test]
    fn slots_end_where_they_should_and_come_back() {
        let (_directory, slots) = table(100);
        let open = || slots.open(SlotKind::Request, 1, b"n");
        let mut all: Vec<Slot> = (0..100).map(|_| open().unwrap()).collect();
        assert!(matches!(open(), Err(SlotsFull::Taken { max: 100 })));
        all.pop().unwrap().free();
        all.push(open().unwrap());
        assert_eq!(slots.open_count(), 100);
        all.into_iter().for_each(Slot::free);
        assert_eq!((slots.open_count(), slots.orphans()), (0, 0));
    }

    #[test]
    fn chunks_are_added_and_the_lowest_is_used_first() {
        let (_directory, slots) = table(10_000);
        let open = || slots.open(SlotKind::Request, 1, b"").unwrap();
        let all: Vec<Slot> = (0..9000).map(|_| open()).collect();
        assert_eq!(slots.table.chunks().len(), 3);
        for slot in &all {
            slot.add(Column::SentApp, 3);
        }
        let views: Vec<_> = all.iter().map(Slot::view).collect();
        assert!(views.iter().all(|view| view.read().unwrap().totals.sent_app == 3));
        all.into_iter().for_each(Slot::free);
        assert!(views.iter().all(|view| view.read().is_none()));
        let slot = open();
        assert_eq!(slots.table.number(&slots.table.chunks()[0], 0) / ENTRIES, 0);
        assert_eq!(slot.totals(), Counters::default());
        slot.free();
    }

    #[test]
    fn a_slot_dropped_without_free_stays_live() {
        let (_directory, slots) = table(10);
        let slot = slots.open(SlotKind::Session, 1, b"").unwrap();
        let view = slot.view();
        drop(slot);
        assert!(view.is_live());
        assert_eq!(slots.orphans(), 1);
    }
}
