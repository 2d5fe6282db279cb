//! Answers are what the records add up to.

use std::collections::{BTreeMap, BTreeSet};

use weir::event::{Kind, Phase, Screening};
use weir::ids::hex;

use crate::world::world;

#[test]
fn sums_by_account_are_those_of_the_records() {
    let mut expected: BTreeMap<&str, (i64, i64, i64)> = BTreeMap::new();
    for record in world().records.iter().filter(|record| record.kind() == Kind::Request) {
        let sums = expected.entry(&record.account).or_default();
        *sums = (sums.0 + 1, sums.1 + record.received_app_bytes, sums.2 + record.sent_acked_bytes);
    }
    let rows = world().rows(
        "SELECT account, count(*) AS n, sum(received_app_bytes) AS received, sum(sent_acked_bytes) AS acked FROM requests GROUP BY account",
        &[],
    );
    assert_eq!(rows.len(), expected.len());
    for row in rows {
        let sums = expected[row["account"].as_str().unwrap()];
        assert_eq!(
            (row["n"].as_i64(), row["received"].as_i64(), row["acked"].as_i64()),
            (Some(sums.0), Some(sums.1), Some(sums.2))
        );
    }
}

#[test]
fn every_record_is_there_once() {
    let seqs = world()
        .rows("SELECT seq FROM requests UNION ALL SELECT seq FROM sessions UNION ALL SELECT seq FROM nodes", &[]);
    let found: BTreeSet<u64> = seqs.iter().map(|row| row["seq"].as_u64().unwrap()).collect();
    assert_eq!((seqs.len(), found.len()), (world().records.len(), world().records.len()));
    assert_eq!(found.last(), Some(&(world().records.len() as u64 - 1)));
    let count = world().rows("SELECT count(*) AS n FROM requests", &[]);
    let requests = world().records.iter().filter(|record| record.kind() == Kind::Request).count();
    assert_eq!(count[0]["n"].as_u64(), Some(requests as u64));
}

#[test]
fn a_request_is_found_by_its_id_in_few_files() {
    let requests: Vec<_> = world().records.iter().filter(|record| record.kind() == Kind::Request).collect();
    for at in [0, requests.len() / 2, requests.len() - 1] {
        let id = hex(&requests[at].request_id);
        for sql in [
            "SELECT * FROM requests WHERE request_id = $id".to_owned(),
            format!("SELECT * FROM requests WHERE request_id = x'{id}'"),
        ] {
            let parameter = format!("id={id}");
            let given: &[&str] = if sql.contains('$') { &["--param", &parameter] } else { &[] };
            let answer = world().ask(&sql, given);
            let rows = answer["rows"].as_array().unwrap();
            assert!(answer["looked_at"]["files"].as_u64().unwrap() <= 8, "{}", answer["looked_at"]);
            assert_eq!(rows.len(), 1, "{sql}");
            assert_eq!(rows[0]["path"].as_str(), Some(requests[at].path.as_str()));
            assert_eq!(rows[0]["request_id"].as_str(), Some(id.as_str()));
        }
    }
}

#[test]
fn a_time_and_an_account_open_only_their_files() {
    let answer = world().ask(
        "SELECT count(*) AS n FROM requests WHERE account = 'account-0' AND at >= TIMESTAMP '2026-11-22T05:00:00Z' AND at < TIMESTAMP '2026-11-22T06:00:00Z'",
        &[],
    );
    let looked = &answer["looked_at"];
    let (files, in_sight) = (looked["files"].as_u64().unwrap(), looked["files_in_sight"].as_u64().unwrap());
    assert!(files >= 1 && files * 20 <= in_sight, "{looked}");
    let hour = (crate::population::START_US + 5 * 3_600_000_000)..(crate::population::START_US + 6 * 3_600_000_000);
    let expected = world()
        .records
        .iter()
        .filter(|record| record.kind() == Kind::Request && record.account == "account-0" && hour.contains(&record.at));
    assert_eq!(answer["rows"][0]["n"].as_u64(), Some(expected.count() as u64));
}

#[test]
fn from_and_to_bound_every_table() {
    let expected = world().records.iter().filter(|record| {
        record.kind() == Kind::Session
            && (crate::population::START_US + 90_000_000..crate::population::START_US + 5_400_000_000)
                .contains(&record.at)
    });
    let answer = world()
        .ask("SELECT count(*) AS n FROM sessions", &["--from", "2026-11-22T00:01:30Z", "--to", "2026-11-22T01:30:00Z"]);
    assert_eq!(answer["rows"][0]["n"].as_u64(), Some(expected.count() as u64));
    assert_eq!(answer["completeness"]["from"].as_str(), Some("2026-11-22T00:01:30.000000Z"));
}

#[test]
fn accounts_and_screening_are_tables_too() {
    let rows = world().rows("SELECT sum(requests) AS r, sum(sessions) AS s, count(*) AS a FROM accounts", &[]);
    let closes = |kind| {
        world().records.iter().filter(|record| record.kind() == kind && record.phase() == Phase::Close).count() as u64
    };
    assert_eq!(
        (rows[0]["r"].as_u64(), rows[0]["s"].as_u64()),
        (Some(closes(Kind::Request)), Some(closes(Kind::Session)))
    );
    let rows = world().rows("SELECT count(*) AS n, sum(CASE WHEN refused THEN 1 ELSE 0 END) AS refused FROM screening WHERE kind = 'request'", &[]);
    let uncleared =
        |record: &&weir::event::UsageRecord| record.kind() == Kind::Request && record.screening() != Screening::Clear;
    let matched =
        world().records.iter().filter(uncleared).filter(|record| record.screening() == Screening::Match).count() as u64;
    assert_eq!(
        (rows[0]["n"].as_u64(), rows[0]["refused"].as_u64()),
        (Some(world().records.iter().filter(uncleared).count() as u64), Some(matched))
    );
    assert!(matched > 0);
}

#[test]
fn whole_addresses_are_shown_to_who_has_the_keys() {
    let keys = world().path("keys");
    let keys = ["--keys", keys.to_str().unwrap()];
    let sql = "SELECT count(*) AS n FROM requests WHERE ip_in(client_ip, '10.0.0.0/22')";
    let within = |record: &&weir::event::UsageRecord| {
        record.kind() == Kind::Request && record.client_ip[..2] == [10, 0] && record.client_ip[2] < 4
    };
    let expected = world().records.iter().filter(within).count() as u64;
    assert!(expected > 0);
    assert_eq!(world().rows(sql, &keys)[0]["n"].as_u64(), Some(expected));
    assert_eq!(world().rows(sql, &[])[0]["n"].as_u64(), Some(0));
    let shown = world().rows("SELECT client_ip, ip_prefix(client_ip, 8) AS net FROM sessions LIMIT 1", &keys);
    assert!(shown[0]["client_ip"].as_str().unwrap().starts_with("10."), "{shown:?}");
    assert_eq!(shown[0]["net"].as_str(), Some("10.0.0.0/8"));
}

#[test]
fn forms_say_the_same() {
    let sql = "SELECT account, count(*) AS n FROM sessions GROUP BY account ORDER BY account";
    let rows = world().rows(sql, &[]);
    let csv = world().run("query", &["--format", "csv", sql]);
    assert_eq!(csv.code, Some(0), "{}", csv.err);
    let lines: Vec<String> =
        rows.iter().map(|row| format!("{},{}", row["account"].as_str().unwrap(), row["n"])).collect();
    assert_eq!(csv.out, format!("account,n\n{}\n", lines.join("\n")));
    assert!(csv.err.contains("access log entry") && csv.err.contains("complete"), "{}", csv.err);
    let table = world().run("query", &[sql]);
    assert!(table.out.contains("account-0"), "{}", table.out);
    let file = world().path("answer.parquet");
    let parquet = world().run("query", &["--format", "parquet", "--output", file.to_str().unwrap(), sql]);
    assert_eq!(parquet.code, Some(0), "{}", parquet.err);
    let reader =
        parquet::arrow::arrow_reader::ParquetRecordBatchReader::try_new(std::fs::File::open(file).unwrap(), 1000)
            .unwrap();
    assert_eq!(reader.map(|batch| batch.unwrap().num_rows()).sum::<usize>(), rows.len());
}

#[test]
fn the_session_in_the_middle_is_one_of_them() {
    let middle = crate::world::POPULATION.session_in_the_middle();
    assert!(world().records.windows(middle.len()).any(|window| window == middle));
}
