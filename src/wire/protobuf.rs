//! `UsageBatch` and `UsageRecord` around record bytes that are copied, not decoded, fields in the order of their numbers; and a batch as it
//! is read.

use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

use super::{Hash, Layout, StreamId};
use crate::event::{Fields, Malformed, RecordView};

/// What Confluent's serialisers put first.
const MAGIC: u8 = 0;
/// Most bytes behind the records: hash and skipped.
pub(super) const TAIL_BYTES_MAX: usize = 2 + 32 + 1 + 10;

/// No record of traffic is smaller.
const RECORD_BYTES_MIN: usize = 64;

/// A `UsageBatch`, its texts and octets where they lie in the message.
#[derive(Debug, Default)]
#[allow(missing_docs)] // the .proto holds the comments
pub struct Batch<'a> {
    pub node: &'a str,
    pub epoch: i64,
    pub shard: i32,
    pub first_seq: i64,
    pub count: i32,
    pub records: Vec<RecordView<'a>>,
    pub previous_hash: &'a [u8],
    pub skipped: i64,
}

impl<'a> Batch<'a> {
    /// Reads an encoded one.
    pub fn decode(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut batch = Self::default();
        let mut fields = Fields::new(message);
        while let Some(field) = fields.next_field()? {
            match field.number {
                1 => batch.node = fields.text(field)?,
                2 => batch.epoch = fields.number(field)? as i64,
                3 => batch.shard = fields.number(field)? as i32,
                4 => batch.first_seq = fields.number(field)? as i64,
                5 => {
                    batch.count = fields.number(field)? as i32;
                    // As many as it says, if the message has room for them.
                    let records = usize::try_from(batch.count).unwrap_or(0);
                    batch.records.reserve(records.min(message.len() / RECORD_BYTES_MIN));
                }
                6 => RecordView::decode_into(&mut batch.records, fields.octets(field)?)?,
                7 => batch.previous_hash = fields.octets(field)?,
                8 => batch.skipped = fields.number(field)? as i64,
                _ => fields.skip(field)?,
            }
        }
        Ok(batch)
    }
}

/// Length-delimited batches, each with the octets it takes up. It ends before the first that is not whole.
pub fn batches(mut octets: &[u8]) -> impl Iterator<Item = (&[u8], Batch<'_>)> {
    std::iter::from_fn(move || {
        let mut rest = octets;
        let length = prost::decode_length_delimiter(&mut rest).ok()?;
        let (message, rest) = rest.split_at_checked(length)?;
        let batch = Batch::decode(message).ok()?;
        let (whole, rest) = octets.split_at(octets.len() - rest.len());
        octets = rest;
        Some((whole, batch))
    })
}

/// Appends what comes before the records of a batch.
pub(super) fn batch_head(to: &mut Vec<u8>, schema_id: Option<u32>, stream: &StreamId, first_seq: u64, count: usize) {
    frame(to, schema_id, Layout::Batch);
    bytes(to, 1, stream.node.as_bytes());
    number(to, 2, u64::from(stream.epoch));
    number(to, 3, u64::from(stream.shard));
    number(to, 4, first_seq);
    number(to, 5, count as u64);
}

/// How many bytes one more record adds.
pub(super) fn batch_record_bytes(record: &[u8]) -> usize {
    1 + encoded_len_varint(record.len() as u64) + record.len()
}

/// Appends a record of a batch.
pub(super) fn batch_record(to: &mut Vec<u8>, record: &[u8]) {
    bytes(to, 6, record);
}

/// Appends what comes behind the records of a batch.
pub(super) fn batch_tail(to: &mut Vec<u8>, previous: Option<Hash>, skipped: u64) {
    if let Some(hash) = previous {
        bytes(to, 7, &hash.0);
    }
    number(to, 8, skipped);
}

/// Appends a record that stands alone: its position comes last.
pub(super) fn lone_record(to: &mut Vec<u8>, schema_id: Option<u32>, stream: &StreamId, seq: u64, record: &[u8]) {
    frame(to, schema_id, Layout::Record);
    to.extend_from_slice(record);
    bytes(to, 70, stream.node.as_bytes());
    number(to, 71, u64::from(stream.epoch));
    number(to, 72, u64::from(stream.shard));
    number(to, 73, seq);
}

/// Confluent's frame: magic, schema id, and which message of the file it is; `[0]` is shortened to one byte.
fn frame(to: &mut Vec<u8>, schema_id: Option<u32>, layout: Layout) {
    if let Some(id) = schema_id {
        to.push(MAGIC);
        to.extend_from_slice(&id.to_be_bytes());
        to.extend_from_slice(index(layout));
    }
}

fn index(layout: Layout) -> &'static [u8] {
    match layout {
        Layout::Record => &[0],
        // One level, message 1 of the file, both zigzag.
        Layout::Batch => &[2, 2],
    }
}

/// The message without Confluent's frame, if it has one; no protobuf message begins with a 0 byte. None: another message.
pub(super) fn unframed(value: &[u8], layout: Layout) -> Option<&[u8]> {
    if value.first() != Some(&MAGIC) {
        return Some(value);
    }
    value.get(5..)?.strip_prefix(index(layout))
}

fn bytes(to: &mut Vec<u8>, field: u32, value: &[u8]) {
    encode_key(field, WireType::LengthDelimited, to);
    encode_varint(value.len() as u64, to);
    to.extend_from_slice(value);
}

fn number(to: &mut Vec<u8>, field: u32, value: u64) {
    if value != 0 {
        encode_key(field, WireType::Varint, to);
        encode_varint(value, to);
    }
}
