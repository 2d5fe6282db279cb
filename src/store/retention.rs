//! Retention: what is forgotten, or kept with less detail, once it is old. Nothing of an open period, and no sum.
//!
//! | what | when it is old |
//! |---|---|
//! | blocks: single sessions and requests | are deleted |
//! | access: who looked at what | is deleted |
//! | usage of a sealed month | its hours become one row of the month for each series: every sum, and the month's fingerprint, stays |
//! | quarantine of a sealed month | is deleted; the seal has stated it. What nobody knows the time of stays |
//! | gaps, streams, periods, corrections, lost nodes, alerts | stay: a record that is late, or comes again, must be known for ever |
//!
//! All of it goes in small transactions, so that no batch waits for long. In PostgreSQL whole months go as partitions.

use sqlx::AssertSqlSafe;

use super::partitions::Table;
use super::query::number;
use super::rows::SUM_COLUMNS;
use super::{Error, Store, failed};

/// Rows that are deleted at once.
const ROWS: i64 = 500;
/// Series whose hours are joined at once.
const SERIES: i64 = 200;

/// Times before which something is old, µs; none: never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Old {
    /// Of single sessions and requests.
    pub details_us: Option<i64>,
    /// Of who looked at what.
    pub accesses_us: Option<i64>,
    /// Of single hours.
    pub hours_us: Option<i64>,
    /// Of what could not be read.
    pub quarantine_us: Option<i64>,
}

impl Store {
    /// Forgets what is old.
    pub async fn forget(&self, old: &Old) -> Result<(), Error> {
        if let Some(before_us) = old.details_us {
            for (table, of) in [(Table::BlockAccounts, "block_accounts"), (Table::Blocks, "blocks")] {
                self.drop_partitions(table, before_us).await?;
                self.delete(of, "last_at", before_us, "").await?;
            }
        }
        if let Some(before_us) = old.accesses_us {
            self.drop_partitions(Table::Access, before_us).await?;
            self.delete("access", "at", before_us, "").await?;
        }
        let periods = self.periods().await?;
        let sealed_us = periods.iter().map(|period| period.to_us).max().unwrap_or(i64::MIN);
        if let Some(before_us) = old.quarantine_us {
            self.delete("quarantine", "at", before_us.min(sealed_us), " AND at > 0").await?;
        }
        if let Some(before_us) = old.hours_us {
            let months = periods.iter().filter(|period| period.to_us <= before_us);
            let months: Vec<(i64, i64)> = months.map(|period| (period.from_us, period.to_us)).collect();
            if self.has_hours(&months).await? {
                for (from_us, to_us) in months {
                    while self.join_hours(from_us, to_us).await? {}
                }
            }
        }
        Ok(())
    }

    /// Whether these months, which follow one another, have hours that are not joined: looked at for all of them at once.
    async fn has_hours(&self, months: &[(i64, i64)]) -> Result<bool, Error> {
        let (Some((from_us, _)), Some((_, to_us))) = (months.first(), months.last()) else { return Ok(false) };
        let firsts: Vec<String> = months.iter().map(|(from_us, _)| from_us.to_string()).collect();
        let sql = format!(
            "SELECT series FROM usage WHERE hour > $1 AND hour < $2 AND hour NOT IN ({}) LIMIT 1",
            firsts.join(", ")
        );
        let row = sqlx::query(AssertSqlSafe(sql)).bind(*from_us).bind(*to_us).fetch_optional(&self.pool).await;
        Ok(row.map_err(failed("look for hours of old months"))?.is_some())
    }

    /// Some rows at a time.
    async fn delete(&self, table: &str, time: &str, before_us: i64, and: &str) -> Result<(), Error> {
        // What tells a row from all others: the place where it lies.
        let place = if self.is_sqlite { "rowid" } else { "ctid" };
        let part = if self.is_sqlite { "" } else { ", tableoid" };
        let sql = format!(
            "DELETE FROM {table} WHERE ({place}{part}) IN (SELECT {place}{part} FROM {table} WHERE {time} < $1{and} LIMIT {ROWS})"
        );
        loop {
            let done = sqlx::query(AssertSqlSafe(sql.clone())).bind(before_us).execute(&self.pool).await;
            if done.map_err(failed("forget what is old"))?.rows_affected() == 0 {
                return Ok(());
            }
        }
    }

    /// Joins the hours of some series into the first hour of their month. False: there are none left.
    async fn join_hours(&self, from_us: i64, to_us: i64) -> Result<bool, Error> {
        // Another ledger that joins the same hours would add them twice.
        let mut to = self.begin_alone().await?;
        let sql =
            format!("SELECT DISTINCT series FROM usage WHERE hour > $1 AND hour < $2 ORDER BY series LIMIT {SERIES}");
        let rows = sqlx::query(AssertSqlSafe(sql)).bind(from_us).bind(to_us).fetch_all(&mut *to).await;
        let rows = rows.map_err(failed("list the series of a month"))?;
        let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return Ok(false) };
        let (first, last) = (number(first, "series")?, number(last, "series")?);
        let columns = SUM_COLUMNS.join(", ");
        let sums: Vec<String> = SUM_COLUMNS.iter().map(|name| format!("CAST(SUM({name}) AS BIGINT)")).collect();
        let sums = sums.join(", ");
        let added: Vec<String> =
            SUM_COLUMNS.iter().map(|name| format!("{name} = usage.{name} + excluded.{name}")).collect();
        let of = "hour > $1 AND hour < $2 AND series >= $3 AND series <= $4";
        let join = format!(
            "INSERT INTO usage (series, hour, {columns}) SELECT series, CAST($1 AS BIGINT), {sums} FROM usage WHERE {of} GROUP BY series \
             ON CONFLICT (series, hour) DO UPDATE SET {}",
            added.join(", ")
        );
        for sql in [join, format!("DELETE FROM usage WHERE {of}")] {
            sqlx::query(AssertSqlSafe(sql))
                .bind(from_us)
                .bind(to_us)
                .bind(first)
                .bind(last)
                .execute(&mut *to)
                .await
                .map_err(failed("join the hours of a month"))?;
        }
        to.commit().await.map_err(failed("join the hours of a month"))?;
        Ok(true)
    }
}
