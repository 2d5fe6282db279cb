//! `weir ledger`: reads records where the sidecar's sink leaves them, until it is told to stop; and `weir period`.
//!
//! | `[sink] kind` | read from |
//! |---|---|
//! | `none` | the journal in `state_dir`, beside the process that writes it |
//! | `file` | the files in `path` |
//! | `kafka` | the topic, in the consumer group `[ledger] group` |
//!
//! SIGTERM and SIGINT end it behind the batch that it is at; a kill costs nothing but that batch's work. When the store or the source
//! fails it says so once, waits, and begins again at what is committed.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tracing::{error, info};

use crate::alerts;
use crate::archive::{self, Archiver};
use crate::cli::{LedgerArgs, LedgerPlace, PeriodArgs, PeriodCommand};
use crate::clock::{Clock, DAY_US, hour_of, parse_utc, utc_text};
use crate::config::{Alerts, Archive, Budget, Config, Ledger, Meter, Portal, Privacy, Sink, default_state_dir};
use crate::metrics::metrics;
use crate::portal::{self, Vitals};
use crate::query_command;
use crate::rollup::{self, Consumer, Feed, FilesFeed, JournalFeed, KafkaFeed, Options};
use crate::source::Group;
use crate::store::{Old, Period, Store};
use crate::wire::VerifyingKey;

/// Between two attempts after a failure.
const RETRY: Duration = Duration::from_secs(1);
/// How often what is old is forgotten.
const FORGET: Duration = Duration::from_secs(3600);
/// How often small blocks are looked for, and the pause between two steps of joining them: batches go first.
const LOOK_FOR_SMALL: Duration = Duration::from_secs(60);
const BETWEEN_MERGES: Duration = Duration::from_millis(50);
/// So long after its end an hour's blocks are joined: most that comes late has come by then.
const SETTLED_US: i64 = 600_000_000;
/// Between two lines that say how far it is.
const REPORT: Duration = Duration::from_secs(60);

/// Which ledger, and what it reads.
pub struct Setting {
    /// Of the sidecar.
    pub state_dir: PathBuf,
    /// Where it leaves records.
    pub sink: Sink,
    /// `[ledger]`.
    pub ledger: Ledger,
    /// `[[meters]]`.
    pub meters: Vec<Meter>,
    /// `[portal]`.
    pub portal: Portal,
    /// `[alerts]`.
    pub alerts: Alerts,
    /// `[[budgets]]`.
    pub budgets: Vec<Budget>,
    /// `[archive]`.
    pub archive: Option<Archive>,
    /// `[privacy]`: what the sidecar has left of addresses.
    pub privacy: Privacy,
    /// What answers questions to the archive, where the configuration's file has one.
    pub queries: Option<portal::queries::Program>,
}

impl Setting {
    /// What the flags say: a configuration, or the ledger of a sidecar that runs without one.
    pub fn of(place: &LedgerPlace) -> anyhow::Result<Self> {
        let config = match &place.config {
            Some(file) => Config::load(file),
            None => {
                let state_dir = place.state.clone().unwrap_or_else(default_state_dir);
                Config::for_flags("127.0.0.1:3000", None, Some(&state_dir))
            }
        };
        let Config { state_dir, sink, ledger, meters, portal, alerts, budgets, archive, privacy, query, .. } =
            config.map_err(anyhow::Error::from)?;
        let queries = place.config.clone().filter(|_| archive.is_some()).map(|config| portal::queries::Program {
            path: query_command::program(),
            config,
            time_s_max: query.time_max.as_secs(),
        });
        Ok(Self { state_dir, sink, ledger, meters, portal, alerts, budgets, archive, privacy, queries })
    }

    /// The store, which must be there.
    pub async fn store(&self) -> anyhow::Result<Store> {
        let database = &self.ledger.database;
        if !crate::store::is_postgres(database) && !std::path::Path::new(database).is_file() {
            bail!("there is no ledger at {database}: start one with `weir ledger`");
        }
        Ok(Store::open_existing(database).await?)
    }

    /// What a book of this ledger is told.
    pub fn options(&self) -> anyhow::Result<Options> {
        options(&self.ledger)
    }
}

/// What messages are verified with.
fn options(ledger: &Ledger) -> anyhow::Result<Options> {
    let mut keys = Vec::new();
    for key in &ledger.verify_keys {
        let bytes = std::fs::read(&key.path).with_context(|| format!("cannot read {}", key.path.display()))?;
        keys.push(VerifyingKey::of_file(&key.id, &bytes)?);
    }
    Ok(Options { keys, hosts_max: ledger.hosts_max })
}

/// A runtime for the store; what is read is read by this thread.
pub fn runtime() -> anyhow::Result<Arc<tokio::runtime::Runtime>> {
    Ok(Arc::new(tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?))
}

/// Opens a ledger's store and source.
pub fn open(setting: &Setting, runtime: &Arc<tokio::runtime::Runtime>) -> anyhow::Result<Consumer> {
    let database = &setting.ledger.database;
    if !crate::store::is_postgres(database)
        && let Some(directory) = std::path::Path::new(database).parent()
    {
        std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    }
    let store = runtime.block_on(Store::open(database)).with_context(|| format!("cannot open {}", shown(database)))?;
    let (known, handle) = (store.clone(), runtime.handle().clone());
    let positions = move |source: &str| {
        let found = handle.block_on(known.positions(source));
        found.inspect_err(|error| error!(%error, "where to go on cannot be read")).ok()
    };
    let feed = feed(setting, &setting.ledger.group, positions)?;
    setting.options()?;
    let ledger = setting.ledger.clone();
    let options = move || {
        options(&ledger).unwrap_or_else(|error| {
            // They were readable at the start. Without a key nothing would be verified: none that fits, and all is quarantined.
            error!("{error:#}");
            Options { keys: Vec::new(), hosts_max: ledger.hosts_max }
        })
    };
    let batch = (setting.ledger.batch_records_max, setting.ledger.batch_interval);
    Ok(Consumer::new(store, runtime.clone(), options, feed, batch).with_details(setting.ledger.details_keep_days > 0))
}

/// Where the sidecar leaves records. A topic is read by this consumer group; `positions` says where each of its parts goes on.
pub fn feed(
    setting: &Setting,
    group: &str,
    positions: impl Fn(&str) -> Option<Vec<(String, i64)>> + Send + Sync + 'static,
) -> anyhow::Result<Feed> {
    let kafka = match &setting.sink {
        Sink::None => return Ok(Feed::Journal(JournalFeed::new(&setting.state_dir))),
        Sink::File(file) => return Ok(Feed::Files(FilesFeed::new(&file.path))),
        Sink::Kafka(kafka) => kafka,
    };
    let source = KafkaFeed::source(&kafka.topic);
    let positions = move || {
        let found = positions(&source)?.into_iter();
        Some(found.filter_map(|(part, at)| Some((part.parse().ok()?, at))).collect::<HashMap<i32, i64>>())
    };
    let properties = security(&kafka.kafka.properties);
    let group = Group::join(&kafka.bootstrap_servers, &kafka.topic, group, &properties, Arc::new(positions))?;
    Ok(Feed::Kafka(Box::new(KafkaFeed::new(group))))
}

/// Of a producer's properties, those that a consumer has too.
pub fn security(properties: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let kept = ["security.", "sasl.", "ssl.", "enable.ssl.", "socket.", "broker.address."];
    let ours = properties.iter().filter(|(name, _)| kept.iter().any(|prefix| name.starts_with(prefix)));
    ours.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// Without what may be a password.
fn shown(database: &str) -> &str {
    database.rsplit_once('@').map_or(database, |(_, server)| server)
}

/// Runs until it is told to stop; with `--once` until everything that is there was read.
pub fn run(args: &LedgerArgs) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info,sqlx=warn".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let setting = Setting::of(&args.place)?;
    if args.once && matches!(setting.sink, Sink::Kafka(_)) {
        bail!("a topic has no end: --once reads a journal or files");
    }
    let runtime = runtime()?;
    let stop = stops(&runtime);
    let prometheus = PrometheusBuilder::new().install_recorder().context("cannot start metrics")?;
    let mut consumer = open(&setting, &runtime)?;
    info!(database = shown(&setting.ledger.database), "the ledger reads");
    let vitals = Arc::new(Vitals::default());
    let mut alerts = alerts_of(&setting, &runtime)?;
    if !args.once
        && let Some(alerts) = alerts.take()
    {
        runtime.spawn(alerts.run());
    }
    let portal = if args.once { None } else { portal::start(portal_of(&setting, vitals.clone(), prometheus))? };
    runtime.spawn(tidy(setting.ledger.clone(), setting.portal.access_keep_days));
    let archiver = archiver_of(&setting, args.once, stop.clone())?;
    let (mut records, mut duplicates, mut reported) = (0, 0, Instant::now());
    while !stop.load(Ordering::Relaxed) {
        let progress = match consumer.step() {
            Ok(progress) => progress,
            Err(error) if args.once => return Err(error.into()),
            Err(error) => {
                let error = format!("{:#}", anyhow::Error::from(error));
                error!(error, "nothing was written: begun again in {} s", RETRY.as_secs());
                vitals.failed(&error);
                metrics().ledger_failures.increment(1);
                std::thread::sleep(RETRY);
                continue;
            }
        };
        vitals.stepped();
        metrics().ledger_records.increment(progress.records);
        metrics().ledger_duplicates.increment(progress.duplicates);
        records += progress.records;
        duplicates += progress.duplicates;
        if reported.elapsed() >= REPORT {
            info!(records, duplicates, "since the start");
            reported = Instant::now();
        }
        if args.once && progress.is_idle && progress.records == 0 {
            break;
        }
    }
    if let Some(alerts) = alerts {
        runtime.block_on(alerts.look(Clock::anchored().now_us()))?;
    }
    if let Some(portal) = portal {
        portal.end();
    }
    stop.store(true, Ordering::Relaxed);
    if let Some(archiver) = archiver {
        let archived = archiver.join().map_err(|_| anyhow::anyhow!("the archiver died"))??;
        info!(records = archived, "archived");
    }
    info!(records, duplicates, "the ledger ends");
    Ok(())
}

/// With `[archive]`, where the ledger reads something of this machine's: the archive is written by a thread beside it.
fn archiver_of(
    setting: &Setting,
    is_once: bool,
    stop: Arc<AtomicBool>,
) -> anyhow::Result<Option<std::thread::JoinHandle<Result<u64, archive::Stop>>>> {
    let Some(config) = &setting.archive else { return Ok(None) };
    if matches!(setting.sink, Sink::Kafka(_)) {
        // `weir archive run` reads the topic.
        return Ok(None);
    }
    let none = || Options { keys: Vec::new(), hosts_max: 0 };
    let mut archiver = Archiver::new(config.clone(), feed(setting, &config.group, |_| None)?, none)?;
    let thread = std::thread::Builder::new().name("weir-archive".to_owned());
    Ok(Some(thread.spawn(move || archiver.run(&stop, is_once))?))
}

/// What looks at budgets: by itself, or where everything is read once, at the end.
fn alerts_of(setting: &Setting, runtime: &tokio::runtime::Runtime) -> anyhow::Result<Option<alerts::Alerts>> {
    let store = runtime.block_on(Store::open(&setting.ledger.database))?;
    Ok(alerts::Alerts::new(store, setting.alerts.clone(), setting.budgets.clone(), setting.meters.clone()))
}

/// Every hour: what is older than it is to be kept goes. Every minute: small blocks of hours that are over are joined, some at a time.
async fn tidy(ledger: Ledger, access_keep_days: u32) {
    let mut forgotten: Option<Instant> = None;
    loop {
        let mut wait = LOOK_FOR_SMALL;
        let done = async {
            let store = Store::open(&ledger.database).await?;
            let now_us = Clock::anchored().now_us();
            if forgotten.is_none_or(|at| at.elapsed() >= FORGET) {
                forgotten = Some(Instant::now());
                store.forget(&old(&ledger, access_keep_days, now_us)).await?;
            }
            while store.merge_blocks(now_us - SETTLED_US).await? {
                tokio::time::sleep(BETWEEN_MERGES).await;
            }
            Ok::<(), crate::store::Error>(())
        };
        if let Err(error) = done.await {
            error!(%error, "what is old is still there, and what is small still small: tried again in an hour");
            wait = FORGET;
        }
        tokio::time::sleep(wait).await;
    }
}

fn old(ledger: &Ledger, access_keep_days: u32, now_us: i64) -> Old {
    let before = |days: u32| now_us - i64::from(days) * DAY_US;
    let unless_for_ever = |days: u32| (days > 0).then(|| before(days));
    Old {
        // 0 days: none are kept.
        details_us: Some(before(ledger.details_keep_days)),
        accesses_us: unless_for_ever(access_keep_days),
        hours_us: unless_for_ever(ledger.hours_keep_days),
        quarantine_us: unless_for_ever(ledger.quarantine_keep_days),
    }
}

fn portal_of(setting: &Setting, vitals: Arc<Vitals>, prometheus: PrometheusHandle) -> portal::Setting {
    portal::Setting {
        portal: setting.portal.clone(),
        state_dir: setting.state_dir.clone(),
        database: setting.ledger.database.clone(),
        details_keep_days: setting.ledger.details_keep_days,
        meters: setting.meters.clone(),
        budgets: setting.budgets.clone(),
        queries: setting.queries.clone(),
        vitals,
        prometheus,
    }
}

/// Set once the system, or the user, wants it to end.
pub fn stops(runtime: &tokio::runtime::Runtime) -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let set = stop.clone();
    runtime.spawn(async move {
        let Ok(mut terminate) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) else {
            return;
        };
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
        set.store(true, Ordering::Relaxed);
    });
    stop
}

/// Who does it: as given, or the user.
pub fn actor_or_user(given: &Option<String>) -> String {
    given.clone().unwrap_or_else(|| std::env::var("USER").unwrap_or_else(|_| "unknown".to_owned()))
}

/// Longest reason and name of an actor, in characters.
const TEXT_CHARACTERS_MAX: usize = 255;

/// An error unless this flag's text can be kept with what it is said of.
pub fn on_one_line(flag: &str, text: &str) -> anyhow::Result<()> {
    if text.trim().is_empty() || text.chars().count() > TEXT_CHARACTERS_MAX || text.chars().any(char::is_control) {
        bail!("{flag}: write 1 to {TEXT_CHARACTERS_MAX} characters, on one line");
    }
    Ok(())
}

/// A time as flags give it, in whole hours; `default` where none is given.
pub fn hour(text: &Option<String>, default: i64) -> anyhow::Result<i64> {
    let Some(text) = text else { return Ok(default) };
    let time = parse_utc(text);
    Ok(hour_of(time.with_context(|| format!("{text:?} is no time: write 2026-01-31 or 2026-01-31T12:00:00Z"))?))
}

/// `weir period`.
pub fn period(args: &PeriodArgs) -> anyhow::Result<()> {
    let runtime = runtime()?;
    match &args.command {
        PeriodCommand::Close { place, period, with_holes, actor } => {
            let setting = Setting::of(place)?;
            let (from_us, to_us) =
                rollup::month(period).with_context(|| format!("{period:?} is no month: write it like 2026-11"))?;
            let sealed_at_us = Clock::anchored().now_us();
            if sealed_at_us < to_us {
                bail!("{period} is not over before {}", utc_text(to_us));
            }
            let period = Period {
                name: period.clone(),
                from_us,
                to_us,
                sealed_at_us,
                actor: actor_or_user(actor),
                holes: String::new(),
            };
            let sealed = runtime.block_on(async {
                let store = setting.store().await?;
                let judged = store
                    .seal(period.clone(), |found| rollup::seal(&period, found, &setting.meters, *with_holes))
                    .await?;
                anyhow::Ok(judged)
            })?;
            println!("{} is sealed", sealed.name);
            if !sealed.holes.is_empty() {
                println!("with these holes:\n{}", sealed.holes);
            }
            Ok(())
        }
        PeriodCommand::Show { place, period, json } => {
            let setting = Setting::of(place)?;
            let (periods, amounts) = runtime.block_on(async {
                let store = setting.store().await?;
                anyhow::Ok((store.load().await?.periods, store.sealed(period.as_deref().unwrap_or_default()).await?))
            })?;
            for row in periods.iter().filter(|row| period.as_ref().is_none_or(|name| *name == row.name)) {
                if *json {
                    let holes: Vec<&str> = row.holes.lines().collect();
                    println!(
                        "{}",
                        serde_json::json!({ "period": row.name, "sealed_at": utc_text(row.sealed_at_us), "actor": row.actor, "holes": holes })
                    );
                } else {
                    let holes = row.holes.lines().count();
                    println!(
                        "{}  sealed {} by {}, {holes} holes stated",
                        row.name,
                        utc_text(row.sealed_at_us),
                        row.actor
                    );
                }
            }
            for (account, meter, amount) in amounts {
                if *json {
                    println!("{}", serde_json::json!({ "account": account, "meter": meter, "amount": amount }));
                } else {
                    println!("  {account:<30} {meter:<20} {amount:>20}");
                }
            }
            Ok(())
        }
    }
}
