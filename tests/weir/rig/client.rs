//! A client that writes octets as told and keeps its own books.

use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpStream};

use super::message::{Message, Reader};
use super::records::{Record, Records};
use super::{Dice, socket};

/// What the client knows of one exchange.
#[derive(Clone, Debug)]
pub struct Books {
    pub method: String,
    pub received_app: u64,
    pub received_body: u64,
    pub sent_app: u64,
    pub sent_body: u64,
    pub status: u16,
}

/// A plain connection.
pub struct Client {
    pub reader: Reader<TcpStream>,
    pub port: u16,
    /// Octets written.
    pub sent: u64,
    pub exchanges: Vec<Books>,
    answered: usize,
}

/// How octets are cut into writes.
#[derive(Clone, Copy, Debug)]
pub enum Cuts {
    Whole,
    EachOctet,
    Odd(u64),
}

impl Client {
    pub fn connect(to: SocketAddr) -> Self {
        Self::over(socket::connect(to, None))
    }

    /// With a receive buffer that fills at once.
    pub fn connect_narrow(to: SocketAddr) -> Self {
        Self::over(socket::connect(to, Some(4096)))
    }

    fn over(stream: TcpStream) -> Self {
        let port = stream.local_addr().unwrap().port();
        Self { reader: Reader::new(stream), port, sent: 0, exchanges: Vec::new(), answered: 0 }
    }

    pub fn stream(&self) -> &TcpStream {
        &self.reader.from
    }

    /// Octets that are no request's, or more of one.
    pub fn write(&mut self, bytes: &[u8], cuts: Cuts) {
        let mut dice = Dice::new(if let Cuts::Odd(seed) = cuts { seed } else { 0 });
        let mut rest = bytes;
        while !rest.is_empty() {
            let n = match cuts {
                Cuts::Whole => rest.len(),
                Cuts::EachOctet => 1,
                Cuts::Odd(_) => 1 + dice.below(rest.len().min(97)),
            };
            self.reader.from.write_all(&rest[..n]).unwrap();
            self.sent += n as u64;
            rest = &rest[n..];
        }
    }

    /// A request, `body` octets of which are its body without framing.
    pub fn request(&mut self, bytes: &[u8], body: usize, cuts: Cuts) {
        self.note_request(bytes, body);
        self.write(bytes, cuts);
    }

    /// Enters a request into the books without writing it.
    pub fn note_request(&mut self, bytes: &[u8], body: usize) {
        let method = bytes.split(|octet| *octet == b' ').next().unwrap_or_default();
        self.exchanges.push(Books {
            method: String::from_utf8_lossy(method).into_owned(),
            received_app: bytes.len() as u64,
            received_body: body as u64,
            sent_app: 0,
            sent_body: 0,
            status: 0,
        });
    }

    /// Reads the response to the oldest request that has none.
    pub fn response(&mut self) -> Message {
        let method = self.exchanges[self.answered].method.clone();
        let message = self.reader.response(&method).expect("a response, not the end of the connection");
        let books = &mut self.exchanges[self.answered];
        self.answered += 1;
        books.sent_app += message.app;
        books.sent_body += message.body.len() as u64;
        books.status = message.status();
        message
    }

    /// A GET and its response.
    pub fn get(&mut self, path: &str) -> Message {
        self.request(format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n").as_bytes(), 0, Cuts::Whole);
        self.response()
    }

    /// A POST of known length and its response.
    pub fn post(&mut self, path: &str, body: &[u8]) -> Message {
        self.request(&sized(path, body), body.len(), Cuts::Whole);
        self.response()
    }

    /// Sends our FIN; what still comes can be read.
    pub fn fin(&mut self) {
        self.reader.from.shutdown(Shutdown::Write).unwrap();
    }

    /// Reads to the end, which must come at once, and closes.
    pub fn close(mut self) -> Self {
        let _ = self.reader.from.shutdown(Shutdown::Write);
        let rest = self.reader.rest();
        assert!(rest.is_empty(), "more than was asked for: {:?}", String::from_utf8_lossy(&rest));
        self
    }

    /// Closes with RST.
    pub fn reset(self) -> Account {
        let account = self.account();
        socket::reset(self.reader.from);
        account
    }

    pub fn account(&self) -> Account {
        Account { port: self.port, sent: self.sent, received: self.reader.taken, exchanges: self.exchanges.clone() }
    }
}

/// A request with `content-length`.
pub fn sized(path: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes =
        format!("POST {path} HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n\r\n", body.len()).into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// A request in chunks of these sizes, with an extension on each, and a trailer.
pub fn chunked(path: &str, sizes: &[usize]) -> Vec<u8> {
    let mut bytes =
        format!("POST {path} HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n")
            .into_bytes();
    for (at, size) in sizes.iter().enumerate() {
        bytes.extend_from_slice(format!("{size:X};part={at};name=\"a b\"\r\n").as_bytes());
        bytes.extend_from_slice(&super::octets(*size));
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"0\r\nx-sum: 1234\r\n\r\n");
    bytes
}

/// What a client knew at its end.
#[derive(Clone, Debug)]
pub struct Account {
    pub port: u16,
    pub sent: u64,
    pub received: u64,
    pub exchanges: Vec<Books>,
}

impl Account {
    /// Holds the records of this client's session against its own books: every octet, both ways, each request.
    pub fn assert_recorded<'r>(&self, records: &'r Records) -> (&'r Record, Vec<&'r Record>) {
        let (session, requests) = self.assert_session_recorded(records);
        self.assert_requests_recorded(&requests);
        (session, requests)
    }

    /// The session as a whole: everything that was written was received, everything sent arrived.
    pub fn assert_session_recorded<'r>(&self, records: &'r Records) -> (&'r Record, Vec<&'r Record>) {
        let session = records.session(self.port);
        let counted = [session.total("received_app"), session.total("received_wire")];
        assert_eq!(counted, [self.sent as i64; 2], "received, of {}", session.0);
        let counted = [session.total("sent_app"), session.total("sent_wire"), session.total("sent_acked")];
        assert_eq!(counted, [self.received as i64; 3], "sent, of {}", session.0);
        (session, records.requests(session))
    }

    /// Each request.
    pub fn assert_requests_recorded(&self, requests: &[&Record]) {
        assert_eq!(requests.len(), self.exchanges.len(), "requests of port {}", self.port);
        for (request, books) in requests.iter().zip(&self.exchanges) {
            let names = ["received_app", "received_body", "sent_app", "sent_body", "sent_acked"];
            let counted = names.map(|name| request.total(name) as u64);
            let known = [books.received_app, books.received_body, books.sent_app, books.sent_body, books.sent_app];
            assert_eq!(counted, known, "{names:?} of {}", request.0);
            assert_eq!(request.number("status"), i64::from(books.status), "{}", request.0);
        }
    }
}
