//! Records → rows: what has come since the last commit, as columns in memory; then sorted and cut into files' worth.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow_array::builder::{
    ArrayBuilder as _, BooleanBuilder, FixedSizeBinaryBuilder, Int64Builder, ListBuilder, StringBuilder,
    StringDictionaryBuilder,
};
use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type};
use arrow_array::{
    Array, ArrayRef, Int32Array, Int64Array, RecordBatch, TimestampMicrosecondArray, UInt32Array, new_null_array,
};
use arrow_schema::{ArrowError, DataType, Field};
use arrow_select::take::take;

use super::keys::{Keys, Owner};
use super::schema::{Row, Table, Value, bucket, octets};
use super::{Error, file};
use crate::clock::hour_of;
use crate::event::{AddressForm, RecordView};
use crate::wire::{StreamId, Taken};

/// Rows that go into the columns at once: as many as stay in the fastest cache.
const PUSHED_ROWS: usize = 32;

/// What is on its way into files.
pub struct Rows {
    tables: [TableRows; 3],
    buckets: u32,
    /// None: whole addresses are kept as they are.
    keys: Option<Keys>,
    /// Accounts that were seen: the bucket of each, and whose keys are its.
    known: HashMap<String, (i32, Owner)>,
    /// The last of them: most records follow one of their account.
    last: Option<(String, (i32, Owner))>,
    /// What kept a record from becoming a row: it must not be committed without.
    failed: Option<Error>,
}

/// Rows of one file.
pub struct Piece {
    /// Of which table.
    pub table: Table,
    /// First µs of the UTC hour.
    pub hour_us: i64,
    /// Of the accounts.
    pub bucket: u32,
    /// In the order of account and time.
    pub rows: RecordBatch,
}

impl Rows {
    /// None yet.
    pub fn new(buckets: u32, keys: Option<Keys>) -> Self {
        let tables = Table::ALL.map(TableRows::new);
        Self { tables, buckets, keys, known: HashMap::new(), last: None, failed: None }
    }

    /// What a message brought.
    pub fn push(&mut self, taken: &Taken<'_>) {
        if let Err(error) = self.add(taken) {
            self.failed.get_or_insert(error);
        }
    }

    fn add(&mut self, taken: &Taken<'_>) -> Result<(), Error> {
        let mut waiting = [const { Vec::new() }; Table::ALL.len()];
        for (seq, record) in taken.records() {
            let row = self.row(&taken.stream, seq, record)?;
            let table = Table::of(record.kind()) as usize;
            waiting[table].push(row);
            if waiting[table].len() == PUSHED_ROWS {
                self.tables[table].push(&waiting[table])?;
                waiting[table].clear();
            }
        }
        self.tables.iter_mut().zip(&waiting).try_for_each(|(table, rows)| table.push(rows))
    }

    fn row<'a>(&mut self, stream: &'a StreamId, seq: u64, record: &'a RecordView<'a>) -> Result<Row<'a>, Error> {
        let account = record.payer();
        let (bucket, owner) = self.known(account);
        let addresses = [address(&record.client_ip), address(&record.peer_ip)];
        let (mut plain, mut sealed) = (addresses, [None; 2]);
        if let Some(keys) = &mut self.keys
            && record.address_form() == AddressForm::Full
        {
            plain = [None; 2];
            for (sealed, address) in sealed.iter_mut().zip(addresses) {
                let Some(address) = address else { continue };
                *sealed = Some(keys.seal(owner, record.at, address)?);
            }
        }
        let seq = i64::try_from(seq).unwrap_or(i64::MAX);
        Ok(Row { stream, seq, record, bucket, plain, sealed })
    }

    /// What an account's name gives, which is the last one now.
    fn known(&mut self, account: &str) -> (i32, Owner) {
        if let Some((last, known)) = &self.last
            && last == account
        {
            return *known;
        }
        let known = match self.known.get(account) {
            Some(known) => *known,
            None => {
                let bucket = i32::try_from(bucket(account, self.buckets)).unwrap_or(i32::MAX);
                let known = (bucket, Owner::of(account));
                self.known.insert(account.to_owned(), known);
                known
            }
        };
        self.last = Some((account.to_owned(), known));
        known
    }

    /// Takes all of them, a piece for each file. An error: a record could not become a row.
    pub fn take(&mut self) -> Result<Vec<Piece>, Error> {
        let taken = std::mem::replace(&mut self.tables, Table::ALL.map(TableRows::new));
        self.known.clear();
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let mut pieces = Vec::new();
        for table in taken {
            pieces.extend(table.pieces()?);
        }
        Ok(pieces)
    }

    /// What addresses are encrypted with; none where they are kept as they are.
    pub fn keys(&mut self) -> Option<&mut Keys> {
        self.keys.as_mut()
    }

    /// Forgets all of them.
    pub fn clear(&mut self) {
        self.tables = Table::ALL.map(TableRows::new);
        self.failed = None;
    }
}

/// 16 bytes, IPv4 mapped.
pub fn address(bytes: &[u8]) -> Option<[u8; 16]> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(octets(v4.into()));
    }
    bytes.try_into().ok()
}

struct TableRows {
    table: Table,
    columns: Vec<(&'static Value, Builder)>,
    /// Hour and bucket of each row.
    files: Vec<(i64, i32)>,
}

impl TableRows {
    fn new(table: Table) -> Self {
        let columns = table.columns().map(|column| (&column.value, Builder::new(&column.value))).collect();
        Self { table, columns, files: Vec::new() }
    }

    /// Column by column: the next value of one is told from its last faster than the next column is looked up.
    fn push(&mut self, rows: &[Row<'_>]) -> Result<(), Error> {
        for (value, builder) in &mut self.columns {
            builder.push(value, rows).map_err(failed(self.table))?;
        }
        self.files.extend(rows.iter().map(|row| (hour_of(row.record.at), row.bucket)));
        Ok(())
    }

    fn pieces(self) -> Result<Vec<Piece>, Error> {
        let mut files: BTreeMap<(i64, i32), Vec<u32>> = BTreeMap::new();
        for (row, file) in (0u32..).zip(self.files) {
            files.entry(file).or_default().push(row);
        }
        let arrays: Result<Vec<ArrayRef>, ArrowError> =
            self.columns.into_iter().map(|(_, builder)| builder.finish()).collect();
        let all = arrays.and_then(|arrays| RecordBatch::try_new(self.table.schema(), arrays));
        let all = all.map_err(failed(self.table))?;
        let same: Vec<bool> = all.columns().iter().map(all_say_the_same).collect();
        let mut pieces = Vec::with_capacity(files.len());
        for ((hour_us, bucket), mut order) in files {
            file::sort(self.table, &all, &mut order)?;
            let order = UInt32Array::from(order);
            let columns = all.columns().iter().zip(&same).map(|(column, is_same)| match is_same {
                true => Ok(column.slice(0, order.len())),
                false => take(column, &order, None),
            });
            let columns: Result<Vec<ArrayRef>, ArrowError> = columns.collect();
            let rows = columns.and_then(|columns| RecordBatch::try_new(all.schema(), columns));
            let rows = rows.map_err(failed(self.table))?;
            pieces.push(Piece { table: self.table, hour_us, bucket: u32::try_from(bucket).unwrap_or(0), rows });
        }
        Ok(pieces)
    }
}

/// Half of the columns: whatever the order of the rows, they are the same.
fn all_say_the_same(column: &ArrayRef) -> bool {
    fn same<T: PartialEq>(values: &[T]) -> bool {
        values.iter().all(|value| Some(value) == values.first())
    }
    if column.null_count() > 0 {
        return column.null_count() == column.len();
    }
    match column.data_type() {
        DataType::Int64 => same(column.as_primitive::<Int64Type>().values()),
        DataType::Int32 => same(column.as_primitive::<Int32Type>().values()),
        DataType::Dictionary(..) => column.as_dictionary::<Int32Type>().values().len() == 1,
        DataType::Boolean => [0, column.len()].contains(&column.as_boolean().true_count()),
        DataType::List(_) => column.as_list::<i32>().values().is_empty(),
        _ => false,
    }
}

fn failed(table: Table) -> impl Fn(ArrowError) -> Error {
    move |source| Error::Columns { table: table.name(), source }
}

/// A column under way.
enum Builder {
    Number(Vec<i64>),
    /// With so many nulls behind it that are not in it yet: many columns are null in all rows, and take no room.
    Total(Int64Builder, usize),
    Small(Vec<i32>),
    Truth(BooleanBuilder),
    Time(Vec<i64>),
    Word(Words),
    Text(StringBuilder),
    Bytes16(FixedSizeBinaryBuilder, usize),
    Texts(ListBuilder<StringBuilder>),
}

impl Builder {
    fn new(value: &Value) -> Self {
        match value {
            Value::Number(_) => Self::Number(Vec::new()),
            Value::Total(_) => Self::Total(Int64Builder::new(), 0),
            Value::Small(_) => Self::Small(Vec::new()),
            Value::Truth(_) => Self::Truth(BooleanBuilder::new()),
            Value::Time(_) => Self::Time(Vec::new()),
            Value::Word(_) => Self::Word(Words::default()),
            Value::Text(_) => Self::Text(StringBuilder::new()),
            Value::Bytes16(_) => Self::Bytes16(FixedSizeBinaryBuilder::new(16), 0),
            Value::Texts(_) => {
                let element = Arc::new(Field::new("element", DataType::Utf8, false));
                Self::Texts(ListBuilder::new(StringBuilder::new()).with_field(element))
            }
        }
    }

    fn push(&mut self, value: &Value, rows: &[Row<'_>]) -> Result<(), ArrowError> {
        match (self, value) {
            (Self::Number(to), Value::Number(of)) | (Self::Time(to), Value::Time(of)) => to.extend(rows.iter().map(of)),
            (Self::Total(to, nulls), Value::Total(of)) => {
                each_there(rows, *of, nulls, |nulls_before, total| {
                    to.append_nulls(nulls_before);
                    to.append_value(total);
                    Ok(())
                })?;
            }
            (Self::Small(to), Value::Small(of)) => to.extend(rows.iter().map(of)),
            (Self::Truth(to), Value::Truth(of)) => rows.iter().for_each(|row| to.append_value(of(row))),
            (Self::Word(to), Value::Word(of)) => rows.iter().try_for_each(|row| to.push(of(row)))?,
            (Self::Text(to), Value::Text(of)) => rows.iter().for_each(|row| to.append_value(of(row))),
            (Self::Bytes16(to, nulls), Value::Bytes16(of)) => {
                each_there(rows, *of, nulls, |nulls_before, bytes| {
                    to.append_nulls(nulls_before);
                    to.append_value(bytes)
                })?;
            }
            (Self::Texts(to), Value::Texts(of)) => {
                for row in rows {
                    of(row).iter().for_each(|text| to.values().append_value(text));
                    to.append(true);
                }
            }
            // A builder is made for its value.
            _ => debug_assert!(false, "a column has another type than its value"),
        }
        Ok(())
    }

    fn finish(self) -> Result<ArrayRef, ArrowError> {
        Ok(match self {
            Self::Number(column) => Arc::new(Int64Array::from(column)),
            Self::Total(column, nulls) if column.is_empty() => new_null_array(&DataType::Int64, nulls),
            Self::Total(mut column, nulls) => {
                column.append_nulls(nulls);
                Arc::new(column.finish())
            }
            Self::Small(column) => Arc::new(Int32Array::from(column)),
            Self::Truth(mut column) => Arc::new(column.finish()),
            Self::Time(column) => Arc::new(TimestampMicrosecondArray::from(column).with_timezone("UTC")),
            Self::Word(column) => column.finish()?,
            Self::Text(mut column) => Arc::new(column.finish()),
            Self::Bytes16(column, nulls) if column.is_empty() => new_null_array(&DataType::FixedSizeBinary(16), nulls),
            Self::Bytes16(mut column, nulls) => {
                column.append_nulls(nulls);
                Arc::new(column.finish())
            }
            Self::Texts(mut column) => Arc::new(column.finish()),
        })
    }
}

/// Counts nulls, until a value is there: it is given with their number.
fn each_there<T>(
    rows: &[Row<'_>],
    of: fn(&Row<'_>) -> Option<T>,
    nulls: &mut usize,
    mut give: impl FnMut(usize, T) -> Result<(), ArrowError>,
) -> Result<(), ArrowError> {
    for row in rows {
        match of(row) {
            Some(value) => give(std::mem::take(nulls), value)?,
            None => *nulls += 1,
        }
    }
    Ok(())
}

/// Texts of which few differ: each once, and a number for each row. Most rows say the same as the one before.
#[derive(Default)]
struct Words {
    column: StringDictionaryBuilder<Int32Type>,
    last: String,
    /// Rows at the end that say it and are not in the column yet.
    rows: usize,
}

impl Words {
    #[inline]
    fn push(&mut self, word: &str) -> Result<(), ArrowError> {
        if !is_same(self.last.as_bytes(), word.as_bytes()) {
            self.write()?;
            self.last.clear();
            self.last.push_str(word);
        }
        self.rows += 1;
        Ok(())
    }

    fn write(&mut self) -> Result<(), ArrowError> {
        if self.rows > 0 {
            self.column.append_n(&self.last, self.rows)?;
            self.rows = 0;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<ArrayRef, ArrowError> {
        self.write()?;
        Ok(Arc::new(self.column.finish()))
    }
}

/// The first and last eight octets say it of most words; asking the C library takes twice as long.
#[inline]
fn is_same(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    match (a.first_chunk::<8>(), a.last_chunk::<8>(), b.first_chunk(), b.last_chunk()) {
        (Some(a_first), Some(a_last), Some(b_first), Some(b_last)) => {
            a_first == b_first && a_last == b_last && (a.len() <= 16 || a == b)
        }
        _ => a.iter().zip(b).all(|(a, b)| a == b),
    }
}
