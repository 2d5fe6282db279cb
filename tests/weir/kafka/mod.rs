//! Records in Kafka are the journal's: each once, none missing, whatever is killed, cut, refused or slow.
//!
//! What the journal held is read from it by `weir events --state` while it is there; what arrived, by `weir events --kafka`.

mod flow;
mod kills;
mod logins;
mod outages;
mod refusals;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::rig::kafka::Reading;
use crate::rig::process::{House, Process};
use crate::rig::records::Records;
use crate::rig::until;

/// A whole number from the environment: how long the full form of a test is.
pub fn asked(name: &str, short: usize) -> usize {
    std::env::var(name).map_or(short, |text| text.parse().expect("a whole number"))
}

/// What the journal said, by place.
#[derive(Default)]
struct Book(BTreeMap<(i64, i64, i64), Value>);

impl Book {
    /// Notes what is in the journal now. A place never has two records.
    fn note(&mut self, house: &House) {
        let Records(records) = house.records();
        for record in records {
            let before = self.0.insert(record.place(), record.0.clone());
            assert!(before.is_none_or(|before| before == record.0), "two records in one place: {}", record.0);
        }
    }

    /// Every record noted is in the topic, unchanged.
    fn assert_in(&self, reading: &Reading) {
        let found: BTreeMap<_, _> = reading.records.0.iter().map(|record| (record.place(), &record.0)).collect();
        for (place, record) in &self.0 {
            let found = found.get(place).unwrap_or_else(|| panic!("{record} is lost: {}", reading.findings));
            assert_eq!(*found, record, "changed on its way");
        }
    }
}

/// Clients that ask for something small again and again, each on its connection.
pub struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Vec<(Instant, Duration)>>>,
}

impl Load {
    pub fn start(to: SocketAddr, clients: usize, pause: Duration) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let client = |_| {
            let stop = stop.clone();
            std::thread::spawn(move || {
                let mut times = Vec::new();
                let mut stream = TcpStream::connect(to).unwrap();
                stream.set_nodelay(true).unwrap();
                while !stop.load(Ordering::Relaxed) {
                    let begin = Instant::now();
                    exchange(&mut stream);
                    times.push((begin, begin.elapsed()));
                    std::thread::sleep(pause);
                }
                times
            })
        };
        Self { threads: (0..clients).map(client).collect(), stop }
    }

    /// When each request began, and how long it took.
    pub fn end(self) -> Vec<(Instant, Duration)> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    }
}

fn exchange(stream: &mut TcpStream) {
    stream.write_all(b"GET /bytes/100 HTTP/1.1\r\nhost: test\r\n\r\n").unwrap();
    let mut got = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let n = stream.read(&mut piece).unwrap();
        assert!(n > 0, "cut off");
        got.extend_from_slice(&piece[..n]);
        let Some(end) = got.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        if got.len() == end + 4 + 100 {
            assert!(got.starts_with(b"HTTP/1.1 200"));
            return;
        }
    }
}

/// The 99th percentile.
fn p99(times: impl Iterator<Item = Duration>) -> Duration {
    let mut times: Vec<_> = times.collect();
    times.sort_unstable();
    times[times.len() * 99 / 100]
}

/// Waits until the sink has acknowledged this many records more than it had.
fn await_acknowledged(process: &Process, more: f64) {
    let before = process.metric("weir_sink_records_total");
    until("the sink to take records", || (process.metric("weir_sink_records_total") >= before + more).then_some(()));
}

/// Stops it; the sink has taken everything.
pub fn stop(process: Process) {
    let log = process.stop();
    let left: Vec<_> = log.iter().filter(|line| line.contains("has not taken all")).collect();
    assert!(left.is_empty(), "{log:#?}");
}
