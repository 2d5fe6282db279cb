//! HTTP/1.1 (and 1.0) with the client, by hyper.
//!
//! The connection is driven without its engine's own shutdown, so that the stream comes back: for the tunnel after an
//! upgrade, for the last word of a timeout, and to let go of the engine's buffers while the client idles.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::poll_fn;
use std::io::Write as _;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use http::header::CONNECTION;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tracing::debug;

use super::body::{RequestBody, ResponseBody};
use super::forward::{Answer, begin};
use super::headers;
use super::relay::Relay;
use super::session::{Cut, Session};
use super::stream::AppStream;
use super::tunnel::{Tunnel, join_session};
use crate::event::{End, Reason};

/// What the service leaves for the driver.
#[derive(Default)]
struct Shared {
    /// The tunnel that the connection is to become, and its exchange.
    tunnel: RefCell<Option<(u64, Box<Tunnel>)>>,
    /// The body that goes past the engine, and its exchange.
    relay: RefCell<Option<(u64, Rc<Relay>)>>,
    /// Number of the next request that the engine reads.
    next_index: Cell<u64>,
    /// The connection ends behind the answer whose body goes past the engine.
    is_last: Cell<bool>,
}

impl Shared {
    /// The engine has written the head, and would now wait for the body.
    fn is_at_body(&self, all_written: &Cell<bool>) -> bool {
        all_written.get() && self.relay.borrow().as_ref().is_some_and(|(_, relay)| relay.is_asked_for.get())
    }
}

/// How far an engine has carried the connection.
enum Stopped {
    /// It idles: the engine's buffers can go.
    Idle,
    /// It has written the head of an answer whose body goes past it.
    AtBody,
    /// It is over, or becomes a tunnel.
    Over,
}

/// Serves the session to its end. While the client idles there is no engine, and no buffer.
pub async fn serve(session: Rc<Session>, mut stream: AppStream) {
    let shared = Rc::new(Shared::default());
    loop {
        let (stopped, back, unread) = Box::pin(run_engine(&session, stream, &shared)).await;
        stream = back;
        let has_unread = !unread.is_empty();
        stream.unread(unread);
        match stopped {
            Stopped::Over => break,
            Stopped::AtBody => {
                let Some((index, relay)) = shared.relay.take() else { break };
                if !Box::pin(relay.carry(&session, index)).await || shared.is_last.get() {
                    break;
                }
            }
            Stopped::Idle if has_unread => {}
            Stopped::Idle if session.readable().await => {}
            Stopped::Idle => break,
        }
    }
    let tunnel = shared.tunnel.borrow_mut().take();
    if let Some((index, tunnel)) = tunnel
        && session.cut_reason().is_none()
    {
        session.exchange(index, |exchange| exchange.served = true);
        Box::pin(join_session(&session, &mut stream, Some(index), *tunnel)).await;
    } else if session.cut_reason() == Some(Cut::HeadTimeout) {
        session.each_open(|exchange| exchange.ends(End::Timeout, Reason::BadRequest));
        last_word(&mut stream, StatusCode::REQUEST_TIMEOUT).await;
    }
    // TLS has a last word of its own; the socket's is said while lingering.
    if !session.is_plain()
        && !session.was_reset()
        && let Err(error) = stream.shutdown().await
    {
        debug!(session = %session.id, %error, "shutdown");
    }
}

/// Carries the connection until it ends or idles. Returns the stream, and what was read of it and not used.
async fn run_engine(session: &Rc<Session>, stream: AppStream, shared: &Rc<Shared>) -> (Stopped, AppStream, Bytes) {
    let setup = session.worker.setup();
    let limits = &setup.config.limits;
    let service = service_fn({
        let (session, shared) = (session.clone(), shared.clone());
        move |request: Request<Incoming>| {
            let index = shared.next_index.replace(shared.next_index.get() + 1);
            Box::pin(respond(&session, index, request, &shared))
        }
    });
    let mut builder = http1::Builder::new();
    // The engine's own limits are a second line: what it refuses it answers itself (400, 414, 431).
    builder
        .half_close(true)
        .max_headers(limits.headers_max + 1)
        .max_header_size(limits.header_bytes_max + limits.request_line_bytes_max)
        .max_buf_size(limits.client_buffer_bytes());
    let all_written = stream.all_written();
    let mut connection = builder.serve_connection(TokioIo::new(stream), service);
    let mut draining = false;
    let stopped = loop {
        let ended = poll_fn(|cx| {
            if let Poll::Ready(result) = connection.poll_without_shutdown(cx) {
                return Poll::Ready(Some(result));
            }
            if shared.is_at_body(&all_written) {
                return Poll::Ready(None);
            }
            session.poll_signal(draining, cx).map(|()| None)
        })
        .await;
        match ended {
            Some(Ok(())) => {
                // A response that only the connection's end ends is whole where the engine says so.
                session.each_open(|exchange| exchange.served |= exchange.described && exchange.received_done);
                break Stopped::Over;
            }
            Some(Err(error)) => {
                ends_by(session, &error);
                break Stopped::Over;
            }
            None if session.cut_reason().is_some() => break Stopped::Over,
            None if shared.is_at_body(&all_written) => break Stopped::AtBody,
            None if session.is_draining() && !draining => {
                draining = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
            None if session.take_parking() && !draining => break Stopped::Idle,
            None => {}
        }
    };
    let parts = connection.into_parts();
    (stopped, parts.io.into_inner(), parts.read_buf)
}

/// Begins at once; the future is what is left to wait for.
fn respond(
    session: &Rc<Session>,
    index: u64,
    request: Request<Incoming>,
    shared: &Rc<Shared>,
) -> impl Future<Output = Result<Response<ResponseBody>, Infallible>> + use<> {
    let is_http10 = request.version() == Version::HTTP_10;
    let asks_to_close = headers::asks_to_close(request.headers());
    if asks_to_close && headers::is_last_request(request.headers()) {
        session.last_request_began();
    }
    let begun = begin(session, index, request.map(|body| RequestBody::h1(body, session.clone(), index)));
    let (session, shared) = (session.clone(), shared.clone());
    async move {
        let interim = |status: StatusCode, headers: HeaderMap| session.inject(interim_head(status, &headers));
        let mut response = match begun.answer(&interim).await {
            Answer::Response(response) => response,
            Answer::Tunnel(response, to) => {
                *shared.tunnel.borrow_mut() = Some((index, to));
                return Ok(response);
            }
        };
        let is_draining = session.worker.node.is_draining();
        if is_draining {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if let ResponseBody::Relayed(relay) = response.body() {
            *shared.relay.borrow_mut() = Some((index, relay.clone()));
            shared.is_last.set(is_draining || asks_to_close);
        }
        if response.body().is_end_stream() {
            session.exchange(index, |exchange| exchange.served = true);
        }
        if is_http10 && response.body().size_hint().exact().is_none() {
            // HTTP/1.0 has no chunks: the end of the connection ends the body. To the engine an HTTP/1.0 response
            // without a length is one that does not keep the connection, even if the client asked for it.
            *response.version_mut() = Version::HTTP_10;
        }
        Ok(response)
    }
}

/// An informational response as octets.
fn interim_head(status: StatusCode, headers: &HeaderMap) -> Bytes {
    let mut head = Vec::with_capacity(256);
    let reason = status.canonical_reason().unwrap_or("");
    // Writing to a Vec cannot fail.
    write!(head, "HTTP/1.1 {} {reason}\r\n", status.as_u16()).unwrap_or_default();
    for (name, value) in headers {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    Bytes::from(head)
}

/// An answer where the engine has none: the request's head never came whole.
async fn last_word(stream: &mut AppStream, status: StatusCode) {
    let text = format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    let written = async {
        stream.write_all(text.as_bytes()).await?;
        stream.flush().await
    };
    if let Err(error) = written.await {
        debug!(%error, "no last word");
    }
}

fn ends_by(session: &Session, error: &hyper::Error) {
    debug!(session = %session.id, %error, "HTTP/1 session ended");
    if error.is_parse() {
        session.ends(End::ProtocolError, Reason::BadRequest);
    } else if error.is_incomplete_message() || session.was_reset() {
        session.ends(End::ClientAbort, Reason::Unspecified);
    } else if error.is_user() {
        session.ends(End::UpstreamError, Reason::Unspecified);
    } else {
        session.ends(End::ClientAbort, Reason::Unspecified);
    }
}
