//! `[archive]`.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::serialized;

/// `[archive]`: where records are kept as Parquet, and for how long. They are read where `[sink]` writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Archive {
    /// A directory, or a bucket.
    pub place: ArchivePlace,
    /// How whole addresses are kept.
    pub addresses: ArchiveAddresses,
    /// Directory of the keys that they are encrypted with.
    #[serde(serialize_with = "serialized::path")]
    pub keys: PathBuf,
    /// Parts that accounts are divided into; files of before keep theirs.
    pub buckets: u32,
    /// What has come is committed at least this often.
    #[serde(rename = "commit_interval_s", serialize_with = "serialized::seconds")]
    pub commit_interval: Duration,
    /// And as soon as it is so many records.
    pub commit_records_max: usize,
    /// The Kafka consumer group: archivers of one group share the partitions.
    pub group: String,
    /// So long are requests kept; 0: for ever.
    pub keep_requests_days: u32,
    /// Sessions.
    pub keep_sessions_days: u32,
    /// Nodes and gaps.
    pub keep_nodes_days: u32,
}

/// Where an archive lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArchivePlace {
    /// Here.
    Directory(PathBuf),
    /// In S3, or in what speaks like it.
    S3(S3),
}

/// `place = "s3://bucket/prefix"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3 {
    /// Its name.
    pub bucket: String,
    /// Folder in it, without slashes around; may be empty.
    pub prefix: String,
    /// None: as the environment says.
    pub region: Option<String>,
    /// Of a server that is not AWS.
    pub endpoint: Option<String>,
}

impl S3 {
    /// As it is written in the file.
    pub fn url(&self) -> String {
        format!("s3://{}/{}", self.bucket, self.prefix)
    }
}

impl Serialize for ArchivePlace {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Directory(path) => serialized::path(path, serializer),
            Self::S3(s3) => serializer.serialize_str(&s3.url()),
        }
    }
}

/// How whole addresses are kept; what a privacy mode has changed is kept as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ArchiveAddresses {
    /// Encrypted by account and day.
    Sealed,
    /// As they are: nothing can be erased by its key, everything is rewritten.
    Plain,
}
