//! Power cuts: what was said to be durable must be there, and nothing is counted twice (`power_disk.rs` is the disk).

use std::path::Path;
use std::sync::Arc;

use super::model_tests::options;
use super::power_disk::{Dice, Disk};
use super::*;
use crate::units::Column;

const CUTS: usize = 200;

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
                cut(&disk, &state, &shard, &copy, &mut dice);
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

/// What a power cut leaves of a state directory of one shard.
pub(super) fn cut(disk: &Disk, state: &StateDir, shard: &Path, to: &Path, dice: &mut Dice) {
    let epoch = to.join("epoch-0000000001");
    disk.cut(shard, &epoch.join("shard-00"), dice);
    std::fs::write(epoch.join("lock"), "pid 1\nboot another\n").unwrap();
    std::fs::write(to.join("epoch"), std::fs::read(state.path().join("epoch")).unwrap()).unwrap();
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
