//! Makes IPv6 steps a table, as they come.

use super::Table6;
use super::v6::{CELL_BITS, GLOBAL_AFTER, GLOBAL_START, IS_RUN, ROOT_BITS};

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
        if start >= GLOBAL_START {
            self.enter(start);
        }
        if start >= GLOBAL_AFTER {
            self.leave(start);
        }
        if (GLOBAL_START..GLOBAL_AFTER).contains(&start) {
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
            if start > GLOBAL_START {
                self.inside(GLOBAL_START, self.current);
            }
        }
    }

    /// At the first step after `2000::/3`: what holds there begins with what held before.
    fn leave(&mut self, start: u128) {
        if !self.left {
            self.left = true;
            self.close_cell();
            if start > GLOBAL_AFTER {
                self.outside.push((GLOBAL_AFTER, self.current));
            }
        }
    }

    fn inside(&mut self, start: u128, record: u32) {
        let cell = (start >> CELL_BITS) as u64;
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
        let first = u128::from(cell) << CELL_BITS;
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
        let root = (cell >> 32) as usize & ((1 << ROOT_BITS) - 1);
        self.roots.resize((root + 1).max(self.roots.len()), self.keys.len() as u32);
        self.keys.push(cell as u32);
        self.values.push(value);
    }

    /// Entries and whole addresses so far.
    pub(crate) fn len(&self) -> usize {
        self.keys.len() + 3 * self.run_keys.len()
    }

    /// With so many records.
    pub(crate) fn finish(mut self, records: u32) -> Table6 {
        self.enter(u128::MAX);
        self.leave(u128::MAX);
        if let Some(resume) = self.resume.take()
            && resume < (GLOBAL_AFTER >> CELL_BITS) as u64
        {
            // Nothing changed inside after the last run; what follows outside does not matter here.
            let inside = self.run_values.last().copied().unwrap_or(self.current);
            self.entry(resume, inside);
        }
        self.roots.resize((1 << ROOT_BITS) + 1, self.keys.len() as u32);
        let outside = self.outside.len() as u32;
        let (keys, values): (Vec<u128>, Vec<u32>) = self.outside.iter().copied().unzip();
        let run_ends: Vec<u32> =
            std::iter::once(outside).chain(self.run_ends.iter().map(|end| end + outside)).collect();
        let run_keys: Vec<u128> = keys.into_iter().chain(self.run_keys).collect();
        let run_values: Vec<u32> = values.into_iter().chain(self.run_values).collect();
        for value in &mut self.values {
            if *value & IS_RUN != 0 {
                *value = records + (*value & !IS_RUN);
            }
        }
        Table6::of([&self.roots, &self.keys, &self.values], &run_ends, &run_keys, &run_values, records)
    }
}
