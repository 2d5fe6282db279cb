//! The one conversion from what the file says to what the process may rely on. Defaults and limits of every key stand here and in
//! the `check_*.rs` beside it.

use http::HeaderName;
use std::path::Path;

use super::errors::ConfigErrors;
use super::fields::{Check, Section, TOP};
use super::raw::{RawAdmin, RawConfig, RawLog};
use super::{Admin, Config, Log, LogFormat, Sink};
use super::{
    check_alerts, check_archive, check_attribution, check_ledger, check_limits, check_listeners, check_places,
    check_portal, check_query, check_records, check_upstreams, syntax,
};

/// What is logged unless the file says otherwise: a client's misbehaviour is not worth a line of the HTTP/2 engine's each.
const DEFAULT_FILTER: &str = "info,h2=error,pingora_load_balancing=warn";

/// Checks everything, and returns a configuration only when nothing is wrong. Relative file names start at `dir`.
pub(super) fn convert(raw: RawConfig, dir: &Path, errors: ConfigErrors) -> Result<Config, ConfigErrors> {
    let mut check = Check::new(errors, dir);
    let sink = check_records::sink(&mut check.section("sink"), &raw.sink);
    let mut upstreams = check_upstreams::named(&mut check, &raw.upstreams);
    let listeners = check_listeners::listeners(&mut check, &raw, &mut upstreams);
    let account_tables = check_attribution::tables(&mut check, &raw.account_tables);
    let attribution = check_attribution::rules(&mut check, &raw.attribution, &listeners, &account_tables);
    let screening = check_places::screening(&mut check, &raw.screening);
    let mut top = check.section("");
    let node = match &raw.node {
        Some(_) => top.parsed("node", &raw.node, syntax::label),
        None => host_name(&mut top),
    };
    let state_dir = match &raw.state_dir {
        Some(given) => top.path("state_dir", given),
        None => "/var/lib/weir".into(),
    };
    let workers = match top.size("workers", &raw.workers, 0, 0..=1024) {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        workers => workers,
    };
    let checkpoint_interval =
        top.milliseconds("checkpoint_interval_ms", &raw.checkpoint_interval_ms, 10_000, 100..=3_600_000);
    let request_id_header = match &raw.request_id_header {
        Some(_) => top.parsed("request_id_header", &raw.request_id_header, syntax::request_id_header),
        None => None,
    };
    let ledger = check_ledger::ledger(&mut check.section("ledger"), raw.ledger.as_ref(), &state_dir);
    let meters = check_ledger::meters(&mut check, &raw.meters);
    let archive = check_archive::archive(&mut check.section("archive"), raw.archive.as_ref(), &state_dir);
    let config = Config {
        ledger,
        archive,
        query: check_query::query(&mut check.section("query"), &raw.query, &state_dir),
        portal: check_portal::portal(&mut check.section("portal"), &raw.portal),
        budgets: check_alerts::budgets(&mut check, &raw.budgets, &meters),
        alerts: check_alerts::alerts(&mut check.section("alerts"), &raw.alerts),
        meters,
        node: node.unwrap_or_default(),
        privacy: check_places::privacy(&mut check.section("privacy"), &raw.privacy, &state_dir),
        geoip: check_places::geoip(&mut check.section("geoip"), &raw.geoip),
        screening,
        state_dir,
        workers,
        checkpoint_interval,
        request_id_header: request_id_header.unwrap_or(HeaderName::from_static("x-request-id")),
        admin: admin(&mut check.section("admin"), &raw.admin),
        log: log(&mut check.section("log"), &raw.log),
        journal: check_records::journal(&mut check.section("journal"), &raw.journal, workers, sink == Sink::None),
        sink,
        limits: check_limits::limits(&mut check.section("limits"), &raw.limits),
        listeners,
        upstreams,
        attribution,
        account_tables,
    };
    addresses_are_used_once(&mut check, &raw, &config);
    if check.errors.is_empty() { Ok(config) } else { Err(check.errors.sorted()) }
}

fn host_name(top: &mut Section<'_>) -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match syntax::label(name.trim()) {
        Ok(name) => Some(name),
        Err(_) => {
            top.wrong(TOP, "node", "this machine has no usable host name", "write node = \"a name\"");
            None
        }
    }
}

fn admin(section: &mut Section<'_>, raw: &RawAdmin) -> Admin {
    let listen = match &raw.listen {
        None => Some(([127, 0, 0, 1], 9900).into()),
        Some(given) if given.get_ref() == "off" => None,
        Some(given) => section.address("listen", given),
    };
    Admin { listen }
}

fn log(section: &mut Section<'_>, raw: &RawLog) -> Log {
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    let format = section.choice("format", &raw.format, LogFormat::Text, &formats);
    let filter = section.parsed("filter", &raw.filter, log_filter);
    Log { format, filter: filter.unwrap_or_else(|| DEFAULT_FILTER.to_string()) }
}

/// A coarse check of a `tracing` filter: levels and `target=level`, with commas. Spans and fields in brackets pass as they are.
fn log_filter(text: &str) -> Result<String, (String, String)> {
    let level = |word: &str| {
        ["off", "error", "warn", "info", "debug", "trace"].iter().any(|known| known.eq_ignore_ascii_case(word))
    };
    let good = |directive: &str| {
        if directive.contains(['[', '{']) {
            return true;
        }
        match directive.split_once('=') {
            Some((target, word)) => !target.trim().is_empty() && level(word.trim()),
            None => level(directive) || directive.contains("::") || directive == "weir",
        }
    };
    if text.split(',').all(|directive| good(directive.trim())) {
        return Ok(text.to_string());
    }
    Err((format!("{text:?} is not a filter"), "write a level like \"info\", or \"weir=debug,h2=warn\"".to_string()))
}

/// Two sockets cannot listen on one address; port 0 is a new one each time.
fn addresses_are_used_once(check: &mut Check, raw: &RawConfig, config: &Config) {
    let mut used = Vec::new();
    if let Some(address) = config.admin.listen {
        used.push((address, "admin.listen".to_string()));
    }
    used.extend(config.portal.listen.map(|address| (address, "portal.listen".to_string())));
    for listener in &config.listeners {
        let mut given = raw.listeners.iter().filter_map(|raw| raw.get_ref().listen.as_ref());
        let span = given.rfind(|given| given.get_ref().parse() == Ok(listener.listen));
        let span = span.map_or(TOP, |given| given.span());
        let key = format!("listeners.{}", listener.name);
        if let Some((_, by)) = used.iter().find(|(address, _)| *address == listener.listen && address.port() != 0) {
            let what = format!("{:?} is already used by {by}", listener.listen.to_string());
            check.section(key).wrong(span, "listen", what, "write another address or port");
        } else {
            used.push((listener.listen, format!("{key}.listen")));
        }
    }
}
