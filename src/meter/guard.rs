//! The strict grammar of requests: what a front end must refuse so that no back end can read the same octets otherwise.
//!
//! Stricter than RFC 9112 wherever it lets a recipient choose (bare LF, obs-fold, CL beside TE, equal duplicates):
//! differences between two recipients' choices are what request smuggling lives on.

use memchr::{memchr, memrchr};

use super::grammar::{decimal, first_control, hexadecimal, is_authority, is_target, name_is, token_bytes, trim};
use super::{LINE_BYTES_MAX, Violation};

/// The methods that change how the response is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Head,
    Connect,
    Other,
}

/// What the lines of one request head said about the framing so far.
#[derive(Debug)]
pub(super) struct RequestHead {
    pub(super) method: Method,
    pub(super) content_length: Option<u64>,
    pub(super) chunked: bool,
    /// Another request may follow on this connection.
    pub(super) keep_alive: bool,
    http11: bool,
    host: bool,
}

impl RequestHead {
    /// Reads the request line, CRLF included.
    pub(super) fn parse(line: &[u8]) -> Result<Self, Violation> {
        let content = without_crlf(line)?;
        parse_request_line(content).map_err(|violation| or_bare_cr(content, violation))
    }

    /// Reads one field line, CRLF included.
    #[inline]
    pub(super) fn field(&mut self, line: &[u8]) -> Result<(), Violation> {
        let content = without_crlf(line)?;
        self.read_field(content).map_err(|violation| or_bare_cr(content, violation))
    }

    /// Reads the field lines at the front of `bytes` that are whole and good, and says how many octets they are.
    ///
    /// One pass for the usual head. Stops before any line that is not plainly good, which [`RequestHead::field`] then
    /// judges; so what is found does not depend on which of the two read a line.
    #[inline]
    pub(super) fn plain_fields(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        loop {
            let rest = &bytes[taken..];
            let colon = token_bytes(rest);
            if colon == 0 || rest.get(colon) != Some(&b':') {
                return taken;
            }
            let Some(value_bytes) = first_control(&rest[colon + 1..]) else {
                return taken;
            };
            let end = colon + 1 + value_bytes;
            let line_bytes = end + 2;
            if !rest[end..].starts_with(b"\r\n") || line_bytes > LINE_BYTES_MAX {
                return taken;
            }
            if self.accept(&rest[..colon], &rest[colon + 1..end]).is_err() {
                return taken;
            }
            taken += line_bytes;
        }
    }

    /// The empty line came: is what must be there there?
    pub(super) fn end(&self) -> Result<(), Violation> {
        if self.http11 && !self.host { Err(Violation::BadHost) } else { Ok(()) }
    }

    fn read_field(&mut self, content: &[u8]) -> Result<(), Violation> {
        let (name, value) = split_field(content)?;
        self.accept(name, value)
    }

    /// Takes in what a field says about the framing. Changes nothing when it refuses.
    #[inline]
    fn accept(&mut self, name: &[u8], value: &[u8]) -> Result<(), Violation> {
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => self.host(trim(value)),
            10 if name.eq_ignore_ascii_case(b"connection") => self.connection(value),
            14 if name_is(name, b"content-length") => self.content_length(name, trim(value)),
            17 if name_is(name, b"transfer-encoding") => self.transfer_encoding(name, trim(value)),
            _ => Ok(()),
        }
    }

    fn host(&mut self, value: &[u8]) -> Result<(), Violation> {
        if self.host || !is_authority(value) {
            return Err(Violation::BadHost);
        }
        self.host = true;
        Ok(())
    }

    /// Persistence as RFC 9112 §9.3 has it, over all Connection lines.
    fn connection(&mut self, value: &[u8]) -> Result<(), Violation> {
        let (mut close, mut keep_alive) = (false, false);
        for option in value.split(|&b| b == b',') {
            let option = trim(option);
            close |= option.eq_ignore_ascii_case(b"close");
            keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
            if [&b"content-length"[..], b"transfer-encoding", b"host"].iter().any(|name| name_is(option, name)) {
                return Err(Violation::ConnectionNamesFraming);
            }
        }
        self.keep_alive = if self.keep_alive { !close } else { keep_alive };
        Ok(())
    }

    fn content_length(&mut self, name: &[u8], value: &[u8]) -> Result<(), Violation> {
        if name.contains(&b'_') {
            return Err(Violation::UnderscoreFraming);
        }
        if self.content_length.is_some() {
            return Err(Violation::DuplicateContentLength);
        }
        let Some(length) = decimal(value) else {
            return Err(Violation::BadContentLength);
        };
        if self.chunked {
            return Err(Violation::ClAndTe);
        }
        self.content_length = Some(length);
        Ok(())
    }

    fn transfer_encoding(&mut self, name: &[u8], value: &[u8]) -> Result<(), Violation> {
        if name.contains(&b'_') {
            return Err(Violation::UnderscoreFraming);
        }
        if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
            return Err(Violation::BadTransferEncoding);
        }
        if !self.http11 {
            return Err(Violation::TeOnHttp10);
        }
        if self.content_length.is_some() {
            return Err(Violation::ClAndTe);
        }
        self.chunked = true;
        Ok(())
    }
}

/// Is this line, LF included, the empty one that ends a head? One that is empty but for its missing CR is a violation.
#[inline]
pub(super) fn is_blank(line: &[u8]) -> bool {
    line == b"\r\n"
}

/// The size in a chunk line (CRLF included); zero is the last chunk.
pub(super) fn chunk_size(line: &[u8]) -> Result<u64, Violation> {
    let Some(content) = line.strip_suffix(b"\r\n") else {
        return Err(Violation::BadChunk);
    };
    let digits = content.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    if digits == 0 || digits > 16 || !is_chunk_extension(&content[digits..]) {
        return Err(Violation::BadChunk);
    }
    // Counters are signed 64-bit in records, so a size above that is as impossible as one above u64.
    match hexadecimal(&content[..digits]) {
        Some(size) if i64::try_from(size).is_ok() => Ok(size),
        _ => Err(Violation::BadChunk),
    }
}

/// Checks one trailer line, CRLF included.
pub(super) fn trailer(line: &[u8]) -> Result<(), Violation> {
    let content = without_crlf(line)?;
    let Ok((name, _)) = split_field(content) else {
        return Err(or_bare_cr(content, Violation::BadTrailer));
    };
    if TRAILER_FORBIDDEN.iter().any(|forbidden| name_is(name, forbidden)) {
        return Err(Violation::BadTrailer);
    }
    Ok(())
}

/// Fields that frame, route or authorize the message they are in: a back end that merges trailers into the head would
/// act on them although the front end decided without them.
const TRAILER_FORBIDDEN: &[&[u8]] = &[
    b"authorization",
    b"connection",
    b"content-encoding",
    b"content-length",
    b"content-range",
    b"content-type",
    b"cookie",
    b"expect",
    b"forwarded",
    b"host",
    b"keep-alive",
    b"max-forwards",
    b"proxy-authorization",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
    b"x-forwarded-for",
    b"x-forwarded-host",
    b"x-forwarded-port",
    b"x-forwarded-proto",
    b"x-real-ip",
];

#[inline]
fn without_crlf(line: &[u8]) -> Result<&[u8], Violation> {
    line.strip_suffix(b"\r\n").ok_or(Violation::BareLf)
}

/// A CR inside a line offends every rule there is; its own name says best what happened.
#[cold]
fn or_bare_cr(content: &[u8], violation: Violation) -> Violation {
    if memchr(b'\r', content).is_some() { Violation::BareCr } else { violation }
}

fn parse_request_line(content: &[u8]) -> Result<RequestHead, Violation> {
    let (Some(first), Some(last)) = (memchr(b' ', content), memrchr(b' ', content)) else {
        return Err(Violation::BadRequestLine);
    };
    if first == last {
        return Err(Violation::BadRequestLine);
    }
    let (method, target) = (&content[..first], &content[first + 1..last]);
    let http11 = match &content[last + 1..] {
        b"HTTP/1.1" => true,
        b"HTTP/1.0" => false,
        _ => return Err(Violation::BadRequestLine),
    };
    if method.is_empty() || token_bytes(method) < method.len() || !is_target(method, target) {
        return Err(Violation::BadRequestLine);
    }
    let method = match method {
        b"HEAD" => Method::Head,
        b"CONNECT" => Method::Connect,
        _ => Method::Other,
    };
    Ok(RequestHead { method, content_length: None, chunked: false, keep_alive: http11, http11, host: false })
}

/// Name and value, whitespace around it included, of a field line without its CRLF.
fn split_field(content: &[u8]) -> Result<(&[u8], &[u8]), Violation> {
    let (name, rest) = content.split_at(token_bytes(content));
    let [b':', value @ ..] = rest else {
        return Err(name_violation(name, rest));
    };
    if name.is_empty() {
        return Err(Violation::BadHeaderName);
    }
    if first_control(value).is_some() {
        return Err(Violation::BadHeaderValue);
    }
    Ok((name, value))
}

#[cold]
fn name_violation(name: &[u8], rest: &[u8]) -> Violation {
    match rest {
        [b' ' | b'\t', ..] if name.is_empty() => Violation::ObsFold,
        [b' ' | b'\t', ..] if trim(rest).first() == Some(&b':') => Violation::SpaceBeforeColon,
        _ => Violation::BadHeaderName,
    }
}

/// Nothing, or from a `;` on (whitespace may come before it) no control octet but tab.
fn is_chunk_extension(extension: &[u8]) -> bool {
    extension.is_empty()
        || (trim(extension).first() == Some(&b';') && extension.iter().all(|&b| b == b'\t' || (b >= b' ' && b != 0x7f)))
}
