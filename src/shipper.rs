//! From the journal to the sink: one thread, which owns every shard's cursor.
//!
//! Only records that survive a power cut are shipped; the cursor moves after the sink has taken them, and segments are
//! freed behind it. A sink that fails is asked again, with growing pauses: nothing is skipped, nothing is dropped here.
//!
//! *With sink `none`* the journal itself is the log. It is kept until the budget is nearly used up; then the oldest
//! records go, once their sum is stated in a gap record ([`giving_up`]).

mod giving_up;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tracing::{error, warn};

use crate::config::Sink;
use crate::event::Losses;
use crate::journal::{self, Budget, Cursor, Entry, EpochDir, Reader, Shared};
use crate::metrics::Metrics;
use crate::sink::{self, Batch, FileSink};
use giving_up::GivingUp;

/// Most records in one batch.
const BATCH_RECORDS: usize = 500;
/// Most bytes in one batch.
const BATCH_BYTES: usize = 512 << 10;
/// Pause when there was nothing to ship.
const IDLE: Duration = Duration::from_millis(100);
/// Longest pause after a failure.
const RETRY_MAX: Duration = Duration::from_secs(5);
/// With sink `none`: how much of the budget may be used before the oldest records go, in percent.
const KEEP_PERCENT: u64 = 90;

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
    thread: Option<JoinHandle<()>>,
}

impl Shipper {
    /// Starts it.
    pub fn start(
        config: &Sink,
        budget: Arc<Budget>,
        losses: Losses,
        metrics: &'static Metrics,
    ) -> Result<Self, sink::Error> {
        let sink = match config {
            Sink::None => None,
            Sink::File(file) => Some(FileSink::new(file)?),
        };
        let inbox = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let mut work = Work { sink, budget, giving_up: GivingUp::new(losses), metrics, streams: Vec::new() };
        let (their_inbox, their_stop) = (inbox.clone(), stop.clone());
        let thread = std::thread::Builder::new().name("weir-shipper".into()).spawn(move || {
            work.run(&their_inbox, &their_stop);
        });
        let thread = thread.map_err(|source| sink::Error::Io {
            operation: "start the thread of",
            path: "weir-shipper".into(),
            source,
        })?;
        Ok(Self { inbox, stop, thread: Some(thread) })
    }

    /// Ships this one too.
    pub fn add(&self, source: Source) {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner).push(source);
    }

    /// Ships what is published and ends; what the sink does not take stays in the journal.
    pub fn stop(mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            error!("the shipper died; what it did not ship stays in the journal");
        }
    }
}

struct Stream {
    source: Source,
    reader: Reader,
    cursor: Cursor,
    released_at: Instant,
}

struct Work {
    sink: Option<FileSink>,
    budget: Arc<Budget>,
    giving_up: GivingUp,
    metrics: &'static Metrics,
    streams: Vec<Stream>,
}

impl Work {
    fn run(&mut self, inbox: &Mutex<Vec<Source>>, stop: &AtomicBool) {
        let mut pause = IDLE;
        loop {
            let stopping = stop.load(Ordering::Acquire);
            for source in inbox.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
                match open(source) {
                    Ok(stream) => self.streams.push(stream),
                    Err(error) => error!(error = %chain(&error), "a journal cannot be read: it stays where it is"),
                }
            }
            match self.round() {
                Ok(0) if stopping => return,
                Ok(0) => {
                    pause = IDLE;
                    std::thread::sleep(pause);
                }
                Ok(_) => pause = IDLE,
                Err(error) => {
                    self.metrics.sink_failures.increment(1);
                    warn!(error = %chain(&*error), retry_ms = pause.as_millis(), "the sink does not take records; they wait in the journal");
                    if stopping {
                        return;
                    }
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(RETRY_MAX);
                }
            }
        }
    }

    /// One batch of each shard. How many records were taken.
    fn round(&mut self) -> Result<usize, Box<dyn std::error::Error>> {
        let mut taken = 0;
        let mut streams = std::mem::take(&mut self.streams);
        let result = streams.iter_mut().try_for_each(|stream| {
            taken += match self.sink {
                Some(_) => self.ship(stream)?,
                None => self.keep(stream)?,
            };
            Ok(())
        });
        self.streams = streams;
        self.remove_shipped_epochs();
        result.map(|()| taken)
    }

    fn ship(&mut self, stream: &mut Stream) -> Result<usize, Box<dyn std::error::Error>> {
        let first_seq = stream.cursor.next_seq();
        if stream.reader.next_seq() != first_seq {
            stream.reader = Reader::open(stream.source.shared.directory(), first_seq)?;
        }
        let records = self.read(stream)?;
        let next_seq = stream.reader.next_seq();
        if let Some(sink) = &mut self.sink
            && !records.is_empty()
        {
            let shared = &stream.source.shared;
            let batch = Batch {
                node: shared.node(),
                epoch: shared.epoch(),
                shard: shared.shard(),
                first_seq: next_seq - records.len() as u64,
                records: &records,
            };
            sink.write(&batch)?;
            self.metrics.sink_records.increment(records.len() as u64);
        }
        // A kill here: the batch comes again, and the sink knows it by its seqs.
        let due = stream.released_at.elapsed() >= Duration::from_secs(1) || records.is_empty();
        if next_seq > first_seq && (due || records.len() < BATCH_RECORDS) {
            stream.cursor.advance(next_seq)?;
            stream.source.shared.release_through(&stream.cursor)?;
            stream.released_at = Instant::now();
        } else if next_seq > first_seq {
            stream.cursor.advance(next_seq)?;
        }
        Ok(records.len())
    }

    /// Reads a batch of consecutive records ; what is damaged is named and passed over.
    fn read(&self, stream: &mut Stream) -> Result<Vec<Vec<u8>>, journal::Error> {
        let limit = stream.source.shared.synced_seq();
        let mut records = Vec::new();
        let mut bytes = 0;
        while records.len() < BATCH_RECORDS && bytes < BATCH_BYTES {
            match stream.reader.next_below(limit)? {
                None => break,
                Some(Entry::Frame(frame)) => {
                    bytes += frame.payload.len();
                    records.push(frame.payload);
                }
                Some(Entry::Damaged(range)) => {
                    error!(?range, "records lost to damage in the journal: a gap");
                    if !records.is_empty() {
                        break;
                    }
                }
            }
        }
        Ok(records)
    }

    /// Without a sink: gives the oldest records up when the budget is nearly used.
    fn keep(&mut self, stream: &mut Stream) -> Result<usize, Box<dyn std::error::Error>> {
        let has_room = self.has_room();
        let source = &stream.source;
        self.giving_up.keep(&source.shared, source.dead.is_some(), &mut stream.cursor, has_room)?;
        Ok(0)
    }

    fn has_room(&self) -> bool {
        self.budget.used() * 100 <= self.budget.max() * KEEP_PERCENT
    }

    /// A dead epoch whose every record the sink has taken (or, without one, that had to be given up) is history.
    fn remove_shipped_epochs(&mut self) {
        let mut at = 0;
        while at < self.streams.len() {
            let stream = &self.streams[at];
            let shipped =
                stream.source.dead.is_some() && stream.cursor.next_seq() >= stream.source.shared.published_seq();
            if !shipped {
                at += 1;
                continue;
            }
            let stream = self.streams.swap_remove(at);
            let Some(epoch) = stream.source.dead else { continue };
            drop((stream.reader, stream.cursor, stream.source.shared));
            // The last of its shards removes it.
            if let Some(epoch) = Arc::into_inner(epoch)
                && let Err(error) = epoch.remove()
            {
                warn!(error = %chain(&error), "a shipped epoch cannot be removed");
            }
        }
    }
}

fn open(source: Source) -> Result<Stream, journal::Error> {
    let cursor = Cursor::open(source.shared.directory())?;
    let reader = Reader::open(source.shared.directory(), cursor.next_seq())?;
    Ok(Stream { source, reader, cursor, released_at: Instant::now() })
}

/// An error with its sources.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
