//! Rows as Rust sees them.

use serde::{Deserialize, Serialize};

use super::lost::LostNode;
use crate::units::COLUMNS;

/// Sums of a usage row, in the order of its columns.
pub const SUM_COLUMNS: [&str; 17] = [
    "received_body_bytes",
    "received_app_bytes",
    "received_wire_bytes",
    "sent_body_bytes",
    "sent_app_bytes",
    "sent_wire_bytes",
    "sent_acked_bytes",
    "upstream_sent_bytes",
    "upstream_received_bytes",
    "requests",
    "sessions",
    "session_us",
    "records",
    "fingerprint_0",
    "fingerprint_1",
    "fingerprint_2",
    "fingerprint_3",
];

/// What is added up in one series and hour. Signed: what a later record shows can take from what an earlier one gave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// The nine byte columns, in the order of [`crate::units::Column`].
    pub bytes: [i64; COLUMNS],
    /// Requests that ended.
    pub requests: i64,
    /// Sessions that ended.
    pub sessions: i64,
    /// Time that sessions were open, µs.
    pub session_us: i64,
    /// Records that belong here.
    pub records: i64,
    /// Sum of the records' hashes, in four lanes of 32 bits; each is exact for 2³¹ records, and compared modulo 2³².
    pub fingerprint: [i64; 4],
}

impl Sums {
    /// In the order of [`SUM_COLUMNS`].
    pub fn to_array(&self) -> [i64; 17] {
        let mut all = [0; 17];
        all[..COLUMNS].copy_from_slice(&self.bytes);
        all[9..13].copy_from_slice(&[self.requests, self.sessions, self.session_us, self.records]);
        all[13..].copy_from_slice(&self.fingerprint);
        all
    }

    /// From the order of [`SUM_COLUMNS`].
    pub fn from_array(all: [i64; 17]) -> Self {
        let mut sums =
            Self { requests: all[9], sessions: all[10], session_us: all[11], records: all[12], ..Self::default() };
        sums.bytes.copy_from_slice(&all[..COLUMNS]);
        sums.fingerprint.copy_from_slice(&all[13..]);
        sums
    }

    /// Adds, column by column.
    pub fn add(&mut self, other: &Self) {
        let (a, b) = (self.to_array(), other.to_array());
        *self = Self::from_array(std::array::from_fn(|column| a[column].saturating_add(b[column])));
    }

    /// Whether nothing is in it.
    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }
}

/// What side of the bill a series is on; see the rollup's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// What requests moved.
    Request,
    /// What sessions moved beyond their requests.
    Session,
    /// What gap records state.
    Gap,
}

impl Kind {
    /// As it stands in the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Session => "session",
            Self::Gap => "gap",
        }
    }

    pub(super) fn of_name(name: &str) -> Self {
        match name {
            "request" => Self::Request,
            "session" => Self::Session,
            _ => Self::Gap,
        }
    }
}

/// What usage is told apart by.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Series {
    /// Request, session or gap.
    pub kind: Kind,
    /// Who pays.
    pub account: String,
    /// What of the account's was reached.
    pub endpoint: String,
    /// Authority that requests asked for; `(other)` beyond the limit of an account.
    pub host: String,
    /// `h1`, `h2`, `tcp`, …
    pub protocol: String,
    /// Of the client; empty where it is not known.
    pub country: String,
    /// First digit of the status; 0 where there is none.
    pub status_class: i64,
    /// Whether it is billed.
    pub billable: bool,
    /// Why it is not.
    pub reason: String,
    /// The sealed period it belongs to, else empty.
    pub corrects: String,
    /// The manual correction that brought it, else empty: it came of records.
    #[serde(default)]
    pub correction: String,
}

/// What moved in one series and hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// [`Series`] by its id.
    pub series: i64,
    /// First µs of the UTC hour.
    pub hour_us: i64,
    /// How much.
    pub sums: Sums,
}

/// Whose records, as the tables name it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StreamPlace {
    /// Node.
    pub node: String,
    /// Epoch.
    pub epoch: i64,
    /// Shard.
    pub shard: i64,
}

/// What came of one stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamRow {
    /// Which.
    pub place: StreamPlace,
    /// The revision it was read with; 0 for a stream that is new.
    pub revision: i64,
    /// Behind the highest seq.
    pub next_seq: i64,
    /// Time of the latest record, µs.
    pub last_at_us: i64,
    /// Everything came, up to the record with which the node closed the shard.
    pub is_complete: bool,
    /// Links of the chain that are broken.
    pub links_broken: i64,
    /// Records taken.
    pub records: i64,
    /// Records that came again.
    pub duplicates: i64,
    /// JSON, the rollup's.
    pub state: String,
}

/// Seqs that did not come.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Gap {
    /// Whose.
    pub place: StreamPlace,
    /// The first.
    pub first_seq: i64,
    /// Behind the last.
    pub next_seq: i64,
    /// `missing`, `before_start`, `lost_by_sender`, `stated` (a gap record says how many bytes), `given_up`.
    pub cause: String,
    /// Time of the record before, µs; 0 where none is known.
    pub from_us: i64,
    /// Time of the record behind, µs.
    pub to_us: i64,
}

/// A session or request of which more is expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ItemRow {
    /// Whose records.
    pub place: StreamPlace,
    /// Who pays, as its last record says.
    pub account: String,
    /// App octets received that its totals state and no record brought.
    pub missing_received_bytes: i64,
    /// App octets sent.
    pub missing_sent_bytes: i64,
    /// Acknowledged ones.
    pub missing_acked_bytes: i64,
    /// JSON, the rollup's.
    pub state: String,
}

/// A part of a source was read from here to there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// The source, like `kafka/weir.usage`.
    pub source: String,
    /// Partition, file or shard.
    pub part: String,
    /// Where reading began; none if it never did.
    pub from: Option<i64>,
    /// Where it goes on.
    pub to: i64,
}

/// What could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantined {
    /// The source.
    pub source: String,
    /// Its part.
    pub part: String,
    /// Where in it.
    pub position: i64,
    /// When it was written, as far as is known, µs.
    pub at_us: i64,
    /// What is wrong.
    pub reason: String,
    /// As it came.
    pub bytes: Vec<u8>,
}

/// A sealed period.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Period {
    /// Like `2026-11`.
    pub name: String,
    /// Its first µs.
    pub from_us: i64,
    /// The first µs behind it.
    pub to_us: i64,
    /// When, µs.
    pub sealed_at_us: i64,
    /// By whom.
    pub actor: String,
    /// What was missing then, a line each.
    pub holes: String,
}

/// Everything that a ledger goes on from.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// How many periods are sealed.
    pub seals: i64,
    /// All streams.
    pub streams: Vec<StreamRow>,
    /// All open gaps, by stream and seq.
    pub gaps: Vec<Gap>,
    /// All items, by id.
    pub items: Vec<(String, ItemRow)>,
    /// All series.
    pub series: Vec<(i64, Series)>,
    /// Where reading goes on: source, part, position.
    pub positions: Vec<(String, String, i64)>,
    /// Sealed periods, in order.
    pub periods: Vec<Period>,
    /// Nodes of which nothing more will come.
    pub lost: Vec<LostNode>,
}

/// Which usage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Only this account's.
    pub account: Option<String>,
    /// From this hour on, µs.
    pub from_us: i64,
    /// Up to this hour, µs.
    pub to_us: i64,
}

impl Default for Filter {
    fn default() -> Self {
        Self { account: None, from_us: i64::MIN, to_us: i64::MAX }
    }
}

/// What rows of usage are kept apart by, beside their series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Nothing: one row for each series.
    Series,
    /// The hour.
    Hour,
}
