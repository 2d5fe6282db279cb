//! The stream to an origin, and for whom it moves octets.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::meter::{Direction, H2Meter, Tally, Violation};
use crate::proxy::session::Session;
use crate::proxy::stream::{SMALL_WRITE_BYTES, gather, uncleared};
use crate::units::Column;

/// For whom a connection moves octets.
#[derive(Default)]
pub struct Link {
    current: RefCell<Option<Owner>>,
    h2: RefCell<Option<Streams>>,
    /// It has served another request before.
    pub reused: Cell<bool>,
    /// Its engine is to give the stream up.
    pub is_handed_over: Cell<bool>,
}

#[derive(Clone)]
struct Owner {
    session: Rc<Session>,
    index: u64,
}

struct Streams {
    meter: H2Meter,
    owners: HashMap<u64, Owner>,
}

impl Link {
    /// Made for this exchange.
    pub fn new(session: &Rc<Session>, index: u64) -> Self {
        let link = Self::default();
        link.attribute(session, index);
        link
    }

    /// From here on it works for this exchange.
    pub fn attribute(&self, session: &Rc<Session>, index: u64) {
        *self.current.borrow_mut() = Some(Owner { session: session.clone(), index });
    }

    /// Both messages of its exchange are here, to the last octet.
    pub fn answered(&self) {
        if let Some(owner) = self.current.borrow().as_ref() {
            owner.session.answered();
        }
    }

    /// It works for nobody.
    pub fn release(&self) {
        *self.current.borrow_mut() = None;
    }

    /// From here on octets are attributed by HTTP/2 stream.
    pub fn becomes_h2(&self) {
        self.release();
        *self.h2.borrow_mut() = Some(Streams { meter: H2Meter::new(), owners: HashMap::new() });
    }

    /// This stream works for this exchange.
    pub fn attribute_stream(&self, id: u64, session: &Rc<Session>, index: u64) {
        if let Some(streams) = self.h2.borrow_mut().as_mut() {
            streams.owners.insert(id, Owner { session: session.clone(), index });
        }
    }

    /// This stream works for nobody any more.
    pub fn release_stream(&self, id: u64) {
        if let Some(streams) = self.h2.borrow_mut().as_mut() {
            streams.owners.remove(&id);
        }
    }

    fn moved(&self, column: Column, bytes: &[u8]) {
        if let Some(owner) = self.current.borrow().as_ref() {
            owner.session.upstream_moved(owner.index, column, bytes.len() as u64);
        }
    }

    /// Plaintext octets of an HTTP/2 connection: the meter says whose they are. What we send to the origin is what its
    /// client sends.
    fn framed(&self, direction: Direction, bytes: &[u8]) {
        if let Some(Streams { meter, owners }) = self.h2.borrow_mut().as_mut() {
            match direction {
                Direction::Received => meter.feed_sent(bytes, &mut ByStream(owners)),
                Direction::Sent => meter.feed_received(bytes, &mut ByStream(owners)),
            }
        }
    }

    fn is_h2(&self) -> bool {
        self.h2.borrow().is_some()
    }
}

struct ByStream<'a>(&'a HashMap<u64, Owner>);

impl ByStream<'_> {
    fn add(&self, id: Option<u64>, column: Column, n: u64) {
        if let Some(owner) = id.and_then(|id| self.0.get(&id)) {
            owner.session.upstream_moved(owner.index, column, n);
        }
    }
}

impl Tally for ByStream<'_> {
    fn begin(&mut self, _: u64) {}
    fn received(&mut self, id: Option<u64>, app: u64, _: u64) {
        self.add(id, Column::UpstreamSent, app);
    }
    fn sent(&mut self, id: Option<u64>, app: u64, _: u64) {
        self.add(id, Column::UpstreamReceived, app);
    }
    fn reclaim(&mut self, direction: Direction, id: u64, app: u64) {
        match direction {
            Direction::Received => self.add(Some(id), Column::UpstreamSent, app),
            Direction::Sent => self.add(Some(id), Column::UpstreamReceived, app),
        }
    }
    fn status(&mut self, _: u64, _: u16) {}
    fn received_end(&mut self, _: u64) {}
    fn sent_end(&mut self, _: u64) {}
    fn reset(&mut self, _: u64, _: bool, _: u32) {}
    fn tunnel(&mut self, _: u64) {}
    fn violation(&mut self, _: Option<u64>, _: Violation) {}
    fn lost(&mut self, _: Direction) {}
}

/// A socket to an origin with its octets counted.
struct CountedTcp {
    tcp: TcpStream,
    link: Rc<Link>,
}

impl AsyncRead for CountedTcp {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.tcp).poll_read(cx, buf))?;
        self.link.moved(Column::UpstreamReceived, &buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for CountedTcp {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let n = ready!(Pin::new(&mut self.tcp).poll_write(cx, bytes))?;
        self.link.moved(Column::UpstreamSent, &bytes[..n]);
        Poll::Ready(Ok(n))
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut room = uncleared::<SMALL_WRITE_BYTES>();
        let mut whole = ReadBuf::uninit(&mut room);
        if gather(parts, parts.iter().map(|part| part.len()).sum(), &mut whole) {
            return self.poll_write(cx, whole.filled());
        }
        let n = ready!(Pin::new(&mut self.tcp).poll_write_vectored(cx, parts))?;
        each_written(parts, n, |bytes| self.link.moved(Column::UpstreamSent, bytes));
        Poll::Ready(Ok(n))
    }
    fn is_write_vectored(&self) -> bool {
        true
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

enum Transport {
    Plain(CountedTcp),
    Tls(Box<TlsStream<CountedTcp>>),
}

/// The stream to an origin that the engines hold.
pub struct LinkStream {
    transport: Transport,
    link: Rc<Link>,
}

impl LinkStream {
    /// Without TLS, so far.
    pub fn plain(tcp: TcpStream, link: Rc<Link>) -> Self {
        Self { transport: Transport::Plain(CountedTcp { tcp, link: link.clone() }), link }
    }

    /// Speaks TLS from here on, verifying the server as `config` says.
    pub async fn handshake(self, config: Arc<rustls::ClientConfig>, name: ServerName<'static>) -> io::Result<Self> {
        let Transport::Plain(tcp) = self.transport else {
            return Err(io::Error::other("TLS inside TLS"));
        };
        let stream = TlsConnector::from(config).connect(name, tcp).await?;
        Ok(Self { transport: Transport::Tls(Box::new(stream)), link: self.link })
    }

    /// ALPN has agreed on HTTP/2.
    pub fn negotiated_h2(&self) -> bool {
        match &self.transport {
            Transport::Plain(_) => false,
            Transport::Tls(stream) => stream.get_ref().1.alpn_protocol() == Some(b"h2"),
        }
    }

    /// The bare socket, where there is no TLS: for `splice`.
    pub fn into_tcp(self) -> Result<TcpStream, Self> {
        match self.transport {
            Transport::Plain(counted) => Ok(counted.tcp),
            transport => Err(Self { transport, link: self.link }),
        }
    }
}

impl AsyncRead for LinkStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(match &mut self.transport {
            Transport::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Transport::Tls(stream) => Pin::new(&mut **stream).poll_read(cx, buf),
        })?;
        if self.link.is_h2() {
            self.link.framed(Direction::Received, &buf.filled()[before..]);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for LinkStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let n = ready!(match &mut self.transport {
            Transport::Plain(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Transport::Tls(stream) => Pin::new(&mut **stream).poll_write(cx, bytes),
        })?;
        if self.link.is_h2() {
            self.link.framed(Direction::Sent, &bytes[..n]);
        }
        Poll::Ready(Ok(n))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let n = ready!(match &mut self.transport {
            Transport::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, parts),
            Transport::Tls(stream) => Pin::new(&mut **stream).poll_write_vectored(cx, parts),
        })?;
        if self.link.is_h2() {
            each_written(parts, n, |bytes| self.link.framed(Direction::Sent, bytes));
        }
        Poll::Ready(Ok(n))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Transport::Tls(stream) => Pin::new(&mut **stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Transport::Tls(stream) => Pin::new(&mut **stream).poll_shutdown(cx),
        }
    }
}

/// The parts of a vectored write that were taken.
pub(crate) fn each_written(parts: &[IoSlice<'_>], mut taken: usize, mut visit: impl FnMut(&[u8])) {
    for part in parts {
        let n = taken.min(part.len());
        if n > 0 {
            visit(&part[..n]);
        }
        taken -= n;
    }
}
