//! The keeper: one thread per process that makes journals durable and prepares what their writers will need.
//!
//! Every `sync_interval` it syncs each shard's segments, every second its slots (every `sync_interval` while sums are made), and allocates
//! the next segment and the next slots ahead of the writer. A sync that fails marks the shard failed and its file poisoned (`shared.rs`);
//! the keeper goes on and tells of each change once.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::shared::{Health, Shared, error_text};
use super::{Error, lock};

const SLOTS_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Watched {
    shards: Vec<Arc<Shared>>,
    stopping: bool,
}

type Watch = (Mutex<Watched>, Condvar);

/// The background thread of all journals of a process. Dropped, it stops after a last sync.
#[derive(Debug)]
pub struct Keeper {
    watch: Arc<Watch>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Starts it over `shards`.
    pub fn start(shards: Vec<Arc<Shared>>, sync_interval: Duration) -> std::io::Result<Self> {
        let watched = Watched { shards, stopping: false };
        let watch: Arc<Watch> = Arc::new((Mutex::new(watched), Condvar::new()));
        let kept = Arc::clone(&watch);
        let thread =
            std::thread::Builder::new().name("journal-keeper".to_owned()).spawn(move || keep(&kept, sync_interval))?;
        Ok(Self { watch, thread: Some(thread) })
    }

    /// Also keeps `shard` (a recovered one) from now on.
    pub fn watch(&self, shard: Arc<Shared>) {
        lock(&self.watch.0).shards.push(shard);
    }

    /// Keeps `shard` no longer; its epoch is about to be removed.
    pub fn unwatch(&self, shard: &Arc<Shared>) {
        lock(&self.watch.0).shards.retain(|watched| !Arc::ptr_eq(watched, shard));
    }

    /// Syncs everything a last time and ends. The writers must be done.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        lock(&self.watch.0).stopping = true;
        self.watch.1.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the journal's keeper panicked");
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.end();
    }
}

fn keep(watch: &Watch, sync_interval: Duration) {
    let mut slots_at = Instant::now();
    loop {
        let due = Instant::now() >= slots_at;
        let (shards, stopping) = {
            let watched = lock(&watch.0);
            (watched.shards.clone(), watched.stopping)
        };
        for shard in &shards {
            keep_one(shard, due || stopping);
        }
        drop(shards);
        if stopping {
            return;
        }
        if due {
            slots_at = Instant::now() + SLOTS_INTERVAL;
        }
        let watched = lock(&watch.0);
        let waited = watch.1.wait_timeout_while(watched, sync_interval, |watched| !watched.stopping);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}

fn keep_one(shard: &Shared, slots_too: bool) {
    let before = shard.health();
    tell(shard, &before, shard.prepare());
    if slots_too || shard.is_asked_for_sync() {
        tell(shard, &before, shard.sync_slots());
    }
    tell(shard, &before, shard.sync());
    if matches!(before, Health::Failed(_)) && shard.health() == Health::Ok {
        tracing::info!(shard = shard.shard(), "the journal is durable again");
    }
}

/// Tells of a failure when it begins, not at every interval while it lasts.
fn tell(shard: &Shared, before: &Health, result: Result<(), Error>) {
    let Err(error) = result else { return };
    let error = error_text(&error);
    if *before == Health::Ok {
        tracing::error!(shard = shard.shard(), error, "the journal is not durable for now");
    } else {
        tracing::debug!(shard = shard.shard(), error, "the journal still fails");
    }
}
