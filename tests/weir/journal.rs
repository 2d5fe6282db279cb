//! The journal as an operator sees it: what is given up is stated first, and a dead node's disk gives its records back.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::kafka::asked;
use crate::rig::Dice;
use crate::rig::client::Client;
use crate::rig::origin::Origin;
use crate::rig::process::{Config, House, WEIR};
use crate::rig::records::{Record, Records};

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
    assert_eq!((&line["epoch"], &line["live"], &line["node"]), (&house.epoch().into(), &false.into(), &"test".into()));
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
    let epoch = house.epoch();
    let segment = house.state().join(format!("epoch-{epoch:010}/shard-00/seg-00000000000000000000"));
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[4096 + 40] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let verify = journal(&["verify"], &house.state());
    assert_eq!(verify.status.code(), Some(1));
    let said = String::from_utf8(verify.stdout).unwrap();
    assert!(said.contains(&format!("epoch {epoch} shard 0: seq 0 to 0 lost: frame checksum")), "{said}");
}

/// Bytes that a directory takes of its disk.
fn disk_bytes(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let below = entries.map(|path| if path.is_dir() { disk_bytes(&path) } else { disk_blocks(&path) });
    disk_blocks(directory) + below.sum::<u64>()
}

fn disk_blocks(path: &Path) -> u64 {
    path.metadata().unwrap().blocks() * 512
}

/// With the sink down nothing is shipped and nothing freed; what a start leaves is what it measured.
#[test]
fn a_crash_loop_with_the_sink_down_fills_no_disk() {
    const STARTS: u64 = 12;
    let origin = Origin::http();
    let mut config = Config::http(origin.address);
    config.journal = "segment_bytes = 1048576\njournal_bytes_max = 2097152\nslots_max = 4096\n".to_owned();
    config.sink = "kind = \"kafka\"\nbootstrap_servers = \"127.0.0.1:1\"\ntopic = \"none\"\n".to_owned();
    let house = House::new(&config);
    let start = |requests: usize| {
        let process = house.run(&[]);
        let mut client = (requests > 0).then(|| Client::connect(process.address("web")));
        if let Some(client) = &mut client {
            (0..requests).for_each(|_| drop(client.get("/bytes/10")));
        }
        process.kill();
        drop(client);
        disk_bytes(&house.state())
    };
    // A page of header, a page of records, the cursor, two directories and a lock.
    const START_BYTES: u64 = 6 * 4096;
    let idle = start(0);
    let idle_again = (0..STARTS).fold(idle, |_, _| start(0));
    let left = idle_again.saturating_sub(idle);
    assert!(left <= STARTS * START_BYTES, "{left} bytes of {STARTS} starts that measured nothing");
    let first = start(1);
    let last = (0..STARTS).fold(first, |_, _| start(1));
    assert!(last - first <= STARTS * START_BYTES, "from {first} to {last} bytes in {STARTS} starts");
    let records = Records::read(&house.state());
    records.assert_gapless();
    let ends: Vec<&str> = records.sessions().iter().map(|session| session.text("end")).collect();
    // The last is open still.
    assert_eq!(ends, ["recovered"; STARTS as usize]);
}

/// One way to damage a file.
fn damage(files: &[PathBuf], dice: &mut Dice) -> String {
    let file = &files[dice.below(files.len())];
    let open = std::fs::OpenOptions::new().read(true).write(true).open(file).unwrap();
    let length = open.metadata().unwrap().len() as usize;
    let at = dice.below(length.min(40_000));
    let what = match dice.below(5) {
        0 => {
            let mut octet = [0];
            open.read_exact_at(&mut octet, at as u64).unwrap();
            open.write_all_at(&[octet[0] ^ 1 << dice.below(8)], at as u64).unwrap();
            "bit flipped"
        }
        1 => {
            open.set_len(at as u64).unwrap();
            "cut off"
        }
        2 => {
            open.write_all_at(&vec![0; dice.below(9000).min(length - at)], at as u64).unwrap();
            "zeros"
        }
        3 => {
            open.write_all_at(&vec![0x5A; dice.below(600).min(length - at)], at as u64).unwrap();
            "torn"
        }
        _ => {
            let other = &files[dice.below(files.len())];
            let aside = file.with_extension("swap");
            std::fs::rename(file, &aside).unwrap();
            if other != file {
                std::fs::rename(other, file).unwrap();
            }
            std::fs::rename(aside, other).unwrap();
            "swapped"
        }
    };
    format!("{what} at {at} of {}", file.display())
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &to);
        } else if path.is_file() {
            std::fs::copy(path, to).unwrap();
        }
    }
}

/// Every one starts; every record is read as it was written, or its seq is named. Full form: `WEIR_DAMAGED=500`.
#[test]
fn damaged_journals_start_and_name_what_is_lost() {
    let origin = Origin::http();
    let mut config = Config::http(origin.address);
    config.journal = "segment_bytes = 65536\nslots_max = 1024\nsync_interval_ms = 5\n".to_owned();
    let house = House::new(&config);
    let process = house.run(&[]);
    let mut open = Client::connect(process.address("web"));
    open.get("/bytes/9");
    for _ in 0..60 {
        let mut client = Client::connect(process.address("web"));
        (0..10).for_each(|_| drop(client.get("/bytes/10")));
        client.close();
    }
    process.kill();
    let kept = house.directory.path().join("kept");
    copy(&house.state(), &kept);
    let shard = house.state().join(format!("epoch-{:010}/shard-00", house.epoch()));
    let written = house.records();
    assert!(std::fs::read_dir(&shard).unwrap().count() >= 5, "several segments");
    let mut dice = Dice::new(0xBAD);
    let (mut lost, journals) = (0, asked("WEIR_DAMAGED", 25));
    for journal in 0..journals {
        std::fs::remove_dir_all(house.state()).unwrap();
        copy(&kept, &house.state());
        let mut files: Vec<_> = std::fs::read_dir(&shard).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.retain(|file| !file.ends_with("spare"));
        files.sort();
        let done: Vec<String> = (0..1 + dice.below(3)).map(|_| damage(&files, &mut dice)).collect();
        let process = house.run(&[]);
        process.kill();
        let output = Command::new(WEIR).args(["events", "--json", "--state"]).arg(house.state()).output().unwrap();
        assert!(output.status.success(), "{journal} {done:?}: {output:?}");
        let lines = output.stdout.split(|octet| *octet == b'\n').filter(|line| !line.is_empty());
        let records = lines.map(|line| Record(serde_json::from_slice(line).unwrap()));
        let read: BTreeMap<_, _> = records.map(|record| (record.place(), record)).collect();
        let named = named_ranges(&String::from_utf8(output.stderr).unwrap());
        for record in &written.0 {
            match read.get(&record.place()) {
                Some(found) => assert_eq!(found.0, record.0, "{journal} {done:?}"),
                None => {
                    let seq = record.number("seq");
                    let is_named = named.iter().any(|(first, next)| (*first..*next).contains(&seq));
                    assert!(is_named, "{journal} {done:?}: seq {seq} is gone, named are {named:?}");
                    lost += 1;
                }
            }
        }
    }
    eprintln!(
        "{journals} damaged journals, all start; of {} records each, {lost} in all lost, each named",
        written.0.len()
    );
    assert!(lost > 0, "nothing was damaged");
}

/// First and next seq of each range that `weir events` names.
fn named_ranges(text: &str) -> Vec<(i64, i64)> {
    let number = |line: &str, name: &str| line.split(name).nth(1)?.split([',', ' ']).next()?.parse().ok();
    let range = |line: &str| Some((number(line, "first_seq: ")?, number(line, "next_seq: ")?));
    text.lines().filter(|line| line.contains("is damaged and lost")).filter_map(range).collect()
}
