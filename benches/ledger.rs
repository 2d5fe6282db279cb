//! Records per second into the ledger: `cargo bench --bench ledger [-- postgres://…]`.
//!
//! Messages of 500 records as they lie in Kafka are read, verified, summed up and committed, 200,000 records at a time
//! (`batch_records_max`); beside it, in the same run, what keeping the records themselves costs (`details_keep_days`), and the
//! straightforward way: one statement for each record, in transactions of the same size. SQLite with `synchronous = FULL`, in a
//! temporary directory. *CPU s* is all threads of this process; a server's own time is not in it.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod measured;

use bytes::Bytes;
use measured::Stopwatch;
use prost::Message;

use weir::event::v1::UsageBatch;
use weir::event::{Kind, Phase, UsageRecord};
use weir::rollup::{Book, Options, Spot};
use weir::store::Store;
use weir::wire::Hash;

const RECORDS: usize = 1_000_000;
const PLAIN_RECORDS: usize = 50_000;
const MESSAGE_RECORDS: usize = 500;
const COMMIT_RECORDS: usize = 200_000;
const NODES: usize = 10;
const ACCOUNTS: usize = 500;

/// What one node sends: sessions of ten requests each, of many accounts, hosts and outcomes.
fn messages(node: usize, records: usize) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    let mut previous_hash = Bytes::new();
    for first in (0..records).step_by(MESSAGE_RECORDS) {
        let record = |seq: usize| {
            let session = (seq / 12) as u64;
            let mut id = [0; 16];
            id[..8].copy_from_slice(&(node as u64).to_be_bytes());
            id[8..].copy_from_slice(&session.to_be_bytes());
            let account = format!("account-{}", (session as usize * 7919) % ACCOUNTS);
            let bytes = 1000 + (seq as i64 * 31) % 100_000;
            let mut record = UsageRecord {
                session_id: Bytes::copy_from_slice(&id),
                endpoint: "api".into(),
                host: format!("{account}.example.com"),
                account,
                started_at: 1_795_370_400_000_000 + seq as i64 * 1000,
                at: 1_795_370_400_000_000 + seq as i64 * 1000,
                protocol: "h2".into(),
                country: ["DE", "FR", "US", "JP"][seq % 4].into(),
                attribution: "by-host".into(),
                listener: "web".into(),
                client_ip: Bytes::from_static(&[192, 0, 2, 1]),
                client_port: 40_000,
                billable: true,
                ..UsageRecord::default()
            };
            match seq % 12 {
                0 => (record.kind, record.phase) = (Kind::Session.into(), Phase::Open.into()),
                11 => {
                    (record.kind, record.phase) = (Kind::Session.into(), Phase::Close.into());
                    record.requests = 10;
                    record.sent_acked_bytes = bytes * 10;
                    record.total_sent_acked_bytes = bytes * 10;
                }
                n => {
                    (record.kind, record.phase) = (Kind::Request.into(), Phase::Close.into());
                    id[0] = n as u8;
                    record.request_id = Bytes::copy_from_slice(&id);
                    record.method = "GET".into();
                    record.path = "/v1/things".into();
                    record.status = [200, 200, 200, 404, 500][seq % 5];
                    record.received_app_bytes = 300;
                    record.total_received_app_bytes = 300;
                    record.sent_app_bytes = bytes;
                    record.total_sent_app_bytes = bytes;
                    record.sent_acked_bytes = bytes;
                    record.total_sent_acked_bytes = bytes;
                }
            }
            record
        };
        let batch = UsageBatch {
            node: format!("node-{node}"),
            epoch: 1,
            first_seq: first as i64,
            count: MESSAGE_RECORDS as i32,
            records: (first..first + MESSAGE_RECORDS).map(record).collect(),
            previous_hash,
            ..UsageBatch::default()
        };
        let value = batch.encode_to_vec();
        previous_hash = Bytes::copy_from_slice(&Hash::of(&value).0);
        messages.push(value);
    }
    messages
}

async fn ledger(name: &str, store: &Store, messages: &[Vec<Vec<u8>>], keeps_details: bool) {
    let options = Options { keys: Vec::new(), hosts_max: 1000 };
    let mut book = Book::open(store.load().await.unwrap(), options).unwrap();
    if keeps_details {
        book.keep_details();
    }
    let watch = Stopwatch::start();
    let (mut records, mut rows) = (0, 0);
    for at in 0..messages[0].len() {
        for (part, of_node) in messages.iter().enumerate() {
            let at = at as i64;
            let spot = Spot { source: "bench".into(), part: part.to_string(), from: at, to: at + 1, at_us: 0 };
            book.message(spot, &[("weir-schema", b"weir.usage.v1.UsageBatch")], &of_node[at as usize]).unwrap();
            records += MESSAGE_RECORDS;
            if records % COMMIT_RECORDS == 0 {
                rows += book.rows();
                store.commit(&book.batch().unwrap()).await.unwrap();
                book.committed();
            }
        }
    }
    store.commit(&book.batch().unwrap()).await.unwrap();
    book.committed();
    watch.report(name, records as u64);
    println!("{:<34} {rows:>9} rows of usage changed, one for {:.1} records", "", records as f64 / rows.max(1) as f64);
    let (blocks, octets) = store.blocks().await.unwrap();
    if blocks > 0 {
        println!("{:<34} {blocks:>9} blocks of records, {:.1} octets a record", "", octets as f64 / records as f64);
    }
}

async fn plain(name: &str, url: &str, messages: &[Vec<Vec<u8>>]) {
    let pool = sqlx::AnyPool::connect(url).await.unwrap();
    if url.starts_with("sqlite") {
        sqlx::raw_sql("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL").execute(&pool).await.unwrap();
    }
    let sql = "CREATE TABLE plain (account TEXT, hour BIGINT, host TEXT, country TEXT, status BIGINT, bytes BIGINT, requests BIGINT, \
               PRIMARY KEY (account, hour, host, country, status))";
    sqlx::raw_sql(sql).execute(&pool).await.unwrap();
    let watch = Stopwatch::start();
    let mut records = 0;
    let mut to = pool.begin().await.unwrap();
    'all: for message in messages.iter().flatten() {
        for record in UsageBatch::decode(message.as_slice()).unwrap().records {
            sqlx::query(
                "INSERT INTO plain VALUES ($1, $2, $3, $4, $5, $6, 1) ON CONFLICT (account, hour, host, country, status) \
                 DO UPDATE SET bytes = plain.bytes + excluded.bytes, requests = plain.requests + 1",
            )
            .bind(record.account)
            .bind(record.at - record.at % 3_600_000_000)
            .bind(record.host)
            .bind(record.country)
            .bind(i64::from(record.status / 100))
            .bind(record.sent_acked_bytes)
            .execute(&mut *to)
            .await
            .unwrap();
            records += 1;
            if records == PLAIN_RECORDS {
                break 'all;
            }
        }
    }
    to.commit().await.unwrap();
    watch.report(name, records as u64);
}

fn main() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ledger.db").display().to_string();
    let messages: Vec<_> = (0..NODES).map(|node| messages(node, RECORDS / NODES)).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = Store::open(&file).await.unwrap();
        ledger("SQLite, synchronous = FULL", &store, &messages, false).await;
        let store = Store::open(&format!("{file}.details")).await.unwrap();
        ledger("SQLite, and the records kept", &store, &messages, true).await;
        plain("SQLite, a statement each", &format!("sqlite://{file}"), &messages).await;
        if let Some(url) = std::env::args().find(|argument| argument.starts_with("postgres")) {
            let store = Store::open(&url).await.unwrap();
            ledger("PostgreSQL, and the records kept", &store, &messages, true).await;
            plain("PostgreSQL, a statement each", &url, &messages).await;
        }
    });
}
