//! `weir usage`: what an account used, by meter, and up to when that is complete.

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::Context;

use crate::cli::{UsageArgs, UsageBy};
use crate::clock::{parse_utc, utc_text};
use crate::config::{Meter, MeterColumn};
use crate::event::csv_field;
use crate::ledger_command::{Setting, runtime};
use crate::rollup::{Window, amount, nodes, shown};
use crate::store::{Filter, Group, Series, Sums};
use crate::units::grouped;

/// Widest bar of the chart, in characters.
const BAR: i64 = 30;

/// One line: what it is about, and an amount for each meter.
struct Line {
    label: String,
    amounts: Vec<i64>,
}

/// Prints it.
pub fn run(args: &UsageArgs) -> anyhow::Result<()> {
    let setting = Setting::of(&args.place)?;
    let meters = chosen(&setting.meters, &args.meters)?;
    let time = |text: &Option<String>, default| match text {
        None => Ok(default),
        Some(text) => {
            parse_utc(text).with_context(|| format!("{text:?} is no time: write 2026-01-31 or 2026-01-31T12:00:00Z"))
        }
    };
    let filter = Filter {
        account: args.account.clone(),
        from_us: time(&args.from, i64::MIN)?,
        to_us: time(&args.to, i64::MAX)?,
    };
    let group = if window(args.by).is_some() { Group::Hour } else { Group::Series };
    let (rows, found) = runtime()?.block_on(async {
        let store = setting.store().await?;
        anyhow::Ok((store.usage(&filter, group).await?, store.load().await?))
    })?;
    let nodes = nodes(&found.streams, &found.gaps);
    let complete_until_us = nodes.iter().filter_map(|node| node.complete_until_us).min();
    let missing: u64 = nodes.iter().map(|node| node.missing).sum();
    let lines = lines(&rows, &meters, args.by);
    let mut out = std::io::stdout().lock();
    if args.json {
        for line in &lines {
            writeln!(out, "{}", json(line, &meters, args))?;
        }
        let complete = complete_until_us.map(utc_text);
        writeln!(out, "{}", serde_json::json!({ "complete_until": complete, "missing_records": missing }))?;
        return Ok(());
    }
    if args.csv {
        let names: Vec<&str> = meters.iter().map(|meter| meter.name.as_str()).collect();
        writeln!(out, "{},{}", label(args.by), names.join(","))?;
        for line in &lines {
            let amounts: Vec<String> = line.amounts.iter().map(i64::to_string).collect();
            writeln!(out, "{},{}", csv_field(&line.label), amounts.join(","))?;
        }
        return Ok(());
    }
    table(&mut out, &lines, &meters, args.by)?;
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

fn json(line: &Line, meters: &[Meter], args: &UsageArgs) -> serde_json::Value {
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

fn table(out: &mut impl Write, lines: &[Line], meters: &[Meter], by: Option<UsageBy>) -> anyhow::Result<()> {
    let wide = lines.iter().map(|line| line.label.chars().count()).max().unwrap_or(0).max(16);
    write!(out, "{:<wide$}", label(by))?;
    for meter in meters {
        write!(out, " {:>18}", meter.name)?;
    }
    writeln!(out)?;
    let most = lines.iter().filter_map(|line| line.amounts.first()).copied().max().unwrap_or(0);
    let is_chart = lines.len() > 1
        && most > 0
        && !matches!(meters.first(), Some(Meter { column: MeterColumn::SessionSeconds, .. }));
    for line in lines {
        write!(out, "{:<wide$}", if line.label.is_empty() { "-" } else { &line.label })?;
        for amount in &line.amounts {
            let sign = if *amount < 0 { "-" } else { "" };
            write!(out, " {:>18}", format!("{sign}{}", grouped(amount.unsigned_abs())))?;
        }
        if is_chart {
            let first = line.amounts.first().copied().unwrap_or(0).max(0);
            let bar = usize::try_from(i128::from(first) * i128::from(BAR) / i128::from(most)).unwrap_or(0);
            write!(out, "  {}", "█".repeat(bar))?;
        }
        writeln!(out)?;
    }
    Ok(())
}
