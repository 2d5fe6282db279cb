//! Parquet, written as rows come: a row group for each piece, whose bytes go on at once.
//!
//! Every column may hold nothing. Texts are UTF-8, times µs in UTC, compressed by zstd.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Bytes;
use parquet::basic::{Compression, LogicalType, Repetition, TimeUnit, Type as Physical, ZstdLevel};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use parquet::schema::types::Type;

use super::table::{Column, Kind, Row, Value};

/// What was written and not taken yet.
#[derive(Clone, Default)]
struct Pipe(Arc<Mutex<Vec<u8>>>);

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Pipe {
    fn take(&self) -> Bytes {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner)).into()
    }
}

/// A file under way.
pub(super) struct Parquet {
    writer: SerializedFileWriter<Pipe>,
    pipe: Pipe,
    kinds: Vec<Kind>,
}

impl Parquet {
    pub(super) fn new(columns: &[Column]) -> io::Result<Self> {
        let fields = columns.iter().map(|column| {
            let (physical, logical) = match column.kind {
                Kind::Text => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
                Kind::Number => (Physical::INT64, None),
                Kind::Time => (Physical::INT64, Some(LogicalType::timestamp(true, TimeUnit::MICROS))),
                Kind::Truth => (Physical::BOOLEAN, None),
            };
            let field = Type::primitive_type_builder(&column.name, physical);
            field.with_repetition(Repetition::OPTIONAL).with_logical_type(logical).build().map(Arc::new)
        });
        let fields = fields.collect::<Result<Vec<_>, _>>().map_err(failed)?;
        let schema = Type::group_type_builder("weir").with_fields(fields).build().map_err(failed)?;
        let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).build();
        let pipe = Pipe::default();
        let writer = SerializedFileWriter::new(pipe.clone(), Arc::new(schema), Arc::new(properties)).map_err(failed)?;
        Ok(Self { writer, pipe, kinds: columns.iter().map(|column| column.kind).collect() })
    }

    /// What is to be sent once these rows are in it.
    pub(super) fn rows(&mut self, rows: &[Row]) -> io::Result<Bytes> {
        if !rows.is_empty() {
            let mut group = self.writer.next_row_group().map_err(failed)?;
            for (at, kind) in self.kinds.iter().enumerate() {
                let Some(column) = group.next_column().map_err(failed)? else { break };
                let cells = rows.iter().map(|row| row.get(at).unwrap_or(&Value::None));
                match kind {
                    Kind::Text => write::<ByteArrayType>(column, cells, |value| match value {
                        Value::Text(text) => Some(ByteArray::from(text.as_str())),
                        _ => None,
                    }),
                    Kind::Number | Kind::Time => write::<Int64Type>(column, cells, |value| match value {
                        Value::Number(number) => Some(*number),
                        _ => None,
                    }),
                    Kind::Truth => write::<BoolType>(column, cells, |value| match value {
                        Value::Truth(truth) => Some(*truth),
                        _ => None,
                    }),
                }
                .map_err(failed)?;
            }
            group.close().map_err(failed)?;
        }
        self.writer.flush()?;
        Ok(self.pipe.take())
    }

    /// The last bytes.
    pub(super) fn end(self) -> io::Result<Bytes> {
        self.writer.close().map_err(failed)?;
        Ok(self.pipe.take())
    }
}

fn write<'a, T: DataType>(
    mut column: SerializedColumnWriter<'_>,
    cells: impl Iterator<Item = &'a Value>,
    read: impl Fn(&Value) -> Option<T::T>,
) -> Result<(), ParquetError> {
    let cells: Vec<Option<T::T>> = cells.map(read).collect();
    let levels: Vec<i16> = cells.iter().map(|cell| i16::from(cell.is_some())).collect();
    let values: Vec<T::T> = cells.into_iter().flatten().collect();
    column.typed::<T>().write_batch(&values, Some(&levels), None)?;
    column.close()
}

fn failed(error: ParquetError) -> io::Error {
    io::Error::other(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::Field;

    #[test]
    fn what_is_written_is_read_back_by_the_library() {
        let columns = [
            Column::new("host", Kind::Text),
            Column::new("at", Kind::Time),
            Column::new("bytes", Kind::Number),
            Column::new("billable", Kind::Truth),
        ];
        let rows: Vec<Row> = (0..1000)
            .map(|n| {
                let host = if n % 3 == 0 { Value::None } else { Value::Text(format!("h{n}.example")) };
                vec![host, Value::Number(n), Value::Number(-n), Value::Truth(n % 2 == 0)]
            })
            .collect();
        let mut parquet = Parquet::new(&columns).unwrap();
        let mut bytes = Vec::new();
        for piece in rows.chunks(300) {
            bytes.extend(parquet.rows(piece).unwrap());
        }
        bytes.extend(parquet.rows(&[]).unwrap());
        bytes.extend(parquet.end().unwrap());
        let reader = SerializedFileReader::new(Bytes::from(bytes)).unwrap();
        assert_eq!(reader.metadata().num_row_groups(), 4);
        let read: Vec<Vec<Field>> = reader
            .get_row_iter(None)
            .unwrap()
            .map(|row| row.unwrap().into_columns().into_iter().map(|(_, f)| f).collect())
            .collect();
        assert_eq!(read.len(), rows.len());
        assert_eq!(read[0], [Field::Null, Field::TimestampMicros(0), Field::Long(0), Field::Bool(true)]);
        assert_eq!(read[1][0], Field::Str("h1.example".into()));
        assert_eq!(read[999][2], Field::Long(-999));
    }
}
