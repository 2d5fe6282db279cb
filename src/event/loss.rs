//! What had to be given up, summed up for a gap record.
//!
//! Who gives records up (the shipper, with sink `none`) states what goes and waits: the records stay until their gap record is as safe
//! as they were. Killed in between, both are there, and the gap record's range says so.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use prost::Message;

use super::encode::number;
use super::{Kind, UsageRecord};
use crate::units::Counters;

/// Records of one shard that are to go, and what they stated.
#[derive(Clone, Debug)]
pub struct Loss {
    /// Epoch of the shard.
    pub epoch: u32,
    /// The shard.
    pub shard: u16,
    /// The first seq that goes.
    pub first_seq: u64,
    /// The seq behind the last one that goes.
    pub next_seq: u64,
    /// How many closes and records go.
    pub records: u64,
    /// What their sessions moved.
    pub counters: Counters,
    /// Ranges of other shards that gap records among them named: they go on being named.
    pub elsewhere: Vec<SeqRange>,
    stated: Arc<AtomicBool>,
}

/// Consecutive seqs of one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeqRange {
    /// Epoch of the shard.
    pub epoch: u32,
    /// The shard.
    pub shard: u16,
    /// The first seq.
    pub first_seq: u64,
    /// The seq behind the last one.
    pub next_seq: u64,
}

impl SeqRange {
    /// The range, as a gap record names it.
    pub fn encode(&self, to: &mut Vec<u8>) {
        number(to, 65, u64::from(self.epoch));
        number(to, 66, u64::from(self.shard));
        number(to, 67, self.first_seq);
        number(to, 68, self.next_seq);
    }
}

/// Losses on their way to a worker that can record them.
pub type Losses = Arc<Mutex<Vec<Loss>>>;

impl Loss {
    /// Nothing lost yet, from this seq of this shard on.
    pub fn of(epoch: u32, shard: u16, first_seq: u64) -> Self {
        Self {
            epoch,
            shard,
            first_seq,
            next_seq: first_seq,
            records: 0,
            counters: Counters::default(),
            elsewhere: Vec::new(),
            stated: Arc::default(),
        }
    }

    /// One more record goes.
    pub fn add(&mut self, record: &[u8]) {
        let Ok(record) = UsageRecord::decode(record) else {
            self.records += 1;
            return;
        };
        self.records += u64::try_from(record.folded).unwrap_or(0).max(1);
        // A session's record holds what its requests moved.
        if matches!(record.kind(), Kind::Session | Kind::Gap) {
            self.counters = self.counters.checked_add(&record.deltas()).unwrap_or(self.counters);
        }
        let Some(range) = record.gap_range() else { return };
        if (range.epoch, range.shard) == (self.epoch, self.shard) {
            // What went before of the same shard is a part of this from here on.
            self.first_seq = self.first_seq.min(range.first_seq);
            return;
        }
        let touches = |known: &&mut SeqRange| {
            (known.epoch, known.shard) == (range.epoch, range.shard)
                && known.first_seq <= range.next_seq
                && range.first_seq <= known.next_seq
        };
        match self.elsewhere.iter_mut().find(touches) {
            Some(known) => {
                known.first_seq = known.first_seq.min(range.first_seq);
                known.next_seq = known.next_seq.max(range.next_seq);
            }
            None => self.elsewhere.push(range),
        }
    }

    /// Its gap record survives a power cut: what it stands for may go.
    pub fn is_stated(&self) -> bool {
        self.stated.load(Ordering::Acquire)
    }

    /// States that the gap record survives a power cut.
    pub fn set_stated(&self) {
        self.stated.store(true, Ordering::Release);
    }

    /// The range that goes.
    pub fn range(&self) -> SeqRange {
        SeqRange { epoch: self.epoch, shard: self.shard, first_seq: self.first_seq, next_seq: self.next_seq }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_that_goes_is_a_part_of_the_next() {
        let mut loss = Loss::of(3, 1, 50);
        let gap = |epoch, shard| UsageRecord {
            kind: Kind::Gap as i32,
            folded: 7,
            sent_app_bytes: 5,
            gap_epoch: epoch,
            gap_shard: shard,
            gap_first_seq: 20,
            gap_next_seq: 50,
            ..UsageRecord::default()
        };
        loss.add(&gap(3, 0).encode_to_vec());
        assert_eq!((loss.first_seq, loss.records, loss.counters.sent_app), (50, 7, 5));
        loss.add(&UsageRecord { gap_first_seq: 50, gap_next_seq: 60, ..gap(3, 0) }.encode_to_vec());
        assert_eq!(loss.elsewhere, [SeqRange { epoch: 3, shard: 0, first_seq: 20, next_seq: 60 }]);
        loss.add(&gap(3, 1).encode_to_vec());
        loss.add(
            &UsageRecord { kind: Kind::Request as i32, sent_app_bytes: 9, ..UsageRecord::default() }.encode_to_vec(),
        );
        assert_eq!((loss.first_seq, loss.records, loss.counters.sent_app), (20, 22, 15));
        loss.next_seq = 60;
        let mut bytes = Vec::new();
        loss.range().encode(&mut bytes);
        let read = UsageRecord::decode(bytes.as_slice()).unwrap();
        assert_eq!((read.gap_epoch, read.gap_shard, read.gap_first_seq, read.gap_next_seq), (3, 1, 20, 60));
        assert!(!loss.is_stated());
        loss.clone().set_stated();
        assert!(loss.is_stated());
    }
}
