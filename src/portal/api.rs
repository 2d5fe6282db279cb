//! `/v1/…`: the API. What it says of itself stands in `openapi.json`, which a test holds against [`ROUTES`].

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri, header};
use axum::response::Response;
use axum::routing::{MethodRouter, get};
use serde_json::{Value as Json, json};

use super::asked::{Asked, chosen, cursor};
use super::asking;
use super::audits;
use super::details::{self, Wanted};
use super::export::{self, Form};
use super::figures::{self, Completeness, Question};
use super::guard::{Entry, now_us};
use super::table::{Column, Kind, Row, Value};
use super::{Portal, Problem, Viewer, table};
use crate::clock::{HOUR_US, hour_of, utc_text};
use crate::config::Meter;
use crate::event::Kind as RecordKind;
use crate::rollup::{Window, month, seqs};
use crate::store::{Dimension, Gap, Place, Search};

/// This API, for machines.
const OPENAPI: &str = include_str!("openapi.json");
/// Rows of a page when nothing is said.
const ROWS_DEFAULT: usize = 100;
/// Most rows of a page.
const ROWS_MAX: usize = 1_000;
/// Gaps that an answer lists one by one.
const GAPS_MAX: usize = 100;
/// A stream that nobody takes, or that takes longer than this, breaks.
const STREAM: Duration = Duration::from_secs(600);

const WINDOWS: [(&str, Window); 3] = [("hour", Window::Hour), ("day", Window::Day), ("month", Window::Month)];

/// Parameters of a list that is shown whole or by pages.
const LIST: [&str; 3] = ["format", "limit", "cursor"];

type Endpoint = fn() -> MethodRouter<Arc<Portal>>;

/// Every endpoint: its path and what it knows to be asked.
pub const ROUTES: [(&str, Endpoint, &[&str]); 11] = [
    ("/v1/usage", || get(usage), &USAGE),
    ("/v1/sessions", || get(sessions), &DETAILS),
    ("/v1/requests", || get(requests), &DETAILS),
    ("/v1/accounts", || get(accounts), &LIST),
    ("/v1/watermarks", || get(watermarks), &LIST),
    ("/v1/periods", || get(periods), &["account", "period", "format", "limit", "cursor"]),
    ("/v1/meters", || get(meters), &LIST),
    ("/v1/audit", || get(audit), &audits::PARAMETERS),
    ("/v1/accesses", || get(accesses), &["from", "to", "format", "limit"]),
    ("/v1/query", asking::query, &asking::QUERY),
    ("/v1/reports/{name}", asking::report, &asking::REPORT),
];

const USAGE: [&str; 16] = [
    "account", "meter", "from", "to", "window", "group_by", "kind", "endpoint", "host", "protocol", "country",
    "status", "reason", "format", "limit", "cursor",
];

const DETAILS: [&str; 16] = [
    "account",
    "from",
    "to",
    "id",
    "session",
    "host",
    "endpoint",
    "protocol",
    "country",
    "status",
    "end",
    "reason",
    "client_ip",
    "format",
    "limit",
    "cursor",
];

pub(super) fn routes() -> Router<Arc<Portal>> {
    let openapi = get(async || ([(header::CONTENT_TYPE, "application/json")], OPENAPI));
    let router = Router::new().route("/openapi.json", openapi);
    ROUTES.iter().fold(router, |router, (path, endpoint, _)| router.route(path, endpoint()))
}

fn known(path: &str) -> &'static [&'static str] {
    ROUTES.iter().find(|(known, ..)| *known == path).map_or(&[], |(_, _, parameters)| *parameters)
}

// ---- usage -------------------------------------------------------------------------------------------------

async fn usage(State(portal): State<Arc<Portal>>, viewer: Viewer, uri: Uri) -> Result<Response, Problem> {
    let asked = Asked::of(&uri, known("/v1/usage"))?;
    let form = asked.choice("format", &Form::ALL)?.unwrap_or(Form::Json);
    let limit = asked.number("limit", ROWS_DEFAULT, ROWS_MAX)?;
    let window = asked.choice("window", &WINDOWS)?;
    let by = asked.list("group_by").into_iter().map(|name| chosen("group_by", name, &Dimension::ALL));
    let by: Vec<Dimension> = by.collect::<Result<_, _>>()?;
    unique("group_by", &by)?;
    let only: Vec<(Dimension, String)> = Dimension::ALL
        .into_iter()
        .filter(|(_, dimension)| !matches!(dimension, Dimension::Account | Dimension::Corrects))
        .filter_map(|(name, dimension)| asked.given(name).map(|label| (dimension, label.to_owned())))
        .collect();
    let about_reasons = by.contains(&Dimension::Reason) || only.iter().any(|(of, _)| *of == Dimension::Reason);
    // By reason: what was not billed, and why; so all of it counts.
    let meters: Vec<Meter> = chosen_meters(&portal, &asked)?
        .into_iter()
        .map(|meter| Meter { unbillable: meter.unbillable || about_reasons, ..meter })
        .collect();
    let question = Question {
        account: viewer.account(asked.text("account"))?,
        // Usage is in whole hours.
        from_us: asked.time("from")?.map_or_else(|| Window::Month.of(now_us()).1, hour_of),
        to_us: asked.time("to")?.map_or_else(|| hour_of(now_us()) + HOUR_US, |to_us| hour_of(to_us + HOUR_US - 1)),
        only,
    };
    in_order(question.from_us, question.to_us)?;
    let behind: Option<(i64, Vec<String>)> = asked.cursor()?;
    let mut columns = Vec::new();
    if window.is_some() {
        columns.push(Column::new("from", Kind::Time));
    }
    columns.extend(by.iter().map(|dimension| Column::new(dimension.name(), Kind::Text)));
    columns.extend(meters.iter().map(|meter| Column::new(meter.name.clone(), Kind::Number)));
    let lines = figures::usage(&portal.store, &question, &meters, &by, window).await?;
    let place = |line: &figures::Line| (line.window.as_ref().map_or(0, |(_, from_us)| *from_us), line.labels.clone());
    let mut left = lines.iter().filter(|line| behind.as_ref().is_none_or(|behind| place(line) > *behind));
    let row = |line: &figures::Line| -> Row {
        let from = line.window.iter().map(|(_, from_us)| Value::Number(*from_us));
        let labels = line.labels.iter().map(|label| Value::Text(label.clone()));
        from.chain(labels).chain(line.amounts.iter().map(|amount| Value::Number(*amount))).collect()
    };
    if form != Form::Json {
        let rows: Vec<Row> = left.map(row).collect();
        return export::file(form, "usage", columns, &rows);
    }
    let shown: Vec<&figures::Line> = left.by_ref().take(limit).collect();
    let next = left.next().and(shown.last()).and_then(|last| cursor(&place(last)));
    let items: Vec<Json> = shown.iter().map(|line| table::json(&columns, &row(line))).collect();
    let complete = figures::completeness(&portal.store).await?;
    let groups: Vec<&str> = by.iter().map(|dimension| dimension.name()).collect();
    let body = json!({
        "account": question.account, "from": utc_text(question.from_us), "to": utc_text(question.to_us),
        "window": WINDOWS.iter().find(|(_, known)| window == Some(*known)).map(|(name, _)| *name),
        "group_by": groups, "completeness": completeness(&complete, &viewer, question.from_us, question.to_us),
        "items": items, "next_cursor": next,
    });
    Ok(export::page(&body, items.len()))
}

/// Two columns of one name could not be told apart.
fn unique<T: PartialEq>(name: &str, list: &[T]) -> Result<(), Problem> {
    let is_twice = list.iter().enumerate().any(|(at, item)| list[..at].contains(item));
    if is_twice { Err(Problem::bad(format!("`{name}` names something twice"))) } else { Ok(()) }
}

fn in_order(from_us: i64, to_us: i64) -> Result<(), Problem> {
    if from_us < to_us { Ok(()) } else { Err(Problem::bad("`from` does not lie before `to`")) }
}

fn chosen_meters(portal: &Portal, asked: &Asked) -> Result<Vec<Meter>, Problem> {
    let all: Vec<(&str, usize)> =
        portal.meters.iter().enumerate().map(|(at, meter)| (meter.name.as_str(), at)).collect();
    let names = asked.list("meter");
    unique("meter", &names)?;
    if names.is_empty() {
        return Ok(portal.meters.clone());
    }
    names.into_iter().map(|name| Ok(portal.meters[chosen("meter", name, &all)?].clone())).collect()
}

/// What a customer is told names no node: only how much is missing, and from when.
fn completeness(complete: &Completeness, viewer: &Viewer, from_us: i64, to_us: i64) -> Json {
    let within = |gap: &&Gap| gap.from_us < to_us && gap.to_us >= from_us;
    let gaps: Vec<&Gap> = complete.gaps.iter().filter(within).collect();
    let listed = gaps.iter().take(GAPS_MAX).map(|gap| {
        let mut listed = json!({
            "records": seqs(gap), "from": utc_text(gap.from_us), "to": utc_text(gap.to_us), "cause": gap.cause,
        });
        if viewer.is_operator() {
            listed["node"] = gap.place.node.as_str().into();
            listed["epoch"] = gap.place.epoch.into();
            listed["shard"] = gap.place.shard.into();
            listed["first_seq"] = gap.first_seq.into();
            listed["next_seq"] = gap.next_seq.into();
        }
        listed
    });
    let listed: Vec<Json> = listed.collect();
    json!({
        "complete_up_to": complete.until_us.map(utc_text), "has_records": !complete.nodes.is_empty(),
        "missing_records": complete.missing_records, "open_gaps": gaps.len(), "gaps": listed,
    })
}

// ---- sessions and requests ---------------------------------------------------------------------------------

async fn sessions(
    State(portal): State<Arc<Portal>>,
    viewer: Viewer,
    entry: Entry,
    uri: Uri,
) -> Result<Response, Problem> {
    let asked = Asked::of(&uri, known("/v1/sessions"))?;
    listed(portal, viewer, entry, &asked, RecordKind::Session, "sessions").await
}

async fn requests(
    State(portal): State<Arc<Portal>>,
    viewer: Viewer,
    entry: Entry,
    uri: Uri,
) -> Result<Response, Problem> {
    let asked = Asked::of(&uri, known("/v1/requests"))?;
    listed(portal, viewer, entry, &asked, RecordKind::Request, "requests").await
}

async fn listed(
    portal: Arc<Portal>,
    viewer: Viewer,
    entry: Entry,
    asked: &Asked,
    kind: RecordKind,
    name: &str,
) -> Result<Response, Problem> {
    let form = asked.choice("format", &Form::ALL)?.unwrap_or(Form::Json);
    let wanted = Arc::new(Wanted::of(asked)?);
    let from_us = asked.time("from")?.unwrap_or(0);
    let to_us = asked.time("to")?.unwrap_or(i64::MAX);
    in_order(from_us, to_us)?;
    let behind = asked.cursor::<(i64, [u8; 16])>()?.map(|(at_us, key)| Place { at_us, key });
    let search = Search {
        account: viewer.account(asked.text("account"))?,
        kind,
        from_us: from_us.max(wanted.begun_us().unwrap_or(0)),
        before: behind.unwrap_or(Place::before(to_us)).min(Place::before(to_us)),
        rows_max: asked.number("limit", ROWS_DEFAULT, ROWS_MAX)?,
    };
    if form != Form::Json {
        return streamed(portal, entry, search, wanted, form, name);
    }
    let (rows, next) = details::page(&portal.store, &search, &wanted).await?;
    let columns = details::columns();
    let items: Vec<Json> = rows.iter().map(|row| table::json(&columns, row)).collect();
    let body = json!({
        "account": search.account, "items": items,
        // Everything newer than this was looked at, also where nothing was found.
        "searched_down_to": next.map(|place| utc_text(place.at_us)),
        "next_cursor": next.and_then(|place| cursor(&(place.at_us, place.key))),
        "kept_days": portal.details_keep_days,
    });
    Ok(export::page(&body, items.len()))
}

/// All pages, one after the other, as they are taken.
fn streamed(
    portal: Arc<Portal>,
    entry: Entry,
    search: Search,
    wanted: Arc<Wanted>,
    form: Form,
    name: &str,
) -> Result<Response, Problem> {
    let Ok(place) = portal.streams.clone().try_acquire_owned() else {
        return Err(Problem::busy(StatusCode::SERVICE_UNAVAILABLE, "too many exports run at once: try again", 30));
    };
    let (response, mut stream) = export::stream(form, name, details::columns())?;
    tokio::spawn(async move {
        let mut search = Search { rows_max: ROWS_MAX, ..search };
        let filled = tokio::time::timeout(STREAM, async {
            if !stream.begin().await {
                return Ok(());
            }
            loop {
                let (rows, next) = details::page(&portal.store, &search, &wanted).await?;
                if !stream.rows(&rows).await {
                    return Ok(());
                }
                let Some(next) = next else { return Ok(()) };
                search.before = next;
            }
        });
        let filled = filled.await.unwrap_or_else(|_| {
            Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the export took too long: ask for a shorter time"))
        });
        let rows = match filled {
            Ok(()) => stream.end().await,
            Err(problem) => stream.fail(&problem).await,
        };
        // The entry at its beginning is written; if this one cannot be, the log says so.
        entry.ended(&portal, rows).await;
        drop(place);
    });
    Ok(response)
}

// ---- lists -------------------------------------------------------------------------------------------------

/// A list that is all there, whole or by pages. Rows are ordered by their first columns, which the cursor names.
fn whole(asked: &Asked, name: &str, columns: Vec<Column>, mut rows: Vec<Row>, more: Json) -> Result<Response, Problem> {
    let form = asked.choice("format", &Form::ALL)?.unwrap_or(Form::Json);
    let limit = asked.number("limit", ROWS_DEFAULT, ROWS_MAX)?;
    let behind: usize = asked.cursor()?.unwrap_or(0);
    if form != Form::Json {
        return export::file(form, name, columns, &rows);
    }
    let is_more = rows.len() > behind.saturating_add(limit);
    rows = rows.into_iter().skip(behind).take(limit).collect();
    let items: Vec<Json> = rows.iter().map(|row| table::json(&columns, row)).collect();
    let mut body = more;
    body["items"] = items.into();
    body["next_cursor"] = is_more.then(|| cursor(&(behind + limit))).flatten().into();
    Ok(export::page(&body, rows.len()))
}

async fn accounts(State(portal): State<Arc<Portal>>, viewer: Viewer, uri: Uri) -> Result<Response, Problem> {
    let asked = Asked::of(&uri, known("/v1/accounts"))?;
    let accounts = match viewer.account(None)? {
        Some(own) => vec![own],
        None => portal.store.accounts().await?,
    };
    let rows = accounts.into_iter().map(|account| vec![Value::Text(account)]).collect();
    whole(&asked, "accounts", vec![Column::new("account", Kind::Text)], rows, json!({}))
}

async fn meters(State(portal): State<Arc<Portal>>, _: Viewer, uri: Uri) -> Result<Response, Problem> {
    let asked = Asked::of(&uri, known("/v1/meters"))?;
    let columns = ["meter", "column", "kind"].map(|name| Column::new(name, Kind::Text));
    let mut columns = columns.to_vec();
    columns.push(Column::new("unbillable", Kind::Truth));
    columns.extend(["protocols", "countries", "endpoints", "hosts"].map(|name| Column::new(name, Kind::Text)));
    let rows = portal.meters.iter().map(|meter| {
        let said =
            |json: Result<Json, _>| json.ok().and_then(|json| json.as_str().map(str::to_owned)).unwrap_or_default();
        vec![
            Value::text(&meter.name),
            Value::Text(said(serde_json::to_value(meter.column))),
            Value::Text(said(serde_json::to_value(meter.kind))),
            Value::Truth(meter.unbillable),
            Value::text(&meter.protocols.join(",")),
            Value::text(&meter.countries.join(",")),
            Value::text(&meter.endpoints.join(",")),
            Value::text(&meter.hosts.join(",")),
        ]
    });
    let rows = rows.collect();
    whole(&asked, "meters", columns, rows, json!({}))
}

async fn watermarks(State(portal): State<Arc<Portal>>, viewer: Viewer, uri: Uri) -> Result<Response, Problem> {
    let asked = Asked::of(&uri, known("/v1/watermarks"))?;
    let complete = figures::completeness(&portal.store).await?;
    let columns = vec![
        Column::new("node", Kind::Text),
        Column::new("complete_up_to", Kind::Time),
        Column::new("last_at", Kind::Time),
        Column::new("missing_records", Kind::Number),
    ];
    // Which nodes there are is the operator's affair.
    let nodes = complete.nodes.iter().filter(|_| viewer.is_operator()).map(|node| {
        vec![
            Value::text(&node.name),
            node.complete_until_us.map_or(Value::None, Value::Number),
            Value::Number(node.last_at_us),
            Value::Number(i64::try_from(node.missing).unwrap_or(i64::MAX)),
        ]
    });
    let nodes = nodes.collect();
    let more = json!({ "completeness": completeness(&complete, &viewer, i64::MIN, i64::MAX) });
    whole(&asked, "watermarks", columns, nodes, more)
}

async fn periods(State(portal): State<Arc<Portal>>, viewer: Viewer, uri: Uri) -> Result<Response, Problem> {
    let asked = Asked::of(&uri, known("/v1/periods"))?;
    let account = viewer.account(asked.text("account"))?;
    let only = asked.text("period");
    if only.is_some_and(|period| month(period).is_none()) {
        return Err(Problem::bad("`period` is no month: write it like 2026-11"));
    }
    let columns = vec![
        Column::new("period", Kind::Text),
        Column::new("from", Kind::Time),
        Column::new("to", Kind::Time),
        Column::new("sealed_at", Kind::Time),
        Column::new("actor", Kind::Text),
        Column::new("holes", Kind::Number),
        Column::new("account", Kind::Text),
        Column::new("meter", Kind::Text),
        Column::new("amount", Kind::Number),
    ];
    let mut rows = Vec::new();
    for period in portal.store.periods().await?.iter().filter(|period| only.is_none_or(|name| name == period.name)) {
        let amounts = portal.store.sealed(&period.name).await?;
        let shown = amounts.into_iter().filter(|(of, ..)| account.as_ref().is_none_or(|account| account == of));
        rows.extend(shown.map(|(of, meter, amount)| {
            vec![
                Value::text(&period.name),
                Value::Number(period.from_us),
                Value::Number(period.to_us),
                Value::Number(period.sealed_at_us),
                if viewer.is_operator() { Value::text(&period.actor) } else { Value::None },
                Value::Number(period.holes.lines().count() as i64),
                Value::Text(of),
                Value::Text(meter),
                Value::Number(amount),
            ]
        }));
    }
    whole(&asked, "periods", columns, rows, json!({ "account": account }))
}

// ---- operators ---------------------------------------------------------------------------------------------

async fn audit(State(portal): State<Arc<Portal>>, viewer: Viewer, uri: Uri) -> Result<Response, Problem> {
    viewer.operator()?;
    let asked = Asked::of(&uri, known("/v1/audit"))?;
    let Some(part) = audits::part(&asked)? else {
        let (_, audit) = audits::whole(&portal.store).await?;
        return Ok(export::page(&audit.json(), audit.steps.len()));
    };
    let audit = audits::of_part(&portal, &part).await?;
    let mut body = audit.json();
    let said = |at_us: i64, none: i64| (at_us != none).then(|| utc_text(at_us));
    body["from"] = said(part.from_us, i64::MIN).into();
    body["to"] = said(part.to_us, i64::MAX).into();
    body["account"] = part.account.into();
    body["node"] = part.node.into();
    Ok(export::page(&body, audit.records.len()))
}

async fn accesses(State(portal): State<Arc<Portal>>, viewer: Viewer, uri: Uri) -> Result<Response, Problem> {
    viewer.operator()?;
    let asked = Asked::of(&uri, known("/v1/accesses"))?;
    let (from_us, to_us) = (asked.time("from")?.unwrap_or(0), asked.time("to")?.unwrap_or(i64::MAX));
    in_order(from_us, to_us)?;
    let limit = asked.number("limit", ROWS_DEFAULT, ROWS_MAX)?;
    let columns = vec![
        Column::new("at", Kind::Time),
        Column::new("subject", Kind::Text),
        Column::new("scope", Kind::Text),
        Column::new("account", Kind::Text),
        Column::new("path", Kind::Text),
        Column::new("query", Kind::Text),
        Column::new("status", Kind::Number),
        Column::new("rows", Kind::Number),
    ];
    let found = portal.store.accesses(from_us, to_us, limit as i64).await?;
    let rows = found.into_iter().map(|access| {
        vec![
            Value::Number(access.at_us),
            Value::Text(access.subject),
            Value::Text(access.scope),
            Value::text(&access.account),
            Value::Text(access.path),
            Value::text(&access.query),
            Value::Number(access.status),
            Value::Number(access.rows),
        ]
    });
    let rows = rows.collect();
    whole(&asked, "accesses", columns, rows, json!({}))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_document_names_every_endpoint_and_parameter_and_no_other() {
        let document: Json = serde_json::from_str(OPENAPI).unwrap();
        let paths = document["paths"].as_object().unwrap();
        let there: BTreeSet<&str> = paths.keys().map(String::as_str).collect();
        assert_eq!(there, ROUTES.iter().map(|(path, ..)| *path).collect());
        for (path, _, parameters) in ROUTES {
            let named = paths[path]["get"]["parameters"].as_array().unwrap();
            let named: BTreeSet<&str> = named.iter().map(|parameter| parameter["name"].as_str().unwrap()).collect();
            assert_eq!(named, parameters.iter().copied().collect(), "{path}");
        }
        let properties = document["components"]["schemas"]["Detail"]["properties"].as_object().unwrap();
        let columns: BTreeSet<String> = details::columns().iter().map(|column| column.name.to_string()).collect();
        assert_eq!(properties.keys().cloned().collect::<BTreeSet<_>>(), columns);
        assert!(details::PARAMETERS.iter().all(|name| DETAILS.contains(name)));
    }
}
