//! What `weir events --json` says, and the laws that every set of records obeys.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::process::WEIR;

/// What both deltas and totals have.
pub const COLUMNS: [&str; 9] = [
    "received_body_bytes",
    "received_app_bytes",
    "received_wire_bytes",
    "sent_body_bytes",
    "sent_app_bytes",
    "sent_wire_bytes",
    "sent_acked_bytes",
    "upstream_sent_bytes",
    "upstream_received_bytes",
];

/// One record.
#[derive(Clone, Debug)]
pub struct Record(pub Value);

impl Record {
    pub fn number(&self, name: &str) -> i64 {
        self.0[name].as_i64().unwrap_or_else(|| panic!("{name} of {}", self.0))
    }

    pub fn text(&self, name: &str) -> &str {
        self.0[name].as_str().unwrap_or_else(|| panic!("{name} of {}", self.0))
    }

    pub fn total(&self, column: &str) -> i64 {
        self.number(&format!("total_{column}_bytes"))
    }

    pub fn is(&self, kind: &str, phase: &str) -> bool {
        self.text("kind") == kind && self.text("phase") == phase
    }

    /// Where it stands: epoch, shard, seq.
    pub fn place(&self) -> (i64, i64, i64) {
        (self.number("epoch"), self.number("shard"), self.number("seq"))
    }

    /// The id of what it is about.
    pub fn id(&self) -> &str {
        self.text(if self.text("kind") == "request" { "request_id" } else { "session_id" })
    }
}

/// All records of a state directory, in the order of each shard.
#[derive(Clone, Debug, Default)]
pub struct Records(pub Vec<Record>);

impl Records {
    pub fn read(state: &Path) -> Self {
        Self::print(&["--state".as_ref(), state.as_os_str()])
    }

    pub fn of_file(file: &Path) -> Self {
        Self::print(&["--file".as_ref(), file.as_os_str()])
    }

    fn print(source: &[&std::ffi::OsStr]) -> Self {
        let output = Command::new(WEIR).arg("events").args(source).arg("--json").output().unwrap();
        assert!(output.status.success(), "weir events: {}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stderr.is_empty(), "weir events: {}", String::from_utf8_lossy(&output.stderr));
        let lines = output.stdout.split(|octet| *octet == b'\n').filter(|line| !line.is_empty());
        Self(lines.map(|line| Record(serde_json::from_slice(line).unwrap())).collect())
    }

    pub fn closed_sessions(&self) -> usize {
        self.0.iter().filter(|record| record.is("session", "close")).count()
    }

    /// The closes of all sessions, in the order of their beginning.
    pub fn sessions(&self) -> Vec<&Record> {
        self.closes("session")
    }

    pub fn closes(&self, kind: &str) -> Vec<&Record> {
        in_order(self.0.iter().filter(|record| record.is(kind, "close")))
    }

    /// The close of the session whose client had this port.
    pub fn session(&self, client_port: u16) -> &Record {
        let of_port = |record: &&&Record| record.number("client_port") == i64::from(client_port);
        let sessions = self.sessions();
        let found: Vec<_> = sessions.iter().filter(of_port).collect();
        assert_eq!(found.len(), 1, "sessions of port {client_port}: {found:?}");
        found[0]
    }

    /// The closes of a session's requests, in the order of their beginning.
    pub fn requests(&self, session: &Record) -> Vec<&Record> {
        let id = session.text("session_id");
        in_order(self.0.iter().filter(|record| record.is("request", "close") && record.text("session_id") == id))
    }

    /// The closes of all requests, by session.
    pub fn requests_by_session(&self) -> HashMap<&str, Vec<&Record>> {
        let mut requests: HashMap<&str, Vec<&Record>> = HashMap::new();
        for request in self.0.iter().filter(|record| record.is("request", "close")) {
            requests.entry(request.text("session_id")).or_default().push(request);
        }
        requests
    }

    /// App octets of a session that are no request's: received, sent.
    pub fn overhead(&self, session: &Record) -> (i64, i64) {
        let requests = self.requests(session);
        let sum = |column| requests.iter().map(|record| record.total(column)).sum::<i64>();
        (session.total("received_app") - sum("received_app"), session.total("sent_app") - sum("sent_app"))
    }

    /// What holds for every set of records, whatever happened.
    pub fn assert_lawful(&self) {
        self.assert_gapless();
        self.assert_once();
        self.assert_sums();
        for record in &self.0 {
            assert_eq!(record.text("audit"), "ok", "{}", record.0);
        }
    }

    /// Every shard counts from 0 without a gap.
    pub fn assert_gapless(&self) {
        let mut next = HashMap::new();
        for record in &self.0 {
            let shard = (record.text("node").to_owned(), record.number("epoch"), record.number("shard"));
            let next = next.entry(shard.clone()).or_insert(0);
            assert_eq!(record.number("seq"), *next, "in {shard:?}");
            *next += 1;
        }
    }

    /// Opens and closes come once, in order, nothing follows a close, and no request is without its session.
    pub fn assert_once(&self) {
        let (mut opened, mut closed) = (HashSet::new(), HashSet::new());
        for record in self.0.iter().filter(|record| record.text("kind") != "node") {
            let id = record.id();
            assert!(!closed.contains(id), "after its close: {}", record.0);
            match record.text("phase") {
                "open" => assert!(opened.insert(id), "opened twice: {}", record.0),
                "close" => assert!(closed.insert(id), "closed twice: {}", record.0),
                _ => {}
            }
        }
        for session in self.sessions() {
            assert!(opened.contains(session.id()), "never opened: {}", session.0);
        }
        for request in self.closes("request") {
            assert!(closed.contains(request.text("session_id")), "its session has no close: {}", request.0);
        }
        let requests = self.requests_by_session();
        for session in self.sessions() {
            assert_eq!(
                session.number("requests"),
                requests.get(session.id()).map_or(0, Vec::len) as i64,
                "{}",
                session.0
            );
        }
    }

    /// Deltas sum to totals; requests sum to no more than their session; columns stand in their relations.
    pub fn assert_sums(&self) {
        let mut sums: BTreeMap<&str, [i64; 9]> = BTreeMap::new();
        for record in self.0.iter().filter(|record| matches!(record.text("kind"), "session" | "request")) {
            let sum = sums.entry(record.id()).or_default();
            for (sum, column) in sum.iter_mut().zip(COLUMNS) {
                let delta = record.number(column);
                assert!(delta >= 0 || column == "sent_acked_bytes", "{column} goes back: {}", record.0);
                *sum += delta;
                let total = record.number(&format!("total_{column}"));
                assert_eq!(total, *sum, "{column}: the deltas so far do not sum to the total: {}", record.0);
            }
        }
        let requests = self.requests_by_session();
        for session in self.sessions() {
            let requests = requests.get(session.id()).map_or([].as_slice(), Vec::as_slice);
            let sum = |column| requests.iter().map(|record| record.total(column)).sum::<i64>();
            for column in ["received_app", "sent_app"] {
                assert!(sum(column) <= session.total(column), "{column}: requests have more than {}", session.0);
            }
            for column in ["received_body", "sent_body", "upstream_sent", "upstream_received"] {
                let (sum, total) = (sum(column), session.total(column));
                assert!(sum <= total, "{column}: requests have {sum}, more than {}", session.0);
                // A kill may come between the two counters.
                let is_tunnel = matches!(session.text("protocol"), "tcp" | "tls-passthrough");
                assert!(
                    sum == total || is_tunnel || session.text("end") == "recovered",
                    "{column}: {sum} {}",
                    session.0
                );
            }
            assert!(session.total("sent_acked") <= session.total("sent_wire"), "{}", session.0);
            for record in requests {
                assert!(record.total("sent_acked") <= record.total("sent_app"), "{}", record.0);
                assert_eq!(record.total("sent_wire"), record.total("sent_app"), "{}", record.0);
                assert_eq!(record.total("received_wire"), record.total("received_app"), "{}", record.0);
            }
        }
    }
}

/// Ids sort by the time of their making.
fn in_order<'r>(records: impl Iterator<Item = &'r Record>) -> Vec<&'r Record> {
    let mut records: Vec<_> = records.collect();
    records.sort_by(|one, other| one.id().cmp(other.id()));
    records
}
