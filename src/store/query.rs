//! What is read: everything a ledger goes on from, and usage.

use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};

use super::lost::lost_nodes;
use super::rows::{
    Filter, Found, Gap, Group, ItemRow, Kind, Period, Quarantined, SUM_COLUMNS, Series, StreamPlace, StreamRow, Sums,
};
use super::{Error, Store, failed};

impl Store {
    /// Reads everything that a ledger goes on from.
    pub async fn load(&self) -> Result<Found, Error> {
        let mut connection = self.pool.acquire().await.map_err(failed("connect"))?;
        // The fences first: what changes while the rest is read makes the next commit fail, and it is read again.
        let seals = seals(&mut connection).await?;
        let streams = streams(&mut connection).await?;
        let gaps = gaps(&mut connection).await?;
        let items = rows(&mut connection, "read items", "SELECT * FROM items").await?;
        let items = items.iter().map(item_of).collect::<Result<_, _>>()?;
        let series = rows(&mut connection, "read series", "SELECT * FROM series").await?;
        let series = series.iter().map(series_of).collect::<Result<_, _>>()?;
        let positions = rows(&mut connection, "read positions", "SELECT * FROM sources").await?;
        let positions = positions
            .iter()
            .map(|row| Ok((text(row, "source")?, text(row, "part")?, number(row, "next_position")?)))
            .collect::<Result<_, Error>>()?;
        let periods = periods(&mut connection).await?;
        let lost = lost_nodes(&mut connection).await?;
        Ok(Found { seals, streams, gaps, items, series, positions, periods, lost })
    }

    /// Where reading of this source goes on, by part.
    pub async fn positions(&self, source: &str) -> Result<Vec<(String, i64)>, Error> {
        let sql = "SELECT part, next_position FROM sources WHERE source = $1";
        let rows = self.rows_of("read positions", sql, source).await?;
        rows.iter().map(|row| Ok((text(row, "part")?, number(row, "next_position")?))).collect()
    }

    /// Usage: series, hour (0 where rows are not kept apart by it), sums.
    pub async fn usage(&self, filter: &Filter, group: Group) -> Result<Vec<(Series, i64, Sums)>, Error> {
        let mut connection = self.pool.acquire().await.map_err(failed("connect"))?;
        usage(&mut connection, filter, group).await
    }

    /// Streams without the verifier's state, and open gaps: up to when everything has come.
    pub async fn progress(&self) -> Result<(Vec<StreamRow>, Vec<Gap>), Error> {
        let mut connection = self.pool.acquire().await.map_err(failed("connect"))?;
        let sql = "SELECT node, epoch, shard, revision, next_seq, last_at, is_complete, links_broken, records, duplicates, \
                   '' AS state FROM streams ORDER BY node, epoch, shard";
        let streams = rows(&mut connection, "read streams", sql).await?;
        let streams = streams.iter().map(stream_of).collect::<Result<_, _>>()?;
        Ok((streams, gaps(&mut connection).await?))
    }

    /// Sealed periods, in order.
    pub async fn periods(&self) -> Result<Vec<Period>, Error> {
        let mut connection = self.pool.acquire().await.map_err(failed("connect"))?;
        periods(&mut connection).await
    }

    /// How many pieces could not be read.
    pub async fn quarantine_count(&self) -> Result<i64, Error> {
        let rows = self.rows("read the quarantine", "SELECT COUNT(*) AS pieces FROM quarantine").await?;
        rows.first().map_or(Ok(0), |row| number(row, "pieces"))
    }

    /// Accounts that ever had usage, in order.
    pub async fn accounts(&self) -> Result<Vec<String>, Error> {
        let rows = self.rows("read accounts", "SELECT DISTINCT account FROM series ORDER BY account").await?;
        rows.iter().map(|row| text(row, "account")).collect()
    }

    /// What could not be read, written before this time.
    pub async fn quarantined(&self, to_us: i64) -> Result<Vec<Quarantined>, Error> {
        let mut connection = self.pool.acquire().await.map_err(failed("connect"))?;
        quarantined(&mut connection, to_us).await
    }

    /// What a sealed period came to: account, meter, amount.
    pub async fn sealed(&self, period: &str) -> Result<Vec<(String, String, i64)>, Error> {
        let sql = "SELECT account, meter, amount FROM sealed_usage WHERE period = $1 ORDER BY account, meter";
        let rows = self.rows_of("read a sealed period", sql, period).await?;
        rows.iter().map(|row| Ok((text(row, "account")?, text(row, "meter")?, number(row, "amount")?))).collect()
    }
}

pub(super) async fn usage(
    connection: &mut AnyConnection,
    filter: &Filter,
    group: Group,
) -> Result<Vec<(Series, i64, Sums)>, Error> {
    let sums: Vec<String> =
        SUM_COLUMNS.iter().map(|name| format!("CAST(SUM(usage.{name}) AS BIGINT) AS {name}")).collect();
    let (hour, by) = match group {
        Group::Series => ("CAST(0 AS BIGINT) AS hour", "series.id"),
        Group::Hour => ("usage.hour AS hour", "series.id, usage.hour"),
    };
    let of = if filter.account.is_some() { " AND series.account = $3" } else { "" };
    let sql = format!(
        "SELECT series.*, {hour}, {} FROM usage JOIN series ON series.id = usage.series \
         WHERE usage.hour >= $1 AND usage.hour < $2{of} GROUP BY {by}",
        sums.join(", ")
    );
    let mut query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(filter.from_us).bind(filter.to_us);
    if let Some(account) = &filter.account {
        query = query.bind(account.clone());
    }
    let rows = query.fetch_all(connection).await.map_err(failed("read usage"))?;
    rows.iter()
        .map(|row| {
            let mut sums = [0; SUM_COLUMNS.len()];
            for (sum, name) in sums.iter_mut().zip(SUM_COLUMNS) {
                *sum = number(row, name)?;
            }
            Ok((series_of(row)?.1, number(row, "hour")?, Sums::from_array(sums)))
        })
        .collect()
}

pub(super) async fn seals(connection: &mut AnyConnection) -> Result<i64, Error> {
    let rows = rows(connection, "read the fence", "SELECT seals FROM fence WHERE id = 1").await?;
    rows.first().map_or(Ok(0), |row| number(row, "seals"))
}

pub(super) async fn streams(connection: &mut AnyConnection) -> Result<Vec<StreamRow>, Error> {
    let rows = rows(connection, "read streams", "SELECT * FROM streams ORDER BY node, epoch, shard").await?;
    rows.iter().map(stream_of).collect()
}

pub(super) async fn gaps(connection: &mut AnyConnection) -> Result<Vec<Gap>, Error> {
    let rows = rows(connection, "read gaps", "SELECT * FROM gaps ORDER BY node, epoch, shard, first_seq").await?;
    rows.iter().map(gap_of).collect()
}

pub(super) async fn periods(connection: &mut AnyConnection) -> Result<Vec<Period>, Error> {
    let rows = rows(connection, "read sealed periods", "SELECT * FROM periods ORDER BY from_us").await?;
    let period = |row: &AnyRow| {
        Ok(Period {
            name: text(row, "period")?,
            from_us: number(row, "from_us")?,
            to_us: number(row, "to_us")?,
            sealed_at_us: number(row, "sealed_at")?,
            actor: text(row, "actor")?,
            holes: text(row, "holes")?,
        })
    };
    rows.iter().map(period).collect()
}

pub(super) async fn quarantined(connection: &mut AnyConnection, to_us: i64) -> Result<Vec<Quarantined>, Error> {
    let rows = sqlx::query("SELECT * FROM quarantine WHERE at < $1 ORDER BY source, part, position")
        .bind(to_us)
        .fetch_all(connection)
        .await
        .map_err(failed("read the quarantine"))?;
    rows.iter()
        .map(|row| {
            Ok(Quarantined {
                source: text(row, "source")?,
                part: text(row, "part")?,
                position: number(row, "position")?,
                at_us: number(row, "at")?,
                reason: text(row, "reason")?,
                bytes: crate::ids::unhex(text(row, "bytes")?.as_bytes()).unwrap_or_default(),
            })
        })
        .collect()
}

pub(super) async fn rows(
    connection: &mut AnyConnection,
    operation: &'static str,
    sql: &'static str,
) -> Result<Vec<AnyRow>, Error> {
    sqlx::query(sql).fetch_all(connection).await.map_err(failed(operation))
}

pub(super) fn number(row: &AnyRow, column: &str) -> Result<i64, Error> {
    row.try_get(column).map_err(failed("read a number"))
}

pub(super) fn text(row: &AnyRow, column: &str) -> Result<String, Error> {
    row.try_get(column).map_err(failed("read a text"))
}

fn place_of(row: &AnyRow) -> Result<StreamPlace, Error> {
    Ok(StreamPlace { node: text(row, "node")?, epoch: number(row, "epoch")?, shard: number(row, "shard")? })
}

fn stream_of(row: &AnyRow) -> Result<StreamRow, Error> {
    Ok(StreamRow {
        place: place_of(row)?,
        revision: number(row, "revision")?,
        next_seq: number(row, "next_seq")?,
        last_at_us: number(row, "last_at")?,
        is_complete: number(row, "is_complete")? != 0,
        links_broken: number(row, "links_broken")?,
        records: number(row, "records")?,
        duplicates: number(row, "duplicates")?,
        state: text(row, "state")?,
    })
}

fn gap_of(row: &AnyRow) -> Result<Gap, Error> {
    Ok(Gap {
        place: place_of(row)?,
        first_seq: number(row, "first_seq")?,
        next_seq: number(row, "next_seq")?,
        cause: text(row, "cause")?,
        from_us: number(row, "from_us")?,
        to_us: number(row, "to_us")?,
    })
}

fn item_of(row: &AnyRow) -> Result<(String, ItemRow), Error> {
    let item = ItemRow {
        place: place_of(row)?,
        account: text(row, "account")?,
        missing_received_bytes: number(row, "missing_received_bytes")?,
        missing_sent_bytes: number(row, "missing_sent_bytes")?,
        missing_acked_bytes: number(row, "missing_acked_bytes")?,
        state: text(row, "state")?,
    };
    Ok((text(row, "id")?, item))
}

pub(super) fn series_of(row: &AnyRow) -> Result<(i64, Series), Error> {
    let series = Series {
        kind: Kind::of_name(&text(row, "kind")?),
        account: text(row, "account")?,
        endpoint: text(row, "endpoint")?,
        host: text(row, "host")?,
        protocol: text(row, "protocol")?,
        country: text(row, "country")?,
        status_class: number(row, "status_class")?,
        billable: number(row, "billable")? != 0,
        reason: text(row, "reason")?,
        corrects: text(row, "corrects")?,
        correction: text(row, "correction")?,
    };
    Ok((number(row, "id")?, series))
}
