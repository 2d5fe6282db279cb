//! What there is to show, as plain functions that return plain structs: the same for the API and the pages.
//!
//! | function | returns |
//! |---|---|
//! | [`totals`] | an amount for each meter |
//! | [`series`] | a line for each hour, day or month of the range, the empty ones too: what a chart is drawn from |
//! | [`breakdown`] | a line for each endpoint, country, protocol, status, …, the largest first |
//! | [`unbilled`] | a line for each reason why something is not billed |
//! | [`usage`] | all of these together: by any dimensions, by time or not |
//! | [`completeness`] | up to when everything has come, and what is missing |
//!
//! Amounts are whole numbers in the meter's unit. Times are µs since 1970, in whole UTC hours.

use std::collections::BTreeMap;

use super::Problem;
use crate::clock::{DAY_US, HOUR_US};
use crate::config::Meter;
use crate::rollup::{Node, Window, amount, nodes, seqs, shown};
use crate::store::{Dimension, Gap, Kind, Series, Slice, Store, Sums};

/// Rows that one answer may be made from.
const ROWS_MAX: usize = 200_000;
/// Hours, days or months in one chart.
const WINDOWS_MAX: i64 = 10_000;

/// Which usage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Whose; none: everybody's. [`super::Viewer::account`] says it.
    pub account: Option<String>,
    /// From this hour on, µs.
    pub from_us: i64,
    /// Up to this hour, µs.
    pub to_us: i64,
    /// Only where a dimension has this label: `(Dimension::Status, "4xx")`.
    pub only: Vec<(Dimension, String)>,
}

/// One line: when and of what, and an amount for each meter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The window's name (`2026-11-23T01Z`, `2026-11-23`, `2026-11`) and first µs, where lines are cut by time.
    pub window: Option<(String, i64)>,
    /// A label for each dimension; empty where it says nothing.
    pub labels: Vec<String>,
    /// In the meters' order and units.
    pub amounts: Vec<i64>,
}

/// Up to when everything has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completeness {
    /// Everything up to here has come, µs. None: nothing more is expected of any node, or nothing ever came (`nodes` is empty).
    pub until_us: Option<i64>,
    /// Records that are missing, in all gaps.
    pub missing_records: u64,
    /// By node.
    pub nodes: Vec<Node>,
    /// Exact ranges that did not come.
    pub gaps: Vec<Gap>,
    /// Pieces that cannot be read.
    pub quarantined: i64,
}

/// By any dimensions, by time or not; ordered by window and labels.
pub async fn usage(
    store: &Store,
    question: &Question,
    meters: &[Meter],
    by: &[Dimension],
    window: Option<Window>,
) -> Result<Vec<Line>, Problem> {
    lines(store, question, meters, by, window, |_| true).await
}

/// An amount for each meter.
pub async fn totals(store: &Store, question: &Question, meters: &[Meter]) -> Result<Vec<i64>, Problem> {
    let lines = usage(store, question, meters, &[], None).await?;
    Ok(lines.into_iter().next().map_or_else(|| vec![0; meters.len()], |line| line.amounts))
}

/// A line for each window of the range, in order. An open end of the range is where usage begins or ends.
pub async fn series(
    store: &Store,
    question: &Question,
    meters: &[Meter],
    window: Window,
) -> Result<Vec<Line>, Problem> {
    let found = usage(store, question, meters, &[], Some(window)).await?;
    let starts: Vec<i64> = found.iter().filter_map(|line| line.window.as_ref().map(|(_, from_us)| *from_us)).collect();
    let (Some(first_us), Some(last_us)) = (starts.first().copied(), starts.last().copied()) else {
        return Ok(Vec::new());
    };
    let mut at_us = if question.from_us == i64::MIN { first_us } else { window.of(question.from_us).1 };
    let end_us = if question.to_us == i64::MAX { last_us + 1 } else { question.to_us };
    let shortest_us = if window == Window::Hour { HOUR_US } else { DAY_US };
    if end_us.saturating_sub(at_us) / shortest_us > WINDOWS_MAX {
        return Err(Problem::bad(format!(
            "this is more than {WINDOWS_MAX} pieces of time: ask for less, or for longer ones"
        )));
    }
    let mut found: BTreeMap<i64, Line> = starts.into_iter().zip(found).collect();
    let mut lines = Vec::new();
    while at_us < end_us {
        let (name, from_us) = window.of(at_us);
        let empty = || Line { window: Some((name, from_us)), labels: Vec::new(), amounts: vec![0; meters.len()] };
        lines.push(found.remove(&from_us).unwrap_or_else(empty));
        at_us = next(window, from_us);
    }
    Ok(lines)
}

/// A line for each label, the one with the most of the first meter first.
pub async fn breakdown(
    store: &Store,
    question: &Question,
    meters: &[Meter],
    by: Dimension,
) -> Result<Vec<Line>, Problem> {
    let mut lines = usage(store, question, meters, &[by], None).await?;
    lines.sort_by_key(|line| std::cmp::Reverse(line.amounts.clone()));
    Ok(lines)
}

/// What is not billed: a line for each reason, the largest first. The formula of the meters, but of what is not billable alone.
pub async fn unbilled(store: &Store, question: &Question, meters: &[Meter]) -> Result<Vec<Line>, Problem> {
    let all: Vec<Meter> = meters.iter().map(|meter| Meter { unbillable: true, ..meter.clone() }).collect();
    let mut lines = lines(store, question, &all, &[Dimension::Reason], None, |series| !series.billable).await?;
    lines.sort_by_key(|line| std::cmp::Reverse(line.amounts.clone()));
    Ok(lines)
}

/// Up to when everything has come.
pub async fn completeness(store: &Store) -> Result<Completeness, Problem> {
    let (streams, gaps) = store.progress().await?;
    let nodes = nodes(&streams, &gaps, &store.periods().await?, &store.lost_nodes().await?);
    Ok(Completeness {
        until_us: nodes.iter().filter_map(|node| node.complete_until_us).min(),
        missing_records: gaps.iter().filter(|gap| gap.cause != "stated").map(seqs).sum(),
        nodes,
        gaps,
        quarantined: store.quarantine_count().await?,
    })
}

async fn lines(
    store: &Store,
    question: &Question,
    meters: &[Meter],
    by: &[Dimension],
    window: Option<Window>,
    takes: impl Fn(&Series) -> bool,
) -> Result<Vec<Line>, Problem> {
    let slice = Slice {
        account: question.account.clone(),
        from_us: question.from_us,
        to_us: question.to_us,
        only: question.only.clone(),
        by: needed(meters, by),
        step_us: match window {
            None => 0,
            Some(Window::Hour) => HOUR_US,
            Some(Window::Day | Window::Month) => DAY_US,
        },
        rows_max: ROWS_MAX,
    };
    let Some(rows) = store.slice(&slice).await? else {
        return Err(Problem::bad(format!(
            "this is more than {ROWS_MAX} rows: ask for a shorter time, or group by less"
        )));
    };
    let mut lines: BTreeMap<(i64, Vec<String>), Line> = BTreeMap::new();
    for (series, at_us, row) in rows.iter().filter(|(series, ..)| series.kind != Kind::Gap && takes(series)) {
        let window = window.map(|window| window.of(*at_us));
        let from_us = window.as_ref().map_or(0, |(_, from_us)| *from_us);
        let labels: Vec<String> = by.iter().map(|dimension| dimension.label(series)).collect();
        let line = lines.entry((from_us, labels.clone())).or_insert_with(|| Line {
            window,
            labels,
            amounts: vec![0; meters.len()],
        });
        add(&mut line.amounts, meters, series, row);
    }
    let mut lines: Vec<Line> = lines.into_values().collect();
    for line in &mut lines {
        line.amounts.iter_mut().zip(meters).for_each(|(sum, meter)| *sum = shown(meter, *sum));
    }
    Ok(lines)
}

fn add(amounts: &mut [i64], meters: &[Meter], series: &Series, sums: &Sums) {
    for (to, meter) in amounts.iter_mut().zip(meters) {
        *to = to.saturating_add(amount(meter, series, sums));
    }
}

/// What lines are told apart by, and what the meters look at.
fn needed(meters: &[Meter], by: &[Dimension]) -> Vec<Dimension> {
    let mut needed = by.to_vec();
    for meter in meters {
        let lists = [
            (&meter.protocols, Dimension::Protocol),
            (&meter.countries, Dimension::Country),
            (&meter.endpoints, Dimension::Endpoint),
            (&meter.hosts, Dimension::Host),
        ];
        needed.extend(lists.into_iter().filter(|(list, _)| !list.is_empty()).map(|(_, dimension)| dimension));
    }
    needed.sort_unstable();
    needed.dedup();
    needed
}

fn next(window: Window, from_us: i64) -> i64 {
    match window {
        Window::Hour => from_us + HOUR_US,
        Window::Day => from_us + DAY_US,
        // No month is longer than 31 days, none shorter than 28.
        Window::Month => window.of(from_us + 31 * DAY_US).1.max(window.of(from_us + 28 * DAY_US).1),
    }
}
