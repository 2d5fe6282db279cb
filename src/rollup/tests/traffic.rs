//! Traffic that is made up: lawful records of a few streams, as sidecars would write them, and logs of them with faults.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::event::{Kind as RecordKind, Phase, ShardEnd, UsageRecord};
use crate::units::COLUMNS;

pub(super) const T0: i64 = 1_795_370_400_000_000;

/// Numbers that look random and are the same each time.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }

    pub(super) fn is(&mut self, percent: u64) -> bool {
        self.roll(100) < percent
    }
}

/// Something open in the traffic that is made up.
pub(super) struct Live {
    id: [u8; 16],
    account: &'static str,
    totals: [i64; COLUMNS],
    recorded: [i64; COLUMNS],
    requests: Vec<Live>,
    begun: i64,
    started_at: i64,
}

impl Live {
    pub(super) fn new(dice: &mut Dice, account: &'static str, at: i64) -> Self {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&dice.roll(u64::MAX).to_be_bytes());
        id[8..].copy_from_slice(&dice.roll(u64::MAX).to_be_bytes());
        let none = [0; COLUMNS];
        Self { id, account, totals: none, recorded: none, requests: Vec::new(), begun: 0, started_at: at }
    }

    pub(super) fn move_bytes(&mut self, bytes: [i64; COLUMNS]) {
        self.totals.iter_mut().zip(bytes).for_each(|(total, bytes)| *total += bytes);
    }

    pub(super) fn record(&mut self, session: Option<[u8; 16]>, phase: Phase, at: i64) -> UsageRecord {
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
pub(super) fn traffic(dice: &mut Dice, steps: u64, folds: bool) -> Vec<UsageRecord> {
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

pub(super) fn checkpoint(session: &mut Live, records: &mut Vec<UsageRecord>, at: i64) {
    let id = session.id;
    for request in session.requests.iter_mut().filter(|request| request.totals != request.recorded) {
        records.push(request.record(Some(id), Phase::Checkpoint, at));
    }
    if session.totals != session.recorded {
        records.push(session.record(None, Phase::Checkpoint, at));
    }
}

pub(super) fn close(mut session: Live, records: &mut Vec<UsageRecord>, at: i64) {
    let id = session.id;
    for mut request in std::mem::take(&mut session.requests) {
        records.push(request.record(Some(id), Phase::Close, at));
    }
    records.push(session.record(None, Phase::Close, at));
}

/// Two epochs of each node, of which the second says where the first ended.
pub(super) fn epochs(dice: &mut Dice, steps: u64, folds: impl Fn(usize) -> bool) -> Vec<Vec<UsageRecord>> {
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
pub(super) type Piece = (usize, u64, usize);

/// What a log holds, with faults: how often each is written, and in which order.
pub(super) struct Faults {
    pub(super) drop: u64,
    pub(super) twice: u64,
    pub(super) late: u64,
}

pub(super) fn log(dice: &mut Dice, streams: &[Vec<UsageRecord>], faults: &Faults) -> Vec<Piece> {
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
