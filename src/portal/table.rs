//! Rows to be shown, whatever the form: named columns, each of one kind.

use std::borrow::Cow;

use crate::clock::utc_text;
use crate::sheet::text_field;

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Text.
    Text,
    /// Whole numbers.
    Number,
    /// Yes or no.
    Truth,
    /// µs since 1970; shown as RFC 3339 in UTC.
    Time,
}

/// A column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: Cow<'static, str>,
    /// What it holds.
    pub kind: Kind,
}

impl Column {
    /// Of a name and kind.
    pub fn new(name: impl Into<Cow<'static, str>>, kind: Kind) -> Self {
        Self { name: name.into(), kind }
    }
}

/// A cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Nothing is known.
    None,
    /// Text.
    Text(String),
    /// A number, or a time in µs.
    Number(i64),
    /// Yes or no.
    Truth(bool),
}

impl Value {
    /// Text, or nothing where it is empty.
    pub fn text(text: &str) -> Self {
        if text.is_empty() { Self::None } else { Self::Text(text.to_owned()) }
    }
}

/// One row, in the columns' order.
pub type Row = Vec<Value>;

/// A row as a JSON object.
pub fn json(columns: &[Column], row: &Row) -> serde_json::Value {
    let cells = columns.iter().zip(row).map(|(column, value)| {
        let value = match (value, column.kind) {
            (Value::None, _) => serde_json::Value::Null,
            (Value::Number(us), Kind::Time) => utc_text(*us).into(),
            (Value::Number(number), _) => (*number).into(),
            (Value::Text(text), _) => text.as_str().into(),
            (Value::Truth(truth), _) => (*truth).into(),
        };
        (column.name.clone().into_owned(), value)
    });
    serde_json::Value::Object(cells.collect())
}

/// The header of a CSV.
pub fn csv_header(columns: &[Column]) -> String {
    let names: Vec<_> = columns.iter().map(|column| text_field(&column.name)).collect();
    names.join(",") + "\r\n"
}

/// A row of a CSV.
pub fn csv_row(columns: &[Column], row: &Row) -> String {
    let cells = columns.iter().zip(row).map(|(column, value)| match (value, column.kind) {
        (Value::None, _) => Cow::Borrowed(""),
        (Value::Number(us), Kind::Time) => Cow::Owned(utc_text(*us)),
        (Value::Number(number), _) => Cow::Owned(number.to_string()),
        (Value::Text(text), _) => text_field(text),
        (Value::Truth(truth), _) => Cow::Owned(truth.to_string()),
    });
    cells.collect::<Vec<_>>().join(",") + "\r\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_written_as_their_columns_say() {
        let columns = [
            Column::new("host", Kind::Text),
            Column::new("at", Kind::Time),
            Column::new("bytes", Kind::Number),
            Column::new("billable", Kind::Truth),
        ];
        let row = vec![Value::text("a,\"b\""), Value::Number(0), Value::Number(-1), Value::Truth(true)];
        assert_eq!(
            json(&columns, &row).to_string(),
            r#"{"at":"1970-01-01T00:00:00.000000Z","billable":true,"bytes":-1,"host":"a,\"b\""}"#
        );
        assert_eq!(csv_header(&columns), "host,at,bytes,billable\r\n");
        assert_eq!(csv_row(&columns, &row), "\"a,\"\"b\"\"\",1970-01-01T00:00:00.000000Z,-1,true\r\n");
        let formula = vec![Value::text("=1+1"), Value::None, Value::None, Value::None];
        assert_eq!(csv_row(&columns, &formula), "'=1+1,,,\r\n");
    }
}
