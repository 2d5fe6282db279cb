//! The archive as it is run: beside the ledger, by itself, killed all along; verified, tampered with, erased.

use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;

use crate::kafka::Load;
use crate::rig::origin::Origin;
use crate::rig::process::{Config, House, Process, WEIR, Weir};
use crate::rig::records::Records;

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
    let file = first_file(&house.file().parent().unwrap().join("archive/requests"));
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let verified = weir(house, &["archive", "verify"]);
    assert_eq!(verified.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&verified.stdout).contains("was altered"));
}

fn done_head(house: &House) -> String {
    json(house, &["archive", "verify", "--json"])["head"].as_str().unwrap().to_owned()
}

fn first_file(folder: &std::path::Path) -> std::path::PathBuf {
    let entry = std::fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
    if entry.is_dir() { first_file(&entry) } else { entry }
}
