//! Records as people and scripts read them: `weir events --json` and `--csv`. The names are stable.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;

use super::{ShardEnd, UsageRecord};
use crate::ids::hex;
use crate::sheet::text_field;

/// Where a record stands: gapless in `seq` for each (node, epoch, shard).
#[derive(Clone, Copy, Debug)]
pub struct Position<'a> {
    /// Name of the sidecar.
    pub node: &'a str,
    /// Process start of the node.
    pub epoch: u32,
    /// The worker's journal.
    pub shard: u16,
    /// Place in it.
    pub seq: u64,
}

macro_rules! printed {
    ($($name:ident: $type:ty = $value:expr),* ; $($rare:ident: $rare_type:ty = $rare_value:expr),* $(,)?) => {
        #[derive(Serialize)]
        struct Printed<'a> {
            $($name: $type,)*
            $(#[serde(skip_serializing_if = "Option::is_none")] $rare: Option<$rare_type>),*
        }
        fn printed<'a>(p: &Position<'a>, r: &'a UsageRecord) -> Printed<'a> {
            Printed { $($name: $value(p, r),)* $($rare: $rare_value(r)),* }
        }
        /// First line of `--csv`.
        pub const CSV_HEADER: &str = concat!($(stringify!($name), ",",)* $(stringify!($rare), ","),*);
    };
}

// One list serves both forms: name, type and where the value comes from. Those behind the semicolon came later: in JSON they are
// there only where they say something, so that what was printed before is still printed alike.
printed! {
    node: &'a str = |p: &Position<'a>, _| p.node,
    epoch: u32 = |p: &Position<'a>, _| p.epoch,
    shard: u16 = |p: &Position<'a>, _| p.shard,
    seq: u64 = |p: &Position<'a>, _| p.seq,
    kind: &'a str = |_, r: &UsageRecord| r.kind().name(),
    phase: &'a str = |_, r: &UsageRecord| r.phase().name(),
    session_id: String = |_, r: &UsageRecord| hex(&r.session_id),
    request_id: String = |_, r: &UsageRecord| hex(&r.request_id),
    account: &'a str = |_, r: &'a UsageRecord| r.account.as_str(),
    endpoint: &'a str = |_, r: &'a UsageRecord| r.endpoint.as_str(),
    attribution: &'a str = |_, r: &'a UsageRecord| r.attribution.as_str(),
    listener: &'a str = |_, r: &'a UsageRecord| r.listener.as_str(),
    protocol: &'a str = |_, r: &'a UsageRecord| r.protocol.as_str(),
    tls_version: &'a str = |_, r: &'a UsageRecord| r.tls_version.as_str(),
    sni: &'a str = |_, r: &'a UsageRecord| r.sni.as_str(),
    tls_subject: &'a str = |_, r: &'a UsageRecord| r.tls_subject.as_str(),
    host: &'a str = |_, r: &'a UsageRecord| r.host.as_str(),
    method: &'a str = |_, r: &'a UsageRecord| r.method.as_str(),
    path: &'a str = |_, r: &'a UsageRecord| r.path.as_str(),
    status: i32 = |_, r: &UsageRecord| r.status,
    origin: &'a str = |_, r: &'a UsageRecord| r.origin.as_str(),
    client_ip: String = |_, r: &UsageRecord| address(&r.client_ip),
    client_port: i32 = |_, r: &UsageRecord| r.client_port,
    peer_ip: String = |_, r: &UsageRecord| address(if r.peer_ip.is_empty() { &r.client_ip } else { &r.peer_ip }),
    country: &'a str = |_, r: &'a UsageRecord| r.country.as_str(),
    region: &'a str = |_, r: &'a UsageRecord| r.region.as_str(),
    city: &'a str = |_, r: &'a UsageRecord| r.city.as_str(),
    asn: i64 = |_, r: &UsageRecord| r.asn,
    as_org: &'a str = |_, r: &'a UsageRecord| r.as_org.as_str(),
    labels: &'a [String] = |_, r: &'a UsageRecord| r.labels.as_slice(),
    geo_epoch: i64 = |_, r: &UsageRecord| r.geo_epoch,
    accounts_version: i64 = |_, r: &UsageRecord| r.accounts_version,
    started_at: i64 = |_, r: &UsageRecord| r.started_at,
    at: i64 = |_, r: &UsageRecord| r.at,
    received_body_bytes: i64 = |_, r: &UsageRecord| r.received_body_bytes,
    received_app_bytes: i64 = |_, r: &UsageRecord| r.received_app_bytes,
    received_wire_bytes: i64 = |_, r: &UsageRecord| r.received_wire_bytes,
    sent_body_bytes: i64 = |_, r: &UsageRecord| r.sent_body_bytes,
    sent_app_bytes: i64 = |_, r: &UsageRecord| r.sent_app_bytes,
    sent_wire_bytes: i64 = |_, r: &UsageRecord| r.sent_wire_bytes,
    sent_acked_bytes: i64 = |_, r: &UsageRecord| r.sent_acked_bytes,
    upstream_sent_bytes: i64 = |_, r: &UsageRecord| r.upstream_sent_bytes,
    upstream_received_bytes: i64 = |_, r: &UsageRecord| r.upstream_received_bytes,
    total_received_body_bytes: i64 = |_, r: &UsageRecord| r.total_received_body_bytes,
    total_received_app_bytes: i64 = |_, r: &UsageRecord| r.total_received_app_bytes,
    total_received_wire_bytes: i64 = |_, r: &UsageRecord| r.total_received_wire_bytes,
    total_sent_body_bytes: i64 = |_, r: &UsageRecord| r.total_sent_body_bytes,
    total_sent_app_bytes: i64 = |_, r: &UsageRecord| r.total_sent_app_bytes,
    total_sent_wire_bytes: i64 = |_, r: &UsageRecord| r.total_sent_wire_bytes,
    total_sent_acked_bytes: i64 = |_, r: &UsageRecord| r.total_sent_acked_bytes,
    total_upstream_sent_bytes: i64 = |_, r: &UsageRecord| r.total_upstream_sent_bytes,
    total_upstream_received_bytes: i64 = |_, r: &UsageRecord| r.total_upstream_received_bytes,
    billable: bool = |_, r: &UsageRecord| r.billable,
    reason: &'a str = |_, r: &UsageRecord| r.reason().name(),
    end: &'a str = |_, r: &UsageRecord| r.end().name(),
    audit: &'a str = |_, r: &'a UsageRecord| if r.audit.is_empty() { "ok" } else { r.audit.as_str() },
    uncertain_bytes: i64 = |_, r: &UsageRecord| r.uncertain_bytes,
    folded: i64 = |_, r: &UsageRecord| r.folded,
    requests: i64 = |_, r: &UsageRecord| r.requests,
    software: &'a str = |_, r: &'a UsageRecord| r.software.as_str(),
    gap_epoch: i64 = |_, r: &UsageRecord| r.gap_epoch,
    gap_shard: i32 = |_, r: &UsageRecord| r.gap_shard,
    gap_first_seq: i64 = |_, r: &UsageRecord| r.gap_first_seq,
    gap_next_seq: i64 = |_, r: &UsageRecord| r.gap_next_seq,
    clock_step_us: i64 = |_, r: &UsageRecord| r.clock_step_us;
    address_form: &'a str = |r: &UsageRecord| said(r.address_form().name()),
    key_epoch: i64 = |r: &UsageRecord| (r.key_epoch != 0).then_some(r.key_epoch),
    screening: &'a str = |r: &UsageRecord| said(r.screening().name()),
    screening_rule: &'a str = |r: &'a UsageRecord| said(&r.screening_rule),
    geo_snapshot: &'a str = |r: &'a UsageRecord| said(&r.geo_snapshot),
    ended: &'a [ShardEnd] = |r: &'a UsageRecord| (!r.ended.is_empty()).then_some(r.ended.as_slice()),
}

fn said(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

/// The record as one line of JSON, without the line end.
pub fn json_line(position: &Position<'_>, record: &UsageRecord) -> Result<String, serde_json::Error> {
    serde_json::to_string(&printed(position, record))
}

/// The record as one line of CSV ([`crate::sheet`]), without the line end; columns as in [`CSV_HEADER`].
pub fn csv_line(position: &Position<'_>, record: &UsageRecord) -> Result<String, serde_json::Error> {
    Ok(from_json(&serde_json::to_value(printed(position, record))?, true))
}

/// The record for people: the most important fields.
pub fn text_line(position: &Position<'_>, record: &UsageRecord) -> String {
    serde_json::to_value(printed(position, record))
        .map_or_else(|error| error.to_string(), |value| from_json(&value, false))
}

/// A record that was printed as JSON before, as CSV or for people.
pub fn from_json(value: &Value, csv: bool) -> String {
    if csv {
        return CSV_HEADER
            .trim_end_matches(',')
            .split(',')
            .map(|name| match value.get(name) {
                Some(Value::Number(number)) => number.to_string(),
                _ => text_field(&field(value, name)).into_owned(),
            })
            .collect::<Vec<_>>()
            .join(",");
    }
    let at = value.get("at").and_then(Value::as_i64).unwrap_or(0);
    let request = [field(value, "method"), field(value, "host") + &field(value, "path")].join(" ");
    format!(
        "{} {}/{}/{} {:7} {:10} {:15} {:>15} {:>3} received {:>10} sent {:>10} acked {:>10} {:14} {} {}",
        time_of_day(at),
        field(value, "epoch"),
        field(value, "shard"),
        field(value, "seq"),
        field(value, "kind"),
        field(value, "phase"),
        field(value, "account"),
        field(value, "client_ip"),
        field(value, "status"),
        field(value, "received_app_bytes"),
        field(value, "sent_app_bytes"),
        field(value, "sent_acked_bytes"),
        field(value, "end"),
        if field(value, "audit") == "ok" {
            field(value, "protocol")
        } else {
            format!("AUDIT {}", field(value, "audit"))
        },
        request.trim(),
    )
    .trim_end()
    .to_owned()
}

fn field(value: &Value, name: &str) -> String {
    match value.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    }
}

/// UTC, to the millisecond.
fn time_of_day(at_us: i64) -> String {
    let ms = at_us.div_euclid(1000).rem_euclid(86_400_000);
    format!("{:02}:{:02}:{:02}.{:03}", ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60, ms % 1000)
}

fn address(bytes: &Bytes) -> String {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes.as_ref()) {
        return IpAddr::V4(Ipv4Addr::from(v4)).to_string();
    }
    if let Ok(v6) = <[u8; 16]>::try_from(bytes.as_ref()) {
        return IpAddr::V6(Ipv6Addr::from(v6)).to_string();
    }
    String::new()
}
