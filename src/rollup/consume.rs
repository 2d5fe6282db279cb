//! The loop: read → one transaction → on. Whatever fails, everything in memory is thrown away and read again from the store: a
//! kill and a failure are the same thing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::warn;

use super::book::{Book, Options};
use super::feed::{self, Feed};
use crate::store::{self, Store};

/// Between two looks at a journal or at files that had nothing new.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What stops a ledger.
#[derive(Debug, thiserror::Error)]
pub enum Stop {
    /// The store. Nothing was written; it may work again later.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The feed. It may work again later.
    #[error(transparent)]
    Feed(#[from] feed::Error),
    /// The store holds what this release does not understand.
    #[error("the ledger's database is damaged or of another release: {0}")]
    Damaged(String),
}

/// What a step did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Records taken and committed.
    pub records: u64,
    /// Records that had come before.
    pub duplicates: u64,
    /// Everything that is there was read.
    pub is_idle: bool,
}

/// Reads everything from the store.
pub async fn load(store: &Store, options: Options) -> Result<Book, Stop> {
    Book::open(store.load().await?, options).map_err(Stop::Damaged)
}

/// Reads one feed into one store.
pub struct Consumer {
    store: Store,
    runtime: Arc<tokio::runtime::Runtime>,
    options: Box<dyn Fn() -> Options + Send>,
    feed: Feed,
    /// None after a failure: it is read again first.
    book: Option<Book>,
    batch_records_max: u64,
    batch_interval: Duration,
    keeps_details: bool,
}

impl Consumer {
    /// Of a store that is open. `options` are asked for at each (re)start.
    pub fn new(
        store: Store,
        runtime: Arc<tokio::runtime::Runtime>,
        options: impl Fn() -> Options + Send + 'static,
        feed: Feed,
        (batch_records_max, batch_interval): (usize, Duration),
    ) -> Self {
        let batch_records_max = batch_records_max as u64;
        Self {
            store,
            runtime,
            options: Box::new(options),
            feed,
            book: None,
            batch_records_max,
            batch_interval,
            keeps_details: false,
        }
    }

    /// Records themselves are kept too, to be looked up one by one.
    pub fn with_details(self, keeps_details: bool) -> Self {
        Self { keeps_details, ..self }
    }

    /// Reads one batch and commits it. After an error the next step begins again at what is committed.
    pub fn step(&mut self) -> Result<Progress, Stop> {
        let mut book = match self.book.take() {
            Some(book) => book,
            None => {
                let mut book = self.runtime.block_on(load(&self.store, (self.options)()))?;
                if self.keeps_details {
                    book.keep_details();
                }
                self.feed.rewind(&book)?;
                book
            }
        };
        let begun = Instant::now();
        let mut is_idle = false;
        while book.counts().0 < self.batch_records_max {
            let left = self.batch_interval.saturating_sub(begun.elapsed());
            if self.feed.read(&mut book, self.batch_records_max, left)? {
                continue;
            }
            is_idle = true;
            if book.counts() != (0, 0) || begun.elapsed() >= self.batch_interval {
                break;
            }
            if self.feed.is_polled() {
                std::thread::sleep(LOOK_AGAIN.min(self.batch_interval));
                break;
            }
        }
        let (records, duplicates) = book.counts();
        let batch = book.batch().map_err(Stop::Damaged)?;
        if !batch.is_empty() {
            self.feed.harden()?;
            // A kill before this: the batch is read again. After it: the store says that it was read.
            match self.runtime.block_on(self.store.commit(&batch)) {
                Ok(()) => book.committed(),
                Err(error @ store::Error::Fenced(_)) => {
                    warn!(%error, "another process has changed the ledger: everything is read again");
                    return Ok(Progress::default());
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.book = Some(book);
        Ok(Progress { records, duplicates, is_idle })
    }
}
