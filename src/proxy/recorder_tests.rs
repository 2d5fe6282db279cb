//! Hours, steps of the wall clock, folding, gaps: what the records add up to, also after a kill at that moment.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use prost::Message;

use super::super::recovery::close_estate;
use super::*;
use crate::event::{Addresses, SessionNote, UsageRecord};
use crate::journal::{Budget, Cursor, Entry, EpochDir, Options, Reader, StateDir};
use crate::metrics::metrics;

struct Rig {
    directory: tempfile::TempDir,
    state: StateDir,
    _epoch: EpochDir,
    shared: Arc<Shared>,
    recorder: Recorder,
    note: Vec<u8>,
}

fn options() -> Options {
    Options {
        segment_bytes: 8192,
        journal_bytes_max: 1 << 20,
        sync_interval: Duration::from_millis(10),
        slots_max: 4096,
    }
}

/// A recorder whose clock stands at this time.
fn rig(at_us: i64, segments: u64) -> Rig {
    let directory = tempfile::tempdir().unwrap();
    let state = StateDir::open(&directory.path().join("live")).unwrap();
    let epoch = state.claim_epoch().unwrap();
    let writer = Writer::create(&epoch, 0, "n", &options(), Arc::new(Budget::new(segments * 8192))).unwrap();
    let shared = writer.shared();
    let recorder = Recorder::new(writer, Clock::stopped(at_us), IdSource::new("n", 1, 0), metrics())
        .fold_at(FoldMarks { above_percent: 60, below_percent: 30 });
    let mut note = Vec::new();
    SessionNote {
        session_id: recorder.next_id(at_us),
        account: "acme",
        endpoint: "web",
        attribution: "listener",
        listener: "web",
        protocol: "h1",
        tls_version: "",
        sni: "",
        tls_subject: "",
        addresses: Addresses::full("192.0.2.1".parse().unwrap(), 4711, "192.0.2.1".parse().unwrap()),
    }
    .encode(&mut note);
    Rig { directory, state, _epoch: epoch, shared, recorder, note }
}

impl Rig {
    fn set_time(&mut self, at_us: i64) {
        self.recorder.clock = Clock::stopped(at_us);
    }

    fn request(&self, bytes: u64, reason: Reason) {
        let (_, measured) = self.recorder.measure_request(&self.note, 1).unwrap();
        measured.add(Column::SentApp, bytes);
        measured.add(Column::ReceivedApp, 10);
        self.recorder
            .close(measured, Facts { verdict: Verdict { status: 200, end: End::Done, reason }, ..Facts::default() });
    }

    fn session(&self, bytes: u64) -> Measured {
        let now_us = self.recorder.now_us();
        let measured = self.recorder.measure_session(now_us, &self.note).unwrap();
        measured.add(Column::SentWire, bytes);
        measured
    }

    /// What a successor states after a kill at this moment, together with what was there.
    fn killed(&self) -> Vec<UsageRecord> {
        let copy = self.directory.path().join("killed");
        copy_tree(self.state.path(), &copy);
        let state = StateDir::open(&copy).unwrap();
        let epoch = state.abandoned().unwrap().pop().unwrap();
        let budget = Arc::new(Budget::new(1 << 30));
        let (writer, recovery) = Writer::reopen(&epoch, 0, "node", &options(), budget).unwrap();
        close_estate(writer, recovery, metrics());
        let records = read(&epoch.shard_path(0));
        std::fs::remove_dir_all(&copy).unwrap();
        records
    }

    /// As long as sums take, with a sync between beats.
    fn beats(&self) {
        for _ in 0..5 {
            self.shared.sync_slots().unwrap();
            self.recorder.beat(0);
        }
    }

    fn records(&self) -> Vec<UsageRecord> {
        read(self.shared.directory())
    }

    /// As a sink that has taken everything.
    fn ship(&self) {
        self.shared.sync().unwrap();
        let mut cursor = Cursor::open(self.shared.directory()).unwrap();
        cursor.advance(self.shared.synced_seq()).unwrap();
        self.shared.release_through(&cursor).unwrap();
    }
}

fn read(shard: &Path) -> Vec<UsageRecord> {
    let mut reader = Reader::open(shard, 0).unwrap();
    let mut records = Vec::new();
    while let Some(entry) = reader.next().unwrap() {
        let Entry::Frame(frame) = entry else { panic!("{entry:?}") };
        records.push(UsageRecord::decode(frame.payload.as_slice()).unwrap());
    }
    records
}

fn copy_tree(from: &Path, to: &PathBuf) {
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

/// (how many, bytes sent) of requests by hour and reason.
fn requests(records: &[UsageRecord]) -> HashMap<(i64, i32), (i64, i64)> {
    let mut sums = HashMap::new();
    for record in records.iter().filter(|record| record.kind() == Kind::Request) {
        assert_eq!((record.account.as_str(), record.endpoint.as_str()), ("acme", "web"));
        assert!(record.started_at <= record.at, "{record:?}");
        assert_eq!(record.billable, record.reason() == Reason::Unspecified);
        let sum: &mut (i64, i64) = sums.entry((hour_of(record.at), record.reason)).or_default();
        sum.0 += record.folded.max(1);
        sum.1 += record.sent_app_bytes;
    }
    sums
}

/// A noon long after the beginning of time.
const NOON: i64 = (1000 * 24 + 12) * HOUR_US;

#[test]
fn folded_requests_add_up_through_a_kill_at_any_moment() {
    let rig = rig(NOON + 5, 8);
    let mut sent = HashMap::new();
    let mut add = |n: u64, reason: Reason| {
        rig.request(n, reason);
        let sum: &mut (i64, i64) = sent.entry((NOON, reason as i32)).or_default();
        *sum = (sum.0 + 1, sum.1 + n as i64);
        sent.clone()
    };
    for n in 0..300 {
        let sums = add(n, if n % 3 == 0 { Reason::HealthCheck } else { Reason::Unspecified });
        rig.recorder.beat(0);
        if n % 7 == 0 {
            rig.shared.sync_slots().unwrap();
        }
        if n % 50 == 49 {
            // What had not come to its sum yet is dated to the kill.
            let mut killed = HashMap::new();
            for ((_, reason), (count, bytes)) in requests(&rig.killed()) {
                let sum: &mut (i64, i64) = killed.entry((NOON, reason)).or_default();
                *sum = (sum.0 + count, sum.1 + bytes);
            }
            assert_eq!(killed, sums, "{n}");
        }
    }
    assert!(rig.recorder.folding.is_on.get() && rig.shared.is_folding());
    let one_by_one = rig.records().len();
    assert!((20..250).contains(&one_by_one), "{one_by_one}");
    assert_eq!(rig.recorder.folding.sums.borrow().len(), 2);
    // Room again: the sums are recorded, and requests one by one.
    rig.ship();
    let shipped = requests(&rig.records());
    rig.beats();
    assert!(!rig.recorder.folding.is_on.get());
    let sums = add(7, Reason::Unspecified);
    let now = requests(&rig.records());
    assert_eq!(rig.records().iter().filter(|record| record.folded > 1).count(), 2);
    assert_eq!(rig.records().last().unwrap().folded, 0);
    assert!(now.values().map(|sum| sum.0).sum::<i64>() > shipped.values().map(|sum| sum.0).sum());
    assert_eq!(sums.values().map(|sum| sum.0).sum::<i64>(), 301);
}

#[test]
fn a_sum_ends_with_its_hour() {
    let mut rig = rig(NOON + 5, 8);
    rig.recorder.folding.is_on.set(true);
    rig.request(100, Reason::Unspecified);
    // Counted before the hour's turn and closed after it, before the sweep came.
    let (_, late) = rig.recorder.measure_request(&rig.note, 1).unwrap();
    late.add(Column::SentApp, 20);
    rig.set_time(NOON + HOUR_US + 3);
    rig.recorder.close(late, Facts::default());
    rig.recorder.hour_swept(rig.recorder.now_us());
    rig.request(3, Reason::Unspecified);
    let expected = HashMap::from([((NOON, 0), (2, 120)), ((NOON + HOUR_US, 0), (1, 3))]);
    rig.recorder.finish_sums(|shared| shared.sync_slots().map(|()| true));
    assert_eq!(requests(&rig.killed()), expected);
    rig.recorder.folding.leave(Some(NOON + HOUR_US));
    rig.recorder.write_sums();
    assert_eq!(requests(&rig.records()), HashMap::from([((NOON, 0), (2, 120))]));
    rig.recorder.write_rest();
    assert_eq!(requests(&rig.records()), expected);
}

/// How many requests the session's close states, and how many there are.
fn counted(records: &[UsageRecord]) -> (i64, usize) {
    let closes = |kind| records.iter().filter(move |record| record.kind() == kind && record.phase() == Phase::Close);
    let sessions: Vec<_> = closes(Kind::Session).collect();
    assert_eq!(sessions.len(), 1, "{sessions:?}");
    (sessions[0].requests, closes(Kind::Request).count())
}

/// Found by `kill -9` under load: a session that was decided and not yet recorded was closed with no request at all.
#[test]
fn a_session_states_all_its_requests_wherever_the_kill_came() {
    let rig = rig(NOON, 8);
    let session = rig.session(100);
    assert_eq!(counted(&rig.killed()), (0, 0));
    let (_, first) = rig.recorder.measure_request(&rig.note, 1).unwrap();
    assert_eq!(counted(&rig.killed()), (1, 1), "before its session has counted it");
    session.set_requests(1);
    assert_eq!(counted(&rig.killed()), (1, 1));
    rig.recorder.close(first, Facts::default());
    assert_eq!(counted(&rig.killed()), (1, 1));
    let (_, no_request) = rig.recorder.measure_request(&rig.note, 2).unwrap();
    session.set_requests(2);
    session.set_requests(1);
    assert_eq!(counted(&rig.killed()), (2, 2), "not counted any more, and its slot still there");
    no_request.discard();
    assert_eq!(counted(&rig.killed()), (1, 1));
    let done = Verdict { status: 0, end: End::Done, reason: Reason::Unspecified };
    session.decide(done);
    let killed = rig.killed();
    assert_eq!(counted(&killed), (1, 1), "decided, not recorded");
    assert_eq!(
        killed.iter().find(|record| record.kind() == Kind::Session && record.phase() == Phase::Close).unwrap().end(),
        End::Done
    );
    rig.recorder.close(session, Facts { verdict: done, ..Facts::default() });
    assert_eq!(counted(&rig.killed()), (1, 1));
}

#[test]
fn more_sums_than_there_may_be_are_a_gap() {
    let mut rig = rig(NOON, 100);
    rig.recorder.folding.is_on.set(true);
    let plain = rig.note.clone();
    for n in 0..SUMS_MAX + 10 {
        rig.note.clone_from(&plain);
        let account = format!("account-{n}");
        RequestNote { account: &account, ..RequestNote::default() }.encode(&mut rig.note);
        rig.request(1, Reason::Unspecified);
    }
    rig.recorder.write_rest();
    let records = rig.records();
    let folded = records.iter().filter(|record| record.kind() == Kind::Request).count();
    assert_eq!(folded, SUMS_MAX);
    let gaps: Vec<_> = records.iter().filter(|record| record.kind() == Kind::Gap).collect();
    // Their bytes are in their sessions' records.
    assert_eq!((gaps.len(), gaps[0].folded, gaps[0].sent_app_bytes), (1, 10, 0));
}

#[test]
fn closes_without_room_are_stated_once_when_there_is_room() {
    let rig = rig(NOON, 2);
    let session = |records: &[UsageRecord]| {
        let kinds = [Kind::Session, Kind::Gap];
        let of_sessions = records.iter().filter(|record| kinds.contains(&record.kind()));
        of_sessions.map(|record| record.sent_wire_bytes).sum::<i64>()
    };
    let mut sent = 0;
    for n in 1..400 {
        rig.recorder.close(rig.session(n), Facts::default());
        sent += n as i64;
    }
    assert_eq!(rig.shared.health(), Health::Full);
    assert!(session(&rig.records()) < sent);
    assert_eq!(session(&rig.killed()), sent);
    let recorded = session(&rig.records());
    rig.ship();
    let left = session(&rig.records());
    // The next record finds the room, and says so; then the gap follows, and only once.
    for _ in 0..10 {
        rig.recorder.node(Phase::Checkpoint, 0);
        rig.shared.sync_slots().unwrap();
        rig.recorder.beat(0);
    }
    rig.shared.sync().unwrap();
    assert_eq!(recorded - left + session(&rig.records()), sent);
    assert!(rig.recorder.folding.gap.borrow().is_none());
    assert_eq!(rig.recorder.writer.borrow().slots().open_count(), 0);
}

#[test]
fn a_loss_is_stated_beyond_the_budget_and_durably() {
    let rig = rig(NOON, 2);
    (1..400).for_each(|n| rig.recorder.close(rig.session(n), Facts::default()));
    let mut loss = Loss::of(1, 0, 0);
    (loss.next_seq, loss.records) = (30, 30);
    loss.counters.sent_wire = 77;
    rig.recorder.state_loss(loss.clone());
    assert!(!loss.is_stated(), "not durable yet");
    rig.shared.sync().unwrap();
    rig.recorder.beat(0);
    assert!(loss.is_stated());
    let records = rig.records();
    let gap = records.iter().find(|record| record.gap_next_seq > 0).unwrap();
    assert_eq!((gap.gap_epoch, gap.gap_shard, gap.gap_first_seq, gap.gap_next_seq), (1, 0, 0, 30));
    assert_eq!((gap.folded, gap.sent_wire_bytes, gap.kind()), (30, 77, Kind::Gap));
}

#[test]
fn what_began_after_the_hours_turn_is_not_of_the_hour_before() {
    let mut rig = rig(NOON - 10, 100);
    let early = rig.session(5);
    rig.set_time(NOON + 10);
    let late = rig.session(7);
    rig.set_time(NOON + 20);
    assert!(rig.recorder.hour_turned(NOON + 20));
    rig.recorder.close_hour(&early, NOON + 20, Facts::default());
    rig.recorder.close_hour(&late, NOON + 20, Facts::default());
    rig.recorder.hour_swept(NOON + 20);
    late.add(Column::SentWire, 1);
    rig.recorder.close(late, Facts::default());
    rig.recorder.close(early, Facts::default());
    let records = rig.records();
    let seen: Vec<_> = records.iter().map(|record| (record.at - NOON, record.sent_wire_bytes)).collect();
    assert_eq!(seen, [(-1, 5), (20, 8), (20, 0)]);
    assert!(records.iter().all(|record| record.started_at <= record.at));
}

/// Whatever the wall clock does: totals are exact, durations are not touched, each record lies in one hour of the clock then.
#[test]
fn steps_of_the_wall_clock_change_stamps_and_nothing_else() {
    let mut rig = rig(NOON, 1000);
    let (day, hour) = (24 * HOUR_US, HOUR_US);
    let mut steps = vec![-day, 10 * day];
    (0..50).for_each(|n| steps.push(if n % 2 == 0 { hour } else { -hour }));
    let open = rig.session(0);
    let (mut sent, mut now_us) = (0, NOON);
    for (n, step_us) in (1..).zip(&steps) {
        open.add(Column::SentWire, n);
        sent += n as i64;
        now_us += 7 * 60_000_000;
        rig.set_time(now_us);
        rig.recorder.follow_step(NOON, *step_us);
        assert!(rig.recorder.hour_turned(now_us), "every step is swept");
        rig.recorder.close_hour(&open, now_us, Facts::default());
        rig.recorder.hour_swept(now_us);
        rig.recorder.close(rig.session(1000), Facts::default());
        if n % 3 == 0 {
            rig.recorder.checkpoint(&open, Facts::default());
        }
    }
    rig.recorder.close(open, Facts::default());
    let records = rig.records();
    let stated: Vec<i64> = records.iter().map(|record| record.clock_step_us).filter(|step_us| *step_us != 0).collect();
    assert_eq!(stated, steps);
    let total: i64 = records.iter().map(|record| record.sent_wire_bytes).sum();
    assert_eq!(total, sent + 1000 * steps.len() as i64);
    let mut shift_us = 0;
    for record in &records {
        shift_us += record.clock_step_us;
        assert!(record.started_at <= record.at, "{record:?}");
        // By a clock that nobody sets it would all lie between the first moment and the last.
        assert!((NOON - HOUR_US..=now_us).contains(&(record.at - shift_us)), "{record:?}");
    }
    let last = records.last().unwrap();
    assert_eq!(last.at - last.started_at, now_us - NOON, "the session's true duration");
}
