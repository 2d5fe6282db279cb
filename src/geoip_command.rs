//! `weir geoip`: makes, checks and compares what is known of addresses.
//!
//! `build` on one machine and `snapshot` in the plans of a fleet: sidecars then load what was compiled, checked and signed
//! once. `diff` says what a new version would change for whom, before it is used.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::SystemTime;

use anyhow::{Context, bail};
use serde_json::json;
use weir_geoip::{Addresses, Coverage, Record, Table, date, difference, snapshot};

use crate::cli::{GeoipArgs, GeoipCommand, KnowledgeArgs};
use crate::config::Config;
use crate::enrichment::fetched_plan;
use crate::ip::{Knowledge, judge, plan, print, table_of};
use crate::screening::Screen;

/// Brings databases through npm's client.
const FETCH: &str = include_str!("../geoip/fetch");
/// Accounts and countries listed by `diff`; the rest is summed up. JSON lists all.
const LISTED_MAX: usize = 20;

/// Runs one of them.
pub fn run(args: &GeoipArgs) -> anyhow::Result<()> {
    match &args.command {
        GeoipCommand::Fetch { to } => {
            let default = fetched_plan();
            fetch(to.as_deref().or(default.parent()).unwrap_or(Path::new(".")))
        }
        GeoipCommand::Key { file } => make_key(file),
        GeoipCommand::Build { knowledge, to, key } => build(knowledge, to, key.as_deref()),
        GeoipCommand::Verify { file, public_key } => verify(file, public_key.as_deref()),
        GeoipCommand::Status { knowledge, json } => status(&Knowledge::read(knowledge)?.table, *json),
        GeoipCommand::Diff { old, new, config, ranges, json } => diff(old, new, config.as_deref(), *ranges, *json),
    }
}

fn fetch(to: &Path) -> anyhow::Result<()> {
    let mut bash =
        Command::new("bash").args(["-s", "--"]).arg(to).stdin(Stdio::piped()).spawn().context("cannot start bash")?;
    if let Some(stdin) = &mut bash.stdin {
        stdin.write_all(FETCH.as_bytes())?;
    }
    let status = bash.wait()?;
    if !status.success() {
        bail!("the databases were not fetched");
    }
    Ok(())
}

fn make_key(file: &Path) -> anyhow::Result<()> {
    let mut seed = [0; 32];
    std::fs::File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut seed))?;
    let digits: String = seed.iter().map(|byte| format!("{byte:02x}")).collect();
    let cannot = || format!("cannot make {}", file.display());
    let mut made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).with_context(cannot)?;
    writeln!(made, "{digits}")?;
    made.sync_all()?;
    println!("{}", snapshot::SigningKey::read(file)?.public());
    Ok(())
}

fn build(knowledge: &KnowledgeArgs, to: &Path, key: Option<&Path>) -> anyhow::Result<()> {
    let (plan, _) = plan(knowledge)?;
    let key = key.map(snapshot::SigningKey::read).transpose()?;
    let table = weir_geoip::compile(&plan, SystemTime::now())?;
    weir_geoip::check(&plan, &table, None)?;
    snapshot::write(&table, to, key.as_ref())?;
    let bytes = std::fs::metadata(to)?.len();
    println!("{} {} records, {bytes} bytes", table.id(), table.records());
    Ok(())
}

fn verify(file: &Path, public_key: Option<&Path>) -> anyhow::Result<()> {
    let table = table_of(file, public_key)?;
    if file.extension().is_some_and(|extension| extension == "toml") {
        weir_geoip::check(&crate::enrichment::read_plan(file)?, &table, None)?;
    }
    println!("{} is good: {} records, id {}", file.display(), table.records(), table.id());
    Ok(())
}

fn status(table: &Table, as_json: bool) -> anyhow::Result<()> {
    let now = SystemTime::now();
    let coverage = Coverage::of(table);
    let [v4_bytes, v6_bytes, record_bytes] = table.bytes();
    let mut out = std::io::stdout().lock();
    if as_json {
        let line = json!({
            "id": table.id(), "geo_epoch": table.geo_epoch(), "accounts_version": table.accounts_version(),
            "valid_from": table.facts().valid_from, "changes_at": table.facts().changes_at,
            "records": table.records(), "v4_bytes": v4_bytes, "v6_bytes": v6_bytes, "record_bytes": record_bytes,
            "country_v4": coverage.country[0], "country_v6": coverage.country[1], "asn_v4": coverage.asn[0],
            "asn_v6": coverage.asn[1], "account_v4": coverage.account[0], "account_v6": coverage.account[1],
            "sources": print::sources(table, now),
        });
        writeln!(out, "{line}")?;
        return Ok(());
    }
    writeln!(out, "snapshot  {}", table.id())?;
    writeln!(out, "records   {}, {} bytes", table.records(), v4_bytes + v6_bytes + record_bytes)?;
    let share = |addresses: u64| addresses as f64 * 100.0 / 2f64.powi(32);
    writeln!(
        out,
        "IPv4      {:.1} % with a country, {:.1} % with an autonomous system, {} addresses with an account",
        share(coverage.country[0]),
        share(coverage.asn[0]),
        coverage.account[0]
    )?;
    if let Some(at) = table.facts().changes_at {
        writeln!(out, "changes   {} (a dated row begins or ends)", date::print(at))?;
    }
    writeln!(
        out,
        "\n{:<24} {:<10} {:>10} {:<8} {:<20} licence, attribution",
        "source", "kind", "rows", "state", "built"
    )?;
    for source in table.sources().iter().filter(|source| source.kind != "scope") {
        writeln!(
            out,
            "{:<24} {:<10} {:>10} {:<8} {:<20} {} {}",
            source.name,
            source.kind,
            source.rows,
            source.state(now).name(),
            date::print(source.build_epoch),
            source.licence,
            source.attribution
        )?;
    }
    Ok(())
}

fn diff(old: &Path, new: &Path, config: Option<&Path>, ranges: bool, as_json: bool) -> anyhow::Result<()> {
    let (old, new) = (table_of(old, None)?, table_of(new, None)?);
    let screen = match config {
        Some(path) => Some(Screen::new(&Config::load(path).map_err(|errors| anyhow::anyhow!("{errors}"))?.screening)),
        None => None,
    };
    let now = SystemTime::now();
    let verdict = |record: &Record<'_>| {
        let ruling = judge(screen.as_ref(), record, "", now);
        ruling.map_or(0, |ruling| ruling.verdict as u32 + 1)
    };
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut failed = None;
    let difference = difference(&old, &new, verdict, |change| {
        if !ranges || failed.is_some() {
            return;
        }
        let says = |record: &Record<'_>| {
            let labels: Vec<&str> = record.labels().collect();
            json!({ "country": record.country(), "region": record.region(), "asn": record.asn(),
                "account": record.account(), "labels": labels })
        };
        let (first, last) = (change.first, change.last);
        let line = json!({ "first": first, "last": last, "old": says(&change.old), "new": says(&change.new) });
        let written = if as_json {
            writeln!(out, "{line}")
        } else {
            writeln!(out, "{first} - {last}: {} → {}", line["old"], line["new"])
        };
        failed = written.err();
    });
    if let Some(error) = failed {
        return Err(error.into());
    }
    if as_json {
        writeln!(out, "{}", json!({ "old": old.id(), "new": new.id(), "difference": difference }))?;
        return Ok(out.flush()?);
    }
    let counted = |addresses: &Addresses| format!("{} IPv4 addresses, {} IPv6 /64", addresses.v4, addresses.v6);
    for (what, addresses) in [
        ("anything", &difference.any),
        ("country", &difference.country),
        ("asn", &difference.asn),
        ("labels", &difference.labels),
        ("account", &difference.account),
        ("verdict", &difference.verdict),
    ] {
        writeln!(out, "{what:<10} {}", counted(addresses))?;
    }
    for (title, list) in [("countries", &difference.countries), ("accounts", &difference.accounts)] {
        let mut listed: Vec<_> = list.iter().collect();
        listed.sort_by_key(|(_, addresses)| std::cmp::Reverse((addresses.v4, addresses.v6)));
        for (name, addresses) in listed.iter().take(LISTED_MAX) {
            let name = if name.is_empty() { "(no account)" } else { name };
            writeln!(out, "  {name:<24} {}", counted(addresses))?;
        }
        if listed.len() > LISTED_MAX {
            writeln!(out, "  and {} more {title}", listed.len() - LISTED_MAX)?;
        }
    }
    Ok(out.flush()?)
}
