//! Who comes in, where it goes, who pays: `[[listeners]]`, `[[upstreams]]`, `[[attribution]]`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Serialize, Serializer};

use super::serialized;

/// `[[listeners]]`: one address clients connect to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Listener {
    /// Unique; in every record and metric of the listener.
    pub name: String,
    /// Port 0 lets the kernel choose.
    pub listen: SocketAddr,
    /// What is spoken.
    pub kind: ListenerKind,
    /// PROXY protocol header in front of the connection.
    pub proxy_protocol: ProxyProtocolIn,
    /// Peers whose PROXY header, forwarded header and request id are believed. Never empty with `ProxyProtocolIn::Optional`
    /// or a `forwarded` header. With `ProxyProtocolIn::Required`, empty means every peer.
    pub trusted_proxies: Vec<IpNet>,
    /// Header that names the client when the peer is trusted.
    pub forwarded: ForwardedHeader,
    /// None for plain; always None for `ListenerKind::TlsPassthrough`.
    pub tls: Option<ListenerTls>,
    /// HTTP/2, by ALPN with TLS and by preface without; only for `ListenerKind::Http`.
    pub http2: bool,
    /// Plain CONNECT opens a tunnel to the routed upstream (never to an address of the client's choice).
    pub allow_connect: bool,
    /// Account of what no rule and no route gives to someone else.
    pub account: Option<String>,
    /// Endpoint of what no rule and no route names otherwise.
    pub endpoint: Option<String>,
    /// At least one. Most specific first, so the first that matches wins: exact hosts, then wildcards from the longest, then
    /// any host; within one host the longest path prefix first. The listener's own `upstream` is the last one (`*`, `/`).
    pub routes: Vec<Route>,
}

/// What a listener speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ListenerKind {
    /// HTTP/1 and HTTP/2.
    Http,
    /// Raw TCP, with or without TLS termination.
    Tcp,
    /// TLS routed by SNI without being opened.
    TlsPassthrough,
}

/// PROXY protocol on the way in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProxyProtocolIn {
    /// Never looked for.
    Off,
    /// Looked for when the peer is in `trusted_proxies`, else never.
    Optional,
    /// A connection without one is closed; so is one from outside `trusted_proxies` when that is given.
    Required,
}

/// PROXY protocol on the way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProxyProtocolOut {
    /// None sent.
    Off,
    /// The text form.
    V1,
    /// The binary form.
    V2,
}

/// Header that says who the client is, believed from trusted peers only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForwardedHeader {
    /// None is believed.
    Off,
    /// `X-Forwarded-For`, rightmost untrusted address.
    XForwardedFor,
    /// `Forwarded` (RFC 7239), rightmost untrusted `for=`.
    Forwarded,
}

/// TLS of a listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ListenerTls {
    /// At least one; chosen by SNI, the first one when nothing fits.
    pub certificates: Vec<CertificateFiles>,
    /// Verification of clients.
    #[serde(flatten)]
    pub client_auth: ClientAuth,
    /// Oldest version spoken.
    pub version_min: TlsVersion,
}

/// PEM files, by absolute name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct CertificateFiles {
    /// Certificate chain, leaf first.
    #[serde(serialize_with = "serialized::path")]
    pub certificate: PathBuf,
    /// Private key.
    #[serde(serialize_with = "serialized::path")]
    pub key: PathBuf,
}

/// Verification of client certificates against the authorities in a PEM file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "client_auth", rename_all = "snake_case")]
pub enum ClientAuth {
    /// None is asked for.
    Off,
    /// Asked for; a client without one is served, one with a wrong one is not.
    Optional {
        /// PEM file of authorities.
        #[serde(serialize_with = "serialized::path")]
        client_ca: PathBuf,
    },
    /// A client without a good one is refused.
    Required {
        /// PEM file of authorities.
        #[serde(serialize_with = "serialized::path")]
        client_ca: PathBuf,
    },
}

/// A TLS version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum TlsVersion {
    /// 1.2
    #[serde(rename = "1.2")]
    V1_2,
    /// 1.3
    #[serde(rename = "1.3")]
    V1_3,
}

/// `[[listeners.routes]]`: what goes where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Route {
    /// Host of the request, or SNI where there is no request.
    pub host: HostPattern,
    /// Begins with `/`; matches whole segments: `/api` matches `/api` and `/api/x`, not `/apix`. `/` matches everything.
    pub path_prefix: String,
    /// Where it goes; see [`super::Config::upstream`].
    pub upstream: UpstreamId,
    /// The route's account, or else its listener's.
    pub account: Option<String>,
    /// The route's endpoint, or else its listener's.
    pub endpoint: Option<String>,
}

impl Route {
    /// Whether the route takes a request. `host` is lower case and without a port; `path` has no query.
    pub fn matches(&self, host: &str, path: &str) -> bool {
        self.host.matches(host) && path_has_prefix(path, &self.path_prefix)
    }
}

/// Whether `path` begins with `prefix` at a segment's end: `/api` is a prefix of `/api` and `/api/x`, not of `/apix`.
pub(crate) fn path_has_prefix(path: &str, prefix: &str) -> bool {
    let Some(rest) = path.strip_prefix(prefix) else {
        return prefix == "/";
    };
    rest.is_empty() || prefix.ends_with('/') || rest.starts_with('/')
}

/// Which hosts are meant; lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// This one.
    Exact(String),
    /// `*.example.com`: every name below, at any depth, not the name itself. Held as `.example.com`.
    Wildcard(String),
    /// Every one, also none at all.
    Any,
}

impl HostPattern {
    /// `host` is lower case and without a port; empty when there is none.
    pub fn matches(&self, host: &str) -> bool {
        match self {
            HostPattern::Exact(name) => host == name,
            HostPattern::Wildcard(suffix) => host.len() > suffix.len() && host.ends_with(suffix.as_str()),
            HostPattern::Any => true,
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostPattern::Exact(name) => f.write_str(name),
            HostPattern::Wildcard(suffix) => write!(f, "*{suffix}"),
            HostPattern::Any => f.write_str("*"),
        }
    }
}

impl Serialize for HostPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Position of an upstream in [`super::Config::upstreams`] of the same configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct UpstreamId(pub(super) usize);

impl UpstreamId {
    /// The position.
    pub fn index(self) -> usize {
        self.0
    }
}

/// `[[upstreams]]`: a group of servers that answer alike.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Upstream {
    /// Unique.
    pub name: String,
    /// At least one.
    pub servers: Vec<Server>,
    /// How a server is chosen.
    pub balance: Balance,
    /// What is spoken to them.
    pub protocol: UpstreamProtocol,
    /// None for plain. Servers written `https://…` have it without being told.
    pub tls: Option<UpstreamTls>,
    /// PROXY protocol header sent first on every connection, which then serves one downstream session only.
    pub proxy_protocol: ProxyProtocolOut,
    /// TCP and TLS handshakes together.
    #[serde(rename = "connect_timeout_ms", serialize_with = "serialized::milliseconds")]
    pub connect_timeout: Duration,
    /// Further attempts, only where no byte of the request can have been acted on.
    pub retries: u32,
    /// Idle connections kept, per worker; 0 keeps none.
    pub idle_connections_max: usize,
    /// How long an idle connection is kept.
    #[serde(rename = "idle_timeout_ms", serialize_with = "serialized::milliseconds")]
    pub idle_timeout: Duration,
    /// Active checks; None for none.
    pub health: Option<HealthCheck>,
    /// Passive ejection; None for none.
    pub ejection: Option<Ejection>,
}

/// One server of an upstream; prints as `host:port`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Server {
    /// Address, or a name to resolve.
    pub host: ServerHost,
    /// Never 0.
    pub port: u16,
}

/// Where a server is; prints an IPv6 address without brackets.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ServerHost {
    /// An address.
    Ip(IpAddr),
    /// A DNS name, lower case, resolved at run time.
    Name(String),
}

impl fmt::Display for ServerHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServerHost::Ip(ip) => ip.fmt(f),
            ServerHost::Name(name) => f.write_str(name),
        }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            ServerHost::Ip(ip) => SocketAddr::new(*ip, self.port).fmt(f),
            ServerHost::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

impl Serialize for Server {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// How a server of a group is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// In turn.
    RoundRobin,
    /// The one with the fewest requests (or tunnels) open.
    LeastConnections,
}

/// What is spoken to an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum UpstreamProtocol {
    /// With TLS what ALPN agrees on; without, HTTP/1.1, except that gRPC goes as HTTP/2.
    Auto,
    /// HTTP/1.1.
    H1,
    /// HTTP/2, without TLS by prior knowledge.
    H2,
}

/// TLS to an upstream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UpstreamTls {
    /// Name sent as SNI and verified; None: the server's own host.
    pub server_name: Option<String>,
    /// PEM file of authorities; None: the public ones.
    #[serde(serialize_with = "serialized::path_or_none")]
    pub ca: Option<PathBuf>,
    /// No verification at all.
    pub insecure: bool,
    /// What we show when asked (keys `client_certificate`, `client_key`).
    pub client: Option<CertificateFiles>,
}

/// Active health checks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HealthCheck {
    /// What is asked.
    #[serde(flatten)]
    pub kind: HealthKind,
    /// Between checks of one server.
    #[serde(rename = "interval_ms", serialize_with = "serialized::milliseconds")]
    pub interval: Duration,
    /// Good answers in a row that bring a server back.
    pub healthy_after: u32,
    /// Bad ones in a row that take it out.
    pub unhealthy_after: u32,
}

/// What a health check asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum HealthKind {
    /// A connection.
    Tcp,
    /// A 2xx answer to GET.
    Http {
        /// Begins with `/`.
        path: String,
    },
}

/// Passive ejection: a server that fails real traffic rests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ejection {
    /// Failures in a row to connect or to answer at all.
    pub consecutive_failures: u32,
    /// How long it rests; the last server of a group never does.
    #[serde(rename = "for_ms", serialize_with = "serialized::milliseconds")]
    pub rest: Duration,
}

/// `[[attribution]]`: who is billed for what matches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AttributionRule {
    /// Unique; goes into the record's `attribution`.
    pub name: String,
    /// All that are given must hold; none given matches everything.
    #[serde(flatten)]
    pub conditions: Conditions,
    /// Where the account comes from.
    #[serde(flatten)]
    pub account: AccountSource,
    /// Overrides the route's.
    pub endpoint: Option<String>,
}

/// What a rule looks at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Conditions {
    /// Name of a listener that exists.
    pub listener: Option<String>,
    /// Host of the request.
    pub host: Option<HostPattern>,
    /// Whole segments, as in [`Route::path_prefix`].
    pub path_prefix: Option<String>,
    /// Server name the client asked for in TLS.
    pub sni: Option<HostPattern>,
    /// Client address is in one of them; empty: not looked at.
    pub client_cidr: Vec<IpNet>,
    /// Subject of the verified client certificate, exactly.
    pub tls_subject: Option<String>,
    /// One of its alternative names, exactly.
    pub tls_san: Option<String>,
    /// A header of the request, from a trusted peer.
    pub header: Option<HeaderCondition>,
}

/// A header that must be there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HeaderCondition {
    /// Lower case.
    pub name: String,
    /// Exactly this value, or any when None. May be a secret.
    pub value: Option<String>,
}

/// Where an account comes from. A rule whose source is absent on a request does not match it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccountSource {
    /// The file says it: `account = "…"`.
    Fixed(String),
    /// A text of the connection or request is the account itself: `account_from = "host"`.
    Text(TextSource),
    /// Whose the client's address is by the table of networks: `account_from = "client_cidr"`.
    Networks,
    /// A table says whose a text is: `account_from = { table = "…", by = "host" }`.
    Table {
        /// Name of an [`AccountTable`] that exists.
        table: String,
        /// What is looked up in it.
        by: TextSource,
    },
}

/// A text of a connection or request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TextSource {
    /// Subject of the verified client certificate.
    TlsSubject,
    /// Its alternative names; as an account, the first.
    TlsSan,
    /// Server name the client asked for in TLS.
    Sni,
    /// Host of the request.
    Host,
    /// Value of this request header (lower case): `{ header = "…" }`.
    Header(String),
    /// A field of the PROXY header, by its type: `{ proxy_field = 224 }`.
    ProxyField(u8),
}

impl TextSource {
    fn shown(&self) -> serde_json::Value {
        match self {
            TextSource::TlsSubject => "tls_subject".into(),
            TextSource::TlsSan => "tls_san".into(),
            TextSource::Sni => "sni".into(),
            TextSource::Host => "host".into(),
            TextSource::Header(name) => serde_json::json!({ "header": name }),
            TextSource::ProxyField(kind) => serde_json::json!({ "proxy_field": kind }),
        }
    }
}

impl Serialize for AccountSource {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            AccountSource::Fixed(account) => serde_json::json!({ "account": account }),
            AccountSource::Text(text) => serde_json::json!({ "account_from": text.shown() }),
            AccountSource::Networks => serde_json::json!({ "account_from": "client_cidr" }),
            AccountSource::Table { table, by } => {
                serde_json::json!({ "account_from": { "table": table, "by": by.shown() } })
            }
        }
        .serialize(serializer)
    }
}

/// `[[account_tables]]`: a file that says whose names or keys are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AccountTable {
    /// Unique.
    pub name: String,
    /// What the first column is.
    pub kind: TableKind,
    /// CSV, read again when it changes.
    #[serde(serialize_with = "serialized::path")]
    pub file: PathBuf,
    /// File of the secret that keys are hashed with; there exactly for [`TableKind::Keys`] (key `hash_key`).
    #[serde(rename = "hash_key", serialize_with = "serialized::path_or_none")]
    pub secret: Option<PathBuf>,
}

/// What an [`AccountTable`] holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TableKind {
    /// Hosts and other names, exact or `*.domain`.
    Names,
    /// Keyed hashes of API keys.
    Keys,
}
