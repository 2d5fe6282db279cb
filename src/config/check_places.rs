//! `[geoip]`, `[screening]` and `[privacy]`.

use std::collections::BTreeMap;
use std::path::Path;

use http::HeaderName;
use toml::Spanned;

use super::check::TOP;
use super::fields::{Check, Section};
use super::raw::{RawGeoip, RawPrivacy, RawScreening, RawScreeningRule, Text};
use super::{Geoip, Privacy, PrivacyMode, Screening, ScreeningAction, ScreeningRule, syntax};
use crate::clock::parse_utc;

/// What is wrong, what to do.
type Wrong = (String, String);

const ACTIONS: [(&str, ScreeningAction); 3] =
    [("record", ScreeningAction::Record), ("tag", ScreeningAction::Tag), ("refuse", ScreeningAction::Refuse)];

const MODES: [(&str, PrivacyMode); 5] = [
    ("full", PrivacyMode::Full),
    ("encrypted", PrivacyMode::Encrypted),
    ("truncated", PrivacyMode::Truncated),
    ("pseudonym", PrivacyMode::Pseudonym),
    ("none", PrivacyMode::None),
];

pub(super) fn geoip(section: &mut Section<'_>, raw: &RawGeoip) -> Geoip {
    Geoip { plan: raw.plan.as_ref().map(|plan| section.path("plan", plan)) }
}

pub(super) fn screening(check: &mut Check, raw: &RawScreening) -> Screening {
    let mut section = check.section("screening");
    let header = section.parsed("header", &raw.header, syntax::request_id_header);
    let anonymisers = match &raw.anonymisers {
        None => vec!["proxy".to_string(), "relay".to_string()],
        Some(_) => list(&mut section, "anonymisers", &raw.anonymisers, label),
    };
    let mut rules: Vec<ScreeningRule> = Vec::new();
    for (index, given) in raw.rules.iter().enumerate() {
        let name = given.get_ref().name.as_ref();
        let at = name.map_or(format!("screening.rules[{index}]"), |name| format!("screening.rules.{}", name.get_ref()));
        let mut section = check.section(at);
        let rule = rule(&mut section, given);
        if let Some(name) = name
            && rules.iter().any(|other| other.name == rule.name)
        {
            section.wrong(name.span(), "name", "is used twice", "give each rule a name of its own");
        }
        rules.push(rule);
    }
    Screening { header: header.unwrap_or(HeaderName::from_static("weir-screening")), anonymisers, rules }
}

fn rule(section: &mut Section<'_>, given: &Spanned<RawScreeningRule>) -> ScreeningRule {
    let raw = given.get_ref();
    if raw.name.is_none() {
        section.missing(given.span(), "name", "write name = \"…\"; records say which rule decided");
    }
    let asns = raw.asns.iter().flat_map(|list| list.get_ref()).filter_map(|asn| {
        let number = u32::try_from(*asn.get_ref()).ok().filter(|number| *number > 0);
        if number.is_none() {
            let what = format!("{} is no number of a network", asn.get_ref());
            section.wrong(asn.span(), "asns", what, "write 1 to 4294967295");
        }
        number
    });
    let asns = asns.collect();
    let rule = ScreeningRule {
        name: section.parsed("name", &raw.name, syntax::name).unwrap_or_default(),
        version: section.count("version", &raw.version, 1, 1..=u32::MAX),
        valid_from_us: section.parsed("valid_from", &raw.valid_from, time).unwrap_or(i64::MIN),
        valid_to_us: section.parsed("valid_to", &raw.valid_to, time).unwrap_or(i64::MAX),
        countries: list(section, "countries", &raw.countries, country),
        subdivisions: list(section, "subdivisions", &raw.subdivisions, subdivision),
        asns,
        labels: list(section, "labels", &raw.labels, label),
        accounts: list(section, "accounts", &raw.accounts, syntax::label),
        action: section.choice("action", &raw.action, ScreeningAction::Record, &ACTIONS),
        indeterminate: section.choice("indeterminate", &raw.indeterminate, ScreeningAction::Record, &ACTIONS),
    };
    if rule.valid_from_us >= rule.valid_to_us
        && let Some(to) = raw.valid_to.as_ref().or(raw.valid_from.as_ref())
    {
        section.wrong(to.span(), "valid_to", "is not after valid_from", "correct one of them");
    }
    let means = [&raw.countries, &raw.subdivisions, &raw.labels, &raw.accounts];
    if means.iter().all(|list| list.is_none()) && raw.asns.is_none() {
        section.missing(
            given.span(),
            "countries",
            "write what it means: countries, subdivisions, asns, labels or accounts",
        );
    }
    rule
}

pub(super) fn privacy(section: &mut Section<'_>, raw: &RawPrivacy, state_dir: &Path) -> Privacy {
    let client_ip = section.choice("client_ip", &raw.client_ip, PrivacyMode::Full, &MODES);
    let mut accounts = BTreeMap::new();
    for (account, mode) in raw.accounts.iter().flatten() {
        let name = format!("accounts.{}", account.get_ref());
        if let Err((what, action)) = syntax::label(account.get_ref()) {
            section.wrong(account.span(), &name, what, action);
        }
        let mode = Some(mode.clone());
        accounts.insert(account.get_ref().clone(), section.choice(&name, &mode, PrivacyMode::Full, &MODES));
    }
    let is_used = |mode| client_ip == mode || accounts.values().any(|used| *used == mode);
    if is_used(PrivacyMode::Encrypted) && raw.encryption_key.is_none() {
        let at = raw.client_ip.as_ref().map_or(TOP, Spanned::span);
        section.missing(at, "encryption_key", "write encryption_key = \"…\", a file of 32 hexadecimal digits");
    }
    let keys = raw.pseudonym_keys.as_ref().map(|keys| section.path("pseudonym_keys", keys));
    Privacy {
        client_ip,
        pseudonym_keys: keys.unwrap_or_else(|| state_dir.join("pseudonym-keys")),
        pseudonym_key: std::time::Duration::from_secs(section.number(
            "pseudonym_key_s",
            &raw.pseudonym_key_s,
            86_400,
            60..=31_622_400,
        )),
        pseudonym_keys_max: section.count("pseudonym_keys_max", &raw.pseudonym_keys_max, 0, 0..=100_000),
        encryption_key: raw.encryption_key.as_ref().map(|key| section.path("encryption_key", key)),
        accounts,
    }
}

fn list(
    section: &mut Section<'_>,
    name: &str,
    given: &super::raw::Texts,
    parse: impl Fn(&str) -> Result<String, Wrong>,
) -> Vec<String> {
    let mut values = Vec::new();
    for given in given.iter().flat_map(|list| list.get_ref()) {
        let text: Text = Some(given.clone());
        values.extend(section.parsed(name, &text, &parse));
    }
    values
}

fn time(text: &str) -> Result<i64, Wrong> {
    parse_utc(text)
        .ok_or_else(|| (format!("{text:?} is no time"), "write \"2025-07-01\" or \"2025-07-01T12:00:00Z\"".to_string()))
}

fn country(text: &str) -> Result<String, Wrong> {
    if text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_uppercase()) {
        return Ok(text.to_string());
    }
    Err((format!("{text:?} is no country"), "write its two letters of ISO 3166-1, like \"UA\"".to_string()))
}

fn subdivision(text: &str) -> Result<String, Wrong> {
    let parts = text.split_once('/').or_else(|| text.split_once('-'));
    match parts {
        Some((of, region)) if country(of).is_ok() && !region.is_empty() => Ok(text.to_string()),
        _ => Err((
            format!("{text:?} is no subdivision"),
            "write \"UA-43\", or country and name: \"RU/Crimea\"".to_string(),
        )),
    }
}

fn label(text: &str) -> Result<String, Wrong> {
    let word = |word: &str| {
        !word.is_empty()
            && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte))
    };
    if text.split('.').all(word) {
        return Ok(text.to_string());
    }
    Err((format!("{text:?} is no label"), "write words with dots, like \"proxy.anonymous\"".to_string()))
}
