//! Who the client is behind trusted proxies, and what the origin is told about it.
//!
//! Coming in, a header is believed only if the peer is in a trusted network, and only as far as trusted peers wrote it:
//! the list is read from the right, trusted addresses are skipped, and the first untrusted one is the client
//! ([`client_address`]). What stands left of it was written by the client and means nothing. An entry that cannot be read
//! ends the list: the nearest proxy before it is then the best that is known.
//!
//! Going up ([`set_forwarded`]), a trusted peer's fields are kept and our own knowledge appended; an untrusted peer's
//! fields, in every spelling an origin could take for them, are removed and replaced. Neither part allocates for what is
//! not there; the number of entries is bounded by the header size limit of the listener.

use std::net::{IpAddr, SocketAddr};

use http::header::{FORWARDED, HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;

use crate::config::ForwardedHeader;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Where the traffic comes from, as far as it can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientAddress {
    /// The client, IPv4-mapped addresses as IPv4.
    pub ip: IpAddr,
    /// Its port; None where a proxy named the client without one.
    pub port: Option<u16>,
}

/// The client of a request from `peer`: the rightmost untrusted address of `header`, or the peer itself.
///
/// `peer` is the address of the connection, or the one that its PROXY header stated.
pub fn client_address(
    peer: SocketAddr,
    headers: &HeaderMap,
    header: ForwardedHeader,
    trusted: &[IpNet],
) -> ClientAddress {
    let peer = ClientAddress { ip: peer.ip().to_canonical(), port: Some(peer.port()) };
    if header == ForwardedHeader::Off || !is_trusted(peer.ip, trusted) {
        return peer;
    }
    // Read from the left, so that nothing needs to be held: an untrusted entry replaces the answer, a trusted one leaves
    // it, and an unreadable one empties it for the next entry to fill.
    let mut client = None;
    let mut take = |entry: Option<ClientAddress>| match entry {
        None => client = None,
        Some(address) if client.is_none() || !is_trusted(address.ip, trusted) => client = Some(address),
        Some(_) => {}
    };
    if header == ForwardedHeader::XForwardedFor {
        for line in headers.get_all(&X_FORWARDED_FOR) {
            let Ok(line) = line.to_str() else {
                take(None);
                continue;
            };
            line.split(',').for_each(|entry| take(parse_node(entry.trim_matches([' ', '\t']))));
        }
    } else {
        for line in headers.get_all(FORWARDED) {
            match line.to_str() {
                Ok(line) => each_forwarded_for(line, &mut take),
                Err(_) => take(None),
            }
        }
    }
    client.unwrap_or(peer)
}

/// Whether `ip` is in one of the networks; an IPv4-mapped address is its IPv4 address.
pub fn is_trusted(ip: IpAddr, trusted: &[IpNet]) -> bool {
    let ip = ip.to_canonical();
    trusted.iter().any(|network| network.contains(&ip))
}

/// What happens to the `Forwarded` field (RFC 7239) on the way up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForwardedPolicy {
    /// A trusted peer's passes as it is, an untrusted one's is removed; we add none.
    Untouched,
    /// Our element is appended to a trusted peer's, and replaces an untrusted one's.
    Append,
}

/// What we know of the hop before us.
#[derive(Debug, Clone, Copy)]
pub struct Hop<'a> {
    /// The address of the connection, or the one that its PROXY header stated, as text; not the result of
    /// [`client_address`].
    pub peer: &'a HeaderValue,
    /// Whether that address is in a trusted network.
    pub trusted: bool,
    /// Whether the client's side is TLS.
    pub tls: bool,
    /// The request's host as the client sent it.
    pub host: Option<&'a HeaderValue>,
    /// What to do with `Forwarded`.
    pub forwarded: ForwardedPolicy,
}

/// Sets what the origin learns about the client: `X-Forwarded-For`, `-Proto` and `-Host`, and `Forwarded` by policy.
pub fn set_forwarded(headers: &mut HeaderMap, hop: &Hop<'_>) {
    if !hop.trusted {
        remove_claims(headers);
    }
    let protocol = if hop.tls { "https" } else { "http" };
    append(headers, &X_FORWARDED_FOR, hop.peer.clone());
    headers.entry(X_FORWARDED_PROTO).or_insert(HeaderValue::from_static(protocol));
    if let Some(host) = hop.host {
        headers.entry(X_FORWARDED_HOST).or_insert_with(|| host.clone());
    }
    if hop.forwarded == ForwardedPolicy::Append {
        let mut element = match hop.peer.to_str().unwrap_or("unknown") {
            ip if ip.contains(':') => format!("for=\"[{ip}]\""),
            ip => format!("for={ip}"),
        };
        if let Some(host) = hop.host.and_then(|host| host.to_str().ok())
            && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte))
        {
            element.push_str(";host=\"");
            element.push_str(host);
            element.push('"');
        }
        element.push_str(";proto=");
        element.push_str(protocol);
        // Digits, dots, colons and what is checked above are a valid value.
        if let Ok(element) = HeaderValue::from_str(&element) {
            append(headers, &FORWARDED, element);
        }
    }
}

/// Removes every field by which a request can claim to come from somewhere else.
fn remove_claims(headers: &mut HeaderMap) {
    // Usually there is none, so a walk over the names is cheaper than a look-up of each.
    while let Some(name) = headers.keys().find(|name| is_claim(name.as_str())).cloned() {
        headers.remove(&name);
    }
}

/// Whether an origin may take this name for one of the family. CGI-like origins read `_` as `-`.
fn is_claim(name: &str) -> bool {
    const CLAIMS: [&str; 9] = [
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-forwarded-port",
        "x-forwarded-scheme",
        "x-forwarded-server",
        "x-forwarded-ssl",
        "x-real-ip",
        "forwarded",
    ];
    if !name.starts_with(['x', 'f']) {
        return false;
    }
    let alike = |claim: &str| {
        let mut pairs = name.bytes().zip(claim.bytes());
        claim.len() == name.len() && pairs.all(|(ours, theirs)| ours == theirs || (ours == b'_' && theirs == b'-'))
    };
    CLAIMS.iter().any(|claim| alike(claim))
}

/// Makes all values of a list field one, with ours at its right end.
fn append(headers: &mut HeaderMap, name: &HeaderName, own: HeaderValue) {
    if !headers.contains_key(name) {
        headers.insert(name.clone(), own);
        return;
    }
    let held = headers.get_all(name).iter().map(|value| value.len() + 2).sum::<usize>();
    let mut list = Vec::with_capacity(held + own.len());
    for value in headers.get_all(name).iter().filter(|value| !value.is_empty()) {
        list.extend_from_slice(value.as_bytes());
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(own.as_bytes());
    // Joined from valid values by valid bytes; if it were not, the field must not go up with an address that is not ours.
    match HeaderValue::from_maybe_shared(list) {
        Ok(value) => headers.insert(name.clone(), value),
        Err(_) => headers.remove(name),
    };
}

/// An address as proxies write it: bare, or with a port, IPv6 in brackets or bare. None for `unknown`, `_hidden`, names.
fn parse_node(node: &str) -> Option<ClientAddress> {
    if let Ok(ip) = node.parse::<IpAddr>() {
        return Some(ClientAddress { ip: ip.to_canonical(), port: None });
    }
    if let Ok(address) = node.parse::<SocketAddr>() {
        return Some(ClientAddress { ip: address.ip().to_canonical(), port: Some(address.port()) });
    }
    let bracketed = node.strip_prefix('[')?.strip_suffix(']')?;
    let ip = bracketed.parse::<std::net::Ipv6Addr>().ok()?;
    Some(ClientAddress { ip: IpAddr::V6(ip).to_canonical(), port: None })
}

/// Gives the `for=` of each element of one `Forwarded` line to `take`, left to right; None for an element without a
/// readable one. A syntax error makes the rest of the line one such element, so that a quote left open by the client
/// cannot hide what a trusted proxy appended: it then counts as nothing, not as the client's word.
fn each_forwarded_for(line: &str, take: &mut impl FnMut(Option<ClientAddress>)) {
    let mut rest = line;
    loop {
        let mut node = None;
        let mut sound = true;
        loop {
            let Some((name, value, after)) = forwarded_pair(rest) else {
                take(None);
                return;
            };
            if name.eq_ignore_ascii_case("for") && node.replace(value).is_some() {
                sound = false;
            }
            rest = after;
            let Some(next) = rest.strip_prefix(';') else {
                break;
            };
            rest = next;
        }
        take(node.filter(|_| sound).and_then(parse_node));
        let Some(next) = rest.strip_prefix(',') else {
            if !rest.is_empty() {
                take(None);
            }
            return;
        };
        rest = next;
    }
}

/// One `name=value` (RFC 7239 §4) and what follows it. Escapes in quoted strings occur in no address and are refused.
fn forwarded_pair(input: &str) -> Option<(&str, &str, &str)> {
    let blank = [' ', '\t'];
    let (name, rest) = input.trim_start_matches(blank).split_once('=')?;
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_') {
        return None;
    }
    let (value, rest) = if let Some(quoted) = rest.strip_prefix('"') {
        let (value, rest) = quoted.split_once('"')?;
        if value.contains('\\') {
            return None;
        }
        (value, rest)
    } else {
        // Bare values with colons are not tokens, but proxies write them.
        rest.split_at(rest.find([',', ';', ' ', '\t', '"']).unwrap_or(rest.len()))
    };
    let rest = rest.trim_start_matches(blank);
    let ends = rest.is_empty() || rest.starts_with([',', ';']);
    ends.then_some((name, value, rest))
}

#[cfg(test)]
mod tests;
