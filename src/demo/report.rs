//! The end of the demo: what three parties counted, side by side, and what explains each difference.

use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use super::screen::Style;
use super::socket::Totals;
use super::tally::Tally;
use crate::units::grouped;

/// One count that several made. `None`: this party does not know it.
struct Row {
    what: &'static str,
    records: Option<u64>,
    kernel: Option<u64>,
    clients: Option<u64>,
}

/// A difference that is as it should be, or is not.
struct Explained {
    n: u64,
    unit: &'static str,
    why: String,
}

/// What the end says.
pub struct Report {
    rows: Vec<Row>,
    explained: Vec<Explained>,
    /// Each a sentence; empty when every octet is explained.
    pub unexplained: Vec<String>,
    audit: String,
}

impl Report {
    /// Holds the records against the clients' own counts and those of their kernel. Both must have ended.
    pub fn new(tally: &Tally, clients: &Totals) -> Self {
        let count = |total: &AtomicU64| total.load(Ordering::Relaxed);
        let moved = &tally.moved;
        let mut unexplained = Vec::new();
        let mut equal = |what: &str, records: u64, others: u64| {
            if records != others {
                let by = records.abs_diff(others);
                unexplained.push(format!(
                    "{what}: {} and {} differ by {}",
                    grouped(records),
                    grouped(others),
                    grouped(by)
                ));
            }
        };
        let (written, read, unread) = (count(&clients.written), count(&clients.read), count(&clients.unread));
        let undelivered = moved.sent_wire.saturating_sub(moved.sent_acked);
        equal("clients wrote, weir received", moved.received_wire, written);
        equal("clients' kernels sent, weir received", moved.received_wire, count(&clients.kernel_sent));
        equal(
            "weir's octets acknowledged, received by the clients' kernels",
            moved.sent_acked,
            count(&clients.kernel_received),
        );
        equal(
            "weir's octets acknowledged, read by clients or left unread in an abort",
            moved.sent_acked,
            read + unread,
        );
        equal("octets never acknowledged, those of aborted downloads", undelivered, tally.aborted_bytes);
        equal("app and wire octets received (nothing here is TLS)", moved.received_app, moved.received_wire);
        equal("app and wire octets sent", moved.sent_app, moved.sent_wire);
        equal("requests in closes of requests and in closes of sessions", tally.requests, tally.requests_begun);
        equal("requests recorded, written by clients", tally.requests, count(&clients.requests));
        equal("sessions recorded, connections made", tally.sessions, count(&clients.sockets));
        equal("sessions aborted, by clients", tally.aborted, count(&clients.aborted));
        equal("records lost or damaged", tally.lost, 0);
        let failures = clients.failures.lock().unwrap_or_else(PoisonError::into_inner);
        unexplained.extend(failures.iter().map(|failure| format!("a client failed: {failure}")));
        unexplained.extend(tally.differences.iter().map(|difference| format!("the kernel's audit: {difference}")));

        let row = |what, records: u64, kernel: Option<u64>, clients: Option<u64>| Row {
            what,
            records: Some(records),
            kernel,
            clients,
        };
        let rows = vec![
            row("sessions", tally.sessions, None, Some(count(&clients.sockets))),
            row("requests", tally.requests, None, Some(count(&clients.requests))),
            row("received, wire", moved.received_wire, Some(count(&clients.kernel_sent)), Some(written)),
            row("received, app", moved.received_app, None, None),
            row("sent, app", moved.sent_app, None, None),
            row("sent, wire", moved.sent_wire, None, None),
            row("sent, acknowledged", moved.sent_acked, Some(count(&clients.kernel_received)), Some(read)),
        ];
        let overhead =
            (moved.received_app + moved.sent_app).saturating_sub(tally.requests_app_bytes + tally.tunnels_app_bytes);
        let aborted = grouped(count(&clients.aborted));
        let explained = vec![
            Explained {
                n: undelivered,
                unit: "B",
                why: format!("written, never acknowledged: {aborted} downloads that clients aborted"),
            },
            Explained {
                n: unread,
                unit: "B",
                why: "acknowledged, never read: waited in those clients' kernels".to_owned(),
            },
            Explained {
                n: overhead,
                unit: "B",
                why: "of no request: HTTP/2 connection frames, in their sessions' records".to_owned(),
            },
        ];
        let audit = format!(
            "{} of {} sessions agree with the kernel's TCP_INFO",
            grouped(tally.audited),
            grouped(tally.sessions)
        );
        Self { rows, explained, unexplained, audit }
    }

    /// For people.
    pub fn print(&self, style: Style) {
        let Style { bold, dim, good, bad, off } = style;
        println!("  {dim}{:<20} {:>17} {:>17} {:>17}{off}", "octets", "weir's records", "clients' kernel", "clients");
        for row in &self.rows {
            let cell = |n: Option<u64>| n.map_or_else(|| "·".to_owned(), grouped);
            println!("  {:<20} {:>17} {:>17} {:>17}", row.what, cell(row.records), cell(row.kernel), cell(row.clients));
        }
        println!("\n  {bold}differences, explained{off}");
        for explained in &self.explained {
            println!("  {:>17} {}  {}", grouped(explained.n), explained.unit, explained.why);
        }
        println!("\n  {bold}audit{off}  {}", self.audit);
        if self.unexplained.is_empty() {
            println!("  {good}every octet is explained{off}");
        }
        for unexplained in &self.unexplained {
            println!("  {bad}unexplained{off}  {unexplained}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Counters;

    fn counted() -> (Tally, Totals) {
        let moved = Counters {
            received_app: 10,
            received_wire: 10,
            sent_app: 100,
            sent_wire: 100,
            sent_acked: 90,
            ..Counters::default()
        };
        let mut tally = Tally::new(std::path::Path::new("unread"));
        tally.moved = moved;
        (tally.sessions, tally.audited) = (2, 2);
        (tally.requests, tally.requests_begun) = (3, 3);
        (tally.aborted, tally.aborted_bytes) = (1, 10);
        let totals = Totals::default();
        for (total, n) in [
            (&totals.sockets, 2),
            (&totals.requests, 3),
            (&totals.aborted, 1),
            (&totals.written, 10),
            (&totals.kernel_sent, 10),
            (&totals.read, 85),
            (&totals.unread, 5),
            (&totals.kernel_received, 90),
        ] {
            total.store(n, Ordering::Relaxed);
        }
        (tally, totals)
    }

    #[test]
    fn an_abort_explains_what_was_not_delivered() {
        let (tally, totals) = counted();
        assert_eq!(Report::new(&tally, &totals).unexplained, Vec::<String>::new());
    }

    #[test]
    fn one_octet_too_few_is_unexplained() {
        let (mut tally, totals) = counted();
        tally.moved.sent_acked -= 1;
        assert!(!Report::new(&tally, &totals).unexplained.is_empty());
        let (tally, totals) = counted();
        totals.written.store(11, Ordering::Relaxed);
        assert_eq!(Report::new(&tally, &totals).unexplained, ["clients wrote, weir received: 10 and 11 differ by 1"]);
    }
}
