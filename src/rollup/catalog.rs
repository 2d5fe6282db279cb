//! Series by what they are told apart by: each gets an id once, the same in every process.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::store::{Kind, Series};

/// Longest text that tells usage apart, in characters.
const TEXT_CHARACTERS_MAX: usize = 255;

/// A series as a record names it, before anything is copied.
#[derive(Clone, Copy, Debug)]
pub(super) struct Named<'a> {
    pub(super) kind: Kind,
    pub(super) account: &'a str,
    pub(super) endpoint: &'a str,
    pub(super) host: &'a str,
    pub(super) protocol: &'a str,
    pub(super) country: &'a str,
    pub(super) status_class: i64,
    pub(super) billable: bool,
    pub(super) reason: &'a str,
    pub(super) corrects: &'a str,
    pub(super) correction: &'a str,
}

impl<'a> Named<'a> {
    pub(super) fn of(series: &'a Series) -> Self {
        Self {
            kind: series.kind,
            account: &series.account,
            endpoint: &series.endpoint,
            host: &series.host,
            protocol: &series.protocol,
            country: &series.country,
            status_class: series.status_class,
            billable: series.billable,
            reason: &series.reason,
            corrects: &series.corrects,
            correction: &series.correction,
        }
    }

    fn hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.kind, self.account, self.endpoint, self.host, self.protocol).hash(&mut hasher);
        (self.country, self.status_class, self.billable, self.reason, self.corrects, self.correction).hash(&mut hasher);
        hasher.finish()
    }

    fn is(&self, series: &Series) -> bool {
        self.kind == series.kind
            && self.account == series.account
            && self.endpoint == series.endpoint
            && self.host == series.host
            && self.protocol == series.protocol
            && self.country == series.country
            && self.status_class == series.status_class
            && self.billable == series.billable
            && self.reason == series.reason
            && self.corrects == series.corrects
            && self.correction == series.correction
    }

    fn to_series(self) -> Series {
        Series {
            kind: self.kind,
            account: clean(self.account),
            endpoint: clean(self.endpoint),
            host: clean(self.host),
            protocol: clean(self.protocol),
            country: clean(self.country),
            status_class: self.status_class,
            billable: self.billable,
            reason: self.reason.to_owned(),
            corrects: self.corrects.to_owned(),
            correction: self.correction.to_owned(),
        }
    }
}

/// Text from outside as a table takes it.
fn clean(text: &str) -> String {
    text.chars().take(TEXT_CHARACTERS_MAX).map(|c| if c == '\0' { '\u{fffd}' } else { c }).collect()
}

fn is_clean(text: &str) -> bool {
    text.len() <= TEXT_CHARACTERS_MAX && !text.as_bytes().contains(&0)
}

/// All series known.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    series: Vec<(i64, Series)>,
    by_hash: HashMap<u64, Vec<usize>>,
    ids: HashSet<i64>,
    hosts: HashMap<String, HashSet<String>>,
    hosts_max: usize,
    /// From here on they are in no store yet.
    stored: usize,
}

impl Catalog {
    pub(super) fn new(series: Vec<(i64, Series)>, hosts_max: usize) -> Self {
        let mut catalog = Self { hosts_max, ..Self::default() };
        for (id, series) in series {
            catalog.insert(id, series);
        }
        catalog.stored();
        catalog
    }

    /// The place of a series; a new one is begun.
    pub(super) fn place(&mut self, named: Named<'_>) -> usize {
        let hash = named.hash();
        if let Some(at) = self.find(hash, &named) {
            return at;
        }
        let is_known = self.hosts.get(named.account).is_some_and(|hosts| hosts.contains(named.host));
        let hosts = self.hosts.get(named.account).map_or(0, HashSet::len);
        if !named.host.is_empty() && !is_known && hosts >= self.hosts_max && named.host != "(other)" {
            return self.place(Named { host: "(other)", ..named });
        }
        if ![named.account, named.endpoint, named.host, named.protocol, named.country].into_iter().all(is_clean) {
            let series = named.to_series();
            let cleaned = Named::of(&series);
            if let Some(at) = self.find(cleaned.hash(), &cleaned) {
                return at;
            }
            return self.begin(series);
        }
        self.begin(named.to_series())
    }

    fn find(&self, hash: u64, named: &Named<'_>) -> Option<usize> {
        self.by_hash.get(&hash)?.iter().copied().find(|at| named.is(&self.series[*at].1))
    }

    fn begin(&mut self, series: Series) -> usize {
        let mut id = id_of(&series);
        while self.ids.contains(&id) {
            id = (id + 1) & i64::MAX;
        }
        self.insert(id, series)
    }

    fn insert(&mut self, id: i64, series: Series) -> usize {
        let at = self.series.len();
        self.ids.insert(id);
        self.by_hash.entry(Named::of(&series).hash()).or_default().push(at);
        if !series.host.is_empty() {
            self.hosts.entry(series.account.clone()).or_default().insert(series.host.clone());
        }
        self.series.push((id, series));
        at
    }

    pub(super) fn series(&self, at: usize) -> &Series {
        &self.series[at].1
    }

    pub(super) fn id(&self, at: usize) -> i64 {
        self.series[at].0
    }

    /// Those that no store has.
    pub(super) fn unstored(&self) -> &[(i64, Series)] {
        &self.series[self.stored..]
    }

    pub(super) fn stored(&mut self) {
        self.stored = self.series.len();
    }
}

/// 63 bits of the hash of what tells it apart: the same in every process, so that two that begin it at once agree.
pub(super) fn id_of(series: &Series) -> i64 {
    let mut hasher = blake3::Hasher::new();
    let texts = [
        series.kind.name(),
        &series.account,
        &series.endpoint,
        &series.host,
        &series.protocol,
        &series.country,
        &series.reason,
        &series.corrects,
    ];
    for text in texts {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    }
    hasher.update(&series.status_class.to_le_bytes());
    hasher.update(&[u8::from(series.billable)]);
    // Ids of what came of records are as they were before there were corrections.
    hasher.update(series.correction.as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    i64::from_le_bytes(first) & i64::MAX
}
