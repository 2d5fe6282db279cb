//! Without a sink: which records go when the journal is nearly full, and that nothing goes before its gap record is safe.
//!
//! In this order: the sums of the oldest segment are stated in a gap record that names its seqs → that record is durable → the
//! cursor passes the segment, durably → the segment is freed. Killed in between, the next start finds either the records (and
//! perhaps a gap record of the same range, which then does not count), or a cursor behind which only the freeing is left to do.

use tracing::{error, info};

use crate::event::{Loss, Losses};
use crate::journal::{self, Cursor, Entry, Reader, Shared};

/// What is given up at the moment, at most one range of each shard.
pub struct GivingUp {
    losses: Losses,
    waiting: Vec<Loss>,
}

impl GivingUp {
    /// Losses go to a worker this way.
    pub fn new(losses: Losses) -> Self {
        Self { losses, waiting: Vec::new() }
    }

    /// Looks at one shard: frees what has been stated; where there is no room, states what is to go next.
    pub fn keep(
        &mut self,
        shared: &Shared,
        is_dead: bool,
        cursor: &mut Cursor,
        has_room: bool,
    ) -> Result<(), journal::Error> {
        let ours = |loss: &Loss| (loss.epoch, loss.shard) == (shared.epoch(), shared.shard());
        if let Some(at) = self.waiting.iter().position(ours) {
            if self.waiting[at].is_stated() {
                // A kill before this: the same range is stated once more.
                cursor.advance(self.waiting[at].next_seq)?;
                let loss = self.waiting.swap_remove(at);
                info!(
                    epoch = loss.epoch,
                    shard = loss.shard,
                    records = loss.records,
                    next_seq = loss.next_seq,
                    "journal_bytes_max is reached: the oldest records go, a gap record states their sum"
                );
                shared.release_through(cursor)?;
            }
            return Ok(());
        }
        if has_room {
            return Ok(());
        }
        // Whole segments only: what can still be read is not lost.
        let end = match shared.oldest_segment_end()? {
            Some(end) => end,
            None if is_dead => shared.published_seq(),
            None => return Ok(()),
        };
        let loss = sum(shared, cursor.next_seq(), end.min(shared.synced_seq()))?;
        if loss.next_seq == cursor.next_seq() {
            // A kill came between the cursor and the freeing.
            shared.release_through(cursor)?;
            return Ok(());
        }
        self.waiting.push(loss.clone());
        locked(&self.losses).push(loss);
        Ok(())
    }
}

fn locked(losses: &Losses) -> std::sync::MutexGuard<'_, Vec<Loss>> {
    losses.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn sum(shared: &Shared, first_seq: u64, end: u64) -> Result<Loss, journal::Error> {
    let mut loss = Loss::of(shared.epoch(), shared.shard(), first_seq);
    let mut reader = Reader::open(shared.directory(), first_seq)?;
    while let Some(entry) = reader.next_below(end)? {
        match entry {
            Entry::Frame(frame) => loss.add(&frame.payload),
            Entry::Damaged(range) => error!(?range, "records lost to damage in the journal: a gap"),
        }
    }
    loss.next_seq = reader.next_seq().max(first_seq);
    Ok(loss)
}
