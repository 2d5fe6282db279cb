//! What it costs to bring records from the journal to the broker: records per CPU second of this process, all threads.
//!
//! `tests/kafka.sh start && cargo bench --bench shipping -- 127.0.0.1:19092`: batched, beside one message per record, in the
//! same run. The broker is another process, whose work is not counted. `--records N` for more than a million.

// A program that prints figures: it may end at what it did not expect.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod measured;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use measured::Stopwatch;
use weir::config::Config;
use weir::event::{Addresses, End, Kind, Losses, Phase, Reason, RequestNote, SessionNote, Tail};
use weir::ids::IdSource;
use weir::journal::{Budget, Cursor, Options, StateDir, Writer};
use weir::metrics::metrics;
use weir::shipper::{Shipper, Source};
use weir::units::Counters;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(servers) = arguments.iter().find(|argument| argument.contains(':')) else {
        println!("shipping: give a broker to ship to, like 127.0.0.1:19092 (tests/kafka.sh start)");
        return;
    };
    let count = arguments.iter().skip_while(|argument| *argument != "--records").nth(1);
    let count = count.map_or(1_000_000, |count| count.parse().expect("--records N"));
    println!("{count} request records of {} bytes on average", average_bytes());
    for (layout, compression, count) in
        [("batch", "none", count), ("batch", "lz4", count), ("batch", "zstd", count), ("record", "zstd", count / 4)]
    {
        let topic = format!("weir.bench.{}.{layout}.{compression}", std::process::id());
        ship(servers, &topic, layout, compression, count);
    }
}

/// Writes the journal, then measures until everything is acknowledged.
fn ship(servers: &str, topic: &str, layout: &str, compression: &str, count: usize) {
    let directory = tempfile::tempdir().unwrap();
    let text = format!(
        "state_dir = {:?}\n[sink]\nkind = \"kafka\"\nbootstrap_servers = \"{servers}\"\ntopic = \"{topic}\"\n[sink.kafka]\n\
         layout = \"{layout}\"\ncompression = \"{compression}\"\npartitions = 1\nreplication = 1\n\
         drain_bytes_per_s_max = 1099511627776\n[[listeners]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nupstream = \"127.0.0.1:1\"\n",
        directory.path()
    );
    let config = Config::parse(&text, "bench", Path::new("/")).unwrap_or_else(|errors| panic!("{errors}"));
    let options = Options { segment_bytes: 64 << 20, journal_bytes_max: 8 << 30, slots_max: 16, ..Options::default() };
    let budget = Arc::new(Budget::new(options.journal_bytes_max));
    let epoch = StateDir::open(directory.path()).unwrap().claim_epoch().unwrap();
    let mut writer = Writer::create(&epoch, 0, "bench", &options, budget.clone()).unwrap();
    let records = records();
    for at in 0..count {
        writer.append(&records[at % records.len()]).unwrap();
    }
    let shared = writer.shared();
    shared.sync().unwrap();
    let (watch, begun) = (Stopwatch::start(), Instant::now());
    let shipper = Shipper::start(&config.sink, budget, Losses::default(), metrics()).unwrap();
    shipper.add(Source { shared: shared.clone(), dead: None });
    while Cursor::peek(shared.directory()).unwrap() < count as u64 {
        assert!(begun.elapsed() < Duration::from_secs(300), "it does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
    watch.report(&format!("{layout}, {compression}"), count as u64);
    shipper.stop();
}

fn average_bytes() -> usize {
    let records = records();
    records.iter().map(Vec::len).sum::<usize>() / records.len()
}

/// Requests as `weir demo` makes them.
fn records() -> Vec<Vec<u8>> {
    let mut ids = IdSource::new("edge-1.example", 3, 0);
    let mut now_us = 1_790_000_000_000_000;
    let mut records = Vec::new();
    for at in 0..20_000_u64 {
        let account = ["acme", "globex", "hooli", "initech"][at as usize % 4];
        let client = ("127.0.0.1".parse().unwrap(), 32_768 + (at / 60 % 28_000) as u16);
        let mut record = Vec::new();
        SessionNote {
            session_id: ids.next(1_790_000_000_000_000 + at as i64 / 60 * 1000),
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
        .encode(&mut record);
        RequestNote::encode_id(ids.next(now_us), &mut record);
        now_us += 200 + (at as i64 * 7919) % 3000;
        let size = 1 + at * 7919 % 40_000;
        let (host, path) = (format!("api.{account}.example"), format!("/bytes/{size}"));
        RequestNote { host: &host, method: "GET", path: &path, ..Default::default() }.encode(&mut record);
        RequestNote::encode_origin("127.0.0.1:41327", &mut record);
        let moved = Counters {
            received_app: 80,
            received_wire: 80,
            sent_body: size,
            sent_app: 180 + size,
            sent_wire: 180 + size,
            sent_acked: 180 + size,
            upstream_sent: 130,
            upstream_received: 160 + size,
            ..Default::default()
        };
        Tail {
            kind: Kind::Request,
            phase: Phase::Close,
            started_at_us: now_us,
            at_us: now_us + 150 + (at as i64 * 31) % 2000,
            status: 200,
            end: End::Done,
            reason: Reason::Unspecified,
            deltas: &moved,
            totals: &moved,
            audit: "",
            uncertain_bytes: 0,
            folded: 0,
            requests: 0,
        }
        .append(&mut record);
        records.push(record);
    }
    records
}
