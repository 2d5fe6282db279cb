//! The passive meters: how many octets of a plaintext HTTP connection belong to which exchange.
//!
//! A meter stands in the stream under the HTTP engine and above TLS. It sees every octet that the engine reads
//! (`feed_received`) and writes (`feed_sent`), says to a [`Tally`] whose it was, and changes nothing: it cannot stall
//! traffic, and it never fails. [`H1Meter`] follows RFC 9112 message boundaries, [`H2Meter`] RFC 9113 frame headers.
//!
//! What holds for any input, garbage included:
//! * In each feed the `app` octets told to the tally are exactly the octets fed, and `body` never exceeds `app`.
//! * What is told in sum (octets per exchange, ends, status, violations) depends on the octets and on the order of
//!   the two directions, never on how they were cut into feeds.
//! * Memory is bounded: h1 holds at most one unfinished line ([`LINE_BYTES_MAX`]) and a byte for each unanswered
//!   request ([`PIPELINE_MAX`]); h2 holds no streams at all. Nothing is held while a connection idles.
//! * What a meter cannot follow it reports as [`Tally::lost`] and counts as session overhead from there on.
//!
//! The h1 meter is also the guard of the request direction: it holds every request to the strict grammar and reports
//! the first [`Violation`] in the feed that brings it, before the engine can have acted on those octets. For the guard
//! to be whole, two rules fall to whoever serves the requests:
//! 1. refuse (400, close) a request whose exchange has a violation; one found in the body (`bad_chunk`,
//!    `bad_trailer`) ends the forwarding of that body;
//! 2. refuse a request whose exchange never began: the meter was lost before it.

mod grammar;
mod guard;
mod h1;
mod h2;
mod line;
mod run;
#[cfg(test)]
mod tests;
mod violation;

pub use h1::{H1Meter, PIPELINE_MAX};
pub use h2::{Burden, H2Meter};
pub use line::LINE_BYTES_MAX;
pub use violation::Violation;

/// A direction of the downstream connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// From the client.
    Received,
    /// To the client.
    Sent,
}

/// Where a meter puts what it counted. All quantities are octets of plaintext.
///
/// An exchange is one HTTP request and its response: h1 numbers them 0, 1, 2 … on the connection, h2 by stream id.
pub trait Tally {
    /// The exchange exists; comes before any octet is attributed to it.
    fn begin(&mut self, exchange: u64);
    /// Octets from the client; without an exchange they are session overhead, which has no body. h2 names every stream id that can have
    /// begun: those that the tally has closed already are overhead too.
    fn received(&mut self, exchange: Option<u64>, app: u64, body: u64);
    /// Octets to the client, likewise.
    fn sent(&mut self, exchange: Option<u64>, app: u64, body: u64);
    /// Moves `app` octets, told as overhead in an earlier feed of this direction, to the exchange that they turn out
    /// to be of. Only h2 does so, for at most 8 octets at a time: a frame header cut by the end of a feed names its
    /// stream last.
    fn reclaim(&mut self, direction: Direction, exchange: u64, app: u64);
    /// h1: the status of the final response (or 101), once its head is complete.
    fn status(&mut self, exchange: u64, code: u16);
    /// The request was wholly received. It may come after [`Tally::sent_end`]. In h2 a peer that ends a stream twice is
    /// reported twice; the second means nothing.
    fn received_end(&mut self, exchange: u64);
    /// The response was wholly sent. Never comes for a response that the end of the connection ends, nor for a tunnel.
    fn sent_end(&mut self, exchange: u64);
    /// h2: an RST_STREAM with this error code (RFC 9113 §7) passed.
    fn reset(&mut self, exchange: u64, from_client: bool, code: u32);
    /// h1: 101, or 2xx to CONNECT. All further octets both ways are this exchange's body, whatever was lost before.
    /// Exchanges that began after it were never requests: they are early tunnel payload.
    fn tunnel(&mut self, exchange: u64);
    /// The request direction holds something no strict peer would send. At most one for each connection.
    fn violation(&mut self, exchange: Option<u64>, what: Violation);
    /// The meter cannot follow: all further octets of this direction are overhead.
    fn lost(&mut self, direction: Direction);
}
