//! The archive: a question in SQL and its rows, and the reports.
//!
//! A page shows up to a thousand rows; all of them, and other forms, come as a file. What is asked is asked exactly as by `/v1/query`: with
//! the token's account, the same limits, written down by whom and why.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::Uri;
use axum::response::Response;
use maud::{Markup, html};
use serde_json::Value as Json;

use super::super::asked::Asked;
use super::super::asking::{ask, form, question, report_name};
use super::super::queries::{Question, REPORTS};
use super::super::{Portal, Problem, Viewer};
use super::frame::{self, Place, trail};
use super::html;
use super::number::{Unit, exact};
use crate::clock::utc_text;

/// Rows of a table on a page.
const ROWS_MAX: usize = 1000;
/// Bars of a picture.
const BARS_MAX: usize = 20;
/// A longer text may be broken.
const LONG_BYTES: usize = 40;
/// A page is made of no more than this.
const BYTES_MAX: usize = 32 << 20;
/// To begin with.
const EXAMPLE: &str = "SELECT account, count(*) AS sessions, sum(sent_wire_bytes) AS sent_bytes\nFROM sessions\nGROUP BY account\nORDER BY sent_bytes DESC";

/// `GET /archive`
pub(super) async fn page(viewer: Viewer, uri: Uri) -> Result<Response, Problem> {
    let asked = Asked::of(&uri, &["sql", "account", "from", "to", "purpose"])?;
    viewer.asks(asked.text("account"))?;
    let mut question = question(&asked)?;
    if question.sql.is_empty() {
        question.sql = EXAMPLE.to_owned();
    }
    Ok(html(shown(&viewer, &question, html! {})))
}

/// `POST /archive`
pub(super) async fn answer(
    State(portal): State<Arc<Portal>>,
    viewer: Viewer,
    body: Bytes,
) -> Result<Response, Problem> {
    let mut question = form(&body)?;
    question.format = Some("json".to_owned());
    let answer = match whole(&portal, &viewer, &question).await {
        Ok(answer) => html! {
            section aria-labelledby="answer" {
                h2 #answer { "Answer" }
                (around(&answer))
                (picture(&answer))
                (table(&answer))
            }
        },
        // What is wrong with a question is said beside it, so that it can be mended.
        Err(problem) if problem.status.is_client_error() => html! {
            section aria-label="Answer" { div.empty role="alert" { p { strong { "There is no answer." } } p { (problem.detail) } } }
        },
        Err(problem) => return Err(problem),
    };
    Ok(html(shown(&viewer, &question, answer)))
}

/// `GET /archive/reports/{name}`
pub(super) async fn report(
    State(portal): State<Arc<Portal>>,
    viewer: Viewer,
    Path(name): Path<String>,
    uri: Uri,
) -> Result<Response, Problem> {
    let asked = Asked::of(&uri, &["account", "from", "to", "purpose", "address"])?;
    let mut question = Question { report: report_name(&name)?, ..question(&asked)? };
    question.format = Some("json".to_owned());
    if let Some(address) = asked.text("address") {
        question.parameters.insert("address".to_owned(), address.to_owned());
    }
    let made = match whole(&portal, &viewer, &question).await {
        Ok(made) => html! {
            p.about { (made["about"].as_str().unwrap_or_default()) }
            (around(&made))
            (files(&question))
            @for (name, part) in rows(&made["order"]).iter().filter_map(Json::as_str).map(|name| (name, &made["parts"][name])) {
                section aria-labelledby=(name) { h2 id=(name) { (part["title"].as_str().unwrap_or_default()) } (picture(part)) (table(part)) }
            }
        },
        Err(problem) if problem.status.is_client_error() => html! {
            section aria-label="Report" { div.empty role="alert" { p { strong { "There is no report." } } p { (problem.detail) } } }
        },
        Err(problem) => return Err(problem),
    };
    let title = REPORTS.iter().find(|(known, _)| *known == name).map_or(name.as_str(), |(_, title)| *title);
    let main = html! {
        (trail(&[("Archive".to_owned(), "/archive".to_owned())], title))
        div.title { div { h1 { (title) } } }
        (choice(&viewer, &question))
        (made)
    };
    Ok(html(frame::page(&viewer, Place::Archive, title, None, main)))
}

/// All of an answer, in memory.
async fn whole(portal: &Portal, viewer: &Viewer, question: &Question) -> Result<Json, Problem> {
    let mut answer = ask(portal, viewer, question).await?;
    let too_much = || {
        Problem::new(
            axum::http::StatusCode::UNPROCESSABLE_ENTITY,
            "this is too much for a page: ask for less, or take it as a file",
        )
    };
    if let Some(rest) = &mut answer.rest {
        while let Some(piece) = rest.next().await {
            answer.head.extend(
                piece.map_err(|error| Problem::new(axum::http::StatusCode::UNPROCESSABLE_ENTITY, error.to_string()))?,
            );
            if answer.head.len() > BYTES_MAX {
                return Err(too_much());
            }
        }
    }
    serde_json::from_slice(&answer.head).map_err(|_| too_much())
}

fn shown(viewer: &Viewer, question: &Question, answer: Markup) -> Markup {
    let main = html! {
        div.title { div { h1 { "Archive" } p.about { "Every record, asked in SQL or by name. What is asked, by whom and why is kept." } } }
        section aria-labelledby="reports" {
            h2 #reports { "Reports" }
            ul { @for (name, title) in REPORTS { @if viewer.account.is_none() || !["access", "retention"].contains(&name) { li { a href={ "/archive/reports/" (name) } { (title) } } } } }
        }
        section aria-labelledby="question" {
            h2 #question { "Question" }
            form method="post" action="/archive" {
                label { span.hidden { "SQL" } textarea name="sql" rows="8" spellcheck="false" required { (question.sql) } }
                p.note { "Tables: " code { "requests" } " " code { "sessions" } " " code { "nodes" } " " code { "accounts" } " " code { "screening" } ". Functions: " code { "ip_in(client_ip, '192.0.2.0/24')" } " " code { "ip_prefix(client_ip, 24)" } " " code { "human_bytes(n)" } "." }
                div.choose { (fields(viewer, question))
                    button type="submit" { "Ask" }
                    button.plain type="submit" formaction="/v1/query" name="format" value="csv" { "As CSV" }
                    button.plain type="submit" formaction="/v1/query" name="format" value="json" { "As JSON" }
                    button.plain type="submit" formaction="/v1/query" name="format" value="parquet" { "As Parquet" }
                }
            }
        }
        (answer)
    };
    frame::page(viewer, Place::Archive, "Archive", None, main)
}

fn fields(viewer: &Viewer, question: &Question) -> Markup {
    html! {
        @if viewer.account.is_none() { label { span { "Account" } input name="account" value=[question.account.as_deref()] placeholder="all"; } }
        label { span { "From (UTC)" } input name="from" value=[question.from.as_deref()] placeholder="2026-11-01"; }
        label { span { "To" } input name="to" value=[question.to.as_deref()] placeholder="2026-12-01"; }
        label { span { "Purpose" } input name="purpose" value=(question.purpose) placeholder="why: kept"; }
    }
}

/// What a report is about.
fn choice(viewer: &Viewer, question: &Question) -> Markup {
    let address = question.parameters.get("address").map_or("", String::as_str);
    html! {
        form.filter method="get" { div.choose {
            @if ["subject", "access"].contains(&question.report.as_str()) { label { span { "Address" } input name="address" value=(address) placeholder="192.0.2.7"; } }
            (fields(viewer, question))
            button type="submit" { "Make" }
        } }
    }
}

fn files(question: &Question) -> Markup {
    let parameters = serde_json::to_string(&question.parameters).unwrap_or_default();
    let path = format!("/v1/reports/{}", question.report);
    let to = |format| {
        let purpose = Some(question.purpose.as_str()).filter(|purpose| !purpose.is_empty());
        let parameters = Some(parameters.as_str()).filter(|parameters| *parameters != "{}");
        let parts = [
            ("account", question.account.as_deref()),
            ("from", question.from.as_deref()),
            ("to", question.to.as_deref()),
            ("purpose", purpose),
            ("parameters", parameters),
            ("format", Some(format)),
        ];
        frame::link(&path, &parts)
    };
    html! { p.pages { a href=(to("csv")) { "CSV" } a href=(to("json")) { "JSON" } a href=(to("html")) { "A page to keep" } } }
}

/// How complete it is, and by which versions its records were enriched.
fn around(answer: &Json) -> Markup {
    let complete = &answer["completeness"];
    let text = |json: &Json, otherwise: &str| json.as_str().unwrap_or(otherwise).to_owned();
    let holes = complete["holes"].as_array().map_or(0, Vec::len);
    html! {
        p.badges {
            @if complete["is_complete"] == true { span.badge.good { "complete" } } @else { span.badge.warn { "not known to be complete: " (holes) " holes" } }
            span.badge.idle { (text(&complete["from"], "from the first record")) " – " (text(&complete["to"], "to the latest")) }
            @if let Some(until) = complete["complete_until"].as_str() { span.badge.idle { "everything has come up to " (until) } }
        }
        @for version in rows(&answer["versions"]) {
            p.note { "Databases of " (built(&version["geo_epoch"])) ", accounts version " (version["accounts_version"]) ": " (cell(&version["records"])) " records" }
        }
        @for (when, rules) in [("then, as records name them", &answer["rules_then"]), ("now", &answer["rules_now"])] {
            @if !rows(rules).is_empty() { p.note { "Rules " (when) ": " (cell(rules)) } }
        }
    }
}

/// When databases were built; 0: there were none.
fn built(seconds: &Json) -> String {
    let seconds = seconds.as_i64().filter(|seconds| *seconds > 0);
    seconds.map_or_else(|| "(none)".to_owned(), |seconds| utc_text(seconds.saturating_mul(1_000_000)))
}

fn rows(json: &Json) -> &[Json] {
    json.as_array().map_or(&[], Vec::as_slice)
}

fn cell(json: &Json) -> String {
    match json {
        Json::Null => String::new(),
        Json::String(text) => text.clone(),
        Json::Number(number) => number.as_i64().map_or_else(|| number.to_string(), exact),
        Json::Array(list) => list.iter().map(cell).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

/// Columns in their order.
fn columns(part: &Json) -> Vec<&str> {
    rows(&part["columns"]).iter().filter_map(Json::as_str).collect()
}

fn table(part: &Json) -> Markup {
    let (names, rows) = (columns(part), rows(&part["rows"]));
    if rows.is_empty() {
        return html! { p.quiet { "No rows." } };
    }
    let is_number = |name: &str| rows.iter().any(|row| row[name].is_number());
    let numbers: Vec<bool> = names.iter().map(|name| is_number(name)).collect();
    html! {
        div.wide { table.numbers {
            thead { tr { @for (name, is_number) in names.iter().zip(&numbers) { th.n[*is_number] scope="col" { (name) } } } }
            tbody { @for row in rows.iter().take(ROWS_MAX) { tr {
                @for (name, is_number) in names.iter().zip(&numbers) {
                    @let text = cell(&row[*name]);
                    td.n[*is_number].long[text.len() > LONG_BYTES] { (text) }
                }
            } } }
        } }
        p.quiet { (exact(i64::try_from(rows.len()).unwrap_or(i64::MAX))) @if rows.len() == 1 { " row" } @else { " rows" } @if rows.len() > ROWS_MAX { ", of which these are the first " (exact(ROWS_MAX as i64)) "; all of them come as a file" } }
    }
}

/// A column's name for people.
fn words(column: &str) -> String {
    column.replace('_', " ")
}

/// Of a report, what it says is worth a picture; of a question whose rows are names and numbers, its last column of numbers, row by row.
fn picture(part: &Json) -> Markup {
    let rows = rows(&part["rows"]);
    let names = columns(part);
    let is_report = !part["title"].is_null();
    let (of, by) = if is_report {
        (part["chart"]["of"].as_str(), part["chart"]["by"].as_str())
    } else {
        let is = |kind: fn(&Json) -> bool| move |name: &&&str| rows.first().is_some_and(|row| kind(&row[**name]));
        (names.iter().find(is(Json::is_string)).copied(), names.iter().rfind(is(Json::is_i64)).copied())
    };
    let (Some(of), Some(by)) = (of, by) else { return html! {} };
    let mut bars: Vec<(String, i64)> = Vec::new();
    for row in rows {
        let name = Some(cell(&row[of])).filter(|name| !name.is_empty()).unwrap_or_else(|| "(unknown)".to_owned());
        let amount = row[by].as_i64().unwrap_or(0).max(0);
        // A report's rows can say more of one name, each a part of it.
        match bars.iter_mut().find(|(known, _)| is_report && *known == name) {
            Some((_, known)) => *known = known.saturating_add(amount),
            None => bars.push((name, amount)),
        }
    }
    let count = bars.len();
    let which = if of == "hour" { "last" } else { "first" };
    if of == "hour" {
        bars.drain(..count.saturating_sub(BARS_MAX));
    } else if is_report {
        bars.sort_by_key(|(_, amount)| std::cmp::Reverse(*amount));
    }
    let most = bars.iter().map(|(_, amount)| *amount).max().unwrap_or(0);
    if count < 2 || count > ROWS_MAX && !is_report || most == 0 {
        return html! {};
    }
    let unit = if by.ends_with("bytes") { Unit::Bytes } else { Unit::Count };
    html! {
        figure {
            figcaption.quiet { (words(by)) " by " (words(of)) @if count > BARS_MAX { ", the " (which) " " (BARS_MAX) " of " (count) } }
            table.bars { thead.hidden { tr { th scope="col" { (words(of)) } th scope="col" { "Share" } th scope="col" { (words(by)) } } } tbody { @for (name, amount) in bars.iter().take(BARS_MAX) { tr {
                th scope="row" { (name) }
                td { svg.share viewBox="0 0 1000 8" width="100%" height="8" preserveAspectRatio="none" aria-hidden="true" focusable="false" {
                    rect.track width="1000" height="8" {}
                    rect.bar width=(i128::from(*amount) * 1000 / i128::from(most)) height="8" {}
                } }
                td.n { (unit.short(*amount)) }
            } } } }
        }
    }
}
