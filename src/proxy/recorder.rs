//! Turns counters into records, once each: the join of slots, segments and the record format.
//!
//! One recorder per worker; it is the only writer of its shard. What it measures lives in slots, so that a killed
//! process loses nothing: a successor writes `end = recovered` for exactly the bytes not recorded yet.
//!
//! *Hours.* No record spans two UTC hours: where a record would, a checkpoint dated to the last microsecond of the
//! earlier hour goes first.
//!
//! *When the journal is full* a close cannot be written. Its bytes move to the gap slot, which is as safe from a kill
//! as any other, and are stated in a `gap` record as soon as there is room: detail is lost, bytes are not.

use std::cell::{Cell, RefCell};

use tracing::{error, warn};

use crate::clock::{Clock, HOUR_US, hour_of};
use crate::event::{End, Kind, Loss, Phase, Reason, RequestNote, Tail};
use crate::ids::{Id, IdSource};
use crate::journal::{AppendError, Health, NOTE_BYTES_MAX, Outcome, Slot, SlotKind, SlotsFull, Writer};
use crate::metrics::Metrics;
use crate::units::{Column, Counters};

/// How many buffers of closed requests are kept for the next ones.
const SPARE_NOTES_MAX: usize = 64;
/// Room in such a buffer; one that grew beyond twice as much is not kept.
const NOTE_ROOM_BYTES: usize = 256;

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

    /// States the size of a write before the call, and 0 after it.
    pub fn set_pending(&self, bytes: u64) {
        self.slot.set_pending(bytes);
    }

    /// Replaces who and what it is. A note too long for its slot keeps its first version there; the record has all of it.
    pub fn set_note(&self, bytes: &[u8]) {
        let mut note = self.note.borrow_mut();
        note.clear();
        note.extend_from_slice(bytes);
        if note.len() <= NOTE_BYTES_MAX {
            self.slot.set_note(&note);
            self.kept_bytes.set(note.len());
        }
    }

    /// Adds to who and what it is.
    pub fn append_note(&self, append: impl FnOnce(&mut Vec<u8>)) {
        let mut note = self.note.borrow_mut();
        append(&mut note);
        if note.len() <= NOTE_BYTES_MAX {
            self.slot.extend_note(&note, self.kept_bytes.replace(note.len()));
        }
    }

    /// Adds what a successor of a killed process could do without.
    pub fn append_note_unkept(&self, append: impl FnOnce(&mut Vec<u8>)) {
        append(&mut self.note.borrow_mut());
    }

    /// It was never what it was taken for: nothing of it is recorded.
    pub fn discard(self) {
        self.slot.free();
    }

    /// What a dead process left open.
    pub fn recovered(slot: Slot, kind: Kind, started_at_us: i64, died_us: i64) -> Self {
        let note = slot.note().to_vec();
        Self {
            kept_bytes: Cell::new(note.len()),
            note: RefCell::new(note),
            slot,
            kind,
            started_at_us,
            recorded_at_us: Cell::new(died_us),
            is_recorded: Cell::new(true),
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
    /// Requests begun, for sessions.
    pub requests: u64,
    /// Size of a write in flight at a kill.
    pub uncertain_bytes: u64,
}

/// Writes one shard's records.
pub struct Recorder {
    writer: RefCell<Writer>,
    /// Of requests that were recorded, for the next ones.
    spare_notes: RefCell<Vec<Vec<u8>>>,
    ids: RefCell<IdSource>,
    clock: Clock,
    /// What was closed and could not be recorded one by one.
    gap: RefCell<Option<Measured>>,
    gap_records: Cell<u64>,
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
            gap: RefCell::new(None),
            gap_records: Cell::new(0),
            swept_hour: Cell::new(hour_of(clock.now_us())),
            last_record_us: Cell::new(0),
            metrics,
        }
    }

    /// µs since the Unix epoch.
    pub fn now_us(&self) -> i64 {
        self.clock.now_us()
    }

    /// A new identity.
    pub fn next_id(&self, started_at_us: i64) -> Id {
        self.ids.borrow_mut().next(started_at_us)
    }

    /// Begins to measure; `None` when every slot is taken (then nothing new may begin).
    pub fn measure(&self, kind: Kind, started_at_us: i64, note: Vec<u8>) -> Option<Measured> {
        let slot_kind = match kind {
            Kind::Request => SlotKind::Request,
            Kind::Gap => SlotKind::Gap,
            _ => SlotKind::Session,
        };
        let kept = note.get(..NOTE_BYTES_MAX).unwrap_or(&note);
        let kept_bytes = kept.len();
        let opened = self.writer.borrow().slots().open(slot_kind, started_at_us.max(0) as u64, kept);
        let slot = opened.inspect_err(|error| self.no_slot(error)).ok()?;
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

    /// Begins to measure a request of a session with this note; `None` when every slot is taken.
    #[inline]
    pub fn measure_request(&self, session_note: &[u8]) -> Option<(Id, Measured)> {
        let started_at_us = self.now_us();
        let id = self.next_id(started_at_us);
        let spare = self.spare_notes.borrow_mut().pop();
        // Room for the request's own part too, so that it is allocated once.
        let mut note = spare.unwrap_or_else(|| Vec::with_capacity(NOTE_ROOM_BYTES));
        note.extend_from_slice(session_note);
        RequestNote::encode_id(id, &mut note);
        Some((id, self.measure(Kind::Request, started_at_us, note)?))
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

    /// Records what moved since the last record; it stays open.
    pub fn checkpoint(&self, measured: &Measured, facts: Facts<'_>) {
        self.record(measured, Phase::Checkpoint, self.now_us(), facts);
    }

    /// Records the rest and gives the slot back.
    pub fn close(&self, measured: Measured, facts: Facts<'_>) {
        self.record(&measured, Phase::Close, self.now_us(), facts);
        measured.slot.free();
        let mut note = measured.note.into_inner();
        let mut spare = self.spare_notes.borrow_mut();
        if spare.len() < SPARE_NOTES_MAX && note.capacity() <= 2 * NOTE_ROOM_BYTES {
            note.clear();
            spare.push(note);
        }
    }

    /// True once an hour has begun in which open slots were not recorded yet.
    pub fn hour_turned(&self, now_us: i64) -> bool {
        hour_of(now_us) > self.swept_hour.get()
    }

    /// Records, dated to the end of the hour before, what moved in it.
    pub fn close_hour(&self, measured: &Measured, now_us: i64, facts: Facts<'_>) {
        if measured.has_news() {
            self.write(measured, Phase::Checkpoint, hour_of(now_us) - 1, facts);
        }
    }

    /// Every open slot has been through [`Recorder::close_hour`].
    pub fn hour_swept(&self, now_us: i64) {
        self.swept_hour.set(hour_of(now_us));
    }

    /// A record about the shard itself.
    pub fn node(&self, phase: Phase, started_at_us: i64) {
        let at_us = self.now_us();
        let none = Counters::default();
        let tail = tail(Kind::Node, phase, started_at_us, at_us, &none, &none);
        let mut payload = vec![0; tail.bytes_max()];
        let used = tail.encode(&mut payload);
        payload.truncate(used);
        prost::encoding::string::encode(64, &software(), &mut payload);
        let written = self.writer.borrow_mut().append(&payload);
        if let Err(error) = written {
            warn!(%error, "the shard's own record cannot be written");
        } else {
            self.last_record_us.set(at_us);
        }
    }

    /// States what others had to give up.
    pub fn state_loss(&self, loss: Loss) {
        let Some(gap) = self.measure(Kind::Gap, self.now_us(), Vec::new()) else { return };
        for (column, value) in Column::ALL.into_iter().zip(loss.counters.to_array()) {
            gap.add(column, value);
        }
        gap.set_pending(loss.records);
        self.close(gap, Facts::default());
    }

    /// Writes the watermark where nothing else was written for a second, and a gap record where there is room again.
    pub fn beat(&self, started_at_us: i64) {
        self.state_gap();
        if self.now_us() - self.last_record_us.get() >= 1_000_000 {
            self.node(Phase::Checkpoint, started_at_us);
        }
    }

    fn record(&self, measured: &Measured, phase: Phase, at_us: i64, facts: Facts<'_>) {
        let hour = hour_of(at_us);
        if hour_of(measured.recorded_at_us.get()) < hour && self.swept_hour.get() < hour && measured.has_news() {
            let between = Facts { verdict: Verdict::default(), ..facts };
            self.write(measured, Phase::Checkpoint, hour - 1, between);
        }
        self.write(measured, phase, at_us, facts);
    }

    fn write(&self, measured: &Measured, phase: Phase, at_us: i64, facts: Facts<'_>) {
        debug_assert!(at_us - hour_of(at_us) < HOUR_US);
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
            requests: facts.requests,
            folded: if measured.kind == Kind::Gap { measured.slot.pending() } else { 0 },
            ..tail(measured.kind, phase, measured.started_at_us, at_us, &deltas, &totals)
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
                drop((writer, note));
                return self.unrecorded(phase, deltas, measured.kind, &error);
            }
        }
        measured.is_recorded.set(true);
        measured.recorded_at_us.set(at_us);
        self.last_record_us.set(at_us);
        self.metrics.records.increment(1);
    }

    fn deltas(&self, measured: &Measured, totals: &Counters) -> Counters {
        let recorded = measured.slot.recorded();
        totals.checked_sub(&recorded).unwrap_or_else(|| {
            error!(?totals, ?recorded, "a counter went back; its record states no change");
            self.metrics.audit_counter_went_back.increment(1);
            Counters::default()
        })
    }

    /// A checkpoint that cannot be written is made up for by a later record; a close moves to the gap slot.
    fn unrecorded(&self, phase: Phase, deltas: Counters, kind: Kind, error: &AppendError) {
        if phase != Phase::Close || kind == Kind::Gap {
            return;
        }
        self.metrics.records_unwritten.increment(1);
        if self.gap.borrow().is_none() {
            error!(%error, "the journal takes no records: closes are summed up for one gap record");
            let gap = self.measure(Kind::Gap, self.now_us(), Vec::new());
            *self.gap.borrow_mut() = gap;
        }
        let gap = self.gap.borrow();
        let Some(gap) = gap.as_ref() else {
            error!(?deltas, "bytes lost: no record, and no slot for their sum");
            return;
        };
        // Session totals already hold what its requests moved: a sum over both would count it twice.
        if kind == Kind::Session {
            for (column, value) in Column::ALL.into_iter().zip(deltas.to_array()) {
                gap.add(column, value);
            }
        }
        self.gap_records.set(self.gap_records.get() + 1);
        gap.set_pending(self.gap_records.get());
    }

    fn state_gap(&self) {
        let Some(gap) = self.gap.borrow_mut().take() else { return };
        // The shard's health tells whether an attempt makes sense; a record that is refused leaves the slot as it was.
        if self.writer.borrow().shared().health() == Health::Full {
            *self.gap.borrow_mut() = Some(gap);
            return;
        }
        self.write(&gap, Phase::Close, self.now_us(), Facts::default());
        if gap.has_news() {
            *self.gap.borrow_mut() = Some(gap);
            return;
        }
        warn!(records = self.gap_records.replace(0), "the journal takes records again: the gap is stated");
        gap.slot.free();
    }
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
