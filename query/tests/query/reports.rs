//! Reports against sums that a loop has made.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use weir::event::{Kind, Phase, Screening, UsageRecord};

use crate::population::START_US;
use crate::world::world;

fn rows<'a>(report: &'a Value, part: &str) -> &'a [Value] {
    report["parts"][part]["rows"].as_array().unwrap()
}

fn records(kind: Kind) -> impl Iterator<Item = &'static UsageRecord> {
    world().records.iter().filter(move |record| record.kind() == kind)
}

fn text<'a>(row: &'a Value, name: &str) -> &'a str {
    row[name].as_str().unwrap()
}

fn number(row: &Value, name: &str) -> i64 {
    row[name].as_i64().unwrap()
}

#[test]
fn residency_is_bytes_by_country_and_region() {
    type Told<'a> = (BTreeSet<&'a [u8]>, i64, i64);
    let mut expected: BTreeMap<(&str, &str), Told<'_>> = BTreeMap::new();
    for record in records(Kind::Session) {
        let sums = expected.entry((&record.country, &record.region)).or_default();
        sums.0.insert(&record.session_id);
        sums.1 += record.received_wire_bytes;
        sums.2 += record.sent_wire_bytes;
    }
    let report = world().report("residency", &[]);
    assert_eq!(rows(&report, "countries").len(), expected.len());
    for row in rows(&report, "countries") {
        let sums = &expected[&(text(row, "country"), text(row, "region"))];
        assert_eq!(
            (number(row, "sessions"), number(row, "received_bytes"), number(row, "sent_bytes")),
            (sums.0.len() as i64, sums.1, sums.2)
        );
    }
    let requests: i64 = rows(&report, "endpoints").iter().map(|row| number(row, "requests")).sum();
    assert_eq!(requests, records(Kind::Request).count() as i64);
    let version = &report["versions"][0];
    assert_eq!((number(version, "geo_epoch"), number(version, "accounts_version")), (1_795_000_000, 17));
    assert_eq!(number(version, "records"), world().records.len() as i64);
}

#[test]
fn screening_says_what_was_said() {
    let mut expected: BTreeMap<(&str, &str), i64> = BTreeMap::new();
    for record in world().records.iter().filter(|record| record.screening() != Screening::Clear) {
        let kind = if record.kind() == Kind::Request { "request" } else { "session" };
        *expected.entry((record.screening().name(), kind)).or_default() += 1;
    }
    let report = world().report("screening", &[]);
    let mut found: BTreeMap<(&str, &str), i64> = BTreeMap::new();
    for row in rows(&report, "rules") {
        *found.entry((text(row, "verdict"), text(row, "kind"))).or_default() += number(row, "records");
        assert_eq!(text(row, "rule"), "crimea@1");
    }
    assert_eq!(found, expected);
}

#[test]
fn rules_of_today_are_held_against_records_of_then() {
    let config = world().path("weir.toml");
    let archive = world().path("archive");
    let text_of = format!(
        "state_dir = \"{}\"\n[ledger]\n[query]\ntime_s_max = 600\n[archive]\nplace = \"{}\"\n[[screening.rules]]\nname = \"brazil\"\nversion = 2\ncountries = [\"BR\"]\naction = \"refuse\"\n",
        world().path("state").display(),
        archive.display()
    );
    std::fs::write(&config, text_of).unwrap();
    let made = |form: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_weir-query"));
        let output =
            command.args(["report", "rescreening", "--format", form, "--config"]).arg(&config).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let report: Value = serde_json::from_str(&made("json")).unwrap();
    let mut judged: BTreeMap<(&str, &str), i64> = BTreeMap::new();
    for record in &world().records {
        let is_hidden = record.labels.iter().any(|label| label.starts_with("proxy"));
        let now = if record.country == "BR" {
            "match"
        } else if is_hidden || record.country.is_empty() {
            "indeterminate"
        } else {
            "clear"
        };
        *judged.entry((record.screening().name(), now)).or_default() += 1;
    }
    // Who might have been meant by one rule and may now be by another is a difference too.
    let expected: BTreeMap<_, _> =
        judged.iter().filter(|((then, now), _)| then != now || *now != "clear").map(|(two, n)| (*two, *n)).collect();
    let mut found: BTreeMap<(&str, &str), i64> = BTreeMap::new();
    for row in rows(&report, "differences") {
        *found.entry((text(row, "then_verdict"), text(row, "now_verdict"))).or_default() += number(row, "records");
    }
    assert_eq!(found, expected);
    // Each rule by itself: what it said then, what it says now, and the difference.
    let mut expected: BTreeMap<(&str, &str), [i64; 3]> = BTreeMap::new();
    for ((then, now), records) in judged {
        if then != "clear" {
            let sums = expected.entry(("crimea@1", then)).or_default();
            *sums = [sums[0] + records, sums[1], sums[2] - records];
        }
        if now != "clear" {
            let sums = expected.entry(("brazil@2", now)).or_default();
            *sums = [sums[0], sums[1] + records, sums[2] + records];
        }
    }
    let sums = |row| ["records_then", "records_now", "difference"].map(|name| number(row, name));
    let found: BTreeMap<(&str, &str), [i64; 3]> =
        rows(&report, "rules").iter().map(|row| ((text(row, "rule"), text(row, "verdict")), sums(row))).collect();
    assert_eq!((found.len(), &found), (4, &expected));
    assert_eq!((&report["rules_then"], &report["rules_now"]), (&json!(["crimea@1"]), &json!(["brazil@2"])));
    assert_eq!(report["versions"][0]["geo_epoch"].as_i64(), Some(1_795_000_000));
    let table = made("table");
    assert!(table.contains("rules then, as records name them: crimea@1\nrules now: brazil@2\n"), "{table}");
}

#[test]
fn a_subject_is_told_everything_that_is_held() {
    let subject = &records(Kind::Request).nth(100).unwrap().client_ip;
    let address = std::net::Ipv4Addr::from(<[u8; 4]>::try_from(subject.as_ref()).unwrap()).to_string();
    let (keys, parameter) = (world().path("keys"), format!("address={address}"));
    let keys = ["--keys", keys.to_str().unwrap(), "--param", &parameter];
    let report = world().report("subject", &keys);
    for (part, kind) in [("requests", Kind::Request), ("sessions", Kind::Session)] {
        let expected: BTreeSet<u64> = world()
            .records
            .iter()
            .enumerate()
            .filter(|(_, record)| record.kind() == kind && record.client_ip == *subject)
            .map(|(seq, _)| seq as u64)
            .collect();
        let found: BTreeSet<u64> = rows(&report, part).iter().map(|row| row["seq"].as_u64().unwrap()).collect();
        assert_eq!(found, expected, "{part}");
        assert!(rows(&report, part).iter().all(|row| row["client_ip"] == address.as_str()));
    }
    let theirs = world().report("subject", &["--account", "account-2"]);
    let expected = records(Kind::Request).filter(|record| record.account == "account-2").count();
    assert_eq!(rows(&theirs, "requests").len(), expected);
    assert_eq!(world().run("report", &["subject"]).code, Some(64));
}

#[test]
fn what_is_new_was_not_there_before() {
    let from_us = START_US + 20 * 3_600_000_000;
    let mut first: BTreeMap<(&str, &str), i64> = BTreeMap::new();
    for record in records(Kind::Session) {
        let at = first.entry((&record.account, &record.country)).or_insert(i64::MAX);
        *at = (*at).min(record.started_at);
    }
    let expected: BTreeSet<(&str, &str)> =
        first.iter().filter(|(_, at)| **at >= from_us).map(|(source, _)| *source).collect();
    let report = world().report("new-sources", &["--from", "2026-11-22T20:00:00Z"]);
    let found: BTreeSet<(&str, &str)> =
        rows(&report, "countries").iter().map(|row| (text(row, "account"), text(row, "country"))).collect();
    assert!(!expected.is_empty());
    assert_eq!(found, expected);
    assert_eq!(world().run("report", &["new-sources"]).code, Some(64));
}

#[test]
fn errors_sources_and_talkers_add_up() {
    let failed = records(Kind::Request).filter(|record| record.status >= 500).count() as i64;
    let report = world().report("errors", &[]);
    assert_eq!(rows(&report, "endpoints").iter().map(|row| number(row, "requests")).sum::<i64>(), failed);
    assert_eq!(rows(&report, "hours").iter().map(|row| number(row, "requests")).sum::<i64>(), failed);
    let sent: i64 = records(Kind::Session).map(|record| record.sent_wire_bytes).sum();
    let report = world().report("sources", &[]);
    assert_eq!(rows(&report, "networks").iter().map(|row| number(row, "sent_bytes")).sum::<i64>(), sent);
    let hidden = records(Kind::Session)
        .filter(|record| record.phase() == Phase::Close && !record.labels.is_empty())
        .count() as i64;
    assert_eq!(rows(&report, "anonymisers").iter().map(|row| number(row, "sessions")).sum::<i64>(), hidden);
    let report = world().report("top-talkers", &[]);
    let accounts: BTreeSet<&str> = records(Kind::Session).map(|record| record.account.as_str()).collect();
    assert_eq!(rows(&report, "accounts").len(), accounts.len().min(100));
    assert_eq!(rows(&report, "accounts").iter().map(|row| number(row, "sent_bytes")).sum::<i64>(), sent);
}

#[test]
fn retention_counts_what_is_held() {
    let report = world().report("retention", &[]);
    let held: i64 = rows(&report, "held").iter().map(|row| number(row, "rows")).sum();
    assert_eq!(held, world().records.len() as i64);
    assert!(rows(&report, "erased").is_empty() && rows(&report, "holds").is_empty());
    assert_eq!(world().run("report", &["retention", "--account", "account-1"]).code, Some(64));
}

#[test]
fn every_report_is_there_in_every_form() {
    for (name, _) in weir::portal::queries::REPORTS {
        for form in ["table", "json", "csv", "html"] {
            let mut args = vec![name, "--format", form, "--from", "2026-11-22"];
            if name == "subject" {
                args.extend(["--account", "account-3"]);
            }
            let ended = world().run("report", &args);
            assert_eq!(ended.code, Some(0), "{name} {form}: {}", ended.err);
            match form {
                "html" => assert!(ended.out.starts_with("<!DOCTYPE html>") && !ended.out.contains("<script"), "{name}"),
                "json" => {
                    assert!(serde_json::from_str::<Value>(&ended.out).unwrap()["completeness"].is_object(), "{name}")
                }
                "table" => assert!(ended.out.contains("complete"), "{name}: {}", ended.out),
                _ => assert!(ended.err.contains("complete"), "{name}: {}", ended.err),
            }
        }
    }
    let catalog: BTreeSet<&str> = weir_query::report::catalog::REPORTS.iter().map(|report| report.name).collect();
    assert_eq!(catalog, weir::portal::queries::REPORTS.iter().map(|(name, _)| *name).collect());
}
