//! The archive: records → Parquet that anybody can read, complete, and forgetful where it must be.
//!
//! ```text
//! Kafka · journal · files ─ feed ─► book (what came, once) ─ rows ─► files, durable ─► one commit to the manifest ─► queries
//! ```

pub mod manifest;
mod place;
pub mod schema;

pub use manifest::Manifest;
pub use place::{Found, Place};
pub use schema::Table;

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
