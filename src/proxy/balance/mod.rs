//! Which server of an upstream takes a request: one [`Group`] per configured upstream, shared by all workers.
//!
//! A group's *members* are addresses: a server configured by address is one member, a server configured by name is one
//! member per address its name resolves to. Two servers with one address are one member, that of the first. A member
//! is *available* unless active checks found it unhealthy or it rests after failing real traffic (ejection; the last
//! available member never rests). When none is available, all are taken as if they were, with one WARN at the change:
//! a wrong verdict on everything must not cost everything.
//!
//! `pingora-load-balancing` keeps the membership, drives discovery and the checks and counts their thresholds. Its
//! selection is not used: it allocates and hashes per pick, and has no least connections. [`Group::pick`] reads a list
//! of members under a read lock whose writers (a changed DNS answer) only swap the list in.
//!
//! Limits: 64 addresses per name, 5 s per lookup and per check. Nothing survives a restart; a reloaded configuration
//! starts with every member available.

mod discovery;
mod health;
mod member;
mod shared;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use metrics::{describe_counter, describe_gauge};
use pingora_load_balancing::Backends;
use rustls_pki_types::InvalidDnsNameError;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, sleep};

use crate::config::Upstream;
use discovery::{Discovery, Names};
use shared::Shared;

pub use member::{InFlight, Member};

/// Between lookups of a name that has resolved.
const DISCOVERY_INTERVAL: Duration = Duration::from_secs(10);
/// Between lookups as long as a name has never resolved: its servers take no traffic meanwhile.
const UNRESOLVED_INTERVAL: Duration = Duration::from_secs(1);

/// An upstream that cannot be used as configured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host cannot be verified against a certificate.
    #[error("upstream {upstream}: {host} as TLS server name")]
    ServerName {
        /// Name of the upstream.
        upstream: String,
        /// What was configured.
        host: String,
        /// Why not.
        source: InvalidDnsNameError,
    },
    /// The path cannot be asked for.
    #[error("upstream {upstream}: health check of path {path}")]
    HealthPath {
        /// Name of the upstream.
        upstream: String,
        /// What was configured.
        path: String,
        /// Why not.
        source: http::uri::InvalidUri,
    },
    /// The server cannot stand in a `Host` header.
    #[error("upstream {upstream}: health check of server {server}")]
    HealthHost {
        /// Name of the upstream.
        upstream: String,
        /// What was configured.
        server: String,
        /// Why not.
        source: http::header::InvalidHeaderValue,
    },
}

/// The servers of one upstream and the choice among them.
pub struct Group {
    shared: Arc<Shared>,
    names: Arc<Names>,
    backends: Backends,
    /// Updates of `backends` must not overlap.
    updating: tokio::sync::Mutex<()>,
    check_interval: Option<Duration>,
}

impl Group {
    /// No I/O. Servers configured by address are members at once, by name after [`Group::resolve`].
    ///
    /// # Errors
    /// A host that cannot be a TLS server name, or a health check that cannot be asked.
    pub fn new(upstream: &Upstream) -> Result<Self, Error> {
        describe_gauge!("weir_upstream_healthy", "addresses of a server that take traffic; 0 is a server down");
        describe_counter!("weir_upstream_ejections_total", "times an address was put to rest after failures in a row");
        let shared = Arc::new(Shared::new(upstream)?);
        let names = Arc::new(Names::new(Arc::clone(&shared.upstream), upstream.servers.clone()));
        shared.replace(&names.backends());
        let mut backends = Backends::new(Box::new(Discovery(Arc::clone(&names))));
        if let Some(settings) = &upstream.health {
            backends.set_health_check(Box::new(health::Check::new(upstream, settings, Arc::clone(&shared))?));
        }
        Ok(Self {
            shared,
            names,
            backends,
            updating: tokio::sync::Mutex::new(()),
            check_interval: upstream.health.as_ref().map(|settings| settings.interval),
        })
    }

    /// Resolves the names once, in 5 s at most. What fails is logged here and tried again by [`Group::run`].
    pub async fn resolve(&self) {
        let _updating = self.updating.lock().await;
        let updated = self.backends.update(|backends| self.shared.replace(&backends)).await;
        if let Err(error) = updated {
            tracing::error!(upstream = %self.shared.upstream, %error, "discovery failed");
        }
    }

    /// Resolves names again, checks health and ends rests until `stop` is true or its sender is gone.
    pub async fn run(&self, mut stop: watch::Receiver<bool>) {
        let work = async {
            tokio::join!(self.discover(), self.check(), self.shared.end_rests());
            std::future::pending::<()>().await;
        };
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => {}
            () = work => {}
        }
    }

    /// The member to try next: an available one that is not in `tried`, or any that is not when none is available.
    /// None when nothing is left to try, or no name has resolved yet.
    pub fn pick(&self, tried: &[SocketAddr]) -> Option<Arc<Member>> {
        self.shared.pick(tried)
    }

    /// All members, in the order of the configuration.
    pub fn members(&self) -> Vec<Arc<Member>> {
        self.shared.members().clone()
    }

    async fn discover(&self) {
        if self.backends.get_backend().is_empty() {
            self.resolve().await;
        }
        while self.names.any() {
            let pause = if self.names.unresolved() { UNRESOLVED_INTERVAL } else { DISCOVERY_INTERVAL };
            sleep(pause).await;
            self.resolve().await;
        }
    }

    async fn check(&self) {
        let Some(interval) = self.check_interval else {
            return;
        };
        let mut turns = tokio::time::interval(interval.max(Duration::from_millis(1)));
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            turns.tick().await;
            self.backends.run_health_check(true).await;
            // The check itself reports each change. An address that left and came back during its check starts anew
            // in `backends`, which has the last word.
            for member in self.members() {
                let ready = self.backends.ready(&discovery::backend(member.server, member.address));
                self.shared.set_healthy(&member, ready);
            }
        }
    }
}
