//! A report as a page by itself: no script, nothing from elsewhere, so that it can be kept and sent.

use arrow::datatypes::DataType;
use arrow::record_batch::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use weir::clock::{HOUR_US, parse_utc, utc_text};
use weir::units::grouped;

use super::Made;
use super::catalog::Chart;
use super::text::{lines, objects};
use crate::sheet;
use crate::sheet::readable;

/// So many bars are in a picture.
const BARS_MAX: usize = 20;
/// A longer text may be broken.
const LONG_BYTES: usize = 40;

/// The page.
pub fn page(made: &Made) -> Result<Markup, sheet::Error> {
    let mut parts = Vec::with_capacity(made.parts.len());
    for (part, batches) in &made.parts {
        let drawn = part.chart.map(|chart| drawn(chart, batches));
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
                tbody { @for row in &rows { tr { @for (text, is_number) in row { td.n[*is_number].long[text.len() > LONG_BYTES] { (text) } } } } }
            } }
            p.none { (grouped(rows.len() as u64)) @if rows.len() == 1 { " row" } @else { " rows" } }
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

/// What a picture is of: each name once, with its sum, in the order of the rows.
fn sums(chart: Chart, batches: &[RecordBatch]) -> Vec<(String, i64)> {
    let mut sums: Vec<(String, i64)> = Vec::new();
    for row in objects(batches) {
        let name = match &row[chart.of] {
            serde_json::Value::String(name) if name.is_empty() => "(unknown)".to_owned(),
            serde_json::Value::String(name) => name.clone(),
            other => other.to_string(),
        };
        let amount = row[chart.by].as_i64().unwrap_or(0).max(0);
        match sums.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = known.saturating_add(amount),
            None => sums.push((name, amount)),
        }
    }
    sums
}

fn drawn(chart: Chart, batches: &[RecordBatch]) -> Markup {
    let sums = sums(chart, batches);
    let title = format!("{} by {}", chart.by.replace('_', " "), chart.of.replace('_', " "));
    match chart.of {
        _ if sums.is_empty() => html! {},
        "hour" => hours(&title, &sums),
        _ => bars(&title, sums),
    }
}

/// The longest bars, each with its name and figure: a list first, a picture second.
fn bars(title: &str, mut sums: Vec<(String, i64)>) -> Markup {
    sums.sort_by_key(|(_, amount)| std::cmp::Reverse(*amount));
    let most = sums.first().map_or(0, |(_, amount)| *amount).max(1);
    html! {
        figure.bars {
            figcaption { (title) @if sums.len() > BARS_MAX { " (the first " (BARS_MAX) " of " (sums.len()) ")" } }
            @for (name, amount) in sums.iter().take(BARS_MAX) {
                span.name { (name) }
                svg width="100%" height="14" viewBox="0 0 1000 14" preserveAspectRatio="none" aria-hidden="true" {
                    rect x="0" y="1" height="12" width=(i128::from(*amount) * 1000 / i128::from(most)) {}
                }
                span.n { (grouped(amount.unsigned_abs())) }
            }
        }
    }
}

/// A column for each hour from the first to the last, those without anything too.
fn hours(title: &str, sums: &[(String, i64)]) -> Markup {
    let at = |(text, amount): &(String, i64)| Some((parse_utc(text)?.div_euclid(HOUR_US), *amount));
    let hours: Vec<(i64, i64)> = sums.iter().filter_map(at).collect();
    let (first, last) = (hours.iter().map(|(hour, _)| *hour).min(), hours.iter().map(|(hour, _)| *hour).max());
    let (Some(first), Some(last)) = (first, last) else { return html! {} };
    let most = hours.iter().map(|(_, amount)| *amount).max().unwrap_or(0).max(1);
    let height = |amount: i64| i128::from(amount) * 100 / i128::from(most);
    let shown = |hour: i64| utc_text(hour * HOUR_US).get(..13).map(|text| text.replace('T', " ")).unwrap_or_default();
    html! {
        figure {
            figcaption { (title) ", at most " (grouped(most.unsigned_abs())) }
            svg.hours width="100%" height="120" viewBox={ "0 0 " (last - first + 1) " 100" } preserveAspectRatio="none" aria-hidden="true" {
                @for (hour, amount) in &hours {
                    rect x=(hour - first) y=(100 - height(*amount)) width="0.9" height=(height(*amount)) {}
                }
            }
            div.ends { span { (shown(first)) "h" } span { (shown(last)) "h" } }
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
th,td{text-align:left;padding:.25rem .75rem .25rem 0;border-bottom:1px solid var(--line);vertical-align:top;white-space:nowrap}\
td.long{white-space:normal;min-width:20rem;overflow-wrap:anywhere}\
th{color:var(--soft);font-weight:600}.n{text-align:right}\
li{overflow-wrap:anywhere}\
figure{margin:1rem 0}figcaption{color:var(--soft);grid-column:1/-1}rect{fill:var(--bar)}\
.bars{display:grid;grid-template-columns:fit-content(40%) minmax(4rem,1fr) auto;gap:.1rem .75rem;align-items:center}\
.bars .name{overflow:hidden;text-overflow:ellipsis;white-space:nowrap}\
.hours{border-bottom:1px solid var(--line)}.ends{display:flex;justify-content:space-between;color:var(--soft)}\
footer{color:var(--soft);margin-top:3rem}";

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, StringArray};

    use super::*;
    use crate::completeness::Completeness;
    use crate::report::{Around, find};
    use crate::scope::Scope;

    const HOSTILE: &str = "<script>alert(1)</script>\"'&<img src=x onerror=alert(1)>";

    fn made(report: &str, columns: [(&str, ArrayRef); 2]) -> Made {
        let report = find(report).unwrap();
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        Made {
            report,
            at: HOSTILE.to_owned(),
            parts: report.parts.iter().map(|part| (part, vec![batch.clone()])).collect(),
            around: Around {
                completeness: Completeness::of(&weir::archive::Manifest::default(), &Scope::default()),
                versions: vec![serde_json::json!({ "accounts_version": HOSTILE })],
                rules_then: vec![HOSTILE.to_owned()],
                rules_now: vec![HOSTILE.to_owned()],
                flaws: vec![HOSTILE.to_owned()],
                head: Some(HOSTILE.to_owned()),
            },
        }
    }

    #[test]
    fn whatever_a_record_says_is_text() {
        for (report, of, by) in
            [("residency", "country", "sent_bytes"), ("errors", "hour", "requests"), ("rescreening", HOSTILE, "x")]
        {
            let texts: ArrayRef = Arc::new(StringArray::from(vec![HOSTILE]));
            let page = page(&made(report, [(of, texts), (by, Arc::new(Int64Array::from(vec![-7])))])).unwrap();
            let page = page.into_string();
            assert!(!page.contains("<script") && !page.contains("<img"), "{page}");
            assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;&quot;") && page.contains("−7"), "{page}");
        }
    }

    #[test]
    fn hours_without_anything_have_their_place() {
        let hours: ArrayRef = Arc::new(StringArray::from(vec!["2026-11-22T01:00:00Z", "2026-11-22T04:00:00Z"]));
        let page =
            page(&made("errors", [("hour", hours), ("requests", Arc::new(Int64Array::from(vec![1, 4])))])).unwrap();
        let page = page.into_string();
        assert!(
            page.contains("viewBox=\"0 0 4 100\"") && page.contains("x=\"3\" y=\"0\"") && page.contains("y=\"75\""),
            "{page}"
        );
        assert!(
            page.contains("2026-11-22 01h") && page.contains("2026-11-22 04h") && page.contains("at most 4"),
            "{page}"
        );
    }
}
