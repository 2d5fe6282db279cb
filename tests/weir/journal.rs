//! The journal as an operator sees it: what is given up is stated first, and a dead node's disk gives its records back.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::rig::Dice;
use crate::rig::client::Client;
use crate::rig::origin::Origin;
use crate::rig::process::{Config, House, WEIR};
use crate::rig::records::Records;

fn journal(arguments: &[&str], state: &Path) -> Output {
    Command::new(WEIR).arg("journal").args(arguments).arg("--state").arg(state).output().unwrap()
}

/// With sink `none` and a small journal the oldest records go all the time. Killed at any moment, no seq is missing that no gap
/// record names.
#[test]
fn nothing_is_freed_before_a_gap_record_names_it() {
    let origin = Origin::http();
    let mut config = Config::http(origin.address);
    config.journal =
        "segment_bytes = 65536\njournal_bytes_max = 262144\nslots_max = 1024\nsync_interval_ms = 5\n".to_owned();
    let house = House::new(&config);
    let mut dice = Dice::new(7);
    let mut gaps = 0;
    for _ in 0..8 {
        let process = house.run(&[]);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (stop, to) = (&stop, process.address("web"));
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let mut client = Client::connect(to);
                    (0..30).for_each(|_| drop(client.get("/bytes/10")));
                    client.close();
                }
            });
            std::thread::sleep(std::time::Duration::from_millis(900 + dice.below(900) as u64));
            stop.store(true, Ordering::Relaxed);
        });
        process.kill();
        gaps += assert_no_hole_without_a_gap(&house.records());
    }
    assert!(gaps > 0, "nothing was given up");
}

/// How many gap records there are.
fn assert_no_hole_without_a_gap(records: &Records) -> usize {
    let mut there: BTreeMap<(i64, i64), BTreeSet<i64>> = BTreeMap::new();
    let mut named: Vec<((i64, i64), i64, i64)> = Vec::new();
    for record in &records.0 {
        there.entry((record.number("epoch"), record.number("shard"))).or_default().insert(record.number("seq"));
        if record.number("gap_next_seq") > 0 {
            let shard = (record.number("gap_epoch"), record.number("gap_shard"));
            named.push((shard, record.number("gap_first_seq"), record.number("gap_next_seq")));
        }
    }
    for (shard, seqs) in &there {
        for seq in (0..*seqs.last().unwrap()).filter(|seq| !seqs.contains(seq)) {
            let is_named = |(of, first, next): &((i64, i64), i64, i64)| of == shard && (*first..*next).contains(&seq);
            assert!(named.iter().any(is_named), "seq {seq} of {shard:?} is gone and no gap record says so: {named:?}");
        }
    }
    named.len()
}

#[test]
fn a_dead_nodes_disk_gives_its_records_back() {
    let origin = Origin::http();
    let house = House::new(&Config::http(origin.address));
    let process = house.run(&[]);
    let mut done = Client::connect(process.address("web"));
    done.get("/bytes/500");
    done.close();
    // Open when the node dies.
    let mut open = Client::connect(process.address("web"));
    open.get("/bytes/700");
    process.kill();
    let status = journal(&["status", "--json"], &house.state());
    let line: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!((&line["epoch"], &line["live"], &line["node"]), (&1.into(), &false.into(), &"test".into()));
    assert!(line["waiting_records"].as_u64().unwrap() >= 3, "{line}");
    assert!(journal(&["verify"], &house.state()).status.success());
    let before = house.records().0.len();
    let file = house.directory.path().join("usage.jsonl");
    let batches = house.directory.path().join("usage.binpb");
    for (to, form) in [(&file, "json"), (&batches, "protobuf")] {
        let export = journal(&["export", "--to", to.to_str().unwrap(), "--form", form], &house.state());
        assert!(export.status.success(), "{export:?}");
        assert!(!to.with_extension("jsonl.closing").exists());
    }
    let exported = Records::of_file(&file);
    exported.assert_lawful();
    let ends: Vec<&str> = exported.sessions().iter().map(|session| session.text("end")).collect();
    assert_eq!(ends, ["done", "recovered"]);
    let as_batches: Vec<_> = Records::of_file(&batches).0.into_iter().map(|record| record.0).collect();
    assert_eq!(as_batches, exported.0.iter().map(|record| record.0.clone()).collect::<Vec<_>>());
    // Nothing of the node's own disk was touched.
    assert_eq!(house.records().0.len(), before);
    assert!(!journal(&["export", "--to", file.to_str().unwrap()], &house.state()).status.success(), "it overwrites");
    // A bit of a record flips: it is named, and the command fails.
    let segment = house.state().join("epoch-0000000001/shard-00/seg-00000000000000000000");
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[4096 + 40] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let verify = journal(&["verify"], &house.state());
    assert_eq!(verify.status.code(), Some(1));
    let said = String::from_utf8(verify.stdout).unwrap();
    assert!(said.contains("epoch 1 shard 0: seq 0 to 0 lost: frame checksum"), "{said}");
}
