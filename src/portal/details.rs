//! `/v1/sessions` and `/v1/requests`: single sessions and requests, newest first; and what the pages drill down with.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::Problem;
use super::asked::Asked;
use super::table::{Column, Kind, Row, Value};
use crate::event::{AddressForm, End, Kind as RecordKind, Phase, UsageRecord};
use crate::ids::{hex, unhex};
use crate::store::{Place, Search, Store};

/// What is looked for beside account and time.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Of a session or request.
    pub id: Option<[u8; 16]>,
    /// Requests: only of this session.
    pub session: Option<[u8; 16]>,
    /// As the client asked for it.
    pub host: Option<String>,
    /// What of the account's was reached.
    pub endpoint: Option<String>,
    /// `h1`, `h2`, …
    pub protocol: Option<String>,
    /// Two letters.
    pub country: Option<String>,
    /// Least and greatest status.
    pub status: Option<(i32, i32)>,
    /// How it ended, as printed; `open`: it has not.
    pub end: Option<String>,
    /// Why it is not billed.
    pub reason: Option<String>,
    /// Where it came from, as the record shows it.
    pub client: Option<IpNet>,
}

/// The parameters that [`Wanted::of`] understands.
pub const PARAMETERS: [&str; 10] =
    ["id", "session", "host", "endpoint", "protocol", "country", "status", "end", "reason", "client_ip"];

/// How something can have ended.
const ENDS: [End; 10] = [
    End::Done,
    End::ClientAbort,
    End::UpstreamError,
    End::Timeout,
    End::Drain,
    End::Recovered,
    End::Refused,
    End::TlsError,
    End::ProtocolError,
    End::Internal,
];

impl Wanted {
    /// What a query asks for.
    pub fn of(asked: &Asked) -> Result<Self, Problem> {
        let id = |name: &str| match asked.text(name) {
            None => Ok(None),
            Some(text) => unhex(text.as_bytes())
                .and_then(|id| id.try_into().ok())
                .map(Some)
                .ok_or_else(|| Problem::bad(format!("`{name}` is no id: 32 hexadecimal digits"))),
        };
        let text = |name: &str| asked.text(name).map(str::to_owned);
        let mut ends: Vec<(&str, &str)> = ENDS.iter().map(|end| (end.name(), end.name())).collect();
        ends.push(("open", "open"));
        Ok(Self {
            id: id("id")?,
            session: id("session")?,
            host: text("host"),
            endpoint: text("endpoint"),
            protocol: text("protocol"),
            country: text("country"),
            status: asked.text("status").map(statuses).transpose()?,
            end: asked.choice("end", &ends)?.map(str::to_owned),
            reason: text("reason"),
            client: asked.text("client_ip").map(network).transpose()?,
        })
    }

    /// Whether this is one of them.
    pub fn takes(&self, record: &UsageRecord) -> bool {
        let is = |wanted: &Option<String>, there: &str| wanted.as_ref().is_none_or(|wanted| wanted == there);
        let is_id = |wanted: &Option<[u8; 16]>, there: &[u8]| wanted.as_ref().is_none_or(|wanted| wanted == there);
        let own = if record.kind() == RecordKind::Session { &record.session_id } else { &record.request_id };
        let end = if record.phase() == Phase::Close { record.end().name() } else { "open" };
        is_id(&self.id, own)
            && is_id(&self.session, &record.session_id)
            && is(&self.host, &record.host)
            && is(&self.endpoint, &record.endpoint)
            && is(&self.protocol, &record.protocol)
            && is(&self.country, &record.country)
            && is(&self.end, end)
            && is(&self.reason, record.reason().name())
            && self.status.is_none_or(|(least, greatest)| (least..=greatest).contains(&record.status))
            && self.client.is_none_or(|network| address(&record.client_ip).is_some_and(|ip| network.contains(&ip)))
    }

    /// No record of what is asked for is older than this: an id begins with the time when its session or request did, ms.
    pub fn begun_us(&self) -> Option<i64> {
        let id = self.id.or(self.session)?;
        let ms = id[..6].iter().fold(0, |ms, byte| ms << 8 | i64::from(*byte));
        // What a clock was set by since then is not known to the id.
        Some((ms - 1000).max(0) * 1000)
    }
}

/// `404`, or `4xx`.
fn statuses(text: &str) -> Result<(i32, i32), Problem> {
    let class =
        text.strip_suffix("xx").and_then(|digit| digit.parse::<i32>().ok()).filter(|class| (1..=9).contains(class));
    let one = text.parse::<i32>().ok().filter(|status| (0..=999).contains(status));
    let range = class.map(|class| (class * 100, class * 100 + 99)).or(one.map(|status| (status, status)));
    range.ok_or_else(|| Problem::bad("`status` is none: write 404, or 4xx"))
}

fn network(text: &str) -> Result<IpNet, Problem> {
    let network = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    network
        .ok_or_else(|| Problem::bad("`client_ip` is neither an address nor a network: write 192.0.2.1 or 192.0.2.0/24"))
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

/// One page of sessions or requests: rows in the order of [`columns`], and where to go on.
pub async fn page(store: &Store, search: &Search, wanted: &Arc<Wanted>) -> Result<(Vec<Row>, Option<Place>), Problem> {
    let found = store.search(search, |record| wanted.takes(record)).await?;
    Ok((found.records.iter().map(row).collect(), found.next))
}

/// The columns of sessions and of requests.
pub fn columns() -> Vec<Column> {
    let text = ["id", "session_id", "account", "endpoint", "listener", "protocol", "host", "method", "path"];
    let mut columns: Vec<Column> = text.into_iter().map(|name| Column::new(name, Kind::Text)).collect();
    columns.push(Column::new("status", Kind::Number));
    columns.push(Column::new("state", Kind::Text));
    columns.push(Column::new("end", Kind::Text));
    columns.push(Column::new("billable", Kind::Truth));
    columns.push(Column::new("reason", Kind::Text));
    columns.push(Column::new("started_at", Kind::Time));
    columns.push(Column::new("at", Kind::Time));
    columns.push(Column::new("client_ip", Kind::Text));
    columns.push(Column::new("address_form", Kind::Text));
    columns.push(Column::new("country", Kind::Text));
    columns.push(Column::new("asn", Kind::Number));
    columns.push(Column::new("tls_version", Kind::Text));
    columns.push(Column::new("attribution", Kind::Text));
    columns.push(Column::new("requests", Kind::Number));
    columns.push(Column::new("folded", Kind::Number));
    for name in crate::store::SUM_COLUMNS.iter().take(crate::units::COLUMNS) {
        columns.push(Column::new(format!("total_{name}"), Kind::Number));
    }
    columns.push(Column::new("audit", Kind::Text));
    columns.push(Column::new("node", Kind::Text));
    columns.extend(["epoch", "shard", "seq"].map(|name| Column::new(name, Kind::Number)));
    columns
}

fn row(record: &UsageRecord) -> Row {
    let id = |bytes: &[u8]| Value::text(&hex(bytes));
    let number = |number: i64| if number == 0 { Value::None } else { Value::Number(number) };
    let is_session = record.kind() == RecordKind::Session;
    let is_closed = record.phase() == Phase::Close;
    let form = AddressForm::try_from(record.address_form).unwrap_or(AddressForm::None);
    let mut row = vec![
        id(if is_session { &record.session_id } else { &record.request_id }),
        id(&record.session_id),
        Value::text(&record.account),
        Value::text(&record.endpoint),
        Value::text(&record.listener),
        Value::text(&record.protocol),
        Value::text(&record.host),
        Value::text(&record.method),
        Value::text(&record.path),
        number(i64::from(record.status)),
        Value::text(if is_closed { "closed" } else { "open" }),
        Value::text(record.end().name()),
        Value::Truth(record.billable),
        Value::text(record.reason().name()),
        Value::Number(record.started_at),
        Value::Number(record.at),
        address(&record.client_ip).map_or(Value::None, |ip| Value::Text(ip.to_string())),
        Value::text(form.name()),
        Value::text(&record.country),
        number(record.asn),
        Value::text(&record.tls_version),
        Value::text(&record.attribution),
        if is_session { Value::Number(record.requests) } else { Value::None },
        number(record.folded),
    ];
    row.extend(record.totals().to_array().map(|bytes| Value::Number(i64::try_from(bytes).unwrap_or(i64::MAX))));
    row.push(Value::text(if record.audit.is_empty() { "ok" } else { &record.audit }));
    row.push(Value::text(&record.node));
    row.extend([record.epoch, i64::from(record.shard), record.seq].map(Value::Number));
    row
}
