//! Power cuts: a model of a disk that keeps what was synced and, of all else, whatever it likes.
//!
//! The journal runs on real files; after each sync the model remembers every file as it was then. At a cut each 512-byte sector of a
//! file is either as it was synced or as it was last written, at random, and the directory is as it was synced or as it is. What
//! was said to be durable must be there.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use super::model_tests::options;
use super::*;
use crate::units::Column;

const CUTS: usize = 200;
const SECTOR: usize = 512;

struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }
}

/// The disk's memory: contents by inode, names by the last sync of the directory.
#[derive(Default)]
struct Disk {
    contents: HashMap<u64, Vec<u8>>,
    names: HashMap<String, u64>,
}

fn files(directory: &Path) -> Vec<(String, u64, Vec<u8>)> {
    let entries = std::fs::read_dir(directory).unwrap().map(Result::unwrap);
    let files = entries.map(|entry| {
        let (name, inode) = (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().ino());
        (name, inode, std::fs::read(entry.path()).unwrap())
    });
    files.collect()
}

impl Disk {
    /// Files whose name begins so, and the directory, are durable as they are.
    fn synced(&mut self, directory: &Path, prefixes: &[&str]) {
        self.names.clear();
        for (name, inode, bytes) in files(directory) {
            if prefixes.iter().any(|prefix| name.starts_with(prefix)) {
                self.contents.insert(inode, bytes);
            }
            self.names.insert(name, inode);
        }
    }

    /// What a power cut leaves of `directory`, in `to`.
    fn cut(&self, directory: &Path, to: &Path, dice: &mut Dice) {
        std::fs::create_dir_all(to).unwrap();
        let now = files(directory);
        let written: HashMap<u64, &Vec<u8>> = now.iter().map(|(_, inode, bytes)| (*inode, bytes)).collect();
        let names: Vec<(String, u64)> = if dice.below(2) == 0 {
            self.names.iter().map(|(name, inode)| (name.clone(), *inode)).collect()
        } else {
            now.iter().map(|(name, inode, _)| (name.clone(), *inode)).collect()
        };
        for (name, inode) in names {
            let durable = self.contents.get(&inode);
            let Some(last) = written.get(&inode).copied().or(durable) else { continue };
            let mut bytes = last.clone();
            // One disk writes nearly everything back before the cut, another nearly nothing.
            let share = dice.below(101);
            for (at, sector) in bytes.chunks_mut(SECTOR).enumerate() {
                if dice.below(100) < share {
                    continue;
                }
                match durable.and_then(|durable| durable.get(at * SECTOR..at * SECTOR + sector.len())) {
                    Some(old) => sector.copy_from_slice(old),
                    None => sector.fill(0),
                }
            }
            std::fs::write(to.join(name), bytes).unwrap();
        }
    }
}

fn payload(seq: u64) -> Vec<u8> {
    let mut payload = seq.to_le_bytes().to_vec();
    payload.resize(100 + (seq * 37 % 700) as usize, seq as u8);
    payload
}

#[test]
fn what_was_durable_survives_two_hundred_power_cuts() {
    let mut dice = Dice(0x9E37_79B9_7F4A_7C15);
    let mut cuts = 0;
    let (mut torn, mut resumed) = (0, 0);
    while cuts < CUTS {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(&directory.path().join("live")).unwrap();
        let epoch = state.claim_epoch().unwrap();
        let budget = Arc::new(Budget::new(1 << 30));
        let mut writer = Writer::create(&epoch, 0, "node", &options(), budget).unwrap();
        let shared = writer.shared();
        let shard = shared.directory().to_owned();
        let mut disk = Disk::default();
        let mut cursor = Cursor::open(&shard).unwrap();
        shared.sync_slots().unwrap();
        shared.sync().unwrap();
        disk.synced(&shard, &["seg-", "slots-", "cursor"]);
        let (mut durable_seq, mut freed) = (0, 0);
        let slot = writer.slots().open(SlotKind::Session, 1, b"open").unwrap();
        for step in 0..120u64 {
            match dice.below(20) {
                0..=1 => {
                    shared.sync().unwrap();
                    durable_seq = shared.synced_seq();
                    disk.synced(&shard, &["seg-"]);
                }
                2 => {
                    shared.prepare().unwrap();
                }
                3 => {
                    let seq = shared.synced_seq();
                    cursor.advance(seq).unwrap();
                    // It syncs slots and segments before it frees.
                    shared.release_through(&cursor).unwrap();
                    freed = seq;
                    durable_seq = shared.synced_seq();
                    disk.synced(&shard, &["seg-", "slots-", "cursor", "spare"]);
                }
                _ => {
                    slot.add(Column::SentApp, step);
                    let seq = writer.next_seq();
                    slot.begin_record(seq, &slot.totals(), false);
                    assert_eq!(writer.append(&payload(seq)).unwrap(), seq);
                }
            }
            if dice.below(12) == 0 && cuts < CUTS {
                cuts += 1;
                let copy = directory.path().join("cut");
                let epoch_copy = copy.join("epoch-0000000001");
                disk.cut(&shard, &epoch_copy.join("shard-00"), &mut dice);
                std::fs::write(epoch_copy.join("lock"), "pid 1\nboot another\n").unwrap();
                std::fs::write(copy.join("epoch"), std::fs::read(state.path().join("epoch")).unwrap()).unwrap();
                let (torn_here, next_seq) = check(&copy, durable_seq, freed);
                torn += u64::from(torn_here > 0);
                resumed += u64::from(next_seq > durable_seq);
                std::fs::remove_dir_all(&copy).unwrap();
            }
        }
        slot.free();
    }
    // The disk was as bad as it was meant to be, and sometimes better.
    assert!(torn > 10 && resumed > 10, "{torn} {resumed}");
}

/// Recovers, twice, and reads everything. Torn bytes, and the seq that goes on.
fn check(path: &Path, durable_seq: u64, freed: u64) -> (u64, u64) {
    let state = StateDir::open(path).unwrap();
    let mut found = (0, 0);
    for round in 0..2 {
        let epoch = state.first_abandoned();
        let budget = Arc::new(Budget::new(1 << 30));
        let (writer, recovery) = Writer::reopen(&epoch, 0, "node", &options(), budget).unwrap();
        let next_seq = writer.next_seq();
        if round == 0 {
            found = (recovery.torn_bytes, next_seq);
        }
        assert!(next_seq >= durable_seq, "{next_seq} would be used again, {durable_seq} was shipped");
        let lost: Vec<_> = recovery.damaged.iter().filter(|range| range.first_seq < range.next_seq).collect();
        let is_told = |range: &&DamagedRange| range.next_seq <= freed || range.first_seq >= durable_seq;
        assert!(lost.iter().all(is_told), "round {round}, {durable_seq} durable, {freed} freed: {lost:?}");
        let shard = epoch.shard_path(0);
        assert!(Cursor::peek(&shard).unwrap() >= freed);
        let mut reader = Reader::open(&shard, freed).unwrap();
        let mut want = freed;
        while let Some(entry) = reader.next().unwrap() {
            match entry {
                Entry::Frame(frame) => {
                    assert!(frame.seq == want || want >= durable_seq, "{want} is missing, {durable_seq} was durable");
                    assert_eq!(frame.payload, payload(frame.seq));
                    want = frame.seq + 1;
                }
                Entry::Damaged(range) => assert!(range.first_seq >= durable_seq, "{durable_seq}, {freed}: {range:?}"),
            }
        }
        assert!(want >= durable_seq, "{want} of {durable_seq}");
        drop(recovery);
    }
    found
}
