//! The table in use.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use crate::Table;

/// Holds the table in use, for readers that never wait. One for a process, shared.
#[derive(Debug)]
pub struct Live {
    current: ArcSwap<Table>,
}

impl Live {
    /// Begins with this table.
    pub fn new(table: Table) -> Live {
        Live { current: ArcSwap::from_pointee(table) }
    }

    /// The table in use, for a look-up or a few. Do not keep it over a wait: the table would stay in memory.
    pub fn load(&self) -> Guard<Arc<Table>> {
        self.current.load()
    }

    /// The table in use, to keep.
    pub fn table(&self) -> Arc<Table> {
        self.current.load_full()
    }

    /// Puts another in its place and answers the one before.
    pub fn swap(&self, table: Arc<Table>) -> Arc<Table> {
        self.current.swap(table)
    }
}
