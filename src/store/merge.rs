//! Merging: where little moves, each batch leaves a block of a few records. Once their hour is over they are joined into larger ones, so
//! that a search reads few rows and packing has something to pack.
//!
//! One step takes some blocks of one hour and puts the same records, packed anew, in their place: one transaction, so that whoever reads
//! (in one snapshot, `details.rs`) sees the old ones or the new ones. Two of adjacent new blocks are never both small, so there are fewer
//! small ones after each step, and at most one in each hour at the end. Nothing is billed by blocks, and no record changes.

use sqlx::Row;

use super::block::{Details, SMALL, unpack};
use super::query::{number, text};
use super::{Error, Store, failed};
use crate::clock::HOUR_US;

/// Blocks of one step.
const BLOCKS_MAX: i64 = 64;

impl Store {
    /// Joins some blocks of the oldest hour that has small ones and was over before this time. False: there is nothing to join.
    pub async fn merge_blocks(&self, before_us: i64) -> Result<bool, Error> {
        // Seen from outside, so that an hour without anything to join takes no lock from a batch.
        let sql = format!(
            "SELECT last_at - last_at % {HOUR_US} AS hour FROM blocks WHERE records < {SMALL} AND last_at >= 0 AND last_at < $1 \
             GROUP BY last_at - last_at % {HOUR_US} HAVING COUNT(*) > 1 ORDER BY 1 LIMIT 1"
        );
        let hour = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(before_us - before_us.rem_euclid(HOUR_US));
        let hour = hour.fetch_optional(&self.pool).await.map_err(failed("look for small blocks"))?;
        let Some(hour) = hour else { return Ok(false) };
        let from_us = number(&hour, "hour")?;
        // Another ledger may have joined some of them by now.
        let mut to = self.begin_alone().await?;
        let sql = format!(
            "SELECT id, last_at, bytes FROM blocks WHERE records < {SMALL} AND last_at >= $1 AND last_at < $2 \
             ORDER BY last_at, id LIMIT {BLOCKS_MAX}"
        );
        let small = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(from_us).bind(from_us + HOUR_US);
        let small = small.fetch_all(&mut *to).await.map_err(failed("read small blocks"))?;
        let mut details = Details::default();
        for row in &small {
            let (id, last_at_us) = (text(row, "id")?, number(row, "last_at")?);
            let bytes: Vec<u8> = row.try_get("bytes").map_err(failed("read a block"))?;
            let records = unpack(&bytes).map_err(|reason| Error::Damaged(format!("block {id}: {reason}")))?;
            let mut own = Details::default();
            for record in &records {
                own.add(record);
                details.add(record);
            }
            let gone =
                sqlx::query("DELETE FROM blocks WHERE last_at = $1 AND id = $2").bind(last_at_us).bind(id.clone());
            let gone = gone.execute(&mut *to).await.map_err(failed("join blocks"))?;
            if gone.rows_affected() != 1 {
                return Err(Error::Fenced(format!("block {id}")));
            }
            for (account, last_at_us) in own.accounts() {
                let sql = "DELETE FROM block_accounts WHERE account = $1 AND last_at = $2 AND block = $3";
                let gone = sqlx::query(sql).bind(account.to_owned()).bind(last_at_us).bind(id.clone());
                gone.execute(&mut *to).await.map_err(failed("join blocks"))?;
            }
        }
        let blocks = details.blocks().map_err(|error| Error::Damaged(format!("blocks cannot be packed: {error}")))?;
        Self::write_blocks(&mut to, &blocks).await?;
        to.commit().await.map_err(failed("join blocks"))?;
        Ok(true)
    }
}
