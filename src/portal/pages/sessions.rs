//! Sessions and requests, newest first, page by page.

use std::sync::Arc;

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use maud::{Markup, html};

use super::super::asked::{Asked, cursor};
use super::super::details::{PARAMETERS, Wanted};
use super::super::{Portal, Problem, Viewer};
use super::frame::{self, Place as Here, link, trail};
use super::html;
use super::number::{self, Unit, duration, exact, query_time};
use super::record;
use super::usage::{explained, shown_name};
use crate::clock::{Clock, HOUR_US, utc_text};
use crate::event::{End, Kind, Phase, UsageRecord};
use crate::ids::hex;
use crate::store::{Page, Place, Search};

/// Rows of a page.
const ROWS_MAX: usize = 50;
/// Open sessions that are shown.
const OPEN_MAX: usize = 25;

/// What is asked for: whose, when, and what else.
struct Query {
    account: Option<String>,
    from_us: Option<i64>,
    to_us: Option<i64>,
    wanted: Wanted,
    page: Option<(i64, String)>,
    /// As it came, but for the page.
    parameters: Vec<(&'static str, String)>,
}

impl Query {
    fn of(viewer: &Viewer, uri: &Uri) -> Result<Self, Problem> {
        let known: Vec<&'static str> = ["account", "from", "to", "cursor"].into_iter().chain(PARAMETERS).collect();
        let asked = Asked::of(uri, &known)?;
        let given = known.iter().filter(|name| **name != "cursor");
        let parameters = given.filter_map(|name| Some((*name, asked.text(name)?.to_owned()))).collect();
        Ok(Self {
            account: viewer.account(asked.text("account"))?,
            from_us: asked.time("from")?,
            to_us: asked.time("to")?,
            wanted: Wanted::of(&asked)?,
            page: asked.cursor()?,
            parameters,
        })
    }

    fn search(&self, kind: Kind) -> Result<Search, Problem> {
        let key = |key: &str| crate::ids::unhex(key.as_bytes()).and_then(|key| <[u8; 16]>::try_from(key).ok());
        let before = match &self.page {
            None => Place::before(self.to_us.unwrap_or(i64::MAX)),
            Some((at_us, text)) => {
                let wrong = || Problem::bad("`cursor` is none: follow the link of the page before");
                Place { at_us: *at_us, key: key(text).ok_or_else(wrong)? }
            }
        };
        let from_us = self.from_us.or(self.wanted.begun_us()).unwrap_or(0);
        Ok(Search { account: self.account.clone(), kind, from_us, before, rows_max: ROWS_MAX })
    }

    fn link(&self, path: &str, more: &[(&str, Option<&str>)]) -> String {
        let mut all: Vec<(&str, Option<&str>)> =
            self.parameters.iter().map(|(name, value)| (*name, Some(value.as_str()))).collect();
        all.retain(|(name, _)| more.iter().all(|(changed, _)| changed != name));
        all.extend_from_slice(more);
        link(path, &all)
    }

    fn older(&self, path: &str, page: &Page) -> Option<String> {
        let next = page.next?;
        let cursor = cursor(&(next.at_us, hex(&next.key)))?;
        Some(self.link(path, &[("cursor", Some(&cursor))]))
    }

    fn about(&self) -> Markup {
        html! {
            (self.account.as_deref().unwrap_or("all accounts"))
            @match (self.from_us, self.to_us) {
                (Some(from_us), Some(to_us)) => { " · " (number::time(from_us)) " to " (number::time(to_us)) },
                (Some(from_us), None) => { " · since " (number::time(from_us)) },
                (None, Some(to_us)) => { " · before " (number::time(to_us)) },
                (None, None) => {},
            }
        }
    }

    fn trail(&self, here: &str) -> Markup {
        let account =
            ("account", self.parameters.iter().find(|(name, _)| *name == "account").map(|(_, value)| value.as_str()));
        let Some(from_us) = self.from_us else { return html! {} };
        let text = utc_text(from_us);
        let steps = [
            (number::month(from_us), link("/", &[account, ("period", Some(&text[..7]))])),
            (number::day(from_us), link("/", &[account, ("period", Some(&text[..10]))])),
        ];
        trail(&steps, here)
    }
}

/// `/sessions`
pub(super) async fn sessions(State(portal): State<Arc<Portal>>, viewer: Viewer, uri: Uri) -> Result<Response, Problem> {
    let query = Query::of(&viewer, &uri)?;
    let is_first = query.page.is_none();
    let now_us = Clock::anchored().now_us();
    let open = if is_first && query.to_us.is_none_or(|to_us| to_us > now_us) {
        // Whatever is open was heard of within the hour.
        let from_us = query.from_us.unwrap_or(0).max(now_us - HOUR_US);
        let search =
            Search { from_us, before: Place::before(i64::MAX), rows_max: OPEN_MAX, ..query.search(Kind::Session)? };
        portal.store.search(&search, |record| record.phase() != Phase::Close && query.wanted.takes(record)).await?
    } else {
        Page::default()
    };
    let search = query.search(Kind::Session)?;
    let past =
        portal.store.search(&search, |record| record.phase() == Phase::Close && query.wanted.takes(record)).await?;
    let main = html! {
        (query.trail(&query.from_us.map_or_else(|| "Sessions".to_owned(), number::hour)))
        div.title { div { h1 { "Sessions" } p.about { (query.about()) } } p.badges { a.badge.idle href=(query.link("/requests", &[])) { "Show requests" } } }
        (filter("/sessions", &viewer, &query, &["host", "session"]))
        @if !open.records.is_empty() {
            section aria-labelledby="open" {
                h2 #open { "Open now" span.live aria-hidden="true" {} }
                (session_table(&query, &open.records))
            }
        }
        section aria-labelledby="past" {
            h2 #past { "Ended" }
            @if past.records.is_empty() { (nothing("No session ended in this time.")) p { a href=(query.link("/requests", &[])) { "Look for requests" } ": a connection that several accounts share is the listener's." } } @else { (session_table(&query, &past.records)) }
            (pages(query.older("/sessions", &past), query.page.is_some().then(|| query.link("/sessions", &[]))))
        }
    };
    Ok(html(frame::page(&viewer, Here::Sessions, "Sessions", query.account.as_deref(), main)))
}

fn session_table(query: &Query, records: &[UsageRecord]) -> Markup {
    let is_all = query.account.is_none();
    html! {
        table.numbers.cards {
            thead { tr {
                th scope="col" { "Began" } @if is_all { th scope="col" { "Account" } } th scope="col" { "Client" } th scope="col" { "Reached" }
                th.n scope="col" { "Requests" } th.n scope="col" { "Received" } th.n scope="col" { "Sent" } th.n scope="col" { "Lasted" } th scope="col" { "End" }
            } }
            tbody { @for record in records {
                @let total = record.totals();
                tr {
                    th scope="row" { a href=(record::link_to(query.account_parameter(), record)) { (number::time(record.started_at)) } }
                    @if is_all { td data-label="Account" { (record.account) } }
                    td data-label="Client" { (client(record)) }
                    td data-label="Reached" { (record.endpoint) " " span.quiet { (record.protocol) } }
                    td.n data-label="Requests" {
                        @if record.requests > 0 { a href=(query.link("/requests", &[("session", Some(&hex(&record.session_id))), ("from", None), ("to", None)])) { (exact(record.requests)) span.hidden { " requests of this session" } } }
                        @else { "0" }
                    }
                    td.n data-label="Received" title=(Unit::Bytes.exact(signed(total.received_wire))) { (Unit::Bytes.short(signed(total.received_wire))) }
                    td.n data-label="Sent" title=(Unit::Bytes.exact(signed(total.sent_acked))) { (Unit::Bytes.short(signed(total.sent_acked))) }
                    td.n data-label="Lasted" { (lasted(record)) }
                    td data-label="End" { (end(record)) }
                }
            } }
        }
    }
}

/// `/requests`
pub(super) async fn requests(State(portal): State<Arc<Portal>>, viewer: Viewer, uri: Uri) -> Result<Response, Problem> {
    let query = Query::of(&viewer, &uri)?;
    let page = portal.store.search(&query.search(Kind::Request)?, |record| query.wanted.takes(record)).await?;
    let is_all = query.account.is_none();
    let main = html! {
        (query.trail("Requests"))
        div.title { div { h1 { "Requests" } p.about { (query.about()) @if let Some(session) = query.wanted.session { " · of session " code { (hex(&session)) } } } }
            p.badges { a.badge.idle href=(query.link("/sessions", &[("session", None), ("host", None)])) { "Show sessions" } } }
        (filter("/requests", &viewer, &query, &[]))
        section aria-label="Requests" {
            @if page.records.is_empty() { (nothing("No request ended in this time.")) }
            @else {
                table.numbers.cards {
                    thead { tr {
                        th scope="col" { "Ended" } @if is_all { th scope="col" { "Account" } } th scope="col" { "Request" } th.n scope="col" { "Status" }
                        th.n scope="col" { "Received" } th.n scope="col" { "Sent" } th.n scope="col" { "Took" } th scope="col" { "Billed" }
                    } }
                    tbody { @for record in &page.records {
                        @let total = record.totals();
                        tr {
                            th scope="row" { a href=(record::link_to(query.account_parameter(), record)) { (number::time(record.at)) } }
                            @if is_all { td data-label="Account" { (record.account) } }
                            td.long data-label="Request" { (request(record)) }
                            td.n data-label="Status" { @if record.status == 0 { "–" } @else { (record.status) } }
                            td.n data-label="Received" title=(Unit::Bytes.exact(signed(total.received_app))) { (Unit::Bytes.short(signed(total.received_app))) }
                            td.n data-label="Sent" title=(Unit::Bytes.exact(signed(total.sent_acked))) { (Unit::Bytes.short(signed(total.sent_acked))) }
                            td.n data-label="Took" { (lasted(record)) }
                            td data-label="Billed" { (billed(record)) }
                        }
                    } }
                }
            }
            (pages(query.older("/requests", &page), query.page.is_some().then(|| query.link("/requests", &[]))))
        }
    };
    Ok(html(frame::page(&viewer, Here::Sessions, "Requests", query.account.as_deref(), main)))
}

impl Query {
    fn account_parameter(&self) -> Option<&str> {
        self.parameters.iter().find(|(name, _)| *name == "account").map(|(_, value)| value.as_str())
    }
}

/// A form that narrows what is shown.
fn filter(path: &str, viewer: &Viewer, query: &Query, without: &[&str]) -> Markup {
    let value =
        |name: &str| query.parameters.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value.as_str());
    let fields = [
        ("from", "From (UTC)", "2026-11-23T14:00:00Z"),
        ("to", "To (UTC)", "2026-11-23T15:00:00Z"),
        ("endpoint", "Endpoint", "web"),
        ("host", "Host", "api.example.com"),
        ("status", "Status", "404 or 5xx"),
        ("client_ip", "Client", "192.0.2.0/24"),
    ];
    let is_sessions = path == "/sessions";
    let is_left_out = |name: &str| without.contains(&name) || (is_sessions && name == "status");
    let fields = fields.into_iter().filter(|(name, ..)| !is_left_out(name));
    html! {
        details.filter open[query.parameters.iter().any(|(name, _)| !["account", "from", "to", "session"].contains(name))] {
            summary { "Narrow it down" }
            form.choose method="get" action=(path) {
                @if viewer.is_operator() { label { span { "Account" } input name="account" value=(value("account")) autocomplete="off"; } }
                @for (name, title, example) in fields { label { span { (title) } input name=(name) value=(value(name)) placeholder=(example) autocomplete="off"; } }
                @if !value("session").is_empty() { input type="hidden" name="session" value=(value("session")); }
                button type="submit" { "Show" }
            }
        }
    }
}

fn pages(older: Option<String>, newest: Option<String>) -> Markup {
    html! {
        @if older.is_some() || newest.is_some() {
            nav.pages aria-label="Pages of the list" {
                @if let Some(newest) = newest { a.button.plain href=(newest) { "Newest" } }
                @if let Some(older) = older { a.button href=(older) rel="next" { "Older" } }
            }
        }
    }
}

fn nothing(what: &str) -> Markup {
    html! { div.empty { p { strong { (what) } } p { "Single records are kept for a while only; sums stay for ever." } } }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// The address as the record has it, and the country.
pub(super) fn client(record: &UsageRecord) -> Markup {
    let address = record::address(&record.client_ip);
    html! {
        @match address { Some(address) => { (address) }, None => { span.quiet { "not kept" } } }
        @if !record.country.is_empty() { " " span.quiet { (record.country) } }
    }
}

/// How long it was, or has been, open.
pub(super) fn lasted(record: &UsageRecord) -> String {
    let us = (record.at - record.started_at).max(0);
    match us {
        ..1_000_000 => format!("{} ms", us / 1000),
        _ => duration(us / 1_000_000),
    }
}

/// Method, host and path.
pub(super) fn request(record: &UsageRecord) -> Markup {
    html! {
        @if record.folded > 0 { (exact(record.folded)) " requests summed up" }
        @else { span.quiet { (record.method) } " " (record.host) wbr; (record.path) }
    }
}

fn end(record: &UsageRecord) -> Markup {
    html! {
        @if record.phase() != Phase::Close { span.badge.good { "Open" } }
        @else {
            @match record.end() {
                End::Done => { "Done" },
                other => { span.badge.warn { (shown_name(other.name())) } },
            }
        }
        @if !record.billable { " " span.note { (not_billed(record)) } }
    }
}

fn billed(record: &UsageRecord) -> Markup {
    html! { @if record.billable { "Yes" } @else { "No" span.note { (not_billed(record)) } } }
}

fn not_billed(record: &UsageRecord) -> String {
    let reason = record.reason().name();
    format!("{}: {}", shown_name(reason), explained(reason))
}

/// The hour that a time lies in, as parameters.
pub(super) fn hour_parameters(at_us: i64) -> (String, String) {
    let from_us = crate::clock::hour_of(at_us);
    (query_time(from_us), query_time(from_us + HOUR_US))
}
