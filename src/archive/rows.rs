//! Records → rows: what has come since the last commit, as columns in memory; then sorted and cut into files' worth.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow_array::builder::{
    BooleanBuilder, FixedSizeBinaryBuilder, Int32Builder, Int64Builder, ListBuilder, StringBuilder,
    TimestampMicrosecondBuilder,
};
use arrow_array::types::Int32Type;
use arrow_array::{ArrayRef, DictionaryArray, Int32Array, RecordBatch, StringArray, UInt32Array};
use arrow_schema::{ArrowError, DataType, Field};
use arrow_select::take::take_record_batch;

use super::keys::Keys;
use super::schema::{Row, Table, Value, bucket, octets};
use super::{Error, file};
use crate::clock::hour_of;
use crate::event::{AddressForm, UsageRecord};
use crate::wire::StreamId;

/// What is on its way into files.
pub struct Rows {
    tables: [TableRows; 3],
    buckets: u32,
    /// None: whole addresses are kept as they are.
    keys: Option<Keys>,
    /// Buckets of accounts that were seen.
    known: HashMap<String, u32>,
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
        Self { tables, buckets, keys, known: HashMap::new(), failed: None }
    }

    /// One more.
    pub fn push(&mut self, stream: &StreamId, seq: u64, record: &UsageRecord) {
        if let Err(error) = self.add(stream, seq, record) {
            self.failed.get_or_insert(error);
        }
    }

    fn add(&mut self, stream: &StreamId, seq: u64, record: &UsageRecord) -> Result<(), Error> {
        let account = record.payer();
        let bucket = match self.known.get(account) {
            Some(bucket) => *bucket,
            None => {
                let bucket = bucket(account, self.buckets);
                self.known.insert(account.to_owned(), bucket);
                bucket
            }
        };
        let addresses = [address(&record.client_ip), address(&record.peer_ip)];
        let (mut plain, mut sealed) = (addresses, [None; 2]);
        if let Some(keys) = &mut self.keys
            && record.address_form() == AddressForm::Full
        {
            plain = [None; 2];
            for (sealed, address) in sealed.iter_mut().zip(addresses) {
                let Some(address) = address else { continue };
                *sealed = Some(keys.seal(account, record.at, address)?);
            }
        }
        let seq = i64::try_from(seq).unwrap_or(i64::MAX);
        let row = Row { stream, seq, record, bucket: i32::try_from(bucket).unwrap_or(i32::MAX), plain, sealed };
        self.tables[Table::of(record.kind()) as usize].push(&row);
        Ok(())
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

    fn push(&mut self, row: &Row<'_>) {
        for (value, builder) in &mut self.columns {
            builder.push(value, row);
        }
        self.files.push((hour_of(row.record.at), row.bucket));
    }

    fn pieces(self) -> Result<Vec<Piece>, Error> {
        let mut files: BTreeMap<(i64, i32), Vec<u32>> = BTreeMap::new();
        for (row, file) in (0u32..).zip(self.files) {
            files.entry(file).or_default().push(row);
        }
        let arrays = self.columns.into_iter().map(|(_, builder)| builder.finish()).collect();
        let all = RecordBatch::try_new(self.table.schema(), arrays).map_err(failed(self.table))?;
        let mut pieces = Vec::with_capacity(files.len());
        for ((hour_us, bucket), mut order) in files {
            file::sort(self.table, &all, &mut order)?;
            let rows = take_record_batch(&all, &UInt32Array::from(order)).map_err(failed(self.table))?;
            pieces.push(Piece { table: self.table, hour_us, bucket: u32::try_from(bucket).unwrap_or(0), rows });
        }
        Ok(pieces)
    }
}

fn failed(table: Table) -> impl Fn(ArrowError) -> Error {
    move |source| Error::Columns { table: table.name(), source }
}

/// A column under way.
enum Builder {
    Number(Int64Builder),
    Small(Int32Builder),
    Truth(BooleanBuilder),
    Time(TimestampMicrosecondBuilder),
    Word(Words),
    Text(StringBuilder),
    Bytes16(FixedSizeBinaryBuilder),
    Texts(ListBuilder<StringBuilder>),
}

impl Builder {
    fn new(value: &Value) -> Self {
        match value {
            Value::Number(_) | Value::Total(_) => Self::Number(Int64Builder::new()),
            Value::Small(_) => Self::Small(Int32Builder::new()),
            Value::Truth(_) => Self::Truth(BooleanBuilder::new()),
            Value::Time(_) => Self::Time(TimestampMicrosecondBuilder::new().with_timezone("UTC")),
            Value::Word(_) => Self::Word(Words::default()),
            Value::Text(_) => Self::Text(StringBuilder::new()),
            Value::Bytes16(_) => Self::Bytes16(FixedSizeBinaryBuilder::new(16)),
            Value::Texts(_) => {
                let element = Arc::new(Field::new("element", DataType::Utf8, false));
                Self::Texts(ListBuilder::new(StringBuilder::new()).with_field(element))
            }
        }
    }

    #[inline]
    fn push(&mut self, value: &Value, row: &Row<'_>) {
        match (self, value) {
            (Self::Number(to), Value::Number(of)) => to.append_value(of(row)),
            (Self::Number(to), Value::Total(of)) => to.append_option(of(row)),
            (Self::Small(to), Value::Small(of)) => to.append_value(of(row)),
            (Self::Truth(to), Value::Truth(of)) => to.append_value(of(row)),
            (Self::Time(to), Value::Time(of)) => to.append_value(of(row)),
            (Self::Word(to), Value::Word(of)) => to.push(of(row)),
            (Self::Text(to), Value::Text(of)) => to.append_value(of(row)),
            (Self::Bytes16(to), Value::Bytes16(of)) => match of(row) {
                // Of any other length it would be refused; this is the only one there is.
                Some(bytes) if to.append_value(bytes).is_ok() => {}
                _ => to.append_null(),
            },
            (Self::Texts(to), Value::Texts(of)) => {
                of(row).iter().for_each(|text| to.values().append_value(text));
                to.append(true);
            }
            // A builder is made for its value.
            _ => debug_assert!(false, "a column has another type than its value"),
        }
    }

    fn finish(self) -> ArrayRef {
        match self {
            Self::Number(mut column) => Arc::new(column.finish()),
            Self::Small(mut column) => Arc::new(column.finish()),
            Self::Truth(mut column) => Arc::new(column.finish()),
            Self::Time(mut column) => Arc::new(column.finish()),
            Self::Word(column) => Arc::new(column.finish()),
            Self::Text(mut column) => Arc::new(column.finish()),
            Self::Bytes16(mut column) => Arc::new(column.finish()),
            Self::Texts(mut column) => Arc::new(column.finish()),
        }
    }
}

/// Texts of which few differ: each once, and a number for each row.
#[derive(Default)]
struct Words {
    rows: Vec<i32>,
    words: Vec<Arc<str>>,
    index: HashMap<Arc<str>, i32>,
    /// Number of the row before's: most rows say the same.
    last: i32,
}

impl Words {
    #[inline]
    fn push(&mut self, word: &str) {
        let is_last =
            usize::try_from(self.last).ok().and_then(|last| self.words.get(last)).is_some_and(|last| **last == *word);
        if !is_last {
            self.last = match self.index.get(word) {
                Some(known) => *known,
                None => {
                    let word: Arc<str> = word.into();
                    let number = i32::try_from(self.words.len()).unwrap_or(i32::MAX);
                    self.words.push(word.clone());
                    self.index.insert(word, number);
                    number
                }
            };
        }
        self.rows.push(self.last);
    }

    fn finish(self) -> DictionaryArray<Int32Type> {
        let words: StringArray = self.words.iter().map(|word| Some(&**word)).collect();
        DictionaryArray::new(Int32Array::from(self.rows), Arc::new(words))
    }
}
