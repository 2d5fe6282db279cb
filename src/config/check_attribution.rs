//! `[[attribution]]` and `[[account_tables]]`: rules that can match, with one source of the account each.

use std::ops::Range;

use toml::Spanned;

use super::fields::{Check, Section};
use super::raw::{RawAccountTable, RawRule};
use super::{
    AccountSource, AccountTable, AttributionRule, ClientAuth, Conditions, HeaderCondition, Listener, ListenerKind,
    ProxyProtocolIn, TableKind, TextSource, suggest, syntax,
};

/// What is wrong, what to do.
type Wrong = (String, String);

/// Types of fields that are for applications to define (PROXY protocol §2.2).
const PROXY_FIELD_MIN: u8 = 0xE0;

/// The tables in the file's order.
pub(super) fn tables(check: &mut Check, raw: &[Spanned<RawAccountTable>]) -> Vec<AccountTable> {
    let mut tables: Vec<AccountTable> = Vec::new();
    for (index, given) in raw.iter().enumerate() {
        let raw = given.get_ref();
        let name = raw.name.as_ref();
        let at = name.map_or(format!("account_tables[{index}]"), |name| format!("account_tables.{}", name.get_ref()));
        let section = &mut check.section(at);
        if name.is_none() {
            section.missing(given.span(), "name", "write name = \"…\"; rules say which table they mean");
        }
        if let Some(name) = name
            && tables.iter().any(|other| other.name == *name.get_ref())
        {
            section.wrong(name.span(), "name", "is used twice", "give each table a name of its own");
        }
        let kinds = [("names", TableKind::Names), ("keys", TableKind::Keys)];
        let kind = section.choice("kind", &raw.kind, TableKind::Names, &kinds);
        if raw.file.is_none() {
            section.missing(given.span(), "file", "write file = \"…\", a CSV file of accounts");
        }
        match (&raw.hash_key, kind) {
            (None, TableKind::Keys) => {
                section.missing(given.span(), "hash_key", "write hash_key = \"…\", the file that keys are hashed with");
            }
            (Some(given), TableKind::Names) => {
                section.wrong(given.span(), "hash_key", "is for kind = \"keys\"", "leave it out");
            }
            _ => {}
        }
        tables.push(AccountTable {
            name: section.parsed("name", &raw.name, syntax::name).unwrap_or_default(),
            kind,
            file: raw.file.as_ref().map(|file| section.path("file", file)).unwrap_or_default(),
            secret: raw.hash_key.as_ref().map(|file| section.path("hash_key", file)),
        });
    }
    tables
}

/// The rules in the file's order.
pub(super) fn rules(
    check: &mut Check,
    raw: &[Spanned<RawRule>],
    listeners: &[Listener],
    tables: &[AccountTable],
) -> Vec<AttributionRule> {
    let mut rules: Vec<AttributionRule> = Vec::new();
    for (index, given) in raw.iter().enumerate() {
        let name = given.get_ref().name.as_ref();
        let at = name.map_or(format!("attribution[{index}]"), |name| format!("attribution.{}", name.get_ref()));
        let mut section = check.section(at);
        let rule = rule(&mut section, given.get_ref(), given.span(), listeners, tables);
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

fn rule(
    section: &mut Section<'_>,
    raw: &RawRule,
    span: Range<usize>,
    listeners: &[Listener],
    tables: &[AccountTable],
) -> AttributionRule {
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
        tls_san: section.parsed("tls_san", &raw.tls_san, syntax::not_empty),
        header: header(section, raw),
    };
    if let Some(list) = &raw.client_cidr
        && list.get_ref().is_empty()
    {
        section.wrong(list.span(), "client_cidr", "is empty", "write networks, or leave it out for every client");
    }
    let account = account(section, raw, span, tables);
    can_match(section, raw, &conditions, &account, listeners, tables);
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

fn account(section: &mut Section<'_>, raw: &RawRule, span: Range<usize>, tables: &[AccountTable]) -> AccountSource {
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
    account_source(from.get_ref(), tables).unwrap_or_else(|(what, action)| {
        section.wrong(from.span(), "account_from", what, action);
        nobody
    })
}

fn account_source(from: &toml::Value, tables: &[AccountTable]) -> Result<AccountSource, Wrong> {
    if from.as_str() == Some("client_cidr") {
        return Ok(AccountSource::Networks);
    }
    let (Some(table), true) = (from.get("table"), from.as_table().is_some_and(|keys| keys.len() == 2)) else {
        return text_source(from).map(AccountSource::Text);
    };
    let name = table.as_str().unwrap_or_default();
    if !tables.iter().any(|table| table.name == name) {
        let action = match suggest::nearest(name, tables.iter().map(|table| table.name.as_str())) {
            Some(near) => format!("did you mean {near:?}?"),
            None => "add it to [[account_tables]]".to_string(),
        };
        return Err((format!("{table} is not the name of a table"), action));
    }
    let Some(by) = from.get("by") else {
        return Err(("by is missing".to_string(), "write { table = \"…\", by = \"host\" }".to_string()));
    };
    Ok(AccountSource::Table { table: name.to_string(), by: text_source(by)? })
}

fn text_source(from: &toml::Value) -> Result<TextSource, Wrong> {
    let only = |key: &str| from.as_table().filter(|table| table.len() == 1).and_then(|table| table.get(key));
    match from.as_str() {
        Some("tls_subject") => return Ok(TextSource::TlsSubject),
        Some("tls_san") => return Ok(TextSource::TlsSan),
        Some("sni") => return Ok(TextSource::Sni),
        Some("host") => return Ok(TextSource::Host),
        _ => {}
    }
    if let Some(header) = only("header").and_then(toml::Value::as_str) {
        return syntax::header_name(header).map(TextSource::Header);
    }
    if let Some(kind) = only("proxy_field").and_then(toml::Value::as_integer)
        && let Ok(kind) = u8::try_from(kind)
        && kind >= PROXY_FIELD_MIN
    {
        return Ok(TextSource::ProxyField(kind));
    }
    let action = "write \"host\", \"sni\", \"tls_subject\", \"tls_san\", \"client_cidr\", { header = \"x-account\" }, \
                  { proxy_field = 224 } or { table = \"…\", by = \"host\" }";
    Err((format!("{from} is not known"), action.to_string()))
}

/// A rule that looks at what its listener never has would never match: a customer billed as `unattributed`.
fn can_match(
    section: &mut Section<'_>,
    raw: &RawRule,
    conditions: &Conditions,
    account: &AccountSource,
    listeners: &[Listener],
    tables: &[AccountTable],
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
    let trusting = meant.iter().any(|listener| !listener.trusted_proxies.is_empty());
    let fields = meant
        .iter()
        .any(|listener| listener.proxy_protocol != ProxyProtocolIn::Off && !listener.trusted_proxies.is_empty());
    let who = if conditions.listener.is_some() { "this listener has not" } else { "no listener has" };
    let place = |given: Option<Range<usize>>, is: bool| given.filter(|_| is);
    let from = raw.account_from.as_ref().map(|given| given.span());
    // A key in a table of keys proves itself; whatever else a client says is believed from trusted peers only.
    let (by, is_key) = match account {
        AccountSource::Text(by) => (Some(by), false),
        AccountSource::Table { table, by } => {
            (Some(by), tables.iter().any(|known| known.name == *table && known.kind == TableKind::Keys))
        }
        AccountSource::Fixed(_) | AccountSource::Networks => (None, false),
    };
    let from_header = matches!(by, Some(TextSource::Header(_)));
    let header = raw.header.as_ref().map(|given| given.span());
    let looked_at = [
        ("host", raw.host.as_ref().map(|given| given.span()), http, "kind = \"http\""),
        ("path_prefix", raw.path_prefix.as_ref().map(|given| given.span()), http, "kind = \"http\""),
        ("header", header.clone(), http, "kind = \"http\""),
        ("header", place(header, http), trusting, "trusted_proxies"),
        ("sni", raw.sni.as_ref().map(|given| given.span()), sni, "tls"),
        ("tls_subject", raw.tls_subject.as_ref().map(|given| given.span()), subject, "tls.client_auth"),
        ("tls_san", raw.tls_san.as_ref().map(|given| given.span()), subject, "tls.client_auth"),
        ("account_from", place(from.clone(), by == Some(&TextSource::Host)), http, "kind = \"http\""),
        ("account_from", place(from.clone(), from_header), http, "kind = \"http\""),
        ("account_from", place(from.clone(), from_header && http && !is_key), trusting, "trusted_proxies"),
        ("account_from", place(from.clone(), by == Some(&TextSource::Sni)), sni, "tls"),
        (
            "account_from",
            place(from.clone(), matches!(by, Some(TextSource::TlsSubject | TextSource::TlsSan))),
            subject,
            "tls.client_auth",
        ),
        (
            "account_from",
            place(from, matches!(by, Some(TextSource::ProxyField(_)))),
            fields,
            "proxy_protocol and trusted_proxies",
        ),
    ];
    for (name, span, there, needed) in looked_at {
        if let (Some(span), false) = (span, there) {
            let what = format!("never matches: it needs {needed}, which {who}");
            section.wrong(span, name, what, "correct the listener or leave this out");
        }
    }
}
