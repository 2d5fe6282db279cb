//! The response direction: lenient, since our own engine writes it, but exact about where a response ends.

use memchr::memchr;

use super::super::grammar;
use super::super::guard::{self, Method};
use super::super::line::{Cut, Unfinished};
use super::super::run::Run;
use super::super::{Direction, Tally};
use super::Exchanges;

/// As much of a line as can matter here: no status line, length or coding that we write is longer.
const LINE_BYTES_KEPT: usize = 256;

/// Octets of a line that [`may_frame`] needs.
const FRAMING_TELL_BYTES: usize = 9;

/// Where in the response stream the next octet stands.
#[derive(Default)]
enum At {
    /// Before a status line.
    #[default]
    Between,
    StatusLine,
    Fields(ResponseHead),
    Body(u64),
    ChunkLine,
    ChunkData(u64),
    /// In the CRLF after chunk data, of which this many octets are left.
    ChunkEnd(u64),
    Trailers,
    /// In a body that the end of the connection ends.
    UntilClose,
    Tunnel,
    Lost,
}

/// What the lines of one response head said so far.
struct ResponseHead {
    status: u16,
    content_length: Option<u64>,
    transfer_encoding: bool,
    chunked: bool,
}

/// Whether a step of the response direction turned the connection into a tunnel.
#[derive(PartialEq, Eq)]
pub(super) enum Sent {
    Message,
    Tunnel,
}

/// The sent half of an h1 meter.
#[derive(Default)]
pub(super) struct Responses {
    at: At,
    line: Unfinished,
    /// The exchange that is being answered; none before the first response, or when nobody asked.
    exchange: Option<u64>,
}

impl Responses {
    /// The exchange that is being answered.
    pub(super) fn exchange(&self) -> Option<u64> {
        self.exchange
    }

    /// Reads some of the front of `rest` and says how much.
    pub(super) fn step(
        &mut self,
        rest: &[u8],
        exchanges: &mut Exchanges,
        run: &mut Run,
        tally: &mut impl Tally,
    ) -> (usize, Sent) {
        match self.at {
            At::Between => {
                self.exchange = exchanges.awaiting();
                self.at = At::StatusLine;
                (0, Sent::Message)
            }
            At::StatusLine | At::Fields(_) | At::ChunkLine | At::Trailers => self.line(rest, exchanges, run, tally),
            At::Body(_) | At::ChunkData(_) | At::ChunkEnd(_) => {
                (self.counted(rest.len(), exchanges, run, tally), Sent::Message)
            }
            At::UntilClose | At::Tunnel => {
                run.count(self.exchange, rest.len(), rest.len(), tally);
                (rest.len(), Sent::Message)
            }
            At::Lost => {
                run.count(None, rest.len(), 0, tally);
                (rest.len(), Sent::Message)
            }
        }
    }

    /// Octets of a body of known length that nobody has to show; where there is no such body they are nobody's.
    pub(super) fn body_passed(
        &mut self,
        bytes: usize,
        exchanges: &mut Exchanges,
        run: &mut Run,
        tally: &mut impl Tally,
    ) {
        let taken = if matches!(self.at, At::Body(_)) { self.counted(bytes, exchanges, run, tally) } else { 0 };
        if taken < bytes {
            run.count(None, bytes - taken, 0, tally);
        }
    }

    fn line(&mut self, rest: &[u8], exchanges: &mut Exchanges, run: &mut Run, tally: &mut impl Tally) -> (usize, Sent) {
        if matches!(self.at, At::Fields(_)) && self.line.is_empty() {
            let taken = plain_fields(rest);
            if taken > 0 {
                run.count(self.exchange, taken, 0, tally);
                return (taken, Sent::Message);
            }
        }
        let (taken, cut) = self.line.cut_prefix(rest, LINE_BYTES_KEPT);
        run.count(self.exchange, taken, 0, tally);
        let Cut::Line(line) = cut else {
            return (taken, Sent::Message);
        };
        let blank = guard::is_blank(&line);
        let followed = match &mut self.at {
            At::StatusLine => parse_status_line(&line).map(|head| self.at = At::Fields(head)),
            At::Fields(head) if !blank => head.field(&line),
            At::Fields(_) => return (taken, self.head_end(exchanges, run, tally)),
            At::ChunkLine => parse_chunk_line(&line).map(|size| match size {
                0 => self.at = At::Trailers,
                size => self.at = At::ChunkData(size),
            }),
            At::Trailers if blank => {
                self.end(exchanges, run, tally);
                Some(())
            }
            _ => Some(()),
        };
        if followed.is_none() {
            run.flush(tally);
            tally.lost(Direction::Sent);
            self.at = At::Lost;
        }
        (taken, Sent::Message)
    }

    /// RFC 9112 §6.3, in its order.
    fn head_end(&mut self, exchanges: &mut Exchanges, run: &mut Run, tally: &mut impl Tally) -> Sent {
        let At::Fields(head) = std::mem::take(&mut self.at) else {
            return Sent::Message;
        };
        let interim = head.status < 200 && head.status != 101;
        if interim {
            return Sent::Message; // the same exchange's next head follows
        }
        let method = if self.exchange.is_some() { exchanges.method() } else { Method::Other };
        if let Some(exchange) = self.exchange {
            tally.status(exchange, head.status);
            let connected = method == Method::Connect && head.status < 300;
            if head.status == 101 || connected {
                tally.tunnel(exchange);
                self.at = At::Tunnel;
                return Sent::Tunnel;
            }
        }
        self.at = if method == Method::Head || matches!(head.status, 101 | 204 | 304) {
            At::Body(0)
        } else if head.chunked {
            At::ChunkLine
        } else if head.transfer_encoding {
            At::UntilClose
        } else {
            head.content_length.map_or(At::UntilClose, At::Body)
        };
        if matches!(self.at, At::Body(0)) {
            self.end(exchanges, run, tally);
        }
        Sent::Message
    }

    /// A stretch of known length: a body, the data of a chunk, or the CRLF after it. Answers how many of so many octets are its.
    fn counted(&mut self, bytes: usize, exchanges: &mut Exchanges, run: &mut Run, tally: &mut impl Tally) -> usize {
        let framing = matches!(self.at, At::ChunkEnd(_));
        let (At::Body(left) | At::ChunkData(left) | At::ChunkEnd(left)) = &mut self.at else {
            return 0;
        };
        let taken = usize::try_from(*left).map_or(bytes, |left| left.min(bytes));
        *left -= taken as u64;
        run.count(self.exchange, taken, if framing { 0 } else { taken }, tally);
        match self.at {
            At::Body(0) => self.end(exchanges, run, tally),
            At::ChunkData(0) => self.at = At::ChunkEnd(2),
            At::ChunkEnd(0) => self.at = At::ChunkLine,
            _ => {}
        }
        taken
    }

    fn end(&mut self, exchanges: &mut Exchanges, run: &mut Run, tally: &mut impl Tally) {
        run.flush(tally);
        if let Some(exchange) = self.exchange {
            tally.sent_end(exchange);
            exchanges.answer();
        }
        self.at = At::Between;
    }
}

impl ResponseHead {
    fn field(&mut self, line: &[u8]) -> Option<()> {
        if !may_frame(line) {
            return Some(());
        }
        let colon = memchr(b':', line)?;
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        match name.len() {
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                self.content_length = Some(grammar::decimal(grammar::trim(value.trim_ascii_end()))?);
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                let last = value.rsplit(|&b| b == b',').next().unwrap_or(value);
                self.transfer_encoding = true;
                self.chunked = last.trim_ascii().eq_ignore_ascii_case(b"chunked");
            }
            _ => {}
        }
        Some(())
    }
}

/// How many octets at the front are whole field lines that say nothing about the framing.
fn plain_fields(bytes: &[u8]) -> usize {
    let mut taken = 0;
    loop {
        let rest = &bytes[taken..];
        let undecided = rest.len() < FRAMING_TELL_BYTES;
        if undecided || may_frame(rest) || rest.starts_with(b"\r\n") {
            return taken;
        }
        let Some(lf) = memchr(b'\n', rest) else {
            return taken;
        };
        taken += lf + 1;
    }
}

/// Can this line be Content-Length or Transfer-Encoding? Told by its first and ninth octets.
fn may_frame(line: &[u8]) -> bool {
    match line {
        [b'c' | b'C', _, _, _, _, _, _, _, ninth, ..] => matches!(ninth, b'l' | b'L'),
        [b't' | b'T', _, _, _, _, _, _, _, ninth, ..] => *ninth == b'-',
        _ => false,
    }
}

fn parse_status_line(line: &[u8]) -> Option<ResponseHead> {
    let rest = line.strip_prefix(b"HTTP/1.")?;
    let [_minor, b' ', code @ ..] = rest else {
        return None;
    };
    let status = u16::try_from(grammar::decimal(code.get(..3)?)?).ok()?;
    (status >= 100).then_some(ResponseHead { status, content_length: None, transfer_encoding: false, chunked: false })
}

fn parse_chunk_line(line: &[u8]) -> Option<u64> {
    let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    grammar::hexadecimal(&line[..digits])
}
