//! The streams that the engines hold: views of a session that count what passes.
//!
//! ```text
//! h1 / h2 engine → AppStream (app octets, meter) → [TLS engine] → WireStream (wire octets) → the session's socket
//! ```
//!
//! Neither changes, delays or reorders traffic. Octets are counted when the layer below has taken them.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use rustix::net::{SendFlags, send};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::session::Session;

/// The socket with its wire octets counted.
pub struct WireStream {
    session: Rc<Session>,
    /// Read already, behind a PROXY header; counted then.
    replay: Bytes,
}

impl WireStream {
    /// The session's socket.
    pub fn new(session: Rc<Session>) -> Self {
        Self { session, replay: Bytes::new() }
    }

    /// The session's socket, of which these octets were read already.
    pub fn replaying(replay: Bytes, session: Rc<Session>) -> Self {
        Self { session, replay }
    }
}

/// Reads some wire octets that no engine sees first, behind those received already. 0 at the end.
pub async fn read_more(session: &Rc<Session>, received: &mut Vec<u8>) -> io::Result<usize> {
    let mut piece = [0; 1024];
    let n = WireStream::new(session.clone()).read(&mut piece).await?;
    received.extend_from_slice(&piece[..n]);
    Ok(n)
}

impl AsyncRead for WireStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.replay.is_empty() {
            let n = self.replay.len().min(buf.remaining());
            buf.put_slice(&self.replay.split_to(n));
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let result = ready!(Pin::new(&mut *self.session.tcp().borrow_mut()).poll_read(cx, buf));
        match &result {
            Ok(()) if buf.filled().len() > before => self.session.wire_received(buf.filled().len() - before),
            Ok(()) if buf.remaining() > 0 => self.session.eof_seen(),
            Ok(()) => {}
            Err(error) => self.session.failed(error),
        }
        Poll::Ready(result)
    }
}

impl WireStream {
    fn write(&self, bytes: usize, write: impl FnOnce() -> Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        // What a kill during the call leaves uncertain is at most this.
        self.session.pending(bytes);
        let result = write();
        match &result {
            Poll::Ready(Ok(n)) => self.session.wire_sent(*n),
            Poll::Ready(Err(error)) => self.session.failed(error),
            Poll::Pending => {}
        }
        self.session.pending(0);
        result
    }
}

impl AsyncWrite for WireStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.write(bytes.len(), || {
            let mut tcp = self.session.tcp().borrow_mut();
            if self.session.is_parting() {
                return poll_write_last(&tcp, cx, bytes);
            }
            Pin::new(&mut *tcp).poll_write(cx, bytes)
        })
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let bytes = parts.iter().map(|part| part.len()).sum();
        let mut room = uncleared::<SMALL_WRITE_BYTES>();
        let mut whole = ReadBuf::uninit(&mut room);
        if gather(parts, bytes, &mut whole) {
            return self.poll_write(cx, whole.filled());
        }
        self.write(bytes, || Pin::new(&mut *self.session.tcp().borrow_mut()).poll_write_vectored(cx, parts))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.session.tcp().borrow_mut()).poll_shutdown(cx)
    }
}

/// Writes what the FIN follows at once: the kernel sends both in one segment (`MSG_MORE`), which spares either side a packet.
fn poll_write_last(tcp: &TcpStream, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
    loop {
        ready!(tcp.poll_write_ready(cx))?;
        let send_bytes = || Ok(send(tcp, bytes, SendFlags::MORE | SendFlags::NOSIGNAL)?);
        match tcp.try_io(Interest::WRITABLE, send_bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return Poll::Ready(result),
        }
    }
}

/// Writes up to this size are copied together: one `send` is cheaper for the kernel than a `writev` of small parts.
pub(super) const SMALL_WRITE_BYTES: usize = 2048;

/// Room for a [`ReadBuf`]: what nobody reads before it is written need not be cleared.
pub(super) fn uncleared<const BYTES: usize>() -> [MaybeUninit<u8>; BYTES] {
    [const { MaybeUninit::uninit() }; BYTES]
}

/// Copies the parts, of so many octets together, into `whole`, if it has room for all of them.
pub(super) fn gather(parts: &[IoSlice<'_>], bytes: usize, whole: &mut ReadBuf<'_>) -> bool {
    if bytes > whole.remaining() {
        return false;
    }
    for part in parts {
        whole.put_slice(part);
    }
    true
}

/// What is below the HTTP engine.
pub enum Transport {
    /// Cleartext.
    Plain(WireStream),
    /// TLS, terminated here.
    Tls(Box<TlsStream<WireStream>>),
}

/// Plaintext octets of the HTTP conversation (or raw tunnel), counted and shown to the session's meter.
pub struct AppStream {
    transport: Transport,
    session: Rc<Session>,
    /// Read already, to learn the protocol; counted then.
    replay: Bytes,
    at_eof: bool,
    /// The engine has nothing left to write.
    all_written: Rc<Cell<bool>>,
}

impl AppStream {
    /// On top of a transport.
    pub fn new(transport: Transport, session: Rc<Session>) -> Self {
        Self { transport, session, replay: Bytes::new(), at_eof: false, all_written: Rc::default() }
    }

    /// True while the engine above has nothing left to write.
    pub fn all_written(&self) -> Rc<Cell<bool>> {
        self.all_written.clone()
    }

    /// Octets that were read to learn the protocol (and counted) come first. The session's meter must be set: it is
    /// shown them here.
    pub fn replay(&mut self, bytes: Bytes) {
        self.session.app_received(&bytes);
        self.replay = bytes;
    }

    /// Octets that were counted and metered, and are to be read again by the next engine.
    pub fn unread(&mut self, bytes: Bytes) {
        // What an earlier engine left is behind it, if it was not read to its end.
        if self.replay.is_empty() {
            // An empty piece of a buffer keeps the whole buffer.
            self.replay = if bytes.is_empty() { Bytes::new() } else { bytes };
        } else {
            self.replay = Bytes::from([bytes, std::mem::take(&mut self.replay)].concat());
        }
    }

    /// Reads without showing the octets to the meter (its kind is not known yet); follow with [`AppStream::replay`].
    pub fn poll_peek(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.poll_transport_read(cx, buf)
    }

    /// Where this stream is the bare socket and nothing is to be written before: what was read from it already, for a
    /// tunnel that goes on with the socket itself.
    pub fn take_plain(&mut self) -> Option<Bytes> {
        match &self.transport {
            Transport::Plain(wire) if wire.replay.is_empty() && !self.at_eof && !self.session.has_injected() => {
                Some(std::mem::take(&mut self.replay))
            }
            _ => None,
        }
    }

    /// What ALPN agreed on; None without TLS or ALPN.
    pub fn alpn(&self) -> Option<&[u8]> {
        match &self.transport {
            Transport::Plain(_) => None,
            Transport::Tls(stream) => stream.get_ref().1.alpn_protocol(),
        }
    }

    fn poll_transport_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Transport::Tls(stream) => Pin::new(&mut **stream).poll_read(cx, buf),
        }
    }

    /// Informational responses that the origin sent before its final one: written where the engine has nothing under
    /// way. The engine knows nothing of them.
    fn poll_inject(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(mut bytes) = self.session.injected() {
            let n = ready!(self.poll_write_transport(cx, &bytes))?;
            self.session.app_sent(&bytes[..n]);
            bytes.advance(n);
            self.session.inject_rest(bytes);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write_transport(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Transport::Tls(stream) => Pin::new(&mut **stream).poll_write(cx, bytes),
        }
    }
}

impl AsyncRead for AppStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.session.has_injected()
            && let Poll::Ready(result) = self.poll_inject(cx)
        {
            result?;
        }
        if !self.replay.is_empty() {
            let n = self.replay.len().min(buf.remaining());
            buf.put_slice(&self.replay[..n]);
            self.replay.advance(n);
            if self.replay.is_empty() {
                self.replay = Bytes::new();
            }
            return Poll::Ready(Ok(()));
        }
        if self.at_eof {
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(self.poll_transport_read(cx, buf))?;
        let fresh = &buf.filled()[before..];
        if fresh.is_empty() {
            self.at_eof = buf.remaining() > 0;
        } else {
            self.session.app_received(fresh);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for AppStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.all_written.set(false);
        ready!(self.poll_inject(cx))?;
        let n = ready!(self.poll_write_transport(cx, bytes))?;
        self.session.app_sent(&bytes[..n]);
        Poll::Ready(Ok(n))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.all_written.set(false);
        ready!(self.poll_inject(cx))?;
        let n = ready!(match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
            Transport::Tls(stream) => Pin::new(&mut **stream).poll_write_vectored(cx, parts),
        })?;
        let mut left = n;
        for part in parts {
            let taken = left.min(part.len());
            if taken > 0 {
                self.session.app_sent(&part[..taken]);
            }
            left -= taken;
        }
        Poll::Ready(Ok(n))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_inject(cx))?;
        self.all_written.set(true);
        let Transport::Tls(stream) = &mut self.transport else { return Poll::Ready(Ok(())) };
        ready!(Pin::new(&mut **stream).poll_flush(cx))?;
        self.session.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Tls(stream) => Pin::new(&mut **stream).poll_shutdown(cx),
        }
    }
}
