//! What a batch is as Kafka messages.

use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint};
use rdkafka::message::{Header, OwnedHeaders};

use super::super::{Batch, Error, Hash};
use crate::config::KafkaOptions;
use crate::event::v1::UsageBatch;

/// One Kafka message.
pub struct Message {
    pub key: Vec<u8>,
    pub payload: Vec<u8>,
    node: String,
    seqs: String,
}

impl Message {
    pub fn headers(&self) -> OwnedHeaders {
        OwnedHeaders::new_with_capacity(3)
            .insert(Header { key: "weir-schema", value: Some("weir.usage.v1.UsageBatch") })
            .insert(Header { key: "weir-node", value: Some(&self.node) })
            .insert(Header { key: "weir-seq", value: Some(&self.seqs) })
    }
}

/// The messages of a batch, none larger than this, and the hash that the next batch states.
pub fn encode(
    batch: &Batch<'_>,
    _options: &KafkaOptions,
    payload_bytes_max: usize,
) -> Result<(Vec<Message>, Hash), Error> {
    let mut messages = Vec::new();
    let mut first = 0;
    while first < batch.records.len() {
        let mut end = first + 1;
        let mut bytes = batch.records[first].len() + 64;
        while end < batch.records.len() && bytes + batch.records[end].len() + 6 <= payload_bytes_max {
            bytes += batch.records[end].len() + 6;
            end += 1;
        }
        messages.push(one(batch, first, end));
        first = end;
    }
    Ok((messages, Hash::default()))
}

fn one(batch: &Batch<'_>, first: usize, end: usize) -> Message {
    let records = &batch.records[first..end];
    let first_seq = batch.first_seq + first as u64;
    let head = UsageBatch {
        node: batch.node.to_owned(),
        epoch: i64::from(batch.epoch),
        shard: i32::from(batch.shard),
        first_seq: i64::try_from(first_seq).unwrap_or(i64::MAX),
        count: i32::try_from(records.len()).unwrap_or(i32::MAX),
        ..UsageBatch::default()
    };
    let mut payload = Vec::with_capacity(64 + records.iter().map(|record| record.len() + 6).sum::<usize>());
    payload.extend(head.encode_to_vec());
    for record in records {
        encode_key(6, WireType::LengthDelimited, &mut payload);
        encode_varint(record.len() as u64, &mut payload);
        payload.extend_from_slice(record);
    }
    Message {
        key: format!("{}/{}", batch.node, batch.shard).into_bytes(),
        payload,
        node: batch.node.to_owned(),
        seqs: format!("{first_seq}-{}", first_seq + records.len() as u64 - 1),
    }
}
