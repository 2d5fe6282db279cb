//! `labels/*.csv`: `cidr|asn:N,label,expires,source`.
//!
//! Labels of all networks that hold an address add up. Rows for an autonomous system apply wherever the table says that
//! number. An expired row says nothing. Rows of one `source` are one source of the table; without it the file's name is.

use std::collections::{BTreeMap, HashMap};

use super::text::{network, rows, time};
use super::{Answers, Input, facts};
use crate::Error;
use crate::answer::{Answer, Vocabulary, is_label};
use crate::sources::SourceFacts;
use crate::steps::Range;

/// Rows of one origin.
#[derive(Debug)]
pub(crate) struct Labels {
    pub(crate) facts: SourceFacts,
    pub(crate) answers: Answers,
    /// Number of an autonomous system → set of labels.
    pub(crate) of_asn: HashMap<u32, u32>,
}

/// All labels of a file, and the next time at which one expires.
#[derive(Debug)]
pub(crate) struct LabelFile {
    pub(crate) labels: Vec<Labels>,
    pub(crate) changes_at: Option<i64>,
}

#[derive(Debug, Default)]
struct Origin {
    ranges4: Vec<Range>,
    ranges6: Vec<Range>,
    answers: Vec<Answer>,
    of_asn: HashMap<u32, u32>,
    rows: u64,
}

pub(crate) fn read(input: &Input, at: i64, words: &mut Vocabulary) -> Result<LabelFile, Error> {
    let stem = input.path.file_stem().map_or_else(|| "labels".to_owned(), |stem| stem.to_string_lossy().into_owned());
    let mut origins: BTreeMap<String, Origin> = BTreeMap::new();
    let mut changes_at: Option<i64> = None;
    rows(input, "cidr", |fields, _| {
        let (Some(subject), Some(label), 2..=4) = (fields.get(0), fields.get(1), fields.len()) else {
            return Err("a row is cidr|asn:N,label,expires,source".to_owned());
        };
        if !is_label(label) {
            return Err(format!("{label:?} is no label: dotted words of a to z, 0 to 9, - and _"));
        }
        let expires = time(fields.get(2).unwrap_or(""))?;
        let origin = fields.get(3).filter(|origin| !origin.is_empty()).unwrap_or(&stem);
        let origin = origins.entry(origin.to_owned()).or_default();
        origin.rows += 1;
        let name = words.names.intern(label);
        let set = words.label_sets.intern(&[name]);
        let asn = subject.strip_prefix("asn:").map(str::parse::<u32>);
        let network = match asn {
            Some(Ok(_)) => None,
            Some(Err(_)) => return Err(format!("{subject:?} is no autonomous system; write asn:64496")),
            None => Some(network(subject)?),
        };
        if let Some(expires) = expires {
            if expires <= at {
                return Ok(());
            }
            changes_at = Some(changes_at.map_or(expires, |earliest| earliest.min(expires)));
        }
        if let Some(Ok(asn)) = asn {
            let labels = origin.of_asn.entry(asn).or_default();
            *labels = words.union(*labels, set);
        }
        if let Some(network) = network {
            if origin.answers.is_empty() {
                origin.answers.push(Answer::default());
            }
            origin.answers.push(Answer { labels: set, ..Answer::default() });
            let range = Range::of(network, origin.answers.len() as u32 - 1);
            if network.addr().is_ipv4() { origin.ranges4.push(range) } else { origin.ranges6.push(range) }
        }
        Ok(())
    })?;
    let mut labels = Vec::with_capacity(origins.len());
    for (name, origin) in origins {
        let mut facts = facts(&name, "labels", &[input]);
        facts.rows = origin.rows;
        let answers = Answers::of(origin.ranges4, origin.ranges6, origin.answers, words);
        labels.push(Labels { facts, answers, of_asn: origin.of_asn });
    }
    Ok(LabelFile { labels, changes_at })
}
