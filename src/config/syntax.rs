//! How names, hosts, paths and servers are written. Each function returns the value, or what is wrong and what to do.

use http::HeaderName;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::routing::{HostPattern, Server, ServerHost};

/// What is wrong, what to do.
type Wrong = (String, String);

fn wrong<T>(what: String, action: &str) -> Result<T, Wrong> {
    Err((what, action.to_string()))
}

/// Name of a listener, an upstream or a rule; it goes into records and metric labels.
pub(super) fn name(text: &str) -> Result<String, Wrong> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if text.is_empty() || text.len() > 64 || !text.bytes().all(good) {
        return wrong(format!("{text:?} is not a name"), "write 1 to 64 of A-Z a-z 0-9 - _ .");
    }
    Ok(text.to_string())
}

/// Name of an account, an endpoint or a node.
pub(super) fn label(text: &str) -> Result<String, Wrong> {
    if text.is_empty() || text.len() > 128 || text.chars().any(char::is_control) {
        return wrong(format!("{text:?} cannot be used"), "write 1 to 128 bytes without control characters");
    }
    Ok(text.to_string())
}

/// Any text that may be compared with: not empty.
pub(super) fn not_empty(text: &str) -> Result<String, Wrong> {
    if text.is_empty() {
        return wrong("is empty".to_string(), "write a text or leave the key out");
    }
    Ok(text.to_string())
}

/// Name of a header field, lower case (RFC 9110 §5.1).
pub(super) fn header_name(text: &str) -> Result<String, Wrong> {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if text.is_empty() || text.len() > 64 || !text.bytes().all(token) {
        return wrong(format!("{text:?} is not a header name"), "write letters, digits and -, like \"x-name\"");
    }
    Ok(text.to_ascii_lowercase())
}

/// Header fields that frame or route a message; weir must not write its request id there.
const FRAMING_HEADERS: [&str; 10] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "forwarded",
];

/// Name of the header that carries a request id.
pub(super) fn request_id_header(text: &str) -> Result<HeaderName, Wrong> {
    let name = header_name(text)?;
    if FRAMING_HEADERS.contains(&name.as_str()) {
        return wrong(format!("{text:?} has a meaning of its own"), "write one like \"x-request-id\"");
    }
    HeaderName::try_from(name)
        .or_else(|_| wrong(format!("{text:?} is not a header name"), "write one like \"x-request-id\""))
}

/// Beginning of a path, by whole segments.
pub(super) fn path_prefix(text: &str) -> Result<String, Wrong> {
    if !text.starts_with('/') {
        return wrong(format!("{text:?} does not begin with /"), "write it like \"/api\"");
    }
    if text.len() > 1024 || !text.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#\"<>\\".contains(&byte)) {
        return wrong(format!("{text:?} is not a path"), "percent-encode it and leave out query and fragment");
    }
    if text.split('/').any(|segment| segment == "." || segment == "..") {
        return wrong(format!("{text:?} has a dot segment"), "write the path it leads to");
    }
    Ok(text.to_string())
}

/// `example.com`, `*.example.com`, an address, or `*`.
pub(super) fn host_pattern(text: &str) -> Result<HostPattern, Wrong> {
    if text == "*" {
        return Ok(HostPattern::Any);
    }
    if let Some(suffix) = text.strip_prefix("*.") {
        return Ok(HostPattern::Wildcard(format!(".{}", dns_name(suffix)?)));
    }
    if text.contains('*') {
        return wrong(format!("{text:?} has a * in the wrong place"), "write \"*.example.com\" or \"*\"");
    }
    let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if let Ok(address) = inner.parse::<Ipv6Addr>() {
        return Ok(HostPattern::Exact(format!("[{address}]")));
    }
    if text.contains(':') {
        return wrong(format!("{text:?} is not a host"), "write it without scheme and port");
    }
    if let Ok(IpAddr::V4(address)) = text.parse() {
        return Ok(HostPattern::Exact(address.to_string()));
    }
    Ok(HostPattern::Exact(dns_name(text)?))
}

/// A DNS name, lower case, without a final dot.
pub(super) fn dns_name(text: &str) -> Result<String, Wrong> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    if !name.is_ascii() {
        return wrong(format!("{text:?} is not ASCII"), "write it in its xn-- form");
    }
    let label_is_good = |label: &str| {
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(inner)
    };
    let last_is_number = name.rsplit('.').next().is_some_and(|label| label.bytes().all(|byte| byte.is_ascii_digit()));
    if name.len() > 253 || !name.split('.').all(label_is_good) || last_is_number {
        return wrong(format!("{text:?} is not a host name"), "write a name like \"api.example.com\" or an IP address");
    }
    Ok(name)
}

/// A server of an upstream and whether its scheme asks for TLS (None: it has no scheme).
pub(super) fn server(text: &str) -> Result<(Server, Option<bool>), Wrong> {
    let like = "write it like \"127.0.0.1:3000\", \"[::1]:3000\", \"name:3000\" or \"https://name\"";
    let (rest, tls) = match text.split_once("://") {
        Some(("http", rest)) => (rest, Some(false)),
        Some(("https", rest)) => (rest, Some(true)),
        Some((scheme, _)) => {
            return wrong(format!("{text:?}: scheme {scheme:?} is not known"), like);
        }
        None => (text, None),
    };
    let rest = if tls.is_some() { rest.strip_suffix('/').unwrap_or(rest) } else { rest };
    if rest.contains(['/', '?', '#', '@']) {
        return wrong(format!("{text:?} is more than a host and a port"), like);
    }
    if let Ok(address) = rest.parse::<SocketAddr>() {
        return with_port(text, ServerHost::Ip(address.ip()), address.port(), tls);
    }
    let default_port = tls.map(|tls| if tls { 443 } else { 80 });
    let bare = rest.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(rest);
    let host_and_port = match (bare.parse::<IpAddr>(), rest.rsplit_once(':')) {
        (Ok(address), _) => default_port.map(|port| (ServerHost::Ip(address), port)),
        (Err(_), Some((host, port))) => match port.parse() {
            Ok(port) => Some((ServerHost::Name(dns_name(host)?), port)),
            Err(_) => {
                return wrong(format!("{text:?}: port {port:?} is not a port"), "write 1 to 65535");
            }
        },
        (Err(_), None) => match default_port {
            Some(port) => Some((ServerHost::Name(dns_name(rest)?), port)),
            None => None,
        },
    };
    match host_and_port {
        Some((host, port)) => with_port(text, host, port, tls),
        None => wrong(format!("{text:?} has no port"), like),
    }
}

fn with_port(text: &str, host: ServerHost, port: u16, tls: Option<bool>) -> Result<(Server, Option<bool>), Wrong> {
    if port == 0 {
        return wrong(format!("{text:?}: port 0 is not a port"), "write 1 to 65535");
    }
    Ok((Server { host, port }, tls))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_in_every_form() {
        for (text, expected) in [
            ("127.0.0.1:3000", Some(("127.0.0.1:3000", None))),
            ("[::1]:3000", Some(("[::1]:3000", None))),
            ("Origin:3000", Some(("origin:3000", None))),
            ("http://origin", Some(("origin:80", Some(false)))),
            ("https://api.example.com/", Some(("api.example.com:443", Some(true)))),
            ("https://[::1]", Some(("[::1]:443", Some(true)))),
            ("https://10.0.0.1:8443", Some(("10.0.0.1:8443", Some(true)))),
            ("127.0.0.1", None),
            ("::1", None),
            ("origin", None),
            ("origin:0", None),
            ("origin:70000", None),
            ("300.1.1.1:80", None),
            ("ftp://origin", None),
            ("http://origin/path", None),
            ("http://user@origin", None),
            (":3000", None),
            ("", None),
            ("http://", None),
        ] {
            let read = server(text).ok().map(|(server, tls)| (server.to_string(), tls));
            assert_eq!(read, expected.map(|(text, tls)| (text.to_string(), tls)), "{text}");
        }
    }

    #[test]
    fn host_patterns_are_read_and_match() {
        for (pattern, host, expected) in [
            ("*", "", Some(true)),
            ("Example.com", "example.com", Some(true)),
            ("example.com.", "example.com", Some(true)),
            ("*.example.com", "a.example.com", Some(true)),
            ("*.example.com", "a.b.example.com", Some(true)),
            ("*.example.com", "example.com", Some(false)),
            ("*.example.com", ".example.com", Some(false)),
            ("*.example.com", "badexample.com", Some(false)),
            ("::1", "[::1]", Some(true)),
            ("127.0.0.1", "127.0.0.1", Some(true)),
            ("example.com:80", "", None),
            ("https://example.com", "", None),
            ("a.*.com", "", None),
            ("*example.com", "", None),
            ("exa mple.com", "", None),
            ("münchen.de", "", None),
            ("", "", None),
            ("256.1.1.1", "", None),
        ] {
            let read = host_pattern(pattern).ok().map(|pattern| pattern.matches(host));
            assert_eq!(read, expected, "{pattern} {host}");
        }
    }

    #[test]
    fn path_prefixes_are_whole_segments() {
        use super::super::routing::path_has_prefix;
        for (path, prefix, expected) in [
            ("/api", "/api", true),
            ("/api/x", "/api", true),
            ("/apix", "/api", false),
            ("/api", "/api/", false),
            ("/api/x", "/api/", true),
            ("/", "/", true),
            ("/x", "/", true),
            ("*", "/", true),
            ("", "/", true),
            ("/x", "/api", false),
        ] {
            assert_eq!(path_has_prefix(path, prefix), expected, "{path} {prefix}");
        }
    }
}
