//! HTTP/1 messages read octet by octet, by RFC 9112 alone: the second opinion on where a message ends.

use std::io::Read;

/// A message as it was read.
#[derive(Clone, Debug, Default)]
pub struct Message {
    /// The start line, without its line end.
    pub start: String,
    /// Names in lower case.
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
    /// All octets of it, informational responses before it included.
    pub app: u64,
    /// Status codes of those.
    pub interim: Vec<u16>,
    /// The connection ended before the message did.
    pub cut: bool,
}

impl Message {
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn status(&self) -> u16 {
        self.start.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
    }

    pub fn method(&self) -> &str {
        self.start.split(' ').next().unwrap_or("")
    }

    /// The path, without the query.
    pub fn path(&self) -> &str {
        self.target().split('?').next().unwrap_or("")
    }

    pub fn target(&self) -> &str {
        self.start.split(' ').nth(1).unwrap_or("")
    }
}

/// Reads messages from a stream and never an octet more than they have.
pub struct Reader<R> {
    pub from: R,
    buffer: Vec<u8>,
    at: usize,
    /// Octets handed out so far.
    pub taken: u64,
}

impl<R: Read> Reader<R> {
    pub fn new(from: R) -> Self {
        Self { from, buffer: Vec::new(), at: 0, taken: 0 }
    }

    /// One more octet; None at the end, or when the connection is gone.
    pub fn octet(&mut self) -> Option<u8> {
        if self.at == self.buffer.len() {
            self.buffer.resize(64 * 1024, 0);
            self.at = 0;
            let n = loop {
                match self.from.read(&mut self.buffer) {
                    Ok(n) => break n,
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("nothing comes: {error}"),
                    Err(_) => break 0,
                }
            };
            self.buffer.truncate(n);
            if n == 0 {
                return None;
            }
        }
        self.at += 1;
        self.taken += 1;
        Some(self.buffer[self.at - 1])
    }

    /// Up to `n` octets; fewer only at the end.
    pub fn octets(&mut self, n: usize) -> Vec<u8> {
        let mut read = Vec::with_capacity(n.min(1 << 20));
        while read.len() < n {
            let Some(octet) = self.octet() else { break };
            read.push(octet);
            let more = (self.buffer.len() - self.at).min(n - read.len());
            read.extend_from_slice(&self.buffer[self.at..self.at + more]);
            self.at += more;
            self.taken += more as u64;
        }
        read
    }

    /// Everything to the end.
    pub fn rest(&mut self) -> Vec<u8> {
        self.octets(usize::MAX)
    }

    /// The body of a request whose head was read.
    pub fn body(&mut self, message: &mut Message) {
        if message.cut {
            return;
        }
        if message.field("transfer-encoding").is_some() {
            self.chunks(message);
        } else {
            self.sized(message);
        }
    }

    /// What was read from the socket and not handed out yet.
    pub fn buffered(&mut self) -> Vec<u8> {
        let n = self.buffer.len() - self.at;
        self.octets(n)
    }

    /// The head of a request; None if the connection ended before its first octet.
    pub fn request_head(&mut self) -> Option<Message> {
        let before = self.taken;
        let mut message = self.head()?;
        message.app = self.taken - before;
        Some(message)
    }

    /// A response to a request with this method, and the informational ones before it.
    pub fn response(&mut self, method: &str) -> Option<Message> {
        let before = self.taken;
        let mut interim = Vec::new();
        let mut message = loop {
            let message = self.head()?;
            if !(100..200).contains(&message.status()) || message.status() == 101 || message.cut {
                break message;
            }
            interim.push(message.status());
        };
        let status = message.status();
        let bodiless =
            method == "HEAD" || matches!(status, 101 | 204 | 304) || (method == "CONNECT" && status / 100 == 2);
        if !bodiless && !message.cut {
            if message.field("transfer-encoding").is_some() {
                self.chunks(&mut message);
            } else if message.field("content-length").is_some() {
                self.sized(&mut message);
            } else {
                message.body = self.rest();
            }
        }
        message.interim = interim;
        message.app = self.taken - before;
        Some(message)
    }

    fn head(&mut self) -> Option<Message> {
        let mut message = Message::default();
        let mut bytes = vec![self.octet()?];
        while !bytes.ends_with(b"\r\n\r\n") {
            let Some(octet) = self.octet() else {
                message.cut = true;
                return Some(message);
            };
            bytes.push(octet);
        }
        let text = String::from_utf8_lossy(&bytes[..bytes.len() - 4]).into_owned();
        let (start, fields) = text.split_once("\r\n").unwrap_or((&text, ""));
        message.start = start.to_owned();
        message.fields = fields.split("\r\n").filter_map(field).collect();
        Some(message)
    }

    fn sized(&mut self, message: &mut Message) {
        let length = message.field("content-length").map_or(0, |length| length.parse().unwrap());
        message.body = self.octets(length);
        message.cut = message.body.len() < length;
    }

    fn line(&mut self) -> Option<String> {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            line.push(self.octet()?);
        }
        line.truncate(line.len() - 2);
        Some(String::from_utf8_lossy(&line).into_owned())
    }

    fn chunks(&mut self, message: &mut Message) {
        message.cut = true;
        while let Some(line) = self.line() {
            let size = usize::from_str_radix(line.split(';').next().unwrap().trim(), 16).unwrap();
            if size == 0 {
                while let Some(line) = self.line() {
                    if line.is_empty() {
                        message.cut = false;
                        return;
                    }
                    message.trailers.extend(field(&line));
                }
                return;
            }
            let chunk = self.octets(size);
            let whole = chunk.len() == size;
            message.body.extend_from_slice(&chunk);
            if !whole || self.line().is_none() {
                return;
            }
        }
    }
}

fn field(line: &str) -> Option<(String, String)> {
    let (name, value) = line.split_once(':')?;
    Some((name.to_ascii_lowercase(), value.trim().to_owned()))
}
