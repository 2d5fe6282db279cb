//! From a topic: several ledgers in a group, killed and started under load.

use std::time::Duration;

use super::{assert_explained, assert_is, database, ledger, usage};
use crate::kafka::{Load, stop};
use crate::rig::kafka::{Kafka, turn};
use crate::rig::origin::Origin;
use crate::rig::process::{Config, Weir};
use crate::rig::until;

#[test]
fn ledgers_of_a_group_killed_under_load_count_everything_once() {
    let kafka = Kafka::shared();
    let _turn = turn();
    let directory = tempfile::tempdir().unwrap();
    for (number, database) in database(&directory.path().join("ledger.db")).into_iter().enumerate() {
        let topic = format!("ledger-{number}");
        let origin = Origin::http();
        let mut config = Config::http(origin.address).workers(3).top("checkpoint_interval_ms = 200");
        config.sink = kafka.sink(&topic, "batch_records_max = 20");
        let group = format!("ledger-{number}");
        config.listeners += &format!("[ledger]\ndatabase = {database:?}\ngroup = {group:?}\nbatch_interval_ms = 50\n");
        let sidecar = Weir::start(&config);
        let load = Load::start(sidecar.address("web"), 6, Duration::from_millis(4));
        let mut first = ledger(&sidecar.house);
        for pause in [2500, 3500] {
            let mut second = ledger(&sidecar.house);
            std::thread::sleep(Duration::from_millis(pause));
            std::mem::swap(&mut first, &mut second);
            second.child.kill().unwrap();
            second.child.wait().unwrap();
        }
        let requests = load.end().len() as i64;
        stop(sidecar.process);
        let last = ledger(&sidecar.house);
        until("the ledgers to have read everything", || {
            let said = usage(&sidecar.house, "reason");
            let sum: i64 = said.iter().filter_map(|line| line["requests"].as_i64()).sum();
            (sum == requests && said.last().unwrap()["complete_until"].is_null()).then_some(())
        });
        drop((first, last));
        let reading = kafka.read(&topic);
        reading.assert_whole();
        assert_is(&sidecar.house, &reading.records);
        assert_explained(&sidecar.house);
    }
}
