//! The journal against a plain model: whatever is done, and wherever it is killed, the sums agree.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::units::{Column, Counters};

pub(super) fn options() -> Options {
    Options { segment_bytes: 8192, journal_bytes_max: 1 << 30, sync_interval: Duration::from_millis(10), slots_max: 64 }
}

/// What the tests append: session, cumulative sent_app, closing, filler.
fn payload(session: u64, total: u64, closing: bool, filler: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(17 + filler);
    bytes.extend_from_slice(&session.to_le_bytes());
    bytes.extend_from_slice(&total.to_le_bytes());
    bytes.push(closing.into());
    bytes.resize(17 + filler, 0x5A);
    bytes
}

pub(super) struct Parsed {
    pub(super) session: u64,
    pub(super) total: u64,
    pub(super) closing: bool,
}

pub(super) fn parse(payload: &[u8]) -> Parsed {
    Parsed {
        session: u64::from_le_bytes(payload[..8].try_into().unwrap()),
        total: u64::from_le_bytes(payload[8..16].try_into().unwrap()),
        closing: payload[16] == 1,
    }
}

/// Everything a shard's directory holds, in order; damage is a failure.
pub(super) fn read_all(directory: &Path, from_seq: u64) -> Vec<Frame> {
    let mut reader = Reader::open(directory, from_seq).unwrap();
    let mut frames = Vec::new();
    while let Some(entry) = reader.next().unwrap() {
        match entry {
            Entry::Frame(frame) => frames.push(frame),
            Entry::Damaged(damaged) => panic!("{damaged:?}"),
        }
    }
    frames
}

pub(super) fn record(
    writer: &mut Writer,
    slot: &Slot,
    session: u64,
    closing: bool,
    filler: usize,
) -> Result<u64, AppendError> {
    let totals = slot.totals();
    slot.begin_record(writer.next_seq(), &totals, closing);
    writer.append(&payload(session, totals.sent_app, closing, filler))
}

/// Writes the close of everything that was left open; how many there were.
pub(super) fn close_all(writer: &mut Writer, recovery: Recovery) -> usize {
    let count = recovery.open.len();
    for open in recovery.open {
        let session = u64::from_le_bytes(open.note.as_slice()[..8].try_into().unwrap());
        assert!(open.later_record.is_none());
        assert!(open.totals.checked_sub(&open.recorded).is_some());
        record(writer, &open.slot, session, true, 0).unwrap();
        open.slot.free();
    }
    count
}

/// Copies a state directory as a killed process would leave it.
pub(super) fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).unwrap();
        }
    }
}

/// Recovers what a kill left at `path` and holds it against what the model knows.
fn check_killed(path: &Path, model: &Model) {
    let state = StateDir::open(path).unwrap();
    for round in 0..3 {
        let epoch = state.first_abandoned();
        let budget = Arc::new(Budget::new(1 << 30));
        let (mut writer, mut recovery) = Writer::reopen(&epoch, 0, "node", &options(), budget).unwrap();
        assert!(recovery.damaged.is_empty(), "{:?}", recovery.damaged);
        assert!(recovery.quarantined.is_empty() && recovery.damaged_slots == 0);
        assert!(round > 0 || writer.next_seq() == model.next_seq);
        if round == 0 {
            // Killed itself, half-way, between an intent and its record.
            let mut half = recovery.open.split_off(recovery.open.len() / 2);
            close_all(&mut writer, recovery);
            if let Some(open) = half.pop() {
                let totals = open.totals;
                open.slot.begin_record(writer.next_seq(), &totals, half.len() % 2 == 0);
            }
            continue;
        }
        let closed = close_all(&mut writer, recovery);
        // The last time there was nothing left to do.
        assert!(round == 1 || closed == 0);
        let directory = epoch.shard_path(0);
        model.check(&read_all(&directory, model.freed), writer.next_seq());
    }
}

#[derive(Default, Clone)]
struct Model {
    next_seq: u64,
    /// Seqs below it may be gone.
    freed: u64,
    /// All bytes ever counted by session, and whether it was closed.
    sessions: BTreeMap<u64, (u64, bool)>,
}

impl Model {
    fn check(&self, frames: &[Frame], next_seq: u64) {
        for (seq, frame) in (self.freed..).zip(frames) {
            assert_eq!(frame.seq, seq);
        }
        assert_eq!(self.freed + frames.len() as u64, next_seq);
        let mut last: BTreeMap<u64, Parsed> = BTreeMap::new();
        for frame in frames {
            let parsed = parse(&frame.payload);
            if let Some(before) = last.get(&parsed.session) {
                assert!(!before.closing, "session {} closed twice", parsed.session);
                assert!(parsed.total >= before.total);
            }
            last.insert(parsed.session, parsed);
        }
        for (session, (total, closed)) in &self.sessions {
            match last.get(session) {
                Some(parsed) => assert_eq!((parsed.total, parsed.closing), (*total, true), "session {session}"),
                None => assert!(*closed && self.freed > 0, "session {session} is lost"),
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Open,
    Count(usize, u64),
    Note(usize, usize),
    Checkpoint(usize, usize),
    Close(usize),
    Sync,
    FailSync,
    Ship(u64),
    Prepare,
    Kill,
    KillInRecord(usize, bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Open),
        6 => (0..16usize, 0..1_000_000u64).prop_map(|(at, n)| Step::Count(at, n)),
        1 => (0..16usize, 8..480usize).prop_map(|(at, size)| Step::Note(at, size)),
        6 => (0..16usize, 0..900usize).prop_map(|(at, filler)| Step::Checkpoint(at, filler)),
        3 => (0..16usize).prop_map(Step::Close),
        1 => Just(Step::Sync),
        1 => Just(Step::FailSync),
        1 => (0..40u64).prop_map(Step::Ship),
        1 => Just(Step::Prepare),
        1 => Just(Step::Kill),
        1 => (0..16usize, any::<bool>()).prop_map(|(at, closing)| Step::KillInRecord(at, closing)),
    ]
}

fn run(steps: Vec<Step>) {
    let directory = tempfile::tempdir().unwrap();
    let state = StateDir::open(&directory.path().join("live")).unwrap();
    let epoch = state.claim_epoch().unwrap();
    let budget = Arc::new(Budget::new(1 << 30));
    let mut writer = Writer::create(&epoch, 0, "node", &options(), Arc::clone(&budget)).unwrap();
    let shared = writer.shared();
    let mut model = Model::default();
    let mut open: Vec<(u64, Slot)> = Vec::new();
    let mut kills = 0;
    let mut kill = |model: &Model| {
        kills += 1;
        let copy = directory.path().join(format!("killed-{kills}"));
        copy_tree(state.path(), &copy);
        check_killed(&copy, model);
        std::fs::remove_dir_all(&copy).unwrap();
    };
    for (number, step) in (0u64..).zip(steps) {
        let at = |index: usize| (!open.is_empty()).then(|| index % open.len().max(1));
        match step {
            Step::Open if open.len() < 16 => {
                let slot = writer.slots().open(SlotKind::Session, number, &number.to_le_bytes()).unwrap();
                model.sessions.insert(number, (0, false));
                open.push((number, slot));
            }
            Step::Open => {}
            Step::Count(index, n) => {
                let Some(at) = at(index) else { continue };
                open[at].1.add(Column::SentApp, n);
                model.sessions.get_mut(&open[at].0).unwrap().0 += n;
            }
            Step::Note(index, size) => {
                let Some(at) = at(index) else { continue };
                let mut note = open[at].0.to_le_bytes().to_vec();
                note.resize(size, 9);
                open[at].1.set_note(&note);
                assert_eq!(&*open[at].1.note(), note.as_slice());
            }
            Step::Checkpoint(index, filler) => {
                let Some(at) = at(index) else { continue };
                let seq = record(&mut writer, &open[at].1, open[at].0, false, filler).unwrap();
                assert_eq!(seq, model.next_seq);
                model.next_seq += 1;
                assert_eq!(open[at].1.recorded(), open[at].1.totals());
            }
            Step::Close(index) => {
                let Some(at) = at(index) else { continue };
                let (session, slot) = open.swap_remove(at);
                record(&mut writer, &slot, session, true, 0).unwrap();
                model.next_seq += 1;
                // Killed between the record and the freeing.
                kill(&model);
                slot.free();
                model.sessions.get_mut(&session).unwrap().1 = true;
            }
            Step::Sync => {
                shared.sync_slots().unwrap();
                if shared.sync().is_ok() {
                    assert_eq!(shared.synced_seq(), model.next_seq);
                }
            }
            Step::FailSync => {
                shared.fail_next_sync.store(true, Ordering::Relaxed);
                let failed = shared.sync().is_err();
                shared.fail_next_sync.store(false, Ordering::Relaxed);
                assert!(!failed || matches!(shared.health(), Health::Failed(_)));
            }
            Step::Ship(back) => {
                let seq = shared.synced_seq().saturating_sub(back);
                let mut cursor = Cursor::open(shared.directory()).unwrap();
                if seq < cursor.next_seq() {
                    continue;
                }
                cursor.advance(seq).unwrap();
                // A failed sync makes this an error; it is tried again later.
                let _released = shared.release_through(&cursor);
                model.freed = Reader::open(shared.directory(), 0).unwrap().next_seq();
                assert!(model.freed <= seq);
            }
            Step::Prepare => shared.prepare().unwrap(),
            Step::Kill => kill(&model),
            Step::KillInRecord(index, closing) => {
                let Some(at) = at(index) else { continue };
                let slot = &open[at].1;
                slot.begin_record(writer.next_seq(), &slot.totals(), closing);
                kill(&model);
                // The record does not come about: too large.
                let too_large = vec![0; PAYLOAD_BYTES_MAX];
                assert!(matches!(writer.append(&too_large), Err(AppendError::TooLarge { .. })));
                kill(&model);
            }
        }
    }
    kill(&model);
    let frames = read_all(shared.directory(), model.freed);
    assert_eq!(model.freed + frames.len() as u64, model.next_seq);
    for (_, slot) in open {
        slot.free();
    }
    drop((writer, shared));
    assert_eq!(budget.used(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_kill_anywhere_loses_and_doubles_nothing(steps in proptest::collection::vec(step(), 1..80)) {
        run(steps);
    }
}

#[test]
fn a_full_journal_says_so_and_works_again_once_there_is_room() {
    let directory = tempfile::tempdir().unwrap();
    let state = StateDir::open(directory.path()).unwrap();
    let epoch = state.claim_epoch().unwrap();
    let budget = Arc::new(Budget::new(3 * 8192));
    let mut writer = Writer::create(&epoch, 0, "node", &options(), budget).unwrap();
    let shared = writer.shared();
    let slot = writer.slots().open(SlotKind::Session, 1, &[0; 8]).unwrap();
    let mut recorded = Counters::default();
    let full = loop {
        slot.add(Column::SentApp, 1);
        match record(&mut writer, &slot, 0, false, 500) {
            Ok(_) => recorded = slot.totals(),
            Err(error) => break error,
        }
    };
    assert!(matches!(full, AppendError::Full));
    assert_eq!(shared.health(), Health::Full);
    assert_eq!(slot.recorded(), recorded, "the intent was taken back");
    let next_seq = writer.next_seq();
    shared.sync().unwrap();
    let mut cursor = Cursor::open(shared.directory()).unwrap();
    cursor.advance(shared.synced_seq()).unwrap();
    let released = shared.release_through(&cursor).unwrap();
    assert_eq!(released, Released { segments: 2, bytes: 8192 });
    assert_eq!(record(&mut writer, &slot, 0, true, 500).unwrap(), next_seq);
    assert_eq!(shared.health(), Health::Ok);
    slot.free();
    assert_eq!(read_all(shared.directory(), 0).last().unwrap().seq, next_seq);
}

#[test]
fn after_a_failed_sync_everything_in_doubt_is_written_again() {
    let directory = tempfile::tempdir().unwrap();
    let state = StateDir::open(directory.path()).unwrap();
    let epoch = state.claim_epoch().unwrap();
    let budget = Arc::new(Budget::new(1 << 30));
    let mut writer = Writer::create(&epoch, 0, "node", &options(), Arc::clone(&budget)).unwrap();
    let shared = writer.shared();
    let append = |writer: &mut Writer, seq: u64| {
        assert_eq!(writer.append(&payload(0, seq, false, 700)).unwrap(), seq);
    };
    (0..5).for_each(|seq| append(&mut writer, seq));
    shared.sync().unwrap();
    (5..30).for_each(|seq| append(&mut writer, seq));
    shared.fail_next_sync.store(true, Ordering::Relaxed);
    shared.sync().unwrap_err();
    assert!(matches!(shared.health(), Health::Failed(_)));
    shared.sync().unwrap_err();
    assert_eq!(shared.synced_seq(), 5);
    (30..33).for_each(|seq| append(&mut writer, seq));
    shared.sync().unwrap();
    assert_eq!((shared.synced_seq(), shared.health()), (33, Health::Ok));
    let frames = read_all(shared.directory(), 0);
    let totals: Vec<u64> = frames.iter().map(|frame| parse(&frame.payload).total).collect();
    assert_eq!(totals, (0..33).collect::<Vec<u64>>());
    // The old files go once what they held is shipped, and the budget with them.
    let mut cursor = Cursor::open(shared.directory()).unwrap();
    cursor.advance(33).unwrap();
    shared.release_through(&cursor).unwrap();
    assert!(budget.used() <= 2 * 8192, "{}", budget.used());
    (33..60).for_each(|seq| append(&mut writer, seq));
    assert_eq!(read_all(shared.directory(), 33).len(), 27);
}

#[test]
fn a_reader_follows_a_writer_through_rotation_and_recycling() {
    let directory = tempfile::tempdir().unwrap();
    let state = StateDir::open(directory.path()).unwrap();
    let epoch = state.claim_epoch().unwrap();
    let budget = Arc::new(Budget::new(1 << 30));
    let mut writer = Writer::create(&epoch, 3, "node", &options(), budget).unwrap();
    let shared = writer.shared();
    let keeper = Keeper::start(vec![Arc::clone(&shared)], Duration::from_millis(1)).unwrap();
    let reading = Arc::clone(&shared);
    let shipper = std::thread::spawn(move || {
        let mut reader = Reader::open(reading.directory(), 0).unwrap();
        let mut cursor = Cursor::open(reading.directory()).unwrap();
        let mut expected = 0;
        while expected < 20_000 {
            let Some(entry) = reader.next_below(reading.synced_seq()).unwrap() else {
                std::thread::yield_now();
                continue;
            };
            let Entry::Frame(frame) = entry else { panic!("{entry:?}") };
            assert_eq!((frame.seq, parse(&frame.payload).total), (expected, expected));
            expected += 1;
            if expected % 500 == 0 {
                cursor.advance(expected).unwrap();
                reading.release_through(&cursor).unwrap();
            }
        }
    });
    let mut outside = Reader::open(shared.directory(), 0).unwrap();
    for seq in 0..20_000u64 {
        writer.append(&payload(0, seq, false, (seq % 200) as usize)).unwrap();
        if seq % 100 == 0 {
            // Another process's reader may lag, and jump; what it gives out is never wrong.
            while let Some(entry) = outside.next().unwrap() {
                let Entry::Frame(frame) = entry else { panic!("{entry:?}") };
                assert_eq!(parse(&frame.payload).total, frame.seq);
            }
        }
    }
    shipper.join().unwrap();
    keeper.stop();
    let listing = &list(state.path()).unwrap()[0];
    assert!(listing.live);
    let shard = &listing.shards[0];
    assert_eq!((shard.shard, shard.next_seq, shard.cursor_seq), (3, 20_000, 20_000));
    assert_eq!(shard.node, "node");
}

#[test]
fn a_reader_that_lags_behind_the_shipper_goes_on_at_what_is_left() {
    let directory = tempfile::tempdir().unwrap();
    let state = StateDir::open(directory.path()).unwrap();
    let epoch = state.claim_epoch().unwrap();
    let budget = Arc::new(Budget::new(1 << 30));
    let mut writer = Writer::create(&epoch, 0, "node", &options(), budget).unwrap();
    let shared = writer.shared();
    let append = |writer: &mut Writer, seqs: std::ops::Range<u64>| {
        for seq in seqs {
            writer.append(&payload(0, seq, false, 300)).unwrap();
        }
    };
    append(&mut writer, 0..100);
    let mut reader = Reader::open(shared.directory(), 0).unwrap();
    for _ in 0..3 {
        assert!(matches!(reader.next().unwrap(), Some(Entry::Frame(_))));
    }
    shared.sync().unwrap();
    let mut cursor = Cursor::open(shared.directory()).unwrap();
    cursor.advance(100).unwrap();
    shared.release_through(&cursor).unwrap();
    // Through the recycled file too.
    append(&mut writer, 100..200);
    let mut last = 2;
    while let Some(entry) = reader.next().unwrap() {
        let Entry::Frame(frame) = entry else { panic!("{entry:?}") };
        assert!(frame.seq > last);
        assert_eq!(parse(&frame.payload).total, frame.seq);
        last = frame.seq;
    }
    assert_eq!(last, 199);
}
