//! Sorted runs of keys, searched a cache line at a time.
//!
//! All runs lie in one array. Beside it stand the first key of each of its lines, and beside those the first of each of
//! theirs: what is searched before the last line is small enough for the caches near the core. A line is searched in
//! always the same number of steps without a branch, so that a processor need not guess and several look-ups overlap.

use std::ops::Range;

use crate::pages::{Pages, Plain};

const LINE_BYTES: usize = 64;

/// What can be a key.
pub(crate) trait Key: Plain + Ord {}

impl Key for u16 {}
impl Key for u32 {}

/// Keys, and the first keys of their lines.
#[derive(Debug)]
pub(crate) struct Lines<K: Key> {
    keys: Pages<K>,
    firsts: Pages<K>,
    firsts_of_firsts: Pages<K>,
}

impl<K: Key> Lines<K> {
    /// Keys in a line.
    const LINE: usize = LINE_BYTES / size_of::<K>();

    pub(crate) fn of(keys: &[K]) -> Lines<K> {
        let firsts: Vec<K> = keys.iter().copied().step_by(Self::LINE).collect();
        let firsts_of_firsts: Vec<K> = firsts.iter().copied().step_by(Self::LINE).collect();
        Lines { keys: Pages::of(keys), firsts: Pages::of(&firsts), firsts_of_firsts: Pages::of(&firsts_of_firsts) }
    }

    /// Position of the last key of a run that is not above `key`, or the one before the run. A run does not begin at 0.
    #[inline(always)]
    pub(crate) fn search(&self, run: Range<usize>, key: K) -> usize {
        if run.len() <= Self::LINE {
            return Self::within(&self.keys, run, key);
        }
        let firsts = Self::above(&run);
        let line = if firsts.len() <= Self::LINE {
            Self::within(&self.firsts, firsts, key)
        } else {
            let line = last(&self.firsts_of_firsts, &Self::above(&firsts), key);
            Self::within(&self.firsts, Self::in_line(line, &firsts), key)
        };
        Self::within(&self.keys, Self::in_line(line, &run), key)
    }

    /// The part of a run that is in a line.
    #[inline(always)]
    fn in_line(line: usize, run: &Range<usize>) -> Range<usize> {
        let begin = run.start.max(line * Self::LINE);
        begin..run.end.min((line + 1) * Self::LINE).max(begin)
    }

    /// Where the lines that begin in a run have their first keys.
    #[inline(always)]
    fn above(run: &Range<usize>) -> Range<usize> {
        run.start.div_ceil(Self::LINE)..run.end.div_ceil(Self::LINE)
    }

    /// As [`Lines::search`], of no more keys than a line's. Always as many steps as that takes, so that nothing has to be
    /// guessed.
    #[inline(always)]
    fn within(keys: &[K], run: Range<usize>, key: K) -> usize {
        let mut base = run.start - 1;
        let mut len = run.len() + 1;
        for _ in 0..=Self::LINE.ilog2() {
            let half = len / 2;
            base = if keys[base + half] <= key { base + half } else { base };
            len -= half;
        }
        base
    }

    /// All keys.
    pub(crate) fn keys(&self) -> &[K] {
        &self.keys
    }

    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.keys) + size_of_val(&*self.firsts) + size_of_val(&*self.firsts_of_firsts)
    }
}

/// As [`Lines::search`], by halves.
#[inline(always)]
fn last<K: Key>(keys: &[K], run: &Range<usize>, key: K) -> usize {
    let mut base = run.start - 1;
    let mut len = run.len() + 1;
    while len > 1 {
        let half = len / 2;
        base = if keys[base + half] <= key { base + half } else { base };
        len -= half;
    }
    base
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check<K: Key + Default + std::fmt::Debug>(runs: &[Vec<K>], probe: K) {
        let mut keys = vec![K::default()];
        let mut bounds = vec![1];
        for run in runs {
            keys.extend(run);
            bounds.push(keys.len());
        }
        let lines = Lines::of(&keys);
        assert_eq!(lines.keys(), keys);
        for (run, bounds) in runs.iter().zip(bounds.windows(2)) {
            for key in run.iter().copied().chain([probe, K::default()]) {
                let expected = bounds[0] - 1 + run.partition_point(|own| *own <= key);
                assert_eq!(lines.search(bounds[0]..bounds[1], key), expected, "{key:?} in {run:?} at {bounds:?}");
            }
        }
    }

    fn sorted<K: Ord>(mut keys: Vec<K>) -> Vec<K> {
        keys.sort();
        keys.dedup();
        keys
    }

    #[test]
    fn long_runs_and_empty_ones_are_searched() {
        let lengths = [0, 1, 16, 17, 0, 300, 5_000, 15, 32, 33, 20_000, 0];
        let runs: Vec<Vec<u32>> = lengths.iter().map(|len| (0..*len).map(|key| 3 * key + 1).collect()).collect();
        for probe in [0, 1, 2, 1_000, 30_000, u32::MAX] {
            check(&runs, probe);
        }
        let runs: Vec<Vec<u16>> = lengths.iter().map(|len| (0..*len as u16).map(|key| 3 * key + 1).collect()).collect();
        check(&runs, 1_000);
    }

    proptest! {
        #[test]
        fn a_search_by_lines_finds_what_a_plain_one_does(
            runs in prop::collection::vec(prop::collection::vec(any::<u16>(), 0..80).prop_map(sorted), 1..40),
            probe in any::<u16>(),
        ) {
            check(&runs, probe);
            let wide: Vec<Vec<u32>> =
                runs.iter().map(|run| run.iter().map(|key| u32::from(*key) << 9).collect()).collect();
            check(&wide, u32::from(probe) << 9);
        }
    }
}
