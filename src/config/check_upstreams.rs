//! `[[upstreams]]`, and the upstreams that a listener's or route's short form makes.

use std::net::IpAddr;
use std::ops::Range;
use std::time::Duration;

use toml::Spanned;

use super::fields::{Check, Pem, Section};
use super::raw::{RawEjection, RawHealth, RawUpstream, RawUpstreamTls, Text};
use super::{
    Balance, CertificateFiles, Ejection, HealthCheck, HealthKind, ProxyProtocolOut, Server, Upstream, UpstreamId,
    UpstreamProtocol, UpstreamTls, suggest, syntax,
};

/// The upstreams that the file names.
pub(super) fn named(check: &mut Check, raw: &[Spanned<RawUpstream>]) -> Vec<Upstream> {
    let mut upstreams: Vec<Upstream> = Vec::new();
    for (index, given) in raw.iter().enumerate() {
        let given_name = given.get_ref().name.as_ref();
        let at = given_name.map_or(format!("upstreams[{index}]"), |name| format!("upstreams.{}", name.get_ref()));
        let mut section = check.section(at);
        let upstream = upstream(&mut section, given.get_ref(), given.span());
        if let Some(name) = given_name
            && !upstream.name.is_empty()
            && upstreams.iter().any(|other| other.name == upstream.name)
        {
            section.wrong(name.span(), "name", "is used twice", "give each upstream a name of its own");
        }
        upstreams.push(upstream);
    }
    upstreams
}

fn upstream(section: &mut Section<'_>, raw: &RawUpstream, span: Range<usize>) -> Upstream {
    if raw.name.is_none() {
        section.missing(span.clone(), "name", "write name = \"…\", which routes then use");
    }
    let (servers, tls_by_scheme) = servers(section, raw, span);
    let tls = match &raw.tls {
        Some(given) => Some(upstream_tls(section, given.get_ref())),
        None if tls_by_scheme == Some(true) => Some(plain_tls()),
        None => None,
    };
    if let Some(given) = &raw.tls
        && tls_by_scheme == Some(false)
    {
        section.wrong(given.span(), "tls", "contradicts servers written http://", "write https://, or leave tls out");
    }
    let protocols = [("auto", UpstreamProtocol::Auto), ("h1", UpstreamProtocol::H1), ("h2", UpstreamProtocol::H2)];
    let balances = [("round_robin", Balance::RoundRobin), ("least_connections", Balance::LeastConnections)];
    let headers = [("off", ProxyProtocolOut::Off), ("v1", ProxyProtocolOut::V1), ("v2", ProxyProtocolOut::V2)];
    let at = section.at.clone();
    Upstream {
        name: section.parsed("name", &raw.name, syntax::name).unwrap_or_default(),
        servers,
        balance: section.choice("balance", &raw.balance, Balance::RoundRobin, &balances),
        protocol: section.choice("protocol", &raw.protocol, UpstreamProtocol::Auto, &protocols),
        tls,
        proxy_protocol: section.choice("proxy_protocol", &raw.proxy_protocol, ProxyProtocolOut::Off, &headers),
        connect_timeout: section.milliseconds("connect_timeout_ms", &raw.connect_timeout_ms, 2000, 10..=600_000),
        retries: section.count("retries", &raw.retries, 1, 0..=10),
        idle_connections_max: section.size("idle_connections_max", &raw.idle_connections_max, 128, 0..=65_536),
        idle_timeout: section.milliseconds("idle_timeout_ms", &raw.idle_timeout_ms, 60_000, 10..=86_400_000),
        health: health(&mut section.check.section(format!("{at}.health")), raw.health.as_ref()),
        ejection: ejection(&mut section.check.section(format!("{at}.ejection")), &raw.ejection),
    }
}

/// The servers, and whether their schemes ask for TLS (None: no scheme). All must say the same.
fn servers(section: &mut Section<'_>, raw: &RawUpstream, span: Range<usize>) -> (Vec<Server>, Option<bool>) {
    let mut servers: Vec<Server> = Vec::new();
    let mut tls_by_scheme = None;
    let given = raw.servers.iter().flat_map(|list| list.get_ref());
    for (index, given) in given.enumerate() {
        let (server, tls) = match syntax::server(given.get_ref()) {
            Ok(read) => read,
            Err((what, action)) => {
                section.wrong(given.span(), "servers", what, action);
                continue;
            }
        };
        if index > 0 && tls != tls_by_scheme {
            let what = format!("{:?} has another scheme than the one before", given.get_ref());
            section.wrong(given.span(), "servers", what, "write all with the same scheme, or all without");
        }
        tls_by_scheme = tls;
        if servers.contains(&server) {
            let what = format!("{:?} is there twice", given.get_ref());
            section.wrong(given.span(), "servers", what, "write each server once");
        }
        servers.push(server);
    }
    if raw.servers.as_ref().is_none_or(|list| list.get_ref().is_empty()) {
        let span = raw.servers.as_ref().map_or(span, |list| list.span());
        section.missing(span, "servers", "write servers = [\"127.0.0.1:3000\"]");
    }
    (servers, tls_by_scheme)
}

fn plain_tls() -> UpstreamTls {
    UpstreamTls { server_name: None, ca: None, insecure: false, client: None }
}

fn upstream_tls(section: &mut Section<'_>, raw: &RawUpstreamTls) -> UpstreamTls {
    let section = &mut section.check.section(format!("{}.tls", section.at));
    let client = match (&raw.client_certificate, &raw.client_key) {
        (Some(certificate), Some(key)) => Some(CertificateFiles {
            certificate: section.pem("client_certificate", certificate, Pem::Certificate),
            key: section.pem("client_key", key, Pem::Key),
        }),
        (Some(alone), None) => {
            section.missing(alone.span(), "client_key", "write the key of client_certificate");
            None
        }
        (None, Some(alone)) => {
            section.missing(alone.span(), "client_certificate", "write the certificate of client_key");
            None
        }
        (None, None) => None,
    };
    let insecure = raw.insecure.as_ref().is_some_and(|given| *given.get_ref());
    if let (Some(ca), true) = (&raw.ca, insecure) {
        section.wrong(ca.span(), "ca", "is never looked at with insecure = true", "leave one of them out");
    }
    UpstreamTls {
        server_name: section.parsed("server_name", &raw.server_name, syntax::dns_name),
        ca: raw.ca.as_ref().map(|ca| section.pem("ca", ca, Pem::Certificate)),
        insecure,
        client,
    }
}

fn health(section: &mut Section<'_>, raw: Option<&Spanned<RawHealth>>) -> Option<HealthCheck> {
    let raw = raw?;
    let given = raw.get_ref();
    let kinds = [("off", None), ("tcp", Some(false)), ("http", Some(true))];
    let kind = section.choice("kind", &given.kind, Some(false), &kinds);
    let check = HealthCheck {
        kind: match kind {
            Some(true) => HealthKind::Http {
                path: section.parsed("path", &given.path, health_path).unwrap_or_else(|| "/".to_string()),
            },
            _ => HealthKind::Tcp,
        },
        interval: section.milliseconds("interval_ms", &given.interval_ms, 5000, 100..=3_600_000),
        healthy_after: section.count("healthy_after", &given.healthy_after, 1, 1..=100),
        unhealthy_after: section.count("unhealthy_after", &given.unhealthy_after, 3, 1..=100),
    };
    if let (Some(path), Some(false)) = (&given.path, kind) {
        section.wrong(path.span(), "path", "is a key of an http check", "write kind = \"http\", or leave it out");
    }
    kind.map(|_| check)
}

/// The target of a check: a path, and a query if it likes.
fn health_path(text: &str) -> Result<String, (String, String)> {
    if text.starts_with('/') && text.len() <= 1024 && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        return Ok(text.to_string());
    }
    Err((format!("{text:?} is not a path"), "write it like \"/healthz\"".to_string()))
}

fn ejection(section: &mut Section<'_>, raw: &RawEjection) -> Option<Ejection> {
    let failures = section.count("consecutive_failures", &raw.consecutive_failures, 5, 0..=1000);
    let rest = section.milliseconds("for_ms", &raw.for_ms, 10_000, 100..=3_600_000);
    (failures > 0).then_some(Ejection { consecutive_failures: failures, rest })
}

/// The upstream a listener or route means: one of the named, or a server of its own with every default.
pub(super) fn meant(section: &mut Section<'_>, given: &Text, upstreams: &mut Vec<Upstream>) -> Option<UpstreamId> {
    let given = given.as_ref()?;
    let text = given.get_ref();
    if let Some(index) = upstreams.iter().position(|upstream| upstream.name == *text) {
        return Some(UpstreamId(index));
    }
    // Without names to choose from, a server was meant; so it was where an address has no port.
    if text.contains([':', '/']) || upstreams.is_empty() || text.parse::<IpAddr>().is_ok() {
        let (server, tls) = match syntax::server(text) {
            Ok(read) => read,
            Err((what, action)) => {
                section.wrong(given.span(), "upstream", what, action);
                return None;
            }
        };
        upstreams.push(short_form(text, server, tls == Some(true)));
        return Some(UpstreamId(upstreams.len() - 1));
    }
    let action = match suggest::nearest(text, upstreams.iter().map(|upstream| upstream.name.as_str())) {
        Some(near) => format!("did you mean {near:?}?"),
        None => "add [[upstreams]] of this name, or write an address like \"127.0.0.1:3000\"".to_string(),
    };
    section.wrong(given.span(), "upstream", format!("{text:?} is not the name of an upstream"), action);
    None
}

fn short_form(name: &str, server: Server, tls: bool) -> Upstream {
    Upstream {
        name: name.to_string(),
        servers: vec![server],
        balance: Balance::RoundRobin,
        protocol: UpstreamProtocol::Auto,
        tls: tls.then(plain_tls),
        proxy_protocol: ProxyProtocolOut::Off,
        connect_timeout: Duration::from_millis(2000),
        retries: 1,
        idle_connections_max: 128,
        idle_timeout: Duration::from_millis(60_000),
        health: None,
        ejection: Some(Ejection { consecutive_failures: 5, rest: Duration::from_millis(10_000) }),
    }
}
