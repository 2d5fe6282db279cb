//! What an answer is an answer of: of which time, up to when everything has come, and what is missing in it.

use serde::Serialize;
use weir::archive::Table;
use weir::archive::manifest::{Hole, Manifest};
use weir::clock::utc_text;

use crate::scope::Scope;

/// Said with every answer, on stderr or beside the rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Completeness {
    /// First moment of what was asked about, RFC 3339; none: from the first record on.
    pub from: Option<String>,
    /// Behind its last; none: up to the latest record.
    pub to: Option<String>,
    /// Up to when everything that was recorded is in the archive; none: nothing is outstanding.
    pub complete_until: Option<String>,
    /// Whether every record of the time asked about is there.
    pub is_complete: bool,
    /// What is not: gaps, nodes that fell silent, bytes that could not be read.
    pub holes: Vec<Hole>,
    /// Rows that had grown too old are gone from the tables named here.
    pub retained: Vec<String>,
    /// Number of the manifest's last commit.
    pub commit: u64,
    /// Its hash: the same question of the same archive has the same answer.
    pub head: Option<String>,
}

impl Completeness {
    /// Of a question within this scope.
    pub fn of(manifest: &Manifest, scope: &Scope) -> Self {
        // Up to when every stream that goes on was heard of. A question without an end is about what has come until then.
        let going_on = manifest.streams.iter().filter(|row| row.next_seq > 0 && !row.is_complete);
        let heard_us = going_on.map(|row| row.last_at_us).min().unwrap_or(i64::MAX);
        let to_us = if scope.to_us == i64::MAX { heard_us } else { scope.to_us };
        let holes = manifest.holes(scope.from_us, to_us);
        let mut retained: Vec<String> = Table::ALL
            .iter()
            .filter(|table| manifest.expired.iter().any(|gone| gone.table == **table))
            .map(|table| table.name().to_owned())
            .collect();
        retained.sort();
        Self {
            from: (scope.from_us != i64::MIN).then(|| utc_text(scope.from_us)),
            to: (scope.to_us != i64::MAX).then(|| utc_text(scope.to_us)),
            complete_until: manifest.complete_until_us().map(utc_text),
            is_complete: holes.is_empty(),
            holes,
            retained,
            commit: manifest.number,
            head: manifest.head.map(|hash| hash.to_string()),
        }
    }

    /// For people, a line each.
    pub fn lines(&self) -> Vec<String> {
        let from = self.from.as_deref().unwrap_or("the first record");
        let to = self.to.as_deref().unwrap_or("the latest record");
        let mut lines = vec![match (&self.complete_until, self.is_complete) {
            (_, true) => format!("complete: every record from {from} to {to}"),
            (Some(until), false) => {
                format!("not known to be complete from {from} to {to}: everything has come up to {until}")
            }
            (None, false) => format!("not known to be complete from {from} to {to}"),
        }];
        for hole in self.holes.iter().take(LINES_MAX) {
            lines.push(match hole {
                Hole::Silent { place, last_at_us } => {
                    format!(
                        "  node {} epoch {} shard {}: nothing after {}",
                        place.node,
                        place.epoch,
                        place.shard,
                        utc_text(*last_at_us)
                    )
                }
                Hole::Gap(gap) => format!(
                    "  node {} epoch {} shard {}: {} records missing, seqs {} to {} ({}), before {}",
                    gap.place.node,
                    gap.place.epoch,
                    gap.place.shard,
                    gap.next_seq - gap.first_seq,
                    gap.first_seq,
                    gap.next_seq - 1,
                    gap.cause,
                    utc_text(gap.to_us)
                ),
                Hole::Unreadable(found) => {
                    format!("  unreadable: {} {} at {}: {}", found.source, found.part, found.position, found.reason)
                }
            });
        }
        if self.holes.len() > LINES_MAX {
            lines.push(format!("  and {} more", self.holes.len() - LINES_MAX));
        }
        if !self.retained.is_empty() {
            lines.push(format!("  rows that grew too old are gone from: {}", self.retained.join(", ")));
        }
        lines
    }
}

/// So many holes are named to people; machines get all.
const LINES_MAX: usize = 10;
