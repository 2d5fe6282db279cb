//! The process while it runs: signals, the operator's listener, health checks, reload, hand-over, and the end.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tracing::{error, info, warn};
use tracing_subscriber::EnvFilter;

use super::App;
use super::worker::{self, Stage};
use crate::admin::{self, Admin};
use crate::causes::chain;
use crate::clock::Clock;
use crate::config::{Config, OnFull, reloadable_difference};
use crate::enrichment::Refresher;
use crate::handover;
use crate::journal::{Health, StateDir};
use crate::proxy::Setup;

/// Changes the log's filter.
pub type LogHandle = tracing_subscriber::reload::Handle<EnvFilter, tracing_subscriber::Registry>;

/// How often journals, files and dead epochs are looked at.
const LOOK: Duration = Duration::from_millis(200);
/// How often epochs that drained elsewhere are looked for.
const DEAD_EPOCHS: Duration = Duration::from_secs(5);
/// How often the log says what was nobody's, if something was.
const UNATTRIBUTED: Duration = Duration::from_secs(60);
/// Beyond the drain's deadline: time for the cut sessions to linger and record.
const CUT_GRACE: Duration = Duration::from_secs(2);

/// Makes the `metrics` crate's recorder this process's.
pub fn install_metrics() -> anyhow::Result<PrometheusHandle> {
    PrometheusBuilder::new().install_recorder().context("cannot start metrics")
}

/// Why serving ends.
enum Why {
    Signal(&'static str),
    Successor,
}

impl App {
    /// Serves until told to stop, then drains.
    pub fn serve(mut self) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot make the control runtime")?;
        let (stop, stopped) = watch::channel(false);
        let result = runtime.block_on(self.control(&stopped));
        if let Err(error) = &result {
            error!(%error, "the control failed: draining");
        }
        let drained = runtime.block_on(self.drain());
        if stop.send(true).is_err() {
            // Nobody checks health any more.
        }
        self.end(drained);
        runtime.shutdown_background();
        result.map(drop)
    }

    async fn control(&mut self, stopped: &watch::Receiver<bool>) -> anyhow::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let mut checks = self.start_checks(stopped);
        let (reload_asked, mut reloads) = mpsc::channel::<()>(1);
        if let Some(listener) = self.sockets.admin()? {
            let admin = Admin {
                node: self.node.clone(),
                sink: self.shipper.status(),
                prometheus: self.prometheus.clone(),
                reload: reload_asked,
            };
            let listener = TcpListener::from_std(listener)?;
            tokio::spawn(admin::serve(listener, Arc::new(admin)));
        }
        let state_dir = self.node.setup().config.state_dir.clone();
        let mut successors = UnixListener::from_std(handover::listen_for_successors(&state_dir)?)?;
        let mut looks = tokio::time::interval(LOOK);
        let mut looked_for_dead = Instant::now();
        let mut said_unattributed = Instant::now();
        let mut seen = self.file.as_deref().and_then(modified);
        let why = loop {
            tokio::select! {
                _ = terminate.recv() => break Why::Signal("SIGTERM"),
                _ = interrupt.recv() => break Why::Signal("SIGINT"),
                _ = hangup.recv() => checks = self.reload_all(stopped, checks),
                Some(()) = reloads.recv() => checks = self.reload_all(stopped, checks),
                successor = successors.accept() => {
                    let Ok((stream, _)) = successor else { continue };
                    match self.hand_over(stream.into_std()?, &state_dir) {
                        Ok(true) => break Why::Successor,
                        Ok(false) => successors = UnixListener::from_std(handover::listen_for_successors(&state_dir)?)?,
                        Err(error) => return Err(error),
                    }
                }
                _ = looks.tick() => {
                    self.watch_journal();
                    self.reload_certificates();
                    self.node.drop_old_setups();
                    self.reload_tables();
                    self.turn_keys();
                    if said_unattributed.elapsed() > UNATTRIBUTED {
                        said_unattributed = Instant::now();
                        self.say_unattributed();
                    }
                    let now = self.file.as_deref().and_then(modified);
                    if now.is_some() && now != seen {
                        seen = now;
                        checks = self.reload(stopped, checks);
                    }
                    if looked_for_dead.elapsed() > DEAD_EPOCHS {
                        looked_for_dead = Instant::now();
                        self.take_over_dead_epochs();
                    }
                }
            }
        };
        match why {
            Why::Signal(signal) => info!(signal, "draining"),
            Why::Successor => info!("a successor serves: draining"),
        }
        Ok(())
    }

    /// Health checks and name resolution of the upstreams in force.
    fn start_checks(&self, stopped: &watch::Receiver<bool>) -> watch::Sender<bool> {
        let (stop, stop_checks) = watch::channel(false);
        for upstream in &self.node.setup().upstreams {
            let (group, mut ends, checks_end) = (upstream.group.clone(), stopped.clone(), stop_checks.clone());
            tokio::spawn(async move {
                group.resolve().await;
                tokio::select! {
                    () = group.run(checks_end) => {}
                    _ = ends.wait_for(|end| *end) => {}
                }
            });
        }
        stop
    }

    /// The configuration, and all that is known of addresses.
    fn reload_all(&mut self, stopped: &watch::Receiver<bool>, checks: watch::Sender<bool>) -> watch::Sender<bool> {
        self.refresher.iter().for_each(Refresher::ask);
        self.reload(stopped, checks)
    }

    /// Takes a changed configuration over, or says why not and keeps the old one.
    fn reload(&mut self, stopped: &watch::Receiver<bool>, checks: watch::Sender<bool>) -> watch::Sender<bool> {
        let Some(file) = &self.file else {
            warn!("there is no configuration file to read again");
            return checks;
        };
        let old = self.node.setup();
        let loaded = Config::load(file).map_err(|errors| errors.to_string());
        let ready = loaded.and_then(|config| {
            let difference = reloadable_difference(&old.config, &config);
            let setup = Setup::after(config, &old.account_tables).map_err(|error| chain(&error))?;
            setup.privacy.turn_keys(Clock::anchored().now_us()).map_err(|error| chain(&error))?;
            Ok((setup, difference))
        });
        let (setup, difference) = match ready {
            Ok(ready) => ready,
            Err(error) => {
                self.metrics.reloads_refused.increment(1);
                error!("the new configuration is refused, the old one stays:\n{error}");
                return checks;
            }
        };
        if difference.is_empty() {
            return checks;
        }
        if !difference.restart.is_empty() {
            warn!(keys = ?difference.restart, "these changes need a restart (or --upgrade)");
        }
        let filter = EnvFilter::try_new(&setup.config.log.filter);
        if let Ok(filter) = filter
            && let Err(error) = self.log.reload(filter)
        {
            warn!(%error, "the log's filter stays as it was");
        }
        self.node.replace_setup(Arc::new(setup));
        self.metrics.reloads.increment(1);
        info!(keys = ?difference.live, "configuration taken over");
        drop(checks);
        self.start_checks(stopped)
    }

    fn reload_certificates(&self) {
        for listener in &self.node.setup().listeners {
            let Some(store) = &listener.certificates else { continue };
            match store.reload_if_changed() {
                Ok(true) => info!(listener = %listener.name, "certificates read again"),
                Ok(false) => {}
                Err(error) => {
                    error!(listener = %listener.name, error = %chain(&error), "the new certificates are refused, the old ones stay")
                }
            }
        }
    }

    /// Reads tables of accounts again whose files changed; beside this thread, for they may be large.
    fn reload_tables(&mut self) {
        let setup = self.node.setup();
        if setup.account_tables.is_empty() || self.tables_read.as_ref().is_some_and(|read| !read.is_finished()) {
            return;
        }
        let metrics = self.metrics;
        self.tables_read = Some(tokio::task::spawn_blocking(move || {
            for table in &setup.account_tables {
                match table.reload_if_changed() {
                    Ok(true) => {
                        let (rows, version) = table.state();
                        info!(table = table.name(), rows, version, "table of accounts read again");
                    }
                    Ok(false) => {}
                    Err(error) => {
                        metrics.account_tables_refused.increment(1);
                        error!(
                            table = table.name(),
                            "the new table of accounts is refused, the old one stays:\n{}",
                            chain(&error)
                        );
                    }
                }
            }
        }));
    }

    /// Has the next key of pseudonyms ready, and destroys those whose time is over.
    fn turn_keys(&mut self) {
        match self.node.setup().privacy.turn_keys(Clock::anchored().now_us()) {
            Ok(destroyed) => {
                self.keys_failing = false;
                if !destroyed.is_empty() {
                    info!(epochs = ?destroyed, "keys destroyed: whose the pseudonyms of their time are is gone");
                }
            }
            Err(error) => {
                self.metrics.pseudonym_keys_failed.increment(1);
                if !std::mem::replace(&mut self.keys_failing, true) {
                    error!(error = %chain(&error), "the keys of pseudonyms cannot be turned: the newest goes on");
                }
            }
        }
    }

    fn say_unattributed(&self) {
        let count = self.node.take_unattributed();
        if count > 0 {
            warn!(count, "requests and raw sessions of the last minute are nobody's: account \"unattributed\"");
        }
    }

    /// Says whether new sessions could be recorded.
    fn watch_journal(&mut self) {
        let refuse = self.node.setup().config.journal.on_full == OnFull::Refuse;
        let healths: Vec<Health> = self.workers.iter().map(|worker| worker.shared.health()).collect();
        let full = healths.contains(&Health::Full);
        let failed = healths.iter().find_map(|health| match health {
            Health::Failed(why) => Some(why.clone()),
            _ => None,
        });
        let was_ready = self.node.journal_ready();
        let ready = !full && failed.is_none();
        if was_ready && !ready {
            error!(full, failed, "the journal cannot be written as it should");
        } else if !was_ready && ready {
            info!("the journal can be written again");
        }
        self.node.set_journal_ready(ready);
        self.node.set_journal_folding(self.workers.iter().any(|worker| worker.shared.is_folding()));
        let memory_full = self.memory_is_full();
        let unrecordable = full && refuse;
        self.node.set_accepting(!unrecordable && !memory_full);
    }

    /// Over the limit for the buffers of all connections together, new ones are turned away until some end.
    fn memory_is_full(&mut self) -> bool {
        let limit = self.node.setup().config.limits.buffer_bytes_max;
        let held_bytes = self.node.held_bytes();
        let full = held_bytes > limit;
        self.metrics.traffic_memory_bytes.set(held_bytes as f64);
        if full != std::mem::replace(&mut self.memory_full, full) {
            warn!(full, held_bytes, buffer_bytes_max = limit, "memory for buffers");
        }
        full
    }

    /// True if the successor serves; false if it does not and this process goes on.
    fn hand_over(&mut self, stream: UnixStream, state_dir: &Path) -> anyhow::Result<bool> {
        info!("a successor asks for the listening sockets");
        let directory = &mut self.state_dir;
        let result = handover::hand_over(stream, &self.sockets, || {
            directory.take().into_iter().for_each(StateDir::release);
        });
        let Err(error) = result else { return Ok(true) };
        error!(error = %chain(&error), "the successor does not serve: going on");
        if self.state_dir.is_none() {
            self.state_dir = Some(StateDir::open(state_dir).context("cannot take the state directory back")?);
        }
        Ok(false)
    }

    /// Lets sessions end by themselves until the deadline, then cuts them. True if none had to be cut.
    async fn drain(&mut self) -> bool {
        self.node.drain();
        self.sockets.close_traffic();
        let timeout = self.node.setup().config.limits.drain_timeout;
        let deadline = Instant::now() + timeout;
        self.go(Stage::Drain);
        if self.ended_by(deadline).await {
            return true;
        }
        warn!(sessions = self.node.sessions.len(), "the drain's deadline has passed: sessions are cut");
        self.go(Stage::Cut);
        if !self.ended_by(Instant::now() + self.node.setup().config.limits.linger + CUT_GRACE).await {
            error!("workers do not end: what they hold is closed by the next start");
        }
        false
    }

    fn go(&self, stage: Stage) {
        self.workers.iter().for_each(|worker| worker.go(stage));
    }

    async fn ended_by(&self, deadline: Instant) -> bool {
        while !self.workers.iter().all(worker::Handle::is_finished) {
            if Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        true
    }

    fn end(mut self, drained: bool) {
        for worker in self.workers.drain(..) {
            if worker.is_finished() {
                worker.join();
            }
        }
        self.keeper.stop();
        self.shipper.stop();
        drop(self.epoch);
        info!(drained, "ended");
    }
}

fn modified(path: &Path) -> Option<(PathBuf, SystemTime)> {
    let modified = std::fs::metadata(path).ok()?.modified().ok()?;
    Some((path.to_owned(), modified))
}
