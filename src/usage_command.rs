//! `weir usage`: what an account used, by meter, and up to when that is complete; on a terminal with a chart of the first meter.

mod chart;

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};

use anyhow::Context;
use serde_json::json;

use crate::cli::{UsageArgs, UsageBy};
use crate::clock::{HOUR_US, utc_text};
use crate::config::Meter;
use crate::ledger_command::{Setting, hour, runtime};
use crate::rollup::{Window, amount, nodes, shown};
use crate::sheet::text_field;
use crate::store::{Correction, Filter, Group, Series, Sums};
use crate::units::grouped;
use chart::Terminal;

/// Without --by, on a terminal: by hour up to so many hours, else by day.
const CHART_HOURS_MAX: usize = 72;

/// One line: what it is about, and an amount for each meter.
struct Line {
    label: String,
    amounts: Vec<i64>,
}

/// Prints it.
pub fn run(args: &UsageArgs) -> anyhow::Result<()> {
    let setting = Setting::of(&args.place)?;
    let meters = chosen(&setting.meters, &args.meters)?;
    let filter = Filter {
        account: args.account.clone(),
        from_us: hour(&args.from, i64::MIN)?,
        to_us: hour(&args.to, i64::MAX)?,
    };
    let terminal = Terminal::of_stdout().filter(|_| std::io::stdout().is_terminal());
    let is_by_time = window(args.by).is_some() || args.by.is_none() && terminal.is_some();
    let group = if is_by_time { Group::Hour } else { Group::Series };
    let (rows, found, corrections) = runtime()?.block_on(async {
        let store = setting.store().await?;
        anyhow::Ok((store.usage(&filter, group).await?, store.load().await?, store.corrections().await?))
    })?;
    let corrected = corrected(&rows, &meters, corrections);
    let nodes = nodes(&found.streams, &found.gaps, &found.periods, &found.lost);
    let complete_until_us = nodes.iter().filter_map(|node| node.complete_until_us).min();
    let missing: u64 = nodes.iter().map(|node| node.missing).sum();
    let lines = lines(&rows, &meters, args.by);
    let mut out = std::io::stdout().lock();
    if args.json {
        for line in &lines {
            writeln!(out, "{}", object(line, &meters, args))?;
        }
        for (Correction { id, actor, reason, .. }, amounts) in &corrected {
            let of: BTreeMap<&str, i64> = meters.iter().map(|meter| meter.name.as_str()).zip(amounts.clone()).collect();
            writeln!(out, "{}", json!({ "correction": id, "actor": actor, "reason": reason, "of_which": of }))?;
        }
        let complete = complete_until_us.map(utc_text);
        writeln!(out, "{}", json!({ "complete_until": complete, "missing_records": missing }))?;
        return Ok(());
    }
    if args.csv {
        let names: Vec<&str> = meters.iter().map(|meter| meter.name.as_str()).collect();
        writeln!(out, "{},{}", label(args.by), names.join(","))?;
        for line in &lines {
            let amounts: Vec<String> = line.amounts.iter().map(i64::to_string).collect();
            writeln!(out, "{},{}", text_field(&line.label), amounts.join(","))?;
        }
        return Ok(());
    }
    table(&mut out, &lines, &meters, args.by, terminal)?;
    if let Some(terminal) = terminal.filter(|_| is_by_time) {
        let hours = self::lines(&rows, &meters, Some(UsageBy::Hour));
        let by = match args.by {
            None if hours.len() <= CHART_HOURS_MAX => UsageBy::Hour,
            by => by.unwrap_or(UsageBy::Day),
        };
        if let Some(meter) = meters.first() {
            draw(&mut out, &whole(&self::lines(&rows, &meters, Some(by)), &rows, by), meter, terminal)?;
        }
    }
    for (Correction { id, actor, reason, .. }, amounts) in &corrected {
        let of = meters.iter().zip(amounts).filter(|(_, sum)| **sum != 0);
        let of: Vec<String> = of.map(|(meter, sum)| format!("{} {sum:+}", meter.name)).collect();
        writeln!(out, "\nof this by correction {id}: {} ({actor}: {reason})", of.join(", "))?;
    }
    match complete_until_us {
        _ if nodes.is_empty() => writeln!(out, "\nno record has come yet")?,
        Some(until_us) => writeln!(out, "\ncomplete up to {}", utc_text(until_us))?,
        None => writeln!(out, "\ncomplete: every node has closed its records")?,
    }
    if missing > 0 {
        writeln!(out, "{} records are missing; `weir audit` names them", grouped(missing))?;
    }
    Ok(())
}

fn chosen(all: &[Meter], names: &[String]) -> anyhow::Result<Vec<Meter>> {
    if names.is_empty() {
        return Ok(all.to_vec());
    }
    let find = |name: &String| {
        let known: Vec<&str> = all.iter().map(|meter| meter.name.as_str()).collect();
        let meter = all.iter().find(|meter| meter.name == *name).cloned();
        meter.with_context(|| format!("there is no meter {name:?}; there are {}", known.join(", ")))
    };
    names.iter().map(find).collect()
}

fn window(by: Option<UsageBy>) -> Option<Window> {
    match by? {
        UsageBy::Hour => Some(Window::Hour),
        UsageBy::Day => Some(Window::Day),
        UsageBy::Month => Some(Window::Month),
        _ => None,
    }
}

fn label(by: Option<UsageBy>) -> String {
    by.map_or_else(|| "total".to_owned(), |by| format!("{by:?}").to_lowercase())
}

fn lines(rows: &[(Series, i64, Sums)], meters: &[Meter], by: Option<UsageBy>) -> Vec<Line> {
    let mut sums: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    let window = window(by);
    for (series, hour_us, row) in rows {
        let label = match (window, by) {
            (Some(window), _) => window.of(*hour_us).0,
            (None, Some(UsageBy::Account)) => series.account.clone(),
            (None, Some(UsageBy::Endpoint)) => series.endpoint.clone(),
            (None, Some(UsageBy::Host)) => series.host.clone(),
            (None, Some(UsageBy::Protocol)) => series.protocol.clone(),
            (None, Some(UsageBy::Country)) => series.country.clone(),
            (None, Some(UsageBy::Status)) => match series.status_class {
                0 => String::new(),
                class => format!("{class}xx"),
            },
            (None, Some(UsageBy::Reason)) => series.reason.clone(),
            (None, Some(UsageBy::Kind)) => series.kind.name().to_owned(),
            _ => "total".to_owned(),
        };
        // By reason: what was not billed, and why; so all of it counts.
        let all = by == Some(UsageBy::Reason);
        let amounts = sums.entry(label).or_insert_with(|| vec![0; meters.len()]);
        for (sum, meter) in amounts.iter_mut().zip(meters) {
            let meter = if all { &Meter { unbillable: true, ..meter.clone() } } else { meter };
            *sum += amount(meter, series, row);
        }
    }
    let line = |(label, amounts): (String, Vec<i64>)| Line {
        label,
        amounts: amounts.iter().zip(meters).map(|(sum, meter)| shown(meter, *sum)).collect(),
    };
    sums.into_iter().map(line).collect()
}

fn object(line: &Line, meters: &[Meter], args: &UsageArgs) -> serde_json::Value {
    let mut value = serde_json::Map::new();
    if let Some(account) = &args.account {
        value.insert("account".to_owned(), account.as_str().into());
    }
    if args.by.is_some() {
        value.insert(label(args.by), line.label.as_str().into());
    }
    for (meter, amount) in meters.iter().zip(&line.amounts) {
        value.insert(meter.name.clone(), (*amount).into());
    }
    value.into()
}

/// The first meter's amount in each window from the first to the last, in those without usage too.
fn whole(lines: &[Line], rows: &[(Series, i64, Sums)], by: UsageBy) -> Vec<(String, i64)> {
    let hours = rows.iter().map(|(_, hour_us, _)| *hour_us);
    let (Some(window), Some(first), Some(last)) = (window(Some(by)), hours.clone().min(), hours.max()) else {
        return Vec::new();
    };
    let mut known = lines.iter().map(|line| (line.label.as_str(), line.amounts.first().copied().unwrap_or(0)));
    let mut next = known.next();
    let mut windows: Vec<(String, i64)> = Vec::new();
    let mut hour_us = first;
    while hour_us <= last {
        let label = window.of(hour_us).0;
        hour_us += HOUR_US;
        if windows.last().is_some_and(|(before, _)| *before == label) {
            continue;
        }
        let n = match next.filter(|(known, _)| *known == label) {
            Some((_, n)) => {
                next = known.next();
                n
            }
            None => 0,
        };
        windows.push((label, n));
    }
    windows
}

/// Over time.
fn draw(out: &mut impl Write, windows: &[(String, i64)], meter: &Meter, terminal: Terminal) -> anyhow::Result<()> {
    let [(first, _), .., (last, _)] = windows else { return Ok(()) };
    let values: Vec<i64> = windows.iter().map(|(_, n)| *n).collect();
    let most = grouped(values.iter().copied().max().unwrap_or(0).unsigned_abs());
    writeln!(out, "\n{} {}", meter.name, most)?;
    let rows = terminal.columns_of(&values);
    for row in &rows {
        writeln!(out, "{row}")?;
    }
    if first.len() + last.len() >= terminal.columns {
        return Ok(writeln!(out, "{first}\n{last:>0$}", terminal.columns.max(last.len()))?);
    }
    let wide = rows.first().map_or(0, |row| row.chars().count());
    let between = wide.saturating_sub(first.len() + last.len()).max(1);
    Ok(writeln!(out, "{first}{}{last}", " ".repeat(between))?)
}

/// What corrections brought of this, by meter.
fn corrected(
    rows: &[(Series, i64, Sums)],
    meters: &[Meter],
    corrections: Vec<Correction>,
) -> Vec<(Correction, Vec<i64>)> {
    let of = |correction: &Correction| -> Option<Vec<i64>> {
        let mut rows = rows.iter().filter(|(series, ..)| series.correction == correction.id).peekable();
        rows.peek()?;
        let mut sums = vec![0; meters.len()];
        for (series, _, row) in rows {
            sums.iter_mut().zip(meters).for_each(|(sum, meter)| *sum += amount(meter, series, row));
        }
        Some(sums.iter().zip(meters).map(|(sum, meter)| shown(meter, *sum)).collect())
    };
    corrections.into_iter().filter_map(|correction| of(&correction).map(|sums| (correction, sums))).collect()
}

fn table(
    out: &mut impl Write,
    lines: &[Line],
    meters: &[Meter],
    by: Option<UsageBy>,
    terminal: Option<Terminal>,
) -> anyhow::Result<()> {
    let wide = lines.iter().map(|line| line.label.chars().count()).max().unwrap_or(0).max(16);
    let table_columns = wide + 19 * meters.len();
    if terminal.is_some_and(|terminal| terminal.columns < table_columns) {
        return list(out, lines, meters, by);
    }
    write!(out, "{:<wide$}", label(by))?;
    for meter in meters {
        write!(out, " {:>18}", meter.name)?;
    }
    writeln!(out)?;
    let most = lines.iter().filter_map(|line| line.amounts.first()).copied().max().unwrap_or(0);
    let is_chart = by.is_some() && window(by).is_none() && lines.len() > 1;
    let chart = terminal.filter(|terminal| is_chart && terminal.columns > table_columns + 5);
    for line in lines {
        write!(out, "{:<wide$}", if line.label.is_empty() { "-" } else { &line.label })?;
        for amount in &line.amounts {
            write!(out, " {:>18}", figure(*amount))?;
        }
        if let Some(terminal) = chart {
            let room = terminal.columns - table_columns - 2;
            write!(out, "  {}", terminal.bar(line.amounts.first().copied().unwrap_or(0), most, room))?;
        }
        writeln!(out)?;
    }
    Ok(())
}

/// The same below one another, for a terminal that is narrower than the table.
fn list(out: &mut impl Write, lines: &[Line], meters: &[Meter], by: Option<UsageBy>) -> anyhow::Result<()> {
    for line in lines {
        if by.is_some() {
            writeln!(out, "{}", if line.label.is_empty() { "-" } else { &line.label })?;
        }
        for (meter, amount) in meters.iter().zip(&line.amounts) {
            writeln!(out, " {:<15}{:>18}", meter.name, figure(*amount))?;
        }
    }
    Ok(())
}

fn figure(amount: i64) -> String {
    let sign = if amount < 0 { "-" } else { "" };
    format!("{sign}{}", grouped(amount.unsigned_abs()))
}
