//! What did not come, as the ledger should know it.

use std::collections::{BTreeSet, HashMap};

use super::deltas;
use crate::event::{Kind as RecordKind, UsageRecord};
use crate::ids::hex;
use crate::store::Store;
use crate::wire::StreamId;

/// What did not come, as the ledger should know it.
#[derive(Default)]
pub(super) struct Lost {
    /// Exactly what did not come below what came.
    pub(super) gaps: Vec<(String, i64, i64, i64)>,
    /// To the byte, wherever a later record of the same session or request came: received, sent, acknowledged.
    pub(super) missing: HashMap<String, [i64; 3]>,
}

impl Lost {
    /// `end`: behind the last seq that the ledger can know of.
    pub(super) fn add(&mut self, id: StreamId, stream: &[UsageRecord], came: &BTreeSet<u64>, end: u64) {
        let mut missing = (0..end).filter(|seq| !came.contains(seq)).peekable();
        while let Some(first) = missing.next() {
            let mut next = first + 1;
            while missing.next_if_eq(&next).is_some() {
                next += 1;
            }
            self.gaps.push((id.node.clone(), i64::from(id.epoch), first as i64, next as i64));
        }
        let last: HashMap<String, u64> = came.iter().map(|seq| (item_id(&stream[*seq as usize]), *seq)).collect();
        for (seq, record) in stream.iter().enumerate().filter(|(seq, _)| !came.contains(&(*seq as u64))) {
            let id = item_id(record);
            if !id.is_empty() && last.get(&id).is_some_and(|last| *last > seq as u64) {
                let bytes = deltas(record);
                let missing = self.missing.entry(id).or_default();
                missing.iter_mut().zip([bytes[1], bytes[4], bytes[6]]).for_each(|(sum, bytes)| *sum += bytes);
            }
        }
    }

    pub(super) async fn check(mut self, store: &Store, what: &str) {
        let found = store.load().await.unwrap();
        let mut gaps: Vec<_> = found
            .gaps
            .iter()
            .map(|gap| (gap.place.node.clone(), gap.place.epoch, gap.first_seq, gap.next_seq))
            .collect();
        gaps.sort();
        self.gaps.sort();
        assert_eq!(gaps, self.gaps, "{what}: gaps");
        self.missing.retain(|_, bytes| *bytes != [0; 3]);
        let missing: HashMap<String, [i64; 3]> = found
            .items
            .iter()
            .map(|(id, row)| {
                (id.clone(), [row.missing_received_bytes, row.missing_sent_bytes, row.missing_acked_bytes])
            })
            .filter(|(_, missing)| *missing != [0; 3])
            .collect();
        assert_eq!(missing, self.missing, "{what}: missing bytes by later totals");
    }
}

pub(super) fn item_id(record: &UsageRecord) -> String {
    match record.kind() {
        RecordKind::Request => hex(&record.request_id),
        RecordKind::Session => hex(&record.session_id),
        _ => String::new(),
    }
}
