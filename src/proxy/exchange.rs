//! One HTTP exchange of a session, from the first octet of its head to the acknowledgement of its last.

use std::collections::VecDeque;
use std::task::Waker;

use http::{HeaderMap, StatusCode};

use super::recorder::{Measured, Verdict};
use crate::event::{End, Reason};
use crate::ids::Id;

/// How many more finished exchanges a session holds before it asks the kernel again what is acknowledged. Few: what is held has left
/// the processor's cache when it is closed (at 32 connections, 32 cost 2 µs a request more than 4); asking costs a quarter of one.
pub const HELD_STEP: usize = 4;

/// A request and its response, or the tunnel they became.
pub struct Exchange {
    /// Number on the connection (h1), or stream id (h2).
    pub index: u64,
    /// Its identity in records.
    pub id: Id,
    /// Its counters.
    pub measured: Measured,
    /// How it ended, as far as known.
    pub verdict: Verdict,
    /// The request was wholly received.
    pub received_done: bool,
    /// The response was wholly sent.
    pub sent_done: bool,
    /// Both directions are tunnel payload.
    pub tunnel: bool,
    /// An HTTP/2 stream that carries a tunnel: it ends like any stream, but the limits in time are a tunnel's.
    pub stream_tunnel: bool,
    /// The engine has read its head, and the service knows it.
    pub described: bool,
    /// The service has nothing more to send; what a response that only the connection's end ends needs.
    pub served: bool,
    /// Position of its last octet in the wire octets sent.
    pub sent_until: u64,
    /// Some of its octets may still be inside the TLS engine.
    pub unflushed: bool,
    /// A limit in time was hit.
    pub timed_out: bool,
    /// When a byte of it last moved, by the worker's coarse clock.
    pub active_at_us: i64,
    /// The service that waits for the origin.
    pub waker: Option<Waker>,
    /// Informational responses of the origin, to be handed on.
    pub interim: Vec<(StatusCode, HeaderMap)>,
}

impl Exchange {
    /// Just begun.
    pub fn new(index: u64, id: Id, measured: Measured) -> Self {
        Self {
            index,
            id,
            measured,
            verdict: Verdict::default(),
            received_done: false,
            sent_done: false,
            tunnel: false,
            stream_tunnel: false,
            described: false,
            served: false,
            sent_until: 0,
            unflushed: false,
            timed_out: false,
            active_at_us: 0,
            waker: None,
            interim: Vec::new(),
        }
    }

    /// States why it ends and whether it is billed; the first statement holds.
    pub fn ends(&mut self, end: End, reason: Reason) {
        if self.verdict.end == End::Unspecified {
            self.verdict.end = end;
            self.verdict.reason = reason;
        }
    }

    /// An h2 stream was reset: nothing more of it comes.
    pub fn was_reset(&mut self, from_client: bool, code: u32) {
        const NO_ERROR: u32 = 0;
        const CANCEL: u32 = 8;
        if !(self.sent_done && (self.received_done || code == NO_ERROR)) {
            let end = match (from_client, code) {
                (true, _) => End::ClientAbort,
                (false, NO_ERROR | CANCEL) => End::UpstreamError,
                (false, _) => End::ProtocolError,
            };
            self.ends(end, Reason::Unspecified);
        }
        self.received_done = true;
        self.sent_done = true;
    }

    /// It was answered and the service never saw it: the engine has refused it by itself.
    fn refused_by_engine(&mut self) {
        if self.sent_done && !self.described {
            self.ends(End::Refused, Reason::BadRequest);
        }
    }

    /// Its session is over.
    pub fn conclude(&mut self, session_end: End) {
        self.refused_by_engine();
        let end = match session_end {
            _ if self.sent_done
                || (self.served && session_end == End::Done)
                || (self.tunnel && session_end == End::Done) =>
            {
                End::Done
            }
            End::Done => End::ClientAbort,
            other => other,
        };
        self.ends(end, Reason::Unspecified);
    }

    /// Cuts it for a limit in time: whoever waits for the origin stops.
    pub fn time_out(&mut self) {
        self.timed_out = true;
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// The exchanges of a session, and the octets that are nobody's.
#[derive(Default)]
pub struct Exchanges {
    /// Open ones, by index. The oldest usually ends first.
    pub open: VecDeque<Exchange>,
    /// Complete both ways, not yet known to be acknowledged; in the order of their ends.
    pub held: VecDeque<Exchange>,
    /// How many were left when the kernel was asked last.
    pub left: usize,
    /// How many began.
    pub begun: u64,
    /// App octets received that belong to no exchange.
    pub overhead_received: u64,
    /// App octets sent that belong to no exchange.
    pub overhead_sent: u64,
    /// App octets received, of all exchanges ever.
    pub sum_received: u64,
    /// App octets sent, of all exchanges ever.
    pub sum_sent: u64,
}

impl Exchanges {
    /// An open exchange, or one that is complete and only waits for its acknowledgement.
    pub fn find(&mut self, index: u64) -> Option<&mut Exchange> {
        if let Ok(at) = self.open.binary_search_by_key(&index, |exchange| exchange.index) {
            return self.open.get_mut(at);
        }
        self.held.iter_mut().rev().find(|exchange| exchange.index == index)
    }

    /// Takes it out of the open ones if it is complete both ways.
    pub fn take_if_done(&mut self, index: u64) -> Option<Exchange> {
        let at = self.open.binary_search_by_key(&index, |exchange| exchange.index).ok()?;
        let exchange = self.open.get_mut(at)?;
        if !(exchange.received_done && exchange.sent_done) || exchange.tunnel {
            return None;
        }
        exchange.refused_by_engine();
        exchange.ends(End::Done, Reason::Unspecified);
        self.open.remove(at)
    }
}
