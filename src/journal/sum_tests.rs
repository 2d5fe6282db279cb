//! Sums: killed at every store of a move, what was counted is in the sum or still in its slot, never both and never neither.

use std::sync::Arc;

use super::chunk::into_sum;
use super::model_tests::{copy_tree, options};
use super::*;
use crate::units::{Column, Counters};

fn app(bytes: u64) -> Counters {
    Counters { sent_app: bytes, received_body: 2 * bytes, ..Counters::default() }
}

/// Recovers a copy of what a kill would leave now: the sums' and the other open slots' (count, bytes).
fn killed(state: &StateDir, name: &str) -> ((u64, Counters), Vec<Counters>) {
    let copy = state.path().with_file_name(name);
    copy_tree(state.path(), &copy);
    let copied = StateDir::open(&copy).unwrap();
    let epoch = copied.first_abandoned();
    let mut found = None;
    // Killed itself in between, recovery finds the same again.
    for _ in 0..2 {
        let budget = Arc::new(Budget::new(1 << 30));
        let (_writer, recovery) = Writer::reopen(&epoch, 0, "node", &options(), budget).unwrap();
        assert!(recovery.damaged.is_empty() && recovery.damaged_slots == 0);
        let (mut sums, mut others) = ((0, Counters::default()), Vec::new());
        for open in &recovery.open {
            if open.kind.is_sum() {
                sums = (sums.0 + open.taken, sums.1.checked_add(&open.totals).unwrap());
            } else {
                others.push(open.totals);
            }
        }
        others.sort_by_key(|counters| counters.sent_app);
        let now = (sums, others);
        assert!(found.as_ref().is_none_or(|before| *before == now), "{found:?} {now:?}");
        found = Some(now);
    }
    std::fs::remove_dir_all(&copy).unwrap();
    found.unwrap()
}

#[test]
fn a_move_is_whole_at_every_store() {
    let directory = tempfile::tempdir().unwrap();
    let state = StateDir::open(&directory.path().join("live")).unwrap();
    let epoch = state.claim_epoch().unwrap();
    let budget = Arc::new(Budget::new(1 << 30));
    let writer = Writer::create(&epoch, 0, "node", &options(), budget).unwrap();
    let open = |bytes: u64| {
        let slot = writer.slots().open(SlotKind::Request, 1, b"request").unwrap();
        slot.add(Column::SentApp, bytes);
        slot.add(Column::ReceivedBody, 2 * bytes);
        slot
    };
    let mut sum = Sum::new(writer.slots().open(SlotKind::Fold, 1, b"sum").unwrap());
    let other = open(1);
    let mut before = (0, 0);
    for bytes in [10, 200, 3000, 40_000] {
        let (slot, second) = (open(bytes), open(bytes + 5));
        let then = |name: &str, moved: bool| {
            let (count, held) = if moved { (before.0 + 2, before.1 + 2 * bytes + 5) } else { before };
            let rest = if moved { vec![app(1)] } else { vec![app(1), app(bytes), app(bytes + 5)] };
            assert_eq!(killed(&state, name), ((count, app(held)), rest), "{name}");
        };
        then("begun", false);
        // The stores of `Sum`, one after the other.
        let chunk = &writer.slots().table.chunks()[0];
        let (sum_entry, version) = (sum.slot().entry(), before.0 + 2);
        chunk.set_closing_seq(slot.entry(), into_sum(sum_entry, version));
        then("half stated", false);
        chunk.set_closing_seq(second.entry(), into_sum(sum_entry, version));
        then("stated", false);
        let which = chunk.fill_block(sum_entry, version, &app(before.1 + 2 * bytes + 5), version);
        then("filled", false);
        chunk.store_seq(sum_entry, which, version);
        then("true", true);
        slot.free();
        then("half freed", true);
        second.free();
        then("freed", true);
        before = (before.0 + 2, before.1 + 2 * bytes + 5);
    }
    // And all of them as one.
    sum.take(open(5), app(5));
    for moved in [false, false, true, true] {
        let (taken, rest) =
            if moved { ((9, app(86_445)), vec![app(1)]) } else { ((8, app(86_440)), vec![app(1), app(5)]) };
        assert_eq!(killed(&state, "moving"), (taken, rest));
        assert!(!sum.is_settled());
        sum.step();
    }
    assert!(sum.is_settled());
    assert_eq!(sum.taken(), (9, app(86_445)));
    drop((other, sum));
}

#[test]
fn a_sum_is_recorded_once() {
    let directory = tempfile::tempdir().unwrap();
    let state = StateDir::open(&directory.path().join("live")).unwrap();
    let epoch = state.claim_epoch().unwrap();
    let budget = Arc::new(Budget::new(1 << 30));
    let mut writer = Writer::create(&epoch, 0, "node", &options(), budget).unwrap();
    // Versions above every seq: they are none.
    let mut sum = Sum::new(writer.slots().open(SlotKind::Gap, 1, b"").unwrap());
    for _ in 0..20 {
        let slot = writer.slots().open(SlotKind::Session, 1, b"").unwrap();
        sum.take(slot, app(3));
        (0..4).for_each(|_| sum.step());
    }
    assert_eq!(killed(&state, "sum"), ((20, app(60)), vec![]));
    sum.slot().begin_record(writer.next_seq(), &app(60), true);
    assert_eq!(killed(&state, "stated"), ((20, app(60)), vec![]));
    writer.append(b"the sum").unwrap();
    assert_eq!(killed(&state, "recorded"), ((0, app(0)), vec![]));
    sum.free();
    assert_eq!(killed(&state, "freed"), ((0, app(0)), vec![]));
}
