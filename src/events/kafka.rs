//! `weir events --kafka`: the records of a topic, each once, and on stderr what is wrong with the rest.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::ops::Range;
use std::time::Duration;

use anyhow::{Context, bail};
use rdkafka::Message as _;
use rdkafka::message::Headers;

use super::Printer;
use crate::cli::EventsArgs;
use crate::event::Position;
use crate::source::{Next, Source, Start};
use crate::wire::{Bounds, Cause, Finding, Incoming, State, StreamId, Totals, Verifier, VerifyingKey};

/// Longest wait for the next message before what is printed is flushed.
const WAIT: Duration = Duration::from_millis(200);

/// Prints every record of the topic once. An error if records are missing or altered without an explanation.
pub fn topic(servers: &str, args: &EventsArgs, out: &mut Printer<impl Write>) -> anyhow::Result<()> {
    let start: Start = args.from.parse().map_err(|action| anyhow::anyhow!("--from {:?}: {action}", args.from))?;
    let reads_all = matches!(start, Start::Earliest);
    let mut source = Source::open(servers, &args.topic, &properties(args)?, start)?;
    let mut verifier = Verifier::new(keys(args)?, Bounds::default(), State::default());
    let mut report = Report { follow: args.follow, ..Report::default() };
    out.begin()?;
    loop {
        let message = match source.next(WAIT, args.follow)? {
            Next::Message(message) => message,
            Next::Nothing => {
                out.out.flush()?;
                continue;
            }
            Next::End => break,
        };
        let headers: Vec<(&str, &[u8])> = message.headers().map_or_else(Vec::new, |headers| {
            headers.iter().filter_map(|header| Some((header.key, header.value?))).collect()
        });
        let incoming = Incoming { headers: &headers, payload: message.payload().unwrap_or_default() };
        match verifier.take(incoming) {
            Ok(taken) => {
                let StreamId { node, epoch, shard } = &taken.stream;
                for (seq, record) in taken.records() {
                    let position = Position { node, epoch: *epoch, shard: *shard, seq };
                    out.print(&position, &record.clone().into())?;
                }
                report.findings(&taken.stream, &taken.findings);
                // Whoever begins in the middle knows nothing of what was before.
                if reads_all {
                    for end in taken.records().flat_map(|(_, record)| &record.ended) {
                        if let Some((stream, findings)) = verifier.ended(&taken.stream, end) {
                            report.findings(&stream, &findings);
                        }
                    }
                }
            }
            Err(reject) => {
                eprintln!("weir: partition {} offset {}: {reject}", message.partition(), message.offset());
            }
        }
    }
    out.out.flush()?;
    report.end(&verifier)
}

/// What is told while reading. Without following, holes are told at the end: most are filled by then.
#[derive(Default)]
struct Report {
    follow: bool,
    /// What came twice, consecutive ranges joined.
    twice: HashMap<StreamId, Vec<Range<u64>>>,
}

impl Report {
    fn findings(&mut self, stream: &StreamId, findings: &[Finding]) {
        for finding in findings {
            match finding {
                Finding::Duplicate(seqs) if self.follow => eprintln!("weir: {stream}: {} came twice", shown(seqs)),
                Finding::Duplicate(seqs) => {
                    let ranges = self.twice.entry(stream.clone()).or_default();
                    match ranges.last_mut().filter(|last| last.end == seqs.start) {
                        Some(last) => last.end = seqs.end,
                        None => ranges.push(seqs.clone()),
                    }
                }
                Finding::Gap(missing) if self.follow => {
                    eprintln!("weir: {stream}: {} {}", shown(&missing.seqs), cause(missing.cause));
                }
                Finding::Filled(seqs) if self.follow => eprintln!("weir: {stream}: {} came after all", shown(seqs)),
                Finding::Gap(_) | Finding::Filled(_) => {}
                Finding::GivenUp(seqs) => {
                    eprintln!("weir: {stream}: {} are missing; too many gaps to remember it", shown(seqs));
                }
                Finding::Broken { boundary, .. } => {
                    eprintln!(
                        "weir: {stream}: the chain is broken before seq {boundary}: a batch was altered or removed"
                    );
                }
                Finding::Mended { boundary } => eprintln!("weir: {stream}: the chain before seq {boundary} is whole"),
                Finding::Restarted { boundary } if self.follow => {
                    eprintln!("weir: {stream}: the chain begins anew at seq {boundary}");
                }
                Finding::Restarted { .. } => {}
                Finding::HeaderDiffers(name) => eprintln!("weir: {stream}: a {name} header differs from its message"),
            }
        }
    }

    fn end(&self, verifier: &Verifier) -> anyhow::Result<()> {
        let mut twice: Vec<_> = self.twice.iter().collect();
        twice.sort_by_key(|(stream, _)| *stream);
        for (stream, ranges) in twice {
            for seqs in ranges {
                eprintln!("weir: {stream}: {} came twice", shown(seqs));
            }
        }
        let mut unexplained = 0;
        for (stream, missing) in verifier.missing() {
            eprintln!("weir: {stream}: {} {}", shown(&missing.seqs), cause(missing.cause));
            if missing.cause == Cause::Missing {
                unexplained += missing.seqs.end - missing.seqs.start;
            }
        }
        let totals: &Totals = &verifier.state().totals;
        if totals.links_restarted > 0 {
            eprintln!(
                "weir: the chain begins anew {} times: what was removed right there cannot be told",
                totals.links_restarted
            );
        }
        eprintln!(
            "weir: {} records in {} messages, {} came twice, {} missing without an explanation, {} links of the chain verified",
            totals.records,
            totals.messages,
            totals.duplicates,
            unexplained + totals.given_up,
            totals.links_verified
        );
        let bad = [
            (unexplained + totals.given_up, "records are missing"),
            (totals.links_broken, "links of the chain are broken"),
            (totals.bad_signatures, "signatures are bad"),
            (totals.unreadable + totals.refused, "messages cannot be read"),
        ];
        let bad: Vec<String> =
            bad.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
        if !bad.is_empty() {
            bail!("{}", bad.join(", "));
        }
        Ok(())
    }
}

fn shown(seqs: &Range<u64>) -> String {
    match seqs.end - seqs.start {
        1 => format!("seq {}", seqs.start),
        _ => format!("seqs {} to {}", seqs.start, seqs.end - 1),
    }
}

fn cause(cause: Cause) -> &'static str {
    match cause {
        Cause::BeforeStart => "came before the start",
        Cause::Missing => "are missing",
        Cause::LostBySender => "were lost to damage in the sender's journal",
    }
}

fn properties(args: &EventsArgs) -> anyhow::Result<BTreeMap<String, String>> {
    let mut lines = args.properties.clone();
    if let Some(file) = &args.properties_file {
        let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        lines.extend(text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')).map(str::to_owned));
    }
    let mut properties = BTreeMap::new();
    for line in lines {
        let Some((name, value)) = line.split_once('=') else { bail!("a property is written NAME=VALUE") };
        properties.insert(name.trim().to_owned(), value.trim().to_owned());
    }
    Ok(properties)
}

fn keys(args: &EventsArgs) -> anyhow::Result<Vec<VerifyingKey>> {
    let mut keys = Vec::new();
    for given in &args.keys {
        let Some((id, file)) = given.split_once('=') else { bail!("--verify is written KEY-ID=FILE") };
        let bytes = std::fs::read(file).with_context(|| format!("cannot read {file}"))?;
        keys.push(VerifyingKey::of_file(id, &bytes)?);
    }
    Ok(keys)
}
