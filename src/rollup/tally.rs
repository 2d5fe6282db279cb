//! Plain sums over a stream's records, whoever read them: what every step of the chain is compared by. No I/O, no clock.

use serde::{Deserialize, Serialize};

use super::item::{Bytes, add, bytes_of};
use crate::event::{End, Kind, Phase, RecordView};

/// Sums over records that are each there once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// How many records.
    pub records: i64,
    /// Deltas of session records.
    pub sessions: Bytes,
    /// Deltas of request records.
    pub requests: Bytes,
    /// Of these: sums of folded requests, which name no session.
    pub folded: Bytes,
    /// What gap records state, whether it counts or not.
    pub gaps: Bytes,
    /// Of these: what counts, because none of the records that it stands for was read.
    pub gaps_counted: Bytes,
    /// Closes of sessions.
    pub session_closes: i64,
    /// Closes of requests; a folded record stands for several.
    pub request_closes: i64,
    /// Closes that a successor wrote for a process that died.
    pub recovered: i64,
    /// Records whose audit says a difference to the kernel's counts.
    pub differences: i64,
    /// Sizes of writes in flight when a process died.
    pub uncertain_bytes: i64,
}

impl Tally {
    /// One more record.
    pub fn add(&mut self, record: &RecordView<'_>) {
        let delta = bytes_of(record.deltas());
        let is_close = record.phase() == Phase::Close;
        self.records += 1;
        self.differences += i64::from(!record.audit.is_empty());
        self.recovered += i64::from(is_close && record.end() == End::Recovered);
        self.uncertain_bytes += record.uncertain_bytes;
        match record.kind() {
            Kind::Session => {
                add(&mut self.sessions, &delta);
                self.session_closes += i64::from(is_close);
            }
            Kind::Request => {
                add(&mut self.requests, &delta);
                self.request_closes += if is_close { record.folded.max(1) } else { 0 };
                if record.session_id.len() != 16 {
                    add(&mut self.folded, &delta);
                }
            }
            Kind::Gap => add(&mut self.gaps, &delta),
            Kind::Node | Kind::Unspecified => {}
        }
    }

    /// Adds another's sums.
    pub fn join(&mut self, other: &Self) {
        self.records += other.records;
        for (to, from) in [
            (&mut self.sessions, &other.sessions),
            (&mut self.requests, &other.requests),
            (&mut self.folded, &other.folded),
            (&mut self.gaps, &other.gaps),
            (&mut self.gaps_counted, &other.gaps_counted),
        ] {
            add(to, from);
        }
        self.session_closes += other.session_closes;
        self.request_closes += other.request_closes;
        self.recovered += other.recovered;
        self.differences += other.differences;
        self.uncertain_bytes += other.uncertain_bytes;
    }
}
