//! One request: refused, or sent to the origin of its route and answered with what came back.
//!
//! The same for HTTP/1.1 and HTTP/2 clients. Bodies are streamed; nothing of a request leaves before its head has been
//! held to the grammar. A request is sent a second time only where no octet of it can have been acted on.
//!
//! [`begin`] does at once all that needs no waiting, which for the usual request is everything until the origin answers:
//! so what a request in flight holds on to is small.

mod head;
mod send;

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, SEC_WEBSOCKET_ACCEPT, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use tracing::{debug, warn};

use self::send::{Failure, Incoming, Sending, send};
use super::body::{BodyState, RequestBody, ResponseBody};
use super::headers;
use super::relay::{self, Relay};
use super::session::Session;
use super::setup::{ListenerSetup, Setup, UpstreamSetup};
use super::tunnel::{Hold, Tunnel};
use super::upstream::{self, ConnectError, Lease, Wanted};
use crate::event::{End, Reason};
use crate::screening::Action;

/// What becomes of a request.
pub enum Answer {
    /// A response.
    Response(Response<ResponseBody>),
    /// The origin has switched protocols (101), or a raw connection stands (CONNECT): after this response, a tunnel.
    Tunnel(Response<ResponseBody>, Box<Tunnel>),
}

/// Where informational responses (103) of the origin go.
pub type Interim<'a> = &'a dyn Fn(StatusCode, HeaderMap);

/// Why weir itself answers.
#[derive(Clone, Copy, Debug)]
struct Refused {
    status: StatusCode,
    end: End,
    reason: Reason,
    close: bool,
}

impl Refused {
    fn bad_request(status: StatusCode) -> Self {
        Self { status, end: End::Refused, reason: Reason::BadRequest, close: true }
    }

    fn platform(status: StatusCode) -> Self {
        Self { status, end: End::UpstreamError, reason: Reason::PlatformError, close: false }
    }
}

/// A request that has begun: refused already, or waiting for its origin.
pub struct Begun {
    session: Rc<Session>,
    index: u64,
    is_h1: bool,
    is_head: bool,
    stage: Result<Stage, Refused>,
}

enum Stage {
    /// A raw connection is being made for CONNECT.
    Connect(Pin<Box<dyn Future<Output = Result<Answer, Refused>>>>),
    /// The request is on its way.
    Exchange(Exchange),
}

/// What the answer's treatment depends on.
struct Exchange {
    upstream: Arc<UpstreamSetup>,
    body: Rc<BodyState>,
    wants_tunnel: bool,
    /// A large body may go past the engines.
    relays: bool,
    /// The client's stream of an extended CONNECT.
    tunnel_stream: Option<h2::RecvStream>,
    sending: Sending,
}

/// Serves one request of a session: checks it, routes it, forwards it.
pub fn begin(session: &Rc<Session>, index: u64, request: Request<RequestBody>) -> Begun {
    let is_h1 = request.version() < Version::HTTP_2;
    let is_head = request.method() == Method::HEAD;
    let stage = dispatch(session, index, request);
    Begun { session: session.clone(), index, is_h1, is_head, stage }
}

impl Begun {
    /// Waits for the answer.
    pub async fn answer(self, interim: Interim<'_>) -> Answer {
        let Self { session, index, is_h1, is_head, stage } = self;
        let answer = match stage {
            Ok(Stage::Exchange(exchange)) => exchange.answer(&session, index, interim).await,
            Ok(Stage::Connect(connecting)) => connecting.await,
            Err(refused) => Err(refused),
        };
        answer.unwrap_or_else(|refused| {
            session.worker.metrics.requests_refused.increment(1);
            session.exchange(index, |exchange| {
                exchange.ends(refused.end, refused.reason);
                exchange.described = true;
                exchange.verdict.status = refused.status.as_u16();
            });
            Answer::Response(own_response(refused, is_h1, is_head))
        })
    }
}

/// A response of weir's own. The text names no configuration.
fn own_response(refused: Refused, is_h1: bool, is_head: bool) -> Response<ResponseBody> {
    let text = format!("{}\n", refused.status);
    let length = HeaderValue::from(text.len());
    let mut response = Response::new(if is_head { ResponseBody::empty() } else { ResponseBody::text(text) });
    *response.status_mut() = refused.status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CONTENT_LENGTH, length);
    if refused.close && is_h1 {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn dispatch(session: &Rc<Session>, index: u64, request: Request<RequestBody>) -> Result<Stage, Refused> {
    if let Some(violation) = session.violation_of(index) {
        return Err(Refused::bad_request(violation_status(violation.as_str())));
    }
    if !cfg!(feature = "unmetered") && session.exchange(index, |_| ()).is_none() {
        if request.version() < Version::HTTP_2 && index >= session.begun() {
            // The meter read these octets otherwise than the engine did: so could the origin.
            return Err(Refused::bad_request(StatusCode::BAD_REQUEST));
        }
        // No slot to measure in: what cannot be counted is not served.
        return Err(Refused { reason: Reason::Limited, ..Refused::bad_request(StatusCode::SERVICE_UNAVAILABLE) });
    }
    let (mut parts, mut body) = request.into_parts();
    let version = parts.version;
    let setup = session.worker.setup();
    head::check_size(&setup.config.limits, &parts)?;
    headers::check_request(&parts, version).map_err(|refusal| {
        debug!(%refusal, "request refused");
        Refused::bad_request(refusal.status())
    })?;
    let listener = listener_of(&setup, session)?;
    let extended_connect =
        parts.method == Method::CONNECT && version == Version::HTTP_2 && parts.uri.scheme().is_some();
    let plain_connect = parts.method == Method::CONNECT && !extended_connect;
    if plain_connect && !listener.config.allow_connect {
        return Err(Refused { reason: Reason::Limited, ..Refused::bad_request(StatusCode::METHOD_NOT_ALLOWED) });
    }
    let authority =
        plain_connect.then(|| parts.uri.authority().map(|authority| authority.as_str().to_owned())).flatten();
    headers::normalise_request(&mut parts).map_err(|refusal| Refused::bad_request(refusal.status()))?;
    let host = head::host_of(authority.as_deref(), &parts.headers);
    let path = if plain_connect { "/" } else { parts.uri.path() };
    let route = listener.config.routes.iter().position(|route| route.matches(&host, path));
    let screened = head::describe(session, index, listener, &setup, route, &host, path, &parts, plain_connect);
    if screened.as_ref().is_some_and(|ruling| ruling.action == Action::Refuse) {
        session.worker.metrics.screened_refused.increment(1);
        return Err(Refused {
            status: StatusCode::UNAVAILABLE_FOR_LEGAL_REASONS,
            end: End::Refused,
            reason: Reason::Screened,
            close: false,
        });
    }
    let Some(route) = route else {
        return Err(Refused {
            status: StatusCode::NOT_FOUND,
            end: End::Refused,
            reason: Reason::BadRequest,
            close: false,
        });
    };
    let upstream_index = listener.config.routes[route].upstream.index();
    let Some(upstream) = setup.upstreams.get(upstream_index).cloned() else {
        return Err(Refused::platform(StatusCode::BAD_GATEWAY));
    };

    let upgrade = headers::upgrade_protocol(&parts.headers, version).is_some();
    let websocket_over_h2 = extended_connect && head::is_websocket(&parts.extensions);
    if extended_connect && !websocket_over_h2 {
        return Err(Refused::bad_request(StatusCode::NOT_IMPLEMENTED));
    }
    let grpc = parts.headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    let wants_tunnel = upgrade || websocket_over_h2;
    let wanted = Wanted {
        upstream: upstream.clone(),
        upstream_index,
        session: session.clone(),
        index,
        grpc: grpc && version == Version::HTTP_2,
        upgrade: wants_tunnel,
        fresh: false,
    };
    if plain_connect {
        return Ok(Stage::Connect(Box::pin(connect(wanted, body.into_h2()))));
    }
    head::prepare_up(session, index, listener, &setup, &mut parts, upgrade, screened.as_ref());
    if websocket_over_h2 {
        head::websocket_upgrade(&mut parts);
    }
    let state = body.state();
    // The stream of an extended CONNECT is the tunnel's, not a request body.
    let tunnel_stream = websocket_over_h2.then(|| body.take()).and_then(RequestBody::into_h2);
    parts.version = Version::HTTP_11;
    // The engine sends 100 (Continue) by itself as soon as the connection to the origin wants the body.
    parts.headers.remove(EXPECT);
    let mut request = Request::from_parts(parts, body);
    if version > Version::HTTP_10 {
        head::relay_interim(session, index, &mut request);
    }
    let sending = send(wanted, request, state.clone());
    let relays = version == Version::HTTP_11 && session.is_plain() && upstream.tls.is_none();
    Ok(Stage::Exchange(Exchange { upstream, body: state, wants_tunnel, relays, tunnel_stream, sending }))
}

impl Exchange {
    async fn answer(mut self, session: &Rc<Session>, index: u64, interim: Interim<'_>) -> Result<Answer, Refused> {
        let Some(result) = unless_timed_out(session, index, &mut self.sending, interim).await else {
            let is_sent = self.body.complete.get();
            let status = if is_sent { StatusCode::GATEWAY_TIMEOUT } else { StatusCode::REQUEST_TIMEOUT };
            return Err(Refused { status, end: End::Timeout, reason: Reason::Unspecified, close: true });
        };
        let (mut response, lease) =
            result.map_err(|failure| answer_failure(session, &self.body, &self.upstream, &failure))?;
        head::finish_response(&mut response);
        session.exchange(index, |exchange| exchange.verdict.status = response.status().as_u16());
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let switched = switch(session, index, response, lease, self.wants_tunnel, self.tunnel_stream);
            return Box::pin(switched).await;
        }
        let (parts, incoming) = response.into_parts();
        let body = match incoming {
            Incoming::H1(body) if self.relays && relay::is_worth(&body, &lease) => {
                let relay = Box::pin(Relay::begin(body, lease)).await;
                ResponseBody::Relayed(Rc::new(relay.ok_or(Refused::platform(StatusCode::BAD_GATEWAY))?))
            }
            Incoming::H1(body) => {
                let mut lease = Some(lease);
                if http_body::Body::is_end_stream(&body) {
                    lease.take().into_iter().for_each(Lease::complete);
                }
                ResponseBody::H1 { body, lease }
            }
            Incoming::H2(stream) => ResponseBody::H2 { stream, lease: Some(lease) },
        };
        Ok(Answer::Response(Response::from_parts(parts, body)))
    }
}

/// The origin has switched protocols.
async fn switch(
    session: &Session,
    index: u64,
    response: Response<Incoming>,
    mut lease: Lease,
    wants_tunnel: bool,
    tunnel_stream: Option<h2::RecvStream>,
) -> Result<Answer, Refused> {
    let (mut parts, incoming) = response.into_parts();
    if !wants_tunnel {
        warn!(server = %lease.server(), "the origin switched protocols unasked");
        return Err(Refused::platform(StatusCode::BAD_GATEWAY));
    }
    drop(incoming);
    let Some((origin, early)) = lease.upgrade().await else {
        return Err(Refused::platform(StatusCode::BAD_GATEWAY));
    };
    let is_websocket = |protocol: &HeaderValue| protocol.as_bytes().eq_ignore_ascii_case(b"websocket");
    if tunnel_stream.is_some() || parts.headers.get(UPGRADE).is_some_and(is_websocket) {
        session.speaks_in(index, "ws");
    }
    if tunnel_stream.is_some() {
        // RFC 8441 §5: 200 stands for 101, and HTTP/2 has neither field.
        parts.status = StatusCode::OK;
        parts.headers.remove(SEC_WEBSOCKET_ACCEPT);
        parts.headers.remove(UPGRADE);
        parts.headers.remove(CONNECTION);
    }
    let response = Response::from_parts(parts, ResponseBody::empty());
    let tunnel = Tunnel { origin, early, stream: tunnel_stream, hold: Hold::Lease(lease) };
    Ok(Answer::Tunnel(response, Box::new(tunnel)))
}

fn answer_failure(session: &Session, state: &BodyState, upstream: &UpstreamSetup, failure: &Failure) -> Refused {
    if state.refused.get() {
        return Refused::bad_request(StatusCode::BAD_REQUEST);
    }
    if state.failed.get() {
        // The client's own side failed (abort, bad chunk): the engine may still be able to say so.
        return Refused { end: End::ClientAbort, ..Refused::bad_request(StatusCode::BAD_REQUEST) };
    }
    session.worker.metrics.upstream_failures.increment(1);
    match failure {
        Failure::Connect(error) => {
            let cause = std::error::Error::source(error).map(ToString::to_string);
            warn!(upstream = %upstream.config.name, %error, cause, "no connection to an origin");
        }
        Failure::Exchange(error) => debug!(upstream = %upstream.config.name, %error, "the origin failed"),
    }
    match failure {
        Failure::Connect(ConnectError::Timeout(_)) => Refused::platform(StatusCode::GATEWAY_TIMEOUT),
        _ => Refused::platform(StatusCode::BAD_GATEWAY),
    }
}

async fn connect(wanted: Wanted, stream: Option<h2::RecvStream>) -> Result<Answer, Refused> {
    let session = &wanted.session;
    match upstream::raw(&wanted).await {
        Ok((origin, in_flight)) => {
            session.sent_to(wanted.index, &in_flight.name);
            let response = Response::new(ResponseBody::empty());
            let hold = Hold::Raw(in_flight);
            let tunnel = Tunnel { origin, early: Bytes::new(), stream, hold };
            Ok(Answer::Tunnel(response, Box::new(tunnel)))
        }
        Err(error) => {
            session.worker.metrics.upstream_failures.increment(1);
            warn!(%error, "no connection for CONNECT");
            Err(Refused::platform(StatusCode::BAD_GATEWAY))
        }
    }
}

/// Waits, unless the sweep says that a limit in time was hit. What the origin says meanwhile is handed on.
async fn unless_timed_out<T>(
    session: &Session,
    index: u64,
    work: &mut (impl Future<Output = T> + Unpin),
    interim: Interim<'_>,
) -> Option<T> {
    poll_fn(|cx| {
        let done = Pin::new(&mut *work).poll(cx);
        for (status, headers) in
            session.exchange(index, |exchange| std::mem::take(&mut exchange.interim)).unwrap_or_default()
        {
            interim(status, headers);
        }
        if let Poll::Ready(done) = done {
            return Poll::Ready(Some(done));
        }
        session.poll_timed_out(index, cx).map(|()| None)
    })
    .await
}

fn listener_of<'s>(setup: &'s Setup, session: &Session) -> Result<&'s ListenerSetup, Refused> {
    setup
        .listener_named(&session.identity().listener)
        .map(Arc::as_ref)
        .ok_or(Refused { close: true, ..Refused::platform(StatusCode::SERVICE_UNAVAILABLE) })
}

fn violation_status(violation: &str) -> StatusCode {
    match violation {
        "head_too_large" => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        _ => StatusCode::BAD_REQUEST,
    }
}
