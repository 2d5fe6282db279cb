//! What an IP address is, whose it is, and how we know.
//!
//! Many sources (databases of any vendor, the operator's accounts, labels and overrides, published lists) are compiled
//! into one immutable [`Table`]. A look-up is a search in one array: it cannot fail, allocates nothing, takes no lock, and
//! answers a [`RecordId`] of four bytes; [`Table::record`] turns that into words, each with the source that said it.
//!
//! ```
//! # fn main() -> Result<(), weir_geoip::Error> {
//! use weir_geoip::{Plan, compile};
//! let table = compile(&Plan::default(), std::time::SystemTime::now())?;
//! let id = table.lookup("10.0.0.1".parse().unwrap_or(std::net::IpAddr::from([0; 4])));
//! assert_eq!(table.record(id).scope().name(), "private");
//! # Ok(())
//! # }
//! ```
//!
//! In a process that runs for long: [`Live`] holds the table in use, a [`Reloader`] on a thread of its own replaces it
//! when a file changes, and the table before stays whenever something is wrong with the new one.
//!
//! No async, no network. Files are read whole and never mapped.

mod address;
mod answer;
mod compile;
pub mod date;
mod difference;
mod error;
mod explain;
mod guard;
mod interner;
pub mod kept;
mod lines;
mod live;
mod names;
mod packed;
mod pages;
pub mod plan;
mod record;
mod reload;
pub mod snapshot;
mod source;
mod sources;
mod steps;
mod table;

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

pub use address::{Scope, Via, canonical, embedded, scope};
pub use compile::compile;
pub use difference::{Addresses, Change, Difference, difference};
pub use error::Error;
pub use explain::{Opinion, explain};
pub use guard::{Coverage, check};
pub use live::Live;
pub use plan::Plan;
pub use record::{Record, RecordId};
pub use reload::{Outcome, Reloader, SourceAge};
pub use sources::{SourceFacts, SourceState};

use record::Records;
use table::{Table4, Table6};

/// One immutable answer for every address there is.
#[derive(Debug)]
pub struct Table {
    v4: Table4,
    v6: Table6,
    records: Records,
    facts: TableFacts,
}

/// What a table was made of, and when.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableFacts {
    /// SHA-256 of everything in the table, in hexadecimal.
    pub id: String,
    /// The newest build of its sources, seconds since 1970; 0 without any.
    pub geo_epoch: i64,
    /// Which accounts file: 48 bits of its digest; 0 without one.
    pub accounts_version: i64,
    /// The time it was made for, seconds since 1970.
    pub valid_from: i64,
    /// When a dated row begins or ends, so that it has to be made again.
    pub changes_at: Option<i64>,
    /// All sources; the first is that of special addresses.
    pub sources: Vec<SourceFacts>,
}

impl Table {
    fn new(v4: Table4, v6: Table6, records: Records, facts: TableFacts) -> Table {
        let mut table = Table { v4, v6, records, facts };
        table.facts.id = snapshot::id(&table);
        table
    }

    /// The record of an address, canonicalised (see [`canonical`]).
    #[inline]
    pub fn lookup(&self, address: IpAddr) -> RecordId {
        match address {
            IpAddr::V4(v4) => RecordId(self.v4.get(v4.into())),
            IpAddr::V6(v6) => match embedded(v6) {
                None => RecordId(self.v6.get(v6.into())),
                Some((v4, _)) => RecordId(self.v4.get(v4.into())),
            },
        }
    }

    /// What a record says. That of another table's id is without meaning, but never a panic.
    pub fn record(&self, id: RecordId) -> Record<'_> {
        Record::new(&self.records, &self.facts.sources, id)
    }

    /// Look-up and record in one.
    pub fn of(&self, address: IpAddr) -> Record<'_> {
        self.record(self.lookup(address))
    }

    /// First and last address around this one that have the same record, canonicalised.
    pub fn range(&self, address: IpAddr) -> (IpAddr, IpAddr) {
        match canonical(address) {
            IpAddr::V4(v4) => {
                let (start, end) = self.v4.range(v4.into());
                (IpAddr::V4(start.into()), IpAddr::V4(end.into()))
            }
            IpAddr::V6(v6) => {
                let (start, end) = self.v6.range(v6.into());
                (IpAddr::V6(start.into()), IpAddr::V6(end.into()))
            }
        }
    }

    /// All IPv4 ranges in order, by their first address.
    pub fn ranges4(&self) -> impl Iterator<Item = (u32, RecordId)> + '_ {
        self.v4.steps().map(|(start, record)| (start, RecordId(record)))
    }

    /// All IPv6 ranges in order, by their first address; neighbours may say the same.
    pub fn ranges6(&self) -> impl Iterator<Item = (u128, RecordId)> + '_ {
        self.v6.steps().map(|(start, record)| (start, RecordId(record)))
    }

    /// What it was made of.
    pub fn facts(&self) -> &TableFacts {
        &self.facts
    }

    /// Its id: SHA-256 of everything in it.
    pub fn id(&self) -> &str {
        &self.facts.id
    }

    /// The newest build of its sources, seconds since 1970.
    pub fn geo_epoch(&self) -> i64 {
        self.facts.geo_epoch
    }

    /// Which accounts file; 0 without one.
    pub fn accounts_version(&self) -> i64 {
        self.facts.accounts_version
    }

    /// Its sources; the first is that of special addresses.
    pub fn sources(&self) -> &[SourceFacts] {
        &self.facts.sources
    }

    /// How many different records there are.
    pub fn records(&self) -> usize {
        self.records.rows.len()
    }

    /// Memory in use: IPv4, IPv6, records with their words.
    pub fn bytes(&self) -> [usize; 3] {
        [self.v4.bytes(), self.v6.bytes(), self.records.bytes()]
    }
}
