//! What is old goes, sums stay; small blocks are joined; PostgreSQL's tables become partitioned with all that was in them.

use std::collections::BTreeMap;

use sqlx::Row;

use super::details_tests::{commit, pages, record, search, stores};
use super::{Access, Batch, Filter, Group, Kind, Old, Period, Quarantined, Series, Store, Sums, Usage, postgres};
use crate::clock::{DAY_US, HOUR_US, day_us};
use crate::event::{Kind as RecordKind, Phase, UsageRecord};

fn series(id: i64, account: &str) -> (i64, Series) {
    let series = Series {
        kind: Kind::Request,
        account: account.to_owned(),
        endpoint: String::new(),
        host: String::new(),
        protocol: "h1".to_owned(),
        country: String::new(),
        status_class: 2,
        billable: true,
        reason: String::new(),
        corrects: String::new(),
        correction: String::new(),
    };
    (id, series)
}

fn month(name: &str, from_us: i64, to_us: i64) -> Period {
    Period { name: name.into(), from_us, to_us, sealed_at_us: to_us, actor: "test".into(), holes: String::new() }
}

async fn count(store: &Store, sql: &'static str) -> i64 {
    store.rows("count", sql).await.unwrap()[0].get(0)
}

/// By account and month.
async fn sums(store: &Store) -> BTreeMap<(String, (i64, i64)), Sums> {
    let mut sums: BTreeMap<_, Sums> = BTreeMap::new();
    for (series, hour_us, of) in store.usage(&Filter::default(), Group::Hour).await.unwrap() {
        let (year, month, _) = crate::clock::date_of(hour_us);
        sums.entry((series.account, (year, month))).or_default().add(&of);
    }
    sums
}

#[tokio::test]
async fn hours_of_old_sealed_months_are_joined_and_every_sum_stays() {
    let directory = tempfile::tempdir().unwrap();
    let (september, october, november) = (day_us(2026, 9, 1), day_us(2026, 10, 1), day_us(2026, 11, 1));
    for store in stores(&directory).await {
        let all: Vec<(i64, Series)> = (0..450).map(|id| series(id, &format!("account-{}", id % 7))).collect();
        let mut usage = Vec::new();
        for (id, _) in &all {
            for hour_us in (0..8).map(|n| september + (id % 5 + n * 173) * HOUR_US) {
                let bytes = std::array::from_fn(|column| id * 10 + column as i64);
                let sums = Sums { bytes, requests: 1, records: 2, fingerprint: [7, *id, 3, 4], ..Sums::default() };
                usage.push(Usage { series: *id, hour_us, sums });
            }
        }
        // Twice: what is there is added to.
        for _ in 0..2 {
            let batch = Batch { series: all.clone(), usage: usage.clone(), ..Batch::default() };
            store.commit(&batch).await.unwrap();
        }
        let before = sums(&store).await;
        let rows = || count(&store, "SELECT COUNT(*) FROM usage");
        let of = |from_us: i64, to_us: i64| usage.iter().filter(move |u| (from_us..to_us).contains(&u.hour_us)).count();
        // Nothing is sealed: nothing goes, however old.
        let old = |hours_us| Old { hours_us: Some(hours_us), ..Old::default() };
        store.forget(&old(i64::MAX)).await.unwrap();
        assert_eq!(rows().await, usage.len() as i64);
        let nothing = |_: &super::Seal| Ok((Vec::new(), String::new()));
        store.seal(month("2026-09", september, october), nothing).await.unwrap();
        store.seal(month("2026-10", october, november), nothing).await.unwrap();
        // September is old, October is not.
        // Two ledgers at once.
        let (other, is_old) = (store.clone(), old(november - 1));
        let (first, second) = tokio::join!(store.forget(&is_old), other.forget(&is_old));
        first.and(second).unwrap();
        let joined = all.len() + of(october, i64::MAX);
        assert_eq!(rows().await, joined as i64);
        assert_eq!(sums(&store).await, before);
        store.forget(&old(november - 1)).await.unwrap();
        assert_eq!((rows().await, sums(&store).await), (joined as i64, before.clone()));
        store.forget(&old(i64::MAX)).await.unwrap();
        assert_eq!(rows().await, (2 * all.len() + of(november, i64::MAX)) as i64);
        assert_eq!(sums(&store).await, before);
    }
}

#[tokio::test]
async fn quarantine_goes_with_sealed_months_and_accesses_with_time() {
    let directory = tempfile::tempdir().unwrap();
    let (october, november) = (day_us(2026, 10, 1), day_us(2026, 11, 1));
    for store in stores(&directory).await {
        let piece = |position, at_us| Quarantined {
            source: "log".into(),
            part: "0".into(),
            position,
            at_us,
            reason: "is no record".into(),
            bytes: vec![1, 2],
        };
        let quarantine = vec![piece(1, 0), piece(2, october), piece(3, november - 1), piece(4, november)];
        store.commit(&Batch { quarantine, ..Batch::default() }).await.unwrap();
        let access = |at_us| Access {
            at_us,
            subject: "s".into(),
            scope: "admin".into(),
            account: String::new(),
            path: "/".into(),
            query: String::new(),
            status: 200,
            rows: 1,
        };
        store.note_accesses(&[access(october), access(november), access(november + 3 * DAY_US)]).await.unwrap();
        let left = async |store: &Store| {
            let pieces = store.quarantined(i64::MAX).await.unwrap();
            (
                pieces.iter().map(|piece| piece.position).collect::<Vec<_>>(),
                store.accesses(0, i64::MAX, 9).await.unwrap().len(),
            )
        };
        let old = |us| Old { quarantine_us: Some(us), accesses_us: Some(us.min(november + 1)), ..Old::default() };
        store.forget(&old(i64::MAX)).await.unwrap();
        assert_eq!(left(&store).await, (vec![1, 2, 3, 4], 1), "of an open month nothing goes");
        store.seal(month("2026-10", october, november), |_| Ok((Vec::new(), String::new()))).await.unwrap();
        store.forget(&old(october + 1)).await.unwrap();
        assert_eq!(left(&store).await, (vec![1, 3, 4], 1));
        store.forget(&old(i64::MAX)).await.unwrap();
        assert_eq!(left(&store).await, (vec![1, 4], 1), "nor what has no time");
    }
}

#[tokio::test]
async fn small_blocks_are_joined_and_every_record_stays_where_it_is_looked_for() {
    let directory = tempfile::tempdir().unwrap();
    let begin_us = day_us(2026, 11, 22);
    for store in stores(&directory).await {
        let mut all: Vec<UsageRecord> = Vec::new();
        // A second each: a few records of some accounts; in one hour more than fit in a step; one large batch.
        for second in 0..300_i64 {
            let size = if second == 200 { 3_000 } else { second % 9 };
            let at_us = begin_us + second / 150 * HOUR_US + second * 1_000_000;
            let records = (0..size).map(|n| {
                let account = ["acme", "globex", "initech", ""][((second + n) % 4) as usize];
                record(all.len() as i64 + n, account, RecordKind::Request, Phase::Close, at_us + n)
            });
            let records: Vec<UsageRecord> = records.collect();
            commit(&store, &records).await;
            all.extend(records);
        }
        let by_seq = |mut records: Vec<UsageRecord>| {
            records.sort_by_key(|record| record.seq);
            records
        };
        let found =
            async |account| pages(&store, search(account, RecordKind::Request, 0, i64::MAX, 100), |_| true).await;
        let before = (found(None).await, found(Some("acme")).await, found(Some("unattributed")).await);
        let (blocks, _) = store.blocks().await.unwrap();
        assert!(blocks > 250);
        // The second hour is not over.
        let mut steps = 0;
        while store.merge_blocks(begin_us + HOUR_US + 60_000_000).await.unwrap() {
            steps += 1;
        }
        assert_eq!(steps, 3, "64 at once");
        let (halfway, _) = store.blocks().await.unwrap();
        assert!((130..160).contains(&halfway), "{halfway}");
        let other = store.clone();
        for _ in 0..20 {
            // Two ledgers at once.
            let (first, second) = tokio::join!(store.merge_blocks(i64::MAX), other.merge_blocks(i64::MAX));
            if !(first.unwrap() | second.unwrap()) {
                break;
            }
            steps += 1;
        }
        assert!(steps < 20, "joining does not end");
        let (left, _) = store.blocks().await.unwrap();
        assert!(left <= 6, "{left} of {blocks}");
        assert_eq!(by_seq(store.all_details().await), all);
        assert_eq!((found(None).await, found(Some("acme")).await, found(Some("unattributed")).await), before);
        let stray = "SELECT COUNT(*) FROM block_accounts WHERE block NOT IN (SELECT id FROM blocks)";
        assert_eq!(count(&store, stray).await, 0);
        let whole = "SELECT COUNT(*) FROM blocks WHERE id NOT IN (SELECT block FROM block_accounts)";
        assert_eq!(count(&store, whole).await, 0);
    }
}

#[tokio::test]
async fn a_database_without_partitions_gets_them_with_all_that_is_in_it() {
    let Some(database) = postgres::database() else { return };
    let old = Store::connect(&database, true).await.unwrap();
    old.migrate(3).await.unwrap();
    let hours = [-5 * HOUR_US, day_us(2019, 12, 31), day_us(2026, 10, 31), day_us(2026, 11, 1), day_us(2100, 1, 1)];
    for (id, hour_us) in (0..).zip(hours) {
        let sums = vec!["3"; super::SUM_COLUMNS.len()].join(", ");
        let sql = format!("INSERT INTO usage VALUES ({id}, {hour_us}, {sums})");
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&old.pool).await.unwrap();
        for sql in [
            format!("INSERT INTO blocks VALUES ('b{id}', {hour_us}, {hour_us}, 1, 'x')"),
            format!("INSERT INTO block_accounts VALUES ('a', {hour_us}, 'b{id}', {hour_us})"),
            format!("INSERT INTO access VALUES ({hour_us}, 's', 'admin', '', '/', '', 200, {id})"),
        ] {
            sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&old.pool).await.unwrap();
        }
    }
    let store = Store::open(&database).await.unwrap();
    for table in ["usage", "blocks", "block_accounts", "access"] {
        let sql = format!(
            "SELECT (SELECT COUNT(*) FROM {table}), (SELECT COUNT(*) FROM {table}_early), (SELECT COUNT(*) FROM {table}_202610), \
             (SELECT COUNT(*) FROM {table}_202611), (SELECT COUNT(*) FROM {table}_late)"
        );
        let row = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_one(&store.pool).await.unwrap();
        let counts: Vec<i64> = (0..5).map(|at| row.get(at)).collect();
        assert_eq!(counts, [5, 2, 1, 1, 1], "{table}");
    }
    let sum = "SELECT CAST(SUM(sent_acked_bytes + fingerprint_3) AS BIGINT) FROM usage";
    assert_eq!(count(&store, sum).await, 30);
    // New months, and those of another process's making.
    let other = Store::open(&database).await.unwrap();
    let one = Sums { records: 1, ..Sums::default() };
    let usage = |hour_us| Batch {
        series: vec![series(1, "acme")],
        usage: vec![Usage { series: 1, hour_us, sums: one }],
        ..Batch::default()
    };
    for hour_us in [day_us(2026, 12, 31), day_us(2027, 1, 1), day_us(1999, 1, 1), day_us(2500, 1, 1)] {
        store.commit(&usage(hour_us)).await.unwrap();
        other.commit(&usage(hour_us)).await.unwrap();
    }
    assert_eq!(count(&store, "SELECT records FROM usage_202612").await, 2);
    // Old details go with their partition; what comes late for it finds a new one.
    commit(&store, &[record(1, "acme", RecordKind::Request, Phase::Close, day_us(2026, 10, 7))]).await;
    let november = Old { details_us: Some(day_us(2026, 11, 1)), ..Old::default() };
    other.forget(&november).await.unwrap();
    assert_eq!(count(&store, "SELECT COUNT(*) FROM pg_class WHERE relname = 'blocks_202610'").await, 0);
    assert_eq!(count(&store, "SELECT COUNT(*) FROM blocks").await, 2);
    let late = record(2, "acme", RecordKind::Request, Phase::Close, day_us(2026, 10, 8));
    let mut details = super::Details::default();
    details.add(&late);
    let batch = Batch { details: details.blocks().unwrap(), ..Batch::default() };
    assert!(store.commit(&batch).await.is_err(), "it does not know yet that the partition is gone");
    store.commit(&batch).await.unwrap();
    assert_eq!(count(&store, "SELECT COUNT(*) FROM blocks").await, 3);
}
