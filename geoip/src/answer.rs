//! What one source says of an address.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::names::{NameId, NamesBuilder};
use crate::plan::Field;

/// Fields of one source; 0 is: it does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Answer {
    pub(crate) country: NameId,
    pub(crate) region: NameId,
    pub(crate) city: NameId,
    pub(crate) asn: u32,
    pub(crate) as_org: NameId,
    /// A set of [`Vocabulary::label_sets`].
    pub(crate) labels: u32,
}

impl Answer {
    pub(crate) fn field(&self, field: Field) -> u32 {
        match field {
            Field::Country => self.country,
            Field::Region => self.region,
            Field::City => self.city,
            Field::Asn => self.asn,
            Field::AsOrg => self.as_org,
        }
    }

    pub(crate) fn set(&mut self, field: Field, value: u32) {
        match field {
            Field::Country => self.country = value,
            Field::Region => self.region = value,
            Field::City => self.city = value,
            Field::Asn => self.asn = value,
            Field::AsOrg => self.as_org = value,
        }
    }
}

/// The words that all sources of a table share.
#[derive(Debug)]
pub(crate) struct Vocabulary {
    pub(crate) names: NamesBuilder,
    pub(crate) label_sets: Sets<NameId>,
}

impl Vocabulary {
    pub(crate) fn new() -> Vocabulary {
        Vocabulary { names: NamesBuilder::new(), label_sets: Sets::new() }
    }

    /// A field's text as its number; None where the text cannot be that field. What vendors write for "not known" is 0.
    pub(crate) fn value(&mut self, field: Field, text: &str) -> Option<u32> {
        let text = text.trim();
        if text.is_empty() || text == "-" {
            return Some(0);
        }
        match field {
            Field::Country => country(text).map(|country| country.map_or(0, |country| self.names.intern(&country))),
            Field::Asn => text.strip_prefix("AS").unwrap_or(text).parse().ok(),
            Field::Region | Field::City | Field::AsOrg => Some(self.names.intern(text)),
        }
    }

    /// The set of labels in both.
    pub(crate) fn union(&mut self, a: u32, b: u32) -> u32 {
        if a == b || b == 0 {
            return a;
        }
        if a == 0 {
            return b;
        }
        let mut labels = self.label_sets.get(a).to_vec();
        labels.extend_from_slice(self.label_sets.get(b));
        labels.sort_unstable();
        labels.dedup();
        self.label_sets.intern(&labels)
    }

    /// The set of labels in the first and not in the second.
    pub(crate) fn without(&mut self, labels: u32, removed: u32) -> u32 {
        if labels == 0 || removed == 0 {
            return labels;
        }
        let removed = self.label_sets.get(removed);
        let left: Vec<NameId> =
            self.label_sets.get(labels).iter().filter(|label| !removed.contains(label)).copied().collect();
        self.label_sets.intern(&left)
    }
}

/// Two letters in capitals; vendors' marks for "nowhere in particular" are None inside. A pseudo-country says nothing.
fn country(text: &str) -> Option<Option<String>> {
    let letters = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if !letters {
        return None;
    }
    let country = text.to_ascii_uppercase();
    let real =
        country.bytes().all(|byte| byte.is_ascii_uppercase()) && !matches!(country.as_str(), "ZZ" | "XX" | "AP" | "EU");
    Some(real.then_some(country))
}

/// A label is dotted words: `proxy.anonymous.tor`.
pub(crate) fn is_label(text: &str) -> bool {
    text.len() <= 128
        && text.split('.').all(|word| {
            !word.is_empty()
                && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte))
        })
}

/// Short sequences stored once, known by number; 0 is the empty one.
#[derive(Debug)]
pub(crate) struct Sets<T> {
    pub(crate) items: Vec<T>,
    pub(crate) ends: Vec<u32>,
    index: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl<T: Copy + Eq + std::hash::Hash> Sets<T> {
    pub(crate) fn new() -> Sets<T> {
        Sets { items: Vec::new(), ends: vec![0], index: HashTable::new(), hasher: DefaultHashBuilder::default() }
    }

    pub(crate) fn get(&self, id: u32) -> &[T] {
        slice(&self.items, &self.ends, id)
    }

    pub(crate) fn intern(&mut self, set: &[T]) -> u32 {
        if set.is_empty() {
            return 0;
        }
        let Sets { items, ends, index, hasher } = self;
        let hash = hasher.hash_one(set);
        if let Some(id) = index.find(hash, |id| slice(items, ends, *id) == set) {
            return *id;
        }
        let id = ends.len() as u32;
        items.extend_from_slice(set);
        ends.push(items.len() as u32);
        index.insert_unique(hash, id, |id| hasher.hash_one(slice(items, ends, *id)));
        id
    }
}

fn slice<'a, T>(items: &'a [T], ends: &[u32], id: u32) -> &'a [T] {
    let id = id as usize;
    let start = id.checked_sub(1).and_then(|before| ends.get(before)).copied().unwrap_or(0) as usize;
    items.get(start..ends.get(id).copied().unwrap_or(0) as usize).unwrap_or(&[])
}
