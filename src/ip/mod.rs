//! `weir ip`: what is known of an address, and how: for people, for scripts (`--json`, `--stdin`), as a service (`serve`).
//!
//! It reads the same plan as the sidecar and answers by the same table. `--as-of` answers from a snapshot that was kept;
//! `--explain` asks every source itself and shows which of them counts.

mod decrypt;
pub(crate) mod print;
mod query;
mod serve;
mod stdin;

use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use weir_geoip::{Plan, Record, Table, date, kept, snapshot};

use crate::cli::{IpArgs, IpCommand, KnowledgeArgs};
use crate::config::Config;
use crate::screening::{Facts, Ruling, Screen};

/// Answers, or serves.
pub fn run(args: &IpArgs) -> anyhow::Result<()> {
    match &args.command {
        Some(IpCommand::Serve { knowledge, listen, tokens }) => {
            return serve::run(Knowledge::read(knowledge)?, *listen, tokens.as_deref());
        }
        Some(IpCommand::Decrypt { key, addresses }) => return decrypt::run(key, addresses),
        None => {}
    }
    let mut knowledge = Knowledge::read(&args.knowledge)?;
    let now = SystemTime::now();
    let at = match &args.as_of {
        Some(text) => time(text)?,
        None => now,
    };
    if args.as_of.is_some() {
        knowledge.table = knowledge.as_of(at)?;
    }
    let out = std::io::stdout().lock();
    if args.stdin {
        let bad = stdin::run(&knowledge, at, std::io::stdin().lock(), out)?;
        if bad > 0 {
            bail!("{bad} lines are no addresses");
        }
        return Ok(());
    }
    let mut out = out;
    for text in &args.addresses {
        let address = address(text)?;
        if args.json {
            let mut line = Vec::new();
            print::json_line(
                &mut line,
                text,
                address,
                &print::json_tail(&knowledge.table, knowledge.screen.as_ref(), address, at),
            );
            out.write_all(&line)?;
        } else {
            print::text(&mut out, &knowledge, text, address, at)?;
        }
        if args.explain {
            let opinions = weir_geoip::explain(&knowledge.plan, address, at)?;
            print::opinions(&mut out, &opinions, &knowledge.table.of(address), args.json)?;
        }
    }
    Ok(())
}

/// An address as people write it: no zone, no port, no leading zeros.
fn address(text: &str) -> anyhow::Result<IpAddr> {
    text.parse().with_context(|| format!("{text:?} is no address"))
}

pub(crate) fn time(text: &str) -> anyhow::Result<SystemTime> {
    let seconds =
        date::parse(text).with_context(|| format!("{text:?} is no time; write 2026-01-31 or 2026-01-31T12:00:00Z"))?;
    Ok(UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).context("a time before 1970")?))
}

/// The table, what it was made of, and the rules that judge its records.
pub(crate) struct Knowledge {
    pub(crate) plan: Plan,
    pub(crate) table: Table,
    pub(crate) screen: Option<Screen>,
}

impl Knowledge {
    /// By a configuration, a plan, a snapshot or databases; without any of them by the plan that `weir geoip fetch` made.
    pub(crate) fn read(args: &KnowledgeArgs) -> anyhow::Result<Knowledge> {
        let (plan, rules) = plan(args)?;
        let table = weir_geoip::compile(&plan, SystemTime::now())?;
        Ok(Knowledge { plan, table, screen: rules })
    }

    /// The table that was used at a time.
    fn as_of(&self, at: SystemTime) -> anyhow::Result<Table> {
        let Some(directory) = &self.plan.keep else { bail!("the plan keeps no snapshots: set keep in it") };
        kept::as_of(directory, at)?.with_context(|| format!("no snapshot of that time is in {}", directory.display()))
    }
}

/// What rules say of a record; None without rules.
pub(crate) fn judge(screen: Option<&Screen>, record: &Record<'_>, account: &str, at: SystemTime) -> Option<Ruling> {
    let screen = screen.filter(|screen| !screen.is_empty())?;
    let labels: Vec<Box<str>> = record.labels().map(Box::from).collect();
    let at_us = at.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_micros()).unwrap_or(i64::MAX));
    Some(screen.judge(&Facts {
        country: record.country(),
        region: record.region(),
        asn: record.asn(),
        labels: &labels,
        account: if account.is_empty() { record.account() } else { account },
        at_us,
    }))
}

/// The plan that is meant, and the rules of its configuration.
pub(crate) fn plan(args: &KnowledgeArgs) -> anyhow::Result<(Plan, Option<Screen>)> {
    let mut rules = None;
    let plan = match (&args.config, &args.plan, &args.snapshot) {
        (Some(path), _, _) => {
            let config = Config::load(path).map_err(|errors| anyhow::anyhow!("{errors}"))?;
            rules = Some(Screen::new(&config.screening));
            config.geoip.plan.as_deref().map(crate::enrichment::read_plan).transpose()?.unwrap_or_default()
        }
        (None, Some(path), _) => crate::enrichment::read_plan(path)?,
        (None, None, Some(path)) => {
            let snapshot = weir_geoip::plan::SnapshotSource { path: path.clone(), public_key: args.public_key.clone() };
            Plan { snapshot: Some(snapshot), ..Plan::default() }
        }
        (None, None, None) if !args.databases.is_empty() => of_databases(&args.databases),
        (None, None, None) => {
            let fetched = crate::enrichment::fetched_plan();
            if fetched.exists() { crate::enrichment::read_plan(&fetched)? } else { Plan::default() }
        }
    };
    Ok((plan, rules))
}

/// Databases in order, each by its file's name.
fn of_databases(paths: &[PathBuf]) -> Plan {
    let source = |path: &PathBuf| weir_geoip::plan::Source::database(&path.display().to_string(), path.clone());
    Plan { sources: paths.iter().map(source).collect(), ..Plan::default() }
}

/// A snapshot, or the table of a plan: which of them a file is, it says itself.
pub(crate) fn table_of(path: &Path, public_key: Option<&Path>) -> anyhow::Result<Table> {
    if path.extension().is_some_and(|extension| extension == "toml") {
        return Ok(weir_geoip::compile(&crate::enrichment::read_plan(path)?, SystemTime::now())?);
    }
    Ok(snapshot::read(path, public_key)?)
}
