//! Header policy: what may be forwarded, what belongs to one connection only, and what is refused.
//!
//! * [`check_request`] refuses what two readers could understand differently, for HTTP/1 and HTTP/2 alike, and
//!   [`normalise_request`] gives what is left one form: origin-form target and one Host.
//! * [`remove_hop_by_hop`] removes the fields of one connection (RFC 9110 §7.6.1), both ways.
//! * [`check_trailers`] and [`remove_refused_trailers`] keep fields that frame, route or authenticate out of trailers.
//!
//! Everything here sees `http` types only; bytes that the HTTP engine accepts and drops before it builds them are watched
//! below it. The usual request is checked in one walk over its fields, without allocation. The order on the way up is:
//! check, normalise, remove hop-by-hop, then add our own fields, so that a client cannot have ours removed.

mod request;

pub use request::{Refusal, check_request, is_host, normalise_request};

use http::Version;
use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, HeaderMap, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE,
};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const PROXY_AUTHENTICATION_INFO: HeaderName = HeaderName::from_static("proxy-authentication-info");

/// Hop-by-hop fields that pass nevertheless.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Kept {
    /// `Upgrade`, with a `Connection: upgrade` of our own: the exchange becomes a tunnel over HTTP/1.1.
    pub upgrade: bool,
    /// `Proxy-Authorization`, `Proxy-Authenticate` and `Proxy-Authentication-Info`: the origin is the proxy they are for.
    pub proxy_authentication: bool,
}

/// Removes hop-by-hop fields of a request on its way up or a response on its way down.
///
/// `Transfer-Encoding` goes too: the engine frames the message anew. `Trailer` stays, and of `TE` the word `trailers`.
pub fn remove_hop_by_hop(headers: &mut HeaderMap, kept: Kept) {
    // One walk over the names says which removals there is a reason for; usually that is `Connection` or none.
    let (mut connection, mut upgrade, mut te, mut rare) = (false, false, false, false);
    for name in headers.keys() {
        match name.as_str() {
            "connection" => connection = true,
            "upgrade" => upgrade = true,
            "te" => te = true,
            "keep-alive"
            | "transfer-encoding"
            | "proxy-connection"
            | "http2-settings"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-authentication-info" => rare = true,
            _ => {}
        }
    }
    if connection {
        for name in named_by_connection(headers) {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    if upgrade && !kept.upgrade {
        headers.remove(UPGRADE);
    }
    if upgrade && kept.upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
    if te {
        let trailers = has_token(headers, &TE, "trailers");
        headers.remove(TE);
        if trailers {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        }
    }
    if rare {
        for name in [KEEP_ALIVE, TRANSFER_ENCODING, PROXY_CONNECTION, HTTP2_SETTINGS] {
            headers.remove(name);
        }
        if !kept.proxy_authentication {
            headers.remove(http::header::PROXY_AUTHENTICATE);
            headers.remove(http::header::PROXY_AUTHORIZATION);
            headers.remove(PROXY_AUTHENTICATION_INFO);
        }
    }
}

/// The client asks for one answer and the connection's end, and no reader could understand it otherwise.
pub fn is_last_request(headers: &HeaderMap) -> bool {
    let mut options = headers.get_all(CONNECTION).iter();
    options.next().is_some_and(|option| option.as_bytes().eq_ignore_ascii_case(b"close")) && options.next().is_none()
}

/// The sender says that the connection ends with this message.
pub fn asks_to_close(headers: &HeaderMap) -> bool {
    has_token(headers, &CONNECTION, "close")
}

/// Removes a field that only we may set, also where it is written as CGI-like origins would read it (`_` for `-`).
pub fn remove_alike(headers: &mut HeaderMap, name: &HeaderName) {
    let own = name.as_str();
    let alike = |other: &str| {
        let mut pairs = other.bytes().zip(own.bytes());
        other.len() == own.len() && pairs.all(|(theirs, ours)| theirs == ours || (theirs == b'_' && ours == b'-'))
    };
    while let Some(found) = headers.keys().find(|name| alike(name.as_str())).cloned() {
        headers.remove(found);
    }
}

/// Fields that `Connection` names and that it may remove; empty, and not allocated, for `close`, `keep-alive`, `upgrade`.
fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let mut named = Vec::new();
    for value in headers.get_all(CONNECTION) {
        for token in value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            if token.eq_ignore_ascii_case(b"close") || token.eq_ignore_ascii_case(b"keep-alive") {
                continue;
            }
            if let Ok(name) = HeaderName::from_bytes(token)
                && !is_beyond_connection(name.as_str())
            {
                named.push(name);
            }
        }
    }
    named
}

/// Fields that a client must not be able to remove by naming them: they frame, route, or say where it comes from; and
/// those that have a rule of their own here.
fn is_beyond_connection(name: &str) -> bool {
    matches!(
        name,
        "host"
            | "content-length"
            | "transfer-encoding"
            | "trailer"
            | "te"
            | "upgrade"
            | "forwarded"
            | "x-real-ip"
            | "via"
    ) || name.starts_with("x-forwarded-")
}

/// The `Upgrade` of an HTTP/1.1 request that asks for a tunnel; None if it is to be forwarded as a plain request.
///
/// `h2c` is never one: behind such a tunnel requests would flow that nobody sees (RFC 9113 removed it). Neither is a
/// request with a body, whose end would have to be found inside the tunnel.
pub fn upgrade_protocol(headers: &HeaderMap, version: Version) -> Option<&HeaderValue> {
    if version != Version::HTTP_11 {
        return None;
    }
    let mut values = headers.get_all(UPGRADE).iter();
    let (Some(protocol), None) = (values.next(), values.next()) else {
        return None;
    };
    if protocol.is_empty() || !has_token(headers, &CONNECTION, "upgrade") {
        return None;
    }
    let is_h2c = |token: &[u8]| token.get(..3).is_some_and(|start| start.eq_ignore_ascii_case(b"h2c"));
    if protocol.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii).any(is_h2c) {
        return None;
    }
    let has_body = headers.contains_key(TRANSFER_ENCODING)
        || headers.get(CONTENT_LENGTH).is_some_and(|length| length.as_bytes().iter().any(|digit| *digit != b'0'));
    (!has_body).then_some(protocol)
}

/// Whether a list field contains `token`, in any case.
fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).iter();
    let mut tokens = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii));
    tokens.any(|found| found.eq_ignore_ascii_case(token.as_bytes()))
}

/// Makes one `Cookie` field of the several that HTTP/2 may carry (RFC 9113 §8.2.3); HTTP/1 allows only one.
pub fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let mut joined = Vec::new();
    let mut sensitive = false;
    for value in headers.get_all(COOKIE) {
        if !joined.is_empty() {
            joined.extend_from_slice(b"; ");
        }
        joined.extend_from_slice(value.as_bytes());
        sensitive |= value.is_sensitive();
    }
    // Valid values joined by valid bytes are a valid value; if ever not, the separate fields are still right for HTTP/2.
    if let Ok(mut value) = HeaderValue::from_maybe_shared(joined) {
        value.set_sensitive(sensitive);
        headers.insert(COOKIE, value);
    }
}

/// Refuses a trailer section that frames, routes, authenticates or changes how the content is read (RFC 9110 §6.5.1).
pub fn check_trailers(trailers: &HeaderMap) -> Result<(), Refusal> {
    for (name, value) in trailers {
        if is_refused_in_trailers(name.as_str()) {
            return Err(Refusal::TrailerField);
        }
        if request::has_control_byte(value.as_bytes()) {
            return Err(Refusal::ControlByte);
        }
    }
    Ok(())
}

/// Removes from a trailer section what [`check_trailers`] refuses; says how many fields that were.
///
/// For responses: their body has been sent, so dropping a field does less harm than cutting the exchange.
pub fn remove_refused_trailers(trailers: &mut HeaderMap) -> usize {
    let mut removed = 0;
    loop {
        let refused = |(name, value): &(&HeaderName, &HeaderValue)| {
            is_refused_in_trailers(name.as_str()) || request::has_control_byte(value.as_bytes())
        };
        let Some(name) = trailers.iter().find(refused).map(|(name, _)| name.clone()) else {
            return removed;
        };
        removed += trailers.get_all(&name).iter().count();
        trailers.remove(name);
    }
}

fn is_refused_in_trailers(name: &str) -> bool {
    matches!(
        name,
        // framing and connection
        "content-length" | "content_length" | "transfer-encoding" | "transfer_encoding" | "trailer" | "te"
            | "connection" | "keep-alive" | "proxy-connection" | "upgrade" | "http2-settings"
            // routing and origin of the request
            | "host" | "via" | "forwarded" | "x-real-ip" | "x_real_ip" | "max-forwards" | "expect" | "location"
            // authentication
            | "authorization" | "proxy-authorization" | "www-authenticate" | "proxy-authenticate" | "cookie" | "set-cookie"
            // how the content is read and kept
            | "content-encoding" | "content-type" | "content-range" | "range" | "cache-control" | "vary"
    ) || name.starts_with("x-forwarded")
        || name.starts_with("x_forwarded")
}

#[cfg(test)]
mod tests;
