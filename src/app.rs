//! Assembly: from a configuration to a running process, and to its end.
//!
//! ```text
//! main thread      signals, admin, health checks, reload, hand-over          (a control runtime)
//! weir-worker-N    sessions                                                  (a runtime each, a journal shard each)
//! weir-keeper      fdatasync of journals
//! weir-shipper     journals → sink
//! weir-geoip       files of addresses → the table in use
//! ```
//!
//! The end: stop accepting, let sessions end by themselves until the drain's deadline, cut the rest, write the last
//! records, sync, ship what the sink takes. What it does not take is shipped by the next start.

mod control;
mod worker;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use tokio::task::JoinHandle;
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;

use crate::causes::chain;
use crate::clock::Clock;
use crate::config::{Config, LogFormat};
use crate::enrichment::{Enrichment, Refresher};
use crate::event::Losses;
use crate::handover::{self, Sockets};
use crate::journal::{Budget, EpochDir, Keeper, Options, Shared, StateDir, Writer};
use crate::metrics::{Metrics, metrics};
use crate::proxy::{Node, Setup, close_estate};
use crate::shipper::{Shipper, Source};

/// How long brokers may take to answer `weir check --sink`.
const CHECK_MAX: std::time::Duration = std::time::Duration::from_secs(5);

/// What a process is made of, once it runs.
pub(crate) struct App {
    node: Arc<Node>,
    metrics: &'static Metrics,
    prometheus: metrics_exporter_prometheus::PrometheusHandle,
    state_dir: Option<StateDir>,
    keeper: Keeper,
    shipper: Shipper,
    budget: Arc<Budget>,
    options: Options,
    sockets: Sockets,
    workers: Vec<worker::Handle>,
    /// Where the configuration came from, if from a file.
    file: Option<PathBuf>,
    log: control::LogHandle,
    /// Ours until the last record is shipped: nobody takes it for a dead one before.
    epoch: Arc<EpochDir>,
    /// New connections are turned away for want of memory.
    memory_full: bool,
    /// Keeps the table of addresses up to date, where there is one.
    refresher: Option<Refresher>,
    /// Reads changed tables of accounts.
    tables_read: Option<JoinHandle<()>>,
    /// The next key of pseudonyms could not be made.
    keys_failing: bool,
}

/// `weir check`: the configuration and all it names.
pub fn check(path: &Path, ask_sink: bool) -> Result<(), String> {
    let config = Config::load(path).map_err(|errors| errors.to_string())?;
    crate::sink::check(&config.sink).map_err(|error| chain(&error))?;
    if let (true, crate::config::Sink::Kafka(kafka)) = (ask_sink, &config.sink) {
        let shortcomings = crate::sink::inspect_topic(kafka, CHECK_MAX).map_err(|error| chain(&error))?;
        for shortcoming in shortcomings {
            println!("topic {}: {shortcoming}", kafka.topic);
        }
    }
    if let Some(plan) = &config.geoip.plan {
        Enrichment::load(plan).map_err(|error| chain(&error))?;
    }
    Setup::new(config).map(drop).map_err(|error| chain(&error))?;
    println!("{}: good", path.display());
    Ok(())
}

/// `weir run`: serves until it is told to stop.
pub fn run(config: Config, file: Option<PathBuf>, upgrade: bool) -> anyhow::Result<()> {
    let log = start_log(&config)?;
    start(config, file, upgrade, log)?.serve()
}

fn start(config: Config, file: Option<PathBuf>, upgrade: bool, log: control::LogHandle) -> anyhow::Result<App> {
    if config.listeners.is_empty() {
        bail!("there are no [[listeners]]: this is the configuration of a ledger; start it with `weir ledger`");
    }
    let prometheus = control::install_metrics()?;
    let metrics = metrics();
    let setup = Arc::new(Setup::new(config)?);
    let config = setup.config.clone();

    let (mut sockets, predecessor) = if upgrade {
        let (sockets, predecessor) =
            handover::take(&config.state_dir).context("cannot take over the running process's sockets")?;
        (sockets, Some(predecessor))
    } else {
        (Sockets::default(), None)
    };
    let mut state_dir = StateDir::open(&config.state_dir)?;
    let now_us = Clock::anchored().now_us();
    state_dir.begin_after(u32::try_from(now_us / 1_000_000).unwrap_or(0))?;
    let epoch = Arc::new(state_dir.claim_epoch()?);
    let shards = u16::try_from(config.workers).context("more workers than shards can be numbered")?;
    state_dir.begins(epoch.epoch(), shards, now_us)?;
    sockets.open_missing(&config)?;

    let budget = Arc::new(Budget::new(config.journal.journal_bytes_max));
    let options = Options {
        segment_bytes: config.journal.segment_bytes,
        journal_bytes_max: config.journal.journal_bytes_max,
        sync_interval: config.journal.sync_interval,
        slots_max: u32::try_from(config.journal.slots_max).unwrap_or(u32::MAX),
    };
    let losses = Losses::default();
    setup.privacy.turn_keys(Clock::anchored().now_us())?;
    let plan = config.geoip.plan.as_deref();
    let (enrichment, reloader) = match plan.map(Enrichment::load).transpose()? {
        Some((enrichment, reloader)) => (Arc::new(enrichment), Some(reloader)),
        None => {
            info!(
                "nothing is known of addresses: name a plan in [geoip], or run weir geoip fetch before weir run --upstream"
            );
            (Arc::default(), None)
        }
    };
    let refresher = match (plan, reloader) {
        (Some(plan), Some(reloader)) => {
            let started = Refresher::start(plan.to_owned(), reloader, enrichment.clone(), metrics);
            Some(started.context("cannot start the refresher of addresses")?)
        }
        _ => None,
    };
    let keeper = Keeper::start(Vec::new(), options.sync_interval).context("cannot start the journal's keeper")?;
    let shipper = Shipper::start(&config.sink, budget.clone(), losses.clone(), metrics)?;
    let node = Arc::new(Node::new(epoch.epoch(), setup, losses, enrichment));
    node.state_ends(state_dir.ended());
    let mut app = App {
        node,
        metrics,
        prometheus,
        state_dir: Some(state_dir),
        keeper,
        shipper,
        budget,
        options,
        sockets,
        workers: Vec::new(),
        file,
        log,
        epoch: epoch.clone(),
        memory_full: false,
        refresher,
        tables_read: None,
        keys_failing: false,
    };
    app.take_over_dead_epochs();
    app.start_workers(&epoch)?;
    for (name, address) in app.sockets.addresses() {
        info!(listener = name, %address, "listening");
    }
    if let Some(predecessor) = predecessor {
        predecessor.serving().context("the running process did not hear that its successor serves")?;
    }
    Ok(app)
}

impl App {
    /// Closes and ships what dead processes left. Epochs that still drain in another process are left for later.
    fn take_over_dead_epochs(&mut self) {
        let Some(mut state_dir) = self.state_dir.take() else { return };
        match state_dir.abandoned() {
            Ok(abandoned) => {
                for epoch in abandoned {
                    if let Err(error) = self.take_over(&mut state_dir, epoch) {
                        warn!(error = %chain(&error), "a dead epoch stays as it is");
                    }
                }
            }
            Err(error) => warn!(error = %chain(&error), "earlier epochs cannot be listed"),
        }
        self.state_dir = Some(state_dir);
    }

    fn take_over(&self, state_dir: &mut StateDir, epoch: EpochDir) -> Result<(), crate::journal::Error> {
        let epoch = Arc::new(epoch);
        for shard in epoch.shards()? {
            match self.take_over_shard(state_dir, &epoch, shard) {
                Ok(shared) => self.shipper.add(Source { shared, dead: Some(epoch.clone()) }),
                Err(error) => {
                    warn!(epoch = epoch.epoch(), shard, error = %chain(&error), "a dead shard stays as it is");
                }
            }
        }
        Ok(())
    }

    fn take_over_shard(
        &self,
        state_dir: &mut StateDir,
        epoch: &EpochDir,
        shard: u16,
    ) -> Result<Arc<Shared>, crate::journal::Error> {
        let (writer, recovery) =
            Writer::reopen(epoch, shard, &self.node.setup().config.node, &self.options, self.budget.clone())?;
        let shared = writer.shared();
        let ended_at_us = close_estate(writer, recovery, self.metrics);
        shared.sync()?;
        shared.seal()?;
        // Before anything of it is shipped, and so before it may be removed. Records of ours say where it ended.
        let (end, remembered) = state_dir.ends(epoch.epoch(), shard, shared.published_seq(), ended_at_us);
        if let Err(error) = remembered {
            // A full disk is made room on by shipping it: this epoch's records still say so, only later ones may not.
            warn!(error = %chain(&error), "where an epoch ended cannot be remembered beyond this one");
        }
        self.node.state_ends(vec![end]);
        Ok(shared)
    }

    fn start_workers(&mut self, epoch: &Arc<EpochDir>) -> anyhow::Result<()> {
        let config = self.node.setup().config.clone();
        for shard in 0..config.workers {
            let shard = u16::try_from(shard).context("more workers than shards can be numbered")?;
            let writer = Writer::create(epoch, shard, &config.node, &self.options, self.budget.clone())?;
            let shared = writer.shared();
            self.keeper.watch(shared.clone());
            self.shipper.add(Source { shared: shared.clone(), dead: None });
            self.workers.push(worker::start(worker::Parts {
                shard,
                writer,
                shared,
                epoch: epoch.clone(),
                node: self.node.clone(),
                metrics: self.metrics,
                listeners: self.sockets.for_worker()?,
            })?);
        }
        Ok(())
    }
}

fn start_log(config: &Config) -> anyhow::Result<control::LogHandle> {
    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::util::SubscriberInitExt;
    let filter = EnvFilter::try_new(&config.log.filter).context("log.filter")?;
    let (filter, handle) = tracing_subscriber::reload::Layer::new(filter);
    let registry = tracing_subscriber::registry().with(filter);
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(colours).with_target(false);
    match config.log.format {
        LogFormat::Text => registry.with(lines).try_init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
    }
    .context("cannot start logging")?;
    Ok(handle)
}
