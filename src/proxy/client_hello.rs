//! Server name and protocols from a TLS ClientHello, without opening TLS.
//!
//! A `tls-passthrough` listener routes by what the client says in the clear (RFC 8446 §4.1.2, RFC 6066 §3, RFC 7301 §3.1).
//! [`parse`] is given all bytes received so far; the hello may be split over TCP segments and over TLS records. It holds
//! nothing between calls and copies the hello once, when it is complete. An answer other than [`Hello::Incomplete`] never
//! changes when more bytes follow. What is not a well-formed ClientHello within [`HELLO_BYTES_MAX`] is [`Hello::NotTls`]:
//! there is nothing to route by, and a name that two readers could understand differently is no name.

/// Longest hello accepted, in received bytes, record headers included. Post-quantum hellos are near 2 KiB.
pub const HELLO_BYTES_MAX: usize = 16 * 1024;

const RECORD_HEADER_BYTES: usize = 5;
const RECORD_BYTES_MAX: usize = 16 * 1024;
const CONTENT_HANDSHAKE: u8 = 22;
const HANDSHAKE_HEADER_BYTES: usize = 4;
const HANDSHAKE_CLIENT_HELLO: u8 = 1;
const EXTENSION_SERVER_NAME: u16 = 0;
const EXTENSION_ALPN: u16 = 16;
const NAME_TYPE_HOST: u8 = 0;
/// Longest host name, in bytes (RFC 1035 §2.3.4, with the final dot).
const HOST_BYTES_MAX: usize = 255;

/// What the bytes received so far are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hello {
    /// A hello may be forming; more bytes decide.
    Incomplete,
    /// A complete, well-formed hello.
    Hello {
        /// The host asked for, in lower case, without a final dot.
        server_name: Option<String>,
        /// Protocols offered, in the client's order; empty when it offers none.
        alpn: Vec<Vec<u8>>,
    },
    /// Not TLS, malformed, or too long.
    NotTls,
}

/// Reads the ClientHello at the start of `received`, all bytes received so far.
pub fn parse(received: &[u8]) -> Hello {
    let window = &received[..received.len().min(HELLO_BYTES_MAX)];
    match gather(window) {
        Gathered::NotTls => Hello::NotTls,
        Gathered::Incomplete if window.len() == HELLO_BYTES_MAX => Hello::NotTls,
        Gathered::Incomplete => Hello::Incomplete,
        Gathered::Body(body) => match read_body(&body) {
            Some((server_name, alpn)) => Hello::Hello { server_name, alpn },
            None => Hello::NotTls,
        },
    }
}

enum Gathered {
    Incomplete,
    NotTls,
    Body(Vec<u8>),
}

/// Takes the hello's body out of its records.
fn gather(window: &[u8]) -> Gathered {
    // First only counted: a hello that trickles in costs a walk over its record headers per call, and one copy at the end.
    let mut head = [0; HANDSHAKE_HEADER_BYTES];
    let mut arrived = 0;
    let mut rest = window;
    let needed = loop {
        if rest.is_empty() {
            return Gathered::Incomplete;
        }
        let Some((payload, next)) = record(rest) else {
            return Gathered::NotTls;
        };
        for (slot, byte) in head.iter_mut().skip(arrived).zip(payload) {
            *slot = *byte;
        }
        arrived += payload.len();
        if arrived > 0 && head[0] != HANDSHAKE_CLIENT_HELLO {
            return Gathered::NotTls;
        }
        if arrived >= HANDSHAKE_HEADER_BYTES {
            let needed = HANDSHAKE_HEADER_BYTES + length_of(&head[1..]);
            if RECORD_HEADER_BYTES + needed > HELLO_BYTES_MAX {
                return Gathered::NotTls;
            }
            if arrived >= needed {
                break needed;
            }
        }
        rest = next;
    };
    let mut message = Vec::with_capacity(arrived);
    let mut rest = window;
    while message.len() < needed {
        let Some((payload, next)) = record(rest) else {
            return Gathered::NotTls;
        };
        message.extend_from_slice(payload);
        rest = next;
    }
    message.truncate(needed);
    message.drain(..HANDSHAKE_HEADER_BYTES);
    Gathered::Body(message)
}

/// Splits off the first record: its payload as far as it arrived, and what follows. None if this is no handshake record.
fn record(rest: &[u8]) -> Option<(&[u8], &[u8])> {
    if rest.first().is_some_and(|kind| *kind != CONTENT_HANDSHAKE) || rest.get(1).is_some_and(|major| *major != 3) {
        return None;
    }
    let Some((header, payload)) = rest.split_at_checked(RECORD_HEADER_BYTES) else {
        return Some((&[], &[]));
    };
    let length = length_of(&header[3..]);
    if length == 0 || length > RECORD_BYTES_MAX {
        return None;
    }
    Some(payload.split_at(payload.len().min(length)))
}

/// A big-endian length of at most three bytes.
fn length_of(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte))
}

/// Server name and protocols of a ClientHello body; None if it is malformed.
fn read_body(mut body: &[u8]) -> Option<(Option<String>, Vec<Vec<u8>>)> {
    let version_and_random = take(&mut body, 2 + 32)?;
    let session_id = vector(&mut body, 1)?;
    let cipher_suites = vector(&mut body, 2)?;
    let compressions = vector(&mut body, 1)?;
    if version_and_random[0] != 3 || session_id.len() > 32 || compressions.is_empty() {
        return None;
    }
    if cipher_suites.is_empty() || !cipher_suites.len().is_multiple_of(2) {
        return None;
    }
    if body.is_empty() {
        return Some((None, Vec::new()));
    }
    let mut extensions = vector(&mut body, 2)?;
    if !body.is_empty() {
        return None;
    }
    let mut server_name = None;
    let mut alpn = None;
    while !extensions.is_empty() {
        let kind = length_of(take(&mut extensions, 2)?);
        let content = vector(&mut extensions, 2)?;
        // A second extension of one kind would let the server take another name than we do.
        if kind == usize::from(EXTENSION_SERVER_NAME) && server_name.replace(read_server_name(content)?).is_some() {
            return None;
        }
        if kind == usize::from(EXTENSION_ALPN) && alpn.replace(read_alpn(content)?).is_some() {
            return None;
        }
    }
    Some((server_name, alpn.unwrap_or_default()))
}

/// The one host name of a server_name extension, in lower case, without a final dot.
fn read_server_name(mut content: &[u8]) -> Option<String> {
    let mut names = vector(&mut content, 2)?;
    let kind = take(&mut names, 1)?;
    let name = vector(&mut names, 2)?;
    if !content.is_empty() || !names.is_empty() || kind != [NAME_TYPE_HOST] || name.len() > HOST_BYTES_MAX {
        return None;
    }
    let name = name.strip_suffix(b".").unwrap_or(name);
    let is_host = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if name.is_empty() || !name.iter().all(is_host) {
        return None;
    }
    Some(str::from_utf8(name).ok()?.to_ascii_lowercase())
}

fn read_alpn(mut content: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut offered = vector(&mut content, 2)?;
    if offered.is_empty() || !content.is_empty() {
        return None;
    }
    let mut protocols = Vec::new();
    while !offered.is_empty() {
        let protocol = vector(&mut offered, 1)?;
        if protocol.is_empty() {
            return None;
        }
        protocols.push(protocol.to_vec());
    }
    Some(protocols)
}

fn take<'a>(input: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = input.split_at_checked(count)?;
    *input = rest;
    Some(taken)
}

/// A vector preceded by its length in `length_bytes` bytes (RFC 8446 §3.4).
fn vector<'a>(input: &mut &'a [u8], length_bytes: usize) -> Option<&'a [u8]> {
    let length = length_of(take(input, length_bytes)?);
    take(input, length)
}

#[cfg(test)]
mod tests;
