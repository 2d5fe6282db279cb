//! HTTP/2 with the client, by hyper's own engine (`h2`), driven directly: a record needs the stream's number.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use h2::Reason as Code;
use h2::server::SendResponse;
use http::{HeaderMap, Response, StatusCode};
use http_body::Body as _;
use tracing::debug;

use super::body::{RequestBody, ResponseBody};
use super::forward::{Answer, Begun, begin};
use super::pump::{PumpError, pump};
use super::session::{Cut, Session};
use super::stream::AppStream;
use super::tunnel::{StreamIo, Tunnel, join_stream};
use super::worker::spawn;
use crate::event::{End, Reason};

/// Resets of streams that were not served yet, before the connection is cut (rapid reset, CVE-2023-44487).
const PENDING_RESETS_MAX: usize = 20;
/// Resets that the client's errors make us send, before the connection is cut (CVE-2025-8671).
const OWN_RESETS_MAX: usize = 256;

/// Serves the session to its end.
pub async fn serve(session: Rc<Session>, stream: AppStream) {
    let setup = session.worker.setup();
    let limits = &setup.config.limits;
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(limits.streams_per_connection_max)
        .max_header_list_size(u32::try_from(limits.header_bytes_max).unwrap_or(u32::MAX))
        .initial_window_size(limits.h2_stream_window_bytes)
        .initial_connection_window_size(limits.h2_connection_window_bytes)
        .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
        .max_local_error_reset_streams(Some(OWN_RESETS_MAX))
        .max_send_buffer_size(limits.connection_buffer_bytes_max.min(256 << 10))
        .enable_connect_protocol();
    let mut handshake = Box::pin(builder.handshake::<_, Bytes>(stream));
    let mut connection = tokio::select! {
        result = &mut handshake => match result {
            Ok(connection) => connection,
            Err(error) => return ends_by(&session, &error),
        },
        () = session.cut_signal() => return,
    };
    let mut draining = false;
    loop {
        let accepted = poll_fn(|cx| {
            if let Poll::Ready(accepted) = connection.poll_accept(cx) {
                return Poll::Ready(Some(accepted));
            }
            session.poll_signal(draining, cx).map(|()| None)
        })
        .await;
        match accepted {
            Some(Some(Ok((request, respond)))) => {
                let index = u64::from(respond.stream_id().as_u32());
                let begun = begin(&session, index, request.map(|body| RequestBody::h2(body, session.clone(), index)));
                spawn(exchange(session.clone(), index, begun, respond));
            }
            Some(Some(Err(error))) => {
                ends_by(&session, &error);
                break;
            }
            Some(None) => break,
            None => match session.cut_reason() {
                Some(why) => {
                    let code = match why {
                        Cut::Flood => Code::ENHANCE_YOUR_CALM,
                        _ => Code::NO_ERROR,
                    };
                    connection.abrupt_shutdown(code);
                    // The GOAWAY is written if the client still reads; its reading is not waited for.
                    let last = poll_fn(|cx| connection.poll_closed(cx));
                    if tokio::time::timeout(limits.linger, last).await.is_err() {
                        debug!(session = %session.id, "the client does not read its GOAWAY");
                    }
                    break;
                }
                None => {
                    draining = true;
                    connection.graceful_shutdown();
                }
            },
        }
    }
}

async fn exchange(session: Rc<Session>, index: u64, begun: Begun, respond: SendResponse<Bytes>) {
    let respond = RefCell::new(respond);
    let interim = |status: StatusCode, headers: HeaderMap| {
        let mut response = Response::new(());
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        if let Err(error) = respond.borrow_mut().send_informational(response) {
            debug!(%error, "informational response not sent");
        }
    };
    let answer = tokio::select! {
        biased;
        answer = begun.answer(&interim) => answer,
        // The client does not want it any more: whatever waits for the origin is dropped.
        _ = poll_fn(|cx| respond.borrow_mut().poll_reset(cx)) => return,
    };
    let result = match answer {
        Answer::Response(response) => send(&session, index, response, respond.into_inner()).await,
        Answer::Tunnel(response, tunnel) => {
            // Boxed, like all that is rare: every stream's task would have room for it.
            Box::pin(switch(&session, index, response, respond.into_inner(), tunnel)).await
        }
    };
    if let Err(error) = result {
        debug!(session = %session.id, stream = index, %error, "response cut");
        session.exchange(index, |exchange| {
            let end = match error {
                PumpError::Source(_) => End::UpstreamError,
                PumpError::Timeout => End::Timeout,
                PumpError::Stream(_) | PumpError::Reset(_) => End::ClientAbort,
            };
            exchange.ends(end, Reason::Unspecified);
        });
    }
}

/// The stream becomes a tunnel (RFC 8441).
async fn switch(
    session: &Rc<Session>,
    index: u64,
    response: Response<ResponseBody>,
    mut respond: SendResponse<Bytes>,
    mut tunnel: Box<Tunnel>,
) -> Result<(), PumpError> {
    let Some(received) = tunnel.stream.take() else { return Ok(()) };
    let sent = respond.send_response(response.map(|_| ()), false)?;
    join_stream(session, index, &mut StreamIo::new(received, sent), *tunnel).await;
    Ok(())
}

async fn send(
    session: &Session,
    index: u64,
    response: Response<ResponseBody>,
    mut respond: SendResponse<Bytes>,
) -> Result<(), PumpError> {
    let (mut parts, body) = response.into_parts();
    parts.version = http::Version::HTTP_2;
    let no_body = body.is_end_stream();
    let stream = respond.send_response(Response::from_parts(parts, ()), no_body)?;
    if no_body {
        return Ok(());
    }
    pump(body, stream, session, index).await
}

fn ends_by(session: &Session, error: &h2::Error) {
    debug!(session = %session.id, %error, "HTTP/2 session ended");
    if error.is_io() {
        session.ends(End::ClientAbort, Reason::Unspecified);
    } else if error.is_remote() || error.reason() == Some(Code::NO_ERROR) {
        session.ends(End::Done, Reason::Unspecified);
    } else {
        if error.reason() == Some(Code::ENHANCE_YOUR_CALM) {
            session.worker.metrics.floods.increment(1);
            session.ends(End::ProtocolError, Reason::Limited);
            return session.cut(Cut::Flood);
        }
        session.ends(End::ProtocolError, Reason::BadRequest);
    }
}
