//! The tables of the archive and their columns: what a reader may rely on.
//!
//! | table | a row is |
//! |---|---|
//! | `requests` | a request's record: its only one, or one of several of a request that lives long |
//! | `sessions` | a session's record: open, checkpoint, close |
//! | `nodes` | a node's record (open, beat, close), or a gap record: what was served and could not be recorded one by one |
//!
//! Every record that the archive has is one row of one table. Names and meanings are those of `weir events --json`; the sums of
//! byte columns without `total_` are exact, whatever rows are taken.
//!
//! * **Types**: `INT64` and `INT32`, signed, without a logical type (Spark makes decimals of unsigned ones); texts UTF-8; ids and
//!   addresses `FIXED_LEN_BYTE_ARRAY(16)` without a logical type (Spark refuses UUID); times `TIMESTAMP(µs, UTC)`; labels a list.
//!   Files say so in Parquet's terms alone, there is no schema of Arrow's in them.
//! * **Null** are only: ids where there is none (`request_id` of folded requests, `session_id` of those), addresses, and
//!   **`total_…` where it equals the delta beside it** (`coalesce(total_sent_body_bytes, sent_body_bytes)`): that is so in the first record
//!   of anything, so in most. A text that says nothing is empty. `audit` is `ok` or the difference.
//! * **Addresses**: 16 bytes, IPv4 mapped (`::ffff:a.b.c.d`). `client_ip` holds what the privacy mode left (`address_form` says how to
//!   read it). A whole address (`address_form` empty) is in `client_ip_sealed` instead, encrypted with a key of its account and UTC
//!   day (`keys.rs`): equal addresses are equal there within an account and a day. With `addresses = "plain"` it is in `client_ip`. `peer_ip`,
//!   `peer_ip_sealed` likewise, and null where the peer is the client.
//! * **Place**: `<table>/hour=2026-11-23T04/bucket=03/<name>.parquet`. `hour` is the UTC hour of `at`, `bucket` that of the account:
//!   [`bucket`], also in each row as `account_bucket`. Rows are in the order of (`account`, `at`).
//! * **Which files**: those that the manifest names (`manifest.rs`). Others under these folders are leftovers of a crash or strangers.
//! * **Not here**: `ended` of node records; where earlier epochs ended is in the manifest, as gaps, if anything of them did not come.
//! * **Additive**: columns are never renamed, never change their type. A later one is null in files of before.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use serde::{Deserialize, Serialize};

use crate::event::{Kind, RecordView};
use crate::wire::StreamId;

/// A table of the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Table {
    /// Records of requests.
    Requests,
    /// Records of sessions.
    Sessions,
    /// Records of nodes, and gap records.
    Nodes,
}

impl Table {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Requests, Self::Sessions, Self::Nodes];

    /// As it is called in queries and paths.
    pub fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Sessions => "sessions",
            Self::Nodes => "nodes",
        }
    }

    /// Where a record belongs. What a later release may add is kept beside the nodes' records.
    pub fn of(kind: Kind) -> Self {
        match kind {
            Kind::Request => Self::Requests,
            Kind::Session => Self::Sessions,
            Kind::Node | Kind::Gap | Kind::Unspecified => Self::Nodes,
        }
    }

    /// Its columns, in their order.
    pub fn columns(self) -> impl Iterator<Item = &'static Column> {
        let bit = 1 << self as u8;
        COLUMNS.iter().filter(move |column| column.tables & bit != 0)
    }

    /// Its columns as Arrow has them.
    pub fn schema(self) -> SchemaRef {
        static SCHEMAS: LazyLock<[SchemaRef; 3]> = LazyLock::new(|| {
            Table::ALL.map(|table| Arc::new(Schema::new(table.columns().map(Column::field).collect::<Vec<_>>())))
        });
        SCHEMAS[self as usize].clone()
    }
}

/// How a file's columns are read: texts that repeat as dictionaries. A file says nothing of that itself, it is Parquet and no more.
pub fn read_as(file: &Schema) -> SchemaRef {
    let fields = file.fields().iter().map(|field| {
        let known = COLUMNS.iter().find(|column| column.name == field.name()).map(Column::field);
        match known {
            Some(known) if matches!(known.data_type(), DataType::Dictionary(_, words) if **words == *field.data_type()) => {
                Arc::new(field.as_ref().clone().with_data_type(known.data_type().clone()))
            }
            _ => field.clone(),
        }
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// The bucket of an account among so many: the first 4 bytes of its name's BLAKE3 (little endian), modulo their number.
pub fn bucket(account: &str, buckets: u32) -> u32 {
    let hash = blake3::hash(account.as_bytes());
    let first = hash.as_bytes().first_chunk::<4>().map_or(0, |bytes| u32::from_le_bytes(*bytes));
    first % buckets.max(1)
}

/// An address as it stands in a column: 16 bytes, IPv4 mapped.
pub fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// A record on its way into a row.
pub struct Row<'a> {
    /// Whose.
    pub stream: &'a StreamId,
    /// Its place there.
    pub seq: i64,
    /// What it says.
    pub record: &'a RecordView<'a>,
    /// Of its account.
    pub bucket: i32,
    /// Client and peer, as far as they are written as they are.
    pub plain: [Option<[u8; 16]>; 2],
    /// Client and peer, encrypted.
    pub sealed: [Option<[u8; 16]>; 2],
}

/// A column: its name, and what it says of a record.
pub struct Column {
    /// As in `weir events --json`.
    pub name: &'static str,
    /// Where its values come from.
    pub value: Value,
    /// A bit for each table that has it.
    tables: u8,
}

/// Type of a column, with what gives its value.
#[derive(Clone, Copy)]
pub enum Value {
    /// `INT64`.
    Number(fn(&Row<'_>) -> i64),
    /// `INT64`, null where it says nothing of its own.
    Total(fn(&Row<'_>) -> Option<i64>),
    /// `INT32`.
    Small(fn(&Row<'_>) -> i32),
    /// `BOOLEAN`.
    Truth(fn(&Row<'_>) -> bool),
    /// `TIMESTAMP(µs, UTC)`.
    Time(fn(&Row<'_>) -> i64),
    /// A text that repeats: a dictionary in memory.
    Word(for<'a> fn(&'a Row<'_>) -> &'a str),
    /// A text.
    Text(for<'a> fn(&'a Row<'_>) -> &'a str),
    /// `FIXED_LEN_BYTE_ARRAY(16)`, may be null.
    Bytes16(fn(&Row<'_>) -> Option<[u8; 16]>),
    /// A list of texts.
    Texts(for<'a> fn(&'a Row<'_>) -> &'a [Cow<'a, str>]),
}

impl Column {
    fn field(&self) -> Field {
        let (data_type, nullable) = match self.value {
            Value::Number(_) => (DataType::Int64, false),
            Value::Total(_) => (DataType::Int64, true),
            Value::Small(_) => (DataType::Int32, false),
            Value::Truth(_) => (DataType::Boolean, false),
            Value::Time(_) => (DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), false),
            Value::Word(_) => (DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8)), false),
            Value::Text(_) => (DataType::Utf8, false),
            Value::Bytes16(_) => (DataType::FixedSizeBinary(16), true),
            Value::Texts(_) => (DataType::List(Arc::new(Field::new("element", DataType::Utf8, false))), false),
        };
        Field::new(self.name, data_type, nullable)
    }
}

const REQUESTS: u8 = 1 << Table::Requests as u8;
const SESSIONS: u8 = 1 << Table::Sessions as u8;
const NODES: u8 = 1 << Table::Nodes as u8;
/// What clients did.
const TRAFFIC: u8 = REQUESTS | SESSIONS;
const EVERY: u8 = TRAFFIC | NODES;

const fn column(tables: u8, name: &'static str, value: Value) -> Column {
    Column { name, value, tables }
}

fn id(bytes: &[u8]) -> Option<[u8; 16]> {
    bytes.try_into().ok()
}

/// What it says beside its delta, if anything.
fn total(total: i64, delta: i64) -> Option<i64> {
    (total != delta).then_some(total)
}

/// All columns of all tables.
static COLUMNS: &[Column] = &[
    column(EVERY, "node", Value::Word(|row| &row.stream.node)),
    column(EVERY, "epoch", Value::Number(|row| i64::from(row.stream.epoch))),
    column(EVERY, "shard", Value::Small(|row| i32::from(row.stream.shard))),
    column(EVERY, "seq", Value::Number(|row| row.seq)),
    column(NODES, "kind", Value::Word(|row| row.record.kind().name())),
    column(EVERY, "phase", Value::Word(|row| row.record.phase().name())),
    column(TRAFFIC, "session_id", Value::Bytes16(|row| id(&row.record.session_id))),
    column(REQUESTS, "request_id", Value::Bytes16(|row| id(&row.record.request_id))),
    column(EVERY, "account", Value::Word(|row| row.record.payer())),
    column(EVERY, "account_bucket", Value::Small(|row| row.bucket)),
    column(EVERY, "endpoint", Value::Word(|row| &row.record.endpoint)),
    column(TRAFFIC, "attribution", Value::Word(|row| &row.record.attribution)),
    column(TRAFFIC, "listener", Value::Word(|row| &row.record.listener)),
    column(TRAFFIC, "protocol", Value::Word(|row| &row.record.protocol)),
    column(TRAFFIC, "tls_version", Value::Word(|row| &row.record.tls_version)),
    column(TRAFFIC, "sni", Value::Word(|row| &row.record.sni)),
    column(TRAFFIC, "tls_subject", Value::Word(|row| &row.record.tls_subject)),
    column(REQUESTS, "host", Value::Word(|row| &row.record.host)),
    column(REQUESTS, "method", Value::Word(|row| &row.record.method)),
    column(REQUESTS, "path", Value::Text(|row| &row.record.path)),
    column(REQUESTS, "status", Value::Small(|row| row.record.status)),
    column(TRAFFIC, "origin", Value::Word(|row| &row.record.origin)),
    column(TRAFFIC, "client_ip", Value::Bytes16(|row| row.plain[0])),
    column(TRAFFIC, "client_ip_sealed", Value::Bytes16(|row| row.sealed[0])),
    column(TRAFFIC, "client_port", Value::Small(|row| row.record.client_port)),
    column(TRAFFIC, "peer_ip", Value::Bytes16(|row| row.plain[1])),
    column(TRAFFIC, "peer_ip_sealed", Value::Bytes16(|row| row.sealed[1])),
    column(TRAFFIC, "address_form", Value::Word(|row| row.record.address_form().name())),
    column(TRAFFIC, "key_epoch", Value::Number(|row| row.record.key_epoch)),
    column(TRAFFIC, "country", Value::Word(|row| &row.record.country)),
    column(TRAFFIC, "region", Value::Word(|row| &row.record.region)),
    column(TRAFFIC, "city", Value::Word(|row| &row.record.city)),
    column(TRAFFIC, "asn", Value::Number(|row| row.record.asn)),
    column(TRAFFIC, "as_org", Value::Word(|row| &row.record.as_org)),
    column(TRAFFIC, "labels", Value::Texts(|row| &row.record.labels)),
    column(TRAFFIC, "geo_epoch", Value::Number(|row| row.record.geo_epoch)),
    column(TRAFFIC, "accounts_version", Value::Number(|row| row.record.accounts_version)),
    column(EVERY, "started_at", Value::Time(|row| row.record.started_at)),
    column(EVERY, "at", Value::Time(|row| row.record.at)),
    column(EVERY, "received_body_bytes", Value::Number(|row| row.record.received_body_bytes)),
    column(EVERY, "received_app_bytes", Value::Number(|row| row.record.received_app_bytes)),
    column(EVERY, "received_wire_bytes", Value::Number(|row| row.record.received_wire_bytes)),
    column(EVERY, "sent_body_bytes", Value::Number(|row| row.record.sent_body_bytes)),
    column(EVERY, "sent_app_bytes", Value::Number(|row| row.record.sent_app_bytes)),
    column(EVERY, "sent_wire_bytes", Value::Number(|row| row.record.sent_wire_bytes)),
    column(EVERY, "sent_acked_bytes", Value::Number(|row| row.record.sent_acked_bytes)),
    column(EVERY, "upstream_sent_bytes", Value::Number(|row| row.record.upstream_sent_bytes)),
    column(EVERY, "upstream_received_bytes", Value::Number(|row| row.record.upstream_received_bytes)),
    column(
        TRAFFIC,
        "total_received_body_bytes",
        Value::Total(|row| total(row.record.total_received_body_bytes, row.record.received_body_bytes)),
    ),
    column(
        TRAFFIC,
        "total_received_app_bytes",
        Value::Total(|row| total(row.record.total_received_app_bytes, row.record.received_app_bytes)),
    ),
    column(
        TRAFFIC,
        "total_received_wire_bytes",
        Value::Total(|row| total(row.record.total_received_wire_bytes, row.record.received_wire_bytes)),
    ),
    column(
        TRAFFIC,
        "total_sent_body_bytes",
        Value::Total(|row| total(row.record.total_sent_body_bytes, row.record.sent_body_bytes)),
    ),
    column(
        TRAFFIC,
        "total_sent_app_bytes",
        Value::Total(|row| total(row.record.total_sent_app_bytes, row.record.sent_app_bytes)),
    ),
    column(
        TRAFFIC,
        "total_sent_wire_bytes",
        Value::Total(|row| total(row.record.total_sent_wire_bytes, row.record.sent_wire_bytes)),
    ),
    column(
        TRAFFIC,
        "total_sent_acked_bytes",
        Value::Total(|row| total(row.record.total_sent_acked_bytes, row.record.sent_acked_bytes)),
    ),
    column(
        TRAFFIC,
        "total_upstream_sent_bytes",
        Value::Total(|row| total(row.record.total_upstream_sent_bytes, row.record.upstream_sent_bytes)),
    ),
    column(
        TRAFFIC,
        "total_upstream_received_bytes",
        Value::Total(|row| total(row.record.total_upstream_received_bytes, row.record.upstream_received_bytes)),
    ),
    column(EVERY, "billable", Value::Truth(|row| row.record.billable)),
    column(EVERY, "reason", Value::Word(|row| row.record.reason().name())),
    column(EVERY, "end", Value::Word(|row| row.record.end().name())),
    column(TRAFFIC, "audit", Value::Word(|row| if row.record.audit.is_empty() { "ok" } else { &row.record.audit })),
    column(EVERY, "uncertain_bytes", Value::Number(|row| row.record.uncertain_bytes)),
    column(EVERY, "folded", Value::Number(|row| row.record.folded)),
    column(SESSIONS, "requests", Value::Number(|row| row.record.requests)),
    column(TRAFFIC, "screening", Value::Word(|row| row.record.screening().name())),
    column(TRAFFIC, "screening_rule", Value::Word(|row| &row.record.screening_rule)),
    column(NODES, "software", Value::Word(|row| &row.record.software)),
    column(NODES, "gap_epoch", Value::Number(|row| row.record.gap_epoch)),
    column(NODES, "gap_shard", Value::Small(|row| row.record.gap_shard)),
    column(NODES, "gap_first_seq", Value::Number(|row| row.record.gap_first_seq)),
    column(NODES, "gap_next_seq", Value::Number(|row| row.record.gap_next_seq)),
    column(NODES, "clock_step_us", Value::Number(|row| row.record.clock_step_us)),
    column(NODES, "geo_snapshot", Value::Word(|row| &row.record.geo_snapshot)),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::CSV_HEADER;

    #[test]
    fn every_printed_field_has_its_column() {
        // Where earlier epochs ended is in the manifest: as gaps, if anything of them did not come.
        for name in CSV_HEADER.split(',').filter(|name| !["", "ended"].contains(name)) {
            assert!(COLUMNS.iter().any(|column| column.name == name), "{name}");
        }
        let ours = ["account_bucket", "client_ip_sealed", "peer_ip_sealed"];
        for column in COLUMNS.iter().filter(|column| !ours.contains(&column.name)) {
            assert!(CSV_HEADER.split(',').any(|name| name == column.name), "{}", column.name);
        }
    }

    #[test]
    fn buckets_are_what_the_name_says() {
        // Published: readers compute it too.
        assert_eq!([bucket("acme", 8), bucket("globex", 8), bucket("unattributed", 8)], [3, 5, 7]);
        assert_eq!(bucket("acme", 1), 0);
    }
}
