//! Without a broker: the journal beside the sidecar, and files.

use std::time::Duration;

use super::{assert_explained, assert_is, database, ledger, read_all, usage, weir};
use crate::kafka::Load;
use crate::kill::MixedLoad;
use crate::rig::origin::Origin;
use crate::rig::process::{Config, Weir};
use crate::rig::records::Records;

#[test]
fn a_ledger_killed_again_and_again_counts_everything_once() {
    let directory = tempfile::tempdir().unwrap();
    for database in database(&directory.path().join("ledger.db")) {
        let origin = Origin::http();
        let mut config = Config::http(origin.address).workers(2).top("checkpoint_interval_ms = 200");
        config.listeners += "account = \"acme\"\n";
        config.listeners +=
            &format!("[ledger]\ndatabase = {database:?}\nbatch_interval_ms = 20\nbatch_records_max = 50\n");
        let sidecar = Weir::start(&config);
        let load = Load::start(sidecar.address("web"), 4, Duration::from_millis(2));
        for pause in [300, 150, 450, 200, 100, 350] {
            let mut ledger = ledger(&sidecar.house);
            std::thread::sleep(Duration::from_millis(pause));
            ledger.child.kill().unwrap();
            ledger.child.wait().unwrap();
        }
        let requests = load.end().len() as i64;
        sidecar.process.stop();
        read_all(&sidecar.house);
        assert_is(&sidecar.house, &sidecar.house.records());
        let audit = assert_explained(&sidecar.house);
        assert_eq!(audit["steps"][0]["records"], audit["steps"][1]["records"]);
        let accounts = usage(&sidecar.house, "account");
        assert_eq!(accounts[0]["account"], "acme");
        assert_eq!(accounts[0]["requests"], requests);
        // Usage that no record says is found.
        tamper(&database);
        let audit = weir(&sidecar.house, &["audit"]);
        assert_eq!(audit.status.code(), Some(1));
        let text = String::from_utf8_lossy(&audit.stdout).into_owned();
        assert!(text.contains("unexplained  requests' sent_app_bytes"), "{text}");
    }
}

pub(super) fn tamper(database: &str) {
    let url = if database.contains("://") { database.to_owned() } else { format!("sqlite://{database}") };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        sqlx::any::install_default_drivers();
        let pool = sqlx::AnyPool::connect(&url).await.unwrap();
        let sql = "UPDATE usage SET sent_app_bytes = sent_app_bytes + 1 WHERE series = (SELECT MIN(id) FROM series WHERE kind = 'request' AND correction = '')";
        assert!(sqlx::query(sql).execute(&pool).await.unwrap().rows_affected() > 0);
    });
}

#[test]
fn a_sidecar_killed_again_and_again_is_counted_as_its_records_say() {
    let load = MixedLoad::new("kind = \"none\"\n");
    load.kills(4, Duration::from_millis(600), read_all);
    load.house.run(&[]).stop();
    read_all(&load.house);
    assert_is(&load.house, &load.house.records());
    assert_explained(&load.house);
}

#[test]
fn files_are_read_while_they_are_written() {
    for format in ["json", "protobuf"] {
        let origin = Origin::http();
        let files = tempfile::tempdir().unwrap();
        let mut config = Config::http(origin.address).workers(2).top("checkpoint_interval_ms = 200");
        config.sink =
            format!("kind = \"file\"\npath = {:?}\nformat = \"{format}\"\nrotate_bytes = 65536\n", files.path());
        config.listeners += "[ledger]\nbatch_interval_ms = 20\n";
        let sidecar = Weir::start(&config);
        let load = Load::start(sidecar.address("web"), 4, Duration::from_millis(2));
        for _ in 0..3 {
            let mut ledger = ledger(&sidecar.house);
            std::thread::sleep(Duration::from_millis(400));
            ledger.child.kill().unwrap();
            ledger.child.wait().unwrap();
        }
        load.end();
        sidecar.process.stop();
        read_all(&sidecar.house);
        let mut records = Vec::new();
        for entry in std::fs::read_dir(files.path()).unwrap() {
            records.extend(Records::of_file(&entry.unwrap().path()).0);
        }
        assert_is(&sidecar.house, &Records(records));
        assert_explained(&sidecar.house);
    }
}
