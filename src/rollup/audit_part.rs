//! The audit of a part: a time, by node and account. No clock.
//!
//! ```text
//! records ─► by node and account: what they say             (a source, read again from its oldest record)
//!         ─► rolled up again, by account and hour           (the same book that the ledger has)
//!                    ↕ must be equal, or a cause says by how much at most
//!            usage, as the ledger has it
//! ```
//!
//! | cause | bytes are in one and not in the other because |
//! |---|---|
//! | `in_flight` | the records are in the source and the ledger has not taken them yet |
//! | `gone` | the ledger took records that the source no longer has |
//! | `late` | the records came when their month was sealed: they count in a later one, which names it |
//! | `correction` | somebody corrected it by hand |
//! | `open_gap` | records are missing; what later totals say of them |
//! | `quarantined` | bytes came that cannot be read |
//! | `folded`, `recovered`, `undelivered`, `in_doubt`, `duplicate` | within the sums, and named: summed up while the journal was nearly full; closed by a successor; sent and not acknowledged; in a write at a kill; dropped because they came before |
//!
//! The first four can explain a difference, up to what they hold; the others say what the numbers are made of.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::audit::Look;
use super::book::{Book, Options, seqs};
use super::consume::Stop;
use super::gaps::came;
use super::item::{Bytes, add, minus};
use super::tally::Tally;
use crate::clock::hour_of;
use crate::event::RecordView;
use crate::store::{Batch, Filter, Kind, SUM_COLUMNS, Series, Store, Sums};
use crate::units::COLUMNS;
use crate::wire::StreamId;

const RECEIVED: usize = 1;
const SENT: usize = 4;
const WIRE_SENT: usize = 5;
const ACKED: usize = 6;

/// Which part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// From this hour on, µs.
    pub from_us: i64,
    /// Up to this hour, µs.
    pub to_us: i64,
    /// Only this account.
    pub account: Option<String>,
    /// Only this node: its records alone, because usage is not told apart by node.
    pub node: Option<String>,
}

impl Part {
    fn takes_account(&self, account: &str) -> bool {
        self.account.as_ref().is_none_or(|wanted| wanted == account)
    }

    fn takes_hour(&self, hour_us: i64) -> bool {
        (self.from_us..self.to_us).contains(&hour_us)
    }
}

/// Why two numbers differ, or what is in them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cause {
    /// As in the table above.
    pub cause: &'static str,
    /// Which node, or empty.
    pub node: String,
    /// Whose, or empty.
    pub account: String,
    /// How many records.
    pub records: i64,
    /// Octets received.
    pub received_bytes: i64,
    /// Octets sent.
    pub sent_bytes: i64,
    /// More about it.
    pub note: String,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct PartAudit {
    /// What records say, by node and account.
    pub records: BTreeMap<(String, String), Tally>,
    /// By account: what the records come to, and what the ledger says was used; requests and what is beyond them.
    pub usage: BTreeMap<String, (Bytes, Bytes)>,
    /// Causes.
    pub explained: Vec<Cause>,
    /// Differences that nothing explains.
    pub unexplained: Vec<String>,
}

/// What is seen while a source is read again.
pub struct Watch {
    part: Part,
    ledger: Book,
    records: BTreeMap<(String, String), Tally>,
    in_flight: BTreeMap<(String, String), Tally>,
}

impl Watch {
    /// Of a source that is about to be read.
    pub fn new(look: &Look, options: Options, part: Part) -> Result<Self, Stop> {
        let ledger = Book::open(look.found.clone(), options).map_err(Stop::Damaged)?;
        Ok(Self { part, ledger, records: BTreeMap::new(), in_flight: BTreeMap::new() })
    }

    /// A record that came for the first time.
    pub fn see(&mut self, stream: &StreamId, seq: u64, record: &RecordView<'_>) {
        let account = record.payer();
        let is_ours = self.part.takes_account(account)
            && self.part.takes_hour(hour_of(record.at))
            && self.part.node.as_ref().is_none_or(|node| *node == stream.node);
        if !is_ours {
            return;
        }
        let key = || (stream.node.clone(), account.to_owned());
        self.records.entry(key()).or_default().add(record);
        if came(self.ledger.stream(stream), &(seq..seq + 1)) == 0 {
            self.in_flight.entry(key()).or_default().add(record);
        }
    }

    /// Everything was read: `again` is what the source comes to, rolled up as the ledger does it.
    pub fn judge(self, look: &Look, again: &Book, usage: &[(Series, i64, Sums)]) -> Result<PartAudit, Stop> {
        let gone = i64::try_from(self.lost(look, again)).unwrap_or(i64::MAX);
        let gone = (gone > 0).then(|| (gone, "the ledger has them, the source no longer".to_owned()));
        self.judge_with(look, again, usage, gone)
    }

    /// The same, where it is known otherwise what the source no longer has: how many records (0: nobody knows), and why.
    pub(super) fn judge_with(
        self,
        look: &Look,
        again: &Book,
        usage: &[(Series, i64, Sums)],
        gone: Option<(i64, String)>,
    ) -> Result<PartAudit, Stop> {
        let batch = again.batch().map_err(Stop::Damaged)?;
        let mut audit = PartAudit::default();
        let is_gone = gone.is_some();
        if let Some((records, note)) = gone {
            let cause = Cause { cause: "gone", records, note, ..Cause::default() };
            audit.explained.push(cause);
        }
        self.name_causes(look, usage, &mut audit);
        if self.part.node.is_none() {
            self.compare(&batch, usage, is_gone, &mut audit);
        }
        audit.records = self.records;
        Ok(audit)
    }

    /// What the records come to against what the ledger says.
    fn compare(&self, batch: &Batch, usage: &[(Series, i64, Sums)], is_gone: bool, audit: &mut PartAudit) {
        let by_id: BTreeMap<i64, &Series> = batch.series.iter().map(|(id, series)| (*id, series)).collect();
        for row in batch.usage.iter().filter(|row| self.part.takes_hour(row.hour_us)) {
            if let Some(series) = by_id.get(&row.series).filter(|series| self.part.takes_account(&series.account)) {
                let (expected, _) = audit.usage.entry(series.account.clone()).or_default();
                add(expected, &row.sums.bytes);
            }
        }
        for (series, ..) in usage {
            audit.usage.entry(series.account.clone()).or_default();
        }
        for (series, _, sums) in
            usage.iter().filter(|(series, ..)| series.correction.is_empty() && series.corrects.is_empty())
        {
            let (_, said) = audit.usage.entry(series.account.clone()).or_default();
            add(said, &sums.bytes);
        }
        // Where the source has lost what the ledger took, nobody can say of which hours: what is less there is explained by it.
        for (account, (expected, said)) in &audit.usage {
            let flying: Vec<&Tally> =
                self.in_flight.iter().filter(|((_, whose), _)| whose == account).map(|(_, tally)| tally).collect();
            let is_late = audit.explained.iter().any(|cause| cause.cause == "late" && cause.account == *account);
            // A session's record takes back what its requests brought, so either side may be the larger while some are in flight.
            let is_moving = !flying.is_empty() || !self.ledger.uncovered().iter().all(|bytes| *bytes == 0);
            for (column, name) in SUM_COLUMNS.iter().enumerate().take(COLUMNS) {
                let difference = said[column] - expected[column];
                let most: i64 = flying.iter().map(|tally| tally.sessions[column] + tally.requests[column]).sum();
                let is_explained = difference == 0
                    || difference > 0 && is_gone
                    || difference < 0 && is_late
                    || is_moving && difference.abs() <= most;
                if !is_explained {
                    audit.unexplained.push(format!(
                        "{account}: {name} is {} in usage, and its records come to {}: {difference:+}",
                        said[column], expected[column]
                    ));
                }
            }
        }
    }

    /// Records that the ledger has and the source has not.
    fn lost(&self, look: &Look, again: &Book) -> u64 {
        let streams = self.ledger.tallies().map(|(id, _)| id);
        let of = |id: &StreamId| {
            let Some(ours) = self.ledger.stream(id) else { return 0 };
            let all = 0..ours.next_seq();
            let (had, has) = (came(Some(ours), &all), came(again.stream(id), &all));
            had.saturating_sub(has)
        };
        if look.found.streams.is_empty() { 0 } else { streams.map(of).sum() }
    }

    fn name_causes(&self, look: &Look, usage: &[(Series, i64, Sums)], audit: &mut PartAudit) {
        let mut name = |cause, (node, account): (&str, &str), records: i64, bytes: [i64; 2], note: String| {
            audit.explained.push(Cause {
                cause,
                node: node.to_owned(),
                account: account.to_owned(),
                records,
                received_bytes: bytes[0],
                sent_bytes: bytes[1],
                note,
            });
        };
        let none = String::new;
        for ((node, account), tally) in &self.in_flight {
            let bytes = [tally.sessions[RECEIVED], tally.sessions[SENT]];
            name("in_flight", (node, account), tally.records, bytes, "not in the ledger yet".to_owned());
        }
        for ((node, account), tally) in &self.records {
            let whose = (node.as_str(), account.as_str());
            if tally.folded != [0; COLUMNS] {
                name("folded", whose, 0, [tally.folded[RECEIVED], tally.folded[SENT]], none());
            }
            if tally.recovered > 0 {
                name("recovered", whose, tally.recovered, [0, 0], "closed by a successor".to_owned());
            }
            let undelivered = tally.sessions[WIRE_SENT] - tally.sessions[ACKED];
            if undelivered != 0 {
                name("undelivered", whose, 0, [0, undelivered], "sent and not acknowledged, or not yet".to_owned());
            }
            if tally.uncertain_bytes > 0 {
                name("in_doubt", whose, 0, [0, tally.uncertain_bytes], "in a write at a kill".to_owned());
            }
            if tally.differences > 0 {
                audit_difference(&mut audit.unexplained, whose, tally.differences);
            }
        }
        let is_node = |node: &str| self.part.node.as_ref().is_none_or(|wanted| wanted == node);
        for gap in look.found.gaps.iter().filter(|gap| is_node(&gap.place.node)) {
            let touches = gap.from_us < self.part.to_us && gap.to_us >= self.part.from_us;
            if touches {
                let records = i64::try_from(seqs(gap)).unwrap_or(i64::MAX);
                let (first, last, place) = (gap.first_seq, gap.next_seq - 1, &gap.place);
                let note =
                    format!("epoch {} shard {} seqs {first} to {last} ({})", place.epoch, place.shard, gap.cause);
                name("open_gap", (&place.node, ""), records, [0, 0], note);
            }
        }
        let mut missing: BTreeMap<(&str, &str), [i64; 2]> = BTreeMap::new();
        for (_, item) in look.found.items.iter().filter(|(_, item)| is_node(&item.place.node)) {
            if self.part.takes_account(&item.account) {
                let sum = missing.entry((&item.place.node, &item.account)).or_default();
                sum[0] += item.missing_received_bytes;
                sum[1] += item.missing_sent_bytes;
            }
        }
        for (whose, bytes) in missing.into_iter().filter(|(_, bytes)| *bytes != [0, 0]) {
            name("open_gap", whose, 0, bytes, "missing, as later totals say".to_owned());
        }
        for row in look.found.streams.iter().filter(|row| row.duplicates > 0 && is_node(&row.place.node)) {
            let note = format!("epoch {} shard {}: dropped, since it began", row.place.epoch, row.place.shard);
            name("duplicate", (&row.place.node, ""), row.duplicates, [0, 0], note);
        }
        for row in &look.quarantined {
            let in_time = row.at_us == 0 || (self.part.from_us..self.part.to_us).contains(&row.at_us);
            if in_time {
                let note = format!("{} {} at {}: {}", row.source, row.part, row.position, row.reason);
                name("quarantined", ("", ""), 1, [0, 0], note);
            }
        }
        for (series, _, sums) in usage.iter().filter(|(series, ..)| !series.correction.is_empty()) {
            let bytes = [sums.bytes[RECEIVED], sums.bytes[ACKED]];
            name("correction", ("", &series.account), 0, bytes, series.correction.clone());
        }
        for (series, _, sums) in &look.usage {
            let month = super::month(&series.corrects).filter(|_| self.part.takes_account(&series.account));
            let is_late = month.is_some_and(|(from_us, to_us)| from_us < self.part.to_us && to_us > self.part.from_us);
            if is_late && series.correction.is_empty() && series.kind != Kind::Gap {
                let bytes = [sums.bytes[RECEIVED], sums.bytes[SENT]];
                name(
                    "late",
                    ("", &series.account),
                    sums.records,
                    bytes,
                    format!("of {}, sealed before", series.corrects),
                );
            }
        }
    }
}

fn audit_difference(unexplained: &mut Vec<String>, (node, account): (&str, &str), records: i64) {
    unexplained.push(format!("{node} {account}: {records} records say that the kernel counted something else"));
}

/// The part's usage by hour, as the ledger has it.
pub async fn part_usage(store: &Store, part: &Part) -> Result<Vec<(Series, i64, Sums)>, Stop> {
    let filter = Filter { account: part.account.clone(), from_us: part.from_us, to_us: part.to_us };
    Ok(store.usage(&filter, crate::store::Group::Hour).await?)
}

impl PartAudit {
    /// `{"records":[…],"usage":[…],"explained":[…],"unexplained":[…]}`.
    pub fn json(&self) -> Value {
        let columns = |bytes: &Bytes| -> Value {
            let named = SUM_COLUMNS.iter().zip(bytes).map(|(name, bytes)| ((*name).to_owned(), json!(bytes)));
            Value::Object(named.collect())
        };
        let records: Vec<Value> = self
            .records
            .iter()
            .map(|((node, account), tally)| {
                json!({
                    "node": node, "account": account, "records": tally.records,
                    "sessions": columns(&tally.sessions), "requests": columns(&tally.requests),
                })
            })
            .collect();
        let usage: Vec<Value> = self
            .usage
            .iter()
            .map(|(account, (expected, said))| {
                json!({
                    "account": account, "records_come_to": columns(expected), "usage": columns(said),
                    "difference": columns(&minus(said, expected)),
                })
            })
            .collect();
        let explained: Vec<Value> = self
            .explained
            .iter()
            .map(|Cause { cause, node, account, records, received_bytes, sent_bytes, note }| {
                json!({
                    "cause": cause, "node": node, "account": account, "records": records,
                    "received_bytes": received_bytes, "sent_bytes": sent_bytes, "note": note,
                })
            })
            .collect();
        json!({ "records": records, "usage": usage, "explained": explained, "unexplained": self.unexplained })
    }
}
