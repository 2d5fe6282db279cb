//! The journal's words between threads, in every order in which a machine may let them be seen (by loom, which runs each test many times).
//!
//! `src/journal/words.rs` is included as it is, on loom's atomics. Weaken an ordering there and a test here fails.

mod atomics {
    pub use loom::sync::atomic::{AtomicU64, Ordering, fence};
}
#[path = "../../src/journal/words.rs"]
mod words;

use atomics::{AtomicU64, Ordering};
use loom::sync::Arc;
use loom::thread;

fn words<const N: usize>() -> Arc<[AtomicU64; N]> {
    Arc::new(std::array::from_fn(|_| AtomicU64::new(0)))
}

/// A writer appends frames of two words each; a reader copies out what is published.
#[test]
fn what_is_published_is_whole() {
    loom::model(|| {
        let (file, mark) = (words::<4>(), Arc::new(AtomicU64::new(0)));
        let (written, marked) = (file.clone(), mark.clone());
        let writer = thread::spawn(move || {
            for frame in 1..=2 {
                words::copy_in(&written[frame * 2 - 2..frame * 2], &[frame as u8; 13]);
                words::publish(&marked, frame as u64);
            }
        });
        let frames = words::published(&mark) as usize;
        for frame in 1..=frames {
            let mut bytes = [0; 13];
            words::copy_out(&file[frame * 2 - 2..frame * 2], &mut bytes);
            assert_eq!(bytes, [frame as u8; 13]);
        }
        writer.join().unwrap();
    });
}

/// A slot is freed and given to another while a view reads it: what the view says is of the one or of nobody.
#[test]
fn a_view_never_mixes_two_sessions() {
    loom::model(|| {
        let (generation, counters) = (Arc::new(AtomicU64::new(0)), words::<2>());
        let open = |n: u64| counters.iter().for_each(|counter| counter.store(n, Ordering::Relaxed));
        let first = words::make_live(&generation, || open(1));
        let (its_generation, its_counters) = (generation.clone(), counters.clone());
        let writer = thread::spawn(move || {
            // It goes on counting, ends, and its place is another's.
            its_counters[0].store(2, Ordering::Relaxed);
            words::make_free(&its_generation);
            words::make_live(&its_generation, || {
                its_counters.iter().for_each(|counter| counter.store(7, Ordering::Relaxed))
            })
        });
        let read = |counters: &[AtomicU64; 2]| counters.each_ref().map(|counter| counter.load(Ordering::Relaxed));
        if let Some(seen) = words::read_live(&generation, first, || read(&counters)) {
            assert!(seen == [1, 1] || seen == [2, 1], "{seen:?}");
        }
        let second = writer.join().unwrap();
        assert_eq!(words::read_live(&generation, second, || read(&counters)), Some([7, 7]));
    });
}

/// A view of a session that has just begun sees it whole.
#[test]
fn a_live_slot_has_been_filled() {
    loom::model(|| {
        let (generation, counters) = (Arc::new(AtomicU64::new(0)), words::<2>());
        let (its_generation, its_counters) = (generation.clone(), counters.clone());
        let reader = thread::spawn(move || {
            let read = || its_counters.each_ref().map(|counter| counter.load(Ordering::Relaxed));
            let seen = words::read_live(&its_generation, 1, read);
            assert!(seen.is_none_or(|seen| seen == [5, 5]), "{seen:?}");
        });
        words::make_live(&generation, || counters.iter().for_each(|counter| counter.store(5, Ordering::Relaxed)));
        reader.join().unwrap();
    });
}

/// A sum takes its next step when a sync has ended that found what the last one stored: the keeper, beginning one, must see it.
#[test]
fn a_sync_that_begins_later_finds_what_was_stored() {
    loom::model(|| {
        let (begun, word) = (Arc::new(AtomicU64::new(0)), words::<1>());
        let (its_begun, its_word) = (begun.clone(), word.clone());
        let keeper = thread::spawn(move || {
            let number = words::begin_sync(&its_begun);
            (number, its_word[0].load(Ordering::Relaxed))
        });
        word[0].store(1, Ordering::Relaxed);
        let stored = words::syncs_begun(&begun);
        let (number, found) = keeper.join().unwrap();
        assert!(number <= stored || found == 1);
    });
}
