//! One shard on its way: what was read and sent, what is acknowledged, and the cursor behind it.
//!
//! ```text
//! … freed | cursor (durable) | acknowledged | in flight: batch, batch, batch | read next | synced | published
//! ```
//!
//! Acknowledged is the contiguous low-water mark: a batch counts only when all before it do. The cursor follows it, a few
//! times a second, with the hash of the batch that ends there; segments are freed behind the cursor.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::error;

use super::Source;
use crate::journal::{self, Cursor, EpochDir, Reader, Shared, Step};
use crate::sink::{Boundary, Hash, Ticket};

/// How often the cursor follows what is acknowledged: a crash repeats at most what was acknowledged since.
const CURSOR_INTERVAL: Duration = Duration::from_millis(200);
/// How often segments are freed.
const RELEASE_INTERVAL: Duration = Duration::from_secs(1);

/// A batch that the sink has and has not answered for.
#[derive(Debug)]
struct Flight {
    ticket: Ticket,
    /// Where it ends.
    end: Boundary,
    records: u64,
    bytes: u64,
    answer: Answer,
}

/// What the sink said of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Answer {
    None,
    Safe,
    /// It will not become safe: nothing behind it counts either, until it is sent again.
    TooLarge,
}

/// Records that were read and not sent.
#[derive(Debug, Default)]
pub struct Pending {
    /// Seq of the first; the others follow without a gap.
    pub first_seq: u64,
    /// Their bytes, one behind another.
    bytes: Vec<u8>,
    /// Where each ends in there.
    ends: Vec<usize>,
    /// When the first was read.
    since: Option<Instant>,
}

impl Pending {
    /// Each record's bytes.
    pub fn records(&self) -> Vec<&[u8]> {
        let mut from = 0;
        let record = |to: &usize| {
            let record = &self.bytes[from..*to];
            from = *to;
            record
        };
        self.ends.iter().map(record).collect()
    }

    /// All of their bytes together.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    fn count(&self) -> usize {
        self.ends.len()
    }

    /// Forgets them; the room stays.
    fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
        self.since = None;
    }
}

/// What a batch may hold, and how many of them a shard may have under way.
#[derive(Clone, Copy, Debug)]
pub struct BatchMax {
    /// Records.
    pub records: usize,
    /// Bytes; one record always fits.
    pub bytes: usize,
    /// How long records wait for more of them.
    pub linger: Duration,
    /// Batches of one shard that were sent and not answered for.
    pub in_flight: usize,
}

/// A shard's journal being shipped.
pub struct Stream {
    pub source: Source,
    pub cursor: Cursor,
    /// None until it is opened at `read_from`.
    reader: Option<Reader>,
    read_from: u64,
    /// Everything before it is safe.
    acknowledged: Boundary,
    /// Everything before it was sent.
    sent: Boundary,
    flights: VecDeque<Flight>,
    pub pending: Pending,
    batch_max: BatchMax,
    /// What the batches are made smaller from, while one is too large.
    usual_bytes: usize,
    /// A batch failed for its size: nothing is sent until all answers are there and it begins anew.
    too_large: bool,
    /// A record that no batch is small enough for is tried again then.
    pub rests_until: Option<Instant>,
    cursor_at: Instant,
    released_at: Instant,
}

impl Stream {
    /// Goes on where the cursor is.
    pub fn open(source: Source, batch_max: BatchMax) -> Result<Self, journal::Error> {
        let cursor = Cursor::open(source.shared.directory())?;
        let hash = Some(cursor.hash()).filter(|hash| *hash != [0; 32]);
        let at = Boundary { next_seq: cursor.next_seq(), hash: hash.map(Hash) };
        let now = Instant::now();
        Ok(Self {
            source,
            cursor,
            reader: None,
            read_from: at.next_seq,
            acknowledged: at,
            sent: at,
            flights: VecDeque::new(),
            pending: Pending::default(),
            batch_max,
            usual_bytes: batch_max.bytes,
            too_large: false,
            rests_until: None,
            cursor_at: now,
            released_at: now,
        })
    }

    /// The shard.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.source.shared
    }

    /// Where the next batch begins.
    pub fn sent(&self) -> Boundary {
        self.sent
    }

    /// Records published and not acknowledged.
    pub fn lag(&self) -> u64 {
        self.shared().published_seq().saturating_sub(self.acknowledged.next_seq)
    }

    /// Batches without an answer.
    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// Reads a batch of consecutive durable records; what is damaged is named and passed over. True if there is one to send.
    pub fn read(&mut self, now: Instant, hurry: bool) -> Result<bool, journal::Error> {
        if self.too_large || self.rests_until.is_some_and(|until| now < until) {
            return Ok(false);
        }
        let limit = self.shared().synced_seq();
        let batch_max = self.batch_max;
        let reader = reader(&mut self.reader, &self.source.shared, self.read_from)?;
        let pending = &mut self.pending;
        let mut complete = hurry;
        loop {
            if pending.count() >= batch_max.records || pending.bytes() >= batch_max.bytes {
                complete = true;
                break;
            }
            match reader.step_below(limit)? {
                None => break,
                Some(Step::Record(seq)) => {
                    if pending.ends.is_empty() {
                        pending.first_seq = seq;
                        pending.since = Some(now);
                    }
                    if seq != pending.first_seq + pending.count() as u64 {
                        // Behind damage: a batch is consecutive.
                        (self.reader, self.read_from) = (None, seq);
                        complete = true;
                        break;
                    }
                    pending.bytes.extend_from_slice(reader.payload());
                    pending.ends.push(pending.bytes.len());
                }
                Some(Step::Damaged(range)) => error!(?range, "records lost to damage in the journal: a gap"),
            }
        }
        let waited = pending.since.is_some_and(|since| now.duration_since(since) >= batch_max.linger);
        Ok(!pending.ends.is_empty() && (complete || waited))
    }

    /// The batch that was read has been taken by the sink.
    pub fn taken(&mut self, ticket: Ticket, end: Boundary) {
        let (records, bytes) = (self.pending.count() as u64, self.pending.bytes() as u64);
        assert_eq!(end.next_seq, self.pending.first_seq + records, "the sink took other records than it was given");
        self.sent = end;
        self.flights.push_back(Flight { ticket, end: self.sent, records, bytes, answer: Answer::None });
        self.pending.clear();
    }

    /// A batch is safe. How many records became acknowledged by it, and the batch's bytes.
    pub fn safe(&mut self, ticket: Ticket) -> (u64, u64) {
        let Some(flight) = self.flights.iter_mut().find(|flight| flight.ticket == ticket) else { return (0, 0) };
        flight.answer = Answer::Safe;
        let bytes = flight.bytes;
        let mut records = 0;
        while let Some(flight) = self.flights.front().filter(|flight| flight.answer == Answer::Safe) {
            records += flight.records;
            self.acknowledged = flight.end;
            // Only what goes on from where it was stuck makes batches larger again, or it would be stuck for ever.
            self.batch_max.bytes = (self.batch_max.bytes * 2).min(self.usual_bytes);
            self.flights.pop_front();
        }
        (records, bytes)
    }

    /// A batch is too large for the sink: smaller ones follow once all others of this shard are answered. The bytes not in
    /// flight any more.
    pub fn too_large(&mut self, ticket: Ticket, why: &str) -> u64 {
        let Some(flight) = self.flights.iter_mut().find(|flight| flight.ticket == ticket) else { return 0 };
        flight.answer = Answer::TooLarge;
        let (records, bytes, seq) = (flight.records, flight.bytes, flight.end.next_seq - 1);
        self.too_large = true;
        if records > 1 {
            self.batch_max.bytes = (usize::try_from(bytes).unwrap_or(usize::MAX) / 2).max(1);
        } else {
            let shared = self.shared();
            error!(
                epoch = shared.epoch(),
                shard = shared.shard(),
                seq,
                bytes,
                why,
                "a record is larger than the sink takes: it and what follows in its shard wait; raise max.message.bytes"
            );
            self.rests_until = Some(Instant::now() + Duration::from_secs(10));
        }
        bytes
    }

    /// Begins anew at what is acknowledged, if a batch was too large and all others are answered.
    pub fn settle(&mut self) {
        if self.too_large && self.flights.iter().all(|flight| flight.answer != Answer::None) {
            self.rewind();
        }
    }

    /// Forgets what was sent and not acknowledged: it is read and sent again.
    pub fn rewind(&mut self) {
        self.flights.clear();
        self.pending.clear();
        self.sent = self.acknowledged;
        self.too_large = false;
        (self.reader, self.read_from) = (None, self.acknowledged.next_seq);
    }

    /// What is damaged at the end of a dead epoch will never be followed by a record: it counts as gone.
    fn pass_damaged_end(&mut self) {
        let idle = self.flights.is_empty() && self.pending.ends.is_empty();
        let Some(reader) = self.reader.as_ref().filter(|_| self.source.dead.is_some() && idle) else { return };
        self.acknowledged.next_seq = self.acknowledged.next_seq.max(reader.next_seq());
    }

    /// Lets the cursor follow, and frees what lies behind it.
    pub fn follow(&mut self, now: Instant, hurry: bool) -> Result<(), journal::Error> {
        self.pass_damaged_end();
        let due = hurry || now.duration_since(self.cursor_at) >= CURSOR_INTERVAL;
        if due && self.cursor.next_seq() < self.acknowledged.next_seq {
            // A kill before this: what was acknowledged since comes again.
            let hash = self.acknowledged.hash.map_or([0; 32], |hash| hash.0);
            self.cursor.advance_to(self.acknowledged.next_seq, hash)?;
            self.cursor_at = now;
        }
        if hurry || now.duration_since(self.released_at) >= RELEASE_INTERVAL {
            self.source.shared.release_through(&self.cursor)?;
            self.released_at = now;
        }
        Ok(())
    }

    /// Whether it belongs to a dead epoch and everything of it is safe, and durably known to be.
    pub fn is_done(&self) -> bool {
        self.source.dead.is_some() && self.cursor.next_seq() >= self.shared().published_seq()
    }

    /// Lets go of its files; the dead epoch it belonged to.
    pub fn close(self) -> Option<Arc<EpochDir>> {
        self.source.dead
    }
}

/// The reader, opened if it is not.
fn reader<'a>(
    reader: &'a mut Option<Reader>,
    shared: &Shared,
    read_from: u64,
) -> Result<&'a mut Reader, journal::Error> {
    match reader {
        Some(reader) => Ok(reader),
        none => Ok(none.insert(Reader::open(shared.directory(), read_from)?)),
    }
}
