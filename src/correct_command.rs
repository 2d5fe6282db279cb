//! `weir correct`: usage that is wrong, put right by a row more. Who did it and why stands beside it for ever.

use anyhow::{Context, bail};
use serde_json::json;

use crate::cli::{CorrectArgs, CorrectCommand, CorrectedBy};
use crate::clock::{Clock, hour_of, utc_text};
use crate::config::{Meter, MeterColumn, MeterKind};
use crate::ledger_command::{Setting, actor_or_user, hour, on_one_line, runtime};
use crate::rollup::{Change, amount, corrected, shown};
use crate::store::{Correction, Filter, Kind, Series, Sums};

/// Does it.
pub fn run(args: &CorrectArgs) -> anyhow::Result<()> {
    match &args.command {
        CorrectCommand::Add { amounts, account, at, endpoint, host, protocol, country, by } => {
            let setting = Setting::of(&by.place)?;
            let (kind, sums) = asked(amounts, &setting.meters)?;
            let hour_us = hour(&Some(at.clone()), 0)?;
            if hour_us > hour_of(Clock::anchored().now_us()) {
                bail!("{at} has not come yet");
            }
            let series = Box::new(Series {
                kind,
                account: account.clone(),
                endpoint: endpoint.clone(),
                host: host.clone(),
                protocol: protocol.clone(),
                country: country.clone(),
                status_class: 0,
                billable: true,
                reason: String::new(),
                corrects: String::new(),
                correction: String::new(),
            });
            let what = format!("{} for {account} at {}", amounts.join(" "), utc_text(hour_us));
            make(&setting, by, what, &Filter::default(), &Change::Add { series, hour_us, sums })
        }
        CorrectCommand::Move { account, to_account, from, to, endpoint, host, by } => {
            let (from_us, to_us) = (hour(&Some(from.clone()), 0)?, hour(&Some(to.clone()), 0)?);
            let filter = Filter { account: Some(account.clone()), from_us, to_us };
            let mut what = format!("{account} → {to_account}, {} to {}", utc_text(from_us), utc_text(to_us));
            for (name, value) in [("endpoint", endpoint), ("host", host)] {
                what += &value.as_ref().map_or_else(String::new, |value| format!(", {name} {value}"));
            }
            let change = Change::Move { to: to_account.clone(), endpoint: endpoint.clone(), host: host.clone() };
            make(&Setting::of(&by.place)?, by, what, &filter, &change)
        }
        CorrectCommand::Undo { id, by } => {
            make(&Setting::of(&by.place)?, by, format!("undoes {id}"), &Filter::default(), &Change::Undo(id.clone()))
        }
        CorrectCommand::List { place, json } => {
            let setting = Setting::of(place)?;
            let all = runtime()?.block_on(async { anyhow::Ok(setting.store().await?.corrections().await?) })?;
            for Correction { id, at_us, actor, reason, what, undoes } in all {
                let at = utc_text(at_us);
                if *json {
                    let undoes = (!undoes.is_empty()).then_some(undoes);
                    println!(
                        "{}",
                        json!({ "correction": id, "at": at, "actor": actor, "reason": reason, "what": what, "undoes": undoes })
                    );
                } else {
                    println!("{id:<5} {at}  {actor}: {what}\n      {reason}");
                }
            }
            Ok(())
        }
    }
}

/// What `meter=amount` means in the columns of usage.
fn asked(amounts: &[String], meters: &[Meter]) -> anyhow::Result<(Kind, Sums)> {
    let (mut sums, mut kinds) = (Sums::default(), Vec::new());
    for text in amounts {
        let parts = text.split_once('=').and_then(|(name, n)| Some((name, n.replace('_', "").parse::<i64>().ok()?)));
        let (name, n) = parts.with_context(|| format!("{text:?}: write like egress_bytes=-1048576"))?;
        let meter = meters.iter().find(|meter| meter.name == name);
        let by_name = MeterColumn::ALL.iter().find(|(column, _)| *column == name).map(|(_, column)| *column);
        let column = meter.map(|meter| meter.column).or(by_name);
        match column.with_context(|| format!("{name:?} is neither a meter nor a column"))? {
            MeterColumn::Bytes(column) => sums.bytes[column as usize] += n,
            MeterColumn::Requests => sums.requests += n,
            MeterColumn::Sessions => sums.sessions += n,
            MeterColumn::SessionSeconds => sums.session_us += n.saturating_mul(1_000_000),
        }
        let is_request = name == "requests" || meter.is_some_and(|meter| meter.kind == MeterKind::Request);
        kinds.push(if is_request { Kind::Request } else { Kind::Session });
    }
    let Some(kind) = kinds.first().copied() else { bail!("say how much, like egress_bytes=-1048576") };
    if kinds.iter().any(|other| *other != kind) {
        bail!("some of these are about requests and some about sessions: make a correction of each");
    }
    Ok((kind, sums))
}

fn make(setting: &Setting, by: &CorrectedBy, what: String, filter: &Filter, change: &Change) -> anyhow::Result<()> {
    let actor = actor_or_user(&by.actor);
    on_one_line("--reason", &by.reason)?;
    on_one_line("--actor", &actor)?;
    let correction = Correction {
        id: String::new(),
        at_us: Clock::anchored().now_us(),
        actor,
        reason: by.reason.clone(),
        what,
        undoes: if let Change::Undo(id) = change { id.clone() } else { String::new() },
    };
    let (made, added) = runtime()?.block_on(async {
        let store = setting.store().await?;
        anyhow::Ok(store.correct(correction, filter, |seen| corrected(change, seen)).await?)
    })?;
    println!("{}  {}", made.id, made.what);
    let mut accounts: Vec<&str> = added.iter().map(|(_, series, ..)| series.account.as_str()).collect();
    accounts.sort_unstable();
    accounts.dedup();
    for account in accounts {
        for meter in &setting.meters {
            let of = added.iter().filter(|(_, series, ..)| series.account == account);
            let sum = shown(meter, of.map(|(_, series, _, sums)| amount(meter, series, sums)).sum());
            if sum != 0 {
                println!("  {account:<30} {:<20} {sum:>+20}", meter.name);
            }
        }
    }
    let mut sealed: Vec<&str> = added.iter().map(|(_, series, ..)| series.corrects.as_str()).collect();
    sealed.sort_unstable();
    sealed.dedup();
    for period in sealed.into_iter().filter(|period| !period.is_empty()) {
        println!("  {period} is sealed: its part counts in the open month, and names it");
    }
    Ok(())
}
