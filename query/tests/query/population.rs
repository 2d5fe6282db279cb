//! Traffic that never was, the same each time: few accounts with most of it, many with little; sessions with requests; places, networks,
//! labels, verdicts. Record by record, so that whoever checks an answer can add up for himself.

use bytes::Bytes;
use prost::Message;
use weir::event::v1::UsageBatch;
use weir::event::{End, Kind, Phase, Reason, Screening, UsageRecord};
use weir::ids::IdSource;

/// 2026-11-22T00:00:00Z.
pub const START_US: i64 = 1_795_305_600_000_000;
/// Records of one batch.
const BATCH: usize = 500;
/// Requests of a session.
const REQUESTS: u64 = 4;
const PLACES: [(&str, &str, &str); 8] = [
    ("US", "US-CA", "San Jose"),
    ("DE", "DE-BE", "Berlin"),
    ("GB", "GB-ENG", "London"),
    ("FR", "FR-IDF", "Paris"),
    ("IN", "IN-MH", "Mumbai"),
    ("BR", "BR-SP", "São Paulo"),
    ("UA", "UA-43", "Simferopol"),
    ("", "", ""),
];

/// How much of it, and over how long.
#[derive(Clone, Copy, Debug)]
pub struct Population {
    /// Sessions; each has four requests.
    pub sessions: u64,
    /// Accounts: `account-0` has the most.
    pub accounts: u64,
    /// The time that they lie in, µs.
    pub span_us: i64,
}

impl Population {
    /// All records of the one shard, in their order: for each session its open, its requests, its close.
    pub fn records(self) -> impl Iterator<Item = UsageRecord> {
        let mut ids = IdSource::new("edge-1", 3, 0);
        (0..self.sessions).flat_map(move |session| self.session(session, &mut ids))
    }

    /// The session in the middle of the time, as a shard of its own would have it: the same ids.
    pub fn session_in_the_middle(self) -> Vec<UsageRecord> {
        let middle = self.sessions / 2;
        let mut ids = IdSource::new("edge-1", 3, 0);
        for _ in 0..middle * (REQUESTS + 1) {
            ids.next(0);
        }
        self.session(middle, &mut ids)
    }

    fn session(self, n: u64, ids: &mut IdSource) -> Vec<UsageRecord> {
        let mut dice = Dice(n.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5eed);
        // A few have most: the fourth power of a number between 0 and 1.
        let skewed = |dice: &mut Dice, of: u64| {
            let unit = dice.next() as u32 as u128;
            ((((unit * unit * unit * unit) >> 96) * u128::from(of)) >> 32) as u64
        };
        let account = skewed(&mut dice, self.accounts);
        let client = skewed(&mut dice, 5000);
        let started_at =
            START_US + i64::try_from(u128::from(n) * self.span_us as u128 / u128::from(self.sessions)).unwrap();
        let (country, region, city) = PLACES[(skewed(&mut dice, PLACES.len() as u64 * 7) / 7) as usize];
        let asn = 64_500 + (client % 40) as i64;
        let is_hidden = client % 29 == 0;
        let screening = match (region, is_hidden) {
            ("UA-43", _) => (Screening::Match, "crimea@1"),
            ("", _) | (_, true) => (Screening::Indeterminate, "crimea@1"),
            _ => (Screening::Clear, ""),
        };
        let session_id = Bytes::copy_from_slice(&ids.next(started_at).0);
        let base = UsageRecord {
            session_id,
            account: format!("account-{account}"),
            endpoint: format!("api-{}", account % 3),
            listener: "web".into(),
            protocol: "h1".into(),
            tls_version: "1.3".into(),
            sni: format!("{account}.example"),
            attribution: "by-host".into(),
            started_at,
            at: started_at,
            client_ip: Bytes::copy_from_slice(
                &(0x0a00_0000_u32 | (client as u32 * 7 + (account % 7) as u32)).to_be_bytes(),
            ),
            client_port: 1024 + (dice.next() % 60_000) as i32,
            country: country.into(),
            region: region.into(),
            city: city.into(),
            asn,
            as_org: format!("Network {}", asn - 64_500),
            labels: if is_hidden { vec!["proxy.vpn".into()] } else { Vec::new() },
            geo_epoch: 1_795_000_000,
            accounts_version: 17,
            screening: screening.0.into(),
            screening_rule: screening.1.into(),
            origin: "10.9.9.9:3000".into(),
            billable: true,
            ..UsageRecord::default()
        };
        let is_refused = screening.0 == Screening::Match;
        let mut records = vec![UsageRecord { kind: Kind::Session.into(), phase: Phase::Open.into(), ..base.clone() }];
        let (mut received, mut sent, mut at) = (0, 0, started_at);
        for _ in 0..REQUESTS {
            let luck = dice.next();
            let (took_us, bytes) = ((luck % 90_000) as i64, 200 + (luck >> 17) as i64 % (1 << (luck % 20)));
            let status = if is_refused {
                451
            } else if luck.is_multiple_of(97) {
                502
            } else {
                200
            };
            let mut request = base.clone();
            request.kind = Kind::Request.into();
            request.phase = Phase::Close.into();
            request.started_at = at;
            request.request_id = Bytes::copy_from_slice(&ids.next(at).0);
            at += took_us;
            request.at = at;
            request.status = status;
            request.end = if status == 502 { End::UpstreamError.into() } else { End::Done.into() };
            request.reason = if is_refused { Reason::Screened.into() } else { Reason::Unspecified.into() };
            request.billable = !is_refused;
            request.host = format!("{account}.example");
            request.method = if luck.is_multiple_of(5) { "POST".into() } else { "GET".into() };
            request.path = format!("/secret-of-account-{account}/{}", luck % 1000);
            (request.received_app_bytes, request.sent_app_bytes) = (180 + took_us % 50, bytes);
            (request.received_wire_bytes, request.sent_wire_bytes) = (request.received_app_bytes, bytes);
            (request.sent_body_bytes, request.sent_acked_bytes) = (bytes - 200, bytes);
            (request.upstream_received_bytes, request.upstream_sent_bytes) =
                (bytes - 20, request.received_app_bytes + 30);
            received += request.received_app_bytes;
            sent += bytes;
            totals(&mut request);
            records.push(request);
        }
        let mut close =
            UsageRecord { kind: Kind::Session.into(), phase: Phase::Close.into(), end: End::Done.into(), at, ..base };
        (close.received_app_bytes, close.sent_app_bytes, close.requests) = (received, sent, REQUESTS as i64);
        (close.received_wire_bytes, close.sent_wire_bytes, close.sent_acked_bytes) =
            (received + 1600, sent + 3100, sent + 3100);
        totals(&mut close);
        records.push(close);
        records
    }
}

/// The first that says anything says all.
fn totals(record: &mut UsageRecord) {
    record.total_received_body_bytes = record.received_body_bytes;
    record.total_received_app_bytes = record.received_app_bytes;
    record.total_received_wire_bytes = record.received_wire_bytes;
    record.total_sent_body_bytes = record.sent_body_bytes;
    record.total_sent_app_bytes = record.sent_app_bytes;
    record.total_sent_wire_bytes = record.sent_wire_bytes;
    record.total_sent_acked_bytes = record.sent_acked_bytes;
    record.total_upstream_sent_bytes = record.upstream_sent_bytes;
    record.total_upstream_received_bytes = record.upstream_received_bytes;
}

/// Writes records as files of a sink are written, batches with their lengths before them, and says which seq comes next.
pub fn write(
    records: impl Iterator<Item = UsageRecord>,
    mut first_seq: u64,
    mut to: impl std::io::Write,
) -> std::io::Result<u64> {
    let mut records = records.peekable();
    while records.peek().is_some() {
        let records: Vec<UsageRecord> = records.by_ref().take(BATCH).collect();
        let next_seq = first_seq + records.len() as u64;
        let batch = UsageBatch {
            node: "edge-1".into(),
            epoch: 3,
            first_seq: first_seq as i64,
            count: records.len() as i32,
            records,
            ..UsageBatch::default()
        };
        to.write_all(&batch.encode_length_delimited_to_vec())?;
        first_seq = next_seq;
    }
    Ok(first_seq)
}

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
