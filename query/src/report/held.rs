//! Tables that only reports have: what the manifest and the access log say, and records with the verdict of today's rules.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema};
use arrow::json::ReaderBuilder;
use datafusion::common::Result;
use datafusion::datasource::{MemTable, ViewTable};
use datafusion::logical_expr::ScalarUDF;
use datafusion::prelude::SessionContext;
use serde::Serialize;
use weir::archive::{Manifest, Table};
use weir::clock::{parse_utc, utc_text};
use weir::units::Column;

use crate::access_log::{Asked, Log, What};
use crate::functions::screened_now::ScreenedNow;
use crate::scope::Scope;

/// `rescreened`: records with what was said of them, and what would be said now.
pub(super) async fn rescreened(context: &SessionContext, now: ScreenedNow) -> Result<()> {
    context.register_udf(ScalarUDF::from(now));
    let plan = context.state().create_logical_plan(RESCREENED).await?;
    context.register_table("rescreened", Arc::new(ViewTable::new(plan, Some(RESCREENED.to_owned()))))?;
    Ok(())
}

const RESCREENED: &str = "SELECT kind, at, session_id, request_id, account, country, region, asn, labels, client_ip, \
     received_wire_bytes, sent_wire_bytes, CASE WHEN screening = '' THEN 'clear' ELSE screening END AS then_verdict, \
     screening_rule AS then_rule, split_part(now, ' ', 1) AS now_verdict, split_part(now, ' ', 2) AS now_rule FROM ( \
       SELECT 'request' AS kind, at, session_id, request_id, account, country, region, asn, labels, client_ip, received_wire_bytes, \
              sent_wire_bytes, screening, screening_rule, screened_now(country, region, asn, labels, account) AS now FROM requests \
       UNION ALL \
       SELECT 'session', at, session_id, NULL, account, country, region, asn, labels, client_ip, received_wire_bytes, \
              sent_wire_bytes, screening, screening_rule, screened_now(country, region, asn, labels, account) FROM sessions)";

#[derive(Serialize)]
struct Question {
    seq: u64,
    at: String,
    who: String,
    via: String,
    account: String,
    what: String,
    purpose: String,
    sql: String,
    parameters: String,
    from: String,
    to: String,
    outcome: String,
    rows: Option<u64>,
    took_ms: Option<u64>,
}

/// `access`: questions of the scope's time, each with its end; with a mark, only those in which it stands.
pub(super) fn access(context: &SessionContext, log: &Log, scope: &Scope, mark: Option<&str>) -> Result<()> {
    let mut ends = BTreeMap::new();
    for entry in &log.entries {
        if let What::Ended(ended) = &entry.what {
            ends.insert(ended.of, ended);
        }
    }
    let mut questions = Vec::new();
    for entry in &log.entries {
        let What::Begun(asked) = &entry.what else { continue };
        let at_us = parse_utc(&format!("{}Z", entry.at.get(..19).unwrap_or_default())).unwrap_or(0);
        if at_us < scope.from_us || at_us >= scope.to_us {
            continue;
        }
        if mark.is_some_and(|mark| !has(asked, mark)) {
            continue;
        }
        let end = ends.get(&entry.seq);
        let parameters: Vec<String> = asked.parameters.iter().map(|(name, value)| format!("{name}={value}")).collect();
        questions.push(Question {
            seq: entry.seq,
            at: entry.at.clone(),
            who: asked.who.clone(),
            via: asked.via.clone(),
            account: asked.account.clone().unwrap_or_default(),
            what: asked.what.clone(),
            purpose: asked.purpose.clone(),
            sql: asked.sql.clone(),
            parameters: parameters.join(" "),
            from: asked.from.clone(),
            to: asked.to.clone(),
            outcome: end.map_or_else(|| "no end: it still runs, or was killed".to_owned(), |end| end.outcome.clone()),
            rows: end.map(|end| end.rows),
            took_ms: end.map(|end| end.took_ms),
        });
    }
    let texts = ["at", "who", "via", "account", "what", "purpose", "sql", "parameters", "from", "to", "outcome"];
    let columns = [("seq", DataType::Int64), ("rows", DataType::Int64), ("took_ms", DataType::Int64)];
    register(context, "access", &texts, &columns, &questions)
}

fn has(asked: &Asked, mark: &str) -> bool {
    asked.sql.contains(mark)
        || asked.purpose.contains(mark)
        || asked.parameters.values().any(|value| value.contains(mark))
}

#[derive(Serialize)]
struct Held {
    table_name: &'static str,
    files: i64,
    rows: i64,
    file_bytes: i64,
    first_at: Option<String>,
    last_at: Option<String>,
    kept: String,
}

#[derive(Serialize)]
struct Gone {
    table_name: &'static str,
    rows: i64,
    received_bytes: i64,
    sent_bytes: i64,
}

#[derive(Serialize)]
struct Erased {
    at: String,
    kind: String,
    actor: String,
    keys: i64,
    files: i64,
    rows: i64,
    subject: String,
}

#[derive(Serialize)]
struct Hold {
    name: String,
    account: String,
    from_at: String,
    to_at: String,
    reason: String,
    actor: String,
    at: String,
}

/// `held`, `expired`, `erased`, `holds`.
pub(super) fn retention(context: &SessionContext, manifest: &Manifest, keep_days: [u32; 3]) -> Result<()> {
    let (mut held, mut gone) = (Vec::new(), Vec::new());
    for (table, keep_days) in Table::ALL.into_iter().zip(keep_days) {
        let files = || manifest.files.values().filter(move |file| file.table == table);
        held.push(Held {
            table_name: table.name(),
            files: files().count() as i64,
            rows: files().map(|file| file.rows).sum(),
            file_bytes: files().map(|file| file.file_bytes).sum(),
            first_at: files().map(|file| file.first_at_us).min().map(utc_text),
            last_at: files().map(|file| file.last_at_us).max().map(utc_text),
            kept: if keep_days == 0 { "for ever".to_owned() } else { format!("{keep_days} days") },
        });
        let expired = || manifest.expired.iter().filter(move |gone| gone.table == table);
        let sum = |column: Column| expired().map(|gone| gone.sums[column as usize]).sum();
        gone.push(Gone {
            table_name: table.name(),
            rows: expired().flat_map(|gone| &gone.streams).map(|rows| rows.rows).sum(),
            received_bytes: sum(Column::ReceivedWire),
            sent_bytes: sum(Column::SentWire),
        });
    }
    let erased = manifest.certificates.iter().map(|certificate| Erased {
        at: utc_text(certificate.at_us),
        kind: certificate.kind.clone(),
        actor: certificate.actor.clone(),
        keys: certificate.keys,
        files: certificate.files,
        rows: certificate.rows,
        subject: certificate.subject.to_string(),
    });
    let open = |us: i64| if us == i64::MIN || us == i64::MAX { String::new() } else { utc_text(us) };
    let holds = manifest.holds.iter().map(|hold| Hold {
        name: hold.name.clone(),
        account: hold.account.clone().unwrap_or_default(),
        from_at: open(hold.from_us),
        to_at: open(hold.to_us),
        reason: hold.reason.clone(),
        actor: hold.actor.clone(),
        at: utc_text(hold.at_us),
    });
    let number = |name| (name, DataType::Int64);
    let counts = ["files", "rows", "file_bytes"].map(number);
    register(context, "held", &["table_name", "first_at", "last_at", "kept"], &counts, &held)?;
    let sums = ["rows", "received_bytes", "sent_bytes"].map(number);
    register(context, "expired", &["table_name"], &sums, &gone)?;
    let counts = ["keys", "files", "rows"].map(number);
    register(context, "erased", &["at", "kind", "actor", "subject"], &counts, &erased.collect::<Vec<_>>())?;
    let texts = ["name", "account", "from_at", "to_at", "reason", "actor", "at"];
    register(context, "holds", &texts, &[], &holds.collect::<Vec<_>>())
}

/// A table of what can be written as JSON.
fn register<T: Serialize>(
    context: &SessionContext,
    name: &str,
    texts: &[&str],
    others: &[(&str, DataType)],
    rows: &[T],
) -> Result<()> {
    let texts = texts.iter().map(|name| Field::new(*name, DataType::Utf8, true));
    let others = others.iter().map(|(name, kind)| Field::new(*name, kind.clone(), true));
    let schema = Arc::new(Schema::new(texts.chain(others).collect::<Vec<_>>()));
    let mut decoder = ReaderBuilder::new(schema.clone()).with_batch_size(rows.len().max(1)).build_decoder()?;
    decoder.serialize(rows)?;
    let batch = decoder.flush()?.unwrap_or_else(|| RecordBatch::new_empty(schema.clone()));
    context.register_table(name, Arc::new(MemTable::try_new(schema, vec![vec![batch]])?))?;
    Ok(())
}
