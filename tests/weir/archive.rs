//! The archive as it is run: beside the ledger, by itself, killed all along; verified, tampered with, erased.

use std::collections::BTreeMap;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;

use crate::kafka::{Load, stop};
use crate::rig::kafka::{Kafka, is_real, turn};
use crate::rig::origin::Origin;
use crate::rig::process::{Config, House, Process, WEIR, Weir};
use crate::rig::records::Records;
use crate::rig::{Dice, until};

fn weir(house: &House, arguments: &[&str]) -> Output {
    Command::new(WEIR).args(arguments).arg("--config").arg(house.file()).output().unwrap()
}

fn json(house: &House, arguments: &[&str]) -> Value {
    let output = weir(house, arguments);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    serde_json::from_str(&text)
        .unwrap_or_else(|error| panic!("{error}: {text} {}", String::from_utf8_lossy(&output.stderr)))
}

fn archiver(house: &House) -> Process {
    let mut command = Command::new(WEIR);
    command.args(["archive", "run", "--config"]).arg(house.file());
    Process::spawn(command)
}

fn configured(origin: &Origin) -> Config {
    let mut config = Config::http(origin.address).workers(2).top("checkpoint_interval_ms = 200");
    config.listeners += "account = \"acme\"\n";
    config.listeners += "[archive]\nplace = \"archive\"\ncommit_interval_s = 1\nbuckets = 2\n";
    config
}

/// The rows are the records, and their sums the sums.
fn assert_is(house: &House, records: &Records) {
    let proof = json(house, &["archive", "verify", "--json"]);
    assert_eq!(proof["wrong"], serde_json::json!([]), "{proof}");
    assert_eq!(proof["rows"].as_i64().unwrap(), records.0.len() as i64, "{proof}");
    let names =
        ["received_body_bytes", "received_app_bytes", "received_wire_bytes", "sent_body_bytes", "sent_app_bytes"];
    for (at, name) in names.iter().enumerate() {
        let sum: i64 = records.0.iter().map(|record| record.number(name)).sum();
        assert_eq!(proof["sums"][at].as_i64().unwrap(), sum, "{name}");
    }
}

#[test]
fn an_archiver_killed_again_and_again_archives_everything_once_and_as_the_ledger_has_it() {
    let origin = Origin::http();
    let sidecar = Weir::start(&configured(&origin));
    let house = &sidecar.house;
    let load = Load::start(sidecar.address("web"), 4, Duration::from_millis(2));
    for pause in [1300, 400, 1700, 900] {
        let mut archiver = archiver(house);
        std::thread::sleep(Duration::from_millis(pause));
        archiver.child.kill().unwrap();
        archiver.child.wait().unwrap();
    }
    load.end();
    sidecar.process.stop();
    // The ledger goes on with the archive where the last archiver was killed.
    let output = weir(house, &["ledger", "--once"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_is(house, &house.records());
    let status = json(house, &["archive", "status", "--json"]);
    assert_eq!((&status["complete_until"], &status["holes"]), (&Value::Null, &serde_json::json!([])), "{status}");
    assert!(weir(house, &["archive", "compact"]).status.success());
    assert_is(house, &house.records());

    // Erased: the address of every client here.
    let said = json(house, &["erase", "--subject", "127.0.0.1", "--dry-run", "--json"]);
    let rows = said["certificate"]["rows"].as_i64().unwrap();
    assert!(rows > 100 && said["details"].as_i64().unwrap() > 100, "{said}");
    let usage = weir(house, &["usage", "--json", "--by", "account"]).stdout;
    let done = json(house, &["erase", "--subject", "127.0.0.1", "--json", "--actor", "me"]);
    assert_eq!(done["certificate"]["rows"].as_i64(), Some(rows), "{done}");
    assert_eq!(weir(house, &["usage", "--json", "--by", "account"]).stdout, usage, "bills are as they were");
    assert_is(house, &house.records());
    let again = json(house, &["erase", "--subject", "127.0.0.1", "--dry-run", "--json"]);
    assert_eq!((&again["certificate"]["rows"], &again["details"]), (&0.into(), &0.into()));
    let audit = weir(house, &["audit", "--json"]);
    assert!(audit.status.success(), "{}", String::from_utf8_lossy(&audit.stdout));

    // Held: nothing goes.
    assert!(
        weir(house, &["archive", "hold", "add", "case-7", "--account", "acme", "--reason", "court"]).status.success()
    );
    let refused = weir(house, &["erase", "--account", "acme"]);
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("case-7"));
    assert!(weir(house, &["archive", "hold", "lift", "case-7"]).status.success());
    let done = json(house, &["erase", "--account", "acme", "--json"]);
    assert!(done["certificate"]["keys"].as_i64().unwrap() >= 1, "{done}");
    assert_is(house, &house.records());

    // Tampered with: found, and said by the exit code.
    let head = done_head(house);
    assert!(weir(house, &["archive", "verify", "--head", &head]).status.success());
    let file = house.file().parent().unwrap().join("archive").join(file_of(house, "requests"));
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let verified = weir(house, &["archive", "verify"]);
    assert_eq!(verified.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&verified.stdout).contains("was altered"));
}

/// Kills an archiver, after this many milliseconds.
fn kill_after(archiver: &mut Process, ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
    archiver.child.kill().unwrap();
    archiver.child.wait().unwrap();
}

/// How many rows there are, and how many records are known not to have come.
fn rows_and_missing(house: &House) -> (i64, i64) {
    let status = json(house, &["archive", "status", "--json"]);
    let rows = status["tables"].as_array().unwrap().iter().map(|table| table["rows"].as_i64().unwrap()).sum();
    let missing = |hole: &Value| hole["next_seq"].as_i64().unwrap_or(0) - hole["first_seq"].as_i64().unwrap_or(0);
    (rows, status["holes"].as_array().unwrap().iter().map(missing).sum())
}

/// A sidecar that writes to this topic, with a ledger and an archive that read it.
fn of_topic(kafka: &Kafka, topic: &str, origin: &Origin) -> Weir {
    let mut config = configured(origin).workers(3);
    config.sink = kafka.sink(topic, "batch_records_max = 20");
    config.listeners += &format!("group = \"{topic}-archive\"\n[ledger]\ngroup = \"{topic}-ledger\"\n");
    Weir::start(&config)
}

#[test]
fn from_a_topic_archivers_of_a_group_killed_at_random_archive_everything_once_and_as_the_ledger_has_it() {
    let kafka = Kafka::shared();
    let _turn = turn();
    let origin = Origin::http();
    let sidecar = of_topic(kafka, "archive", &origin);
    let house = &sidecar.house;
    let load = Load::start(sidecar.address("web"), 4, Duration::from_millis(4));
    let mut dice = Dice::new(11);
    let mut ledger = Command::new(WEIR);
    ledger.args(["ledger", "--config"]).arg(house.file());
    let ledger = Process::spawn(ledger);
    // One of two is killed each time; now and then one that has just begun.
    let mut first = archiver(house);
    first.await_line("partitions come");
    for _ in 0..5 {
        let mut second = archiver(house);
        kill_after(&mut first, 300 + dice.below(2500) as u64);
        std::mem::swap(&mut first, &mut second);
    }
    load.end();
    stop(sidecar.process);
    let last = archiver(house);
    last.await_line("partitions come");
    let reading = kafka.read("archive");
    reading.assert_whole();
    let records = reading.records.0.len() as i64;
    until("the archivers to have read everything", || (rows_and_missing(house).0 == records).then_some(()));
    until("the ledger to have read everything", || {
        let proof = json(house, &["archive", "verify", "--json"]);
        let is_behind = |note: &Value| note.as_str().unwrap().contains("the ledger");
        (!proof["notes"].as_array().unwrap().iter().any(is_behind)).then_some(())
    });
    drop((first, last, ledger));
    assert!(records > 300, "{records}");
    assert_is(house, &reading.records);
    let status = json(house, &["archive", "status", "--json"]);
    assert_eq!((&status["complete_until"], &status["holes"]), (&Value::Null, &serde_json::json!([])), "{status}");
    assert!(weir(house, &["archive", "compact"]).status.success());
    assert_is(house, &reading.records);
}

#[test]
fn what_a_topic_has_deleted_before_it_was_archived_is_a_stated_hole() {
    if !is_real() {
        eprintln!("skipped: the mock cluster deletes nothing");
        return;
    }
    let kafka = Kafka::shared();
    let _turn = turn();
    let origin = Origin::http();
    let sidecar = of_topic(kafka, "overrun", &origin);
    let house = &sidecar.house;
    let load = Load::start(sidecar.address("web"), 4, Duration::from_millis(4));
    let mut early = archiver(house);
    until("the archiver to have begun", || (rows_and_missing(house).0 > 50).then_some(()));
    kill_after(&mut early, 100);
    std::thread::sleep(Duration::from_secs(1));
    kafka.delete_but("overrun", 3, 2);
    // That something was deleted shows in what comes after it, of each shard.
    std::thread::sleep(Duration::from_secs(1));
    load.end();
    stop(sidecar.process);
    let mut next_seqs = BTreeMap::new();
    for record in &kafka.read("overrun").records.0 {
        let (_, shard, seq) = record.place();
        let next_seq: &mut i64 = next_seqs.entry(shard).or_default();
        *next_seq = (*next_seq).max(seq + 1);
    }
    assert_eq!(next_seqs.len(), 3, "{next_seqs:?}");
    let records: i64 = next_seqs.values().sum();
    let late = archiver(house);
    late.await_line("messages were deleted before they were read");
    until("all to be there, or known to be missing", || {
        let (rows, missing) = rows_and_missing(house);
        (rows + missing == records && missing > 0).then_some(())
    });
    drop(late);
    let proof = json(house, &["archive", "verify", "--json"]);
    assert_eq!(proof["wrong"], serde_json::json!([]), "{proof}");
}

#[test]
fn a_topic_that_is_made_anew_is_archived_from_its_beginning() {
    if !is_real() {
        eprintln!("skipped: the mock cluster deletes nothing");
        return;
    }
    let kafka = Kafka::shared();
    let _turn = turn();
    let origin = Origin::http();
    let Weir { process, house } = of_topic(kafka, "anew", &origin);
    let load = Load::start(process.address("web"), 4, Duration::from_millis(4));
    let early = archiver(&house);
    until("the archiver to have begun", || (rows_and_missing(&house).0 > 1000).then_some(()));
    load.end();
    stop(process);
    let before = kafka.read("anew").records.0.len() as i64;
    until("all to be archived", || (rows_and_missing(&house).0 == before).then_some(()));
    early.kill();
    kafka.delete_topic("anew");
    // Fewer messages than the archive's positions: the next start says little.
    let process = house.run(&[]);
    stop(process);
    let reading = kafka.read("anew");
    let after = reading.records.0.len() as i64;
    let late = archiver(&house);
    late.await_line("messages were deleted before they were read");
    until("the new topic to be archived", || (rows_and_missing(&house).0 == before + after).then_some(()));
    drop(late);
    let proof = json(&house, &["archive", "verify", "--json"]);
    assert_eq!(proof["wrong"], serde_json::json!([]), "{proof}");
}

/// Without a sink the journal keeps what it has room for, whoever has read it. An archiver that was away for longer states what it missed,
/// and the sidecar has gone on.
#[test]
fn what_the_journal_had_no_room_for_is_a_stated_hole() {
    let origin = Origin::http();
    let mut config = configured(&origin).workers(1);
    config.journal =
        "segment_bytes = 65536\njournal_bytes_max = 262144\nslots_max = 1024\nsync_interval_ms = 5\n".to_owned();
    let sidecar = Weir::start(&config);
    let house = &sidecar.house;
    let mut early = archiver(house);
    let load = Load::start(sidecar.address("web"), 4, Duration::from_millis(1));
    until("the archiver to have begun", || (rows_and_missing(house).0 > 50).then_some(()));
    kill_after(&mut early, 0);
    let archived = rows_and_missing(house).0;
    until("records to go that were not archived", || {
        let first = house.records().0.iter().map(|record| record.number("seq")).min();
        (first > Some(archived + 100)).then_some(())
    });
    assert!(!load.end().is_empty());
    sidecar.process.stop();
    assert!(weir(house, &["archive", "run", "--once"]).status.success());
    let next_seq = house.records().0.iter().map(|record| record.number("seq")).max().unwrap() + 1;
    let (rows, missing) = rows_and_missing(house);
    assert_eq!(rows + missing, next_seq);
    assert!(missing >= 100, "{missing}");
    let proof = json(house, &["archive", "verify", "--json"]);
    assert_eq!(proof["wrong"], serde_json::json!([]), "{proof}");
}

fn done_head(house: &House) -> String {
    json(house, &["archive", "verify", "--json"])["head"].as_str().unwrap().to_owned()
}

/// One that is in force, of a table: beside them lie those that a killed archiver never committed.
fn file_of(house: &House, table: &str) -> String {
    let files = String::from_utf8(weir(house, &["archive", "files"]).stdout).unwrap();
    files.lines().find(|path| path.starts_with(table)).unwrap().to_owned()
}
