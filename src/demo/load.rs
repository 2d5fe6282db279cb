//! The demo's clients: five customers who use the same sidecar in different ways, at a pace that leaves the machine alone.
//!
//! | account | what it does |
//! |---|---|
//! | `acme` | small keep-alive GETs, some of them 404; uploads |
//! | `globex` | bulk downloads; some are aborted half-way |
//! | `hooli` | upgraded connections (as WebSockets are), messages echoed |
//! | `initech` | HTTP/2 with streams side by side |
//! | `umbrella` | raw TCP, bulk both ways |

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::sleep;

use super::socket::{Socket, Totals, add};

/// Where the sidecar listens.
#[derive(Clone, Copy)]
pub struct Targets {
    /// For HTTP.
    pub http: SocketAddr,
    /// For raw TCP.
    pub tcp: SocketAddr,
}

/// Hosts of the accounts, as the sidecar's routes name them.
pub const HOSTS: [(&str, &str); 4] = [
    ("acme", "api.acme.example"),
    ("globex", "cdn.globex.example"),
    ("hooli", "live.hooli.example"),
    ("initech", "app.initech.example"),
];

/// What an aborting client takes before it is gone: its window stays small, so that much is under way.
const ABORT_RECEIVE_BYTES: u32 = 256 << 10;
/// Longest head of a response.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// Starts the clients in a thread, which ends some time after [`Totals::stop`] was set.
pub fn start(targets: Targets, totals: Arc<Totals>) -> anyhow::Result<std::thread::JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new()
        .name("clients".to_owned())
        .spawn(move || LocalSet::new().block_on(&runtime, all(targets, totals)))
        .context("cannot start the clients")
}

async fn all(targets: Targets, totals: Arc<Totals>) {
    let mut clients = JoinSet::new();
    let mut seed = 0;
    let mut client = || {
        seed += 1;
        Client { targets, totals: totals.clone(), dice: Dice::new(seed) }
    };
    for _ in 0..8 {
        clients.spawn_local(again(client(), "small", small));
    }
    for _ in 0..2 {
        clients.spawn_local(again(client(), "upload", upload));
        clients.spawn_local(again(client(), "download", download));
        clients.spawn_local(again(client(), "abort", abort));
        clients.spawn_local(again(client(), "multiplexed", multiplexed));
        clients.spawn_local(again(client(), "raw", raw));
    }
    for _ in 0..4 {
        clients.spawn_local(again(client(), "upgraded", upgraded));
    }
    while let Some(ended) = clients.join_next().await {
        if let Err(error) = ended {
            totals.failed(format!("a client died: {error}"));
        }
    }
}

/// One session after the other until the demo ends.
async fn again(client: Client, name: &'static str, session: impl AsyncFn(&Client) -> io::Result<()>) {
    client.pause(0, 300).await;
    while !client.totals.is_stopping() {
        if let Err(error) = session(&client).await {
            client.totals.failed(format!("{name}: {error}"));
        }
        client.pause(20, 200).await;
    }
}

struct Client {
    targets: Targets,
    totals: Arc<Totals>,
    dice: Dice,
}

impl Client {
    async fn http(&self) -> io::Result<Http> {
        let socket = Socket::connect(self.targets.http, &self.totals, None).await?;
        Ok(Http { socket, ahead: Vec::new(), totals: self.totals.clone() })
    }

    async fn pause(&self, from_ms: u64, to_ms: u64) {
        sleep(Duration::from_millis(self.dice.between(from_ms, to_ms))).await;
    }
}

async fn small(client: &Client) -> io::Result<()> {
    let mut http = client.http().await?;
    for _ in 0..client.dice.between(20, 300) {
        if client.totals.is_stopping() {
            break;
        }
        let (path, expected) = match client.dice.between(0, 25) {
            0 => ("/missing".to_owned(), 404),
            _ => (format!("/octets/{}", client.dice.between(50, 4000)), 200),
        };
        http.ask(&format!("GET {path} HTTP/1.1\r\nhost: api.acme.example\r\n\r\n")).await?;
        http.answer(expected).await?;
        client.pause(5, 30).await;
    }
    http.close().await
}

async fn upload(client: &Client) -> io::Result<()> {
    let mut http = client.http().await?;
    let piece = vec![b'u'; 64 << 10];
    for _ in 0..client.dice.between(2, 10) {
        if client.totals.is_stopping() {
            break;
        }
        let octets = client.dice.between(100_000, 2_000_000) as usize;
        let head = format!("POST /upload HTTP/1.1\r\nhost: api.acme.example\r\ncontent-length: {octets}\r\n\r\n");
        http.socket.write_all(head.as_bytes()).await?;
        let mut left = octets;
        while left > 0 {
            let n = left.min(piece.len());
            http.socket.write_all(&piece[..n]).await?;
            left -= n;
        }
        add(&client.totals.requests, 1);
        http.answer(201).await?;
        client.pause(50, 300).await;
    }
    http.close().await
}

async fn download(client: &Client) -> io::Result<()> {
    let mut http = client.http().await?;
    let octets = client.dice.between(4_000_000, 24_000_000);
    http.ask(&format!("GET /octets/{octets} HTTP/1.1\r\nhost: cdn.globex.example\r\n\r\n")).await?;
    http.answer(200).await?;
    http.close().await?;
    client.pause(100, 400).await;
    Ok(())
}

async fn abort(client: &Client) -> io::Result<()> {
    client.pause(300, 1500).await;
    if client.totals.is_stopping() {
        return Ok(());
    }
    let socket = Socket::connect(client.targets.http, &client.totals, Some(ABORT_RECEIVE_BYTES)).await?;
    let mut http = Http { socket, ahead: Vec::new(), totals: client.totals.clone() };
    http.ask("GET /octets/60000000 HTTP/1.1\r\nhost: cdn.globex.example\r\n\r\n").await?;
    let wanted = client.dice.between(100_000, 5_000_000);
    let mut scratch = vec![0; 32 << 10];
    let mut read = 0;
    while read < wanted {
        read += http.socket.read(&mut scratch).await? as u64;
    }
    http.socket.abort().await
}

/// A conversation over an upgraded connection.
async fn upgraded(client: &Client) -> io::Result<()> {
    let mut http = client.http().await?;
    http.ask("GET /echo HTTP/1.1\r\nhost: live.hooli.example\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n").await?;
    http.answer(101).await?;
    let mut message = vec![b'm'; 4000];
    for _ in 0..client.dice.between(50, 400) {
        if client.totals.is_stopping() {
            break;
        }
        let octets = client.dice.between(20, 4000) as usize;
        http.socket.write_all(&message[..octets]).await?;
        http.socket.read_exact(&mut message[..octets]).await?;
        client.pause(5, 40).await;
    }
    http.close().await
}

/// HTTP/2 by prior knowledge, some streams at once.
async fn multiplexed(client: &Client) -> io::Result<()> {
    let socket = Socket::connect(client.targets.http, &client.totals, None).await?;
    // Bodies are read one after the other, so the windows must hold all that may come meanwhile.
    let mut handshake = h2::client::Builder::new();
    handshake.initial_window_size(1 << 20).initial_connection_window_size(16 << 20);
    let handshake = handshake.handshake::<_, Bytes>(socket.clone()).await;
    let (mut sender, connection) = handshake.map_err(io::Error::other)?;
    let connection = tokio::task::spawn_local(connection);
    for _ in 0..client.dice.between(5, 40) {
        if client.totals.is_stopping() {
            break;
        }
        let mut answers = Vec::new();
        for _ in 0..client.dice.between(1, 8) {
            let octets = match client.dice.between(0, 10) {
                0 => client.dice.between(100_000, 800_000),
                _ => client.dice.between(50, 5_000),
            };
            let request = Request::get(format!("http://app.initech.example/octets/{octets}"));
            sender = sender.ready().await.map_err(io::Error::other)?;
            let request = request.body(()).map_err(io::Error::other)?;
            answers.push(sender.send_request(request, true).map_err(io::Error::other)?.0);
            add(&client.totals.requests, 1);
        }
        for answer in answers {
            let mut body = answer.await.map_err(io::Error::other)?.into_body();
            while let Some(data) = poll_fn(|cx| body.poll_data(cx)).await {
                let octets = data.map_err(io::Error::other)?.len();
                body.flow_control().release_capacity(octets).map_err(io::Error::other)?;
            }
        }
        client.pause(10, 60).await;
    }
    drop(sender);
    connection.await.map_err(io::Error::other)?.map_err(io::Error::other)?;
    socket.close().await
}

/// Bulk over raw TCP, both ways at once.
async fn raw(client: &Client) -> io::Result<()> {
    let socket = Socket::connect(client.targets.tcp, &client.totals, None).await?;
    for _ in 0..client.dice.between(1, 8) {
        if client.totals.is_stopping() {
            break;
        }
        let octets = client.dice.between(1_000, 4_000_000) as usize;
        let (mut writer, mut reader) = (socket.clone(), socket.clone());
        let write = async move {
            let piece = Bytes::from(vec![b'r'; 64 << 10]);
            let mut left = octets;
            while left > 0 {
                let n = left.min(piece.len());
                writer.write_all(&piece[..n]).await?;
                left -= n;
            }
            io::Result::Ok(())
        };
        let read = async move {
            let mut scratch = vec![0; 64 << 10];
            let mut left = octets;
            while left > 0 {
                let n = scratch.len().min(left);
                match reader.read(&mut scratch[..n]).await? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    n => left -= n,
                }
            }
            Ok(())
        };
        tokio::try_join!(write, read)?;
        client.pause(20, 150).await;
    }
    socket.close().await
}

/// As much of HTTP/1.1 as the demo's origin answers.
struct Http {
    socket: Socket,
    /// Read behind the head of a response.
    ahead: Vec<u8>,
    totals: Arc<Totals>,
}

impl Http {
    async fn ask(&mut self, head: &str) -> io::Result<()> {
        self.socket.write_all(head.as_bytes()).await?;
        add(&self.totals.requests, 1);
        Ok(())
    }

    /// Reads a response to the end of its body.
    async fn answer(&mut self, expected: u16) -> io::Result<()> {
        let mut scratch = vec![0; 64 << 10];
        let head = loop {
            if let Some(end) = self.ahead.windows(4).position(|octets| octets == b"\r\n\r\n") {
                break end + 4;
            }
            let n = self.socket.read(&mut scratch).await?;
            if n == 0 || self.ahead.len() > HEAD_BYTES_MAX {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.ahead.extend_from_slice(&scratch[..n]);
        };
        let text = String::from_utf8_lossy(&self.ahead[..head]).to_ascii_lowercase();
        if text.split(' ').nth(1).and_then(|status| status.parse().ok()) != Some(expected) {
            return Err(io::Error::other("another status"));
        }
        let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut left: usize = length.and_then(|length| length.trim().parse().ok()).unwrap_or(0);
        self.ahead.drain(..head);
        let taken = left.min(self.ahead.len());
        self.ahead.drain(..taken);
        left -= taken;
        while left > 0 {
            let n = scratch.len().min(left);
            match self.socket.read(&mut scratch[..n]).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => left -= n,
            }
        }
        Ok(())
    }

    async fn close(self) -> io::Result<()> {
        self.socket.close().await
    }
}

/// Variety without a generator of the operating system's.
struct Dice(Cell<u64>);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(Cell::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1))
    }

    /// At least `low`, less than `high`.
    fn between(&self, low: u64, high: u64) -> u64 {
        let mut x = self.0.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.0.set(x);
        low + x % (high - low)
    }
}
