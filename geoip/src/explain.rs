//! Why the table says what it says: each source's own answer for one address, and which of them counts.

use std::net::IpAddr;
use std::time::SystemTime;

use crate::answer::{Answer, Vocabulary};
use crate::plan::Field;
use crate::source::{self, Deadline, Input, Part, labels, overrides};
use crate::steps::{Family, number};
use crate::{Error, Plan, canonical};

/// What one source says of the address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opinion {
    /// Its name.
    pub source: String,
    /// ISO 3166-1, or empty.
    pub country: String,
    /// Code or name, or empty.
    pub region: String,
    /// Name, or empty.
    pub city: String,
    /// 0 if it does not say.
    pub asn: u32,
    /// Name, or empty.
    pub as_org: String,
    /// Dotted words.
    pub labels: Vec<String>,
}

/// Asks every source of a plan, by reading its files: what each says of `address` at `at`. Accounts are not asked: there
/// is one file, and the table's record names its row.
pub fn explain(plan: &Plan, address: IpAddr, at: SystemTime) -> Result<Vec<Opinion>, Error> {
    let address = canonical(address);
    let (family, bits) = (Family::of(address), number(address));
    let deadline = Deadline::after_ms(plan.budget.compile_ms_max);
    let mut words = Vocabulary::new();
    let mut opinions = Vec::new();
    if let Some(path) = &plan.overrides {
        let overrides = overrides::read(&Input::read(path, deadline)?, &mut words)?;
        let steps = if family == Family::V4 { &overrides.v4 } else { &overrides.v6 };
        let own = overrides.values.get(steps.at(bits) as usize).copied().unwrap_or_default();
        let mut opinion = opinion("overrides", own.answer, &words);
        let removed = words.label_sets.get(own.removed).iter();
        opinion.labels.extend(removed.map(|name| format!("-{}", words.names.get(*name))));
        opinions.push(opinion);
    }
    for planned in &plan.sources {
        for part in source::load(planned, &mut words, deadline)?.parts {
            let answer = match part {
                Part::Mmdb(database) => database.at(address, &mut words)?,
                Part::Answers(answers) => answers.at(family, bits),
            };
            opinions.push(opinion(&planned.name, answer, &words));
        }
    }
    for path in &plan.labels {
        let file = labels::read(&Input::read(path, deadline)?, source::seconds(at), &mut words)?;
        for labels in file.labels {
            opinions.push(opinion(&labels.facts.name, labels.answers.at(family, bits), &words));
        }
    }
    Ok(opinions)
}

fn opinion(source: &str, answer: Answer, words: &Vocabulary) -> Opinion {
    let name = |field: Field| words.names.get(answer.field(field)).to_owned();
    let labels = words.label_sets.get(answer.labels).iter().map(|label| words.names.get(*label).to_owned()).collect();
    Opinion {
        source: source.to_owned(),
        country: name(Field::Country),
        region: name(Field::Region),
        city: name(Field::City),
        asn: answer.asn,
        as_org: name(Field::AsOrg),
        labels,
    }
}
