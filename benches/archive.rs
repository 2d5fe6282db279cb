//! Records per second into the archive: `cargo bench --bench archive [-- RECORDS]`.
//!
//! The files of a sink (length-delimited batches of 500 records, as they lie in Kafka too) are read, verified, made into Parquet with whole
//! addresses encrypted, and committed, 500,000 records at a time; then small files are joined. What is printed: records per second and
//! per CPU second (all threads of this process), and octets a row before and after joining. Beside it, in the same run, what
//! reading and verifying alone costs.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod measured;

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use measured::Stopwatch;
use prost::Message;

use weir::archive::{Archiver, Manifest, Place, Table, keep};
use weir::clock::{DAY_US, HOUR_US};
use weir::config::{Archive, ArchiveAddresses, ArchivePlace};
use weir::event::v1::UsageBatch;
use weir::event::{End, Kind, Phase, UsageRecord};
use weir::rollup::{Book, Feed, FilesFeed, Options};
use weir::store::Found;

const RECORDS: usize = 3_000_000;
const BATCH_RECORDS: usize = 500;
const SHARDS: u64 = 4;
/// Sessions begin with so many requests each.
const REQUESTS: u64 = 10;
const START_US: i64 = 1_795_305_600_000_000;

struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Below `n`, low numbers much more often than high ones.
    fn skewed(&mut self, n: u64) -> u64 {
        let unit = (self.roll() >> 11) as f64 / (1u64 << 53) as f64;
        ((n as f64).powf(unit) - 1.0) as u64
    }
}

/// One session's records: its requests, and its close.
fn session(shard: u64, session: u64, dice: &mut Dice, to: &mut Vec<UsageRecord>) {
    let account = dice.skewed(2000);
    let client = dice.skewed(200_000) as u32;
    let started_at = START_US + (session * 4_000) as i64 + (dice.roll() % 1000) as i64;
    let id = |counter: u64| {
        let mut id = [0; 16];
        id[..6].copy_from_slice(&((started_at / 1000) as u64).to_be_bytes()[2..]);
        id[6..12].copy_from_slice(&[9, 8, 7, 0, 1, shard as u8]);
        id[12..].copy_from_slice(&(counter as u32).to_be_bytes());
        Bytes::copy_from_slice(&id)
    };
    let first = session * (REQUESTS + 1);
    let base = UsageRecord {
        session_id: id(first),
        account: format!("account-{account}"),
        endpoint: format!("{account}.example.com"),
        attribution: "by-host".into(),
        listener: "web".into(),
        protocol: ["h2", "h1"][(client % 2) as usize].into(),
        tls_version: "1.3".into(),
        sni: format!("{account}.example.com"),
        client_ip: Bytes::copy_from_slice(&(0x0A00_0000 | client).to_be_bytes()),
        client_port: 1024 + (dice.roll() % 60_000) as i32,
        country: ["DE", "FR", "US", "JP", "BR", "IN"][(client % 6) as usize].into(),
        region: format!("R{}", client % 40),
        city: format!("City {}", client % 300),
        asn: i64::from(client % 900),
        as_org: format!("Network {}", client % 900),
        geo_epoch: 1_795_000_000,
        accounts_version: 77,
        started_at,
        billable: true,
        phase: Phase::Close.into(),
        end: End::Done.into(),
        ..UsageRecord::default()
    };
    let mut sums = [0i64; 3];
    for request in 0..REQUESTS {
        let path = dice.skewed(500);
        // Most of what is asked for is the same few things.
        let body = ((path * 7919 + account * 31) % 60_000) as i64
            + if dice.roll().is_multiple_of(4) { (dice.roll() % 5000) as i64 } else { 0 };
        let received = 180 + (path % 60) as i64;
        let at = started_at + (request * 90_000 + dice.roll() % 50_000) as i64;
        let sent = body + 210;
        sums = [sums[0] + received, sums[1] + sent, sums[2] + body];
        to.push(UsageRecord {
            kind: Kind::Request.into(),
            request_id: id(first + 1 + request),
            host: format!("{account}.example.com"),
            method: "GET".into(),
            path: format!("/v1/things/{path}"),
            status: [200, 200, 200, 304, 404, 200, 200, 500][(path % 8) as usize],
            origin: "10.1.2.3:8080".into(),
            at,
            started_at: at - (dice.roll() % 20_000) as i64,
            received_app_bytes: received,
            received_wire_bytes: received,
            sent_body_bytes: body,
            sent_app_bytes: sent,
            sent_wire_bytes: sent,
            sent_acked_bytes: sent,
            upstream_sent_bytes: received + 40,
            upstream_received_bytes: sent - 12,
            total_received_app_bytes: received,
            total_received_wire_bytes: received,
            total_sent_body_bytes: body,
            total_sent_app_bytes: sent,
            total_sent_wire_bytes: sent,
            total_sent_acked_bytes: sent,
            total_upstream_sent_bytes: received + 40,
            total_upstream_received_bytes: sent - 12,
            ..base.clone()
        });
    }
    to.push(UsageRecord {
        kind: Kind::Session.into(),
        at: started_at + 1_200_000,
        requests: REQUESTS as i64,
        received_app_bytes: sums[0],
        received_wire_bytes: sums[0] + 900,
        sent_body_bytes: sums[2],
        sent_app_bytes: sums[1],
        sent_wire_bytes: sums[1] + 3200,
        sent_acked_bytes: sums[1] + 3200,
        total_received_app_bytes: sums[0],
        total_received_wire_bytes: sums[0] + 900,
        total_sent_body_bytes: sums[2],
        total_sent_app_bytes: sums[1],
        total_sent_wire_bytes: sums[1] + 3200,
        total_sent_acked_bytes: sums[1] + 3200,
        ..base
    });
}

fn write(directory: &Path, records: usize) {
    std::fs::create_dir_all(directory).unwrap();
    for shard in 0..SHARDS {
        let mut dice = Dice(0x9E37_79B9_7F4A_7C15 ^ (shard + 1));
        let (mut file, mut left, mut next_seq, mut sessions) = (Vec::new(), Vec::new(), 0, 0);
        while next_seq < records / SHARDS as usize {
            while left.len() < BATCH_RECORDS {
                session(shard, sessions, &mut dice, &mut left);
                sessions += 1;
            }
            let batch = UsageBatch {
                node: "node-1".into(),
                epoch: 1,
                shard: shard as i32,
                first_seq: next_seq as i64,
                count: BATCH_RECORDS as i32,
                records: left.drain(..BATCH_RECORDS).collect(),
                ..UsageBatch::default()
            };
            file.extend(batch.encode_length_delimited_to_vec());
            next_seq += BATCH_RECORDS;
        }
        std::fs::write(directory.join(format!("usage-1-{shard}-000000000000.binpb")), file).unwrap();
    }
}

fn sizes(place: &Place) {
    let manifest = Manifest::read(place).unwrap();
    for table in Table::ALL {
        let files: Vec<_> = manifest.files.values().filter(|file| file.table == table).collect();
        let rows: i64 = files.iter().map(|file| file.rows).sum();
        let octets: i64 = files.iter().map(|file| file.file_bytes).sum();
        if rows > 0 {
            println!("{:<34} {:>9} files, {:.1} octets a row", table.name(), files.len(), octets as f64 / rows as f64);
        }
    }
}

fn options() -> Options {
    Options { keys: Vec::new(), hosts_max: 0 }
}

fn main() {
    let records = std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(RECORDS);
    let directory = tempfile::tempdir().unwrap();
    let sink = directory.path().join("sink");
    write(&sink, records);

    let mut book = Book::open(Found::default(), options()).unwrap();
    book.keep_no_usage();
    let mut feed = Feed::Files(FilesFeed::new(&sink));
    let watch = Stopwatch::start();
    while feed.read(&mut book, u64::MAX, Duration::ZERO).unwrap() {}
    watch.report("read and verified alone", book.counts().0);

    let config = Archive {
        place: ArchivePlace::Directory(directory.path().join("archive")),
        addresses: ArchiveAddresses::Sealed,
        keys: directory.path().join("keys"),
        buckets: 4,
        commit_interval: Duration::from_secs(3600),
        commit_records_max: 500_000,
        group: String::new(),
        keep_requests_days: 0,
        keep_sessions_days: 0,
        keep_nodes_days: 0,
    };
    let mut archiver = Archiver::new(config.clone(), Feed::Files(FilesFeed::new(&sink)), options).unwrap();
    let watch = Stopwatch::start();
    let archived = archiver.run(&AtomicBool::new(false), true).unwrap();
    watch.report("archived", archived);
    sizes(archiver.place());
    let watch = Stopwatch::start();
    let kept = keep(archiver.place(), &config, START_US + DAY_US + HOUR_US).unwrap();
    watch.report("joined", archived);
    println!("{:<34} {:>9} files became {}", "", kept.joined, kept.into);
    sizes(archiver.place());
}
