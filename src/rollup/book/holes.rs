//! What did not come: gaps, what gap records say of them, and what later epochs say of earlier ones.

use super::entries::of_bytes;
use super::{Book, GAP};
use crate::clock::hour_of;
use crate::event::{RecordView, ShardEnd, UNATTRIBUTED};
use crate::rollup::catalog::Named;
use crate::rollup::gaps::{self, Statement};
use crate::rollup::item::{add, bytes_of, negative};
use crate::store::{Kind, Sums};
use crate::units::COLUMNS;
use crate::wire::{Finding, StreamId};

impl Book {
    /// An earlier shard of this node is said to have ended: what of it did not come is a gap, from the last that is known of it to its
    /// end.
    pub(super) fn ended(&mut self, by: &StreamId, end: &ShardEnd) {
        let Some((stream, findings)) = self.verifier.ended(by, end) else { return };
        let note = self.notes.entry(stream.clone()).or_default();
        note.last_at_us = note.last_at_us.max(end.started_at);
        let between = (note.last_at_us, note.last_at_us.max(end.ended_at));
        let given_up = findings.into_iter().filter_map(|finding| match finding {
            Finding::GivenUp(seqs) => Some(seqs),
            _ => None,
        });
        self.regap(&stream, &given_up.collect::<Vec<_>>(), between);
        self.changed.streams.insert(stream);
    }

    pub(super) fn gap(&mut self, stream: &StreamId, record: &RecordView<'_>, hour_us: i64) {
        let delta = bytes_of(record.deltas());
        let counted = match record.gap_range() {
            None => true,
            Some(range) => {
                let of = StreamId { node: stream.node.clone(), epoch: range.epoch, shard: range.shard };
                let seqs = range.first_seq..range.next_seq;
                let came = gaps::came(self.verifier.stream(&of), &seqs);
                // Nothing of it may ever come: it is known by what is said of it.
                if self.verifier.stream(&of).is_none()
                    && self.verifier.take_records(of.clone(), 0, 0, Vec::new()).is_err()
                {
                    return;
                }
                let note = self.notes.entry(of.clone()).or_default();
                let is_stated =
                    note.statements.iter().any(|said| said.seqs.start < seqs.end && seqs.start < said.seqs.end);
                // What of it was read counts as it was read; then the sums cannot be told apart, and later totals say the rest.
                let counted = came == 0 && !is_stated;
                note.statements.push(Statement { seqs, counted: counted.then_some((delta, hour_us)) });
                let between = (note.last_at_us, note.last_at_us.max(record.at));
                self.regap(&of, &[], between);
                self.changed.streams.insert(of);
                counted
            }
        };
        if counted {
            if let Some(note) = self.notes.get_mut(stream) {
                add(&mut note.tally.gaps_counted, &delta);
            }
            let sums = Sums { bytes: delta, records: 1, ..Sums::default() };
            self.add(gap_series(), hour_us, &sums);
        }
    }

    /// Records that a gap record had summed up came after all: its sums no longer count.
    pub(super) fn take_back_statements(&mut self, stream: &StreamId, filled: &std::ops::Range<u64>) {
        let Some(note) = self.notes.get_mut(stream) else { return };
        let mut back = Vec::new();
        for said in &mut note.statements {
            if said.seqs.start < filled.end && filled.start < said.seqs.end {
                back.extend(said.counted.take());
            }
        }
        for (bytes, hour_us) in back {
            if let Some(note) = self.notes.get_mut(stream) {
                // Of the stream that they are about, so that sums over all streams agree.
                add(&mut note.tally.gaps_counted, &negative(&bytes));
            }
            self.add(gap_series(), hour_us, &Sums { bytes: negative(&bytes), records: -1, ..Sums::default() });
        }
    }

    pub(super) fn regap(&mut self, id: &StreamId, given_up: &[std::ops::Range<u64>], between: (i64, i64)) {
        let (Some(stream), Some(note)) = (self.verifier.stream(id), self.notes.get_mut(id)) else { return };
        note.gaps = gaps::now(&note.gaps, stream, given_up, &note.statements, between);
    }

    /// Nothing more is missing of this stream. Complete: and nothing more will come.
    pub(super) fn settle(&mut self, stream: &StreamId, is_complete: bool) {
        let ours: Vec<[u8; 16]> = self
            .items
            .iter()
            .filter(|(_, (of, item))| of == stream && (is_complete || item.is_closed))
            .map(|(id, _)| *id)
            .collect();
        for id in ours {
            let Some((_, item)) = self.items.get_mut(&id) else { continue };
            let debt = std::mem::replace(&mut item.debt, [0; COLUMNS]);
            let at_us = item.last_at_us;
            let is_whole = item.is_whole();
            self.changed.items.insert(id);
            if is_whole {
                self.items.remove(&id);
            }
            if debt != [0; COLUMNS] {
                // Its close had no room and is part of a gap record, which holds what these requests moved.
                let last_at_us = self.notes.get(stream).map_or(0, |note| note.last_at_us);
                self.add(gap_series(), hour_of(at_us.unwrap_or(last_at_us)), &of_bytes(negative(&debt)));
            }
        }
    }
}

/// Billed to nobody: what gap records state belongs to whoever it was, and they do not say.
fn gap_series() -> Named<'static> {
    Named {
        kind: Kind::Gap,
        account: UNATTRIBUTED,
        endpoint: "",
        host: "",
        protocol: "",
        country: "",
        status_class: 0,
        billable: false,
        reason: GAP,
        corrects: "",
        correction: "",
    }
}
