//! Bodies on their way: streamed, never collected, and watched for what must not be forwarded.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::headers;
use super::relay::Relay;
use super::session::Session;
use super::upstream::Lease;

/// Why a body cannot be carried to its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The engine says so.
    #[error("{0}")]
    H1(#[from] hyper::Error),
    /// The engine says so.
    #[error("{0}")]
    H2(#[from] h2::Error),
    /// The guard says so.
    #[error("the request body breaks the grammar: {0}")]
    Violation(&'static str),
    /// Trailers that frame or route.
    #[error("the trailers are refused")]
    Trailers,
}

/// The body of a request on its way up.
pub struct RequestBody {
    source: RequestSource,
    session: Rc<Session>,
    index: u64,
    state: Rc<BodyState>,
}

/// What became of a request's body; outlives it.
#[derive(Debug, Default)]
pub struct BodyState {
    /// The engine has read all of it.
    pub complete: std::cell::Cell<bool>,
    /// It was refused half-way: the answer is 400.
    pub refused: std::cell::Cell<bool>,
    /// The client's side of it failed.
    pub failed: std::cell::Cell<bool>,
}

enum RequestSource {
    Empty,
    H1(Incoming),
    H2(h2::RecvStream),
}

impl RequestBody {
    /// Of an h1 request.
    pub fn h1(body: Incoming, session: Rc<Session>, index: u64) -> Self {
        Self::new(RequestSource::H1(body), session, index)
    }

    /// Of an h2 request.
    pub fn h2(body: h2::RecvStream, session: Rc<Session>, index: u64) -> Self {
        Self::new(RequestSource::H2(body), session, index)
    }

    fn new(source: RequestSource, session: Rc<Session>, index: u64) -> Self {
        let state = Rc::new(BodyState::default());
        let body = Self { source, session, index, state };
        body.state.complete.set(body.is_end_stream());
        body
    }

    /// What becomes of it.
    pub fn state(&self) -> Rc<BodyState> {
        self.state.clone()
    }

    /// Takes the body away: what is left is empty.
    pub fn take(&mut self) -> Self {
        let source = std::mem::replace(&mut self.source, RequestSource::Empty);
        Self { source, session: self.session.clone(), index: self.index, state: self.state.clone() }
    }

    /// The stream of an extended CONNECT.
    pub fn into_h2(self) -> Option<h2::RecvStream> {
        match self.source {
            RequestSource::H2(stream) => Some(stream),
            _ => None,
        }
    }

    fn check(&self, frame: Frame<Bytes>) -> Result<Frame<Bytes>, BodyError> {
        if let Some(violation) = self.session.violation_of(self.index) {
            self.state.refused.set(true);
            return Err(BodyError::Violation(violation.as_str()));
        }
        if let Some(trailers) = frame.trailers_ref()
            && headers::check_trailers(trailers).is_err()
        {
            self.state.refused.set(true);
            return Err(BodyError::Trailers);
        }
        Ok(frame)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = match &mut self.source {
            RequestSource::Empty => None,
            RequestSource::H1(body) => ready!(Pin::new(body).poll_frame(cx)).map(|frame| frame.map_err(BodyError::H1)),
            RequestSource::H2(stream) => ready!(poll_h2(stream, cx)),
        };
        Poll::Ready(match frame {
            None => {
                // The guard may have found something in what the engine took for the end.
                if let Some(violation) = self.session.violation_of(self.index) {
                    self.state.refused.set(true);
                    return Poll::Ready(Some(Err(BodyError::Violation(violation.as_str()))));
                }
                self.state.complete.set(true);
                None
            }
            Some(Ok(frame)) => Some(self.check(frame).inspect(|_| {
                if self.is_end_stream() {
                    self.state.complete.set(true);
                }
            })),
            Some(Err(error)) => {
                self.state.failed.set(true);
                Some(Err(error))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            RequestSource::Empty => true,
            RequestSource::H1(body) => body.is_end_stream(),
            RequestSource::H2(stream) => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            RequestSource::Empty => SizeHint::with_exact(0),
            RequestSource::H1(body) => body.size_hint(),
            RequestSource::H2(_) => SizeHint::default(),
        }
    }
}

/// The body of a response on its way down.
pub enum ResponseBody {
    /// Of our own.
    Own(Option<Bytes>),
    /// From an h1 origin; the lease gives the connection back at the end.
    H1 {
        /// The body.
        body: Incoming,
        /// The connection it comes over.
        lease: Option<Lease>,
    },
    /// From an h1 origin, past the engines.
    Relayed(Rc<Relay>),
    /// From an h2 origin.
    H2 {
        /// The body.
        stream: h2::RecvStream,
        /// The stream's share of the connection.
        lease: Option<Lease>,
    },
}

impl ResponseBody {
    /// No body.
    pub fn empty() -> Self {
        Self::Own(None)
    }

    /// A short text.
    pub fn text(text: impl Into<Bytes>) -> Self {
        Self::Own(Some(text.into()))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Own(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::H1 { body, lease } => {
                let frame = ready!(Pin::new(&mut *body).poll_frame(cx));
                match &frame {
                    // Given back as soon as the last octet is here, not when the engine asks once more.
                    None => drop(lease.take().map(Lease::complete)),
                    Some(Ok(_)) if body.is_end_stream() => drop(lease.take().map(Lease::complete)),
                    Some(Ok(_)) => {}
                    Some(Err(_)) => {
                        if let Some(lease) = lease.take() {
                            lease.failed();
                        }
                    }
                }
                Poll::Ready(frame.map(|frame| frame.map(without_refused_trailers).map_err(BodyError::H1)))
            }
            Self::Relayed(relay) => {
                // Nobody is woken: whoever drives the engine looks at it.
                relay.is_asked_for.set(true);
                Poll::Pending
            }
            Self::H2 { stream, lease } => {
                let frame = ready!(poll_h2(stream, cx));
                match &frame {
                    None => drop(lease.take().map(Lease::complete)),
                    Some(Ok(_)) => {}
                    Some(Err(_)) => {
                        if let Some(lease) = lease.take() {
                            lease.failed();
                        }
                    }
                }
                Poll::Ready(frame.map(|frame| frame.map(without_refused_trailers)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(bytes) => bytes.is_none(),
            Self::H1 { body, .. } => body.is_end_stream(),
            Self::Relayed(_) => false,
            Self::H2 { stream, .. } => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::H1 { body, .. } => body.size_hint(),
            Self::Relayed(relay) => SizeHint::with_exact(relay.length),
            Self::H2 { .. } => SizeHint::default(),
        }
    }
}

fn without_refused_trailers(mut frame: Frame<Bytes>) -> Frame<Bytes> {
    if let Some(trailers) = frame.trailers_mut() {
        headers::remove_refused_trailers(trailers);
    }
    frame
}

/// The next frame of an h2 body; its window is given back when the frame is handed on, so that a slow reader slows the
/// sender.
fn poll_h2(stream: &mut h2::RecvStream, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
    if let Some(data) = ready!(stream.poll_data(cx)) {
        return Poll::Ready(Some(data.map_err(BodyError::H2).and_then(|data| {
            stream.flow_control().release_capacity(data.len())?;
            Ok(Frame::data(data))
        })));
    }
    let trailers = ready!(stream.poll_trailers(cx)).map_err(BodyError::H2);
    Poll::Ready(trailers.transpose().map(|trailers| trailers.map(Frame::trailers)))
}
