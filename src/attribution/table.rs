//! A table of accounts in memory: names (exact or `*.domain`) or keyed hashes of API keys, each row with its period.
//!
//! ```text
//! rows     sorted by name, then by the beginning of the period; 12 bytes each
//! names    the names' bytes, one behind the other; a wildcard is its domain with the leading dot
//! grants   the distinct (account, period), which most rows share
//! slots    open addressing over the first row of each name
//! ```
//!
//! *Bounds*: [`ROWS_MAX`] rows of at most [`NAME_BYTES_MAX`] bytes of name. A million hosts of 20 bytes are 36 MB and 9 MB of slots.
//! Look-ups allocate nothing, lock nothing and read no clock; a wildcard costs one look-up for each label.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

/// Most rows of a table.
pub const ROWS_MAX: usize = 1_000_000;
/// Longest name, bytes.
pub const NAME_BYTES_MAX: usize = 255;

/// No row.
const EMPTY: u32 = u32::MAX;

/// One row as it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Lower case; `.domain` for a wildcard; the bytes of a hash.
    pub name: Vec<u8>,
    /// Who is billed.
    pub account: Arc<str>,
    /// From this µs on.
    pub valid_from_us: i64,
    /// Up to before this one.
    pub valid_to_us: i64,
    /// Where it stands in the file.
    pub line: u64,
}

/// Two rows that name different accounts for one name at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overlap {
    /// The later one in the file.
    pub line: u64,
    /// The earlier one.
    pub other_line: u64,
}

/// The table.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Packed>,
    names: Vec<u8>,
    grants: Vec<Grant>,
    slots: Vec<u32>,
    hasher: RandomState,
    has_wildcards: bool,
    version: i64,
}

#[derive(Clone, Copy, Debug)]
struct Packed {
    name_at: u32,
    name_bytes: u8,
    grant: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Grant {
    account: Arc<str>,
    valid_from_us: i64,
    valid_to_us: i64,
}

impl Table {
    /// Of these rows, at most [`ROWS_MAX`]. `version` says which content it is.
    pub fn new(mut rows: Vec<Row>, version: i64) -> Result<Self, Vec<Overlap>> {
        // Stable: rows that are alike stay in the file's order.
        rows.sort_by(|a, b| (&a.name, a.valid_from_us).cmp(&(&b.name, b.valid_from_us)));
        let overlaps = overlaps(&rows);
        if !overlaps.is_empty() {
            return Err(overlaps);
        }
        let mut grants = HashMap::new();
        let mut table = Self {
            rows: Vec::with_capacity(rows.len()),
            names: Vec::with_capacity(rows.iter().map(|row| row.name.len()).sum()),
            grants: Vec::new(),
            slots: vec![EMPTY; (rows.len() * 3 / 2).next_power_of_two().max(2)],
            hasher: RandomState::new(),
            has_wildcards: rows.iter().any(|row| row.name.first() == Some(&b'.')),
            version,
        };
        for row in rows {
            let grant = Grant { account: row.account, valid_from_us: row.valid_from_us, valid_to_us: row.valid_to_us };
            let next = grants.len() as u32;
            let number = *grants.entry(grant.clone()).or_insert_with(|| {
                table.grants.push(grant);
                next
            });
            let is_first = table.rows.last().is_none_or(|before| table.name(*before) != row.name);
            let packed = Packed { name_at: table.names.len() as u32, name_bytes: row.name.len() as u8, grant: number };
            if is_first {
                let slot = table.free_slot(&row.name);
                table.slots[slot] = table.rows.len() as u32;
                table.names.extend_from_slice(&row.name);
                table.rows.push(packed);
            } else if let Some(before) = table.rows.last().copied() {
                // Another period of the same name: its bytes are there.
                table.rows.push(Packed { name_at: before.name_at, ..packed });
            }
        }
        Ok(table)
    }

    /// What content it has.
    pub fn version(&self) -> i64 {
        self.version
    }

    /// How many rows it has.
    pub fn row_count(&self) -> usize {
        self.rows.len()
    }

    /// Whose exactly this name is at a time.
    pub fn exact(&self, name: &[u8], at_us: i64) -> Option<&Arc<str>> {
        let first = self.first_row(name)?;
        let rows = self.rows[first..].iter().take_while(|row| {
            let other = self.rows[first];
            row.name_at == other.name_at && row.name_bytes == other.name_bytes
        });
        rows.map(|row| &self.grants[row.grant as usize])
            .find(|grant| grant.valid_from_us <= at_us && at_us < grant.valid_to_us)
            .map(|grant| &grant.account)
    }

    /// Whose a host is at a time: the exact name, else the longest wildcard above it. `host` is in lower case.
    pub fn host(&self, host: &str, at_us: i64) -> Option<&Arc<str>> {
        // A leading dot would be a wildcard's own spelling.
        if host.is_empty() || host.starts_with('.') || host.len() > NAME_BYTES_MAX {
            return None;
        }
        if let Some(account) = self.exact(host.as_bytes(), at_us) {
            return Some(account);
        }
        if !self.has_wildcards {
            return None;
        }
        let dots = host.bytes().enumerate().filter(|(_, byte)| *byte == b'.');
        dots.map(|(at, _)| &host.as_bytes()[at..]).find_map(|domain| self.exact(domain, at_us))
    }

    fn name(&self, row: Packed) -> &[u8] {
        let at = row.name_at as usize;
        &self.names[at..at + usize::from(row.name_bytes)]
    }

    fn first_row(&self, name: &[u8]) -> Option<usize> {
        let mut slot = self.home(name);
        loop {
            let row = self.slots[slot];
            if row == EMPTY {
                return None;
            }
            if self.name(self.rows[row as usize]) == name {
                return Some(row as usize);
            }
            slot = (slot + 1) & (self.slots.len() - 1);
        }
    }

    fn free_slot(&self, name: &[u8]) -> usize {
        let mut slot = self.home(name);
        while self.slots[slot] != EMPTY {
            slot = (slot + 1) & (self.slots.len() - 1);
        }
        slot
    }

    /// There is always a free slot: they are half as many again as rows.
    fn home(&self, name: &[u8]) -> usize {
        self.hasher.hash_one(name) as usize & (self.slots.len() - 1)
    }
}

/// Sorted rows of one name whose periods overlap.
fn overlaps(rows: &[Row]) -> Vec<Overlap> {
    let mut found = Vec::new();
    // The row so far of this name that ends last.
    let mut open: Option<&Row> = None;
    for row in rows {
        let before = open.filter(|before| before.name == row.name);
        if let Some(before) = before
            && before.valid_to_us > row.valid_from_us
            && before.account != row.account
        {
            found.push(Overlap { line: before.line.max(row.line), other_line: before.line.min(row.line) });
        }
        if before.is_none_or(|before| before.valid_to_us < row.valid_to_us) {
            open = Some(row);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn row(name: &str, account: &str, period: (i64, i64), line: u64) -> Row {
        Row { name: name.into(), account: account.into(), valid_from_us: period.0, valid_to_us: period.1, line }
    }

    fn whose<'t>(table: &'t Table, host: &str, at_us: i64) -> Option<&'t str> {
        table.host(host, at_us).map(|account| &**account)
    }

    #[test]
    fn the_longest_name_that_holds_decides() {
        const EVER: (i64, i64) = (i64::MIN, i64::MAX);
        let table = Table::new(
            vec![
                row("a.test", "exact", (0, 10), 1),
                row(".test", "wild", EVER, 2),
                row(".b.test", "longer", EVER, 3),
                row("a.test", "later", (10, 20), 4),
            ],
            7,
        )
        .unwrap();
        assert_eq!(whose(&table, "a.test", 9), Some("exact"));
        assert_eq!(whose(&table, "a.test", 10), Some("later"));
        assert_eq!(
            whose(&table, "a.test", 20),
            Some("wild"),
            "an exact name whose time is over leaves it to the wildcard"
        );
        assert_eq!(whose(&table, "x.y.b.test", 0), Some("longer"));
        assert_eq!(whose(&table, "b.test", 0), Some("wild"));
        for nobody in ["test", ".test", "", "a.tests", ".b.test"] {
            assert_eq!(whose(&table, nobody, 0), None, "{nobody}");
        }
        assert_eq!((table.row_count(), table.version()), (4, 7));
    }

    #[test]
    fn two_accounts_of_one_name_at_one_time_are_named() {
        let rows = vec![row("a", "x", (0, 10), 4), row("b", "x", (0, 9), 3), row("a", "y", (9, 12), 2)];
        assert_eq!(Table::new(rows, 0).unwrap_err(), [Overlap { line: 4, other_line: 2 }]);
        // The same account twice is no contradiction, and neither are neighbours.
        Table::new(vec![row("a", "x", (0, 10), 1), row("a", "x", (5, 12), 2), row("a", "y", (12, 13), 3)], 0).unwrap();
        // A short period inside a long one does not hide what comes behind it.
        let rows = vec![row("a", "x", (0, 100), 1), row("a", "x", (5, 6), 2), row("a", "y", (50, 60), 3)];
        assert_eq!(Table::new(rows, 0).unwrap_err(), [Overlap { line: 3, other_line: 1 }]);
    }

    proptest! {
        /// Against a walk over all rows.
        #[test]
        fn look_ups_find_what_a_walk_finds(
            rows in prop::collection::vec(("[ab.]{1,4}", 0..3u8, 0..6i64, 1..4i64), 0..60),
            asked in prop::collection::vec(("[ab.]{0,5}", 0..10i64), 1..40),
        ) {
            let rows: Vec<Row> = rows
                .iter()
                .enumerate()
                .map(|(at, (name, account, from, length))| row(name, &account.to_string(), (*from, from + length), at as u64))
                .collect();
            let Ok(table) = Table::new(rows.clone(), 0) else { return Ok(()) };
            for (name, at_us) in asked {
                let holds = |row: &&Row| row.name == name.as_bytes() && row.valid_from_us <= at_us && at_us < row.valid_to_us;
                let walked = rows.iter().find(holds).map(|row| &row.account);
                prop_assert_eq!(table.exact(name.as_bytes(), at_us), walked, "{}", name);
            }
        }
    }
}
