//! The exchanges inside a session: who they are, and their records while it is open.

use std::task::{Context, Poll};

use super::identity::encode_identity;
use super::{Origin, Session};
use crate::event::RequestNote;
use crate::meter::Violation;
use crate::proxy::exchange::{Exchange, Exchanges};
use crate::proxy::kernel;
use crate::proxy::recorder::Facts;
use crate::units::Column;

impl Session {
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

    pub(super) fn settle_held(&self, exchanges: &mut Exchanges) {
        if exchanges.held.is_empty() || self.tls_unflushed.get() {
            return;
        }
        let Ok(unacked) = kernel::unacked_bytes(&*self.tcp.borrow()) else { return };
        let acked = self.value(Column::SentWire).saturating_sub(unacked);
        while exchanges.held.front().is_some_and(|held| held.sent_until <= acked) {
            let Some(held) = exchanges.held.pop_front() else { break };
            self.close_exchange(held, 0);
        }
        exchanges.left = exchanges.held.len();
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
}

/// What of an exchange's sent octets is known to have been acknowledged.
pub(super) fn acked_of(exchange: &Exchange) -> u64 {
    exchange.measured.get(Column::SentAcked).min(exchange.measured.get(Column::SentApp))
}

/// All that it has sent is acknowledged, or was before, but for at most so many octets.
pub(super) fn acknowledge(exchange: &Exchange, unacked: u64) {
    let acked = exchange.measured.get(Column::SentApp).saturating_sub(unacked);
    exchange.measured.set(Column::SentAcked, acked.max(acked_of(exchange)));
}
