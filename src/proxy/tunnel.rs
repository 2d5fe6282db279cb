//! Two byte streams joined: after an upgrade, a CONNECT, or on a raw TCP listener.
//!
//! Each direction is carried to its own end: a half-close is passed on, the other direction goes on. Where neither side
//! is TLS or HTTP/2 the kernel moves the octets (`splice.rs`); elsewhere they are copied.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf, copy_bidirectional_with_sizes};
use tracing::debug;

use super::balance::InFlight;
use super::session::Session;
use super::splice;
use super::stream::AppStream;
use super::upstream::{Lease, LinkStream};
use crate::event::{End, Reason};

/// Buffer of each direction of a tunnel, octets.
const BUFFER_BYTES: usize = 16 * 1024;

/// The origin's side of a tunnel to be.
pub struct Tunnel {
    /// The connection.
    pub origin: LinkStream,
    /// What the origin sent behind its response already.
    pub early: Bytes,
    /// The client's side, where it is an HTTP/2 stream.
    pub stream: Option<h2::RecvStream>,
    /// Keeps the server's count of what is in flight.
    pub hold: Hold,
}

/// What is given back when a tunnel ends.
#[allow(dead_code)] // held for their Drop
pub enum Hold {
    /// A request's hold on its connection.
    Lease(Lease),
    /// A raw connection.
    Raw(InFlight),
}

/// Joins the session's own stream with an origin: inside the kernel where both are plain. `exchange`: the upgraded one,
/// or none where the session is the tunnel.
pub async fn join_session(session: &Rc<Session>, client: &mut AppStream, exchange: Option<u64>, tunnel: Tunnel) {
    let Some(to_origin) = client.take_plain() else { return join(session, client, tunnel).await };
    let Tunnel { origin, early, stream, hold } = tunnel;
    match origin.into_tcp() {
        Ok(origin) => {
            let carried = Box::pin(splice::carry(session, exchange, origin, to_origin, early));
            until_cut(session, carried).await;
            drop(hold);
        }
        Err(origin) => {
            client.unread(to_origin);
            join(session, client, Tunnel { origin, early, stream, hold }).await;
        }
    }
}

/// Carries octets between one HTTP/2 stream and an origin until both sides have ended, one has failed, or a limit in time
/// was hit. How it ends is the exchange's end; the session goes on.
pub async fn join_stream(session: &Session, index: u64, client: &mut StreamIo, tunnel: Tunnel) {
    let Tunnel { mut origin, early, stream: _, hold } = tunnel;
    session.exchange(index, |exchange| {
        exchange.served = true;
        exchange.stream_tunnel = true;
    });
    let timed_out = poll_fn(|cx| session.poll_timed_out(index, cx));
    tokio::select! {
        result = copy(client, &mut origin, early) => if let Err(error) = result {
            debug!(session = %session.id, stream = index, %error, "tunnel failed");
            // A client that resets has been taken down for it by the meter.
            session.exchange(index, |exchange| exchange.ends(End::UpstreamError, Reason::Unspecified));
        },
        () = timed_out => {}
    }
    drop(hold);
}

/// Carries octets both ways until both sides have ended, one has failed, or the session is cut.
async fn join(session: &Rc<Session>, client: &mut AppStream, tunnel: Tunnel) {
    let Tunnel { mut origin, early, stream: _, hold } = tunnel;
    until_cut(session, copy(client, &mut origin, early)).await;
    drop(hold);
}

async fn copy<C: AsyncRead + AsyncWrite + Unpin>(
    client: &mut C,
    origin: &mut LinkStream,
    early: Bytes,
) -> io::Result<()> {
    if !early.is_empty() {
        client.write_all(&early).await?;
        client.flush().await?;
    }
    copy_bidirectional_with_sizes(client, origin, BUFFER_BYTES, BUFFER_BYTES).await.map(drop)
}

async fn until_cut(session: &Rc<Session>, carried: impl Future<Output = io::Result<()>>) {
    tokio::select! {
        result = carried => match result {
            Ok(()) => session.ends(End::Done, Reason::Unspecified),
            Err(error) => {
                debug!(session = %session.id, %error, "tunnel failed");
                let end = if session.was_reset() { End::ClientAbort } else { End::UpstreamError };
                session.ends(end, Reason::Unspecified);
            }
        },
        () = session.cut_signal() => {}
    }
}

/// An HTTP/2 stream as a byte stream (RFC 8441, RFC 9113 §8.5).
pub struct StreamIo {
    received: h2::RecvStream,
    sent: h2::SendStream<Bytes>,
    buffered: Bytes,
}

impl StreamIo {
    /// Both halves of one stream.
    pub fn new(received: h2::RecvStream, sent: h2::SendStream<Bytes>) -> Self {
        Self { received, sent, buffered: Bytes::new() }
    }
}

impl AsyncRead for StreamIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.buffered.is_empty() {
            match ready!(self.received.poll_data(cx)) {
                None => return Poll::Ready(Ok(())),
                Some(Ok(data)) => {
                    let length = data.len();
                    self.received.flow_control().release_capacity(length).map_err(io::Error::other)?;
                    self.buffered = data;
                }
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
            }
        }
        let n = self.buffered.len().min(buf.remaining());
        buf.put_slice(&self.buffered[..n]);
        self.buffered.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for StreamIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.sent.reserve_capacity(bytes.len());
        let capacity = loop {
            match ready!(self.sent.poll_capacity(cx)) {
                Some(Ok(0)) => {}
                Some(Ok(capacity)) => break capacity.min(bytes.len()),
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        };
        self.sent.send_data(Bytes::copy_from_slice(&bytes[..capacity]), false).map_err(io::Error::other)?;
        Poll::Ready(Ok(capacity))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.sent.send_data(Bytes::new(), true).map_err(io::Error::other)?;
        Poll::Ready(Ok(()))
    }
}
