//! What stands before every route: limits, who looks, and the headers that keep browsers from doing harm.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use tracing::error;

use super::accesses::Shown;
use super::viewer::{self, Viewer};
use super::{Portal, Problem};
use crate::metrics::metrics;
use crate::store::Access;

/// Path and query.
const URL_BYTES_MAX: usize = 8 << 10;
/// So much of a path and of a query is written down.
const QUERY_CHARS_MAX: usize = 2048;

/// Who is at the other end of the connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) SocketAddr);

/// Of every answer. A page has its own files and nothing else; nobody else shows it inside of theirs.
const HEADERS: [(HeaderName, &str); 6] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; connect-src 'self'; \
         form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// Whether this is there for everybody.
fn is_open(portal: &Portal, request: &Request) -> bool {
    let path = request.uri().path();
    match path {
        "/livez" | "/readyz" | "/openapi.json" | "/login" | "/logout" => true,
        // A proxy in front makes everybody look as if they were on this machine.
        "/metrics" => {
            portal.settings.listen.is_some_and(|listen| listen.ip().is_loopback())
                && !request.headers().contains_key("x-forwarded-for")
                && !request.headers().contains_key(header::FORWARDED)
        }
        _ => path.starts_with("/login/") || path.starts_with("/static/"),
    }
}

/// Whether a browser asks, for a page.
pub(super) fn wants_page(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    accept.is_some_and(|accept| accept.contains("text/html"))
}

/// Around every route.
pub(super) async fn guard(State(portal): State<Arc<Portal>>, request: Request, next: Next) -> Response {
    let mut response = match admitted(&portal, request, next).await {
        Ok(response) => response,
        Err(problem) => problem.into_response(),
    };
    let class = ["", "1xx", "2xx", "3xx", "4xx", "5xx"][usize::from(response.status().as_u16() / 100).min(5)];
    metrics::counter!("weir_portal_requests_total", "status" => class).increment(1);
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    if portal.settings.tls.is_some() {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000"));
    }
    response
}

/// What is written down of a request that is answered for long: its end is another entry.
pub(super) struct Entry(Access);

impl Entry {
    /// So many rows were shown.
    pub(super) async fn ended(mut self, portal: &Portal, rows: i64) {
        (self.0.at_us, self.0.rows) = (now_us(), rows);
        if let Err(problem) = portal.accesses.note(self.0).await {
            error!(rows, "the end of an export is not written down: {}", problem.detail);
        }
    }
}

impl FromRequestParts<Arc<Portal>> for Entry {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Portal>) -> Result<Self, Problem> {
        let access = parts.extensions.get::<Access>().cloned();
        access.map(Self).ok_or_else(|| Problem::unauthorised("a token is needed"))
    }
}

/// Before it is known how it is answered.
fn access(viewer: &Viewer, request: &Request) -> Access {
    // A NUL is nothing that PostgreSQL takes; in an URL it can only stand as %00.
    let text = |text: &str| text.chars().filter(|c| *c != '\0').take(QUERY_CHARS_MAX).collect::<String>();
    // What the archive is asked can name anybody: it stands in the archive's own log, where addresses are hidden, and not here.
    let is_of_archive =
        ["/v1/query", "/v1/reports/", "/archive"].iter().any(|path| request.uri().path().starts_with(path));
    let query = if is_of_archive { "" } else { request.uri().query().unwrap_or_default() };
    Access {
        at_us: now_us(),
        subject: viewer.subject.clone(),
        scope: viewer.scope.name().to_owned(),
        account: viewer.account.clone().unwrap_or_default(),
        path: text(request.uri().path()),
        query: text(query),
        status: 0,
        rows: 0,
    }
}

async fn admitted(portal: &Arc<Portal>, mut request: Request, next: Next) -> Result<Response, Problem> {
    if request.uri().path_and_query().is_some_and(|url| url.as_str().len() > URL_BYTES_MAX) {
        return Err(Problem::new(StatusCode::URI_TOO_LONG, "the URL is too long: at most 8 KiB"));
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) && is_foreign(request.headers()) {
        return Err(Problem::forbidden("this was sent by a page of another site"));
    }
    if !is_open(portal, &request) {
        let viewer = match who(portal, &request) {
            Err(problem)
                if problem.status == StatusCode::UNAUTHORIZED
                    && *request.method() == Method::GET
                    && wants_page(request.headers())
                    && !request.uri().path().starts_with("/v1/") =>
            {
                return Ok((StatusCode::SEE_OTHER, [(header::LOCATION, "/login")]).into_response());
            }
            viewer => viewer?,
        };
        let mut access = access(&viewer, &request);
        request.extensions_mut().insert(access.clone());
        request.extensions_mut().insert(viewer);
        let response = run(portal, request, next).await.unwrap_or_else(Problem::into_response);
        access.status = response.status().as_u16().into();
        access.rows = response.extensions().get::<Shown>().map_or(0, |Shown(rows)| *rows);
        // First it is written down, then it is shown.
        portal.accesses.note(access).await?;
        return Ok(response);
    }
    run(portal, request, next).await
}

async fn run(portal: &Portal, request: Request, next: Next) -> Result<Response, Problem> {
    let answer = tokio::time::timeout(portal.settings.request_timeout, next.run(request)).await;
    answer.map_err(|_| {
        Problem::busy(StatusCode::SERVICE_UNAVAILABLE, "this took too long: ask for less, or for a shorter time", 5)
    })
}

pub(super) fn now_us() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_micros()).unwrap_or(i64::MAX)
}

fn who(portal: &Portal, request: &Request) -> Result<Viewer, Problem> {
    let stranger = network(request.extensions().get::<Peer>());
    let Some(token) = viewer::token(request.headers()) else {
        return Err(Problem::unauthorised("a token is needed: `Authorization: Bearer …`, from `weir token issue`"));
    };
    let claims = match portal.keys.verify(token, SystemTime::now()) {
        Ok(claims) => claims,
        Err(refused) => {
            metrics().portal_tokens_refused.increment(1);
            portal.strangers.take(stranger, Instant::now()).map_err(too_often)?;
            return Err(Problem::unauthorised(format!("the token is not good: {refused}")));
        }
    };
    portal.rates.take(blake3::hash(token.as_bytes()), Instant::now()).map_err(too_often)?;
    Ok(Viewer::of(claims, portal.queries.is_some()))
}

pub(super) fn too_often(wait_s: u64) -> Problem {
    Problem::busy(StatusCode::TOO_MANY_REQUESTS, format!("too many requests: wait {wait_s} s"), wait_s)
}

/// Whose rate it is: an IPv4 address, or the /64 that one host has of IPv6.
pub(super) fn network(peer: Option<&Peer>) -> IpAddr {
    match peer.map(|Peer(peer)| peer.ip().to_canonical()) {
        Some(IpAddr::V6(address)) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        Some(address) => address,
        None => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

/// Whether a browser says that another site's page sends this. Programs say nothing of it.
fn is_foreign(headers: &HeaderMap) -> bool {
    if let Some(site) = headers.get("sec-fetch-site") {
        return site != "same-origin" && site != "none";
    }
    let Some(origin) = headers.get(header::ORIGIN).and_then(|origin| origin.to_str().ok()) else {
        return headers.contains_key(header::ORIGIN);
    };
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    origin.split_once("://").map(|(_, host)| host) != host
}
