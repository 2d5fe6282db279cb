//! `[ledger]` and `[[meters]]`.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::serialized;
use crate::units::Column;

/// `[ledger]`: what `weir ledger` and the commands that read it use. It reads where `[sink]` writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ledger {
    /// `postgres://…`, or the absolute path of a SQLite file.
    pub database: String,
    /// The Kafka consumer group: ledgers of one group share the partitions.
    pub group: String,
    /// A batch of so many records is committed at once.
    pub batch_records_max: usize,
    /// And one that is older than this.
    #[serde(rename = "batch_interval_ms", serialize_with = "serialized::milliseconds")]
    pub batch_interval: Duration,
    /// Hosts of one account that are told apart; the others are one.
    pub hosts_max: usize,
    /// So long single sessions and requests can be looked up; 0 keeps none of them.
    pub details_keep_days: u32,
    /// So long after its end a sealed month is kept by the hour; 0: for ever.
    pub hours_keep_days: u32,
    /// So long it is kept, once its month is sealed, what could not be read; 0: for ever.
    pub quarantine_keep_days: u32,
    /// Each message must be signed with one of these; none: no signature is asked for.
    pub verify_keys: Vec<VerifyingKeyFile>,
}

/// A key that messages are verified with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VerifyingKeyFile {
    /// Its name in each signature.
    pub id: String,
    /// An ed25519 public key in PEM, or the secret.
    #[serde(serialize_with = "serialized::path")]
    pub path: PathBuf,
}

/// `[[meters]]`: a billable quantity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Meter {
    /// In queries, statements and invoices.
    pub name: String,
    /// What is added up.
    pub column: MeterColumn,
    /// Of what.
    pub kind: MeterKind,
    /// What is not billable counts too.
    pub unbillable: bool,
    /// Only these; none: all.
    pub protocols: Vec<String>,
    /// Only of clients in these countries; none: all.
    pub countries: Vec<String>,
    /// Only these; none: all.
    pub endpoints: Vec<String>,
    /// Only these; none: all.
    pub hosts: Vec<String>,
}

/// What a meter adds up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MeterColumn {
    /// A column of bytes.
    Bytes(Column),
    /// Requests that ended.
    Requests,
    /// Sessions that ended.
    Sessions,
    /// Time that sessions were open.
    SessionSeconds,
}

impl MeterColumn {
    /// All of them, by name.
    pub const ALL: [(&'static str, Self); 12] = [
        ("received_body_bytes", Self::Bytes(Column::ReceivedBody)),
        ("received_app_bytes", Self::Bytes(Column::ReceivedApp)),
        ("received_wire_bytes", Self::Bytes(Column::ReceivedWire)),
        ("sent_body_bytes", Self::Bytes(Column::SentBody)),
        ("sent_app_bytes", Self::Bytes(Column::SentApp)),
        ("sent_wire_bytes", Self::Bytes(Column::SentWire)),
        ("sent_acked_bytes", Self::Bytes(Column::SentAcked)),
        ("upstream_sent_bytes", Self::Bytes(Column::UpstreamSent)),
        ("upstream_received_bytes", Self::Bytes(Column::UpstreamReceived)),
        ("requests", Self::Requests),
        ("sessions", Self::Sessions),
        ("session_seconds", Self::SessionSeconds),
    ];
}

impl Serialize for MeterColumn {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let name = Self::ALL.iter().find(|(_, column)| column == self).map_or("", |(name, _)| name);
        serializer.serialize_str(name)
    }
}

/// What a meter looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MeterKind {
    /// Requests, and what sessions moved beyond them.
    Any,
    /// Requests alone.
    Request,
    /// What sessions moved beyond their requests; all of a session without any.
    Session,
}

impl Meter {
    /// The meters that are there without a word: each is replaced by one of its name.
    pub fn defaults() -> Vec<Self> {
        [
            ("egress_bytes", MeterColumn::Bytes(Column::SentAcked)),
            ("ingress_bytes", MeterColumn::Bytes(Column::ReceivedWire)),
            ("requests", MeterColumn::Requests),
            ("sessions", MeterColumn::Sessions),
            ("session_seconds", MeterColumn::SessionSeconds),
        ]
        .map(|(name, column)| Self::of(name, column))
        .to_vec()
    }

    /// Of all that is billable.
    pub fn of(name: &str, column: MeterColumn) -> Self {
        let none = Vec::new;
        Self {
            name: name.to_owned(),
            column,
            kind: MeterKind::Any,
            unbillable: false,
            protocols: none(),
            countries: none(),
            endpoints: none(),
            hosts: none(),
        }
    }
}
