//! `[query]`.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::serialized;

/// `[query]`: what one question to the archive may use, and where it is written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Query {
    /// Who asked what: append-only, hash-chained.
    #[serde(serialize_with = "serialized::path")]
    pub access_log: PathBuf,
    /// Of rows in memory.
    pub memory_bytes_max: u64,
    /// Of rows on disk, as temporary files; 0: none.
    pub spill_bytes_max: u64,
    /// From its first moment to its last row.
    #[serde(rename = "time_s_max", serialize_with = "serialized::seconds")]
    pub time_max: Duration,
    /// Of an answer.
    pub rows_max: u64,
}
