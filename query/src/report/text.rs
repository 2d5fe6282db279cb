//! A report as text: for a terminal, as JSON, as CSV.

use std::io::Write;

use arrow::json::LineDelimitedWriter;
use arrow::json::writer::{LineDelimited, Writer as JsonWriter, WriterBuilder};
use arrow::record_batch::RecordBatch;
use serde_json::{Map, Value, json};
use weir::units::grouped;

use super::Made;
use crate::sheet::{self, Format, Sheet, readable};

/// For a terminal: what it is about, each part as a table.
pub fn table(made: &Made, mut out: impl Write + Send) -> Result<(), sheet::Error> {
    writeln!(out, "{}: {}", made.report.title, made.report.about)?;
    for line in lines(made) {
        writeln!(out, "{line}")?;
    }
    for (part, batches) in &made.parts {
        writeln!(out, "\n{}", part.title)?;
        print(Format::Table, batches, &mut out)?;
    }
    out.flush()?;
    Ok(())
}

/// The part with this name, or the first.
pub fn csv(made: &Made, wanted: Option<&str>, out: impl Write + Send) -> Result<(), sheet::Error> {
    let mut parts = made.parts.iter();
    let part = parts.find(|(part, _)| wanted.is_none_or(|wanted| part.name == wanted));
    match part {
        Some((_, batches)) => print(Format::Csv, batches, out),
        None => Ok(()),
    }
}

/// Everything; `said` is what the question around it has to say.
pub fn json(made: &Made, said: &Value, mut out: impl Write) -> Result<(), sheet::Error> {
    let mut parts = Map::new();
    for (part, batches) in &made.parts {
        let columns = batches.first().map(|batch| json!(sheet::columns(&batch.schema())));
        let chart = part.chart.map(|chart| json!({ "of": chart.of, "by": chart.by }));
        let told = json!({ "title": part.title, "columns": columns, "chart": chart, "rows": objects(batches) });
        parts.insert(part.name.to_owned(), told);
    }
    // Members of an object have no order.
    let order: Vec<&str> = made.parts.iter().map(|(part, _)| part.name).collect();
    let mut whole = json!({
        "report": made.report.name, "title": made.report.title, "about": made.report.about, "at": made.at,
        "order": order, "parts": parts,
    });
    for more in [serde_json::to_value(&made.around)?, said.clone()] {
        if let (Value::Object(whole), Value::Object(more)) = (&mut whole, more) {
            whole.extend(more);
        }
    }
    writeln!(out, "{whole}")?;
    out.flush()?;
    Ok(())
}

/// What stands around it, for people.
pub(super) fn lines(made: &Made) -> Vec<String> {
    let mut lines = vec![format!("made {}", made.at)];
    lines.extend(made.around.completeness.lines());
    for version in &made.around.versions {
        lines.push(format!(
            "databases of {}, accounts version {}: {} records, {} to {}",
            epoch(&version["geo_epoch"]),
            version["accounts_version"],
            version["records"].as_u64().map_or_else(|| version["records"].to_string(), grouped),
            version["first_at"].as_str().unwrap_or_default(),
            version["last_at"].as_str().unwrap_or_default()
        ));
    }
    if made.report.name == "rescreening" {
        let named = |rules: &[String]| if rules.is_empty() { "none".to_owned() } else { rules.join(", ") };
        lines.push(format!("rules then, as records name them: {}", named(&made.around.rules_then)));
        lines.push(format!("rules now: {}", named(&made.around.rules_now)));
    }
    if let Some(head) = &made.around.head {
        let state = if made.around.flaws.is_empty() { "the access log is whole" } else { "THE ACCESS LOG WAS CHANGED" };
        lines.push(format!("{state}; its last line is {head}"));
    }
    lines.extend(made.around.flaws.iter().map(|flaw| format!("  {flaw}")));
    lines
}

/// Seconds since 1970; 0: there were none.
fn epoch(seconds: &Value) -> String {
    match seconds.as_i64() {
        None | Some(0) => "(none)".to_owned(),
        Some(seconds) => weir::clock::utc_text(seconds.saturating_mul(1_000_000)),
    }
}

/// Rows as JSON; empty where they cannot be, which no column of ours is.
pub(super) fn objects(batches: &[RecordBatch]) -> Vec<Value> {
    let mut lines: JsonWriter<Vec<u8>, LineDelimited> =
        WriterBuilder::new().with_explicit_nulls(true).build(Vec::new());
    for batch in batches {
        if readable(batch, false).and_then(|batch| lines.write(&batch)).is_err() {
            return Vec::new();
        }
    }
    if lines.finish().is_err() {
        return Vec::new();
    }
    let lines = LineDelimitedWriter::into_inner(lines);
    lines.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect()
}

/// Texts of a column.
pub(super) fn words(batches: &[RecordBatch], column: &str) -> Vec<String> {
    objects(batches).iter().filter_map(|row| row[column].as_str().map(str::to_owned)).collect()
}

fn print(format: Format, batches: &[RecordBatch], out: impl Write + Send) -> Result<(), sheet::Error> {
    let Some(first) = batches.first() else { return Ok(()) };
    let mut sheet = Sheet::begin(format, first.schema(), out)?;
    for batch in batches {
        sheet.add(batch)?;
    }
    sheet.end(&Value::Null)
}
