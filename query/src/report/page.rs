//! A report as a page by itself: no script, nothing from elsewhere, so that it can be kept and sent.

use arrow::datatypes::DataType;
use arrow::record_batch::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use weir::units::grouped;

use super::Made;
use super::catalog::Chart;
use super::text::{lines, objects};
use crate::sheet;
use crate::sheet::readable;

/// So many bars are in a picture.
const BARS_MAX: usize = 20;

/// The page.
pub fn page(made: &Made) -> Result<Markup, sheet::Error> {
    let mut parts = Vec::with_capacity(made.parts.len());
    for (part, batches) in &made.parts {
        let drawn = part.chart.map(|chart| bars(chart, batches));
        parts.push(html! {
            section {
                h2 { (part.title) }
                @if let Some(drawn) = drawn { (drawn) }
                (table(batches)?)
            }
        });
    }
    Ok(html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (made.report.title) " · weir" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { (made.report.title) }
                p { (made.report.about) }
                ul.around { @for line in lines(made) { li { (line) } } }
                @for part in parts { (part) }
                footer { p { "All times are UTC. 1 GB = 1,000,000,000 B." } }
            }
        }
    })
}

fn table(batches: &[RecordBatch]) -> Result<Markup, sheet::Error> {
    let Some(first) = batches.first() else { return Ok(html! {}) };
    let schema = readable(first, true)?.schema();
    let mut rows = Vec::new();
    for batch in batches {
        let batch = readable(batch, true)?;
        let options = FormatOptions::default();
        let columns: Vec<_> =
            batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options)).collect::<Result<_, _>>()?;
        for row in 0..batch.num_rows() {
            let cells = columns.iter().zip(batch.columns()).map(|(shown, column)| {
                let text = shown.value(row).to_string();
                if is_number(column.data_type()) { (number(&text), true) } else { (text, false) }
            });
            rows.push(cells.collect::<Vec<_>>());
        }
    }
    Ok(html! {
        @if rows.is_empty() { p.none { "Nothing." } } @else {
            div.wide { table {
                thead { tr { @for field in schema.fields() { th.n[is_number(field.data_type())] { (field.name().replace('_', " ")) } } } }
                tbody { @for row in &rows { tr { @for (text, is_number) in row { td.n[*is_number] { (text) } } } } }
            } }
            p.none { (rows.len()) " rows" }
        }
    })
}

fn is_number(kind: &DataType) -> bool {
    kind.is_integer()
}

/// Digits in groups.
fn number(text: &str) -> String {
    let (sign, digits) = text.strip_prefix('-').map_or(("", text), |digits| ("−", digits));
    digits.parse().map_or_else(|_| text.to_owned(), |digits| format!("{sign}{}", grouped(digits)))
}

/// The longest bars, each with its name and figure: a list first, a picture second.
fn bars(chart: Chart, batches: &[RecordBatch]) -> Markup {
    let mut bars: Vec<(String, i64)> = Vec::new();
    for row in objects(batches) {
        let name = match &row[chart.of] {
            serde_json::Value::String(name) if name.is_empty() => "(unknown)".to_owned(),
            serde_json::Value::String(name) => name.clone(),
            other => other.to_string(),
        };
        let length = row[chart.by].as_i64().unwrap_or(0).max(0);
        match bars.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = known.saturating_add(length),
            None => bars.push((name, length)),
        }
    }
    let is_time = chart.of == "hour";
    if !is_time {
        bars.sort_by_key(|(_, length)| std::cmp::Reverse(*length));
    }
    let left_out = bars.len().saturating_sub(BARS_MAX);
    bars.truncate(BARS_MAX);
    let most = bars.iter().map(|(_, length)| *length).max().unwrap_or(0).max(1);
    html! {
        @if !bars.is_empty() {
            figure {
                figcaption { (chart.by.replace('_', " ")) " by " (chart.of.replace('_', " ")) @if left_out > 0 { " (the first " (BARS_MAX) ")" } }
                @for (name, length) in &bars {
                    div.bar {
                        span.name { (name) }
                        svg width="100%" height="14" viewBox="0 0 1000 14" preserveAspectRatio="none" aria-hidden="true" {
                            rect x="0" y="1" height="12" width=(i128::from(*length) * 1000 / i128::from(most)) {}
                        }
                        span.n { (grouped(length.unsigned_abs())) }
                    }
                }
            }
        }
    }
}

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1b2733;--soft:#5a6b7b;--line:#d5dde5;--bar:#1f6fb2}\
@media(prefers-color-scheme:dark){:root{--ink:#e6edf3;--soft:#9fb0c0;--line:#334252;--bar:#58a6e0}}\
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);max-width:1200px;margin:2rem auto;padding:0 1rem}\
h1{font-size:1.6rem;margin:0}h2{font-size:1.15rem;margin:2rem 0 .5rem}\
.around{color:var(--soft);padding-left:1.2rem}.none{color:var(--soft)}\
.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}\
th,td{text-align:left;padding:.25rem .75rem .25rem 0;border-bottom:1px solid var(--line);vertical-align:top}\
th{color:var(--soft);font-weight:600}.n{text-align:right}\
figure{margin:1rem 0}figcaption{color:var(--soft)}\
.bar{display:grid;grid-template-columns:14rem 1fr 12rem;gap:.75rem;align-items:center}\
.bar .name{overflow:hidden;text-overflow:ellipsis;white-space:nowrap}.bar rect{fill:var(--bar)}\
footer{color:var(--soft);margin-top:3rem}";
