//! Corrections by hand, and the audit of a part.

use std::time::Duration;

use serde_json::{Value, json};

use super::{assert_explained, database, read_all, usage, weir};
use crate::kafka::Load;
use crate::rig::origin::Origin;
use crate::rig::process::{Config, House, Weir};

/// The audit of one account: whether it is explained, and what it says.
fn audit(house: &House, more: &[&str]) -> (bool, Value) {
    let mut arguments = vec!["audit", "--json", "--account", "acme"];
    arguments.extend(more);
    let output = weir(house, &arguments);
    let text = String::from_utf8(output.stdout).unwrap();
    let value = serde_json::from_str(&text).unwrap_or_else(|error| {
        panic!("{error}: {text} {}", String::from_utf8_lossy(&output.stderr));
    });
    (output.status.success(), value)
}

fn causes(audit: &Value) -> Vec<&str> {
    audit["explained"].as_array().unwrap().iter().map(|cause| cause["cause"].as_str().unwrap()).collect()
}

fn of(house: &House, account: &str) -> Value {
    let lines = usage(house, "account");
    lines.into_iter().find(|line| line["account"] == account).unwrap_or(Value::Null)
}

fn correct(house: &House, arguments: &[&str]) -> String {
    let mut all = vec!["correct"];
    all.extend(arguments);
    let output = weir(house, &all);
    assert!(output.status.success(), "{all:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn what_is_corrected_says_so_and_every_byte_stays_explained() {
    let directory = tempfile::tempdir().unwrap();
    for database in database(&directory.path().join("ledger.db")) {
        let origin = Origin::http();
        let mut config = Config::http(origin.address).workers(2).top("checkpoint_interval_ms = 200");
        config.listeners += "account = \"acme\"\n";
        config.listeners += &format!("[ledger]\ndatabase = {database:?}\nbatch_interval_ms = 20\n");
        let sidecar = Weir::start(&config);
        let house = &sidecar.house;
        let load = Load::start(sidecar.address("web"), 2, Duration::from_millis(2));
        std::thread::sleep(Duration::from_millis(500));
        read_all(house);
        std::thread::sleep(Duration::from_millis(500));
        // What has come since is named, and is no riddle.
        let (is_good, flying) = audit(house, &[]);
        assert!(is_good, "{flying}");
        assert!(causes(&flying).contains(&"in_flight"), "{flying}");
        let requests = load.end().len() as i64;
        sidecar.process.stop();
        let house = &sidecar.house;
        read_all(house);

        let (is_good, quiet) = audit(house, &[]);
        assert!(is_good && !causes(&quiet).contains(&"in_flight"), "{quiet}");
        let difference = quiet["usage"][0]["difference"].as_object().unwrap();
        assert!(difference.len() == 9 && difference.values().all(|bytes| *bytes == json!(0)), "{quiet}");
        // Another time has nothing, one that holds all of it has all.
        let (is_good, nothing) = audit(house, &["--to", "2020-01-01"]);
        assert!(is_good && nothing["records"].as_array().unwrap().is_empty(), "{nothing}");
        let (_, all) = audit(house, &["--from", "2020-01-01", "--node", "test"]);
        assert_eq!(all["usage"], json!([]), "usage is not told apart by node");

        let hour = usage(house, "hour")[0]["hour"].as_str().unwrap().replace('Z', ":00:00Z");
        let why = ["--account", "acme", "--at", &hour, "--reason", "our retry", "--actor", "jo"];
        let said = correct(house, &[&["add", "requests=-3"][..], &why].concat());
        assert!(said.starts_with("c1  requests=-3 for acme"), "{said}");
        assert_eq!(of(house, "acme")["requests"], requests - 3);
        let lines = usage(house, "account");
        let named = lines.iter().find(|line| line["correction"] == "c1").unwrap();
        assert_eq!(
            (&named["actor"], &named["reason"], &named["of_which"]["requests"]),
            (&json!("jo"), &json!("our retry"), &json!(-3))
        );

        let day = &hour[..10];
        let moved = [
            "move",
            "--account",
            "acme",
            "--to-account",
            "globex",
            "--from",
            day,
            "--to",
            "9000-01-01",
            "--reason",
            "wrong table",
        ];
        let egress = of(house, "acme")["egress_bytes"].clone();
        correct(house, &moved);
        assert_eq!((&of(house, "globex")["egress_bytes"], &of(house, "acme")["egress_bytes"]), (&egress, &json!(0)));
        assert_explained(house);
        let (is_good, corrected) = audit(house, &[]);
        assert!(is_good && causes(&corrected).contains(&"correction"), "{corrected}");

        correct(house, &["undo", "c2", "--reason", "it was right"]);
        assert_eq!(
            (&of(house, "acme")["egress_bytes"], &of(house, "acme")["requests"]),
            (&egress, &json!(requests - 3))
        );
        assert_eq!(of(house, "globex")["egress_bytes"], 0);
        for wrong in [
            &["undo", "c2"][..],
            &["undo", "c9"],
            &["add", "reqests=1", "--account", "acme", "--at", day],
            &["add", "requests=1", "--account", "acme", "--at", "9000-01-01"],
        ] {
            let arguments = [&["correct"], wrong, &["--reason", "no"]].concat();
            assert_eq!(weir(house, &arguments).status.code(), Some(1), "{wrong:?}");
        }
        let list = String::from_utf8(weir(house, &["correct", "list", "--json"]).stdout).unwrap();
        assert_eq!(list.lines().count(), 3);
        assert_explained(house);

        super::flow::tamper(&database);
        let (is_good, tampered) = audit(house, &[]);
        assert!(!is_good, "{tampered}");
        let unexplained = tampered["unexplained"][0].as_str().unwrap();
        assert!(unexplained.starts_with("acme: sent_app_bytes is") && unexplained.ends_with("+1"), "{unexplained}");
    }
}
