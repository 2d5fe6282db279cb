//! Turns counters into records, once each: the join of slots, segments and the record format.
//!
//! One recorder per worker; it is the only writer of its shard. What it measures lives in slots, so that a killed
//! process loses nothing: a successor writes `end = recovered` for exactly the bytes not recorded yet.
//!
//! *Hours.* No record spans two UTC hours: where a record would, a checkpoint dated to the last microsecond of the
//! earlier hour goes first.
//!
//! *When the journal is nearly full* requests are summed up instead of recorded one by one (`folding.rs`). *When it is full* a
//! close cannot be written: its bytes move to the gap, and are stated in a `gap` record as soon as there is room. Detail is lost,
//! bytes are not.
//!
//! *Time.* Everything is measured by a clock that only goes forward; records are stamped with it plus what the wall clock was set by
//! since. So when the wall clock steps, no limit in time is hit, no duration is wrong, and from a `node` record on that says so
//! all stamps follow it.

use std::cell::{Cell, RefCell};

use tracing::{debug, error, info, warn};

use super::folding::{FoldMarks, Folding, Key, SUMS_MAX, Tally, whole_fields, whose};
use crate::clock::{Clock, HOUR_US, hour_of};
use crate::enrichment::Snapshot;
use crate::event::{End, Kind, Loss, Phase, PlaceNote, Reason, RequestNote, SeqRange, ShardEnd, Tail};
use crate::ids::{Id, IdSource};
use crate::journal::{
    AppendError, Health, NOTE_BYTES_MAX, OpenSlot, Outcome, Shared, Slot, SlotKind, SlotsFull, Sum, Writer,
};
use crate::metrics::Metrics;
use crate::units::{Column, Counters};

/// How many buffers of what was closed are kept for the next ones.
const SPARE_NOTES_MAX: usize = 64;
/// Room in such a buffer; one that grew beyond twice as much is not kept.
const NOTE_ROOM_BYTES: usize = 256;

/// The wall clock was set if it differs from ours by this much.
const STEP_US: i64 = 500_000;

/// How a session or request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// HTTP status, or 0.
    pub status: u16,
    /// Why it closed.
    pub end: End,
    /// Why it is not billable.
    pub reason: Reason,
}

impl Default for Verdict {
    fn default() -> Self {
        Self { status: 0, end: End::Unspecified, reason: Reason::Unspecified }
    }
}

/// Something being measured: a session or a request with its slot.
pub struct Measured {
    slot: Slot,
    /// Who and what it is: what the slot's note says, or a little more.
    note: RefCell<Vec<u8>>,
    /// How much of the note its slot has.
    kept_bytes: Cell<usize>,
    kind: Kind,
    /// When it began, µs.
    pub started_at_us: i64,
    /// The last record's time, or the beginning.
    recorded_at_us: Cell<i64>,
    /// A record states some of it: else the slot need not be asked what.
    is_recorded: Cell<bool>,
}

impl Measured {
    /// Adds to a counter.
    pub fn add(&self, column: Column, n: u64) {
        self.slot.add(column, n);
    }

    /// A counter's value.
    pub fn get(&self, column: Column) -> u64 {
        self.slot.get(column)
    }

    /// Replaces a counter that is measured as a whole.
    pub fn set(&self, column: Column, n: u64) {
        self.slot.set(column, n);
    }

    /// How many requests a session has begun.
    pub fn requests(&self) -> u64 {
        self.slot.requests()
    }

    /// Replaces [`Measured::requests`].
    pub fn set_requests(&self, requests: u64) {
        self.slot.set_requests(requests);
    }

    /// States the size of a write before the call, and 0 after it.
    pub fn set_pending(&self, bytes: u64) {
        self.slot.set_pending(bytes);
    }

    /// Replaces who and what it is. Of a note too long for its slot, that keeps the fields that fit; the record has all of them.
    pub fn set_note(&self, bytes: &[u8]) {
        let mut note = self.note.borrow_mut();
        note.clear();
        note.extend_from_slice(bytes);
        let kept = kept_of(&note);
        self.slot.set_note(kept);
        self.kept_bytes.set(kept.len());
    }

    /// Adds to who and what it is.
    pub fn append_note(&self, append: impl FnOnce(&mut Vec<u8>)) {
        let mut note = self.note.borrow_mut();
        append(&mut note);
        let kept = kept_of(&note);
        self.slot.extend_note(kept, self.kept_bytes.replace(kept.len()));
    }

    /// Adds what a successor of a killed process could do without.
    pub fn append_note_unkept(&self, append: impl FnOnce(&mut Vec<u8>)) {
        append(&mut self.note.borrow_mut());
    }

    /// It was never what it was taken for: nothing of it is recorded.
    pub fn discard(self) {
        self.slot.free();
    }

    /// Some record states it.
    pub fn is_recorded(&self) -> bool {
        self.is_recorded.get()
    }

    /// What a dead process left open, and whether some record states it.
    pub fn recovered(slot: Slot, kind: Kind, started_at_us: i64, died_us: i64, is_recorded: bool) -> Self {
        let note = slot.note().to_vec();
        Self {
            kept_bytes: Cell::new(note.len()),
            note: RefCell::new(note),
            slot,
            kind,
            started_at_us,
            recorded_at_us: Cell::new(died_us),
            is_recorded: Cell::new(is_recorded),
        }
    }

    /// Read-only view for other threads.
    pub fn view(&self) -> crate::journal::SlotView {
        self.slot.view()
    }

    /// States the verdict in the slot, so that a successor writes the same close.
    pub fn decide(&self, verdict: Verdict) {
        self.slot.set_outcome(outcome(verdict));
    }

    /// Bytes moved that no record states yet.
    pub fn has_news(&self) -> bool {
        self.totals() != self.slot.recorded()
    }

    fn totals(&self) -> Counters {
        totals_of(self.kind, self.slot.totals())
    }
}

/// What of a note its slot has room for.
#[inline]
fn kept_of(note: &[u8]) -> &[u8] {
    if note.len() <= NOTE_BYTES_MAX { note } else { whole_fields(note, NOTE_BYTES_MAX) }
}

/// The totals that a record of this kind states. A request's wire octets are its app octets: what TLS adds belongs to
/// the session.
pub fn totals_of(kind: Kind, mut totals: Counters) -> Counters {
    if kind == Kind::Request {
        totals.received_wire = totals.received_app;
        totals.sent_wire = totals.sent_app;
    }
    totals
}

/// As a slot holds a verdict.
pub fn outcome(verdict: Verdict) -> Outcome {
    Outcome {
        status: verdict.status,
        end: verdict.end as u8,
        reason: verdict.reason as u8,
        billable: verdict.reason == Reason::Unspecified,
        flags: 0,
    }
}

/// Back from [`outcome`].
pub fn verdict(outcome: Outcome) -> Verdict {
    Verdict {
        status: outcome.status,
        end: End::try_from(i32::from(outcome.end)).unwrap_or(End::Unspecified),
        reason: Reason::try_from(i32::from(outcome.reason)).unwrap_or(Reason::Unspecified),
    }
}

/// What a record adds to the counters.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts<'a> {
    /// How it ended; default while it is open.
    pub verdict: Verdict,
    /// Empty, or the invariant that failed.
    pub audit: &'a str,
    /// Size of a write in flight at a kill.
    pub uncertain_bytes: u64,
}

/// Writes one shard's records.
pub struct Recorder {
    writer: RefCell<Writer>,
    /// Buffers of what was recorded, for what begins next.
    spare_notes: RefCell<Vec<Vec<u8>>>,
    ids: RefCell<IdSource>,
    clock: Clock,
    /// What the wall clock was set by since we read it, µs.
    shift_us: Cell<i64>,
    fold_marks: FoldMarks,
    folding: Folding,
    /// Records that others give up, to be stated; and stated, but not durable yet.
    losses: RefCell<Vec<Loss>>,
    losses_stated: RefCell<Vec<(u64, Loss)>>,
    /// Every open slot was recorded in the hour that begins here.
    swept_hour: Cell<i64>,
    last_record_us: Cell<i64>,
    metrics: &'static Metrics,
}

impl Recorder {
    /// Takes over a shard's writer.
    pub fn new(writer: Writer, clock: Clock, ids: IdSource, metrics: &'static Metrics) -> Self {
        Self {
            writer: RefCell::new(writer),
            spare_notes: RefCell::new(Vec::with_capacity(SPARE_NOTES_MAX)),
            ids: RefCell::new(ids),
            clock,
            shift_us: Cell::new(0),
            fold_marks: FoldMarks::NEVER,
            folding: Folding::default(),
            losses: RefCell::default(),
            losses_stated: RefCell::default(),
            swept_hour: Cell::new(hour_of(clock.now_us())),
            last_record_us: Cell::new(0),
            metrics,
        }
    }

    /// When requests are summed up.
    pub fn fold_at(mut self, marks: FoldMarks) -> Self {
        self.fold_marks = marks;
        self
    }

    /// µs since the Unix epoch, by a clock that only goes forward, whatever the wall clock is set to.
    #[inline]
    pub fn now_us(&self) -> i64 {
        self.clock.now_us()
    }

    /// A time of [`Recorder::now_us`] as records state it.
    #[inline]
    fn stamp(&self, at_us: i64) -> i64 {
        at_us + self.shift_us.get()
    }

    /// A new identity.
    pub fn next_id(&self, started_at_us: i64) -> Id {
        self.ids.borrow_mut().next(self.stamp(started_at_us))
    }

    /// Begins to measure a session with this note; `None` when every slot is taken (then nothing new may begin).
    pub fn measure_session(&self, started_at_us: i64, note: &[u8]) -> Option<Measured> {
        let mut own_note = self.note_buffer();
        own_note.extend_from_slice(note);
        self.measure_with(Kind::Session, 0, started_at_us, own_note)
    }

    fn measure_with(&self, kind: Kind, requests: u64, started_at_us: i64, note: Vec<u8>) -> Option<Measured> {
        let slot_kind = if kind == Kind::Request { SlotKind::Request } else { SlotKind::Session };
        let kept = kept_of(&note);
        let kept_bytes = kept.len();
        let slot = self.slot(slot_kind, requests, started_at_us, kept)?;
        Some(Measured {
            slot,
            note: RefCell::new(note),
            kept_bytes: Cell::new(kept_bytes),
            kind,
            started_at_us,
            recorded_at_us: Cell::new(started_at_us),
            is_recorded: Cell::new(false),
        })
    }

    /// Begins to measure a request of a session with this note, which has begun so many with it; `None` when every slot is taken.
    #[inline]
    pub fn measure_request(&self, session_note: &[u8], requests: u64) -> Option<(Id, Measured)> {
        let started_at_us = self.now_us();
        let id = self.next_id(started_at_us);
        let mut note = self.note_buffer();
        note.extend_from_slice(session_note);
        RequestNote::encode_id(id, &mut note);
        Some((id, self.measure_with(Kind::Request, requests, started_at_us, note)?))
    }

    fn slot(&self, kind: SlotKind, requests: u64, started_at_us: i64, note: &[u8]) -> Option<Slot> {
        let started_at_us = self.stamp(started_at_us).max(0) as u64;
        let open = || self.writer.borrow().slots().open_with(kind, requests, started_at_us, note);
        let mut opened = open();
        if opened.is_err() {
            // Slots wait for syncs before they are free: better this thread waits for one than a client is refused.
            self.finish_sums(|shared| shared.try_sync_slots());
            opened = open();
        }
        opened.inspect_err(|error| self.no_slot(error)).ok()
    }

    #[cold]
    fn no_slot(&self, error: &SlotsFull) {
        self.metrics.slots_refused.increment(1);
        warn!(%error, "no slot to measure in");
    }

    /// Records that it began.
    pub fn open(&self, measured: &Measured) {
        self.record(measured, Phase::Open, self.now_us(), Facts::default());
    }

    /// Records what moved since the last record; it stays open. Of a session that no record states this is its opening.
    pub fn checkpoint(&self, measured: &Measured, facts: Facts<'_>) {
        self.record(measured, Phase::Checkpoint, self.now_us(), facts);
    }

    /// Records the rest and gives the slot back.
    pub fn close(&self, measured: Measured, facts: Facts<'_>) {
        if self.folding.is_on.get() && can_be_folded(&measured, &facts) {
            return self.fold(measured, facts.verdict);
        }
        if !self.record(&measured, Phase::Close, self.now_us(), facts) {
            self.metrics.records_unwritten.increment(1);
            return if can_be_folded(&measured, &facts) {
                self.fold(measured, facts.verdict)
            } else {
                self.give_up(measured, facts.verdict)
            };
        }
        measured.slot.free();
        self.keep_buffer(measured.note.into_inner());
    }

    /// With room for what is learnt later too, so that it is allocated once.
    fn note_buffer(&self) -> Vec<u8> {
        let spare = self.spare_notes.borrow_mut().pop();
        spare.unwrap_or_else(|| Vec::with_capacity(NOTE_ROOM_BYTES))
    }

    fn keep_buffer(&self, mut note: Vec<u8>) {
        let mut spare = self.spare_notes.borrow_mut();
        if spare.len() < SPARE_NOTES_MAX && note.capacity() <= 2 * NOTE_ROOM_BYTES {
            note.clear();
            spare.push(note);
        }
    }

    /// True once an hour has begun in which open slots were not recorded yet.
    pub fn hour_turned(&self, now_us: i64) -> bool {
        hour_of(self.stamp(now_us)) > self.swept_hour.get()
    }

    /// Records, dated to the end of the hour before, what moved in it.
    pub fn close_hour(&self, measured: &Measured, now_us: i64, facts: Facts<'_>) {
        let hour_us = hour_of(self.stamp(now_us));
        if self.stamp(measured.recorded_at_us.get()) < hour_us && measured.has_news() {
            self.write(measured, Phase::Checkpoint, hour_us - 1, facts);
        }
    }

    /// Every open slot has been through [`Recorder::close_hour`].
    pub fn hour_swept(&self, now_us: i64) {
        self.swept_hour.set(hour_of(self.stamp(now_us)));
    }

    /// A record about the shard itself.
    pub fn node(&self, phase: Phase, started_at_us: i64) {
        self.node_record(phase, started_at_us, |_| ());
    }

    /// Whether this is the shard that speaks for the node.
    pub fn is_first_shard(&self) -> bool {
        self.writer.borrow().shared().shard() == 0
    }

    /// The same, saying where earlier shards of this node ended. Whether it could be written.
    pub fn node_states_ends(&self, phase: Phase, started_at_us: i64, ended: &[ShardEnd]) -> bool {
        self.node_record(phase, started_at_us, |payload| prost::encoding::message::encode_repeated(79, ended, payload))
    }

    /// A record that another table of addresses is in force.
    pub fn node_knows(&self, started_at_us: i64, table: &Snapshot) {
        self.node_record(Phase::Checkpoint, started_at_us, |payload| {
            let (geo_epoch, accounts_version) = (table.geo_epoch, table.accounts_version);
            PlaceNote { geo_epoch, accounts_version, ..PlaceNote::default() }.encode(payload);
            PlaceNote::encode_snapshot(&table.id, payload);
        });
    }

    fn node_record(&self, phase: Phase, started_at_us: i64, say_more: impl FnOnce(&mut Vec<u8>)) -> bool {
        let now_us = self.now_us();
        let none = Counters::default();
        let tail = tail(Kind::Node, phase, self.stamp(started_at_us), self.stamp(now_us), &none, &none);
        let mut payload = Vec::new();
        tail.append(&mut payload);
        prost::encoding::string::encode(64, &software(), &mut payload);
        say_more(&mut payload);
        let written = self.writer.borrow_mut().append(&payload);
        match &written {
            Ok(_) => self.last_record_us.set(now_us),
            Err(error) => warn!(%error, "the shard's own record cannot be written"),
        }
        written.is_ok()
    }

    /// States, as soon as it can, what others had to give up. Whoever did may free it once [`Loss::is_stated`].
    pub fn state_loss(&self, loss: Loss) {
        self.losses.borrow_mut().push(loss);
        self.state_losses();
    }

    /// Whether this shard is the one to state such a loss: its own, so that what goes later of it can be put together with what
    /// went before; and those of shards that are nobody's any more.
    pub fn states(&self, loss: &Loss) -> bool {
        let shared = self.writer.borrow().shared();
        loss.epoch != shared.epoch() || loss.shard == shared.shard()
    }

    /// Several times a second: writes the watermark where nothing else was written for a second, and what waits for room, for the
    /// hour's turn or for the journal to empty; looks at the wall clock.
    pub fn beat(&self, started_at_us: i64) {
        self.follow_wall_clock(started_at_us);
        self.state_losses();
        self.set_folding();
        let has_room = self.writer.borrow().shared().health() != Health::Full;
        if has_room {
            self.folding.leave_gap();
        }
        let is_at_rest = has_room && !self.folding.is_on.get();
        let but_hour_us = hour_of(self.stamp(self.now_us()));
        self.folding.leave((!is_at_rest).then_some(but_hour_us));
        self.step_sums();
        self.write_sums();
        if self.now_us() - self.last_record_us.get() >= 1_000_000 {
            self.node(Phase::Checkpoint, started_at_us);
        }
    }

    /// Writes every sum that there is; what has no room stays in its slot for the next start. Waits for the disk.
    pub fn write_rest(&self) {
        self.state_losses();
        self.folding.leave_gap();
        self.folding.leave(None);
        self.finish_sums(|shared| shared.sync_slots().map(|()| true));
        self.write_sums();
    }

    fn follow_wall_clock(&self, started_at_us: i64) {
        let step_us = self.clock.wall_ahead_us() - self.shift_us.get();
        if step_us.abs() >= STEP_US {
            self.follow_step(started_at_us, step_us);
        }
    }

    /// From here on stamps differ by this much. Every open slot is looked at again as if an hour had turned: what it moved in
    /// another hour than this one, by the clock as it is now, is recorded apart.
    fn follow_step(&self, started_at_us: i64, step_us: i64) {
        warn!(step_us, "the wall clock was set: the times of records follow it");
        self.shift_us.set(self.shift_us.get() + step_us);
        self.swept_hour.set(hour_of(self.stamp(self.now_us())) - HOUR_US);
        self.node_record(Phase::Checkpoint, started_at_us, |payload| {
            prost::encoding::int64::encode(69, &step_us, payload);
        });
    }

    fn record(&self, measured: &Measured, phase: Phase, at_us: i64, facts: Facts<'_>) -> bool {
        let stamp_us = self.stamp(at_us);
        let hour_us = hour_of(stamp_us);
        if self.swept_hour.get() < hour_us && self.stamp(measured.recorded_at_us.get()) < hour_us && measured.has_news()
        {
            let between = Facts { verdict: Verdict::default(), ..facts };
            let is_written = self.write(measured, Phase::Checkpoint, hour_us - 1, between);
            if is_written && phase == Phase::Open {
                return true;
            }
        }
        self.write(measured, phase, stamp_us, facts)
    }

    /// False, and nothing changed, where there is no room: a checkpoint is made up for by a later record.
    fn write(&self, measured: &Measured, phase: Phase, stamp_us: i64, facts: Facts<'_>) -> bool {
        let is_first = measured.kind == Kind::Session && !measured.is_recorded.get();
        let phase = if is_first && phase == Phase::Checkpoint { Phase::Open } else { phase };
        let totals = measured.totals();
        let deltas = if measured.is_recorded.get() { self.deltas(measured, &totals) } else { totals };
        let mut writer = self.writer.borrow_mut();
        let seq = writer.next_seq();
        // A kill before the append leaves an intent for a seq that was never published: recovery ignores it.
        measured.slot.begin_record(seq, &totals, phase == Phase::Close);
        let note = measured.note.borrow();
        let tail = Tail {
            status: facts.verdict.status,
            end: facts.verdict.end,
            reason: facts.verdict.reason,
            audit: facts.audit,
            uncertain_bytes: facts.uncertain_bytes,
            requests: if measured.kind == Kind::Session { measured.requests() } else { 0 },
            ..tail(measured.kind, phase, self.stamp(measured.started_at_us), stamp_us, &deltas, &totals)
        };
        let written = writer.append_with(note.len() + tail.bytes_max(), |room| {
            let (to, room) = room.split_at_mut(note.len());
            to.copy_from_slice(&note);
            note.len() + tail.encode(room)
        });
        match written {
            // A kill here: the record is published and the intent counts, so nothing is recorded twice.
            Ok(written) => assert_eq!(written, seq, "the journal gave a record another seq than announced"),
            // The journal has taken the intent back.
            Err(error) => {
                self.say_unwritten(&error);
                return false;
            }
        }
        measured.is_recorded.set(true);
        let at_us = stamp_us - self.shift_us.get();
        measured.recorded_at_us.set(at_us);
        self.last_record_us.set(at_us);
        self.metrics.records.increment(1);
        true
    }

    #[cold]
    fn say_unwritten(&self, error: &AppendError) {
        if self.folding.gap.borrow().is_none() && self.folding.sums.borrow().is_empty() {
            error!(%error, "the journal takes no records: closes are summed up until it does");
        }
    }

    fn deltas(&self, measured: &Measured, totals: &Counters) -> Counters {
        let recorded = measured.slot.recorded();
        totals.checked_sub(&recorded).unwrap_or_else(|| {
            error!(?totals, ?recorded, "a counter went back; its record states no change");
            self.metrics.audit_counter_went_back.increment(1);
            Counters::default()
        })
    }

    // ---- sums --------------------------------------------------------------------------------------------------

    /// Moves what a request counted to the sum of its account, endpoint, hour and reason.
    fn fold(&self, measured: Measured, verdict: Verdict) {
        self.step_sums();
        let now_us = self.now_us();
        // Before the sweep of the hour's turn has come to it, what moved is still the earlier hour's.
        let began_us = self.stamp(measured.recorded_at_us.get());
        let hour_us = hour_of(self.stamp(now_us));
        let unswept = self.swept_hour.get() < hour_us && began_us < hour_us && measured.has_news();
        let hour_us = if unswept { hour_us - HOUR_US } else { hour_us };
        let key = Key { note: whose(&measured.note.borrow()), hour_us, reason: verdict.reason };
        if !self.folding.sums.borrow().contains_key(&key) {
            let is_left = self.folding.count() < SUMS_MAX;
            let Some(slot) = is_left.then(|| self.slot(SlotKind::Fold, 0, now_us, &key.note)).flatten() else {
                return self.give_up(measured, verdict);
            };
            slot.set_outcome(outcome(Verdict { reason: verdict.reason, ..Verdict::default() }));
            let ends_at_us = hour_us + HOUR_US - 1;
            let tally = Tally {
                sum: Sum::new(slot),
                kind: Kind::Request,
                reason: verdict.reason,
                started_at_us: self.stamp(now_us).clamp(hour_us, ends_at_us),
                ends_at_us,
            };
            self.folding.sums.borrow_mut().insert(key.clone(), tally);
        }
        if let Some(tally) = self.folding.sums.borrow_mut().get_mut(&key) {
            // Killed before it has been moved, it is closed with this verdict.
            measured.decide(verdict);
            let totals = measured.totals();
            tally.sum.take(measured.slot, totals);
            self.metrics.records_folded.increment(1);
            self.keep_buffer(measured.note.into_inner());
        }
    }

    /// Moves what a close would have stated to the gap.
    fn give_up(&self, measured: Measured, verdict: Verdict) {
        self.step_sums();
        if self.folding.gap.borrow().is_none() {
            let now_us = self.now_us();
            let gap = self.slot(SlotKind::Gap, 0, now_us, &[]).map(|slot| Tally {
                sum: Sum::new(slot),
                kind: Kind::Gap,
                reason: Reason::Unspecified,
                started_at_us: self.stamp(now_us),
                ends_at_us: i64::MAX,
            });
            *self.folding.gap.borrow_mut() = gap;
        }
        measured.decide(verdict);
        let totals = measured.totals();
        // Session totals already hold what its requests moved: a sum over both would count it twice.
        let counted = match measured.kind {
            Kind::Session => self.deltas(&measured, &totals),
            _ => Counters::default(),
        };
        match self.folding.gap.borrow_mut().as_mut() {
            Some(gap) => gap.sum.take(measured.slot, counted),
            // Its slot stays live: the next start writes its close.
            None => error!(?counted, "neither room for a record nor a slot for a sum: the next start records it"),
        }
    }

    fn step_sums(&self) {
        self.folding.step(self.writer.borrow().slots());
    }

    /// Does at once what sums wait for, as long as there is a sync.
    #[cold]
    fn finish_sums(&self, sync: impl Fn(&Shared) -> Result<bool, crate::journal::Error>) {
        let shared = self.writer.borrow().shared();
        while self.folding.is_moving() {
            match sync(&shared) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => warn!(%error, "sums may not survive a power cut"),
            }
            self.step_sums();
        }
    }

    /// The records of sums that are settled, as far as there is room.
    fn write_sums(&self) {
        let mut leaving = self.folding.leaving.borrow_mut();
        while let Some(at) = leaving.iter().position(|tally| tally.sum.is_settled()) {
            let tally = &leaving[at];
            let stamp_us = self.stamp(self.now_us()).clamp(tally.started_at_us.min(tally.ends_at_us), tally.ends_at_us);
            let times = (tally.started_at_us, stamp_us);
            if !self.write_sum(tally.sum.slot(), tally.sum.taken(), tally.kind, times, tally.reason) {
                return;
            }
            if tally.kind == Kind::Gap {
                warn!(closes = tally.sum.taken().0, "the journal takes records again: the gap is stated");
            }
            leaving.swap_remove(at).sum.free();
        }
    }

    /// The one record of a sum. False where there is no room.
    fn write_sum(
        &self,
        slot: &Slot,
        (folded, counted): (u64, Counters),
        kind: Kind,
        (started_at_us, stamp_us): (i64, i64),
        reason: Reason,
    ) -> bool {
        let counted = totals_of(kind, counted);
        let note = slot.note();
        let tail = Tail { reason, folded, ..tail(kind, Phase::Close, started_at_us, stamp_us, &counted, &counted) };
        let mut payload = Vec::new();
        tail.append(&mut payload);
        payload.extend_from_slice(&note);
        let mut writer = self.writer.borrow_mut();
        slot.begin_record(writer.next_seq(), &counted, true);
        let written = writer.append(&payload);
        if written.is_ok() {
            self.last_record_us.set(self.now_us());
            self.metrics.records.increment(1);
        }
        written.is_ok()
    }

    /// Records a sum that a dead process left, and gives the slot back; where there is no room it stays for the next start.
    pub fn close_sum(&self, estate: OpenSlot, died_us: i64) {
        let started_at_us = i64::try_from(estate.started_at_us).unwrap_or(died_us).min(died_us);
        let kind = if estate.kind == SlotKind::Fold { Kind::Request } else { Kind::Gap };
        // Not beyond the hour that it is a sum of.
        let stamp_us = died_us.min(hour_of(started_at_us) + HOUR_US - 1);
        let reason = verdict(estate.outcome).reason;
        let sum = (estate.taken, estate.totals);
        if self.write_sum(&estate.slot, sum, kind, (started_at_us, stamp_us), reason) {
            estate.slot.free();
        }
    }

    /// Turns folding on above one mark and off below the other.
    fn set_folding(&self) {
        let shared = self.writer.borrow().shared();
        let used_percent = shared.used_percent();
        let is_on = self.fold_marks.folds(self.folding.is_on.get(), used_percent);
        if self.folding.is_on.replace(is_on) == is_on {
            return;
        }
        shared.set_folding(is_on);
        if is_on {
            self.metrics.journal_folding.increment(1.0);
            let sums_max = SUMS_MAX;
            warn!(
                shard = shared.shard(),
                used_percent,
                sums_max,
                "the journal fills up: requests are summed up by account, endpoint, hour and reason; bytes stay exact, the detail of \
                 single requests is not kept"
            );
        } else {
            self.metrics.journal_folding.decrement(1.0);
            info!(shard = shared.shard(), used_percent, "the journal has room: requests are recorded one by one again");
        }
    }

    // ---- losses ------------------------------------------------------------------------------------------------

    fn state_losses(&self) {
        let mut losses = self.losses.borrow_mut();
        while let Some(loss) = losses.pop() {
            match self.write_loss(&loss) {
                Ok(seq) => self.losses_stated.borrow_mut().push((seq, loss)),
                Err(error) => {
                    debug!(%error, "a gap record cannot be written: what it stands for is kept");
                    losses.push(loss);
                    break;
                }
            }
        }
        let mut stated = self.losses_stated.borrow_mut();
        if stated.is_empty() {
            return;
        }
        let synced_seq = self.writer.borrow().shared().synced_seq();
        stated.retain(|(seq, loss)| {
            let is_durable = *seq < synced_seq;
            if is_durable {
                loss.set_stated();
            }
            !is_durable
        });
    }

    /// The seq of the last record that states the loss: one for what goes, and one, without bytes, for each range of another
    /// shard that would not be named any more. If only some can be written, all are written again.
    fn write_loss(&self, loss: &Loss) -> Result<u64, AppendError> {
        let mut seq = self.write_gap(loss.records, &loss.counters, loss.range())?;
        for range in &loss.elsewhere {
            seq = self.write_gap(0, &Counters::default(), *range)?;
        }
        Ok(seq)
    }

    /// No slot is needed: until the record is durable, what it stands for is there. It may go beyond the budget, or nothing could
    /// ever be freed.
    fn write_gap(&self, records: u64, counters: &Counters, range: SeqRange) -> Result<u64, AppendError> {
        let now_us = self.now_us();
        let stamp_us = self.stamp(now_us);
        let tail = Tail { folded: records, ..tail(Kind::Gap, Phase::Close, stamp_us, stamp_us, counters, counters) };
        let mut payload = Vec::new();
        tail.append(&mut payload);
        range.encode(&mut payload);
        let mut writer = self.writer.borrow_mut();
        writer.allow_beyond_budget(true);
        let written = writer.append(&payload);
        writer.allow_beyond_budget(false);
        if written.is_ok() {
            self.last_record_us.set(now_us);
            self.metrics.records.increment(1);
        }
        written
    }
}

/// What no record states yet and none says anything of that a sum could not.
fn can_be_folded(measured: &Measured, facts: &Facts<'_>) -> bool {
    measured.kind == Kind::Request
        && !measured.is_recorded.get()
        && facts.uncertain_bytes == 0
        && facts.audit.is_empty()
}

fn tail<'a>(
    kind: Kind,
    phase: Phase,
    started_at_us: i64,
    at_us: i64,
    deltas: &'a Counters,
    totals: &'a Counters,
) -> Tail<'a> {
    Tail {
        kind,
        phase,
        started_at_us,
        at_us,
        status: 0,
        end: End::Unspecified,
        reason: Reason::Unspecified,
        deltas,
        totals,
        audit: "",
        uncertain_bytes: 0,
        folded: 0,
        requests: 0,
    }
}

fn software() -> String {
    concat!("weir/", env!("CARGO_PKG_VERSION")).to_owned()
}

#[cfg(test)]
#[path = "recorder_tests.rs"]
mod tests;
