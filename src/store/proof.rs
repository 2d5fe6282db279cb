//! Every record of an account and a time, out of blocks: what a figure was made of.

use super::details::read_block;
use super::query::{number, text};
use super::rows::{Filter, Group, Series, Sums};
use super::{Error, Store, failed};
use crate::event::UsageRecord;

impl Store {
    /// All records of sessions and requests in this time, in the order of their positions; of one account, or of all. None: there are
    /// more than `records_max`, or they lie in more than `blocks_max` blocks.
    pub async fn records(
        &self,
        filter: &Filter,
        records_max: usize,
        blocks_max: usize,
    ) -> Result<Option<Vec<UsageRecord>>, Error> {
        let (id, table, of) = match filter.account {
            Some(_) => ("block", "block_accounts", " AND account = $3"),
            None => ("id", "blocks", ""),
        };
        let sql = format!(
            "SELECT {id} AS block, last_at FROM {table} WHERE last_at >= $1 AND first_at < $2{of} ORDER BY last_at LIMIT {}",
            blocks_max + 1
        );
        let mut query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(filter.from_us).bind(filter.to_us);
        if let Some(account) = &filter.account {
            query = query.bind(account.clone());
        }
        let mut from = self.snapshot().await?;
        let rows = query.fetch_all(&mut *from).await.map_err(failed("look for blocks"))?;
        if rows.len() > blocks_max {
            return Ok(None);
        }
        let mut records = Vec::new();
        for row in &rows {
            let unpacked = read_block(&mut from, &text(row, "block")?, number(row, "last_at")?).await?;
            records.extend(unpacked.into_iter().filter(|record| {
                (filter.from_us..filter.to_us).contains(&record.at)
                    && filter.account.as_ref().is_none_or(|account| record.payer() == account.as_str())
            }));
            if records.len() > records_max {
                return Ok(None);
            }
        }
        records.sort_by(|a, b| (&a.node, a.epoch, a.shard, a.seq).cmp(&(&b.node, b.epoch, b.shard, b.seq)));
        Ok(Some(records))
    }

    /// From when on records of this account, or of all, are kept, µs.
    pub async fn records_since(&self, account: Option<&str>) -> Result<Option<i64>, Error> {
        let rows = match account {
            Some(account) => {
                let sql = "SELECT COALESCE(MIN(first_at), -1) AS since FROM block_accounts WHERE account = $1";
                self.rows_of("look for the first block", sql, account).await?
            }
            None => {
                self.rows("look for the first block", "SELECT COALESCE(MIN(first_at), -1) AS since FROM blocks").await?
            }
        };
        let since = rows.first().map_or(Ok(-1), |row| number(row, "since"))?;
        Ok((since >= 0).then_some(since))
    }

    /// Usage that corrections brought, by hour.
    pub async fn corrected_usage(&self, filter: &Filter) -> Result<Vec<(Series, i64, Sums)>, Error> {
        let usage = self.usage(filter, Group::Hour).await?;
        Ok(usage.into_iter().filter(|(series, ..)| !series.correction.is_empty()).collect())
    }
}
