//! The ledger against a plain model: whatever is repeated, dropped, late, reordered, fenced off or killed, the same totals.
//!
//! Lawful records of a few streams are written to logs with faults; ledgers read them in small batches and die after a random step
//! of a random commit. The model is sets and sums in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use super::lost::Lost;
use super::traffic::{Dice, Faults, Piece, epochs, log, traffic};
use super::{add, deltas, id, open, stores};
use crate::clock::HOUR_US;
use crate::event::{Kind as RecordKind, Phase, UsageRecord};
use crate::rollup::book::Spot;
use crate::store::{Filter, Group, Kind, Period, Store, Sums};
use crate::units::COLUMNS;

/// Reads the log to its end in batches, from what the store says. `deaths`: after a random step, percent of the batches.
async fn read(dice: &mut Dice, store: &Store, part: &str, log: &[Piece], streams: &[Vec<UsageRecord>], deaths: u64) {
    let mut book = open(store).await;
    loop {
        let at = book.position("log", part).unwrap_or(0) as usize;
        if at == log.len() {
            return;
        }
        let upto = (at + 1 + dice.roll(8) as usize).min(log.len());
        for (position, (stream, first_seq, n)) in log.iter().enumerate().take(upto).skip(at) {
            let first = *first_seq as usize;
            let records = streams[*stream][first..first + n].to_vec();
            let position = position as i64;
            let spot = Spot { source: "log".into(), part: part.into(), from: position, to: position + 1, at_us: 0 };
            book.records(spot, id(*stream), *first_seq, 0, records).unwrap();
        }
        if dice.is(deaths) {
            // It dies after one of the steps; after the last the commit has happened.
            store.stop_after.store(1 + dice.roll(9) as i64, Ordering::Relaxed);
        }
        let done = store.commit(&book.batch().unwrap()).await;
        store.stop_after.store(i64::MAX, Ordering::Relaxed);
        match done {
            Ok(()) => book.committed(),
            Err(_) => book = open(store).await,
        }
    }
}

/// What the log brought: seqs of each stream.
fn came(logs: &[&[Piece]], streams: usize) -> Vec<BTreeSet<u64>> {
    let mut came = vec![BTreeSet::new(); streams];
    for (stream, first_seq, n) in logs.iter().copied().flatten() {
        came[*stream].extend(*first_seq..first_seq + *n as u64);
    }
    came
}

/// Holds the store against what came.
async fn check(store: &Store, streams: &[Vec<UsageRecord>], came: &[BTreeSet<u64>], what: &str) {
    let usage = store.usage(&Filter::default(), Group::Hour).await.unwrap();
    let mut requests: BTreeMap<(String, i64), Sums> = BTreeMap::new();
    for (series, hour, sums) in usage.iter().filter(|(series, ..)| series.kind == Kind::Request) {
        requests.entry((series.account.clone(), *hour)).or_default().add(sums);
    }
    let mut model: BTreeMap<(String, i64), [i64; COLUMNS]> = BTreeMap::new();
    let (mut sessions, mut covered) = ([0; COLUMNS], [0; COLUMNS]);
    let (mut records, mut closes) = (0, 0);
    for (stream, came) in streams.iter().zip(came) {
        for seq in came {
            let record = &stream[*seq as usize];
            let hour = record.at - record.at.rem_euclid(HOUR_US);
            match record.kind() {
                RecordKind::Request => {
                    add(model.entry((record.account.clone(), hour)).or_default(), deltas(record));
                    if record.folded == 0 {
                        add(&mut covered, deltas(record));
                    }
                }
                RecordKind::Session => {
                    add(&mut sessions, deltas(record));
                    closes += i64::from(record.phase() == Phase::Close);
                }
                _ => continue,
            }
            records += 1;
        }
    }
    model.retain(|key, bytes| *bytes != [0; COLUMNS] || requests.contains_key(key));
    let found: BTreeMap<_, _> = requests.iter().map(|(key, sums)| (key.clone(), sums.bytes)).collect();
    assert_eq!(found, model, "{what}: requests by account and hour");
    assert_eq!(usage.iter().map(|(.., sums)| sums.records).sum::<i64>(), records, "{what}: records");
    assert_eq!(usage.iter().map(|(.., sums)| sums.sessions).sum::<i64>(), closes, "{what}: sessions");
    // The records themselves are kept, each once.
    let mut kept: Vec<_> = store.all_details().await.iter().map(|r| (r.node.clone(), r.epoch, r.seq)).collect();
    kept.sort();
    let is_detail = |record: &UsageRecord| matches!(record.kind(), RecordKind::Request | RecordKind::Session);
    let mut expected = Vec::new();
    for (at, (stream, came)) in streams.iter().zip(came).enumerate() {
        let ours = came.iter().filter(|seq| is_detail(&stream[**seq as usize]));
        expected.extend(ours.map(|seq| (id(at).node, i64::from(id(at).epoch), *seq as i64)));
    }
    expected.sort();
    assert_eq!(kept, expected, "{what}: records kept");
    // The header's formula.
    let book = open(store).await;
    let mut beyond = [0; COLUMNS];
    usage
        .iter()
        .filter(|(series, ..)| series.kind != Kind::Request)
        .for_each(|(.., sums)| add(&mut beyond, sums.bytes));
    let formula: [i64; COLUMNS] = std::array::from_fn(|c| sessions[c] - covered[c] + book.uncovered()[c]);
    assert_eq!(beyond, formula, "{what}: overhead is what sessions moved beyond their requests");
    let mut truth = Lost::default();
    for (at, stream) in streams.iter().enumerate() {
        truth.add(id(at), stream, &came[at], known_end(streams, came, at));
    }
    truth.check(store, what).await;
}

/// Behind the last seq of a stream that anything that came says of: its own records, or what the node's next epoch begins with.
fn known_end(streams: &[Vec<UsageRecord>], came: &[BTreeSet<u64>], at: usize) -> u64 {
    let is_stated = streams.get(at + 1).is_some_and(|next| !next[0].ended.is_empty()) && came[at + 1].contains(&0);
    if is_stated { streams[at].len() as u64 } else { came[at].last().map_or(0, |last| last + 1) }
}

/// What everything came to, where it all came: by account, billed or not.
async fn totals(store: &Store) -> BTreeMap<(Kind, String, bool, String), Sums> {
    let mut totals: BTreeMap<_, Sums> = BTreeMap::new();
    for (series, _, sums) in store.usage(&Filter::default(), Group::Series).await.unwrap() {
        let key = (series.kind, series.account, series.billable, series.reason);
        totals.entry(key).or_default().add(&sums);
    }
    totals.retain(|_, sums| !sums.is_zero());
    totals
}

fn seeds() -> u64 {
    std::env::var("WEIR_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(6)
}

#[tokio::test]
async fn the_same_totals_whatever_happens_on_the_way() {
    let directory = tempfile::tempdir().unwrap();
    for seed in 0..seeds() {
        let mut dice = Dice(seed);
        let streams = epochs(&mut dice, 150, |at| at == 3);
        let clean = log(&mut dice, &streams, &Faults { drop: 0, twice: 0, late: 0 });
        let bad = log(&mut dice, &streams, &Faults { drop: 5, twice: 10, late: 10 });
        for (name, store) in stores(&directory, &format!("{seed}")).await {
            let what = format!("seed {seed} on {name}");
            read(&mut dice, &store, "0", &bad, &streams, 30).await;
            check(&store, &streams, &came(&[&bad], streams.len()), &what).await;
            // Everything again: what came is dropped, what was missing fills its gap.
            read(&mut dice, &store, "1", &clean, &streams, 30).await;
            check(&store, &streams, &came(&[&bad, &clean], streams.len()), &format!("{what}, replayed")).await;
            let found = store.load().await.unwrap();
            assert!(found.gaps.is_empty() && found.items.is_empty(), "{what}: {:?} {:?}", found.gaps, found.items);
            let replayed = totals(&store).await;
            read(&mut dice, &store, "2", &clean, &streams, 0).await;
            assert_eq!(totals(&store).await, replayed, "{what}: a replay of everything changes nothing");
            // In another store, without any fault: the same to the byte and to the fingerprint.
            for (other, plain) in stores(&directory, &format!("{seed}-{name}-plain")).await {
                read(&mut dice, &plain, "0", &clean, &streams, 0).await;
                assert_eq!(totals(&plain).await, replayed, "{what}: as {other} without faults");
            }
        }
    }
}

#[tokio::test]
async fn two_ledgers_on_one_source_count_everything_once() {
    let directory = tempfile::tempdir().unwrap();
    for (name, store) in stores(&directory, "two").await {
        let mut dice = Dice(7);
        let streams = epochs(&mut dice, 150, |_| false);
        let log = log(&mut dice, &streams, &Faults { drop: 2, twice: 5, late: 5 });
        let (mut first, mut second) = (Dice(8), Dice(9));
        let other = store.clone();
        tokio::join!(
            read(&mut first, &store, "0", &log, &streams, 10),
            read(&mut second, &other, "0", &log, &streams, 10)
        );
        check(&store, &streams, &came(&[&log], streams.len()), &name).await;
    }
}

#[tokio::test]
async fn what_comes_late_for_a_sealed_period_counts_in_the_next() {
    let directory = tempfile::tempdir().unwrap();
    for (name, store) in stores(&directory, "sealed").await {
        let mut dice = Dice(3);
        let streams = vec![traffic(&mut dice, 100, false)];
        let n = streams[0].len();
        let log = vec![(0, 0, 5), (0, 10, n - 10)];
        read(&mut dice, &store, "0", &log, &streams, 0).await;
        let before = totals(&store).await;
        let (from_us, to_us) = crate::rollup::month("2026-11").unwrap();
        let period = Period {
            name: "2026-11".into(),
            from_us,
            to_us,
            sealed_at_us: to_us + 1,
            actor: "test".into(),
            holes: String::new(),
        };
        let meters = crate::config::Meter::defaults();
        let judge = |with_holes| {
            let (period, meters) = (&period, &meters);
            move |found: &crate::store::Seal| crate::rollup::seal(period, found, meters, with_holes)
        };
        let refused = store.seal(period.clone(), judge(false)).await.unwrap_err().to_string();
        assert!(refused.contains("seqs 5 to 9"), "{name}: {refused}");
        // A ledger that read before the seal cannot write behind it.
        let mut stale = open(&store).await;
        let sealed = store.seal(period.clone(), judge(true)).await.unwrap();
        assert!(sealed.holes.contains("seqs 5 to 9"), "{name}");
        // What the seal has stated holds `complete up to` back no longer.
        let (streams_now, gaps) = store.progress().await.unwrap();
        let until = |periods: &[Period]| crate::rollup::nodes(&streams_now, &gaps, periods, &[])[0].complete_until_us;
        assert!(until(&[]).is_some_and(|until_us| until_us < to_us), "{name}");
        assert_ne!(until(&store.periods().await.unwrap()), until(&[]), "{name}");
        assert!(until(std::slice::from_ref(&sealed)).is_none_or(|until_us| until_us >= to_us), "{name}");
        assert!(store.seal(period.clone(), judge(true)).await.is_err(), "{name}: twice");
        let spot = Spot { source: "log".into(), part: "1".into(), from: 0, to: 1, at_us: 0 };
        stale.records(spot, id(0), 5, 0, streams[0][5..10].to_vec()).unwrap();
        assert!(matches!(store.commit(&stale.batch().unwrap()).await, Err(crate::store::Error::Fenced(_))), "{name}");
        assert_eq!(totals(&store).await, before, "{name}");
        read(&mut dice, &store, "1", &[(0, 5, 5)], &streams, 0).await;
        let all = store.usage(&Filter::default(), Group::Hour).await.unwrap();
        let late: Vec<_> = all.iter().filter(|(series, ..)| !series.corrects.is_empty()).collect();
        assert!(
            !late.is_empty() && late.iter().all(|(series, hour, _)| series.corrects == "2026-11" && *hour == to_us),
            "{name}"
        );
        let old = Filter { to_us, ..Filter::default() };
        let mut of_period: BTreeMap<_, Sums> = BTreeMap::new();
        for (series, _, sums) in store.usage(&old, Group::Series).await.unwrap() {
            of_period.entry((series.kind, series.account, series.billable, series.reason)).or_default().add(&sums);
        }
        of_period.retain(|_, sums| !sums.is_zero());
        assert_eq!(of_period, before, "{name}: a sealed period never changes");
    }
}
