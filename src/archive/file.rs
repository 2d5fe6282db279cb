//! A file of the archive: rows → Parquet, and back.
//!
//! Zstd; dictionaries for what repeats, deltas for times and numbers; statistics for every column, a page index; bloom filters where one
//! value is looked for. Row groups of 131,072 rows. A file that is written anew once its hour is over ([`Effort::Quick`]) has
//! only what is cheap: no dictionaries of numbers, no bloom filters, statistics of account and times.
//!
//! **Memory**: who writes a file has it in memory as it will be on the disk (some 30 bytes a row), with one row group's columns and 4 bytes
//! of proof a row. Who reads one has so many rows in memory as it asks for at once, and of a bucket's object its bytes.

use std::collections::{BTreeMap, HashMap};

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type, TimestampMicrosecondType};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder};
use parquet::schema::types::ColumnPath;
use ring::rand::{SecureRandom, SystemRandom};

use super::manifest::{File, Rows};
use super::proof;
use super::schema::{Table, Value, read_as};
use super::{Error, Object, Place};
use crate::clock::{date_of, hour_of};
use crate::ids::hex;
use crate::store::{SUM_COLUMNS, StreamPlace};
use crate::units::COLUMNS;
use crate::wire::Hash;

/// Rows of a row group.
pub const GROUP_ROWS: usize = 131_072;
/// Rows of a page.
pub const PAGE_ROWS: usize = 8192;
/// What is looked for by one value.
const LOOKED_FOR: [&str; 5] = ["account", "client_ip", "client_ip_sealed", "request_id", "session_id"];
/// What a file is told from others by before it is joined with them.
const TOLD_BY: [&str; 4] = ["account", "account_bucket", "at", "started_at"];
/// Values in which hardly any two are equal: a dictionary would be larger than they are.
const DISTINCT: [&str; 5] = ["request_id", "session_id", "seq", "at", "started_at"];

/// How hard to compress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// What is soon written again.
    Quick,
    /// What stays.
    Thorough,
}

/// A file that is not written yet.
pub struct Encoded {
    /// Its entry.
    pub file: File,
    bytes: Vec<u8>,
    proof: Vec<u8>,
}

impl Encoded {
    /// Of these rows, sorted, all of one hour and bucket. `number` is the commit that will name it.
    pub fn new(
        table: Table,
        of: (i64, u32, u32),
        number: u64,
        rows: &RecordBatch,
        effort: Effort,
    ) -> Result<Self, Error> {
        let mut encoder = Encoder::new(table, of, number, rows.num_rows(), effort)?;
        encoder.push(rows)?;
        encoder.finish()
    }

    /// Makes it durable; nothing names it yet.
    pub fn write(self, place: &Place) -> Result<File, Error> {
        place.write(&proof::path(&self.file.path), self.proof)?;
        place.write(&self.file.path, self.bytes)?;
        Ok(self.file)
    }
}

/// A file that rows are still coming for.
pub struct Encoder {
    table: Table,
    /// Hour, bucket, and among how many.
    of: (i64, u32, u32),
    number: u64,
    effort: Effort,
    writer: ArrowWriter<Vec<u8>>,
    hashes: Vec<u32>,
    streams: BTreeMap<StreamPlace, Rows>,
    sums: [i64; COLUMNS],
    times: Option<(i64, i64)>,
    /// As numbers: they compare in one step.
    ids: Option<(u128, u128)>,
}

impl Encoder {
    /// For rows of one hour and bucket, about so many. `number` is the commit that will name it.
    pub fn new(
        table: Table,
        of: (i64, u32, u32),
        number: u64,
        rows_expected: usize,
        effort: Effort,
    ) -> Result<Self, Error> {
        // Without what Arrow would add for itself: 5 KB in each file, and Parquet's own types say all that there is.
        let options = ArrowWriterOptions::new().with_skip_arrow_metadata(true);
        let options = options.with_properties(properties(table, effort, rows_expected));
        let writer = ArrowWriter::try_new_with_options(Vec::new(), table.schema(), options);
        Ok(Self {
            writer: writer.map_err(|source| unwritten(table, source))?,
            table,
            of,
            number,
            effort,
            hashes: Vec::with_capacity(rows_expected),
            streams: BTreeMap::new(),
            sums: [0; COLUMNS],
            times: None,
            ids: None,
        })
    }

    /// The next rows, in the order of account and time.
    pub fn push(&mut self, rows: &RecordBatch) -> Result<(), Error> {
        self.writer.write(rows).map_err(|source| unwritten(self.table, source))?;
        self.hashes.extend(proof::row_hashes(rows));
        for found in streams_of(self.table, rows)? {
            match self.streams.get_mut(&found.place) {
                Some(known) => {
                    known.first_seq = known.first_seq.min(found.first_seq);
                    known.next_seq = known.next_seq.max(found.next_seq);
                    known.rows += found.rows;
                }
                None => drop(self.streams.insert(found.place.clone(), found)),
            }
        }
        let sums = sums_of(self.table, rows)?;
        self.sums = std::array::from_fn(|at| self.sums[at] + sums[at]);
        for at in column::<TimestampMicrosecondType>(self.table, rows, "at")?.values().iter().copied() {
            self.times = Some(self.times.map_or((at, at), |(first, last)| (first.min(at), last.max(at))));
        }
        for id in ids_of(self.table, rows) {
            self.ids = Some(self.ids.map_or((id, id), |(least, greatest)| (least.min(id), greatest.max(id))));
        }
        Ok(())
    }

    /// All have come.
    pub fn finish(self) -> Result<Encoded, Error> {
        let (table, (hour_us, bucket, buckets)) = (self.table, self.of);
        let bytes = self.writer.into_inner().map_err(|source| unwritten(table, source))?;
        let proof = proof::of(&self.hashes);
        let streams: Vec<Rows> = self.streams.into_values().collect();
        let (first_at_us, last_at_us) = self.times.unwrap_or((hour_us, hour_us));
        let file = File {
            path: path(table, hour_us, bucket, self.number, &streams)?,
            table,
            hour_us,
            bucket,
            buckets,
            rows: self.hashes.len() as i64,
            file_bytes: bytes.len() as i64,
            is_provisional: self.effort == Effort::Quick,
            blake3: Hash::of(&bytes),
            first_at_us,
            last_at_us,
            ids: self.ids.map(|(least, greatest)| [hex(&least.to_be_bytes()), hex(&greatest.to_be_bytes())]),
            streams,
            sums: self.sums,
            proof: Hash::of(&proof),
        };
        Ok(Encoded { file, bytes, proof })
    }
}

fn unwritten(table: Table, source: ParquetError) -> Error {
    Error::Parquet { operation: "write", path: format!("a file of {}", table.name()), source }
}

/// `requests/hour=2026-11-23T04/bucket=03/<of the seq ranges>-<commit>-<random>.parquet`. No name is used twice: whoever reads, or sweeps
/// what nobody names, cannot come between two writers of the same records.
fn path(table: Table, hour_us: i64, bucket: u32, number: u64, streams: &[Rows]) -> Result<String, Error> {
    let mut random = [0; 4];
    SystemRandom::new().fill(&mut random).map_err(|_| Error::NoRandomness)?;
    let mut hasher = blake3::Hasher::new();
    for Rows { place, first_seq, next_seq, rows } in streams {
        let StreamPlace { node, epoch, shard } = place;
        hasher.update(format!("{node} {epoch} {shard} {first_seq} {next_seq} {rows}\n").as_bytes());
    }
    let name = hex(&hasher.finalize().as_bytes()[..8]);
    let (folder, hour, random) = (table.name(), hour_name(hour_us), hex(&random));
    Ok(format!("{folder}/hour={hour}/bucket={bucket:02}/{name}-{number}-{random}.parquet"))
}

/// `2026-11-23T04`.
pub fn hour_name(hour_us: i64) -> String {
    let (year, month, day) = date_of(hour_us);
    let hour = (hour_of(hour_us).rem_euclid(crate::clock::DAY_US)) / crate::clock::HOUR_US;
    format!("{year:04}-{month:02}-{day:02}T{hour:02}")
}

fn properties(table: Table, effort: Effort, rows: usize) -> WriterProperties {
    let level = match effort {
        Effort::Quick => 1,
        Effort::Thorough => 6,
    };
    let mut properties = WriterProperties::builder()
        .set_created_by("weir".to_owned())
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(level).unwrap_or_default()))
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        .set_data_page_row_count_limit(PAGE_ROWS)
        .set_write_batch_size(PAGE_ROWS);
    for column in table.columns() {
        let path = ColumnPath::from(column.name);
        properties = encoded(properties, column.name, &column.value, &path, effort);
        if effort == Effort::Quick {
            if !TOLD_BY.contains(&column.name) {
                properties = properties.set_column_statistics_enabled(path, EnabledStatistics::None);
            }
        } else if LOOKED_FOR.contains(&column.name) {
            properties = properties
                .set_column_bloom_filter_enabled(path.clone(), true)
                .set_column_bloom_filter_fpp(path.clone(), 0.02)
                .set_column_bloom_filter_max_ndv(path, rows.min(GROUP_ROWS) as u64);
        }
    }
    properties.build()
}

fn encoded(
    to: WriterPropertiesBuilder,
    name: &str,
    value: &Value,
    path: &ColumnPath,
    effort: Effort,
) -> WriterPropertiesBuilder {
    let is_number = matches!(value, Value::Number(_) | Value::Total(_) | Value::Small(_) | Value::Time(_));
    let has_none = DISTINCT.contains(&name) || is_number && effort == Effort::Quick;
    let to = to.set_column_dictionary_enabled(path.clone(), !has_none);
    // Of numbers, where a dictionary grows too large, and where there is none.
    if is_number { to.set_column_encoding(path.clone(), Encoding::DELTA_BINARY_PACKED) } else { to }
}

/// Rows of a file, so many at a time.
pub struct Batches {
    path: String,
    reader: ParquetRecordBatchReader,
}

impl Batches {
    /// Of an object that is one.
    pub fn of(path: &str, object: Object, rows_max: usize) -> Result<Self, Error> {
        let failed = |source: ParquetError| Error::Parquet { operation: "read", path: path.to_owned(), source };
        let found = ArrowReaderMetadata::load(&object, ArrowReaderOptions::new()).map_err(failed)?;
        let options = ArrowReaderOptions::new().with_schema(read_as(found.schema()));
        let found = ArrowReaderMetadata::try_new(found.metadata().clone(), options).map_err(failed)?;
        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(object, found);
        let reader = reader.with_batch_size(rows_max).build().map_err(failed)?;
        Ok(Self { path: path.to_owned(), reader })
    }
}

impl Iterator for Batches {
    type Item = Result<RecordBatch, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.reader.next()?;
        Some(next.map_err(|error| Error::Parquet { operation: "read", path: self.path.clone(), source: error.into() }))
    }
}

/// Brings rows, by their numbers, in the order of account and time; those of one µs stay in theirs.
pub fn sort(table: Table, rows: &RecordBatch, order: &mut [u32]) -> Result<(), Error> {
    let (accounts, account) = words_of(table, rows, "account")?;
    let mut by_name: Vec<usize> = (0..accounts.len()).collect();
    by_name.sort_by(|a, b| accounts[*a].cmp(&accounts[*b]));
    // A name may be there twice, where files were joined: both are the same.
    let (mut ranks, mut rank) = (vec![0; accounts.len()], 0);
    for two in by_name.windows(2) {
        rank += usize::from(accounts[two[0]] != accounts[two[1]]);
        ranks[two[1]] = rank;
    }
    let at = column::<TimestampMicrosecondType>(table, rows, "at")?.values();
    order.sort_by_cached_key(|row| {
        let row = *row as usize;
        (ranks.get(account[row]).copied(), at[row])
    });
    Ok(())
}

/// A column of numbers, by name.
pub fn column<'a, T: arrow_array::types::ArrowPrimitiveType>(
    table: Table,
    rows: &'a RecordBatch,
    name: &'static str,
) -> Result<&'a arrow_array::PrimitiveArray<T>, Error> {
    let found = rows.column_by_name(name).and_then(|column| column.as_primitive_opt::<T>());
    found.ok_or_else(|| Error::Column { table: table.name(), name })
}

/// A column of texts that repeat: each once, and for each row which.
pub fn words_of(table: Table, rows: &RecordBatch, name: &'static str) -> Result<(Vec<String>, Vec<usize>), Error> {
    let failed = || Error::Column { table: table.name(), name };
    let column = rows.column_by_name(name).and_then(|column| column.as_dictionary_opt::<Int32Type>());
    let column = column.ok_or_else(failed)?;
    let words = column.values().as_string_opt::<i32>().ok_or_else(failed)?;
    let words = words.iter().map(|word| word.unwrap_or_default().to_owned()).collect();
    Ok((words, column.keys().values().iter().map(|key| usize::try_from(*key).unwrap_or(0)).collect()))
}

/// Ids of what the table's rows are about.
fn ids_of(table: Table, rows: &RecordBatch) -> impl Iterator<Item = u128> {
    let name = match table {
        Table::Requests => Some("request_id"),
        Table::Sessions => Some("session_id"),
        Table::Nodes => None,
    };
    let column = name.and_then(|name| rows.column_by_name(name)).and_then(|column| column.as_fixed_size_binary_opt());
    column.into_iter().flatten().flatten().filter_map(|id| Some(u128::from_be_bytes(id.try_into().ok()?)))
}

/// Streams of the rows, and the seqs of each.
pub fn positions_of(table: Table, rows: &RecordBatch) -> Result<Vec<(StreamPlace, Vec<i64>)>, Error> {
    let mut seqs: Vec<Vec<i64>> = Vec::new();
    let streams = each_position(table, rows, |stream, seq| {
        if stream == seqs.len() {
            seqs.push(Vec::new());
        }
        seqs[stream].push(seq);
    })?;
    Ok(streams.into_iter().zip(seqs).collect())
}

/// Whose rows these are.
fn streams_of(table: Table, rows: &RecordBatch) -> Result<Vec<Rows>, Error> {
    let mut found: Vec<(i64, i64, i64)> = Vec::new();
    let streams = each_position(table, rows, |stream, seq| match found.get_mut(stream) {
        Some((first, last, rows)) => (*first, *last, *rows) = ((*first).min(seq), (*last).max(seq), *rows + 1),
        None => found.push((seq, seq, 1)),
    })?;
    let rows = streams.into_iter().zip(found);
    Ok(rows.map(|(place, (first_seq, last, rows))| Rows { place, first_seq, next_seq: last + 1, rows }).collect())
}

/// Shows the stream (numbered as they first come) and the seq of each row; gives the streams.
fn each_position(
    table: Table,
    rows: &RecordBatch,
    mut show: impl FnMut(usize, i64),
) -> Result<Vec<StreamPlace>, Error> {
    let (names, nodes) = words_of(table, rows, "node")?;
    let epochs = column::<Int64Type>(table, rows, "epoch")?.values();
    let shards = column::<Int32Type>(table, rows, "shard")?.values();
    let seqs = column::<Int64Type>(table, rows, "seq")?.values();
    let mut known: HashMap<(usize, i64, i32), usize> = HashMap::new();
    let mut streams = Vec::new();
    // Most rows are of the stream of the one before.
    let mut last = None;
    for (((node, epoch), shard), seq) in nodes.into_iter().zip(epochs).zip(shards).zip(seqs) {
        let stream = (node, *epoch, *shard);
        let at = match last {
            Some((same, at)) if same == stream => at,
            _ => *known.entry(stream).or_insert_with(|| {
                let node = names.get(node).cloned().unwrap_or_default();
                streams.push(StreamPlace { node, epoch: *epoch, shard: i64::from(*shard) });
                streams.len() - 1
            }),
        };
        last = Some((stream, at));
        show(at, *seq);
    }
    Ok(streams)
}

/// Sums of the byte columns.
pub fn sums_of(table: Table, rows: &RecordBatch) -> Result<[i64; COLUMNS], Error> {
    let mut sums = [0; COLUMNS];
    for (sum, name) in sums.iter_mut().zip(SUM_COLUMNS) {
        *sum = column::<Int64Type>(table, rows, name)?.values().iter().sum();
    }
    Ok(sums)
}
