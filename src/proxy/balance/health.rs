//! What an active check asks of a server, on `pingora-load-balancing`'s checks.
//!
//! `tcp` wants a connection; `http` a 2xx final answer to GET, its body read to the end, over HTTP/1.1 or, where the
//! upstream speaks h2 only, over HTTP/2 by prior knowledge. Each check makes a connection of its own and has
//! [`CHECK_TIMEOUT`] for all of it. Where the upstream expects a PROXY header, an `http` check sends the one that says
//! "no client" (PROXY protocol specification, 2.1 `UNKNOWN`, 2.2 `LOCAL`). Through TLS nothing can be asked, because
//! the load balancer is built without a TLS of its own: there an `http` check only connects, and a WARN says so at
//! start.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::header::{HOST, HeaderValue, USER_AGENT};
use http::uri::{PathAndQuery, Scheme, Uri};
use pingora_core::connectors::L4Connect;
use pingora_core::protocols::l4::socket::SocketAddr as BackendAddress;
use pingora_core::protocols::l4::stream::Stream;
use pingora_core::{Error as CheckError, ErrorType, OrErr, Result as CheckResult};
use pingora_load_balancing::Backend;
use pingora_load_balancing::health_check::{HealthCheck, HttpHealthCheck, TcpHealthCheck};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::shared::Shared;
use super::{Error, discovery};
use crate::config::{self, HealthKind, ProxyProtocolOut, Upstream, UpstreamProtocol};

/// For all of one check.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// The check of one group's members.
pub(super) struct Check {
    shared: Arc<Shared>,
    question: Question,
    connect_timeout: Duration,
    healthy_after: usize,
    unhealthy_after: usize,
}

enum Question {
    Tcp(Box<TcpHealthCheck>),
    Http {
        path: PathAndQuery,
        /// Of each configured server.
        hosts: Vec<HeaderValue>,
        http2: bool,
        proxy_header: &'static [u8],
    },
}

impl Check {
    pub(super) fn new(upstream: &Upstream, settings: &config::HealthCheck, shared: Arc<Shared>) -> Result<Self, Error> {
        let connect_timeout = upstream.connect_timeout.min(CHECK_TIMEOUT);
        let question = match &settings.kind {
            HealthKind::Http { path } if upstream.tls.is_none() => http_question(upstream, path, &shared)?,
            HealthKind::Http { .. } => {
                tracing::warn!(
                    upstream = %upstream.name,
                    "health check of kind http is not made through TLS: servers are only connected to"
                );
                tcp_question(connect_timeout)
            }
            HealthKind::Tcp => tcp_question(connect_timeout),
        };
        Ok(Self {
            shared,
            question,
            connect_timeout,
            healthy_after: usize::try_from(settings.healthy_after).unwrap_or(usize::MAX),
            unhealthy_after: usize::try_from(settings.unhealthy_after).unwrap_or(usize::MAX),
        })
    }

    async fn ask(&self, target: &Backend) -> CheckResult<()> {
        let (path, hosts, http2, proxy_header) = match &self.question {
            Question::Tcp(check) => return check.check(target).await,
            Question::Http { path, hosts, http2, proxy_header } => (path, hosts, *http2, *proxy_header),
        };
        let Some((server, _)) = discovery::place(target) else {
            return CheckError::e_explain(ErrorType::InternalError, "target is not of this group");
        };
        // Made anew each time, so that no HTTP/2 connection outlives its check and hides that new ones fail.
        let mut check = HttpHealthCheck::new("", false);
        check.req.insert_header(HOST, &hosts[server])?;
        check.req.insert_header(USER_AGENT, "weir-health-check")?;
        check.req.set_uri(uri(path, &hosts[server], http2)?);
        check.validator = Some(Box::new(|answer| {
            if answer.status.is_success() {
                return Ok(());
            }
            CheckError::e_explain(ErrorType::HTTPStatus(answer.status.as_u16()), "not a 2xx answer")
        }));
        let options = &mut check.peer_template.options;
        options.connection_timeout = Some(self.connect_timeout);
        options.read_timeout = Some(CHECK_TIMEOUT);
        options.write_timeout = Some(CHECK_TIMEOUT);
        if http2 {
            options.set_http_version(2, 2);
        }
        if !proxy_header.is_empty() {
            let connect_timeout = self.connect_timeout;
            options.custom_l4 = Some(Arc::new(Announced { proxy_header, connect_timeout }));
        }
        check.check(target).await
    }
}

#[async_trait]
impl HealthCheck for Check {
    async fn check(&self, target: &Backend) -> CheckResult<()> {
        let outcome = match tokio::time::timeout(CHECK_TIMEOUT, self.ask(target)).await {
            Ok(outcome) => outcome,
            Err(_) => CheckError::e_explain(ErrorType::ReadTimedout, "check not over in time"),
        };
        if let Err(error) = &outcome
            && let Some((_, address)) = discovery::place(target)
            && let Some(member) = self.shared.member(address)
        {
            member.note_check_failure(error.to_string());
        }
        outcome
    }

    async fn health_status_change(&self, target: &Backend, healthy: bool) {
        let Some((_, address)) = discovery::place(target) else {
            return;
        };
        let Some(member) = self.shared.member(address) else {
            return;
        };
        self.shared.set_healthy(&member, healthy);
    }

    fn backend_summary(&self, target: &Backend) -> String {
        format!("upstream {} server {}", self.shared.upstream, target.addr)
    }

    fn health_threshold(&self, success: bool) -> usize {
        if success { self.healthy_after } else { self.unhealthy_after }
    }
}

fn tcp_question(connect_timeout: Duration) -> Question {
    let mut check = TcpHealthCheck::new();
    check.peer_template.options.connection_timeout = Some(connect_timeout);
    Question::Tcp(check)
}

fn http_question(upstream: &Upstream, path: &str, shared: &Shared) -> Result<Question, Error> {
    let path = path.parse().map_err(|source| Error::HealthPath {
        upstream: upstream.name.clone(),
        path: path.to_owned(),
        source,
    })?;
    let mut hosts = Vec::with_capacity(shared.servers.len());
    for identity in &shared.servers {
        let host = HeaderValue::from_str(&identity.name).map_err(|source| Error::HealthHost {
            upstream: upstream.name.clone(),
            server: identity.name.to_string(),
            source,
        })?;
        hosts.push(host);
    }
    let proxy_header: &[u8] = match upstream.proxy_protocol {
        ProxyProtocolOut::Off => b"",
        ProxyProtocolOut::V1 => b"PROXY UNKNOWN\r\n",
        ProxyProtocolOut::V2 => b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00",
    };
    Ok(Question::Http { path, hosts, http2: upstream.protocol == UpstreamProtocol::H2, proxy_header })
}

/// HTTP/2 has the authority in the URI.
fn uri(path: &PathAndQuery, host: &HeaderValue, http2: bool) -> CheckResult<Uri> {
    let mut uri = Uri::builder().path_and_query(path.clone());
    if http2 {
        uri = uri.scheme(Scheme::HTTP).authority(host.as_bytes());
    }
    uri.build().or_err(ErrorType::InvalidHTTPHeader, "URI of the check")
}

/// Connects and sends a PROXY header first.
#[derive(Debug)]
struct Announced {
    proxy_header: &'static [u8],
    connect_timeout: Duration,
}

#[async_trait]
impl L4Connect for Announced {
    async fn connect(&self, address: &BackendAddress) -> CheckResult<Stream> {
        let Some(address) = address.as_inet() else {
            return CheckError::e_explain(ErrorType::InternalError, "not an internet address");
        };
        let connected = tokio::time::timeout(self.connect_timeout, TcpStream::connect(address)).await;
        let connected = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let mut stream = connected.or_err(ErrorType::ConnectError, "connecting")?;
        let sent = stream.write_all(self.proxy_header).await;
        sent.or_err(ErrorType::WriteError, "sending the PROXY header")?;
        Ok(Stream::from(stream))
    }
}
