//! An origin of raw sockets that does what the path says and keeps its own books.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::message::{Message, Reader};
use super::{PATIENCE, octets, socket, until};

/// What the origin knows of one request: octets of its own socket.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub received_app: u64,
    pub received_body: u64,
    pub sent_app: u64,
    pub trailers: Vec<(String, String)>,
    pub request: Message,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// By path.
    seen: Mutex<HashMap<String, Seen>>,
    /// Gates that handlers wait at, by name.
    open: Mutex<HashMap<String, bool>>,
    /// How many connections came.
    connections: AtomicUsize,
}

/// A listening origin; ends when dropped.
pub struct Origin {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

impl Origin {
    /// Speaks HTTP/1.1; see [`answer`] for what its paths mean.
    pub fn http() -> Self {
        Self::start(serve)
    }

    /// Returns every octet that comes, and ends when the client does.
    pub fn echo() -> Self {
        Self::start(|mut stream, shared| {
            let mut seen = Seen::default();
            let mut piece = vec![0; 32 * 1024];
            while let Ok(n) = stream.read(&mut piece) {
                if n == 0 || stream.write_all(&piece[..n]).is_err() {
                    break;
                }
                seen.received_app += n as u64;
                seen.sent_app += n as u64;
            }
            let _ = stream.shutdown(Shutdown::Write);
            let from = stream.peer_addr().map(|peer| peer.to_string()).unwrap_or_default();
            shared.seen.lock().unwrap().insert(from, seen);
        })
    }

    fn start(serve: impl Fn(TcpStream, &Shared) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::<Shared>::default();
        let (serve, to) = (Arc::new(serve), shared.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if to.stop.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                to.connections.fetch_add(1, Ordering::Relaxed);
                let (serve, shared) = (serve.clone(), to.clone());
                std::thread::spawn(move || serve(stream, &shared));
            }
        });
        Self { address, shared }
    }

    /// What it knows of the request to this path, once it is over.
    pub fn seen(&self, path: &str) -> Seen {
        until(&format!("{path} at the origin"), || self.shared.seen.lock().unwrap().get(path).cloned())
    }

    /// Every request that is over.
    pub fn all_seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().values().cloned().collect()
    }

    /// How many connections it was sent.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Lets everyone pass who waits at this gate, now or later.
    pub fn open(&self, gate: &str) {
        self.shared.open.lock().unwrap().insert(gate.to_owned(), true);
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        drop(TcpStream::connect(self.address));
    }
}

fn serve(stream: TcpStream, shared: &Shared) {
    stream.set_nodelay(true).unwrap();
    let mut reader = Reader::new(stream.try_clone().unwrap());
    let mut to = Counter { stream, sent: 0, failed: false };
    loop {
        let taken = reader.taken;
        let Some(head) = reader.request_head() else { return };
        let mut seen = Seen::default();
        let path = head.path().to_owned();
        to.sent = 0;
        let goes_on = answer(&head, &mut reader, &mut to, &mut seen, shared);
        seen.request = head;
        seen.received_app = reader.taken - taken;
        seen.sent_app = to.sent;
        shared.seen.lock().unwrap().insert(path, seen);
        match goes_on {
            Then::KeepAlive if !to.failed => {}
            Then::Reset => return socket::reset(to.stream),
            _ => {
                let _ = to.stream.shutdown(Shutdown::Both);
                return;
            }
        }
    }
}

struct Counter {
    stream: TcpStream,
    sent: u64,
    failed: bool,
}

impl Counter {
    fn write(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() && !self.failed {
            match self.stream.write(rest) {
                Ok(n) => {
                    self.sent += n as u64;
                    rest = &rest[n..];
                }
                Err(_) => self.failed = true,
            }
        }
    }
}

enum Then {
    KeepAlive,
    Close,
    Reset,
}

/// The paths:
///
/// | path | answer |
/// |---|---|
/// | `/bytes/N` | 200 with N octets of known length |
/// | `/chunked/N` | 200 with N octets in odd chunks with extensions, and trailers |
/// | `/close/N` | 200 with N octets that the connection's end ends |
/// | `/old/N` | the same as HTTP/1.0 |
/// | `/sink/N` | reads the body, then as `/bytes/N` |
/// | `/status/S` | this status without a body (304 with a length) |
/// | `/fields/N` | 200 without a body and with N header fields |
/// | `/hints/N` | 103, then as `/bytes/N` |
/// | `/early/N` | as `/bytes/N` before the body is read |
/// | `/stop/N` | reads N octets of the body, then waits at the gate `stop` |
/// | `/cut/N` | promises twice as much and ends after N octets |
/// | `/reset/N` | the same by RST |
/// | `/hang` | nothing, until the client is gone |
/// | `/pause/N` | half of N octets, the other half after the gate `pause` |
/// | `/upgrade/N` | 101 with N octets right behind it, then returns what comes |
///
/// Anything behind N is a name that makes the path unique: `/bytes/7/first`.
fn answer(head: &Message, reader: &mut Reader<TcpStream>, to: &mut Counter, seen: &mut Seen, shared: &Shared) -> Then {
    let mut parts = head.path().split('/').skip(1);
    let what = parts.next().unwrap_or("");
    let n: usize = parts.next().and_then(|n| n.parse().ok()).unwrap_or(0);
    let is_head = head.method() == "HEAD";
    let payload = |n| if is_head { Vec::new() } else { octets(n) };
    let sized = |n| [format!("HTTP/1.1 200 OK\r\ncontent-length: {n}\r\n\r\n").into_bytes(), payload(n)].concat();
    if !matches!(what, "early" | "stop" | "hang" | "upgrade") {
        read_body(head, reader, seen, to);
    }
    match what {
        "bytes" | "sink" => to.write(&sized(n)),
        "chunked" => to.write(&in_chunks(n, is_head)),
        "close" | "old" => {
            let version = if what == "old" { "1.0" } else { "1.1" };
            to.write(
                format!(
                    "HTTP/{version} 200 OK\r\nx: y\r\n{}\r\n",
                    if what == "old" { "" } else { "connection: close\r\n" }
                )
                .as_bytes(),
            );
            to.write(&payload(n));
            return Then::Close;
        }
        "status" => {
            let length = if n == 304 { "content-length: 4711\r\n" } else { "" };
            to.write(format!("HTTP/1.1 {n} Whatever\r\n{length}\r\n").as_bytes());
        }
        "fields" => {
            let fields = "x: y\r\n".repeat(n - 1);
            to.write(format!("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n{fields}\r\n").as_bytes());
        }
        "hints" => {
            to.write(b"HTTP/1.1 103 Early Hints\r\nlink: </a>; rel=preload\r\n\r\n");
            to.write(&sized(n));
        }
        "early" => {
            to.write(&sized(n));
            read_body(head, reader, seen, to);
        }
        "stop" => {
            seen.received_body = reader.octets(n).len() as u64;
            pass("stop", shared);
            return Then::Close;
        }
        "cut" | "reset" => {
            to.write(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 2 * n).as_bytes());
            to.write(&octets(n));
            if what == "cut" {
                return Then::Close;
            }
            // RST throws away what was not read yet: the other side must have it all first.
            until("acknowledgement", || (to.failed || socket::kernel_acked(&to.stream) >= to.sent).then_some(()));
            return Then::Reset;
        }
        "hang" => {
            reader.rest();
            return Then::Close;
        }
        "pause" => {
            let all = sized(n);
            let (first, second) = all.split_at(all.len() - n / 2);
            to.write(first);
            pass("pause", shared);
            to.write(second);
        }
        "upgrade" => {
            let protocol = head.field("upgrade").unwrap_or("none");
            to.write(
                format!("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: {protocol}\r\n\r\n")
                    .as_bytes(),
            );
            to.write(&octets(n));
            while let Some(octet) = reader.octet() {
                let mut piece = vec![octet];
                piece.extend(reader.buffered());
                to.write(&piece);
                seen.received_body += piece.len() as u64;
            }
            return Then::Close;
        }
        _ => to.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"),
    }
    if head.field("connection").is_some_and(|value| value.contains("close")) { Then::Close } else { Then::KeepAlive }
}

fn read_body(head: &Message, reader: &mut Reader<TcpStream>, seen: &mut Seen, to: &mut Counter) {
    if head.field("expect").is_some() {
        to.write(b"HTTP/1.1 100 Continue\r\n\r\n");
    }
    let mut message = head.clone();
    reader.body(&mut message);
    seen.received_body = message.body.len() as u64;
    seen.trailers = message.trailers;
}

fn in_chunks(n: usize, is_head: bool) -> Vec<u8> {
    let mut bytes = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n".to_vec();
    if is_head {
        return bytes;
    }
    let payload = octets(n);
    let mut size = 1;
    let mut rest = payload.as_slice();
    while !rest.is_empty() {
        let taken = size.min(rest.len());
        bytes.extend_from_slice(format!("{taken:x};n=\"{size}\"\r\n").as_bytes());
        bytes.extend_from_slice(&rest[..taken]);
        bytes.extend_from_slice(b"\r\n");
        rest = &rest[taken..];
        size = (size * 3 + 1) % 9973;
    }
    bytes.extend_from_slice(b"0\r\nx-sum: 77\r\n\r\n");
    bytes
}

fn pass(gate: &str, shared: &Shared) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !shared.open.lock().unwrap().contains_key(gate) && !shared.stop.load(Ordering::Relaxed) {
        if std::time::Instant::now() > deadline {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}
