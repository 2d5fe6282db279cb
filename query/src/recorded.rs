//! Around everything that is asked: it is written down before the first row is shown, and how it ended after the last.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::access_log::{self, Asked, Ended, Receipt, What, append};

/// A question that is written down.
pub struct Recorded {
    log: PathBuf,
    receipt: Receipt,
    begun: Instant,
    rows: AtomicU64,
}

impl Recorded {
    /// Writes it down; without that nothing is answered.
    pub fn begin(log: &Path, asked: Asked) -> Result<Self, access_log::Error> {
        let receipt = append(log, What::Begun(asked))?;
        Ok(Self { log: log.to_owned(), receipt, begun: Instant::now(), rows: AtomicU64::new(0) })
    }

    /// By which the log can be held to it.
    pub fn receipt(&self) -> &Receipt {
        &self.receipt
    }

    /// How long ago it began.
    pub fn took(&self) -> Duration {
        self.begun.elapsed()
    }

    /// So many rows were shown so far.
    pub fn set_rows(&self, rows: u64) {
        self.rows.store(rows, Ordering::Relaxed);
    }

    /// Rows shown so far.
    pub fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    /// Writes down how it ended: `answered`, or why not, in words that hold nothing of any row.
    pub fn end(&self, outcome: &str) -> Result<(), access_log::Error> {
        let took_ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let ended = Ended { of: self.receipt.seq, outcome: outcome.to_owned(), rows: self.rows(), took_ms };
        append(&self.log, What::Ended(ended)).map(|_| ())
    }
}
