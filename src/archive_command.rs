//! `weir archive` and `weir erase`.
//!
//! | `[sink] kind` | who writes the archive |
//! |---|---|
//! | `none`, `file` | `weir ledger`, when `[archive]` is there; or `weir archive run` by itself |
//! | `kafka` | `weir archive run`, in the consumer group `[archive] group` |
//!
//! Several may run at once: what one has committed the others do not commit again.

use std::io::Write;

use anyhow::{Context, bail};
use serde_json::json;

use crate::archive::erase::{Erased, Subject};
use crate::archive::manifest::{Commit, Hole, Why};
use crate::archive::trace::{Trace, Traces};
use crate::archive::verify::{Proof, compare};
use crate::archive::{Archiver, Keys, Manifest, Place, Table, address, erase as erasure, keep, verify};
use crate::cli::{ArchiveArgs, ArchiveCommand, CorrectedBy, EraseArgs, HoldCommand, LedgerPlace};
use crate::clock::{Clock, parse_utc, utc_text};
use crate::config::{Archive, ArchiveAddresses, Sink};
use crate::event::UsageRecord;
use crate::ledger_command::{Setting, actor_or_user, feed, runtime, stops};
use crate::rollup::Options;
use crate::store::Store;
use crate::units::grouped;

/// `weir archive`.
pub fn run(args: &ArchiveArgs) -> anyhow::Result<()> {
    match &args.command {
        ArchiveCommand::Run { place, once } => write(place, *once),
        ArchiveCommand::Status { place, from, to, json } => status(place, (from, to), *json),
        ArchiveCommand::Files { place } => files(place),
        ArchiveCommand::Verify { place, head, json } => prove(place, head.as_deref(), *json),
        ArchiveCommand::Compact { place, json } => compact(place, *json),
        ArchiveCommand::Hold { command: HoldCommand::Add { name, account, from, to, by } } => {
            hold(name, account.clone(), (from, to), by)
        }
        ArchiveCommand::Hold { command: HoldCommand::Lift { name, place } } => lift(name, place),
    }
}

fn configured(place: &LedgerPlace) -> anyhow::Result<(Setting, Archive)> {
    let setting = Setting::of(place)?;
    let archive = setting.archive.clone().context("there is no archive: write [archive] into the configuration")?;
    Ok((setting, archive))
}

fn opened(place: &LedgerPlace) -> anyhow::Result<(Setting, Archive, Place)> {
    let (setting, archive) = configured(place)?;
    let place = Place::open(&archive.place)?;
    Ok((setting, archive, place))
}

fn now_us() -> i64 {
    Clock::anchored().now_us()
}

fn time(text: &Option<String>, default: i64) -> anyhow::Result<i64> {
    let Some(text) = text else { return Ok(default) };
    parse_utc(text).with_context(|| format!("{text:?} is no time: write 2026-01-31 or 2026-01-31T12:00:00Z"))
}

fn write(place: &LedgerPlace, is_once: bool) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let (setting, config, place) = opened(place)?;
    if is_once && matches!(setting.sink, Sink::Kafka(_)) {
        bail!("a topic has no end: --once reads a journal or files");
    }
    let runtime = runtime()?;
    let stop = stops(&runtime);
    let known = place.clone();
    let positions = move |source: &str| {
        let found = Manifest::read(&known);
        let found = found.inspect_err(|error| tracing::error!(%error, "where to go on cannot be read")).ok()?;
        Some(found.positions.into_iter().filter(|(of, ..)| of == source).map(|(_, part, at)| (part, at)).collect())
    };
    let feed = feed(&setting, &config.group, positions)?;
    setting.options()?;
    let options = move || {
        setting.options().unwrap_or_else(|error| {
            // They were readable at the start; without a key nothing is taken.
            tracing::error!("{error:#}");
            Options { keys: Vec::new(), hosts_max: 0 }
        })
    };
    tracing::info!(place = place.name(), "the archive is written");
    let records = Archiver::at(place, config, feed, options)?.run(&stop, is_once)?;
    tracing::info!(records, "the archiver ends");
    Ok(())
}

fn status(place: &LedgerPlace, (from, to): (&Option<String>, &Option<String>), is_json: bool) -> anyhow::Result<()> {
    let (_, _, place) = opened(place)?;
    let manifest = Manifest::read(&place)?;
    let latest = manifest.streams.iter().map(|row| row.last_at_us).max().unwrap_or(0);
    let (from_us, to_us) = (time(from, 0)?, time(to, latest)?);
    let holes = manifest.holes(from_us, to_us);
    let tables = Table::ALL.map(|table| {
        let files: Vec<_> = manifest.files.values().filter(|file| file.table == table).collect();
        let (rows, bytes) =
            files.iter().fold((0, 0), |(rows, bytes), file| (rows + file.rows, bytes + file.file_bytes));
        let first = files.iter().map(|file| file.first_at_us).min();
        let last = files.iter().map(|file| file.last_at_us).max();
        (table, files.len(), rows, bytes, first, last)
    });
    let complete = manifest.complete_until_us();
    if is_json {
        let tables = tables.map(|(table, files, rows, file_bytes, first, last)| {
            json!({ "table": table, "files": files, "rows": rows, "file_bytes": file_bytes,
                "first_at": first.map(utc_text), "last_at": last.map(utc_text) })
        });
        let status = json!({
            "place": place.name(), "commits": manifest.number, "head": manifest.head, "tables": tables,
            "complete_until": complete.map(utc_text), "from": utc_text(from_us), "to": utc_text(to_us), "holes": holes,
            "holds": manifest.holds, "erasures": manifest.certificates,
        });
        println!("{status}");
    } else {
        println!(
            "{}  {} commits, head {}",
            place.name(),
            manifest.number,
            manifest.head.map_or_else(String::new, |head| head.to_string())
        );
        for (table, files, rows, bytes, first, last) in tables {
            let span = first
                .zip(last)
                .map_or_else(String::new, |(first, last)| format!("{} to {}", utc_text(first), utc_text(last)));
            let each = bytes as f64 / f64::from(u32::try_from(rows.max(1)).unwrap_or(u32::MAX));
            println!(
                "  {:<9} {:>14} rows  {files:>6} files  {:>16} bytes ({each:.1} a row)  {span}",
                table.name(),
                counted(rows),
                counted(bytes)
            );
        }
        for hold in &manifest.holds {
            println!(
                "  held: {} {} ({}, by {})",
                hold.name,
                hold.account.as_deref().unwrap_or("everything"),
                hold.reason,
                hold.actor
            );
        }
        println!("  {} erasures", manifest.certificates.len());
        match complete {
            Some(until) => println!("  complete up to {}", utc_text(until)),
            None => println!("  complete: nothing more is expected"),
        }
        holes.iter().for_each(|hole| println!("  {}", said(hole)));
    }
    if holes.is_empty() {
        Ok(())
    } else {
        bail!("{} holes between {} and {}", holes.len(), utc_text(from_us), utc_text(to_us))
    }
}

/// For engines that read the Parquet itself: what is in a folder is more than what is the archive.
fn files(place: &LedgerPlace) -> anyhow::Result<()> {
    let (_, _, place) = opened(place)?;
    let mut out = std::io::stdout().lock();
    for path in Manifest::read(&place)?.files.keys() {
        writeln!(out, "{path}")?;
    }
    Ok(())
}

fn counted(number: i64) -> String {
    grouped(u64::try_from(number).unwrap_or(0))
}

fn said(hole: &Hole) -> String {
    match hole {
        Hole::Silent { place, last_at_us } => {
            format!(
                "node {} epoch {} shard {} was last heard of at {}",
                place.node,
                place.epoch,
                place.shard,
                utc_text(*last_at_us)
            )
        }
        Hole::Gap(gap) => format!(
            "node {} epoch {} shard {}: seqs {} to {} are missing ({}), between {} and {}",
            gap.place.node,
            gap.place.epoch,
            gap.place.shard,
            gap.first_seq,
            gap.next_seq - 1,
            gap.cause,
            utc_text(gap.from_us),
            utc_text(gap.to_us)
        ),
        Hole::Unreadable(found) => format!("{} {} at {}: {}", found.source, found.part, found.position, found.reason),
    }
}

fn prove(place: &LedgerPlace, head: Option<&str>, is_json: bool) -> anyhow::Result<()> {
    let (setting, _, place) = opened(place)?;
    let mut proof = verify::verify(&place, now_us())?;
    if let Some(head) = head
        && !verify::has_head(&place, head)?
    {
        proof.wrong.push(format!(
            "no commit has the hash {head}: the newest commits were cut off, or the chain was made anew"
        ));
    }
    let database = &setting.ledger.database;
    if crate::store::is_postgres(database) || std::path::Path::new(database).is_file() {
        let ledger = runtime()?.block_on(async { Store::open_existing(database).await?.load().await })?;
        compare(&Manifest::read(&place)?, &ledger.streams, &mut proof);
    }
    if is_json {
        println!("{}", serde_json::to_string(&proof)?);
    } else {
        let Proof { commits, head, files, rows, .. } = &proof;
        println!("{} commits, {} files, {} rows", commits, files, counted(*rows));
        head.iter().for_each(|head| println!("head {head}"));
        proof.notes.iter().for_each(|note| println!("  {note}"));
        proof.wrong.iter().for_each(|wrong| println!("  wrong: {wrong}"));
    }
    if proof.wrong.is_empty() {
        Ok(())
    } else {
        bail!("{} findings: the archive is not as it was written", proof.wrong.len())
    }
}

fn compact(place: &LedgerPlace, is_json: bool) -> anyhow::Result<()> {
    let (_, config, place) = opened(place)?;
    let kept = keep(&place, &config, now_us())?;
    if is_json {
        println!("{}", serde_json::to_string(&kept)?);
    } else {
        println!(
            "{} files became {}; {} expired, {} held by a legal hold; {} leftovers swept",
            kept.joined, kept.into, kept.expired, kept.held, kept.swept
        );
    }
    Ok(())
}

fn hold(
    name: &str,
    account: Option<String>,
    (from, to): (&Option<String>, &Option<String>),
    by: &CorrectedBy,
) -> anyhow::Result<()> {
    let (_, _, place) = opened(&by.place)?;
    let mut manifest = Manifest::read(&place)?;
    if manifest.holds.iter().any(|hold| hold.name == name) {
        bail!("there is a legal hold {name:?} already: lift it first, or choose another name");
    }
    let mut commit = Commit::after(&manifest, now_us(), Why::Hold);
    commit.hold = Some(crate::archive::manifest::Hold {
        name: name.to_owned(),
        account,
        from_us: time(from, i64::MIN)?,
        to_us: time(to, i64::MAX)?,
        reason: by.reason.clone(),
        actor: actor_or_user(&by.actor),
        at_us: commit.at_us,
    });
    manifest.commit(&place, commit)?;
    println!("{name} holds");
    Ok(())
}

fn lift(name: &str, place: &LedgerPlace) -> anyhow::Result<()> {
    let (_, _, place) = opened(place)?;
    let mut manifest = Manifest::read(&place)?;
    if !manifest.holds.iter().any(|hold| hold.name == name) {
        bail!("there is no legal hold {name:?}");
    }
    let mut commit = Commit::after(&manifest, now_us(), Why::Hold);
    commit.lifted = Some(name.to_owned());
    manifest.commit(&place, commit)?;
    println!("{name} is lifted");
    Ok(())
}

/// `weir erase`.
pub fn erase(args: &EraseArgs) -> anyhow::Result<()> {
    let (setting, config, place) = opened(&args.place)?;
    let subject = match (&args.account, args.subject) {
        (Some(account), _) => Subject::Account(account.clone()),
        (None, Some(address)) => Subject::Address(Traces::new(address, &setting.privacy, args.truncated)?),
        (None, None) => bail!("say whose: --account or --subject"),
    };
    // What was encrypted before is still there where addresses are kept plain by now.
    let mut keys = match config.addresses {
        ArchiveAddresses::Plain if !config.keys.is_dir() => None,
        _ => Some(Keys::open(&config.keys)?),
    };
    let by = (actor_or_user(&args.actor), now_us());
    let Erased { receipt, certificate } = erasure::erase(&place, keys.as_mut(), &subject, (&by.0, by.1), args.dry_run)?;
    let details = redacted_details(&setting, &subject, args.dry_run)?;
    if args.json {
        println!(
            "{}",
            json!({ "receipt": receipt, "certificate": certificate, "details": details, "dry_run": args.dry_run })
        );
        return Ok(());
    }
    let would = if args.dry_run { "would be " } else { "" };
    println!(
        "{} rows in {} files {would}emptied, {} keys destroyed",
        certificate.rows, certificate.files, certificate.keys
    );
    if certificate.rows_of_network > 0 {
        println!(
            "{} rows keep only a network that it lies in, which identifies nobody: left (--truncated takes them too)",
            certificate.rows_of_network
        );
    }
    if certificate.rows_unreadable > 0 {
        println!(
            "{} rows nobody can say whose they are, without a key that is gone or not here: left",
            certificate.rows_unreadable
        );
    }
    println!("{details} records of the ledger's details {would}emptied; bills are as they were");
    if let Some(receipt) = receipt {
        println!("certificate {} in the archive's manifest; receipt for whoever asked: {receipt}", certificate.subject);
    }
    Ok(())
}

/// Empties what the ledger keeps of single records; says of how many.
fn redacted_details(setting: &Setting, subject: &Subject, is_rehearsal: bool) -> anyhow::Result<u64> {
    let database = &setting.ledger.database;
    if !crate::store::is_postgres(database) && !std::path::Path::new(database).is_file() {
        return Ok(0);
    }
    let is_theirs = |record: &UsageRecord| match subject {
        Subject::Account(account) => record.payer() == account,
        Subject::Address(traces) => [&record.client_ip, &record.peer_ip].into_iter().any(|bytes| {
            let shown = address(bytes);
            shown.is_some_and(|shown| traces.of(record.address_form(), record.key_epoch, shown) == Trace::Theirs)
        }),
    };
    let account = match subject {
        Subject::Account(account) => Some(account.as_str()),
        Subject::Address(_) => None,
    };
    Ok(runtime()?
        .block_on(async { Store::open_existing(database).await?.redact(account, is_theirs, is_rehearsal).await })?)
}
