//! A file of the archive: rows → Parquet, and back.
//!
//! Zstd; dictionaries for what repeats, deltas for times and numbers; statistics for every column, a page index; bloom filters where one
//! value is looked for. Row groups of 131,072 rows. Files are whole in memory, a commit's or a partition's worth at a time.

use std::collections::BTreeMap;

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type, TimestampMicrosecondType};
use arrow_schema::ArrowError;
use arrow_select::concat::concat_batches;
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::{WriterProperties, WriterPropertiesBuilder};
use parquet::schema::types::ColumnPath;

use super::manifest::{File, Rows};
use super::proof;
use super::schema::{Table, Value};
use super::{Error, Place};
use crate::clock::{date_of, hour_of};
use crate::ids::hex;
use crate::store::{SUM_COLUMNS, StreamPlace};
use crate::units::COLUMNS;
use crate::wire::Hash;

/// Rows of a row group.
const GROUP_ROWS: usize = 131_072;
/// Rows of a page.
const PAGE_ROWS: usize = 8192;
/// What is looked for by one value.
const LOOKED_FOR: [&str; 5] = ["account", "client_ip", "client_ip_sealed", "request_id", "session_id"];
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
        (hour_us, bucket, buckets): (i64, u32, u32),
        number: u64,
        rows: &RecordBatch,
        effort: Effort,
    ) -> Result<Self, Error> {
        let streams = streams_of(table, rows)?;
        let path = path(table, hour_us, bucket, number, &streams);
        let failed = |source| Error::Parquet { operation: "write", path: path.clone(), source };
        let mut writer =
            ArrowWriter::try_new(Vec::new(), rows.schema(), Some(properties(table, effort, rows.num_rows())))
                .map_err(failed)?;
        writer.write(rows).map_err(failed)?;
        let bytes = writer.into_inner().map_err(failed)?;
        let proof = proof::of(&proof::row_hashes(rows));
        let at = column::<TimestampMicrosecondType>(table, rows, "at")?;
        let times = || at.values().iter().copied();
        let file = File {
            table,
            hour_us,
            bucket,
            buckets,
            rows: rows.num_rows() as i64,
            file_bytes: bytes.len() as i64,
            blake3: Hash::of(&bytes),
            first_at_us: times().min().unwrap_or(hour_us),
            last_at_us: times().max().unwrap_or(hour_us),
            ids: ids_of(table, rows),
            streams,
            sums: sums_of(table, rows)?,
            proof: Hash::of(&proof),
            path,
        };
        Ok(Self { file, bytes, proof })
    }

    /// Makes it durable; nothing names it yet.
    pub fn write(self, place: &Place) -> Result<File, Error> {
        place.write(&proof::path(&self.file.path), self.proof)?;
        place.write(&self.file.path, self.bytes)?;
        Ok(self.file)
    }
}

/// `requests/hour=2026-11-23T04/bucket=03/<of the seq ranges>-<commit>.parquet`.
fn path(table: Table, hour_us: i64, bucket: u32, number: u64, streams: &[Rows]) -> String {
    let mut hasher = blake3::Hasher::new();
    for Rows { place, first_seq, next_seq, rows } in streams {
        let StreamPlace { node, epoch, shard } = place;
        hasher.update(format!("{node} {epoch} {shard} {first_seq} {next_seq} {rows}\n").as_bytes());
    }
    let name = hex(&hasher.finalize().as_bytes()[..8]);
    format!("{}/hour={}/bucket={bucket:02}/{name}-{number}.parquet", table.name(), hour_name(hour_us))
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
        properties = encoded(properties, column.name, &column.value, &path);
        if LOOKED_FOR.contains(&column.name) {
            properties = properties
                .set_column_bloom_filter_enabled(path.clone(), true)
                .set_column_bloom_filter_fpp(path.clone(), 0.02)
                .set_column_bloom_filter_max_ndv(path, rows.min(GROUP_ROWS) as u64);
        }
    }
    properties.build()
}

fn encoded(to: WriterPropertiesBuilder, name: &str, value: &Value, path: &ColumnPath) -> WriterPropertiesBuilder {
    let is_distinct = DISTINCT.contains(&name);
    let to = if is_distinct { to.set_column_dictionary_enabled(path.clone(), false) } else { to };
    match value {
        // Where a dictionary grows too large, and where there is none.
        Value::Number(_) | Value::Total(_) | Value::Small(_) | Value::Time(_) => {
            to.set_column_encoding(path.clone(), Encoding::DELTA_BINARY_PACKED)
        }
        _ => to,
    }
}

/// All rows of a file.
pub fn decode(path: &str, bytes: Vec<u8>) -> Result<RecordBatch, Error> {
    let failed = |source: ParquetError| Error::Parquet { operation: "read", path: path.to_owned(), source };
    let reader = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(bytes)).map_err(failed)?;
    let schema = reader.schema().clone();
    let reader = reader.with_batch_size(GROUP_ROWS).build().map_err(failed)?;
    let batches = reader.collect::<Result<Vec<_>, ArrowError>>().map_err(|error| failed(error.into()))?;
    concat_batches(&schema, &batches).map_err(|error| failed(error.into()))
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
    order.sort_by_key(|row| {
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

/// Least and greatest id of what the table's rows are about.
fn ids_of(table: Table, rows: &RecordBatch) -> Option<[String; 2]> {
    let name = match table {
        Table::Requests => "request_id",
        Table::Sessions => "session_id",
        Table::Nodes => return None,
    };
    let column = rows.column_by_name(name)?.as_fixed_size_binary_opt()?;
    let ids = || column.iter().flatten();
    Some([hex(ids().min()?), hex(ids().max()?)])
}

/// Position of each row: stream and seq.
pub fn positions_of(table: Table, rows: &RecordBatch) -> Result<Vec<(StreamPlace, Vec<i64>)>, Error> {
    let (names, nodes) = words_of(table, rows, "node")?;
    let epochs = column::<Int64Type>(table, rows, "epoch")?.values();
    let shards = column::<Int32Type>(table, rows, "shard")?.values();
    let seqs = column::<Int64Type>(table, rows, "seq")?.values();
    let mut found: BTreeMap<(usize, i64, i32), Vec<i64>> = BTreeMap::new();
    for (((node, epoch), shard), seq) in nodes.into_iter().zip(epochs).zip(shards).zip(seqs) {
        found.entry((node, *epoch, *shard)).or_default().push(*seq);
    }
    let place = |(node, epoch, shard): (usize, i64, i32)| StreamPlace {
        node: names.get(node).cloned().unwrap_or_default(),
        epoch,
        shard: i64::from(shard),
    };
    Ok(found.into_iter().map(|(stream, seqs)| (place(stream), seqs)).collect())
}

/// Whose rows these are.
pub fn streams_of(table: Table, rows: &RecordBatch) -> Result<Vec<Rows>, Error> {
    let mut streams = Vec::new();
    for (place, seqs) in positions_of(table, rows)? {
        let (first, last) = (seqs.iter().min().copied(), seqs.iter().max().copied());
        let (Some(first_seq), Some(last)) = (first, last) else { continue };
        streams.push(Rows { place, first_seq, next_seq: last + 1, rows: seqs.len() as i64 });
    }
    streams.sort_by(|a, b| a.place.cmp(&b.place));
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
