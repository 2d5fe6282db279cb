//! A session: one downstream connection, what it moved, and the exchanges inside it.
//!
//! The session owns the socket; the streams that the TLS and HTTP engines hold are views of it (`stream.rs`). So the
//! socket outlives the engine, and at the end the session can wait for the last acknowledgement, ask the kernel for its
//! own counts, and state what explains each difference.
//!
//! *Columns.* `wire` is counted at the socket, `app` above TLS, `body` and the exchange of every octet by the meter that
//! the app octets are shown to. What belongs to no exchange is overhead: h2 stream 0, the preface, garbage.
//!
//! *Once.* An exchange's close is written when its last octet is acknowledged, its session ends, or a checkpoint comes,
//! whichever is first; until then it is held in its slot. A session is closed by [`Session::finish`], or, if its task
//! died, by `Drop`: whatever happens there is one close.
//!
//! *Undelivered.* Octets written and never acknowledged are charged back to the exchanges written last.

use std::cell::{Cell, OnceCell, Ref, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tracing::{debug, error};

use super::exchange::{Exchange, Exchanges};
use super::flood::FloodGate;
use super::kernel::{self, TcpCounts};
use super::recorder::{Facts, Measured, Verdict};
use super::stream::WireStream;
use super::worker::Worker;
use crate::enrichment::Place;
use crate::event::{Addresses, End, Kind, PlaceNote, Reason, RequestNote, SessionNote, UNATTRIBUTED};
use crate::ids::Id;
use crate::meter::{Burden, Direction, H1Meter, H2Meter, Tally, Violation};
use crate::screening::Ruling;
use crate::units::Column;

/// Most octets that the first read takes: usually the whole first head.
const FIRST_READ_BYTES: usize = 1024;

/// How long a session at most lingers that was cut for what its client does.
const CUT_LINGER: Duration = Duration::from_millis(200);

/// Why a session is to end before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The head of a request took too long: 408.
    HeadTimeout,
    /// No request for too long.
    KeepAlive,
    /// No byte moved for too long, or the whole took too long.
    Timeout,
    /// The client floods.
    Flood,
    /// The drain's deadline has passed.
    Drain,
    /// The client has reset while nobody read from it or wrote to it.
    Gone,
}

/// What the HTTP meter of a session is.
enum HttpMeter {
    /// Not HTTP, or not known yet.
    None,
    H1(Box<H1Meter>),
    H2(Box<H2Meter>),
    /// Raw TCP: every app octet is payload.
    Tunnel,
}

/// What is known of the client; complete once the handshakes are over.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The client: the peer, or who a trusted PROXY header names.
    pub client: SocketAddr,
    /// The TCP peer.
    pub peer: SocketAddr,
    /// Billed account.
    pub account: Arc<str>,
    /// What of the account's was reached.
    pub endpoint: Arc<str>,
    /// The rule that decided.
    pub attribution: Arc<str>,
    /// Name of the listener.
    pub listener: Arc<str>,
    /// `h1`, `h2`, `tcp`, `tls-passthrough`; empty before it is known.
    pub protocol: &'static str,
    /// `1.2`, `1.3`, or empty.
    pub tls_version: &'static str,
    /// Server name the client asked for.
    pub sni: Arc<str>,
    /// Subject of the client's certificate.
    pub tls_subject: Arc<str>,
    /// Its alternative names.
    pub tls_sans: Arc<[Box<str>]>,
    /// Fields of a trusted peer's PROXY header, by type.
    pub proxy_fields: Arc<[(u8, Box<str>)]>,
    /// Version of the table that named the account, or of the table of networks.
    pub accounts_version: i64,
}

/// Where the client is, and what the screening rules say of it.
#[derive(Clone, Debug)]
pub struct Origin {
    /// What is known of its address.
    pub place: Place,
    /// The verdict.
    pub ruling: Ruling,
}

impl Identity {
    /// What is known at accept.
    pub fn of_peer(peer: SocketAddr, listener: Arc<str>) -> Self {
        let empty: Arc<str> = Arc::from("");
        Self {
            client: peer,
            peer,
            account: Arc::from(UNATTRIBUTED),
            endpoint: empty.clone(),
            attribution: empty.clone(),
            listener,
            protocol: "",
            tls_version: "",
            sni: empty.clone(),
            tls_subject: empty,
            tls_sans: Arc::new([]),
            proxy_fields: Arc::new([]),
            accounts_version: 0,
        }
    }
}

/// One downstream connection.
pub struct Session {
    /// The worker that serves it.
    pub worker: Rc<Worker>,
    /// Its identity.
    pub id: Id,
    /// When it was accepted, µs.
    pub started_at_us: i64,
    tcp: RefCell<TcpStream>,
    measured: RefCell<Option<Measured>>,
    identity: RefCell<Identity>,
    /// Known when the handshakes are over.
    origin: RefCell<Option<Origin>>,
    /// Client and peer as they may be written.
    shown: Cell<Addresses>,
    client_text: OnceCell<HeaderValue>,
    note: RefCell<Vec<u8>>,
    meter: RefCell<HttpMeter>,
    exchanges: RefCell<Exchanges>,
    violation: Cell<Option<(Option<u64>, Violation)>>,
    flood_gate: FloodGate,
    /// Octets of the PROXY header and of TLS ClientHellos read before an engine: wire, not app.
    preamble_bytes: Cell<u64>,
    plain: Cell<bool>,
    tls_unflushed: Cell<bool>,
    has_request: Cell<bool>,
    saw_eof: Cell<bool>,
    saw_reset: Cell<bool>,
    end: Cell<End>,
    reason: Cell<Reason>,
    cut: Cell<Option<Cut>>,
    draining: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    /// When a byte last moved, by the worker's coarse clock.
    pub active_at_us: Cell<i64>,
    metric_received: Cell<u64>,
    metric_sent: Cell<u64>,
    /// When it was last asked for a checkpoint, µs.
    pub checkpointed_at_us: Cell<i64>,
    injected: RefCell<VecDeque<Bytes>>,
    parking: Cell<bool>,
    parked: Cell<bool>,
}

impl Session {
    /// Begins to measure a connection just accepted; `None` when there is no slot.
    pub fn begin(worker: &Rc<Worker>, tcp: TcpStream, identity: Identity) -> Option<Rc<Self>> {
        let started_at_us = worker.recorder.now_us();
        let id = worker.recorder.next_id(started_at_us);
        let mut note = Vec::with_capacity(256);
        let shown = show(worker, &identity, started_at_us);
        encode_identity(id, &identity, shown, &mut note);
        let measured = worker.recorder.measure(Kind::Session, started_at_us, note.clone())?;
        let session = Rc::new(Self {
            worker: worker.clone(),
            id,
            started_at_us,
            tcp: RefCell::new(tcp),
            measured: RefCell::new(Some(measured)),
            identity: RefCell::new(identity),
            origin: RefCell::new(None),
            shown: Cell::new(shown),
            client_text: OnceCell::new(),
            note: RefCell::new(note),
            meter: RefCell::new(HttpMeter::None),
            exchanges: RefCell::new(Exchanges::default()),
            violation: Cell::new(None),
            flood_gate: FloodGate::default(),
            preamble_bytes: Cell::new(0),
            plain: Cell::new(true),
            tls_unflushed: Cell::new(false),
            has_request: Cell::new(false),
            saw_eof: Cell::new(false),
            saw_reset: Cell::new(false),
            end: Cell::new(End::Unspecified),
            reason: Cell::new(Reason::Unspecified),
            cut: Cell::new(None),
            draining: Cell::new(false),
            waker: RefCell::new(None),
            active_at_us: Cell::new(started_at_us),
            metric_received: Cell::new(0),
            metric_sent: Cell::new(0),
            checkpointed_at_us: Cell::new(started_at_us),
            injected: RefCell::default(),
            parking: Cell::new(false),
            parked: Cell::new(false),
        });
        worker.adopt(&session);
        Some(session)
    }

    // ---- identity ----------------------------------------------------------------------------------------------

    /// What is known of the client.
    pub fn identity(&self) -> Ref<'_, Identity> {
        self.identity.borrow()
    }

    /// Learns more of the client; the slot knows it at once.
    pub fn identify(&self, change: impl FnOnce(&mut Identity)) {
        change(&mut self.identity.borrow_mut());
        self.shown.set(show(&self.worker, &self.identity.borrow(), self.worker.coarse_now_us()));
        let mut note = self.note.borrow_mut();
        note.clear();
        encode_identity(self.id, &self.identity.borrow(), self.shown.get(), &mut note);
        if let Some(origin) = &*self.origin.borrow() {
            origin.encode(self.identity.borrow().accounts_version, &mut note);
        }
        self.with(|measured| measured.set_note(&note));
    }

    /// Learns where the client is; to be followed by [`Session::identify`].
    pub fn locate(&self, origin: Origin) {
        *self.origin.borrow_mut() = Some(origin);
    }

    /// Where the client is, once known.
    pub fn origin(&self) -> Ref<'_, Option<Origin>> {
        self.origin.borrow()
    }

    /// The client's country, or empty.
    pub fn country(&self) -> Box<str> {
        self.origin.borrow().as_ref().map(|origin| origin.place.country.clone()).unwrap_or_default()
    }

    /// Client and peer as they may be written.
    pub fn shown(&self) -> Addresses {
        self.shown.get()
    }

    /// The client's address as text; asked for once the handshakes are over.
    pub fn client_text(&self) -> HeaderValue {
        let text = || {
            let text = self.identity.borrow().client.ip().to_canonical().to_string();
            // Digits, dots and colons are a valid value.
            HeaderValue::from_maybe_shared(text.into_bytes()).unwrap_or(HeaderValue::from_static("unknown"))
        };
        self.client_text.get_or_init(text).clone()
    }

    /// All that the connection itself tells of its client is known: shows the session in the live table.
    pub fn announce(&self) {
        self.with(|measured| self.worker.node.sessions.insert(self, measured.view()));
    }

    /// Whose its first request is, if not whose the connection by itself is: the whole session's from here on. What the next requests
    /// begin with stays as it is, for some may have begun already.
    pub fn first_request_is(&self, owner: &RequestNote<'_>) {
        if self.has_request.replace(true) {
            return;
        }
        self.with(|measured| measured.append_note(|bytes| owner.encode(bytes)));
        if !owner.account.is_empty() {
            self.worker.node.sessions.belongs_to(self.id, owner.account);
        }
        self.open();
    }

    /// Records the opening, unless some record states the session already.
    pub fn open(&self) {
        self.with(|measured| {
            if !measured.is_recorded() {
                self.worker.recorder.open(measured);
            }
        });
    }

    /// TLS is spoken: wire and app octets differ from here on.
    pub fn becomes_tls(&self) {
        self.plain.set(false);
    }

    /// True without TLS.
    pub fn is_plain(&self) -> bool {
        self.plain.get()
    }

    // ---- the socket --------------------------------------------------------------------------------------------

    /// The socket, for the streams that read and write it.
    pub fn tcp(&self) -> &RefCell<TcpStream> {
        &self.tcp
    }

    /// Octets were read from the socket.
    pub fn wire_received(&self, n: usize) {
        if !cfg!(feature = "unmetered") {
            self.add(Column::ReceivedWire, n as u64);
        }
        self.active_at_us.set(self.worker.coarse_now_us());
    }

    /// Octets were written to the socket.
    pub fn wire_sent(&self, n: usize) {
        if !cfg!(feature = "unmetered") {
            self.add(Column::SentWire, n as u64);
        }
        self.active_at_us.set(self.worker.coarse_now_us());
    }

    /// A write of this size is about to be made; 0 after it returned.
    pub fn pending(&self, bytes: usize) {
        if cfg!(feature = "unmetered") {
            return;
        }
        self.with(|measured| measured.set_pending(bytes as u64));
    }

    /// The client has sent its FIN.
    pub fn eof_seen(&self) {
        self.saw_eof.set(true);
    }

    /// The socket failed.
    pub fn failed(&self, error: &std::io::Error) {
        debug!(session = %self.id, %error, "the client's connection failed");
        self.saw_reset.set(true);
    }

    /// So many octets were read before any engine (PROXY header, or what should have been one): wire, not app.
    pub fn preamble_is(&self, n: usize) {
        self.preamble_bytes.set(n as u64);
    }

    // ---- what the engines read and write -----------------------------------------------------------------------

    /// From here on the app octets are HTTP/1.
    pub fn meter_h1(&self) {
        *self.meter.borrow_mut() = HttpMeter::H1(Box::default());
    }

    /// From here on the app octets are HTTP/2, beginning with the client preface.
    pub fn meter_h2(&self) {
        *self.meter.borrow_mut() = HttpMeter::H2(Box::default());
    }

    /// From here on the app octets are a raw tunnel's.
    pub fn meter_tunnel(&self) {
        *self.meter.borrow_mut() = HttpMeter::Tunnel;
    }

    /// App octets came from the client.
    pub fn app_received(&self, bytes: &[u8]) {
        if cfg!(feature = "unmetered") {
            return;
        }
        self.add(Column::ReceivedApp, bytes.len() as u64);
        self.feed(bytes, Direction::Received);
    }

    /// App octets went to the client (or, under TLS, to its engine).
    pub fn app_sent(&self, bytes: &[u8]) {
        if cfg!(feature = "unmetered") {
            return;
        }
        self.add(Column::SentApp, bytes.len() as u64);
        if !self.plain.get() {
            self.tls_unflushed.set(true);
        }
        self.feed(bytes, Direction::Sent);
    }

    /// Octets of a tunnel passed inside the kernel: app and payload at once. `exchange`: the upgraded one, or none where
    /// the session is the tunnel.
    pub fn tunnel_moved(&self, exchange: Option<u64>, direction: Direction, n: u64) {
        let mut exchanges = self.exchanges.borrow_mut();
        let mut tally = Count { session: self, exchanges: &mut exchanges };
        let (app, body) = match direction {
            Direction::Received => (Column::ReceivedApp, Column::ReceivedBody),
            Direction::Sent => (Column::SentApp, Column::SentBody),
        };
        self.add(app, n);
        // An exchange's payload is added to the session's with it.
        let payload = if exchange.is_some() { n } else { 0 };
        self.add(body, n - payload);
        match direction {
            Direction::Received => tally.received(exchange, n, payload),
            Direction::Sent => tally.sent(exchange, n, payload),
        }
    }

    /// What TLS held back has reached the socket.
    pub fn flushed(&self) {
        if self.tls_unflushed.replace(false) {
            let sent = self.value(Column::SentWire);
            let mut exchanges = self.exchanges.borrow_mut();
            let exchanges = &mut *exchanges;
            for exchange in exchanges.open.iter_mut().chain(&mut exchanges.held).filter(|exchange| exchange.unflushed) {
                exchange.unflushed = false;
                exchange.sent_until = sent;
            }
        }
    }

    fn feed(&self, bytes: &[u8], direction: Direction) {
        let mut exchanges = self.exchanges.borrow_mut();
        let mut tally = Count { session: self, exchanges: &mut exchanges };
        match (&mut *self.meter.borrow_mut(), direction) {
            (HttpMeter::H1(meter), Direction::Received) => meter.feed_received(bytes, &mut tally),
            (HttpMeter::H1(meter), Direction::Sent) => meter.feed_sent(bytes, &mut tally),
            (HttpMeter::H2(meter), Direction::Received) => {
                meter.feed_received(bytes, &mut tally);
                self.watch_for_flood(meter.burden());
            }
            (HttpMeter::H2(meter), Direction::Sent) => meter.feed_sent(bytes, &mut tally),
            (HttpMeter::Tunnel, direction) => {
                let body = match direction {
                    Direction::Received => Column::ReceivedBody,
                    Direction::Sent => Column::SentBody,
                };
                self.add(body, bytes.len() as u64);
                match direction {
                    Direction::Received => tally.received(None, bytes.len() as u64, 0),
                    Direction::Sent => tally.sent(None, bytes.len() as u64, 0),
                }
            }
            (HttpMeter::None, Direction::Received) => tally.received(None, bytes.len() as u64, 0),
            (HttpMeter::None, Direction::Sent) => tally.sent(None, bytes.len() as u64, 0),
        }
    }

    fn watch_for_flood(&self, burden: Burden) {
        if self.flood_gate.has_news(burden) && self.cut.get().is_none() {
            let now_us = self.worker.coarse_now_us();
            if self.flood_gate.is_over(burden, now_us, &self.worker.setup().config.limits) {
                debug!(session = %self.id, ?burden, "the client floods");
                self.worker.metrics.floods.increment(1);
                self.ends(End::ProtocolError, Reason::Limited);
                self.cut(Cut::Flood);
            }
        }
    }

    // ---- exchanges ---------------------------------------------------------------------------------------------

    /// Changes an open exchange; `None` if it is not open (any more).
    pub fn exchange<R>(&self, index: u64, change: impl FnOnce(&mut Exchange) -> R) -> Option<R> {
        self.exchanges.borrow_mut().find(index).map(change)
    }

    /// Ready once the sweep has found an exchange over a limit in time.
    pub fn poll_timed_out(&self, index: u64, cx: &mut Context<'_>) -> Poll<()> {
        let timed_out = self.exchange(index, |exchange| {
            if !exchange.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                exchange.waker = Some(cx.waker().clone());
            }
            exchange.timed_out
        });
        if timed_out == Some(true) { Poll::Ready(()) } else { Poll::Pending }
    }

    /// The first violation of the grammar, if this exchange is touched by it.
    pub fn violation_of(&self, index: u64) -> Option<Violation> {
        match self.violation.get() {
            Some((Some(at), what)) if at <= index => Some(what),
            Some((None, what)) => Some(what),
            _ => None,
        }
    }

    /// Who and what a request is; the slot knows it at once.
    pub fn describe(&self, index: u64, note: &RequestNote<'_>) {
        self.exchange(index, |exchange| {
            exchange.measured.append_note(|bytes| note.encode(bytes));
            exchange.described = true;
        });
    }

    /// The same for a request of another client than the session's: nothing of where that one is may stay.
    pub fn describe_anew(&self, index: u64, note: &RequestNote<'_>, origin: &Origin, accounts_version: i64) {
        let mut bytes = Vec::with_capacity(256);
        encode_identity(self.id, &self.identity.borrow(), self.shown.get(), &mut bytes);
        self.exchange(index, |exchange| {
            RequestNote::encode_id(exchange.id, &mut bytes);
            note.encode(&mut bytes);
            origin.encode(accounts_version, &mut bytes);
            exchange.measured.set_note(&bytes);
            exchange.described = true;
        });
    }

    /// A request has become a tunnel of this protocol.
    pub fn speaks_in(&self, index: u64, protocol: &str) {
        let note = RequestNote { protocol, ..RequestNote::default() };
        self.exchange(index, |exchange| exchange.measured.append_note(|bytes| note.encode(bytes)));
    }

    /// The upstream server a request is sent to.
    pub fn sent_to(&self, index: u64, origin: &str) {
        self.exchange(index, |exchange| {
            exchange.measured.append_note_unkept(|bytes| RequestNote::encode_origin(origin, bytes));
        });
    }

    /// The upstream server that the whole session is joined with.
    pub fn sent_to_session(&self, origin: &str) {
        self.with(|measured| measured.append_note(|bytes| RequestNote::encode_origin(origin, bytes)));
    }

    /// Moved over the connection to the origin for this exchange.
    pub fn upstream_moved(&self, index: u64, column: Column, n: u64) {
        if cfg!(feature = "unmetered") {
            return;
        }
        self.add(column, n);
        let now_us = self.worker.coarse_now_us();
        self.exchange(index, |exchange| {
            exchange.measured.add(column, n);
            exchange.active_at_us = now_us;
        });
    }

    /// How many exchanges have begun.
    pub fn begun(&self) -> u64 {
        self.exchanges.borrow().begun
    }

    /// No exchange is open.
    pub fn is_idle(&self) -> bool {
        self.exchanges.borrow().open.is_empty()
    }

    /// Runs over every open exchange.
    pub fn each_open(&self, mut visit: impl FnMut(&mut Exchange)) {
        self.exchanges.borrow_mut().open.iter_mut().for_each(&mut visit);
    }

    /// Writes the closes of held exchanges whose last octet is acknowledged.
    pub fn settle(&self) {
        self.settle_held(&mut self.exchanges.borrow_mut());
    }

    fn settle_held(&self, exchanges: &mut Exchanges) {
        if exchanges.held.is_empty() || self.tls_unflushed.get() {
            return;
        }
        let Ok(unacked) = kernel::unacked_bytes(&*self.tcp.borrow()) else { return };
        let acked = self.value(Column::SentWire).saturating_sub(unacked);
        while exchanges.held.front().is_some_and(|held| held.sent_until <= acked) {
            let Some(held) = exchanges.held.pop_front() else { break };
            self.close_exchange(held, 0);
        }
    }

    /// Interim records of the session and of all that is open in it.
    pub fn checkpoint(&self) {
        self.settle();
        let mut exchanges = self.exchanges.borrow_mut();
        // Held exchanges do not outlive a checkpoint; what is acknowledged later is in the session's own record.
        while let Some(held) = exchanges.held.pop_front() {
            let unacked = kernel::unacked_bytes(&*self.tcp.borrow()).unwrap_or(0);
            self.close_exchange(held, unacked);
        }
        let recorder = &self.worker.recorder;
        // What TLS holds back is in no count of the kernel's.
        let unacked = if self.tls_unflushed.get() { None } else { kernel::unacked_bytes(&*self.tcp.borrow()).ok() };
        for exchange in &exchanges.open {
            if let Some(unacked) = unacked {
                acknowledge(exchange, unacked);
            }
            // Whose it is becomes known with its head: a record before that would charge nobody.
            if exchange.described && exchange.measured.has_news() {
                recorder.checkpoint(&exchange.measured, Facts::default());
            }
        }
        drop(exchanges);
        let audit = self.audit_open();
        self.with(|measured| {
            if measured.has_news() || !audit.is_empty() {
                recorder.checkpoint(measured, Facts { audit: &audit, ..Facts::default() });
            }
        });
        self.publish_metrics();
    }

    /// The hour has turned: records what moved in the one before.
    pub fn close_hour(&self, now_us: i64) {
        let recorder = &self.worker.recorder;
        let exchanges = self.exchanges.borrow();
        for exchange in exchanges.open.iter().chain(&exchanges.held) {
            recorder.close_hour(&exchange.measured, now_us, Facts::default());
        }
        self.with(|measured| recorder.close_hour(measured, now_us, Facts::default()));
    }

    // ---- ending ------------------------------------------------------------------------------------------------

    /// Asks the session's task to end it.
    pub fn cut(&self, why: Cut) {
        if self.cut.get().is_none() {
            self.cut.set(Some(why));
            self.wake();
        }
    }

    /// Asks the session's task to end it when what is open has ended.
    pub fn drain(&self) {
        if !self.draining.replace(true) {
            self.wake();
        }
    }

    /// True once the session is to take nothing new.
    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Why it was cut, if it was.
    pub fn cut_reason(&self) -> Option<Cut> {
        self.cut.get()
    }

    /// Asks the session's task to let go of its engine: the client idles.
    pub fn park(&self) {
        self.parking.set(true);
        self.wake();
    }

    /// True once after [`Session::park`], if the client still idles.
    pub fn take_parking(&self) -> bool {
        // What TLS still holds back needs its engine's task to flush it.
        self.parking.take() && self.is_idle() && !self.tls_unflushed.get()
    }

    /// Ready when the session is cut, is to park, or begins to drain and `seen_drain` does not know it yet.
    pub fn poll_signal(&self, seen_drain: bool, cx: &mut Context<'_>) -> Poll<()> {
        if self.parking.get() || (self.draining.get() && !seen_drain) {
            return Poll::Ready(());
        }
        self.poll_cut(cx)
    }

    fn poll_cut(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.cut.get().is_some() {
            return Poll::Ready(());
        }
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Waits until there is something to read. False if the session is to end without it: cut, or a drain, in which a
    /// client that says nothing is owed nothing.
    pub async fn readable(&self) -> bool {
        self.parked.set(true);
        let readable = poll_fn(|cx| {
            // The runtime's word that it is readable may be a false alarm, which only a read clears: a look is one.
            let mut octet = [0];
            let look = self.tcp.borrow().poll_peek(cx, &mut ReadBuf::new(&mut octet));
            if let Poll::Ready(result) = look {
                return Poll::Ready(match result {
                    Ok(_) => true,
                    Err(error) => {
                        self.failed(&error);
                        false
                    }
                });
            }
            self.poll_signal(false, cx).map(|()| false)
        });
        let readable = readable.await;
        self.parked.set(false);
        readable
    }

    /// Waits for the client's first octets and reads them, wire octets so far. `None` if the session is to end without
    /// them; empty at the client's end.
    pub async fn first_octets(self: &Rc<Self>) -> Option<Bytes> {
        self.parked.set(true);
        let mut stream = WireStream::new(self.clone());
        let first = poll_fn(|cx| {
            let mut octets = [0; FIRST_READ_BYTES];
            let mut buf = ReadBuf::new(&mut octets);
            match Pin::new(&mut stream).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) => Poll::Ready(Some(Bytes::copy_from_slice(buf.filled()))),
                Poll::Ready(Err(_)) => Poll::Ready(None),
                Poll::Pending => self.poll_signal(false, cx).map(|()| None),
            }
        });
        let first = first.await;
        self.parked.set(false);
        first
    }

    /// It has no engine: nothing is left to let go of.
    pub fn is_parked(&self) -> bool {
        self.parked.get()
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// States why the session ends; the first statement holds.
    pub fn ends(&self, end: End, reason: Reason) {
        if self.end.get() == End::Unspecified {
            self.end.set(end);
            if self.reason.get() == Reason::Unspecified {
                self.reason.set(reason);
            }
        }
    }

    /// Shuts our side down, waits (bounded) until the client has acknowledged everything, and writes what is left to
    /// write. The engine must have let go of the socket.
    pub async fn finish(self: Rc<Self>) {
        if let Some(cut) = self.cut.get() {
            self.ends(
                match cut {
                    Cut::Drain => End::Drain,
                    Cut::Flood => End::ProtocolError,
                    Cut::KeepAlive => End::Done,
                    Cut::Gone => End::ClientAbort,
                    Cut::HeadTimeout | Cut::Timeout => End::Timeout,
                },
                Reason::Unspecified,
            );
        }
        if !self.saw_reset.get() {
            let mut limit = self.worker.setup().config.limits.linger;
            if matches!(self.cut.get(), Some(Cut::Flood | Cut::HeadTimeout)) {
                // What such a client still sends is not worth the reading.
                limit = limit.min(CUT_LINGER);
            }
            super::linger::linger(&self, limit).await;
        }
        self.close();
    }

    fn close(&self) {
        self.open();
        let Some(measured) = self.measured.borrow_mut().take() else { return };
        let counts = kernel::tcp_counts(&*self.tcp.borrow(), self.saw_eof.get());
        let sent = measured.get(Column::SentWire);
        // Our FIN is counted as acknowledged too; nothing beyond what we wrote can have been.
        let acked = counts.as_ref().map_or(0, |counts| counts.bytes_acked.min(sent));
        measured.set(Column::SentAcked, acked);
        let end = self.final_end();
        self.close_exchanges(sent - acked, end);
        let exchanges = self.exchanges.borrow();
        let mut reason = self.reason.get();
        // A tunnel through which only the origin spoke is a customer's too.
        let upstream = measured.get(Column::UpstreamSent) + measured.get(Column::UpstreamReceived);
        if exchanges.begun == 0 && reason == Reason::Unspecified && upstream == 0 {
            reason = Reason::NoRequest;
        }
        let audit = match counts {
            Ok(counts) => self.audit(&measured, &counts),
            Err(error) => format!("kernel counts unavailable: {error}"),
        };
        let metrics = self.worker.metrics;
        metrics.undelivered_bytes.increment(sent - acked);
        self.worker.node.sessions.remove(self.id);
        let verdict = Verdict { status: 0, end, reason };
        measured.decide(verdict);
        *self.measured.borrow_mut() = Some(measured);
        self.publish_metrics();
        if let Some(measured) = self.measured.borrow_mut().take() {
            let facts = Facts { verdict, audit: &audit, uncertain_bytes: 0 };
            self.worker.recorder.close(measured, facts);
        }
        self.worker.released(self.identity.borrow().peer.ip());
    }

    fn final_end(&self) -> End {
        match self.end.get() {
            End::Unspecified if std::thread::panicking() => End::Internal,
            End::Unspecified if self.saw_reset.get() => End::ClientAbort,
            End::Unspecified => End::Done,
            end => end,
        }
    }

    /// Closes all exchanges; what was never acknowledged is charged to those written last.
    fn close_exchanges(&self, undelivered: u64, session_end: End) {
        let mut all: Vec<Exchange> = {
            let mut exchanges = self.exchanges.borrow_mut();
            let exchanges = &mut *exchanges;
            exchanges.held.drain(..).chain(exchanges.open.drain(..)).collect()
        };
        all.sort_by_key(|exchange| exchange.sent_until);
        let mut left = undelivered;
        let charges: Vec<u64> = all
            .iter()
            .rev()
            .map(|exchange| {
                let charge = left.min(exchange.measured.get(Column::SentApp) - acked_of(exchange));
                left -= charge;
                charge
            })
            .collect();
        for (mut exchange, charge) in all.into_iter().zip(charges.into_iter().rev()) {
            exchange.conclude(session_end);
            if charge > 0 && exchange.verdict.end == End::Done {
                // Wholly written, and not wholly taken.
                exchange.verdict.end = if session_end == End::Done { End::ClientAbort } else { session_end };
            }
            self.close_exchange(exchange, charge);
        }
    }

    fn close_exchange(&self, mut exchange: Exchange, undelivered: u64) {
        self.open();
        if self.is_health_check() {
            exchange.verdict.reason = Reason::HealthCheck;
        }
        acknowledge(&exchange, undelivered);
        let facts = Facts { verdict: exchange.verdict, ..Facts::default() };
        self.worker.recorder.close(exchange.measured, facts);
    }

    // ---- audit -------------------------------------------------------------------------------------------------

    fn audit_open(&self) -> String {
        let Ok(counts) = kernel::tcp_counts(&*self.tcp.borrow(), self.saw_eof.get()) else { return String::new() };
        let measured = self.measured.borrow();
        let Some(measured) = measured.as_ref() else { return String::new() };
        measured.set(Column::SentAcked, counts.bytes_acked.min(measured.get(Column::SentWire)));
        self.audit(measured, &counts)
    }

    /// The invariants of the four columns; empty when all hold.
    fn audit(&self, measured: &Measured, counts: &TcpCounts) -> String {
        if cfg!(feature = "unmetered") {
            return "unmetered".to_owned();
        }
        let metrics = self.worker.metrics;
        metrics.audit_sessions.increment(1);
        let exchanges = self.exchanges.borrow();
        let mut wrong = Vec::new();
        let received = measured.get(Column::ReceivedWire);
        // The kernel counts the client's FIN as an octet received. Where the connection is gone without us having
        // read to its end, a FIN may or may not have come.
        let kernel_received = counts.bytes_received - counts.unread_bytes.min(counts.bytes_received);
        let fin_possible = counts.state == kernel::STATE_CLOSE || counts.fin_received();
        let matches = if self.saw_eof.get() {
            received + 1 == kernel_received
        } else {
            received == kernel_received || (fin_possible && received + 1 == kernel_received)
        };
        if !matches {
            metrics.audit_wire_received.increment(1);
            wrong.push(format!("wire_received {received} kernel {kernel_received} state {}", counts.state));
        }
        let sent = measured.get(Column::SentWire);
        if sent != counts.written() {
            metrics.audit_wire_sent.increment(1);
            wrong.push(format!("wire_sent {sent} kernel {} state {}", counts.written(), counts.state));
        }
        let (app_received, app_sent) = (measured.get(Column::ReceivedApp), measured.get(Column::SentApp));
        if self.plain.get() && (app_received + self.preamble_bytes.get() != received || app_sent != sent) {
            metrics.audit_app_wire.increment(1);
            wrong.push(format!("plain app {app_received}/{app_sent} wire {received}/{sent}"));
        }
        let sum_received = exchanges.overhead_received + exchanges.sum_received;
        let sum_sent = exchanges.overhead_sent + exchanges.sum_sent;
        if sum_received != app_received || sum_sent != app_sent {
            metrics.audit_app_sum.increment(1);
            wrong.push(format!("sum {sum_received}/{sum_sent} app {app_received}/{app_sent}"));
        }
        if !wrong.is_empty() {
            error!(session = %self.id, difference = wrong.join("; "), "a session's counts do not agree");
        }
        wrong.join("; ")
    }

    fn publish_metrics(&self) {
        let (received, sent) = (self.value(Column::ReceivedWire), self.value(Column::SentWire));
        self.worker.metrics.received_wire_bytes.increment(received - self.metric_received.replace(received));
        self.worker.metrics.sent_wire_bytes.increment(sent - self.metric_sent.replace(sent));
    }

    // ---- informational responses -------------------------------------------------------------------------------

    /// Octets to be written before the engine's next ones.
    pub fn inject(&self, bytes: Bytes) {
        self.injected.borrow_mut().push_back(bytes);
    }

    /// Something waits to be injected.
    pub fn has_injected(&self) -> bool {
        !self.injected.borrow().is_empty()
    }

    /// The next octets to be injected.
    pub fn injected(&self) -> Option<Bytes> {
        self.injected.borrow().front().cloned()
    }

    /// What is left of [`Session::injected`] after a write.
    pub fn inject_rest(&self, rest: Bytes) {
        let mut injected = self.injected.borrow_mut();
        match injected.front_mut() {
            Some(front) if !rest.is_empty() => *front = rest,
            _ => drop(injected.pop_front()),
        }
    }

    // ---- small things ------------------------------------------------------------------------------------------

    fn with(&self, use_it: impl FnOnce(&Measured)) {
        if let Some(measured) = self.measured.borrow().as_ref() {
            use_it(measured);
        }
    }

    fn add(&self, column: Column, n: u64) {
        self.with(|measured| measured.add(column, n));
    }

    /// A counter's value; 0 once the session is closed.
    pub fn value(&self, column: Column) -> u64 {
        self.measured.borrow().as_ref().map_or(0, |measured| measured.get(column))
    }

    /// How many requests it has begun; 0 once the session is closed.
    fn requests(&self) -> u64 {
        self.measured.borrow().as_ref().map_or(0, Measured::requests)
    }

    /// Polls the socket for more from the client, to be thrown away but counted. Ready(false) at its end.
    pub fn poll_discard(&self, cx: &mut Context<'_>) -> Poll<bool> {
        let mut scratch = [0u8; 8192];
        let mut buf = ReadBuf::new(&mut scratch);
        let poll = Pin::new(&mut *self.tcp.borrow_mut()).poll_read(cx, &mut buf);
        match poll {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => {
                self.failed(&error);
                Poll::Ready(false)
            }
            Poll::Ready(Ok(())) if buf.filled().is_empty() => {
                self.eof_seen();
                Poll::Ready(false)
            }
            Poll::Ready(Ok(())) => {
                let n = buf.filled().len();
                self.wire_received(n);
                if self.plain.get() {
                    self.add(Column::ReceivedApp, n as u64);
                    self.exchanges.borrow_mut().overhead_received += n as u64;
                }
                Poll::Ready(true)
            }
        }
    }

    /// The client has sent its FIN.
    pub fn at_eof(&self) -> bool {
        self.saw_eof.get()
    }

    /// The kernel knows that the connection is gone, which only a read or a write would tell us.
    pub fn is_gone(&self) -> bool {
        kernel::is_closed(&*self.tcp.borrow())
    }

    /// The client has reset, or the socket failed otherwise.
    pub fn was_reset(&self) -> bool {
        self.saw_reset.get()
    }

    /// The session is its own tunnel: raw TCP.
    pub fn is_raw_tunnel(&self) -> bool {
        matches!(self.identity.borrow().protocol, "tcp" | "tls-passthrough")
    }

    /// HTTP/1.
    pub fn is_h1(&self) -> bool {
        matches!(*self.meter.borrow(), HttpMeter::H1(_))
    }

    /// HTTP/2, which can say to an idle client that nothing more is taken.
    pub fn is_h2(&self) -> bool {
        matches!(*self.meter.borrow(), HttpMeter::H2(_))
    }

    /// Nothing is known of the protocol yet, or it is HTTP: the limits for idle HTTP connections hold.
    pub fn speaks_http(&self) -> bool {
        !self.is_raw_tunnel()
    }

    /// Not billed, whatever it moves.
    pub fn ends_billing(&self, reason: Reason) {
        self.reason.set(reason);
    }

    /// The proxy in front asks for itself: nobody's traffic.
    pub fn is_health_check(&self) -> bool {
        self.reason.get() == Reason::HealthCheck
    }

    /// Resolves when the session is cut.
    pub async fn cut_signal(&self) {
        poll_fn(|cx| self.poll_cut(cx)).await;
    }

    /// The address that the client connected to.
    pub fn local_address(&self) -> std::io::Result<SocketAddr> {
        self.tcp.borrow().local_addr()
    }

    /// The peer's address, for limits.
    pub fn peer_ip(&self) -> IpAddr {
        self.identity.borrow().peer.ip()
    }
}

impl Drop for Session {
    /// The task died before it could finish: a panic, or the runtime's end.
    fn drop(&mut self) {
        if self.measured.borrow().is_some() {
            self.ends(if self.draining.get() { End::Drain } else { End::Internal }, Reason::PlatformError);
            self.close();
        }
    }
}

impl Origin {
    fn encode(&self, accounts_version: i64, to: &mut Vec<u8>) {
        PlaceNote {
            accounts_version,
            screening: self.ruling.verdict,
            screening_rule: &self.ruling.rule,
            ..self.place.note()
        }
        .encode(to);
    }
}

/// As may be written of who this is. An HTTP connection may come to serve any account.
fn show(worker: &Worker, identity: &Identity, at_us: i64) -> Addresses {
    let setup = worker.setup();
    let is_whole = matches!(identity.protocol, "tcp" | "tls-passthrough") && !identity.attribution.is_empty();
    let mode = if is_whole { setup.privacy.of(&identity.account) } else { setup.privacy.strictest() };
    setup.privacy.show(mode, identity.client, identity.peer.ip(), at_us)
}

fn encode_identity(id: Id, identity: &Identity, addresses: Addresses, to: &mut Vec<u8>) {
    SessionNote {
        session_id: id,
        account: &identity.account,
        endpoint: &identity.endpoint,
        attribution: &identity.attribution,
        listener: &identity.listener,
        protocol: identity.protocol,
        tls_version: identity.tls_version,
        sni: &identity.sni,
        tls_subject: &identity.tls_subject,
        addresses,
    }
    .encode(to);
}

/// What of an exchange's sent octets is known to have been acknowledged.
fn acked_of(exchange: &Exchange) -> u64 {
    exchange.measured.get(Column::SentAcked).min(exchange.measured.get(Column::SentApp))
}

/// All that it has sent is acknowledged, or was before, but for at most so many octets.
fn acknowledge(exchange: &Exchange, unacked: u64) {
    let acked = exchange.measured.get(Column::SentApp).saturating_sub(unacked);
    exchange.measured.set(Column::SentAcked, acked.max(acked_of(exchange)));
}

/// The session as its meter's tally.
struct Count<'a> {
    session: &'a Session,
    exchanges: &'a mut Exchanges,
}

impl Tally for Count<'_> {
    fn begin(&mut self, index: u64) {
        if self.exchanges.held.len() >= super::exchange::HELD_MAX {
            // Most of what is held is acknowledged by now: one cheap call settles many.
            self.session.settle_held(self.exchanges);
        }
        self.exchanges.begun += 1;
        let worker = &self.session.worker;
        let requests = self.session.requests() + 1;
        if let Some((id, measured)) = worker.recorder.measure_request(&self.session.note.borrow(), requests) {
            // Counted once its slot is there: after a kill in between, the slot says what was to be counted.
            self.session.with(|session| session.set_requests(requests));
            worker.metrics.requests.increment(1);
            self.exchanges.open.push_back(Exchange::new(index, id, measured));
        }
    }

    fn received(&mut self, index: Option<u64>, app: u64, body: u64) {
        let now_us = self.session.worker.coarse_now_us();
        let Some(exchange) = index.and_then(|index| self.exchanges.find(index)) else {
            self.exchanges.overhead_received += app;
            return;
        };
        self.session.add(Column::ReceivedBody, body);
        exchange.measured.add(Column::ReceivedApp, app);
        exchange.measured.add(Column::ReceivedBody, body);
        exchange.active_at_us = now_us;
        self.exchanges.sum_received += app;
    }

    fn sent(&mut self, index: Option<u64>, app: u64, body: u64) {
        let sent_until = self.session.value(Column::SentWire);
        let (plain, now_us) = (self.session.plain.get(), self.session.worker.coarse_now_us());
        let Some(exchange) = index.and_then(|index| self.exchanges.find(index)) else {
            self.exchanges.overhead_sent += app;
            return;
        };
        self.session.add(Column::SentBody, body);
        exchange.measured.add(Column::SentApp, app);
        exchange.measured.add(Column::SentBody, body);
        exchange.sent_until = sent_until;
        exchange.unflushed = !plain;
        exchange.active_at_us = now_us;
        self.exchanges.sum_sent += app;
    }

    fn reclaim(&mut self, direction: Direction, index: u64, app: u64) {
        let Some(exchange) = self.exchanges.find(index) else { return };
        match direction {
            Direction::Received => {
                exchange.measured.add(Column::ReceivedApp, app);
                self.exchanges.overhead_received -= app;
                self.exchanges.sum_received += app;
            }
            Direction::Sent => {
                exchange.measured.add(Column::SentApp, app);
                self.exchanges.overhead_sent -= app;
                self.exchanges.sum_sent += app;
            }
        }
    }

    fn status(&mut self, index: u64, code: u16) {
        if let Some(exchange) = self.exchanges.find(index) {
            exchange.verdict.status = code;
        }
    }

    fn received_end(&mut self, index: u64) {
        if let Some(exchange) = self.exchanges.find(index) {
            exchange.received_done = true;
            self.hold_if_done(index);
        }
    }

    fn sent_end(&mut self, index: u64) {
        if let Some(exchange) = self.exchanges.find(index) {
            exchange.sent_done = true;
            self.hold_if_done(index);
        }
    }

    fn reset(&mut self, index: u64, from_client: bool, code: u32) {
        if let Some(exchange) = self.exchanges.find(index) {
            exchange.was_reset(from_client, code);
            self.hold_if_done(index);
        }
    }

    fn tunnel(&mut self, index: u64) {
        // What began after it were never requests: their octets are early tunnel payload.
        while let Some(later) = self.exchanges.open.pop_back_if(|exchange| exchange.index > index) {
            let moved = later.measured.get(Column::ReceivedApp);
            self.session.add(Column::ReceivedBody, moved - later.measured.get(Column::ReceivedBody));
            // Counted no more before its slot goes: a kill in between leaves a request, and the slot says so.
            self.session.with(|session| session.set_requests(session.requests() - 1));
            later.measured.discard();
            self.exchanges.begun -= 1;
            if let Some(tunnel) = self.exchanges.find(index) {
                tunnel.measured.add(Column::ReceivedApp, moved);
                tunnel.measured.add(Column::ReceivedBody, moved);
            }
        }
        if let Some(tunnel) = self.exchanges.find(index) {
            tunnel.tunnel = true;
        }
        if self.session.violation.get().is_some_and(|(at, _)| at.is_some_and(|at| at > index)) {
            self.session.violation.set(None);
        }
    }

    fn violation(&mut self, index: Option<u64>, what: Violation) {
        if self.session.violation.get().is_none() {
            debug!(session = %self.session.id, violation = what.as_str(), "a request breaks the grammar");
            self.session.worker.metrics.violations.increment(1);
            self.session.violation.set(Some((index, what)));
        }
    }

    fn lost(&mut self, direction: Direction) {
        debug!(session = %self.session.id, ?direction, "the meter cannot follow");
        self.session.worker.metrics.meter_lost.increment(1);
    }
}

impl Count<'_> {
    /// An exchange that is complete both ways is held until it is acknowledged.
    fn hold_if_done(&mut self, index: u64) {
        let Some(done) = self.exchanges.take_if_done(index) else { return };
        done.measured.decide(done.verdict);
        self.exchanges.held.push_back(done);
    }
}
