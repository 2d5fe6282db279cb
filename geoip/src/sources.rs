//! Where the answers come from: for every file that was read, what it is and exactly which one.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// One source of a table, as it was when the table was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFacts {
    /// Its name in the plan; `scope`, `overrides`, `accounts`, or a label file's name.
    pub name: String,
    /// `mmdb`, `ranges`, `aws`, …, `accounts`, `labels`, `overrides`, `scope`.
    pub kind: String,
    /// What an MMDB calls itself; else empty.
    pub database_type: String,
    /// When it was built, seconds since 1970: from its metadata, else its files' newest modification.
    pub build_epoch: i64,
    /// SHA-256 of its files, in hexadecimal; of several, of their digests in order.
    pub sha256: String,
    /// Size of its files together.
    pub bytes: u64,
    /// Networks, ranges or rows.
    pub rows: u64,
    /// As the plan says it.
    pub licence: String,
    /// Whom the licence wants named.
    pub attribution: String,
    /// Days that the licence lets a snapshot with it be kept; None is for ever.
    pub keep_days_max: Option<u32>,
    /// From this age on the source counts as stale.
    pub stale_after_days: u32,
    /// From this age on it counts as expired.
    pub expired_after_days: u32,
}

/// How far a source can be trusted to be today's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SourceState {
    /// Young enough.
    Fresh,
    /// Old, or its newer files could not be used.
    Stale,
    /// Too old; its answers are still given.
    Expired,
}

impl SourceState {
    /// As printed and as a label of the metric.
    pub fn name(self) -> &'static str {
        match self {
            SourceState::Fresh => "fresh",
            SourceState::Stale => "stale",
            SourceState::Expired => "expired",
        }
    }
}

impl SourceFacts {
    /// How old it is.
    pub fn age(&self, now: SystemTime) -> Duration {
        let built = UNIX_EPOCH + Duration::from_secs(u64::try_from(self.build_epoch).unwrap_or(0));
        now.duration_since(built).unwrap_or_default()
    }

    /// What its age makes of it. What has no age of its own (the registries of special addresses) stays fresh, and so do
    /// the operator's own files: they are right until someone changes them.
    pub fn state(&self, now: SystemTime) -> SourceState {
        let days = self.age(now).as_secs() / 86_400;
        if self.expired_after_days > 0 && days >= u64::from(self.expired_after_days) {
            SourceState::Expired
        } else if self.stale_after_days > 0 && days >= u64::from(self.stale_after_days) {
            SourceState::Stale
        } else {
            SourceState::Fresh
        }
    }
}
