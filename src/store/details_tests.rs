//! Searches against plain lists, on SQLite and PostgreSQL.

use bytes::Bytes;

use super::{Batch, Details, ItemRow, Old, Place, Search, Store, StreamPlace, postgres};
use crate::clock::{DAY_US, HOUR_US};
use crate::event::{End, Kind, Phase, UsageRecord};
use crate::ids::hex;

const BEGIN_US: i64 = 1_795_370_400_000_000;

pub(super) async fn stores(directory: &tempfile::TempDir) -> Vec<Store> {
    let mut stores = vec![Store::open(&directory.path().join("l.db").display().to_string()).await.unwrap()];
    if let Some(database) = postgres::database() {
        stores.push(Store::open(&database).await.unwrap());
    }
    stores
}

pub(super) fn record(seq: i64, account: &str, kind: Kind, phase: Phase, at_us: i64) -> UsageRecord {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&seq.to_be_bytes());
    let id = Bytes::copy_from_slice(&id);
    UsageRecord {
        kind: kind.into(),
        phase: phase.into(),
        end: if phase == Phase::Close { End::Done.into() } else { End::Unspecified.into() },
        session_id: id.clone(),
        request_id: if kind == Kind::Request { id } else { Bytes::new() },
        account: account.into(),
        host: format!("{account}.example"),
        at: at_us,
        node: "n".into(),
        seq,
        status: 200 + (seq % 3) as i32,
        ..UsageRecord::default()
    }
}

/// Commits them as one batch.
pub(super) async fn commit(store: &Store, records: &[UsageRecord]) {
    let mut details = Details::default();
    records.iter().for_each(|record| details.add(record));
    store.commit(&Batch { details: details.blocks().unwrap(), ..Batch::default() }).await.unwrap();
}

/// All pages.
pub(super) async fn pages(
    store: &Store,
    mut search: Search,
    matches: impl Fn(&UsageRecord) -> bool + Copy,
) -> Vec<i64> {
    let mut seqs = Vec::new();
    for _ in 0..10_000 {
        let page = store.search(&search, matches).await.unwrap();
        assert!(page.records.len() <= search.rows_max);
        seqs.extend(page.records.iter().map(|record| record.seq));
        let Some(next) = page.next else { return seqs };
        assert!(next < search.before, "{next:?} is no progress");
        search.before = next;
    }
    panic!("the search does not end");
}

pub(super) fn search(account: Option<&str>, kind: Kind, from_us: i64, to_us: i64, rows_max: usize) -> Search {
    Search { account: account.map(str::to_owned), kind, from_us, before: Place::before(to_us), rows_max }
}

#[tokio::test]
async fn a_search_finds_what_a_plain_list_has_newest_first() {
    let directory = tempfile::tempdir().unwrap();
    for store in stores(&directory).await {
        let mut all = Vec::new();
        // Many small batches, a large one that spans hours, and one that comes late.
        for batch in 0..300_i64 {
            let (size, from_us) = match batch {
                150 => (5_000, BEGIN_US - 2 * HOUR_US),
                299 => (50, BEGIN_US - 30 * HOUR_US),
                _ => (5, BEGIN_US + batch * 1_000_000),
            };
            let records: Vec<UsageRecord> = (0..size)
                .map(|n| {
                    let seq = all.len() as i64 + n;
                    let kind = if seq % 4 == 0 { Kind::Session } else { Kind::Request };
                    let at_us = from_us + n * (if size == 5_000 { 2_000_000 } else { 150_000 }) / 10 * 10;
                    record(seq, ["acme", "globex", "initech"][(seq % 7 % 3) as usize], kind, Phase::Close, at_us)
                })
                .collect();
            commit(&store, &records).await;
            all.extend(records);
        }
        // Many at one µs.
        let same: Vec<UsageRecord> =
            (0..500).map(|n| record(all.len() as i64 + n, "acme", Kind::Request, Phase::Close, BEGIN_US)).collect();
        for piece in same.chunks(100) {
            commit(&store, piece).await;
        }
        all.extend(same);
        all.sort_by_key(|record| std::cmp::Reverse((record.at, record.seq)));
        for (account, kind, from_us, to_us, rows_max) in [
            (None, Kind::Request, 0, i64::MAX, 1000),
            (None, Kind::Session, 0, i64::MAX, 7),
            (Some("acme"), Kind::Request, 0, i64::MAX, 100),
            (Some("globex"), Kind::Session, BEGIN_US, BEGIN_US + 100_000_000, 3),
            (Some("initech"), Kind::Request, BEGIN_US - HOUR_US, BEGIN_US + 1, 1000),
            (Some("nobody"), Kind::Request, 0, i64::MAX, 10),
            (Some("acme'; DROP TABLE blocks; --"), Kind::Request, 0, i64::MAX, 10),
        ] {
            let expected: Vec<i64> = all
                .iter()
                .filter(|record| record.kind() == kind && account.is_none_or(|account| record.account == account))
                .filter(|record| from_us <= record.at && record.at < to_us)
                .map(|record| record.seq)
                .collect();
            let found = pages(&store, search(account, kind, from_us, to_us, rows_max), |_| true).await;
            assert_eq!(found, expected, "{account:?} {kind:?} {from_us} {to_us} {rows_max}");
        }
        // What is rare is found too, by pages that hold nothing.
        let rare = |record: &UsageRecord| record.seq == 3;
        assert_eq!(pages(&store, search(None, Kind::Request, 0, i64::MAX, 10), rare).await, [3]);
        let (before, octets) = store.blocks().await.unwrap();
        assert!(before > 300 && octets > 0);
        store.forget(&Old { details_us: Some(BEGIN_US - 3 * HOUR_US), ..Old::default() }).await.unwrap();
        assert!(store.blocks().await.unwrap().0 < before);
        let left = pages(&store, search(None, Kind::Request, 0, i64::MAX, 1000), |_| true).await;
        let expected = all.iter().filter(|record| record.kind() == Kind::Request && record.at > BEGIN_US - DAY_US);
        assert_eq!(left.len(), expected.count());
    }
}

#[tokio::test]
async fn what_is_open_is_found_once_as_it_is_now() {
    let directory = tempfile::tempdir().unwrap();
    for store in stores(&directory).await {
        let long: Vec<UsageRecord> = [(0, Phase::Open), (1, Phase::Checkpoint), (2, Phase::Checkpoint)]
            .into_iter()
            .map(|(n, phase)| {
                let id = record(0, "acme", Kind::Session, phase, 0).session_id;
                UsageRecord { session_id: id, ..record(n, "acme", Kind::Session, phase, BEGIN_US + n * 1_000_000) }
            })
            .collect();
        let item = |last_at_us: i64, is_closed: bool| {
            let id = hex(&long[0].session_id);
            let state = serde_json::json!({ "last_at_us": last_at_us, "is_closed": is_closed }).to_string();
            let place = StreamPlace { node: "n".into(), epoch: 1, shard: 0 };
            let row = ItemRow {
                place,
                account: "acme".into(),
                missing_received_bytes: 0,
                missing_sent_bytes: 0,
                missing_acked_bytes: 0,
                state,
            };
            Batch { items: vec![(id, Some(row))], ..Batch::default() }
        };
        commit(&store, &long).await;
        store.commit(&item(BEGIN_US + 2_000_000, false)).await.unwrap();
        let all = search(Some("acme"), Kind::Session, 0, i64::MAX, 10);
        assert_eq!(pages(&store, all.clone(), |_| true).await, [2]);
        // It closes: now it is found as it closed.
        let id = long[0].session_id.clone();
        let close = UsageRecord { session_id: id, ..record(3, "acme", Kind::Session, Phase::Close, BEGIN_US + 9) };
        commit(&store, &[close]).await;
        store.commit(&item(BEGIN_US + 2_000_000, true)).await.unwrap();
        assert_eq!(pages(&store, all, |_| true).await, [3]);
    }
}
