//! The journal: what was counted and what was recorded, safe from the death of the process.
//!
//! One [`Writer`] per worker thread (a *shard*), in a directory that one process owns ([`StateDir`]). Two parts, both files mapped
//! MAP_SHARED and fully allocated beforehand:
//!
//! * **slots** (`slots.rs`, `table.rs`): live counters of every open session and request, cumulative and already recorded. Counting
//!   is a plain store; the kernel keeps the pages when the process is killed.
//! * **segments** (`segment.rs`, `frame.rs`, `writer.rs`): framed records, appended by memory copy and published by one release store.
//!
//! ```text
//! <state_dir>/lock                        held by the process that may claim epochs
//! <state_dir>/epoch                       highest epoch ever claimed; a new directory begins at the seconds since 1970
//! <state_dir>/ends                        where the latest epochs ended
//! <state_dir>/epoch-0000000007/lock       held by the process that writes this epoch; says its pid and the boot of the machine
//! <state_dir>/epoch-0000000007/shard-00/seg-00000000000000000000     frames from seq 0 on
//!                                      /slots-0000                   4,096 slots
//!                                      /cursor                       first seq that the sink has not acknowledged
//!                                      /spare                        an allocated segment without a name yet
//! ```
//!
//! **What survives.** A killed process: everything, to the last store. A power cut: every record up to the last `fdatasync` of the
//! [`Keeper`] (every `sync_interval`) and what slots had counted at the last one of theirs (every second), in its slot or in a record,
//! and nothing twice; ship only what is durable ([`Shared::synced_seq`]) and no seq ever means two records.
//! **When full** (`journal_bytes_max`, or the disk): [`Writer::append`] says [`AppendError::Full`] and what is counted stays in its slot;
//! it works again once there is room. A write error on `fdatasync` is never retried on the same file: what it put in doubt is written
//! again, under the same seqs, to a new segment.
//! **At start** [`Writer::reopen`] takes over a dead epoch: verifies every frame, drops a torn tail, names what is damaged, and hands over every
//! slot left open with exactly the bytes not yet recorded. Killed half-way, it is simply run again. Once all is closed, [`Shared::seal`]
//! leaves of it nothing but its records.
//!
//! **The protocol of a record** (a record and the slot's `recorded` must change together although two stores are not atomic):
//! [`Slot::begin_record`] states the intent under the seq the record will have; [`Writer::append`] publishes the record, which makes the intent
//! true; an append that fails takes the intent back. A `recorded` block counts only when its seq is below the published one. So every
//! prefix of stores is a valid state.
//!
//! **The protocol of a sum** (what slots counted moves to another slot, once): the giving slots state that they are closed once the sum has
//! a certain version, one store of the version makes that true, then they are freed; with a sync in between ([`Sum`]).

mod allocation;
mod checksum;
mod chunk;
mod cursor;
mod ends;
mod frame;
mod keeper;
mod listing;
mod mapping;
mod outcome;
mod reader;
mod recovery;
mod segment;
mod segment_file;
mod shared;
mod slots;
mod statedir;
mod sum;
mod table;
mod words;
mod writer;

/// What `words` is made of; for `tests/protocol` it is loom's.
mod atomics {
    pub(super) use std::sync::atomic::{AtomicU64, Ordering, fence};
}

#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod kill_tests;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod power_disk;
#[cfg(test)]
mod power_sum_tests;
#[cfg(test)]
mod power_tests;
#[cfg(test)]
mod sum_tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use chunk::{NOTE_BYTES_MAX, Note};
pub use cursor::Cursor;
pub use frame::PAYLOAD_BYTES_MAX;
pub use keeper::Keeper;
pub use listing::{EpochListing, ShardListing, list};
pub use outcome::{Outcome, SlotKind};
pub use reader::{DamagedRange, Entry, Frame, Reader, Step};
pub use recovery::{OpenSlot, Recovery};
pub use shared::{Health, Released, Shared};
pub use slots::{Slot, SlotReading, SlotView};
pub use statedir::{EpochDir, StateDir};
pub use sum::Sum;
pub use table::{SlotTable, SlotsFull, Stored};
pub use writer::Writer;

/// Version of the files' format. A newer one is refused untouched, an older one is read. 2: slots that are sums. 3: slots
/// that count requests. 4: three `recorded` blocks with a checksum.
pub const FORMAT_VERSION: u32 = 4;

/// What can go wrong with a journal, and on what.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was to be done.
        operation: &'static str,
        /// To what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another process owns it.
    #[error("{} is held by {holder}", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// Who holds it, as the lock file says.
        holder: String,
    },
    /// Written by a later release; nothing was touched.
    #[error("{} has format {version}, this release reads up to {FORMAT_VERSION}", path.display())]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// An option or a name outside its limits.
    #[error("journal options: {0}")]
    Options(String),
    /// Every epoch number has been used.
    #[error("no epoch is left after {0}")]
    Epochs(u32),
}

/// What is wrong with an append. What was counted stays in its slot in every case.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The budget or the disk has no room for another segment; try again later.
    #[error("the journal is full")]
    Full,
    /// No such frame fits.
    #[error("a record of {bytes} bytes, at most {max} fit")]
    TooLarge {
        /// Size of the payload.
        bytes: usize,
        /// The most.
        max: usize,
    },
    /// A new segment could not be made.
    #[error("the journal cannot write")]
    Io(#[from] Error),
}

/// Sizes and times of a journal.
#[derive(Clone, Debug)]
pub struct Options {
    /// Size of a segment file, header included; 8 KiB to 1 GiB, a multiple of 4,096.
    pub segment_bytes: u64,
    /// All segments of a process together; make the [`Budget`] of it.
    pub journal_bytes_max: u64,
    /// Time between two `fdatasync`: the most that a power cut takes.
    pub sync_interval: Duration,
    /// Sessions and requests open at once, per shard.
    pub slots_max: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_bytes: 16 << 20,
            journal_bytes_max: 4 << 30,
            sync_interval: Duration::from_millis(100),
            slots_max: 262_144,
        }
    }
}

impl Options {
    fn check(&self) -> Result<(), Error> {
        let size = self.segment_bytes;
        if !(8192..=1 << 30).contains(&size) || !size.is_multiple_of(4096) {
            return Err(Error::Options(format!(
                "segment_bytes is {size}; it must be a multiple of 4096 from 8192 to 1 GiB"
            )));
        }
        if self.slots_max == 0 || self.slots_max > 1 << 28 {
            return Err(Error::Options(format!("slots_max is {}; it must be from 1 to 2^28", self.slots_max)));
        }
        Ok(())
    }
}

/// Bytes of segment files that all shards of a process may have together.
#[derive(Debug)]
pub struct Budget {
    max: u64,
    used: AtomicU64,
}

impl Budget {
    /// A budget of `max` bytes, none used.
    pub fn new(max: u64) -> Self {
        Self { max, used: AtomicU64::new(0) }
    }

    /// Bytes in use. More than [`Self::max`] only by what recovery or a rewrite after a write error needed.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// The most.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// Takes `bytes` if they are left.
    fn try_take(&self, bytes: u64) -> bool {
        self.used
            .try_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(bytes).filter(|sum| *sum <= self.max)
            })
            .is_ok()
    }

    /// Takes `bytes` whether they are left or not.
    fn take(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    fn give(&self, bytes: u64) {
        let before = self.used.fetch_sub(bytes, Ordering::Relaxed);
        assert!(before >= bytes, "gave back more journal than was taken");
    }
}

/// Whether it failed for want of room on the disk.
fn is_disk_full(error: &Error) -> bool {
    matches!(
        error,
        Error::Io { source, .. }
            if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    )
}

fn io_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io { operation, path: path.to_owned(), source }
}

/// The lock, also after a panic elsewhere: no critical section here leaves its state half-changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_may_go_where_they_are_meant_to() {
        fn send<T: Send>() {}
        fn shared<T: Send + Sync>() {}
        send::<Writer>();
        send::<Slot>();
        shared::<SlotView>();
        shared::<Shared>();
        shared::<Keeper>();
    }

    #[test]
    fn options_outside_their_limits_are_refused() {
        let with = |segment_bytes, slots_max| Options { segment_bytes, slots_max, ..Options::default() };
        assert!(Options::default().check().is_ok());
        for wrong in [with(4096, 1), with(8193, 1), with(2 << 30, 1), with(8192, 0), with(8192, u32::MAX)] {
            assert!(wrong.check().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_budget_ends_where_it_says() {
        let budget = Budget::new(100);
        assert!(budget.try_take(60));
        assert!(!budget.try_take(41));
        assert!(budget.try_take(40));
        budget.take(5);
        assert_eq!(budget.used(), 105);
        budget.give(105);
        assert_eq!(budget.used(), 0);
    }
}
