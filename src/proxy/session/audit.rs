//! A session's counts against the kernel's, and its metrics.

use std::io;

use tracing::error;

use super::Session;
use crate::proxy::kernel::{self, TcpCounts};
use crate::proxy::recorder::Measured;
use crate::units::Column;

impl Session {
    /// What the kernel says of the connection.
    pub fn kernel_counts(&self) -> io::Result<TcpCounts> {
        kernel::tcp_counts(&*self.tcp.borrow(), self.saw_eof.get())
    }

    pub(super) fn audit_open(&self) -> String {
        let Ok(counts) = self.kernel_counts() else { return String::new() };
        let measured = self.measured.borrow();
        let Some(measured) = measured.as_ref() else { return String::new() };
        measured.set(Column::SentAcked, counts.bytes_acked.min(measured.get(Column::SentWire)));
        self.audit(measured, &counts)
    }

    /// The invariants of the four columns; empty when all hold.
    pub(super) fn audit(&self, measured: &Measured, counts: &TcpCounts) -> String {
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

    pub(super) fn publish_metrics(&self) {
        let (received, sent) = (self.value(Column::ReceivedWire), self.value(Column::SentWire));
        self.worker.metrics.received_wire_bytes.increment(received - self.metric_received.replace(received));
        self.worker.metrics.sent_wire_bytes.increment(sent - self.metric_sent.replace(sent));
    }
}
