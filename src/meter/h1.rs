//! The HTTP/1.1 meter: message boundaries by RFC 9112 §6, and the guard over requests.
//!
//! Who owns what:
//! * A request owns its octets from the first of its request line to the last of its body or trailers. CRLFs before a
//!   request line, and everything after a request that asked to close, are overhead.
//! * A response owns its octets likewise, 1xx included. It answers the oldest request that has none, even one whose
//!   head or body is still coming (an early 413, a 400 to half a head). With no such request it is overhead.
//! * Octets after an `Upgrade` or CONNECT request and before its answer are read as the next request, since that is
//!   what they are if the answer declines: so the guard sees whatever the engine may read. If the answer is 101 (or 2xx
//!   to CONNECT) the tunnel starts there and then; what began in between is early tunnel payload
//!   (see [`Tally::tunnel`]).
//! * A violation owns the octets up to the one that shows it (the LF of a bad line); the rest is overhead.
//!
//! The sent direction is written by our own engine, so it is followed leniently and judged by nobody.

mod request;
mod response;

use std::collections::VecDeque;
use std::ops::Range;

use request::Requests;
use response::{Responses, Sent};

use super::guard::Method;
use super::run::Run;
use super::{Direction, Tally, Violation};

/// Requests of one connection that may wait for their answer. One more is `pipeline_too_deep`.
pub const PIPELINE_MAX: usize = 1024;

/// Follows one HTTP/1.x connection.
#[derive(Default)]
pub struct H1Meter {
    requests: Requests,
    responses: Responses,
    exchanges: Exchanges,
}

impl H1Meter {
    /// A connection on which nothing has passed yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Octets that the engine read from the client.
    pub fn feed_received(&mut self, bytes: &[u8], tally: &mut impl Tally) {
        let mut run = Run::new(Direction::Received);
        self.requests.feed(bytes, &mut self.exchanges, &mut run, tally);
        run.flush(tally);
    }

    /// Octets that the engine wrote to the client.
    pub fn feed_sent(&mut self, bytes: &[u8], tally: &mut impl Tally) {
        let mut run = Run::new(Direction::Sent);
        let mut rest = bytes;
        while !rest.is_empty() {
            let (taken, sent) = self.responses.step(rest, &mut self.exchanges, &mut run, tally);
            if sent == Sent::Tunnel {
                self.requests.tunnel(self.responses.exchange());
            }
            rest = &rest[taken..];
        }
        run.flush(tally);
    }

    /// So many octets of a response's body went to the client without passing here, and are not shown.
    pub fn body_passed(&mut self, bytes: usize, tally: &mut impl Tally) {
        let mut run = Run::new(Direction::Sent);
        self.responses.body_passed(bytes, &mut self.exchanges, &mut run, tally);
        run.flush(tally);
    }

    /// The exchanges that began and whose responses were not wholly sent, oldest first.
    pub fn open_exchanges(&self) -> Range<u64> {
        self.exchanges.answered..self.exchanges.begun
    }
}

/// The exchanges of a connection in their order, shared by its two directions.
#[derive(Default)]
struct Exchanges {
    /// How many began; the next one's number.
    begun: u64,
    /// How many responses are complete; the number of the one being answered, if it began.
    answered: u64,
    /// Of those between.
    methods: VecDeque<Method>,
}

impl Exchanges {
    /// Starts one, whose method is not known yet.
    fn begin(&mut self) -> (u64, Result<(), Violation>) {
        let exchange = self.begun;
        self.begun += 1;
        self.methods.push_back(Method::Other);
        let depth = if self.methods.len() > PIPELINE_MAX { Err(Violation::PipelineTooDeep) } else { Ok(()) };
        (exchange, depth)
    }

    /// Its request line came, unless a response was quicker.
    fn asked(&mut self, exchange: u64, method: Method) {
        if exchange >= self.answered
            && let Some(last) = self.methods.back_mut()
        {
            *last = method;
        }
    }

    /// The one that the next response answers.
    fn awaiting(&self) -> Option<u64> {
        (self.answered < self.begun).then_some(self.answered)
    }

    /// The method of that one.
    fn method(&self) -> Method {
        self.methods.front().copied().unwrap_or(Method::Other)
    }

    /// Its response is complete.
    fn answer(&mut self) {
        if self.methods.pop_front().is_some() {
            self.answered += 1;
        }
    }
}
