//! A body into an HTTP/2 stream, no faster than its window opens.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::{Body, Frame};

use super::body::BodyError;
use super::session::Session;

/// Why a body did not reach the other side whole.
#[derive(Debug, thiserror::Error)]
pub enum PumpError {
    /// Its source failed; the stream was reset.
    #[error("the body's source failed: {0}")]
    Source(#[from] BodyError),
    /// The stream failed.
    #[error("the stream failed: {0}")]
    Stream(#[from] h2::Error),
    /// The other side reset the stream.
    #[error("the stream was reset: {0}")]
    Reset(Reason),
    /// A limit in time was hit; the stream was reset.
    #[error("a limit in time was hit")]
    Timeout,
}

/// Sends the whole body, trailers included, and ends the stream.
pub async fn pump(
    body: impl Body<Data = Bytes, Error = BodyError>,
    mut stream: SendStream<Bytes>,
    session: &Session,
    index: u64,
) -> Result<(), PumpError> {
    let mut body = pin!(body);
    loop {
        let frame = match poll_fn(|cx| next(body.as_mut(), &mut stream, session, index, cx)).await {
            Ok(frame) => frame,
            Err(error) => {
                // NO_ERROR in answer to a complete response means: the rest is not wanted. That is no failure.
                stream.send_reset(match &error {
                    PumpError::Timeout => Reason::CANCEL,
                    PumpError::Reset(Reason::NO_ERROR) => return Ok(()),
                    _ => Reason::INTERNAL_ERROR,
                });
                return Err(error);
            }
        };
        let Some(frame) = frame else {
            stream.send_data(Bytes::new(), true)?;
            return Ok(());
        };
        let frame = match frame.into_data() {
            Ok(data) => {
                let is_last = body.is_end_stream();
                if send(data, is_last, &mut stream, session, index).await? {
                    return Ok(());
                }
                continue;
            }
            Err(frame) => frame,
        };
        if let Ok(trailers) = frame.into_trailers() {
            stream.send_trailers(trailers)?;
            return Ok(());
        }
    }
}

/// Sends one piece as the window opens. True if it ended the stream.
async fn send(
    mut data: Bytes,
    is_last: bool,
    stream: &mut SendStream<Bytes>,
    session: &Session,
    index: u64,
) -> Result<bool, PumpError> {
    if data.is_empty() {
        if is_last {
            stream.send_data(data, true)?;
        }
        return Ok(is_last);
    }
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let capacity = poll_fn(|cx| poll_capacity(stream, session, index, cx)).await;
        let capacity = match capacity {
            Ok(capacity) => capacity,
            Err(error) => {
                if matches!(error, PumpError::Timeout) {
                    stream.send_reset(Reason::CANCEL);
                }
                return Err(error);
            }
        };
        let piece = data.split_to(capacity.min(data.len()));
        let ends = is_last && data.is_empty();
        stream.send_data(piece, ends)?;
    }
    Ok(is_last)
}

fn next(
    body: Pin<&mut impl Body<Data = Bytes, Error = BodyError>>,
    stream: &mut SendStream<Bytes>,
    session: &Session,
    index: u64,
    cx: &mut Context<'_>,
) -> Poll<Result<Option<Frame<Bytes>>, PumpError>> {
    if let Poll::Ready(frame) = body.poll_frame(cx) {
        return Poll::Ready(frame.transpose().map_err(PumpError::Source));
    }
    poll_end(stream, session, index, cx).map(Err)
}

fn poll_capacity(
    stream: &mut SendStream<Bytes>,
    session: &Session,
    index: u64,
    cx: &mut Context<'_>,
) -> Poll<Result<usize, PumpError>> {
    loop {
        match stream.poll_capacity(cx) {
            Poll::Ready(Some(Ok(0))) => {}
            Poll::Ready(Some(Ok(capacity))) => return Poll::Ready(Ok(capacity)),
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(PumpError::Stream(error))),
            Poll::Ready(None) => return Poll::Ready(Err(PumpError::Reset(Reason::CANCEL))),
            Poll::Pending => return poll_end(stream, session, index, cx).map(Err),
        }
    }
}

/// Ready when there is no use in going on.
fn poll_end(stream: &mut SendStream<Bytes>, session: &Session, index: u64, cx: &mut Context<'_>) -> Poll<PumpError> {
    if let Poll::Ready(reset) = stream.poll_reset(cx) {
        return Poll::Ready(match reset {
            Ok(reason) => PumpError::Reset(reason),
            Err(error) => PumpError::Stream(error),
        });
    }
    session.poll_timed_out(index, cx).map(|()| PumpError::Timeout)
}
