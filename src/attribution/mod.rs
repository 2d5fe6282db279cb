//! Who is billed: the first rule that matches, else the route's account, else the listener's, else `unattributed`.
//!
//! [`Attributor`] is pure: no I/O, no clock. Nothing is ever dropped for want of an owner. An account comes from the rule itself,
//! from a text of the connection or request, or from a table: of names or keys ([`LiveTable`], a CSV file that is followed), or of
//! networks (the caller has looked the address up).
//!
//! *What a client says of itself decides nothing.* A header is believed from trusted peers only, and only theirs are the fields of a
//! PROXY header that get here. From anybody else a header does no more than prove that its sender knows a key: in a table of keys, by its hash.

mod live;
mod read;
mod table;

use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderMap;
use ring::hmac;
use ring::rand::SystemRandom;

use crate::config::{AccountSource, AttributionRule, Conditions, Route, TableKind, TextSource};
use crate::event::UNATTRIBUTED;

pub use live::{LiveTable, Secret};
pub use read::Error;

/// Longest account name taken from traffic, bytes.
pub const ACCOUNT_BYTES_MAX: usize = 128;

/// What the rules look at.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Name of the listener.
    pub listener: &'a str,
    /// Lower case, without port; empty where there is none.
    pub host: &'a str,
    /// Without query; empty where there is none.
    pub path: &'a str,
    /// Server name of TLS, or empty.
    pub sni: &'a str,
    /// Subject of the verified client certificate, or empty.
    pub tls_subject: &'a str,
    /// Its alternative names.
    pub tls_sans: &'a [Box<str>],
    /// Fields of the PROXY header of a trusted peer, by type.
    pub proxy_fields: &'a [(u8, Box<str>)],
    /// The client's address.
    pub client: IpAddr,
    /// Whose that is by the table of networks.
    pub client_account: Option<&'a Arc<str>>,
    /// The version of that table.
    pub networks_version: i64,
    /// Whoever wrote the request's headers is a trusted proxy.
    pub is_trusted: bool,
    /// Now, µs.
    pub at_us: i64,
    /// Request headers, where there is a request.
    pub headers: Option<&'a HeaderMap>,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attribution {
    /// Billed account.
    pub account: Arc<str>,
    /// What was reached.
    pub endpoint: Arc<str>,
    /// The rule that decided: its name, `route`, `listener` or `unattributed`.
    pub rule: Arc<str>,
    /// Of the table that named the account; 0 where none did.
    pub accounts_version: i64,
}

/// The rules and defaults of one listener, ready to use.
#[derive(Debug)]
pub struct Attributor {
    rules: Vec<Rule>,
    routes: Vec<Attribution>,
    fallback: Attribution,
    /// Header values that rules wait for are compared as hashes with a key of this process's own.
    key: hmac::Key,
}

#[derive(Debug)]
struct Rule {
    name: Arc<str>,
    conditions: Conditions,
    /// Hash of the value that the header must have.
    header_hash: Option<hmac::Tag>,
    account: Source,
    endpoint: Option<Arc<str>>,
}

#[derive(Debug)]
enum Source {
    Fixed(Arc<str>),
    Text(TextSource),
    Networks,
    Table(Arc<LiveTable>, TextSource, TableKind),
}

/// Why rules cannot be made ready.
#[derive(Debug, thiserror::Error)]
#[error("no random numbers to hash with")]
pub struct NoRandomness;

impl Attributor {
    /// Of one listener: its routes in order and its own account and endpoint. `tables` are those of the configuration.
    pub fn new(
        rules: &[AttributionRule],
        tables: &[Arc<LiveTable>],
        listener: &str,
        routes: &[Route],
        account: Option<&str>,
        endpoint: Option<&str>,
    ) -> Result<Self, NoRandomness> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).map_err(|_| NoRandomness)?;
        let rules = rules
            .iter()
            .filter(|rule| rule.conditions.listener.as_deref().is_none_or(|name| name == listener))
            .filter_map(|rule| {
                let header = rule.conditions.header.as_ref();
                let value = header.and_then(|header| header.value.as_deref());
                Some(Rule {
                    name: Arc::from(rule.name.as_str()),
                    header_hash: value.map(|value| hmac::sign(&key, value.as_bytes())),
                    conditions: rule.conditions.clone(),
                    account: source(&rule.account, tables)?,
                    endpoint: rule.endpoint.as_deref().map(Arc::from),
                })
            })
            .collect();
        let endpoint = Arc::from(endpoint.unwrap_or(listener));
        let fallback = Attribution {
            account: Arc::from(account.unwrap_or(UNATTRIBUTED)),
            endpoint,
            rule: Arc::from(if account.is_some() { "listener" } else { UNATTRIBUTED }),
            accounts_version: 0,
        };
        let routes = routes
            .iter()
            .map(|route| Attribution {
                account: route.account.as_deref().map_or_else(|| fallback.account.clone(), Arc::from),
                endpoint: route.endpoint.as_deref().map_or_else(|| fallback.endpoint.clone(), Arc::from),
                // A route that says nothing of its own has its listener's account.
                rule: if route.account.as_deref() == account { fallback.rule.clone() } else { Arc::from("route") },
                accounts_version: 0,
            })
            .collect();
        Ok(Self { rules, routes, fallback, key })
    }

    /// Who is billed for something with these facts on this route.
    pub fn attribute(&self, facts: &Facts<'_>, route: Option<usize>) -> Attribution {
        let default = route.and_then(|route| self.routes.get(route)).unwrap_or(&self.fallback);
        for rule in &self.rules {
            if !self.matches(rule, facts) {
                continue;
            }
            // A rule whose source is absent does not match.
            let Some((account, accounts_version)) = account(&rule.account, facts) else { continue };
            let endpoint = rule.endpoint.clone().unwrap_or_else(|| default.endpoint.clone());
            return Attribution { account, endpoint, rule: rule.name.clone(), accounts_version };
        }
        default.clone()
    }

    fn matches(&self, rule: &Rule, facts: &Facts<'_>) -> bool {
        let conditions = &rule.conditions;
        let host = conditions.host.as_ref().is_none_or(|pattern| pattern.matches(facts.host));
        let path =
            conditions.path_prefix.as_deref().is_none_or(|prefix| crate::config::path_has_prefix(facts.path, prefix));
        let sni = conditions.sni.as_ref().is_none_or(|pattern| !facts.sni.is_empty() && pattern.matches(facts.sni));
        let client =
            conditions.client_cidr.is_empty() || conditions.client_cidr.iter().any(|net| net.contains(&facts.client));
        let subject = conditions.tls_subject.as_deref().is_none_or(|subject| subject == facts.tls_subject);
        let san = conditions.tls_san.as_deref().is_none_or(|name| facts.tls_sans.iter().any(|san| **san == *name));
        host && path && sni && client && subject && san && self.header_matches(rule, facts)
    }

    fn header_matches(&self, rule: &Rule, facts: &Facts<'_>) -> bool {
        let Some(wanted) = &rule.conditions.header else { return true };
        if !facts.is_trusted {
            return false;
        }
        let Some(found) = facts.headers.and_then(|headers| headers.get(wanted.name.as_str())) else { return false };
        match &rule.header_hash {
            // In the same time wherever the two differ.
            Some(hash) => hmac::verify(&self.key, found.as_bytes(), hash.as_ref()).is_ok(),
            None => true,
        }
    }
}

/// `None` where the table is not there, which the configuration rules out.
fn source(account: &AccountSource, tables: &[Arc<LiveTable>]) -> Option<Source> {
    Some(match account {
        AccountSource::Fixed(account) => Source::Fixed(Arc::from(account.as_str())),
        AccountSource::Text(text) => Source::Text(text.clone()),
        AccountSource::Networks => Source::Networks,
        AccountSource::Table { table, by } => {
            let table = tables.iter().find(|known| known.name() == table)?;
            Source::Table(table.clone(), by.clone(), table.kind())
        }
    })
}

/// The account, and the version of the table that named it.
fn account(source: &Source, facts: &Facts<'_>) -> Option<(Arc<str>, i64)> {
    match source {
        Source::Fixed(account) => Some((account.clone(), 0)),
        Source::Networks => facts.client_account.map(|account| (account.clone(), facts.networks_version)),
        Source::Text(by) => {
            let text = texts(by, facts, facts.is_trusted).next()?;
            // An account is a short name: it must fit the slot's note beside everything else.
            (!text.is_empty() && text.len() <= ACCOUNT_BYTES_MAX).then(|| (Arc::from(text), 0))
        }
        Source::Table(table, by, kind) => {
            // A key proves itself, whoever brings it.
            let is_believed = facts.is_trusted || *kind == TableKind::Keys;
            let mut found = texts(by, facts, is_believed).filter_map(|text| table.find(text, facts.at_us));
            found.next().map(|found| (found.account, found.version))
        }
    }
}

/// What the connection or request says there: several texts only where a certificate has several names.
fn texts<'a>(by: &TextSource, facts: &Facts<'a>, is_believed: bool) -> impl Iterator<Item = &'a str> + use<'a> {
    let (mut one, mut sans) = (None, [].as_slice());
    match by {
        TextSource::TlsSubject => one = Some(facts.tls_subject),
        TextSource::TlsSan => sans = facts.tls_sans,
        TextSource::Sni => one = Some(facts.sni),
        TextSource::Host => one = Some(facts.host),
        TextSource::Header(name) if is_believed => one = header(facts, name),
        TextSource::ProxyField(kind) => {
            one = facts.proxy_fields.iter().find(|(known, _)| known == kind).map(|(_, text)| &**text);
        }
        TextSource::Header(_) => {}
    }
    one.filter(|text| !text.is_empty()).into_iter().chain(sans.iter().map(|san| &**san))
}

fn header<'a>(facts: &Facts<'a>, name: &str) -> Option<&'a str> {
    let text = facts.headers?.get(name)?.to_str().ok()?;
    // `Authorization: Bearer KEY`
    let scheme_and_key = (name == "authorization").then(|| text.split_once(' ')).flatten();
    Some(scheme_and_key.map_or(text, |(_, key)| key.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{HeaderCondition, HostPattern};

    fn facts<'a>(host: &'a str, headers: &'a HeaderMap) -> Facts<'a> {
        Facts {
            listener: "web",
            host,
            path: "/api/x",
            sni: "",
            tls_subject: "",
            tls_sans: &[],
            proxy_fields: &[],
            client: "10.1.2.3".parse().unwrap(),
            client_account: None,
            networks_version: 0,
            is_trusted: true,
            at_us: 0,
            headers: Some(headers),
        }
    }

    fn rule(name: &str, conditions: Conditions, account: AccountSource) -> AttributionRule {
        AttributionRule { name: name.into(), conditions, account, endpoint: None }
    }

    fn check(rules: &[AttributionRule], account: Option<&str>, facts: &Facts<'_>, expected: (&str, &str)) {
        let found = Attributor::new(rules, &[], "web", &[], account, None).unwrap().attribute(facts, None);
        assert_eq!((&*found.account, &*found.rule), expected);
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let mut headers = HeaderMap::new();
        headers.insert("x-account", "from-header".parse().unwrap());
        let host = |name: &str| Conditions { host: Some(HostPattern::Exact(name.into())), ..Default::default() };
        let by_header = rule(
            "key",
            Conditions {
                header: Some(HeaderCondition { name: "x-account".into(), value: None }),
                ..Default::default()
            },
            AccountSource::Text(TextSource::Header("x-account".into())),
        );
        let a = rule("a", host("a.test"), AccountSource::Fixed("acme".into()));
        check(&[a.clone(), by_header.clone()], None, &facts("a.test", &headers), ("acme", "a"));
        check(&[a.clone(), by_header], None, &facts("b.test", &headers), ("from-header", "key"));
        check(std::slice::from_ref(&a), Some("own"), &facts("b.test", &headers), ("own", "listener"));
        check(&[a], None, &facts("b.test", &headers), (UNATTRIBUTED, UNATTRIBUTED));
        let other = Conditions { listener: Some("other".into()), ..Default::default() };
        check(
            &[rule("o", other, AccountSource::Text(TextSource::Host))],
            None,
            &facts("b.test", &headers),
            (UNATTRIBUTED, UNATTRIBUTED),
        );
        let net = Conditions { client_cidr: vec!["10.0.0.0/8".parse().unwrap()], ..Default::default() };
        check(
            &[rule("n", net, AccountSource::Text(TextSource::Host))],
            None,
            &facts("b.test", &headers),
            ("b.test", "n"),
        );
        check(
            &[rule("s", Conditions::default(), AccountSource::Text(TextSource::Sni))],
            None,
            &facts("b", &headers),
            (UNATTRIBUTED, UNATTRIBUTED),
        );
    }
    #[test]
    fn what_an_untrusted_peer_says_decides_nothing() {
        let mut headers = HeaderMap::new();
        headers.insert("x-account", "victim".parse().unwrap());
        let header = |value: Option<&str>| Conditions {
            header: Some(HeaderCondition { name: "x-account".into(), value: value.map(str::to_owned) }),
            ..Default::default()
        };
        let rules = [
            rule("text", Conditions::default(), AccountSource::Text(TextSource::Header("x-account".into()))),
            rule("value", header(Some("victim")), AccountSource::Fixed("acme".into())),
            rule("presence", header(None), AccountSource::Fixed("acme".into())),
        ];
        for (number, believed) in rules.iter().zip(["victim", "acme", "acme"]) {
            let trusted = facts("a.test", &headers);
            check(std::slice::from_ref(number), None, &trusted, (believed, &number.name));
            let untrusted = Facts { is_trusted: false, ..trusted };
            check(std::slice::from_ref(number), None, &untrusted, (UNATTRIBUTED, UNATTRIBUTED));
        }
        let other = header(Some("somebody"));
        check(
            &[rule("value", other, AccountSource::Fixed("acme".into()))],
            None,
            &facts("", &headers),
            (UNATTRIBUTED, UNATTRIBUTED),
        );
    }

    #[test]
    fn certificates_fields_and_networks_name_accounts() {
        let headers = HeaderMap::new();
        let fields = [(0xE1, Box::from("other")), (0xE0, Box::from("tenant"))];
        let field = [rule("field", Conditions::default(), AccountSource::Text(TextSource::ProxyField(0xE0)))];
        check(&field, None, &Facts { proxy_fields: &fields, ..facts("", &headers) }, ("tenant", "field"));
        let (sans, owner) = ([Box::from("spiffe://acme/a"), Box::from("a.test")], Arc::from("owner"));
        let facts =
            Facts { tls_sans: &sans, client_account: Some(&owner), networks_version: 7, ..facts("a.test", &headers) };
        let san = |name: &str| Conditions { tls_san: Some(name.into()), ..Default::default() };
        let acme = AccountSource::Fixed("acme".into());
        check(
            &[rule("other", san("b.test"), acme.clone()), rule("san", san("a.test"), acme)],
            None,
            &facts,
            ("acme", "san"),
        );
        let first = rule("first", Conditions::default(), AccountSource::Text(TextSource::TlsSan));
        check(&[first], None, &facts, ("spiffe://acme/a", "first"));
        let networks = [rule("net", Conditions::default(), AccountSource::Networks)];
        check(&networks, None, &facts, ("owner", "net"));
        let found = Attributor::new(&networks, &[], "web", &[], None, None).unwrap().attribute(&facts, None);
        assert_eq!(found.accounts_version, 7);
        check(&networks, None, &Facts { client_account: None, ..facts }, (UNATTRIBUTED, UNATTRIBUTED));
    }
}
