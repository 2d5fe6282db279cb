//! The HTTP/2 meter: reads the 9-octet frame headers (RFC 9113 §4.1) and skips over payloads, HPACK unread.
//!
//! Every frame on a stream that began is its stream's, header included: HEADERS, CONTINUATION, DATA, WINDOW_UPDATE,
//! RST_STREAM. Overhead are the connection preface, stream 0, PUSH_PROMISE (we never push) and streams that never
//! began. Body is DATA without padding (RFC 9113 §6.1).
//!
//! No streams are held. A stream begins with the first HEADERS from the client on an odd id above all before, so the
//! highest id suffices; ids that were skipped or are closed already are the tally's to recognize.
//!
//! On the way it counts what a client's frames cost without carrying anything ([`Burden`]); to limit that is the
//! caller's.
//!
//! A frame header names its stream last. When a feed ends within one, its octets so far count as overhead, and
//! [`Tally::reclaim`] moves them once the stream is known. No feed is ever short of what it was fed.

use super::run::Run;
use super::{Direction, Tally};

const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEADER_BYTES: usize = 9;

// RFC 9113 §6
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const PUSH_PROMISE: u8 = 5;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
/// What a client may always have left of WINDOW_UPDATE frames beyond two for each DATA frame it was sent.
const WINDOW_UPDATES_MAX: u32 = 1024;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;

/// What a client's frames have cost without carrying anything, since the connection began. Only ever grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Burden {
    /// RST_STREAM frames.
    pub resets: u64,
    /// SETTINGS, PING, PRIORITY, unknown and empty DATA frames; WINDOW_UPDATE frames that no DATA explains.
    pub control_frames: u64,
    /// The most CONTINUATION frames that one header block had.
    pub continuations: u32,
}

/// Follows one HTTP/2 connection from its first octet.
pub struct H2Meter {
    received: Frames,
    sent: Frames,
    both: Both,
}

/// What both directions need to know.
struct Both {
    /// The highest stream id that began; 0 before any.
    begun_max: u32,
    burden: Burden,
    /// CONTINUATION frames of the client's open header block.
    continuations: u32,
    /// WINDOW_UPDATE frames that cost the client nothing, yet.
    window_updates: u32,
}

impl Both {
    /// Weighs a frame of the client's.
    fn weigh(&mut self, frame: &Frame) {
        let burden = &mut self.burden;
        match frame.kind {
            DATA if frame.length > 0 || frame.has(END_STREAM) => {}
            HEADERS => self.continuations = 0,
            RST_STREAM => burden.resets += 1,
            WINDOW_UPDATE if self.window_updates > 0 => self.window_updates -= 1,
            CONTINUATION => {
                self.continuations += 1;
                burden.continuations = burden.continuations.max(self.continuations);
            }
            _ => burden.control_frames += 1,
        }
    }
}

impl Default for H2Meter {
    fn default() -> Self {
        Self::new()
    }
}

impl H2Meter {
    /// A connection on which nothing has passed yet: the client's preface comes first.
    pub fn new() -> Self {
        H2Meter {
            received: Frames::new(Direction::Received, At::Preface(0)),
            sent: Frames::new(Direction::Sent, At::Header),
            both: Both {
                begun_max: 0,
                burden: Burden::default(),
                continuations: 0,
                window_updates: WINDOW_UPDATES_MAX,
            },
        }
    }

    /// What the client's frames have cost.
    pub fn burden(&self) -> Burden {
        self.both.burden
    }

    /// Octets that the engine read from the client.
    pub fn feed_received(&mut self, bytes: &[u8], tally: &mut impl Tally) {
        self.received.feed(bytes, &mut self.both, tally);
    }

    /// Octets that the engine wrote to the client.
    pub fn feed_sent(&mut self, bytes: &[u8], tally: &mut impl Tally) {
        self.sent.feed(bytes, &mut self.both, tally);
    }
}

/// Where in a direction the next octet stands.
enum At {
    /// In the client's preface, of which this many octets came.
    Preface(usize),
    Header,
    /// The pad length of a padded DATA frame.
    PadLength,
    /// DATA that is body, then padding.
    Body {
        left: u32,
        padding: u32,
    },
    /// The error code of an RST_STREAM.
    ErrorCode {
        code: u32,
        left: u32,
    },
    /// Payload that means nothing here.
    Skip(u32),
    Lost,
}

/// One direction's frames.
struct Frames {
    direction: Direction,
    at: At,
    header: [u8; FRAME_HEADER_BYTES],
    /// How much of the header came.
    header_bytes: usize,
    frame: Frame,
    /// The stream whose header block is open and ends the stream: its END_STREAM counts when the block ends.
    ending: Option<u32>,
}

/// The frame whose payload is passing.
#[derive(Clone, Copy, Default)]
struct Frame {
    kind: u8,
    flags: u8,
    length: u32,
    id: u32,
    /// None: overhead.
    exchange: Option<u64>,
}

impl Frame {
    fn parse(header: &[u8; FRAME_HEADER_BYTES]) -> Self {
        let [l0, l1, l2, kind, flags, i0, i1, i2, i3] = *header;
        let length = u32::from_be_bytes([0, l0, l1, l2]);
        let id = u32::from_be_bytes([i0 & 0x7f, i1, i2, i3]); // the reserved bit is ignored
        Frame { kind, flags, length, id, exchange: None }
    }

    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

impl Frames {
    fn new(direction: Direction, at: At) -> Self {
        let header = [0; FRAME_HEADER_BYTES];
        Frames { direction, at, header, header_bytes: 0, frame: Frame::default(), ending: None }
    }

    fn feed(&mut self, bytes: &[u8], both: &mut Both, tally: &mut impl Tally) {
        let mut run = Run::new(self.direction);
        let mut rest = bytes;
        while !rest.is_empty() {
            let taken = match self.at {
                At::Preface(came) => self.preface(came, rest, &mut run, tally),
                At::Header => self.header(rest, both, &mut run, tally),
                At::Lost => {
                    run.count(None, rest.len(), 0, tally);
                    rest.len()
                }
                At::PadLength | At::Body { .. } | At::ErrorCode { .. } | At::Skip(_) => {
                    self.payload(rest, &mut run, tally)
                }
            };
            rest = &rest[taken..];
        }
        run.flush(tally);
    }

    fn preface(&mut self, came: usize, rest: &[u8], run: &mut Run, tally: &mut impl Tally) -> usize {
        let taken = rest.len().min(PREFACE.len() - came);
        run.count(None, taken, 0, tally);
        if rest[..taken] != PREFACE[came..came + taken] {
            run.flush(tally);
            tally.lost(self.direction);
            self.at = At::Lost;
        } else if came + taken == PREFACE.len() {
            self.at = At::Header;
        } else {
            self.at = At::Preface(came + taken);
        }
        taken
    }

    fn header(&mut self, rest: &[u8], both: &mut Both, run: &mut Run, tally: &mut impl Tally) -> usize {
        let before = self.header_bytes;
        let taken = rest.len().min(FRAME_HEADER_BYTES - before);
        self.header[before..before + taken].copy_from_slice(&rest[..taken]);
        self.header_bytes += taken;
        if self.header_bytes < FRAME_HEADER_BYTES {
            run.count(None, taken, 0, tally);
            return taken;
        }
        self.header_bytes = 0;
        self.frame = Frame::parse(&self.header);
        match self.direction {
            Direction::Received => both.weigh(&self.frame),
            Direction::Sent if self.frame.kind == DATA => {
                both.window_updates = (both.window_updates + 2).min(WINDOW_UPDATES_MAX);
            }
            Direction::Sent => {}
        }
        self.attribute(&mut both.begun_max, tally);
        if let Some(exchange) = self.frame.exchange
            && before > 0
        {
            tally.reclaim(self.direction, exchange, before as u64);
        }
        run.count(self.frame.exchange, taken, 0, tally);
        self.at = self.payload_start();
        self.end_if_nothing_left(run, tally);
        taken
    }

    /// Finds the frame's stream, and begins it if this is how a stream begins.
    fn attribute(&mut self, begun_max: &mut u32, tally: &mut impl Tally) {
        let Frame { kind, id, .. } = self.frame;
        let from_client = self.direction == Direction::Received;
        let client_stream = id % 2 == 1;
        if from_client && client_stream && kind == HEADERS && id > *begun_max {
            *begun_max = id;
            tally.begin(u64::from(id));
        }
        let began = client_stream && id <= *begun_max;
        self.frame.exchange = (began && kind != PUSH_PROMISE).then_some(u64::from(id));
        if matches!(kind, HEADERS | CONTINUATION) {
            self.ending = match self.ending {
                Some(ending) if kind == CONTINUATION && ending == id => Some(id),
                _ => (kind == HEADERS && self.frame.has(END_STREAM)).then_some(id),
            };
        }
    }

    fn payload_start(&self) -> At {
        let length = self.frame.length;
        match self.frame.kind {
            DATA if self.frame.has(PADDED) && length > 0 => At::PadLength,
            DATA => At::Body { left: length, padding: 0 },
            // Any other length is a connection error (RFC 9113 §6.4) and no reset.
            RST_STREAM if length == 4 => At::ErrorCode { code: 0, left: 4 },
            _ => At::Skip(length),
        }
    }

    fn payload(&mut self, rest: &[u8], run: &mut Run, tally: &mut impl Tally) -> usize {
        let exchange = self.frame.exchange;
        let taken = match &mut self.at {
            At::PadLength => {
                run.count(exchange, 1, 0, tally);
                let padding = u32::from(rest[0]);
                // Padding longer than the frame is a connection error (RFC 9113 §6.1): nothing of it is body.
                self.at = match (self.frame.length - 1).checked_sub(padding) {
                    Some(left) => At::Body { left, padding },
                    None => At::Skip(self.frame.length - 1),
                };
                1
            }
            At::Body { left, .. } if *left > 0 => {
                let taken = advance(left, rest);
                run.count(exchange, taken, taken, tally);
                taken
            }
            At::Skip(left) | At::Body { padding: left, .. } => {
                let taken = advance(left, rest);
                run.count(exchange, taken, 0, tally);
                taken
            }
            At::ErrorCode { code, left } => {
                run.count(exchange, 1, 0, tally);
                *code = *code << 8 | u32::from(rest[0]);
                *left -= 1;
                1
            }
            At::Preface(_) | At::Header | At::Lost => 0,
        };
        self.end_if_nothing_left(run, tally);
        taken
    }

    /// When the frame is complete, says what it ended and turns to the next.
    fn end_if_nothing_left(&mut self, run: &mut Run, tally: &mut impl Tally) {
        let reset_code = match self.at {
            At::Body { left: 0, padding: 0 } | At::Skip(0) => None,
            At::ErrorCode { code, left: 0 } => Some(code),
            _ => return,
        };
        self.at = At::Header;
        let block_ended = matches!(self.frame.kind, HEADERS | CONTINUATION) && self.frame.has(END_HEADERS);
        let stream_ended = if block_ended {
            self.ending.take() == Some(self.frame.id)
        } else {
            self.frame.kind == DATA && self.frame.has(END_STREAM)
        };
        let Some(exchange) = self.frame.exchange else {
            return;
        };
        if let Some(code) = reset_code {
            run.flush(tally);
            tally.reset(exchange, self.direction == Direction::Received, code);
        }
        if stream_ended {
            run.flush(tally);
            match self.direction {
                Direction::Received => tally.received_end(exchange),
                Direction::Sent => tally.sent_end(exchange),
            }
        }
    }
}

/// Takes as much of `rest` as is left, and says how much that was.
fn advance(left: &mut u32, rest: &[u8]) -> usize {
    let taken = rest.len().min(*left as usize);
    *left -= taken as u32;
    taken
}
