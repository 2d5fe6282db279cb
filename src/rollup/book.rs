//! The book: everything a ledger knows, and what a batch of records changes in it. No I/O, no clock.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::{Deserialize, Serialize};

use super::catalog::{Catalog, Named};
use super::gaps::{self, Span, Statement, signed, unsigned};
use super::item::{Bytes, Closed, Item, add, minus, negative};
use super::tally::Tally;
use super::window;
use crate::clock::hour_of;
use crate::event::{Kind as RecordKind, Phase, SeqRange, UNATTRIBUTED, UsageRecord};
use crate::ids::{hex, unhex};
use crate::store::{
    Batch, Details, Found, Gap, ItemRow, Kind, Move, Period, Quarantined, StreamPlace, StreamRow, Sums, Usage,
};
use crate::units::COLUMNS;
use crate::wire::{Bounds, Finding, Incoming, Reject, State, Stream, StreamId, Taken, Verifier, VerifyingKey};

/// Reason of overhead that may hold requests without a record.
pub const UNITEMISED: &str = "unitemised";
/// Reason of what only gap records state.
pub const GAP: &str = "gap";

/// What a book is told.
pub struct Options {
    /// Each message must be signed with one of these; none: no signature is asked for.
    pub keys: Vec<VerifyingKey>,
    /// Hosts of one account that are told apart.
    pub hosts_max: usize,
}

/// Where a piece was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spot {
    /// The source.
    pub source: String,
    /// Its part.
    pub part: String,
    /// Where the piece begins.
    pub from: i64,
    /// Where the next one begins.
    pub to: i64,
    /// When it was written, as far as is known, µs.
    pub at_us: i64,
}

/// Why a piece was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The source is read from somewhere else than where the book stands.
    #[error("{source_name} {part} is read at {found}, and {expected} is due")]
    OutOfStep {
        /// The source.
        source_name: String,
        /// Its part.
        part: String,
        /// Where the piece begins.
        found: i64,
        /// Where it should.
        expected: i64,
    },
    /// No room for another stream: nothing may be passed over, so nothing more is read.
    #[error("{0}")]
    Full(String),
}

/// What is known of a stream beside the verifier's state.
#[derive(Debug, Default)]
struct Note {
    revision: i64,
    last_at_us: i64,
    records: i64,
    duplicates: i64,
    statements: Vec<Statement>,
    tally: Tally,
    gaps: Vec<Span>,
    /// As they are in the store.
    stored_gaps: Vec<Span>,
}

/// A stream's `state` in the store.
#[derive(Serialize, Deserialize)]
struct Kept {
    stream: Stream,
    statements: Vec<Statement>,
    tally: Tally,
}

/// What sees records that come.
pub type Watcher = Box<dyn FnMut(&StreamId, u64, &UsageRecord) + Send>;

/// Everything known.
pub struct Book {
    verifier: Verifier,
    notes: HashMap<StreamId, Note>,
    items: HashMap<[u8; 16], (StreamId, Item)>,
    catalog: Catalog,
    periods: Vec<Period>,
    sealed_until_us: i64,
    positions: HashMap<(String, String), i64>,
    seals: i64,
    changed: Changed,
    keeps_details: bool,
    keeps_usage: bool,
    watcher: Option<Watcher>,
}

/// What this batch has changed so far.
#[derive(Default)]
struct Changed {
    moves: BTreeMap<(String, String), Option<i64>>,
    streams: HashSet<StreamId>,
    items: HashSet<[u8; 16]>,
    usage: HashMap<(usize, i64), Sums>,
    quarantine: Vec<Quarantined>,
    details: Details,
    records: u64,
    duplicates: u64,
}

impl Book {
    /// What the store holds. An error says what of it cannot be understood.
    pub fn open(found: Found, options: Options) -> Result<Self, String> {
        let mut state = State::default();
        let mut notes: HashMap<StreamId, Note> = HashMap::new();
        for row in found.streams {
            let id = stream_id(&row.place)?;
            let kept: Kept = serde_json::from_str(&row.state).map_err(|error| format!("the state of {id}: {error}"))?;
            state.streams.insert(id.clone(), kept.stream);
            let note = Note {
                revision: row.revision,
                last_at_us: row.last_at_us,
                records: row.records,
                duplicates: row.duplicates,
                statements: kept.statements,
                tally: kept.tally,
                ..Note::default()
            };
            notes.insert(id, note);
        }
        for gap in &found.gaps {
            if let Some(note) = notes.get_mut(&stream_id(&gap.place)?) {
                note.gaps.push(Span::of(gap));
                note.stored_gaps.push(Span::of(gap));
            }
        }
        let mut items = HashMap::with_capacity(found.items.len());
        for (id, row) in found.items {
            let key = unhex(id.as_bytes()).and_then(|id| <[u8; 16]>::try_from(id).ok());
            let key = key.ok_or_else(|| format!("item {id:?} has no id"))?;
            let item = serde_json::from_str(&row.state).map_err(|error| format!("the state of item {id}: {error}"))?;
            items.insert(key, (stream_id(&row.place)?, item));
        }
        let bounds = Bounds { streams_max: 1_000_000, gaps_max: 100_000, ..Bounds::default() };
        let positions = found.positions.into_iter().map(|(source, part, at)| ((source, part), at)).collect();
        Ok(Self {
            verifier: Verifier::new(options.keys, bounds, state),
            notes,
            items,
            catalog: Catalog::new(found.series, options.hosts_max),
            sealed_until_us: found.periods.iter().map(|period| period.to_us).max().unwrap_or(i64::MIN),
            periods: found.periods,
            positions,
            seals: found.seals,
            changed: Changed::default(),
            keeps_details: false,
            keeps_usage: true,
            watcher: None,
        })
    }

    /// From now on, records themselves are kept too, to be looked up one by one.
    pub fn keep_details(&mut self) {
        self.keeps_details = true;
    }

    /// From now on only streams, gaps and positions are kept: what came, not what it is worth.
    pub fn keep_no_usage(&mut self) {
        self.keeps_usage = false;
    }

    /// Each record is shown to this too, once, when it comes for the first time.
    pub fn watch(&mut self, watcher: Watcher) {
        self.watcher = Some(watcher);
    }

    /// To nobody any more.
    pub fn unwatch(&mut self) {
        self.watcher = None;
    }

    /// Where reading of a part goes on; none where it never began.
    pub fn position(&self, source: &str, part: &str) -> Option<i64> {
        self.positions.get(&(source.to_owned(), part.to_owned())).copied()
    }

    /// Every stream, and the sums over its records.
    pub fn tallies(&self) -> impl Iterator<Item = (&StreamId, &Tally)> {
        self.notes.iter().map(|(id, note)| (id, &note.tally))
    }

    /// What requests' records brought that no session's record has covered yet.
    pub fn uncovered(&self) -> Bytes {
        let mut sum = [0; COLUMNS];
        self.items.values().for_each(|(_, item)| add(&mut sum, &item.debt));
        sum
    }

    /// What is known of a stream.
    pub fn stream(&self, id: &StreamId) -> Option<&Stream> {
        self.verifier.stream(id)
    }

    /// Records that this batch has brought, and those that had come before.
    pub fn counts(&self) -> (u64, u64) {
        (self.changed.records, self.changed.duplicates)
    }

    /// How many rows of usage this batch changes.
    pub fn rows(&self) -> usize {
        self.changed.usage.len()
    }

    // ---- what comes --------------------------------------------------------------------------------------------

    /// A message of a topic. One that cannot be read is quarantined.
    pub fn message(&mut self, spot: Spot, headers: &[(&str, &[u8])], payload: &[u8]) -> Result<(), Refused> {
        self.advance(&spot)?;
        match self.verifier.take(Incoming { headers, payload }) {
            Ok(taken) => self.post(taken),
            Err(Reject::TooManyStreams { stream, streams_max }) => {
                return Err(Refused::Full(format!("{stream} is one stream too many: {streams_max} are known")));
            }
            Err(reject) => self.quarantine(spot, reject.to_string(), payload.to_vec()),
        }
        Ok(())
    }

    /// Consecutive records of a journal or a file; `skipped` right before them are lost for ever.
    pub fn records(
        &mut self,
        spot: Spot,
        stream: StreamId,
        first_seq: u64,
        skipped: u64,
        records: Vec<UsageRecord>,
    ) -> Result<(), Refused> {
        self.advance(&spot)?;
        if records.is_empty() {
            return Ok(());
        }
        match self.verifier.take_records(stream, first_seq, skipped, records) {
            Ok(taken) => self.post(taken),
            Err(reject) => return Err(Refused::Full(reject.to_string())),
        }
        Ok(())
    }

    /// Bytes that are no record.
    pub fn unreadable(&mut self, spot: Spot, reason: String, bytes: Vec<u8>) -> Result<(), Refused> {
        self.advance(&spot)?;
        self.quarantine(spot, reason, bytes);
        Ok(())
    }

    fn advance(&mut self, spot: &Spot) -> Result<(), Refused> {
        let key = (spot.source.clone(), spot.part.clone());
        let known = self.positions.get(&key).copied();
        if let Some(expected) = known.filter(|expected| *expected != spot.from) {
            let (source_name, part) = key;
            return Err(Refused::OutOfStep { source_name, part, found: spot.from, expected });
        }
        self.changed.moves.entry(key.clone()).or_insert(known);
        self.positions.insert(key, spot.to);
        Ok(())
    }

    fn quarantine(&mut self, spot: Spot, reason: String, bytes: Vec<u8>) {
        let Spot { source, part, from, at_us, .. } = spot;
        self.changed.quarantine.push(Quarantined { source, part, position: from, at_us, reason, bytes });
    }

    // ---- what it means -----------------------------------------------------------------------------------------

    fn post(&mut self, taken: Taken) {
        let Taken { stream, records, findings } = taken;
        let note = self.notes.entry(stream.clone()).or_default();
        let behind_us = note.last_at_us;
        let first_at_us = records.first().map_or(behind_us, |(_, record)| record.at);
        note.records += records.len() as i64;
        self.changed.records += records.len() as u64;
        for (_, record) in &records {
            note.last_at_us = note.last_at_us.max(record.at);
            note.tally.add(record);
        }
        let (mut given_up, mut filled, mut has_gaps) = (Vec::new(), Vec::new(), false);
        for finding in findings {
            match finding {
                Finding::Gap(_) => has_gaps = true,
                Finding::Filled(seqs) => filled.push(seqs),
                Finding::GivenUp(seqs) => given_up.push(seqs),
                Finding::Duplicate(seqs) => {
                    note.duplicates += signed(seqs.end - seqs.start);
                    self.changed.duplicates += seqs.end - seqs.start;
                }
                // A broken link is in the verifier's state until it is mended.
                Finding::Broken { .. }
                | Finding::Mended { .. }
                | Finding::Restarted { .. }
                | Finding::HeaderDiffers(_) => {}
            }
        }
        for seqs in &filled {
            self.take_back_statements(&stream, seqs);
        }
        if has_gaps || !filled.is_empty() || !given_up.is_empty() {
            self.regap(&stream, &given_up, (behind_us, first_at_us));
        }
        for (seq, record) in &records {
            if let Some(watcher) = &mut self.watcher {
                watcher(&stream, *seq, record);
            }
            self.record(&stream, *seq, record);
        }
        if self.keeps_details {
            for (seq, mut record) in records {
                (record.node, record.epoch) = (stream.node.clone(), i64::from(stream.epoch));
                (record.shard, record.seq) = (i32::from(stream.shard), signed(seq));
                self.changed.details.add(&record);
            }
        }
        let known = self.verifier.stream(&stream);
        let is_complete = known.is_some_and(Stream::is_complete);
        if is_complete || (!filled.is_empty() && known.is_some_and(|known| known.missing().is_empty())) {
            self.settle(&stream, is_complete);
        }
        self.changed.streams.insert(stream);
    }

    fn record(&mut self, stream: &StreamId, seq: u64, record: &UsageRecord) {
        let hour_us = hour_of(record.at);
        match record.kind() {
            RecordKind::Gap => self.gap(stream, record, hour_us),
            _ if !self.keeps_usage => {}
            RecordKind::Request => self.request(stream, seq, record, hour_us),
            RecordKind::Session => self.session(stream, seq, record, hour_us),
            RecordKind::Node | RecordKind::Unspecified => {}
        }
    }

    fn request(&mut self, stream: &StreamId, seq: u64, record: &UsageRecord, hour_us: i64) {
        let (delta, total) = (deltas(record), totals(record));
        let is_close = record.phase() == Phase::Close;
        let requests = if is_close { record.folded.max(1) } else { 0 };
        let sums = Sums {
            bytes: delta,
            requests,
            records: 1,
            fingerprint: fingerprint(stream, seq, &delta),
            ..Sums::default()
        };
        let named = Named {
            kind: Kind::Request,
            account: account(record),
            endpoint: &record.endpoint,
            host: &record.host,
            protocol: &record.protocol,
            country: &record.country,
            status_class: i64::from(record.status / 100),
            billable: record.billable,
            reason: record.reason().name(),
            corrects: "",
            correction: "",
        };
        self.add(named, hour_us, &sums);
        if let Ok(session) = <[u8; 16]>::try_from(record.session_id.as_ref()) {
            self.charge(stream, session, &delta, is_close, hour_us);
        }
        let Ok(id) = <[u8; 16]>::try_from(record.request_id.as_ref()) else { return };
        // Most requests have one record, which says all.
        if is_close && delta == total && !self.items.contains_key(&id) {
            return;
        }
        let (_, item) = self.items.entry(id).or_insert_with(|| (stream.clone(), Item::default()));
        item.take(seq, &delta, &total, record);
        item.last_at_us = Some(item.last_at_us.unwrap_or(record.at).max(record.at));
        item.is_closed |= is_close;
        self.changed.items.insert(id);
        if is_close && item.is_whole() && !self.may_miss(stream, id) {
            self.items.remove(&id);
        }
    }

    /// What a request's record brought is no longer its session's own.
    fn charge(&mut self, stream: &StreamId, session: [u8; 16], delta: &Bytes, is_close: bool, hour_us: i64) {
        let (_, item) = self.items.entry(session).or_insert_with(|| (stream.clone(), Item::default()));
        self.changed.items.insert(session);
        item.closes += i64::from(is_close);
        let Some(closed) = item.closed.clone() else {
            add(&mut item.debt, delta);
            return;
        };
        // The session's close is behind us: the record was in a gap.
        item.beyond = minus(&item.beyond, delta);
        let (beyond, all_came) = (item.beyond, item.closes >= item.requests);
        let unitemised = Named { billable: false, reason: UNITEMISED, ..Named::of(&closed.series) };
        let now = if closed.unitemised { unitemised } else { Named::of(&closed.series) };
        self.add(now, hour_us, &of_bytes(negative(delta)));
        if closed.unitemised && all_came {
            // Everything that it began is accounted for after all.
            self.add(unitemised, hour_us, &of_bytes(negative(&beyond)));
            self.add(Named::of(&closed.series), hour_us, &of_bytes(beyond));
            if let Some((_, item)) = self.items.get_mut(&session) {
                item.closed = Some(Closed { unitemised: false, ..closed });
            }
        }
    }

    fn session(&mut self, stream: &StreamId, seq: u64, record: &UsageRecord, hour_us: i64) {
        let Ok(id) = <[u8; 16]>::try_from(record.session_id.as_ref()) else { return };
        let (delta, total) = (deltas(record), totals(record));
        let is_close = record.phase() == Phase::Close;
        let (_, item) = self.items.entry(id).or_insert_with(|| (stream.clone(), Item::default()));
        item.take(seq, &delta, &total, record);
        let beyond = minus(&delta, &item.debt);
        item.debt = [0; COLUMNS];
        item.requests = item.requests.max(record.requests);
        let before_us = item.last_at_us.unwrap_or(record.started_at);
        item.last_at_us = Some(before_us.max(record.at));
        if record.billable {
            add(&mut item.beyond, &beyond);
        }
        let named = Named {
            kind: Kind::Session,
            account: account(record),
            endpoint: &record.endpoint,
            host: "",
            protocol: &record.protocol,
            country: &record.country,
            status_class: 0,
            billable: record.billable,
            reason: record.reason().name(),
            corrects: "",
            correction: "",
        };
        // What comes after such a close goes where the rest of its overhead went.
        let is_late = record.billable && item.closed.as_ref().is_some_and(|closed| closed.unitemised);
        let is_unitemised = is_close && item.requests > item.closes;
        item.is_closed |= is_close;
        let billed = item.beyond;
        if is_close {
            let at = self.catalog.place(Named { billable: true, reason: "", ..named });
            item.closed = Some(Closed { series: self.catalog.series(at).clone(), unitemised: is_unitemised });
        }
        let sums = Sums {
            bytes: if is_late { [0; COLUMNS] } else { beyond },
            sessions: i64::from(is_close),
            session_us: (record.at - before_us).max(0),
            records: 1,
            fingerprint: fingerprint(stream, seq, &delta),
            ..Sums::default()
        };
        self.add(named, hour_us, &sums);
        if is_late {
            self.add(Named { billable: false, reason: UNITEMISED, ..named }, hour_us, &of_bytes(beyond));
        }
        if is_unitemised {
            self.add(Named { billable: true, reason: "", ..named }, hour_us, &of_bytes(negative(&billed)));
            self.add(Named { billable: false, reason: UNITEMISED, ..named }, hour_us, &of_bytes(billed));
        }
        self.changed.items.insert(id);
        let is_whole = self.items.get(&id).is_some_and(|(_, item)| item.is_whole());
        if is_close && is_whole && !self.may_miss(stream, id) {
            self.items.remove(&id);
        }
    }

    /// Whether a record of this item may still come: a gap above its first record, or anywhere if that did not come.
    fn may_miss(&self, stream: &StreamId, id: [u8; 16]) -> bool {
        let missing = self.verifier.stream(stream).map_or(&[][..], Stream::missing);
        let Some(last) = missing.last() else { return false };
        let opened_seq = self.items.get(&id).and_then(|(_, item)| item.opened_seq);
        opened_seq.is_none_or(|opened_seq| last.seqs.end > opened_seq)
    }

    fn gap(&mut self, stream: &StreamId, record: &UsageRecord, hour_us: i64) {
        let delta = deltas(record);
        let counted = match SeqRange::of(record) {
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
    fn take_back_statements(&mut self, stream: &StreamId, filled: &std::ops::Range<u64>) {
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

    fn regap(&mut self, id: &StreamId, given_up: &[std::ops::Range<u64>], between: (i64, i64)) {
        let (Some(stream), Some(note)) = (self.verifier.stream(id), self.notes.get_mut(id)) else { return };
        note.gaps = gaps::now(&note.gaps, stream, given_up, &note.statements, between);
    }

    /// Nothing more is missing of this stream. Complete: and nothing more will come.
    fn settle(&mut self, stream: &StreamId, is_complete: bool) {
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

    fn add(&mut self, named: Named<'_>, hour_us: i64, sums: &Sums) {
        if sums.is_zero() {
            return;
        }
        let key = if hour_us < self.sealed_until_us {
            let sealed = self.periods.iter().find(|period| period.from_us <= hour_us && hour_us < period.to_us);
            let name = sealed.map_or_else(|| window::month_name(hour_us), |period| period.name.clone());
            (self.catalog.place(Named { corrects: &name, ..named }), self.sealed_until_us)
        } else {
            (self.catalog.place(named), hour_us)
        };
        self.changed.usage.entry(key).or_default().add(sums);
    }

    // ---- what is written ---------------------------------------------------------------------------------------

    /// What is to be committed. Afterwards either [`Book::committed`], or the book is thrown away.
    pub fn batch(&self) -> Result<Batch, String> {
        let changed = &self.changed;
        let moves = changed.moves.iter().map(|((source, part), from)| {
            let to = self.positions.get(&(source.clone(), part.clone())).copied().unwrap_or_default();
            Move { source: source.clone(), part: part.clone(), from: *from, to }
        });
        let mut batch = Batch { moves: moves.collect(), seals: self.seals, ..Batch::default() };
        let mut ids: Vec<&StreamId> = changed.streams.iter().collect();
        ids.sort();
        for id in ids {
            let (Some(note), Some(stream)) = (self.notes.get(id), self.verifier.stream(id)) else { continue };
            let kept = Kept { stream: stream.clone(), statements: note.statements.clone(), tally: note.tally };
            let place = place(id);
            let before: HashSet<&Span> = note.stored_gaps.iter().collect();
            let now: HashSet<&Span> = note.gaps.iter().collect();
            batch.gaps_gone.extend(before.difference(&now).map(|span| span.row(&place)));
            batch.gaps.extend(now.difference(&before).map(|span| span.row(&place)));
            batch.streams.push(StreamRow {
                place,
                revision: note.revision,
                next_seq: signed(stream.next_seq()),
                last_at_us: note.last_at_us,
                is_complete: stream.is_complete(),
                links_broken: stream.links_broken() as i64,
                records: note.records,
                duplicates: note.duplicates,
                state: serde_json::to_string(&kept).map_err(|error| format!("the state of {id}: {error}"))?,
            });
        }
        for id in &changed.items {
            let row = match self.items.get(id) {
                None => None,
                Some((stream, item)) => Some(item_row(stream, item)?),
            };
            batch.items.push((hex(id), row));
        }
        batch.items.sort_by(|(a, _), (b, _)| a.cmp(b));
        batch.series = self.catalog.unstored().to_vec();
        batch.usage = changed
            .usage
            .iter()
            .map(|((at, hour_us), sums)| Usage { series: self.catalog.id(*at), hour_us: *hour_us, sums: *sums })
            .collect();
        // Always in one order: two processes never wait for one another in a circle.
        batch.usage.sort_unstable_by_key(|usage| (usage.series, usage.hour_us));
        batch.quarantine.clone_from(&changed.quarantine);
        batch.details = changed.details.blocks().map_err(|error| format!("records cannot be packed: {error}"))?;
        Ok(batch)
    }

    /// The batch is in the store.
    pub fn committed(&mut self) {
        for id in std::mem::take(&mut self.changed).streams {
            if let Some(note) = self.notes.get_mut(&id) {
                note.revision += 1;
                note.stored_gaps.clone_from(&note.gaps);
            }
        }
        self.catalog.stored();
    }
}

fn item_row(stream: &StreamId, item: &Item) -> Result<ItemRow, String> {
    let missing = item.missing();
    Ok(ItemRow {
        place: place(stream),
        account: item.account.chars().filter(|c| *c != '\0').take(255).collect(),
        missing_received_bytes: missing[1],
        missing_sent_bytes: missing[4],
        missing_acked_bytes: missing[6],
        state: serde_json::to_string(item).map_err(|error| format!("an item: {error}"))?,
    })
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

fn account(record: &UsageRecord) -> &str {
    if record.account.is_empty() { UNATTRIBUTED } else { &record.account }
}

fn of_bytes(bytes: Bytes) -> Sums {
    Sums { bytes, ..Sums::default() }
}

fn deltas(record: &UsageRecord) -> Bytes {
    record.deltas().to_array().map(signed)
}

fn totals(record: &UsageRecord) -> Bytes {
    record.totals().to_array().map(signed)
}

/// The sums over a stream's records, as the store keeps them.
pub fn tally_of(row: &StreamRow) -> Result<Tally, String> {
    let kept: Kept =
        serde_json::from_str(&row.state).map_err(|error| format!("the state of {:?}: {error}", row.place))?;
    Ok(kept.tally)
}

/// What a record that states its own position adds to the fingerprint of its bucket.
pub fn fingerprint_of(record: &UsageRecord) -> [i64; 4] {
    let stream = StreamId {
        node: record.node.clone(),
        epoch: u32::try_from(record.epoch).unwrap_or_default(),
        shard: u16::try_from(record.shard).unwrap_or_default(),
    };
    fingerprint(&stream, unsigned(record.seq), &deltas(record))
}

/// Which record, and what it brought: equal sums in two stores mean the same records.
fn fingerprint(stream: &StreamId, seq: u64, delta: &Bytes) -> [i64; 4] {
    let mut bytes = [0; 96];
    bytes[..4].copy_from_slice(&crc32c::crc32c(stream.node.as_bytes()).to_le_bytes());
    bytes[4..8].copy_from_slice(&stream.epoch.to_le_bytes());
    bytes[8..10].copy_from_slice(&stream.shard.to_le_bytes());
    bytes[16..24].copy_from_slice(&seq.to_le_bytes());
    for (to, delta) in bytes[24..].chunks_exact_mut(8).zip(delta) {
        to.copy_from_slice(&delta.to_le_bytes());
    }
    let hash = blake3::hash(&bytes);
    let mut lanes = [0; 4];
    for (lane, bytes) in lanes.iter_mut().zip(hash.as_bytes().chunks_exact(4)) {
        *lane = bytes.iter().rev().fold(0, |lane, byte| lane << 8 | i64::from(*byte));
    }
    lanes
}

fn place(id: &StreamId) -> StreamPlace {
    StreamPlace { node: id.node.clone(), epoch: i64::from(id.epoch), shard: i64::from(id.shard) }
}

fn stream_id(place: &StreamPlace) -> Result<StreamId, String> {
    let wrong = || format!("{place:?} is no stream");
    Ok(StreamId {
        node: place.node.clone(),
        epoch: u32::try_from(place.epoch).map_err(|_| wrong())?,
        shard: u16::try_from(place.shard).map_err(|_| wrong())?,
    })
}

/// How many records a gap is.
pub fn seqs(gap: &Gap) -> u64 {
    unsigned(gap.next_seq - gap.first_seq)
}
