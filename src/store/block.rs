//! Blocks: the records of sessions and requests as they came, many in one row, to be looked up one by one.
//!
//! ```text
//! batch ─ records by (hour, account) ─ packed, at most 2,000 to a block ─ zstd ─► blocks (a row each) · block_accounts (a row for each
//!                                                                                 account in it), in the batch's transaction
//! ```
//!
//! Sorted by account, because an account is what is asked for: a search of one reads few blocks of others. Nothing here is billed by.
//! A record that comes again is dropped before it gets here, so each lies in one block. Small ones are joined when their hour is over
//! (`merge.rs`); all go when they are `details_keep_days` old.

use std::collections::BTreeMap;

use prost::Message;

use crate::clock::hour_of;
use crate::event::{Kind, UsageRecord};

/// Records of one block.
const RECORDS_MAX: usize = 2_000;
/// A block of fewer is joined with others once its hour is over (`merge.rs`); the index `blocks_small` says the same.
pub(super) const SMALL: usize = RECORDS_MAX / 2;
/// As fast as reading the records was; more would save little.
const ZSTD_LEVEL: i32 = 1;
/// No block of ours is larger, unpacked.
const BYTES_MAX: usize = 64 << 20;

/// A row of `blocks`, and its rows of `block_accounts`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Hash of its first record's position.
    pub id: String,
    /// Time of its earliest record, µs.
    pub first_at_us: i64,
    /// Time of its latest.
    pub last_at_us: i64,
    /// How many.
    pub records: i64,
    /// Whose, in order: account, first and last time.
    pub accounts: Vec<(String, i64, i64)>,
    /// Packed.
    pub bytes: Vec<u8>,
}

/// Records of one account in one hour, encoded.
#[derive(Clone, Debug, Default)]
struct Run {
    bytes: Vec<u8>,
    records: usize,
    first_at_us: i64,
    last_at_us: i64,
}

/// What the batch under way has brought.
#[derive(Clone, Debug, Default)]
pub struct Details {
    runs: BTreeMap<(i64, String), Vec<Run>>,
    records: usize,
}

impl Details {
    /// Keeps a session's or request's record, which says its position.
    pub fn add(&mut self, record: &UsageRecord) {
        if !matches!(record.kind(), Kind::Session | Kind::Request) {
            return;
        }
        let account: String = record.payer().chars().filter(|c| *c != '\0').take(255).collect();
        let runs = self.runs.entry((hour_of(record.at), account)).or_default();
        if runs.last().is_none_or(|run| run.records >= RECORDS_MAX) {
            runs.push(Run { first_at_us: record.at, last_at_us: record.at, ..Run::default() });
        }
        let Some(run) = runs.last_mut() else { return };
        record.encode_length_delimited(&mut run.bytes).unwrap_or_default();
        run.records += 1;
        run.first_at_us = run.first_at_us.min(record.at);
        run.last_at_us = run.last_at_us.max(record.at);
        self.records += 1;
    }

    /// Whose records there are, and the time of the latest of each, µs.
    pub(super) fn accounts(&self) -> impl Iterator<Item = (&str, i64)> {
        self.runs
            .iter()
            .filter_map(|((_, account), runs)| Some((account.as_str(), runs.iter().map(|run| run.last_at_us).max()?)))
    }

    /// Packed. An error where packing fails, which memory alone can bring about.
    pub fn blocks(&self) -> std::io::Result<Vec<Block>> {
        let (mut blocks, mut open, mut hour) = (Vec::new(), Vec::new(), 0);
        for ((hour_us, account), runs) in &self.runs {
            for run in runs {
                let records: usize = open.iter().map(|(_, run): &(&String, &Run)| run.records).sum();
                if *hour_us != hour || records + run.records > RECORDS_MAX {
                    blocks.extend(pack(&open)?);
                    open.clear();
                    hour = *hour_us;
                }
                open.push((account, run));
            }
        }
        blocks.extend(pack(&open)?);
        Ok(blocks)
    }
}

fn pack(runs: &[(&String, &Run)]) -> std::io::Result<Option<Block>> {
    let Some((_, first)) = runs.first() else { return Ok(None) };
    let raw: Vec<u8> = runs.iter().flat_map(|(_, run)| run.bytes.iter().copied()).collect();
    // Its first record: nobody else has that seq.
    let length = prost::decode_length_delimiter(first.bytes.as_slice()).unwrap_or_default();
    let first_record = &first.bytes[..first.bytes.len().min(length + prost::length_delimiter_len(length))];
    let accounts = runs.iter().map(|(account, run)| ((*account).clone(), run.first_at_us, run.last_at_us));
    Ok(Some(Block {
        id: crate::ids::hex(&blake3::hash(first_record).as_bytes()[..16]),
        first_at_us: runs.iter().map(|(_, run)| run.first_at_us).min().unwrap_or_default(),
        last_at_us: runs.iter().map(|(_, run)| run.last_at_us).max().unwrap_or_default(),
        records: runs.iter().map(|(_, run)| run.records as i64).sum(),
        accounts: accounts.collect(),
        bytes: zstd::bulk::compress(&raw, ZSTD_LEVEL)?,
    }))
}

/// Records packed as those of a block are.
pub(super) fn repack(records: &[UsageRecord]) -> Result<Vec<u8>, String> {
    let mut raw = Vec::new();
    for record in records {
        record.encode_length_delimited(&mut raw).map_err(|error| error.to_string())?;
    }
    zstd::bulk::compress(&raw, ZSTD_LEVEL).map_err(|error| error.to_string())
}

/// The records of a block. An error says why it cannot be read.
pub(super) fn unpack(bytes: &[u8]) -> Result<Vec<UsageRecord>, String> {
    let size = zstd::zstd_safe::get_frame_content_size(bytes).ok().flatten().unwrap_or(BYTES_MAX as u64);
    let size = usize::try_from(size).unwrap_or(BYTES_MAX).min(BYTES_MAX);
    let raw = zstd::bulk::decompress(bytes, size).map_err(|error| error.to_string())?;
    let mut rest = raw.as_slice();
    let mut records = Vec::new();
    while !rest.is_empty() {
        records.push(UsageRecord::decode_length_delimited(&mut rest).map_err(|error| error.to_string())?);
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::HOUR_US;

    fn record(account: &str, at: i64, seq: i64) -> UsageRecord {
        let kind = Kind::Request.into();
        UsageRecord { kind, account: account.into(), at, node: "n".into(), seq, ..UsageRecord::default() }
    }

    #[test]
    fn every_record_lies_in_one_block_of_its_hour() {
        let mut details = Details::default();
        let mut expected = Vec::new();
        for seq in 0..9_000 {
            let account = ["acme", "globex", "initech", ""][seq % 4];
            let record = record(account, (seq as i64 % 3) * HOUR_US + seq as i64, seq as i64);
            details.add(&record);
            expected.push(record);
        }
        details.add(&UsageRecord { kind: Kind::Node.into(), ..UsageRecord::default() });
        let blocks = details.blocks().unwrap();
        let mut found = Vec::new();
        for block in &blocks {
            let records = unpack(&block.bytes).unwrap();
            assert_eq!((records.len() as i64, records.len() <= RECORDS_MAX), (block.records, true));
            assert_eq!(hour_of(block.first_at_us), hour_of(block.last_at_us));
            for record in &records {
                let name = record.payer();
                let (_, first, last) = block.accounts.iter().find(|(account, ..)| account == name).unwrap();
                assert!(*first <= record.at && record.at <= *last);
            }
            found.extend(records);
        }
        found.sort_by_key(|record| record.seq);
        assert_eq!(found, expected);
        let ids: std::collections::BTreeSet<&String> = blocks.iter().map(|block| &block.id).collect();
        assert_eq!(ids.len(), blocks.len());
    }

    #[test]
    fn damaged_blocks_are_errors() {
        let mut details = Details::default();
        (0..100).for_each(|seq| details.add(&record("acme", seq, seq)));
        let bytes = details.blocks().unwrap().remove(0).bytes;
        for cut in 0..bytes.len() {
            assert!(unpack(&bytes[..cut]).is_err() || cut == 0, "{cut}");
        }
        assert!(unpack(b"no block").is_err());
    }
}
