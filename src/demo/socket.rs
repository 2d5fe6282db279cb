//! A client's socket that counts its own octets, and asks its own kernel for a second opinion when it ends.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::net::{Shutdown, shutdown};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::proxy::tcp_counts;

/// A client that is to abort waits until nothing has come for this long: then both kernels have said all they will.
const STILL: Duration = Duration::from_millis(300);
/// A server that does not close its side is given up after this.
const CLOSE_MAX: Duration = Duration::from_secs(10);

/// What all clients did, by their own count.
#[derive(Default)]
pub struct Totals {
    /// Set by the screen: begin nothing more.
    pub stop: AtomicBool,
    /// Connections made.
    pub sockets: AtomicU64,
    /// Of those, ended by a reset in mid-download.
    pub aborted: AtomicU64,
    /// Requests written whole, upgrades included.
    pub requests: AtomicU64,
    /// What did not go as it should, a sentence each.
    pub failures: Mutex<Vec<String>>,
    /// Octets that `write` took.
    pub written: AtomicU64,
    /// Octets that `read` gave.
    pub read: AtomicU64,
    /// Octets of ours that the client's kernel sent, repetitions not counted.
    pub kernel_sent: AtomicU64,
    /// Octets that the client's kernel received and acknowledged, read or not.
    pub kernel_received: AtomicU64,
    /// Of those, never read: they waited in the kernel when the client aborted.
    pub unread: AtomicU64,
}

impl Totals {
    /// Something did not go as it should.
    pub fn failed(&self, what: String) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }

    /// True once clients are to come to their end.
    pub fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// Adds to one of the totals.
pub fn add(total: &AtomicU64, n: u64) {
    total.fetch_add(n, Ordering::Relaxed);
}

/// One connection; clones are the same one.
#[derive(Clone)]
pub struct Socket(Rc<Counted>);

struct Counted {
    tcp: TcpStream,
    read: Cell<u64>,
    at_end: Cell<bool>,
    totals: Arc<Totals>,
}

impl Socket {
    /// Connects. `receive_buffer_bytes`: a small one, where the client is to be slow.
    pub async fn connect(to: SocketAddr, totals: &Arc<Totals>, receive_buffer_bytes: Option<u32>) -> io::Result<Self> {
        let socket = tokio::net::TcpSocket::new_v4()?;
        if let Some(bytes) = receive_buffer_bytes {
            socket.set_recv_buffer_size(bytes)?;
        }
        let tcp = socket.connect(to).await?;
        tcp.set_nodelay(true)?;
        add(&totals.sockets, 1);
        let counted = Counted { tcp, read: Cell::new(0), at_end: Cell::new(false), totals: totals.clone() };
        Ok(Self(Rc::new(counted)))
    }

    /// Says that nothing more comes, and reads what still does.
    pub async fn close(mut self) -> io::Result<()> {
        self.finish_writing()?;
        let rest = async {
            let mut scratch = vec![0; 64 << 10];
            while self.read(&mut scratch).await? > 0 {}
            io::Result::Ok(())
        };
        tokio::time::timeout(CLOSE_MAX, rest).await?
    }

    /// Passes our end on; reading goes on.
    pub fn finish_writing(&self) -> io::Result<()> {
        Ok(shutdown(&self.0.tcp, Shutdown::Write)?)
    }

    /// Reads no more, waits until nothing more comes, and resets.
    pub async fn abort(self) -> io::Result<()> {
        let mut received = 0;
        loop {
            tokio::time::sleep(STILL).await;
            let now = tcp_counts(&self.0.tcp, false)?.bytes_received;
            if now == std::mem::replace(&mut received, now) {
                break;
            }
        }
        add(&self.0.totals.aborted, 1);
        socket2::SockRef::from(&self.0.tcp).set_linger(Some(Duration::ZERO))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let Ok(counts) = tcp_counts(&self.tcp, false) else {
            return self.totals.failed("a socket without counts".to_owned());
        };
        // The kernel counts a FIN as an octet received.
        let received = counts.bytes_received - u64::from(self.at_end.get());
        add(&self.totals.kernel_received, received);
        add(&self.totals.kernel_sent, counts.written());
        add(&self.totals.unread, received.saturating_sub(self.read.get()));
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.tcp.poll_read_ready(cx))?;
            match self.0.tcp.try_read(buf.initialize_unfilled()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
                Ok(n) => {
                    buf.advance(n);
                    self.0.at_end.set(n == 0);
                    self.0.read.set(self.0.read.get() + n as u64);
                    add(&self.0.totals.read, n as u64);
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.tcp.poll_write_ready(cx))?;
            match self.0.tcp.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
                Ok(n) => {
                    add(&self.0.totals.written, n as u64);
                    return Poll::Ready(Ok(n));
                }
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// An engine that has ended; [`Socket::close`] ends the connection.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
