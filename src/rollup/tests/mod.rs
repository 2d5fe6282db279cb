//! The ledger without processes: books and stores, on SQLite and, where it is installed, PostgreSQL.

mod lost;
mod model;
mod proof;
mod single;
mod traffic;

use super::book::{Book, Options};
use crate::event::UsageRecord;
use crate::store::{Store, postgres};
use crate::units::COLUMNS;
use crate::wire::StreamId;

fn id(stream: usize) -> StreamId {
    StreamId { node: format!("node-{}", stream / 2), epoch: 1 + (stream % 2) as u32, shard: 0 }
}

fn options() -> Options {
    Options { keys: Vec::new(), hosts_max: 10 }
}

async fn open(store: &Store) -> Book {
    let mut book = Book::open(store.load().await.unwrap(), options()).unwrap();
    book.keep_details();
    book
}

fn add(to: &mut [i64; COLUMNS], bytes: [i64; COLUMNS]) {
    to.iter_mut().zip(bytes).for_each(|(to, bytes)| *to += bytes);
}

fn deltas(record: &UsageRecord) -> [i64; COLUMNS] {
    record.deltas().to_array().map(|bytes| bytes as i64)
}

/// On SQLite, and on PostgreSQL where it is installed.
async fn stores(directory: &tempfile::TempDir, name: &str) -> Vec<(String, Store)> {
    let file = directory.path().join(format!("{name}.db")).display().to_string();
    let mut stores = vec![("sqlite".to_owned(), Store::open(&file).await.unwrap())];
    if let Some(database) = postgres::database() {
        stores.push(("postgresql".to_owned(), Store::open(&database).await.unwrap()));
    }
    stores
}
