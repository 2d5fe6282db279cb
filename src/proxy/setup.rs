//! A configuration made ready to serve: certificates loaded, servers known, names interned.

use std::sync::Arc;

use super::balance::Group;
use super::tls::{self, CertificateStore};
use crate::attribution::Attributor;
use crate::config::{Config, Listener, Upstream, UpstreamProtocol};

/// Everything that a connection or a request looks up.
pub struct Setup {
    /// As configured.
    pub config: Arc<Config>,
    /// In the order of the configuration.
    pub listeners: Vec<Arc<ListenerSetup>>,
    /// In the order of the configuration.
    pub upstreams: Vec<Arc<UpstreamSetup>>,
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
    /// Reads certificates; does not open sockets.
    pub fn new(config: Config) -> Result<Self, Error> {
        let config = Arc::new(config);
        let listeners =
            config.listeners.iter().map(|listener| Self::listener(&config, listener)).collect::<Result<_, _>>()?;
        let upstreams = config.upstreams.iter().map(Self::upstream).collect::<Result<_, _>>()?;
        Ok(Self { config, listeners, upstreams })
    }

    /// The listener of this name.
    pub fn listener_named(&self, name: &str) -> Option<&Arc<ListenerSetup>> {
        self.listeners.iter().find(|listener| &*listener.name == name)
    }

    fn listener(config: &Config, listener: &Listener) -> Result<Arc<ListenerSetup>, Error> {
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
            &listener.name,
            &listener.routes,
            listener.account.as_deref(),
            listener.endpoint.as_deref(),
        );
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
