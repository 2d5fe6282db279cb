//! `[sink] kind = "kafka"` and `[sink.kafka]`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::serialized;

/// `[sink] kind = "kafka"`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KafkaSink {
    /// `host:port` of some brokers, with commas; the others are learned from them.
    pub bootstrap_servers: String,
    /// Where records go.
    pub topic: String,
    /// `[sink.kafka]`.
    pub kafka: KafkaOptions,
}

/// `[sink.kafka]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KafkaOptions {
    /// What one message holds.
    pub layout: KafkaLayout,
    /// How it is written.
    pub format: KafkaFormat,
    /// The schema's id in a Confluent schema registry, put before protobuf values.
    pub schema_id: Option<u32>,
    /// What messages are signed with.
    pub signing: Option<SigningKeyFile>,
    /// What squeezes a producer's batches.
    pub compression: Compression,
    /// Most records in one batch of ours.
    pub batch_records_max: usize,
    /// Most bytes of records in one batch of ours; at least one record goes whatever its size.
    pub batch_bytes_max: usize,
    /// How long records wait for more of them.
    #[serde(rename = "linger_ms", serialize_with = "serialized::milliseconds")]
    pub linger: Duration,
    /// Bytes of records sent and not acknowledged yet.
    pub in_flight_bytes_max: u64,
    /// Bytes of records per second, at most: after an outage live traffic comes first.
    pub drain_bytes_per_s_max: u64,
    /// Makes the topic if it is not there.
    pub create_topic: bool,
    /// Partitions of a topic that is made.
    pub partitions: i32,
    /// Replicas of a topic that is made.
    pub replication: i32,
    /// The longest time that records may wait on their way; the topic must keep them for longer.
    #[serde(rename = "outage_max_s", serialize_with = "serialized::seconds")]
    pub outage_max: Duration,
    /// Further properties of librdkafka.
    pub properties: BTreeMap<String, String>,
}

/// `signing_key` and `signing_key_id`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SigningKeyFile {
    /// Its name in each signature.
    pub id: String,
    /// An ed25519 key in PEM, or a secret of at least 16 bytes.
    #[serde(serialize_with = "serialized::path")]
    pub path: PathBuf,
}

/// What one message holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KafkaLayout {
    /// Consecutive records of one shard, each batch with the hash of the one before.
    Batch,
    /// One record.
    Record,
}

/// How a message is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KafkaFormat {
    /// `weir.usage.v1`.
    Protobuf,
    /// CloudEvents 1.0, structured JSON.
    Json,
}

/// What squeezes a producer's batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// Nothing.
    None,
    /// Fast.
    Lz4,
    /// Small.
    Zstd,
}

impl Compression {
    /// As librdkafka's `compression.codec`.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

/// The property of librdkafka that says where a token for SASL OAUTHBEARER comes from.
pub const OAUTH_PROPERTY: &str = "sasl.oauthbearer.config";

/// The file that its value names.
pub fn token_file(value: &str) -> Option<&str> {
    value.trim().strip_prefix("token_file=").filter(|path| !path.is_empty())
}
