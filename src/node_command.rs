//! `weir node`: the nodes that a ledger knows, and those that somebody gives up.

use anyhow::bail;
use serde_json::json;

use crate::cli::{NodeArgs, NodeCommand};
use crate::clock::{Clock, utc_text};
use crate::ledger_command::{Setting, actor_or_user, on_one_line, runtime};
use crate::rollup::nodes;
use crate::store::LostNode;
use crate::units::grouped;

/// Does it.
pub fn run(args: &NodeArgs) -> anyhow::Result<()> {
    match &args.command {
        NodeCommand::List { place, json } => {
            let setting = Setting::of(place)?;
            let (found, lost) = runtime()?.block_on(async {
                let store = setting.store().await?;
                anyhow::Ok((store.load().await?, store.lost_nodes().await?))
            })?;
            for node in nodes(&found.streams, &found.gaps, &found.periods, &lost) {
                let given_up = lost.iter().rev().find(|lost| lost.node == node.name);
                let complete = node.complete_until_us.map(utc_text);
                if *json {
                    let lost = given_up.map(|LostNode { until_us, at_us, actor, reason, .. }| {
                        json!({ "until": utc_text(*until_us), "at": utc_text(*at_us), "actor": actor, "reason": reason })
                    });
                    println!(
                        "{}",
                        json!({
                            "node": node.name, "complete_until": complete, "last_at": utc_text(node.last_at_us),
                            "missing_records": node.missing, "lost": lost,
                        })
                    );
                    continue;
                }
                let complete =
                    complete.map_or_else(|| "complete".to_owned(), |until| format!("complete up to {until}"));
                let (last, missing) = (utc_text(node.last_at_us), grouped(node.missing));
                println!("{:<30} {complete}, last heard of {last}, {missing} records missing", node.name);
                if let Some(LostNode { until_us, actor, reason, .. }) = given_up {
                    println!("{:<30} lost with what it had at {}, says {actor}: {reason}", "", utc_text(*until_us));
                }
            }
            Ok(())
        }
        NodeCommand::Lost { node, by } => {
            let setting = Setting::of(&by.place)?;
            let actor = actor_or_user(&by.actor);
            on_one_line("--reason", &by.reason)?;
            on_one_line("--actor", &actor)?;
            let at_us = Clock::anchored().now_us();
            let lost = runtime()?.block_on(async {
                let store = setting.store().await?;
                let found = store.load().await?;
                let known = nodes(&found.streams, &found.gaps, &found.periods, &found.lost);
                let Some(known) = known.iter().find(|known| known.name == *node) else {
                    bail!("no record of a node {node:?} has come; weir node list names those that there are");
                };
                let (until_us, reason) = (known.last_at_us, by.reason.clone());
                let lost = LostNode { node: node.clone(), until_us, at_us, actor, reason };
                store.lose_node(&lost).await?;
                anyhow::Ok(lost)
            })?;
            println!("{node} is lost, with what it still had when it was last heard of at {}", utc_text(lost.until_us));
            Ok(())
        }
    }
}
