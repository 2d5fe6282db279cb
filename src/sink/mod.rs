//! Where records go from the journal. A sink takes a batch of consecutive records of one shard and says when it is safe.

mod file;

pub use file::FileSink;

/// Consecutive records of one shard.
pub struct Batch<'a> {
    /// Name of the node.
    pub node: &'a str,
    /// Process start of the node.
    pub epoch: u32,
    /// Which journal.
    pub shard: u16,
    /// Seq of the first record; the others follow without a gap.
    pub first_seq: u64,
    /// Each record's `UsageRecord` bytes.
    pub records: &'a [Vec<u8>],
}

/// What a sink cannot do. The same batch comes again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system refused.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was to be done.
        operation: &'static str,
        /// To what.
        path: std::path::PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A record that the journal vouches for is no record.
    #[error("record {seq} of shard {shard} in epoch {epoch} cannot be read")]
    Record {
        /// Epoch.
        epoch: u32,
        /// Shard.
        shard: u16,
        /// Position.
        seq: u64,
        /// Why.
        source: prost::DecodeError,
    },
    /// It cannot be written as JSON.
    #[error("record {0} cannot be written as JSON")]
    Json(u64, #[source] serde_json::Error),
}
