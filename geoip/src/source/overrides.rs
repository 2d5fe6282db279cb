//! `overrides.csv`: `cidr,field,value`: the operator knows better than every source.
//!
//! Fields are those of [`Field`] and `label`, whose value is added, or taken away with a `-` before it. A longer network
//! adds to a shorter one and decides where both speak. Special addresses have no place and no network, so a row that would
//! give them one is an error.

use std::collections::HashMap;

use ipnet::IpNet;

use super::text::{network, rows};
use super::{Input, facts};
use crate::Error;
use crate::address::special;
use crate::answer::{Answer, Vocabulary, is_label};
use crate::plan::Field;
use crate::sources::SourceFacts;
use crate::steps::{Family, Range, Steps, flatten};

/// What is known better.
#[derive(Debug)]
pub(crate) struct Overrides {
    pub(crate) facts: SourceFacts,
    pub(crate) v4: Steps,
    pub(crate) v6: Steps,
    /// A step's value is a position here; the first says nothing.
    pub(crate) values: Vec<Override>,
}

/// Fields that are said, and labels that are taken away.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Override {
    pub(crate) answer: Answer,
    pub(crate) removed: u32,
}

pub(crate) fn read(input: &Input, words: &mut Vocabulary) -> Result<Overrides, Error> {
    let mut values = vec![Override::default()];
    let mut ranges: [Vec<Range>; 2] = [Vec::new(), Vec::new()];
    let mut said: HashMap<(IpNet, Field), (u32, u64)> = HashMap::new();
    let mut rows_read = 0;
    rows(input, "cidr", |fields, line| {
        let (Some(cidr), Some(field), Some(value), 3) = (fields.get(0), fields.get(1), fields.get(2), fields.len())
        else {
            return Err("a row is cidr,field,value".to_owned());
        };
        let network = network(cidr)?;
        let mut own = Override::default();
        if field == "label" {
            let (label, removed) = value.strip_prefix('-').map_or((value, false), |label| (label, true));
            if !is_label(label) {
                return Err(format!("{label:?} is no label: dotted words of a to z, 0 to 9, - and _"));
            }
            let set = words.names.intern(label);
            let set = words.label_sets.intern(&[set]);
            if removed { own.removed = set } else { own.answer.labels = set }
        } else {
            let Some(field) = Field::ALL.into_iter().find(|known| known.name() == field) else {
                return Err(format!("{field:?} is no field: country, region, city, asn, as_org or label"));
            };
            if let Some(scope) = special(network) {
                return Err(format!("{network} is {}: it has no {}", scope.name(), field.name()));
            }
            let Some(number) = words.value(field, value).filter(|number| *number != 0) else {
                return Err(format!("{value:?} is no {}", field.name()));
            };
            let (before, at) = *said.entry((network, field)).or_insert((number, line));
            if before != number {
                return Err(format!("line {at} says another {} for {network}", field.name()));
            }
            own.answer.set(field, number);
        }
        rows_read += 1;
        values.push(own);
        let family = usize::from(network.addr().is_ipv6());
        ranges[family].push(Range::of(network, values.len() as u32 - 1));
        Ok(())
    })?;
    let mut inside = |outer: u32, inner: u32| {
        let at = |position: u32| values.get(position as usize).copied().unwrap_or_default();
        let joined = join(at(outer), at(inner), words);
        values.push(joined);
        values.len() as u32 - 1
    };
    let [ranges4, ranges6] = ranges;
    let v4 = flatten(Family::V4, ranges4, &mut inside);
    let v6 = flatten(Family::V6, ranges6, &mut inside);
    let mut facts = facts("overrides", "overrides", &[input]);
    facts.rows = rows_read;
    Ok(Overrides { facts, v4, v6, values })
}

/// The inner one decides, where it says anything.
fn join(outer: Override, inner: Override, words: &mut Vocabulary) -> Override {
    let mut joined = outer;
    for field in Field::ALL {
        if inner.answer.field(field) != 0 {
            joined.answer.set(field, inner.answer.field(field));
        }
    }
    let added = words.union(outer.answer.labels, inner.answer.labels);
    joined.answer.labels = words.without(added, inner.removed);
    let removed = words.union(outer.removed, inner.removed);
    joined.removed = words.without(removed, inner.answer.labels);
    joined
}
