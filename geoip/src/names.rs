//! Texts stored once, known by number.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

/// Number of a text; 0 is the empty one, which means: not known.
pub(crate) type NameId = u32;

/// All texts of a table, one after the other.
#[derive(Debug)]
pub(crate) struct Names {
    pub(crate) text: String,
    /// Where each text ends; the first is empty.
    pub(crate) ends: Vec<u32>,
}

impl Names {
    /// The text with this number; empty if there is none.
    pub(crate) fn get(&self, id: NameId) -> &str {
        let id = id as usize;
        let start = id.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0) as usize;
        let end = self.ends.get(id).copied().unwrap_or(0) as usize;
        self.text.get(start..end).unwrap_or("")
    }

    pub(crate) fn bytes(&self) -> usize {
        self.text.len() + self.ends.len() * size_of::<u32>()
    }
}

/// Gives numbers to texts.
#[derive(Debug)]
pub(crate) struct NamesBuilder {
    names: Names,
    index: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl NamesBuilder {
    pub(crate) fn new() -> NamesBuilder {
        let names = Names { text: String::new(), ends: vec![0] };
        NamesBuilder { names, index: HashTable::new(), hasher: DefaultHashBuilder::default() }
    }

    /// The number of this text. All texts together are kept below 4 GiB: what does not fit has no number and is not
    /// known; the budget of a compilation ends long before.
    pub(crate) fn intern(&mut self, text: &str) -> NameId {
        if text.is_empty() {
            return 0;
        }
        let names = &mut self.names;
        let hash = self.hasher.hash_one(text);
        if let Some(id) = self.index.find(hash, |id| names.get(*id) == text) {
            return *id;
        }
        let Ok(end) = u32::try_from(names.text.len() + text.len()) else { return 0 };
        let id = names.ends.len() as u32;
        names.text.push_str(text);
        names.ends.push(end);
        self.index.insert_unique(hash, id, |id| self.hasher.hash_one(names.get(*id)));
        id
    }

    pub(crate) fn get(&self, id: NameId) -> &str {
        self.names.get(id)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.names.bytes()
    }

    pub(crate) fn finish(self) -> Names {
        let mut names = self.names;
        names.text.shrink_to_fit();
        names.ends.shrink_to_fit();
        names
    }
}
