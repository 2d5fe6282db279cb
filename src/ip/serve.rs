//! `weir ip serve`: the table as a service.
//!
//! | path | answer |
//! |---|---|
//! | `GET /v1/snapshots` | the table in use, its sources with licence and age, and the snapshots kept |
//! | `GET /v1/ip/{ip}` | what is known of an address |
//! | `POST /v1/ip:batch` | an address a line in, NDJSON out in the same order; at most 10,000 lines and 1 MiB |
//! | `POST /v1/screen` | `{"ip":…,"account":…,"at":…}` → what the rules say |
//! | … `?as_of=TIME` on these three | the same from the snapshot that was in use then, if it was kept; rules judge by that time |
//! | `GET /openapi.json` | this, for machines; without a token |
//!
//! `ETag` is the table's id: whoever has it is answered 304. With `--tokens` every request needs one of them as bearer;
//! only hashes of them are kept. Unknown is `null` with 200, a text that is no address 400. The plan's files are followed
//! on a thread; a table that fails its checks is not used. Of the past one table at a time is in memory: whoever asks for
//! another waits until it is read.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, Semaphore};
use weir_geoip::{Live, Outcome, Plan, Reloader, Table, kept, snapshot};

use super::{Knowledge, judge, print, query, stdin};
use crate::screening::Screen;

const CONNECTIONS_MAX: usize = 1_024;
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
const BATCH_BYTES_MAX: usize = 1 << 20;
const BATCH_LINES_MAX: usize = 10_000;
const SCREEN_BYTES_MAX: usize = 4_096;
/// How often the plan's files are looked at.
const LOOK: Duration = Duration::from_secs(1);
const OPENAPI: &str = include_str!("openapi.json");

struct Service {
    plan: Plan,
    live: Arc<Live>,
    /// The table of the past that was asked for last, and its file.
    past: Mutex<Option<(PathBuf, Arc<Table>)>>,
    screen: Option<Screen>,
    /// Hashes; empty: everybody may ask. Comparing two takes the same time whatever they are.
    tokens: Vec<blake3::Hash>,
}

/// Serves until the process is ended.
pub(super) fn run(knowledge: Knowledge, listen: SocketAddr, tokens: Option<&Path>) -> anyhow::Result<()> {
    let tokens = tokens.map(read_tokens).transpose()?.unwrap_or_default();
    let Knowledge { plan, table, screen } = knowledge;
    weir_geoip::check(&plan, &table, None)?;
    let live = Arc::new(Live::new(table));
    let mut reloader = Reloader::new(plan.clone(), live.clone());
    std::thread::Builder::new().name("geoip".to_owned()).spawn(move || {
        loop {
            match reloader.check(SystemTime::now(), false) {
                Outcome::Unchanged | Outcome::Same => {}
                Outcome::Swapped { table, .. } => eprintln!("weir: snapshot {} is in use", table.id()),
                Outcome::Refused(error) => eprintln!("weir: {:#}", anyhow::Error::from(error)),
            }
            if let Some(error) = reloader.keep_error() {
                eprintln!("weir: {:#}", anyhow::Error::from(error));
            }
            std::thread::sleep(LOOK);
        }
    })?;
    let service = Arc::new(Service { plan, live, past: Mutex::new(None), screen, tokens });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
        println!("listening on http://{}", listener.local_addr()?);
        accept(listener, service).await;
        Ok(())
    })
}

fn read_tokens(path: &Path) -> anyhow::Result<Vec<blake3::Hash>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let tokens = text.lines().map(str::trim).filter(|token| !token.is_empty() && !token.starts_with('#'));
    let tokens: Vec<blake3::Hash> = tokens.map(|token| blake3::hash(token.as_bytes())).collect();
    // An empty file must not open the service to everybody.
    anyhow::ensure!(!tokens.is_empty(), "{} holds no token", path.display());
    Ok(tokens)
}

async fn accept(listener: TcpListener, service: Arc<Service>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let service = service.clone();
        tokio::spawn(async move {
            let answering = service_fn(|request| {
                let service = service.clone();
                async move { Ok::<_, Infallible>(service.answer(request).await) }
            });
            // A client that goes away is its own affair.
            http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .serve_connection(TokioIo::new(stream), answering)
                .await
                .ok();
            drop(place);
        });
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ScreenQuestion {
    ip: IpAddr,
    /// Whose traffic; else that of the table.
    #[serde(default)]
    account: String,
    /// When; else the time of the table.
    #[serde(default)]
    at: Option<String>,
}

impl Service {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path().to_owned();
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        let is_post = *request.method() == Method::POST;
        if path == "/openapi.json" && is_read {
            return typed(StatusCode::OK, "application/json", OPENAPI);
        }
        if !self.may_ask(request.headers()) {
            let mut response = problem(StatusCode::UNAUTHORIZED, "a bearer token is needed");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            return response;
        }
        let Ok(as_of) = query::as_of(request.uri().query().unwrap_or_default()) else {
            return problem(StatusCode::BAD_REQUEST, "the only parameter is as_of, a time like 2026-01-31T12:00:00Z");
        };
        // One table for the whole answer.
        let table = match as_of {
            None => self.live.table(),
            Some(_) if path == "/v1/snapshots" => return problem(StatusCode::BAD_REQUEST, "this takes no parameter"),
            Some(at) => match self.past(at).await {
                Ok(Some(table)) => table,
                Ok(None) => return problem(StatusCode::NOT_FOUND, "no snapshot of that time was kept"),
                Err(error) => {
                    eprintln!("weir: {error:#}");
                    return problem(StatusCode::INTERNAL_SERVER_ERROR, "the snapshot of that time cannot be read");
                }
            },
        };
        let at = as_of.unwrap_or_else(SystemTime::now);
        let tag = format!("\"{}\"", table.id());
        let unchanged = is_read
            && request.headers().get_all(header::IF_NONE_MATCH).iter().any(|known| known.as_bytes() == tag.as_bytes());
        let mut response = match (path.strip_prefix("/v1/ip/"), path.as_str()) {
            (Some(text), _) if is_read => {
                match query::decoded(text).and_then(|text| Some((text.parse().ok()?, text))) {
                    Some(_) if unchanged => empty(StatusCode::NOT_MODIFIED),
                    Some((address, text)) => self.one(&table, &text, address, at),
                    None => problem(StatusCode::BAD_REQUEST, "the path does not end with an address"),
                }
            }
            (_, "/v1/snapshots") if is_read && unchanged => empty(StatusCode::NOT_MODIFIED),
            (_, "/v1/snapshots") if is_read => self.snapshots(&table),
            (_, "/v1/ip:batch") if is_post => match body(request, BATCH_BYTES_MAX).await {
                Ok(lines) => self.batch(&table, &lines, at),
                Err(response) => return response,
            },
            (_, "/v1/screen") if is_post => match body(request, SCREEN_BYTES_MAX).await {
                Ok(question) => self.screen(&table, &question, at),
                Err(response) => return response,
            },
            (Some(_), _) | (_, "/v1/snapshots" | "/v1/ip:batch" | "/v1/screen" | "/openapi.json") => {
                return problem(StatusCode::METHOD_NOT_ALLOWED, "see /openapi.json");
            }
            _ => return problem(StatusCode::NOT_FOUND, "see /openapi.json"),
        };
        if let Ok(tag) = HeaderValue::from_str(&tag) {
            response.headers_mut().insert(header::ETAG, tag);
        }
        response
    }

    fn may_ask(&self, headers: &HeaderMap) -> bool {
        let given = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
        let token = given
            .and_then(|given| given.split_at_checked(7))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"Bearer "));
        self.tokens.is_empty()
            || token.is_some_and(|(_, token)| self.tokens.contains(&blake3::hash(token.trim_ascii())))
    }

    /// The table that was in use at a time, if it was kept.
    async fn past(&self, at: SystemTime) -> anyhow::Result<Option<Arc<Table>>> {
        let Some(directory) = self.plan.keep.clone() else { return Ok(None) };
        let mut past = self.past.lock().await;
        let Some(kept) = tokio::task::spawn_blocking(move || kept::used(&directory, at)).await?? else {
            return Ok(None);
        };
        if let Some((path, table)) = &*past
            && *path == kept.path
        {
            return Ok(Some(table.clone()));
        }
        let path = kept.path.clone();
        let table = Arc::new(tokio::task::spawn_blocking(move || snapshot::read(&path, None)).await??);
        *past = Some((kept.path, table.clone()));
        Ok(Some(table))
    }

    fn one(&self, table: &Table, text: &str, address: IpAddr, at: SystemTime) -> Response<Full<Bytes>> {
        let mut line = Vec::new();
        print::json_line(&mut line, text, address, &print::json_tail(table, self.screen.as_ref(), address, at));
        typed(StatusCode::OK, "application/json", line)
    }

    fn batch(&self, table: &Table, lines: &[u8], at: SystemTime) -> Response<Full<Bytes>> {
        let lines = || lines.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty());
        if lines().count() > BATCH_LINES_MAX {
            return problem(StatusCode::PAYLOAD_TOO_LARGE, "at most 10000 lines");
        }
        let mut out = Vec::new();
        for line in lines() {
            let text = std::str::from_utf8(line).unwrap_or("").trim_matches('"');
            match text.parse() {
                Ok(address) => {
                    print::json_line(
                        &mut out,
                        text,
                        address,
                        &print::json_tail(table, self.screen.as_ref(), address, at),
                    );
                }
                Err(_) => stdin::invalid(&mut out, line),
            }
        }
        typed(StatusCode::OK, "application/x-ndjson", out)
    }

    fn snapshots(&self, table: &Table) -> Response<Full<Bytes>> {
        let kept = self.plan.keep.as_deref().map(kept::list).transpose();
        let Ok(kept) = kept else {
            return problem(StatusCode::INTERNAL_SERVER_ERROR, "the kept snapshots cannot be read");
        };
        let kept: Vec<Value> = kept
            .unwrap_or_default()
            .iter()
            .map(|kept| json!({ "id": kept.id, "valid_from": kept.valid_from, "keep_days_max": kept.days_max }))
            .collect();
        let current = json!({
            "id": table.id(), "geo_epoch": table.geo_epoch(), "accounts_version": table.accounts_version(),
            "records": table.records(), "valid_from": table.facts().valid_from, "sources": print::sources(table, SystemTime::now()),
        });
        typed(StatusCode::OK, "application/json", format!("{}\n", json!({ "current": current, "kept": kept })))
    }

    fn screen(&self, table: &Table, question: &[u8], as_of: SystemTime) -> Response<Full<Bytes>> {
        let Ok(question) = serde_json::from_slice::<ScreenQuestion>(question) else {
            return problem(StatusCode::BAD_REQUEST, "a question is {\"ip\":…,\"account\":…,\"at\":…}");
        };
        let at = match question.at.as_deref().map(super::time).transpose() {
            Ok(at) => at.unwrap_or(as_of),
            Err(_) => return problem(StatusCode::BAD_REQUEST, "at is no time"),
        };
        let record = table.of(question.ip);
        let ruling = judge(self.screen.as_ref(), &record, &question.account, at);
        let (verdict, rule) = ruling
            .as_ref()
            .map_or((Value::Null, ""), |ruling| (Value::from(print::verdict(ruling.verdict)), &*ruling.rule));
        let answer = json!({
            "ip": question.ip, "verdict": verdict, "rule": rule, "country": record.country(), "region": record.region(),
            "snapshot": table.id(),
        });
        typed(StatusCode::OK, "application/json", format!("{answer}\n"))
    }
}

/// The whole body, if it comes in time and is not too long.
async fn body(request: Request<Incoming>, bytes_max: usize) -> Result<Bytes, Response<Full<Bytes>>> {
    let reading = Limited::new(request.into_body(), bytes_max).collect();
    match tokio::time::timeout(BODY_TIMEOUT, reading).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(_)) => Err(problem(StatusCode::PAYLOAD_TOO_LARGE, "the body is too long, or did not arrive")),
        Err(_) => Err(problem(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time")),
    }
}

fn empty(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

fn typed(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// RFC 9457.
fn problem(status: StatusCode, detail: &str) -> Response<Full<Bytes>> {
    let title = status.canonical_reason().unwrap_or("error");
    let body = json!({ "status": status.as_u16(), "title": title, "detail": detail });
    typed(status, "application/problem+json", format!("{body}\n"))
}
