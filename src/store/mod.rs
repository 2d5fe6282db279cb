//! The store: what the ledger knows, in SQLite or PostgreSQL by one and the same SQL.
//!
//! | table | a row is | changed by |
//! |---|---|---|
//! | `sources` | where reading goes on in a part (partition, file, shard) of a source | every batch: compare and set |
//! | `streams` | what came of one (node, epoch, shard): the verifier's state and a revision | every batch: compare and set |
//! | `gaps` | a range of seqs that did not come | the batch that shows or fills it |
//! | `items` | a session or request that is open, or incomplete | the batch that brings a record of it |
//! | `series`, `usage` | what usage is told apart by; its sums in one hour | added to, never overwritten; retention joins hours |
//! | `quarantine` | bytes that cannot be read, and why | added to; retention |
//! | `corrections` | who changed what by hand, and why; its usage is series that name it | added to |
//! | `alerts` | a threshold of a budget that was passed in a period, and whether its webhook knows | compare and set |
//! | `blocks`, `block_accounts` | records as they came, packed, and whose; see `block.rs` | the batch that brings them; `merge.rs`; retention |
//! | `lost_nodes` | a node of which nothing more will come, who says so and why | added to |
//! | `access` | who looked at what | added to; retention |
//! | `periods`, `sealed_usage` | a sealed month, and what it came to | written once |
//!
//! **One transaction per batch** ([`Store::commit`]) holds all of it. Killed anywhere before its commit, nothing of the batch is there
//! and reading begins at the old position; after it, everything is there and reading begins behind it. There is no third state.
//!
//! **Fences.** A consumer that lost its partition and does not know it (a zombie), a second ledger on the same journal, or a seal in
//! between: each changes a `sources.next_position`, a `streams.revision` or `fence.seals` that the other expects. The second to commit
//! finds another value, changes nothing and gets [`Error::Fenced`]; it has to read everything again and go on from there.
//!
//! **SQLite** runs with `synchronous = FULL` and a write-ahead log: a commit survives a power cut. **PostgreSQL** as it is configured;
//! `synchronous_commit = off` would break the promise and is set back for each connection. **When the disk is full** or the server is
//! away, a commit fails, nothing changes, and the batch comes again. Nothing is deleted but items that are
//! complete, gaps that were filled, and what is older than it is to be kept (`retention.rs`).
//!
//! Text from outside is cut to 255 characters and freed of NUL, which PostgreSQL does not take, before it gets here.

mod access;
mod alerts;
mod batch;
mod block;
mod commit;
mod corrections;
mod details;
mod lost;
mod merge;
mod partitions;
mod proof;
mod query;
mod redact;
mod retention;
mod rows;
mod seal;
mod slice;

#[cfg(test)]
mod details_tests;
#[cfg(test)]
mod retention_tests;

#[cfg(test)]
#[path = "../../tests/weir/rig/postgres.rs"]
#[allow(clippy::panic)]
pub(crate) mod postgres;

use sqlx::any::{AnyConnectOptions, AnyPoolOptions, AnyRow};
use sqlx::{AnyPool, Row};
use std::str::FromStr;

pub use access::Access;
pub use alerts::{Alert, AlertState};
pub use batch::Batch;
pub use block::{Block, Details};
pub use corrections::{Corrected, Correction, Seen};
pub use details::{Page, Place, Search};
pub use lost::LostNode;
pub use retention::Old;
pub use rows::{
    Filter, Found, Gap, Group, ItemRow, Kind, Move, Period, Quarantined, SUM_COLUMNS, Series, StreamPlace, StreamRow,
    Sums, Usage,
};
pub use seal::{Amounts, Seal};
pub use slice::{Dimension, Slice};

/// A step of the schema: first what is PostgreSQL's alone, then what both get.
struct Migration {
    postgres: &'static str,
    both: &'static str,
}

/// The schema, step by step; each is applied once.
const MIGRATIONS: &[Migration] = &[
    Migration { postgres: "", both: include_str!("migrations/0001_ledger.sql") },
    Migration { postgres: "", both: include_str!("migrations/0002_portal.sql") },
    Migration { postgres: "", both: include_str!("migrations/0003_corrections.sql") },
    Migration {
        postgres: include_str!("migrations/0004_partitions.postgres.sql"),
        both: include_str!("migrations/0004_small_blocks.sql"),
    },
    Migration { postgres: "", both: include_str!("migrations/0005_lost_nodes.sql") },
];

/// What the store cannot do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database refused.
    #[error("cannot {operation} in the ledger's database")]
    Database {
        /// What was to be done.
        operation: &'static str,
        /// Why not.
        source: sqlx::Error,
    },
    /// Somebody else has changed what this batch was made from: nothing was written, read everything again.
    #[error("{0} was changed by another process: nothing was written")]
    Fenced(String),
    /// Written by a later release; nothing was touched.
    #[error("the ledger's database has schema {found}, this release knows {known}: use the release that wrote it")]
    NewerSchema {
        /// Its version.
        found: i64,
        /// The newest known.
        known: i64,
    },
    /// A row that cannot be understood.
    #[error("the ledger's database is damaged: {0}")]
    Damaged(String),
    /// A period cannot be sealed.
    #[error("{0}")]
    Unsealable(String),
    /// A correction cannot be made.
    #[error("{0}")]
    Uncorrectable(String),
}

/// For `map_err`: what was to be done.
fn failed(operation: &'static str) -> impl FnOnce(sqlx::Error) -> Error {
    move |source| match &source {
        // Two transactions that wait for one another, or could not be put in an order: one of them begins again.
        sqlx::Error::Database(database) if matches!(database.code().as_deref(), Some("40001" | "40P01")) => {
            Error::Fenced("a row of this batch".to_owned())
        }
        _ => Error::Database { operation, source },
    }
}

/// The ledger's database. Cheap to clone; the clones share its connections.
#[derive(Clone, Debug)]
pub struct Store {
    pool: AnyPool,
    is_sqlite: bool,
    partitions: partitions::Known,
    #[cfg(test)]
    pub(crate) stop_after: std::sync::Arc<std::sync::atomic::AtomicI64>,
}

impl Store {
    /// Opens `postgres://…`, or the SQLite file of this path, and brings its schema up to date.
    pub async fn open(database: &str) -> Result<Self, Error> {
        let store = Self::connect(database, true).await?;
        store.migrate(MIGRATIONS.len()).await?;
        Ok(store)
    }

    /// Opens what is there, for reading: an error where there is no database yet.
    pub async fn open_existing(database: &str) -> Result<Self, Error> {
        let store = Self::connect(database, false).await?;
        store.migrate(MIGRATIONS.len()).await?;
        Ok(store)
    }

    async fn connect(database: &str, create: bool) -> Result<Self, Error> {
        sqlx::any::install_default_drivers();
        let is_sqlite = !is_postgres(database);
        let mode = if create { "rwc" } else { "rw" };
        let url = if is_sqlite { format!("sqlite://{database}?mode={mode}") } else { database.to_owned() };
        let options = AnyConnectOptions::from_str(&url).map_err(failed("understand the address"))?;
        let pool = AnyPoolOptions::new()
            .max_connections(4)
            .after_connect(move |connection, _| {
                Box::pin(async move {
                    let statements: &[&'static str] = if is_sqlite {
                        &["PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL", "PRAGMA busy_timeout = 30000"]
                    } else {
                        &["SET synchronous_commit = on"]
                    };
                    for statement in statements {
                        sqlx::raw_sql(*statement).execute(&mut *connection).await?;
                    }
                    Ok(())
                })
            })
            .connect_with(options)
            .await
            .map_err(failed("connect"))?;
        Ok(Self {
            pool,
            is_sqlite,
            partitions: partitions::Known::default(),
            #[cfg(test)]
            stop_after: std::sync::Arc::new(i64::MAX.into()),
        })
    }

    async fn begin(&self) -> Result<sqlx::Transaction<'static, sqlx::Any>, Error> {
        // SQLite's own BEGIN would let two readers both hope to write, and fail one of them half-way.
        let statement = if self.is_sqlite { "BEGIN IMMEDIATE" } else { "BEGIN" };
        self.pool.begin_with(statement).await.map_err(failed("begin a transaction"))
    }

    /// A transaction in which nobody else seals, corrects or tidies up: each would count or join what another one just does.
    async fn begin_alone(&self) -> Result<sqlx::Transaction<'static, sqlx::Any>, Error> {
        let mut to = self.begin().await?;
        let sql = "UPDATE fence SET seals = seals WHERE id = 1";
        sqlx::query(sql).execute(&mut *to).await.map_err(failed("keep others away"))?;
        Ok(to)
    }

    /// For reading: everything is as it is at one moment.
    async fn snapshot(&self) -> Result<sqlx::Transaction<'static, sqlx::Any>, Error> {
        let statement = if self.is_sqlite { "BEGIN" } else { "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY" };
        self.pool.begin_with(statement).await.map_err(failed("begin to read"))
    }

    /// To this version, if it is not there yet.
    async fn migrate(&self, version_max: usize) -> Result<(), Error> {
        let mut transaction = self.begin().await?;
        sqlx::raw_sql("CREATE TABLE IF NOT EXISTS schema_version (version BIGINT NOT NULL)")
            .execute(&mut *transaction)
            .await
            .map_err(failed("make the schema"))?;
        let row: AnyRow = sqlx::query("SELECT COALESCE(MAX(version), 0) FROM schema_version")
            .fetch_one(&mut *transaction)
            .await
            .map_err(failed("read the schema's version"))?;
        let (found, known) = (row.get::<i64, _>(0), MIGRATIONS.len() as i64);
        if found > known {
            return Err(Error::NewerSchema { found, known });
        }
        for (version, migration) in (1..).zip(MIGRATIONS).take(version_max).skip(usize::try_from(found).unwrap_or(0)) {
            // The one type that the two do not both know by one name.
            let bytes = if self.is_sqlite { "BLOB NOT NULL" } else { "BYTEA NOT NULL" };
            let postgres = if self.is_sqlite { "" } else { migration.postgres };
            for sql in [postgres.to_owned(), migration.both.replace("BYTES NOT NULL", bytes)] {
                sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
                    .execute(&mut *transaction)
                    .await
                    .map_err(failed("bring the schema up to date"))?;
            }
            sqlx::query("INSERT INTO schema_version (version) VALUES ($1)")
                .bind(version as i64)
                .execute(&mut *transaction)
                .await
                .map_err(failed("note the schema's version"))?;
        }
        transaction.commit().await.map_err(failed("bring the schema up to date"))
    }

    async fn rows(&self, operation: &'static str, sql: &'static str) -> Result<Vec<AnyRow>, Error> {
        sqlx::query(sql).fetch_all(&self.pool).await.map_err(failed(operation))
    }

    async fn rows_of(&self, operation: &'static str, sql: &'static str, text: &str) -> Result<Vec<AnyRow>, Error> {
        sqlx::query(sql).bind(text.to_owned()).fetch_all(&self.pool).await.map_err(failed(operation))
    }
}

/// Whether this names a PostgreSQL server, not a SQLite file.
pub fn is_postgres(database: &str) -> bool {
    database.starts_with("postgres://") || database.starts_with("postgresql://")
}
