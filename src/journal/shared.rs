//! What the writer, the keeper, the shipper and the health check of a shard have in common.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::allocation::{allocate_file, sync_directory};
use super::cursor::Cursor;
use super::mapping::Mapping;
use super::segment::{FRAMES_AT, Header, Names, Segment, read_first_page};
use super::table::Table;
use super::{Budget, Error, Options, io_error, lock};

/// Whether a shard can write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Health {
    /// It can.
    Ok,
    /// The budget or the disk is full; ends by itself once there is room.
    Full,
    /// The disk fails: what was appended may not survive a power cut (it survives the process). Ends by itself once a sync succeeds.
    Failed(String),
}

/// What [`Shared::release_through`] freed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Released {
    /// Segment files.
    pub segments: u64,
    /// Bytes given back to the budget.
    pub bytes: u64,
}

/// An allocated segment without a name yet.
#[derive(Debug)]
pub(super) struct Spare {
    pub(super) file: File,
    pub(super) mapping: Mapping,
}

#[derive(Debug, Default)]
pub(super) struct Files {
    /// Segments not wholly synced, in order; the last is the one being filled.
    pub(super) live: Vec<Arc<Segment>>,
    spare: Option<Spare>,
    /// Names changed since the directory was synced.
    pub(super) directory_dirty: bool,
}

/// A shard, seen from outside its thread.
#[derive(Debug)]
pub struct Shared {
    pub(super) directory: PathBuf,
    pub(super) epoch: u32,
    pub(super) shard: u16,
    pub(super) node: String,
    pub(super) options: Options,
    pub(super) table: Arc<Table>,
    pub(super) budget: Arc<Budget>,
    /// Bytes of the budget that this shard has.
    counted_bytes: AtomicU64,
    pub(super) published_seq: AtomicU64,
    pub(super) synced_seq: AtomicU64,
    pub(super) files: Mutex<Files>,
    /// A write failed: the writer must go on in a new segment.
    pub(super) rewrite_wanted: AtomicBool,
    pub(super) full: AtomicBool,
    folding: AtomicBool,
    failed: Mutex<Option<String>>,
    slots_failed: Mutex<Option<String>>,
    /// One sync or release at a time.
    syncing: Mutex<()>,
    #[cfg(test)]
    pub(super) fail_next_sync: AtomicBool,
}

impl Shared {
    pub(super) fn new(
        directory: PathBuf,
        (epoch, shard): (u32, u16),
        node: String,
        options: Options,
        table: Arc<Table>,
        budget: Arc<Budget>,
    ) -> Self {
        Self {
            directory,
            epoch,
            shard,
            node,
            options,
            table,
            budget,
            counted_bytes: AtomicU64::new(0),
            published_seq: AtomicU64::new(0),
            synced_seq: AtomicU64::new(0),
            files: Mutex::new(Files::default()),
            rewrite_wanted: AtomicBool::new(false),
            full: AtomicBool::new(false),
            folding: AtomicBool::new(false),
            failed: Mutex::new(None),
            slots_failed: Mutex::new(None),
            syncing: Mutex::new(()),
            #[cfg(test)]
            fail_next_sync: AtomicBool::new(false),
        }
    }

    /// The shard's directory: what [`super::Reader`] and [`Cursor`] open.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The epoch.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The shard.
    pub fn shard(&self) -> u16 {
        self.shard
    }

    /// The node that wrote it.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The seq that the next record gets: every lower one can be read, and survives the process.
    pub fn published_seq(&self) -> u64 {
        self.published_seq.load(Ordering::Acquire)
    }

    /// Every lower seq survives a power cut. Ship only these: a seq that was shipped and then lost would be used twice.
    pub fn synced_seq(&self) -> u64 {
        self.synced_seq.load(Ordering::Acquire)
    }

    /// Whether it can write.
    pub fn health(&self) -> Health {
        let failed = lock(&self.failed).clone();
        if let Some(text) = failed.or_else(|| lock(&self.slots_failed).clone()) {
            return Health::Failed(text);
        }
        if self.full.load(Ordering::Relaxed) {
            return Health::Full;
        }
        Health::Ok
    }

    /// How much of the journal's budget is used, of all shards together, in percent.
    pub fn used_percent(&self) -> u64 {
        self.budget.used() * 100 / self.budget.max().max(1)
    }

    /// States whether requests are summed up instead of recorded one by one.
    pub fn set_folding(&self, folding: bool) {
        self.folding.store(folding, Ordering::Relaxed);
    }

    /// Whether requests are summed up instead of recorded one by one.
    pub fn is_folding(&self) -> bool {
        self.folding.load(Ordering::Relaxed)
    }

    pub(super) fn set_failed(&self, text: String) {
        *lock(&self.failed) = Some(text);
    }

    /// Takes a segment's bytes from the budget; `force` goes past its end.
    pub(super) fn take_budget(&self, bytes: u64, force: bool) -> bool {
        if force {
            self.budget.take(bytes);
        } else if !self.budget.try_take(bytes) {
            return false;
        }
        self.counted_bytes.fetch_add(bytes, Ordering::Relaxed);
        true
    }

    pub(super) fn give_budget(&self, bytes: u64) {
        self.counted_bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.budget.give(bytes);
    }

    /// Makes a segment of the spare, if there is one. Under the lock until the file has its name: the next spare gets the old one.
    pub(super) fn name_spare(&self, first_seq: u64, generation: u32) -> Option<Result<Arc<Segment>, Error>> {
        let mut files = lock(&self.files);
        let spare = files.spare.take()?;
        Some(self.name_segment(spare, &self.spare_path(), first_seq, generation))
    }

    /// Gives the file at `unnamed` its header and, with it, its name.
    pub(super) fn name_segment(
        &self,
        spare: Spare,
        unnamed: &Path,
        first_seq: u64,
        generation: u32,
    ) -> Result<Arc<Segment>, Error> {
        let segment = self.begin_segment(spare, first_seq, generation);
        let path = segment.name.path(&self.directory);
        if let Err(source) = std::fs::rename(unnamed, &path) {
            self.give_budget(self.options.segment_bytes);
            return Err(io_error("name", &path)(source));
        }
        Ok(Arc::new(segment))
    }

    pub(super) fn begin_segment(&self, spare: Spare, first_seq: u64, generation: u32) -> Segment {
        let header = Header { epoch: self.epoch, shard: self.shard, first_seq, generation, node: self.node.clone() };
        let bytes = self.options.segment_bytes;
        Segment::begin(spare.file, spare.mapping, bytes, &header)
    }

    fn spare_path(&self) -> PathBuf {
        self.directory.join("spare")
    }

    /// An allocated and mapped file for a segment, named `name` for now. The budget has been asked before.
    pub(super) fn allocate(&self, path: &Path) -> Result<Spare, Error> {
        remove_if_there(path)?;
        let bytes = self.options.segment_bytes;
        let file = allocate_file(path, bytes)?;
        let mapping = Mapping::new(&file, bytes).map_err(io_error("map", path))?;
        Ok(Spare { file, mapping })
    }

    /// Makes the next segment file and the next slots before they are needed, so that the worker never waits for the disk.
    pub fn prepare(&self) -> Result<(), Error> {
        self.table.prepare()?;
        let wanted = {
            let files = lock(&self.files);
            let half_full = files
                .live
                .last()
                .is_some_and(|segment| (segment.published().end - FRAMES_AT) * 2 > segment.bytes - FRAMES_AT);
            files.spare.is_none() && half_full
        };
        let bytes = self.options.segment_bytes;
        if !wanted || !self.take_budget(bytes, false) {
            return Ok(());
        }
        let unnamed = self.directory.join("spare.new");
        let kept = self.allocate(&unnamed).and_then(|spare| self.keep_spare(&unnamed, spare));
        if !matches!(kept, Ok(true)) {
            self.give_budget(bytes);
            remove_if_there(&unnamed)?;
        }
        kept.map(|_| ())
    }

    /// Makes the file at `path` the spare; false if there is one already.
    fn keep_spare(&self, path: &Path, spare: Spare) -> Result<bool, Error> {
        let mut files = lock(&self.files);
        if files.spare.is_some() {
            return Ok(false);
        }
        std::fs::rename(path, self.spare_path()).map_err(io_error("rename", path))?;
        files.spare = Some(spare);
        Ok(true)
    }

    /// Makes everything published so far durable. A file whose sync failed is never synced again; the writer is told to go on in a
    /// new one and to write there again what was not durable.
    pub fn sync(&self) -> Result<(), Error> {
        let one = lock(&self.syncing);
        let result = self.sync_segments();
        drop(one);
        if result.is_err() {
            // No slot waits for a disk that fails.
            self.table.records_are_durable(u64::MAX);
        }
        result
    }

    fn sync_segments(&self) -> Result<(), Error> {
        let (segments, directory_dirty) = {
            let mut files = lock(&self.files);
            (files.live.clone(), std::mem::take(&mut files.directory_dirty))
        };
        let mut durable = None;
        for segment in &segments {
            let published = segment.published();
            if published != segment.synced() || directory_dirty {
                self.sync_segment(segment)?;
                segment.set_synced(published);
            }
            durable = Some(segment.name.first_seq + published.count);
        }
        if directory_dirty && let Err(error) = sync_directory(&self.directory) {
            lock(&self.files).directory_dirty = true;
            self.set_failed(error_text(&error));
            return Err(error);
        }
        if let Some(seq) = durable {
            self.synced_seq.fetch_max(seq, Ordering::Release);
        }
        self.table.records_are_durable(self.synced_seq());
        let mut files = lock(&self.files);
        if let Some((current, sealed)) = files.live.split_last() {
            let mut left: Vec<_> =
                sealed.iter().filter(|segment| segment.synced() != segment.published()).cloned().collect();
            left.push(Arc::clone(current));
            files.live = left;
        }
        drop(files);
        *lock(&self.failed) = None;
        Ok(())
    }

    fn sync_segment(&self, segment: &Segment) -> Result<(), Error> {
        let path = segment.name.path(&self.directory);
        if segment.poisoned.load(Ordering::Relaxed) {
            return Err(Error::Io {
                operation: "sync, a write to it has failed before,",
                path,
                source: std::io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error()),
            });
        }
        let synced = self.sync_data(&segment.file);
        let Err(source) = synced else {
            return Ok(());
        };
        segment.poisoned.store(true, Ordering::Relaxed);
        self.rewrite_wanted.store(true, Ordering::Release);
        // The names must still be synced once a new segment is there.
        lock(&self.files).directory_dirty = true;
        let error = Error::Io { operation: "sync", path, source };
        self.set_failed(error_text(&error));
        Err(error)
    }

    fn sync_data(&self, file: &File) -> std::io::Result<()> {
        #[cfg(test)]
        if self.fail_next_sync.swap(false, Ordering::Relaxed) {
            return Err(std::io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error()));
        }
        file.sync_data()
    }

    /// Makes the slots durable as they are. A slots file whose sync failed stays in use (it still survives the process) and the shard
    /// stays [`Health::Failed`], for its slots may not survive a power cut any more.
    pub fn sync_slots(&self) -> Result<(), Error> {
        self.sync_slots_once(&mut lock(&self.slots_failed))
    }

    /// [`Self::sync_slots`], unless another thread is doing so: who must not wait for a disk that stands still asks this way.
    pub fn try_sync_slots(&self) -> Result<bool, Error> {
        let Ok(mut failed) = self.slots_failed.try_lock() else { return Ok(false) };
        self.sync_slots_once(&mut failed).map(|()| true)
    }

    fn sync_slots_once(&self, failed: &mut Option<String>) -> Result<(), Error> {
        let number = self.table.sync_begins();
        let mut result = Ok(());
        if failed.is_none() {
            result = self
                .table
                .chunks()
                .iter()
                .try_for_each(|chunk| chunk.file.sync_data().map_err(io_error("sync", &chunk.path)));
        }
        if let Err(error) = &result {
            *failed = Some(error_text(error));
        }
        // Also where it failed: sums go on, for they survive the process.
        self.table.sync_ended(number);
        result
    }

    /// Whether a sum waits for [`Self::sync_slots`].
    pub fn is_asked_for_sync(&self) -> bool {
        self.table.is_asked_for_sync()
    }

    /// Gives back what nobody writes any more: the room behind the last record and, if none of them is open, the slots. The writer is
    /// gone and everything is synced. So what waits for its sink takes no more of the disk than its records, however often a process
    /// starts and dies meanwhile.
    pub fn seal(&self) -> Result<(), Error> {
        let mut changed = false;
        let last = lock(&self.files).live.pop();
        if let Some(last) = last {
            let (path, file_bytes) = (last.name.path(&self.directory), last.bytes);
            let bytes = last.published().end.next_multiple_of(4096);
            let file = last.file.try_clone().map_err(io_error("open", &path))?;
            // Nothing may map what is cut off.
            drop(last);
            if bytes < file_bytes {
                file.set_len(bytes).map_err(io_error("shorten", &path))?;
                self.give_budget(file_bytes - bytes);
                changed = true;
            }
        }
        if self.table.remove()? || changed {
            // Durable before a record goes: slots that came back would not know what was recorded of them.
            sync_directory(&self.directory)?;
        }
        Ok(())
    }

    /// The seq behind the last record of the oldest segment; `None` if it is the one being filled.
    pub fn oldest_segment_end(&self) -> Result<Option<u64>, Error> {
        Ok(Names::of(&self.directory)?.effective.get(1).map(|next| next.first_seq))
    }

    /// Frees every segment that lies wholly below `cursor`, which is durable already. One is kept as the spare, the others are removed.
    /// The segment being filled is never freed.
    pub fn release_through(&self, cursor: &Cursor) -> Result<Released, Error> {
        let below = cursor.next_seq();
        let names = Names::of(&self.directory)?;
        let mut released = Released::default();
        let freeable = |names: &Names| names.effective.get(1).is_some_and(|next| next.first_seq <= below);
        if !freeable(&names) && names.superseded.is_empty() {
            return Ok(released);
        }
        // Once the records are gone, only the slots know what was recorded: they must be durable first. And no segment that the
        // keeper still holds may be recycled under it.
        self.sync_slots()?;
        let one = lock(&self.syncing);
        self.sync_segments()?;
        let held: Vec<_> = lock(&self.files).live.iter().map(|segment| segment.name).collect();
        let mut freed = Vec::new();
        for pair in names.effective.windows(2) {
            let [name, next] = pair else { continue };
            if next.first_seq > below {
                break;
            }
            freed.push(*name);
        }
        for name in names.superseded {
            let path = name.path(&self.directory);
            let file = File::open(&path).map_err(io_error("open", &path))?;
            let (_, published, _) = read_first_page(&file, &path)?;
            if published.is_some_and(|mark| name.first_seq + mark.count <= below) {
                freed.push(name);
            }
        }
        freed.retain(|name| !held.contains(name));
        for name in freed {
            let path = name.path(&self.directory);
            released.segments += 1;
            released.bytes += self.free_segment(&path)?;
        }
        drop(one);
        if released.segments > 0 {
            sync_directory(&self.directory)?;
        }
        Ok(released)
    }

    /// The bytes given back: 0 if it became the spare.
    fn free_segment(&self, path: &Path) -> Result<u64, Error> {
        let bytes = std::fs::metadata(path).map_err(io_error("look at", path))?.len();
        let wanted = {
            let files = lock(&self.files);
            files.spare.is_none() && !files.live.is_empty()
        };
        if wanted && bytes == self.options.segment_bytes && self.budget.used() <= self.budget.max() {
            match self.recycle(path, bytes) {
                Ok(true) => return Ok(0),
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot recycle a segment, removing it");
                }
            }
        }
        std::fs::remove_file(path).map_err(io_error("remove", path))?;
        self.give_budget(bytes);
        Ok(bytes)
    }

    fn recycle(&self, path: &Path, bytes: u64) -> Result<bool, Error> {
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(io_error("open", path))?;
        // A blank header first, durably: after a power cut its new name must not find the old header.
        file.write_all_at(&[0; FRAMES_AT as usize], 0).map_err(io_error("clear", path))?;
        file.sync_data().map_err(io_error("sync", path))?;
        let mapping = Mapping::new(&file, bytes).map_err(io_error("map", path))?;
        self.keep_spare(path, Spare { file, mapping })
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.budget.give(*self.counted_bytes.get_mut());
    }
}

pub(super) fn remove_if_there(path: &Path) -> Result<(), Error> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(Error::Io { operation: "remove", path: path.to_owned(), source }),
    }
}

/// The error with its source, on one line.
pub(super) fn error_text(error: &Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
