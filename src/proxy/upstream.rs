//! Connections to origins: made, counted, kept for the next request.
//!
//! One pool per worker. An HTTP/1.1 connection carries one request at a time and comes back when both bodies have ended;
//! an HTTP/2 connection is shared. Octets are counted at the socket for h1, by frames for h2, and added to the exchange
//! they were moved for.

mod link;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use http::header::HOST;
use http::uri::{Authority, Scheme, Uri};
use http_body::Body as _;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tracing::debug;

pub use link::{Link, LinkStream};

use super::balance::{InFlight, Member};
use super::body::{BodyState, RequestBody};
use super::proxy_protocol;
use super::pump;
use super::session::Session;
use super::setup::UpstreamSetup;
use super::worker::{Worker, spawn};
use crate::config::ProxyProtocolOut;
use crate::ids::Id;

/// Streams that one HTTP/2 connection to an origin carries before another is made.
const H2_STREAMS_MAX: usize = 100;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No server is configured or resolved.
    #[error("upstream {0} has no server")]
    NoServer(String),
    /// TCP or TLS failed.
    #[error("cannot connect to {server}")]
    Io {
        /// Which server.
        server: Arc<str>,
        /// Why.
        source: std::io::Error,
    },
    /// TCP and TLS took too long.
    #[error("connecting to {0} took too long")]
    Timeout(Arc<str>),
    /// The HTTP/2 handshake failed.
    #[error("HTTP/2 with {server}")]
    H2 {
        /// Which server.
        server: Arc<str>,
        /// Why.
        source: h2::Error,
    },
}

/// Which connections serve alike: upstream, server, and the session where a PROXY header names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    upstream: usize,
    server: SocketAddr,
    h2: bool,
    session: Option<Id>,
    /// How long it may idle, µs.
    idle_us: i64,
    /// How many of them may idle.
    idle_max: usize,
}

/// What an upgraded h1 connection hands over: the stream, and what was read behind the response.
pub type Upgraded = (LinkStream, Bytes);

struct H1 {
    sender: http1::SendRequest<RequestBody>,
    upgraded: oneshot::Receiver<Upgraded>,
    link: Rc<Link>,
    key: Rc<Key>,
    idle_since_us: i64,
}

struct H2 {
    sender: h2::client::SendRequest<Bytes>,
    link: Rc<Link>,
    open: Rc<Cell<usize>>,
    closed: Rc<Cell<bool>>,
    idle_since_us: i64,
}

/// One worker's connections to origins. A worker knows few servers: they are looked through in order.
#[derive(Default)]
pub struct Pools {
    h1: RefCell<Vec<(Rc<Key>, VecDeque<H1>)>>,
    h2: RefCell<Vec<(Key, H2)>>,
}

impl Pools {
    /// Forgets idle connections: the configuration has changed.
    pub fn clear(&self) {
        self.h1.borrow_mut().clear();
        self.h2.borrow_mut().clear();
    }

    /// Closes what was idle too long.
    pub fn sweep(&self, now_us: i64) {
        self.h1.borrow_mut().retain_mut(|(key, idle)| {
            idle.retain(|connection| now_us - connection.idle_since_us < key.idle_us && !connection.sender.is_closed());
            !idle.is_empty()
        });
        self.h2.borrow_mut().retain_mut(|(key, connection)| {
            if connection.open.get() > 0 {
                connection.idle_since_us = now_us;
            }
            !connection.closed.get() && now_us - connection.idle_since_us < key.idle_us
        });
    }

    /// An idle connection of this key. The one used last is the least likely to have been closed meanwhile.
    fn take(&self, key: &Key) -> Option<H1> {
        let mut pools = self.h1.borrow_mut();
        let (_, idle) = pools.iter_mut().find(|(known, _)| **known == *key)?;
        let at = idle.iter().rposition(|connection| connection.sender.is_ready())?;
        idle.remove(at)
    }

    fn put(&self, connection: H1) {
        let mut pools = self.h1.borrow_mut();
        let key = &connection.key;
        let at = pools.iter().position(|(known, _)| known == key).unwrap_or_else(|| {
            pools.push((key.clone(), VecDeque::new()));
            pools.len() - 1
        });
        let (key, idle) = &mut pools[at];
        if idle.len() < key.idle_max {
            idle.push_back(connection);
        }
    }
}

/// A connection for one request.
pub enum Connection {
    /// Alone on it.
    H1(http1::SendRequest<RequestBody>, Lease),
    /// One stream of it.
    H2(h2::client::SendRequest<Bytes>, Lease),
}

/// A request's hold on a connection. Small: it goes from hand to hand with the response.
pub struct Lease {
    worker: Rc<Worker>,
    link: Rc<Link>,
    in_flight: InFlight,
    kind: LeaseKind,
}

enum LeaseKind {
    H1 {
        key: Rc<Key>,
        sender: Option<http1::SendRequest<RequestBody>>,
        upgraded: Option<oneshot::Receiver<Upgraded>>,
        body: Option<Rc<BodyState>>,
        /// The origin keeps the connection after its answer.
        persists: bool,
    },
    H2 {
        open: Rc<Cell<usize>>,
        stream: Cell<Option<u64>>,
    },
}

impl Lease {
    /// The server, as in records.
    pub fn server(&self) -> &Arc<str> {
        &self.in_flight.name
    }

    /// Was the connection used before this request?
    pub fn link(&self) -> &Rc<Link> {
        &self.link
    }

    /// The sender comes back here once the request is answered.
    pub fn keep(
        &mut self,
        sender: http1::SendRequest<RequestBody>,
        request_body: Rc<BodyState>,
        origin_persists: bool,
    ) {
        if let LeaseKind::H1 { sender: kept, body, persists, .. } = &mut self.kind {
            *kept = Some(sender);
            *body = Some(request_body);
            *persists = origin_persists;
        }
    }

    /// The request is over, so that its engine has nothing to do but read the answer.
    pub fn can_hand_over(&self) -> bool {
        matches!(&self.kind, LeaseKind::H1 { body: Some(body), .. } if body.complete.get())
    }

    /// The stream behind the answer's head, and what the engine has read of it beyond.
    pub async fn hand_over(&mut self, mut unread: hyper::body::Incoming) -> Option<Upgraded> {
        self.link.is_handed_over.set(true);
        // The engine may have read a piece for its reader. That there is no reader any more wakes it, and it stops.
        let piece = poll_fn(|cx| Poll::Ready(Pin::new(&mut unread).poll_frame(cx))).await;
        drop(unread);
        let piece = match piece {
            Poll::Pending => Bytes::new(),
            Poll::Ready(frame) => frame?.ok()?.into_data().ok()?,
        };
        let (stream, behind) = self.upgrade().await?;
        let read = if behind.is_empty() { piece } else { Bytes::from([piece, behind].concat()) };
        Some((stream, read))
    }

    /// The connection serves no other request.
    pub fn is_used_up(&mut self) {
        if let LeaseKind::H1 { persists, .. } = &mut self.kind {
            *persists = false;
        }
    }

    /// The response has ended on the bare stream that was handed over: a new engine takes it for the next request.
    pub async fn complete_over(self, tcp: TcpStream) {
        let LeaseKind::H1 { key, persists: true, .. } = &self.kind else { return };
        let stream = LinkStream::plain(tcp, self.link.clone());
        self.link.is_handed_over.set(false);
        let (sender, upgraded) = h1_engine(stream, &self.worker, &self.link, self.server().clone()).await;
        let key = key.clone();
        self.pool(key, sender, upgraded);
    }

    /// The stream this request has on a shared connection.
    pub fn streams(&self, id: u64, session: &Rc<Session>, index: u64) {
        if let LeaseKind::H2 { stream, .. } = &self.kind {
            stream.set(Some(id));
            self.link.attribute_stream(id, session, index);
        }
    }

    /// The upgraded stream, once the origin has answered 101.
    pub async fn upgrade(&mut self) -> Option<Upgraded> {
        let LeaseKind::H1 { upgraded, sender, .. } = &mut self.kind else { return None };
        drop(sender.take());
        upgraded.take()?.await.ok()
    }

    /// The server answered.
    pub fn succeeded(&self) {
        self.in_flight.succeeded();
    }

    /// The server failed; the connection is not used again.
    pub fn failed(self) {
        self.in_flight.failed();
    }

    /// The response has ended: the connection serves the next request if the request has ended too.
    pub fn complete(mut self) {
        let LeaseKind::H1 { key, sender, upgraded, body, .. } = &mut self.kind else { return };
        let (Some(sender), Some(upgraded)) = (sender.take(), upgraded.take()) else { return };
        if !body.as_ref().is_some_and(|body| body.complete.get()) {
            return;
        }
        self.link.answered();
        if sender.is_closed() {
            return;
        }
        let key = key.clone();
        self.pool(key, sender, upgraded);
    }

    fn pool(&self, key: Rc<Key>, sender: http1::SendRequest<RequestBody>, upgraded: oneshot::Receiver<Upgraded>) {
        self.link.release();
        let idle_since_us = self.worker.coarse_now_us();
        self.worker.pools.put(H1 { sender, upgraded, link: self.link.clone(), key, idle_since_us });
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let LeaseKind::H2 { open, stream } = &self.kind {
            open.set(open.get().saturating_sub(1));
            if let Some(id) = stream.get() {
                self.link.release_stream(id);
            }
        }
    }
}

/// What a connection is wanted for.
pub struct Wanted {
    /// Where to.
    pub upstream: Arc<UpstreamSetup>,
    /// Its place in the configuration.
    pub upstream_index: usize,
    /// For whom.
    pub session: Rc<Session>,
    /// For which exchange.
    pub index: u64,
    /// gRPC needs HTTP/2.
    pub grpc: bool,
    /// An upgrade needs HTTP/1.1.
    pub upgrade: bool,
    /// Not an idle one: a kept one has just turned out to be dead.
    pub fresh: bool,
}

/// The server whose turn it is. Asked once for each request: a second look would pass a server over.
pub fn pick(wanted: &Wanted) -> Result<Arc<Member>, ConnectError> {
    let member = wanted.upstream.group.pick(&[]);
    member.ok_or_else(|| ConnectError::NoServer(wanted.upstream.config.name.clone()))
}

/// The server to try after this one could not be connected to; the error where there is none, or it was tried as often as
/// configured. No octet of the request has left then.
fn next_server(
    wanted: &Wanted,
    failed: &Member,
    error: ConnectError,
    tried: &mut Vec<SocketAddr>,
) -> Result<Arc<Member>, ConnectError> {
    failed.failed();
    if tried.len() >= wanted.upstream.config.retries as usize {
        return Err(error);
    }
    debug!(%error, server = %failed.name, "connect failed, trying another server");
    wanted.session.worker.metrics.upstream_retries.increment(1);
    tried.push(failed.address);
    wanted.upstream.group.pick(tried).ok_or(error)
}

/// A connection to this server or, while one cannot be connected to, to another.
pub async fn connection(wanted: &Wanted, first: Arc<Member>) -> Result<Connection, ConnectError> {
    let mut member = first;
    let mut tried = Vec::new();
    loop {
        if let Some(connection) = existing(wanted, &member) {
            return Ok(connection);
        }
        member = match new_connection(wanted, &member).await {
            Ok(connection) => return Ok(connection),
            Err(error) => next_server(wanted, &member, error, &mut tried)?,
        };
    }
}

fn key_of(wanted: &Wanted, member: &Member) -> Key {
    let upstream = &wanted.upstream;
    let per_session = upstream.config.proxy_protocol != ProxyProtocolOut::Off;
    Key {
        upstream: wanted.upstream_index,
        server: member.address,
        h2: !wanted.upgrade && (upstream.prior_knowledge_h2(wanted.grpc) || upstream.tls.is_some()),
        session: per_session.then_some(wanted.session.id),
        idle_us: i64::try_from(upstream.config.idle_timeout.as_micros()).unwrap_or(i64::MAX),
        idle_max: upstream.config.idle_connections_max,
    }
}

/// A connection to this server that is there already: kept idle, or shared.
pub fn existing(wanted: &Wanted, member: &Arc<Member>) -> Option<Connection> {
    let mut key = key_of(wanted, member);
    if key.h2
        && let Some(connection) = shared(wanted, member, &key)
    {
        return Some(connection);
    }
    key.h2 = false;
    if wanted.fresh {
        return None;
    }
    let h1 = wanted.session.worker.pools.take(&key)?;
    h1.link.attribute(&wanted.session, wanted.index);
    h1.link.reused.set(true);
    let kind = LeaseKind::H1 { key: h1.key, sender: None, upgraded: Some(h1.upgraded), body: None, persists: false };
    Some(Connection::H1(h1.sender, lease(wanted, member, h1.link, kind)))
}

async fn new_connection(wanted: &Wanted, member: &Arc<Member>) -> Result<Connection, ConnectError> {
    let upstream = &wanted.upstream;
    let mut key = key_of(wanted, member);
    let link = Rc::new(Link::new(&wanted.session, wanted.index));
    let alpn = if wanted.upgrade { Alpn::H1 } else { Alpn::Configured };
    let stream = connect(wanted, member, link.clone(), alpn).await?;
    key.h2 = !wanted.upgrade && (stream.negotiated_h2() || upstream.prior_knowledge_h2(wanted.grpc));
    if key.h2 {
        return new_h2(wanted, member, key, stream, link).await;
    }
    Ok(new_h1(wanted, member, key, stream, link).await)
}

/// Connects within the configured time.
async fn connect(wanted: &Wanted, member: &Member, link: Rc<Link>, alpn: Alpn) -> Result<LinkStream, ConnectError> {
    let limit = wanted.upstream.config.connect_timeout;
    let Ok(stream) = tokio::time::timeout(limit, establish(wanted, member, link, alpn)).await else {
        return Err(ConnectError::Timeout(member.name.clone()));
    };
    let stream = stream.map_err(|source| ConnectError::Io { server: member.name.clone(), source })?;
    wanted.session.worker.metrics.upstream_connections.increment(1);
    Ok(stream)
}

/// TCP, then what the configuration puts in front of HTTP.
async fn establish(wanted: &Wanted, member: &Member, link: Rc<Link>, alpn: Alpn) -> std::io::Result<LinkStream> {
    let upstream = &wanted.upstream;
    let tcp = TcpStream::connect(member.address).await?;
    tcp.set_nodelay(true)?;
    let mut stream = LinkStream::plain(tcp, link);
    let (source, destination) = {
        let identity = wanted.session.identity();
        (identity.client, wanted.session.local_address()?)
    };
    match upstream.config.proxy_protocol {
        ProxyProtocolOut::Off => {}
        ProxyProtocolOut::V1 => stream.write_all(&proxy_protocol::encode_v1(source, destination)).await?,
        ProxyProtocolOut::V2 => stream.write_all(&proxy_protocol::encode_v2(source, destination)).await?,
    }
    let Some(tls) = &upstream.tls else { return Ok(stream) };
    let Some(name) = member.server_name.clone() else {
        return Err(std::io::Error::other("the server has no name to verify"));
    };
    stream.handshake(with_alpn(tls, alpn), name).await
}

/// What a TLS handshake offers by ALPN.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Alpn {
    /// What the configuration says.
    Configured,
    /// Only HTTP/1.1: the request asks for an upgrade.
    H1,
    /// Nothing: what flows is not HTTP, or nobody knows.
    Nothing,
}

fn with_alpn(tls: &Arc<rustls::ClientConfig>, alpn: Alpn) -> Arc<rustls::ClientConfig> {
    if alpn == Alpn::Configured {
        return tls.clone();
    }
    let mut config = rustls::ClientConfig::clone(tls);
    config.alpn_protocols = if alpn == Alpn::H1 { vec![b"http/1.1".to_vec()] } else { Vec::new() };
    Arc::new(config)
}

/// Connects raw: a tunnel of bytes, nothing of HTTP.
pub async fn raw(wanted: &Wanted) -> Result<(LinkStream, InFlight), ConnectError> {
    let mut member = pick(wanted)?;
    let mut tried = Vec::new();
    loop {
        let link = Rc::new(Link::new(&wanted.session, wanted.index));
        match connect(wanted, &member, link, Alpn::Nothing).await {
            Ok(stream) => {
                member.succeeded();
                return Ok((stream, member.started()));
            }
            Err(error) => member = next_server(wanted, &member, error, &mut tried)?,
        }
    }
}

fn shared(wanted: &Wanted, member: &Arc<Member>, key: &Key) -> Option<Connection> {
    let pools = wanted.session.worker.pools.h2.borrow();
    let usable = |h2: &H2| !h2.closed.get() && h2.open.get() < H2_STREAMS_MAX;
    let (_, h2) = pools.iter().find(|(known, h2)| known == key && usable(h2))?;
    h2.open.set(h2.open.get() + 1);
    let kind = LeaseKind::H2 { open: h2.open.clone(), stream: Cell::new(None) };
    let lease = lease(wanted, member, h2.link.clone(), kind);
    Some(Connection::H2(h2.sender.clone(), lease))
}

fn lease(wanted: &Wanted, member: &Arc<Member>, link: Rc<Link>, kind: LeaseKind) -> Lease {
    Lease { worker: wanted.session.worker.clone(), link, in_flight: member.started(), kind }
}

async fn new_h1(wanted: &Wanted, member: &Arc<Member>, key: Key, stream: LinkStream, link: Rc<Link>) -> Connection {
    let (sender, upgraded) = h1_engine(stream, &wanted.session.worker, &link, member.name.clone()).await;
    let kind = LeaseKind::H1 { key: Rc::new(key), sender: None, upgraded: Some(upgraded), body: None, persists: false };
    Connection::H1(sender, lease(wanted, member, link, kind))
}

/// An engine for the stream, which gives it up when the origin has switched protocols or it is to be handed over.
async fn h1_engine(
    stream: LinkStream,
    worker: &Worker,
    link: &Rc<Link>,
    server: Arc<str>,
) -> (http1::SendRequest<RequestBody>, oneshot::Receiver<Upgraded>) {
    let setup = worker.setup();
    let limits = &setup.config.limits;
    let mut builder = http1::Builder::new();
    builder.max_headers(limits.response_headers_max).max_buf_size(limits.origin_buffer_bytes());
    let handshake = builder.handshake::<_, RequestBody>(TokioIo::new(stream)).await;
    // The h1 handshake does no I/O and cannot fail.
    let (sender, mut connection) = match handshake {
        Ok(parts) => parts,
        Err(never) => unreachable!("an h1 handshake does no I/O: {never}"),
    };
    let (hand_over, upgraded) = oneshot::channel();
    let link = link.clone();
    spawn(async move {
        let done = poll_fn(|cx| match link.is_handed_over.get() {
            true => Poll::Ready(Ok(())),
            false => connection.poll_without_shutdown(cx),
        });
        if let Err(error) = done.await {
            debug!(%error, %server, "connection to the origin failed");
            return;
        }
        let parts = connection.into_parts();
        // Where neither is so nobody waits for it.
        drop(hand_over.send((parts.io.into_inner(), parts.read_buf)));
    });
    (sender, upgraded)
}

async fn new_h2(
    wanted: &Wanted,
    member: &Arc<Member>,
    key: Key,
    stream: LinkStream,
    link: Rc<Link>,
) -> Result<Connection, ConnectError> {
    link.becomes_h2();
    let handshake = h2::client::Builder::new()
        .initial_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .max_send_buffer_size(256 << 10)
        .enable_push(false)
        .handshake::<_, Bytes>(stream)
        .await;
    let (sender, connection) = handshake.map_err(|source| ConnectError::H2 { server: member.name.clone(), source })?;
    let closed = Rc::new(Cell::new(false));
    let open = Rc::new(Cell::new(1));
    let (server, is_closed) = (member.name.clone(), closed.clone());
    spawn(async move {
        if let Err(error) = connection.await {
            debug!(%error, %server, "HTTP/2 connection to the origin failed");
        }
        is_closed.set(true);
    });
    let kind = LeaseKind::H2 { open: open.clone(), stream: Cell::new(None) };
    let lease = lease(wanted, member, link.clone(), kind);
    let shared =
        H2 { sender: sender.clone(), link, open, closed, idle_since_us: wanted.session.worker.coarse_now_us() };
    wanted.session.worker.pools.h2.borrow_mut().push((key, shared));
    Ok(Connection::H2(sender, lease))
}

/// Sends a request as a stream of a shared connection; its body follows by a task of its own.
pub async fn send_h2(
    wanted: &Wanted,
    sender: h2::client::SendRequest<Bytes>,
    lease: Lease,
    request: http::Request<RequestBody>,
) -> Result<(http::Response<h2::RecvStream>, Lease), h2::Error> {
    let (mut parts, body) = request.into_parts();
    let scheme = if wanted.upstream.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP };
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(scheme);
    let host = parts.headers.remove(HOST);
    uri.authority = host.and_then(|host| Authority::from_maybe_shared(host).ok());
    uri.path_and_query = parts.uri.path_and_query().cloned();
    parts.uri = Uri::from_parts(uri).unwrap_or(parts.uri);
    parts.version = http::Version::HTTP_2;
    let no_body = body.is_end_stream();
    let mut ready = sender.ready().await?;
    let (response, stream) = ready.send_request(http::Request::from_parts(parts, ()), no_body)?;
    lease.streams(u64::from(stream.stream_id().as_u32()), &wanted.session, wanted.index);
    if !no_body {
        let session = wanted.session.clone();
        let index = wanted.index;
        spawn(async move {
            if let Err(error) = pump::pump(body, stream, &session, index).await {
                debug!(%error, "the request body did not reach the origin whole");
            }
        });
    }
    match response.await {
        Ok(response) => {
            lease.succeeded();
            Ok((response, lease))
        }
        Err(error) => {
            // A stream that the origin refuses is not a failed server.
            if error.is_io() || error.is_go_away() {
                lease.failed();
            }
            Err(error)
        }
    }
}
