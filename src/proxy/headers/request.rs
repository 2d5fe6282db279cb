//! Refusal of requests that two readers could understand differently, and the one form of those that pass.

use http::header::{HOST, HeaderMap, HeaderValue};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, StatusCode, Uri, Version};

/// Longest host name, in bytes (RFC 1035 §2.3.4, with the final dot).
const HOST_NAME_BYTES_MAX: usize = 255;
/// Most digits in a Content-Length: every reader's 64-bit integer holds them.
const LENGTH_DIGITS_MAX: usize = 18;

/// Why a request is not forwarded. The text is for the log and may be shown to the client: it repeats none of its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A control byte other than tab in a field value (RFC 9110 §5.5).
    #[error("a field value contains a control byte")]
    ControlByte,
    /// HTTP/2: a value begins or ends with a space or tab (RFC 9113 §8.2.1).
    #[error("a field value begins or ends with white space")]
    OuterSpace,
    /// HTTP/2: Connection, Keep-Alive, Proxy-Connection, Transfer-Encoding or Upgrade (RFC 9113 §8.2.2).
    #[error("a field of the connection in an HTTP/2 request")]
    ConnectionField,
    /// HTTP/2: TE with anything but `trailers` (RFC 9113 §8.2.2).
    #[error("TE is not `trailers` in an HTTP/2 request")]
    Te,
    /// `content_length` or `transfer_encoding`, which CGI-like origins read as the framing field.
    #[error("a field name imitates a framing field")]
    FramingImitation,
    /// Content-Length repeated, a list, not all digits, or beyond 18 digits.
    #[error("Content-Length is malformed or repeated")]
    ContentLength,
    /// Transfer-Encoding repeated or not `chunked`, or in HTTP/1.0.
    #[error("Transfer-Encoding is not a single `chunked`")]
    TransferEncoding,
    /// Both framing fields (RFC 9112 §6.3).
    #[error("both Content-Length and Transfer-Encoding")]
    TwoFramings,
    /// Neither Host nor authority, or an empty one.
    #[error("no Host")]
    HostMissing,
    /// More than one Host field.
    #[error("Host is repeated")]
    HostRepeated,
    /// Not a host name or address with an optional port.
    #[error("Host or authority is malformed")]
    HostSyntax,
    /// HTTP/2: Host and `:authority` differ (RFC 9113 §8.3.1).
    #[error("Host differs from :authority")]
    HostDiffers,
    /// A target that is none of the forms its method allows (RFC 9112 §3.2), or with a control or 8-bit byte.
    #[error("request target is malformed")]
    Target,
    /// A scheme other than `http` and `https`.
    #[error("scheme is neither http nor https")]
    SchemeName,
    /// An expectation other than `100-continue` (RFC 9110 §10.1.1).
    #[error("expectation is not `100-continue`")]
    Expectation,
    /// A trailer field that belongs in the header section (RFC 9110 §6.5.1).
    #[error("a trailer field frames, routes or authenticates")]
    TrailerField,
}

impl Refusal {
    /// The answer: 417 for an expectation, 400 for everything else.
    pub fn status(self) -> StatusCode {
        match self {
            Refusal::Expectation => StatusCode::EXPECTATION_FAILED,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}

/// Refuses a request that could be understood differently by the origin than by us. The connection is to be closed then.
///
/// `version` is what the client spoke. Method and field names are tokens already, by their types. An HTTP/1.0 request may
/// lack Host. Whether CONNECT is allowed at all is the caller's decision; here only its form is checked.
pub fn check_request(parts: &Parts, version: Version) -> Result<(), Refusal> {
    let is_h2 = version >= Version::HTTP_2;
    let host = check_fields(&parts.headers, version)?;
    check_target(&parts.method, &parts.uri, is_h2)?;
    if let Some(host) = host {
        match host.as_bytes() {
            b"" => return Err(Refusal::HostMissing),
            host if !is_host(host) => return Err(Refusal::HostSyntax),
            _ => {}
        }
    }
    match (host, parts.uri.authority()) {
        (Some(host), Some(authority)) if is_h2 && !is_same_host(host, authority) => {
            return Err(Refusal::HostDiffers);
        }
        (None, None) if is_h2 => return Err(Refusal::HostMissing),
        (None, _) if version == Version::HTTP_11 => return Err(Refusal::HostMissing),
        _ => {}
    }
    Ok(())
}

fn is_same_host(host: &HeaderValue, authority: &Authority) -> bool {
    host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes())
}

/// Checks every field; returns Host.
fn check_fields(headers: &HeaderMap, version: Version) -> Result<Option<&HeaderValue>, Refusal> {
    let is_h2 = version >= Version::HTTP_2;
    let mut host = None;
    let (mut has_length, mut has_coding) = (false, false);
    for (name, value) in headers {
        let bytes = value.as_bytes();
        if has_control_byte(bytes) {
            return Err(Refusal::ControlByte);
        }
        if is_h2 && (matches!(bytes.first(), Some(b' ' | b'\t')) || matches!(bytes.last(), Some(b' ' | b'\t'))) {
            return Err(Refusal::OuterSpace);
        }
        match name.as_str() {
            "host" if host.replace(value).is_some() => return Err(Refusal::HostRepeated),
            "content-length" => {
                let is_number = (1..=LENGTH_DIGITS_MAX).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_digit);
                if std::mem::replace(&mut has_length, true) || !is_number {
                    return Err(Refusal::ContentLength);
                }
            }
            "connection" | "keep-alive" | "proxy-connection" | "transfer-encoding" | "upgrade" if is_h2 => {
                return Err(Refusal::ConnectionField);
            }
            "transfer-encoding" => {
                let is_chunked = version == Version::HTTP_11 && bytes.eq_ignore_ascii_case(b"chunked");
                if std::mem::replace(&mut has_coding, true) || !is_chunked {
                    return Err(Refusal::TransferEncoding);
                }
            }
            "te" if is_h2 && !bytes.eq_ignore_ascii_case(b"trailers") => return Err(Refusal::Te),
            // HTTP/1.0 has no expectations: the field is to be ignored (RFC 9110 §10.1.1).
            "expect" if version >= Version::HTTP_11 && !bytes.eq_ignore_ascii_case(b"100-continue") => {
                return Err(Refusal::Expectation);
            }
            "content_length" | "transfer_encoding" => return Err(Refusal::FramingImitation),
            _ => {}
        }
    }
    if has_length && has_coding {
        return Err(Refusal::TwoFramings);
    }
    Ok(host)
}

/// Whether a value contains 0x00–0x08, 0x0a–0x1f or 0x7f. Written without early exit, so that it runs vectorised.
pub(super) fn has_control_byte(value: &[u8]) -> bool {
    value.iter().fold(false, |found, byte| found | (*byte < b' ' && *byte != b'\t') | (*byte == 0x7f))
}

/// Checks the target's form against the method (RFC 9112 §3.2, RFC 9113 §8.3 and §8.5).
fn check_target(method: &Method, uri: &Uri, is_h2: bool) -> Result<(), Refusal> {
    let scheme = uri.scheme();
    if scheme.is_some_and(|scheme| *scheme != Scheme::HTTP && *scheme != Scheme::HTTPS) {
        return Err(Refusal::SchemeName);
    }
    if let Some(authority) = uri.authority()
        && !is_host(authority.as_str().as_bytes())
    {
        return Err(Refusal::HostSyntax);
    }
    // Authority alone is CONNECT's form and no other's; with a scheme it is HTTP/2's extended CONNECT (RFC 8441).
    let is_authority_form = uri.authority().is_some() && scheme.is_none();
    if *method == Method::CONNECT && !(is_h2 && scheme.is_some()) {
        let has_port = uri.port().is_some();
        return if is_authority_form && has_port { Ok(()) } else { Err(Refusal::Target) };
    }
    if is_authority_form {
        return Err(Refusal::Target);
    }
    let target = uri.path_and_query().map_or("", PathAndQuery::as_str).as_bytes();
    match target.first() {
        Some(b'/') => {}
        Some(b'*') if target.len() == 1 && *method == Method::OPTIONS && (is_h2 || scheme.is_none()) => {}
        // An absolute URI may have a query and no path: `http://a.test?q`.
        Some(b'?') if !is_h2 && scheme.is_some() => {}
        _ => return Err(Refusal::Target),
    }
    let is_visible = target.iter().fold(true, |good, byte| good & (*byte > b' ') & (*byte < 0x7f));
    if is_visible { Ok(()) } else { Err(Refusal::Target) }
}

/// Whether this is a host name, IPv4 address or bracketed IPv6 address, with an optional port: nothing that one reader
/// could take for user information, a path or a list. Names are letters, digits, `-`, `.` and `_`.
pub fn is_host(host: &[u8]) -> bool {
    let (is_named, port) = if let Some(bracketed) = host.strip_prefix(b"[") {
        let Some(end) = bracketed.iter().position(|byte| *byte == b']') else {
            return false;
        };
        let address = str::from_utf8(&bracketed[..end]).map(str::parse::<std::net::Ipv6Addr>);
        (matches!(address, Ok(Ok(_))), &bracketed[end + 1..])
    } else {
        let (name, port) = host.split_at(host.iter().position(|byte| *byte == b':').unwrap_or(host.len()));
        let is_name_byte = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        ((1..=HOST_NAME_BYTES_MAX).contains(&name.len()) && name.iter().all(is_name_byte), port)
    };
    is_named && (port.is_empty() || port.strip_prefix(b":").is_some_and(is_port))
}

fn is_port(port: &[u8]) -> bool {
    let value =
        port.iter().fold(0_u32, |value, digit| value.saturating_mul(10).saturating_add(u32::from(digit & 0x0f)));
    (1..=5).contains(&port.len()) && port.iter().all(u8::is_ascii_digit) && value <= u32::from(u16::MAX)
}

/// Gives a request that [`check_request`] let pass one form: an absolute target (and HTTP/2's pseudo-fields) becomes
/// origin-form, and its authority the only Host, whatever Host said (RFC 9112 §3.2.2). CONNECT keeps its authority.
/// Fails only for a target that grows too long by its missing slash.
pub fn normalise_request(parts: &mut Parts) -> Result<(), Refusal> {
    let Some(authority) = parts.uri.authority() else {
        return Ok(());
    };
    // Almost always equal already, and then the client's own spelling stays where it was.
    if !parts.headers.get(HOST).is_some_and(|host| is_same_host(host, authority)) {
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| Refusal::HostSyntax)?;
        parts.headers.insert(HOST, host);
    }
    // A plain CONNECT has no path to stand for it.
    let Some(target) = parts.uri.path_and_query() else {
        return Ok(());
    };
    let target = if target.as_str().starts_with('?') {
        let slashed = format!("/{}", target.as_str()).into_bytes();
        PathAndQuery::from_maybe_shared(slashed).map_err(|_| Refusal::Target)?
    } else {
        target.clone()
    };
    parts.uri = Uri::from(target);
    Ok(())
}

#[cfg(test)]
mod tests;
