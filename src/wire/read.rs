//! A message's value, read and checked to be one that an encoder can have made.

use std::ops::Range;

use super::protobuf::{self, Batch};
use super::signature::Fault;
use super::{Hash, Layout, Schema, StreamId, json};
use crate::event::{RecordView, UsageRecord};

/// A message that adds nothing, and why. Its seqs stay a gap until a good one holds them.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Reject {
    /// Somebody else's message in the topic.
    #[error("has no weir-schema header: weir did not send it")]
    Foreign,
    /// A later version's, or not weir's.
    #[error("has schema {0:?}, which this version does not know")]
    UnknownSchema(String),
    /// A key is configured, and the message is not proven to be from one who holds it.
    #[error("{0}")]
    Signature(#[from] Fault),
    /// Not what its schema says.
    #[error("cannot be read: {0}")]
    Malformed(String),
    /// No room for another stream.
    #[error("belongs to a new stream, {stream}, and {streams_max} are known already: raise the limit")]
    TooManyStreams {
        /// Whose it is.
        stream: StreamId,
        /// How many may be known.
        streams_max: usize,
    },
}

/// A message's content.
pub(super) struct Content<'a> {
    pub(super) stream: StreamId,
    pub(super) first_seq: u64,
    pub(super) records: Vec<RecordView<'a>>,
    /// Records right before these that the sender lost.
    pub(super) skipped: u64,
    /// None: a layout without a chain.
    pub(super) chain: Option<Chain>,
}

/// What a batch says of the one before.
pub(super) struct Chain {
    pub(super) previous: Option<Hash>,
    /// Where the one before ended; what lies between was lost by the sender.
    pub(super) boundary: u64,
}

impl Content<'_> {
    pub(super) fn range(&self) -> Range<u64> {
        self.first_seq..self.first_seq + self.records.len() as u64
    }
}

/// The schema that a header names.
pub(super) fn schema(header: Option<&[u8]>) -> Result<Schema, Reject> {
    let name = header.ok_or(Reject::Foreign)?;
    let known = Schema::ALL.into_iter().find(|schema| schema.name().as_bytes() == name);
    known.ok_or_else(|| Reject::UnknownSchema(String::from_utf8_lossy(name).chars().take(64).collect()))
}

/// Reads a value of this schema.
pub(super) fn content(schema: Schema, value: &[u8]) -> Result<Content<'_>, Reject> {
    let read = if schema.is_json { from_json(schema.layout, value) } else { from_protobuf(schema.layout, value) };
    read.map_err(Reject::Malformed)
}

fn from_protobuf(layout: Layout, value: &[u8]) -> Result<Content<'_>, String> {
    let value = protobuf::unframed(value, layout).ok_or("its schema registry frame names another message")?;
    match layout {
        Layout::Record => lone(RecordView::decode(value).map_err(|error| error.to_string())?),
        Layout::Batch => {
            let batch = Batch::decode(value).map_err(|error| error.to_string())?;
            let previous = match batch.previous_hash {
                [] => None,
                bytes => Some(Hash(bytes.try_into().map_err(|_| "previous_hash is not 32 bytes")?)),
            };
            let place = (batch.epoch, i64::from(batch.shard), batch.first_seq);
            checked(batch.node, place, i64::from(batch.count), previous, batch.skipped, batch.records)
        }
    }
}

fn from_json(layout: Layout, value: &[u8]) -> Result<Content<'static>, String> {
    match layout {
        Layout::Record => lone(json::read_lone_record(value)?.into()),
        Layout::Batch => {
            let batch = json::read_batch(value)?;
            let previous = match batch.previous_hash.as_str() {
                "" => None,
                text => {
                    let bytes = crate::ids::unhex(text.as_bytes()).and_then(|bytes| bytes.try_into().ok());
                    Some(Hash(bytes.ok_or("previous_hash is not 64 hexadecimal digits")?))
                }
            };
            let records = batch.records.iter().map(|record| Ok(json::read_record(record)?.into()));
            let place = (batch.epoch, batch.shard, batch.first_seq);
            checked(&batch.node, place, batch.count, previous, batch.skipped, records.collect::<Result<_, String>>()?)
        }
    }
}

/// A line of a file of JSON lines: whose record, its seq, and the record.
pub fn json_line(line: &[u8]) -> Result<(StreamId, u64, UsageRecord), String> {
    let record = json::read_line(line)?;
    let (stream, seq) = position(&record.node, (record.epoch, i64::from(record.shard), record.seq))?;
    Ok((stream, seq, record))
}

fn lone(record: RecordView<'_>) -> Result<Content<'_>, String> {
    let (stream, seq) = position(&record.node, (record.epoch, i64::from(record.shard), record.seq))?;
    Ok(Content { stream, first_seq: seq, records: vec![record], skipped: 0, chain: None })
}

fn checked<'a>(
    node: &str,
    place: (i64, i64, i64),
    count: i64,
    previous: Option<Hash>,
    skipped: i64,
    records: Vec<RecordView<'a>>,
) -> Result<Content<'a>, String> {
    let (stream, first_seq) = position(node, place)?;
    if records.is_empty() || i64::try_from(records.len()) != Ok(count) {
        return Err(format!("it says that it holds {count} records, and holds {}", records.len()));
    }
    let skipped = u64::try_from(skipped).ok().filter(|skipped| *skipped <= first_seq);
    let skipped = skipped.ok_or("skipped is more than there can have been")?;
    let chain = Some(Chain { previous, boundary: first_seq - skipped });
    Ok(Content { stream, first_seq, records, skipped, chain })
}

/// The stream and seq that these say.
pub fn position(node: &str, (epoch, shard, seq): (i64, i64, i64)) -> Result<(StreamId, u64), String> {
    if node.is_empty() {
        return Err("it names no node".to_owned());
    }
    let epoch = u32::try_from(epoch).map_err(|_| format!("epoch {epoch} cannot be"))?;
    let shard = u16::try_from(shard).map_err(|_| format!("shard {shard} cannot be"))?;
    let seq = u64::try_from(seq).map_err(|_| format!("seq {seq} cannot be"))?;
    Ok((StreamId { node: node.to_owned(), epoch, shard }, seq))
}
