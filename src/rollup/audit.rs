//! The audit: the numbers of every step side by side, and what explains each difference. No clock.
//!
//! ```text
//! kernel ↔ sessions      each record's `audit`, which the sidecar made from TCP_INFO
//! source ↔ ledger        what a source holds now, read into a book of its own, against what the ledger took: per stream, record by record
//!                        count and column by column
//! ledger ↔ usage         Σ usage by kind against Σ records, by the formula of the rollup's header
//! ```
//!
//! A difference is *explained* by: records that are in flight (in the source, not yet in the ledger), records that the source no longer
//! has, open gaps, what is in quarantine, requests whose session's record has not come yet. Whatever is left is unexplained.

use std::collections::BTreeMap;

use serde_json::json;

use super::book::{Book, Options, UNITEMISED, seqs};
use super::consume::Stop;
use super::tally::Tally;
use crate::store::{Filter, Found, Gap, Group, Kind, Quarantined, SUM_COLUMNS, Series, Store, StreamPlace, Sums};
use crate::units::{COLUMNS, grouped};
use crate::wire::{Stream, StreamId};

/// How often a ledger that commits is looked at again.
const LOOKS_MAX: usize = 20;

type Bytes = [i64; COLUMNS];

/// All that the store says at one moment.
pub struct Look {
    /// What a ledger goes on from.
    pub found: Found,
    /// Usage by series.
    pub usage: Vec<(Series, i64, Sums)>,
    /// What could not be read.
    pub quarantined: Vec<Quarantined>,
}

/// Looks between two commits. None: it commits faster than it can be looked at.
pub async fn look(store: &Store) -> Result<Option<Look>, Stop> {
    // Loaded first: what is committed in between shows as usage that nothing was taken for, so it is looked at again.
    for _ in 0..LOOKS_MAX {
        let (found, usage) = (store.load().await?, store.usage(&Filter::default(), Group::Series).await?);
        if store.load().await?.streams == found.streams {
            return Ok(Some(Look { found, usage, quarantined: store.quarantined(i64::MAX).await? }));
        }
    }
    Ok(None)
}

/// What lies at a step: sums over its sessions and requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// `journal`, `files`, `topic`, `ledger`, `usage`.
    pub name: String,
    /// How many records.
    pub records: i64,
    /// Byte columns of sessions.
    pub sessions: Bytes,
    /// Byte columns of requests.
    pub requests: Bytes,
}

/// What is held against one another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// In the order of the flow.
    pub steps: Vec<Step>,
    /// Differences and what explains them, a sentence each.
    pub explained: Vec<String>,
    /// Differences that nothing explains.
    pub unexplained: Vec<String>,
}

fn sum<'a>(tallies: impl Iterator<Item = (&'a StreamId, &'a Tally)>) -> Tally {
    let mut sum = Tally::default();
    tallies.for_each(|(_, tally)| sum.join(tally));
    sum
}

/// Records of `a` that `b` does not have.
fn only_in(a: Option<&Stream>, b: Option<&Stream>) -> u64 {
    let Some(a) = a else { return 0 };
    let missing = |stream: &Stream, below: u64| -> Vec<(u64, u64)> {
        let ranges = stream.missing().iter().map(|missing| (missing.seqs.start, missing.seqs.end.min(below)));
        ranges.filter(|(from, to)| from < to).collect()
    };
    let lacks: Vec<(u64, u64)> = match b {
        None => vec![(0, a.next_seq())],
        Some(b) => {
            let mut lacks = missing(b, a.next_seq());
            if b.next_seq() < a.next_seq() {
                lacks.push((b.next_seq(), a.next_seq()));
            }
            lacks
        }
    };
    let not_in_a = missing(a, a.next_seq());
    let within = |(from, to): (u64, u64)| -> u64 {
        let gone: u64 = not_in_a.iter().map(|(f, t)| to.min(*t).saturating_sub(from.max(*f))).sum();
        to - from - gone
    };
    lacks.into_iter().map(within).sum()
}

impl Audit {
    /// Of what the store says, and of a source that was read again: its name, and a book of all that it holds.
    pub fn new(look: &Look, options: Options, source: Option<(&str, &Book)>) -> Result<Self, Stop> {
        let book = Book::open(look.found.clone(), options).map_err(Stop::Damaged)?;
        let mut audit = Self::default();
        match source {
            Some((name, again)) => audit.source(&book, again, name),
            None => audit.step("ledger", &sum(book.tallies())),
        }
        audit.usage(&book, &look.usage);
        audit.kernel(&book);
        audit.explained.extend(look.found.gaps.iter().map(shown));
        audit.missing(&look.found);
        audit.explained.extend(
            look.quarantined
                .iter()
                .map(|row| format!("in quarantine: {} {} at {}: {}", row.source, row.part, row.position, row.reason)),
        );
        Ok(audit)
    }

    /// `{"steps":[…],"explained":[…],"unexplained":[…]}`.
    pub fn json(&self) -> serde_json::Value {
        let columns = |bytes: &Bytes| -> serde_json::Map<String, serde_json::Value> {
            SUM_COLUMNS.iter().zip(bytes).map(|(name, bytes)| ((*name).to_owned(), json!(bytes))).collect()
        };
        let steps = self.steps.iter().map(|Step { name, records, sessions, requests }| {
            json!({ "step": name, "records": records, "sessions": columns(sessions), "requests": columns(requests) })
        });
        let steps: Vec<_> = steps.collect();
        json!({ "steps": steps, "explained": self.explained, "unexplained": self.unexplained })
    }

    /// What lies in the source against what the ledger took.
    fn source(&mut self, ledger: &Book, source: &Book, from: &str) {
        let (ours, theirs) = (sum(ledger.tallies()), sum(source.tallies()));
        self.step(from, &theirs);
        self.step("ledger", &ours);
        let none = Tally::default();
        let mut streams: BTreeMap<&StreamId, (&Tally, &Tally)> = BTreeMap::new();
        ledger.tallies().for_each(|(id, tally)| streams.entry(id).or_insert((&none, &none)).0 = tally);
        source.tallies().for_each(|(id, tally)| streams.entry(id).or_insert((&none, &none)).1 = tally);
        let (mut in_flight, mut gone) = (0, 0);
        for (id, (ours, theirs)) in streams {
            let (a, b) = (ledger.stream(id), source.stream(id));
            let (only_ours, only_theirs) = (only_in(a, b), only_in(b, a));
            in_flight += only_theirs;
            gone += only_ours;
            let (more, less) =
                (i64::try_from(only_theirs).unwrap_or(i64::MAX), i64::try_from(only_ours).unwrap_or(i64::MAX));
            if ours.records + more - less != theirs.records {
                self.unexplained
                    .push(format!("{id}: {} records in the ledger, {} in the {from}", ours.records, theirs.records));
            }
            for (what, ours, theirs) in
                [("session", &ours.sessions, &theirs.sessions), ("request", &ours.requests, &theirs.requests)]
            {
                for ((ours, theirs), column) in ours.iter().zip(theirs).zip(SUM_COLUMNS) {
                    let is_good = match (only_ours, only_theirs) {
                        (0, 0) => ours == theirs,
                        (0, _) => ours <= theirs,
                        (_, 0) => ours >= theirs,
                        _ => true,
                    };
                    if !is_good {
                        self.unexplained
                            .push(format!("{id}: {what} {column} is {ours} in the ledger and {theirs} in the {from}"));
                    }
                }
            }
        }
        let differ = |a: &Bytes, b: &Bytes| grouped((a[4] - b[4]).unsigned_abs());
        if in_flight > 0 {
            let bytes = differ(&ours.sessions, &theirs.sessions);
            self.explained.push(format!(
                "in flight: {} records of the {from} are not in the ledger yet; sessions differ by {bytes} B sent",
                grouped(in_flight)
            ));
        }
        if gone > 0 {
            self.explained.push(format!("no longer in the {from}: {} records that the ledger has", grouped(gone)));
        }
    }

    fn step(&mut self, name: &str, tally: &Tally) {
        let (name, records) = (name.to_owned(), tally.records);
        self.steps.push(Step { name, records, sessions: tally.sessions, requests: tally.requests });
    }

    /// What the ledger took against what it says was used.
    fn usage(&mut self, ledger: &Book, usage: &[(Series, i64, Sums)]) {
        let tally = sum(ledger.tallies());
        let (mut requests, mut sessions, mut unitemised) = ([0; COLUMNS], [0; COLUMNS], [0; COLUMNS]);
        let (mut request_count, mut session_count) = (0, 0);
        let mut corrected: BTreeMap<&str, Bytes> = BTreeMap::new();
        for (series, _, sums) in usage {
            if !series.correction.is_empty() {
                let sum = corrected.entry(&series.correction).or_default();
                sum.iter_mut().zip(sums.bytes).for_each(|(sum, bytes)| *sum += bytes);
                continue;
            }
            let to = if series.kind == Kind::Request { &mut requests } else { &mut sessions };
            to.iter_mut().zip(sums.bytes).for_each(|(to, bytes)| *to += bytes);
            request_count += sums.requests;
            session_count += sums.sessions;
            if series.reason == UNITEMISED {
                unitemised.iter_mut().zip(sums.bytes).for_each(|(to, bytes)| *to += bytes);
            }
        }
        let uncovered = ledger.uncovered();
        // Everything that sessions moved, as usage says it: its requests and what is beyond them.
        let whole: Bytes = std::array::from_fn(|c| {
            sessions[c] + tally.requests[c] - tally.folded[c] - uncovered[c] - tally.gaps_counted[c]
        });
        self.steps.push(Step { name: "usage".to_owned(), records: tally.records, sessions: whole, requests });
        for (column, name) in SUM_COLUMNS.iter().enumerate().take(COLUMNS) {
            if requests[column] != tally.requests[column] {
                self.unexplained
                    .push(format!("requests' {name}: usage {}, records {}", requests[column], tally.requests[column]));
            }
            if whole[column] != tally.sessions[column] {
                self.unexplained
                    .push(format!("sessions' {name}: usage {}, records {}", whole[column], tally.sessions[column]));
            }
        }
        for (what, used, recorded) in
            [("requests", request_count, tally.request_closes), ("sessions", session_count, tally.session_closes)]
        {
            if used != recorded {
                self.unexplained.push(format!("{what}: usage {used}, closes in records {recorded}"));
            }
        }
        for (why, bytes) in [
            ("requests of sessions that are open: their sessions' records have not come yet", uncovered),
            ("folded: requests summed up while the journal was nearly full", tally.folded),
            (
                "unitemised: beyond the requests of sessions of which not every request has a record; not billed",
                unitemised,
            ),
            ("stated by gap records alone; not billed", tally.gaps_counted),
        ] {
            if bytes != [0; COLUMNS] {
                self.explained.push(format!("{} B received, {} B sent: {why}", bytes[1], bytes[4]));
            }
        }
        for (id, bytes) in corrected {
            self.explained.push(format!("{:+} B received, {:+} B acknowledged: correction {id}", bytes[1], bytes[6]));
        }
        let undelivered = tally.sessions[5] - tally.sessions[6];
        if undelivered != 0 {
            self.explained.push(format!("{undelivered} B: sent and not acknowledged (undelivered, or open sessions)"));
        }
    }

    /// What the kernel counted against what sessions say.
    fn kernel(&mut self, ledger: &Book) {
        let tally = sum(ledger.tallies());
        if tally.differences > 0 {
            self.unexplained.push(format!("{} records say that the kernel counted something else", tally.differences));
        }
        if tally.recovered > 0 {
            self.explained.push(format!("recovered: {} closes were written for a process that died", tally.recovered));
        }
        if tally.uncertain_bytes > 0 {
            self.explained.push(format!("{} B were in a write at a kill: sent or not", tally.uncertain_bytes));
        }
    }

    /// What later totals say that no record brought.
    fn missing(&mut self, found: &Found) {
        let complete = |place: &StreamPlace| found.streams.iter().any(|row| row.is_complete && row.place == *place);
        let mut sums: BTreeMap<&str, [i64; 3]> = BTreeMap::new();
        for (id, item) in &found.items {
            let missing = [item.missing_received_bytes, item.missing_sent_bytes, item.missing_acked_bytes];
            if missing == [0; 3] {
                continue;
            }
            if complete(&item.place) {
                self.unexplained.push(format!("{id}: its records are all there and do not add up to its totals"));
            }
            let sum = sums.entry(&item.account).or_default();
            sum.iter_mut().zip(missing).for_each(|(sum, missing)| *sum += missing);
        }
        for (account, [received, sent, acked]) in sums {
            self.explained.push(format!(
                "missing in gaps, by later totals: {account}: {received} B received, {sent} B sent, {acked} B acknowledged"
            ));
        }
    }
}

fn shown(gap: &Gap) -> String {
    let Gap { place, first_seq, next_seq, cause, .. } = gap;
    let range = seqs(gap);
    format!(
        "gap: node {} epoch {} shard {}: {range} records, seqs {first_seq} to {} ({cause})",
        place.node,
        place.epoch,
        place.shard,
        next_seq - 1
    )
}
