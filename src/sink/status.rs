//! How the sink is, for `/readyz` and the log: set by the shipper, read by whoever asks.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Whether the sink takes records, and since when it does not.
#[derive(Debug, Default)]
pub struct Status {
    down: Mutex<Option<Down>>,
}

#[derive(Debug, Clone)]
struct Down {
    since: Instant,
    reason: String,
}

impl Status {
    /// The sink does not take records. True if it did until now.
    pub fn set_down(&self, reason: &str) -> bool {
        let mut down = self.down.lock().unwrap_or_else(PoisonError::into_inner);
        let since = down.as_ref().map_or_else(Instant::now, |down| down.since);
        down.replace(Down { since, reason: reason.to_owned() }).is_none()
    }

    /// The sink takes records. How long it did not, in seconds, if it did not until now.
    pub fn set_up(&self) -> Option<f64> {
        let down = self.down.lock().unwrap_or_else(PoisonError::into_inner).take();
        down.map(|down| down.since.elapsed().as_secs_f64())
    }

    /// Since how many seconds it does not take records, and why.
    pub fn down(&self) -> Option<(u64, String)> {
        let down = self.down.lock().unwrap_or_else(PoisonError::into_inner);
        down.as_ref().map(|down| (down.since.elapsed().as_secs(), down.reason.clone()))
    }
}
