//! Real sockets on both sides of a worker of its own: what clients and origins counted equals what the records say.

use std::hash::{DefaultHasher, Hasher};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream as Blocking};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use prost::Message;
use tokio::sync::oneshot;

use super::*;
use crate::clock::Clock;
use crate::config::Config;
use crate::event::{End, Kind, Losses, Phase, UsageRecord};
use crate::ids::IdSource;
use crate::journal::{Budget, Entry, Options, Reader, StateDir, Writer};
use crate::metrics::metrics;
use crate::proxy::{Node, Recorder, Setup, Worker, accept};

const MIB: usize = 1 << 20;

/// A worker in a thread, with one listener.
struct Weir {
    address: SocketAddr,
    /// Whether to cut what is open.
    stop: oneshot::Sender<bool>,
    thread: JoinHandle<(usize, usize)>,
    state: tempfile::TempDir,
}

impl Weir {
    fn start(kind: &str, origin: SocketAddr, pipes_taken: usize) -> Self {
        let state = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let text = format!(
            "state_dir = \"state\"\n[[listeners]]\nname = \"l\"\nkind = \"{kind}\"\nlisten = \"{address}\"\nupstream = \"{origin}\"\n"
        );
        let config = Config::parse(&text, "test", state.path()).unwrap();
        let (stop, stopped) = oneshot::channel();
        let path = state.path().join("state");
        let thread = thread::spawn(move || {
            POOL.with(|pool| pool.open.set(pipes_taken));
            let dir = StateDir::open(&path).unwrap();
            let epoch = dir.claim_epoch().unwrap();
            let options = Options {
                segment_bytes: config.journal.segment_bytes,
                journal_bytes_max: config.journal.journal_bytes_max,
                sync_interval: config.journal.sync_interval,
                slots_max: 1000,
            };
            let budget = Arc::new(Budget::new(options.journal_bytes_max));
            let writer = Writer::create(&epoch, 0, "n", &options, budget).unwrap();
            let recorder = Recorder::new(writer, Clock::anchored(), IdSource::new("n", epoch.epoch(), 0), metrics());
            let setup = Arc::new(Setup::new(config).unwrap());
            let node = Arc::new(Node::new(epoch.epoch(), setup, Losses::default(), Arc::default()));
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().build_local(tokio::runtime::LocalOptions::default()).unwrap();
            runtime.block_on(async {
                let worker = Worker::new(recorder, node, metrics());
                listener.set_nonblocking(true).unwrap();
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                let sweep = tokio::task::spawn_local(worker.clone().run());
                let cut = Cell::new(false);
                accept(worker.clone(), Arc::from("l"), listener, async { cut.set(stopped.await.unwrap()) }).await;
                if cut.get() {
                    worker.cut_all();
                }
                while !worker.is_empty() {
                    tokio::task::yield_now().await;
                }
                sweep.abort();
                worker.close();
            });
            POOL.with(|pool| (pool.open.get(), pool.idle.borrow().len()))
        });
        Self { address, stop, thread, state }
    }

    fn connect(&self) -> Blocking {
        Blocking::connect(self.address).unwrap()
    }

    /// The closes of sessions, in the order of their ports; and how many pipes were open and idle.
    fn end(self) -> (Vec<UsageRecord>, (usize, usize)) {
        self.ended(false)
    }

    fn ended(self, cut: bool) -> (Vec<UsageRecord>, (usize, usize)) {
        self.stop.send(cut).unwrap();
        let pipes = self.thread.join().unwrap();
        let epoch = crate::journal::list(&self.state.path().join("state")).unwrap().pop().unwrap();
        let mut reader = Reader::open(&epoch.shards[0].path, 0).unwrap();
        let mut closes = Vec::new();
        while let Some(Entry::Frame(frame)) = reader.next().unwrap() {
            let record = UsageRecord::decode(frame.payload.as_slice()).unwrap();
            if record.kind() == Kind::Session && record.phase() == Phase::Close {
                assert_eq!(record.audit, "", "the kernel counted otherwise: {record:?}");
                closes.push(record);
            }
        }
        closes.sort_by_key(|record| record.client_port);
        (closes, pipes)
    }
}

/// A small generator, so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

/// Writes `total` octets in pieces of all sizes, then its FIN. The hash of what was written.
fn speak(mut socket: Blocking, total: usize, mut random: Random) -> u64 {
    let mut hasher = DefaultHasher::new();
    let mut left = total;
    let mut piece = vec![0; 3 * MIB];
    while left > 0 {
        let size = match random.below(4) {
            0 => 1 + random.below(100),
            1 => 1 + random.below(SHARED_BYTES + 100),
            _ => 1 + random.below(3 * MIB),
        };
        let size = size.min(left);
        let seed = random.below(251);
        piece[..size].iter_mut().enumerate().for_each(|(at, octet)| *octet = ((at + seed) % 251) as u8);
        hasher.write(&piece[..size]);
        socket.write_all(&piece[..size]).unwrap();
        left -= size;
    }
    socket.shutdown(std::net::Shutdown::Write).unwrap();
    hasher.finish()
}

/// Reads to the end, at times slowly. How much, and its hash.
fn listen(mut socket: Blocking, mut random: Random) -> (usize, u64) {
    let mut hasher = DefaultHasher::new();
    let mut total = 0;
    let mut piece = vec![0; MIB];
    loop {
        let limit = 1 + random.below(MIB);
        let n = socket.read(&mut piece[..limit]).unwrap();
        if n == 0 {
            return (total, hasher.finish());
        }
        hasher.write(&piece[..n]);
        total += n;
        if random.below(20) == 0 {
            thread::sleep(Duration::from_millis(2));
        }
    }
}

fn columns(record: &UsageRecord) -> [i64; 9] {
    record.totals().to_array().map(|n| i64::try_from(n).unwrap())
}

/// Both directions at once, every size, each with its own half-close.
fn check_both_ways(kind: &str, pipes_taken: usize, first: &'static [u8]) -> (usize, usize) {
    let origin = TcpListener::bind("127.0.0.1:0").unwrap();
    let weir = Weir::start(kind, origin.local_addr().unwrap(), pipes_taken);
    let mut expected = Vec::new();
    for seed in 1..=8u64 {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let (up, down) = match seed {
            1 => (0, 0),
            2 => (1, 5 * MIB),
            3 => (5 * MIB, 1),
            _ => (random.below(9 * MIB), random.below(9 * MIB)),
        };
        let mut client = weir.connect();
        let port = client.local_addr().unwrap().port();
        client.write_all(first).unwrap();
        let (mut server, _) = origin.accept().unwrap();
        let mut head = vec![0; first.len()];
        server.read_exact(&mut head).unwrap();
        assert_eq!(head, first);
        let spoken = [client.try_clone().unwrap(), server.try_clone().unwrap()]
            .into_iter()
            .zip([up, down])
            .map(|(socket, total)| thread::spawn(move || speak(socket, total, Random(seed + 77))))
            .collect::<Vec<_>>();
        let heard = [server, client].map(|socket| thread::spawn(move || listen(socket, Random(seed + 5))));
        let spoken: Vec<u64> = spoken.into_iter().map(|thread| thread.join().unwrap()).collect();
        let heard = heard.map(|thread| thread.join().unwrap());
        assert_eq!(heard, [(up, spoken[0]), (down, spoken[1])]);
        expected.push((port, up + first.len(), down));
    }
    let (closes, pipes) = weir.end();
    expected.sort_unstable();
    assert_eq!(closes.len(), expected.len());
    for (record, (port, up, down)) in closes.iter().zip(expected) {
        let (up, down) = (up as i64, down as i64);
        assert_eq!(record.client_port, i32::from(port));
        assert_eq!(columns(record), [up, up, up, down, down, down, down, up, down], "{record:?}");
        assert_eq!(record.end(), End::Done);
    }
    pipes
}

#[test]
fn both_directions_at_once_are_counted_to_the_octet() {
    let (open, idle) = check_both_ways("tcp", 0, b"");
    assert!(open > 0, "nothing was spliced");
    assert_eq!(open, idle, "a pipe was not given back");
}

#[test]
fn without_pipes_the_shared_buffer_carries_the_same() {
    assert_eq!(check_both_ways("tcp", PIPES_MAX, b""), (PIPES_MAX, 0));
}

#[test]
fn what_is_read_to_learn_the_server_name_is_carried_too() {
    check_both_ways("tls-passthrough", 0, CLIENT_HELLO);
}

/// A ClientHello without extensions, so without a name.
const CLIENT_HELLO: &[u8] = &{
    let mut hello = [7; 5 + 4 + 2 + 32 + 1 + 4 + 2];
    let head = [22, 3, 1, 0, 45, 1, 0, 0, 41, 3, 3];
    let tail = [0, 0, 2, 0x13, 0x01, 1, 0];
    let mut at = 0;
    while at < head.len() {
        hello[at] = head[at];
        at += 1;
    }
    at = 0;
    while at < tail.len() {
        hello[43 + at] = tail[at];
        at += 1;
    }
    hello
};

fn reset(socket: Blocking) {
    socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO)).unwrap();
}

#[test]
fn what_an_abort_leaves_behind_stays_visible() {
    let origin = TcpListener::bind("127.0.0.1:0").unwrap();
    let weir = Weir::start("tcp", origin.local_addr().unwrap(), 0);
    let mut client = weir.connect();
    let (mut server, _) = origin.accept().unwrap();
    // The origin reads a little and stops; the client writes until nothing more fits anywhere, then resets.
    client.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut written = 0;
    let piece = vec![1; MIB];
    while let Ok(n) = client.write(&piece) {
        written += n;
    }
    let mut some = vec![0; 100_000];
    server.read_exact(&mut some).unwrap();
    // The origin speaks, so that the reset is seen by the direction that writes.
    reset(client);
    let mut random = 0;
    while server.write(&piece[..1000]).is_ok() && random < 50 {
        random += 1;
        thread::sleep(Duration::from_millis(2));
    }
    drop(server);
    let (closes, (open, idle)) = weir.end();
    let [_, received_app, received_wire, .., upstream_sent, _] = columns(&closes[0]);
    assert_eq!(received_app, received_wire);
    assert!(received_wire > upstream_sent, "{:?}", closes[0]);
    assert!(received_wire <= written as i64);
    assert_eq!(closes[0].end(), End::ClientAbort);
    assert_eq!(open, idle, "a pipe with octets in it is not kept");
}

#[test]
fn a_client_that_aborts_a_download_is_not_charged_for_the_rest() {
    let origin = TcpListener::bind("127.0.0.1:0").unwrap();
    let weir = Weir::start("tcp", origin.local_addr().unwrap(), 0);
    let (done, aborted) = mpsc::channel();
    let server = thread::spawn(move || {
        let mut written = 0;
        for turn in 0..6 {
            let (mut server, _) = origin.accept().unwrap();
            let piece = vec![turn; MIB];
            while let Ok(n) = server.write(&piece) {
                written += n;
            }
        }
        done.send(written).unwrap();
    });
    let mut read = Vec::new();
    for turn in 0..6usize {
        let mut client = weir.connect();
        let mut some = vec![0; 50_000 + turn * 700_001];
        client.read_exact(&mut some).unwrap();
        read.push((client.local_addr().unwrap().port(), some.len() as i64));
        reset(client);
    }
    server.join().unwrap();
    let written = aborted.recv().unwrap() as i64;
    let (closes, _) = weir.end();
    read.sort_unstable();
    let mut taken = 0;
    for (record, (_, read)) in closes.iter().zip(read) {
        let [.., sent_body, sent_app, sent_wire, acked, _, upstream_received] = columns(record);
        assert_eq!((sent_body, sent_app), (sent_wire, sent_wire));
        // What was read may exceed what was acknowledged: a reset overtakes an acknowledgement that was held back.
        assert!(acked <= sent_wire && read <= sent_wire && sent_wire <= upstream_received, "{read}: {record:?}");
        assert_eq!(record.end(), End::ClientAbort);
        assert!(record.billable, "a client that only listens is a customer too");
        taken += upstream_received;
    }
    assert!(taken <= written);
}

#[test]
fn an_origin_that_aborts_ends_the_session_and_is_named() {
    let origin = TcpListener::bind("127.0.0.1:0").unwrap();
    let weir = Weir::start("tcp", origin.local_addr().unwrap(), 0);
    let mut client = weir.connect();
    let (mut server, _) = origin.accept().unwrap();
    client.write_all(&[1; 100_000]).unwrap();
    server.read_exact(&mut [0; 100_000]).unwrap();
    server.write_all(&[2; 3_000]).unwrap();
    client.read_exact(&mut [0; 3_000]).unwrap();
    reset(server);
    assert!(matches!(client.read(&mut [0; 10]), Ok(0) | Err(_)));
    drop(client);
    let (closes, _) = weir.end();
    assert_eq!(columns(&closes[0]), [100_000, 100_000, 100_000, 3_000, 3_000, 3_000, 3_000, 100_000, 3_000]);
    assert_eq!(closes[0].end(), End::UpstreamError);
}

#[test]
fn a_drain_cuts_a_tunnel_and_its_counts_hold() {
    let origin = TcpListener::bind("127.0.0.1:0").unwrap();
    let weir = Weir::start("tcp", origin.local_addr().unwrap(), 0);
    let mut client = weir.connect();
    let (mut server, _) = origin.accept().unwrap();
    // Bulk that the client stops reading, so that a pipe is full at the cut.
    let speaking = thread::spawn(move || {
        let piece = vec![3; MIB];
        while server.write(&piece).is_ok() {}
    });
    client.read_exact(&mut vec![0; 5 * MIB]).unwrap();
    thread::sleep(Duration::from_millis(100));
    let (closes, (open, idle)) = weir.ended(true);
    drop(client);
    speaking.join().unwrap();
    let [.., sent_wire, acked, _, upstream_received] = columns(&closes[0]);
    assert!(acked <= sent_wire && sent_wire <= upstream_received, "{:?}", closes[0]);
    assert_eq!((closes[0].end(), open), (End::Drain, idle));
}

fn read_head(socket: &mut Blocking) -> usize {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut octet = [0];
        socket.read_exact(&mut octet).unwrap();
        head.push(octet[0]);
    }
    head.len()
}

/// One client, one answer after the other, each over the same two connections.
fn check_answers(pipes_taken: usize) -> (usize, usize) {
    const SIZES: [usize; 6] = [MIB / 2, 3 * MIB + 1, 7, 9 * MIB, MIB / 2 - 1, MIB];
    let body = |turn: usize, size: usize| (0..size).map(|at| ((at * 7 + turn) % 251) as u8).collect::<Vec<u8>>();
    let origin = TcpListener::bind("127.0.0.1:0").unwrap();
    let weir = Weir::start("http", origin.local_addr().unwrap(), pipes_taken);
    let serving = thread::spawn(move || {
        let (mut server, _) = origin.accept().unwrap();
        let mut random = Random(11);
        let (mut received, mut sent) = (0, 0);
        for (turn, size) in SIZES.into_iter().enumerate() {
            received += read_head(&mut server);
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n");
            let answer = [head.into_bytes(), body(turn, size)].concat();
            answer.chunks(1 + random.below(MIB)).for_each(|piece| server.write_all(piece).unwrap());
            sent += answer.len();
        }
        // Its own connection to the end.
        assert_eq!(server.read(&mut [0]).unwrap(), 0);
        (received, sent)
    });
    let mut client = weir.connect();
    let (mut asked, mut answered) = (0, 0);
    for (turn, size) in SIZES.into_iter().enumerate() {
        let request = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        client.write_all(request).unwrap();
        asked += request.len();
        answered += read_head(&mut client) + size;
        let mut taken = vec![0; size];
        client.read_exact(&mut taken).unwrap();
        assert!(taken == body(turn, size), "answer {turn} of {size} octets is another");
    }
    drop(client);
    let (closes, pipes) = weir.end();
    let (received, sent) = serving.join().unwrap();
    let bodies: usize = SIZES.iter().sum();
    let expected = [0, asked, asked, bodies, answered, answered, answered, received, sent].map(|n| n as i64);
    assert_eq!(columns(&closes[0]), expected, "{:?}", closes[0]);
    assert_eq!((closes.len(), closes[0].requests, closes[0].end()), (1, SIZES.len() as i64, End::Done));
    pipes
}

#[test]
fn bodies_of_answers_are_counted_to_the_octet() {
    let (open, idle) = check_answers(0);
    assert!(open > 0, "nothing was spliced");
    assert_eq!(open, idle, "a pipe was not given back");
}

#[test]
fn without_pipes_the_shared_buffer_carries_the_same_bodies() {
    assert_eq!(check_answers(PIPES_MAX), (PIPES_MAX, 0));
}
