//! A configuration made ready to serve: certificates loaded, servers known, names interned.

use std::sync::Arc;

use super::balance::Group;
use super::tls::{self, CertificateStore};
use crate::attribution::{self, Attributor, LiveTable};
use crate::config::{Config, Listener, Upstream, UpstreamProtocol};
use crate::privacy::{self, Privacy};
use crate::screening::Screen;

/// Everything that a connection or a request looks up.
pub struct Setup {
    /// As configured.
    pub config: Arc<Config>,
    /// In the order of the configuration.
    pub listeners: Vec<Arc<ListenerSetup>>,
    /// In the order of the configuration.
    pub upstreams: Vec<Arc<UpstreamSetup>>,
    /// Tables of accounts, which follow their files.
    pub account_tables: Vec<Arc<LiveTable>>,
    /// What follows from where traffic comes from.
    pub screen: Screen,
    /// What is kept of addresses.
    pub privacy: Privacy,
}

/// One listener.
pub struct ListenerSetup {
    /// As configured.
    pub config: Listener,
    /// Its name, shared by every record.
    pub name: Arc<str>,
    /// Where TLS is terminated.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// The certificates behind `tls`, reloadable.
    pub certificates: Option<Arc<CertificateStore>>,
    /// Who is billed.
    pub attributor: Attributor,
}

/// One upstream.
pub struct UpstreamSetup {
    /// As configured.
    pub config: Upstream,
    /// Its servers.
    pub group: Arc<Group>,
    /// Where TLS is spoken to them.
    pub tls: Option<Arc<rustls::ClientConfig>>,
}

/// What cannot be made ready.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Certificates or keys.
    #[error("listener {listener}")]
    ListenerTls {
        /// Its name.
        listener: String,
        /// Why; boxed, for it is large.
        source: Box<tls::Error>,
    },
    /// Authorities or our own certificate.
    #[error("upstream {upstream}")]
    UpstreamTls {
        /// Its name.
        upstream: String,
        /// Why; boxed, for it is large.
        source: Box<tls::Error>,
    },
    /// A table of accounts.
    #[error("account table {table}")]
    AccountTable {
        /// Its name.
        table: String,
        /// Why.
        source: attribution::Error,
    },
    /// The rules of attribution.
    #[error("attribution")]
    Attribution(#[from] attribution::NoRandomness),
    /// What is kept of addresses.
    #[error("privacy")]
    Privacy(#[from] privacy::Error),
    /// Servers.
    #[error("upstream {upstream}")]
    Upstream {
        /// Its name.
        upstream: String,
        /// Why.
        source: super::balance::Error,
    },
}

impl Setup {
    /// Reads certificates, tables of accounts and keys; does not open sockets and writes nothing.
    pub fn new(config: Config) -> Result<Self, Error> {
        Self::after(config, &[])
    }

    /// As [`Setup::new`], with the tables that the one before has and goes on following: a large one is not read again because
    /// something else changed.
    pub fn after(config: Config, before: &[Arc<LiveTable>]) -> Result<Self, Error> {
        let config = Arc::new(config);
        let table = |table: &crate::config::AccountTable| {
            if let Some(known) = before.iter().find(|known| known.is_of(table)) {
                return Ok(known.clone());
            }
            let loaded = LiveTable::load(table);
            loaded.map(Arc::new).map_err(|source| Error::AccountTable { table: table.name.clone(), source })
        };
        let account_tables = config.account_tables.iter().map(table).collect::<Result<Vec<_>, _>>()?;
        let listener = |listener| Self::listener(&config, listener, &account_tables);
        let listeners = config.listeners.iter().map(listener).collect::<Result<_, _>>()?;
        let upstreams = config.upstreams.iter().map(Self::upstream).collect::<Result<_, _>>()?;
        let screen = Screen::new(&config.screening);
        let privacy = Privacy::new(&config.privacy)?;
        Ok(Self { config, listeners, upstreams, account_tables, screen, privacy })
    }

    /// The listener of this name.
    pub fn listener_named(&self, name: &str) -> Option<&Arc<ListenerSetup>> {
        self.listeners.iter().find(|listener| &*listener.name == name)
    }

    fn listener(config: &Config, listener: &Listener, tables: &[Arc<LiveTable>]) -> Result<Arc<ListenerSetup>, Error> {
        let failed = |source| Error::ListenerTls { listener: listener.name.clone(), source: Box::new(source) };
        let certificates = match &listener.tls {
            Some(tls) => Some(Arc::new(CertificateStore::load(&tls.certificates).map_err(failed)?)),
            None => None,
        };
        let tls = match (&listener.tls, &certificates) {
            (Some(tls), Some(store)) => {
                Some(tls::server_config(tls, store.clone(), listener.kind, listener.http2).map_err(failed)?)
            }
            _ => None,
        };
        let attributor = Attributor::new(
            &config.attribution,
            tables,
            &listener.name,
            &listener.routes,
            listener.account.as_deref(),
            listener.endpoint.as_deref(),
        )?;
        let name = Arc::from(listener.name.as_str());
        Ok(Arc::new(ListenerSetup { config: listener.clone(), name, tls, certificates, attributor }))
    }

    fn upstream(upstream: &Upstream) -> Result<Arc<UpstreamSetup>, Error> {
        let tls =
            match &upstream.tls {
                Some(tls) => Some(tls::client_config(tls, upstream.protocol).map_err(|source| Error::UpstreamTls {
                    upstream: upstream.name.clone(),
                    source: Box::new(source),
                })?),
                None => None,
            };
        let group =
            Group::new(upstream).map_err(|source| Error::Upstream { upstream: upstream.name.clone(), source })?;
        Ok(Arc::new(UpstreamSetup { config: upstream.clone(), group: Arc::new(group), tls }))
    }
}

impl UpstreamSetup {
    /// Whether HTTP/2 is spoken by prior knowledge, for a request that is or is not gRPC.
    pub fn prior_knowledge_h2(&self, grpc: bool) -> bool {
        match self.config.protocol {
            UpstreamProtocol::H2 => true,
            UpstreamProtocol::H1 => false,
            UpstreamProtocol::Auto => grpc && self.tls.is_none(),
        }
    }
}
