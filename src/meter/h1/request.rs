//! The request direction: strict, and lost at the first violation.

use super::super::guard::{self, RequestHead};
use super::super::line::{Cut, LINE_BYTES_MAX, Unfinished};
use super::super::run::Run;
use super::super::{Direction, Tally, Violation};
use super::Exchanges;

/// The longest chunk line, extensions and CRLF included, in octets. Engines refuse far shorter ones than request lines.
const CHUNK_LINE_BYTES_MAX: usize = 4096;

/// Where in the request stream the next octet stands.
#[derive(Default)]
enum At {
    /// Before a request line, where CRLFs are skipped.
    #[default]
    Between,
    /// After a CR before a request line.
    BetweenCr,
    RequestLine,
    Fields(RequestHead),
    /// In a body of which this many octets are left.
    Body(u64),
    ChunkLine,
    ChunkData(u64),
    ChunkCr,
    ChunkLf,
    Trailers,
    /// After a request that asked to close: nothing more is a request.
    Closed,
    Tunnel(Option<u64>),
    Lost,
}

/// The received half of an h1 meter.
#[derive(Default)]
pub(super) struct Requests {
    at: At,
    line: Unfinished,
    /// The exchange whose request is coming in; meaningless between requests.
    exchange: u64,
    /// Another request may follow this one.
    keep_alive: bool,
}

impl Requests {
    /// All further octets are this exchange's.
    pub(super) fn tunnel(&mut self, exchange: Option<u64>) {
        self.line.clear();
        self.at = At::Tunnel(exchange);
    }

    pub(super) fn feed(&mut self, bytes: &[u8], exchanges: &mut Exchanges, run: &mut Run, tally: &mut impl Tally) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let taken = match self.at {
                At::Between | At::BetweenCr => self.between(rest, exchanges, run, tally),
                At::RequestLine | At::Fields(_) | At::ChunkLine | At::Trailers => {
                    self.line(rest, exchanges, run, tally)
                }
                At::Body(_) | At::ChunkData(_) => self.body(rest, run, tally),
                At::ChunkCr | At::ChunkLf => self.chunk_end(rest, run, tally),
                At::Tunnel(exchange) => {
                    run.count(exchange, rest.len(), rest.len(), tally);
                    rest.len()
                }
                At::Closed | At::Lost => {
                    run.count(None, rest.len(), 0, tally);
                    rest.len()
                }
            };
            rest = &rest[taken..];
        }
    }

    /// Skips CRLFs one octet at a time; the first other octet begins an exchange.
    fn between(&mut self, rest: &[u8], exchanges: &mut Exchanges, run: &mut Run, tally: &mut impl Tally) -> usize {
        let after_cr = matches!(self.at, At::BetweenCr);
        match (after_cr, rest[0]) {
            (false, b'\r') => self.at = At::BetweenCr,
            (true, b'\n') => self.at = At::Between,
            (_, first) => {
                let (exchange, depth) = exchanges.begin();
                tally.begin(exchange);
                self.exchange = exchange;
                self.at = At::RequestLine;
                let good = match first {
                    _ if after_cr => Err(Violation::BareCr),
                    b'\n' => Err(Violation::BareLf),
                    _ => depth,
                };
                let Err(violation) = good else {
                    return 0; // the octet is read as the request line's first
                };
                run.count(Some(exchange), 1, 0, tally);
                self.violation(violation, run, tally);
                return 1;
            }
        }
        run.count(None, 1, 0, tally);
        1
    }

    /// Reads on to the end of a line, and the line when it is complete.
    fn line(&mut self, rest: &[u8], exchanges: &mut Exchanges, run: &mut Run, tally: &mut impl Tally) -> usize {
        if let At::Fields(head) = &mut self.at
            && self.line.is_empty()
        {
            let taken = head.plain_fields(rest);
            if taken > 0 {
                run.count(Some(self.exchange), taken, 0, tally);
                return taken;
            }
        }
        let max = if matches!(self.at, At::ChunkLine) { CHUNK_LINE_BYTES_MAX } else { LINE_BYTES_MAX };
        let (taken, cut) = self.line.cut(rest, max);
        run.count(Some(self.exchange), taken, 0, tally);
        let read = match cut {
            Cut::More => Ok(()),
            Cut::TooLong if matches!(self.at, At::ChunkLine) => Err(Violation::BadChunk),
            Cut::TooLong => Err(Violation::HeadTooLarge),
            Cut::Line(line) => self.complete(&line, exchanges, run, tally),
        };
        if let Err(violation) = read {
            self.violation(violation, run, tally);
        }
        taken
    }

    fn complete(
        &mut self,
        line: &[u8],
        exchanges: &mut Exchanges,
        run: &mut Run,
        tally: &mut impl Tally,
    ) -> Result<(), Violation> {
        match &mut self.at {
            At::RequestLine => {
                let head = RequestHead::parse(line)?;
                exchanges.asked(self.exchange, head.method);
                self.at = At::Fields(head);
            }
            At::Fields(head) if guard::is_blank(line) => {
                head.end()?;
                self.keep_alive = head.keep_alive;
                if head.chunked {
                    self.at = At::ChunkLine;
                } else {
                    self.at = At::Body(head.content_length.unwrap_or(0));
                    self.end_if_no_body_left(run, tally);
                }
            }
            At::Fields(head) => head.field(line)?,
            At::ChunkLine => {
                self.at = match guard::chunk_size(line)? {
                    0 => At::Trailers,
                    size => At::ChunkData(size),
                };
            }
            At::Trailers if guard::is_blank(line) => self.end(run, tally),
            At::Trailers => guard::trailer(line)?,
            _ => {}
        }
        Ok(())
    }

    fn body(&mut self, rest: &[u8], run: &mut Run, tally: &mut impl Tally) -> usize {
        let (At::Body(left) | At::ChunkData(left)) = &mut self.at else {
            return 0;
        };
        let taken = usize::try_from(*left).map_or(rest.len(), |left| left.min(rest.len()));
        *left -= taken as u64;
        run.count(Some(self.exchange), taken, taken, tally);
        if matches!(self.at, At::ChunkData(0)) {
            self.at = At::ChunkCr;
        }
        self.end_if_no_body_left(run, tally);
        taken
    }

    /// The CRLF after chunk data, an octet at a time.
    fn chunk_end(&mut self, rest: &[u8], run: &mut Run, tally: &mut impl Tally) -> usize {
        run.count(Some(self.exchange), 1, 0, tally);
        match (&self.at, rest[0]) {
            (At::ChunkCr, b'\r') => self.at = At::ChunkLf,
            (At::ChunkLf, b'\n') => self.at = At::ChunkLine,
            _ => self.violation(Violation::BadChunk, run, tally),
        }
        1
    }

    fn end_if_no_body_left(&mut self, run: &mut Run, tally: &mut impl Tally) {
        if matches!(self.at, At::Body(0)) {
            self.end(run, tally);
        }
    }

    fn end(&mut self, run: &mut Run, tally: &mut impl Tally) {
        run.flush(tally);
        tally.received_end(self.exchange);
        self.at = if self.keep_alive { At::Between } else { At::Closed };
    }

    fn violation(&mut self, violation: Violation, run: &mut Run, tally: &mut impl Tally) {
        run.flush(tally);
        tally.violation(Some(self.exchange), violation);
        tally.lost(Direction::Received);
        self.line.clear();
        self.at = At::Lost;
    }
}
