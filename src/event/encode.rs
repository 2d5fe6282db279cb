//! Writing a record's bytes without building it first. Held against prost's decoder by the tests.

use std::net::IpAddr;

use super::{AddressForm, Addresses, End, Kind, Phase, Reason, Screening};
use crate::ids::Id;
use crate::units::{COLUMNS, Counters};

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
    /// The client (the peer, or who a trusted peer says it speaks for) and the TCP peer, as they may be shown.
    pub addresses: Addresses,
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
        addresses(to, &self.addresses);
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
    /// Client and peer, where they are others than the session's or are shown otherwise: what the session's note says of
    /// them is replaced, also by nothing.
    pub addresses: Option<Addresses>,
    /// Version of the table that named the account; 0: it is as the session's note says.
    pub accounts_version: i64,
    /// What the screening rules say and which, where it is not what the session's note says.
    pub screening: Option<(Screening, &'a str)>,
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
        if let Some(shown) = &self.addresses {
            replace_addresses(to, shown);
        }
        number(to, 37, self.accounts_version.max(0) as u64);
        if let Some((verdict, rule)) = self.screening {
            varint(to, u64::from(76u32 << 3));
            varint(to, verdict as u64);
            bytes(to, 77, rule.as_bytes());
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

/// Where a client is and what the rules say of it: encoded once, at the end of its session's note.
#[derive(Clone, Copy, Debug, Default)]
pub struct PlaceNote<'a> {
    /// ISO 3166-1, two letters.
    pub country: &'a str,
    /// As the database says it: usually the second part of ISO 3166-2, or a name.
    pub region: &'a str,
    /// Name.
    pub city: &'a str,
    /// Number of the autonomous system.
    pub asn: u32,
    /// Who announces it.
    pub as_org: &'a str,
    /// What kind of network it is.
    pub labels: &'a [Box<str>],
    /// Build time of the databases, s since the Unix epoch.
    pub geo_epoch: i64,
    /// Of the accounts that were in force.
    pub accounts_version: i64,
    /// The verdict.
    pub screening: Screening,
    /// The rule that decided it.
    pub screening_rule: &'a str,
}

impl PlaceNote<'_> {
    /// Appends the note's bytes.
    pub fn encode(&self, to: &mut Vec<u8>) {
        string(to, 30, self.country);
        string(to, 31, self.region);
        string(to, 32, self.city);
        number(to, 33, u64::from(self.asn));
        string(to, 34, self.as_org);
        self.labels.iter().for_each(|label| string(to, 35, label));
        number(to, 36, self.geo_epoch.max(0) as u64);
        number(to, 37, self.accounts_version.max(0) as u64);
        number(to, 76, self.screening as u64);
        string(to, 77, self.screening_rule);
    }

    /// Appends which table of addresses is in force, for a node record.
    pub fn encode_snapshot(id: &str, to: &mut Vec<u8>) {
        string(to, 78, id);
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
    pub deltas: &'a Counters,
    /// Since it began.
    pub totals: &'a Counters,
    /// Empty, or the invariant that failed.
    pub audit: &'a str,
    /// Size of a write in flight at a kill.
    pub uncertain_bytes: u64,
    /// How many records this one stands for; 0 for an ordinary one.
    pub folded: u64,
    /// Requests begun, in session records.
    pub requests: u64,
}

/// The most that a tail's numbers take: 18 counters and 11 others, each two octets of tag and ten of value; and what the last
/// whole word may reach beyond them.
const NUMBERS_BYTES_MAX: usize = (18 + 11) * 12 + 8;

impl Tail<'_> {
    /// The most that [`Self::encode`] writes.
    pub fn bytes_max(&self) -> usize {
        NUMBERS_BYTES_MAX + 12 + self.audit.len()
    }

    /// Writes the tail's bytes to the beginning of `room`, which has [`Self::bytes_max`]; how many they are.
    #[inline]
    pub fn encode(&self, room: &mut [u8]) -> usize {
        let Some(numbers) = room.first_chunk_mut() else { return 0 };
        let used = self.encode_numbers(numbers);
        if self.audit.is_empty() { used } else { self.encode_audit(room, used) }
    }

    /// Appends the tail's bytes.
    pub fn append(&self, to: &mut Vec<u8>) {
        let at = to.len();
        to.resize(at + self.bytes_max(), 0);
        let used = self.encode(&mut to[at..]);
        to.truncate(at + used);
    }

    #[cold]
    fn encode_audit(&self, room: &mut [u8], used: usize) -> usize {
        let mut audit = Vec::with_capacity(12 + self.audit.len());
        string(&mut audit, 60, self.audit);
        let end = used + audit.len();
        match room.get_mut(used..end) {
            Some(place) => {
                place.copy_from_slice(&audit);
                end
            }
            None => used,
        }
    }

    #[inline]
    fn encode_numbers(&self, room: &mut Room) -> usize {
        let is_billable = self.reason == Reason::Unspecified && matches!(self.kind, Kind::Session | Kind::Request);
        let mut used = put::<1>(room, 0, tag(1), self.kind as u64);
        used = put::<1>(room, used, tag(2), self.phase as u64);
        used = put::<1>(room, used, tag(7), self.started_at_us.max(0) as u64);
        used = put::<1>(room, used, tag(8), self.at_us.max(0) as u64);
        used = put::<1>(room, used, tag(9), u64::from(self.status));
        used = put::<1>(room, used, tag(10), self.end as u64);
        used = put::<1>(room, used, tag(11), u64::from(is_billable));
        used = put::<1>(room, used, tag(12), self.reason as u64);
        let (deltas, totals) = (self.deltas.to_array(), self.totals.to_array());
        for column in 0..COLUMNS {
            used = put_column(room, used, column, deltas[column], totals[column]);
        }
        if self.uncertain_bytes | self.folded | self.requests != 0 {
            used = put::<2>(room, used, tag(61), self.uncertain_bytes);
            used = put::<2>(room, used, tag(62), self.folded);
            used = put::<2>(room, used, tag(63), self.requests);
        }
        used
    }
}

type Room = [u8; NUMBERS_BYTES_MAX];

const DELTA_TAGS: [u64; COLUMNS] = tags(40);
const TOTAL_TAGS: [u64; COLUMNS] = tags(50);

/// A number's tag: one octet below field 16, else two.
const fn tag(field: u64) -> u64 {
    let tag = field << 3;
    if tag < 0x80 { tag } else { tag & 0x7f | 0x80 | (tag >> 7) << 8 }
}

/// Of nine fields in a row.
const fn tags(first_field: u64) -> [u64; COLUMNS] {
    let mut tags = [0; COLUMNS];
    let mut column = 0;
    while column < COLUMNS {
        tags[column] = tag(first_field + column as u64);
        column += 1;
    }
    tags
}

/// A column's delta and its total. They are the same in the one record of a short request, so one sum does for both.
#[inline(always)]
fn put_column(room: &mut Room, used: usize, column: usize, delta: u64, total: u64) -> usize {
    if delta | total == 0 {
        return used;
    }
    if delta == total && total < 0x4000 {
        let second = u64::from(total >= 0x80);
        let octets = (total & 0x7f | second << 7 | total >> 7 << 8) << 16;
        let bytes = 3 + second as usize;
        let used = put_word(room, used, DELTA_TAGS[column] | octets, bytes);
        return put_word(room, used, TOTAL_TAGS[column] | octets, bytes);
    }
    let used = put::<2>(room, used, DELTA_TAGS[column], delta);
    put::<2>(room, used, TOTAL_TAGS[column], total)
}

/// Writes a number that is not 0 at `used`, behind its tag of so many octets; where the next one begins.
#[inline(always)]
fn put<const TAG_BYTES: usize>(room: &mut Room, used: usize, tag: u64, value: u64) -> usize {
    if value == 0 {
        return used;
    }
    if value < 0x4000 {
        // One or two octets, without asking which: most counters are one or the other at random.
        let second = u64::from(value >= 0x80);
        let octets = value & 0x7f | second << 7 | value >> 7 << 8;
        return put_word(room, used, tag | octets << (8 * TAG_BYTES), TAG_BYTES + 1 + second as usize);
    }
    let used = put_word(room, used, tag, TAG_BYTES);
    put_large(room, used, value)
}

/// The first `count` octets of a word; what is stored behind them is overwritten by the next.
#[inline(always)]
fn put_word(room: &mut Room, used: usize, word: u64, count: usize) -> usize {
    if used > NUMBERS_BYTES_MAX - 8 {
        return used;
    }
    room[used..used + 8].copy_from_slice(&word.to_le_bytes());
    used + count
}

#[inline(never)]
fn put_large(room: &mut Room, mut used: usize, mut value: u64) -> usize {
    if value < 1 << 56 {
        // Seven bits to each octet, in three steps, then the mark of "more follows" on all but the last.
        let halves = value & 0x0fff_ffff | (value & 0x00ff_ffff_f000_0000) << 4;
        let quarters = halves & 0x0000_3fff_0000_3fff | (halves & 0x0fff_c000_0fff_c000) << 2;
        let octets = quarters & 0x007f_007f_007f_007f | (quarters & 0x3f80_3f80_3f80_3f80) << 1;
        let count = (70 - value.leading_zeros() as usize) / 7;
        let more = 0x0080_8080_8080_8080 & ((1 << (8 * (count - 1))) - 1);
        return put_word(room, used, octets | more, count);
    }
    while value >= 0x80 {
        used = put_word(room, used, value & 0x7f | 0x80, 1);
        value >>= 7;
    }
    put_word(room, used, value, 1)
}

fn addresses(to: &mut Vec<u8>, shown: &Addresses) {
    if let Some(client) = shown.client {
        address(to, 21, client);
    }
    number(to, 22, u64::from(shown.port));
    if let Some(peer) = shown.peer.filter(|_| shown.peer != shown.client) {
        address(to, 23, peer);
    }
    if shown.form != AddressForm::Full {
        number(to, 74, shown.form as u64);
        number(to, 75, shown.key_epoch.max(0) as u64);
    }
}

/// The same where something else may have been said before: what is not to be kept is stated as nothing.
fn replace_addresses(to: &mut Vec<u8>, shown: &Addresses) {
    for field in [21u32, 23] {
        bytes(to, field, &[]);
    }
    for field in [22u32, 74, 75] {
        varint(to, u64::from(field << 3));
        varint(to, 0);
    }
    addresses(to, shown);
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

#[inline]
fn bytes(to: &mut Vec<u8>, field: u32, value: &[u8]) {
    let tag = field << 3 | 2;
    // Nearly always: one or two octets of tag, one of length, written at once.
    match (tag, value.len()) {
        (..0x80, length @ ..0x80) => to.extend_from_slice(&[tag as u8, length as u8]),
        (0x80..0x4000, length @ ..0x80) => {
            to.extend_from_slice(&[tag as u8 | 0x80, (tag >> 7) as u8, length as u8]);
        }
        (_, length) => {
            varint(to, u64::from(tag));
            varint(to, length as u64);
        }
    }
    to.extend_from_slice(value);
}

pub(super) fn number(to: &mut Vec<u8>, field: u32, value: u64) {
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
            addresses: Addresses::full("2001:db8::1".parse().unwrap(), 4711, "10.0.0.1".parse().unwrap()),
        }
        .encode(&mut buf);
        RequestNote::encode_id(Id([8; 16]), &mut buf);
        RequestNote { account: "other", host: "a.test", method: "GET", path: "/x", ..Default::default() }
            .encode(&mut buf);
        let totals = Counters { received_body: 1, sent_wire: 1 << 40, upstream_received: 9, ..Default::default() };
        let tail = Tail {
            kind: Kind::Request,
            phase: Phase::Close,
            started_at_us: 5,
            at_us: 1_700_000_000_000_000,
            status: 200,
            end: End::Done,
            reason: Reason::Unspecified,
            deltas: &totals,
            totals: &totals,
            audit: "",
            uncertain_bytes: 3,
            folded: 0,
            requests: 0,
        };
        let mut room = vec![0; tail.bytes_max()];
        let used = tail.encode(&mut room);
        buf.extend_from_slice(&room[..used]);
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

    #[test]
    fn a_request_replaces_what_its_session_says_of_addresses() {
        let mut buf = Vec::new();
        addresses(&mut buf, &Addresses::full("192.0.2.1".parse().unwrap(), 4711, "10.0.0.1".parse().unwrap()));
        RequestNote { addresses: Some(Addresses::NONE), ..Default::default() }.encode(&mut buf);
        let record = UsageRecord::decode(buf.as_slice()).unwrap();
        assert!(record.client_ip.is_empty() && record.peer_ip.is_empty() && record.client_port == 0);
        assert_eq!(record.address_form(), AddressForm::None);
        let full = Addresses::full("192.0.2.7".parse().unwrap(), 1, "192.0.2.7".parse().unwrap());
        RequestNote { addresses: Some(full), ..Default::default() }.encode(&mut buf);
        let record = UsageRecord::decode(buf.as_slice()).unwrap();
        assert_eq!((record.client_ip.as_ref(), record.client_port), ([192, 0, 2, 7].as_slice(), 1));
        assert!(record.peer_ip.is_empty() && record.address_form() == AddressForm::Full);
    }

    #[test]
    fn numbers_of_every_size_come_back() {
        for bits in 0..64 {
            for value in [1u64 << bits, (1 << bits) - 1, (1 << bits) | 1, (1 << bits) | (1 << (bits / 2))] {
                let value = value & i64::MAX as u64;
                let counters = Counters::from_array([value; 9]);
                let tail = Tail {
                    kind: Kind::Gap,
                    phase: Phase::Close,
                    started_at_us: value as i64,
                    at_us: value as i64,
                    status: u16::MAX,
                    end: End::Internal,
                    reason: Reason::NoRequest,
                    deltas: &counters,
                    totals: &counters,
                    audit: "a",
                    uncertain_bytes: value,
                    folded: value,
                    requests: value,
                };
                let mut buf = vec![0xFF; tail.bytes_max()];
                let used = tail.encode(&mut buf);
                buf.truncate(used);
                let record = UsageRecord::decode(buf.as_slice()).unwrap();
                assert_eq!((record.deltas(), record.totals()), (counters, counters), "{value}");
                let numbers = [record.started_at, record.at, record.uncertain_bytes, record.folded, record.requests];
                assert_eq!(numbers, [value as i64; 5]);
                assert_eq!((record.status, record.audit.as_str()), (65535, "a"));
            }
        }
    }
}
