//! What a record costs on its way into a message and out of it, and how many bytes it has there.
//!
//! `cargo bench --bench wire` measures records put together as the data plane does, in the mix of `weir demo`;
//! `cargo bench --bench wire -- FILE.binpb…` those of a file sink (`format = "protobuf"`), for instance a demo's own.
//! CPU time of one thread, the best of several rounds: what the machine does beside it hardly counts.

// A program that prints figures: it may end at what it did not expect.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::hint::black_box;
use std::sync::Arc;

use prost::Message as _;
use rustix::time::{ClockId, clock_gettime};
use weir::event::v1::UsageBatch;
use weir::event::{Addresses, End, Kind, Phase, Reason, RequestNote, SessionNote, Tail, UsageRecord};
use weir::ids::IdSource;
use weir::units::Counters;
use weir::wire::{
    Boundary, Bounds, Encoder, Format, Incoming, Layout, Limits, Message, SigningKey, State, StreamId, Verifier,
};

/// As in weir itself.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const RECORDS: usize = 20_000;
const ROUNDS: usize = 15;
const SECRET: &[u8] = b"a secret of 32 bytes for benches";

fn main() {
    let files: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let records = if files.is_empty() { mix() } else { files.iter().flat_map(|file| of_file(file)).collect() };
    let requests: Vec<Vec<u8>> = records.iter().filter(|record| kind(record) == Kind::Request).cloned().collect();
    assert!(requests.len() >= 500, "{} request records are too few", requests.len());
    println!("records: {} of which requests: {}", records.len(), requests.len());

    println!("\nbytes per record          raw    value    zstd -3");
    for (name, records) in [("request records", &requests), ("all records", &records)] {
        for (form, layout, format) in [
            ("protobuf", Layout::Batch, Format::default()),
            ("json", Layout::Batch, Format::Json),
            ("record", Layout::Record, Format::default()),
        ] {
            sizes(&format!("{name}, {form}"), records, layout, format);
        }
    }

    println!("\nCPU ns per record, batches of 500, protobuf");
    let hmac = Arc::new(SigningKey::hmac_sha256("bench", SECRET).unwrap());
    let plain = messages(&records, Layout::Batch, Format::default(), None);
    let sent = |layout, key: Option<&Arc<SigningKey>>| {
        let mut bytes = 0;
        encode(&records, layout, Format::default(), key.cloned(), |message| bytes += black_box(message).payload.len());
        bytes
    };
    time("encode", records.len(), || sent(Layout::Batch, None));
    time("encode and sign (HMAC)", records.len(), || sent(Layout::Batch, Some(&hmac)));
    time("of which BLAKE3", records.len(), || {
        plain.iter().map(|message| usize::from(blake3::hash(black_box(&message.payload)).as_bytes()[0])).sum()
    });
    time("encode, one record a message", records.len(), || sent(Layout::Record, None));
    time("verify and decode", records.len(), || verify(&plain));
    time("of which prost decodes", records.len(), || {
        plain.iter().map(|message| UsageBatch::decode(message.payload.as_ref()).unwrap().records.len()).sum()
    });
}

/// Bytes of all messages with their headers; zstd as Kafka does it, over one produce batch: with `record`, 500 messages.
fn sizes(name: &str, records: &[Vec<u8>], layout: Layout, format: Format) {
    let raw: usize = records.iter().map(Vec::len).sum();
    let messages = messages(records, layout, format, None);
    let mut value = 0;
    let mut compressed = 0;
    for produced in messages.chunks(if layout == Layout::Record { 500 } else { 1 }) {
        let mut bytes = Vec::new();
        for message in produced {
            value += message.payload.len();
            bytes.extend_from_slice(message.key.as_bytes());
            for (name, value) in &message.headers {
                bytes.extend_from_slice(name.as_bytes());
                bytes.extend_from_slice(value);
            }
            bytes.extend_from_slice(&message.payload);
        }
        compressed += zstd::bulk::compress(&bytes, 3).unwrap().len();
    }
    let each = |bytes: usize| bytes as f64 / records.len() as f64;
    println!("{name:26}{:6.1}{:9.1}{:11.1}", each(raw), each(value), each(compressed));
}

fn messages(records: &[Vec<u8>], layout: Layout, format: Format, key: Option<Arc<SigningKey>>) -> Vec<Message> {
    let mut messages = Vec::new();
    encode(records, layout, format, key, |message| messages.push(message));
    messages
}

fn encode(
    records: &[Vec<u8>],
    layout: Layout,
    format: Format,
    key: Option<Arc<SigningKey>>,
    mut send: impl FnMut(Message),
) {
    let stream = StreamId { node: "edge-1.example".to_owned(), epoch: 3, shard: 0 };
    let mut encoder = Encoder::new(stream, layout, format, Limits::default(), key, Boundary::default());
    for (seq, record) in (0..).zip(records) {
        if let Some(message) = encoder.push(seq, record).unwrap() {
            send(message);
        }
    }
    if let Some(message) = encoder.finish() {
        send(message);
    }
}

fn verify(messages: &[Message]) -> usize {
    let mut verifier = Verifier::new(Vec::new(), Bounds::default(), State::default());
    let mut records = 0;
    for message in messages {
        let headers: Vec<(&str, &[u8])> = message.headers.iter().map(|(name, value)| (*name, value.as_ref())).collect();
        let taken = verifier.take(Incoming { headers: &headers, payload: &message.payload }).unwrap();
        assert!(taken.findings.is_empty());
        records += black_box(taken).count();
    }
    records
}

fn time(name: &str, records: usize, mut work: impl FnMut() -> usize) {
    let cpu_ns = || {
        let now = clock_gettime(ClockId::ThreadCPUTime);
        now.tv_sec * 1_000_000_000 + now.tv_nsec
    };
    let mut best = i64::MAX;
    for _ in 0..ROUNDS {
        let started = cpu_ns();
        black_box(work());
        best = best.min(cpu_ns() - started);
    }
    println!("{name:30}{:8.1}", best as f64 / records as f64);
}

fn kind(record: &[u8]) -> Kind {
    UsageRecord::decode(record).unwrap().kind()
}

fn of_file(path: &str) -> Vec<Vec<u8>> {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let mut rest = bytes.as_slice();
    let mut records = Vec::new();
    while !rest.is_empty() {
        let batch = UsageBatch::decode_length_delimited(&mut rest).expect("a file of a file sink");
        records.extend(batch.records.iter().map(|record| record.encode_to_vec()));
    }
    records
}

/// As `weir demo`: keep-alive requests, some of them errors, uploads and downloads; a session's records after its requests.
fn mix() -> Vec<Vec<u8>> {
    let mut ids = IdSource::new("edge-1.example", 3, 0);
    let mut dice = Dice(1);
    let mut now_us = 1_790_000_000_000_000;
    let mut records = Vec::new();
    while records.len() < RECORDS {
        let (account, host) = ACCOUNTS[dice.below(4)];
        let session_id = ids.next(now_us);
        let client = ("127.0.0.1".parse().unwrap(), 32_768 + u16::try_from(dice.below(28_000)).unwrap());
        let mut note = Vec::new();
        SessionNote {
            session_id,
            account,
            endpoint: "web",
            attribution: "route",
            listener: "web",
            protocol: "h1",
            tls_version: "",
            sni: "",
            tls_subject: "",
            addresses: Addresses::full(client.0, client.1, client.0),
        }
        .encode(&mut note);
        let session_us = now_us;
        let mut session = Counters::default();
        for _ in 0..dice.below(120) + 1 {
            now_us += i64::try_from(dice.below(3_000)).unwrap() + 200;
            let mut record = note.clone();
            RequestNote::encode_id(ids.next(now_us), &mut record);
            let size = dice.below(40_000) as u64 + 1;
            let path = format!("/bytes/{size}");
            let note = RequestNote { host, method: "GET", path: &path, ..Default::default() };
            note.encode(&mut record);
            RequestNote::encode_origin("127.0.0.1:41327", &mut record);
            let app = 180 + size;
            let moved = Counters {
                received_app: 70 + path.len() as u64,
                received_wire: 70 + path.len() as u64,
                sent_body: size,
                sent_app: app,
                sent_wire: app,
                sent_acked: app,
                upstream_sent: 120 + path.len() as u64,
                upstream_received: app - 20,
                ..Default::default()
            };
            session = session.checked_add(&moved).unwrap();
            let at_us = now_us + i64::try_from(dice.below(2_000)).unwrap() + 150;
            tail(Kind::Request, (now_us, at_us), 200, moved, &mut record);
            records.push(record);
        }
        let mut record = note;
        tail(Kind::Session, (session_us, now_us + 5_000), 0, session, &mut record);
        records.push(record);
    }
    records
}

const ACCOUNTS: [(&str, &str); 4] = [
    ("acme", "api.acme.example"),
    ("globex", "cdn.globex.example"),
    ("hooli", "live.hooli.example"),
    ("initech", "app.initech.example"),
];

fn tail(kind: Kind, (started_at_us, at_us): (i64, i64), status: u16, moved: Counters, to: &mut Vec<u8>) {
    Tail {
        kind,
        phase: Phase::Close,
        started_at_us,
        at_us,
        status,
        end: End::Done,
        reason: Reason::Unspecified,
        deltas: &moved,
        totals: &moved,
        audit: "",
        uncertain_bytes: 0,
        folded: 0,
        requests: 0,
    }
    .append(to);
}

/// The same numbers every time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % end
    }
}
