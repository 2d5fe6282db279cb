//! `[[attribution]]`: rules that can match, with one source of the account each.

use std::ops::Range;

use toml::Spanned;

use super::fields::{Check, Section};
use super::raw::RawRule;
use super::{
    AccountSource, AttributionRule, ClientAuth, Conditions, HeaderCondition, Listener, ListenerKind, suggest, syntax,
};

/// The rules in the file's order.
pub(super) fn rules(check: &mut Check, raw: &[Spanned<RawRule>], listeners: &[Listener]) -> Vec<AttributionRule> {
    let mut rules: Vec<AttributionRule> = Vec::new();
    for (index, given) in raw.iter().enumerate() {
        let name = given.get_ref().name.as_ref();
        let at = name.map_or(format!("attribution[{index}]"), |name| format!("attribution.{}", name.get_ref()));
        let mut section = check.section(at);
        let rule = rule(&mut section, given.get_ref(), given.span(), listeners);
        if let Some(name) = name
            && !rule.name.is_empty()
            && rules.iter().any(|other| other.name == rule.name)
        {
            section.wrong(name.span(), "name", "is used twice", "give each rule a name of its own");
        }
        rules.push(rule);
    }
    rules
}

fn rule(section: &mut Section<'_>, raw: &RawRule, span: Range<usize>, listeners: &[Listener]) -> AttributionRule {
    if raw.name.is_none() {
        section.missing(span.clone(), "name", "write name = \"…\"; records say which rule decided");
    }
    let conditions = Conditions {
        listener: listener(section, raw, listeners),
        host: section.parsed("host", &raw.host, syntax::host_pattern),
        path_prefix: section.parsed("path_prefix", &raw.path_prefix, syntax::path_prefix),
        sni: section.parsed("sni", &raw.sni, syntax::host_pattern),
        client_cidr: section.networks("client_cidr", &raw.client_cidr),
        tls_subject: section.parsed("tls_subject", &raw.tls_subject, syntax::not_empty),
        header: header(section, raw),
    };
    if let Some(list) = &raw.client_cidr
        && list.get_ref().is_empty()
    {
        section.wrong(list.span(), "client_cidr", "is empty", "write networks, or leave it out for every client");
    }
    let account = account(section, raw, span);
    can_match(section, raw, &conditions, &account, listeners);
    AttributionRule {
        name: section.parsed("name", &raw.name, syntax::name).unwrap_or_default(),
        conditions,
        account,
        endpoint: section.parsed("endpoint", &raw.endpoint, syntax::label),
    }
}

fn listener(section: &mut Section<'_>, raw: &RawRule, listeners: &[Listener]) -> Option<String> {
    let given = raw.listener.as_ref()?;
    let name = given.get_ref();
    if !listeners.iter().any(|listener| listener.name == *name) {
        let action = match suggest::nearest(name, listeners.iter().map(|listener| listener.name.as_str())) {
            Some(near) => format!("did you mean {near:?}?"),
            None => "write the name of a listener".to_string(),
        };
        section.wrong(given.span(), "listener", format!("{name:?} is not the name of a listener"), action);
    }
    Some(name.clone())
}

fn header(section: &mut Section<'_>, raw: &RawRule) -> Option<HeaderCondition> {
    let given = raw.header.as_ref()?;
    let header = given.get_ref();
    let section = &mut section.check.section(format!("{}.header", section.at));
    if header.name.is_none() {
        section.missing(given.span(), "name", "write header = { name = \"…\" }");
    }
    let name = section.parsed("name", &header.name, syntax::header_name)?;
    Some(HeaderCondition { name, value: header.value.as_ref().map(|value| value.get_ref().clone()) })
}

fn account(section: &mut Section<'_>, raw: &RawRule, span: Range<usize>) -> AccountSource {
    let nobody = AccountSource::Fixed(String::new());
    let from = match (&raw.account, &raw.account_from) {
        (Some(_), None) => {
            return section.parsed("account", &raw.account, syntax::label).map_or(nobody, AccountSource::Fixed);
        }
        (None, Some(from)) => from,
        (None, None) => {
            section.missing(span, "account", "write account = \"…\" or account_from = \"host\"");
            return nobody;
        }
        (Some(_), Some(from)) => {
            section.wrong(from.span(), "account_from", "is beside account", "leave one of them out");
            return nobody;
        }
    };
    let source = match from.get_ref() {
        toml::Value::String(word) => match word.as_str() {
            "tls_subject" => Some(AccountSource::TlsSubject),
            "sni" => Some(AccountSource::Sni),
            "host" => Some(AccountSource::Host),
            _ => None,
        },
        toml::Value::Table(table) if table.len() == 1 => match table.get("header").and_then(toml::Value::as_str) {
            Some(header) => match syntax::header_name(header) {
                Ok(name) => Some(AccountSource::Header(name)),
                Err((what, action)) => {
                    section.wrong(from.span(), "account_from.header", what, action);
                    return nobody;
                }
            },
            None => None,
        },
        _ => None,
    };
    source.unwrap_or_else(|| {
        let action = "write \"tls_subject\", \"sni\", \"host\" or { header = \"x-account\" }";
        section.wrong(from.span(), "account_from", format!("{} is not known", from.get_ref()), action);
        nobody
    })
}

/// A rule that looks at what its listener never has would never match: a customer billed as `unattributed`.
fn can_match(
    section: &mut Section<'_>,
    raw: &RawRule,
    conditions: &Conditions,
    account: &AccountSource,
    listeners: &[Listener],
) {
    let meant = |listener: &&Listener| conditions.listener.as_ref().is_none_or(|name| *name == listener.name);
    let meant: Vec<&Listener> = listeners.iter().filter(meant).collect();
    if meant.is_empty() {
        return;
    }
    let http = meant.iter().any(|listener| listener.kind == ListenerKind::Http);
    let sni = meant.iter().any(|listener| listener.tls.is_some() || listener.kind == ListenerKind::TlsPassthrough);
    let subject =
        meant.iter().any(|listener| listener.tls.as_ref().is_some_and(|tls| tls.client_auth != ClientAuth::Off));
    let who = if conditions.listener.is_some() { "this listener has not" } else { "no listener has" };
    let from = raw.account_from.as_ref().map(|given| given.span());
    let from = |is: bool| from.clone().filter(|_| is);
    let looked_at = [
        ("host", raw.host.as_ref().map(|given| given.span()), http, "kind = \"http\""),
        ("path_prefix", raw.path_prefix.as_ref().map(|given| given.span()), http, "kind = \"http\""),
        ("header", raw.header.as_ref().map(|given| given.span()), http, "kind = \"http\""),
        ("sni", raw.sni.as_ref().map(|given| given.span()), sni, "tls"),
        ("tls_subject", raw.tls_subject.as_ref().map(|given| given.span()), subject, "tls.client_auth"),
        ("account_from", from(*account == AccountSource::Host), http, "kind = \"http\""),
        ("account_from", from(matches!(account, AccountSource::Header(_))), http, "kind = \"http\""),
        ("account_from", from(*account == AccountSource::Sni), sni, "tls"),
        ("account_from", from(*account == AccountSource::TlsSubject), subject, "tls.client_auth"),
    ];
    for (name, span, there, needed) in looked_at {
        if let (Some(span), false) = (span, there) {
            let what = format!("never matches: it needs {needed}, which {who}");
            section.wrong(span, name, what, "correct the listener or leave this out");
        }
    }
}
