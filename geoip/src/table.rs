//! The table: one immutable answer for every address there is.
//!
//! Both families are steps (from each start on, a record holds until the next start) behind a root that is indexed by
//! an address's first bits, so that a look-up searches one short run of keys:
//!
//! * IPv4: 2^16 roots by the first 16 bits; keys are the other 16 bits.
//! * IPv6: 2^17 roots by bits 3 to 20, for `2000::/3`, where the internet is; keys are the next 32 bits. What differs
//!   within 52 bits (a /64 or an address of an account) is in small runs of its own with whole addresses as keys. All
//!   outside of `2000::/3` is one such run.
//!
//! A run holds only the starts in it: an address before the first of them belongs to the step before, in a run before.
//! So each table begins with a step at its very first address, and a search never leaves the table.

use crate::pages::Pages;

const ROOT4_BITS: u32 = 16;
const ROOT6_BITS: u32 = 17;
/// Bits of an IPv6 address below what root and key see.
const CELL6_BITS: u32 = 128 - 3 - ROOT6_BITS - 32;
/// The first address of `2000::/3`, and of what follows it.
const GLOBAL6_START: u128 = 0x2000 << 112;
const GLOBAL6_AFTER: u128 = 0x4000 << 112;
/// Marks a value that is the number of a run of its own.
const IS_RUN: u32 = 1 << 31;
/// One more than the highest record number.
pub(crate) const RECORDS_MAX: u32 = IS_RUN;

/// IPv4 steps. The first entry of `keys` and `values` stands before the first address and is never the answer.
#[derive(Debug)]
pub(crate) struct Table4 {
    pub(crate) roots: Pages<u32>,
    pub(crate) keys: Pages<u16>,
    pub(crate) values: Pages<u32>,
}

/// IPv6 steps.
#[derive(Debug)]
pub(crate) struct Table6 {
    pub(crate) roots: Pages<u32>,
    pub(crate) keys: Pages<u32>,
    pub(crate) values: Pages<u32>,
    /// Where each run of whole addresses ends; the first run is what lies outside of `2000::/3`.
    pub(crate) run_ends: Pages<u32>,
    pub(crate) run_keys: Pages<u128>,
    pub(crate) run_values: Pages<u32>,
}

impl Table4 {
    #[inline]
    pub(crate) fn get(&self, address: u32) -> u32 {
        self.values[self.position(address)]
    }

    #[inline]
    fn position(&self, address: u32) -> usize {
        let root = (address >> (32 - ROOT4_BITS)) as usize;
        let key = address as u16;
        search(&self.roots, &self.keys, root, key)
    }

    /// The first address of the step at this position.
    fn start(&self, position: usize) -> u32 {
        let root = self.roots.partition_point(|end| *end as usize <= position) - 1;
        ((root as u32) << (32 - ROOT4_BITS)) | u32::from(self.keys[position])
    }

    /// The first and the last address of the step that holds this one.
    pub(crate) fn range(&self, address: u32) -> (u32, u32) {
        let position = self.position(address);
        let end = if position + 1 < self.keys.len() { self.start(position + 1) - 1 } else { u32::MAX };
        (self.start(position), end)
    }

    /// All steps in order: first address, record.
    pub(crate) fn steps(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        let mut root = 0;
        (1..self.keys.len()).map(move |position| {
            while self.roots.get(root + 1).is_some_and(|end| *end as usize <= position) {
                root += 1;
            }
            (((root as u32) << 16) | u32::from(self.keys[position]), self.values[position])
        })
    }

    /// Whether no look-up can leave the arrays or find a record that is not there.
    pub(crate) fn is_sound(&self, records: usize) -> bool {
        roots_are_sound(&self.roots, ROOT4_BITS, self.keys.len(), self.values.len())
            && self.keys.get(1) == Some(&0)
            && self.values.iter().all(|value| (*value as usize) < records)
            && self.roots.windows(2).all(|run| self.keys[run[0] as usize..run[1] as usize].is_sorted())
    }

    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.roots) + size_of_val(&*self.keys) + size_of_val(&*self.values)
    }
}

impl Table6 {
    #[inline]
    pub(crate) fn get(&self, address: u128) -> u32 {
        if address >> 125 != 1 {
            return self.run_values[self.in_run(0, address)];
        }
        let value = self.values[self.position(address)];
        if value & IS_RUN == 0 { value } else { self.run_values[self.in_run((value & !IS_RUN) as usize, address)] }
    }

    /// Of an address in `2000::/3`.
    #[inline]
    fn position(&self, address: u128) -> usize {
        let cell = (address >> CELL6_BITS) as u64;
        let root = (cell >> 32) as usize & ((1 << ROOT6_BITS) - 1);
        let key = cell as u32;
        search(&self.roots, &self.keys, root, key)
    }

    /// The first address of the cell at this position.
    fn start(&self, position: usize) -> u128 {
        let root = self.roots.partition_point(|end| *end as usize <= position) - 1;
        let cell = (1 << (32 + ROOT6_BITS)) | ((root as u128) << 32) | u128::from(self.keys[position]);
        cell << CELL6_BITS
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
        let (run, last) = if address < GLOBAL6_START {
            (0, GLOBAL6_START - 1)
        } else if address >= GLOBAL6_AFTER {
            (0, u128::MAX)
        } else {
            let position = self.position(address);
            let start = self.start(position);
            let value = self.values[position];
            let next = if position + 1 < self.keys.len() { self.start(position + 1) } else { GLOBAL6_AFTER };
            if value & IS_RUN == 0 {
                return (start, next - 1);
            }
            ((value & !IS_RUN) as usize, next - 1)
        };
        let position = self.in_run(run, address);
        let next = (position + 1 < self.run_ends[run] as usize).then(|| self.run_keys[position + 1] - 1);
        (self.run_keys[position], next.unwrap_or(last).min(last))
    }

    /// All steps in order: first address, record. Where nothing changes at a border between runs a step may say the same
    /// as the one before.
    pub(crate) fn steps(&self) -> impl Iterator<Item = (u128, u32)> + '_ {
        let outside = self.run(0);
        let split = outside.clone().take_while(|(start, _)| *start < GLOBAL6_START).count();
        let mut root = 0;
        let inside = (1..self.keys.len()).flat_map(move |position| {
            while self.roots.get(root + 1).is_some_and(|end| *end as usize <= position) {
                root += 1;
            }
            let cell = (1 << (32 + ROOT6_BITS)) | ((root as u128) << 32) | u128::from(self.keys[position]);
            let value = self.values[position];
            let single = (value & IS_RUN == 0).then_some((cell << CELL6_BITS, value));
            let run = (value & IS_RUN != 0).then(|| self.run((value & !IS_RUN) as usize));
            single.into_iter().chain(run.into_iter().flatten())
        });
        outside.clone().take(split).chain(inside).chain(outside.skip(split))
    }

    fn run(&self, run: usize) -> impl Iterator<Item = (u128, u32)> + Clone + '_ {
        (self.run_start(run)..self.run_ends[run] as usize)
            .map(|position| (self.run_keys[position], self.run_values[position]))
    }

    /// Whether no look-up can leave the arrays or find a record that is not there.
    pub(crate) fn is_sound(&self, records: usize) -> bool {
        let is_value = |value: &u32| (*value as usize) < records;
        let is_run = |value: &u32| value & IS_RUN != 0 && ((value & !IS_RUN) as usize) < self.run_ends.len();
        let runs = std::iter::once(0).chain(self.run_ends.iter().copied()).zip(self.run_ends.iter().copied());
        roots_are_sound(&self.roots, ROOT6_BITS, self.keys.len(), self.values.len())
            && self.keys.get(1) == Some(&0)
            && self.values.iter().all(|value| is_value(value) || is_run(value))
            && self.roots.windows(2).all(|run| self.keys[run[0] as usize..run[1] as usize].is_sorted())
            && self.run_keys.len() == self.run_values.len()
            && self.run_ends.last().is_some_and(|end| *end as usize == self.run_keys.len())
            && self.run_ends.is_sorted()
            && self.run_keys.first() == Some(&0)
            && self.run_values.iter().all(is_value)
            && runs.clone().all(|(start, end)| start < end)
            && runs.into_iter().all(|(start, end)| self.run_keys[start as usize..end as usize].is_sorted())
    }

    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.roots)
            + size_of_val(&*self.keys)
            + size_of_val(&*self.values)
            + size_of_val(&*self.run_ends)
            + size_of_val(&*self.run_keys)
            + size_of_val(&*self.run_values)
    }
}

/// The last position under a root whose key is not above this one. The keys of a root end where the next one's begin, and the one
/// before them holds until the first.
#[inline(always)]
fn search<K: Copy + PartialOrd>(roots: &[u32], keys: &[K], root: usize, key: K) -> usize {
    let mut base = roots[root] as usize - 1;
    let mut len = roots[root + 1] as usize - base;
    while len > 1 {
        let half = len / 2;
        base = if keys[base + half] <= key { base + half } else { base };
        len -= half;
    }
    base
}

/// Whether these are all roots of a table with so many keys, and the first run begins with the first address.
fn roots_are_sound(roots: &[u32], bits: u32, keys: usize, values: usize) -> bool {
    roots.len() == (1 << bits) + 1
        && roots.first() == Some(&1)
        && roots.get(1).is_some_and(|end| *end > 1)
        && roots.is_sorted()
        && roots.last().is_some_and(|end| *end as usize == keys)
        && keys == values
}

/// Builds a [`Table4`] from steps in order; the first is at 0.
#[derive(Debug, Default)]
pub(crate) struct Builder4 {
    roots: Vec<u32>,
    keys: Vec<u16>,
    values: Vec<u32>,
}

impl Builder4 {
    pub(crate) fn new() -> Builder4 {
        Builder4 { roots: vec![1], keys: vec![0], values: vec![0] }
    }

    pub(crate) fn push(&mut self, start: u32, record: u32) {
        let root = (start >> 16) as usize;
        self.roots.resize((root + 1).max(self.roots.len()), self.keys.len() as u32);
        self.keys.push(start as u16);
        self.values.push(record);
    }

    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    pub(crate) fn finish(mut self) -> Table4 {
        self.roots.resize((1 << ROOT4_BITS) + 1, self.keys.len() as u32);
        Table4 { roots: Pages::of(&self.roots), keys: Pages::of(&self.keys), values: Pages::of(&self.values) }
    }
}

/// Builds a [`Table6`] from steps in order; the first is at 0.
#[derive(Debug)]
pub(crate) struct Builder6 {
    roots: Vec<u32>,
    keys: Vec<u32>,
    values: Vec<u32>,
    run_ends: Vec<u32>,
    run_keys: Vec<u128>,
    run_values: Vec<u32>,
    /// Steps outside of `2000::/3`.
    outside: Vec<(u128, u32)>,
    /// Steps that begin in the open cell; its value before the first of them.
    cell: u64,
    cell_steps: Vec<(u128, u32)>,
    /// What holds now, and what held where the open cell begins.
    current: u32,
    before_cell: u32,
    /// The cell before was a run: the one after it has to be said.
    resume: Option<u64>,
    entered: bool,
    left: bool,
}

impl Builder6 {
    pub(crate) fn new() -> Builder6 {
        Builder6 {
            roots: vec![1],
            keys: vec![0],
            values: vec![0],
            // The run of what is outside is put first at the end.
            run_ends: Vec::new(),
            run_keys: Vec::new(),
            run_values: Vec::new(),
            outside: Vec::new(),
            cell: 0,
            cell_steps: Vec::new(),
            current: 0,
            before_cell: 0,
            resume: None,
            entered: false,
            left: false,
        }
    }

    pub(crate) fn push(&mut self, start: u128, record: u32) {
        if start >= GLOBAL6_START {
            self.enter(start);
        }
        if start >= GLOBAL6_AFTER {
            self.leave(start);
        }
        if (GLOBAL6_START..GLOBAL6_AFTER).contains(&start) {
            self.inside(start, record);
        } else {
            self.outside.push((start, record));
            self.current = record;
        }
    }

    /// At the first step in or after `2000::/3`: it begins with what held before.
    fn enter(&mut self, start: u128) {
        if !self.entered {
            self.entered = true;
            if start > GLOBAL6_START {
                self.inside(GLOBAL6_START, self.current);
            }
        }
    }

    /// At the first step after `2000::/3`: what holds there begins with what held before.
    fn leave(&mut self, start: u128) {
        if !self.left {
            self.left = true;
            self.close_cell();
            if start > GLOBAL6_AFTER {
                self.outside.push((GLOBAL6_AFTER, self.current));
            }
        }
    }

    fn inside(&mut self, start: u128, record: u32) {
        let cell = (start >> CELL6_BITS) as u64;
        if cell != self.cell {
            self.close_cell();
            self.cell = cell;
            self.before_cell = self.current;
        }
        self.cell_steps.push((start, record));
        self.current = record;
    }

    fn close_cell(&mut self) {
        let cell = self.cell;
        if self.cell_steps.is_empty() {
            return;
        }
        if let Some(resume) = self.resume.take()
            && resume < cell
        {
            self.entry(resume, self.before_cell);
        }
        let first = u128::from(cell) << CELL6_BITS;
        let steps = std::mem::take(&mut self.cell_steps);
        if let [(start, record)] = steps[..]
            && start == first
        {
            self.entry(cell, record);
        } else {
            // One run is outside of 2000::/3 and comes first.
            let run = 1 + self.run_ends.len() as u32;
            if steps.first().is_none_or(|(start, _)| *start != first) {
                self.run_keys.push(first);
                self.run_values.push(self.before_cell);
            }
            for (start, record) in &steps {
                self.run_keys.push(*start);
                self.run_values.push(*record);
            }
            self.run_ends.push(self.run_keys.len() as u32);
            self.entry(cell, IS_RUN | run);
            self.resume = Some(cell + 1);
        }
        self.cell_steps = steps;
        self.cell_steps.clear();
    }

    fn entry(&mut self, cell: u64, value: u32) {
        let root = (cell >> 32) as usize & ((1 << ROOT6_BITS) - 1);
        self.roots.resize((root + 1).max(self.roots.len()), self.keys.len() as u32);
        self.keys.push(cell as u32);
        self.values.push(value);
    }

    /// Entries and whole addresses so far.
    pub(crate) fn len(&self) -> usize {
        self.keys.len() + 3 * self.run_keys.len()
    }

    pub(crate) fn finish(mut self) -> Table6 {
        self.enter(u128::MAX);
        self.leave(u128::MAX);
        if let Some(resume) = self.resume.take()
            && resume < (GLOBAL6_AFTER >> CELL6_BITS) as u64
        {
            // Nothing changed inside after the last run; what follows outside does not matter here.
            let inside = self.run_values.last().copied().unwrap_or(self.current);
            self.entry(resume, inside);
        }
        self.roots.resize((1 << ROOT6_BITS) + 1, self.keys.len() as u32);
        let outside = self.outside.len() as u32;
        let (keys, values): (Vec<u128>, Vec<u32>) = self.outside.iter().copied().unzip();
        let run_ends: Vec<u32> =
            std::iter::once(outside).chain(self.run_ends.iter().map(|end| end + outside)).collect();
        let run_keys: Vec<u128> = keys.into_iter().chain(self.run_keys).collect();
        let run_values: Vec<u32> = values.into_iter().chain(self.run_values).collect();
        Table6 {
            roots: Pages::of(&self.roots),
            keys: Pages::of(&self.keys),
            values: Pages::of(&self.values),
            run_ends: Pages::of(&run_ends),
            run_keys: Pages::of(&run_keys),
            run_values: Pages::of(&run_values),
        }
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
