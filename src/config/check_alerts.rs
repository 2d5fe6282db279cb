//! `[alerts]` and `[[budgets]]`.

use std::time::Duration;

use http::Uri;
use toml::Spanned;

use super::alerts::{Alerts, Budget, BudgetPeriod, Webhook};
use super::fields::{Check, Section};
use super::ledger::Meter;
use super::raw::{RawAlerts, RawBudget};
use super::{suggest, syntax};

/// Beyond this a number is not what JSON says it is.
const AMOUNT_MAX: u64 = (1 << 53) - 1;
const PERCENT_MAX: u64 = 1000;

/// Who learns of budgets.
pub(super) fn alerts(section: &mut Section<'_>, raw: &RawAlerts) -> Alerts {
    let uri = section.parsed("webhook", &raw.webhook, webhook);
    if let (Some(given), None) = (&raw.webhook, &raw.secret) {
        section.missing(given.span(), "secret", "write the file of the secret that alerts are signed with");
    }
    if let (None, Some(given)) = (&raw.webhook, &raw.secret) {
        section.missing(given.span(), "webhook", "write the address that alerts go to");
    }
    let secret = raw.secret.as_ref().map(|given| section.path("secret", given));
    Alerts {
        webhook: uri.zip(secret).map(|(uri, secret)| Webhook { uri, secret }),
        look_interval: section.milliseconds("look_interval_ms", &raw.look_interval_ms, 30_000, 100..=3_600_000),
        retry_first: section.milliseconds("retry_first_ms", &raw.retry_first_ms, 5_000, 10..=3_600_000),
        give_up: Duration::from_secs(section.number("give_up_s", &raw.give_up_s, 259_200, 60..=2_592_000)),
    }
}

fn webhook(text: &str) -> Result<Uri, (String, String)> {
    let wrong = || ("is no address of a webhook".to_owned(), "write it like https://hooks.example.com/weir".to_owned());
    let uri: Uri = text.parse().map_err(|_| wrong())?;
    let good = matches!(uri.scheme_str(), Some("http" | "https"))
        && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'));
    good.then_some(uri).ok_or_else(wrong)
}

/// What may be used.
pub(super) fn budgets(check: &mut Check, raw: &[Spanned<RawBudget>], meters: &[Meter]) -> Vec<Budget> {
    let mut budgets = Vec::new();
    for given in raw {
        let (raw, mut section) = (given.get_ref(), check.section("budgets"));
        for (name, is_missing) in
            [("account", raw.account.is_none()), ("meter", raw.meter.is_none()), ("amount", raw.amount.is_none())]
        {
            if is_missing {
                section.missing(given.span(), name, &format!("write {name} = …"));
            }
        }
        let meter = section.parsed("meter", &raw.meter, |text| known(text, meters));
        let amount = section.number("amount", &raw.amount, 0, 1..=AMOUNT_MAX);
        let periods = [("month", BudgetPeriod::Month), ("day", BudgetPeriod::Day)];
        let period = section.choice("period", &raw.period, BudgetPeriod::Month, &periods);
        let mut thresholds = vec![50, 80, 100];
        if let Some(given) = &raw.thresholds_percent {
            if let Some(wrong) = given.get_ref().iter().find(|percent| !(1..=PERCENT_MAX).contains(percent)) {
                let what = format!("{wrong} is no threshold");
                section.wrong(given.span(), "thresholds_percent", what, format!("write 1 to {PERCENT_MAX}"));
            }
            thresholds = given.get_ref().iter().filter_map(|percent| i64::try_from(*percent).ok()).collect();
            thresholds.sort_unstable();
            thresholds.dedup();
        }
        if let (Some(account), Some(meter)) = (section.parsed("account", &raw.account, syntax::label), meter) {
            let amount = i64::try_from(amount).unwrap_or(i64::MAX);
            budgets.push(Budget { account, meter, amount, period, thresholds_percent: thresholds });
        }
    }
    budgets
}

fn known(text: &str, meters: &[Meter]) -> Result<String, (String, String)> {
    let names = || meters.iter().map(|meter| meter.name.as_str());
    if names().any(|name| name == text) {
        return Ok(text.to_owned());
    }
    let all: Vec<&str> = names().collect();
    let action = match suggest::nearest(text, names()) {
        Some(near) => format!("did you mean \"{near}\"? Known: {}", all.join(", ")),
        None => format!("write one of: {}", all.join(", ")),
    };
    Err((format!("{text:?} is not known"), action))
}
