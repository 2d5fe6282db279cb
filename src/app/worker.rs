//! A worker's thread: its runtime, its listeners, its end.

use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::runtime::LocalOptions;
use tokio::sync::watch;
use tracing::error;

use crate::clock::Clock;
use crate::handover::Listening;
use crate::ids::IdSource;
use crate::journal::{EpochDir, Shared, Writer};
use crate::metrics::Metrics;
use crate::proxy::{FoldMarks, Node, Recorder, Worker, accept, spawn};

/// How long a drain waits for an HTTP/1 client's next request, to be answered with `connection: close`.
const ASK_GRACE: Duration = Duration::from_secs(1);

/// How far a worker has been told to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Accept and serve.
    Serve,
    /// Accept nothing more; end when all sessions have ended.
    Drain,
    /// End all sessions.
    Cut,
}

/// What a worker is made of.
pub struct Parts {
    /// Its number, and its journal's.
    pub shard: u16,
    /// Its journal.
    pub writer: Writer,
    /// Its journal, as others see it.
    pub shared: Arc<Shared>,
    /// Keeps the epoch's lock.
    pub epoch: Arc<EpochDir>,
    /// What workers share.
    pub node: Arc<Node>,
    /// The process's metrics.
    pub metrics: &'static Metrics,
    /// Its share of the listening sockets.
    pub listeners: Vec<Listening>,
}

/// A running worker.
pub struct Handle {
    stage: watch::Sender<Stage>,
    /// Its journal.
    pub shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

impl Handle {
    /// Tells it how far to go.
    pub fn go(&self, stage: Stage) {
        self.stage.send_if_modified(|now| {
            let changed = *now < stage;
            *now = stage.max(*now);
            changed
        });
    }

    /// True once it has ended.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for its end.
    pub fn join(self) {
        if self.thread.join().is_err() {
            error!("a worker died; its sessions are closed by the next start");
        }
    }
}

/// Starts a worker's thread.
pub fn start(parts: Parts) -> anyhow::Result<Handle> {
    let (stage, stages) = watch::channel(Stage::Serve);
    let shared = parts.shared.clone();
    let name = format!("weir-worker-{}", parts.shard);
    // A session never leaves its thread, nor does the runtime that its tasks run on.
    let (made, is_made) = std::sync::mpsc::channel();
    let thread = std::thread::Builder::new()
        .name(name)
        .spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                // Look at the sockets when what was found there is served: a look is a system call, and a turn is short.
                .event_interval(256)
                .build_local(LocalOptions::default());
            let runtime = match runtime {
                Ok(runtime) => runtime,
                // Whoever starts the worker waits for this.
                Err(error) => return made.send(Err(error)).unwrap_or_default(),
            };
            made.send(Ok(())).unwrap_or_default();
            let worker = runtime.block_on(run(parts, stages));
            // What still runs is dropped here; each session writes its close as it goes.
            drop(runtime);
            if let Some(worker) = worker {
                worker.close();
            }
        })
        .context("cannot start a worker's thread")?;
    is_made.recv().context("a worker's thread died")?.context("cannot make a worker's runtime")?;
    Ok(Handle { stage, shared, thread })
}

async fn run(parts: Parts, mut stages: watch::Receiver<Stage>) -> Option<Rc<Worker>> {
    let ids = IdSource::new(&parts.node.name, parts.node.epoch, parts.shard);
    let journal = &parts.node.setup().config.journal;
    let marks = FoldMarks { above_percent: journal.fold_above_percent, below_percent: journal.fold_below_percent };
    let recorder = Recorder::new(parts.writer, Clock::anchored(), ids, parts.metrics).fold_at(marks);
    let worker = Worker::new(recorder, parts.node, parts.metrics);
    let mut accepting = Vec::new();
    for listening in parts.listeners {
        let listener = match TcpListener::from_std(listening.socket) {
            Ok(listener) => listener,
            Err(error) => {
                error!(listener = %listening.name, %error, "a worker cannot use its listening socket");
                continue;
            }
        };
        let mut stages = stages.clone();
        let stop = async move {
            // An error means that the process's control is gone: stop too.
            if stages.wait_for(|stage| *stage >= Stage::Drain).await.is_err() {}
        };
        accepting.push(spawn(accept(worker.clone(), listening.name, listener, stop)));
    }
    let sweep = spawn(worker.clone().run());
    if stages.wait_for(|stage| *stage >= Stage::Drain).await.is_err() {
        error!("a worker lost its control: it drains");
    }
    for task in accepting {
        if let Err(error) = task.await {
            error!(%error, "accepting ended by a bug");
        }
    }
    let draining_since = Instant::now();
    let mut cut = false;
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    while !worker.is_empty() {
        ticks.tick().await;
        worker.drain(draining_since.elapsed() >= ASK_GRACE);
        if *stages.borrow() == Stage::Cut && !std::mem::replace(&mut cut, true) {
            worker.cut_all();
        }
    }
    sweep.abort();
    drop(parts.epoch);
    Some(worker)
}
