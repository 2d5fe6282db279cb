//! What weir's records say, added up as they are written: read from the journal, as `weir events --follow` does.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use prost::Message;

use crate::event::{End, Kind, Phase, UsageRecord};
use crate::journal::{self, Entry, Reader};
use crate::units::Counters;

/// One account's part.
#[derive(Clone, Copy, Default)]
pub struct Account {
    /// Requests that have ended; sessions where there are no requests.
    pub requests: u64,
    /// App octets from its clients.
    pub received_bytes: u64,
    /// App octets to its clients.
    pub sent_bytes: u64,
}

/// Sums over all records so far.
#[derive(Default)]
pub struct Tally {
    state_dir: PathBuf,
    readers: Vec<(u32, u16, Reader)>,
    /// Records read.
    pub records: u64,
    /// Seqs that cannot be read, and records that state a loss.
    pub lost: u64,
    /// By name.
    pub accounts: BTreeMap<String, Account>,
    /// Sessions that have closed.
    pub sessions: u64,
    /// What they moved, whole.
    pub moved: Counters,
    /// Requests begun in them, as they say.
    pub requests_begun: u64,
    /// Closes of requests.
    pub requests: u64,
    /// App octets of all closed requests, both directions.
    pub requests_app_bytes: u64,
    /// App octets of sessions that are their own tunnel, both directions.
    pub tunnels_app_bytes: u64,
    /// Closed sessions whose counts the kernel shares.
    pub audited: u64,
    /// What the others' audit says.
    pub differences: Vec<String>,
    /// Sessions that a client aborted.
    pub aborted: u64,
    /// Octets written to those and never acknowledged.
    pub aborted_bytes: u64,
}

impl Tally {
    /// Of a state directory that a process writes or has written.
    pub fn new(state_dir: &Path) -> Self {
        Self { state_dir: state_dir.to_owned(), ..Self::default() }
    }

    /// Reads what is new.
    pub fn read(&mut self) -> anyhow::Result<()> {
        for epoch in journal::list(&self.state_dir)? {
            for shard in epoch.shards {
                if !self.readers.iter().any(|(e, s, _)| (*e, *s) == (epoch.epoch, shard.shard)) {
                    let reader = shard.reader(0)?;
                    self.readers.extend(reader.map(|reader| (epoch.epoch, shard.shard, reader)));
                }
            }
        }
        let mut readers = std::mem::take(&mut self.readers);
        for (.., reader) in &mut readers {
            while let Some(entry) = reader.next()? {
                match entry {
                    Entry::Frame(frame) => {
                        let record = UsageRecord::decode(frame.payload.as_slice()).context("a record is no record")?;
                        self.add(&record);
                    }
                    Entry::Damaged(_) => self.lost += 1,
                }
            }
        }
        self.readers = readers;
        Ok(())
    }

    fn add(&mut self, record: &UsageRecord) {
        self.records += 1;
        let is_close = record.phase() == Phase::Close;
        match record.kind() {
            Kind::Request => {
                self.add_to_account(record, is_close);
                if is_close {
                    self.requests += 1;
                    let totals = record.totals();
                    self.requests_app_bytes += totals.received_app + totals.sent_app;
                }
            }
            Kind::Session => {
                let is_tunnel = record.protocol == "tcp";
                if is_tunnel {
                    self.add_to_account(record, is_close);
                }
                if is_close {
                    self.add_session(record, is_tunnel);
                }
            }
            Kind::Gap => self.lost += 1,
            Kind::Node | Kind::Unspecified => {}
        }
    }

    fn add_to_account(&mut self, record: &UsageRecord, is_close: bool) {
        let deltas = record.deltas();
        let account = self.accounts.entry(record.account.clone()).or_default();
        account.requests += u64::from(is_close);
        account.received_bytes += deltas.received_app;
        account.sent_bytes += deltas.sent_app;
    }

    fn add_session(&mut self, record: &UsageRecord, is_tunnel: bool) {
        let totals = record.totals();
        self.sessions += 1;
        self.requests_begun += u64::try_from(record.requests).unwrap_or(0);
        match self.moved.checked_add(&totals) {
            Some(sum) => self.moved = sum,
            None => self.lost += 1,
        }
        if is_tunnel {
            self.tunnels_app_bytes += totals.received_app + totals.sent_app;
        }
        if record.audit.is_empty() {
            self.audited += 1;
        } else {
            self.differences.push(record.audit.clone());
        }
        if record.end() == End::ClientAbort {
            self.aborted += 1;
            self.aborted_bytes += totals.sent_wire.saturating_sub(totals.sent_acked);
        }
    }
}
