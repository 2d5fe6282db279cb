//! The ledger against a plain model: whatever is repeated, dropped, late, reordered, fenced off or killed, the same totals.
//!
//! Lawful records of a few streams are written to logs with faults; ledgers read them in small batches and die after a random step
//! of a random commit. The model is sets and sums in memory.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::book::{Book, Options, Spot};
use crate::clock::HOUR_US;
use crate::event::{Kind as RecordKind, Phase, Reason, ShardEnd, UsageRecord};
use crate::ids::hex;
use crate::store::{Filter, Group, Kind, Period, Store, Sums, postgres};
use crate::units::COLUMNS;
use crate::wire::StreamId;

const T0: i64 = 1_795_370_400_000_000;

/// Numbers that look random and are the same each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }

    fn is(&mut self, percent: u64) -> bool {
        self.roll(100) < percent
    }
}

/// Something open in the traffic that is made up.
struct Live {
    id: [u8; 16],
    account: &'static str,
    totals: [i64; COLUMNS],
    recorded: [i64; COLUMNS],
    requests: Vec<Live>,
    begun: i64,
    started_at: i64,
}

impl Live {
    fn new(dice: &mut Dice, account: &'static str, at: i64) -> Self {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&dice.roll(u64::MAX).to_be_bytes());
        id[8..].copy_from_slice(&dice.roll(u64::MAX).to_be_bytes());
        let none = [0; COLUMNS];
        Self { id, account, totals: none, recorded: none, requests: Vec::new(), begun: 0, started_at: at }
    }

    fn move_bytes(&mut self, bytes: [i64; COLUMNS]) {
        self.totals.iter_mut().zip(bytes).for_each(|(total, bytes)| *total += bytes);
    }

    fn record(&mut self, session: Option<[u8; 16]>, phase: Phase, at: i64) -> UsageRecord {
        let d: [i64; COLUMNS] = std::array::from_fn(|c| self.totals[c] - self.recorded[c]);
        self.recorded = self.totals;
        let t = self.totals;
        let kind = if session.is_some() { RecordKind::Request } else { RecordKind::Session };
        UsageRecord {
            kind: kind.into(),
            phase: phase.into(),
            session_id: Bytes::copy_from_slice(&session.unwrap_or(self.id)),
            request_id: if session.is_some() { Bytes::copy_from_slice(&self.id) } else { Bytes::new() },
            account: self.account.to_owned(),
            host: if session.is_some() { format!("{}.example", self.account) } else { String::new() },
            protocol: "h1".to_owned(),
            status: if session.is_some() && phase == Phase::Close { 200 } else { 0 },
            billable: true,
            requests: if session.is_none() { self.begun } else { 0 },
            started_at: self.started_at,
            at,
            received_body_bytes: d[0],
            received_app_bytes: d[1],
            received_wire_bytes: d[2],
            sent_body_bytes: d[3],
            sent_app_bytes: d[4],
            sent_wire_bytes: d[5],
            sent_acked_bytes: d[6],
            upstream_sent_bytes: d[7],
            upstream_received_bytes: d[8],
            total_received_body_bytes: t[0],
            total_received_app_bytes: t[1],
            total_received_wire_bytes: t[2],
            total_sent_body_bytes: t[3],
            total_sent_app_bytes: t[4],
            total_sent_wire_bytes: t[5],
            total_sent_acked_bytes: t[6],
            total_upstream_sent_bytes: t[7],
            total_upstream_received_bytes: t[8],
            ..UsageRecord::default()
        }
    }
}

/// All records of a stream, in order, as a sidecar would write them; `folds`: some requests are summed up instead.
fn traffic(dice: &mut Dice, steps: u64, folds: bool) -> Vec<UsageRecord> {
    const ACCOUNTS: [&str; 3] = ["acme", "globex", "initech"];
    let mut records =
        vec![UsageRecord { kind: RecordKind::Node.into(), phase: Phase::Open.into(), at: T0, ..Default::default() }];
    let mut sessions: Vec<Live> = Vec::new();
    let mut at = T0;
    let mut folded: BTreeMap<&str, (i64, [i64; COLUMNS])> = BTreeMap::new();
    for _ in 0..steps {
        at += dice.roll(20_000_000) as i64;
        let moved: [i64; COLUMNS] = std::array::from_fn(|_| dice.roll(1000) as i64);
        let pick = dice.roll(sessions.len().max(1) as u64) as usize;
        match dice.roll(10) {
            0 | 1 => {
                let mut session = Live::new(dice, ACCOUNTS[dice.0 as usize % 3], at);
                records.push(session.record(None, Phase::Open, at));
                sessions.push(session);
            }
            2..=4 if !sessions.is_empty() => {
                let request = Live::new(dice, ACCOUNTS[dice.0 as usize % 3], at);
                sessions[pick].begun += 1;
                sessions[pick].requests.push(request);
            }
            5 | 6 if !sessions.is_empty() => {
                let session = &mut sessions[pick];
                session.move_bytes(moved);
                if dice.is(80)
                    && let Some(request) = session.requests.last_mut()
                {
                    request.move_bytes(moved.map(|bytes| bytes / 2));
                }
            }
            7 if !sessions.is_empty() => {
                let session = &mut sessions[pick];
                let id = session.id;
                if let Some(mut request) = session.requests.pop() {
                    if folds && request.recorded == [0; COLUMNS] && dice.is(50) {
                        let (n, sum) = folded.entry(request.account).or_default();
                        *n += 1;
                        sum.iter_mut().zip(request.totals).for_each(|(sum, bytes)| *sum += bytes);
                    } else {
                        records.push(request.record(Some(id), Phase::Close, at));
                    }
                }
            }
            8 if !sessions.is_empty() => checkpoint(&mut sessions[pick], &mut records, at),
            9 if sessions.len() > 3 => close(sessions.swap_remove(pick), &mut records, at),
            _ => {}
        }
    }
    for session in sessions {
        close(session, &mut records, at);
    }
    for (account, (n, sum)) in folded {
        let mut sums = Live::new(dice, account, at);
        sums.totals = sum;
        let record = sums.record(Some([0; 16]), Phase::Close, at);
        records.push(UsageRecord { folded: n, session_id: Bytes::new(), request_id: Bytes::new(), ..record });
    }
    records.push(UsageRecord { kind: RecordKind::Node.into(), phase: Phase::Close.into(), at, ..Default::default() });
    records
}

fn checkpoint(session: &mut Live, records: &mut Vec<UsageRecord>, at: i64) {
    let id = session.id;
    for request in session.requests.iter_mut().filter(|request| request.totals != request.recorded) {
        records.push(request.record(Some(id), Phase::Checkpoint, at));
    }
    if session.totals != session.recorded {
        records.push(session.record(None, Phase::Checkpoint, at));
    }
}

fn close(mut session: Live, records: &mut Vec<UsageRecord>, at: i64) {
    let id = session.id;
    for mut request in std::mem::take(&mut session.requests) {
        records.push(request.record(Some(id), Phase::Close, at));
    }
    records.push(session.record(None, Phase::Close, at));
}

/// Two epochs of each node, of which the second says where the first ended.
fn epochs(dice: &mut Dice, steps: u64, folds: impl Fn(usize) -> bool) -> Vec<Vec<UsageRecord>> {
    let mut streams: Vec<_> = (0..4).map(|at| traffic(dice, steps, folds(at))).collect();
    for at in [0, 2] {
        let end = ShardEnd {
            epoch: 1,
            shard: 0,
            next_seq: streams[at].len() as i64,
            started_at: T0,
            ended_at: streams[at].last().map_or(T0, |last| last.at),
        };
        streams[at + 1][0].ended.push(end);
    }
    streams
}

/// Consecutive records of one stream in a log.
type Piece = (usize, u64, usize);

/// What a log holds, with faults: how often each is written, and in which order.
struct Faults {
    drop: u64,
    twice: u64,
    late: u64,
}

fn log(dice: &mut Dice, streams: &[Vec<UsageRecord>], faults: &Faults) -> Vec<Piece> {
    let mut queues: Vec<(usize, u64)> = (0..streams.len()).map(|stream| (stream, 0)).collect();
    let (mut log, mut late): (Vec<Piece>, Vec<Piece>) = (Vec::new(), Vec::new());
    while !queues.is_empty() {
        let at = dice.roll(queues.len() as u64) as usize;
        let (stream, next) = queues[at];
        let left = streams[stream].len() as u64 - next;
        let n = (1 + dice.roll(6)).min(left);
        let piece = (stream, next, n as usize);
        queues[at].1 += n;
        if queues[at].1 == streams[stream].len() as u64 {
            queues.swap_remove(at);
        }
        if dice.is(faults.late) {
            late.push(piece);
        } else if !dice.is(faults.drop) {
            log.push(piece);
        }
        if dice.is(faults.twice) && !log.is_empty() {
            log.push(log[dice.roll(log.len() as u64) as usize]);
        }
        if dice.is(10) && !late.is_empty() {
            log.push(late.swap_remove(dice.roll(late.len() as u64) as usize));
        }
    }
    log.extend(late);
    log
}

fn id(stream: usize) -> StreamId {
    StreamId { node: format!("node-{}", stream / 2), epoch: 1 + (stream % 2) as u32, shard: 0 }
}

fn options() -> Options {
    Options { keys: Vec::new(), hosts_max: 10 }
}

async fn open(store: &Store) -> Book {
    let mut book = Book::open(store.load().await.unwrap(), options()).unwrap();
    book.keep_details();
    book
}

/// Reads the log to its end in batches, from what the store says. `deaths`: after a random step, percent of the batches.
async fn read(dice: &mut Dice, store: &Store, part: &str, log: &[Piece], streams: &[Vec<UsageRecord>], deaths: u64) {
    let mut book = open(store).await;
    loop {
        let at = book.position("log", part).unwrap_or(0) as usize;
        if at == log.len() {
            return;
        }
        let upto = (at + 1 + dice.roll(8) as usize).min(log.len());
        for (position, (stream, first_seq, n)) in log.iter().enumerate().take(upto).skip(at) {
            let first = *first_seq as usize;
            let records = streams[*stream][first..first + n].to_vec();
            let position = position as i64;
            let spot = Spot { source: "log".into(), part: part.into(), from: position, to: position + 1, at_us: 0 };
            book.records(spot, id(*stream), *first_seq, 0, records).unwrap();
        }
        if dice.is(deaths) {
            // It dies after one of the steps; after the last the commit has happened.
            store.stop_after.store(1 + dice.roll(9) as i64, Ordering::Relaxed);
        }
        let done = store.commit(&book.batch().unwrap()).await;
        store.stop_after.store(i64::MAX, Ordering::Relaxed);
        match done {
            Ok(()) => book.committed(),
            Err(_) => book = open(store).await,
        }
    }
}

/// What the log brought: seqs of each stream.
fn came(logs: &[&[Piece]], streams: usize) -> Vec<BTreeSet<u64>> {
    let mut came = vec![BTreeSet::new(); streams];
    for (stream, first_seq, n) in logs.iter().copied().flatten() {
        came[*stream].extend(*first_seq..first_seq + *n as u64);
    }
    came
}

fn add(to: &mut [i64; COLUMNS], bytes: [i64; COLUMNS]) {
    to.iter_mut().zip(bytes).for_each(|(to, bytes)| *to += bytes);
}

fn deltas(record: &UsageRecord) -> [i64; COLUMNS] {
    record.deltas().to_array().map(|bytes| bytes as i64)
}

/// Holds the store against what came.
async fn check(store: &Store, streams: &[Vec<UsageRecord>], came: &[BTreeSet<u64>], what: &str) {
    let usage = store.usage(&Filter::default(), Group::Hour).await.unwrap();
    let mut requests: BTreeMap<(String, i64), Sums> = BTreeMap::new();
    for (series, hour, sums) in usage.iter().filter(|(series, ..)| series.kind == Kind::Request) {
        requests.entry((series.account.clone(), *hour)).or_default().add(sums);
    }
    let mut model: BTreeMap<(String, i64), [i64; COLUMNS]> = BTreeMap::new();
    let (mut sessions, mut covered) = ([0; COLUMNS], [0; COLUMNS]);
    let (mut records, mut closes) = (0, 0);
    for (stream, came) in streams.iter().zip(came) {
        for seq in came {
            let record = &stream[*seq as usize];
            let hour = record.at - record.at.rem_euclid(HOUR_US);
            match record.kind() {
                RecordKind::Request => {
                    add(model.entry((record.account.clone(), hour)).or_default(), deltas(record));
                    if record.folded == 0 {
                        add(&mut covered, deltas(record));
                    }
                }
                RecordKind::Session => {
                    add(&mut sessions, deltas(record));
                    closes += i64::from(record.phase() == Phase::Close);
                }
                _ => continue,
            }
            records += 1;
        }
    }
    model.retain(|key, bytes| *bytes != [0; COLUMNS] || requests.contains_key(key));
    let found: BTreeMap<_, _> = requests.iter().map(|(key, sums)| (key.clone(), sums.bytes)).collect();
    assert_eq!(found, model, "{what}: requests by account and hour");
    assert_eq!(usage.iter().map(|(.., sums)| sums.records).sum::<i64>(), records, "{what}: records");
    assert_eq!(usage.iter().map(|(.., sums)| sums.sessions).sum::<i64>(), closes, "{what}: sessions");
    // The records themselves are kept, each once.
    let mut kept: Vec<_> = store.all_details().await.iter().map(|r| (r.node.clone(), r.epoch, r.seq)).collect();
    kept.sort();
    let is_detail = |record: &UsageRecord| matches!(record.kind(), RecordKind::Request | RecordKind::Session);
    let mut expected = Vec::new();
    for (at, (stream, came)) in streams.iter().zip(came).enumerate() {
        let ours = came.iter().filter(|seq| is_detail(&stream[**seq as usize]));
        expected.extend(ours.map(|seq| (id(at).node, i64::from(id(at).epoch), *seq as i64)));
    }
    expected.sort();
    assert_eq!(kept, expected, "{what}: records kept");
    // The header's formula.
    let book = open(store).await;
    let mut beyond = [0; COLUMNS];
    usage
        .iter()
        .filter(|(series, ..)| series.kind != Kind::Request)
        .for_each(|(.., sums)| add(&mut beyond, sums.bytes));
    let formula: [i64; COLUMNS] = std::array::from_fn(|c| sessions[c] - covered[c] + book.uncovered()[c]);
    assert_eq!(beyond, formula, "{what}: overhead is what sessions moved beyond their requests");
    let mut truth = Lost::default();
    for (at, stream) in streams.iter().enumerate() {
        truth.add(id(at), stream, &came[at], known_end(streams, came, at));
    }
    truth.check(store, what).await;
}

/// Behind the last seq of a stream that anything that came says of: its own records, or what the node's next epoch begins with.
fn known_end(streams: &[Vec<UsageRecord>], came: &[BTreeSet<u64>], at: usize) -> u64 {
    let is_stated = streams.get(at + 1).is_some_and(|next| !next[0].ended.is_empty()) && came[at + 1].contains(&0);
    if is_stated { streams[at].len() as u64 } else { came[at].last().map_or(0, |last| last + 1) }
}

/// What did not come, as the ledger should know it.
#[derive(Default)]
struct Lost {
    /// Exactly what did not come below what came.
    gaps: Vec<(String, i64, i64, i64)>,
    /// To the byte, wherever a later record of the same session or request came: received, sent, acknowledged.
    missing: HashMap<String, [i64; 3]>,
}

impl Lost {
    /// `end`: behind the last seq that the ledger can know of.
    fn add(&mut self, id: StreamId, stream: &[UsageRecord], came: &BTreeSet<u64>, end: u64) {
        let mut missing = (0..end).filter(|seq| !came.contains(seq)).peekable();
        while let Some(first) = missing.next() {
            let mut next = first + 1;
            while missing.next_if_eq(&next).is_some() {
                next += 1;
            }
            self.gaps.push((id.node.clone(), i64::from(id.epoch), first as i64, next as i64));
        }
        let last: HashMap<String, u64> = came.iter().map(|seq| (item_id(&stream[*seq as usize]), *seq)).collect();
        for (seq, record) in stream.iter().enumerate().filter(|(seq, _)| !came.contains(&(*seq as u64))) {
            let id = item_id(record);
            if !id.is_empty() && last.get(&id).is_some_and(|last| *last > seq as u64) {
                let bytes = deltas(record);
                let missing = self.missing.entry(id).or_default();
                missing.iter_mut().zip([bytes[1], bytes[4], bytes[6]]).for_each(|(sum, bytes)| *sum += bytes);
            }
        }
    }

    async fn check(mut self, store: &Store, what: &str) {
        let found = store.load().await.unwrap();
        let mut gaps: Vec<_> = found
            .gaps
            .iter()
            .map(|gap| (gap.place.node.clone(), gap.place.epoch, gap.first_seq, gap.next_seq))
            .collect();
        gaps.sort();
        self.gaps.sort();
        assert_eq!(gaps, self.gaps, "{what}: gaps");
        self.missing.retain(|_, bytes| *bytes != [0; 3]);
        let missing: HashMap<String, [i64; 3]> = found
            .items
            .iter()
            .map(|(id, row)| {
                (id.clone(), [row.missing_received_bytes, row.missing_sent_bytes, row.missing_acked_bytes])
            })
            .filter(|(_, missing)| *missing != [0; 3])
            .collect();
        assert_eq!(missing, self.missing, "{what}: missing bytes by later totals");
    }
}

fn item_id(record: &UsageRecord) -> String {
    match record.kind() {
        RecordKind::Request => hex(&record.request_id),
        RecordKind::Session => hex(&record.session_id),
        _ => String::new(),
    }
}

/// What everything came to, where it all came: by account, billed or not.
async fn totals(store: &Store) -> BTreeMap<(Kind, String, bool, String), Sums> {
    let mut totals: BTreeMap<_, Sums> = BTreeMap::new();
    for (series, _, sums) in store.usage(&Filter::default(), Group::Series).await.unwrap() {
        let key = (series.kind, series.account, series.billable, series.reason);
        totals.entry(key).or_default().add(&sums);
    }
    totals.retain(|_, sums| !sums.is_zero());
    totals
}

/// On SQLite, and on PostgreSQL where it is installed.
async fn stores(directory: &tempfile::TempDir, name: &str) -> Vec<(String, Store)> {
    let file = directory.path().join(format!("{name}.db")).display().to_string();
    let mut stores = vec![("sqlite".to_owned(), Store::open(&file).await.unwrap())];
    if let Some(database) = postgres::database() {
        stores.push(("postgresql".to_owned(), Store::open(&database).await.unwrap()));
    }
    stores
}

fn seeds() -> u64 {
    std::env::var("WEIR_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(6)
}

#[tokio::test]
async fn the_same_totals_whatever_happens_on_the_way() {
    let directory = tempfile::tempdir().unwrap();
    for seed in 0..seeds() {
        let mut dice = Dice(seed);
        let streams = epochs(&mut dice, 150, |at| at == 3);
        let clean = log(&mut dice, &streams, &Faults { drop: 0, twice: 0, late: 0 });
        let bad = log(&mut dice, &streams, &Faults { drop: 5, twice: 10, late: 10 });
        for (name, store) in stores(&directory, &format!("{seed}")).await {
            let what = format!("seed {seed} on {name}");
            read(&mut dice, &store, "0", &bad, &streams, 30).await;
            check(&store, &streams, &came(&[&bad], streams.len()), &what).await;
            // Everything again: what came is dropped, what was missing fills its gap.
            read(&mut dice, &store, "1", &clean, &streams, 30).await;
            check(&store, &streams, &came(&[&bad, &clean], streams.len()), &format!("{what}, replayed")).await;
            let found = store.load().await.unwrap();
            assert!(found.gaps.is_empty() && found.items.is_empty(), "{what}: {:?} {:?}", found.gaps, found.items);
            let replayed = totals(&store).await;
            read(&mut dice, &store, "2", &clean, &streams, 0).await;
            assert_eq!(totals(&store).await, replayed, "{what}: a replay of everything changes nothing");
            // In another store, without any fault: the same to the byte and to the fingerprint.
            for (other, plain) in stores(&directory, &format!("{seed}-{name}-plain")).await {
                read(&mut dice, &plain, "0", &clean, &streams, 0).await;
                assert_eq!(totals(&plain).await, replayed, "{what}: as {other} without faults");
            }
        }
    }
}

#[tokio::test]
async fn two_ledgers_on_one_source_count_everything_once() {
    let directory = tempfile::tempdir().unwrap();
    for (name, store) in stores(&directory, "two").await {
        let mut dice = Dice(7);
        let streams = epochs(&mut dice, 150, |_| false);
        let log = log(&mut dice, &streams, &Faults { drop: 2, twice: 5, late: 5 });
        let (mut first, mut second) = (Dice(8), Dice(9));
        let other = store.clone();
        tokio::join!(
            read(&mut first, &store, "0", &log, &streams, 10),
            read(&mut second, &other, "0", &log, &streams, 10)
        );
        check(&store, &streams, &came(&[&log], streams.len()), &name).await;
    }
}

#[tokio::test]
async fn what_comes_late_for_a_sealed_period_counts_in_the_next() {
    let directory = tempfile::tempdir().unwrap();
    for (name, store) in stores(&directory, "sealed").await {
        let mut dice = Dice(3);
        let streams = vec![traffic(&mut dice, 100, false)];
        let n = streams[0].len();
        let log = vec![(0, 0, 5), (0, 10, n - 10)];
        read(&mut dice, &store, "0", &log, &streams, 0).await;
        let before = totals(&store).await;
        let (from_us, to_us) = super::month("2026-11").unwrap();
        let period = Period {
            name: "2026-11".into(),
            from_us,
            to_us,
            sealed_at_us: to_us + 1,
            actor: "test".into(),
            holes: String::new(),
        };
        let meters = crate::config::Meter::defaults();
        let judge = |with_holes| {
            let (period, meters) = (&period, &meters);
            move |found: &crate::store::Seal| super::seal(period, found, meters, with_holes)
        };
        let refused = store.seal(period.clone(), judge(false)).await.unwrap_err().to_string();
        assert!(refused.contains("seqs 5 to 9"), "{name}: {refused}");
        // A ledger that read before the seal cannot write behind it.
        let mut stale = open(&store).await;
        let sealed = store.seal(period.clone(), judge(true)).await.unwrap();
        assert!(sealed.holes.contains("seqs 5 to 9"), "{name}");
        assert!(store.seal(period.clone(), judge(true)).await.is_err(), "{name}: twice");
        let spot = Spot { source: "log".into(), part: "1".into(), from: 0, to: 1, at_us: 0 };
        stale.records(spot, id(0), 5, 0, streams[0][5..10].to_vec()).unwrap();
        assert!(matches!(store.commit(&stale.batch().unwrap()).await, Err(crate::store::Error::Fenced(_))), "{name}");
        assert_eq!(totals(&store).await, before, "{name}");
        read(&mut dice, &store, "1", &[(0, 5, 5)], &streams, 0).await;
        let all = store.usage(&Filter::default(), Group::Hour).await.unwrap();
        let late: Vec<_> = all.iter().filter(|(series, ..)| !series.corrects.is_empty()).collect();
        assert!(
            !late.is_empty() && late.iter().all(|(series, hour, _)| series.corrects == "2026-11" && *hour == to_us),
            "{name}"
        );
        let old = Filter { to_us, ..Filter::default() };
        let mut of_period: BTreeMap<_, Sums> = BTreeMap::new();
        for (series, _, sums) in store.usage(&old, Group::Series).await.unwrap() {
            of_period.entry((series.kind, series.account, series.billable, series.reason)).or_default().add(&sums);
        }
        of_period.retain(|_, sums| !sums.is_zero());
        assert_eq!(of_period, before, "{name}: a sealed period never changes");
    }
}

#[test]
fn no_byte_is_billed_twice() {
    for seed in 100..130 {
        let mut dice = Dice(seed);
        let records = traffic(&mut dice, 400, seed % 2 == 0);
        let mut truth = [0; COLUMNS];
        for record in records.iter().filter(|record| record.kind() == RecordKind::Session) {
            add(&mut truth, deltas(record));
        }
        let mut book = Book::open(Default::default(), options()).unwrap();
        let n = records.len() as i64;
        let spot = Spot { source: "log".into(), part: "0".into(), from: 0, to: n, at_us: 0 };
        book.records(spot, id(0), 0, 0, records).unwrap();
        let batch = book.batch().unwrap();
        let series: HashMap<i64, _> = batch.series.into_iter().collect();
        let (mut billed, mut unitemised, mut folded) = ([0; COLUMNS], [0; COLUMNS], [0; COLUMNS]);
        for row in &batch.usage {
            let of = &series[&row.series];
            add(if of.billable { &mut billed } else { &mut unitemised }, row.sums.bytes);
        }
        book.tallies().for_each(|(_, tally)| add(&mut folded, tally.folded));
        for c in 0..COLUMNS {
            // Billed: requests, folded ones too, and overhead. Unitemised holds the folded ones again and is not billed.
            assert_eq!(billed[c] + unitemised[c] - folded[c], truth[c], "seed {seed} column {c}");
            assert!(billed[c] <= truth[c], "seed {seed} column {c}: more billed than moved");
            assert!(seed % 2 == 0 || unitemised[c] == 0, "seed {seed}: everything has a record");
        }
    }
}

#[test]
fn a_gap_record_counts_once_and_not_where_its_records_were_read() {
    let gap = |sent, range: (i64, i64)| UsageRecord {
        kind: RecordKind::Gap.into(),
        phase: Phase::Close.into(),
        at: T0,
        sent_app_bytes: sent,
        folded: 3,
        gap_epoch: 1,
        gap_shard: 0,
        gap_first_seq: range.0,
        gap_next_seq: range.1,
        reason: Reason::Unspecified.into(),
        ..UsageRecord::default()
    };
    let node =
        || UsageRecord { kind: RecordKind::Node.into(), phase: Phase::Checkpoint.into(), at: T0, ..Default::default() };
    let stated = |records: &[(u64, UsageRecord)]| {
        let mut book = Book::open(Default::default(), options()).unwrap();
        for (at, (seq, record)) in records.iter().enumerate() {
            let at = at as i64;
            let spot = Spot { source: "log".into(), part: "0".into(), from: at, to: at + 1, at_us: 0 };
            book.records(spot, id(0), *seq, 0, vec![record.clone()]).unwrap();
        }
        let batch = book.batch().unwrap();
        let sum: i64 = batch.usage.iter().map(|row| row.sums.bytes[4]).sum();
        (sum, batch.gaps.iter().map(|gap| gap.cause.clone()).collect::<Vec<_>>())
    };
    // Nothing of it was read; stated twice.
    assert_eq!(stated(&[(10, gap(7, (0, 10))), (11, gap(7, (0, 10)))]), (7, vec!["stated".to_owned()]));
    // All of it was read.
    assert_eq!(stated(&[(0, node()), (1, node()), (2, gap(7, (0, 2)))]), (0, vec![]));
    // It came after all.
    assert_eq!(stated(&[(1, gap(7, (0, 1))), (0, node())]), (0, vec![]));
    // What had no room for a record at all has no range.
    assert_eq!(stated(&[(0, gap(9, (0, 0)))]), (9, vec![]));
}

/// Many records, of which a thousandth never comes and a hundredth comes twice: every missing range is named, none that is not, and what
/// later totals say of it is right to the byte. `WEIR_PROOF_RECORDS=10000000` is the full form.
#[tokio::test]
async fn a_thousandth_lost_and_a_hundredth_twice() {
    let wanted: u64 = std::env::var("WEIR_PROOF_RECORDS").map_or(60_000, |records| records.parse().unwrap());
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("proof.db").display().to_string()).await.unwrap();
    let mut dice = Dice(7);
    let (mut lost, mut billed) = (Lost::default(), [0; COLUMNS]);
    let (mut records, mut duplicates, mut at) = (0, 0, 0);
    let mut book = open(&store).await;
    while records < wanted {
        let stream = traffic(&mut dice, 40_000, false);
        let mut came = BTreeSet::new();
        let (mut position, mut first) = (0, 0);
        while first < stream.len() {
            // A piece ends before a record that is lost; the last never is, or nothing would show it.
            let next = (first + 50).min(stream.len());
            let cut = (first..next).find(|seq| *seq + 1 < stream.len() && dice.roll(1000) == 0).unwrap_or(next);
            for _ in 0..if dice.is(1) { 2 } else { 1 } {
                let spot =
                    Spot { source: "proof".into(), part: at.to_string(), from: position, to: position + 1, at_us: 0 };
                book.records(spot, id(at), first as u64, 0, stream[first..cut].to_vec()).unwrap();
                position += 1;
            }
            came.extend(first as u64..cut as u64);
            first = if cut < next { cut + 1 } else { next };
        }
        let requests =
            came.iter().map(|seq| &stream[*seq as usize]).filter(|record| record.kind() == RecordKind::Request);
        requests.for_each(|record| add(&mut billed, deltas(record)));
        lost.add(id(at), &stream, &came, stream.len() as u64);
        records += came.len() as u64;
        duplicates += book.counts().1;
        store.commit(&book.batch().unwrap()).await.unwrap();
        book.committed();
        at += 1;
    }
    assert!(duplicates > records / 300 && lost.gaps.len() as u64 > records / 2000 && lost.missing.len() > 5);
    println!(
        "{records} records, {duplicates} duplicates, {} ranges lost, {} items",
        lost.gaps.len(),
        lost.missing.len()
    );
    let usage = store.usage(&Filter::default(), Group::Hour).await.unwrap();
    let mut found = [0; COLUMNS];
    usage.iter().filter(|(series, ..)| series.kind == Kind::Request).for_each(|(.., sums)| add(&mut found, sums.bytes));
    assert_eq!(found, billed, "requests that came, each once");
    lost.check(&store, "proof").await;
}

/// Two ledgers of the same stream, in one of which a record is missing and another says something else.
#[tokio::test]
async fn two_ledgers_are_compared_down_to_the_record() {
    let directory = tempfile::tempdir().unwrap();
    let stream = traffic(&mut Dice(11), 400, false);
    let request = |skip: usize| {
        let of = stream.iter().enumerate().filter(|(_, r)| r.kind() == RecordKind::Request && r.sent_app_bytes > 0);
        of.map(|(seq, _)| seq).nth(skip).unwrap()
    };
    let (gone, altered) = (request(5), request(9));
    let mut stores = Vec::new();
    for name in ["here", "there", "same"] {
        let store = Store::open(&directory.path().join(name).display().to_string()).await.unwrap();
        let mut book = open(&store).await;
        book.keep_details();
        for (seq, record) in stream.iter().enumerate().filter(|(seq, _)| name != "there" || *seq != gone) {
            let mut record = record.clone();
            if name == "there" && seq == altered {
                record.sent_app_bytes -= 1;
            }
            let position = seq as i64 + i64::from(name != "there" || seq < gone) - 1;
            let spot =
                Spot { source: "x".into(), part: "0".into(), from: position, to: position + 1, at_us: record.at };
            book.records(spot, id(0), seq as u64, 0, vec![record]).unwrap();
        }
        store.commit(&book.batch().unwrap()).await.unwrap();
        stores.push(store);
    }
    let all = Filter::default();
    let same = super::against(&stores[0], &stores[2], &all).await.unwrap();
    assert!(
        same.equal > 3 && same.buckets.is_empty() && same.records.is_empty() && same.unknown.is_empty(),
        "{same:?}"
    );
    let found = super::against(&stores[0], &stores[1], &all).await.unwrap();
    let mut odd: Vec<_> = found.records.iter().map(|odd| (odd.seq as usize, odd.is)).collect();
    odd.sort_by_key(|(seq, _)| *seq);
    assert_eq!(odd, [(gone, super::Where::Here), (altered, super::Where::Differs)]);
    assert!(found.buckets.iter().map(|bucket| bucket.records - bucket.other_records).sum::<i64>() == 1, "{found:?}");
}

/// A book that took these pieces: stream, first seq, records.
fn book_of(pieces: &[(StreamId, u64, Vec<UsageRecord>)]) -> Book {
    let mut book = Book::open(Default::default(), options()).unwrap();
    for (at, (stream, first_seq, records)) in (0..).zip(pieces) {
        let spot = Spot { source: "log".into(), part: "0".into(), from: at, to: at + 1, at_us: 0 };
        book.records(spot, stream.clone(), *first_seq, 0, records.clone()).unwrap();
    }
    book
}

#[test]
fn an_epoch_of_which_nothing_came_is_a_gap_until_it_comes() {
    let epoch = |epoch| StreamId { node: "n".into(), epoch, shard: 0 };
    let node = |phase: Phase, at, ended: Vec<ShardEnd>| UsageRecord {
        kind: RecordKind::Node.into(),
        phase: phase.into(),
        at,
        ended,
        ..UsageRecord::default()
    };
    let end =
        |epoch, next_seq, started_at| ShardEnd { epoch, shard: 0, next_seq, started_at, ended_at: started_at + 9 };
    let life = |at: i64, ended: Vec<ShardEnd>| {
        vec![
            node(Phase::Open, at, ended),
            node(Phase::Checkpoint, at + 5, Vec::new()),
            node(Phase::Close, at + 9, Vec::new()),
        ]
    };
    let ends = vec![end(1, 3, 100), end(2, 3, 200)];
    let (first, second, third) = (life(100, vec![]), life(200, vec![end(1, 3, 100)]), life(300, ends.clone()));
    let gaps = |pieces: &[(StreamId, u64, Vec<UsageRecord>)]| {
        let batch = book_of(pieces).batch().unwrap();
        let until = super::nodes(&batch.streams, &batch.gaps)[0].complete_until_us;
        let gaps = batch.gaps.into_iter();
        let gaps = gaps.map(|gap| (gap.place.epoch, gap.first_seq, gap.next_seq, gap.cause, gap.from_us, gap.to_us));
        (gaps.collect::<Vec<_>>(), until)
    };
    let missing = |cause: &str, epoch, first, from_us, to_us| (epoch, first, 3, cause.to_owned(), from_us, to_us);
    // Nothing of the second, and the tail of the first.
    let pieces = vec![(epoch(1), 0, first[..2].to_vec()), (epoch(3), 0, third.clone())];
    let expected = vec![missing("missing", 1, 2, 105, 109), missing("missing", 2, 0, 200, 209)];
    assert_eq!(gaps(&pieces), (expected, Some(105)));
    // They come late, in any order.
    let mut late = pieces.clone();
    late.extend([(epoch(2), 0, second.clone()), (epoch(1), 2, first[2..].to_vec())]);
    assert_eq!(gaps(&late), (vec![], None));
    // A ledger that begins with the third epoch.
    let expected = vec![missing("before_start", 1, 0, 100, 109), missing("before_start", 2, 0, 200, 209)];
    assert_eq!(gaps(&[(epoch(3), 0, third)]), (expected, Some(100)));
    // It was known that they are complete; nothing is said of the future, nor of what cannot be.
    let nonsense =
        vec![end(4, 7, 1), end(3, 900, 1), end(-1, 5, 1), end(1, -5, 1), ShardEnd { shard: 70_000, ..end(1, 5, 1) }];
    let again = [ends, nonsense].concat();
    assert_eq!(gaps(&[(epoch(1), 0, first), (epoch(2), 0, second), (epoch(3), 0, life(300, again))]), (vec![], None));
}
