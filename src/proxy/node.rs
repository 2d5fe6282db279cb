//! What the workers of one process share: the live sessions, the limits on connections, the configuration in force.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use dashmap::DashMap;
use serde::Serialize;

use super::session::Session;
use super::setup::Setup;
use crate::enrichment::Enrichment;
use crate::event::{Addresses, Losses, ShardEnd};
use crate::ids::Id;
use crate::journal::SlotView;

/// One process.
pub struct Node {
    /// Its name in records.
    pub name: Arc<str>,
    /// Its epoch.
    pub epoch: u32,
    /// Open sessions.
    pub sessions: SessionTable,
    /// Connections per peer address.
    sources: DashMap<IpAddr, usize>,
    connections: AtomicUsize,
    setup: RwLock<Arc<Setup>>,
    /// Replaced, and perhaps still in use.
    old_setups: Mutex<Vec<Arc<Setup>>>,
    held_bytes: AtomicI64,
    generation: AtomicU64,
    draining: AtomicBool,
    /// False while no record can be written and the journal is set to refuse.
    accepting: AtomicBool,
    journal_ready: AtomicBool,
    journal_folding: AtomicBool,
    /// What the shipper had to give up, to be stated by a worker.
    pub losses: Losses,
    /// Earlier shards that ended, to be stated by the first worker.
    ended: Mutex<Vec<ShardEnd>>,
    /// What is known of addresses.
    pub enrichment: Arc<Enrichment>,
    /// Requests and raw sessions that were nobody's, since the log said so last.
    unattributed: AtomicU64,
}

impl Node {
    /// With the configuration to begin with.
    pub fn new(epoch: u32, setup: Arc<Setup>, losses: Losses, enrichment: Arc<Enrichment>) -> Self {
        Self {
            name: Arc::from(setup.config.node.as_str()),
            epoch,
            sessions: SessionTable::default(),
            sources: DashMap::new(),
            connections: AtomicUsize::new(0),
            setup: RwLock::new(setup),
            old_setups: Mutex::default(),
            held_bytes: AtomicI64::new(0),
            generation: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            accepting: AtomicBool::new(true),
            journal_ready: AtomicBool::new(true),
            journal_folding: AtomicBool::new(false),
            losses,
            ended: Mutex::default(),
            enrichment,
            unattributed: AtomicU64::new(0),
        }
    }

    /// Earlier shards of this node ended here: a record is to say so.
    pub fn state_ends(&self, ended: Vec<ShardEnd>) {
        let mut waiting = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|known| ended.iter().all(|end| (end.epoch, end.shard) != (known.epoch, known.shard)));
        waiting.extend(ended);
    }

    /// Gives the first of them, at most so many, to whoever records them; `record` says whether it could.
    pub(super) fn record_ends(&self, ends_max: usize, record: impl FnOnce(&[ShardEnd]) -> bool) {
        let mut waiting = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let ends = waiting.len().min(ends_max);
        if record(&waiting[..ends]) {
            waiting.drain(..ends);
        }
    }

    /// So many requests and raw sessions were nobody's.
    pub fn add_unattributed(&self, count: u64) {
        self.unattributed.fetch_add(count, Ordering::Relaxed);
    }

    /// How many were since this was asked last.
    pub fn take_unattributed(&self) -> u64 {
        self.unattributed.swap(0, Ordering::Relaxed)
    }

    /// The configuration in force.
    pub fn setup(&self) -> Arc<Setup> {
        self.setup.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts another configuration in force: for the next connection, and the next request.
    pub fn replace_setup(&self, setup: Arc<Setup>) {
        let old = std::mem::replace(&mut *self.setup.write().unwrap_or_else(PoisonError::into_inner), setup);
        self.generation.fetch_add(1, Ordering::Release);
        self.old_setups.lock().unwrap_or_else(PoisonError::into_inner).push(old);
    }

    /// Drops replaced configurations that nobody uses any more: here, and not while a worker serves.
    pub fn drop_old_setups(&self) {
        self.old_setups.lock().unwrap_or_else(PoisonError::into_inner).retain(|old| Arc::strong_count(old) > 1);
    }

    /// Changes with each [`Node::replace_setup`].
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Takes no new work from here on.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// True once it takes no new work.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// States whether what new sessions move could be recorded.
    pub fn set_accepting(&self, accepting: bool) {
        self.accepting.store(accepting, Ordering::Release);
    }

    /// False while new sessions are to be turned away because nothing can be recorded.
    pub fn is_accepting(&self) -> bool {
        self.accepting.load(Ordering::Acquire)
    }

    /// States whether the journal is as it should be.
    pub fn set_journal_ready(&self, ready: bool) {
        self.journal_ready.store(ready, Ordering::Release);
    }

    /// False while the journal is full or its disk fails.
    pub fn journal_ready(&self) -> bool {
        self.journal_ready.load(Ordering::Acquire)
    }

    /// States whether requests are summed up instead of recorded one by one.
    pub fn set_journal_folding(&self, folding: bool) {
        self.journal_folding.store(folding, Ordering::Release);
    }

    /// True while requests are summed up instead of recorded one by one: the journal is nearly full.
    pub fn journal_folding(&self) -> bool {
        self.journal_folding.load(Ordering::Acquire)
    }

    /// States by how much the memory of a worker has grown, bytes.
    pub(super) fn holds_more(&self, bytes: i64) {
        self.held_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// What traffic holds in memory: buffers of all connections, and the little that is known of each. As of the last sweeps.
    pub fn held_bytes(&self) -> usize {
        usize::try_from(self.held_bytes.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// Downstream connections open now.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Takes a place for a connection from this address, if the limits allow one.
    pub fn admit(&self, peer: IpAddr, connections_max: usize, per_source_max: usize) -> bool {
        if self.connections.fetch_add(1, Ordering::Relaxed) >= connections_max {
            self.connections.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        let mut source = self.sources.entry(peer).or_insert(0);
        if *source >= per_source_max {
            drop(source);
            self.connections.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        *source += 1;
        true
    }

    /// Gives the place back.
    pub fn release(&self, peer: IpAddr) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
        if let dashmap::Entry::Occupied(mut source) = self.sources.entry(peer) {
            *source.get_mut() -= 1;
            if *source.get() == 0 {
                source.remove();
            }
        }
    }
}

/// The live sessions, for the operator.
#[derive(Default)]
pub struct SessionTable {
    sessions: DashMap<Id, LiveSession>,
}

struct LiveSession {
    addresses: Addresses,
    country: Box<str>,
    listener: Arc<str>,
    account: Arc<str>,
    protocol: &'static str,
    started_at_us: i64,
    view: SlotView,
}

/// One row of `GET /sessions`.
#[derive(Serialize, Debug)]
#[allow(missing_docs)] // named as in records
pub struct SessionRow {
    pub session_id: String,
    pub client_ip: String,
    pub client_port: u16,
    pub country: String,
    pub listener: String,
    pub account: String,
    pub protocol: &'static str,
    pub started_at: i64,
    pub received_app_bytes: u64,
    pub sent_app_bytes: u64,
    pub received_wire_bytes: u64,
    pub sent_wire_bytes: u64,
    pub upstream_sent_bytes: u64,
    pub upstream_received_bytes: u64,
}

impl SessionTable {
    pub(super) fn insert(&self, session: &Session, view: SlotView) {
        let identity = session.identity();
        let live = LiveSession {
            addresses: session.shown(),
            country: session.country(),
            listener: identity.listener.clone(),
            account: identity.account.clone(),
            protocol: identity.protocol,
            started_at_us: session.started_at_us,
            view,
        };
        self.sessions.insert(session.id, live);
    }

    pub(super) fn belongs_to(&self, id: Id, account: &str) {
        if let Some(mut live) = self.sessions.get_mut(&id) {
            live.account = Arc::from(account);
        }
    }

    pub(super) fn remove(&self, id: Id) {
        self.sessions.remove(&id);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// The `limit` sessions that moved most, largest first. Counters are read while they move.
    pub fn largest(&self, limit: usize) -> Vec<SessionRow> {
        let mut rows: Vec<SessionRow> = self
            .sessions
            .iter()
            .filter_map(|entry| {
                let live = entry.value();
                let totals = live.view.read()?.totals;
                Some(SessionRow {
                    session_id: entry.key().to_string(),
                    client_ip: live.addresses.client.map(|address| address.to_string()).unwrap_or_default(),
                    client_port: live.addresses.port,
                    country: live.country.to_string(),
                    listener: live.listener.to_string(),
                    account: live.account.to_string(),
                    protocol: live.protocol,
                    started_at: live.started_at_us,
                    received_app_bytes: totals.received_app,
                    sent_app_bytes: totals.sent_app,
                    received_wire_bytes: totals.received_wire,
                    sent_wire_bytes: totals.sent_wire,
                    upstream_sent_bytes: totals.upstream_sent,
                    upstream_received_bytes: totals.upstream_received,
                })
            })
            .collect();
        rows.sort_unstable_by_key(|row| std::cmp::Reverse(row.received_wire_bytes + row.sent_wire_bytes));
        rows.truncate(limit);
        rows
    }
}
