//! Up to when everything has come, and whether a period can be sealed. No I/O, no clock.
//!
//! A node's watermark is the least over its streams of: the time before its first gap, else the time of its latest record (nodes
//! beat every second when idle). A stream that is complete, up to the node's closing record, holds nobody back: a node that was shut
//! down says nothing more, rightly. One that was killed and never started again holds the watermark where it died: nobody can
//! know what it still had, until its disk is read (`weir journal export`) or a seal states the hole.
//! What a seal has stated holds nobody back before the seal's end: those numbers are final, whatever comes late counts behind them.
//! Nor does a node that somebody has stated to be lost, up to when it was last heard of; a seal names it as such.

use std::collections::BTreeMap;

use super::book::seqs;
use super::{amount, shown};
use crate::clock::utc_text;
use crate::config::Meter;
use crate::store::{Amounts, Error, Gap, LostNode, Period, Seal, StreamRow};

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
pub fn nodes(streams: &[StreamRow], gaps: &[Gap], sealed: &[Period], lost: &[LostNode]) -> Vec<Node> {
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
        if !row.is_complete && is_lost(lost, name, row.last_at_us).is_none() {
            node.holds_from(row.last_at_us.max(sealed_until_us));
        }
    }
    for gap in gaps.iter().filter(|gap| gap.cause != "stated") {
        if let Some(node) = nodes.get_mut(gap.place.node.as_str()) {
            node.missing += seqs(gap);
            if gap.to_us >= sealed_until_us && is_lost(lost, &gap.place.node, gap.to_us).is_none() {
                node.holds_from(gap.from_us.max(sealed_until_us));
            }
        }
    }
    nodes.into_values().collect()
}

/// Who has stated that what this node had at that time will not come.
fn is_lost<'a>(lost: &'a [LostNode], node: &str, at_us: i64) -> Option<&'a LostNode> {
    lost.iter().find(|lost| lost.node == node && at_us <= lost.until_us)
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
    let open: Vec<&str> = holes.iter().filter(|hole| !hole.is_stated).map(|hole| hole.text.as_str()).collect();
    if !open.is_empty() && !with_holes {
        return refused(format!(
            "{name} cannot be sealed:\n{}\nWait for what is missing, state that a node is lost (weir node lost), or state all of it in \
             the seal with --with-holes.",
            open.join("\n")
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
    let holes: Vec<String> = holes.into_iter().map(|hole| hole.text).collect();
    Ok((amounts, holes.join("\n")))
}

struct Hole {
    text: String,
    /// Somebody has stated it before.
    is_stated: bool,
}

fn holes(period: &Period, found: &Seal) -> Vec<Hole> {
    let mut holes = Vec::new();
    let mut name = |text: String, lost: Option<&LostNode>| {
        let why = lost.map(|LostNode { actor, reason, .. }| format!(" (lost, says {actor}: {reason})"));
        holes.push(Hole { text: text + why.as_deref().unwrap_or_default(), is_stated: why.is_some() });
    };
    for row in found.streams.iter().filter(|row| row.next_seq > 0 && !row.is_complete && row.last_at_us < period.to_us)
    {
        let (place, at) = (&row.place, utc_text(row.last_at_us));
        name(
            format!("node {} epoch {} shard {} was last heard of at {at}", place.node, place.epoch, place.shard),
            is_lost(&found.lost, &place.node, row.last_at_us),
        );
    }
    for gap in found.gaps.iter().filter(|gap| gap.from_us < period.to_us && gap.to_us >= period.from_us) {
        let Gap { place, first_seq, next_seq, cause, .. } = gap;
        let (node, epoch, shard, last) = (&place.node, place.epoch, place.shard, next_seq - 1);
        name(
            format!("node {node} epoch {epoch} shard {shard}: seqs {first_seq} to {last} are missing ({cause})"),
            is_lost(&found.lost, node, gap.to_us),
        );
    }
    for row in found.streams.iter().filter(|row| row.links_broken > 0) {
        let place = &row.place;
        let broken = row.links_broken;
        let text = format!(
            "node {} epoch {} shard {}: {broken} links of the chain are broken: a batch was altered or removed",
            place.node, place.epoch, place.shard
        );
        name(text, None);
    }
    // Those of earlier periods were stated in their seals.
    for row in found.quarantine.iter().filter(|row| row.at_us >= period.from_us || found.periods.is_empty()) {
        name(format!("{} {} at {} {}", row.source, row.part, row.position, row.reason), None);
    }
    holes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Quarantined, StreamPlace};

    const MONTH_US: (i64, i64) = (1_000, 2_000);

    fn place(node: &str) -> StreamPlace {
        StreamPlace { node: node.into(), epoch: 1, shard: 0 }
    }

    fn stream(node: &str, last_at_us: i64, is_complete: bool) -> StreamRow {
        StreamRow {
            place: place(node),
            revision: 1,
            next_seq: 10,
            last_at_us,
            is_complete,
            links_broken: 0,
            records: 8,
            duplicates: 0,
            state: String::new(),
        }
    }

    fn gap(node: &str, from_us: i64, to_us: i64) -> Gap {
        Gap { place: place(node), first_seq: 3, next_seq: 5, cause: "missing".into(), from_us, to_us }
    }

    fn lost(node: &str, until_us: i64) -> LostNode {
        LostNode { node: node.into(), until_us, at_us: 9_999, actor: "me".into(), reason: "gone".into() }
    }

    fn period() -> Period {
        let (from_us, to_us) = MONTH_US;
        let (name, actor, holes) = ("1970-01".into(), "me".into(), String::new());
        Period { name, from_us, to_us, sealed_at_us: 9_999, actor, holes }
    }

    /// The watermark of node `a`.
    fn until(streams: &[StreamRow], gaps: &[Gap], sealed: &[Period], lost: &[LostNode]) -> Option<i64> {
        nodes(streams, gaps, sealed, lost)[0].complete_until_us
    }

    #[test]
    fn who_is_lost_holds_nothing_until_he_speaks_again() {
        let (silent, missing) = ([stream("a", 1_500, false)], [gap("a", 1_100, 1_200)]);
        assert_eq!(until(&silent, &missing, &[], &[]), Some(1_100));
        assert_eq!(until(&silent, &missing, &[], &[lost("a", 1_500)]), None);
        assert_eq!(until(&silent, &missing, &[], &[lost("b", 1_500)]), Some(1_100));
        assert_eq!(until(&[stream("a", 1_501, false)], &missing, &[], &[lost("a", 1_500)]), Some(1_501));
        assert_eq!(until(&silent, &[gap("a", 1_100, 1_600)], &[], &[lost("a", 1_500)]), Some(1_100));
    }

    #[test]
    fn what_a_seal_has_stated_holds_nothing_before_its_end() {
        let sealed = [period()];
        assert_eq!(until(&[stream("a", 2_500, false)], &[gap("a", 1_100, 1_200)], &sealed, &[]), Some(2_500));
        assert_eq!(until(&[stream("a", 2_500, false)], &[gap("a", 1_100, 2_100)], &sealed, &[]), Some(2_000));
        assert_eq!(until(&[stream("a", 1_500, false)], &[], &sealed, &[]), Some(2_000));
    }

    #[test]
    fn a_seal_names_who_is_lost_and_waits_for_everybody_else() {
        let found = |lost: Vec<LostNode>, quarantine: Vec<Quarantined>| Seal {
            periods: Vec::new(),
            lost,
            streams: vec![stream("a", 1_500, false), stream("b", 2_500, false)],
            gaps: vec![gap("a", 1_100, 1_200)],
            quarantine,
            usage: Vec::new(),
            first_hour_us: None,
        };
        let refused = seal(&period(), &found(Vec::new(), Vec::new()), &[], false).unwrap_err().to_string();
        assert!(
            refused.contains("node a epoch 1 shard 0 was last heard of") && refused.contains("seqs 3 to 4"),
            "{refused}"
        );
        let (_, holes) = seal(&period(), &found(vec![lost("a", 1_500)], Vec::new()), &[], false).unwrap();
        let holes: Vec<&str> = holes.lines().collect();
        assert!(holes.len() == 2 && holes.iter().all(|hole| hole.ends_with("(lost, says me: gone)")), "{holes:?}");
        let unread = Quarantined {
            source: "topic".into(),
            part: "0".into(),
            position: 7,
            at_us: 1_300,
            reason: "no record".into(),
            bytes: Vec::new(),
        };
        let refused =
            seal(&period(), &found(vec![lost("a", 1_500)], vec![unread]), &[], false).unwrap_err().to_string();
        assert!(refused.contains("no record") && !refused.contains("node a"), "{refused}");
    }
}
