//! Corrections by hand: rows that are added, each with who, when and why, in one transaction that no seal comes between.

use super::commit;
use super::partitions::Table;
use super::query::{self, number, text};
use super::rows::{Filter, Group, Period, Series, Sums, Usage};
use super::{Error, Store, failed};

/// One correction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Correction {
    /// `c1`, `c2`, …; the store gives it.
    pub id: String,
    /// When it was made, µs.
    pub at_us: i64,
    /// By whom.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// What was asked for, in words.
    pub what: String,
    /// The correction that it takes back, else empty.
    pub undoes: String,
}

/// What a correction is made from.
#[derive(Debug)]
pub struct Seen {
    /// Its id.
    pub id: String,
    /// Sealed periods, in order.
    pub periods: Vec<Period>,
    /// Usage by hour that the filter takes, corrections included.
    pub usage: Vec<(Series, i64, Sums)>,
    /// Corrections made before.
    pub before: Vec<Correction>,
}

/// What a correction adds: each with the id of its series.
pub type Corrected = Vec<(i64, Series, i64, Sums)>;

impl Store {
    /// Makes a correction. `judge` says what it adds, or why it cannot be made.
    pub async fn correct(
        &self,
        mut correction: Correction,
        filter: &Filter,
        judge: impl FnOnce(&Seen) -> Result<Corrected, Error>,
    ) -> Result<(Correction, Corrected), Error> {
        // No seal until this is committed: it would not know of what is added to its period.
        let mut to = self.begin_alone().await?;
        let before = corrections(&mut to).await?;
        let number = before.len() as i64 + 1;
        correction.id = format!("c{number}");
        let seen = Seen {
            id: correction.id.clone(),
            periods: query::periods(&mut to).await?,
            usage: query::usage(&mut to, filter, Group::Hour).await?,
            before,
        };
        let added = judge(&seen)?;
        sqlx::query(
            "INSERT INTO corrections (id, number, at, actor, reason, what, undoes) VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(correction.id.clone())
        .bind(number)
        .bind(correction.at_us)
        .bind(correction.actor.clone())
        .bind(correction.reason.clone())
        .bind(correction.what.clone())
        .bind(correction.undoes.clone())
        .execute(&mut *to)
        .await
        .map_err(failed("write a correction"))?;
        let mut series: Vec<(i64, Series)> = added.iter().map(|(id, series, ..)| (*id, series.clone())).collect();
        series.sort_unstable();
        series.dedup();
        commit::series(&mut to, &series, self.dialect()).await?;
        self.make_partitions_in(&mut to, Table::Usage, added.iter().map(|(_, _, hour_us, _)| *hour_us)).await?;
        let mut usage: Vec<Usage> =
            added.iter().map(|(id, _, hour_us, sums)| Usage { series: *id, hour_us: *hour_us, sums: *sums }).collect();
        usage.sort_unstable_by_key(|usage| (usage.series, usage.hour_us));
        commit::usage(&mut to, &usage, self.dialect()).await?;
        to.commit().await.map_err(failed("commit a correction"))?;
        Ok((correction, added))
    }

    /// All corrections, the oldest first.
    pub async fn corrections(&self) -> Result<Vec<Correction>, Error> {
        let mut connection = self.pool.acquire().await.map_err(failed("connect"))?;
        corrections(&mut connection).await
    }
}

async fn corrections(connection: &mut sqlx::AnyConnection) -> Result<Vec<Correction>, Error> {
    let rows = sqlx::query("SELECT * FROM corrections ORDER BY number")
        .fetch_all(connection)
        .await
        .map_err(failed("read corrections"))?;
    rows.iter()
        .map(|row| {
            Ok(Correction {
                id: text(row, "id")?,
                at_us: number(row, "at")?,
                actor: text(row, "actor")?,
                reason: text(row, "reason")?,
                what: text(row, "what")?,
                undoes: text(row, "undoes")?,
            })
        })
        .collect()
}
