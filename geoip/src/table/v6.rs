//! IPv6 steps.

use super::roots_are_sound;
use crate::lines::Lines;
use crate::packed::Packed;
use crate::pages::Pages;

pub(super) const ROOT_BITS: u32 = 17;
/// Bits of an IPv6 address below what root and key see.
pub(super) const CELL_BITS: u32 = 128 - 3 - ROOT_BITS - 32;
/// The first address of `2000::/3`, and of what follows it.
pub(super) const GLOBAL_START: u128 = 0x2000 << 112;
pub(super) const GLOBAL_AFTER: u128 = 0x4000 << 112;
/// While a table is built: marks a value that is the number of a run of its own.
pub(super) const IS_RUN: u32 = 1 << 31;

/// The first entry of `keys` and `values` stands before the first address and is never the answer.
#[derive(Debug)]
pub(crate) struct Table6 {
    pub(crate) roots: Pages<u32>,
    pub(crate) keys: Lines<u32>,
    /// Records, and from `records` on runs.
    pub(crate) values: Packed<1>,
    records: u32,
    /// Where each run of whole addresses ends; the first run is what lies outside of `2000::/3`.
    pub(crate) run_ends: Pages<u32>,
    pub(crate) run_keys: Pages<u128>,
    pub(crate) run_values: Packed<1>,
}

impl Table6 {
    /// Of its arrays; values from `records` on are runs.
    pub(crate) fn of(
        [roots, keys, values]: [&[u32]; 3],
        run_ends: &[u32],
        run_keys: &[u128],
        run_values: &[u32],
        records: u32,
    ) -> Table6 {
        Table6 {
            roots: Pages::of(roots),
            keys: Lines::of(keys),
            values: Packed::of(values.iter().map(|value| [*value])),
            records,
            run_ends: Pages::of(run_ends),
            run_keys: Pages::of(run_keys),
            run_values: Packed::of(run_values.iter().map(|value| [*value])),
        }
    }

    #[inline]
    pub(crate) fn get(&self, address: u128) -> u32 {
        if address >> 125 != 1 {
            return self.of_run(0, address);
        }
        let [value] = self.values.get(self.position(address));
        self.run_of(value).map_or(value, |run| self.of_run(run, address))
    }

    /// The run that a value stands for, if it is no record.
    #[inline]
    fn run_of(&self, value: u32) -> Option<usize> {
        value.checked_sub(self.records).map(|run| run as usize)
    }

    fn of_run(&self, run: usize, address: u128) -> u32 {
        self.run_values.get(self.in_run(run, address))[0]
    }

    /// Of an address in `2000::/3`.
    #[inline]
    fn position(&self, address: u128) -> usize {
        let cell = (address >> CELL_BITS) as u64;
        let root = (cell >> 32) as usize & ((1 << ROOT_BITS) - 1);
        self.keys.search(self.roots[root] as usize..self.roots[root + 1] as usize, cell as u32)
    }

    /// The first address of the cell at this position.
    fn start(&self, position: usize) -> u128 {
        let root = self.roots.partition_point(|end| *end as usize <= position) - 1;
        cell_start(root, self.keys.keys()[position])
    }

    /// Position among whole addresses; a run begins at or before every address that is searched in it.
    fn in_run(&self, run: usize, address: u128) -> usize {
        let start = self.run_start(run);
        let keys = &self.run_keys[start..self.run_ends[run] as usize];
        start + keys.partition_point(|key| *key <= address).saturating_sub(1)
    }

    fn run_start(&self, run: usize) -> usize {
        run.checked_sub(1).map_or(0, |before| self.run_ends[before] as usize)
    }

    /// The first and the last address of the step that holds this one.
    pub(crate) fn range(&self, address: u128) -> (u128, u128) {
        let (run, last) = if address < GLOBAL_START {
            (0, GLOBAL_START - 1)
        } else if address >= GLOBAL_AFTER {
            (0, u128::MAX)
        } else {
            let position = self.position(address);
            let start = self.start(position);
            let next = if position + 1 < self.values.len() { self.start(position + 1) } else { GLOBAL_AFTER };
            let Some(run) = self.run_of(self.values.get(position)[0]) else { return (start, next - 1) };
            (run, next - 1)
        };
        let position = self.in_run(run, address);
        let next = (position + 1 < self.run_ends[run] as usize).then(|| self.run_keys[position + 1] - 1);
        (self.run_keys[position], next.unwrap_or(last).min(last))
    }

    /// All steps in order: first address, record. Where nothing changes at a border between runs a step may say the same
    /// as the one before.
    pub(crate) fn steps(&self) -> impl Iterator<Item = (u128, u32)> + '_ {
        let outside = self.run(0);
        let split = outside.clone().take_while(|(start, _)| *start < GLOBAL_START).count();
        let mut root = 0;
        let cells = self.keys.keys().iter().zip(self.values.iter()).enumerate().skip(1);
        let inside = cells.flat_map(move |(position, (key, [value]))| {
            while self.roots.get(root + 1).is_some_and(|end| *end as usize <= position) {
                root += 1;
            }
            let run = self.run_of(value);
            let single = run.is_none().then_some((cell_start(root, *key), value));
            single.into_iter().chain(run.map(|run| self.run(run)).into_iter().flatten())
        });
        outside.clone().take(split).chain(inside).chain(outside.skip(split))
    }

    fn run(&self, run: usize) -> impl Iterator<Item = (u128, u32)> + Clone + '_ {
        (self.run_start(run)..self.run_ends[run] as usize)
            .map(|position| (self.run_keys[position], self.run_values.get(position)[0]))
    }

    /// Whether no look-up can leave the arrays or find a record that is not there.
    pub(crate) fn is_sound(&self, records: usize) -> bool {
        let ends = || self.run_ends.iter().map(|end| *end as usize);
        let mut runs = std::iter::once(0).chain(ends()).zip(ends());
        records == self.records as usize
            && roots_are_sound(&self.roots, ROOT_BITS, self.keys.keys(), self.values.len())
            && self.values.iter().all(|[value]| self.run_of(value).is_none_or(|run| run < self.run_ends.len()))
            && self.run_keys.len() == self.run_values.len()
            && self.run_ends.last().is_some_and(|end| *end as usize == self.run_keys.len())
            && self.run_ends.is_sorted()
            && self.run_keys.first() == Some(&0)
            && self.run_values.iter().all(|[value]| value < self.records)
            && runs.all(|(start, end)| start < end && self.run_keys[start..end].is_sorted())
    }

    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.roots)
            + self.keys.bytes()
            + self.values.bytes()
            + size_of_val(&*self.run_ends)
            + size_of_val(&*self.run_keys)
            + self.run_values.bytes()
    }
}

/// The first address of a cell.
fn cell_start(root: usize, key: u32) -> u128 {
    ((1 << (32 + ROOT_BITS)) | ((root as u128) << 32) | u128::from(key)) << CELL_BITS
}
