//! HTTP/1.1 (and 1.0) with the client, by hyper.
//!
//! The connection is driven without its engine's own shutdown, so that the stream comes back: for the tunnel after an
//! upgrade, for the last word of a timeout, and to let go of the engine's buffers while the client idles.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io::Write as _;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tracing::debug;

use super::body::{RequestBody, ResponseBody};
use super::forward::{Answer, forward};
use super::session::{Cut, Session};
use super::stream::AppStream;
use super::tunnel::{Tunnel, join_session};
use crate::event::{End, Reason};

/// Serves the session to its end.
pub async fn serve(session: Rc<Session>, stream: AppStream) {
    let setup = session.worker.setup();
    let limits = &setup.config.limits;
    let tunnel: Rc<RefCell<Option<(u64, Tunnel)>>> = Rc::default();
    let next_index = Rc::new(Cell::new(0));
    let service = service_fn({
        let (session, tunnel) = (session.clone(), tunnel.clone());
        move |request: Request<Incoming>| {
            let index = next_index.replace(next_index.get() + 1);
            Box::pin(respond(session.clone(), index, request, tunnel.clone()))
        }
    });
    let mut builder = http1::Builder::new();
    // The engine's own limits are a second line: what it refuses it answers itself (400, 414, 431).
    builder
        .half_close(true)
        .max_headers(limits.headers_max + 1)
        .max_header_size(limits.header_bytes_max + limits.request_line_bytes_max)
        .max_buf_size((limits.connection_buffer_bytes_max / 2).max(MIN_BUFFER_BYTES));
    let mut connection = builder.serve_connection(TokioIo::new(stream), service);

    let mut draining = false;
    loop {
        let ended = {
            let mut done = pin!(poll_fn(|cx| connection.poll_without_shutdown(cx)));
            poll_fn(|cx| {
                if let Poll::Ready(result) = done.as_mut().poll(cx) {
                    return Poll::Ready(Some(result));
                }
                session.poll_signal(draining, cx).map(|()| None)
            })
            .await
        };
        match ended {
            Some(Ok(())) => {
                // A response that only the connection's end ends is whole where the engine says so.
                session.each_open(|exchange| exchange.served |= exchange.described && exchange.received_done);
                break;
            }
            Some(Err(error)) => {
                ends_by(&session, &error);
                break;
            }
            None if session.cut_reason().is_some() => break,
            None => {
                draining = true;
                std::pin::Pin::new(&mut connection).graceful_shutdown();
            }
        }
    }
    let parts = connection.into_parts();
    let mut stream = parts.io.into_inner();
    let tunnel = tunnel.borrow_mut().take();
    if let Some((index, tunnel)) = tunnel
        && session.cut_reason().is_none()
    {
        stream.unread(parts.read_buf);
        session.exchange(index, |exchange| exchange.served = true);
        join_session(&session, &mut stream, Some(index), tunnel).await;
    } else if session.cut_reason() == Some(Cut::HeadTimeout) {
        session.each_open(|exchange| exchange.ends(End::Timeout, Reason::BadRequest));
        last_word(&mut stream, StatusCode::REQUEST_TIMEOUT).await;
    }
    if !session.was_reset()
        && let Err(error) = stream.shutdown().await
    {
        debug!(session = %session.id, %error, "shutdown");
    }
}

/// The smallest buffer that the engine takes.
const MIN_BUFFER_BYTES: usize = 8192;

async fn respond(
    session: Rc<Session>,
    index: u64,
    request: Request<Incoming>,
    tunnel: Rc<RefCell<Option<(u64, Tunnel)>>>,
) -> Result<Response<ResponseBody>, Infallible> {
    let request = request.map(|body| RequestBody::h1(body, session.clone(), index));
    let interim = |status: StatusCode, headers: HeaderMap| session.inject(interim_head(status, &headers));
    match forward(&session, index, request, &interim).await {
        Answer::Response(response) => {
            if http_body::Body::is_end_stream(response.body()) {
                session.exchange(index, |exchange| exchange.served = true);
            }
            Ok(response)
        }
        Answer::Tunnel(response, to) => {
            *tunnel.borrow_mut() = Some((index, to));
            Ok(response)
        }
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
