//! Why there is no table: what was wrong, in which file and line, and what to do.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;

/// Why a table could not be made, or must not be used. The one in use stays.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A snapshot cannot be used.
    #[error("cannot use the snapshot {}", path.display())]
    Snapshot {
        /// The file.
        path: PathBuf,
        /// Why.
        source: crate::snapshot::SnapshotError,
    },
    /// A file was written to while it was read.
    #[error("{} is being written to; it is read again at the next check (better: write beside it and rename)", path.display())]
    Changing {
        /// Which.
        path: PathBuf,
    },
    /// The last line of a text has no end, so something may be missing.
    #[error("{}: the last line does not end: the file is cut short", path.display())]
    CutShort {
        /// Which.
        path: PathBuf,
    },
    /// Something in a line is wrong.
    #[error("{}:{line}: {reason}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: u64,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// Not an MMDB, or a damaged one.
    #[error("cannot read the database {}", path.display())]
    Mmdb {
        /// The file.
        path: PathBuf,
        /// Why.
        source: maxminddb::MaxMindDbError,
    },
    /// A database says something that a field cannot be.
    #[error("{}: {value:?} at {network} is no {field}; is the field's path right?", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// Where in the address space.
        network: String,
        /// Which field.
        field: &'static str,
        /// What it says.
        value: String,
    },
    /// A published list is not what its kind says.
    #[error("{} is not a list of this kind", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// Two accounts have the same network at the same time.
    #[error("{}: lines {first} and {second} give {network} to different accounts at the same time", path.display())]
    TwoAccounts {
        /// The file.
        path: PathBuf,
        /// Line of the one.
        first: u64,
        /// Line of the other.
        second: u64,
        /// The network.
        network: IpNet,
    },
    /// The plan contradicts itself.
    #[error("{reason}")]
    Plan {
        /// How, and what to change.
        reason: String,
    },
    /// Time or memory ran out.
    #[error("the compilation takes more than {limit}; is a file damaged, or is the budget too small?")]
    Budget {
        /// Which limit.
        limit: String,
    },
    /// A canary address has another answer.
    #[error("canary {address}: {field} is {found:?}, not {expected:?}")]
    Canary {
        /// Which.
        address: IpAddr,
        /// What of it.
        field: &'static str,
        /// What the plan says.
        expected: String,
        /// What the new table says.
        found: String,
    },
    /// The new table knows much less than the one in use.
    #[error("{percent} % fewer {family} addresses with {field} than before; the guard allows {max_percent} %")]
    Coverage {
        /// `IPv4` or `IPv6`.
        family: &'static str,
        /// `a country`, …
        field: &'static str,
        /// How much less.
        percent: u32,
        /// How much less would be allowed.
        max_percent: u32,
    },
}

impl Error {
    /// One word for a metric: what kind of thing went wrong.
    pub fn reason(&self) -> &'static str {
        match self {
            Error::Read { .. } => "read",
            Error::Write { .. } => "write",
            Error::Snapshot { .. } => "snapshot",
            Error::Changing { .. } => "changing",
            Error::CutShort { .. } | Error::Line { .. } | Error::TwoAccounts { .. } => "text",
            Error::Mmdb { .. } | Error::Value { .. } => "database",
            Error::Json { .. } => "json",
            Error::Plan { .. } => "plan",
            Error::Budget { .. } => "budget",
            Error::Canary { .. } => "canary",
            Error::Coverage { .. } => "coverage",
        }
    }

    /// The file that is to blame, if one is.
    pub fn path(&self) -> Option<&std::path::Path> {
        match self {
            Error::Read { path, .. }
            | Error::Write { path, .. }
            | Error::Snapshot { path, .. }
            | Error::Changing { path }
            | Error::CutShort { path }
            | Error::Line { path, .. }
            | Error::Mmdb { path, .. }
            | Error::Value { path, .. }
            | Error::Json { path, .. }
            | Error::TwoAccounts { path, .. } => Some(path),
            Error::Plan { .. } | Error::Budget { .. } | Error::Canary { .. } | Error::Coverage { .. } => None,
        }
    }
}
