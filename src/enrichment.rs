//! What is known of addresses, and how that is kept up to date.
//!
//! The table is `weir-geoip`'s: compiled when the process starts and whenever a file of its plan changes, on a thread of its own; a new
//! one takes the old one's place between two look-ups. A session looks its client up once and keeps the words, not the table, so that
//! a session of days keeps no old table in memory. Without a plan nothing is known of any address, and that is said once.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, SystemTime};

use metrics::gauge;
use tracing::{error, info, warn};
use weir_geoip::{Live, Outcome, Plan, Reloader, SourceState};

use crate::event::PlaceNote;
use crate::metrics::Metrics;

/// How often files are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Longest text of a record's place, bytes.
const TEXT_BYTES_MAX: usize = 64;

/// Why nothing can be known of addresses, though it should.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The plan's file.
    #[error("cannot read {}", path.display())]
    Read {
        /// Its name.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Its content.
    #[error("{}: {source}", path.display())]
    Plan {
        /// Its name.
        path: PathBuf,
        /// What is wrong, with line and column.
        source: Box<toml::de::Error>,
    },
    /// The table.
    #[error("no table of addresses by {}", path.display())]
    Table {
        /// The plan.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<weir_geoip::Error>,
    },
}

/// What is known of one address; empty where nothing is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// ISO 3166-1, two letters.
    pub country: Box<str>,
    /// A code of ISO 3166-2 or a name.
    pub region: Box<str>,
    /// A name.
    pub city: Box<str>,
    /// Number of the network.
    pub asn: u32,
    /// Whose the network is.
    pub as_org: Box<str>,
    /// Dotted labels.
    pub labels: Box<[Box<str>]>,
    /// Whose traffic from there is by the table of networks.
    pub account: Option<Arc<str>>,
    /// Build time of the newest database, s since the Unix epoch.
    pub geo_epoch: i64,
    /// Which table of networks.
    pub accounts_version: i64,
}

/// The table in use.
#[derive(Default)]
pub struct Enrichment {
    live: Option<Arc<Live>>,
    /// Changes with each table.
    generation: AtomicU64,
}

/// Which table is in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Hash of all that is in it.
    pub id: String,
    /// See [`Place::geo_epoch`].
    pub geo_epoch: i64,
    /// See [`Place::accounts_version`].
    pub accounts_version: i64,
}

/// Keeps the table up to date. Dropped, it ends.
pub struct Refresher {
    asked: Sender<()>,
}

/// Where `weir geoip fetch` puts its plan, and where it is found without a configuration.
pub fn fetched_plan() -> PathBuf {
    crate::config::default_state_dir().join("geoip/geoip.toml")
}

/// Reads a plan; its paths are meant from its own directory.
pub fn read_plan(path: &Path) -> Result<Plan, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    let mut plan: Plan =
        toml::from_str(&text).map_err(|source| Error::Plan { path: path.to_owned(), source: Box::new(source) })?;
    plan.resolve_paths(path.parent().unwrap_or(Path::new(".")));
    Ok(plan)
}

impl Enrichment {
    /// Compiles the table of a plan.
    pub fn load(path: &Path) -> Result<(Self, Reloader), Error> {
        let plan = read_plan(path)?;
        let failed = |source| Error::Table { path: path.to_owned(), source: Box::new(source) };
        let table = weir_geoip::compile(&plan, SystemTime::now()).map_err(failed)?;
        weir_geoip::check(&plan, &table, None).map_err(failed)?;
        info!(snapshot = table.id(), records = table.records(), "addresses are known");
        let live = Arc::new(Live::new(table));
        let reloader = Reloader::new(plan, live.clone());
        Ok((Self { live: Some(live), generation: AtomicU64::new(1) }, reloader))
    }

    /// Changes whenever another table is in use; 0 without any.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The table in use, if there is one.
    pub fn snapshot(&self) -> Option<Snapshot> {
        let table = self.live.as_ref()?.load();
        Some(Snapshot {
            id: table.id().to_owned(),
            geo_epoch: table.geo_epoch(),
            accounts_version: table.accounts_version(),
        })
    }

    /// What is known of an address.
    pub fn look_up(&self, address: IpAddr) -> Place {
        let Some(live) = &self.live else { return Place::default() };
        let table = live.load();
        let record = table.of(address);
        let account = record.account();
        Place {
            country: record.country().into(),
            region: cut(record.region()).into(),
            city: cut(record.city()).into(),
            asn: record.asn(),
            as_org: cut(record.as_org()).into(),
            labels: record.labels().map(Box::from).collect(),
            account: (!account.is_empty()).then(|| Arc::from(account)),
            geo_epoch: table.geo_epoch(),
            accounts_version: table.accounts_version(),
        }
    }
}

impl Place {
    /// As a record says it, without a verdict.
    pub fn note(&self) -> PlaceNote<'_> {
        PlaceNote {
            country: &self.country,
            region: &self.region,
            city: &self.city,
            asn: self.asn,
            as_org: &self.as_org,
            labels: &self.labels,
            geo_epoch: self.geo_epoch,
            accounts_version: self.accounts_version,
            ..PlaceNote::default()
        }
    }
}

/// At most [`TEXT_BYTES_MAX`], cut between characters.
fn cut(text: &str) -> &str {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

impl Refresher {
    /// On a thread of its own.
    pub fn start(
        path: PathBuf,
        reloader: Reloader,
        enrichment: Arc<Enrichment>,
        metrics: &'static Metrics,
    ) -> std::io::Result<Self> {
        let (asked, asks) = channel();
        let refreshing = Refreshing { plan: modified(&path), path, reloader, enrichment, metrics, known: Vec::new() };
        std::thread::Builder::new().name("weir-geoip".to_owned()).spawn(move || refreshing.run(&asks))?;
        Ok(Self { asked })
    }

    /// Reads all files again, changed or not.
    pub fn ask(&self) {
        if self.asked.send(()).is_err() {
            error!("the table of addresses is not kept up to date any more");
        }
    }
}

struct Refreshing {
    path: PathBuf,
    /// When the plan's file was changed, as far as known.
    plan: Option<SystemTime>,
    reloader: Reloader,
    enrichment: Arc<Enrichment>,
    metrics: &'static Metrics,
    /// The state of each source, as it was said last.
    known: Vec<(String, SourceState)>,
}

impl Refreshing {
    fn run(mut self, asks: &Receiver<()>) {
        loop {
            self.say_states();
            let is_asked = match asks.recv_timeout(LOOK) {
                Ok(()) => true,
                Err(RecvTimeoutError::Timeout) => false,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            self.follow_plan();
            self.check(is_asked);
        }
    }

    fn follow_plan(&mut self) {
        let now = modified(&self.path);
        if now == self.plan {
            return;
        }
        self.plan = now;
        match read_plan(&self.path) {
            Ok(plan) => self.reloader.set_plan(plan),
            Err(error) => {
                self.metrics.geoip_reloads_refused.increment(1);
                error!(%error, "the new plan of addresses is refused, the old one stays");
            }
        }
    }

    fn check(&mut self, is_asked: bool) {
        match self.reloader.check(SystemTime::now(), is_asked) {
            Outcome::Unchanged | Outcome::Same => {}
            Outcome::Swapped { table, before, took } => {
                self.enrichment.generation.fetch_add(1, Ordering::Release);
                self.metrics.geoip_reloads.increment(1);
                info!(
                    snapshot = table.id(),
                    before,
                    took_ms = took.as_millis() as u64,
                    "another table of addresses is in use"
                );
            }
            Outcome::Refused(error) => {
                self.metrics.geoip_reloads_refused.increment(1);
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                error!(%error, cause, "the new table of addresses is refused, the old one stays");
            }
        }
    }

    /// Gauges of every source; a line in the log when a state changes.
    fn say_states(&mut self) {
        let mut known = Vec::new();
        for source in self.reloader.ages(SystemTime::now()) {
            let state = match source.state {
                SourceState::Fresh => 0.0,
                SourceState::Stale => 1.0,
                SourceState::Expired => 2.0,
            };
            gauge!("weir_geoip_source_state", "source" => source.name.clone()).set(state);
            gauge!("weir_geoip_source_age_seconds", "source" => source.name.clone()).set(source.age_s as f64);
            let before = self.known.iter().find(|(name, _)| *name == source.name).map(|(_, state)| *state);
            let (name, age_days) = (&source.name, source.age_s / 86_400);
            match source.state {
                state if Some(state) == before => {}
                SourceState::Fresh if before.is_none() => {}
                SourceState::Fresh => info!(source = name, age_days, "a source of addresses is fresh again"),
                state => warn!(source = name, age_days, "a source of addresses is {}", state.name()),
            }
            known.push((source.name, source.state));
        }
        self.known = known;
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).ok()?.modified().ok()
}
