//! From the journal to the sink: one thread, which owns every shard's cursor.
//!
//! Only records that survive a power cut are shipped, in batches, without waiting for one before sending the next. The cursor
//! follows what the sink has acknowledged without a hole, and segments are freed behind it (`stream`). Whatever else
//! happens to a batch (refused, given up, no word of it), everything of its shard that is not acknowledged is read again from
//! the journal and sent again: nothing is skipped, nothing is dropped here, and what comes twice readers know by its seq.
//!
//! * **When the sink is slow or down**: at most `in_flight_bytes_max` are under way; the rest waits in the journal. It is asked
//!   again with growing pauses, and goes on by itself. Then records go at `drain_bytes_per_s_max` at most (`pace`), and this
//!   thread and those of the sink give way to the workers (nice 5), so that live traffic keeps its latency.
//! * **What survives a crash**: the cursor. What was acknowledged since it was last written is sent again.
//!
//! *With sink `none`* the journal itself is the log. It is kept until the budget is nearly used up; then the oldest
//! records go, once their sum is stated in a gap record (`giving_up`).

mod giving_up;
mod pace;
mod stream;

#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tracing::{debug, error, info, warn};

use crate::causes::chain;
use crate::config;
use crate::event::Losses;
use crate::journal::{Budget, EpochDir, Shared};
use crate::metrics::Metrics;
use crate::sink::{self, Batch, Failure, FileSink, KafkaSink, Outcome, Sent, Sink, Status, Ticket};
use giving_up::GivingUp;
use pace::Pace;
use stream::{BatchMax, Stream};

/// Pause when there was nothing to ship.
const IDLE: Duration = Duration::from_millis(50);
/// Longest wait for an answer before the next look at the journal.
const ANSWER: Duration = Duration::from_millis(10);
/// First and longest pause after a failure.
const RETRY: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// Batches of one shard before the next shard has its turn.
const TURN: usize = 8;
/// A sink that complains and has acknowledged nothing for this long is down.
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// At the end: how long the sink has to acknowledge what is left.
const STOP_MAX: Duration = Duration::from_secs(10);
/// How often what waits is counted.
const GAUGES: Duration = Duration::from_millis(500);
/// With sink `none`: how much of the budget may be used before the oldest records go, in percent.
const KEEP_PERCENT: u64 = 90;
/// What a sink without options of its own gets.
const FILE_BATCH: BatchMax = BatchMax { records: 500, bytes: 512 << 10, linger: Duration::ZERO, in_flight: usize::MAX };
const FILE_IN_FLIGHT_BYTES_MAX: u64 = 4 << 20;
/// Messages of one shard that librdkafka has at a time: what an idempotent producer may have under way. With one more its thread
/// asks in a busy loop whether it may go yet.
const IN_FLIGHT_MESSAGES_MAX: usize = 5;

/// A journal to ship: a live shard, or one of a dead epoch.
pub struct Source {
    /// Its shard.
    pub shared: Arc<Shared>,
    /// The dead epoch it belongs to: removed when all of its shards are shipped.
    pub dead: Option<Arc<EpochDir>>,
}

/// The thread.
pub struct Shipper {
    inbox: Arc<Mutex<Vec<Source>>>,
    stop: Arc<AtomicBool>,
    status: Arc<Status>,
    thread: Option<JoinHandle<()>>,
}

impl Shipper {
    /// Starts it.
    pub fn start(
        config: &config::Sink,
        budget: Arc<Budget>,
        losses: Losses,
        metrics: &'static Metrics,
    ) -> Result<Self, sink::Error> {
        let now = Instant::now();
        let status = Arc::<Status>::default();
        let (sink, batch_max, in_flight_bytes_max, bytes_per_s): (Option<Box<dyn Sink>>, _, _, _) = match config {
            config::Sink::None => (None, FILE_BATCH, 0, 0),
            config::Sink::File(file) => {
                (Some(Box::new(FileSink::new(file)?)), FILE_BATCH, FILE_IN_FLIGHT_BYTES_MAX, u64::MAX)
            }
            config::Sink::Kafka(kafka) => {
                let options = &kafka.kafka;
                let batch_max = BatchMax {
                    records: options.batch_records_max,
                    bytes: options.batch_bytes_max,
                    linger: options.linger,
                    in_flight: match options.layout {
                        config::KafkaLayout::Batch => IN_FLIGHT_MESSAGES_MAX,
                        config::KafkaLayout::Record => usize::MAX,
                    },
                };
                let sink = Box::new(KafkaSink::new(kafka)?);
                (Some(sink), batch_max, options.in_flight_bytes_max, options.drain_bytes_per_s_max)
            }
        };
        let mut work = Work {
            sink,
            batch_max,
            in_flight_bytes_max,
            in_flight_bytes: 0,
            pace: Pace::new(bytes_per_s, now),
            next_ticket: 1,
            outcomes: Vec::new(),
            answered_at: now,
            gauges_at: now,
            budget,
            giving_up: GivingUp::new(losses),
            metrics,
            status: status.clone(),
            streams: Vec::new(),
        };
        metrics.sink_up.set(1.0);
        let inbox = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (their_inbox, their_stop) = (inbox.clone(), stop.clone());
        let thread = std::thread::Builder::new().name("weir-shipper".into()).spawn(move || {
            work.run(&their_inbox, &their_stop);
        });
        let thread = thread.map_err(|source| sink::Error::Io {
            operation: "start the thread of",
            path: "weir-shipper".into(),
            source,
        })?;
        Ok(Self { inbox, stop, status, thread: Some(thread) })
    }

    /// Ships this one too.
    pub fn add(&self, source: Source) {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner).push(source);
    }

    /// How the sink is.
    pub fn status(&self) -> Arc<Status> {
        self.status.clone()
    }

    /// Ships what is published and ends; what the sink does not take stays in the journal.
    pub fn stop(mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            if thread.join().is_err() {
                error!("the shipper died; what it did not ship stays in the journal");
            }
        }
    }
}

struct Work {
    sink: Option<Box<dyn Sink>>,
    batch_max: BatchMax,
    in_flight_bytes_max: u64,
    in_flight_bytes: u64,
    pace: Pace,
    next_ticket: Ticket,
    outcomes: Vec<Outcome>,
    /// When the sink last acknowledged something, or had nothing to.
    answered_at: Instant,
    gauges_at: Instant,
    budget: Arc<Budget>,
    giving_up: GivingUp,
    metrics: &'static Metrics,
    status: Arc<Status>,
    streams: Vec<Stream>,
}

impl Work {
    fn run(&mut self, inbox: &Mutex<Vec<Source>>, stop: &AtomicBool) {
        // The threads of the sink's client begin as this one is.
        if let Err(error) = rustix::process::nice(5) {
            debug!(%error, "the shipper keeps its priority");
        }
        let mut pause = RETRY;
        let mut stop_by = None;
        loop {
            // Read before the inbox is: what was put there before the word to stop is shipped.
            let stopping = stop.load(Ordering::Acquire);
            for source in inbox.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
                match Stream::open(source, self.batch_max) {
                    Ok(stream) => self.streams.push(stream),
                    Err(error) => error!(error = %chain(&error), "a journal cannot be read: it stays where it is"),
                }
            }
            if stopping {
                let by = *stop_by.get_or_insert_with(|| Instant::now() + STOP_MAX);
                if self.sink.is_none() || self.is_idle() || Instant::now() >= by {
                    return self.end();
                }
            }
            match self.round(stopping) {
                Ok(()) => pause = RETRY,
                Err(error) => {
                    self.fail(&chain(&*error));
                    if stopping {
                        return self.end();
                    }
                    std::thread::park_timeout(pause);
                    pause = (pause * 2).min(RETRY_MAX);
                }
            }
            self.remove_shipped_epochs();
            self.set_gauges();
        }
    }

    /// Everything published is safe.
    fn is_idle(&self) -> bool {
        self.streams
            .iter()
            .all(|stream| stream.lag() == 0 && stream.cursor.next_seq() >= stream.shared().published_seq())
    }

    fn end(&mut self) {
        let left: u64 = self.streams.iter().map(Stream::lag).sum();
        if self.sink.is_some() && left > 0 {
            warn!(records = left, "the sink has not taken all: the rest waits in the journal for the next start");
        }
    }

    /// The sink does not take records: everything in flight is unknown, and sent again.
    fn fail(&mut self, why: &str) {
        self.metrics.sink_failures.increment(1);
        let waiting: u64 = self.streams.iter().map(Stream::lag).sum();
        self.down(why);
        debug!(error = why, waiting, "the sink failed");
        let unknown: usize = self.streams.iter().map(Stream::in_flight).sum();
        if let Some(sink) = &mut self.sink {
            sink.reset();
        }
        self.metrics.sink_resent_batches.increment(unknown as u64);
        self.in_flight_bytes = 0;
        self.outcomes.clear();
        self.streams.iter_mut().for_each(Stream::rewind);
    }

    fn down(&self, why: &str) {
        if self.status.set_down(why) {
            let waiting: u64 = self.streams.iter().map(Stream::lag).sum();
            self.metrics.sink_up.set(0.0);
            warn!(error = why, waiting, "the sink does not take records; they wait in the journal");
        }
    }

    fn up(&self) {
        if let Some(seconds) = self.status.set_up() {
            let waiting: u64 = self.streams.iter().map(Stream::lag).sum();
            self.metrics.sink_up.set(1.0);
            info!(seconds, waiting, "the sink takes records again");
        }
    }

    /// Sends what there is, hears what became of what was sent, and frees what is safe.
    fn round(&mut self, stopping: bool) -> Result<(), Box<dyn std::error::Error>> {
        let Some(mut sink) = self.sink.take() else {
            let mut streams = std::mem::take(&mut self.streams);
            // Without a sink the oldest records are given up when the budget is nearly used.
            let kept = streams.iter_mut().try_for_each(|stream| {
                let has_room = self.has_room();
                let source = &stream.source;
                self.giving_up.keep(&source.shared, source.dead.is_some(), &mut stream.cursor, has_room)
            });
            self.streams = streams;
            std::thread::park_timeout(IDLE);
            return kept.map_err(Into::into);
        };
        let mut streams = std::mem::take(&mut self.streams);
        let result = self.ship(&mut *sink, &mut streams, stopping);
        self.streams = streams;
        self.sink = Some(sink);
        result
    }

    fn ship(
        &mut self,
        sink: &mut dyn Sink,
        streams: &mut [Stream],
        stopping: bool,
    ) -> Result<(), Box<dyn std::error::Error>> {
        if streams.iter().any(|stream| stream.lag() > 0) {
            sink.open()?;
        }
        let sent = self.send(sink, streams, stopping)?;
        let now = Instant::now();
        if self.in_flight_bytes == 0 {
            self.answered_at = now;
        }
        let wait = match (sent, self.in_flight_bytes) {
            (true, in_flight) if in_flight < self.in_flight_bytes_max => Duration::ZERO,
            (_, 0) => IDLE.min(self.pace.wait(now).max(Duration::from_millis(1))).max(ANSWER),
            _ => ANSWER,
        };
        let mut outcomes = std::mem::take(&mut self.outcomes);
        sink.poll(wait, &mut outcomes);
        let heard = self.hear(&mut outcomes, streams);
        self.outcomes = outcomes;
        heard?;
        let now = Instant::now();
        if now.duration_since(self.answered_at) > ANSWER_MAX
            && let Some(complaint) = sink.complaint()
        {
            self.down(&complaint);
        }
        for stream in streams.iter_mut() {
            stream.settle();
            let all_safe = stream.in_flight() == 0 && stream.lag() == 0;
            stream.follow(now, all_safe && (stopping || stream.source.dead.is_some()))?;
        }
        Ok(())
    }

    /// A turn of each shard. Whether anything was sent.
    fn send(
        &mut self,
        sink: &mut dyn Sink,
        streams: &mut [Stream],
        stopping: bool,
    ) -> Result<bool, Box<dyn std::error::Error>> {
        let mut sent = false;
        for stream in streams {
            for _ in 0..TURN {
                let now = Instant::now();
                let full = self.in_flight_bytes >= self.in_flight_bytes_max;
                if full || !self.pace.wait(now).is_zero() {
                    return Ok(sent);
                }
                if stream.in_flight() >= self.batch_max.in_flight {
                    break;
                }
                let hurry = stopping || stream.source.dead.is_some();
                if !stream.read(now, hurry)? {
                    break;
                }
                let shared = stream.shared();
                let records = stream.pending.records();
                let batch = Batch {
                    node: shared.node(),
                    epoch: shared.epoch(),
                    shard: shared.shard(),
                    first_seq: stream.pending.first_seq,
                    after: stream.sent(),
                    records: &records,
                };
                let bytes = stream.pending.bytes();
                match sink.send(self.next_ticket, &batch)? {
                    Sent::Full => return Ok(sent),
                    Sent::Taken(end) => stream.taken(self.next_ticket, end),
                }
                self.next_ticket += 1;
                self.in_flight_bytes += bytes as u64;
                self.pace.spend(bytes, now);
                self.metrics.sink_batches.increment(1);
                sent = true;
            }
        }
        Ok(sent)
    }

    fn hear(&mut self, outcomes: &mut Vec<Outcome>, streams: &mut [Stream]) -> Result<(), Failure> {
        for Outcome { ticket, result } in outcomes.drain(..) {
            match result {
                Ok(()) => {
                    for stream in streams.iter_mut() {
                        let (records, bytes) = stream.safe(ticket);
                        self.metrics.sink_records.increment(records);
                        self.in_flight_bytes = self.in_flight_bytes.saturating_sub(bytes);
                    }
                    self.answered_at = Instant::now();
                    self.up();
                }
                Err(Failure::TooLarge(why)) => {
                    self.metrics.sink_failures.increment(1);
                    for stream in streams.iter_mut() {
                        let bytes = stream.too_large(ticket, &why);
                        self.in_flight_bytes = self.in_flight_bytes.saturating_sub(bytes);
                    }
                }
                Err(unknown) => return Err(unknown),
            }
        }
        Ok(())
    }

    fn set_gauges(&mut self) {
        let now = Instant::now();
        if now.duration_since(self.gauges_at) < GAUGES {
            return;
        }
        self.gauges_at = now;
        let waiting: u64 = self.streams.iter().map(Stream::lag).sum();
        self.metrics.sink_waiting_records.set(waiting as f64);
        self.metrics.sink_in_flight_bytes.set(self.in_flight_bytes as f64);
        self.metrics.journal_bytes.set(self.budget.used() as f64);
        self.metrics.journal_bytes_max.set(self.budget.max() as f64);
    }

    fn has_room(&self) -> bool {
        self.budget.used() * 100 <= self.budget.max() * KEEP_PERCENT
    }

    /// A dead epoch whose every record the sink has taken (or, without one, that had to be given up) is history.
    fn remove_shipped_epochs(&mut self) {
        let mut at = 0;
        while at < self.streams.len() {
            if !self.streams[at].is_done() {
                at += 1;
                continue;
            }
            let Some(epoch) = self.streams.swap_remove(at).close() else { continue };
            // The last of its shards removes it.
            if let Some(epoch) = Arc::into_inner(epoch)
                && let Err(error) = epoch.remove()
            {
                warn!(error = %chain(&error), "a shipped epoch cannot be removed");
            }
        }
    }
}
