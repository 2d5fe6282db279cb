//! The operator's listener: health, metrics, live sessions, the configuration in force.
//!
//! | path | answer |
//! |---|---|
//! | `/livez` | 200 while the process runs |
//! | `/readyz` | 200, or 503 with the reason while draining or while the journal cannot write; a second line while the sink is down |
//! | `/metrics` | Prometheus text |
//! | `/sessions?limit=N` | the open sessions that moved most, JSON, at most 1,000 |
//! | `/config` | the configuration in force, secrets redacted, JSON |
//! | `POST /reload` | reads the configuration file again |

use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tracing::debug;

use crate::proxy::Node;
use crate::sink::Status;

/// Connections served at once; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 64;
/// A client that says nothing for this long is let go.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Sessions listed when nothing is said.
const SESSIONS_DEFAULT: usize = 50;
/// Most sessions listed.
const SESSIONS_MAX: usize = 1000;

/// What the answers come from.
pub struct Admin {
    /// Sessions, configuration, state.
    pub node: Arc<Node>,
    /// How the sink is.
    pub sink: Arc<Status>,
    /// Metrics.
    pub prometheus: PrometheusHandle,
    /// Asks for a reload.
    pub reload: mpsc::Sender<()>,
}

/// Serves until its runtime ends.
pub async fn serve(listener: TcpListener, admin: Arc<Admin>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                debug!(%error, "admin accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let admin = admin.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let response = answer(&admin, &request);
                async { Ok::<_, Infallible>(response) }
            });
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            if let Err(error) = served {
                debug!(%error, "admin connection");
            }
            drop(place);
        });
    }
}

fn answer(admin: &Admin, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    match (request.uri().path(), is_read) {
        ("/livez", true) => text(StatusCode::OK, "alive\n"),
        ("/readyz", true) => readiness(&admin.node, &admin.sink),
        ("/metrics", true) => {
            admin.prometheus.run_upkeep();
            typed(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", admin.prometheus.render())
        }
        ("/sessions", true) => {
            let asked =
                request.uri().query().and_then(|query| query.split('&').find_map(|pair| pair.strip_prefix("limit=")));
            let limit = asked.and_then(|limit| limit.parse().ok()).unwrap_or(SESSIONS_DEFAULT).min(SESSIONS_MAX);
            let sessions = admin.node.sessions.largest(limit);
            json(&serde_json::json!({ "open": admin.node.sessions.len(), "sessions": sessions }))
        }
        ("/config", true) => json(&admin.node.setup().config.redacted()),
        ("/reload", false) if request.method() == Method::POST => match admin.reload.try_send(()) {
            Ok(()) | Err(mpsc::error::TrySendError::Full(())) => {
                text(StatusCode::ACCEPTED, "see the log for what changed\n")
            }
            Err(mpsc::error::TrySendError::Closed(())) => text(StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
        },
        ("/livez" | "/readyz" | "/metrics" | "/sessions" | "/config" | "/reload", _) => {
            text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n")
        }
        _ => text(StatusCode::NOT_FOUND, "/livez /readyz /metrics /sessions /config\n"),
    }
}

fn readiness(node: &Node, sink: &Status) -> Response<Full<Bytes>> {
    if node.is_draining() {
        return text(StatusCode::SERVICE_UNAVAILABLE, "draining\n");
    }
    // A sink that is down turns nobody away: records wait in the journal, and only when that is full something must happen.
    let sink_state = match sink.down() {
        Some((seconds, why)) => format!("the sink takes no records for {seconds} s, they wait in the journal: {why}\n"),
        None => String::new(),
    };
    let (status, state) = match (node.journal_ready(), node.is_accepting()) {
        (true, _) if node.journal_folding() => {
            (StatusCode::OK, "ready; the journal is nearly full: requests are summed up by account, no byte is lost")
        }
        (true, _) => (StatusCode::OK, "ready"),
        (false, true) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "the journal cannot be written: sessions are served, what has no record is stated in a gap record, in bytes",
        ),
        (false, false) => {
            (StatusCode::SERVICE_UNAVAILABLE, "the journal cannot be written: new sessions are turned away")
        }
    };
    typed(status, "text/plain; charset=utf-8", format!("{state}\n{sink_state}"))
}

fn json(value: &serde_json::Value) -> Response<Full<Bytes>> {
    typed(StatusCode::OK, "application/json", format!("{value}\n"))
}

fn text(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    typed(status, "text/plain; charset=utf-8", text.to_owned())
}

fn typed(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// `weir health`: asks a running process whether it is ready. For containers that hold no shell.
pub fn health(address: SocketAddr) -> anyhow::Result<()> {
    let timeout = Duration::from_secs(3);
    let mut stream =
        TcpStream::connect_timeout(&address, timeout).with_context(|| format!("nothing answers on {address}"))?;
    stream.set_read_timeout(Some(timeout))?;
    write!(stream, "GET /readyz HTTP/1.0\r\nhost: weir\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(4096).read_to_string(&mut answer)?;
    if answer.split(' ').nth(1) == Some("200") {
        return Ok(());
    }
    bail!("{address} is not ready: {}", answer.lines().last().unwrap_or("no answer"));
}
