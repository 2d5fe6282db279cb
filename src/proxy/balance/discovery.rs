//! Which addresses the configured servers have: literal ones as they are, names by the system's resolver.
//!
//! A name keeps its last good answer when a lookup fails; one WARN when it begins to fail, one INFO when its answer
//! changes. At most [`ADDRESSES_MAX`] addresses per name are used, the lowest ones. Of addresses in two families, those
//! of a family that this host has no route for are left out.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use pingora_core::protocols::l4::socket::SocketAddr as BackendAddress;
use pingora_load_balancing::discovery::ServiceDiscovery;
use pingora_load_balancing::{Backend, Extensions};
use tokio::task::JoinSet;

use crate::config::{Server, ServerHost};

/// Addresses used of one name.
const ADDRESSES_MAX: usize = 64;
/// How long one lookup may take.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// Position of the server in the configuration.
#[derive(Clone, Copy)]
struct Position(usize);

/// An address as the load balancer knows it.
pub(super) fn backend(server: usize, address: SocketAddr) -> Backend {
    let mut ext = Extensions::new();
    ext.insert(Position(server));
    Backend { addr: BackendAddress::Inet(address), weight: 1, ext }
}

/// The server and the address of what [`backend`] made.
pub(super) fn place(backend: &Backend) -> Option<(usize, SocketAddr)> {
    let Position(server) = backend.ext.get().copied()?;
    Some((server, *backend.addr.as_inet()?))
}

/// The configured servers and what their names last resolved to.
pub(super) struct Names {
    upstream: Arc<str>,
    servers: Vec<Server>,
    answers: Mutex<Vec<Answer>>,
}

#[derive(Default)]
struct Answer {
    addresses: BTreeSet<SocketAddr>,
    failing: bool,
}

impl Names {
    pub(super) fn new(upstream: Arc<str>, servers: Vec<Server>) -> Self {
        let literal = |server: &Server| match server.host {
            ServerHost::Ip(ip) => BTreeSet::from([SocketAddr::new(ip, server.port)]),
            ServerHost::Name(_) => BTreeSet::new(),
        };
        let answers = servers.iter().map(|server| Answer { addresses: literal(server), failing: false });
        let answers = Mutex::new(answers.collect());
        Self { upstream, servers, answers }
    }

    /// Whether there is any name to resolve.
    pub(super) fn any(&self) -> bool {
        self.named().next().is_some()
    }

    /// Whether some name has never resolved.
    pub(super) fn unresolved(&self) -> bool {
        self.answers().iter().any(|answer| answer.addresses.is_empty())
    }

    /// Every address known now. Of servers with the same address the first has it.
    pub(super) fn backends(&self) -> BTreeSet<Backend> {
        let mut backends = BTreeSet::new();
        for (server, answer) in self.answers().iter().enumerate() {
            for &address in &answer.addresses {
                // An equal one that is already there stays.
                backends.insert(backend(server, address));
            }
        }
        backends
    }

    fn named(&self) -> impl Iterator<Item = (usize, &str, u16)> {
        self.servers.iter().enumerate().filter_map(|(server, configured)| match &configured.host {
            ServerHost::Name(name) => Some((server, name.as_str(), configured.port)),
            ServerHost::Ip(_) => None,
        })
    }

    fn answers(&self) -> MutexGuard<'_, Vec<Answer>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over the outcome of one lookup.
    pub(super) fn apply(&self, server: usize, outcome: io::Result<Vec<SocketAddr>>) {
        let (upstream, name) = (&self.upstream, &self.servers[server]);
        let answer = &mut self.answers()[server];
        let found = outcome.and_then(|found| {
            if found.is_empty() { Err(io::Error::new(io::ErrorKind::NotFound, "no addresses")) } else { Ok(found) }
        });
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                if !answer.failing {
                    let kept = answer.addresses.len();
                    tracing::warn!(%upstream, server = %name, %error, kept, "name does not resolve");
                }
                answer.failing = true;
                return;
            }
        };
        let found: BTreeSet<SocketAddr> = found.into_iter().collect();
        let unused = found.len().saturating_sub(ADDRESSES_MAX);
        let addresses: BTreeSet<SocketAddr> = found.into_iter().take(ADDRESSES_MAX).collect();
        if answer.failing || answer.addresses != addresses {
            tracing::info!(%upstream, server = %name, ?addresses, unused, "name resolved");
        }
        *answer = Answer { addresses, failing: false };
    }
}

/// The load balancer's view of [`Names`]: asking it looks up every name.
pub(super) struct Discovery(pub(super) Arc<Names>);

#[async_trait]
impl ServiceDiscovery for Discovery {
    async fn discover(&self) -> pingora_core::Result<(BTreeSet<Backend>, HashMap<u64, bool>)> {
        let mut lookups = JoinSet::new();
        for (server, name, port) in self.0.named() {
            let name = name.to_owned();
            lookups.spawn(async move { (server, lookup(&name, port).await) });
        }
        while let Some(ended) = lookups.join_next().await {
            match ended {
                Ok((server, outcome)) => self.0.apply(server, outcome),
                Err(error) => {
                    tracing::error!(upstream = %self.0.upstream, %error, "lookup ended early")
                }
            }
        }
        Ok((self.0.backends(), HashMap::new()))
    }
}

async fn lookup(name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let lookup = tokio::net::lookup_host((name, port));
    let Ok(found) = tokio::time::timeout(LOOKUP_TIMEOUT, lookup).await else {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time"));
    };
    Ok(reachable(found?.collect(), has_route))
}

/// Those with a route, or all when none has: then the connect says why.
pub(super) fn reachable(found: Vec<SocketAddr>, has_route: impl Fn(SocketAddr) -> bool) -> Vec<SocketAddr> {
    let one_family = found.iter().all(SocketAddr::is_ipv4) || found.iter().all(SocketAddr::is_ipv6);
    if one_family {
        return found;
    }
    let routed: Vec<SocketAddr> = found.iter().copied().filter(|&address| has_route(address)).collect();
    if routed.is_empty() { found } else { routed }
}

/// Connecting a datagram socket asks the kernel for a route and sends nothing.
fn has_route(address: SocketAddr) -> bool {
    let local: SocketAddr = match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    UdpSocket::bind(local).and_then(|socket| socket.connect(address)).is_ok()
}
