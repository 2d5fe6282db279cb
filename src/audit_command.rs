//! `weir audit`: the numbers of every step side by side, and what explains each difference; exit code 1 if a byte is unexplained.
//!
//! ```text
//! kernel ↔ sessions      each record's `audit`, which the sidecar made from TCP_INFO
//! source ↔ ledger        what lies in the journal, the files or the topic now, read again from its oldest record into a book of its own,
//!                        against what the ledger took: per stream, record by record count and column by column
//! ledger ↔ usage         Σ usage by kind against Σ records, by the formula of the rollup's header
//! ```
//!
//! A difference is *explained* by: records that are in flight (in the source, not yet in the ledger), records that the source no longer
//! has, open gaps, what is in quarantine, requests whose session's record has not come yet. Whatever is left is unexplained.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use anyhow::bail;
use rdkafka::Message as _;
use rdkafka::message::Headers;
use serde_json::json;

use crate::cli::AuditArgs;
use crate::config::Sink;
use crate::ledger_command::{Setting, runtime, security};
use crate::rollup::{self, Book, Feed, FilesFeed, JournalFeed, KafkaFeed, Spot, Tally, UNITEMISED};
use crate::source::{Next, Source, Start};
use crate::store::{Filter, Found, Gap, Group, Kind, SUM_COLUMNS, Series, StreamPlace, Sums};
use crate::units::{COLUMNS, grouped};
use crate::wire::{Stream, StreamId};

/// Longest wait for a topic's next message.
const WAIT: Duration = Duration::from_millis(500);
/// How many single gaps are listed for people.
const LISTED: usize = 20;

type Bytes = [i64; COLUMNS];

/// What is held against one another.
struct Audit {
    /// What lies at each step: name and sums over sessions and requests.
    steps: Vec<(String, i64, Bytes, Bytes)>,
    explained: Vec<String>,
    unexplained: Vec<String>,
}

/// Prints it.
pub fn run(args: &AuditArgs) -> anyhow::Result<()> {
    let setting = Setting::of(&args.place)?;
    let runtime = runtime()?;
    let (found, usage, quarantined) = runtime.block_on(async {
        let store = setting.store().await?;
        // Loaded first: what is committed in between shows as usage that nothing was taken for, so it is looked at again.
        for _ in 0..20 {
            let (found, before) = (store.load().await?, store.usage(&Filter::default(), Group::Series).await?);
            if store.load().await?.streams == found.streams {
                return anyhow::Ok((found, before, store.quarantined(i64::MAX).await?));
            }
        }
        bail!("the ledger commits faster than it can be looked at: stop it for the audit");
    })?;
    let book = Book::open(found.clone(), setting.options()?).map_err(anyhow::Error::msg)?;
    let again = reread(&setting)?;
    let mut audit = Audit { steps: Vec::new(), explained: Vec::new(), unexplained: Vec::new() };
    audit.source(&book, &again, name(&setting.sink));
    audit.usage(&book, &usage);
    audit.kernel(&book);
    for gap in &found.gaps {
        audit.explained.push(shown(gap));
    }
    audit.missing(&found);
    for row in &quarantined {
        audit.explained.push(format!("in quarantine: {} {} at {}: {}", row.source, row.part, row.position, row.reason));
    }
    if args.json {
        audit.json()?
    } else {
        audit.print()?
    }
    if audit.unexplained.is_empty() {
        return Ok(());
    }
    bail!("{} differences are not explained", audit.unexplained.len());
}

fn name(sink: &Sink) -> &'static str {
    match sink {
        Sink::None => "journal",
        Sink::File(_) => "files",
        Sink::Kafka(_) => "topic",
    }
}

/// Everything that the source still has, in a book of its own.
fn reread(setting: &Setting) -> anyhow::Result<Book> {
    let mut book = Book::open(Found::default(), setting.options()?).map_err(anyhow::Error::msg)?;
    let mut feed = match &setting.sink {
        Sink::None => Feed::Journal(JournalFeed::new(&setting.state_dir)),
        Sink::File(file) => Feed::Files(FilesFeed::new(&file.path)),
        Sink::Kafka(kafka) => {
            let properties = security(&kafka.kafka.properties);
            let mut source = Source::open(&kafka.bootstrap_servers, &kafka.topic, &properties, Start::Earliest)?;
            loop {
                let message = match source.next(WAIT, false)? {
                    Next::Message(message) => message,
                    Next::Nothing => continue,
                    Next::End => return Ok(book),
                };
                let headers: Vec<(&str, &[u8])> = message.headers().map_or_else(Vec::new, |headers| {
                    headers.iter().filter_map(|header| Some((header.key, header.value?))).collect()
                });
                let (source, part) = (KafkaFeed::source(&kafka.topic), message.partition().to_string());
                let from = book.position(&source, &part).unwrap_or_else(|| message.offset());
                let spot = Spot { source, part, from, to: message.offset() + 1, at_us: 0 };
                book.message(spot, &headers, message.payload().unwrap_or_default())?;
            }
        }
    };
    while feed.read(&mut book, u64::MAX, WAIT)? {}
    Ok(book)
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
        self.steps.push((name.to_owned(), tally.records, tally.sessions, tally.requests));
    }

    /// What the ledger took against what it says was used.
    fn usage(&mut self, ledger: &Book, usage: &[(Series, i64, Sums)]) {
        let tally = sum(ledger.tallies());
        let (mut requests, mut sessions, mut unitemised) = ([0; COLUMNS], [0; COLUMNS], [0; COLUMNS]);
        let (mut request_count, mut session_count) = (0, 0);
        for (series, _, sums) in usage {
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
        self.steps.push(("usage".to_owned(), tally.records, whole, requests));
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

    fn print(&self) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        writeln!(
            out,
            "{:<10} {:>14} {:>20} {:>20} {:>20} {:>20}",
            "", "records", "sessions received", "sessions sent", "requests received", "requests sent"
        )?;
        for (name, records, sessions, requests) in &self.steps {
            let [a, b, c, d] = [sessions[1], sessions[4], requests[1], requests[4]];
            writeln!(out, "{name:<10} {records:>14} {a:>20} {b:>20} {c:>20} {d:>20}")?;
        }
        if !self.explained.is_empty() {
            writeln!(out, "\nexplained")?;
        }
        for line in self.explained.iter().take(LISTED) {
            writeln!(out, "  {line}")?;
        }
        if self.explained.len() > LISTED {
            writeln!(out, "  and {} more: --json lists them", self.explained.len() - LISTED)?;
        }
        for line in &self.unexplained {
            writeln!(out, "unexplained  {line}")?;
        }
        if self.unexplained.is_empty() {
            writeln!(out, "\nevery byte is explained")?;
        }
        Ok(())
    }

    fn json(&self) -> anyhow::Result<()> {
        let columns = |bytes: &Bytes| -> serde_json::Map<String, serde_json::Value> {
            SUM_COLUMNS.iter().zip(bytes).map(|(name, bytes)| ((*name).to_owned(), json!(bytes))).collect()
        };
        let steps: Vec<_> = self
            .steps
            .iter()
            .map(|(name, records, sessions, requests)| {
                json!({ "step": name, "records": records, "sessions": columns(sessions), "requests": columns(requests) })
            })
            .collect();
        println!("{}", json!({ "steps": steps, "explained": self.explained, "unexplained": self.unexplained }));
        Ok(())
    }
}

fn shown(gap: &Gap) -> String {
    let Gap { place, first_seq, next_seq, cause, .. } = gap;
    let range = rollup::seqs(gap);
    format!(
        "gap: node {} epoch {} shard {}: {range} records, seqs {first_seq} to {} ({cause})",
        place.node,
        place.epoch,
        place.shard,
        next_seq - 1
    )
}
