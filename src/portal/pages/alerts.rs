//! Alerts: budgets, where each stands, and what fired.

use std::sync::Arc;

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use maud::{Markup, html};

use super::super::asked::Asked;
use super::super::{Portal, Problem, Viewer};
use super::frame::{self, Place};
use super::html;
use super::number::{self, Unit};
use super::usage::shown_name;
use crate::alerts::Standing;
use crate::clock::Clock;
use crate::store::{Alert, AlertState};

/// Alerts that are listed.
const LISTED: usize = 100;

/// Where an account, or everybody, stands.
pub(super) async fn standings(portal: &Portal, account: Option<&str>, at_us: i64) -> Result<Vec<Standing>, Problem> {
    Ok(crate::alerts::standings(&portal.store, &portal.budgets, &portal.meters, account, at_us).await?)
}

fn unit(portal: &Portal, meter: &str) -> Unit {
    portal.meters.iter().find(|known| known.name == meter).map_or(Unit::Count, Unit::of)
}

/// How full a budget is, as a picture with words below.
pub(super) fn gauge(standing: &Standing) -> Markup {
    let percent = standing.percent();
    let level = match percent {
        ..80 => "calm",
        80..100 => "near",
        _ => "over",
    };
    html! {
        svg.gauge.(level) viewBox="0 0 100 8" width="100%" height="8" preserveAspectRatio="none" aria-hidden="true" focusable="false" {
            rect.track width="100" height="8" {}
            rect.bar width=(percent.clamp(i64::from(standing.used > 0), 100)) height="8" {}
            @for threshold in standing.thresholds_percent.iter().filter(|percent| **percent < 100) {
                line.mark x1=(threshold) x2=(threshold) y1="0" y2="8" vector-effect="non-scaling-stroke" {}
            }
        }
        span.quiet { (percent) " % of the budget" }
    }
}

/// `/alerts`
pub(super) async fn page(State(portal): State<Arc<Portal>>, viewer: Viewer, uri: Uri) -> Result<Response, Problem> {
    let asked = Asked::of(&uri, &["account"])?;
    let account = viewer.account(asked.text("account"))?;
    let standings = standings(&portal, account.as_deref(), Clock::anchored().now_us()).await?;
    let fired = portal.store.alerts(account.as_deref()).await?;
    let main = html! {
        div.title { div { h1 { "Alerts" } p.about { (account.as_deref().unwrap_or("all accounts")) } } }
        section aria-labelledby="budgets" {
            h2 #budgets { "Budgets" }
            @if standings.is_empty() {
                div.empty {
                    p { strong { "There is no budget." } }
                    p { @if viewer.is_operator() { "Declare one as " code { "[[budgets]]" } " in the configuration: who is to know at which share of how much." } @else { "Ask whoever runs your platform to set one: you are told at 50, 80 and 100 percent of it." } }
                }
            }
            div.parts {
                @for standing in &standings {
                    @let unit = unit(&portal, &standing.meter);
                    div.part.budgeted {
                        h3 { (shown_name(&standing.meter)) }
                        p.about { (if standing.period.len() == 7 { number::month(standing.from_us) } else { number::day(standing.from_us) }) @if account.is_none() { " · " (standing.account) } }
                        p.stand { strong title=(unit.exact(standing.used)) { (unit.short(standing.used)) } span.quiet { " of " (unit.short(standing.budget)) } }
                        (gauge(standing))
                        p.quiet { (unit.exact(standing.used)) " of " (unit.exact(standing.budget)) }
                    }
                }
            }
        }
        section aria-labelledby="fired" {
            h2 #fired { "What fired" }
            @if fired.is_empty() { div.empty { p { "Nothing has fired. Each threshold fires once in a period, and again in the next." } } }
            @else {
                table.numbers.cards {
                    thead { tr { th scope="col" { "When" } @if account.is_none() { th scope="col" { "Account" } } th scope="col" { "What" } th.n scope="col" { "Threshold" } th.n scope="col" { "Used by then" } th scope="col" { "Message" } } }
                    tbody { @for alert in fired.iter().take(LISTED) {
                        @let unit = unit(&portal, &alert.meter);
                        tr {
                            th scope="row" { (number::time(alert.passed_at_us)) }
                            @if account.is_none() { td data-label="Account" { (alert.account) } }
                            td data-label="What" { (shown_name(&alert.meter)) ", " (alert.period) }
                            td.n data-label="Threshold" { (alert.percent) " %" }
                            td.n data-label="Used by then" title=(unit.exact(alert.amount)) { (unit.short(alert.amount)) " of " (unit.short(alert.budget)) }
                            td data-label="Message" { (message(alert, viewer.is_operator())) }
                        }
                    } }
                }
                @if fired.len() > LISTED { p.quiet { "And " (fired.len() - LISTED) " older ones." } }
            }
        }
    };
    Ok(html(frame::page(&viewer, Place::Alerts, "Alerts", account.as_deref(), main)))
}

/// What became of it. What the webhook said is for operators.
fn message(alert: &Alert, is_operator: bool) -> Markup {
    html! {
        @match alert.state {
            AlertState::Delivered => { span.badge.good { "Delivered" } },
            AlertState::Shown => { span.badge.idle { "Shown here" } },
            AlertState::Waiting if alert.attempts == 0 => { span.badge.idle { "On its way" } },
            AlertState::Waiting => { span.badge.warn { "Tried " (alert.attempts) " times" } },
            AlertState::GivenUp => { span.badge.bad { "Not delivered" } },
        }
        @if is_operator && !alert.problem.is_empty() { span.note { (alert.problem) } }
    }
}
