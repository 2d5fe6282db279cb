//! CloudEvents 1.0, structured mode. A record in it is what `weir events --json` prints; here it is also read back.

use std::fmt::Write as _;
use std::net::IpAddr;

use bytes::Bytes;
use prost::Message;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Error, Hash, StreamId};
use crate::clock::utc_text;
use crate::event::v1::{AddressForm, End, Kind, Phase, Reason, Screening};
use crate::event::{Position, UsageRecord, json_line};
use crate::ids::unhex;

pub(super) const CONTENT_TYPE: &str = "application/cloudevents+json; charset=UTF-8";
/// Closes the records, the data and the event.
pub(super) const BATCH_TAIL: &[u8] = b"]}}";

/// The record as JSON, and as it was read for that.
pub(super) fn record(stream: &StreamId, seq: u64, bytes: &[u8]) -> Result<(String, UsageRecord), Error> {
    let record = UsageRecord::decode(bytes).map_err(|source| Error::Record { stream: stream.clone(), seq, source })?;
    let position = Position { node: &stream.node, epoch: stream.epoch, shard: stream.shard, seq };
    match json_line(&position, &record) {
        Ok(text) => Ok((text, record)),
        Err(source) => Err(Error::Json { stream: stream.clone(), seq, source }),
    }
}

/// Appends the event of one record.
pub(super) fn lone_record(to: &mut Vec<u8>, stream: &StreamId, seq: u64, record: &UsageRecord, text: &str) {
    let mut event = event_head("weir.usage.v1.UsageRecord", stream);
    event += &format!(r#""id":"{seq}","time":"{}","#, utc_text(record.at));
    if !record.account.is_empty() {
        event += &format!(r#""subject":{},"#, Value::from(record.account.as_str()));
    }
    event += &format!(r#""datacontenttype":"application/json","data":{text}}}"#);
    to.extend_from_slice(event.as_bytes());
}

/// Appends the event of a batch up to its first record.
pub(super) fn batch_head(
    to: &mut Vec<u8>,
    stream: &StreamId,
    previous: Option<Hash>,
    skipped: u64,
    first_seq: u64,
    count: usize,
) {
    let last_seq = (first_seq + count as u64).saturating_sub(1);
    let mut event = event_head("weir.usage.v1.UsageBatch", stream);
    event += &format!(r#""id":"{first_seq}-{last_seq}","datacontenttype":"application/json","data":{{"#);
    event += &format!(r#""node":{},"#, Value::from(stream.node.as_str()));
    event += &format!(r#""epoch":{},"shard":{},"#, stream.epoch, stream.shard);
    event += &format!(r#""first_seq":{first_seq},"count":{count},"#);
    let previous = previous.map(|hash| hash.to_string()).unwrap_or_default();
    event += &format!(r#""previous_hash":"{previous}","skipped":{skipped},"records":["#);
    to.extend_from_slice(event.as_bytes());
}

fn event_head(kind: &str, stream: &StreamId) -> String {
    let mut source = String::new();
    for byte in stream.node.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            source.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            write!(source, "%{byte:02X}").unwrap_or_default();
        }
    }
    let (epoch, shard) = (stream.epoch, stream.shard);
    format!(r#"{{"specversion":"1.0","type":"{kind}","source":"/weir/{source}/{epoch}/{shard}","#)
}

#[derive(Deserialize)]
struct Event<T> {
    specversion: String,
    data: T,
}

/// A batch's data, as written; not checked.
#[derive(Deserialize)]
pub(super) struct Batch {
    pub(super) node: String,
    pub(super) epoch: i64,
    pub(super) shard: i64,
    pub(super) first_seq: i64,
    pub(super) count: i64,
    #[serde(default)]
    pub(super) previous_hash: String,
    #[serde(default)]
    pub(super) skipped: i64,
    pub(super) records: Vec<Map<String, Value>>,
}

/// The data of a batch's event.
pub(super) fn read_batch(value: &[u8]) -> Result<Batch, String> {
    read_event(value)
}

/// A record's data.
pub(super) fn read_lone_record(value: &[u8]) -> Result<UsageRecord, String> {
    read_record(&read_event(value)?)
}

fn read_event<T: for<'de> Deserialize<'de>>(value: &[u8]) -> Result<T, String> {
    let event: Event<T> = serde_json::from_slice(value).map_err(|error| error.to_string())?;
    if event.specversion != "1.0" {
        return Err(format!("it is a CloudEvent of version {:?}", event.specversion));
    }
    Ok(event.data)
}

/// A line of a file, as `weir events --json` prints it: the record with its position.
pub(super) fn read_line(line: &[u8]) -> Result<UsageRecord, String> {
    read_record(&serde_json::from_slice(line).map_err(|error| error.to_string())?)
}

/// A record with its position. Members that are not there are as if empty, others are passed over: both are another version's.
pub(super) fn read_record(members: &Map<String, Value>) -> Result<UsageRecord, String> {
    let from = Members(members);
    let client_ip = from.address("client_ip")?;
    let peer_ip = from.address("peer_ip")?;
    let audit = from.text("audit")?;
    Ok(UsageRecord {
        node: from.text("node")?,
        epoch: from.number("epoch")?,
        shard: from.small("shard")?,
        seq: from.number("seq")?,
        kind: Kind::from_str_name(&from.name("KIND", "kind")?).unwrap_or_default().into(),
        phase: Phase::from_str_name(&from.name("PHASE", "phase")?).unwrap_or_default().into(),
        session_id: from.bytes("session_id")?,
        request_id: from.bytes("request_id")?,
        account: from.text("account")?,
        endpoint: from.text("endpoint")?,
        attribution: from.text("attribution")?,
        listener: from.text("listener")?,
        protocol: from.text("protocol")?,
        tls_version: from.text("tls_version")?,
        sni: from.text("sni")?,
        tls_subject: from.text("tls_subject")?,
        host: from.text("host")?,
        method: from.text("method")?,
        path: from.text("path")?,
        status: from.small("status")?,
        origin: from.text("origin")?,
        // Printed in any case; in the record only where it differs.
        peer_ip: if peer_ip == client_ip { Bytes::new() } else { peer_ip },
        client_ip,
        client_port: from.small("client_port")?,
        country: from.text("country")?,
        region: from.text("region")?,
        city: from.text("city")?,
        asn: from.number("asn")?,
        as_org: from.text("as_org")?,
        labels: from.list("labels")?,
        geo_epoch: from.number("geo_epoch")?,
        accounts_version: from.number("accounts_version")?,
        started_at: from.number("started_at")?,
        at: from.number("at")?,
        received_body_bytes: from.number("received_body_bytes")?,
        received_app_bytes: from.number("received_app_bytes")?,
        received_wire_bytes: from.number("received_wire_bytes")?,
        sent_body_bytes: from.number("sent_body_bytes")?,
        sent_app_bytes: from.number("sent_app_bytes")?,
        sent_wire_bytes: from.number("sent_wire_bytes")?,
        sent_acked_bytes: from.number("sent_acked_bytes")?,
        upstream_sent_bytes: from.number("upstream_sent_bytes")?,
        upstream_received_bytes: from.number("upstream_received_bytes")?,
        total_received_body_bytes: from.number("total_received_body_bytes")?,
        total_received_app_bytes: from.number("total_received_app_bytes")?,
        total_received_wire_bytes: from.number("total_received_wire_bytes")?,
        total_sent_body_bytes: from.number("total_sent_body_bytes")?,
        total_sent_app_bytes: from.number("total_sent_app_bytes")?,
        total_sent_wire_bytes: from.number("total_sent_wire_bytes")?,
        total_sent_acked_bytes: from.number("total_sent_acked_bytes")?,
        total_upstream_sent_bytes: from.number("total_upstream_sent_bytes")?,
        total_upstream_received_bytes: from.number("total_upstream_received_bytes")?,
        billable: from.flag("billable")?,
        reason: Reason::from_str_name(&from.name("REASON", "reason")?).unwrap_or_default().into(),
        end: End::from_str_name(&from.name("END", "end")?).unwrap_or_default().into(),
        audit: if audit == "ok" { String::new() } else { audit },
        uncertain_bytes: from.number("uncertain_bytes")?,
        folded: from.number("folded")?,
        requests: from.number("requests")?,
        software: from.text("software")?,
        gap_epoch: from.number("gap_epoch")?,
        gap_shard: from.small("gap_shard")?,
        gap_first_seq: from.number("gap_first_seq")?,
        gap_next_seq: from.number("gap_next_seq")?,
        clock_step_us: from.number("clock_step_us")?,
        address_form: AddressForm::from_str_name(&from.name("ADDRESS_FORM", "address_form")?)
            .unwrap_or_default()
            .into(),
        key_epoch: from.number("key_epoch")?,
        screening: Screening::from_str_name(&from.name("SCREENING", "screening")?).unwrap_or_default().into(),
        screening_rule: from.text("screening_rule")?,
        geo_snapshot: from.text("geo_snapshot")?,
        ended: from.list("ended")?,
    })
}

struct Members<'a>(&'a Map<String, Value>);

impl Members<'_> {
    fn number(&self, name: &str) -> Result<i64, String> {
        match self.0.get(name) {
            None => Ok(0),
            Some(value) => value.as_i64().ok_or_else(|| wrong(name, value)),
        }
    }

    fn small(&self, name: &str) -> Result<i32, String> {
        i32::try_from(self.number(name)?).map_err(|_| format!("{name} is out of range"))
    }

    fn flag(&self, name: &str) -> Result<bool, String> {
        match self.0.get(name) {
            None => Ok(false),
            Some(value) => value.as_bool().ok_or_else(|| wrong(name, value)),
        }
    }

    fn str(&self, name: &str) -> Result<&str, String> {
        match self.0.get(name) {
            None => Ok(""),
            Some(value) => value.as_str().ok_or_else(|| wrong(name, value)),
        }
    }

    fn text(&self, name: &str) -> Result<String, String> {
        self.str(name).map(str::to_owned)
    }

    fn list<T: for<'de> Deserialize<'de>>(&self, name: &str) -> Result<Vec<T>, String> {
        match self.0.get(name) {
            None => Ok(Vec::new()),
            Some(value) => serde_json::from_value(value.clone()).map_err(|_| wrong(name, value)),
        }
    }

    /// As the .proto names it: printed names are its names without the enum's, in lower case.
    fn name(&self, prefix: &str, name: &str) -> Result<String, String> {
        Ok(format!("{prefix}_{}", self.str(name)?.to_ascii_uppercase()))
    }

    fn bytes(&self, name: &str) -> Result<Bytes, String> {
        let text = self.str(name)?;
        unhex(text.as_bytes()).map(Bytes::from).ok_or_else(|| format!("{name} is not hexadecimal: {text:?}"))
    }

    fn address(&self, name: &str) -> Result<Bytes, String> {
        match self.str(name)? {
            "" => Ok(Bytes::new()),
            text => match text.parse() {
                Ok(IpAddr::V4(v4)) => Ok(Bytes::copy_from_slice(&v4.octets())),
                Ok(IpAddr::V6(v6)) => Ok(Bytes::copy_from_slice(&v6.octets())),
                Err(_) => Err(format!("{name} is no address: {text:?}")),
            },
        }
    }
}

fn wrong(name: &str, value: &Value) -> String {
    format!("{name} is {value}")
}
