//! Looking sessions and requests up in blocks: newest first, page by page, never more than a bounded number of blocks at once.
//!
//! What is found is one record for each session or request: its close, or, while it is open, the latest of its checkpoints. So it is found
//! at the time when it ended or was last heard of, and found once.
//!
//! Blocks are read by their latest record, newest first. A record may be given out once nothing that is unread can be newer; where a
//! bound is reached first, the cursor says up to when everything was looked at.
//!
//! A page is read in one snapshot: blocks that are joined meanwhile (`merge.rs`) hide nothing and show nothing twice.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use sqlx::{AnyConnection, Row};

use super::block::{Block, unpack};
use super::query::{number, text};
use super::{Error, Store, failed};
use crate::clock::{HOUR_US, hour_of};
use crate::event::{Kind, Phase, UsageRecord};
use crate::ids::hex;

/// Blocks read for one page: some hundred thousand records.
const BLOCKS_MAX: usize = 128;

/// Where a search goes on: behind this time and, within it, this key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Time of a record, µs.
    pub at_us: i64,
    /// Which of those at that time.
    pub key: [u8; 16],
}

impl Place {
    /// Before everything that is older than `to_us`.
    pub fn before(to_us: i64) -> Self {
        Self { at_us: to_us, key: [0; 16] }
    }

    fn of(record: &UsageRecord) -> Self {
        let id = if record.kind() == Kind::Session { &record.session_id } else { &record.request_id };
        let key = <[u8; 16]>::try_from(id.as_ref()).unwrap_or_else(|_| {
            // Requests that were folded have no id: their position is as good.
            let place = format!("{} {} {} {}", record.node, record.epoch, record.shard, record.seq);
            let mut key = [0; 16];
            key.copy_from_slice(&blake3::hash(place.as_bytes()).as_bytes()[..16]);
            key
        });
        Self { at_us: record.at, key }
    }
}

/// What is looked for.
#[derive(Clone, Debug)]
pub struct Search {
    /// Only this account's.
    pub account: Option<String>,
    /// Sessions or requests.
    pub kind: Kind,
    /// Not older than this, µs.
    pub from_us: i64,
    /// Older than this place.
    pub before: Place,
    /// At most so many.
    pub rows_max: usize,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// Newest first.
    pub records: Vec<UsageRecord>,
    /// Where to go on; none: there is nothing more.
    pub next: Option<Place>,
}

struct Candidate {
    last_at_us: i64,
    block: String,
}

impl Store {
    pub(super) async fn write_blocks(
        to: &mut sqlx::Transaction<'static, sqlx::Any>,
        blocks: &[Block],
    ) -> Result<(), Error> {
        for block in blocks {
            sqlx::query("INSERT INTO blocks (id, first_at, last_at, records, bytes) VALUES ($1, $2, $3, $4, $5)")
                .bind(block.id.clone())
                .bind(block.first_at_us)
                .bind(block.last_at_us)
                .bind(block.records)
                .bind(block.bytes.clone())
                .execute(&mut **to)
                .await
                .map_err(failed("keep a block of records"))?;
            for (account, first_at_us, last_at_us) in &block.accounts {
                let sql = "INSERT INTO block_accounts (account, last_at, block, first_at) VALUES ($1, $2, $3, $4)";
                sqlx::query(sql)
                    .bind(account.clone())
                    .bind(*last_at_us)
                    .bind(block.id.clone())
                    .bind(*first_at_us)
                    .execute(&mut **to)
                    .await
                    .map_err(failed("keep whose records a block has"))?;
            }
        }
        Ok(())
    }

    /// The next page. `matches` sees every record of that account, kind and time.
    pub async fn search(&self, search: &Search, matches: impl Fn(&UsageRecord) -> bool) -> Result<Page, Error> {
        // Everything of a block lies in one hour, so no block whose latest record is in a later one holds anything older.
        let mut below_us = search.before.at_us.min(i64::MAX - 2 * HOUR_US);
        below_us = hour_of(below_us) + HOUR_US;
        let mut found: BinaryHeap<Reverse<(Place, usize)>> = BinaryHeap::new();
        let mut records: Vec<UsageRecord> = Vec::new();
        let mut blocks_read = 0;
        let mut passed: Option<(i64, String)> = None;
        let mut from = self.snapshot().await?;
        loop {
            let candidates = candidates(&mut from, search, below_us, passed.as_ref()).await?;
            let is_last = candidates.len() < BLOCKS_MAX;
            for Candidate { last_at_us, block } in candidates {
                // Whatever is unread is not newer than this.
                let unread_us = last_at_us.min(search.before.at_us);
                let is_full = found.len() > search.rows_max
                    && found.peek().is_some_and(|Reverse((worst, _))| worst.at_us > unread_us);
                let is_progress = unread_us < search.before.at_us;
                if is_full || blocks_read >= BLOCKS_MAX && is_progress {
                    return Ok(page(found, records, search.rows_max, Some(unread_us)));
                }
                let unpacked = read_block(&mut from, &block, last_at_us).await?;
                blocks_read += 1;
                let is_wanted = |record: &UsageRecord| {
                    record.kind() == search.kind
                        && record.at >= search.from_us
                        && Place::of(record) < search.before
                        && search.account.as_ref().is_none_or(|account| record.payer() == account.as_str())
                        && matches(record)
                };
                let wanted: Vec<UsageRecord> = unpacked.into_iter().filter(is_wanted).collect();
                for record in current(&mut from, wanted).await? {
                    found.push(Reverse((Place::of(&record), records.len())));
                    records.push(record);
                    // One more than asked for says whether there is more.
                    if found.len() > search.rows_max + 1
                        && let Some(Reverse((_, dropped))) = found.pop()
                    {
                        records[dropped] = UsageRecord::default();
                    }
                }
                passed = Some((last_at_us, block));
            }
            if is_last {
                return Ok(page(found, records, search.rows_max, None));
            }
        }
    }

    /// Every record of every block, in no order.
    #[cfg(test)]
    pub(crate) async fn all_details(&self) -> Vec<UsageRecord> {
        let mut records = Vec::new();
        let mut from = self.snapshot().await.unwrap();
        for row in self.rows("list blocks", "SELECT id, last_at FROM blocks").await.unwrap() {
            let (id, last_at_us) = (text(&row, "id").unwrap(), number(&row, "last_at").unwrap());
            records.extend(read_block(&mut from, &id, last_at_us).await.unwrap());
        }
        records
    }

    /// How many blocks there are, and the octets in them.
    pub async fn blocks(&self) -> Result<(i64, i64), Error> {
        let sql = "SELECT COUNT(*) AS blocks, CAST(COALESCE(SUM(LENGTH(bytes)), 0) AS BIGINT) AS octets FROM blocks";
        let rows = self.rows("measure blocks", sql).await?;
        rows.first().map_or(Ok((0, 0)), |row| Ok((number(row, "blocks")?, number(row, "octets")?)))
    }
}

/// Blocks that may hold something, by their latest record.
async fn candidates(
    from: &mut AnyConnection,
    search: &Search,
    below_us: i64,
    passed: Option<&(i64, String)>,
) -> Result<Vec<Candidate>, Error> {
    let (id, table, of) = match search.account {
        Some(_) => ("block", "block_accounts", " AND account = $6"),
        None => ("id", "blocks", ""),
    };
    let sql = format!(
        "SELECT {id} AS block, last_at FROM {table} WHERE last_at >= $1 AND last_at < $2 AND first_at <= $3 \
         AND (last_at < $4 OR (last_at = $4 AND {id} < $5)){of} ORDER BY last_at DESC, {id} DESC LIMIT {BLOCKS_MAX}"
    );
    let (passed_us, passed_block) = passed.map_or((i64::MAX, ""), |(at_us, block)| (*at_us, block.as_str()));
    let mut query = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(search.from_us)
        .bind(below_us)
        .bind(search.before.at_us)
        .bind(passed_us)
        .bind(passed_block.to_owned());
    if let Some(account) = &search.account {
        query = query.bind(account.clone());
    }
    let rows = query.fetch_all(from).await.map_err(failed("look for blocks"))?;
    rows.iter().map(|row| Ok(Candidate { last_at_us: number(row, "last_at")?, block: text(row, "block")? })).collect()
}

/// The records of a block, of which one, perhaps not the latest, is of this time: all lie in that hour.
pub(super) async fn read_block(from: &mut AnyConnection, id: &str, at_us: i64) -> Result<Vec<UsageRecord>, Error> {
    let sql = "SELECT bytes FROM blocks WHERE id = $1 AND last_at >= $2 AND last_at < $3";
    let row = sqlx::query(sql).bind(id.to_owned()).bind(at_us).bind(hour_of(at_us) + HOUR_US);
    let row = row.fetch_optional(from).await.map_err(failed("read a block"))?;
    // Its partition was dropped since it was listed: a snapshot does not keep tables.
    let Some(row) = row else { return Ok(Vec::new()) };
    let bytes: Vec<u8> = row.try_get("bytes").map_err(failed("read a block"))?;
    unpack(&bytes).map_err(|reason| Error::Damaged(format!("block {id}: {reason}")))
}

/// Of these, closes, and the latest records of what is open.
async fn current(from: &mut AnyConnection, mut records: Vec<UsageRecord>) -> Result<Vec<UsageRecord>, Error> {
    let mut kept = Vec::with_capacity(records.len());
    for record in records.drain(..) {
        if record.phase() == Phase::Close || is_current(from, &record).await? {
            kept.push(record);
        }
    }
    Ok(kept)
}

async fn is_current(from: &mut AnyConnection, record: &UsageRecord) -> Result<bool, Error> {
    #[derive(serde::Deserialize)]
    struct Open {
        last_at_us: Option<i64>,
        is_closed: bool,
    }
    let id = if record.kind() == Kind::Session { &record.session_id } else { &record.request_id };
    let row = sqlx::query("SELECT state FROM items WHERE id = $1").bind(hex(id)).fetch_optional(from).await;
    let Some(row) = row.map_err(failed("read an item"))? else { return Ok(false) };
    let state: Open = serde_json::from_str(&text(&row, "state")?)
        .map_err(|error| Error::Damaged(format!("item {}: {error}", hex(id))))?;
    Ok(!state.is_closed && state.last_at_us == Some(record.at))
}

/// What may be given out: all that is newer than everything unread.
fn page(
    found: BinaryHeap<Reverse<(Place, usize)>>,
    mut records: Vec<UsageRecord>,
    rows_max: usize,
    unread_us: Option<i64>,
) -> Page {
    // Reversed, so ascending is newest first.
    let newest = found.into_sorted_vec();
    let mut page = Page::default();
    for Reverse((place, at)) in newest {
        if unread_us.is_some_and(|unread_us| place.at_us <= unread_us) {
            break;
        }
        if page.records.len() == rows_max {
            page.next = page.records.last().map(Place::of);
            return page;
        }
        page.records.push(std::mem::take(&mut records[at]));
    }
    // Everything newer than this was looked at; what lies at this very µs was not.
    page.next = unread_us.map(|at_us| Place::before(at_us.saturating_add(1)));
    page
}
