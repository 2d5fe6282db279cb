//! An HTTP/2 client made of raw frames (RFC 9113): it knows to which stream each octet of its connection belongs.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;

use super::message::Reader;
use super::records::{Record, Records};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Octets of one stream; stream 0 and the preface are under 0.
#[derive(Clone, Debug, Default)]
pub struct Books {
    /// Frames that we wrote: headers and payload.
    pub received_app: u64,
    pub received_body: u64,
    pub sent_app: u64,
    pub sent_body: u64,
    /// Frames that came, by type.
    pub heads: u64,
    pub ended: bool,
    pub reset: Option<u32>,
    pub status: u16,
    pub body: Vec<u8>,
}

#[derive(Clone, Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub payload: Vec<u8>,
}

/// One connection with prior knowledge.
pub struct Client<S> {
    pub reader: Reader<S>,
    pub port: u16,
    pub streams: BTreeMap<u32, Books>,
    pub sent: u64,
    /// Give every window back as soon as DATA comes.
    pub generous: bool,
    /// The last stream that weir takes, once it has said so.
    pub goaway: Option<u32>,
}

impl Client<TcpStream> {
    pub fn plain(stream: TcpStream, initial_window: u32) -> Self {
        let port = stream.local_addr().unwrap().port();
        Self::over(stream, port, initial_window)
    }
}

impl<S: Read + Write> Client<S> {
    pub fn over(stream: S, port: u16, initial_window: u32) -> Self {
        let mut client =
            Self { reader: Reader::new(stream), port, streams: BTreeMap::new(), sent: 0, generous: true, goaway: None };
        let mut settings = 4u16.to_be_bytes().to_vec();
        settings.extend_from_slice(&initial_window.to_be_bytes());
        let mut bytes = PREFACE.to_vec();
        bytes.extend(frame(SETTINGS, 0, 0, &settings));
        client.raw(0, &bytes);
        client
    }

    /// Octets that belong to this stream.
    pub fn raw(&mut self, stream: u32, bytes: &[u8]) {
        self.reader.from.write_all(bytes).unwrap();
        self.reader.from.flush().unwrap();
        self.sent += bytes.len() as u64;
        self.streams.entry(stream).or_default().received_app += bytes.len() as u64;
    }

    pub fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.raw(stream, &frame(kind, flags, stream, payload));
    }

    /// A request's head.
    pub fn head(&mut self, stream: u32, method: &str, path: &str, more: &[(&str, &str)], flags: u8) {
        let block = head_block(method, path, more);
        self.frame(HEADERS, END_HEADERS | flags, stream, &block);
    }

    pub fn get(&mut self, stream: u32, path: &str) {
        self.head(stream, "GET", path, &[], END_STREAM);
    }

    /// Body octets, with this much padding if any.
    pub fn data(&mut self, stream: u32, bytes: &[u8], padding: Option<u8>, flags: u8) {
        let mut payload = Vec::new();
        payload.extend(padding);
        payload.extend_from_slice(bytes);
        payload.extend(std::iter::repeat_n(0, padding.unwrap_or(0).into()));
        let padded = if padding.is_some() { PADDED } else { 0 };
        self.frame(DATA, flags | padded, stream, &payload);
        self.streams.entry(stream).or_default().received_body += bytes.len() as u64;
    }

    /// Field lines behind the body.
    pub fn trailers(&mut self, stream: u32, fields: &[(&str, &str)]) {
        let mut block = Vec::new();
        fields.iter().for_each(|(name, value)| literal(name, value, &mut block));
        self.frame(HEADERS, END_HEADERS | END_STREAM, stream, &block);
    }

    pub fn reset(&mut self, stream: u32, code: u32) {
        self.frame(RST_STREAM, 0, stream, &code.to_be_bytes());
    }

    pub fn window(&mut self, stream: u32, more: u32) {
        self.frame(WINDOW_UPDATE, 0, stream, &more.to_be_bytes());
    }

    /// Reads one frame into the books; None at the end of the connection.
    pub fn read(&mut self) -> Option<Frame> {
        let head = self.reader.octets(9);
        if head.is_empty() {
            return None;
        }
        assert_eq!(head.len(), 9, "a frame header is cut");
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
        let frame = Frame { kind: head[3], flags: head[4], payload: self.reader.octets(length) };
        assert_eq!(frame.payload.len(), length, "a frame is cut: {frame:?}");
        let books = self.streams.entry(stream).or_default();
        books.sent_app += 9 + length as u64;
        match frame.kind {
            DATA => {
                assert_eq!(frame.flags & PADDED, 0, "nobody pads for us");
                books.sent_body += length as u64;
                books.body.extend_from_slice(&frame.payload);
                books.ended |= frame.flags & END_STREAM != 0;
                if self.generous && length > 0 {
                    self.window(0, length as u32);
                    if !self.streams[&stream].ended {
                        self.window(stream, length as u32);
                    }
                }
            }
            HEADERS => {
                books.heads += 1;
                books.ended |= frame.flags & END_STREAM != 0;
                if books.heads == 1 || (100..200).contains(&books.status) {
                    books.status = status(&frame.payload);
                }
            }
            RST_STREAM => {
                books.reset = Some(u32::from_be_bytes(frame.payload[..4].try_into().unwrap()));
                books.ended = true;
            }
            SETTINGS if frame.flags & ACK == 0 => self.frame(SETTINGS, ACK, 0, &[]),
            PING if frame.flags & ACK == 0 => self.frame(PING, ACK, 0, &frame.payload.clone()),
            GOAWAY => {
                let last = u32::from_be_bytes(frame.payload[..4].try_into().unwrap());
                self.goaway = Some(last.min(self.goaway.unwrap_or(last)));
            }
            _ => {}
        }
        Some(frame)
    }

    /// Reads until these streams have ended.
    pub fn finish(&mut self, streams: &[u32]) {
        while !streams.iter().all(|stream| self.streams.get(stream).is_some_and(|books| books.ended)) {
            let frame = self.read();
            assert!(frame.is_some(), "the connection ended before {streams:?} did: {:?}", self.streams);
        }
    }

    /// Waits for the answer to a ping: everything before it was read, and everything due was said.
    pub fn settle(&mut self) {
        let token = self.sent.to_be_bytes();
        self.frame(PING, 0, 0, &token);
        loop {
            let frame = self.read().expect("an answer to the ping");
            if frame.kind == PING && frame.flags & ACK != 0 && frame.payload == token {
                return;
            }
        }
    }

    /// Reads to the end of the connection.
    pub fn drain(&mut self) {
        while self.read().is_some() {}
    }

    /// Each stream's books against its record, in the order of their beginning; and stream 0 against the overhead.
    pub fn assert_recorded<'r>(&self, records: &'r Records) -> (&'r Record, Vec<&'r Record>) {
        let session = records.session(self.port);
        let counted = [session.total("received_app"), session.total("sent_app")];
        assert_eq!(counted, [self.sent as i64, self.reader.taken as i64], "{}", session.0);
        let requests = records.requests(session);
        let streams: Vec<_> = self.streams.iter().filter(|(id, _)| **id != 0).collect();
        assert_eq!(requests.len(), streams.len(), "{:?}", self.streams);
        for (request, (id, books)) in requests.iter().zip(streams) {
            let names = ["received_app", "received_body", "sent_app", "sent_body"];
            let counted = names.map(|name| request.total(name) as u64);
            let known = [books.received_app, books.received_body, books.sent_app, books.sent_body];
            assert_eq!(counted, known, "{names:?} of stream {id}: {}", request.0);
        }
        let zero = &self.streams[&0];
        assert_eq!(records.overhead(session), (zero.received_app as i64, zero.sent_app as i64), "stream 0");
        (session, requests)
    }
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A request head without compression (RFC 7541 §6.2.2).
pub fn head_block(method: &str, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    let pseudo = [(":method", method), (":scheme", "http"), (":authority", "test"), (":path", path)];
    // Pseudo-header fields come first.
    let (also_pseudo, fields): (Vec<_>, Vec<_>) = more.iter().partition(|(name, _)| name.starts_with(':'));
    for (name, value) in pseudo.iter().chain(also_pseudo).chain(fields) {
        literal(name, value, &mut block);
    }
    block
}

fn literal(name: &str, value: &str, to: &mut Vec<u8>) {
    to.push(0);
    for text in [name, value] {
        assert!(text.len() < 127, "one octet of length is all that is written");
        to.push(text.len() as u8);
        to.extend_from_slice(text.as_bytes());
    }
}

/// The status is the first field of a response's block: by index, or as a literal with digits.
fn status(block: &[u8]) -> u16 {
    // A change of the table's size may come first.
    let block = if block.first().is_some_and(|first| first & 0xe0 == 0x20) { &block[1..] } else { block };
    match block.first() {
        Some(index @ 0x88..=0x8e) => [200, 204, 206, 304, 400, 404, 500][usize::from(index - 0x88)],
        Some(_) => huffman_digits(block),
        None => 0,
    }
}

/// `:status` with a value of three digits, Huffman-coded: 0, 1 and 2 have 5 bits, the others 6 (RFC 7541 B).
fn huffman_digits(block: &[u8]) -> u16 {
    let (length, value) = (block[1] & 0x7f, &block[2..]);
    if block[1] & 0x80 == 0 {
        return std::str::from_utf8(&value[..usize::from(length)]).unwrap_or("").parse().unwrap_or(0);
    }
    let bits: u32 = value[..usize::from(length)].iter().fold(0, |bits, octet| bits << 8 | u32::from(*octet));
    let (mut left, mut code) = (u32::from(length) * 8, 0);
    for _ in 0..3 {
        let five = bits >> (left - 5) & 0x1f;
        let digit = if five < 3 {
            left -= 5;
            five
        } else {
            left -= 6;
            (bits >> left & 0x3f) - 0x19 + 3
        };
        code = code * 10 + digit;
    }
    code as u16
}
