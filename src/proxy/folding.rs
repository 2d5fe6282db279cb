//! Sums of what is not recorded one by one: requests while the journal is nearly full (*folding*), and closes that no record has
//! room for (the *gap*).
//!
//! A sum lives in a slot of its own, as safe from a kill and from a power cut as any other; what slots counted moves there in steps, the
//! slots being synced in between ([`crate::journal::Sum`]). Detail is lost, bytes are not: a folded sum keeps account, endpoint, hour and
//! reason.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use crate::event::{Fields, Kind, Reason};
use crate::journal::{SlotTable, Stored, Sum};

/// How many sums there may be at once in a shard; what would need another is summed up in the gap.
pub const SUMS_MAX: usize = 1000;

/// Whose requests a sum holds.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Key {
    /// Account and endpoint, as a record's fields.
    pub note: Vec<u8>,
    /// The UTC hour, µs.
    pub hour_us: i64,
    /// Why they are not billable; `Unspecified` where they are.
    pub reason: Reason,
}

/// A sum being made, and what its record will say.
pub struct Tally {
    /// What it is.
    pub sum: Sum,
    /// Of requests, or a gap.
    pub kind: Kind,
    /// Why its requests are not billable.
    pub reason: Reason,
    /// When it began, µs.
    pub started_at_us: i64,
    /// The end of what it is a sum of, µs.
    pub ends_at_us: i64,
}

/// When request records give way to sums: percent of the journal's budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoldMarks {
    /// Begin above it; 100: never.
    pub above_percent: u64,
    /// End below it.
    pub below_percent: u64,
}

impl FoldMarks {
    /// Requests are always recorded one by one, while there is room.
    pub const NEVER: Self = Self { above_percent: 100, below_percent: 100 };

    /// Whether to fold from now on.
    pub fn folds(self, is_folding: bool, used_percent: u64) -> bool {
        self.above_percent < 100
            && (used_percent >= self.above_percent || (is_folding && used_percent >= self.below_percent))
    }
}

/// The sums of a shard.
#[derive(Default)]
pub struct Folding {
    /// Requests are summed up.
    pub is_on: Cell<bool>,
    /// What was.
    pub sums: RefCell<HashMap<Key, Tally>>,
    /// What was closed and had no room.
    pub gap: RefCell<Option<Tally>>,
    /// Those that take no more: recorded once all they took is theirs, and there is room.
    pub leaving: RefCell<Vec<Tally>>,
    /// When they last went on.
    stored: Cell<Option<Stored>>,
}

impl Folding {
    /// How many sums of requests there are.
    pub fn count(&self) -> usize {
        self.sums.borrow().len() + self.leaving.borrow().len()
    }

    /// The gap takes no more.
    pub fn leave_gap(&self) {
        self.leaving.borrow_mut().extend(self.gap.borrow_mut().take());
    }

    /// Sums of other hours than this one, or all, take no more.
    pub fn leave(&self, but_hour_us: Option<i64>) {
        let mut sums = self.sums.borrow_mut();
        let left = sums.extract_if(|key, _| Some(key.hour_us) != but_hour_us);
        self.leaving.borrow_mut().extend(left.map(|(_, tally)| tally));
    }

    /// All sums go on by a step if the slots have been synced since the last.
    pub fn step(&self, slots: &SlotTable) {
        if self.stored.get().is_some_and(|stored| !slots.is_synced(stored)) {
            return;
        }
        self.sums.borrow_mut().values_mut().for_each(|tally| tally.sum.step());
        self.gap.borrow_mut().iter_mut().chain(&mut *self.leaving.borrow_mut()).for_each(|tally| tally.sum.step());
        self.stored.set(Some(slots.stored()));
    }

    /// Whether a sum is still to take something.
    pub fn is_moving(&self) -> bool {
        let is_moving = |tally: &Tally| !tally.sum.is_settled();
        self.sums.borrow().values().any(is_moving)
            || self.gap.borrow().iter().any(is_moving)
            || self.leaving.borrow().iter().any(is_moving)
    }
}

/// The account and endpoint of a note, as fields; a field stated twice takes the later value.
pub fn whose(note: &[u8]) -> Vec<u8> {
    let (mut account, mut endpoint): (&[u8], &[u8]) = (&[], &[]);
    let mut fields = Fields::new(note);
    while let Some((number, field)) = fields.next_whole() {
        match number {
            5 => account = field,
            6 => endpoint = field,
            _ => {}
        }
    }
    [account, endpoint].concat()
}

/// The fields at a note's beginning that end within so many bytes.
#[cold]
pub fn whole_fields(note: &[u8], bytes_max: usize) -> &[u8] {
    let mut fields = Fields::new(note);
    let mut whole = 0;
    while let Some((_, field)) = fields.next_whole()
        && whole + field.len() <= bytes_max
    {
        whole += field.len();
    }
    &note[..whole]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{RequestNote, UsageRecord};
    use crate::ids::Id;
    use prost::Message;

    #[test]
    fn whose_it_is_is_the_last_that_was_said() {
        let mut note = Vec::new();
        RequestNote { account: "a", endpoint: "e", host: "h", ..RequestNote::default() }.encode(&mut note);
        RequestNote::encode_id(Id([5; 16]), &mut note);
        RequestNote { account: "b", method: "GET", ..RequestNote::default() }.encode(&mut note);
        let record = UsageRecord::decode(whose(&note).as_slice()).unwrap();
        assert_eq!((record.account.as_str(), record.endpoint.as_str(), record.host.as_str()), ("b", "e", ""));
        for cut in 0..note.len() {
            assert!(UsageRecord::decode(whose(&note[..cut]).as_slice()).is_ok(), "{cut}");
        }
    }

    #[test]
    fn a_note_is_cut_between_fields() {
        let mut note = Vec::new();
        RequestNote { account: "a", endpoint: "e", host: "h", ..RequestNote::default() }.encode(&mut note);
        for bytes in 0..=note.len() + 1 {
            let whole = whole_fields(&note, bytes);
            assert!(whole.len() <= bytes && bytes.min(note.len()) - whole.len() < 4, "{bytes}");
            UsageRecord::decode(whole).unwrap();
        }
    }

    #[test]
    fn it_begins_above_one_mark_and_ends_below_the_other() {
        let marks = FoldMarks { above_percent: 75, below_percent: 50 };
        assert!(!marks.folds(false, 74) && marks.folds(false, 75));
        assert!(marks.folds(true, 50) && !marks.folds(true, 49));
        assert!(!FoldMarks::NEVER.folds(true, 100));
    }
}
