//! Sealing a period: nothing can come between looking at what is there and writing that it is final.

use sqlx::Row;

use super::lost::{LostNode, lost_nodes};
use super::query;
use super::rows::{Filter, Gap, Group, Period, Quarantined, Series, StreamRow, Sums};
use super::{Error, Store, failed};

/// What a seal is decided by.
#[derive(Debug)]
pub struct Seal {
    /// Sealed periods, in order.
    pub periods: Vec<Period>,
    /// Nodes of which nothing more will come.
    pub lost: Vec<LostNode>,
    /// All streams.
    pub streams: Vec<StreamRow>,
    /// All gaps.
    pub gaps: Vec<Gap>,
    /// What could not be read, written before the period's end.
    pub quarantine: Vec<Quarantined>,
    /// The period's usage.
    pub usage: Vec<(Series, Sums)>,
    /// The first hour of which there is usage at all, µs.
    pub first_hour_us: Option<i64>,
}

/// Amounts of a period: account, meter, amount.
pub type Amounts = Vec<(String, String, i64)>;

impl Store {
    /// Seals a period. `judge` says what the period came to and what is missing, or why it cannot be sealed.
    pub async fn seal(
        &self,
        mut period: Period,
        judge: impl FnOnce(&Seal) -> Result<(Amounts, String), Error>,
    ) -> Result<Period, Error> {
        let mut to = self.begin().await?;
        // From here on no batch can be committed that does not know of this seal: it waits for us and is then fenced off.
        for sql in ["UPDATE fence SET seals = seals + 1 WHERE id = 1", "UPDATE streams SET revision = revision + 1"] {
            sqlx::query(sql).execute(&mut *to).await.map_err(failed("fence batches off"))?;
        }
        let filter = Filter { account: None, from_us: period.from_us, to_us: period.to_us };
        let usage = query::usage(&mut to, &filter, Group::Series).await?;
        let first = sqlx::query("SELECT COALESCE(MIN(hour), -1) AS first FROM usage")
            .fetch_one(&mut *to)
            .await
            .map_err(failed("read the first hour"))?;
        let first: i64 = first.try_get("first").map_err(failed("read the first hour"))?;
        let seal = Seal {
            periods: query::periods(&mut to).await?,
            lost: lost_nodes(&mut to).await?,
            streams: query::streams(&mut to).await?,
            gaps: query::gaps(&mut to).await?,
            quarantine: query::quarantined(&mut to, period.to_us).await?,
            usage: usage.into_iter().map(|(series, _, sums)| (series, sums)).collect(),
            first_hour_us: (first >= 0).then_some(first),
        };
        let (amounts, holes) = judge(&seal)?;
        period.holes = holes;
        let done = sqlx::query(
            "INSERT INTO periods (period, from_us, to_us, sealed_at, actor, holes) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
        )
        .bind(period.name.clone())
        .bind(period.from_us)
        .bind(period.to_us)
        .bind(period.sealed_at_us)
        .bind(period.actor.clone())
        .bind(period.holes.clone())
        .execute(&mut *to)
        .await
        .map_err(failed("seal a period"))?;
        if done.rows_affected() != 1 {
            return Err(Error::Unsealable(format!("{} is sealed already", period.name)));
        }
        for (account, meter, amount) in amounts {
            sqlx::query("INSERT INTO sealed_usage (period, account, meter, amount) VALUES ($1, $2, $3, $4)")
                .bind(period.name.clone())
                .bind(account)
                .bind(meter)
                .bind(amount)
                .execute(&mut *to)
                .await
                .map_err(failed("seal an amount"))?;
        }
        to.commit().await.map_err(failed("seal a period"))?;
        Ok(period)
    }
}
