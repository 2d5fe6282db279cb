//! The file as it is written: every key optional, every value with its place, unknown keys refused.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use toml::Spanned;

pub(super) type Text = Option<Spanned<String>>;
pub(super) type Number = Option<Spanned<u64>>;
pub(super) type Truth = Option<Spanned<bool>>;
pub(super) type Texts = Option<Spanned<Vec<Spanned<String>>>>;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawConfig {
    pub(super) node: Text,
    pub(super) state_dir: Text,
    pub(super) workers: Number,
    pub(super) checkpoint_interval_ms: Number,
    pub(super) request_id_header: Text,
    #[serde(default)]
    pub(super) admin: RawAdmin,
    #[serde(default)]
    pub(super) log: RawLog,
    #[serde(default)]
    pub(super) journal: RawJournal,
    #[serde(default)]
    pub(super) sink: RawSink,
    #[serde(default)]
    pub(super) limits: RawLimits,
    #[serde(default)]
    pub(super) listeners: Vec<Spanned<RawListener>>,
    #[serde(default)]
    pub(super) upstreams: Vec<Spanned<RawUpstream>>,
    #[serde(default)]
    pub(super) attribution: Vec<Spanned<RawRule>>,
    #[serde(default)]
    pub(super) account_tables: Vec<Spanned<RawAccountTable>>,
    #[serde(default)]
    pub(super) geoip: RawGeoip,
    #[serde(default)]
    pub(super) screening: RawScreening,
    #[serde(default)]
    pub(super) privacy: RawPrivacy,
    pub(super) ledger: Option<RawLedger>,
    #[serde(default)]
    pub(super) portal: RawPortal,
    #[serde(default)]
    pub(super) meters: Vec<Spanned<RawMeter>>,
    #[serde(default)]
    pub(super) alerts: RawAlerts,
    #[serde(default)]
    pub(super) budgets: Vec<Spanned<RawBudget>>,
    pub(super) archive: Option<RawArchive>,
    #[serde(default)]
    pub(super) query: RawQuery,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawQuery {
    pub(super) access_log: Text,
    pub(super) memory_bytes_max: Number,
    pub(super) spill_bytes_max: Number,
    pub(super) time_s_max: Number,
    pub(super) rows_max: Number,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawArchive {
    pub(super) place: Text,
    pub(super) region: Text,
    pub(super) endpoint: Text,
    pub(super) addresses: Text,
    pub(super) keys: Text,
    pub(super) buckets: Number,
    pub(super) commit_interval_s: Number,
    pub(super) commit_records_max: Number,
    pub(super) group: Text,
    pub(super) keep_requests_days: Number,
    pub(super) keep_sessions_days: Number,
    pub(super) keep_nodes_days: Number,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawGeoip {
    pub(super) plan: Text,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawScreening {
    pub(super) header: Text,
    pub(super) anonymisers: Texts,
    #[serde(default)]
    pub(super) rules: Vec<Spanned<RawScreeningRule>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawScreeningRule {
    pub(super) name: Text,
    pub(super) version: Number,
    pub(super) valid_from: Text,
    pub(super) valid_to: Text,
    pub(super) countries: Texts,
    pub(super) subdivisions: Texts,
    pub(super) asns: Option<Spanned<Vec<Spanned<u64>>>>,
    pub(super) labels: Texts,
    pub(super) accounts: Texts,
    pub(super) action: Text,
    pub(super) indeterminate: Text,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPrivacy {
    pub(super) client_ip: Text,
    pub(super) pseudonym_keys: Text,
    pub(super) pseudonym_key_s: Number,
    pub(super) pseudonym_keys_max: Number,
    pub(super) encryption_key: Text,
    pub(super) accounts: Option<BTreeMap<Spanned<String>, Spanned<String>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLedger {
    pub(super) database: Text,
    pub(super) group: Text,
    pub(super) batch_records_max: Number,
    pub(super) batch_interval_ms: Number,
    pub(super) hosts_max: Number,
    pub(super) details_keep_days: Number,
    pub(super) hours_keep_days: Number,
    pub(super) quarantine_keep_days: Number,
    #[serde(default)]
    pub(super) verify_keys: Vec<Spanned<RawVerifyingKey>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawVerifyingKey {
    pub(super) id: Text,
    pub(super) path: Text,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPortal {
    pub(super) listen: Text,
    pub(super) tls: Option<Spanned<RawCertificate>>,
    pub(super) public_keys: Texts,
    pub(super) token_valid_s_max: Number,
    pub(super) requests_per_minute_max: Number,
    pub(super) request_timeout_ms: Number,
    pub(super) access_keep_days: Number,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawMeter {
    pub(super) name: Text,
    pub(super) column: Text,
    pub(super) kind: Text,
    pub(super) unbillable: Truth,
    pub(super) protocols: Texts,
    pub(super) countries: Texts,
    pub(super) endpoints: Texts,
    pub(super) hosts: Texts,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAlerts {
    pub(super) webhook: Text,
    pub(super) secret: Text,
    pub(super) look_interval_ms: Number,
    pub(super) retry_first_ms: Number,
    pub(super) give_up_s: Number,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawBudget {
    pub(super) account: Text,
    pub(super) meter: Text,
    pub(super) amount: Number,
    pub(super) period: Text,
    pub(super) thresholds_percent: Option<Spanned<Vec<u64>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAdmin {
    pub(super) listen: Text,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLog {
    pub(super) format: Text,
    pub(super) filter: Text,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawJournal {
    pub(super) segment_bytes: Number,
    pub(super) journal_bytes_max: Number,
    pub(super) sync_interval_ms: Number,
    pub(super) slots_max: Number,
    pub(super) on_full: Text,
    pub(super) fold_above_percent: Number,
    pub(super) fold_below_percent: Number,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSink {
    pub(super) kind: Text,
    pub(super) path: Text,
    pub(super) format: Text,
    pub(super) rotate_bytes: Number,
    pub(super) rotate_interval_s: Number,
    pub(super) bootstrap_servers: Text,
    pub(super) topic: Text,
    pub(super) kafka: Option<Spanned<RawKafka>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawKafka {
    pub(super) layout: Text,
    pub(super) format: Text,
    pub(super) schema_id: Number,
    pub(super) signing_key: Text,
    pub(super) signing_key_id: Text,
    pub(super) compression: Text,
    pub(super) batch_records_max: Number,
    pub(super) batch_bytes_max: Number,
    pub(super) linger_ms: Number,
    pub(super) in_flight_bytes_max: Number,
    pub(super) drain_bytes_per_s_max: Number,
    pub(super) create_topic: Truth,
    pub(super) partitions: Number,
    pub(super) replication: Number,
    pub(super) outage_max_s: Number,
    /// Any of librdkafka's; texts, whole numbers and truths.
    pub(super) properties: Option<BTreeMap<Spanned<String>, Spanned<toml::Value>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLimits {
    pub(super) request_line_bytes_max: Number,
    pub(super) header_bytes_max: Number,
    pub(super) headers_max: Number,
    pub(super) response_headers_max: Number,
    pub(super) header_read_timeout_ms: Number,
    pub(super) tls_handshake_timeout_ms: Number,
    pub(super) keep_alive_timeout_ms: Number,
    pub(super) idle_timeout_ms: Number,
    pub(super) tunnel_idle_timeout_ms: Number,
    pub(super) request_timeout_ms: Number,
    pub(super) body_rate_min_bytes_per_s: Number,
    pub(super) body_rate_grace_ms: Number,
    pub(super) connections_max: Number,
    pub(super) connections_per_source_max: Number,
    pub(super) accept_queue_max: Number,
    pub(super) streams_per_connection_max: Number,
    pub(super) h2_resets_per_s_max: Number,
    pub(super) h2_control_frames_per_s_max: Number,
    pub(super) h2_continuations_max: Number,
    pub(super) h2_stream_window_bytes: Number,
    pub(super) h2_connection_window_bytes: Number,
    pub(super) connection_buffer_bytes_max: Number,
    pub(super) buffer_bytes_max: Number,
    pub(super) drain_timeout_ms: Number,
    pub(super) linger_ms: Number,
    pub(super) path_bytes_max: Number,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawListener {
    pub(super) name: Text,
    pub(super) listen: Text,
    pub(super) kind: Text,
    pub(super) upstream: Text,
    pub(super) proxy_protocol: Text,
    pub(super) trusted_proxies: Texts,
    pub(super) forwarded: Text,
    pub(super) tls: Option<Spanned<RawListenerTls>>,
    pub(super) http2: Truth,
    pub(super) allow_connect: Truth,
    pub(super) account: Text,
    pub(super) endpoint: Text,
    #[serde(default)]
    pub(super) routes: Vec<Spanned<RawRoute>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawListenerTls {
    pub(super) certificate: Text,
    pub(super) key: Text,
    #[serde(default)]
    pub(super) certificates: Vec<Spanned<RawCertificate>>,
    pub(super) client_auth: Text,
    pub(super) client_ca: Text,
    pub(super) version_min: Text,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCertificate {
    pub(super) certificate: Text,
    pub(super) key: Text,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRoute {
    pub(super) host: Text,
    pub(super) path_prefix: Text,
    pub(super) upstream: Text,
    pub(super) account: Text,
    pub(super) endpoint: Text,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawUpstream {
    pub(super) name: Text,
    pub(super) servers: Texts,
    pub(super) balance: Text,
    pub(super) protocol: Text,
    pub(super) tls: Option<Spanned<RawUpstreamTls>>,
    pub(super) proxy_protocol: Text,
    pub(super) connect_timeout_ms: Number,
    pub(super) retries: Number,
    pub(super) idle_connections_max: Number,
    pub(super) idle_timeout_ms: Number,
    pub(super) health: Option<Spanned<RawHealth>>,
    #[serde(default)]
    pub(super) ejection: RawEjection,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawUpstreamTls {
    pub(super) server_name: Text,
    pub(super) ca: Text,
    pub(super) insecure: Truth,
    pub(super) client_certificate: Text,
    pub(super) client_key: Text,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHealth {
    pub(super) kind: Text,
    pub(super) path: Text,
    pub(super) interval_ms: Number,
    pub(super) healthy_after: Number,
    pub(super) unhealthy_after: Number,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawEjection {
    pub(super) consecutive_failures: Number,
    pub(super) for_ms: Number,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRule {
    pub(super) name: Text,
    pub(super) listener: Text,
    pub(super) host: Text,
    pub(super) path_prefix: Text,
    pub(super) sni: Text,
    pub(super) client_cidr: Texts,
    pub(super) tls_subject: Text,
    pub(super) tls_san: Text,
    pub(super) header: Option<Spanned<RawHeader>>,
    pub(super) account: Text,
    /// A word, `{ header = "…" }`, `{ proxy_field = N }` or `{ table = "…", by = … }`.
    pub(super) account_from: Option<Spanned<toml::Value>>,
    pub(super) endpoint: Text,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAccountTable {
    pub(super) name: Text,
    pub(super) kind: Text,
    pub(super) file: Text,
    pub(super) hash_key: Text,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHeader {
    pub(super) name: Text,
    pub(super) value: Text,
}

/// What the flags of `weir run --upstream` say, as if a file said it. `errors.rs` turns these keys back into flags.
pub(super) fn for_flags(upstream: &str, listen: &str, state_dir: &Path) -> RawConfig {
    let text = |value: &str| Some(Spanned::new(0..0, value.to_string()));
    let listener = RawListener {
        name: text("web"),
        listen: text(listen),
        kind: text("http"),
        upstream: text(upstream),
        ..RawListener::default()
    };
    RawConfig {
        state_dir: text(&state_dir.to_string_lossy()),
        listeners: vec![Spanned::new(0..0, listener)],
        ..RawConfig::default()
    }
}
