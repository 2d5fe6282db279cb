//! One request: refused, or sent to the origin of its route and answered with what came back.
//!
//! The same for HTTP/1.1 and HTTP/2 clients. Bodies are streamed; nothing of a request leaves before its head has been
//! held to the grammar. A request is sent a second time only where no octet of it can have been acted on.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    UPGRADE,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use tracing::{debug, warn};

use super::body::{BodyState, RequestBody, ResponseBody};
use super::forwarded::{ForwardedPolicy, Hop, client_address, is_trusted, set_forwarded};
use super::headers::{self, Kept};
use super::session::Session;
use super::setup::{ListenerSetup, Setup, UpstreamSetup};
use super::tunnel::{Hold, Tunnel};
use super::upstream::{self, ConnectError, Connection, Lease, Wanted};
use super::worker;
use crate::attribution::Facts;
use crate::config::ForwardedHeader;
use crate::event::{End, Reason, RequestNote};

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

/// Serves one request of a session: checks it, routes it, forwards it.
pub async fn forward(session: &Rc<Session>, index: u64, request: Request<RequestBody>, interim: Interim<'_>) -> Answer {
    let is_h1 = request.version() < Version::HTTP_2;
    let is_head = request.method() == Method::HEAD;
    match serve(session, index, request, interim).await {
        Ok(answer) => answer,
        Err(refused) => {
            session.worker.metrics.requests_refused.increment(1);
            session.exchange(index, |exchange| {
                exchange.ends(refused.end, refused.reason);
                exchange.described = true;
                exchange.verdict.status = refused.status.as_u16();
            });
            Answer::Response(own_response(refused, is_h1, is_head))
        }
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

async fn serve(
    session: &Rc<Session>,
    index: u64,
    request: Request<RequestBody>,
    interim: Interim<'_>,
) -> Result<Answer, Refused> {
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
    check_size(session, &parts)?;
    headers::check_request(&parts, version).map_err(|refusal| {
        debug!(%refusal, "request refused");
        Refused::bad_request(refusal.status())
    })?;
    let setup = session.worker.setup();
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
    let host = host_of(authority.as_deref(), &parts.headers);
    let path = if plain_connect { "/" } else { parts.uri.path() };
    let route = listener.config.routes.iter().position(|route| route.matches(&host, path));
    describe(session, index, &listener, &setup, route, &host, path, &parts, plain_connect);
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

    let upgrade = headers::upgrade_protocol(&parts.headers, version).cloned();
    let websocket_over_h2 = extended_connect && is_websocket(&parts.extensions);
    if extended_connect && !websocket_over_h2 {
        return Err(Refused::bad_request(StatusCode::NOT_IMPLEMENTED));
    }
    let grpc = parts.headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    let wanted = Wanted {
        upstream: &upstream,
        upstream_index,
        session,
        index,
        grpc: grpc && version == Version::HTTP_2,
        upgrade: upgrade.is_some() || websocket_over_h2,
        fresh: false,
    };
    if plain_connect {
        return Box::pin(connect(session, index, &wanted, body.into_h2())).await;
    }
    prepare_up(session, index, &listener, &setup, &mut parts, upgrade.is_some());
    if websocket_over_h2 {
        websocket_upgrade(&mut parts);
    }
    let state = body.state();
    // The stream of an extended CONNECT is the tunnel's, not a request body.
    let tunnel_stream = websocket_over_h2.then(|| body.take()).and_then(RequestBody::into_h2);
    parts.version = Version::HTTP_11;
    // The engine sends 100 (Continue) by itself as soon as the connection to the origin wants the body.
    parts.headers.remove(EXPECT);
    let mut request = Request::from_parts(parts, body);
    if version > Version::HTTP_10 {
        relay_interim(session, index, &mut request);
    }
    let exchanged = send(session, &wanted, request, &state);
    let Some(result) = unless_timed_out(session, index, exchanged, interim).await else {
        let status = if state.complete.get() { StatusCode::GATEWAY_TIMEOUT } else { StatusCode::REQUEST_TIMEOUT };
        return Err(Refused { status, end: End::Timeout, reason: Reason::Unspecified, close: true });
    };
    match result {
        Ok((mut response, lease)) => {
            finish_response(&mut response);
            answer(session, index, response, lease, upgrade.is_some() || websocket_over_h2, tunnel_stream).await
        }
        Err(failure) => Err(answer_failure(session, &state, &upstream, &failure)),
    }
}

type Answered = (Response<Incoming>, Lease);

/// A response's body before it is tied to its lease.
enum Incoming {
    H1(hyper::body::Incoming),
    H2(h2::RecvStream),
}

#[derive(Debug)]
enum Failure {
    /// No connection: nothing was sent.
    Connect(ConnectError),
    /// Something may have been sent.
    Exchange(String),
}

async fn answer(
    session: &Rc<Session>,
    index: u64,
    response: Response<Incoming>,
    mut lease: Lease,
    upgrade: bool,
    tunnel_stream: Option<h2::RecvStream>,
) -> Result<Answer, Refused> {
    let (mut parts, incoming) = response.into_parts();
    session.exchange(index, |exchange| exchange.verdict.status = parts.status.as_u16());
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        if !upgrade {
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
        return Ok(Answer::Tunnel(response, Box::new(tunnel)));
    }
    let body = match incoming {
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

/// Sends it and waits for the response's head.
async fn send(
    session: &Rc<Session>,
    wanted: &Wanted<'_>,
    request: Request<RequestBody>,
    state: &Rc<BodyState>,
) -> Result<Answered, Failure> {
    let worker = &session.worker;
    // The usual case needs no waiting; the others are boxed, so that they do not make every request's future large.
    let member = upstream::pick(wanted).map_err(Failure::Connect)?;
    let mut connection = match upstream::existing(worker, wanted, &member) {
        Some(connection) => connection,
        None => Box::pin(upstream::connection(worker, wanted, member)).await.map_err(Failure::Connect)?,
    };
    let mut request = request;
    loop {
        let server = match &connection {
            Connection::H1(_, lease) | Connection::H2(_, lease) => lease.server(),
        };
        name_host(&mut request, server);
        match connection {
            Connection::H1(mut sender, mut lease) => {
                session.sent_to(wanted.index, lease.server());
                let sending = sender.try_send_request(request);
                match sending.await {
                    Ok(response) => {
                        lease.keep(sender, state.clone());
                        lease.succeeded();
                        return Ok((response.map(Incoming::H1), lease));
                    }
                    Err(mut error) => {
                        let unsent = error.take_message();
                        let error = error.into_error();
                        let was_reused = lease.link().reused.get();
                        // A kept connection that was closed meanwhile: not an octet was written, so a new one may.
                        if let (Some(unsent), true) = (unsent, was_reused) {
                            drop(lease);
                            request = unsent;
                            let again = Wanted { fresh: true, ..*wanted };
                            let member = upstream::pick(&again).map_err(Failure::Connect)?;
                            let connecting = Box::pin(upstream::connection(worker, &again, member));
                            connection = connecting.await.map_err(Failure::Connect)?;
                            continue;
                        }
                        if !state.failed.get() && !state.refused.get() {
                            lease.failed();
                        }
                        return Err(Failure::Exchange(error.to_string()));
                    }
                }
            }
            Connection::H2(sender, lease) => {
                session.sent_to(wanted.index, lease.server());
                let sent = Box::pin(upstream::send_h2(session, wanted, sender, lease, request)).await;
                let (response, lease) = sent.map_err(|error| Failure::Exchange(error.to_string()))?;
                return Ok((response.map(Incoming::H2), lease));
            }
        }
    }
}

/// An HTTP/1.0 request may lack Host; an HTTP/1.1 origin wants one. The server's own name is all there is to say.
fn name_host(request: &mut Request<RequestBody>, server: &str) {
    if !request.headers().contains_key(HOST)
        && let Ok(server) = HeaderValue::from_str(server)
    {
        request.headers_mut().insert(HOST, server);
    }
}

async fn connect(
    session: &Rc<Session>,
    index: u64,
    wanted: &Wanted<'_>,
    stream: Option<h2::RecvStream>,
) -> Result<Answer, Refused> {
    match upstream::raw(&session.worker, wanted).await {
        Ok((origin, member, in_flight)) => {
            session.sent_to(index, &member.name);
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
    work: impl Future<Output = T>,
    interim: Interim<'_>,
) -> Option<T> {
    let mut work = pin!(work);
    poll_fn(|cx| {
        let done = work.as_mut().poll(cx);
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

fn listener_of(setup: &Arc<Setup>, session: &Session) -> Result<Arc<ListenerSetup>, Refused> {
    let name = session.identity().listener.clone();
    setup
        .listener_named(&name)
        .cloned()
        .ok_or(Refused { close: true, ..Refused::platform(StatusCode::SERVICE_UNAVAILABLE) })
}

fn check_size(session: &Session, parts: &http::request::Parts) -> Result<(), Refused> {
    let setup = session.worker.setup();
    let limits = &setup.config.limits;
    let refuse = |status| Err(Refused { reason: Reason::Limited, ..Refused::bad_request(status) });
    let target = parts.uri.path_and_query().map_or(0, |target| target.as_str().len());
    if target + parts.method.as_str().len() + 11 > limits.request_line_bytes_max {
        return refuse(StatusCode::URI_TOO_LONG);
    }
    if parts.headers.len() > limits.headers_max {
        return refuse(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    }
    let bytes: usize = parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if bytes > limits.header_bytes_max {
        return refuse(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    }
    Ok(())
}

fn violation_status(violation: &str) -> StatusCode {
    match violation {
        "head_too_large" => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        _ => StatusCode::BAD_REQUEST,
    }
}

/// Lower case and without the port; empty where there is none.
fn host_of(authority: Option<&str>, headers: &HeaderMap) -> String {
    let text = authority.or_else(|| headers.get(HOST).and_then(|host| host.to_str().ok())).unwrap_or("");
    let name = match text.rfind(':') {
        Some(colon) if !text[colon..].contains(']') => &text[..colon],
        _ => text,
    };
    name.to_ascii_lowercase()
}

#[allow(clippy::too_many_arguments)] // all of it is who the request is
fn describe(
    session: &Session,
    index: u64,
    listener: &ListenerSetup,
    setup: &Setup,
    route: Option<usize>,
    host: &str,
    path: &str,
    parts: &http::request::Parts,
    connect: bool,
) {
    let identity = session.identity();
    let trusted = &listener.config.trusted_proxies;
    let client = client_address(identity.client, &parts.headers, listener.config.forwarded, trusted);
    let facts = Facts {
        listener: &listener.name,
        host,
        path,
        sni: &identity.sni,
        tls_subject: &identity.tls_subject,
        client: client.ip,
        headers: Some(&parts.headers),
    };
    let attribution = listener.attributor.attribute(&facts, route);
    // A proxy's own health check is nobody's: it keeps what the session has, which is no account.
    let is_nobodys = session.is_health_check();
    let differs =
        |own: &Arc<str>, other: &Arc<str>| if own == other || is_nobodys { String::new() } else { own.to_string() };
    let path_cut = cut(path, setup.config.limits.path_bytes_max);
    let other_client = client.ip != identity.client.ip().to_canonical();
    session.describe(
        index,
        &RequestNote {
            account: &differs(&attribution.account, &identity.account),
            endpoint: &differs(&attribution.endpoint, &identity.endpoint),
            attribution: &differs(&attribution.rule, &identity.attribution),
            protocol: if connect { "connect" } else { "" },
            host: cut(host, 255),
            method: cut(parts.method.as_str(), 32),
            path: path_cut,
            client: other_client.then(|| (client.ip, client.port.unwrap_or(0), identity.peer.ip())),
        },
    );
}

/// At most `bytes_max` bytes, cut between characters.
fn cut(text: &str, bytes_max: usize) -> &str {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// What the origin is told: who the client is, which request this is, and nothing of our connection with the client.
fn prepare_up(
    session: &Session,
    index: u64,
    listener: &ListenerSetup,
    setup: &Setup,
    parts: &mut http::request::Parts,
    upgrade: bool,
) {
    let client: SocketAddr = session.identity().client;
    let trusted = is_trusted(client.ip(), &listener.config.trusted_proxies);
    let host = parts.headers.get(HOST).cloned();
    headers::remove_hop_by_hop(&mut parts.headers, Kept { upgrade, proxy_authentication: false });
    headers::join_cookies(&mut parts.headers);
    let hop = Hop {
        peer: client.ip(),
        trusted,
        tls: !session.is_plain(),
        host: host.as_ref(),
        forwarded: if listener.config.forwarded == ForwardedHeader::Forwarded {
            ForwardedPolicy::Append
        } else {
            ForwardedPolicy::Untouched
        },
    };
    set_forwarded(&mut parts.headers, &hop);
    let name = &setup.config.request_id_header;
    let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else { return };
    if !(trusted && parts.headers.contains_key(&name))
        && let Some(id) = session.exchange(index, |exchange| exchange.id)
        && let Ok(value) = HeaderValue::from_bytes(&id.hex())
    {
        parts.headers.insert(name, value);
    }
}

/// What the client gets of the response's head.
fn finish_response(response: &mut Response<Incoming>) {
    let upgrade = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    headers::remove_hop_by_hop(response.headers_mut(), Kept { upgrade, proxy_authentication: false });
    *response.version_mut() = Version::HTTP_11;
}

fn is_websocket(extensions: &http::Extensions) -> bool {
    extensions.get::<h2::ext::Protocol>().is_some_and(|protocol| protocol.as_str() == "websocket")
}

/// RFC 8441 §5: an extended CONNECT becomes the GET of RFC 6455.
fn websocket_upgrade(parts: &mut http::request::Parts) {
    parts.method = Method::GET;
    parts.extensions.remove::<h2::ext::Protocol>();
    parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    parts.headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    // The key only has to be a base64 of 16 octets; the answer to it is checked by nobody but this hop.
    parts.headers.insert(SEC_WEBSOCKET_KEY, HeaderValue::from_static("d2VpciBvdmVyIEhUVFAvMg=="));
}

/// Has the origin's informational responses collected in the exchange. The callback must be `Send`, which a session is
/// not: it finds the session by its id, on the worker's own thread.
fn relay_interim(session: &Session, index: u64, request: &mut Request<RequestBody>) {
    let id = session.id;
    hyper::ext::on_informational(request, move |response| {
        let (status, headers) = (response.status(), response.headers().clone());
        if status == StatusCode::CONTINUE {
            return;
        }
        worker::with_session(id, |session| {
            session.exchange(index, |exchange| {
                exchange.interim.push((status, headers));
                exchange.waker.take().into_iter().for_each(Waker::wake);
            });
        });
    });
}
