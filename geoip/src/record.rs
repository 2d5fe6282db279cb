//! What is known of an address: a row of four numbers, each of a part that many rows share.
//!
//! Most addresses differ in few things, so a row names a place, a network, a set of labels and an account, and each of
//! these is kept once: 7 or so bytes for a row, whatever it says. Every field names the source that it came from.

use crate::address::Scope;
use crate::names::{NameId, Names};
use crate::packed::Packed;
use crate::sources::SourceFacts;

/// What [`Table::lookup`](crate::Table::lookup) found; means something to that table only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RecordId(pub(crate) u32);

impl RecordId {
    /// Nothing is known, in every table.
    pub const UNKNOWN: RecordId = RecordId(0);

    /// As a number, for records of one's own.
    pub fn number(self) -> u32 {
        self.0
    }
}

/// Number of a source in the table's list.
pub(crate) type SourceId = u8;

/// A record: numbers of its parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Row {
    pub(crate) place: u32,
    pub(crate) network: u32,
    pub(crate) labels: u32,
    pub(crate) account: u32,
}

/// Where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    pub(crate) country: NameId,
    pub(crate) region: NameId,
    pub(crate) city: NameId,
    pub(crate) country_source: SourceId,
    pub(crate) region_source: SourceId,
    pub(crate) city_source: SourceId,
    pub(crate) scope: Scope,
}

/// Whose network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Network {
    pub(crate) asn: u32,
    pub(crate) as_org: NameId,
    pub(crate) asn_source: SourceId,
    pub(crate) as_org_source: SourceId,
}

/// Whose traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Account {
    pub(crate) account: NameId,
    pub(crate) reference: NameId,
}

/// One label of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Label {
    pub(crate) name: NameId,
    pub(crate) source: SourceId,
}

/// Everything that rows name. The first of each kind says that nothing is known.
#[derive(Debug)]
pub(crate) struct Records {
    pub(crate) rows: Packed<4>,
    pub(crate) places: Vec<Place>,
    pub(crate) networks: Vec<Network>,
    pub(crate) labels: Vec<Label>,
    /// Where each set ends in `labels`; the first is empty.
    pub(crate) label_ends: Vec<u32>,
    pub(crate) accounts: Vec<Account>,
    pub(crate) names: Names,
}

impl Records {
    pub(crate) fn bytes(&self) -> usize {
        self.rows.bytes()
            + size_of_val(self.places.as_slice())
            + size_of_val(self.networks.as_slice())
            + size_of_val(self.labels.as_slice())
            + size_of_val(self.label_ends.as_slice())
            + size_of_val(self.accounts.as_slice())
            + self.names.bytes()
    }

    pub(crate) fn pack(rows: &[Row]) -> Packed<4> {
        Packed::of(rows.iter().map(|row| [row.place, row.network, row.labels, row.account]))
    }

    fn row(&self, id: RecordId) -> Row {
        let position = id.0 as usize;
        if position >= self.rows.len() {
            return Row::default();
        }
        let [place, network, labels, account] = self.rows.get(position);
        Row { place, network, labels, account }
    }

    fn label_set(&self, set: u32) -> &[Label] {
        let set = set as usize;
        let start = set.checked_sub(1).and_then(|before| self.label_ends.get(before)).copied().unwrap_or(0) as usize;
        let end = self.label_ends.get(set).copied().unwrap_or(0) as usize;
        self.labels.get(start..end).unwrap_or(&[])
    }
}

/// What is known of an address. Texts are empty and numbers 0 where nothing is known; it is never a guess.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    place: Place,
    network: Network,
    account: Account,
    labels: u32,
    records: &'a Records,
    sources: &'a [SourceFacts],
}

impl<'a> Record<'a> {
    pub(crate) fn new(records: &'a Records, sources: &'a [SourceFacts], id: RecordId) -> Record<'a> {
        let row = records.row(id);
        Record {
            place: records.places.get(row.place as usize).copied().unwrap_or_default(),
            network: records.networks.get(row.network as usize).copied().unwrap_or_default(),
            account: records.accounts.get(row.account as usize).copied().unwrap_or_default(),
            labels: row.labels,
            records,
            sources,
        }
    }

    fn source(&self, id: SourceId) -> Option<&'a SourceFacts> {
        self.sources.get(usize::from(id))
    }

    /// ISO 3166-1 alpha-2, as the source says it.
    pub fn country(&self) -> &'a str {
        self.records.names.get(self.place.country)
    }

    /// ISO 3166-2 (`UA-43`) where the source has codes, else its name for the region (`Crimea`).
    pub fn region(&self) -> &'a str {
        self.records.names.get(self.place.region)
    }

    /// English name.
    pub fn city(&self) -> &'a str {
        self.records.names.get(self.place.city)
    }

    /// Autonomous system number, 0 if not known.
    pub fn asn(&self) -> u32 {
        self.network.asn
    }

    /// Who runs the autonomous system.
    pub fn as_org(&self) -> &'a str {
        self.records.names.get(self.network.as_org)
    }

    /// Dotted labels in alphabetical order: `hosting`, `proxy.anonymous.tor`, …
    pub fn labels(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let names = &self.records.names;
        let labels = self.records.label_set(self.labels);
        let repeated = |position: usize| position > 0 && labels[position - 1].name == labels[position].name;
        (0..labels.len()).filter(move |position| !repeated(*position)).map(|position| names.get(labels[position].name))
    }

    /// Whether it has this label or one below it: `proxy.anonymous` holds for `proxy.anonymous.tor`.
    pub fn has_label(&self, label: &str) -> bool {
        self.labels().any(|own| own.strip_prefix(label).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
    }

    /// The part of the address space.
    pub fn scope(&self) -> Scope {
        self.place.scope
    }

    /// Account of the longest network in the accounts file that holds the address at the table's time.
    pub fn account(&self) -> &'a str {
        self.records.names.get(self.account.account)
    }

    /// What the accounts file notes beside it (`ref`).
    pub fn account_reference(&self) -> &'a str {
        self.records.names.get(self.account.reference)
    }

    /// Who said the country.
    pub fn country_source(&self) -> Option<&'a SourceFacts> {
        self.source(self.place.country_source).filter(|_| self.place.country != 0)
    }

    /// Who said the region.
    pub fn region_source(&self) -> Option<&'a SourceFacts> {
        self.source(self.place.region_source).filter(|_| self.place.region != 0)
    }

    /// Who said the city.
    pub fn city_source(&self) -> Option<&'a SourceFacts> {
        self.source(self.place.city_source).filter(|_| self.place.city != 0)
    }

    /// Who said the number of the autonomous system.
    pub fn asn_source(&self) -> Option<&'a SourceFacts> {
        self.source(self.network.asn_source).filter(|_| self.network.asn != 0)
    }

    /// Who said whose it is.
    pub fn as_org_source(&self) -> Option<&'a SourceFacts> {
        self.source(self.network.as_org_source).filter(|_| self.network.as_org != 0)
    }

    /// Each label with a source that gave it; a label that several gave comes once for each.
    pub fn label_sources(&self) -> impl Iterator<Item = (&'a str, &'a SourceFacts)> + use<'a> {
        let names = &self.records.names;
        let sources = self.sources;
        let labels = self.records.label_set(self.labels).iter();
        labels.filter_map(move |label| Some((names.get(label.name), sources.get(usize::from(label.source))?)))
    }

    /// The accounts file, if it said whose the traffic is.
    pub fn account_source(&self) -> Option<&'a SourceFacts> {
        self.sources.iter().find(|source| source.kind == "accounts").filter(|_| self.account.account != 0)
    }

    /// Whether both say the same, wherever they learned it. For records of different tables too.
    pub fn says_the_same(&self, other: &Record<'_>) -> bool {
        self.scope() == other.scope()
            && self.country() == other.country()
            && self.region() == other.region()
            && self.city() == other.city()
            && self.asn() == other.asn()
            && self.as_org() == other.as_org()
            && self.account() == other.account()
            && self.labels().eq(other.labels())
    }
}
