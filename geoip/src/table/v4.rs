//! IPv4 steps.

use super::roots_are_sound;
use crate::lines::Lines;
use crate::packed::Packed;
use crate::pages::Pages;

const ROOT_BITS: u32 = 16;

/// The first entry of `keys` and `values` stands before the first address and is never the answer.
#[derive(Debug)]
pub(crate) struct Table4 {
    pub(crate) roots: Pages<u32>,
    pub(crate) keys: Lines<u16>,
    pub(crate) values: Packed<1>,
}

impl Table4 {
    pub(crate) fn of(roots: &[u32], keys: &[u16], values: &[u32]) -> Table4 {
        let values = Packed::of(values.iter().map(|value| [*value]));
        Table4 { roots: Pages::of(roots), keys: Lines::of(keys), values }
    }

    #[inline]
    pub(crate) fn get(&self, address: u32) -> u32 {
        self.values.get(self.position(address))[0]
    }

    #[inline]
    fn position(&self, address: u32) -> usize {
        let root = (address >> (32 - ROOT_BITS)) as usize;
        let run = self.roots[root] as usize..self.roots[root + 1] as usize;
        // Most runs are short: their values come from memory while their keys are searched.
        self.values.touch(run.start + run.len() / 2);
        self.keys.search(run, address as u16)
    }

    /// The first address of the step at this position.
    fn start(&self, position: usize) -> u32 {
        let root = self.roots.partition_point(|end| *end as usize <= position) - 1;
        ((root as u32) << (32 - ROOT_BITS)) | u32::from(self.keys.keys()[position])
    }

    /// The first and the last address of the step that holds this one.
    pub(crate) fn range(&self, address: u32) -> (u32, u32) {
        let position = self.position(address);
        let end = if position + 1 < self.values.len() { self.start(position + 1) - 1 } else { u32::MAX };
        (self.start(position), end)
    }

    /// All steps in order: first address, record.
    pub(crate) fn steps(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        let mut root = 0;
        self.keys.keys().iter().zip(self.values.iter()).enumerate().skip(1).map(move |(position, (key, [value]))| {
            while self.roots.get(root + 1).is_some_and(|end| *end as usize <= position) {
                root += 1;
            }
            (((root as u32) << (32 - ROOT_BITS)) | u32::from(*key), value)
        })
    }

    /// Whether no look-up can leave the arrays or find a record that is not there.
    pub(crate) fn is_sound(&self, records: usize) -> bool {
        roots_are_sound(&self.roots, ROOT_BITS, self.keys.keys(), self.values.len())
            && self.values.iter().all(|[value]| (value as usize) < records)
    }

    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.roots) + self.keys.bytes() + self.values.bytes()
    }
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
        self.roots.resize((1 << ROOT_BITS) + 1, self.keys.len() as u32);
        Table4::of(&self.roots, &self.keys, &self.values)
    }
}
