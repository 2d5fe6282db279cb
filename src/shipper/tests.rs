//! The shipper against a sink that does everything a sink may do: takes, is full, fails, answers late, in any order or never,
//! refuses what is large, and says "unknown" of what it has. Whatever it does: no cursor passes a record that the sink
//! does not have, and in the end it has all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::stream::{BatchMax, Stream};
use super::{Pace, Source, Work};
use crate::event::Losses;
use crate::journal::{Budget, Cursor, Options, StateDir, Writer};
use crate::metrics::metrics;
use crate::sink::{Batch, Boundary, Error, Failure, Hash, Outcome, Sent, Sink, Status, Ticket};

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) % end
    }
}

/// What the other side has, by shard: a seq, and the bytes.
type Delivered = Arc<Mutex<BTreeMap<u16, BTreeMap<u64, Vec<u8>>>>>;

struct Moody {
    dice: Dice,
    delivered: Delivered,
    held: Vec<(Ticket, Result<(), Failure>)>,
    bytes_max: usize,
    /// From now on it behaves.
    calm: bool,
}

impl Sink for Moody {
    fn open(&mut self) -> Result<(), Error> {
        if !self.calm && self.dice.below(50) == 0 {
            return Err(Error::Topic { topic: "t".to_owned(), why: "moody".to_owned() });
        }
        Ok(())
    }

    fn send(&mut self, ticket: Ticket, batch: &Batch<'_>) -> Result<Sent, Error> {
        assert!(batch.after.next_seq <= batch.first_seq, "records are sent before those in front of them");
        let mood = if self.calm { 99 } else { self.dice.below(100) };
        let bytes: usize = batch.records.iter().map(|record| record.len()).sum();
        let (lands, answer) = match mood {
            0..8 => return Ok(Sent::Full),
            8..10 => return Err(Error::Topic { topic: "t".to_owned(), why: "moody".to_owned() }),
            _ if bytes > self.bytes_max => (false, Err(Failure::TooLarge("large".to_owned()))),
            10..12 => (true, Err(Failure::Unknown("it is there".to_owned()))),
            12..14 => (false, Err(Failure::Unknown("it is not there".to_owned()))),
            _ => (true, Ok(())),
        };
        if lands {
            let mut delivered = self.delivered.lock().unwrap();
            let shard = delivered.entry(batch.shard).or_default();
            for (seq, record) in (batch.first_seq..).zip(batch.records) {
                let before = shard.insert(seq, record.to_vec());
                assert!(before.is_none_or(|before| before == *record), "two records of one seq");
            }
        }
        self.held.push((ticket, answer));
        let next_seq = batch.first_seq + batch.records.len() as u64;
        Ok(Sent::Taken(Boundary { next_seq, hash: Some(Hash::of(&next_seq.to_le_bytes())) }))
    }

    fn poll(&mut self, _: Duration, outcomes: &mut Vec<Outcome>) {
        let mut at = 0;
        while at < self.held.len() {
            if self.calm || self.dice.below(3) == 0 {
                let (ticket, result) = self.held.swap_remove(at);
                outcomes.push(Outcome { ticket, result });
            } else {
                at += 1;
            }
        }
    }

    fn reset(&mut self) {
        self.held.clear();
    }

    fn complaint(&self) -> Option<String> {
        None
    }
}

fn work(sink: Moody, budget: Arc<Budget>) -> Work {
    let now = Instant::now();
    Work {
        sink: Some(Box::new(sink)),
        batch_max: BATCH_MAX,
        in_flight_bytes_max: 4000,
        in_flight_bytes: 0,
        pace: Pace::new(u64::MAX, now),
        next_ticket: 1,
        outcomes: Vec::new(),
        answered_at: now,
        gauges_at: now,
        budget,
        giving_up: super::giving_up::GivingUp::new(Losses::default()),
        metrics: metrics(),
        status: Arc::<Status>::default(),
        streams: Vec::new(),
    }
}

const BATCH_MAX: BatchMax = BatchMax { records: 20, bytes: 1000, linger: Duration::ZERO, in_flight: 3 };

#[test]
fn whatever_the_sink_does_no_record_is_lost() {
    for seed in 1..=6_u64 {
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let directory = tempfile::tempdir().unwrap();
        let options = Options { segment_bytes: 8192, slots_max: 16, ..Options::default() };
        let budget = Arc::new(Budget::new(1 << 30));
        let epoch = StateDir::open(directory.path()).unwrap().claim_epoch().unwrap();
        let mut writers: Vec<_> =
            (0..2).map(|shard| Writer::create(&epoch, shard, "n", &options, budget.clone()).unwrap()).collect();
        let delivered = Delivered::default();
        let mut written: Vec<BTreeMap<u64, Vec<u8>>> = vec![BTreeMap::new(); 2];
        for life in 0..4_u64 {
            // A life ends as a kill ends it: only the cursor is left.
            let sink = Moody {
                dice: Dice(seed * 1000 + life + 1),
                delivered: delivered.clone(),
                held: Vec::new(),
                bytes_max: 400,
                calm: false,
            };
            let mut work = work(sink, budget.clone());
            for writer in &writers {
                let source = Source { shared: writer.shared(), dead: None };
                work.streams.push(Stream::open(source, BATCH_MAX).unwrap());
            }
            for _ in 0..100 {
                for (writer, written) in writers.iter_mut().zip(&mut written) {
                    for _ in 0..dice.below(6) {
                        let record = vec![dice.below(256) as u8; 1 + dice.below(120) as usize];
                        written.insert(writer.append(&record).unwrap(), record);
                    }
                    if dice.below(2) == 0 {
                        writer.shared().sync().unwrap();
                    }
                }
                if work.round(dice.below(4) == 0).is_err() {
                    work.fail("moody");
                }
                check_cursors(&writers, &delivered);
            }
        }
        // In the end it behaves, and everything arrives.
        let sink =
            Moody { dice: Dice(seed), delivered: delivered.clone(), held: Vec::new(), bytes_max: 400, calm: true };
        let mut work = work(sink, budget.clone());
        for writer in &writers {
            writer.shared().sync().unwrap();
            work.streams.push(Stream::open(Source { shared: writer.shared(), dead: None }, BATCH_MAX).unwrap());
        }
        for _ in 0..10_000 {
            if work.is_idle() {
                break;
            }
            work.round(true).unwrap();
        }
        assert!(work.is_idle(), "seed {seed}: it never ends");
        assert_eq!(work.in_flight_bytes, 0, "seed {seed}");
        let delivered = delivered.lock().unwrap();
        for (shard, written) in (0..).zip(&written) {
            assert_eq!(delivered.get(&shard), Some(written), "seed {seed}");
        }
    }
}

/// What the cursor says is safe the other side has.
fn check_cursors(writers: &[Writer], delivered: &Delivered) {
    let delivered = delivered.lock().unwrap();
    for writer in writers {
        let shared = writer.shared();
        let next_seq = Cursor::peek(shared.directory()).unwrap();
        let there: BTreeSet<u64> = delivered
            .get(&shared.shard())
            .map(|seqs| seqs.range(..next_seq).map(|(seq, _)| *seq).collect())
            .unwrap_or_default();
        assert_eq!(there.len() as u64, next_seq, "a record below the cursor was never delivered");
    }
}
