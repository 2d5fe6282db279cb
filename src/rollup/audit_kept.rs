//! The audit of a part by the ledger alone: the records that it keeps (`store/block.rs`) are rolled up again and held against usage.
//!
//! Less than `weir audit`, which reads the source: a record that never came to the ledger is in neither. What gap records state is left
//! out on both sides, because gap records are not kept one by one.

use super::audit::Look;
use super::audit_part::{Part, PartAudit, Watch, part_usage};
use super::book::{Book, Options};
use super::consume::Stop;
use crate::clock::{hour_of, utc_text};
use crate::event::{RecordView, UsageRecord};
use crate::store::{Filter, Found, Kind, Series, Store, Sums};
use crate::wire::StreamId;

/// Records and blocks that are read at most: some 100 MB.
const RECORDS_MAX: usize = 200_000;
const BLOCKS_MAX: usize = 4096;

/// Audits a part. `options` makes the same each time; records of hours before `kept_from_us` may have been forgotten. None: more records lie in it than are read at once.
pub async fn audit_kept(
    store: &Store,
    look: &Look,
    options: impl Fn() -> Options,
    part: Part,
    kept_from_us: i64,
) -> Result<Option<PartAudit>, Stop> {
    // In this order: whatever is committed meanwhile is among the records and not in the look, so it shows as in flight.
    let usage: Vec<(Series, i64, Sums)> = part_usage(store, &part).await?;
    let usage: Vec<_> = usage.into_iter().filter(|(series, ..)| series.kind != Kind::Gap).collect();
    let since_us = store.records_since(None).await?;
    // Of all accounts: what a session moved beyond its requests cannot be told without the requests of others in it.
    let filter = Filter { account: None, from_us: part.from_us, to_us: part.to_us };
    let Some(records) = store.records(&filter, RECORDS_MAX, BLOCKS_MAX).await? else { return Ok(None) };
    let mut watch = Watch::new(look, options(), part.clone())?;
    let mut again = Book::open(Found::default(), options()).map_err(Stop::Damaged)?;
    for record in &records {
        let Some((stream, seq)) = position(record) else { continue };
        let record = RecordView::from(record);
        watch.see(&stream, seq, &record);
        again.record(&stream, seq, &record);
    }
    let first_hour_us = usage.iter().map(|(_, hour_us, _)| *hour_us).min();
    let is_gone = first_hour_us.is_some_and(|first_us| {
        first_us < kept_from_us || since_us.is_none_or(|since_us| first_us < hour_of(since_us))
    });
    let gone = is_gone.then(|| {
        let note = match since_us {
            Some(since_us) => format!("single records are kept since {}", utc_text(since_us)),
            None => "single records are not kept".to_owned(),
        };
        (0, note)
    });
    watch.judge_with(look, &again, &usage, gone).map(Some)
}

fn position(record: &UsageRecord) -> Option<(StreamId, u64)> {
    let epoch = u32::try_from(record.epoch).ok()?;
    let shard = u16::try_from(record.shard).ok()?;
    Some((StreamId { node: record.node.clone(), epoch, shard }, u64::try_from(record.seq).ok()?))
}
