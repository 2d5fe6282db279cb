//! What the rules say of where traffic comes from, and what follows: recorded, told to the origin, or refused.
//!
//! Pure: no I/O, no clock. A rule means places (countries and subdivisions), networks (by number) and labels, any of them; it can be
//! limited to accounts and to a period, whose end it does not include.
//!
//! *Match*: the first rule that means it. *Indeterminate*: no rule matches, and the first of those that might: for a rule of
//! places, the client is behind an anonymiser, nothing is known of the address, or only the country is and the rule means a part of it.
//! *Clear*: neither. An anonymiser makes nothing clear, but what matches in spite of it matches.
//!
//! Vendors disagree about places (one calls Crimea `RU`, another `UA-43`), so a subdivision is given in every spelling: its code
//! (`UA-43`), or country and name (`RU/Crimea`).

use std::sync::Arc;

use crate::config;
use crate::event;

pub use crate::config::ScreeningAction as Action;

/// What is held against the rules.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Two letters, or empty.
    pub country: &'a str,
    /// A code (`UA-43`, or only `43`) or a name; empty where it is not known.
    pub region: &'a str,
    /// Number of the network, or 0.
    pub asn: u32,
    /// Dotted labels.
    pub labels: &'a [Box<str>],
    /// Whose traffic it is.
    pub account: &'a str,
    /// Now, µs.
    pub at_us: i64,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruling {
    /// What the rules say.
    pub verdict: event::Screening,
    /// `name@version` of the rule that decided; empty where clear.
    pub rule: Arc<str>,
    /// What follows.
    pub action: Action,
    /// Until this µs a later look at the same facts says the same.
    pub until_us: i64,
}

/// The rules, ready to use.
#[derive(Debug)]
pub struct Screen {
    rules: Vec<Rule>,
    anonymisers: Vec<String>,
    names_accounts: bool,
    nothing: Arc<str>,
}

#[derive(Debug)]
struct Rule {
    config: config::ScreeningRule,
    subdivisions: Vec<Subdivision>,
    /// `name@version`.
    name: Arc<str>,
}

#[derive(Debug)]
struct Subdivision {
    country: String,
    /// The code behind the country's, or a name.
    region: String,
    is_code: bool,
}

/// What one rule says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    Match,
    Might,
    No,
}

impl Screen {
    /// Of these rules, in their order.
    pub fn new(config: &config::Screening) -> Self {
        let rules = config.rules.iter().map(|rule| Rule {
            name: Arc::from(format!("{}@{}", rule.name, rule.version)),
            subdivisions: rule.subdivisions.iter().filter_map(|text| subdivision(text)).collect(),
            config: rule.clone(),
        });
        Self {
            rules: rules.collect(),
            anonymisers: config.anonymisers.clone(),
            names_accounts: config.rules.iter().any(|rule| !rule.accounts.is_empty()),
            nothing: Arc::from(""),
        }
    }

    /// Without rules.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether it matters whose the traffic is.
    pub fn names_accounts(&self) -> bool {
        self.names_accounts
    }

    /// Holds the facts against the rules.
    pub fn judge(&self, facts: &Facts<'_>) -> Ruling {
        let mut until_us = i64::MAX;
        let (mut matching, mut might) = (None, None);
        for rule in &self.rules {
            let config = &rule.config;
            for boundary in [config.valid_from_us, config.valid_to_us] {
                if boundary > facts.at_us {
                    until_us = until_us.min(boundary);
                }
            }
            if facts.at_us < config.valid_from_us || facts.at_us >= config.valid_to_us {
                continue;
            }
            match self.answer(rule, facts) {
                Answer::Match => matching = matching.or(Some(rule)),
                Answer::Might => might = might.or(Some(rule)),
                Answer::No => {}
            }
        }
        let (verdict, rule, action) = match (matching, might) {
            _ if self.rules.is_empty() => (event::Screening::Unspecified, &self.nothing, Action::Record),
            (Some(rule), _) => (event::Screening::Match, &rule.name, rule.config.action),
            (None, Some(rule)) => (event::Screening::Indeterminate, &rule.name, rule.config.indeterminate),
            (None, None) => (event::Screening::Clear, &self.nothing, Action::Record),
        };
        Ruling { verdict, rule: rule.clone(), action, until_us }
    }

    fn answer(&self, rule: &Rule, facts: &Facts<'_>) -> Answer {
        let config = &rule.config;
        if !config.accounts.is_empty() && !config.accounts.iter().any(|account| account == facts.account) {
            return Answer::No;
        }
        let means_nothing_else = config.countries.is_empty()
            && rule.subdivisions.is_empty()
            && config.asns.is_empty()
            && config.labels.is_empty();
        if means_nothing_else
            || config.countries.iter().any(|country| country == facts.country)
            || rule.subdivisions.iter().any(|subdivision| subdivision.holds(facts))
            || config.asns.contains(&facts.asn)
            || config.labels.iter().any(|label| has_label(facts.labels, label))
        {
            return Answer::Match;
        }
        let means_places = !(config.countries.is_empty() && rule.subdivisions.is_empty());
        let too_coarse =
            facts.region.is_empty() && rule.subdivisions.iter().any(|subdivision| subdivision.country == facts.country);
        let is_hidden = self.anonymisers.iter().any(|label| has_label(facts.labels, label));
        if means_places && (facts.country.is_empty() || is_hidden || too_coarse) { Answer::Might } else { Answer::No }
    }
}

impl Subdivision {
    fn holds(&self, facts: &Facts<'_>) -> bool {
        if self.country != facts.country {
            return false;
        }
        if !self.is_code {
            return self.region.eq_ignore_ascii_case(facts.region);
        }
        let code =
            facts.region.strip_prefix(facts.country).and_then(|rest| rest.strip_prefix('-')).unwrap_or(facts.region);
        self.region.eq_ignore_ascii_case(code)
    }
}

/// `UA-43` or `RU/Crimea`.
fn subdivision(text: &str) -> Option<Subdivision> {
    let is_code = !text.contains('/');
    let (country, region) = text.split_once(if is_code { '-' } else { '/' })?;
    Some(Subdivision { country: country.to_owned(), region: region.to_owned(), is_code })
}

/// The label itself or one below it.
fn has_label(labels: &[Box<str>], wanted: &str) -> bool {
    labels.iter().any(|label| label.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::parse_utc;
    use crate::config::ScreeningRule;
    use crate::event::Screening as Verdict;

    fn rule(name: &str) -> ScreeningRule {
        ScreeningRule {
            name: name.into(),
            version: 3,
            valid_from_us: i64::MIN,
            valid_to_us: i64::MAX,
            countries: vec![],
            subdivisions: vec![],
            asns: vec![],
            labels: vec![],
            accounts: vec![],
            action: Action::Refuse,
            indeterminate: Action::Tag,
        }
    }

    fn screen(rules: Vec<ScreeningRule>) -> Screen {
        let header = http::HeaderName::from_static("weir-screening");
        Screen::new(&config::Screening { header, anonymisers: vec!["proxy.anonymous".into()], rules })
    }

    fn at<'a>(country: &'a str, region: &'a str, labels: &'a [Box<str>]) -> Facts<'a> {
        Facts { country, region, asn: 64500, labels, account: "acme", at_us: 0 }
    }

    fn check(screen: &Screen, facts: &Facts<'_>, verdict: Verdict, rule: &str) {
        let ruling = screen.judge(facts);
        assert_eq!((ruling.verdict, &*ruling.rule), (verdict, rule), "{facts:?}");
    }

    #[test]
    fn a_subdivision_is_found_in_every_vendors_spelling() {
        let crimea = ScreeningRule {
            subdivisions: ["UA-43", "UA-40", "RU/Crimea", "RU/Sevastopol", "UA/Crimea"].map(String::from).into(),
            ..rule("crimea")
        };
        let screen = screen(vec![crimea]);
        for (country, region) in
            [("UA", "UA-43"), ("UA", "43"), ("UA", "40"), ("RU", "Crimea"), ("RU", "CRIMEA"), ("UA", "Crimea")]
        {
            check(&screen, &at(country, region, &[]), Verdict::Match, "crimea@3");
        }
        for (country, region) in [("UA", "UA-30"), ("RU", "43"), ("RU", "Moscow"), ("DE", "43"), ("US", "")] {
            check(&screen, &at(country, region, &[]), Verdict::Clear, "");
        }
        // A database of countries cannot tell.
        for country in ["UA", "RU", ""] {
            check(&screen, &at(country, "", &[]), Verdict::Indeterminate, "crimea@3");
        }
        assert_eq!(screen.judge(&at("UA", "", &[])).action, Action::Tag);
        assert_eq!(screen.judge(&at("UA", "43", &[])).action, Action::Refuse);
    }

    #[test]
    fn a_rule_that_ends_holds_on_the_day_before() {
        let syria = ScreeningRule {
            countries: vec!["SY".into()],
            valid_from_us: parse_utc("2011-08-18").unwrap(),
            valid_to_us: parse_utc("2025-07-01").unwrap(),
            ..rule("syria")
        };
        let (begin, end) = (syria.valid_from_us, syria.valid_to_us);
        let screen = screen(vec![syria]);
        let sy = |at_us| Facts { at_us, ..at("SY", "", &[]) };
        check(&screen, &sy(begin - 1), Verdict::Clear, "");
        check(&screen, &sy(begin), Verdict::Match, "syria@3");
        check(&screen, &sy(parse_utc("2025-06-30T23:59:59Z").unwrap()), Verdict::Match, "syria@3");
        check(&screen, &sy(end), Verdict::Clear, "");
        assert_eq!(screen.judge(&sy(begin - 1)).until_us, begin);
        assert_eq!(screen.judge(&sy(begin)).until_us, end);
        assert_eq!(screen.judge(&sy(end)).until_us, i64::MAX);
    }

    #[test]
    fn an_anonymiser_makes_nothing_clear() {
        let places = ScreeningRule { countries: vec!["IR".into()], ..rule("iran") };
        let screen = screen(vec![places]);
        let tor = [Box::from("proxy.anonymous.tor")];
        check(&screen, &at("DE", "", &tor), Verdict::Indeterminate, "iran@3");
        check(&screen, &at("IR", "", &tor), Verdict::Match, "iran@3");
        check(&screen, &at("DE", "", &[Box::from("proxy.anonymously")]), Verdict::Clear, "");
    }

    #[test]
    fn networks_labels_and_accounts_are_meant_too() {
        let screen = screen(vec![
            ScreeningRule { asns: vec![64501], ..rule("network") },
            ScreeningRule { labels: vec!["hosting".into()], ..rule("label") },
            ScreeningRule { countries: vec!["DE".into()], accounts: vec!["other".into()], ..rule("whose") },
            ScreeningRule { accounts: vec!["blocked".into()], ..rule("account") },
        ]);
        check(&screen, &Facts { asn: 64501, ..at("DE", "", &[]) }, Verdict::Match, "network@3");
        check(&screen, &at("DE", "", &[Box::from("hosting.cloud")]), Verdict::Match, "label@3");
        check(&screen, &at("DE", "", &[]), Verdict::Clear, "");
        check(&screen, &Facts { account: "other", ..at("DE", "", &[]) }, Verdict::Match, "whose@3");
        check(&screen, &Facts { account: "blocked", ..at("", "", &[]) }, Verdict::Match, "account@3");
        assert!(screen.names_accounts());
    }

    #[test]
    fn without_rules_nothing_is_said() {
        check(&screen(vec![]), &at("IR", "", &[]), Verdict::Unspecified, "");
    }
}
