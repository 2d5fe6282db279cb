//! The body of a large answer, from the origin's socket to the client's inside the kernel (`splice.rs`).
//!
//! ```text
//! origin's engine ─ head ─▶ forward ─ head ─▶ client's engine        then both give their sockets up,
//! origin's socket ─────── body, by splice ──▶ client's socket        and get new engines behind the last octet
//! ```
//!
//! Where neither side has TLS, both speak HTTP/1.1, the answer says its length and the request is over. The octets are counted as
//! they are everywhere: at the origin's socket, at the client's, and by the meter, which is told how many passed. A body that
//! breaks off ends the client's connection, as it does with the engines.

use std::cell::Cell;

use bytes::Bytes;
use http_body::Body as _;
use tracing::debug;

use super::session::Session;
use super::splice;
use super::upstream::{Lease, LinkStream};
use crate::event::{End, Reason};

/// Below this the engines are cheaper.
const BODY_BYTES_MIN: u64 = 512 << 10;

/// A body to be relayed. To the client's engine it is one that never comes.
pub struct Relay {
    /// Octets of the body.
    pub length: u64,
    source: Cell<Option<Source>>,
    /// The engine has written the head, if only into its own buffer, and asks for the body.
    pub is_asked_for: Cell<bool>,
}

struct Source {
    origin: LinkStream,
    /// What the origin's engine has read behind the head.
    early: Bytes,
    lease: Lease,
}

/// Whether it is worth it.
pub fn is_worth(body: &hyper::body::Incoming, lease: &Lease) -> bool {
    lease.can_hand_over() && body.size_hint().exact().is_some_and(|length| length >= BODY_BYTES_MIN)
}

impl Relay {
    /// Takes the connection from the origin's engine, which has read the answer's head and nothing for the body's sake. None if the
    /// connection has failed meanwhile.
    pub async fn begin(body: hyper::body::Incoming, mut lease: Lease) -> Option<Self> {
        let length = body.size_hint().exact()?;
        let Some((origin, mut early)) = lease.hand_over(body).await else {
            lease.failed();
            return None;
        };
        // What an origin sends behind its answer nobody asked for.
        let surplus = early.len() as u64 > length;
        if surplus {
            early.truncate(usize::try_from(length).unwrap_or(usize::MAX));
            lease.is_used_up();
        }
        let source = Cell::new(Some(Source { origin, early, lease }));
        Some(Self { length, source, is_asked_for: Cell::new(false) })
    }

    /// Carries the body, of which the client has all of the head. False where the client's connection cannot go on.
    pub async fn carry(&self, session: &Session, index: u64) -> bool {
        let Some(Source { origin, early, lease }) = self.source.take() else { return false };
        let left = self.length - early.len() as u64;
        let Ok(origin) = origin.into_tcp() else { return false };
        let carried = tokio::select! {
            carried = splice::carry_body(session, index, origin, early, left) => carried,
            () = session.cut_signal() => return false,
        };
        match carried {
            Ok(origin) => {
                lease.complete_over(origin).await;
                true
            }
            Err(error) => {
                debug!(session = %session.id, %error, "the body broke off");
                if session.was_reset() {
                    session.ends(End::ClientAbort, Reason::Unspecified);
                } else {
                    lease.failed();
                    session.ends(End::UpstreamError, Reason::Unspecified);
                }
                false
            }
        }
    }
}
