//! The list of who looked at what, written before anything is shown.
//!
//! One writer takes everything that waits and writes it in one transaction; whoever asked waits for that. If it cannot be written, nothing
//! is shown. Of an answer that flows for long there are two entries: one as it begins (rows −1), one at its end.

use axum::http::StatusCode;
use tokio::sync::{mpsc, oneshot};
use tracing::error;

use super::Problem;
use crate::store::{Access, Store};

/// Entries that wait; more wait with whoever asked.
const WAITING_MAX: usize = 256;

/// How many rows an answer shows: set on the response by whoever made it.
#[derive(Clone, Copy, Debug)]
pub struct Shown(pub i64);

type Note = (Access, oneshot::Sender<bool>);

/// Where entries are brought.
#[derive(Clone)]
pub(super) struct Accesses(mpsc::Sender<Note>);

impl Accesses {
    /// Starts the writer on this runtime; it ends with the last of the clones.
    pub(super) fn start(store: Store, runtime: &tokio::runtime::Runtime) -> Self {
        let (to, mut notes) = mpsc::channel(WAITING_MAX);
        runtime.spawn(async move {
            let mut waiting: Vec<Note> = Vec::new();
            while notes.recv_many(&mut waiting, WAITING_MAX).await > 0 {
                let (accesses, askers): (Vec<Access>, Vec<_>) = waiting.drain(..).unzip();
                let written = store.note_accesses(&accesses).await;
                if let Err(error) = &written {
                    error!(%error, "who looked cannot be written down: nothing is shown");
                }
                for asker in askers {
                    // One who is gone needs no answer.
                    asker.send(written.is_ok()).unwrap_or_default();
                }
            }
        });
        Self(to)
    }

    /// Notes it; an error where it could not be written.
    pub(super) async fn note(&self, access: Access) -> Result<(), Problem> {
        let (asker, written) = oneshot::channel();
        let is_sent = self.0.send((access, asker)).await.is_ok();
        if is_sent && written.await == Ok(true) {
            return Ok(());
        }
        Err(Problem::busy(StatusCode::SERVICE_UNAVAILABLE, "it cannot be written down that you look: try again", 5))
    }
}
