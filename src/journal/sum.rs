//! A sum: a slot that takes what others counted, once each, whatever is killed and whenever the power goes.
//!
//! What a slot has counted goes into a sum in four steps, the slots being synced between each and the next, many slots at a time:
//!
//! | step     | stores                                                        | a power cut before its sync             |
//! |----------|---------------------------------------------------------------|-----------------------------------------|
//! | *state*  | in each giving slot: closed once the sum has version n        | the slot is live: it is nobody's yet    |
//! | *store*  | in the sum, under a checksum: the new totals, as version n    | the version counts or not, for all      |
//! | *free*   | in each giving slot: free                                     | the sum has it, and the slot says so    |
//! | *record* | the record of the sum; its slot is freed once that is durable | the sum is there, and no slot names it  |
//!
//! Any other order lets the disk keep the new sum and the old slot (counted twice) or the old sum and the freed slot (lost), for pages
//! reach it in any order. A killed process leaves all its stores: there the one store of the version moves all of a batch at once.
//! Between two steps a slot waits for a sync (`sync_interval`), so there are at most three intervals' slots on their way.

use super::chunk::into_sum;
use super::slots::Slot;
use crate::units::Counters;

/// A slot that takes what others counted. Its [`super::SlotKind`] is one of a sum.
#[derive(Debug)]
pub struct Sum {
    slot: Slot,
    /// To be stated, each with what it counted.
    waiting: Vec<(Slot, Counters)>,
    /// They say that they are closed with the next version, which has these totals.
    stated: Vec<Slot>,
    stated_totals: Counters,
    /// The sum has them.
    stored: Vec<Slot>,
    /// Some were freed since the last sync.
    has_freed: bool,
}

impl Sum {
    /// A sum of nothing in a slot of its own.
    pub fn new(slot: Slot) -> Self {
        let (_, stated_totals) = slot.sum();
        Self { slot, waiting: Vec::new(), stated: Vec::new(), stated_totals, stored: Vec::new(), has_freed: false }
    }

    /// The slot that it is in.
    pub fn slot(&self) -> &Slot {
        &self.slot
    }

    /// Ends `slot` by moving `counted` of it here. Until that is done it stays as it is.
    pub fn take(&mut self, slot: Slot, counted: Counters) {
        self.waiting.push((slot, counted));
        self.slot.table().ask_for_sync();
    }

    /// Goes on by a step. All that was stored when the last one was made has been synced ([`super::SlotTable::is_synced`]).
    pub fn step(&mut self) {
        self.has_freed = !self.stored.is_empty();
        self.stored.drain(..).for_each(Slot::free);
        self.store();
        self.state();
        if !self.is_settled() {
            self.slot.table().ask_for_sync();
        }
    }

    fn state(&mut self) {
        let table = self.slot.table();
        let number = table.number(self.slot.chunk(), self.slot.entry());
        let mut totals = self.slot.sum().1;
        for (slot, counted) in self.waiting.drain(..) {
            // 2^64 bytes in a sum: the slot stays live, for the next start.
            let Some(sum) = totals.checked_add(&counted) else { continue };
            totals = sum;
            self.stated.push(slot);
        }
        self.stated_totals = totals;
        let version = self.next_version();
        for slot in &self.stated {
            slot.chunk().set_closing_seq(slot.entry(), into_sum(number, version));
        }
    }

    fn store(&mut self) {
        if self.stated.is_empty() {
            return;
        }
        let version = self.next_version();
        let (chunk, entry) = (self.slot.chunk(), self.slot.entry());
        let which = chunk.fill_block(entry, version, &self.stated_totals, version);
        chunk.store_seq(entry, which, version);
        self.stored.append(&mut self.stated);
    }

    /// A sum's version is how many it has taken.
    fn next_version(&self) -> u64 {
        self.slot.sum().0 + self.stated.len() as u64
    }

    /// Whether all that it was to take is its own and nothing but it says so: now it can be recorded.
    pub fn is_settled(&self) -> bool {
        self.waiting.is_empty() && self.stated.is_empty() && self.stored.is_empty() && !self.has_freed
    }

    /// How many slots it has taken, and what they counted.
    pub fn taken(&self) -> (u64, Counters) {
        self.slot.sum()
    }

    /// Ends it, once its record is published.
    pub fn free(self) {
        self.slot.free();
    }
}

#[cfg(test)]
impl Sum {
    /// Whether something of it waits, is stated, stored or freed, or nothing is.
    pub(super) const STEPS: [fn(&Self) -> bool; 5] = [
        |sum| !sum.waiting.is_empty(),
        |sum| !sum.stated.is_empty(),
        |sum| !sum.stored.is_empty(),
        |sum| sum.has_freed,
        Self::is_settled,
    ];
}
