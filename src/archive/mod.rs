//! The archive: records → Parquet that anybody can read, complete, and forgetful where it must be.
//!
//! ```text
//! Kafka · journal · files ─ feed ─► book (what came, once) ─ rows ─► files, durable ─► one commit to the manifest ─► queries
//!             archiver.rs           rollup::Book, without usage   rows.rs   file.rs, proof.rs            manifest.rs
//! ```
//!
//! * **Format**: `schema.rs` (tables, columns, places) and `manifest.rs` (which files, and what is in them) are what readers rely on.
//! * **Exactly once**: what came is known by (node, epoch, shard, seq), for ever, as in the ledger; it stands in the manifest beside the
//!   position of each source, and both change in the commit that names the files. `archiver.rs` says what a crash at each step costs.
//! * **When it is full**: memory is bounded by `commit_records_max`; a place that takes no more is an error in the log, tried again each
//!   second, and nothing is lost while the source still has it. A journal without a sink frees nothing before `journal_bytes_max` is
//!   nearly used up, whoever has read it: so it needs no hold for an archiver, and one would make the sidecar refuse traffic where it
//!   could go on. What goes before the archiver came shows as a gap, with the bytes that a gap record states; so does what a
//!   topic has deleted.
//! * **Upkeep** (`upkeep.rs`): small files become large ones once their hour is over, old rows go, leftovers are swept.
//! * **Proof** (`verify.rs`), **privacy** (`keys.rs`, `erase.rs`).

mod archiver;
pub mod erase;
mod file;
pub mod keys;
pub mod manifest;
mod merge;
mod place;
mod proof;
mod ranges;
mod rows;
pub mod schema;
#[cfg(test)]
mod tests;
pub mod trace;
mod upkeep;
pub mod verify;

pub use archiver::{Archiver, Progress, Stop};
pub use keys::Keys;
pub use manifest::Manifest;
pub use place::{Found, Object, Place};
pub use rows::address;
pub use schema::Table;
pub use upkeep::{Kept, keep};

use std::path::PathBuf;

use crate::wire::Hash;

/// What goes wrong with an archive.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was to be done.
        operation: &'static str,
        /// To what.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// An object of a bucket.
    #[error("cannot {operation} {path}")]
    Bucket {
        /// What was to be done.
        operation: &'static str,
        /// To what.
        path: String,
        /// Why not.
        source: Box<object_store::Error>,
    },
    /// Rows cannot be put together.
    #[error("rows of {table} do not fit its columns")]
    Columns {
        /// Which table.
        table: &'static str,
        /// Why not.
        source: arrow_schema::ArrowError,
    },
    /// A column is not there, or of another type.
    #[error("a file of {table} has no column {name}, or one of another type; run `weir archive verify`")]
    Column {
        /// Which table.
        table: &'static str,
        /// Which column.
        name: &'static str,
    },
    /// Parquet.
    #[error("cannot {operation} {path}")]
    Parquet {
        /// What was to be done.
        operation: &'static str,
        /// Which file.
        path: String,
        /// Why not.
        source: parquet::errors::ParquetError,
    },
    /// A file of keys.
    #[error("{} is no file of keys: {reason}", path.display())]
    Key {
        /// Which.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A legal hold wins.
    #[error("legal hold {name:?} keeps it ({reason}): nothing was erased; `weir archive hold lift` ends the hold")]
    Held {
        /// Its name.
        name: String,
        /// Why it is there.
        reason: String,
    },
    /// Others have changed the same files.
    #[error("another process has changed the same files: do it again")]
    Busy,
    /// No randomness.
    #[error("no random numbers for a key")]
    NoRandomness,
    /// Not what was written.
    #[error("{path} is damaged, or of another release: {reason}; run `weir archive verify`")]
    Damaged {
        /// Which object.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// A commit that does not follow the one before.
    #[error(
        "{path} does not follow the commit before it ({}): the manifest was altered; run `weir archive verify`",
        expected.map_or_else(|| "there is none".to_owned(), |hash| hash.to_string())
    )]
    Chain {
        /// The commit.
        path: String,
        /// BLAKE3 of the one before.
        expected: Option<Hash>,
    },
}
