//! Writing a record's bytes without building it first. Held against prost's decoder by the tests.

use std::net::IpAddr;

use super::{End, Kind, Phase, Reason};
use crate::ids::Id;
use crate::units::Counters;

/// Who a session is: encoded once, when the handshakes are over.
#[derive(Clone, Copy, Debug)]
pub struct SessionNote<'a> {
    /// The session's identity.
    pub session_id: Id,
    /// Billed account.
    pub account: &'a str,
    /// What of the account's was reached.
    pub endpoint: &'a str,
    /// The rule that decided the account.
    pub attribution: &'a str,
    /// Name of the listener.
    pub listener: &'a str,
    /// `h1`, `h2`, `tcp`, …
    pub protocol: &'a str,
    /// `1.2`, `1.3`; empty on plaintext.
    pub tls_version: &'a str,
    /// Server name the client asked for.
    pub sni: &'a str,
    /// Subject of the client's certificate.
    pub tls_subject: &'a str,
    /// The client: the peer, or who a trusted peer says it speaks for.
    pub client: (IpAddr, u16),
    /// The TCP peer.
    pub peer: IpAddr,
}

impl SessionNote<'_> {
    /// Appends the note's bytes.
    pub fn encode(&self, to: &mut Vec<u8>) {
        bytes(to, 3, &self.session_id.0);
        string(to, 5, self.account);
        string(to, 6, self.endpoint);
        string(to, 13, self.protocol);
        string(to, 14, self.attribution);
        string(to, 15, self.listener);
        string(to, 16, self.tls_version);
        string(to, 17, self.sni);
        string(to, 24, self.tls_subject);
        client(to, self.client, self.peer);
    }
}

/// Who a request is: appended to its session's note; a field stated twice takes the later value.
#[derive(Clone, Copy, Debug, Default)]
pub struct RequestNote<'a> {
    /// Billed account, where it is not the session's.
    pub account: &'a str,
    /// Endpoint, where it is not the session's.
    pub endpoint: &'a str,
    /// The rule that decided the account.
    pub attribution: &'a str,
    /// `ws`, `connect` where it is not the session's protocol.
    pub protocol: &'a str,
    /// Authority the client asked for.
    pub host: &'a str,
    /// Request method.
    pub method: &'a str,
    /// Path without query, cut to the configured length.
    pub path: &'a str,
    /// The client, where a trusted header names another than the session's.
    pub client: Option<(IpAddr, u16, IpAddr)>,
}

impl RequestNote<'_> {
    /// Appends the note's bytes.
    pub fn encode(&self, to: &mut Vec<u8>) {
        string(to, 5, self.account);
        string(to, 6, self.endpoint);
        string(to, 14, self.attribution);
        string(to, 13, self.protocol);
        string(to, 18, self.host);
        string(to, 19, self.method);
        string(to, 20, self.path);
        if let Some((ip, port, peer)) = self.client {
            client(to, (ip, port), peer);
        }
    }

    /// Appends a request's own identity, which is known before anything else of it.
    pub fn encode_id(id: Id, to: &mut Vec<u8>) {
        bytes(to, 4, &id.0);
    }

    /// Appends the upstream server that a request was sent to.
    pub fn encode_origin(origin: &str, to: &mut Vec<u8>) {
        string(to, 25, origin);
    }
}

/// What moved, and how it ended.
#[derive(Clone, Copy, Debug)]
pub struct Tail<'a> {
    /// What the record is about.
    pub kind: Kind,
    /// Open, checkpoint or close.
    pub phase: Phase,
    /// When it began, µs.
    pub started_at_us: i64,
    /// When the record was made, µs.
    pub at_us: i64,
    /// HTTP status, or 0.
    pub status: u16,
    /// Why it closed.
    pub end: End,
    /// Why it is not billable; `Unspecified` if it is.
    pub reason: Reason,
    /// Since the record before.
    pub deltas: Counters,
    /// Since it began.
    pub totals: Counters,
    /// Empty, or the invariant that failed.
    pub audit: &'a str,
    /// Size of a write in flight at a kill.
    pub uncertain_bytes: u64,
    /// How many records this one stands for; 0 for an ordinary one.
    pub folded: u64,
    /// Requests begun, in session records.
    pub requests: u64,
}

impl Tail<'_> {
    /// Appends the tail's bytes.
    pub fn encode(&self, to: &mut Vec<u8>) {
        number(to, 1, self.kind as u64);
        number(to, 2, self.phase as u64);
        number(to, 7, self.started_at_us.max(0) as u64);
        number(to, 8, self.at_us.max(0) as u64);
        number(to, 9, u64::from(self.status));
        number(to, 10, self.end as u64);
        number(
            to,
            11,
            u64::from(self.reason == Reason::Unspecified && matches!(self.kind, Kind::Session | Kind::Request)),
        );
        number(to, 12, self.reason as u64);
        for (field, value) in (40..).zip(self.deltas.to_array()) {
            number(to, field, value);
        }
        for (field, value) in (50..).zip(self.totals.to_array()) {
            number(to, field, value);
        }
        string(to, 60, self.audit);
        number(to, 61, self.uncertain_bytes);
        number(to, 62, self.folded);
        number(to, 63, self.requests);
    }
}

fn client(to: &mut Vec<u8>, (ip, port): (IpAddr, u16), peer: IpAddr) {
    address(to, 21, ip);
    number(to, 22, u64::from(port));
    if peer != ip {
        address(to, 23, peer);
    }
}

fn address(to: &mut Vec<u8>, field: u32, ip: IpAddr) {
    match ip {
        IpAddr::V4(v4) => bytes(to, field, &v4.octets()),
        IpAddr::V6(v6) => bytes(to, field, &v6.octets()),
    }
}

fn string(to: &mut Vec<u8>, field: u32, value: &str) {
    if !value.is_empty() {
        bytes(to, field, value.as_bytes());
    }
}

fn bytes(to: &mut Vec<u8>, field: u32, value: &[u8]) {
    varint(to, u64::from(field << 3 | 2));
    varint(to, value.len() as u64);
    to.extend_from_slice(value);
}

fn number(to: &mut Vec<u8>, field: u32, value: u64) {
    if value != 0 {
        varint(to, u64::from(field << 3));
        varint(to, value);
    }
}

fn varint(to: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::UsageRecord;
    use prost::Message;

    #[test]
    fn prost_reads_what_we_write() {
        let mut buf = Vec::new();
        let session_id = Id([7; 16]);
        SessionNote {
            session_id,
            account: "acme",
            endpoint: "web",
            attribution: "listener",
            listener: "web",
            protocol: "h1",
            tls_version: "1.3",
            sni: "a.test",
            tls_subject: "",
            client: ("2001:db8::1".parse().unwrap(), 4711),
            peer: "10.0.0.1".parse().unwrap(),
        }
        .encode(&mut buf);
        RequestNote::encode_id(Id([8; 16]), &mut buf);
        RequestNote { account: "other", host: "a.test", method: "GET", path: "/x", ..Default::default() }
            .encode(&mut buf);
        let totals = Counters { received_body: 1, sent_wire: 1 << 40, upstream_received: 9, ..Default::default() };
        Tail {
            kind: Kind::Request,
            phase: Phase::Close,
            started_at_us: 5,
            at_us: 1_700_000_000_000_000,
            status: 200,
            end: End::Done,
            reason: Reason::Unspecified,
            deltas: totals,
            totals,
            audit: "",
            uncertain_bytes: 3,
            folded: 0,
            requests: 0,
        }
        .encode(&mut buf);
        let record = UsageRecord::decode(buf.as_slice()).unwrap();
        assert_eq!(record.account, "other");
        assert_eq!(record.session_id, session_id.0.to_vec());
        assert_eq!(record.client_ip.len(), 16);
        assert_eq!(record.peer_ip.as_ref(), &[10, 0, 0, 1]);
        assert_eq!((record.status, record.billable, record.uncertain_bytes), (200, true, 3));
        assert_eq!(record.total_sent_wire_bytes, 1 << 40);
        assert_eq!(record.upstream_received_bytes, 9);
        assert_eq!((record.kind(), record.phase(), record.end()), (Kind::Request, Phase::Close, End::Done));
        assert_eq!(record.at, 1_700_000_000_000_000);
    }
}
