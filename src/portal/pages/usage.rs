//! Usage: a month or a day of an account, in figures, over time, by what it was, and what was not billed.

use std::sync::Arc;

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use maud::{Markup, html};

use super::super::asked::Asked;
use super::super::figures::{self, Completeness, Line, Question};
use super::super::{Portal, Problem, Viewer};
use super::chart::{Bar, chart, percent, share};
use super::frame::{self, Place, link, trail};
use super::number::{self, Unit, query_time};
use super::{alerts, html};
use crate::clock::{Clock, DAY_US, HOUR_US};
use crate::config::Meter;
use crate::rollup::{Window, month, window_end};
use crate::store::Dimension;

/// Lines of a breakdown; what is more is one.
const LINES_MAX: usize = 8;
/// Months to choose from.
const MONTHS_MAX: usize = 36;

/// What one looks at.
pub(super) struct View {
    pub(super) account: Option<String>,
    pub(super) meter: Meter,
    /// Like `2026-11` or `2026-11-23`.
    pub(super) period: String,
    pub(super) from_us: i64,
    pub(super) to_us: i64,
    pub(super) is_day: bool,
    pub(super) by_hour: bool,
    pub(super) now_us: i64,
}

const PARAMETERS: [&str; 4] = ["account", "meter", "period", "by"];

impl View {
    pub(super) fn of(portal: &Portal, viewer: &Viewer, uri: &Uri) -> Result<Self, Problem> {
        let asked = Asked::of(uri, &PARAMETERS)?;
        let account = viewer.account(asked.text("account"))?;
        let meter = meter(portal, asked.text("meter"))?;
        let now_us = Clock::anchored().now_us();
        let text = asked.text("period");
        let (period, from_us, is_day) = match text {
            None => {
                let (name, from_us) = Window::Month.of(now_us);
                (name, from_us, false)
            }
            Some(text) => {
                let day = || crate::clock::parse_utc(text).filter(|at_us| *at_us >= 0 && text.len() == 10);
                let found =
                    month(text).map(|(from_us, _)| (from_us, false)).or_else(|| day().map(|from_us| (from_us, true)));
                let wrong = || Problem::bad("`period` is neither a month like 2026-11 nor a day like 2026-11-23");
                let (from_us, is_day) = found.ok_or_else(wrong)?;
                (text.to_owned(), from_us, is_day)
            }
        };
        let to_us = window_end(if is_day { Window::Day } else { Window::Month }, from_us);
        let by_hour = is_day || asked.choice("by", &[("hour", true), ("day", false)])?.unwrap_or(false);
        Ok(Self { account, meter, period, from_us, to_us, is_day, by_hour, now_us })
    }

    fn question(&self) -> Question {
        Question { account: self.account.clone(), from_us: self.from_us, to_us: self.to_us, only: Vec::new() }
    }

    /// This page, but for what is named.
    fn link(&self, viewer: &Viewer, changes: &[(&str, &str)]) -> String {
        let now = [
            ("account", self.account.as_deref().filter(|_| viewer.is_operator())),
            ("meter", Some(self.meter.name.as_str())),
            ("period", Some(self.period.as_str())),
            ("by", (self.by_hour && !self.is_day).then_some("hour")),
        ];
        let change = |name: &str| changes.iter().find(|(changed, _)| *changed == name).map(|(_, value)| *value);
        let all = now.map(|(name, value)| (name, change(name).or(value).filter(|value| !value.is_empty())));
        link("/", &all)
    }

    fn title(&self) -> String {
        if self.is_day { number::day(self.from_us) } else { number::month(self.from_us) }
    }
}

/// The meter of this name, else the first.
pub(super) fn meter(portal: &Portal, name: Option<&str>) -> Result<Meter, Problem> {
    let found = match name {
        None => portal.meters.first(),
        Some(name) => portal.meters.iter().find(|meter| meter.name == name),
    };
    found.cloned().ok_or_else(|| {
        let known: Vec<&str> = portal.meters.iter().map(|meter| meter.name.as_str()).collect();
        Problem::bad(format!("there is no such meter; there are {}", known.join(", ")))
    })
}

/// A meter's name for people.
pub(super) fn shown_name(meter: &str) -> String {
    match meter {
        "egress_bytes" => "Sent to clients".to_owned(),
        "ingress_bytes" => "Received from clients".to_owned(),
        "session_seconds" => "Time connected".to_owned(),
        other => {
            let words = other.replace('_', " ");
            let mut characters = words.chars();
            characters.next().map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
        }
    }
}

/// `/`
pub(super) async fn page(State(portal): State<Arc<Portal>>, viewer: Viewer, uri: Uri) -> Result<Response, Problem> {
    let view = View::of(&portal, &viewer, &uri)?;
    let (store, meters, question) = (&portal.store, portal.meters.as_slice(), view.question());
    let one = std::slice::from_ref(&view.meter);
    let totals = figures::totals(store, &question, meters).await?;
    let completeness = figures::completeness(store).await?;
    let window = if view.by_hour { Window::Hour } else { Window::Day };
    let over_time = figures::series(store, &question, one, window).await?;
    let mut breakdowns = Vec::new();
    for (title, dimension) in [
        ("Endpoint", Dimension::Endpoint),
        ("Country", Dimension::Country),
        ("Protocol", Dimension::Protocol),
        ("Status", Dimension::Status),
    ] {
        breakdowns.push((title, figures::breakdown(store, &question, one, dimension).await?));
    }
    let accounts = if viewer.is_operator() {
        figures::breakdown(store, &Question { account: None, ..question.clone() }, one, Dimension::Account).await?
    } else {
        Vec::new()
    };
    let unbilled = figures::unbilled(store, &question, meters).await?;
    let budgets =
        alerts::standings(&portal, view.account.as_deref(), view.from_us.max(view.now_us.min(view.to_us - 1))).await?;
    let months = months(&portal, &view).await?;
    let corrections = corrections(&portal, &view).await?;
    let names = if viewer.is_operator() { store.accounts().await? } else { Vec::new() };
    let whose = view.account.clone().unwrap_or_else(|| "all accounts".to_owned());
    let main = html! {
        @if view.is_day {
            (trail(&[(number::month(view.from_us), view.link(&viewer, &[("period", &view.period[..7])]))], &number::day(view.from_us)))
        }
        div.title {
            div { h1 { "Usage" } p.about { (view.title()) " · " (whose) } }
            (badge(&viewer, &completeness, view.to_us))
        }
        form.choose method="get" action="/" {
            @if viewer.is_operator() {
                label { span { "Account" } select name="account" {
                    option value="" selected[view.account.is_none()] { "All accounts" }
                    @for name in &names { option value=(name) selected[view.account.as_deref() == Some(name)] { (name) } }
                } }
            }
            label { span { "Period" } select name="period" {
                @for (name, from_us) in &months { option value=(name) selected[view.period.starts_with(name.as_str())] { (number::month(*from_us)) } }
            } }
            label { span { "Measured by" } select name="meter" {
                @for meter in meters { option value=(meter.name) selected[meter.name == view.meter.name] { (shown_name(&meter.name)) } }
            } }
            button type="submit" { "Show" }
        }
        section aria-label="Totals" {
            dl.figures {
                @for (meter, total) in meters.iter().zip(&totals) {
                    div.current[meter.name == view.meter.name] {
                        dt { a href=(view.link(&viewer, &[("meter", &meter.name)])) { (shown_name(&meter.name)) } }
                        dd.value { (Unit::of(meter).short(*total)) }
                        @if Unit::of(meter).short(*total) != Unit::of(meter).exact(*total) { dd.exact { (Unit::of(meter).exact(*total)) } }
                        @for standing in budgets.iter().filter(|standing| standing.meter == meter.name && standing.from_us <= view.from_us && standing.to_us >= view.to_us && view.account.is_some()) {
                            dd.budget { (alerts::gauge(standing)) }
                        }
                        dd { a.why href=(why(&viewer, &view, &meter.name)) { "Why this number" span.hidden { ": " (shown_name(&meter.name)) } } }
                    }
                }
            }
        }
        section aria-labelledby="over-time" {
            div.head {
                h2 #over-time { (shown_name(&view.meter.name)) " by " (if view.by_hour { "hour" } else { "day" }) }
                @if !view.is_day {
                    nav.tabs aria-label="Length of a bar" {
                        a href=(view.link(&viewer, &[("by", "")])) aria-current=[(!view.by_hour).then_some("true")] { "Days" }
                        a href=(view.link(&viewer, &[("by", "hour")])) aria-current=[view.by_hour.then_some("true")] { "Hours" }
                    }
                }
            }
            (chart(&format!("{} in {}, by {}", shown_name(&view.meter.name), view.title(), if view.by_hour { "hour" } else { "day" }),
                if view.by_hour { "Hour" } else { "Day" }, Unit::of(&view.meter), &bars(&viewer, &view, &over_time, completeness.until_us)))
        }
        section aria-labelledby="by-what" {
            h2 #by-what { "What it was" }
            div.parts {
                @if view.account.is_none() { (breakdown("Account", &view, &accounts, |name| Some(view.link(&viewer, &[("account", name)])))) }
                @for (title, lines) in &breakdowns { (breakdown(title, &view, lines, |_| None)) }
            }
        }
        section aria-labelledby="not-billed" {
            h2 #not-billed { "Counted and not billed" }
            (not_billed(&portal, &unbilled))
        }
        @if !corrections.is_empty() {
            section aria-labelledby="corrections" {
                h2 #corrections { "Corrections in these figures" }
                table.numbers.cards {
                    thead { tr { th scope="col" { "Correction" } th.n scope="col" { "Amount" } th scope="col" { "By" } th scope="col" { "Why" } } }
                    tbody { @for (correction, amount) in &corrections {
                        tr { th scope="row" { (correction.id) } td.n data-label="Amount" { (Unit::of(&view.meter).exact(*amount)) } td data-label="By" { (correction.actor) } td data-label="Why" { (correction.reason) } }
                    } }
                }
            }
        }
    };
    Ok(html(frame::page(&viewer, Place::Usage, &format!("Usage in {}", view.title()), view.account.as_deref(), main)))
}

fn why(viewer: &Viewer, view: &View, meter: &str) -> String {
    let account = view.account.as_deref().filter(|_| viewer.is_operator());
    let (from, to) = (query_time(view.from_us), query_time(view.to_us));
    link("/why", &[("account", account), ("meter", Some(meter)), ("from", Some(&from)), ("to", Some(&to))])
}

/// Whether everything has come that belongs to the period.
fn badge(viewer: &Viewer, complete: &Completeness, to_us: i64) -> Markup {
    let until = |at_us: i64| html! { "Complete up to " (number::time(at_us)) };
    html! {
        p.badges {
            @if complete.nodes.is_empty() { span.badge.idle { "No record has come yet" } }
            @else {
                @match complete.until_us {
                    Some(at_us) if at_us < to_us => span.badge.good { (until(at_us)) },
                    _ => span.badge.good { "Complete" },
                }
            }
            @if complete.missing_records > 0 {
                span.badge.warn {
                    @let text = format!("{} records are missing", crate::units::grouped(complete.missing_records));
                    @if viewer.is_operator() { a href="/audit" { (text) } } @else { (text) ": they are named and will be counted when they come" }
                }
            }
            @if complete.quarantined > 0 && viewer.is_operator() { span.badge.bad { a href="/audit" { (complete.quarantined) " pieces cannot be read" } } }
        }
    }
}

fn bars(viewer: &Viewer, view: &View, lines: &[Line], until_us: Option<i64>) -> Vec<Bar> {
    let account = view.account.as_deref().filter(|_| viewer.is_operator());
    let bar = |line: &Line| {
        let (name, from_us) = line.window.as_ref()?;
        let end_us = from_us + if view.by_hour { HOUR_US } else { DAY_US };
        let (label, to) = if view.by_hour {
            let label = if view.is_day {
                number::hour(*from_us)
            } else {
                format!("{} {}", number::short_day(*from_us), number::hour(*from_us))
            };
            let (from, to) = (query_time(*from_us), query_time(end_us));
            (label, link("/sessions", &[("account", account), ("from", Some(&from)), ("to", Some(&to))]))
        } else {
            (number::short_day(*from_us), view.link(viewer, &[("period", name)]))
        };
        let is_open = until_us.is_some_and(|until_us| until_us < end_us);
        Some(Bar { label, from_s: from_us / 1_000_000, amount: *line.amounts.first()?, to, is_open })
    };
    lines.iter().filter_map(bar).collect()
}

fn breakdown(title: &str, view: &View, lines: &[Line], to: impl Fn(&str) -> Option<String>) -> Markup {
    let unit = Unit::of(&view.meter);
    let amount = |line: &Line| line.amounts.first().copied().unwrap_or(0);
    let lines: Vec<&Line> = lines.iter().filter(|line| amount(line) != 0).collect();
    let whole: i64 = lines.iter().map(|line| amount(line)).sum();
    let more: i64 = lines.iter().skip(LINES_MAX).map(|line| amount(line)).sum();
    let row = |label: Markup, sum: i64| {
        html! { tr { th scope="row" { (label) (share(sum, whole)) } td.n title=(unit.exact(sum)) { (unit.short(sum)) } td.n.quiet { (percent(sum, whole)) } } }
    };
    html! {
        div.part {
            table {
                caption { (title) }
                thead.hidden { tr { th scope="col" { (title) } th scope="col" { "Amount" } th scope="col" { "Share" } } }
                tbody {
                    @for line in lines.iter().take(LINES_MAX) {
                        @let label = line.labels.first().map_or("", String::as_str);
                        @let name = if label.is_empty() { nameless(title) } else { label };
                        @match to(label) {
                            Some(to) => (row(html! { a href=(to) { (name) } }, amount(line))),
                            None => (row(html! { span { (name) } }, amount(line))),
                        }
                    }
                    @if lines.len() > LINES_MAX { (row(html! { span.quiet { (lines.len() - LINES_MAX) " more" } }, more)) }
                    @if lines.is_empty() { tr { td.quiet { "Nothing yet" } } }
                }
            }
        }
    }
}

/// What stands where a record says nothing.
fn nameless(title: &str) -> &'static str {
    match title {
        "Country" => "Unknown",
        "Status" => "Without status",
        _ => "None",
    }
}

fn not_billed(portal: &Portal, lines: &[Line]) -> Markup {
    let lines: Vec<&Line> = lines.iter().filter(|line| line.amounts.iter().any(|amount| *amount != 0)).collect();
    if lines.is_empty() {
        return html! { p.quiet { "Everything that was counted in this time is billed." } };
    }
    html! {
        table.numbers.cards {
            thead { tr { th scope="col" { "Reason" } @for meter in &portal.meters { th.n scope="col" { (shown_name(&meter.name)) } } } }
            tbody {
                @for line in lines {
                    @let reason = line.labels.first().map_or("", String::as_str);
                    tr {
                        th scope="row" { (shown_name(reason)) span.note { (explained(reason)) } }
                        @for (meter, amount) in portal.meters.iter().zip(&line.amounts) {
                            td.n data-label=(shown_name(&meter.name)) title=(Unit::of(meter).exact(*amount)) { (Unit::of(meter).short(*amount)) }
                        }
                    }
                }
            }
        }
    }
}

/// Why something with this reason is not billed.
pub(super) fn explained(reason: &str) -> &'static str {
    match reason {
        "health_check" => "Checks that the platform makes itself",
        "platform_error" => "The platform failed, not your origin",
        "limited" => "A limit refused or cut it",
        "bad_request" => "Refused as malformed: it never reached your origin",
        "retry" => "Sent again by the platform",
        "no_request" => "Connections without a request, such as scans",
        "screened" => "Refused by a rule about where it came from",
        "unitemised" => "Of sessions of which not every request has a record",
        "gap" => "Stated as a sum alone",
        _ => "",
    }
}

/// Months with usage, and this one, the latest first.
async fn months(portal: &Portal, view: &View) -> Result<Vec<(String, i64)>, Problem> {
    let question = Question { account: view.account.clone(), from_us: i64::MIN, to_us: i64::MAX, only: Vec::new() };
    let lines =
        figures::usage(&portal.store, &question, std::slice::from_ref(&view.meter), &[], Some(Window::Month)).await?;
    let mut months: Vec<(String, i64)> = lines.into_iter().filter_map(|line| line.window).collect();
    for at_us in [view.now_us, view.from_us] {
        let month = Window::Month.of(at_us);
        if !months.contains(&month) {
            months.push(month);
        }
    }
    months.sort_by_key(|(_, from_us)| std::cmp::Reverse(*from_us));
    months.truncate(MONTHS_MAX);
    Ok(months)
}

/// What corrections brought to the figure.
async fn corrections(portal: &Portal, view: &View) -> Result<Vec<(crate::store::Correction, i64)>, Problem> {
    let all = portal.store.corrections().await?;
    if all.is_empty() {
        return Ok(Vec::new());
    }
    let filter = crate::store::Filter { account: view.account.clone(), from_us: view.from_us, to_us: view.to_us };
    let usage = portal.store.corrected_usage(&filter).await?;
    let sum = |id: &str| -> i64 {
        let rows = usage.iter().filter(|(series, ..)| series.correction == id);
        let sum = rows.map(|(series, _, sums)| crate::rollup::amount(&view.meter, series, sums)).sum();
        crate::rollup::shown(&view.meter, sum)
    };
    let amounts =
        all.into_iter().filter(|correction| usage.iter().any(|(series, ..)| series.correction == correction.id));
    Ok(amounts.map(|correction| (sum(&correction.id), correction)).map(|(sum, correction)| (correction, sum)).collect())
}
