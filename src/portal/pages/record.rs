//! One record, field by field: the smallest thing that a figure is made of.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use maud::html;

use super::super::asked::Asked;
use super::super::{Portal, Problem, Viewer};
use super::frame::{self, Place, link, trail};
use super::html;
use super::number::{self, exact};
use super::sessions::hour_parameters;
use crate::event::{Kind, Position, UsageRecord, json_line};
use crate::ids::hex;
use crate::store::Filter;

/// One record lies in one block, and at one µs there are few.
const RECORDS_MAX: usize = 100_000;
const BLOCKS_MAX: usize = 64;

/// The columns, and what each counts.
const COLUMNS: [(&str, &str); 9] = [
    ("Received, body", "HTTP body octets, without framing"),
    ("Received, HTTP", "every octet of the conversation"),
    ("Received, wire", "through the socket, TLS included"),
    ("Sent, body", "HTTP body octets, without framing"),
    ("Sent, HTTP", "every octet of the conversation"),
    ("Sent, wire", "through the socket, TLS included"),
    ("Sent, acknowledged", "what the client's kernel confirmed: this is billed as sent"),
    ("To the origin", "through the socket to your server"),
    ("From the origin", "through the socket from your server"),
];

/// Where a record is shown.
pub(super) fn link_to(account: Option<&str>, record: &UsageRecord) -> String {
    let [at, epoch, shard, seq] = [record.at, record.epoch, i64::from(record.shard), record.seq].map(|n| n.to_string());
    link(
        "/record",
        &[
            ("account", account),
            ("at", Some(&at)),
            ("node", Some(&record.node)),
            ("epoch", Some(&epoch)),
            ("shard", Some(&shard)),
            ("seq", Some(&seq)),
        ],
    )
}

/// As it stands in the record.
pub(super) fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

/// `/record`
pub(super) async fn page(State(portal): State<Arc<Portal>>, viewer: Viewer, uri: Uri) -> Result<Response, Problem> {
    let asked = Asked::of(&uri, &["account", "at", "node", "epoch", "shard", "seq"])?;
    let account = viewer.account(asked.text("account"))?;
    let number = |name: &str| -> Result<i64, Problem> {
        let number = asked.text(name).and_then(|text| text.parse().ok()).filter(|n| (0..i64::MAX).contains(n));
        number.ok_or_else(|| Problem::bad(format!("`{name}` is no number: follow a link of a list")))
    };
    let (at_us, epoch, shard, seq) = (number("at")?, number("epoch")?, number("shard")?, number("seq")?);
    let node = asked.text("node").unwrap_or_default();
    let filter = Filter { account: account.clone(), from_us: at_us, to_us: at_us + 1 };
    let found = portal.store.records(&filter, RECORDS_MAX, BLOCKS_MAX).await?.unwrap_or_default();
    let is_it = |record: &UsageRecord| {
        record.node == node && record.epoch == epoch && i64::from(record.shard) == shard && record.seq == seq
    };
    let gone = || {
        Problem::new(
            StatusCode::NOT_FOUND,
            "there is no such record: single records are kept for a while only, sums for ever",
        )
    };
    let record = found.into_iter().find(|record| is_it(record)).ok_or_else(gone)?;
    let what = if record.kind() == Kind::Session { "Session" } else { "Request" };
    let position = position(&record);
    let json = json_line(&position, &record).ok().and_then(|line| serde_json::from_str(&line).ok());
    let fields: serde_json::Map<String, serde_json::Value> = json.unwrap_or_default();
    let (from, to) = hour_parameters(record.at);
    let whose = account.as_deref().filter(|_| viewer.is_operator());
    let session = hex(&record.session_id);
    let hour = link(
        "/why",
        &[
            ("account", whose.or(Some(record.account.as_str()).filter(|_| viewer.is_operator()))),
            ("from", Some(&from)),
            ("to", Some(&to)),
        ],
    );
    let list = if record.kind() == Kind::Session { "/sessions" } else { "/requests" };
    let steps = [(
        format!("{what}s of {}", number::hour(crate::clock::hour_of(record.at))),
        link(list, &[("account", whose), ("from", Some(&from)), ("to", Some(&to))]),
    )];
    let (deltas, totals) = (record.deltas().to_array(), record.totals().to_array());
    let main = html! {
        (trail(&steps, "Record"))
        div.title {
            div { h1 { (what) " record" } p.about { "Node " (record.node) ", epoch " (record.epoch) ", shard " (record.shard) ", seq " (exact(record.seq)) } }
            p.badges {
                @if record.audit.is_empty() { span.badge.good { "Agrees with the kernel" } } @else { span.badge.bad { (record.audit) } }
                @if record.billable { span.badge.idle { "Billable" } } @else { span.badge.warn { "Not billed: " (record.reason().name()) } }
            }
        }
        p {
            "It says what moved since the record before it, and counts in the hour "
            a href=(hour) { (number::time(crate::clock::hour_of(record.at))) } "."
            @if record.kind() == Kind::Request && !record.session_id.is_empty() { " It belongs to " a href=(link("/requests", &[("account", whose), ("session", Some(&session))])) { "this session" } "." }
            @if record.kind() == Kind::Session { " Its " a href=(link("/requests", &[("account", whose), ("session", Some(&session))])) { "requests" } " have records of their own: what they moved is billed there, the rest here." }
        }
        section aria-labelledby="moved" {
            h2 #moved { "What moved" }
            table.numbers {
                thead { tr { th scope="col" { "Octets" } th.n scope="col" { "In this record" } th.n scope="col" { "Since it began" } } }
                tbody { @for ((name, what), (delta, total)) in COLUMNS.iter().zip(deltas.iter().zip(totals)) {
                    tr { th scope="row" { (name) span.note { (what) } } td.n { (crate::units::grouped(*delta)) } td.n { (crate::units::grouped(total)) } }
                } }
            }
        }
        section aria-labelledby="all" {
            h2 #all { "Every field" }
            dl.fields {
                @for (name, value) in &fields {
                    @let text = match value { serde_json::Value::String(text) => text.clone(), other => other.to_string() };
                    @if !text.is_empty() && text != "0" && text != "[]" && text != "null" { div { dt { (name) } dd { (text) } } }
                }
            }
        }
    };
    Ok(html(frame::page(&viewer, Place::Sessions, &format!("{what} record"), account.as_deref(), main)))
}

fn position(record: &UsageRecord) -> Position<'_> {
    Position {
        node: &record.node,
        epoch: u32::try_from(record.epoch).unwrap_or_default(),
        shard: u16::try_from(record.shard).unwrap_or_default(),
        seq: u64::try_from(record.seq).unwrap_or_default(),
    }
}
