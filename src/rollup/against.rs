//! Two ledgers of the same records, say one in SQLite beside the sidecar and one in PostgreSQL behind Kafka, held against one another.
//!
//! Buckets (a series in an hour) are equal where all their sums are, the fingerprint among them: then the same records made them. Where they
//! differ, the records of that account and hour that both have kept (`details_keep_days`) are held against one another, one by one.
//!
//! A month that is sealed in one and open in the other puts late records into different hours: these show as differences, and are ones.
//! A month of which one has joined the hours (`hours_keep_days`) is compared as a whole.

use std::collections::BTreeMap;

use serde::Serialize;

use super::book::fingerprint_of;
use crate::clock::HOUR_US;
use crate::event::UsageRecord;
use crate::store::{self, Filter, Group, Period, Series, Store, Sums};

/// Records of one account and hour that are compared; more than these are only said to be many.
const RECORDS_MAX: usize = 500_000;
const BLOCKS_MAX: usize = 4096;

/// A series in an hour of which the two say different sums.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Bucket {
    /// First µs of the UTC hour.
    pub hour_us: i64,
    /// What it is told apart by.
    pub series: Series,
    /// Records in this ledger's.
    pub records: i64,
    /// Records in the other's.
    pub other_records: i64,
    /// Bytes sent to clients in this ledger's less those in the other's.
    pub sent_app_bytes: i64,
    /// Acknowledged bytes in this ledger's less those in the other's.
    pub sent_acked_bytes: i64,
}

/// Which of the two has a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Where {
    /// Only this one.
    Here,
    /// Only the other one.
    There,
    /// Both, and it says something else.
    Differs,
}

/// A single record that makes the difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Odd {
    /// Which has it.
    pub is: Where,
    /// Node.
    pub node: String,
    /// Epoch.
    pub epoch: i64,
    /// Shard.
    pub shard: i32,
    /// Seq.
    pub seq: i64,
    /// Who pays.
    pub account: String,
    /// When, µs.
    pub at_us: i64,
}

/// What two ledgers do not agree about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Against {
    /// Buckets that are equal.
    pub equal: usize,
    /// Those that are not, by hour.
    pub buckets: Vec<Bucket>,
    /// The records behind them.
    pub records: Vec<Odd>,
    /// Accounts and hours (µs) whose single records could not be held against one another: they are no longer kept, or too many.
    pub unknown: Vec<(String, i64)>,
}

/// Holds `here` against `there`.
pub async fn against(here: &Store, there: &Store, filter: &Filter) -> Result<Against, store::Error> {
    let mut both: BTreeMap<(i64, Series), [Sums; 2]> = BTreeMap::new();
    for (at, store) in [here, there].into_iter().enumerate() {
        for (series, hour_us, sums) in store.usage(filter, Group::Hour).await? {
            both.entry((hour_us, series)).or_default()[at].add(&sums);
        }
    }
    for (at, store) in [here, there].into_iter().enumerate() {
        for month in store.periods().await? {
            if is_joined(&both, at, &month) {
                join(&mut both, &month);
            }
        }
    }
    let mut found = Against::default();
    let mut hours: BTreeMap<(i64, String), ()> = BTreeMap::new();
    for ((hour_us, series), [a, b]) in both {
        if is_equal(&a, &b) {
            found.equal += 1;
            continue;
        }
        hours.insert((hour_us, series.account.clone()), ());
        found.buckets.push(Bucket {
            hour_us,
            series,
            records: a.records,
            other_records: b.records,
            sent_app_bytes: a.bytes[4] - b.bytes[4],
            sent_acked_bytes: a.bytes[6] - b.bytes[6],
        });
    }
    for (hour_us, account) in hours.into_keys() {
        let known = found.records.len();
        let of = Filter { account: Some(account.clone()), from_us: hour_us, to_us: hour_us + HOUR_US };
        let pair =
            (here.records(&of, RECORDS_MAX, BLOCKS_MAX).await?, there.records(&of, RECORDS_MAX, BLOCKS_MAX).await?);
        if let (Some(a), Some(b)) = pair {
            odd(&a, &b, &mut found.records);
        }
        if found.records.len() == known {
            found.unknown.push((account, hour_us));
        }
    }
    Ok(found)
}

/// Whether one of the two has nothing but the first hour of this sealed month, and the other more.
fn is_joined(both: &BTreeMap<(i64, Series), [Sums; 2]>, at: usize, month: &Period) -> bool {
    let has_later = |at: usize| {
        both.iter()
            .any(|((hour_us, _), sums)| month.from_us < *hour_us && *hour_us < month.to_us && !sums[at].is_zero())
    };
    !has_later(at) && has_later(1 - at)
}

fn join(both: &mut BTreeMap<(i64, Series), [Sums; 2]>, month: &Period) {
    let (hours, rest): (BTreeMap<_, _>, _) = std::mem::take(both)
        .into_iter()
        .partition(|((hour_us, _), _)| month.from_us < *hour_us && *hour_us < month.to_us);
    *both = rest;
    for ((_, series), pair) in hours {
        let whole = both.entry((month.from_us, series)).or_default();
        for (sum, part) in whole.iter_mut().zip(pair) {
            sum.add(&part);
        }
    }
}

/// All sums; a fingerprint's lanes are compared modulo 2³².
fn is_equal(a: &Sums, b: &Sums) -> bool {
    let lanes = |sums: &Sums| sums.fingerprint.map(|lane| lane & 0xffff_ffff);
    let rest = |sums: &Sums| Sums { fingerprint: [0; 4], ..*sums };
    lanes(a) == lanes(b) && rest(a) == rest(b)
}

fn odd(here: &[UsageRecord], there: &[UsageRecord], to: &mut Vec<Odd>) {
    type Place = (String, i64, i32, i64);
    let place = |record: &UsageRecord| (record.node.clone(), record.epoch, record.shard, record.seq);
    let mut both: BTreeMap<Place, [Option<&UsageRecord>; 2]> = BTreeMap::new();
    for (at, records) in [here, there].into_iter().enumerate() {
        for record in records {
            both.entry(place(record)).or_default()[at] = Some(record);
        }
    }
    for ((node, epoch, shard, seq), pair) in both {
        let (is, record) = match pair {
            [Some(a), None] => (Where::Here, a),
            [None, Some(b)] => (Where::There, b),
            [Some(a), Some(b)] if fingerprint_of(a) != fingerprint_of(b) => (Where::Differs, a),
            _ => continue,
        };
        to.push(Odd { is, node, epoch, shard, seq, account: record.account.clone(), at_us: record.at });
    }
}
