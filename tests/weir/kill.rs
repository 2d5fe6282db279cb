//! `kill -9` at random moments under mixed load: what the next start finds and states is held against what the
//! clients' own kernels know.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::kafka::asked;
use crate::rig::origin::Origin;
use crate::rig::process::{Config, House};
use crate::rig::records::{Record, Records};
use crate::rig::{Dice, h2, octets, socket};

/// Full form: `WEIR_KILLS=200`.
const KILLS: usize = 52;

/// What a client knows of one connection that it opened.
#[derive(Debug)]
pub struct Known {
    epoch: i64,
    port: u16,
    /// Octets that the client's kernel took from it.
    written: u64,
    /// Octets that weir's kernel acknowledged.
    acked_by_weir: u64,
    /// Octets that the client's kernel received in order.
    received: u64,
    /// The connection ended with FIN: nothing was thrown away on the way to the client.
    whole: bool,
}

/// One connection of a client, with its books.
struct Wire {
    stream: TcpStream,
    written: u64,
    read: u64,
    reset: bool,
}

impl Wire {
    fn connect(to: SocketAddr) -> Option<Self> {
        let stream = TcpStream::connect(to).ok()?;
        stream.set_nodelay(true).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
        Some(Self { stream, written: 0, read: 0, reset: false })
    }

    fn write(&mut self, bytes: &[u8]) -> Option<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let n = self.stream.write(rest).ok()?;
            self.written += n as u64;
            rest = &rest[n..];
        }
        Some(())
    }

    /// Reads at least this much.
    fn read(&mut self, n: usize) -> Option<()> {
        let mut piece = [0; 16 * 1024];
        let mut left = n;
        while left > 0 {
            let size = left.min(piece.len());
            let n = self.read_some(&mut piece[..size])?;
            left -= n;
        }
        Some(())
    }

    fn read_some(&mut self, piece: &mut [u8]) -> Option<usize> {
        match self.stream.read(piece) {
            Ok(0) => None,
            Ok(n) => {
                self.read += n as u64;
                Some(n)
            }
            Err(error) => {
                assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "weir says nothing and does not end");
                self.reset = true;
                None
            }
        }
    }

    /// Reads to the end, whoever ends it.
    fn end(mut self, epoch: i64) -> Option<Known> {
        let port = self.stream.local_addr().ok()?.port();
        let _ = self.stream.shutdown(Shutdown::Write);
        let mut piece = [0; 16 * 1024];
        while self.read_some(&mut piece).is_some() {}
        // Our SYN is counted as acknowledged, and our FIN where it was.
        let acked_by_weir = socket::kernel_acked(&self.stream).saturating_sub(1).min(self.written);
        Some(Known { epoch, port, written: self.written, acked_by_weir, received: self.read, whole: !self.reset })
    }
}

type Load = fn(&mut Wire, &mut Dice) -> Option<()>;

fn small_requests(wire: &mut Wire, dice: &mut Dice) -> Option<()> {
    for _ in 0..dice.below(40) {
        let n = dice.below(300);
        wire.write(format!("GET /bytes/{n} HTTP/1.1\r\nhost: test\r\n\r\n").as_bytes())?;
        read_response(wire)?;
    }
    Some(())
}

fn read_response(wire: &mut Wire) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut octet = [0];
        wire.read_some(&mut octet)?;
        head.push(octet[0]);
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let length = head.split("content-length: ").nth(1)?.split("\r\n").next()?.parse().ok()?;
    wire.read(length)
}

fn uploads(wire: &mut Wire, dice: &mut Dice) -> Option<()> {
    let n = dice.below(400_000);
    wire.write(format!("POST /sink/3 HTTP/1.1\r\nhost: test\r\ncontent-length: {n}\r\n\r\n").as_bytes())?;
    for piece in octets(n).chunks(9000) {
        wire.write(piece)?;
    }
    read_response(wire)
}

fn downloads(wire: &mut Wire, dice: &mut Dice) -> Option<()> {
    wire.write(format!("GET /bytes/{} HTTP/1.1\r\nhost: test\r\n\r\n", 200_000 + dice.below(2_000_000)).as_bytes())?;
    read_response(wire)
}

fn tunnel(wire: &mut Wire, dice: &mut Dice) -> Option<()> {
    wire.write(b"GET /upgrade/0 HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n")?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut octet = [0];
        wire.read_some(&mut octet)?;
        head.push(octet[0]);
    }
    for _ in 0..200 {
        let bytes = octets(1 + dice.below(2000));
        wire.write(&bytes)?;
        wire.read(bytes.len())?;
    }
    Some(())
}

fn raw_tcp(wire: &mut Wire, dice: &mut Dice) -> Option<()> {
    for _ in 0..300 {
        let bytes = octets(1 + dice.below(30_000));
        wire.write(&bytes)?;
        wire.read(bytes.len())?;
    }
    Some(())
}

fn http2(wire: &mut Wire, dice: &mut Dice) -> Option<()> {
    let mut opening = h2::PREFACE.to_vec();
    opening.extend(h2::frame(h2::SETTINGS, 0, 0, &[]));
    opening.extend(h2::frame(h2::WINDOW_UPDATE, 0, 0, &(1u32 << 30).to_be_bytes()));
    wire.write(&opening)?;
    for round in 0..20 {
        let mut requests = Vec::new();
        for stream in [1, 3, 5].map(|stream| stream + 6 * round) {
            let block = h2::head_block("GET", &format!("/bytes/{}", dice.below(5000)), &[]);
            requests.extend(h2::frame(h2::HEADERS, h2::END_HEADERS | h2::END_STREAM, stream, &block));
        }
        wire.write(&requests)?;
        let mut ended = 0;
        while ended < 3 {
            let mut head = [0; 9];
            for octet in &mut head {
                wire.read_some(std::slice::from_mut(octet))?;
            }
            wire.read(u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize)?;
            ended += usize::from(matches!(head[3], h2::DATA | h2::HEADERS) && head[4] & h2::END_STREAM != 0);
        }
    }
    Some(())
}

#[test]
fn fifty_kills_under_load_lose_no_byte_and_count_none_twice() {
    let house = MixedLoad::new("");
    let kills = asked("WEIR_KILLS", KILLS);
    let started = Instant::now();
    let known = house.kills(kills, Duration::from_millis(110), |_| {});
    // One more start recovers the last, and ends well.
    house.house.run(&[]).stop();
    eprintln!("{kills} kills in {:?}", started.elapsed());
    let records = house.house.records();
    records.assert_lawful();
    assert_against_clients(&records, &known, kills);
}

/// A house under load of every kind.
pub struct MixedLoad {
    pub house: House,
    // Held, so that they serve.
    _origins: [Origin; 2],
}

impl MixedLoad {
    /// With this sink.
    pub fn new(sink: &str) -> Self {
        let origin = Origin::http();
        let raw = Origin::echo();
        let config = Config::http(origin.address).and_listener("raw", "tcp", raw.address, "");
        let mut config = config.workers(2).top("checkpoint_interval_ms = 100");
        config.journal = "segment_bytes = 262144\nslots_max = 1024\n".to_owned();
        config.sink = sink.to_owned();
        Self { house: House::new(&config), _origins: [origin, raw] }
    }

    /// Starts it, loads it, and kills it at a random moment before `latest`, so often. `dead` is called while no process runs.
    pub fn kills(&self, kills: usize, latest: Duration, mut dead: impl FnMut(&House)) -> Vec<Known> {
        let mut dice = Dice::new(0x5eed);
        let known = Arc::<Mutex<Vec<Known>>>::default();
        let loads: [(Load, &str); 6] = [
            (small_requests, "web"),
            (uploads, "web"),
            (downloads, "web"),
            (tunnel, "web"),
            (http2, "web"),
            (raw_tcp, "raw"),
        ];
        for kill in 0..kills {
            if kill % 4 == 3 {
                // While it recovers what the one before left.
                let process = self.house.spawn(&[]);
                std::thread::sleep(Duration::from_millis(dice.below(60) as u64));
                process.kill();
                dead(&self.house);
            }
            let process = self.house.run(&[]);
            let epoch = self.house.epoch();
            let stop = AtomicBool::new(false);
            std::thread::scope(|scope| {
                for (n, (load, listener)) in loads.iter().enumerate() {
                    let (known, stop, to) = (known.clone(), &stop, process.address(listener));
                    scope.spawn(move || {
                        let mut dice = Dice::new((kill * 16 + n) as u64);
                        while !stop.load(Ordering::Relaxed) {
                            let Some(mut wire) = Wire::connect(to) else { return };
                            load(&mut wire, &mut dice);
                            known.lock().unwrap().extend(wire.end(epoch));
                        }
                    });
                }
                // The moment of the kill is the one thing here that is left to the clock.
                std::thread::sleep(Duration::from_millis(5 + dice.below(latest.as_millis() as usize) as u64));
                process.kill();
                stop.store(true, Ordering::Relaxed);
            });
            dead(&self.house);
        }
        Arc::into_inner(known).unwrap().into_inner().unwrap()
    }
}

/// Holds what was recorded against what the clients know.
pub fn assert_against_clients(records: &Records, known: &[Known], kills: usize) {
    let mut sessions: HashMap<(i64, i64), Vec<&Record>> = HashMap::new();
    for session in records.sessions() {
        sessions.entry((session.number("epoch"), session.number("client_port"))).or_default().push(session);
    }
    let (mut recovered, mut uncertain) = (0, 0);
    let mut ports: HashMap<(i64, u16), usize> = HashMap::new();
    known.iter().for_each(|known| *ports.entry((known.epoch, known.port)).or_default() += 1);
    for known in known.iter().filter(|known| ports[&(known.epoch, known.port)] == 1) {
        let Some(session) = sessions.get(&(known.epoch, i64::from(known.port))) else {
            // Killed before it was accepted.
            assert_eq!(known.received, 0, "octets of a session that is not recorded: {known:?}");
            continue;
        };
        assert_eq!(session.len(), 1, "{known:?}: {session:?}");
        let session = session[0];
        let number = |column| session.total(column) as u64;
        let in_flight = session.number("uncertain_bytes") as u64;
        let sent = number("sent_wire");
        recovered += usize::from(session.text("end") == "recovered");
        uncertain += in_flight;
        assert!(known.received <= sent + in_flight, "more arrived than was sent: {known:?} {}", session.0);
        if known.whole {
            assert!(sent <= known.received, "more was sent than arrived: {known:?} {}", session.0);
        }
        let received = number("received_wire");
        assert!(received <= known.acked_by_weir, "more was received than was sent: {known:?} {}", session.0);
        assert!(known.acked_by_weir <= known.written, "{known:?}");
        assert!(number("sent_acked") <= sent, "{}", session.0);
        if session.text("end") == "done" && known.whole {
            assert_eq!((received, number("sent_acked")), (known.written, known.received), "{known:?} {}", session.0);
        }
    }
    eprintln!("{} sessions, {recovered} of them recovered, {uncertain} bytes uncertain", known.len());
    assert!(recovered >= kills, "the kills came at the wrong moments: {recovered}");
}
