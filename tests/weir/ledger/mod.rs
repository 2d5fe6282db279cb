//! The ledger as it is run: real traffic through the real sidecar, every way that records can come, and a ledger that is killed all along.

mod alerts;
mod corrections;
mod ends;
mod flow;
mod kafka;
mod portal;

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::rig::process::{House, Process, WEIR};
use crate::rig::records::Records;

/// `weir ledger` on this house's configuration.
fn ledger(house: &House) -> Process {
    let mut command = Command::new(WEIR);
    command.arg("ledger").arg("--config").arg(house.file());
    Process::spawn(command)
}

/// Reads all that is there.
fn read_all(house: &House) {
    let output = Command::new(WEIR)
        .args(["ledger", "--once", "--config"])
        .arg(house.file())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn weir(house: &House, arguments: &[&str]) -> Output {
    Command::new(WEIR).args(arguments).arg("--config").arg(house.file()).output().unwrap()
}

/// What `weir usage` says, a line for each value of `by`; the last line is about completeness.
fn usage(house: &House, by: &str) -> Vec<Value> {
    let output = weir(house, &["usage", "--json", "--by", by]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The audit says that every byte is explained.
fn assert_explained(house: &House) -> Value {
    let output = weir(house, &["audit", "--json"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text} {}", String::from_utf8_lossy(&output.stderr));
    let audit: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(audit["unexplained"], serde_json::json!([]));
    audit
}

/// The ledger's usage against records that were read another way: by reason, because there all of it shows.
fn assert_is(house: &House, records: &Records) {
    let sum = |kind: &str, column: &str| -> i64 {
        records
            .0
            .iter()
            .filter(|record| record.0["kind"] == kind)
            .map(|record| record.0[column].as_i64().unwrap())
            .sum()
    };
    let closes = |kind: &str| records.0.iter().filter(|record| record.is(kind, "close")).count() as i64;
    let lines = usage(house, "reason");
    let used = |meter: &str| -> i64 { lines.iter().filter_map(|line| line[meter].as_i64()).sum() };
    assert_eq!(used("egress_bytes"), sum("session", "sent_acked_bytes"), "{lines:?}");
    assert_eq!(used("ingress_bytes"), sum("session", "received_wire_bytes"), "{lines:?}");
    assert_eq!(used("requests"), closes("request"), "{lines:?}");
    assert_eq!(used("sessions"), closes("session"), "{lines:?}");
    let last = lines.last().unwrap();
    assert_eq!((&last["complete_until"], &last["missing_records"]), (&Value::Null, &serde_json::json!(0)));
}

/// An address of a database as a line of the configuration.
fn database(file: &Path) -> Vec<String> {
    let mut databases = vec![file.display().to_string()];
    databases.extend(crate::rig::postgres::database());
    databases
}
