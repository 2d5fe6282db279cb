//! Who owns what: the state directory and its epochs.
//!
//! `<dir>/lock` is held (flock) by the process that may claim epochs and take over dead ones; `<dir>/epoch-<n>/lock` by the process that
//! writes the epoch. The kernel frees a killed owner's locks. For an upgrade without downtime the old process gives up the first and
//! keeps the second until it has drained.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tracing::warn;

use super::allocation::{is_on_btrfs, make_directory, sync_directory};
use super::ends::Ends;
use super::{Error, io_error};
use crate::event::ShardEnd;

/// A killed owner's lock frees within about 0.1 s.
const LOCK_WAIT: Duration = Duration::from_secs(1);

/// The state directory of a node, owned until dropped or released.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    lock: File,
    ends: Ends,
}

impl StateDir {
    /// Takes the directory, making it if needed. Waits up to a second for a just killed owner; then the error names who holds it.
    pub fn open(path: &Path) -> Result<Self, Error> {
        make_directory(path)?;
        let lock = take_lock(&path.join("lock"), LOCK_WAIT)?;
        if is_on_btrfs(&lock).map_err(io_error("look at the file system of", path))? {
            warn!(path = %path.display(), "state_dir is on btrfs: once that is full the kernel may end this process (SIGBUS); ext4, xfs and tmpfs do not");
        }
        finish_removals(path)?;
        let ends = Ends::open(path)?;
        Ok(Self { path: path.to_owned(), lock, ends })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where no epoch was ever claimed, epochs begin above this number: a directory that this node had before may be lost, and
    /// whoever read it would take the same numbers for the same records. The seconds since 1970 are above all that it had, as
    /// nothing starts once a second for ever.
    pub fn begin_after(&self, epoch: u32) -> Result<(), Error> {
        let path = self.path.join("epoch");
        if path.exists() || !epochs(&self.path)?.is_empty() {
            return Ok(());
        }
        self.write_highest(epoch)
    }

    /// Starts a new epoch, one above every epoch there ever was. The number is durable before anything is named after it.
    pub fn claim_epoch(&self) -> Result<EpochDir, Error> {
        let highest_path = self.path.join("epoch");
        // The file or, were it lost, the directories; they only ever understate it once everything was shipped and removed.
        let mut highest = epochs(&self.path)?.last().copied().unwrap_or(0);
        match std::fs::read_to_string(&highest_path) {
            Ok(text) => highest = highest.max(text.trim().parse().unwrap_or(0)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(io_error("read", &highest_path)(source)),
        }
        let epoch = highest.checked_add(1).ok_or(Error::Epochs(highest))?;
        self.write_highest(epoch)?;
        let path = epoch_path(&self.path, epoch);
        make_directory(&path)?;
        let lock = take_lock(&path.join("lock"), LOCK_WAIT)?;
        sync_directory(&path)?;
        sync_directory(&self.path)?;
        Ok(EpochDir { epoch, path, lock, boot: boot_id(), claimed: true })
    }

    /// Durable when this returns.
    fn write_highest(&self, epoch: u32) -> Result<(), Error> {
        let highest_path = self.path.join("epoch");
        let new_path = self.path.join("epoch.new");
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new_path)
            .and_then(|mut file| {
                file.write_all(format!("{epoch}\n").as_bytes())?;
                file.sync_all()
            })
            .and_then(|()| std::fs::rename(&new_path, &highest_path))
            .map_err(io_error("write", &highest_path))?;
        sync_directory(&self.path)
    }

    /// The epochs whose owner is gone, oldest first, now locked by us. An epoch that still drains in another process (an upgrade) is left
    /// out: ask again later.
    pub fn abandoned(&self) -> Result<Vec<EpochDir>, Error> {
        let mut abandoned = Vec::new();
        for epoch in epochs(&self.path)? {
            let path = epoch_path(&self.path, epoch);
            let lock_path = path.join("lock");
            // The boot that wrote it, before taking the lock would write ours.
            let text = match std::fs::read_to_string(&lock_path) {
                Ok(text) => text,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
                Err(source) => return Err(io_error("read", &lock_path)(source)),
            };
            let lock = match open_lock(&lock_path, Duration::ZERO) {
                Ok(lock) => lock,
                Err(Error::Locked { .. }) => continue,
                Err(error) => return Err(error),
            };
            let boot = text.lines().find_map(|line| line.strip_prefix("boot "));
            abandoned.push(EpochDir { epoch, path, lock, boot: boot.map(str::to_owned), claimed: false });
        }
        Ok(abandoned)
    }

    /// The oldest dead epoch. Waits for it: a child process that another test is just starting holds a copy of every
    /// open file, locks included, until it runs its own program.
    #[cfg(test)]
    pub(super) fn first_abandoned(&self) -> EpochDir {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(first) = self.abandoned().unwrap().into_iter().next() {
                return first;
            }
            assert!(Instant::now() < deadline, "no epoch is abandoned");
            std::thread::yield_now();
        }
    }

    /// Where earlier epochs ended, in order: what is still remembered.
    pub fn ended(&self) -> Vec<ShardEnd> {
        self.ends.ended()
    }

    /// Remembers that an epoch begins with so many shards.
    pub fn begins(&mut self, epoch: u32, shards: u16, at_us: i64) -> Result<(), Error> {
        self.ends.begin(epoch, shards, at_us)
    }

    /// Remembers that a shard has ended before this seq. Where that cannot be written it is known until the process ends.
    pub fn ends(&mut self, epoch: u32, shard: u16, next_seq: u64, at_us: i64) -> (ShardEnd, Result<(), Error>) {
        self.ends.end(epoch, shard, next_seq, at_us)
    }

    /// Gives the directory up for a successor. Epochs claimed before stay ours.
    pub fn release(self) {
        drop(self.lock);
    }
}

/// The directory of an epoch, owned until dropped.
#[derive(Debug)]
pub struct EpochDir {
    epoch: u32,
    path: PathBuf,
    // Held, not read.
    #[expect(dead_code, reason = "holding the file open holds the lock")]
    lock: File,
    boot: Option<String>,
    claimed: bool,
}

impl EpochDir {
    /// Its number.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The shards in it, in order.
    pub fn shards(&self) -> Result<Vec<u16>, Error> {
        shards(&self.path)
    }

    /// The directory of a shard: what [`super::Reader`] and [`super::Cursor`] open.
    pub fn shard_path(&self, shard: u16) -> PathBuf {
        shard_path(&self.path, shard)
    }

    /// Whether the machine has been started anew since this epoch was claimed: not only the process died, and what was not synced may be
    /// gone. Unknown counts as yes.
    pub fn machine_restarted(&self) -> bool {
        !self.claimed && (self.boot.is_none() || self.boot != boot_id())
    }

    /// Removes it with all it holds: everything must have been shipped and acknowledged.
    pub fn remove(self) -> Result<(), Error> {
        // Under a name that is no epoch's, so that a kill half-way leaves nothing that looks like a damaged journal.
        let removed = self.path.with_extension("removed");
        std::fs::rename(&self.path, &removed).map_err(io_error("rename", &self.path))?;
        if let Some(parent) = self.path.parent() {
            sync_directory(parent)?;
        }
        std::fs::remove_dir_all(&removed).map_err(io_error("remove", &removed))
    }
}

pub(super) fn epoch_path(state_dir: &Path, epoch: u32) -> PathBuf {
    state_dir.join(format!("epoch-{epoch:010}"))
}

pub(super) fn shard_path(epoch_path: &Path, shard: u16) -> PathBuf {
    epoch_path.join(format!("shard-{shard:02}"))
}

/// The epochs in a state directory, in order.
pub(super) fn epochs(state_dir: &Path) -> Result<Vec<u32>, Error> {
    numbered(state_dir, "epoch-")
}

/// Removes what [`EpochDir::remove`] had begun to.
fn finish_removals(state_dir: &Path) -> Result<(), Error> {
    for entry in std::fs::read_dir(state_dir).map_err(io_error("list", state_dir))? {
        let path = entry.map_err(io_error("list", state_dir))?.path();
        if path.extension().is_some_and(|end| end == "removed") {
            std::fs::remove_dir_all(&path).map_err(io_error("remove", &path))?;
        }
    }
    Ok(())
}

pub(super) fn shards(epoch_path: &Path) -> Result<Vec<u16>, Error> {
    let numbers = numbered(epoch_path, "shard-")?;
    Ok(numbers.into_iter().filter_map(|number| u16::try_from(number).ok()).collect())
}

fn numbered(directory: &Path, prefix: &str) -> Result<Vec<u32>, Error> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(io_error("list", directory))? {
        let entry = entry.map_err(io_error("list", directory))?;
        let name = entry.file_name();
        let number =
            name.to_str().and_then(|name| name.strip_prefix(prefix)).and_then(|number| number.parse::<u32>().ok());
        numbers.extend(number);
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Whether an epoch or one of its shards was freed: a directory goes when all that is in it was acknowledged.
pub(super) fn is_gone(directory: &Path) -> bool {
    matches!(directory.try_exists(), Ok(false))
}

/// Whether somebody holds the epoch's lock.
pub(super) fn is_live(epoch_path: &Path) -> Result<bool, Error> {
    let path = epoch_path.join("lock");
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(source) => return Err(io_error("open", &path)(source)),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(source)) => Err(io_error("lock", &path)(source)),
    }
}

/// The lock, with our name in it.
fn take_lock(path: &Path, wait: Duration) -> Result<File, Error> {
    let mut file = open_lock(path, wait)?;
    let boot = boot_id().unwrap_or_default();
    let text = format!("pid {}\nboot {boot}\n", std::process::id());
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| file.write_all(text.as_bytes()))
        .and_then(|()| file.sync_all())
        .map_err(io_error("write", path))?;
    Ok(file)
}

/// The lock, its text untouched.
fn open_lock(path: &Path, wait: Duration) -> Result<File, Error> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(io_error("open", path))?;
    let until = Instant::now() + wait;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(source)) => return Err(io_error("lock", path)(source)),
            Err(TryLockError::WouldBlock) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                file.read_to_string(&mut text).map_err(io_error("read", path))?;
                let holder = text.lines().next().unwrap_or("another process").to_owned();
                return Err(Error::Locked { path: path.to_owned(), holder });
            }
        }
    }
}

/// Which start of the machine this is; `None` where the kernel does not say.
fn boot_id() -> Option<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_owner_is_told_who_the_first_is() {
        let directory = tempfile::tempdir().unwrap();
        let first = StateDir::open(directory.path()).unwrap();
        let error = StateDir::open(directory.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("held by pid {}", std::process::id())), "{error}");
        first.release();
        StateDir::open(directory.path()).unwrap();
    }

    #[test]
    fn an_epoch_is_never_used_twice() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path()).unwrap();
        let first = state.claim_epoch().unwrap();
        let second = state.claim_epoch().unwrap();
        assert_eq!((first.epoch(), second.epoch()), (1, 2));
        second.remove().unwrap();
        assert_eq!(state.claim_epoch().unwrap().epoch(), 3);
    }

    #[test]
    fn a_new_directory_begins_above_what_a_lost_one_had() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path()).unwrap();
        state.begin_after(1_795_000_000).unwrap();
        assert_eq!(state.claim_epoch().unwrap().epoch(), 1_795_000_001);
        state.begin_after(1_796_000_000).unwrap();
        assert_eq!(state.claim_epoch().unwrap().epoch(), 1_795_000_002);
        // The file alone is lost.
        std::fs::remove_file(directory.path().join("epoch")).unwrap();
        state.begin_after(1_796_000_000).unwrap();
        assert_eq!(state.claim_epoch().unwrap().epoch(), 1_795_000_003);
    }

    #[test]
    fn only_epochs_without_an_owner_are_abandoned() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path()).unwrap();
        let first = state.claim_epoch().unwrap();
        let second = state.claim_epoch().unwrap();
        assert!(state.abandoned().unwrap().is_empty());
        drop(first);
        let abandoned = state.first_abandoned();
        assert_eq!(abandoned.epoch(), 1);
        assert!(!abandoned.machine_restarted());
        assert!(state.abandoned().unwrap().is_empty(), "the second has an owner, and the first has one again");
        assert!(is_live(second.path()).unwrap());
        drop(abandoned);
        std::fs::write(directory.path().join("epoch-0000000001/lock"), "pid 1\nboot other\n").unwrap();
        assert!(state.first_abandoned().machine_restarted());
    }
}
