//! Rows as a table, JSON, CSV or Parquet, written as they come; a table when all are there, because its columns are as wide as they need.
//!
//! | format | ids | addresses | lists | what else the answer says |
//! |---|---|---|---|---|
//! | table | hexadecimal | as they are written | `[a, b]` | on stderr |
//! | JSON | hexadecimal | as they are written | array | members beside `rows` |
//! | CSV (RFC 4180) | hexadecimal | as they are written | `a b` | on stderr |
//! | Parquet | bytes | bytes | list | on stderr, and in the file as `weir.answer` |
//!
//! No text of CSV is a formula ([`weir::sheet`]).

use std::io::Write;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringArray};
use arrow::compute::cast;
use arrow::csv;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::json::LineDelimitedWriter;
use arrow::json::writer::{LineDelimited, Writer as JsonWriter, WriterBuilder};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use arrow::util::pretty::pretty_format_batches_with_schema;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use serde_json::Value;
use weir::sheet::without_formula;

use crate::functions::address_texts;

/// Metadata of a column that holds addresses, so that they are shown as such.
pub const ADDRESS: (&str, &str) = ("weir", "address");

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// One object: rows, and what else there is to say.
    Json,
    /// For spreadsheets.
    Csv,
    /// For other engines.
    Parquet,
}

/// Why rows cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Where they go.
    #[error("cannot write the answer")]
    Write(#[from] std::io::Error),
    /// Their form.
    #[error("the answer cannot be written like this: {0}")]
    Form(#[from] ArrowError),
    /// The file.
    #[error("the answer cannot be written as Parquet: {0}")]
    Parquet(#[from] ParquetError),
    /// The rest of it.
    #[error("the answer cannot be written as JSON")]
    Json(#[from] serde_json::Error),
}

/// An answer on its way out.
pub struct Sheet<W: Write + Send> {
    form: Form<W>,
    schema: SchemaRef,
}

enum Form<W: Write + Send> {
    Table { out: W, batches: Vec<RecordBatch> },
    Json { out: W, rows: u64 },
    Csv(Box<csv::Writer<W>>, bool),
    Parquet(Box<ArrowWriter<W>>),
}

impl<W: Write + Send> Sheet<W> {
    /// Before the first row.
    pub fn begin(format: Format, schema: SchemaRef, mut out: W) -> Result<Self, Error> {
        let form = match format {
            Format::Table => Form::Table { out, batches: Vec::new() },
            Format::Json => {
                out.write_all(b"{\"rows\":[")?;
                Form::Json { out, rows: 0 }
            }
            Format::Csv => Form::Csv(Box::new(csv::WriterBuilder::new().with_header(true).build(out)), false),
            Format::Parquet => {
                let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default()));
                Form::Parquet(Box::new(ArrowWriter::try_new(out, schema.clone(), Some(properties.build()))?))
            }
        };
        Ok(Self { form, schema })
    }

    /// Some rows.
    pub fn add(&mut self, batch: &RecordBatch) -> Result<(), Error> {
        match &mut self.form {
            Form::Table { batches, .. } => batches.push(readable(batch, false)?),
            Form::Json { out, rows } => {
                let mut lines: JsonWriter<Vec<u8>, LineDelimited> =
                    WriterBuilder::new().with_explicit_nulls(true).build(Vec::new());
                lines.write(&readable(batch, false)?)?;
                lines.finish()?;
                for line in
                    LineDelimitedWriter::into_inner(lines).split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
                {
                    out.write_all(if *rows == 0 { b"\n" } else { b",\n" })?;
                    out.write_all(line)?;
                    *rows += 1;
                }
            }
            Form::Csv(writer, is_begun) => {
                writer.write(&without_formulas(&readable(batch, true)?)?)?;
                *is_begun = true;
            }
            Form::Parquet(writer) => writer.write(batch)?,
        }
        Ok(())
    }

    /// After the last row, or where it stopped: `said` is what else there is to say.
    pub fn end(self, said: &Value) -> Result<(), Error> {
        match self.form {
            Form::Table { mut out, batches } => {
                let schema = readable(&RecordBatch::new_empty(self.schema), false)?.schema();
                writeln!(out, "{}", pretty_format_batches_with_schema(schema, &batches)?)?;
                out.flush()?;
            }
            Form::Json { mut out, rows } => {
                out.write_all(if rows == 0 { b"]" } else { b"\n]" })?;
                // Members of an object have no order.
                write!(out, ",\n\"columns\":{}", serde_json::to_string(&columns(&self.schema))?)?;
                if let Value::Object(members) = said {
                    for (name, value) in members {
                        write!(out, ",\n{}:{}", serde_json::to_string(name)?, serde_json::to_string(value)?)?;
                    }
                }
                out.write_all(b"}\n")?;
                out.flush()?;
            }
            Form::Csv(mut writer, is_begun) => {
                if !is_begun {
                    writer.write(&readable(&RecordBatch::new_empty(self.schema), true)?)?;
                }
                writer.into_inner().flush()?;
            }
            Form::Parquet(mut writer) => {
                writer.append_key_value_metadata(KeyValue::new("weir.answer".to_owned(), said.to_string()));
                writer.into_inner()?.flush()?;
            }
        }
        Ok(())
    }
}

/// Their names, in order.
pub fn columns(schema: &Schema) -> Vec<&str> {
    schema.fields().iter().map(|field| field.name().as_str()).collect()
}

/// Addresses as text; for CSV lists, too.
pub fn readable(batch: &RecordBatch, is_flat: bool) -> Result<RecordBatch, ArrowError> {
    let (mut fields, mut columns) = (Vec::new(), Vec::new());
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        let is_address = field.metadata().get(ADDRESS.0).is_some_and(|kind| kind == ADDRESS.1);
        let texts = match field.data_type() {
            DataType::FixedSizeBinary(16) if is_address => Some(address_texts(column)?),
            DataType::List(_) if is_flat => Some(joined(column)?),
            nested if is_flat && nested.is_nested() => Some(shown(column)?),
            _ => None,
        };
        match texts {
            Some(texts) => {
                fields.push(Arc::new(Field::new(field.name(), DataType::Utf8, true)));
                columns.push(texts);
            }
            None => {
                fields.push(field.clone());
                columns.push(column.clone());
            }
        }
    }
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)
}

/// Texts that are texts in a spreadsheet too.
fn without_formulas(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let (mut fields, mut columns) = (Vec::new(), Vec::new());
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        if !is_text(field.data_type()) {
            fields.push(field.clone());
            columns.push(column.clone());
            continue;
        }
        let texts = cast(column, &DataType::Utf8)?;
        let texts = texts.as_string::<i32>().iter().map(|text| text.map(without_formula));
        fields.push(Arc::new(Field::new(field.name(), DataType::Utf8, true)));
        columns.push(Arc::new(texts.collect::<StringArray>()) as ArrayRef);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)
}

fn is_text(kind: &DataType) -> bool {
    match kind {
        DataType::Dictionary(_, words) => is_text(words),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        _ => false,
    }
}

fn joined(column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let lists = column.as_list::<i32>();
    let mut texts = Vec::with_capacity(lists.len());
    for list in lists.iter() {
        let Some(list) = list else {
            texts.push(None);
            continue;
        };
        let options = FormatOptions::default();
        let formatter = ArrayFormatter::try_new(&list, &options)?;
        let words: Vec<String> = (0..list.len()).map(|at| formatter.value(at).to_string()).collect();
        texts.push(Some(words.join(" ")));
    }
    Ok(Arc::new(StringArray::from(texts)))
}

fn shown(column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let options = FormatOptions::default();
    let formatter = ArrayFormatter::try_new(column, &options)?;
    let texts = (0..column.len()).map(|at| column.is_valid(at).then(|| formatter.value(at).to_string()));
    Ok(Arc::new(texts.collect::<StringArray>()))
}

#[cfg(test)]
mod tests {
    use arrow::array::{DictionaryArray, FixedSizeBinaryArray, Int64Array, ListBuilder, StringBuilder};
    use arrow::datatypes::Int32Type;

    use super::*;

    fn batch() -> RecordBatch {
        let mut labels = ListBuilder::new(StringBuilder::new());
        labels.append_value([Some("hosting"), Some("proxy.tor")]);
        labels.append_value([] as [Option<&str>; 0]);
        let addresses =
            ["::ffff:192.0.2.7", "2001:db8::1"].map(|text| text.parse::<std::net::Ipv6Addr>().unwrap().octets());
        let address = Field::new("client_ip", DataType::FixedSizeBinary(16), true);
        let labels = labels.finish();
        let schema = Schema::new(vec![
            Field::new("n", DataType::Int64, true),
            Field::new("id", DataType::FixedSizeBinary(16), true),
            address.with_metadata([(ADDRESS.0.to_owned(), ADDRESS.1.to_owned())].into()),
            Field::new("labels", labels.data_type().clone(), true),
            Field::new("text", DataType::Utf8, true),
        ]);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(vec![Some(i64::MAX), None])),
            Arc::new(FixedSizeBinaryArray::try_from_iter([[1; 16], [2; 16]].into_iter()).unwrap()),
            Arc::new(FixedSizeBinaryArray::try_from_iter(addresses.into_iter()).unwrap()),
            Arc::new(labels),
            Arc::new(StringArray::from(vec!["a \"b\", c", "d\ne"])),
        ];
        RecordBatch::try_new(Arc::new(schema), columns).unwrap()
    }

    fn written(format: Format, batches: &[RecordBatch]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut sheet = Sheet::begin(format, batch().schema(), &mut out).unwrap();
        batches.iter().for_each(|batch| sheet.add(batch).unwrap());
        sheet.end(&serde_json::json!({ "complete": true })).unwrap();
        out
    }

    #[test]
    fn csv_is_flat_and_quoted() {
        let text = String::from_utf8(written(Format::Csv, &[batch()])).unwrap();
        let expected = "n,id,client_ip,labels,text\n\
            9223372036854775807,01010101010101010101010101010101,192.0.2.7,hosting proxy.tor,\"a \"\"b\"\", c\"\n\
            ,02020202020202020202020202020202,2001:db8::1,,\"d\ne\"\n";
        assert_eq!(text, expected);
        assert_eq!(written(Format::Csv, &[]), b"n,id,client_ip,labels,text\n");
    }

    #[test]
    fn no_cell_of_csv_is_a_formula() {
        let texts = ["=1+1", "+1", "-1", "@x", "\t=1", "\r=1", "\n=1", "＝1", "/x?a=-1", "'=1", ""];
        let words: DictionaryArray<Int32Type> = texts.into_iter().collect();
        let mut labels = ListBuilder::new(StringBuilder::new());
        texts.iter().for_each(|text| labels.append_value([Some(*text)]));
        let columns: [(&str, ArrayRef); 4] = [
            ("number", Arc::new(Int64Array::from(vec![-1; texts.len()]))),
            ("text", Arc::new(StringArray::from(texts.to_vec()))),
            ("word", Arc::new(words)),
            ("list", Arc::new(labels.finish())),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let mut out = Vec::new();
        let mut sheet = Sheet::begin(Format::Csv, batch.schema(), &mut out).unwrap();
        sheet.add(&batch).unwrap();
        sheet.end(&Value::Null).unwrap();
        let mut rows = csv::ReaderBuilder::new(Arc::new(Schema::new(
            ["number", "text", "word", "list"].map(|name| Field::new(name, DataType::Utf8, true)).to_vec(),
        )))
        .with_header(true)
        .build(out.as_slice())
        .unwrap();
        let rows = rows.next().unwrap().unwrap();
        for column in 1..4 {
            for (row, text) in texts.iter().enumerate() {
                let cell = rows.column(column).as_string::<i32>().value(row);
                let expected = if row < 8 { format!("'{text}") } else { (*text).to_owned() };
                assert_eq!(cell, expected, "column {column}");
            }
        }
        assert_eq!(rows.column(0).as_string::<i32>().value(0), "-1");
    }

    #[test]
    fn json_is_one_object() {
        let answer: Value = serde_json::from_slice(&written(Format::Json, &[batch(), batch()])).unwrap();
        assert_eq!(answer["rows"].as_array().unwrap().len(), 4);
        let first = &answer["rows"][0];
        assert_eq!((&first["n"], &first["client_ip"]), (&Value::from(i64::MAX), &Value::from("192.0.2.7")));
        assert_eq!((&first["id"], &first["labels"][1]), (&Value::from("01".repeat(16)), &Value::from("proxy.tor")));
        assert_eq!(answer["columns"], serde_json::json!(["n", "id", "client_ip", "labels", "text"]));
        assert_eq!((&answer["rows"][1]["n"], &answer["complete"]), (&Value::Null, &Value::from(true)));
        let empty: Value = serde_json::from_slice(&written(Format::Json, &[])).unwrap();
        assert_eq!(empty["rows"], Value::Array(vec![]));
    }

    #[test]
    fn a_table_has_its_head_without_rows_too() {
        let text = String::from_utf8(written(Format::Table, &[])).unwrap();
        assert!(text.contains("client_ip"), "{text}");
        let text = String::from_utf8(written(Format::Table, &[batch()])).unwrap();
        assert!(text.contains("192.0.2.7") && text.contains("[hosting, proxy.tor]"), "{text}");
    }

    #[test]
    fn parquet_is_read_back() {
        let bytes = bytes::Bytes::from(written(Format::Parquet, &[batch()]));
        let mut reader = parquet::arrow::arrow_reader::ParquetRecordBatchReader::try_new(bytes, 100).unwrap();
        assert_eq!(reader.next().unwrap().unwrap().num_rows(), 2);
    }
}
