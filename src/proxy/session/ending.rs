//! How a session ends: cut, drained or done; lingering; one close of everything.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, ReadBuf};

use super::exchanges::{acked_of, acknowledge};
use super::{Cut, Session};
use crate::event::{End, Reason};
use crate::proxy::exchange::Exchange;
use crate::proxy::kernel::TcpCounts;
use crate::proxy::linger;
use crate::proxy::recorder::{Facts, Verdict};
use crate::proxy::stream::{WireStream, uncleared};
use crate::units::Column;

/// Most octets that the first read takes: usually the whole first head.
const FIRST_READ_BYTES: usize = 1024;

/// How long a session at most lingers that was cut for what its client does.
const CUT_LINGER: Duration = Duration::from_millis(200);

/// How near an HTTP/1 connection is to its end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Parting {
    /// Other requests may follow.
    No,
    /// The request being served is the last.
    Asked,
    /// And its answer is here: what is written from now on is followed by the FIN at once.
    Answered,
}

impl Session {
    /// The request that the engine has just read is the connection's last.
    pub fn last_request_began(&self) {
        self.parting.set(Parting::Asked);
    }

    /// The engine has read the whole request, and has or is about to be given the last octet of its answer.
    pub fn answered(&self) {
        if self.parting.get() == Parting::Asked {
            self.parting.set(Parting::Answered);
        }
    }

    /// Whether what is written now is the end, which can go with the FIN in one segment.
    pub fn is_parting(&self) -> bool {
        self.parting.get() == Parting::Answered
    }

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

    pub(super) fn poll_cut(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.cut.get().is_some() {
            return Poll::Ready(());
        }
        self.wakes(cx);
        Poll::Pending
    }

    /// Ready once the worker has swept more often than this.
    pub fn poll_swept(&self, sweeps: u64, cx: &mut Context<'_>) -> Poll<()> {
        if self.worker.sweeps() > sweeps {
            return Poll::Ready(());
        }
        self.awaits_sweep.set(true);
        self.wakes(cx);
        Poll::Pending
    }

    /// The worker sweeps.
    pub fn swept(&self) {
        if self.awaits_sweep.take() {
            self.wake();
        }
    }

    fn wakes(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
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
            let mut octets = uncleared::<FIRST_READ_BYTES>();
            let mut buf = ReadBuf::uninit(&mut octets);
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
        let mut counts = None;
        if !self.saw_reset.get() {
            let mut limit = self.worker.setup().config.limits.linger;
            if matches!(self.cut.get(), Some(Cut::Flood | Cut::HeadTimeout)) {
                // What such a client still sends is not worth the reading.
                limit = limit.min(CUT_LINGER);
            }
            counts = linger::linger(&self, limit).await;
        }
        self.close(counts);
    }

    /// Closes everything by what the kernel said last, or says now.
    pub(super) fn close(&self, counts: Option<TcpCounts>) {
        self.open();
        let Some(measured) = self.measured.borrow_mut().take() else { return };
        let counts = counts.map_or_else(|| self.kernel_counts(), Ok);
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

    pub(super) fn close_exchange(&self, mut exchange: Exchange, undelivered: u64) {
        self.open();
        if self.is_health_check() {
            exchange.verdict.reason = Reason::HealthCheck;
        }
        acknowledge(&exchange, undelivered);
        let facts = Facts { verdict: exchange.verdict, ..Facts::default() };
        self.worker.recorder.close(exchange.measured, facts);
    }
}
