//! A batch, in one transaction.

use sqlx::{Any, AssertSqlSafe, Transaction};

use super::batch::Batch;
use super::rows::{Gap, ItemRow, Move, Quarantined, SUM_COLUMNS, Series, StreamPlace, StreamRow, Usage};
use super::{Error, Store, failed};

/// How statements for many rows are written for a database: rows of one, each size a statement that is prepared once.
#[derive(Clone, Copy)]
pub(super) struct Dialect {
    rows: &'static [usize],
    /// SQLite takes `$1` for a name, which it looks up among all names of the statement; `?` has none.
    numbered: bool,
}

/// A server is asked as seldom as possible.
const SERVER: Dialect = Dialect { rows: &[256, 32, 1], numbered: true };
const SQLITE: Dialect = Dialect { rows: &[64, 8, 1], numbered: false };

impl Store {
    /// Writes all of it, or nothing. [`Error::Fenced`]: it was made from what is no longer so.
    pub async fn commit(&self, batch: &Batch) -> Result<(), Error> {
        let mut to = self.begin().await?;
        let dialect = self.dialect();
        // Each step may be the last that a dying process makes: without the commit at the end none of them happened.
        self.step(moves(&mut to, &batch.moves).await)?;
        self.step(fence(&mut to, batch).await)?;
        self.step(streams(&mut to, &batch.streams).await)?;
        self.step(gaps(&mut to, batch, dialect).await)?;
        self.step(items(&mut to, &batch.items, dialect).await)?;
        self.step(series(&mut to, &batch.series, dialect).await)?;
        self.step(usage(&mut to, &batch.usage, dialect).await)?;
        self.step(quarantine(&mut to, &batch.quarantine).await)?;
        self.step(Self::write_blocks(&mut to, &batch.details).await)?;
        to.commit().await.map_err(failed("commit a batch"))?;
        // Here everything is there, but whoever asked does not know it yet.
        self.step(Ok(()))
    }

    /// How many rows are written to this database.
    pub(super) fn dialect(&self) -> Dialect {
        if self.is_sqlite { SQLITE } else { SERVER }
    }

    #[cfg(not(test))]
    fn step(&self, done: Result<(), Error>) -> Result<(), Error> {
        done
    }

    /// Tests let it end after any of the steps.
    #[cfg(test)]
    fn step(&self, done: Result<(), Error>) -> Result<(), Error> {
        done?;
        match self.stop_after.fetch_sub(1, std::sync::atomic::Ordering::Relaxed) {
            1 => Err(Error::Database { operation: "go on", source: sqlx::Error::WorkerCrashed }),
            _ => Ok(()),
        }
    }
}

type To = Transaction<'static, Any>;

async fn moves(to: &mut To, moves: &[Move]) -> Result<(), Error> {
    for Move { source, part, from, to: next } in moves {
        let done = match from {
            Some(from) => {
                sqlx::query(
                    "UPDATE sources SET next_position = $1 WHERE source = $2 AND part = $3 AND next_position = $4",
                )
                .bind(*next)
                .bind(source.clone())
                .bind(part.clone())
                .bind(*from)
                .execute(&mut **to)
                .await
            }
            None => {
                sqlx::query(
                    "INSERT INTO sources (source, part, next_position) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
                )
                .bind(source.clone())
                .bind(part.clone())
                .bind(*next)
                .execute(&mut **to)
                .await
            }
        };
        if done.map_err(failed("move on in a source"))?.rows_affected() != 1 {
            return Err(Error::Fenced(format!("the position in {source} {part}")));
        }
    }
    Ok(())
}

async fn fence(to: &mut To, batch: &Batch) -> Result<(), Error> {
    let new = batch.streams.iter().filter(|stream| stream.revision == 0).count() as i64;
    if new == 0 {
        // A seal changes the revision of every stream that it knows.
        return Ok(());
    }
    let done = sqlx::query("UPDATE fence SET streams = streams + $1 WHERE id = 1 AND seals = $2")
        .bind(new)
        .bind(batch.seals)
        .execute(&mut **to)
        .await
        .map_err(failed("begin a stream"))?;
    if done.rows_affected() == 1 { Ok(()) } else { Err(Error::Fenced("the list of sealed periods".to_owned())) }
}

async fn streams(to: &mut To, streams: &[StreamRow]) -> Result<(), Error> {
    for row in streams {
        let StreamPlace { node, epoch, shard } = &row.place;
        let sql = if row.revision == 0 {
            "INSERT INTO streams (next_seq, last_at, is_complete, links_broken, records, duplicates, state, node, epoch, shard, revision) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11 + 1) ON CONFLICT DO NOTHING"
        } else {
            "UPDATE streams SET next_seq = $1, last_at = $2, is_complete = $3, links_broken = $4, records = $5, duplicates = $6, \
             state = $7, revision = revision + 1 WHERE node = $8 AND epoch = $9 AND shard = $10 AND revision = $11"
        };
        let done = sqlx::query(sql)
            .bind(row.next_seq)
            .bind(row.last_at_us)
            .bind(i64::from(row.is_complete))
            .bind(row.links_broken)
            .bind(row.records)
            .bind(row.duplicates)
            .bind(row.state.clone())
            .bind(node.clone())
            .bind(*epoch)
            .bind(*shard)
            .bind(row.revision)
            .execute(&mut **to)
            .await
            .map_err(failed("write a stream"))?;
        if done.rows_affected() != 1 {
            return Err(Error::Fenced(format!("stream {node} epoch {epoch} shard {shard}")));
        }
    }
    Ok(())
}

async fn gaps(to: &mut To, batch: &Batch, dialect: Dialect) -> Result<(), Error> {
    for Gap { place, first_seq, .. } in &batch.gaps_gone {
        sqlx::query("DELETE FROM gaps WHERE node = $1 AND epoch = $2 AND shard = $3 AND first_seq = $4")
            .bind(place.node.clone())
            .bind(place.epoch)
            .bind(place.shard)
            .bind(*first_seq)
            .execute(&mut **to)
            .await
            .map_err(failed("close a gap"))?;
    }
    let columns = ["node", "epoch", "shard", "first_seq", "next_seq", "cause", "from_us", "to_us"];
    let inserts = Statements::insert(dialect, "gaps", &columns, "");
    for (gaps, sql) in inserts.of(&batch.gaps) {
        let mut query = sqlx::query(sql);
        for gap in gaps {
            query = query
                .bind(gap.place.node.clone())
                .bind(gap.place.epoch)
                .bind(gap.place.shard)
                .bind(gap.first_seq)
                .bind(gap.next_seq)
                .bind(gap.cause.clone())
                .bind(gap.from_us)
                .bind(gap.to_us);
        }
        query.execute(&mut **to).await.map_err(failed("state a gap"))?;
    }
    Ok(())
}

async fn items(to: &mut To, items: &[(String, Option<ItemRow>)], dialect: Dialect) -> Result<(), Error> {
    let gone: Vec<&String> = items.iter().filter(|(_, row)| row.is_none()).map(|(id, _)| id).collect();
    for (ids, sql) in
        Statements::new(dialect, |rows| format!("DELETE FROM items WHERE id IN {}", dialect.places(0, rows))).of(&gone)
    {
        let mut query = sqlx::query(sql);
        for id in ids {
            query = query.bind((*id).clone());
        }
        query.execute(&mut **to).await.map_err(failed("close items"))?;
    }
    let open: Vec<(&String, &ItemRow)> = items.iter().filter_map(|(id, row)| Some((id, row.as_ref()?))).collect();
    let columns = [
        "id",
        "node",
        "epoch",
        "shard",
        "account",
        "missing_received_bytes",
        "missing_sent_bytes",
        "missing_acked_bytes",
        "state",
    ];
    let inserts = Statements::insert(
        dialect,
        "items",
        &columns,
        " ON CONFLICT (id) DO UPDATE SET account = excluded.account, missing_received_bytes = excluded.missing_received_bytes, \
         missing_sent_bytes = excluded.missing_sent_bytes, missing_acked_bytes = excluded.missing_acked_bytes, state = excluded.state",
    );
    for (rows, sql) in inserts.of(&open) {
        let mut query = sqlx::query(sql);
        for (id, row) in rows {
            query = query
                .bind((*id).clone())
                .bind(row.place.node.clone())
                .bind(row.place.epoch)
                .bind(row.place.shard)
                .bind(row.account.clone())
                .bind(row.missing_received_bytes)
                .bind(row.missing_sent_bytes)
                .bind(row.missing_acked_bytes)
                .bind(row.state.clone());
        }
        query.execute(&mut **to).await.map_err(failed("write an item"))?;
    }
    Ok(())
}

pub(super) async fn series(to: &mut To, series: &[(i64, Series)], dialect: Dialect) -> Result<(), Error> {
    let columns = [
        "id",
        "kind",
        "account",
        "endpoint",
        "host",
        "protocol",
        "country",
        "status_class",
        "billable",
        "reason",
        "corrects",
        "correction",
    ];
    let inserts = Statements::insert(dialect, "series", &columns, " ON CONFLICT DO NOTHING");
    for (rows, sql) in inserts.of(series) {
        let mut query = sqlx::query(sql);
        for (id, row) in rows {
            query = query
                .bind(*id)
                .bind(row.kind.name())
                .bind(row.account.clone())
                .bind(row.endpoint.clone())
                .bind(row.host.clone())
                .bind(row.protocol.clone())
                .bind(row.country.clone())
                .bind(row.status_class)
                .bind(i64::from(row.billable))
                .bind(row.reason.clone())
                .bind(row.corrects.clone())
                .bind(row.correction.clone());
        }
        let done = query.execute(&mut **to).await.map_err(failed("begin a series"))?;
        if done.rows_affected() != rows.len() as u64 {
            same_series(to, rows).await?;
        }
    }
    Ok(())
}

/// Another process has begun some of them; another one under the same id would mix two customers' bytes.
async fn same_series(to: &mut To, series: &[(i64, Series)]) -> Result<(), Error> {
    for (id, row) in series {
        let there = sqlx::query("SELECT * FROM series WHERE id = $1").bind(*id).fetch_one(&mut **to).await;
        if super::query::series_of(&there.map_err(failed("read a series"))?)?.1 != *row {
            return Err(Error::Fenced(format!("series {id}")));
        }
    }
    Ok(())
}

pub(super) async fn usage(to: &mut To, usage: &[Usage], dialect: Dialect) -> Result<(), Error> {
    let mut columns = vec!["series", "hour"];
    columns.extend(SUM_COLUMNS);
    let sums: Vec<String> = SUM_COLUMNS.iter().map(|name| format!("{name} = usage.{name} + excluded.{name}")).collect();
    let suffix = format!(" ON CONFLICT (series, hour) DO UPDATE SET {}", sums.join(", "));
    let inserts = Statements::insert(dialect, "usage", &columns, &suffix);
    for (rows, sql) in inserts.of(usage) {
        let mut query = sqlx::query(sql);
        for row in rows {
            query = query.bind(row.series).bind(row.hour_us);
            for sum in row.sums.to_array() {
                query = query.bind(sum);
            }
        }
        query.execute(&mut **to).await.map_err(failed("add usage"))?;
    }
    Ok(())
}

async fn quarantine(to: &mut To, quarantine: &[Quarantined]) -> Result<(), Error> {
    for row in quarantine {
        sqlx::query(
            "INSERT INTO quarantine (source, part, position, at, reason, bytes) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
        )
        .bind(row.source.clone())
        .bind(row.part.clone())
        .bind(row.position)
        .bind(row.at_us)
        .bind(row.reason.clone())
        .bind(crate::ids::hex(&row.bytes))
        .execute(&mut **to)
        .await
        .map_err(failed("quarantine what cannot be read"))?;
    }
    Ok(())
}

impl Dialect {
    /// `($1, $2, …)`: places for `count` values, `before` others being bound already.
    fn places(self, before: usize, count: usize) -> String {
        let place = |at| if self.numbered { format!("${}", before + at) } else { "?".to_owned() };
        format!("({})", (1..=count).map(place).collect::<Vec<_>>().join(", "))
    }
}

/// A statement for many rows at once, in a few sizes so that each is prepared once.
struct Statements {
    sizes: Vec<(usize, String)>,
}

impl Statements {
    fn new(dialect: Dialect, statement: impl Fn(usize) -> String) -> Self {
        Self { sizes: dialect.rows.iter().map(|rows| (*rows, statement(*rows))).collect() }
    }

    fn insert(dialect: Dialect, table: &str, columns: &[&str], suffix: &str) -> Self {
        Self::new(dialect, |rows| {
            let values: Vec<String> = (0..rows).map(|row| dialect.places(row * columns.len(), columns.len())).collect();
            format!("INSERT INTO {table} ({}) VALUES {}{suffix}", columns.join(", "), values.join(", "))
        })
    }

    /// The rows in pieces, each with its statement.
    fn of<'a, T>(&'a self, rows: &'a [T]) -> impl Iterator<Item = (&'a [T], AssertSqlSafe<String>)> {
        let mut rest = rows;
        std::iter::from_fn(move || {
            let (size, sql) = self.sizes.iter().find(|(size, _)| *size <= rest.len())?;
            let (piece, behind) = rest.split_at(*size);
            rest = behind;
            Some((piece, AssertSqlSafe(sql.clone())))
        })
    }
}
