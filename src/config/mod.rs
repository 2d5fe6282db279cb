//! The configuration: read once, checked once, and afterwards a [`Config`] that cannot be wrong.
//!
//! ```text
//! weir.toml ─ read.rs, raw.rs: TOML and serde, places kept, unknown keys refused ─┐
//!                                                                                ├─ check.rs: one conversion, all errors at once ─ Config
//! weir run --upstream … --listen … ──────────────────────────────────────────────┘
//! ```
//!
//! * **Format**: TOML. Every key, its default, unit and limit is explained in `config/weir.toml`, and a test holds that
//!   file against this code. Relative file names are relative to the configuration file.
//! * **Errors** are collected, never the first one only: each says file, line, column, key, what is wrong with which
//!   value, and what to do ([`ConfigErrors`]).
//! * **Types** are concrete: an address is a `SocketAddr`, a time a `Duration`, a network an `IpNet`, a choice an enum. A
//!   number here is inside its limits; a named upstream exists; files of certificates and keys were there and looked like
//!   PEM when they were read (they may be replaced later, so whoever loads them still handles that).
//! * **Secrets**: what [`Config::redacted`] prints shows no value that could be one. File names are not secrets.
//! * A configuration that fails to load changes nothing: the caller keeps the old one.

mod alerts;
mod archive;
mod check;
mod check_alerts;
mod check_archive;
mod check_attribution;
mod check_kafka;
mod check_ledger;
mod check_limits;
mod check_listeners;
mod check_places;
mod check_portal;
mod check_query;
mod check_records;
mod check_upstreams;
mod difference;
mod errors;
mod fields;
mod kafka;
mod ledger;
mod limits;
mod places;
mod portal;
mod query;
mod raw;
mod read;
mod routing;
mod serialized;
mod suggest;
mod syntax;

#[cfg(test)]
mod tests;

pub use alerts::{Alerts, Budget, BudgetPeriod, Webhook};
pub use archive::{Archive, ArchiveAddresses, ArchivePlace, S3};
pub use difference::{Difference, reloadable_difference};
pub use errors::{ConfigError, ConfigErrors, Position};
pub use kafka::{
    Compression, KafkaFormat, KafkaLayout, KafkaOptions, KafkaSink, OAUTH_PROPERTY, SigningKeyFile, token_file,
};
pub use ledger::{Ledger, Meter, MeterColumn, MeterKind, VerifyingKeyFile};
pub use limits::Limits;
pub use places::{Geoip, Privacy, PrivacyMode, Screening, ScreeningAction, ScreeningRule};
pub use portal::Portal;
pub use query::Query;
pub(crate) use routing::path_has_prefix;
pub use routing::{
    AccountSource, AccountTable, AttributionRule, Balance, CertificateFiles, ClientAuth, Conditions, Ejection,
    ForwardedHeader, HeaderCondition, HealthCheck, HealthKind, HostPattern, Listener, ListenerKind, ListenerTls,
    ProxyProtocolIn, ProxyProtocolOut, Route, Server, ServerHost, TableKind, TextSource, TlsVersion, Upstream,
    UpstreamId, UpstreamProtocol, UpstreamTls,
};

use http::HeaderName;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

/// Everything the process was told, checked. Serializes under the file's key names; for display use [`Config::redacted`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Config {
    /// Name of this node in every record; unique among the nodes of one ledger. Default: the host name.
    pub node: String,
    /// Absolute directory of the journal, the lock and the upgrade socket; one process at a time.
    #[serde(serialize_with = "serialized::path")]
    pub state_dir: PathBuf,
    /// Worker threads, each with a journal shard of its own; at least 1 (the file's 0 is already the parallelism here).
    pub workers: usize,
    /// How often something still open is recorded.
    #[serde(rename = "checkpoint_interval_ms", serialize_with = "serialized::milliseconds")]
    pub checkpoint_interval: Duration,
    /// Lower-case name of the header that carries the request id; an id that arrives is kept from trusted peers only.
    #[serde(serialize_with = "serialized::header_name")]
    pub request_id_header: HeaderName,
    /// The operator's listener.
    pub admin: Admin,
    /// Log output.
    pub log: Log,
    /// Journal sizes and behaviour.
    pub journal: Journal,
    /// Where records go.
    pub sink: Sink,
    /// Limits against abuse and for time.
    pub limits: Limits,
    /// At least one; names and addresses are unique.
    pub listeners: Vec<Listener>,
    /// Groups of servers; [`UpstreamId`] points in here. Short forms (`upstream = "127.0.0.1:3000"`) are here too, named by
    /// their address.
    pub upstreams: Vec<Upstream>,
    /// Rules for who is billed; the first that matches wins, else the route's account, else `unattributed`.
    pub attribution: Vec<AttributionRule>,
    /// Tables that the rules look accounts up in.
    pub account_tables: Vec<AccountTable>,
    /// What is known of addresses.
    pub geoip: Geoip,
    /// What follows from where traffic comes from.
    pub screening: Screening,
    /// What is kept of addresses.
    pub privacy: Privacy,
    /// What the ledger reads and keeps.
    pub ledger: Ledger,
    /// Where usage is shown.
    pub portal: Portal,
    /// What usage is measured by; the default ones are among them.
    pub meters: Vec<Meter>,
    /// Where records are kept as Parquet; none without the section.
    pub archive: Option<Archive>,
    /// What a question to it may use.
    pub query: Query,
    /// Where alerts go.
    pub alerts: Alerts,
    /// What they are about.
    pub budgets: Vec<Budget>,
}

/// `[admin]`: health, metrics, sessions, effective configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Admin {
    /// None when the file says `"off"`.
    #[serde(serialize_with = "serialized::address_or_off")]
    pub listen: Option<SocketAddr>,
}

/// `[log]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Log {
    /// Text for people or JSON lines for machines.
    pub format: LogFormat,
    /// A `tracing` filter, for example `info` or `weir=debug,h2=warn`.
    pub filter: String,
}

/// Form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// One readable line per event.
    Text,
    /// One JSON object per event.
    Json,
}

/// `[journal]`, per worker unless said otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Journal {
    /// Size of one segment file; a multiple of 4096.
    pub segment_bytes: u64,
    /// All segments of all workers together; at least two segments per worker.
    pub journal_bytes_max: u64,
    /// How often published records reach the disk; bounds the loss at power failure.
    #[serde(rename = "sync_interval_ms", serialize_with = "serialized::milliseconds")]
    pub sync_interval: Duration,
    /// Open sessions and requests at once, per worker.
    pub slots_max: usize,
    /// What happens when no record can be written any more.
    pub on_full: OnFull,
    /// Above this much of `journal_bytes_max`, requests are summed up instead of recorded one by one; 100: never.
    pub fold_above_percent: u64,
    /// Below this much they are recorded one by one again.
    pub fold_below_percent: u64,
}

/// Behaviour when the journal is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFull {
    /// New sessions are turned away: nothing flows unrecorded.
    Refuse,
    /// Traffic goes on, and what was not recorded in detail is stated in bytes.
    Count,
}

/// `[sink]`: where records go from the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Sink {
    /// Nowhere: the journal itself is what a reader on this machine reads.
    None,
    /// Files in a directory.
    File(FileSink),
    /// A topic of a Kafka cluster.
    Kafka(KafkaSink),
}

/// `[sink] kind = "file"`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileSink {
    /// Absolute directory the files are written in (key `path`).
    #[serde(serialize_with = "serialized::path")]
    pub path: PathBuf,
    /// Form of the records.
    pub format: SinkFormat,
    /// A file of this size is finished and the next one begun.
    pub rotate_bytes: u64,
    /// A file of this age is finished and the next one begun.
    #[serde(rename = "rotate_interval_s", serialize_with = "serialized::seconds")]
    pub rotate_interval: Duration,
}

/// Form of records in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SinkFormat {
    /// One JSON object per line.
    Json,
    /// Length-delimited `weir.usage.v1` messages.
    Protobuf,
}

/// The address `weir run --upstream` listens on when `--listen` is not given.
pub const FLAGS_LISTEN: &str = "127.0.0.1:8080";

impl Config {
    /// Reads and checks a configuration file. Fails with every error there is, not with the first.
    pub fn load(path: &Path) -> Result<Config, ConfigErrors> {
        let source = path.display().to_string();
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => return Err(ConfigErrors::unreadable(&source, &error)),
        };
        let dir = path.parent().unwrap_or(Path::new("."));
        Config::parse(&text, &source, dir)
    }

    /// Checks the text of a configuration. `source` names it in errors; relative file names are relative to `dir`.
    pub fn parse(text: &str, source: &str, dir: &Path) -> Result<Config, ConfigErrors> {
        let mut errors = ConfigErrors::new(source, text);
        match read::read(text, &mut errors) {
            Some(raw) => check::convert(raw, dir, errors),
            None => Err(errors.sorted()),
        }
    }

    /// The configuration of `weir run --upstream A [--listen L] [--state DIR]`, with no file at all: one HTTP listener named
    /// `web`, one server, no sink. `listen` defaults to [`FLAGS_LISTEN`], `state_dir` to [`default_state_dir`].
    pub fn for_flags(upstream: &str, listen: Option<&str>, state_dir: Option<&Path>) -> Result<Config, ConfigErrors> {
        let state_dir = state_dir.map_or_else(default_state_dir, Path::to_path_buf);
        let raw = raw::for_flags(upstream, listen.unwrap_or(FLAGS_LISTEN), &state_dir);
        check::convert(raw, Path::new("."), ConfigErrors::of_flags())
    }

    /// The upstream a route leads to.
    pub fn upstream(&self, id: UpstreamId) -> &Upstream {
        &self.upstreams[id.index()]
    }
}

/// Where `weir run --upstream` and `weir events` keep and find state when nothing was said: a directory of the user's own
/// (`$XDG_STATE_HOME/weir`, `~/.local/state/weir`), or under the temporary directory when there is no home.
pub fn default_state_dir() -> PathBuf {
    let from = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|dir| dir.is_absolute());
    if let Some(dir) = from("XDG_STATE_HOME") {
        return dir.join("weir");
    }
    if let Some(home) = from("HOME") {
        return home.join(".local/state/weir");
    }
    std::env::temp_dir().join("weir")
}
