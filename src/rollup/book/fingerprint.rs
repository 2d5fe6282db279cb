//! Which records are in a bucket: sums of hashes, the same in whatever order they came.

use crate::event::UsageRecord;
use crate::rollup::gaps::unsigned;
use crate::rollup::item::{Bytes, bytes_of};
use crate::wire::StreamId;

/// What a record that states its own position adds to the fingerprint of its bucket.
pub fn fingerprint_of(record: &UsageRecord) -> [i64; 4] {
    let stream = StreamId {
        node: record.node.clone(),
        epoch: u32::try_from(record.epoch).unwrap_or_default(),
        shard: u16::try_from(record.shard).unwrap_or_default(),
    };
    fingerprint(&stream, unsigned(record.seq), &bytes_of(record.deltas()))
}

/// Which record, and what it brought: equal sums in two stores mean the same records.
pub(super) fn fingerprint(stream: &StreamId, seq: u64, delta: &Bytes) -> [i64; 4] {
    let mut bytes = [0; 96];
    bytes[..4].copy_from_slice(&crc32c::crc32c(stream.node.as_bytes()).to_le_bytes());
    bytes[4..8].copy_from_slice(&stream.epoch.to_le_bytes());
    bytes[8..10].copy_from_slice(&stream.shard.to_le_bytes());
    bytes[16..24].copy_from_slice(&seq.to_le_bytes());
    for (to, delta) in bytes[24..].chunks_exact_mut(8).zip(delta) {
        to.copy_from_slice(&delta.to_le_bytes());
    }
    let hash = blake3::hash(&bytes);
    let mut lanes = [0; 4];
    for (lane, bytes) in lanes.iter_mut().zip(hash.as_bytes().chunks_exact(4)) {
        *lane = bytes.iter().rev().fold(0, |lane, byte| lane << 8 | i64::from(*byte));
    }
    lanes
}
