//! `[[listeners]]` and their routes: every option fits the listener's kind, and routes are put into order.

use std::cmp::Reverse;
use std::net::SocketAddr;
use std::ops::Range;

use toml::Spanned;

use super::fields::{Check, Pem, Section};
use super::raw::{RawConfig, RawListener, RawListenerTls, RawRoute};
use super::{
    CertificateFiles, ClientAuth, ForwardedHeader, HostPattern, Listener, ListenerKind, ListenerTls, ProxyProtocolIn,
    Route, TlsVersion, Upstream, check_upstreams, syntax,
};

/// The listeners in the file's order. Short forms of upstreams are added to `upstreams`.
pub(super) fn listeners(check: &mut Check, raw: &RawConfig, upstreams: &mut Vec<Upstream>) -> Vec<Listener> {
    let mut listeners: Vec<Listener> = Vec::new();
    for (index, given) in raw.listeners.iter().enumerate() {
        let name = given.get_ref().name.as_ref();
        let at = name.map_or(format!("listeners[{index}]"), |name| format!("listeners.{}", name.get_ref()));
        let mut section = check.section(at);
        let listener = listener(&mut section, given.get_ref(), given.span(), upstreams);
        if let Some(name) = name
            && !listener.name.is_empty()
            && listeners.iter().any(|other| other.name == listener.name)
        {
            section.wrong(name.span(), "name", "is used twice", "give each listener a name of its own");
        }
        listeners.push(listener);
    }
    // A machine that only keeps a ledger, or an archive, forwards nothing.
    if raw.listeners.is_empty() && raw.ledger.is_none() && raw.archive.is_none() {
        let action =
            "write [[listeners]] with name, listen and upstream (or [ledger], if this machine only keeps the ledger)";
        check.section("").wrong(0..0, "listeners", "there is none", action);
    }
    listeners
}

fn listener(
    section: &mut Section<'_>,
    raw: &RawListener,
    span: Range<usize>,
    upstreams: &mut Vec<Upstream>,
) -> Listener {
    if raw.name.is_none() {
        section.missing(span.clone(), "name", "write name = \"…\"");
    }
    let listen = match &raw.listen {
        Some(given) => section.address("listen", given),
        None => {
            section.missing(span.clone(), "listen", "write listen = \"127.0.0.1:8080\"");
            None
        }
    };
    let kinds =
        [("http", ListenerKind::Http), ("tcp", ListenerKind::Tcp), ("tls-passthrough", ListenerKind::TlsPassthrough)];
    let kind = section.choice("kind", &raw.kind, ListenerKind::Http, &kinds);
    fits_kind(section, raw, kind);
    let proxy_protocols = [
        ("off", ProxyProtocolIn::Off),
        ("optional", ProxyProtocolIn::Optional),
        ("required", ProxyProtocolIn::Required),
    ];
    let forwarded_headers = [
        ("off", ForwardedHeader::Off),
        ("x-forwarded-for", ForwardedHeader::XForwardedFor),
        ("forwarded", ForwardedHeader::Forwarded),
    ];
    let mut listener = Listener {
        name: section.parsed("name", &raw.name, syntax::name).unwrap_or_default(),
        // Stands for what was noted as wrong; port 0 is never found to be used twice.
        listen: listen.unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0))),
        kind,
        proxy_protocol: section.choice("proxy_protocol", &raw.proxy_protocol, ProxyProtocolIn::Off, &proxy_protocols),
        trusted_proxies: section.networks("trusted_proxies", &raw.trusted_proxies),
        forwarded: section.choice("forwarded", &raw.forwarded, ForwardedHeader::Off, &forwarded_headers),
        tls: raw.tls.as_ref().map(|tls| listener_tls(section, tls)),
        http2: raw.http2.as_ref().map_or(kind == ListenerKind::Http, |given| *given.get_ref()),
        allow_connect: raw.allow_connect.as_ref().is_some_and(|given| *given.get_ref()),
        account: section.parsed("account", &raw.account, syntax::label),
        endpoint: section.parsed("endpoint", &raw.endpoint, syntax::label),
        routes: Vec::new(),
    };
    somebody_is_trusted(section, raw, &listener);
    listener.routes = routes(section, raw, span, &listener, upstreams);
    listener
}

/// Options that only make sense with another kind of listener.
fn fits_kind(section: &mut Section<'_>, raw: &RawListener, kind: ListenerKind) {
    let only_http = [
        ("http2", raw.http2.as_ref().map(|given| given.span())),
        ("allow_connect", raw.allow_connect.as_ref().map(|given| given.span())),
        ("forwarded", raw.forwarded.as_ref().map(|given| given.span())),
    ];
    for (name, span) in only_http {
        if let (Some(span), true) = (span, kind != ListenerKind::Http) {
            section.wrong(span, name, "is about HTTP", "leave it out, or write kind = \"http\"");
        }
    }
    if let (Some(tls), ListenerKind::TlsPassthrough) = (&raw.tls, kind) {
        let what = "is not opened by a tls-passthrough listener";
        section.wrong(tls.span(), "tls", what, "leave it out, or write kind = \"tcp\"");
    }
    if kind == ListenerKind::Tcp && raw.tls.is_none() {
        for route in &raw.routes {
            let what = "cannot be chosen: plain TCP names no host";
            section.wrong(route.span(), "routes", what, "write upstream in the listener instead, or add tls");
        }
    }
}

/// What is believed from trusted peers needs trusted peers.
fn somebody_is_trusted(section: &mut Section<'_>, raw: &RawListener, listener: &Listener) {
    if !listener.trusted_proxies.is_empty()
        || raw.trusted_proxies.as_ref().is_some_and(|list| !list.get_ref().is_empty())
    {
        return;
    }
    let action = "write trusted_proxies = [\"10.0.0.0/8\"], the networks of your proxies";
    if let (Some(given), ProxyProtocolIn::Optional) = (&raw.proxy_protocol, listener.proxy_protocol) {
        section.wrong(given.span(), "proxy_protocol", "\"optional\" is believed from trusted_proxies only", action);
    }
    if let Some(given) = &raw.forwarded
        && listener.forwarded != ForwardedHeader::Off
    {
        let what = format!("{:?} is believed from trusted_proxies only", given.get_ref());
        section.wrong(given.span(), "forwarded", what, action);
    }
}

fn listener_tls(section: &mut Section<'_>, given: &Spanned<RawListenerTls>) -> ListenerTls {
    let section = &mut section.check.section(format!("{}.tls", section.at));
    let raw = given.get_ref();
    let mut certificates = Vec::new();
    let short = (raw.certificate.as_ref(), raw.key.as_ref());
    if short != (None, None) {
        certificates.extend(certificate(section, short.0, short.1, given.span()));
    }
    for given in &raw.certificates {
        let pair = given.get_ref();
        certificates.extend(certificate(section, pair.certificate.as_ref(), pair.key.as_ref(), given.span()));
    }
    if short == (None, None) && raw.certificates.is_empty() {
        section.missing(given.span(), "certificate", "write certificate = \"cert.pem\" and key = \"key.pem\"");
    }
    let versions = [("1.2", TlsVersion::V1_2), ("1.3", TlsVersion::V1_3)];
    ListenerTls {
        certificates,
        client_auth: client_auth(section, raw),
        version_min: section.choice("version_min", &raw.version_min, TlsVersion::V1_2, &versions),
    }
}

/// A certificate and its key, which go together.
pub(super) fn certificate(
    section: &mut Section<'_>,
    certificate: Option<&Spanned<String>>,
    key: Option<&Spanned<String>>,
    span: Range<usize>,
) -> Option<CertificateFiles> {
    if certificate.is_none() {
        section.missing(span.clone(), "certificate", "write the certificate that belongs to the key");
    }
    if key.is_none() {
        section.missing(span, "key", "write the key that belongs to the certificate");
    }
    let certificate = certificate.map(|given| section.pem("certificate", given, Pem::Certificate));
    let key = key.map(|given| section.pem("key", given, Pem::Key));
    Some(CertificateFiles { certificate: certificate?, key: key? })
}

fn client_auth(section: &mut Section<'_>, raw: &RawListenerTls) -> ClientAuth {
    #[derive(Clone, Copy, PartialEq)]
    enum Word {
        Off,
        Optional,
        Required,
    }
    let words = [("off", Word::Off), ("optional", Word::Optional), ("required", Word::Required)];
    let word = section.choice("client_auth", &raw.client_auth, Word::Off, &words);
    let client_ca = raw.client_ca.as_ref().map(|given| section.pem("client_ca", given, Pem::Certificate));
    match (word, client_ca) {
        (Word::Off, None) => ClientAuth::Off,
        (Word::Optional, Some(client_ca)) => ClientAuth::Optional { client_ca },
        (Word::Required, Some(client_ca)) => ClientAuth::Required { client_ca },
        (Word::Off, Some(_)) => {
            if let Some(given) = &raw.client_ca {
                let action = "write client_auth = \"required\" or \"optional\", or leave client_ca out";
                section.wrong(given.span(), "client_ca", "is never looked at with client_auth = \"off\"", action);
            }
            ClientAuth::Off
        }
        (_, None) => {
            let span = raw.client_auth.as_ref().map_or(0..0, |given| given.span());
            section.missing(span, "client_ca", "write the PEM file of authorities that clients are checked against");
            ClientAuth::Off
        }
    }
}

/// All routes, the most specific first, the listener's own `upstream` as the last.
fn routes(
    section: &mut Section<'_>,
    raw: &RawListener,
    span: Range<usize>,
    listener: &Listener,
    upstreams: &mut Vec<Upstream>,
) -> Vec<Route> {
    let mut routes: Vec<Route> = Vec::new();
    let at = section.at.clone();
    for (index, given) in raw.routes.iter().enumerate() {
        let section = &mut section.check.section(format!("{at}.routes[{index}]"));
        let Some(route) = route(section, given, listener, upstreams) else {
            continue;
        };
        if routes.iter().any(|other| other.host == route.host && other.path_prefix == route.path_prefix) {
            let what = format!("{} {} is routed twice", route.host, route.path_prefix);
            section.wrong(given.span(), "host", what, "leave one of them out");
        }
        forwards_tls_as_it_is(section, given.span(), listener, &upstreams[route.upstream.index()]);
        routes.push(route);
    }
    if let Some(upstream) = check_upstreams::meant(section, &raw.upstream, upstreams) {
        let span = raw.upstream.as_ref().map_or(span, |given| given.span());
        if routes.iter().any(|route| route.host == HostPattern::Any && route.path_prefix == "/") {
            let what = "is never reached: a route already takes every host and path";
            section.wrong(span.clone(), "upstream", what, "leave one of them out");
        }
        forwards_tls_as_it_is(section, span, listener, &upstreams[upstream.index()]);
        routes.push(Route {
            host: HostPattern::Any,
            path_prefix: "/".to_string(),
            upstream,
            account: listener.account.clone(),
            endpoint: listener.endpoint.clone(),
        });
    } else if raw.upstream.is_none() && raw.routes.is_empty() {
        section.missing(span, "upstream", "write upstream = \"127.0.0.1:3000\", or [[listeners.routes]]");
    }
    routes.sort_by_key(|route| {
        let (rank, host_bytes) = match &route.host {
            HostPattern::Exact(name) => (0, name.len()),
            HostPattern::Wildcard(suffix) => (1, suffix.len()),
            HostPattern::Any => (2, 0),
        };
        let host = route.host.to_string();
        (rank, Reverse(host_bytes), host, Reverse(route.path_prefix.len()), route.path_prefix.clone())
    });
    routes
}

fn route(
    section: &mut Section<'_>,
    given: &Spanned<RawRoute>,
    listener: &Listener,
    upstreams: &mut Vec<Upstream>,
) -> Option<Route> {
    let raw = given.get_ref();
    if raw.upstream.is_none() {
        section.missing(given.span(), "upstream", "write the name of one of [[upstreams]], or an address");
    }
    if let Some(path) = &raw.path_prefix
        && listener.kind != ListenerKind::Http
    {
        section.wrong(path.span(), "path_prefix", "is about HTTP", "leave it out, or write kind = \"http\"");
    }
    let host = match &raw.host {
        Some(_) => section.parsed("host", &raw.host, syntax::host_pattern),
        None => Some(HostPattern::Any),
    };
    let path_prefix = match &raw.path_prefix {
        Some(_) => section.parsed("path_prefix", &raw.path_prefix, syntax::path_prefix),
        None => Some("/".to_string()),
    };
    let upstream = check_upstreams::meant(section, &raw.upstream, upstreams);
    let account = section.parsed("account", &raw.account, syntax::label);
    let endpoint = section.parsed("endpoint", &raw.endpoint, syntax::label);
    Some(Route {
        host: host?,
        path_prefix: path_prefix?,
        upstream: upstream?,
        account: account.or_else(|| listener.account.clone()),
        endpoint: endpoint.or_else(|| listener.endpoint.clone()),
    })
}

/// A listener that does not open TLS cannot put TLS of its own around it.
fn forwards_tls_as_it_is(section: &mut Section<'_>, span: Range<usize>, listener: &Listener, upstream: &Upstream) {
    if listener.kind == ListenerKind::TlsPassthrough && upstream.tls.is_some() {
        let what = format!("{:?} has tls of its own, but the client's is passed through", upstream.name);
        section.wrong(span, "upstream", what, "name an upstream without tls and https://");
    }
}
