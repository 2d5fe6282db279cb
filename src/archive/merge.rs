//! Files of rows in order → rows in the order of all of them (account, then time, then file). Only the rows next in line of each are in
//! memory, whatever their number: together about as many as a row group has.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_array::types::TimestampMicrosecondType;
use arrow_select::interleave::interleave_record_batch;

use super::file::{self, Batches, GROUP_ROWS, PAGE_ROWS};
use super::manifest::File;
use super::schema::Table;
use super::{Error, Place, upkeep};

/// Rows that are given at once.
const GIVEN_ROWS: usize = PAGE_ROWS;

/// Account and time of a row, and which input has it: least first.
type Key = Reverse<(Arc<str>, i64, usize)>;

/// A file, as far as it was read.
struct Input {
    batches: Batches,
    /// Which of the batches in memory it stands in, and where.
    batch: usize,
    row: usize,
    accounts: Vec<Arc<str>>,
    account: Vec<usize>,
    at: Vec<i64>,
}

/// Gives all rows of these files, in order.
pub fn merge(
    place: &Place,
    table: Table,
    files: &[File],
    mut give: impl FnMut(&RecordBatch) -> Result<(), Error>,
) -> Result<(), Error> {
    let rows_max = (GROUP_ROWS / files.len().max(1)).clamp(64, PAGE_ROWS);
    let mut batches: Vec<RecordBatch> = Vec::new();
    let (mut inputs, mut next) = (Vec::new(), BinaryHeap::<Key>::new());
    for file in files {
        let mut input = Input {
            batches: upkeep::open(place, file, rows_max)?,
            batch: 0,
            row: 0,
            accounts: Vec::new(),
            account: Vec::new(),
            at: Vec::new(),
        };
        if input.load(table, &mut batches)? {
            next.push(input.key(inputs.len()));
        }
        inputs.push(input);
    }
    let mut taken: Vec<(usize, usize)> = Vec::with_capacity(GIVEN_ROWS);
    while let Some(Reverse((_, _, at))) = next.pop() {
        let input = &mut inputs[at];
        taken.push((input.batch, input.row));
        input.row += 1;
        if input.row < input.at.len() || input.load(table, &mut batches)? {
            next.push(input.key(at));
        }
        if taken.len() == GIVEN_ROWS {
            give(&rows(table, &batches, &taken)?)?;
            taken.clear();
            let_go(&mut batches, &mut inputs);
        }
    }
    if taken.is_empty() { Ok(()) } else { give(&rows(table, &batches, &taken)?) }
}

impl Input {
    /// Its next batch. False: there is none.
    fn load(&mut self, table: Table, batches: &mut Vec<RecordBatch>) -> Result<bool, Error> {
        let Some(rows) = self.batches.next() else {
            self.at.clear();
            return Ok(false);
        };
        let rows = rows?;
        let (accounts, account) = file::words_of(table, &rows, "account")?;
        self.accounts = accounts.into_iter().map(Into::into).collect();
        self.account = account;
        self.at = file::column::<TimestampMicrosecondType>(table, &rows, "at")?.values().to_vec();
        (self.batch, self.row) = (batches.len(), 0);
        batches.push(rows);
        Ok(true)
    }

    fn key(&self, at: usize) -> Key {
        let account = self.account.get(self.row).and_then(|account| self.accounts.get(*account)).cloned();
        Reverse((account.unwrap_or_default(), self.at.get(self.row).copied().unwrap_or_default(), at))
    }
}

fn rows(table: Table, batches: &[RecordBatch], taken: &[(usize, usize)]) -> Result<RecordBatch, Error> {
    let all: Vec<&RecordBatch> = batches.iter().collect();
    interleave_record_batch(&all, taken).map_err(|source| Error::Columns { table: table.name(), source })
}

/// Forgets batches of which all rows were given.
fn let_go(batches: &mut Vec<RecordBatch>, inputs: &mut [Input]) {
    let mut kept = Vec::new();
    for input in inputs.iter_mut().filter(|input| !input.at.is_empty()) {
        kept.push(batches[input.batch].clone());
        input.batch = kept.len() - 1;
    }
    *batches = kept;
}
