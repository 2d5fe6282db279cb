//! Gaps of a stream with the times that they lie between, and what gap records say about them.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::item::Bytes;
use crate::store::{Gap, StreamPlace};
use crate::wire::{Cause, Missing, Stream};

/// Seqs that did not come.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Span {
    pub(super) seqs: Range<u64>,
    pub(super) cause: &'static str,
    pub(super) from_us: i64,
    pub(super) to_us: i64,
}

/// What a gap record says of a range of this stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Statement {
    pub(super) seqs: Range<u64>,
    /// Its sums, and the hour they were counted in; none where they were not counted.
    pub(super) counted: Option<(Bytes, i64)>,
}

const GIVEN_UP: &str = "given_up";

impl Span {
    pub(super) fn row(&self, place: &StreamPlace) -> Gap {
        Gap {
            place: place.clone(),
            first_seq: signed(self.seqs.start),
            next_seq: signed(self.seqs.end),
            cause: self.cause.to_owned(),
            from_us: self.from_us,
            to_us: self.to_us,
        }
    }

    pub(super) fn of(gap: &Gap) -> Self {
        let causes = ["missing", "before_start", "lost_by_sender", "stated", GIVEN_UP];
        Self {
            seqs: unsigned(gap.first_seq)..unsigned(gap.next_seq),
            cause: causes.into_iter().find(|cause| *cause == gap.cause).unwrap_or("missing"),
            from_us: gap.from_us,
            to_us: gap.to_us,
        }
    }
}

/// The gaps that there are now: those that were keep their times, a new one lies between these.
pub(super) fn now(
    before: &[Span],
    stream: &Stream,
    given_up: &[Range<u64>],
    statements: &[Statement],
    between: (i64, i64),
) -> Vec<Span> {
    let mut spans: Vec<Span> = before.iter().filter(|span| span.cause == GIVEN_UP).cloned().collect();
    let times = |seqs: &Range<u64>| {
        // In order and apart, so the one that overlaps is the last that begins before our end.
        let at = before.partition_point(|span| span.seqs.start < seqs.end);
        let known = before[..at].last().filter(|span| span.seqs.end > seqs.start);
        known.map_or(between, |span| (span.from_us, span.to_us))
    };
    for seqs in given_up {
        let (from_us, to_us) = times(seqs);
        spans.push(Span { seqs: seqs.clone(), cause: GIVEN_UP, from_us, to_us });
    }
    for Missing { seqs, cause } in stream.missing() {
        let (from_us, to_us) = times(seqs);
        let is_stated = statements.iter().any(|said| said.seqs.start <= seqs.start && seqs.end <= said.seqs.end);
        let cause = match cause {
            _ if is_stated => "stated",
            Cause::BeforeStart => "before_start",
            Cause::Missing => "missing",
            Cause::LostBySender => "lost_by_sender",
        };
        spans.push(Span { seqs: seqs.clone(), cause, from_us, to_us });
    }
    spans.sort_unstable_by_key(|span| span.seqs.start);
    spans
}

/// How much of a range has come, and whether all of it.
pub(super) fn came(stream: Option<&Stream>, range: &Range<u64>) -> u64 {
    let Some(stream) = stream else { return 0 };
    let end = range.end.min(stream.next_seq());
    let within = end.saturating_sub(range.start);
    let missing = stream
        .missing()
        .iter()
        .map(|missing| missing.seqs.end.min(end).saturating_sub(missing.seqs.start.max(range.start)));
    within - missing.sum::<u64>().min(within)
}

pub(super) fn signed(seq: u64) -> i64 {
    i64::try_from(seq).unwrap_or(i64::MAX)
}

pub(super) fn unsigned(seq: i64) -> u64 {
    u64::try_from(seq).unwrap_or(0)
}
