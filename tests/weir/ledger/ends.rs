//! The tail of an epoch, and all of one, that never come: seen by what the next epoch says.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::{assert_explained, assert_is, read_all, usage, weir};
use crate::kafka::Load;
use crate::rig::client::Client;
use crate::rig::origin::Origin;
use crate::rig::process::{Config, House};
use crate::rig::records::Records;
use crate::rig::until;

/// The files of a sink, by epoch and shard.
fn files(directory: &std::path::Path) -> BTreeMap<(i64, i64), PathBuf> {
    let paths = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let of = |path: PathBuf| {
        let record = Records::of_file(&path).0.swap_remove(0);
        ((record.number("epoch"), record.number("shard")), path)
    };
    paths.map(of).collect()
}

#[test]
fn what_never_came_of_earlier_epochs_is_a_gap_until_it_comes() {
    let origin = Origin::http();
    let kept = tempfile::tempdir().unwrap();
    let mut config = Config::http(origin.address).workers(2).top("checkpoint_interval_ms = 200");
    let sink = |path: &std::path::Path| format!("kind = \"file\"\npath = {path:?}\nformat = \"json\"\n");
    config.sink = sink(kept.path());
    let house = House::new(&config);
    for is_killed in [true, false, false] {
        let process = house.run(&[]);
        let load = Load::start(process.address("web"), 4, Duration::from_millis(5));
        std::thread::sleep(Duration::from_millis(300));
        load.end();
        if is_killed { process.kill() } else { drop(process.stop()) }
    }
    let all = files(kept.path());
    let third = house.epoch();
    let (first, second) = (third - 2, third - 1);
    let expected = [(first, 0), (first, 1), (second, 0), (second, 1), (third, 0), (third, 1)];
    assert_eq!(all.keys().copied().collect::<Vec<_>>(), expected);
    // Of the first epoch only the beginning arrives, of the second nothing.
    let arrived = tempfile::tempdir().unwrap();
    let mut lost = Vec::new();
    for ((epoch, shard), path) in &all {
        let text = std::fs::read_to_string(path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let come = match third - epoch {
            2 => 1,
            1 => 0,
            _ => lines.len(),
        };
        if come < lines.len() {
            lost.push((*epoch, *shard, come, lines.len()));
        }
        if come > 0 {
            let some: String = lines[..come].iter().map(|line| format!("{line}\n")).collect();
            std::fs::write(arrived.path().join(path.file_name().unwrap()), some).unwrap();
        }
    }
    assert_eq!(lost.len(), 4, "{lost:?}");
    config.sink = sink(arrived.path());
    house.write(&config);
    read_all(&house);
    let said = usage(&house, "reason");
    let missing: usize = lost.iter().map(|(.., from, to)| to - from).sum();
    assert_eq!(said.last().unwrap()["missing_records"], json!(missing), "{said:?}");
    let audit = assert_explained(&house);
    for (epoch, shard, from, to) in lost {
        let (count, last) = (to - from, to - 1);
        let gap =
            format!("gap: node test epoch {epoch} shard {shard}: {count} records, seqs {from} to {last} (missing)");
        assert!(audit["explained"].as_array().unwrap().contains(&json!(gap)), "{gap}: {audit}");
    }
    // Until somebody states that it is lost, it holds back; what comes nevertheless counts.
    let list = || -> Value { serde_json::from_slice(&weir(&house, &["node", "list", "--json"]).stdout).unwrap() };
    assert!(list()["complete_until"].is_string() && list()["lost"].is_null(), "{}", list());
    let unknown = weir(&house, &["node", "lost", "another", "--reason", "gone"]);
    assert!(!unknown.status.success() && String::from_utf8_lossy(&unknown.stderr).contains("weir node list"));
    assert!(weir(&house, &["node", "lost", "test", "--reason", "its disk is gone", "--actor", "me"]).status.success());
    assert_eq!([&list()["complete_until"], &list()["missing_records"]], [&Value::Null, &json!(missing)]);
    assert_eq!([&list()["lost"]["reason"], &list()["lost"]["actor"]], ["its disk is gone", "me"]);
    // The rest comes after all.
    for path in all.values() {
        std::fs::copy(path, arrived.path().join(path.file_name().unwrap())).unwrap();
    }
    read_all(&house);
    assert_is(&house, &Records(all.values().flat_map(|path| Records::of_file(path).0).collect()));
    assert_explained(&house);
}

#[test]
fn an_epoch_that_drained_beside_its_successor_is_stated_by_it() {
    let origin = Origin::http();
    let house = House::new(&Config::http(origin.address).workers(2));
    let mut old = house.run(&[]);
    Client::connect(old.address("web")).get("/bytes/10");
    let new = house.run(&["--upgrade"]);
    assert!(old.ended().success());
    let stated = |records: &Records| {
        let of_new = records.0.iter().filter(|record| record.number("epoch") == house.epoch());
        let ended: Vec<_> = of_new.filter_map(|record| record.0["ended"].as_array().cloned()).flatten().collect();
        (ended.len() >= 2).then_some(ended)
    };
    let ended = until("the ends of the first epoch", || stated(&house.records()));
    let records = house.records();
    for end in ended {
        let ours = records.0.iter().filter(|r| r.number("epoch") == house.epoch() - 1 && r.0["shard"] == end["shard"]);
        assert_eq!((&end["epoch"], end["next_seq"].as_u64()), (&json!(house.epoch() - 1), Some(ours.count() as u64)));
        assert!(end["started_at"].as_i64() < end["ended_at"].as_i64());
    }
    new.stop();
    records.assert_lawful();
}
