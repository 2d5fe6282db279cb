//! Who looked at what.

use sqlx::any::AnyRow;

use super::partitions::Table;
use super::query::{number, text};
use super::{Error, Store, failed};

/// One look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// When, µs.
    pub at_us: i64,
    /// Who.
    pub subject: String,
    /// With what scope.
    pub scope: String,
    /// The account that the token names; empty for operators.
    pub account: String,
    /// At what.
    pub path: String,
    /// What was asked.
    pub query: String,
    /// How it was answered.
    pub status: i64,
    /// Rows that were shown; -1 where they only begin to flow: another row says how many there were at their end.
    pub rows: i64,
}

impl Store {
    /// Notes them, all or none.
    pub async fn note_accesses(&self, accesses: &[Access]) -> Result<(), Error> {
        self.make_partitions(Table::Access, accesses.iter().map(|access| access.at_us)).await?;
        let mut to = self.begin().await?;
        for access in accesses {
            sqlx::query(
                "INSERT INTO access (at, subject, scope, account, path, query, status, row_count) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            )
            .bind(access.at_us)
            .bind(access.subject.clone())
            .bind(access.scope.clone())
            .bind(access.account.clone())
            .bind(access.path.clone())
            .bind(access.query.clone())
            .bind(access.status)
            .bind(access.rows)
            .execute(&mut *to)
            .await
            .map_err(failed("note who looked"))?;
        }
        to.commit().await.map_err(failed("note who looked"))
    }

    /// The newest of them between two times (the second not included), at most so many.
    pub async fn accesses(&self, from_us: i64, to_us: i64, rows_max: i64) -> Result<Vec<Access>, Error> {
        let rows = sqlx::query("SELECT * FROM access WHERE at >= $1 AND at < $2 ORDER BY at DESC LIMIT $3")
            .bind(from_us)
            .bind(to_us)
            .bind(rows_max)
            .fetch_all(&self.pool)
            .await
            .map_err(failed("read who looked"))?;
        rows.iter().map(access).collect()
    }
}

fn access(row: &AnyRow) -> Result<Access, Error> {
    Ok(Access {
        at_us: number(row, "at")?,
        subject: text(row, "subject")?,
        scope: text(row, "scope")?,
        account: text(row, "account")?,
        path: text(row, "path")?,
        query: text(row, "query")?,
        status: number(row, "status")?,
        rows: number(row, "row_count")?,
    })
}
