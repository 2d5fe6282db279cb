//! Values stored once, known by number.

use std::hash::{BuildHasher, Hash};

use hashbrown::{DefaultHashBuilder, HashTable};

/// Gives numbers to values; number 0 is the default value.
#[derive(Debug)]
pub(crate) struct Interner<T> {
    pub(crate) values: Vec<T>,
    index: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl<T: Copy + Default + Eq + Hash> Interner<T> {
    pub(crate) fn new() -> Interner<T> {
        let mut interner =
            Interner { values: Vec::new(), index: HashTable::new(), hasher: DefaultHashBuilder::default() };
        interner.intern(T::default());
        interner
    }

    pub(crate) fn intern(&mut self, value: T) -> u32 {
        let Interner { values, index, hasher } = self;
        let hash = hasher.hash_one(value);
        let found = index.find(hash, |id| values.get(*id as usize) == Some(&value));
        if let Some(id) = found {
            return *id;
        }
        let id = values.len() as u32;
        values.push(value);
        index.insert_unique(hash, id, |id| values.get(*id as usize).map_or(0, |value| hasher.hash_one(value)));
        id
    }
}
