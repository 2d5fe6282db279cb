//! A worker: one thread, one current-thread runtime, one shard of the journal, and the sessions that it accepted.
//!
//! No session ever leaves its worker, so nothing on the hot path is shared or locked. The sweep, a few times a second,
//! does what would otherwise need a timer for each request: limits in time, checkpoints, the hour's turn, the closes of
//! requests that have been acknowledged meanwhile.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::{Rc, Weak};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;

use super::memory::held_bytes;
use super::node::Node;
use super::recorder::Recorder;
use super::session::{Cut, Session};
use super::setup::Setup;
use super::upstream::Pools;
use crate::event::{End, Loss, Phase, Reason};
use crate::ids::Id;
use crate::metrics::Metrics;
use crate::units::Column;

/// Time between two sweeps; limits in time are exact to this.
pub const SWEEP: Duration = Duration::from_millis(200);

/// A session of which no byte moved for this long, with a request open, is asked whether its client is still there.
const GONE_AFTER_US: i64 = 1_000_000;

/// An HTTP/1 client that says nothing for this long gets by without an engine's buffers, µs.
const PARK_AFTER_US: i64 = 1_000_000;

/// Earlier shards whose ends one record states: some 2 KB, which every segment has room for.
const ENDS_MAX: usize = 64;

/// One worker thread's state.
pub struct Worker {
    /// Writes its shard.
    pub recorder: Recorder,
    /// What all workers share.
    pub node: Arc<Node>,
    /// The process's metrics.
    pub metrics: &'static Metrics,
    /// Connections to origins.
    pub pools: Pools,
    started_at_us: i64,
    coarse_now_us: Cell<i64>,
    sessions: RefCell<Vec<Weak<Session>>>,
    setup: RefCell<Arc<Setup>>,
    generation: Cell<u64>,
    /// As the node knows it.
    held_bytes: Cell<i64>,
    /// Of the table of addresses that a record says is in force.
    table: Cell<u64>,
    sweeps: Cell<u64>,
    /// Requests and raw sessions that were nobody's, since the last sweep.
    unattributed: Cell<u64>,
}

thread_local! {
    static CURRENT: RefCell<Weak<Worker>> = const { RefCell::new(Weak::new()) };
}

/// Finds a session of this thread's worker by its id; for callbacks that must be `Send`. Rare: it looks at each session.
pub fn with_session(id: Id, visit: impl FnOnce(&Session)) {
    let Some(worker) = CURRENT.with(|current| current.borrow().upgrade()) else { return };
    let session = worker.sessions.borrow().iter().filter_map(Weak::upgrade).find(|session| session.id == id);
    if let Some(session) = session {
        visit(&session);
    }
}

/// Runs a task on this worker. It stays where it is: the runtime would move it ten times from here to its end.
pub fn spawn(task: impl Future<Output = ()> + 'static) -> JoinHandle<()> {
    tokio::task::spawn_local(Box::pin(task))
}

impl Worker {
    /// Opens the shard with its first record.
    pub fn new(recorder: Recorder, node: Arc<Node>, metrics: &'static Metrics) -> Rc<Self> {
        let started_at_us = recorder.now_us();
        if recorder.is_first_shard() {
            node.record_ends(ENDS_MAX, |ended| recorder.node_states_ends(Phase::Open, started_at_us, ended));
        } else {
            recorder.node(Phase::Open, started_at_us);
        }
        let setup = node.setup();
        let worker = Rc::new(Self {
            recorder,
            metrics,
            pools: Pools::default(),
            started_at_us,
            coarse_now_us: Cell::new(started_at_us),
            sessions: RefCell::new(Vec::new()),
            generation: Cell::new(node.generation()),
            table: Cell::new(0),
            sweeps: Cell::new(0),
            unattributed: Cell::new(0),
            setup: RefCell::new(setup),
            held_bytes: Cell::new(0),
            node,
        });
        worker.announce_table();
        CURRENT.with(|current| *current.borrow_mut() = Rc::downgrade(&worker));
        worker
    }

    /// The configuration in force.
    pub fn setup(&self) -> Arc<Setup> {
        let generation = self.node.generation();
        if generation != self.generation.get() {
            *self.setup.borrow_mut() = self.node.setup();
            self.generation.set(generation);
            self.pools.clear();
        }
        self.setup.borrow().clone()
    }

    /// µs since the Unix epoch, as of the last sweep.
    pub fn coarse_now_us(&self) -> i64 {
        self.coarse_now_us.get()
    }

    /// How many sweeps there were.
    pub fn sweeps(&self) -> u64 {
        self.sweeps.get()
    }

    pub(super) fn adopt(&self, session: &Rc<Session>) {
        self.metrics.sessions.increment(1);
        self.metrics.sessions_open.increment(1);
        self.sessions.borrow_mut().push(Rc::downgrade(session));
    }

    pub(super) fn released(&self, peer: IpAddr) {
        self.metrics.sessions_open.decrement(1);
        self.node.release(peer);
    }

    /// A request or a raw session is nobody's.
    pub fn count_unattributed(&self) {
        self.unattributed.set(self.unattributed.get() + 1);
    }

    fn publish_unattributed(&self) {
        let count = self.unattributed.take();
        if count > 0 {
            self.metrics.unattributed.increment(count);
            self.node.add_unattributed(count);
        }
    }

    /// True when no session is left.
    pub fn is_empty(&self) -> bool {
        self.sessions.borrow().iter().all(|session| session.strong_count() == 0)
    }

    /// Asks sessions to end when what is open in them has ended. HTTP/1 can only say so in a response, which it does
    /// from now on; its client may be asking at this very moment, so unless `h1_too` it is spared.
    pub fn drain(&self, h1_too: bool) {
        let ripe = |session: &&Rc<Session>| h1_too || session.is_h2();
        self.live().iter().filter(ripe).for_each(|session| session.drain());
    }

    /// Ends every session: the drain's deadline has passed.
    pub fn cut_all(&self) {
        self.live().iter().for_each(|session| session.cut(Cut::Drain));
    }

    /// The last record of the shard.
    pub fn close(&self) {
        self.publish_unattributed();
        self.recorder.beat(self.started_at_us);
        self.recorder.write_rest();
        self.recorder.node(Phase::Close, self.started_at_us);
    }

    /// Sweeps until the worker's runtime ends.
    pub async fn run(self: Rc<Self>) {
        let mut ticks = tokio::time::interval(SWEEP);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.sweep();
        }
    }

    /// Says in a record which table of addresses is in force, once each.
    fn announce_table(&self) {
        let generation = self.node.enrichment.generation();
        if self.table.replace(generation) != generation
            && let Some(table) = self.node.enrichment.snapshot()
        {
            self.recorder.node_knows(self.started_at_us, &table);
        }
    }

    /// Says in a record which earlier shards ended since the last time: of an epoch that drained beside this one, or more of them
    /// than the first record takes.
    fn announce_ends(&self) {
        if self.recorder.is_first_shard() {
            self.node.record_ends(ENDS_MAX, |ended| {
                ended.is_empty() || self.recorder.node_states_ends(Phase::Checkpoint, self.started_at_us, ended)
            });
        }
    }

    fn live(&self) -> Vec<Rc<Session>> {
        let mut sessions = self.sessions.borrow_mut();
        sessions.retain(|session| session.strong_count() > 0);
        sessions.iter().filter_map(Weak::upgrade).collect()
    }

    fn sweep(&self) {
        let now_us = self.recorder.now_us();
        self.coarse_now_us.set(now_us);
        let setup = self.setup();
        self.announce_table();
        self.announce_ends();
        self.publish_unattributed();
        let sessions = self.live();
        if self.recorder.hour_turned(now_us) {
            sessions.iter().for_each(|session| session.close_hour(now_us));
            self.recorder.hour_swept(now_us);
        }
        self.sweeps.set(self.sweeps.get() + 1);
        let checkpoint_us = micros(setup.config.checkpoint_interval);
        for session in &sessions {
            session.settle();
            session.swept();
            if now_us - session.checkpointed_at_us.get() >= checkpoint_us {
                session.checkpointed_at_us.set(now_us);
                session.checkpoint();
            }
            enforce_times(session, &setup, now_us);
        }
        self.pools.sweep(now_us);
        let held = held_bytes();
        self.node.holds_more(held - self.held_bytes.replace(held));
        let ours: Vec<Loss> = {
            let mut losses = self.node.losses.lock().unwrap_or_else(PoisonError::into_inner);
            losses.extract_if(.., |loss| self.recorder.states(loss)).collect()
        };
        ours.into_iter().for_each(|loss| self.recorder.state_loss(loss));
        self.recorder.beat(self.started_at_us);
    }
}

/// Cuts what is over a limit in time.
fn enforce_times(session: &Session, setup: &Setup, now_us: i64) {
    let limits = &setup.config.limits;
    let idle_us = now_us - session.active_at_us.get();
    if session.is_raw_tunnel() {
        if idle_us > micros(limits.tunnel_idle_timeout) {
            session.worker.metrics.timeouts.increment(1);
            session.cut(Cut::Timeout);
        }
        return;
    }
    if session.is_idle() {
        // A drain has its own deadline; a handshake has its own timer.
        if idle_us > micros(limits.keep_alive_timeout) && session.speaks_http() {
            session.cut(Cut::KeepAlive);
        } else if idle_us > PARK_AFTER_US && session.is_h1() && !session.is_parked() {
            session.park();
        }
        return;
    }
    if idle_us > GONE_AFTER_US && session.is_gone() {
        // A client that half-closes may still wait for its answer; one that resets does not.
        return session.cut(Cut::Gone);
    }
    let mut cut = None;
    session.each_open(|exchange| {
        let age_us = now_us - exchange.measured.started_at_us;
        let still_us = now_us - exchange.active_at_us.max(exchange.measured.started_at_us);
        if !exchange.described {
            // What the engine has refused by itself was never described.
            if !exchange.sent_done && age_us > micros(limits.header_read_timeout) {
                cut = cut.or(Some(Cut::HeadTimeout));
            }
            return;
        }
        let late = if exchange.tunnel || exchange.stream_tunnel {
            still_us > micros(limits.tunnel_idle_timeout)
        } else {
            let total = limits.request_timeout.is_some_and(|total| age_us > micros(total));
            still_us > micros(limits.idle_timeout) || total || is_slow(exchange, setup, age_us)
        };
        if late && !exchange.timed_out {
            session.worker.metrics.timeouts.increment(1);
            exchange.ends(End::Timeout, Reason::Unspecified);
            exchange.time_out();
            // Once a response has begun, h1 has no way to say that it ends here but to end the connection.
            if exchange.measured.get(Column::SentApp) > 0 && session.is_h1() {
                cut = cut.or(Some(Cut::Timeout));
            }
        }
    });
    if let Some(why) = cut {
        if why == Cut::HeadTimeout {
            session.worker.metrics.timeouts.increment(1);
        }
        session.cut(why);
    }
}

/// A request body that trickles.
fn is_slow(exchange: &super::exchange::Exchange, setup: &Setup, age_us: i64) -> bool {
    let limits = &setup.config.limits;
    let rate_min = limits.body_rate_min_bytes_per_s;
    if rate_min == 0 || exchange.received_done || age_us <= micros(limits.body_rate_grace) {
        return false;
    }
    let wanted = u128::from(rate_min) * u128::try_from(age_us).unwrap_or(0) / 1_000_000;
    u128::from(exchange.measured.get(Column::ReceivedApp)) < wanted
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
