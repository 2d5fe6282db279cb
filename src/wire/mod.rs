//! The wire form: what lies in Kafka, how it is made, and how a reader proves that nothing is missing, doubled or altered.
//!
//! A *stream* is the records of one (node, epoch, shard), gapless in `seq` from 0. A message holds consecutive records of
//! one stream. The types are those of `proto/weir/usage/v1/usage.proto`.
//!
//! # Messages
//!
//! Key: `<node>/<shard>`, so one partition holds one shard in order.
//!
//! | header | value |
//! |---|---|
//! | `weir-schema` | what the value is, see below |
//! | `weir-node` | name of the node |
//! | `weir-seq` | `<first>-<last>` seq in the message, decimal |
//! | `weir-signature` | `<algorithm> <key id> <hex>`, where a key is configured |
//! | `content-type` | JSON only: `application/cloudevents+json; charset=UTF-8` |
//!
//! Headers save a look into the value; the value is what counts, and the [`Verifier`] names a header that differs from it.
//!
//! | layout | format | `weir-schema` | value |
//! |---|---|---|---|
//! | `batch` | `protobuf` | `weir.usage.v1.UsageBatch` | that message; compression is Kafka's |
//! | `record` | `protobuf` | `weir.usage.v1.UsageRecord` | that message, `node`, `epoch`, `shard`, `seq` filled in |
//! | `batch` | `json` | `weir.usage.v1.UsageBatch+json` | a CloudEvents 1.0 structured event, `data.records` as below |
//! | `record` | `json` | `weir.usage.v1.UsageRecord+json` | the same, its `data` one record as `weir events --json` prints it |
//!
//! A CloudEvent's `source` is `/weir/<node>/<epoch>/<shard>` (percent-encoded), its `id` the seq or `<first>-<last>`: the
//! pair is unique. With a schema id, protobuf values begin as Confluent's serialisers write them: a 0 byte, the id (4 bytes,
//! big endian), the message's index in the file (`UsageRecord`: `00`; `UsageBatch`: `02 02`).
//!
//! A message stays below `message_bytes_max` (value, key, headers and Kafka's own framing): more records go into the next.
//! A record that alone is larger is sent alone and marked ([`Message::over_max`]); weir's own are below 2 KiB.
//!
//! # Chain
//!
//! The end of a message is a *boundary*: the seq behind its last record, and the BLAKE3 of its value. A batch holds in
//! `previous_hash` the hash of the boundary at `first_seq - skipped`. Whoever alters, removes or inserts a batch has to
//! alter every later one. After a kill the sender goes on at the boundary that was acknowledged last (seq and hash are kept
//! beside its cursor): what it sends again may be cut elsewhere than what lies in the log, so one seq can be a boundary with
//! several hashes, and all of them are good. `layout = "record"` has no chain: seqs and signatures only.
//!
//! `skipped` counts the records right before `first_seq` that the sender's own journal lost to damage: a gap with a reason.
//!
//! # Signature
//!
//! Over the ASCII text `<weir-schema> <BLAKE3 of the value, 64 hex digits>`: HMAC-SHA256 or ed25519. By hand:
//! `printf '%s %s' SCHEMA $(b3sum --no-names VALUE) | openssl dgst -sha256 -hmac SECRET`.
//!
//! # What a reader is told
//!
//! | seen | reported as | its records |
//! |---|---|---|
//! | a value that cannot be read, or an unknown schema | [`Reject`] | none: their seqs stay a gap |
//! | signature missing, forged, by an unknown key (keys are configured) | [`Reject::Signature`] | none: a gap until the true one comes |
//! | the reader starts in the middle | [`Finding::Gap`], cause [`Cause::BeforeStart`] | taken; the first link waits for its predecessor |
//! | a seq beyond the next | [`Finding::Gap`], exact range | taken |
//! | records of an open gap | [`Finding::Filled`] | taken |
//! | records seen before: a repeated message, or an overlap | [`Finding::Duplicate`], exact range | the new ones taken, the others dropped |
//! | a predecessor that was seen, with another hash | [`Finding::Broken`] | taken: seq counts, what to think of it is the reader's |
//! | a predecessor that was not seen | its gap, and [`Stream::unlinked`] until it comes (another that ends there is no proof: it may be a message sent again) | taken |
//! | the predecessor of a broken link after all | [`Finding::Mended`] | taken |
//! | no `previous_hash` although records come before | [`Finding::Restarted`] | taken |
//! | a record of a later epoch that says where this one ended ([`Verifier::ended`]) | a gap up to there, until its records come | |
//!
//! Not proven: that a repeated record says the same as before (the first one counts), and that a stream's newest records are
//! there: a tail that has not come is no gap before a later epoch says where it ended. [`Stream::is_complete`] says whether the record with which the node closed
//! the shard came, with everything before it. Without keys everything is only as true as the broker, and who can write to
//! the topic can invent a stream.
//!
//! # Memory and crashes
//!
//! Nothing is held back: what a message adds is given out at once, in the order of arrival. Per stream the verifier keeps
//! the open gaps ([`Bounds::gaps_max`]; beyond it the lowest is given up and named, and what fills it later is a duplicate:
//! never counted twice), the newest boundaries ([`Bounds::boundaries_max`]; a link to an older one is neither good nor
//! broken) and open links (as many). A stream that is complete, up to its node's closing record, shrinks to some 300 bytes.
//! Streams are never forgotten (a duplicate must be known for ever): at [`Bounds::streams_max`] a new one is rejected.
//! [`State`] is all there is to keep; kept in the transaction that takes the records, a reader that dies counts each once.

mod encoder;
mod json;
mod protobuf;
mod read;
mod signature;
mod stream;
mod verifier;

#[cfg(test)]
mod golden_tests;
#[cfg(test)]
mod property_tests;
#[cfg(test)]
mod tests;

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::ids::{hex, unhex};

pub use encoder::{Encoder, Limits, Message};
pub use protobuf::{Batch, batches};
pub use read::{Reject, json_line, position};
pub use signature::{Fault, SigningKey, VerifyingKey};
pub use stream::{Cause, Finding, Link, Missing, Stream};
pub use verifier::{Bounds, Incoming, State, Taken, Totals, Verifier};

/// Header: what the value is.
pub const SCHEMA_HEADER: &str = "weir-schema";
/// Header: name of the node.
pub const NODE_HEADER: &str = "weir-node";
/// Header: first and last seq.
pub const SEQ_HEADER: &str = "weir-seq";
/// Header: algorithm, key and signature.
pub const SIGNATURE_HEADER: &str = "weir-signature";
/// Header: CloudEvents' own.
pub const CONTENT_TYPE_HEADER: &str = "content-type";

/// How many records make a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Layout {
    /// As many consecutive ones as fit.
    #[default]
    Batch,
    /// One.
    Record,
}

/// How a message's value is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// Protobuf.
    Protobuf {
        /// Its id in a Confluent schema registry, to be put before it.
        schema_id: Option<u32>,
    },
    /// CloudEvents 1.0, structured.
    Json,
}

impl Default for Format {
    fn default() -> Self {
        Self::Protobuf { schema_id: None }
    }
}

/// What a value is, as named in `weir-schema`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Schema {
    layout: Layout,
    is_json: bool,
}

impl Schema {
    const ALL: [Self; 4] = [
        Self { layout: Layout::Batch, is_json: false },
        Self { layout: Layout::Record, is_json: false },
        Self { layout: Layout::Batch, is_json: true },
        Self { layout: Layout::Record, is_json: true },
    ];

    fn name(self) -> &'static str {
        match (self.layout, self.is_json) {
            (Layout::Batch, false) => "weir.usage.v1.UsageBatch",
            (Layout::Record, false) => "weir.usage.v1.UsageRecord",
            (Layout::Batch, true) => "weir.usage.v1.UsageBatch+json",
            (Layout::Record, true) => "weir.usage.v1.UsageRecord+json",
        }
    }
}

/// Whose records: one shard of one process start of one node.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct StreamId {
    /// Name of the node.
    pub node: String,
    /// Process start of the node.
    pub epoch: u32,
    /// Its journal.
    pub shard: u16,
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} epoch {} shard {}", self.node, self.epoch, self.shard)
    }
}

/// BLAKE3 of a message's value. As text and in JSON: 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// Of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = unhex(text.as_bytes()).and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or_else(|| serde::de::Error::custom(format!("{text:?} is no hash: 64 hexadecimal digits")))
    }
}

/// Where one message ends and the next begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Boundary {
    /// The seq behind the last record.
    pub next_seq: u64,
    /// Of the message that ends here. None before the first, and where it is not known: the chain begins anew.
    pub hash: Option<Hash>,
}

/// What cannot be sent, and keys that are none.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not the next record.
    #[error("record {seq} of {stream} was handed over where {expected} or a later one was due: go on at a boundary")]
    Backwards {
        /// Its stream.
        stream: StreamId,
        /// What came.
        seq: u64,
        /// What was due.
        expected: u64,
    },
    /// A record that the journal vouches for is no record.
    #[error("record {seq} of {stream} cannot be read, so it cannot be written as JSON")]
    Record {
        /// Its stream.
        stream: StreamId,
        /// Its place.
        seq: u64,
        /// Why.
        source: prost::DecodeError,
    },
    /// It cannot be written as JSON.
    #[error("record {seq} of {stream} cannot be written as JSON")]
    Json {
        /// Its stream.
        stream: StreamId,
        /// Its place.
        seq: u64,
        /// Why.
        source: serde_json::Error,
    },
    /// A key's name goes into a header.
    #[error("{0:?} cannot name a key: use 1 to 64 of A-Z a-z 0-9 - _ .")]
    KeyId(String),
    /// Whoever guesses it can sign.
    #[error("the secret of key {id:?} has {bytes} bytes: use at least 16, better 32 random ones")]
    ShortSecret {
        /// Name of the key.
        id: String,
        /// How many it has.
        bytes: usize,
    },
    /// Not what was expected in the file.
    #[error(
        "key {id:?} is no ed25519 key: make one with `openssl genpkey -algorithm ed25519`, its public half with `openssl pkey -pubout`"
    )]
    Ed25519 {
        /// Name of the key.
        id: String,
    },
}
