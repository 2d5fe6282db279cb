//! A real process, really killed. The test binary runs itself as the victim; a pipe that outlives it witnesses what it had done.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::model_tests::{close_all, options, parse, read_all, record};
use super::*;
use crate::units::Column;

const VICTIM: &str = "WEIR_JOURNAL_VICTIM";
const SESSIONS: usize = 8;

/// Not a test of its own: the body of the victim, if this process is one. Counts, records, closes and opens until it is killed,
/// and says each count on its standard output after it was made.
#[test]
fn victim() {
    let Ok(path) = std::env::var(VICTIM) else {
        return;
    };
    let state = StateDir::open(Path::new(&path)).unwrap();
    let epoch = state.claim_epoch().unwrap();
    let budget = Arc::new(Budget::new(1 << 30));
    let options = Options { segment_bytes: 64 * 1024, ..options() };
    let mut writer = Writer::create(&epoch, 0, "node", &options, budget).unwrap();
    let _keeper = Keeper::start(vec![writer.shared()], Duration::from_millis(3)).unwrap();
    let mut next_session = 0u64;
    let mut open = |writer: &Writer| {
        let session = next_session;
        next_session += 1;
        let slot = writer.slots().open(SlotKind::Session, session, &session.to_le_bytes()).unwrap();
        (session, slot)
    };
    let mut slots: Vec<(u64, Slot)> = (0..SESSIONS).map(|_| open(&writer)).collect();
    let mut random = 0x9E37_79B9_7F4A_7C15u64 ^ u64::from(std::process::id());
    // Not through the buffer of `Stdout`, which would cut a witness at a newline byte.
    let mut pipe = std::fs::File::from(std::io::stdout().as_fd().try_clone_to_owned().unwrap());
    loop {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let (session, slot) = &slots[(random >> 8) as usize % SESSIONS];
        slot.set_pending(1000);
        slot.add(Column::SentApp, random % 1000);
        // One write call of 16 bytes: whole or not at all.
        let mut witness = session.to_le_bytes().to_vec();
        witness.extend_from_slice(&slot.get(Column::SentApp).to_le_bytes());
        pipe.write_all(&witness).unwrap();
        slot.set_pending(0);
        if random >> 40 & 7 == 0 {
            record(&mut writer, slot, *session, false, (random >> 50) as usize % 300).unwrap();
        }
        if random >> 44 & 31 == 0 {
            let at = (random >> 8) as usize % SESSIONS;
            let (session, slot) = std::mem::replace(&mut slots[at], open(&writer));
            record(&mut writer, &slot, session, true, 0).unwrap();
            slot.free();
        }
    }
}

#[test]
fn a_killed_process_loses_nothing() {
    let mut seen = (0, 0);
    for trial in 0..20u64 {
        let directory = tempfile::tempdir().unwrap();
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &victim_name(), "--nocapture", "--test-threads=1"])
            .env(VICTIM, directory.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut pipe = victim.stdout.take().unwrap();
        let reading = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            pipe.read_to_end(&mut bytes).unwrap();
            bytes
        });
        // Random enough: the machine's own jitter and a different wait each time.
        let started = Instant::now();
        while list(directory.path()).unwrap_or_default().is_empty() {
            assert!(started.elapsed() < Duration::from_secs(20));
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_micros(5_000 + trial * 3_137));
        victim.kill().unwrap();
        victim.wait().unwrap();
        let (counts, records) = check(directory.path(), &reading.join().unwrap());
        seen = (seen.0 + counts, seen.1 + records);
    }
    // Most victims had time to do something.
    assert!(seen.0 > 1000 && seen.1 > 100, "{seen:?}");
}

fn victim_name() -> String {
    let module = module_path!();
    let (_crate, module) = module.split_once("::").unwrap();
    format!("{module}::victim")
}

/// Recovers, and holds the recovered totals against the witness. How many counts and records there were.
fn check(path: &Path, witnessed: &[u8]) -> (usize, usize) {
    let state = StateDir::open(path).unwrap();
    let epoch = state.first_abandoned();
    if epoch.shards().unwrap().is_empty() {
        return (0, 0);
    }
    let budget = Arc::new(Budget::new(1 << 30));
    let options = Options { segment_bytes: 64 * 1024, ..options() };
    let (mut writer, recovery) = Writer::reopen(&epoch, 0, "node", &options, budget).unwrap();
    assert!(recovery.damaged.is_empty(), "{:?}", recovery.damaged);
    let uncertain: u64 = recovery.open.iter().map(|open| open.pending).sum();
    assert!(recovery.open.iter().filter(|open| open.pending > 0).count() <= 1);
    close_all(&mut writer, recovery);
    let mut last = std::collections::BTreeMap::new();
    for (seq, frame) in (0..).zip(read_all(&epoch.shard_path(0), 0)) {
        assert_eq!(frame.seq, seq);
        let parsed = parse(&frame.payload);
        let before: Option<(u64, bool)> = last.insert(parsed.session, (parsed.total, parsed.closing));
        assert!(before.is_none_or(|(total, closed)| !closed && total <= parsed.total));
    }
    // The harness prints a line before the first witness.
    let start = witnessed.windows(4).position(|window| window == b"... ").map_or(0, |at| at + 4);
    let mut expected = std::collections::BTreeMap::new();
    for witness in witnessed[start.min(witnessed.len())..].chunks_exact(16) {
        let word = |at: usize| u64::from_le_bytes(witness[at..at + 8].try_into().unwrap());
        expected.insert(word(0), word(8));
    }
    let mut ahead = 0;
    for (session, (total, closed)) in &last {
        assert!(closed, "session {session} is not closed");
        let witnessed = expected.get(session).copied().unwrap_or(0);
        assert!(*total >= witnessed, "session {session} lost {}", witnessed - total);
        ahead += total - witnessed;
    }
    assert!(ahead <= uncertain, "{ahead} bytes more than witnessed, {uncertain} uncertain");
    assert!(expected.keys().all(|session| last.contains_key(session)));
    (witnessed.len() / 16, writer.next_seq() as usize)
}
