//! `weir audit`: the numbers of every step side by side, and what explains each difference (`rollup/audit.rs`); exit code 1 if a byte is
//! unexplained. What lies in the journal, the files or the topic now is read again from its oldest record.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::bail;
use rdkafka::Message as _;
use rdkafka::message::Headers;

use crate::cli::AuditArgs;
use crate::clock::utc_text;
use crate::config::Sink;
use crate::ledger_command::{Setting, hour, runtime, security};
use crate::rollup::{
    self, Against, Audit, Book, Cause, Feed, FilesFeed, JournalFeed, KafkaFeed, Look, Odd, Part, PartAudit, Spot, Step,
    Watch, Watcher, Where,
};
use crate::source::{Next, Source, Start};
use crate::store::{Filter, Found, Series, Store};

/// Longest wait for a topic's next message.
const WAIT: Duration = Duration::from_millis(500);
/// How many single gaps are listed for people.
const LISTED: usize = 20;

/// Prints it.
pub fn run(args: &AuditArgs) -> anyhow::Result<()> {
    let setting = Setting::of(&args.place)?;
    let runtime = runtime()?;
    if let Some(other) = &args.against {
        return runtime.block_on(other_ledger(args, &setting, other));
    }
    let look = runtime.block_on(async { anyhow::Ok(rollup::look(&setting.store().await?).await?) })?;
    let Some(look) = look else { bail!("the ledger commits faster than it can be looked at: stop it for the audit") };
    if args.from.is_some() || args.to.is_some() || args.account.is_some() || args.node.is_some() {
        return part(args, &setting, &runtime, look);
    }
    let again = reread(&setting, None)?;
    let audit = Audit::new(&look, setting.options()?, Some((name(&setting.sink), &again)))?;
    if args.json {
        println!("{}", audit.json());
    } else {
        print(&audit)?;
    }
    if audit.unexplained.is_empty() {
        return Ok(());
    }
    bail!("{} differences are not explained", audit.unexplained.len());
}

/// This ledger and another one.
async fn other_ledger(args: &AuditArgs, setting: &Setting, other: &str) -> anyhow::Result<()> {
    let filter = Filter {
        account: args.account.clone(),
        from_us: hour(&args.from, i64::MIN)?,
        to_us: hour(&args.to, i64::MAX)?,
    };
    let there = Store::open_existing(other).await?;
    let found = rollup::against(&setting.store().await?, &there, &filter).await?;
    if args.json {
        println!("{}", serde_json::to_string(&found)?);
    } else {
        print_against(&found)?;
    }
    if found.buckets.is_empty() {
        return Ok(());
    }
    bail!("{} buckets differ", found.buckets.len());
}

fn print_against(found: &Against) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    for bucket in found.buckets.iter().take(LISTED) {
        let Series { kind, account, endpoint, host, protocol, country, reason, .. } = &bucket.series;
        writeln!(
            out,
            "differs  {} {account} {} {endpoint} {host} {protocol} {country} {reason}: {} records and {}, {:+} bytes sent, {:+} acknowledged",
            utc_text(bucket.hour_us),
            kind.name(),
            bucket.records,
            bucket.other_records,
            bucket.sent_app_bytes,
            bucket.sent_acked_bytes
        )?;
    }
    for odd in found.records.iter().take(LISTED) {
        let is = match odd.is {
            Where::Here => "only here",
            Where::There => "only there",
            Where::Differs => "says something else",
        };
        let Odd { node, epoch, shard, seq, account, at_us, .. } = odd;
        writeln!(out, "  {is}: {node} epoch {epoch} shard {shard} seq {seq}, {account}, {}", utc_text(*at_us))?;
    }
    for (account, hour_us) in found.unknown.iter().take(LISTED) {
        writeln!(
            out,
            "  {account} {}: its records are no longer kept, or are too many to compare",
            utc_text(*hour_us)
        )?;
    }
    let listed = [found.buckets.len(), found.records.len(), found.unknown.len()];
    if listed.iter().any(|n| *n > LISTED) {
        writeln!(
            out,
            "in all {} buckets, {} records, {} hours unknown: --json lists them",
            listed[0], listed[1], listed[2]
        )?;
    }
    writeln!(out, "{} buckets are equal, {} differ", found.equal, found.buckets.len())?;
    Ok(())
}

/// Of a time, an account or a node.
fn part(args: &AuditArgs, setting: &Setting, runtime: &tokio::runtime::Runtime, look: Look) -> anyhow::Result<()> {
    let part = Part {
        from_us: hour(&args.from, i64::MIN)?,
        to_us: hour(&args.to, i64::MAX)?,
        account: args.account.clone(),
        node: args.node.clone(),
    };
    let watch = Arc::new(Mutex::new(Watch::new(&look, setting.options()?, part.clone())?));
    let (usage, mut again) = {
        let seen = watch.clone();
        let watcher: Watcher = Box::new(move |taken| {
            let mut watch = seen.lock().unwrap_or_else(PoisonError::into_inner);
            taken.records().for_each(|(seq, record)| watch.see(&taken.stream, seq, record));
        });
        let usage =
            runtime.block_on(async { anyhow::Ok(rollup::part_usage(&setting.store().await?, &part).await?) })?;
        (usage, reread(setting, Some(watcher))?)
    };
    again.unwatch();
    let Some(watch) = Arc::into_inner(watch) else { bail!("the source is still being read") };
    let audit = watch.into_inner().unwrap_or_else(PoisonError::into_inner).judge(&look, &again, &usage)?;
    if args.json {
        println!("{}", audit.json());
    } else {
        print_part(&audit)?;
    }
    if audit.unexplained.is_empty() {
        return Ok(());
    }
    bail!("{} differences are not explained", audit.unexplained.len());
}

fn print_part(audit: &PartAudit) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{:<20} {:<24} {:>10} {:>17} {:>17} {:>17} {:>17}",
        "records of node", "account", "records", "sessions received", "sessions sent", "requests sent", "acknowledged"
    )?;
    for ((node, account), tally) in &audit.records {
        let [a, b, c, d] = [tally.sessions[1], tally.sessions[4], tally.requests[4], tally.sessions[6]];
        writeln!(out, "{node:<20} {account:<24} {:>10} {a:>17} {b:>17} {c:>17} {d:>17}", tally.records)?;
    }
    if !audit.usage.is_empty() {
        writeln!(
            out,
            "\n{:<20} {:>20} {:>20} {:>20} {:>14}",
            "account", "sent, by records", "sent, by usage", "acknowledged", "difference"
        )?;
    }
    for (account, (expected, said)) in &audit.usage {
        let [a, b, c, d] = [expected[4], said[4], said[6], said[4] - expected[4]];
        writeln!(out, "{account:<20} {a:>20} {b:>20} {c:>20} {d:>+14}")?;
    }
    if !audit.explained.is_empty() {
        writeln!(
            out,
            "\n{:<12} {:<20} {:<20} {:>9} {:>15} {:>15}",
            "cause", "node", "account", "records", "received", "sent"
        )?;
    }
    for Cause { cause, node, account, records, received_bytes, sent_bytes, note } in audit.explained.iter().take(LISTED)
    {
        writeln!(
            out,
            "{cause:<12} {node:<20} {account:<20} {records:>9} {received_bytes:>15} {sent_bytes:>15}  {note}"
        )?;
    }
    if audit.explained.len() > LISTED {
        writeln!(out, "and {} more: --json lists them", audit.explained.len() - LISTED)?;
    }
    for line in &audit.unexplained {
        writeln!(out, "unexplained  {line}")?;
    }
    if audit.unexplained.is_empty() {
        writeln!(out, "\nevery byte is explained")?;
    }
    Ok(())
}

fn name(sink: &Sink) -> &'static str {
    match sink {
        Sink::None => "journal",
        Sink::File(_) => "files",
        Sink::Kafka(_) => "topic",
    }
}

/// Everything that the source still has, in a book of its own.
fn reread(setting: &Setting, watcher: Option<Watcher>) -> anyhow::Result<Book> {
    let mut book = Book::open(Found::default(), setting.options()?).map_err(anyhow::Error::msg)?;
    if let Some(watcher) = watcher {
        book.watch(watcher);
    }
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

fn print(audit: &Audit) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{:<10} {:>14} {:>20} {:>20} {:>20} {:>20}",
        "", "records", "sessions received", "sessions sent", "requests received", "requests sent"
    )?;
    for Step { name, records, sessions, requests } in &audit.steps {
        let [a, b, c, d] = [sessions[1], sessions[4], requests[1], requests[4]];
        writeln!(out, "{name:<10} {records:>14} {a:>20} {b:>20} {c:>20} {d:>20}")?;
    }
    if !audit.explained.is_empty() {
        writeln!(out, "\nexplained")?;
    }
    for line in audit.explained.iter().take(LISTED) {
        writeln!(out, "  {line}")?;
    }
    if audit.explained.len() > LISTED {
        writeln!(out, "  and {} more: --json lists them", audit.explained.len() - LISTED)?;
    }
    for line in &audit.unexplained {
        writeln!(out, "unexplained  {line}")?;
    }
    if audit.unexplained.is_empty() {
        writeln!(out, "\nevery byte is explained")?;
    }
    Ok(())
}
