//! Single laws: what is billed, what a gap record says, what an epoch says of earlier ones.

use std::collections::HashMap;

use super::traffic::{Dice, T0, traffic};
use super::{add, deltas, id, options};
use crate::event::{Kind as RecordKind, Phase, Reason, ShardEnd, UsageRecord};
use crate::rollup::book::{Book, Spot};
use crate::units::COLUMNS;
use crate::wire::StreamId;

#[test]
fn no_byte_is_billed_twice() {
    for seed in 100..130 {
        let mut dice = Dice(seed);
        let records = traffic(&mut dice, 400, seed % 2 == 0);
        let mut truth = [0; COLUMNS];
        for record in records.iter().filter(|record| record.kind() == RecordKind::Session) {
            add(&mut truth, deltas(record));
        }
        let mut book = Book::open(Default::default(), options()).unwrap();
        let n = records.len() as i64;
        let spot = Spot { source: "log".into(), part: "0".into(), from: 0, to: n, at_us: 0 };
        book.records(spot, id(0), 0, 0, records).unwrap();
        let batch = book.batch().unwrap();
        let series: HashMap<i64, _> = batch.series.into_iter().collect();
        let (mut billed, mut unitemised, mut folded) = ([0; COLUMNS], [0; COLUMNS], [0; COLUMNS]);
        for row in &batch.usage {
            let of = &series[&row.series];
            add(if of.billable { &mut billed } else { &mut unitemised }, row.sums.bytes);
        }
        book.tallies().for_each(|(_, tally)| add(&mut folded, tally.folded));
        for c in 0..COLUMNS {
            // Billed: requests, folded ones too, and overhead. Unitemised holds the folded ones again and is not billed.
            assert_eq!(billed[c] + unitemised[c] - folded[c], truth[c], "seed {seed} column {c}");
            assert!(billed[c] <= truth[c], "seed {seed} column {c}: more billed than moved");
            assert!(seed % 2 == 0 || unitemised[c] == 0, "seed {seed}: everything has a record");
        }
    }
}

#[test]
fn a_gap_record_counts_once_and_not_where_its_records_were_read() {
    let gap = |sent, range: (i64, i64)| UsageRecord {
        kind: RecordKind::Gap.into(),
        phase: Phase::Close.into(),
        at: T0,
        sent_app_bytes: sent,
        folded: 3,
        gap_epoch: 1,
        gap_shard: 0,
        gap_first_seq: range.0,
        gap_next_seq: range.1,
        reason: Reason::Unspecified.into(),
        ..UsageRecord::default()
    };
    let node =
        || UsageRecord { kind: RecordKind::Node.into(), phase: Phase::Checkpoint.into(), at: T0, ..Default::default() };
    let stated = |records: &[(u64, UsageRecord)]| {
        let mut book = Book::open(Default::default(), options()).unwrap();
        for (at, (seq, record)) in records.iter().enumerate() {
            let at = at as i64;
            let spot = Spot { source: "log".into(), part: "0".into(), from: at, to: at + 1, at_us: 0 };
            book.records(spot, id(0), *seq, 0, vec![record.clone()]).unwrap();
        }
        let batch = book.batch().unwrap();
        let sum: i64 = batch.usage.iter().map(|row| row.sums.bytes[4]).sum();
        (sum, batch.gaps.iter().map(|gap| gap.cause.clone()).collect::<Vec<_>>())
    };
    // Nothing of it was read; stated twice.
    assert_eq!(stated(&[(10, gap(7, (0, 10))), (11, gap(7, (0, 10)))]), (7, vec!["stated".to_owned()]));
    // All of it was read.
    assert_eq!(stated(&[(0, node()), (1, node()), (2, gap(7, (0, 2)))]), (0, vec![]));
    // It came after all.
    assert_eq!(stated(&[(1, gap(7, (0, 1))), (0, node())]), (0, vec![]));
    // What had no room for a record at all has no range.
    assert_eq!(stated(&[(0, gap(9, (0, 0)))]), (9, vec![]));
}

/// A book that took these pieces: stream, first seq, records.
fn book_of(pieces: &[(StreamId, u64, Vec<UsageRecord>)]) -> Book {
    let mut book = Book::open(Default::default(), options()).unwrap();
    for (at, (stream, first_seq, records)) in (0..).zip(pieces) {
        let spot = Spot { source: "log".into(), part: "0".into(), from: at, to: at + 1, at_us: 0 };
        book.records(spot, stream.clone(), *first_seq, 0, records.clone()).unwrap();
    }
    book
}

#[test]
fn an_epoch_of_which_nothing_came_is_a_gap_until_it_comes() {
    let epoch = |epoch| StreamId { node: "n".into(), epoch, shard: 0 };
    let node = |phase: Phase, at, ended: Vec<ShardEnd>| UsageRecord {
        kind: RecordKind::Node.into(),
        phase: phase.into(),
        at,
        ended,
        ..UsageRecord::default()
    };
    let end =
        |epoch, next_seq, started_at| ShardEnd { epoch, shard: 0, next_seq, started_at, ended_at: started_at + 9 };
    let life = |at: i64, ended: Vec<ShardEnd>| {
        vec![
            node(Phase::Open, at, ended),
            node(Phase::Checkpoint, at + 5, Vec::new()),
            node(Phase::Close, at + 9, Vec::new()),
        ]
    };
    let ends = vec![end(1, 3, 100), end(2, 3, 200)];
    let (first, second, third) = (life(100, vec![]), life(200, vec![end(1, 3, 100)]), life(300, ends.clone()));
    let gaps = |pieces: &[(StreamId, u64, Vec<UsageRecord>)]| {
        let batch = book_of(pieces).batch().unwrap();
        let until = crate::rollup::nodes(&batch.streams, &batch.gaps, &[], &[])[0].complete_until_us;
        let gaps = batch.gaps.into_iter();
        let gaps = gaps.map(|gap| (gap.place.epoch, gap.first_seq, gap.next_seq, gap.cause, gap.from_us, gap.to_us));
        (gaps.collect::<Vec<_>>(), until)
    };
    let missing = |cause: &str, epoch, first, from_us, to_us| (epoch, first, 3, cause.to_owned(), from_us, to_us);
    // Nothing of the second, and the tail of the first.
    let pieces = vec![(epoch(1), 0, first[..2].to_vec()), (epoch(3), 0, third.clone())];
    let expected = vec![missing("missing", 1, 2, 105, 109), missing("missing", 2, 0, 200, 209)];
    assert_eq!(gaps(&pieces), (expected, Some(105)));
    // They come late, in any order.
    let mut late = pieces.clone();
    late.extend([(epoch(2), 0, second.clone()), (epoch(1), 2, first[2..].to_vec())]);
    assert_eq!(gaps(&late), (vec![], None));
    // A ledger that begins with the third epoch.
    let expected = vec![missing("before_start", 1, 0, 100, 109), missing("before_start", 2, 0, 200, 209)];
    assert_eq!(gaps(&[(epoch(3), 0, third)]), (expected, Some(100)));
    // It was known that they are complete; nothing is said of the future, nor of what cannot be.
    let nonsense =
        vec![end(4, 7, 1), end(3, 900, 1), end(-1, 5, 1), end(1, -5, 1), ShardEnd { shard: 70_000, ..end(1, 5, 1) }];
    let again = [ends, nonsense].concat();
    assert_eq!(gaps(&[(epoch(1), 0, first), (epoch(2), 0, second), (epoch(3), 0, life(300, again))]), (vec![], None));
}
