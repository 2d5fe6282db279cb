//! The list of members and what is decided over it: the choice, ejection, what is published.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::Instant;

use metrics::{counter, gauge};
use pingora_load_balancing::Backend;
use rustls_pki_types::ServerName;
use tokio::sync::Notify;
use tokio::time::sleep_until;

use super::{Error, Member, discovery};
use crate::config::{Balance, Ejection, Server, Upstream};

/// What the group, its members and its checks share.
pub(super) struct Shared {
    pub(super) upstream: Arc<str>,
    pub(super) servers: Vec<Identity>,
    balance: Balance,
    pub(super) ejection: Option<Ejection>,
    members: RwLock<Vec<Arc<Member>>>,
    turn: AtomicUsize,
    pub(super) failing_open: AtomicBool,
    /// Held while deciding whether a member may rest, so that two cannot each rely on the other.
    ejecting: Mutex<()>,
    rest_begun: Notify,
}

/// How a configured server appears in records and in TLS.
pub(super) struct Identity {
    pub(super) name: Arc<str>,
    pub(super) server_name: Option<ServerName<'static>>,
}

impl Shared {
    pub(super) fn new(upstream: &Upstream) -> Result<Self, Error> {
        let servers = upstream.servers.iter().map(|server| Identity::new(upstream, server));
        Ok(Self {
            upstream: upstream.name.as_str().into(),
            servers: servers.collect::<Result<_, _>>()?,
            balance: upstream.balance,
            ejection: upstream.ejection.clone(),
            members: RwLock::default(),
            turn: AtomicUsize::new(0),
            failing_open: AtomicBool::new(false),
            ejecting: Mutex::new(()),
            rest_begun: Notify::new(),
        })
    }

    /// Not to be held over anything that asks for it again: a writer in between would wait for the first and stop the
    /// second.
    pub(super) fn members(&self) -> RwLockReadGuard<'_, Vec<Arc<Member>>> {
        // The list is only ever swapped whole, so a panic elsewhere cannot have left half of one.
        self.members.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn ejecting(&self) -> MutexGuard<'_, ()> {
        self.ejecting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn pick(&self, tried: &[SocketAddr]) -> Option<Arc<Member>> {
        let members = self.members();
        let turn = self.turn.fetch_add(1, Relaxed);
        let admitted = |member: &Member| member.is_available() && !tried.contains(&member.address);
        if let Some(member) = self.choose(&members, turn, admitted) {
            if self.failing_open.load(Relaxed) {
                self.set_failing_open(false);
            }
            return Some(Arc::clone(member));
        }
        if members.iter().any(|member| member.is_available()) {
            return None;
        }
        let member = self.choose(&members, turn, |member| !tried.contains(&member.address))?;
        if !self.failing_open.load(Relaxed) {
            self.set_failing_open(true);
        }
        Some(Arc::clone(member))
    }

    fn choose<'a>(
        &self,
        members: &'a [Arc<Member>],
        turn: usize,
        admitted: impl Fn(&Member) -> bool,
    ) -> Option<&'a Arc<Member>> {
        let first = turn.checked_rem(members.len())?;
        match self.balance {
            Balance::RoundRobin => {
                if admitted(&members[first]) {
                    return Some(&members[first]);
                }
                // The turns of one that cannot be taken go round all others: its neighbour must not get double.
                let admitted_count = members.iter().filter(|member| admitted(member)).count();
                let round = turn / members.len();
                let mut others = members.iter().filter(|member| admitted(member));
                // Fewer may be admitted by now than were counted.
                others
                    .nth(round.checked_rem(admitted_count)?)
                    .or_else(|| members.iter().find(|member| admitted(member)))
            }
            Balance::LeastConnections => {
                let (before, after) = members.split_at(first);
                let in_turn = after.iter().chain(before).filter(|member| admitted(member));
                in_turn.min_by_key(|member| member.open())
            }
        }
    }

    fn set_failing_open(&self, now: bool) {
        if self.failing_open.swap(now, Relaxed) == now {
            return;
        }
        if now {
            tracing::warn!(upstream = %self.upstream, "no server is available: all are tried all the same");
        } else {
            tracing::info!(upstream = %self.upstream, "a server is available again");
        }
    }

    /// Takes over a membership. Members that stay keep their state.
    pub(super) fn replace(self: &Arc<Self>, backends: &BTreeSet<Backend>) {
        let mut members = Vec::with_capacity(backends.len());
        for (server, address) in backends.iter().filter_map(discovery::place) {
            let known = self.member(address);
            match known {
                Some(member) if member.server == server => members.push(member),
                // The address now belongs to another server; checks still think of it what they thought.
                _ => {
                    let healthy = known.is_none_or(|member| member.is_healthy());
                    members.push(Arc::new(Member::new(self, server, address, healthy)));
                }
            }
        }
        members.sort_by_key(|member| (member.server, member.address));
        *self.members.write().unwrap_or_else(PoisonError::into_inner) = members;
        self.publish();
    }

    pub(super) fn member(&self, address: SocketAddr) -> Option<Arc<Member>> {
        self.members().iter().find(|member| member.address == address).cloned()
    }

    /// Sets the gauges from the members' state. Labels are the configured servers, so DNS cannot add any.
    fn publish(&self) {
        let mut available = vec![0_u32; self.servers.len()];
        for member in self.members().iter().filter(|member| member.is_available()) {
            available[member.server] += 1;
        }
        for (identity, available) in self.servers.iter().zip(available) {
            let (upstream, server) = (Arc::clone(&self.upstream), Arc::clone(&identity.name));
            gauge!("weir_upstream_healthy", "upstream" => upstream, "server" => server).set(available);
        }
    }

    pub(super) fn set_healthy(&self, member: &Member, healthy: bool) {
        let Some(cause) = member.change_health(healthy) else {
            return;
        };
        let (upstream, server, address) = (&self.upstream, &member.name, member.address);
        if healthy {
            tracing::info!(%upstream, %server, %address, "server is healthy");
        } else {
            tracing::warn!(%upstream, %server, %address, cause, "server is unhealthy");
        }
        self.publish();
    }

    /// Puts a member that failed too often to rest, unless it is the last one available.
    pub(super) fn eject(&self, member: &Member, ejection: &Ejection, now: Instant) {
        {
            let _ejecting = self.ejecting();
            let members = self.members();
            let mut others = members.iter().filter(|other| other.address != member.address);
            if member.is_resting_at(now) || !others.any(|other| other.is_available_at(now)) {
                return;
            }
            member.rest(now, ejection.rest);
        }
        let (upstream, server) = (Arc::clone(&self.upstream), Arc::clone(&member.name));
        counter!("weir_upstream_ejections_total", "upstream" => upstream, "server" => server).increment(1);
        tracing::warn!(
            upstream = %self.upstream,
            server = %member.name,
            address = %member.address,
            failures = ejection.consecutive_failures,
            rest_ms = ejection.rest.as_millis(),
            "server rests after failing in a row"
        );
        self.publish();
        self.rest_begun.notify_one();
    }

    /// Logs and publishes the ends of rests. Picking does not wait for it: a rest ends by the clock.
    pub(super) async fn end_rests(&self) {
        while self.ejection.is_some() {
            let next = self.members().iter().filter_map(|member| member.resting_until()).min();
            let Some(next) = next else {
                self.rest_begun.notified().await;
                continue;
            };
            sleep_until(next.into()).await;
            let now = Instant::now();
            for member in self.members().iter().filter(|member| member.end_rest(now)) {
                let (upstream, server, address) = (&self.upstream, &member.name, member.address);
                tracing::info!(%upstream, %server, %address, "server takes traffic again after its rest");
            }
            self.publish();
        }
    }
}

impl Identity {
    fn new(upstream: &Upstream, server: &Server) -> Result<Self, Error> {
        let server_name = match &upstream.tls {
            None => None,
            Some(tls) => {
                let host = tls.server_name.clone().unwrap_or_else(|| server.host.to_string());
                let parsed = ServerName::try_from(host.clone());
                let upstream = upstream.name.clone();
                Some(parsed.map_err(|source| Error::ServerName { upstream, host, source })?)
            }
        };
        Ok(Self { name: server.to_string().into(), server_name })
    }
}
