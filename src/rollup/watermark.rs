//! Up to when everything has come, and whether a period can be sealed. No I/O, no clock.
//!
//! A node's watermark is the least over its streams of: the time before its first gap, else the time of its latest record (nodes
//! beat every second when idle). A stream that is complete, up to the node's closing record, holds nobody back: a node that was shut
//! down says nothing more, rightly. One that was killed and never started again holds the watermark where it died: nobody can
//! know what it still had, until its disk is read (`weir journal export`) or a seal states the hole.
//! What a seal has stated holds nobody back before the seal's end: those numbers are final, whatever comes late counts behind them.

use std::collections::BTreeMap;

use super::book::seqs;
use super::{amount, shown};
use crate::clock::utc_text;
use crate::config::Meter;
use crate::store::{Amounts, Error, Gap, Period, Seal, StreamRow};

/// What is known of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Everything up to here has come, µs; none where nothing more is expected of it.
    pub complete_until_us: Option<i64>,
    /// Time of its latest record, µs.
    pub last_at_us: i64,
    /// Records that are missing.
    pub missing: u64,
}

impl Node {
    fn holds_from(&mut self, at_us: i64) {
        self.complete_until_us = Some(self.complete_until_us.map_or(at_us, |until_us| until_us.min(at_us)));
    }
}

/// All nodes, by name; `sealed` are the periods whose seals have stated their holes.
pub fn nodes(streams: &[StreamRow], gaps: &[Gap], sealed: &[Period]) -> Vec<Node> {
    let sealed_until_us = sealed.iter().map(|period| period.to_us).max().unwrap_or(i64::MIN);
    let mut nodes: BTreeMap<&str, Node> = BTreeMap::new();
    // A stream of which nothing came is only known by a gap record.
    for row in streams.iter().filter(|row| row.next_seq > 0) {
        let name = row.place.node.as_str();
        let node = nodes.entry(name).or_insert_with(|| Node {
            name: name.to_owned(),
            complete_until_us: None,
            last_at_us: 0,
            missing: 0,
        });
        node.last_at_us = node.last_at_us.max(row.last_at_us);
        if !row.is_complete {
            node.holds_from(row.last_at_us.max(sealed_until_us));
        }
    }
    for gap in gaps.iter().filter(|gap| gap.cause != "stated") {
        if let Some(node) = nodes.get_mut(gap.place.node.as_str()) {
            node.missing += seqs(gap);
            if gap.to_us >= sealed_until_us {
                node.holds_from(gap.from_us.max(sealed_until_us));
            }
        }
    }
    nodes.into_values().collect()
}

/// What a period came to, and its holes. An error where it has some and `with_holes` is not said, or another period comes first.
pub fn seal(period: &Period, found: &Seal, meters: &[Meter], with_holes: bool) -> Result<(Amounts, String), Error> {
    let refused = |why: String| Err(Error::Unsealable(why));
    let name = &period.name;
    if found.periods.iter().any(|sealed| sealed.name == *name) {
        return refused(format!("{name} is sealed already"));
    }
    match found.periods.last() {
        Some(last) if last.to_us != period.from_us => {
            return refused(format!("{name} does not follow {}, the last sealed period", last.name));
        }
        None if found.first_hour_us.is_some_and(|first_us| first_us < period.from_us) => {
            let first = super::window::month_name(found.first_hour_us.unwrap_or_default());
            return refused(format!("there is usage from {first} on: seal that first, periods follow one another"));
        }
        _ => {}
    }
    let holes = holes(period, found);
    if !holes.is_empty() && !with_holes {
        return refused(format!(
            "{name} cannot be sealed:\n{}\nWait for what is missing, or state it in the seal with --with-holes.",
            holes.join("\n")
        ));
    }
    let mut amounts: BTreeMap<(&str, &str), i64> = BTreeMap::new();
    for (series, sums) in &found.usage {
        for meter in meters {
            *amounts.entry((&series.account, &meter.name)).or_default() += amount(meter, series, sums);
        }
    }
    let unit =
        |name: &str, sum: i64| meters.iter().find(|meter| meter.name == name).map_or(sum, |meter| shown(meter, sum));
    let amounts = amounts
        .into_iter()
        .map(|((account, meter), sum)| (account.to_owned(), meter.to_owned(), unit(meter, sum)))
        .collect();
    Ok((amounts, holes.join("\n")))
}

fn holes(period: &Period, found: &Seal) -> Vec<String> {
    let mut holes = Vec::new();
    for row in found.streams.iter().filter(|row| row.next_seq > 0 && !row.is_complete && row.last_at_us < period.to_us)
    {
        let (place, at) = (&row.place, utc_text(row.last_at_us));
        holes
            .push(format!("node {} epoch {} shard {} was last heard of at {at}", place.node, place.epoch, place.shard));
    }
    for gap in found.gaps.iter().filter(|gap| gap.from_us < period.to_us && gap.to_us >= period.from_us) {
        let Gap { place, first_seq, next_seq, cause, .. } = gap;
        holes.push(format!(
            "node {} epoch {} shard {}: seqs {first_seq} to {} are missing ({cause})",
            place.node,
            place.epoch,
            place.shard,
            next_seq - 1
        ));
    }
    for row in found.streams.iter().filter(|row| row.links_broken > 0) {
        let place = &row.place;
        let broken = row.links_broken;
        holes.push(format!(
            "node {} epoch {} shard {}: {broken} links of the chain are broken: a batch was altered or removed",
            place.node, place.epoch, place.shard
        ));
    }
    // Those of earlier periods were stated in their seals.
    for row in found.quarantine.iter().filter(|row| row.at_us >= period.from_us || found.periods.is_empty()) {
        holes.push(format!("{} {} at {} {}", row.source, row.part, row.position, row.reason));
    }
    holes
}
