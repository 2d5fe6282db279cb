//! Who is billed: the first rule that matches, else the route's account, else the listener's, else `unattributed`.
//!
//! Pure: no I/O, no clock. Nothing is ever dropped for want of an owner.

use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderMap;

use crate::config::{AccountSource, AttributionRule, Conditions, Route};
use crate::event::UNATTRIBUTED;

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
    /// The client's address.
    pub client: IpAddr,
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
}

/// The rules and defaults of one listener, ready to use.
#[derive(Debug)]
pub struct Attributor {
    rules: Vec<Rule>,
    routes: Vec<Attribution>,
    fallback: Attribution,
}

#[derive(Debug)]
struct Rule {
    name: Arc<str>,
    conditions: Conditions,
    account: AccountSource,
    fixed: Option<Arc<str>>,
    endpoint: Option<Arc<str>>,
}

impl Attributor {
    /// Of one listener: its routes in order and its own account and endpoint.
    pub fn new(
        rules: &[AttributionRule],
        listener: &str,
        routes: &[Route],
        account: Option<&str>,
        endpoint: Option<&str>,
    ) -> Self {
        let rules = rules
            .iter()
            .filter(|rule| rule.conditions.listener.as_deref().is_none_or(|name| name == listener))
            .map(|rule| Rule {
                name: Arc::from(rule.name.as_str()),
                conditions: rule.conditions.clone(),
                fixed: match &rule.account {
                    AccountSource::Fixed(account) => Some(Arc::from(account.as_str())),
                    _ => None,
                },
                account: rule.account.clone(),
                endpoint: rule.endpoint.as_deref().map(Arc::from),
            })
            .collect();
        let endpoint = Arc::from(endpoint.unwrap_or(listener));
        let fallback = Attribution {
            account: Arc::from(account.unwrap_or(UNATTRIBUTED)),
            endpoint,
            rule: Arc::from(if account.is_some() { "listener" } else { UNATTRIBUTED }),
        };
        let routes = routes
            .iter()
            .map(|route| Attribution {
                account: route.account.as_deref().map_or_else(|| fallback.account.clone(), Arc::from),
                endpoint: route.endpoint.as_deref().map_or_else(|| fallback.endpoint.clone(), Arc::from),
                // A route that says nothing of its own has its listener's account.
                rule: if route.account.as_deref() == account { fallback.rule.clone() } else { Arc::from("route") },
            })
            .collect();
        Self { rules, routes, fallback }
    }

    /// Who is billed for something with these facts on this route.
    pub fn attribute(&self, facts: &Facts<'_>, route: Option<usize>) -> Attribution {
        let default = route.and_then(|route| self.routes.get(route)).unwrap_or(&self.fallback);
        for rule in &self.rules {
            if !matches(&rule.conditions, facts) {
                continue;
            }
            // A rule whose source is absent does not match.
            let Some(account) = account(rule, facts) else { continue };
            let endpoint = rule.endpoint.clone().unwrap_or_else(|| default.endpoint.clone());
            return Attribution { account, endpoint, rule: rule.name.clone() };
        }
        default.clone()
    }
}

fn matches(conditions: &Conditions, facts: &Facts<'_>) -> bool {
    let host = conditions.host.as_ref().is_none_or(|pattern| pattern.matches(facts.host));
    let path =
        conditions.path_prefix.as_deref().is_none_or(|prefix| crate::config::path_has_prefix(facts.path, prefix));
    let sni = conditions.sni.as_ref().is_none_or(|pattern| !facts.sni.is_empty() && pattern.matches(facts.sni));
    let client =
        conditions.client_cidr.is_empty() || conditions.client_cidr.iter().any(|net| net.contains(&facts.client));
    let subject = conditions.tls_subject.as_deref().is_none_or(|subject| subject == facts.tls_subject);
    let header = conditions.header.as_ref().is_none_or(|wanted| {
        let found = facts.headers.and_then(|headers| headers.get(wanted.name.as_str()));
        match (&wanted.value, found) {
            (Some(value), Some(found)) => found.as_bytes() == value.as_bytes(),
            (None, found) => found.is_some(),
            (Some(_), None) => false,
        }
    });
    host && path && sni && client && subject && header
}

fn account(rule: &Rule, facts: &Facts<'_>) -> Option<Arc<str>> {
    let text = match &rule.account {
        AccountSource::Fixed(_) => return rule.fixed.clone(),
        AccountSource::TlsSubject => facts.tls_subject,
        AccountSource::Sni => facts.sni,
        AccountSource::Host => facts.host,
        AccountSource::Header(name) => facts.headers?.get(name.as_str())?.to_str().ok()?,
    };
    // An account is a short name: it must fit the slot's note beside everything else.
    (!text.is_empty() && text.len() <= ACCOUNT_BYTES_MAX).then(|| Arc::from(text))
}

/// Longest account name taken from traffic, bytes.
pub const ACCOUNT_BYTES_MAX: usize = 128;

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
            client: "10.1.2.3".parse().unwrap(),
            headers: Some(headers),
        }
    }

    fn rule(name: &str, conditions: Conditions, account: AccountSource) -> AttributionRule {
        AttributionRule { name: name.into(), conditions, account, endpoint: None }
    }

    fn check(rules: &[AttributionRule], account: Option<&str>, facts: &Facts<'_>, expected: (&str, &str)) {
        let found = Attributor::new(rules, "web", &[], account, None).attribute(facts, None);
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
            AccountSource::Header("x-account".into()),
        );
        let a = rule("a", host("a.test"), AccountSource::Fixed("acme".into()));
        check(&[a.clone(), by_header.clone()], None, &facts("a.test", &headers), ("acme", "a"));
        check(&[a.clone(), by_header], None, &facts("b.test", &headers), ("from-header", "key"));
        check(std::slice::from_ref(&a), Some("own"), &facts("b.test", &headers), ("own", "listener"));
        check(&[a], None, &facts("b.test", &headers), (UNATTRIBUTED, UNATTRIBUTED));
        let other = Conditions { listener: Some("other".into()), ..Default::default() };
        check(&[rule("o", other, AccountSource::Host)], None, &facts("b.test", &headers), (UNATTRIBUTED, UNATTRIBUTED));
        let net = Conditions { client_cidr: vec!["10.0.0.0/8".parse().unwrap()], ..Default::default() };
        check(&[rule("n", net, AccountSource::Host)], None, &facts("b.test", &headers), ("b.test", "n"));
        check(
            &[rule("s", Conditions::default(), AccountSource::Sni)],
            None,
            &facts("b", &headers),
            (UNATTRIBUTED, UNATTRIBUTED),
        );
    }
}
