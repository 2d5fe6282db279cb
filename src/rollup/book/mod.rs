//! The book: everything a ledger knows, and what a batch of records changes in it. No I/O, no clock.
//!
//! ```text
//! what comes ─ advance · verify ─► post ─┬─ entries      what a record brings to usage
//!                                        └─ holes        what did not come
//!                                   batch ─► the store ─► committed
//! ```

mod entries;
mod fingerprint;
mod holes;

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::{Deserialize, Serialize};

use super::catalog::Catalog;
use super::gaps::{Span, Statement, signed, unsigned};
use super::item::{Bytes, Item, add};
use super::tally::Tally;
use crate::event::{RecordView, UsageRecord};
use crate::ids::{hex, unhex};
use crate::store::{
    Batch, Details, Found, Gap, ItemRow, Move, Period, Quarantined, StreamPlace, StreamRow, Sums, Usage,
};
use crate::units::COLUMNS;
use crate::wire::{Bounds, Finding, Incoming, Reject, State, Stream, StreamId, Taken, Verifier, VerifyingKey};

pub use fingerprint::fingerprint_of;

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

/// What sees what messages bring.
pub type Watcher = Box<dyn FnMut(&Taken<'_>) + Send>;

/// Everything known.
pub struct Book {
    verifier: Verifier,
    notes: HashMap<StreamId, Note>,
    items: HashMap<[u8; 16], (StreamId, Item)>,
    /// Those that the store has: the others come and go between two batches without its hearing of them.
    stored_items: HashSet<[u8; 16]>,
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
            stored_items: items.keys().copied().collect(),
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

    /// What a message brings for the first time is shown to this too.
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
    pub fn records<'a>(
        &mut self,
        spot: Spot,
        stream: StreamId,
        first_seq: u64,
        skipped: u64,
        records: impl IntoIterator<Item: Into<RecordView<'a>>>,
    ) -> Result<(), Refused> {
        self.advance(&spot)?;
        let records: Vec<RecordView<'a>> = records.into_iter().map(Into::into).collect();
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

    fn post(&mut self, mut taken: Taken<'_>) {
        let (stream, findings) = (taken.stream.clone(), std::mem::take(&mut taken.findings));
        let note = self.notes.entry(stream.clone()).or_default();
        let behind_us = note.last_at_us;
        let first_at_us = taken.records().next().map_or(behind_us, |(_, record)| record.at);
        note.records += taken.count() as i64;
        self.changed.records += taken.count() as u64;
        for (_, record) in taken.records() {
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
        if let Some(watcher) = &mut self.watcher {
            watcher(&taken);
        }
        for (seq, record) in taken.records() {
            self.record(&stream, seq, record);
        }
        if self.keeps_details {
            for (seq, record) in taken.into_records() {
                let mut record = UsageRecord::from(record);
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
                Some((stream, item)) => Some(item_row(stream, item)?),
                None if self.stored_items.contains(id) => None,
                None => continue,
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
        let changed = std::mem::take(&mut self.changed);
        for id in changed.items {
            if self.items.contains_key(&id) {
                self.stored_items.insert(id);
            } else {
                self.stored_items.remove(&id);
            }
        }
        for id in changed.streams {
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

/// The sums over a stream's records, as the store keeps them.
pub fn tally_of(row: &StreamRow) -> Result<Tally, String> {
    let kept: Kept =
        serde_json::from_str(&row.state).map_err(|error| format!("the state of {:?}: {error}", row.place))?;
    Ok(kept.tally)
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
