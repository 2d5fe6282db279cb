//! One open session or request: what its records brought, and what its totals say there is.

use serde::{Deserialize, Serialize};

use super::gaps::signed;
use crate::event::{Kind, Phase, RecordView};
use crate::store::Series;
use crate::units::{COLUMNS, Counters};

/// Bytes by column; signed, for sums that are taken from.
pub(super) type Bytes = [i64; COLUMNS];

/// A session or request. Records may come in any order: all of it only adds up, or takes the larger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Item {
    /// Seq of its first record, once that came.
    pub(super) opened_seq: Option<u64>,
    /// Sum of the deltas that came.
    counted: Bytes,
    /// Highest totals that any record stated.
    stated: Bytes,
    /// Who pays, as a record said.
    pub(super) account: String,
    /// Sessions: what its requests' records brought since its own last record.
    pub(super) debt: Bytes,
    /// Sessions: overhead that was billed so far.
    pub(super) beyond: Bytes,
    /// Sessions: closes of its requests.
    pub(super) closes: i64,
    /// Sessions: requests begun.
    pub(super) requests: i64,
    /// Time of its latest record, µs.
    pub(super) last_at_us: Option<i64>,
    /// It has closed.
    pub(super) is_closed: bool,
    /// Sessions: how it closed.
    pub(super) closed: Option<Closed>,
}

/// A session that has closed, kept because a record of it may still come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Closed {
    /// Where its overhead went.
    pub(super) series: Series,
    /// Its overhead is not billed.
    pub(super) unitemised: bool,
}

impl Default for Item {
    fn default() -> Self {
        let none = [0; COLUMNS];
        Self {
            opened_seq: None,
            counted: none,
            stated: none,
            account: String::new(),
            debt: none,
            beyond: none,
            closes: 0,
            requests: 0,
            last_at_us: None,
            is_closed: false,
            closed: None,
        }
    }
}

impl Item {
    /// A record of it came.
    pub(super) fn take(&mut self, seq: u64, delta: &Bytes, total: &Bytes, record: &RecordView<'_>) {
        // A session's first record is its open, whatever that says; requests have none, and the first says all that there is.
        let is_first = if record.kind() == Kind::Session { record.phase() == Phase::Open } else { delta == total };
        if is_first {
            self.opened_seq = Some(self.opened_seq.map_or(seq, |known| known.min(seq)));
        }
        add(&mut self.counted, delta);
        for (stated, total) in self.stated.iter_mut().zip(total) {
            *stated = (*stated).max(*total);
        }
        if self.account != record.account {
            self.account.replace_range(.., &record.account);
        }
    }

    /// What its totals state and no record brought.
    pub(super) fn missing(&self) -> Bytes {
        std::array::from_fn(|column| self.stated[column] - self.counted[column])
    }

    /// Whether its records brought all that they state.
    pub(super) fn is_whole(&self) -> bool {
        self.stated == self.counted
    }
}

/// Counters as the store has them.
pub(super) fn bytes_of(counters: Counters) -> Bytes {
    counters.to_array().map(signed)
}

/// Adds, column by column.
pub(super) fn add(to: &mut Bytes, bytes: &Bytes) {
    for (to, bytes) in to.iter_mut().zip(bytes) {
        *to = to.saturating_add(*bytes);
    }
}

/// Column by column.
pub(super) fn minus(a: &Bytes, b: &Bytes) -> Bytes {
    std::array::from_fn(|column| a[column].saturating_sub(b[column]))
}

/// The other way.
pub(super) fn negative(bytes: &Bytes) -> Bytes {
    minus(&[0; COLUMNS], bytes)
}
