//! The estate of a process that died: closes for exactly the bytes it had not recorded, then the epoch's last record.
//!
//! Killed half-way, it is simply run again: a close that was published is known by its slot.

use std::collections::HashMap;

use bytes::Bytes;
use prost::Message;
use tracing::{error, info, warn};

use super::recorder::{Facts, Measured, Recorder, Verdict, totals_of, verdict};
use crate::clock::Clock;
use crate::event::{End, Kind, Phase, UsageRecord};
use crate::ids::IdSource;
use crate::journal::{OpenSlot, Recovery, SlotKind, Writer};
use crate::metrics::Metrics;

/// Closes everything that a dead shard left open. When it ended, µs.
pub fn close_estate(writer: Writer, recovery: Recovery, metrics: &'static Metrics) -> i64 {
    let shared = writer.shared();
    report(&recovery, &shared);
    metrics.torn_bytes.increment(recovery.torn_bytes);
    let last = recovery.last_frame.as_ref().and_then(|frame| UsageRecord::decode(frame.payload.as_slice()).ok());
    if last.as_ref().is_some_and(|last| last.kind() == Kind::Node && last.phase() == Phase::Close)
        && recovery.open.is_empty()
    {
        return last.map_or(0, |last| last.at);
    }
    // The bytes moved before the process died; the last it wrote says when that was, at the latest.
    let written_us = recovery
        .last_modified
        .and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok())
        .map_or(0, |since| i64::try_from(since.as_micros()).unwrap_or(i64::MAX));
    let last_us = last.as_ref().map_or(0, |last| last.at);
    let died_us = written_us.min(Clock::anchored().now_us()).max(last_us);
    let ids = IdSource::new(shared.node(), shared.epoch(), shared.shard());
    let recorder = Recorder::new(writer, Clock::stopped(died_us), ids, metrics);
    let mut open = recovery.open;
    // Requests before their sessions, as they would have closed.
    open.sort_by_key(|slot| (!slot.kind.is_sum(), slot.kind == SlotKind::Session, slot.started_at_us));
    let records = open.len();
    count_requests(&open);
    for slot in open {
        close(&recorder, slot, died_us, metrics);
    }
    // What had no room, if so.
    recorder.write_rest();
    recorder.node(Phase::Close, last.as_ref().map_or(died_us, |last| last.started_at));
    if records > 0 {
        info!(epoch = shared.epoch(), shard = shared.shard(), records, "closed what a dead process had left open");
    }
    died_us
}

/// A kill may have come when a request had its slot and its session had not counted it yet. Done before any close, so that it is
/// done again if this process dies too.
fn count_requests(open: &[OpenSlot]) {
    let session_of = |slot: &OpenSlot| UsageRecord::decode(slot.note.as_slice()).ok().map(|note| note.session_id);
    let mut begun: HashMap<Bytes, u64> = HashMap::new();
    for request in open.iter().filter(|slot| slot.kind == SlotKind::Request) {
        let Some(session) = session_of(request) else { continue };
        let requests = begun.entry(session).or_default();
        *requests = request.slot.requests().max(*requests);
    }
    for session in open.iter().filter(|slot| slot.kind == SlotKind::Session) {
        let Some(requests) = session_of(session).and_then(|id| begun.get(&id)) else { continue };
        session.slot.set_requests(session.slot.requests().max(*requests));
    }
}

fn close(recorder: &Recorder, estate: OpenSlot, died_us: i64, metrics: &'static Metrics) {
    if estate.kind.is_sum() {
        metrics.records_recovered.increment(1);
        return recorder.close_sum(estate, died_us);
    }
    let kind = if estate.kind == SlotKind::Request { Kind::Request } else { Kind::Session };
    if let Some(later) = &estate.later_record {
        // Only after a power cut: a record reached the disk and the slot's knowledge of it did not.
        let Ok(record) = UsageRecord::decode(later.payload.as_slice()) else { return estate.slot.free() };
        let stated = record.totals();
        estate.slot.restate(later.seq, &stated);
        let requests = u64::try_from(record.requests).unwrap_or(0);
        estate.slot.set_requests(estate.slot.requests().max(requests));
    }
    // Killed before any record of it: its opening is still owed.
    let unopened = kind == Kind::Session && estate.recorded_seq.is_none() && estate.later_record.is_none();
    metrics.records_recovered.increment(1);
    let decided = verdict(estate.outcome);
    // What had ended already, and only waited for its last acknowledgement, keeps its own verdict.
    let verdict = match decided.end {
        End::Unspecified => Verdict { end: End::Recovered, ..decided },
        _ => decided,
    };
    let started_at_us = i64::try_from(estate.started_at_us).unwrap_or(died_us).min(died_us);
    let uncertain_bytes = estate.pending;
    let measured = Measured::recovered(estate.slot, kind, started_at_us, died_us, !unopened);
    if totals_of(kind, estate.totals).checked_sub(&estate.recorded).is_none() {
        warn!(totals = ?estate.totals, recorded = ?estate.recorded, "a slot counts less than was recorded: it was older on the disk");
    }
    if unopened {
        recorder.open(&measured);
    }
    recorder.close(measured, Facts { verdict, uncertain_bytes, ..Facts::default() });
}

fn report(recovery: &Recovery, shared: &crate::journal::Shared) {
    let (epoch, shard) = (shared.epoch(), shared.shard());
    if recovery.torn_bytes > 0 {
        info!(epoch, shard, bytes = recovery.torn_bytes, "a torn tail was discarded");
    }
    for range in &recovery.damaged {
        error!(epoch, shard, ?range, "records lost to damage: a gap");
    }
    for file in &recovery.quarantined {
        error!(epoch, shard, file = %file.display(), "a file that does not belong here was put aside");
    }
    if recovery.damaged_slots > 0 {
        error!(epoch, shard, slots = recovery.damaged_slots, "live slots that say nothing sensible");
    }
}
