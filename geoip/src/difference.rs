//! What changes for whom from one table to another: addresses and accounts, counted, and the ranges themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::steps::{Family, address};
use crate::{Record, RecordId, Table};

/// A range that is answered differently.
#[derive(Debug)]
pub struct Change<'a> {
    /// Its first address.
    pub first: IpAddr,
    /// Its last address.
    pub last: IpAddr,
    /// What the old table says.
    pub old: Record<'a>,
    /// What the new one says.
    pub new: Record<'a>,
}

/// How many addresses change: IPv4 addresses, and IPv6 networks of 64 bits (a part of one counts as one).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Addresses {
    /// IPv4 addresses.
    pub v4: u64,
    /// IPv6 networks of 64 bits.
    pub v6: u64,
}

impl Addresses {
    fn add(&mut self, change: &Change<'_>) {
        match (change.first, change.last) {
            (IpAddr::V4(first), IpAddr::V4(last)) => self.v4 += u64::from(u32::from(last) - u32::from(first)) + 1,
            (first, last) => {
                let networks = (crate::steps::number(last) >> 64) - (crate::steps::number(first) >> 64) + 1;
                self.v6 = self.v6.saturating_add(u64::try_from(networks).unwrap_or(u64::MAX));
            }
        }
    }
}

/// The sum of all changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Difference {
    /// Addresses of which anything is said differently.
    pub any: Addresses,
    /// Those whose country changes.
    pub country: Addresses,
    /// Those whose autonomous system changes.
    pub asn: Addresses,
    /// Those whose labels change.
    pub labels: Addresses,
    /// Those whose account changes.
    pub account: Addresses,
    /// Those whose verdict changes, by the judge given.
    pub verdict: Addresses,
    /// Accounts that lose or gain addresses, or whose addresses change in any way, with how many; "" is no account.
    pub accounts: BTreeMap<String, Addresses>,
    /// `FR → DE` and how many addresses.
    pub countries: BTreeMap<String, Addresses>,
}

/// Compares two tables; `verdict` says how a record is judged, `each` sees every range that changes.
pub fn difference<'a>(
    old: &'a Table,
    new: &'a Table,
    verdict: impl Fn(&Record<'a>) -> u32,
    mut each: impl FnMut(&Change<'a>),
) -> Difference {
    let mut difference = Difference::default();
    let mut told = |change: Change<'a>| {
        if change.old.says_the_same(&change.new) {
            return;
        }
        let (old, new) = (&change.old, &change.new);
        difference.any.add(&change);
        if old.country() != new.country() {
            difference.country.add(&change);
            let which = |country: &'a str| if country.is_empty() { "?" } else { country };
            let which = format!("{} → {}", which(old.country()), which(new.country()));
            difference.countries.entry(which).or_default().add(&change);
        }
        if old.asn() != new.asn() {
            difference.asn.add(&change);
        }
        if !old.labels().eq(new.labels()) {
            difference.labels.add(&change);
        }
        if old.account() != new.account() {
            difference.account.add(&change);
        }
        if verdict(old) != verdict(new) {
            difference.verdict.add(&change);
        }
        for account in BTreeSet::from([old.account(), new.account()]) {
            difference.accounts.entry(account.to_owned()).or_default().add(&change);
        }
        each(&change);
    };
    let v4 = |table: &'a Table| table.ranges4().map(|(start, record)| (u128::from(start), record));
    compare(Family::V4, (old, v4(old)), (new, v4(new)), &mut told);
    compare(Family::V6, (old, old.ranges6()), (new, new.ranges6()), &mut told);
    difference
}

/// Both tables' ranges, cut where either has a border.
fn compare<'a>(
    family: Family,
    (old, old_steps): (&'a Table, impl Iterator<Item = (u128, RecordId)>),
    (new, new_steps): (&'a Table, impl Iterator<Item = (u128, RecordId)>),
    told: &mut impl FnMut(Change<'a>),
) {
    let (mut old_steps, mut new_steps) = (old_steps.peekable(), new_steps.peekable());
    let (mut old_record, mut new_record) = (RecordId::UNKNOWN, RecordId::UNKNOWN);
    let mut at = 0;
    loop {
        if let Some((_, record)) = old_steps.next_if(|(start, _)| *start == at) {
            old_record = record;
        }
        if let Some((_, record)) = new_steps.next_if(|(start, _)| *start == at) {
            new_record = record;
        }
        let next = [old_steps.peek(), new_steps.peek()].into_iter().flatten().map(|(start, _)| *start).min();
        let last = next.map_or(family.last(), |next| next - 1);
        told(Change {
            first: address(family, at),
            last: address(family, last),
            old: old.record(old_record),
            new: new.record(new_record),
        });
        match next {
            Some(next) => at = next,
            None => return,
        }
    }
}
