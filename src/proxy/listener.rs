//! From accept to the engine: admission, PROXY header, TLS, protocol.
//!
//! One listening socket per listener, shared by all workers, so that a process can hand it over to its successor with
//! every connection that the kernel already holds. Each worker accepts for itself.
//!
//! *At the descriptor limit* accepting pauses for a moment, says so once, and goes on by itself.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::ReadBuf;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

use super::forwarded::is_trusted;
use super::proxy_protocol::{self, Parsed, ProxyHeader};
use super::session::{Identity, Origin, Session};
use super::setup::ListenerSetup;
use super::stream::{AppStream, Transport, WireStream, read_more};
use super::worker::{Worker, spawn};
use super::{http1, http2, tcp, tls};
use crate::attribution::Facts;
use crate::config::{ForwardedHeader, ListenerKind, ProxyProtocolIn};
use crate::enrichment::Place;
use crate::event::{End, Reason, Screening, UNATTRIBUTED};
use crate::screening::{self, Action, Ruling};

/// What an HTTP/2 client with prior knowledge says first (RFC 9113 §3.4).
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Pause after the kernel had no descriptor for us.
const SHED_PAUSE: Duration = Duration::from_millis(100);

/// Accepts for one worker until `stop` says so; connections go on.
pub async fn accept(worker: Rc<Worker>, name: Arc<str>, listener: TcpListener, stop: impl Future<Output = ()>) {
    let mut stop = std::pin::pin!(stop);
    let mut shedding = false;
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut stop => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((tcp, peer)) => {
                if std::mem::take(&mut shedding) {
                    warn!(listener = %name, "descriptors are free again: accepting");
                }
                admit(&worker, &name, tcp, peer);
            }
            Err(error) if is_exhaustion(&error) => {
                worker.metrics.sessions_shed.increment(1);
                if !std::mem::replace(&mut shedding, true) {
                    warn!(listener = %name, %error, "no descriptor for another connection: new ones wait in the kernel's queue");
                }
                tokio::time::sleep(SHED_PAUSE).await;
            }
            // The client was gone before it was accepted.
            Err(error) => debug!(listener = %name, %error, "accept"),
        }
    }
}

fn is_exhaustion(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

fn admit(worker: &Rc<Worker>, name: &Arc<str>, tcp: TcpStream, peer: SocketAddr) {
    let setup = worker.setup();
    let Some(listener) = setup.listener_named(name).cloned() else { return };
    let limits = &setup.config.limits;
    let admitted = worker.node.is_accepting()
        && worker.node.admit(peer.ip(), limits.connections_max, limits.connections_per_source_max);
    if !admitted {
        worker.metrics.sessions_refused.increment(1);
        let peer = setup.privacy.text(setup.privacy.strictest(), peer, worker.coarse_now_us());
        debug!(peer, "connection turned away");
        // Dropped: the kernel says RST or FIN. Nothing was moved, so nothing is recorded.
        return;
    }
    let Some(session) = Session::begin(worker, tcp, Identity::of_peer(peer, listener.name.clone())) else {
        worker.node.release(peer.ip());
        worker.metrics.sessions_refused.increment(1);
        return;
    };
    spawn(async move {
        serve(&session, listener).await;
        session.finish().await;
    });
}

async fn serve(session: &Rc<Session>, listener: Arc<ListenerSetup>) {
    let setup = session.worker.setup();
    let limits = &setup.config.limits;
    // Nothing is allocated for a client that has said nothing: a readable socket, or the sweep, comes first.
    let early = match listener.config.kind {
        ListenerKind::Http => session.first_octets().await,
        _ => Some(Bytes::new()),
    };
    let Some(early) = early else {
        session.attribute_by(&listener, None);
        return;
    };
    let early = match read_proxy_header(session, &listener, early, limits.header_read_timeout).await {
        Ok(early) => early,
        Err(error) => {
            debug!(session = %session.id, %error, "PROXY header refused");
            session.attribute_by(&listener, None);
            session.ends(End::ProtocolError, Reason::BadRequest);
            return;
        }
    };
    if listener.config.kind == ListenerKind::TlsPassthrough {
        return Box::pin(tcp::passthrough(session, &listener, early)).await;
    }
    let transport = match &listener.tls {
        None => Transport::Plain(WireStream::new(session.clone())),
        Some(config) => {
            session.becomes_tls();
            let accept =
                TlsAcceptor::from(config.clone()).accept(WireStream::replaying(early.clone(), session.clone()));
            let accepted = tokio::select! {
                accepted = timeout(limits.tls_handshake_timeout, Box::pin(accept)) => accepted,
                () = session.cut_signal() => return session.attribute_by(&listener, None),
            };
            match accepted {
                Ok(Ok(stream)) => {
                    let connection = stream.get_ref().1;
                    session.identify(|identity| learn_tls(identity, connection));
                    Transport::Tls(Box::new(stream))
                }
                Ok(Err(error)) => {
                    debug!(session = %session.id, %error, "TLS handshake failed");
                    session.attribute_by(&listener, None);
                    return session.ends(End::TlsError, Reason::NoRequest);
                }
                Err(_) => {
                    session.worker.metrics.timeouts.increment(1);
                    session.attribute_by(&listener, None);
                    return session.ends(End::Timeout, Reason::NoRequest);
                }
            }
        }
    };
    let mut stream = AppStream::new(transport, session.clone());
    let early = if session.is_plain() { early } else { Bytes::new() };
    if listener.config.kind == ListenerKind::Tcp {
        return Box::pin(tcp::terminated(session, &listener, stream, early)).await;
    }
    let Ok(is_h2) = speaks_h2(session, &listener, &mut stream, early).await else {
        return;
    };
    session.announce();
    if is_h2 {
        Box::pin(http2::serve(session.clone(), stream)).await;
    } else {
        Box::pin(http1::serve(session.clone(), stream)).await;
    }
}

/// Reads the PROXY header where one is due, whose beginning may be in `early`. Returns what was read behind it.
async fn read_proxy_header(
    session: &Rc<Session>,
    listener: &ListenerSetup,
    early: Bytes,
    limit: Duration,
) -> io::Result<Bytes> {
    let config = &listener.config;
    let trusted = is_trusted(session.peer_ip(), &config.trusted_proxies);
    match config.proxy_protocol {
        ProxyProtocolIn::Off => return Ok(early),
        ProxyProtocolIn::Optional if !trusted => return Ok(early),
        ProxyProtocolIn::Required if !trusted && !config.trusted_proxies.is_empty() => {
            return Err(io::Error::other("the peer is not a trusted proxy"));
        }
        ProxyProtocolIn::Optional | ProxyProtocolIn::Required => {}
    }
    let read = async {
        let mut received = early.to_vec();
        session.preamble_is(received.len());
        loop {
            match proxy_protocol::parse(&received).map_err(io::Error::other)? {
                Parsed::Header { header, bytes } => {
                    session.preamble_is(bytes);
                    learn_proxy(session, &header, trusted);
                    return Ok(Bytes::from(received.split_off(bytes)));
                }
                Parsed::NotProxy if config.proxy_protocol == ProxyProtocolIn::Optional => {
                    session.preamble_is(0);
                    return Ok(Bytes::from(received));
                }
                Parsed::NotProxy => return Err(io::Error::other("a PROXY header is required")),
                Parsed::Incomplete => {}
            }
            if read_more(session, &mut received).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            session.preamble_is(received.len());
        }
    };
    match timeout(limit, read).await {
        Ok(result) => result,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

fn learn_proxy(session: &Session, header: &ProxyHeader, is_trusted: bool) {
    if header.local {
        // The proxy's own check: nobody's traffic.
        session.ends_billing(Reason::HealthCheck);
        return;
    }
    session.identify(|identity| {
        if let Some(source) = header.source {
            identity.client = source;
        }
        if let Some(authority) = &header.authority {
            identity.sni = Arc::from(authority.as_str());
        }
        if is_trusted {
            identity.proxy_fields = header.fields.iter().map(|(kind, value)| (*kind, field_text(value))).collect();
        }
    });
}

/// A field as text: what is written in it (cloud providers put a subtype before it), or its hexadecimal digits.
fn field_text(value: &[u8]) -> Box<str> {
    let written = match value {
        [subtype, rest @ ..] if *subtype < b' ' => rest,
        all => all,
    };
    match str::from_utf8(written) {
        Ok(text) if !text.is_empty() && !text.chars().any(char::is_control) => text.into(),
        _ => value.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into(),
    }
}

fn learn_tls(identity: &mut Identity, connection: &rustls::ServerConnection) {
    identity.tls_version = match connection.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_3) => "1.3",
        Some(rustls::ProtocolVersion::TLSv1_2) => "1.2",
        _ => "",
    };
    if let Some(name) = connection.server_name() {
        identity.sni = Arc::from(name);
    }
    if let Some(certificate) = connection.peer_certificates().and_then(|chain| chain.first()) {
        match tls::subject(certificate) {
            Ok(subject) => identity.tls_subject = Arc::from(subject.as_str()),
            Err(error) => debug!(%error, "client certificate without a readable subject"),
        }
        identity.tls_sans = tls::alternative_names(certificate).into();
    }
}

/// What the client speaks: by ALPN, else by its first octets. Never waits for more octets than decide. The session knows
/// who it is before its meter is shown any octet: a request begins with what is known then.
async fn speaks_h2(
    session: &Rc<Session>,
    listener: &ListenerSetup,
    stream: &mut AppStream,
    early: Bytes,
) -> io::Result<bool> {
    if let Some(alpn) = stream.alpn() {
        let is_h2 = alpn == b"h2" && listener.config.http2;
        session.speaks(listener, is_h2);
        return Ok(is_h2);
    }
    if !listener.config.http2 {
        session.speaks(listener, false);
        stream.replay(early);
        return Ok(false);
    }
    let decides = |first: &[u8]| first.len() >= H2_PREFACE.len() || !H2_PREFACE.starts_with(first);
    if decides(&early) {
        let is_h2 = early.starts_with(H2_PREFACE);
        session.speaks(listener, is_h2);
        stream.replay(early);
        return Ok(is_h2);
    }
    let mut first = early.to_vec();
    let peek = async {
        while !decides(&first) {
            let mut piece = [0; 24];
            let mut buf = ReadBuf::new(&mut piece[..H2_PREFACE.len() - first.len()]);
            poll_fn(|cx| stream.poll_peek(cx, &mut buf)).await?;
            if buf.filled().is_empty() {
                break;
            }
            first.extend_from_slice(buf.filled());
        }
        io::Result::Ok(())
    };
    let limit = session.worker.setup().config.limits.header_read_timeout;
    let peeked = tokio::select! {
        peeked = timeout(limit, peek) => Some(peeked),
        () = session.cut_signal() => None,
    };
    let is_h2 = first.starts_with(H2_PREFACE);
    session.speaks(listener, is_h2);
    stream.replay(Bytes::from(first));
    match peeked {
        Some(Ok(Ok(()))) => {}
        Some(Ok(Err(error))) => session.failed(&error),
        Some(Err(_)) => {
            session.worker.metrics.timeouts.increment(1);
            session.ends(End::Timeout, Reason::Unspecified);
            return Err(io::ErrorKind::TimedOut.into());
        }
        None => return Err(io::ErrorKind::Interrupted.into()),
    }
    Ok(is_h2)
}

impl Session {
    /// The protocol is known, and with it everything that the connection itself tells of its client.
    fn speaks(&self, listener: &ListenerSetup, is_h2: bool) {
        self.learn(|identity| identity.protocol = if is_h2 { "h2" } else { "h1" });
        self.attribute_by(listener, None);
        if is_h2 {
            self.meter_h2();
        } else {
            self.meter_h1();
        }
    }

    /// Decides the account, and what the screening rules say, by what is known of the connection itself. A proxy's own health check stays
    /// nobody's.
    pub fn attribute_by(&self, listener: &ListenerSetup, route: Option<usize>) {
        if self.is_health_check() {
            return self.identify(|_| ());
        }
        let at_us = self.worker.coarse_now_us();
        let client = self.identity().client.ip();
        let place = self.worker.node.enrichment.look_up(client);
        let attribution = {
            let identity = self.identity();
            listener.attributor.attribute(
                &Facts {
                    listener: &listener.name,
                    host: &identity.sni,
                    path: "",
                    sni: &identity.sni,
                    tls_subject: &identity.tls_subject,
                    tls_sans: &identity.tls_sans,
                    proxy_fields: &identity.proxy_fields,
                    client,
                    client_account: place.account.as_ref(),
                    networks_version: place.accounts_version,
                    is_trusted: is_trusted(client, &listener.config.trusted_proxies),
                    at_us,
                    headers: None,
                },
                route,
            )
        };
        let ruling = judge(self, &place, &attribution.account, at_us);
        let metrics = self.worker.metrics;
        match ruling.verdict {
            Screening::Match => metrics.screened_matches.increment(1),
            Screening::Indeterminate => metrics.screened_indeterminate.increment(1),
            Screening::Clear | Screening::Unspecified => {}
        }
        if ruling.action == Action::Refuse && listener.config.forwarded == ForwardedHeader::Off {
            self.ends_billing(Reason::Screened);
        }
        if self.is_raw_tunnel() && *attribution.rule == *UNATTRIBUTED {
            self.worker.count_unattributed();
        }
        let accounts_version = match attribution.accounts_version {
            0 => place.accounts_version,
            version => version,
        };
        self.locate(Origin { place, ruling });
        self.identify(|identity| {
            identity.account = attribution.account;
            identity.endpoint = attribution.endpoint;
            identity.attribution = attribution.rule;
            identity.accounts_version = accounts_version;
        });
    }
}

/// What the screening rules say of traffic from there for this account.
pub(super) fn judge(session: &Session, place: &Place, account: &str, at_us: i64) -> Ruling {
    session.worker.setup().screen.judge(&screening::Facts {
        country: &place.country,
        region: &place.region,
        asn: place.asn,
        labels: &place.labels,
        account,
        at_us,
    })
}
