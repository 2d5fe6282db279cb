//! The loop: read → files → one commit → on. Whatever fails, everything in memory is thrown away and read again from the manifest: a
//! kill and a failure are the same thing.
//!
//! | a crash | costs |
//! |---|---|
//! | while records are read | they are read again |
//! | after some or all files are written | files that no commit names: swept when they are an hour old |
//! | after the commit | nothing: the manifest says how far the sources were read |
//! | after the commit, before the checkpoint | a few more commits to read |
//!
//! Keys that `weir erase` destroys in another process are noticed before the next commit (`keys.rs`), and the same is done.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use super::file::{Effort, Encoded};
use super::keys::Keys;
use super::manifest::{Commit, Manifest, Unreadable, Why};
use super::rows::Rows;
use super::{Error, Place};
use crate::causes::chain;
use crate::clock::Clock;
use crate::config::{Archive, ArchiveAddresses};
use crate::rollup::{Book, Feed, FeedError, Options};
use crate::store::Found;

/// Between two looks at a journal or at files that had nothing new.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Longest wait for a topic, so that whoever asks it to stop is heard.
const WAIT: Duration = Duration::from_millis(200);
/// Between two attempts after a failure.
const RETRY: Duration = Duration::from_secs(1);
/// How often small files are joined, old rows go, and leftovers are swept.
const UPKEEP: Duration = Duration::from_secs(600);

/// What stops an archiver. It may work again later.
#[derive(Debug, thiserror::Error)]
pub enum Stop {
    /// The archive.
    #[error(transparent)]
    Archive(#[from] Error),
    /// The feed.
    #[error(transparent)]
    Feed(#[from] FeedError),
    /// The manifest holds what this release does not understand.
    #[error("the archive is of another release: {0}")]
    Book(String),
}

/// What a step did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Records that were committed.
    pub records: u64,
    /// Records that had come before.
    pub duplicates: u64,
    /// Everything that is there was read.
    pub is_idle: bool,
}

/// Reads one feed into one archive.
pub struct Archiver {
    place: Place,
    config: Archive,
    feed: Feed,
    /// Asked at each (re)start.
    options: Box<dyn Fn() -> Options + Send>,
    rows: Arc<Mutex<Rows>>,
    /// None after a failure: it is read again first.
    under_way: Option<(Book, Manifest)>,
    committed_at: Instant,
}

impl Archiver {
    /// Opens the place, and the keys that it needs.
    pub fn new(config: Archive, feed: Feed, options: impl Fn() -> Options + Send + 'static) -> Result<Self, Error> {
        Self::at(Place::open(&config.place)?, config, feed, options)
    }

    /// The same, of a place that is open.
    pub fn at(
        place: Place,
        config: Archive,
        feed: Feed,
        options: impl Fn() -> Options + Send + 'static,
    ) -> Result<Self, Error> {
        let keys = match config.addresses {
            ArchiveAddresses::Sealed => Some(Keys::open(&config.keys)?),
            ArchiveAddresses::Plain => None,
        };
        let rows = Arc::new(Mutex::new(Rows::new(config.buckets, keys)));
        let options = Box::new(options);
        Ok(Self { place, config, feed, options, rows, under_way: None, committed_at: Instant::now() })
    }

    /// Where it writes.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Reads some records, and commits what has come when it is time; `is_last`: when there is nothing more to read.
    pub fn step(&mut self, is_last: bool) -> Result<Progress, Stop> {
        let (mut book, mut manifest) = match self.under_way.take() {
            Some(under_way) => under_way,
            None => self.begin()?,
        };
        let records_max = self.config.commit_records_max as u64;
        let is_idle = !self.feed.read(&mut book, records_max, WAIT)?;
        let (records, duplicates) = book.counts();
        let is_due =
            records >= records_max || self.committed_at.elapsed() >= self.config.commit_interval || is_idle && is_last;
        let mut progress = Progress { is_idle, ..Progress::default() };
        if is_due {
            if !self.commit(&mut book, &mut manifest)? {
                return Ok(Progress::default());
            }
            (progress.records, progress.duplicates) = (records, duplicates);
            self.committed_at = Instant::now();
        } else if is_idle && self.feed.is_polled() {
            std::thread::sleep(LOOK_AGAIN);
        }
        self.under_way = Some((book, manifest));
        Ok(progress)
    }

    /// Goes on until it is told to stop; `is_once`: until everything that is there was read. Says how many records it committed.
    pub fn run(&mut self, stop: &AtomicBool, is_once: bool) -> Result<u64, Stop> {
        let (mut records, mut kept_at) = (0, Instant::now());
        loop {
            let is_last = is_once || stop.load(Ordering::Relaxed);
            match self.step(is_last) {
                Ok(progress) => {
                    records += progress.records;
                    // What is read and not committed is read again by the next one.
                    if is_last && (progress.is_idle || !is_once) {
                        return Ok(records);
                    }
                }
                Err(stopped) if is_last => return Err(stopped),
                Err(stopped) => {
                    error!(error = %chain(&stopped), "nothing was archived: begun again in {} s", RETRY.as_secs());
                    std::thread::sleep(RETRY);
                }
            }
            if kept_at.elapsed() >= UPKEEP {
                kept_at = Instant::now();
                match super::keep(&self.place, &self.config, Clock::anchored().now_us()) {
                    Ok(kept) => info!(?kept, "the archive is kept"),
                    Err(failed) => error!(error = %chain(&failed), "the archive is not kept up: tried again later"),
                }
            }
        }
    }

    fn begin(&mut self) -> Result<(Book, Manifest), Stop> {
        let manifest = Manifest::read(&self.place)?;
        let found = Found {
            streams: manifest.streams.clone(),
            gaps: manifest.gaps.clone(),
            positions: manifest.positions.clone(),
            ..Found::default()
        };
        let mut book = Book::open(found, (self.options)()).map_err(Stop::Book)?;
        book.keep_no_usage();
        locked(&self.rows).clear();
        let rows = self.rows.clone();
        book.watch(Box::new(move |taken| locked(&rows).push(taken)));
        self.feed.rewind(&book)?;
        Ok((book, manifest))
    }

    /// False: all that was read since the last commit is to be read again.
    fn commit(&mut self, book: &mut Book, manifest: &mut Manifest) -> Result<bool, Stop> {
        let batch = book.batch().map_err(Stop::Book)?;
        if batch.is_empty() {
            return Ok(true);
        }
        self.feed.harden()?;
        // From here to the commit nobody destroys a key.
        let still = match locked(&self.rows).keys() {
            Some(keys) => Some(keys.stand_still()?),
            None => None,
        };
        if let Some(None) = still {
            info!("keys were destroyed meanwhile: what was encrypted and not committed is read again");
            return Ok(false);
        }
        let mut commit = Commit::after(manifest, Clock::anchored().now_us(), Why::Append);
        for piece in locked(&self.rows).take()? {
            let of = (piece.hour_us, piece.bucket, self.config.buckets);
            let encoded = Encoded::new(piece.table, of, commit.number, &piece.rows, Effort::Quick)?;
            commit.add.push(encoded.write(&self.place)?);
        }
        commit.moves = batch.moves;
        commit.streams = batch.streams;
        (commit.gaps_gone, commit.gaps) = (batch.gaps_gone, batch.gaps);
        let unreadable = batch.quarantine.into_iter().map(|found| Unreadable {
            source: found.source,
            part: found.part,
            position: found.position,
            at_us: found.at_us,
            reason: found.reason,
        });
        commit.unreadable = unreadable.collect();
        let files = commit.add.len();
        if !manifest.commit(&self.place, commit)? {
            warn!("another process has archived the same: everything is read again");
            return Ok(false);
        }
        let records = book.counts().0;
        book.committed();
        info!(commit = manifest.number, files, records, "archived");
        Ok(true)
    }
}

fn locked(rows: &Mutex<Rows>) -> std::sync::MutexGuard<'_, Rows> {
    rows.lock().unwrap_or_else(PoisonError::into_inner)
}
