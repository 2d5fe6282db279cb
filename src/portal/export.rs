//! The forms of an answer: a page of JSON, or everything as a stream of CSV, JSON lines or Parquet.
//!
//! A stream is made piece by piece as it is taken; it ends in an error (the connection breaks) where the ledger fails half-way, so that no
//! half of an export is taken for the whole.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use http_body::Frame;
use tokio::sync::mpsc;

use super::Problem;
use super::accesses::Shown;
use super::parquet::Parquet;
use super::table::{self, Column, Row};

/// Pieces that are made and not taken yet.
const PIECES: usize = 2;

/// What an answer looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One page, with what goes with it.
    Json,
    /// RFC 4180, with a header.
    Csv,
    /// A JSON object a line.
    Ndjson,
    /// For analysis.
    Parquet,
}

impl Form {
    /// As they are asked for.
    pub const ALL: [(&'static str, Self); 4] =
        [("json", Self::Json), ("csv", Self::Csv), ("ndjson", Self::Ndjson), ("parquet", Self::Parquet)];

    fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Csv => "text/csv; charset=utf-8; header=present",
            Self::Ndjson => "application/x-ndjson",
            Self::Parquet => "application/vnd.apache.parquet",
        }
    }
}

/// A page of JSON.
pub fn page(body: &serde_json::Value, rows: usize) -> Response {
    let mut response = format!("{body}\n").into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(Form::Json.content_type()));
    response.extensions_mut().insert(Shown(rows as i64));
    response
}

/// Writes rows in a form.
struct Writer {
    form: Form,
    columns: Vec<Column>,
    parquet: Option<Parquet>,
}

impl Writer {
    fn new(form: Form, columns: Vec<Column>) -> io::Result<Self> {
        let parquet = if form == Form::Parquet { Some(Parquet::new(&columns)?) } else { None };
        Ok(Self { form, columns, parquet })
    }

    fn begin(&self) -> String {
        if self.form == Form::Csv { table::csv_header(&self.columns) } else { String::new() }
    }

    fn rows(&mut self, rows: &[Row]) -> io::Result<Bytes> {
        if let Some(parquet) = &mut self.parquet {
            return parquet.rows(rows);
        }
        let lines = rows.iter().map(|row| match self.form {
            Form::Csv => table::csv_row(&self.columns, row),
            _ => format!("{}\n", table::json(&self.columns, row)),
        });
        Ok(lines.collect::<String>().into())
    }

    fn end(self) -> io::Result<Bytes> {
        self.parquet.map_or_else(|| Ok(Bytes::new()), Parquet::end)
    }
}

/// Rows that are all there, as a file.
pub fn file(form: Form, name: &str, columns: Vec<Column>, rows: &[Row]) -> Result<Response, Problem> {
    let mut writer = Writer::new(form, columns).map_err(unwritable)?;
    let mut bytes = writer.begin().into_bytes();
    bytes.extend(writer.rows(rows).map_err(unwritable)?);
    bytes.extend(writer.end().map_err(unwritable)?);
    Ok(attached(form, name, Body::from(bytes), Shown(rows.len() as i64)))
}

fn unwritable(error: io::Error) -> Problem {
    tracing::error!(%error, "rows cannot be written");
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the rows cannot be written in this form: ask for another")
}

fn attached(form: Form, name: &str, body: Body, shown: Shown) -> Response {
    let extension = Form::ALL.iter().find(|(_, known)| *known == form).map_or("", |(name, _)| name);
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(form.content_type()));
    if let Ok(disposition) = format!("attachment; filename=\"weir-{name}.{extension}\"").parse() {
        headers.insert(header::CONTENT_DISPOSITION, disposition);
    }
    response.extensions_mut().insert(shown);
    response
}

/// Where pieces of an answer are brought while it flows.
pub(super) struct Stream {
    writer: Writer,
    to: mpsc::Sender<io::Result<Bytes>>,
    rows: i64,
}

/// An answer that begins now, and where its rows are to be brought.
pub(super) fn stream(form: Form, name: &str, columns: Vec<Column>) -> Result<(Response, Stream), Problem> {
    let writer = Writer::new(form, columns).map_err(unwritable)?;
    let (to, pieces) = mpsc::channel(PIECES);
    let body = Body::new(Pieces(pieces));
    Ok((attached(form, name, body, Shown(-1)), Stream { writer, to, rows: 0 }))
}

impl Stream {
    /// Before the first rows. False: nobody takes it any more.
    pub(super) async fn begin(&mut self) -> bool {
        let head = self.writer.begin();
        head.is_empty() || self.to.send(Ok(head.into())).await.is_ok()
    }

    /// Brings rows. False: nobody takes them any more.
    pub(super) async fn rows(&mut self, rows: &[Row]) -> bool {
        self.rows += rows.len() as i64;
        let piece = self.writer.rows(rows);
        let is_good = piece.is_ok();
        let is_empty = piece.as_ref().is_ok_and(Bytes::is_empty);
        (is_empty || self.to.send(piece).await.is_ok()) && is_good
    }

    /// Nothing more comes. How many rows there were.
    pub(super) async fn end(self) -> i64 {
        // One who is gone needs no end.
        self.to.send(self.writer.end()).await.unwrap_or_default();
        self.rows
    }

    /// It breaks here. How many rows there were.
    pub(super) async fn fail(self, why: &Problem) -> i64 {
        self.to.send(Err(io::Error::other(why.detail.clone()))).await.unwrap_or_default();
        self.rows
    }
}

/// What is brought, as a body.
pub(super) struct Pieces(pub(super) mpsc::Receiver<io::Result<Bytes>>);

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}
