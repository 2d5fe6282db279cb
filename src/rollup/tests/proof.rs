//! Many records, and two ledgers held against one another.

use std::collections::BTreeSet;

use super::lost::Lost;
use super::traffic::{Dice, traffic};
use super::{add, deltas, id, open};
use crate::event::Kind as RecordKind;
use crate::rollup::book::Spot;
use crate::rollup::{Where, against};
use crate::store::{Filter, Group, Kind, Old, Period, Store};
use crate::units::COLUMNS;

/// Many records, of which a thousandth never comes and a hundredth comes twice: every missing range is named, none that is not, and what
/// later totals say of it is right to the byte. `WEIR_PROOF_RECORDS=10000000` is the full form.
#[tokio::test]
async fn a_thousandth_lost_and_a_hundredth_twice() {
    let wanted: u64 = std::env::var("WEIR_PROOF_RECORDS").map_or(60_000, |records| records.parse().unwrap());
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("proof.db").display().to_string()).await.unwrap();
    let mut dice = Dice(7);
    let (mut lost, mut billed) = (Lost::default(), [0; COLUMNS]);
    let (mut records, mut duplicates, mut at) = (0, 0, 0);
    let mut book = open(&store).await;
    while records < wanted {
        let stream = traffic(&mut dice, 40_000, false);
        let mut came = BTreeSet::new();
        let (mut position, mut first) = (0, 0);
        while first < stream.len() {
            // A piece ends before a record that is lost; the last never is, or nothing would show it.
            let next = (first + 50).min(stream.len());
            let cut = (first..next).find(|seq| *seq + 1 < stream.len() && dice.roll(1000) == 0).unwrap_or(next);
            for _ in 0..if dice.is(1) { 2 } else { 1 } {
                let spot =
                    Spot { source: "proof".into(), part: at.to_string(), from: position, to: position + 1, at_us: 0 };
                book.records(spot, id(at), first as u64, 0, stream[first..cut].to_vec()).unwrap();
                position += 1;
            }
            came.extend(first as u64..cut as u64);
            first = if cut < next { cut + 1 } else { next };
        }
        let requests =
            came.iter().map(|seq| &stream[*seq as usize]).filter(|record| record.kind() == RecordKind::Request);
        requests.for_each(|record| add(&mut billed, deltas(record)));
        lost.add(id(at), &stream, &came, stream.len() as u64);
        records += came.len() as u64;
        duplicates += book.counts().1;
        store.commit(&book.batch().unwrap()).await.unwrap();
        book.committed();
        at += 1;
    }
    assert!(duplicates > records / 300 && lost.gaps.len() as u64 > records / 2000 && lost.missing.len() > 5);
    println!(
        "{records} records, {duplicates} duplicates, {} ranges lost, {} items",
        lost.gaps.len(),
        lost.missing.len()
    );
    let usage = store.usage(&Filter::default(), Group::Hour).await.unwrap();
    let mut found = [0; COLUMNS];
    usage.iter().filter(|(series, ..)| series.kind == Kind::Request).for_each(|(.., sums)| add(&mut found, sums.bytes));
    assert_eq!(found, billed, "requests that came, each once");
    lost.check(&store, "proof").await;
}

/// Two ledgers of the same stream, in one of which a record is missing and another says something else.
#[tokio::test]
async fn two_ledgers_are_compared_down_to_the_record() {
    let directory = tempfile::tempdir().unwrap();
    let stream = traffic(&mut Dice(11), 400, false);
    let request = |skip: usize| {
        let of = stream.iter().enumerate().filter(|(_, r)| r.kind() == RecordKind::Request && r.sent_app_bytes > 0);
        of.map(|(seq, _)| seq).nth(skip).unwrap()
    };
    let (gone, altered) = (request(5), request(9));
    let mut stores = Vec::new();
    for name in ["here", "there", "same"] {
        let store = Store::open(&directory.path().join(name).display().to_string()).await.unwrap();
        let mut book = open(&store).await;
        book.keep_details();
        for (seq, record) in stream.iter().enumerate().filter(|(seq, _)| name != "there" || *seq != gone) {
            let mut record = record.clone();
            if name == "there" && seq == altered {
                record.sent_app_bytes -= 1;
            }
            let position = seq as i64 + i64::from(name != "there" || seq < gone) - 1;
            let spot =
                Spot { source: "x".into(), part: "0".into(), from: position, to: position + 1, at_us: record.at };
            book.records(spot, id(0), seq as u64, 0, vec![record]).unwrap();
        }
        store.commit(&book.batch().unwrap()).await.unwrap();
        stores.push(store);
    }
    let all = Filter::default();
    let same = against(&stores[0], &stores[2], &all).await.unwrap();
    assert!(
        same.equal > 3 && same.buckets.is_empty() && same.records.is_empty() && same.unknown.is_empty(),
        "{same:?}"
    );
    // One of them joins the hours of its sealed month.
    let (from_us, to_us) = crate::rollup::month("2026-11").unwrap();
    let (name, actor, holes) = ("2026-11".to_owned(), "test".to_owned(), String::new());
    let month = Period { name, from_us, to_us, sealed_at_us: to_us, actor, holes };
    stores[2].seal(month, |_| Ok((Vec::new(), String::new()))).await.unwrap();
    stores[2].forget(&Old { hours_us: Some(to_us), ..Old::default() }).await.unwrap();
    let mut hours = Vec::new();
    for store in [&stores[0], &stores[2]] {
        let usage = store.usage(&all, Group::Hour).await.unwrap();
        hours.push(usage.into_iter().map(|(_, hour_us, _)| hour_us).collect::<BTreeSet<_>>());
    }
    assert!(hours[1] == BTreeSet::from([from_us]) && hours[0] != hours[1], "{hours:?}");
    let joined = against(&stores[2], &stores[0], &all).await.unwrap();
    assert!(joined.equal > 3 && joined.buckets.is_empty() && joined.unknown.is_empty(), "{joined:?}");
    assert!(!against(&stores[2], &stores[1], &all).await.unwrap().buckets.is_empty());
    let found = against(&stores[0], &stores[1], &all).await.unwrap();
    let mut odd: Vec<_> = found.records.iter().map(|odd| (odd.seq as usize, odd.is)).collect();
    odd.sort_by_key(|(seq, _)| *seq);
    assert_eq!(odd, [(gone, Where::Here), (altered, Where::Differs)]);
    assert!(found.buckets.iter().map(|bucket| bucket.records - bucket.other_records).sum::<i64>() == 1, "{found:?}");
}
