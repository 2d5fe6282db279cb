//! What had to be given up, summed up for a gap record.

use std::sync::{Arc, Mutex};

use prost::Message;

use super::{Kind, UsageRecord};
use crate::units::Counters;

/// Records that are gone, and what they stated.
#[derive(Clone, Copy, Debug, Default)]
pub struct Loss {
    /// How many.
    pub records: u64,
    /// What their sessions moved.
    pub counters: Counters,
}

/// Losses on their way to a worker that can record them.
pub type Losses = Arc<Mutex<Vec<Loss>>>;

impl Loss {
    /// One more record is gone.
    pub fn add(&mut self, record: &[u8]) {
        self.records += 1;
        let Ok(record) = UsageRecord::decode(record) else { return };
        // A session's record holds what its requests moved.
        if matches!(record.kind(), Kind::Session | Kind::Gap) {
            self.counters = self.counters.checked_add(&record.deltas()).unwrap_or(self.counters);
        }
    }
}
