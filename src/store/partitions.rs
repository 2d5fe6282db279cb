//! Partitions: in PostgreSQL the tables that grow with time lie in one for each UTC month. SQLite has none, and the SQL above knows none.
//!
//! A month's partition is made before the first row for it is written, in a transaction of its own: left empty by a kill it does no
//! harm. What [`Store`] remembers of those that are there may be wrong once another process has dropped an old one; the write then fails,
//! nothing is written, and [`Store::forget_partitions`] lets the next attempt look again.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use sqlx::{AssertSqlSafe, Row};

use super::{Error, Store, failed};
use crate::clock::{date_of, day_us};

/// Times before and behind these are in one partition each, which are always there: `…_early`, `…_late`.
const FIRST_YEAR: i64 = 2020;
const LAST_YEAR: i64 = 2099;
/// Of the lock under which partitions are made: two at once would both make the same.
const LOCK: i64 = 0x7765_6972;

/// A table that is partitioned, by the column that its rows are told apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Table {
    /// By `hour`.
    Usage,
    /// By `last_at`.
    Blocks,
    /// By `last_at`.
    BlockAccounts,
    /// By `at`.
    Access,
}

impl Table {
    fn name(self) -> &'static str {
        match self {
            Self::Usage => "usage",
            Self::Blocks => "blocks",
            Self::BlockAccounts => "block_accounts",
            Self::Access => "access",
        }
    }
}

/// Partitions that are there, as far as is known.
pub(super) type Known = Arc<Mutex<HashSet<(Table, (i64, i64))>>>;

impl Store {
    /// Before a transaction that writes rows of these times begins.
    pub(super) async fn make_partitions(&self, table: Table, times_us: impl Iterator<Item = i64>) -> Result<(), Error> {
        let missing = self.missing_partitions(table, times_us);
        if missing.is_empty() {
            return Ok(());
        }
        let mut to = self.begin().await?;
        make(&mut to, table, &missing).await?;
        to.commit().await.map_err(failed("make a partition"))?;
        let mut known = self.partitions.lock().unwrap_or_else(PoisonError::into_inner);
        known.extend(missing.into_iter().map(|month| (table, month)));
        Ok(())
    }

    /// Within a transaction that only finds out what it writes.
    pub(super) async fn make_partitions_in(
        &self,
        to: &mut sqlx::AnyConnection,
        table: Table,
        times_us: impl Iterator<Item = i64>,
    ) -> Result<(), Error> {
        let missing = self.missing_partitions(table, times_us);
        if missing.is_empty() { Ok(()) } else { make(to, table, &missing).await }
    }

    fn missing_partitions(&self, table: Table, times_us: impl Iterator<Item = i64>) -> HashSet<(i64, i64)> {
        if self.is_sqlite {
            return HashSet::new();
        }
        let known = self.partitions.lock().unwrap_or_else(PoisonError::into_inner);
        times_us.filter_map(month_of).filter(|month| !known.contains(&(table, *month))).collect()
    }

    /// What is known of partitions may be why something failed: it is looked at again.
    pub(super) fn forget_partitions(&self) {
        self.partitions.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Drops the partitions whose months are over before this time.
    pub(super) async fn drop_partitions(&self, table: Table, before_us: i64) -> Result<(), Error> {
        if self.is_sqlite {
            return Ok(());
        }
        let parent = table.name();
        let sql = format!(
            "SELECT CAST(c.relname AS TEXT) AS name FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid \
             WHERE i.inhparent = CAST('{parent}' AS regclass)"
        );
        let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(&self.pool).await.map_err(failed("list partitions"))?;
        for row in &rows {
            let name: String = row.try_get("name").map_err(failed("list partitions"))?;
            let month =
                name.strip_prefix(parent).and_then(|rest| rest.strip_prefix('_')).filter(|rest| rest.len() == 6);
            let Some(month) = month.and_then(|digits| digits.parse::<i64>().ok()) else { continue };
            let (year, month) = (month / 100, month % 100);
            if month_end_us(year, month) <= before_us {
                let sql = format!("DROP TABLE IF EXISTS {parent}_{year:04}{month:02}");
                sqlx::raw_sql(AssertSqlSafe(sql)).execute(&self.pool).await.map_err(failed("drop a partition"))?;
            }
        }
        self.forget_partitions();
        Ok(())
    }
}

async fn make(to: &mut sqlx::AnyConnection, table: Table, months: &HashSet<(i64, i64)>) -> Result<(), Error> {
    let lock = format!("SELECT pg_advisory_xact_lock({LOCK})");
    sqlx::raw_sql(AssertSqlSafe(lock)).execute(&mut *to).await.map_err(failed("lock partitions"))?;
    let parent = table.name();
    for (year, month) in months {
        let (from_us, to_us) = (day_us(*year, *month, 1), month_end_us(*year, *month));
        let sql = format!(
            "CREATE TABLE IF NOT EXISTS {parent}_{year:04}{month:02} PARTITION OF {parent} FOR VALUES FROM ({from_us}) TO ({to_us})"
        );
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *to).await.map_err(failed("make a partition"))?;
    }
    Ok(())
}

fn month_end_us(year: i64, month: i64) -> i64 {
    day_us(year + month / 12, month % 12 + 1, 1)
}

/// Year and month that a time lies in; none where it has no partition of its own.
fn month_of(at_us: i64) -> Option<(i64, i64)> {
    let (year, month, _) = date_of(at_us);
    (FIRST_YEAR..=LAST_YEAR).contains(&year).then_some((year, month))
}
