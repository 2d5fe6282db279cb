//! Power cuts and kills while slots are opened, recorded, summed up and freed: each byte that was durable is found, and none twice.
//!
//! Every request counts a number of its own: one binary digit, with an empty one beside it, in one of nine columns. So the sum of all that
//! recovery finds (records, sums, open slots) says of each request how often it is in there.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use super::model_tests::{copy_tree, options};
use super::power_disk::{Dice, Disk};
use super::power_tests::cut;
use super::*;
use crate::units::{COLUMNS, Column, Counters};

const RUNS: u64 = 15;
const REQUESTS_MAX: usize = COLUMNS * 31;

fn counted_by(request: usize) -> Counters {
    let mut counters = [0; COLUMNS];
    counters[request % COLUMNS] = 1 << (request / COLUMNS * 2);
    Counters::from_array(counters)
}

fn times(request: usize, total: &Counters) -> u64 {
    total.to_array()[request % COLUMNS] >> (request / COLUMNS * 2) & 3
}

/// A record: of a session, its number; of requests or a sum, none. And what is counted: cumulative, or all.
fn payload(session: Option<u64>, counters: &Counters) -> Vec<u8> {
    let words = [session.map_or(0, |session| session + 1)].into_iter().chain(counters.to_array());
    words.flat_map(u64::to_le_bytes).chain([7; 60]).collect()
}

fn parse(payload: &[u8]) -> (Option<u64>, Counters) {
    let word = |at: usize| u64::from_le_bytes(payload[at * 8..at * 8 + 8].try_into().unwrap());
    (word(0).checked_sub(1), Counters::from_array(std::array::from_fn(|at| word(at + 1))))
}

/// What there is, or is promised to be: requests, and what each session has sent.
#[derive(Clone, Default)]
struct Counted {
    requests: HashSet<usize>,
    sessions: HashMap<u64, u64>,
}

struct Live {
    writer: Writer,
    state: StateDir,
    shard: std::path::PathBuf,
    disk: Disk,
    cursor: Cursor,
    freed: u64,
    /// Payloads by seq: what the sink has of those that were freed.
    payloads: Vec<Vec<u8>>,
    requests: Vec<(usize, Slot)>,
    sessions: Vec<(u64, Slot)>,
    /// Sums that take, and those that wait for their record.
    sums: Vec<Sum>,
    leaving: Vec<Sum>,
    stored: Stored,
    counted: Counted,
    /// What had been counted at the last sync of the slots: promised once the segments are synced.
    seen: Counted,
    promised: Counted,
}

impl Live {
    fn new(path: &Path) -> Self {
        let state = StateDir::open(path).unwrap();
        let epoch = state.claim_epoch().unwrap();
        let writer = Writer::create(&epoch, 0, "node", &options(), Arc::new(Budget::new(1 << 30))).unwrap();
        let shard = writer.shared().directory().to_owned();
        let mut live = Self {
            cursor: Cursor::open(&shard).unwrap(),
            stored: writer.slots().stored(),
            writer,
            state,
            shard,
            disk: Disk::default(),
            freed: 0,
            payloads: Vec::new(),
            requests: Vec::new(),
            sessions: Vec::new(),
            sums: Vec::new(),
            leaving: Vec::new(),
            counted: Counted::default(),
            seen: Counted::default(),
            promised: Counted::default(),
        };
        live.sync_slots();
        live.sync();
        live.disk.synced(&live.shard, &["seg-", "slots-", "cursor"]);
        live
    }

    fn sync_slots(&mut self) {
        self.writer.shared().sync_slots().unwrap();
        self.disk.synced(&self.shard, &["slots-"]);
        self.seen = self.counted.clone();
    }

    fn sync(&mut self) {
        self.writer.shared().sync().unwrap();
        self.disk.synced(&self.shard, &["seg-"]);
        self.promised = self.seen.clone();
    }

    fn ship(&mut self) {
        let shared = self.writer.shared();
        self.freed = shared.synced_seq();
        self.cursor.advance(self.freed).unwrap();
        if shared.release_through(&self.cursor).unwrap() != Released::default() {
            // It syncs slots and segments before it frees.
            self.seen = self.counted.clone();
            self.promised = self.counted.clone();
            self.disk.synced(&self.shard, &["seg-", "slots-", "cursor", "spare"]);
        } else {
            self.disk.synced(&self.shard, &["cursor"]);
        }
    }

    fn record(&mut self, slot: &Slot, session: Option<u64>, totals: &Counters, closing: bool) {
        slot.begin_record(self.writer.next_seq(), totals, closing);
        self.payloads.push(payload(session, totals));
        self.writer.append(self.payloads.last().unwrap()).unwrap();
    }

    fn open_request(&mut self) {
        let request = self.counted.requests.len();
        if request == REQUESTS_MAX || self.requests.len() > 20 {
            return;
        }
        let slot = self.writer.slots().open(SlotKind::Request, 1, b"request").unwrap();
        for column in Column::ALL {
            slot.add(column, counted_by(request).get(column));
        }
        self.counted.requests.insert(request);
        self.requests.push((request, slot));
    }

    fn close_request(&mut self, folds: bool, dice: &mut Dice) {
        if self.requests.is_empty() {
            return;
        }
        let (request, slot) = self.requests.swap_remove(dice.below(self.requests.len() as u64) as usize);
        if !folds {
            self.record(&slot, None, &counted_by(request), true);
            return slot.free();
        }
        if self.sums.len() < 2 {
            self.sums.push(Sum::new(self.writer.slots().open(SlotKind::Fold, 1, b"sum").unwrap()));
        }
        let sum = dice.below(self.sums.len() as u64) as usize;
        self.sums[sum].take(slot, counted_by(request));
    }

    fn step_sums(&mut self) {
        if !self.writer.slots().is_synced(self.stored) {
            return;
        }
        self.sums.iter_mut().chain(&mut self.leaving).for_each(Sum::step);
        self.stored = self.writer.slots().stored();
    }

    fn record_sums(&mut self) {
        for sum in self.leaving.extract_if(.., |sum| sum.is_settled()).collect::<Vec<_>>() {
            self.record(sum.slot(), None, &sum.taken().1, true);
            sum.free();
        }
    }

    fn session(&mut self, dice: &mut Dice) {
        let at = dice.below(4) as usize;
        let Some((session, slot)) = self.sessions.get(at) else {
            let session = self.counted.sessions.len() as u64;
            let slot = self.writer.slots().open(SlotKind::Session, 1000 + session, b"session").unwrap();
            self.counted.sessions.insert(session, 0);
            return self.sessions.push((session, slot));
        };
        let (session, n) = (*session, 1 + dice.below(1000));
        slot.add(Column::SentApp, n);
        *self.counted.sessions.get_mut(&session).unwrap() += n;
        if dice.below(3) > 0 {
            let (_, slot) = self.sessions.swap_remove(at);
            let closing = dice.below(6) == 0;
            self.record(&slot, Some(session), &slot.totals(), closing);
            if closing {
                return slot.free();
            }
            self.sessions.push((session, slot));
        }
    }

    fn step(&mut self, dice: &mut Dice) {
        match dice.below(32) {
            0..=5 => self.open_request(),
            6..=9 => self.close_request(true, dice),
            10 => self.close_request(false, dice),
            11..=17 => self.session(dice),
            18..=20 => self.sync_slots(),
            21..=23 => self.sync(),
            24..=25 => {
                self.step_sums();
                if dice.below(2) == 0 {
                    self.record_sums();
                    self.sync();
                }
            }
            26 => self.leaving.append(&mut self.sums),
            27 => self.record_sums(),
            28 => self.ship(),
            29 => self.writer.shared().prepare().unwrap(),
            _ => self.disk.writes_back(&self.shard, dice),
        }
    }

    /// Recovers what is at `path`, twice; what must be there is, and nothing is twice. How many requests were lost.
    fn check(&self, path: &Path, promised: &Counted) -> usize {
        let state = StateDir::open(path).unwrap();
        let epoch = state.first_abandoned();
        for _ in 0..2 {
            let budget = Arc::new(Budget::new(1 << 30));
            let (writer, recovery) = Writer::reopen(&epoch, 0, "node", &options(), budget).unwrap();
            assert!(recovery.damaged.iter().all(|range| range.first_seq == range.next_seq), "{:?}", recovery.damaged);
            let (mut requests, mut stated) = (Counters::default(), HashMap::new());
            let mut reader = Reader::open(&epoch.shard_path(0), self.freed).unwrap();
            let mut payloads = self.payloads[..self.freed as usize].to_vec();
            while let Some(entry) = reader.next().unwrap() {
                let Entry::Frame(frame) = entry else { panic!("{entry:?}") };
                if frame.seq >= self.freed {
                    payloads.push(frame.payload);
                }
            }
            assert_eq!(payloads.len() as u64, writer.next_seq());
            for payload in &payloads {
                match parse(payload) {
                    (Some(session), counters) => {
                        let before = stated.insert(session, counters.sent_app);
                        assert!(before <= Some(counters.sent_app));
                    }
                    (None, counters) => requests = requests.checked_add(&counters).unwrap(),
                }
            }
            for open in &recovery.open {
                if open.kind != SlotKind::Session {
                    requests = requests.checked_add(&open.totals).unwrap();
                    continue;
                }
                let session = open.started_at_us - 1000;
                let later = open.later_record.as_ref().map(|frame| parse(&frame.payload).1.sent_app);
                let recorded = later.unwrap_or(open.recorded.sent_app);
                assert_eq!(recorded, stated.get(&session).copied().unwrap_or(0), "of session {session}");
                stated.insert(session, recorded.max(open.totals.sent_app));
            }
            for request in 0..self.counted.requests.len() {
                let times = times(request, &requests);
                assert!(times <= 1, "request {request} is there {times} times");
                assert!(times == 1 || !promised.requests.contains(&request), "request {request} is lost");
            }
            for (session, sent) in &self.counted.sessions {
                let found = stated.get(session).copied().unwrap_or(0);
                let promised = promised.sessions.get(session).copied().unwrap_or(0);
                assert!((promised..=*sent).contains(&found), "session {session}: {found} of {promised} to {sent}");
            }
            drop(recovery);
            if std::fs::exists(path.join("second")).unwrap() {
                let all = (0..self.counted.requests.len()).filter(|request| times(*request, &requests) == 0);
                return all.count();
            }
            std::fs::write(path.join("second"), "").unwrap();
        }
        0
    }
}

#[test]
fn sums_survive_power_cuts_and_kills_at_every_step() {
    let mut dice = Dice(0x2545_F491_4F6C_DD1D);
    let (mut lost, mut cuts) = (0, 0);
    // How many cuts came when a sum was at each of its steps.
    let mut at_step = [0; 5];
    for run in 0..RUNS {
        let directory = tempfile::tempdir().unwrap();
        let mut live = Live::new(&directory.path().join("live"));
        for step in 0..250 {
            live.step(&mut dice);
            if dice.below(20) > 0 {
                continue;
            }
            let sums = || live.sums.iter().chain(&live.leaving);
            for (count, is_there) in at_step.iter_mut().zip(Sum::STEPS.map(|is_at| sums().any(is_at))) {
                *count += u32::from(is_there);
            }
            let copy = directory.path().join("copy");
            cut(&live.disk, &live.state, &live.shard, &copy, &mut dice);
            lost += live.check(&copy, &live.promised);
            std::fs::remove_dir_all(&copy).unwrap();
            copy_tree(live.state.path(), &copy);
            assert_eq!(live.check(&copy, &live.counted), 0, "run {run}, step {step}");
            std::fs::remove_dir_all(&copy).unwrap();
            cuts += 1;
        }
        live.requests.into_iter().for_each(|(_, slot)| slot.free());
        live.sessions.into_iter().for_each(|(_, slot)| slot.free());
    }
    // The disk was as bad as it was meant to be, and the cuts came everywhere.
    assert!(cuts > 100 && lost > 8 && at_step.iter().all(|count| *count > 8), "{cuts} {lost} {at_step:?}");
}
