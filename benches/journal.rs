//! What one small request costs in records: `cargo bench --bench journal`. Instructions, which a busy machine does not
//! change: `valgrind --tool=callgrind --toggle-collect='*measured_request*' <the bench's binary> 2000`.
//!
//! The request is one of a keep-alive HTTP/1 session: begun, described, counted in both directions, closed and
//! recorded.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Instant;

use weir::clock::Clock;
use weir::event::{Addresses, End, Reason, RequestNote, SessionNote};
use weir::ids::IdSource;
use weir::journal::{Budget, Cursor, Options, StateDir, Writer};
use weir::metrics::metrics;
use weir::proxy::{Facts, Recorder, Verdict};
use weir::units::Column;

/// One request, from its first octet to its record.
#[inline(never)]
fn measured_request(recorder: &Recorder, session_note: &[u8]) {
    let (_, measured) = recorder.measure_request(session_note).expect("a slot");
    measured.add(Column::ReceivedApp, 78);
    let note = RequestNote { host: "127.0.0.1:8080", method: "GET", path: "/small", ..RequestNote::default() };
    measured.append_note(|bytes| note.encode(bytes));
    measured.append_note_unkept(|bytes| RequestNote::encode_origin("127.0.0.1:3000", bytes));
    measured.add(Column::UpstreamSent, 120);
    measured.add(Column::UpstreamReceived, 250);
    measured.add(Column::SentApp, 240);
    measured.add(Column::SentBody, 100);
    let verdict = Verdict { status: 200, end: End::Done, reason: Reason::Unspecified };
    measured.decide(verdict);
    measured.set(Column::SentAcked, 240);
    recorder.close(measured, Facts { verdict, ..Facts::default() });
}

fn session_note(recorder: &Recorder) -> Vec<u8> {
    let mut note = Vec::new();
    SessionNote {
        session_id: recorder.next_id(recorder.now_us()),
        account: "unattributed",
        endpoint: "web",
        attribution: "",
        listener: "web",
        protocol: "h1",
        tls_version: "",
        sni: "",
        tls_subject: "",
        addresses: Addresses::full(IpAddr::V4(Ipv4Addr::LOCALHOST), 43210, IpAddr::V4(Ipv4Addr::LOCALHOST)),
    }
    .encode(&mut note);
    note
}

fn main() {
    let count = std::env::args().filter_map(|arg| arg.parse().ok()).next().unwrap_or(2_000_000u64);
    let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let state = StateDir::open(directory.path()).unwrap();
    let epoch = state.claim_epoch().unwrap();
    let options = Options { segment_bytes: 16 << 20, ..Options::default() };
    let writer = Writer::create(&epoch, 0, "bench", &options, Arc::new(Budget::new(64 << 20))).unwrap();
    let shared = writer.shared();
    let mut cursor = Cursor::open(shared.directory()).unwrap();
    let recorder = Recorder::new(writer, Clock::anchored(), IdSource::new("bench", 1, 0), metrics());
    let note = session_note(&recorder);
    // Warm: the segment's pages, the slot's lines.
    (0..1000).for_each(|_| measured_request(&recorder, &note));
    let mut spent = std::time::Duration::ZERO;
    let mut done = 0;
    while done < count {
        let part = (count - done).min(20_000);
        let started = Instant::now();
        (0..part).for_each(|_| measured_request(&recorder, &note));
        spent += started.elapsed();
        done += part;
        shared.sync().unwrap();
        cursor.advance(shared.synced_seq()).unwrap();
        shared.release_through(&cursor).unwrap();
    }
    assert_eq!(shared.published_seq(), 1000 + count, "a request was not recorded");
    println!("{count} requests recorded, {:.0} ns each", spent.as_nanos() as f64 / count as f64);
}
