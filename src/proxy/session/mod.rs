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

mod audit;
mod ending;
mod exchanges;
mod identity;
mod metering;

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::HeaderValue;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tracing::debug;

use super::exchange::Exchanges;
use super::flood::FloodGate;
use super::kernel;
use super::recorder::Measured;
use super::stream::uncleared;
use super::worker::Worker;
use crate::event::{Addresses, End, Reason};
use crate::ids::Id;
use crate::meter::Violation;
use crate::units::Column;

use ending::Parting;
pub use identity::{Identity, Origin};
use identity::{encode_identity, show};
use metering::HttpMeter;

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
    awaits_sweep: Cell<bool>,
    /// When a byte last moved, by the worker's coarse clock.
    pub active_at_us: Cell<i64>,
    metric_received: Cell<u64>,
    metric_sent: Cell<u64>,
    /// When it was last asked for a checkpoint, µs.
    pub checkpointed_at_us: Cell<i64>,
    injected: RefCell<VecDeque<Bytes>>,
    parking: Cell<bool>,
    parked: Cell<bool>,
    parting: Cell<Parting>,
}

impl Session {
    /// Begins to measure a connection just accepted; `None` when there is no slot.
    pub fn begin(worker: &Rc<Worker>, tcp: TcpStream, identity: Identity) -> Option<Rc<Self>> {
        let started_at_us = worker.recorder.now_us();
        let id = worker.recorder.next_id(started_at_us);
        let mut note = Vec::with_capacity(256);
        let shown = show(worker, &identity, started_at_us);
        encode_identity(id, &identity, shown, &mut note);
        let measured = worker.recorder.measure_session(started_at_us, &note)?;
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
            awaits_sweep: Cell::new(false),
            active_at_us: Cell::new(started_at_us),
            metric_received: Cell::new(0),
            metric_sent: Cell::new(0),
            checkpointed_at_us: Cell::new(started_at_us),
            injected: RefCell::default(),
            parking: Cell::new(false),
            parked: Cell::new(false),
            parting: Cell::new(Parting::No),
        });
        worker.adopt(&session);
        Some(session)
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
        let mut scratch = uncleared::<8192>();
        let mut buf = ReadBuf::uninit(&mut scratch);
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
            self.close(None);
        }
    }
}
