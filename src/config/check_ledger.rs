//! `[ledger]` and `[[meters]]`.

use std::path::Path;

use toml::Spanned;

use super::fields::{Check, Section};
use super::ledger::{Ledger, Meter, MeterColumn, MeterKind, VerifyingKeyFile};
use super::raw::{RawLedger, RawMeter, Texts};
use super::syntax;

/// The file of the database in `state_dir`, where nothing else is said.
const DATABASE: &str = "ledger.db";

/// How the ledger reads and keeps.
pub(super) fn ledger(section: &mut Section<'_>, raw: Option<&RawLedger>, state_dir: &Path) -> Ledger {
    let absent = RawLedger::default();
    let raw = raw.unwrap_or(&absent);
    let database = match &raw.database {
        None => state_dir.join(DATABASE).display().to_string(),
        Some(given) if given.get_ref().contains("://") => {
            section.parsed("database", &raw.database, server).unwrap_or_default()
        }
        Some(given) => section.path("database", given).display().to_string(),
    };
    let group = section.parsed("group", &raw.group, syntax::label);
    let batch_interval = section.milliseconds("batch_interval_ms", &raw.batch_interval_ms, 1000, 10..=60_000);
    Ledger {
        database,
        group: group.unwrap_or_else(|| "weir-ledger".to_owned()),
        batch_records_max: section.size("batch_records_max", &raw.batch_records_max, 200_000, 1..=1_000_000),
        batch_interval,
        hosts_max: section.size("hosts_max", &raw.hosts_max, 1000, 0..=1_000_000),
        details_keep_days: section.count("details_keep_days", &raw.details_keep_days, 90, 0..=36_500),
        hours_keep_days: section.count("hours_keep_days", &raw.hours_keep_days, 0, 0..=36_500),
        quarantine_keep_days: section.count("quarantine_keep_days", &raw.quarantine_keep_days, 0, 0..=36_500),
        verify_keys: verify_keys(section, raw),
    }
}

fn server(text: &str) -> Result<String, (String, String)> {
    let good = text.starts_with("postgres://") || text.starts_with("postgresql://");
    let wrong = || {
        ("is no address of a PostgreSQL server".to_owned(), "write postgres://user:password@host/database".to_owned())
    };
    good.then(|| text.to_owned()).ok_or_else(wrong)
}

fn verify_keys(section: &mut Section<'_>, raw: &RawLedger) -> Vec<VerifyingKeyFile> {
    let mut keys = Vec::new();
    for given in &raw.verify_keys {
        let key = given.get_ref();
        let Some(path) = &key.path else {
            section.missing(given.span(), "verify_keys.path", "write the file of the key");
            continue;
        };
        let Some(id) = section.parsed("verify_keys.id", &key.id, syntax::label) else {
            section.missing(given.span(), "verify_keys.id", "write the key's name, as in the signatures");
            continue;
        };
        keys.push(VerifyingKeyFile { id, path: section.path("verify_keys.path", path) });
    }
    keys
}

/// The default meters, and those of the file.
pub(super) fn meters(check: &mut Check, raw: &[Spanned<RawMeter>]) -> Vec<Meter> {
    let mut meters = Meter::defaults();
    let mut declared: Vec<String> = Vec::new();
    for given in raw {
        let raw = given.get_ref();
        let mut section = check.section("meters");
        let Some(name) = section.parsed("name", &raw.name, syntax::label) else {
            if raw.name.is_none() {
                section.missing(given.span(), "name", "write name = \"a name\"");
            }
            continue;
        };
        if declared.contains(&name) {
            section.wrong(given.span(), "name", format!("{name:?} is declared twice"), "write another name");
        }
        declared.push(name.clone());
        let mut section = check.section(format!("meters.{name}"));
        if raw.column.is_none() {
            section.missing(given.span(), "column", "write what is added up, like \"sent_acked_bytes\"");
        }
        let kinds = [("any", MeterKind::Any), ("request", MeterKind::Request), ("session", MeterKind::Session)];
        let meter = Meter {
            column: section.choice("column", &raw.column, MeterColumn::Requests, &MeterColumn::ALL),
            kind: section.choice("kind", &raw.kind, MeterKind::Any, &kinds),
            unbillable: raw.unbillable.as_ref().is_some_and(|given| *given.get_ref()),
            protocols: texts(&raw.protocols),
            countries: texts(&raw.countries),
            endpoints: texts(&raw.endpoints),
            hosts: texts(&raw.hosts),
            name,
        };
        meters.retain(|known| known.name != meter.name);
        meters.push(meter);
    }
    meters
}

fn texts(given: &Texts) -> Vec<String> {
    given.iter().flat_map(|list| list.get_ref()).map(|text| text.get_ref().clone()).collect()
}
