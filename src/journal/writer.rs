//! The writer of a shard: appends records, goes on to the next segment when one is full.

use std::cell::Cell;
use std::marker::PhantomData;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::allocation::{make_directory, sync_directory};
use super::frame::{self, Draft, HEADER_BYTES, PAYLOAD_BYTES_MAX, SlotRef};
use super::segment::{FRAMES_AT, Mark, NODE_BYTES_MAX, Names, Segment};
use super::shared::{Shared, Spare, remove_if_there};
use super::statedir::EpochDir;
use super::table::{SlotTable, Table};
use super::{AppendError, Budget, Error, Options, io_error, is_disk_full, lock};

/// After the disk refused a segment it is asked again this much later; until then an append costs nothing.
const DISK_RETRY: Duration = Duration::from_millis(100);

/// Appends the records of a shard. One per worker thread; may be sent to it, not shared.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
    slots: SlotTable,
    segment: Arc<Segment>,
    mark: Mark,
    draft: Draft,
    next_seq: u64,
    generation: u32,
    seed: u32,
    payload_bytes_max: usize,
    /// Whether the budget may be passed: what recovery writes must fit.
    beyond_budget: bool,
    disk_retry_at: Option<Instant>,
    one_thread: PhantomData<Cell<()>>,
}

impl Writer {
    /// A new shard of `epoch`, at seq 0. `node` names the node in every segment, at most 248 bytes.
    pub fn create(
        epoch: &EpochDir,
        shard: u16,
        node: &str,
        options: &Options,
        budget: Arc<Budget>,
    ) -> Result<Self, Error> {
        options.check()?;
        if node.len() > NODE_BYTES_MAX {
            return Err(Error::Options(format!("a node name of {} bytes, at most {NODE_BYTES_MAX} fit", node.len())));
        }
        let directory = epoch.shard_path(shard);
        make_directory(&directory)?;
        if !Names::of(&directory)?.effective.is_empty() {
            return Err(Error::Options(format!(
                "{} holds a journal already; it can only be reopened",
                directory.display()
            )));
        }
        let table = Table::new(directory.clone(), epoch.epoch(), shard, options.slots_max, Vec::new());
        table.grow()?;
        let shared = Arc::new(Shared::new(
            directory,
            (epoch.epoch(), shard),
            node.to_owned(),
            options.clone(),
            Arc::new(table),
            budget,
        ));
        let writer = Self::start(shared, 0, 0, false)?;
        sync_directory(epoch.path())?;
        Ok(writer)
    }

    /// A writer whose first segment is a new one, at `next_seq`. It may pass the budget: a journal that its predecessors have
    /// filled keeps nobody from starting, and what they left is shipped, or given up, only by one who runs.
    pub(super) fn start(
        shared: Arc<Shared>,
        next_seq: u64,
        generation: u32,
        beyond_budget: bool,
    ) -> Result<Self, Error> {
        let bytes = shared.options.segment_bytes;
        shared.take_budget(bytes, true);
        let unnamed = shared.directory.join("seg.new");
        let spare = shared.allocate(&unnamed).inspect_err(|_| {
            shared.give_budget(bytes);
        })?;
        let segment = shared.name_segment(spare, &unnamed, next_seq, generation)?;
        Ok(Self::on(shared, segment, Mark::EMPTY, beyond_budget))
    }

    /// A writer that goes on in `segment` behind `mark`.
    pub(super) fn on(shared: Arc<Shared>, segment: Arc<Segment>, mark: Mark, beyond_budget: bool) -> Self {
        let next_seq = segment.name.first_seq + mark.count;
        let frames = shared.options.segment_bytes - FRAMES_AT;
        {
            let mut files = lock(&shared.files);
            files.live.push(Arc::clone(&segment));
            files.directory_dirty = true;
        }
        shared.published_seq.store(next_seq, Ordering::Release);
        Self {
            slots: SlotTable { table: Arc::clone(&shared.table) },
            generation: segment.name.generation,
            seed: frame::seed(shared.epoch, shared.shard),
            payload_bytes_max: PAYLOAD_BYTES_MAX.min(frames as usize - HEADER_BYTES),
            shared,
            segment,
            mark,
            draft: Draft::default(),
            next_seq,
            beyond_budget,
            disk_retry_at: None,
            one_thread: PhantomData,
        }
    }

    /// The seq that the next record gets.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// The live counters.
    pub fn slots(&self) -> &SlotTable {
        &self.slots
    }

    /// What other threads see of it.
    pub fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// Whether the journal may grow beyond its budget: for the one record without which nothing may be freed.
    pub fn allow_beyond_budget(&mut self, allowed: bool) {
        self.beyond_budget = allowed;
    }

    /// [`Self::append_with`], for a payload that is there already.
    pub fn append(&mut self, payload: &[u8]) -> Result<u64, AppendError> {
        self.append_with(payload.len(), |room| {
            room[..payload.len()].copy_from_slice(payload);
            payload.len()
        })
    }

    /// Appends the record whose payload, of at most `bytes_max`, `encode` writes to the beginning of the room it is given (it says how
    /// much), and publishes it: a memory copy and a release store. If [`super::Slot::begin_record`] came before, this is its record. On an error nothing was
    /// appended and the intent is taken back.
    #[inline]
    pub fn append_with(
        &mut self,
        bytes_max: usize,
        encode: impl FnOnce(&mut [u8]) -> usize,
    ) -> Result<u64, AppendError> {
        self.draft.fill(bytes_max, encode);
        let Some(intent) = self.shared.table.take_intent() else {
            return self.append_draft(SlotRef::default());
        };
        assert_eq!(intent.seq, self.next_seq, "the record of another seq was stated");
        let appended = self.append_draft(intent.about);
        if appended.is_err() {
            self.shared.table.revoke(&intent);
        }
        appended
    }

    fn append_draft(&mut self, about: SlotRef) -> Result<u64, AppendError> {
        let bytes = self.draft.payload_bytes();
        if bytes > self.payload_bytes_max {
            return Err(AppendError::TooLarge { bytes, max: self.payload_bytes_max });
        }
        if self.shared.rewrite_wanted.load(Ordering::Relaxed) {
            self.rewrite()?;
        }
        if !self.segment.has_room(self.mark.end, frame::frame_bytes(bytes)) {
            self.rotate()?;
        }
        self.mark = self.segment.append(self.mark, self.seed, about, &mut self.draft);
        let seq = self.next_seq;
        self.next_seq += 1;
        self.shared.published_seq.store(self.next_seq, Ordering::Release);
        Ok(seq)
    }

    /// Goes on to the next segment.
    #[cold]
    fn rotate(&mut self) -> Result<(), AppendError> {
        let (next_seq, generation) = (self.next_seq, self.generation);
        let segment = match self.shared.name_spare(next_seq, generation) {
            Some(segment) => segment?,
            None => {
                let (spare, unnamed) = self.allocate()?;
                self.shared.name_segment(spare, &unnamed, next_seq, generation)?
            }
        };
        let mut files = lock(&self.shared.files);
        files.live.push(Arc::clone(&segment));
        files.directory_dirty = true;
        drop(files);
        self.segment = segment;
        self.mark = Mark::EMPTY;
        self.shared.full.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// No spare was ready.
    fn allocate(&mut self) -> Result<(Spare, PathBuf), AppendError> {
        let bytes = self.shared.options.segment_bytes;
        if self.disk_retry_at.is_some_and(|at| Instant::now() < at) {
            return Err(AppendError::Full);
        }
        if !self.shared.take_budget(bytes, self.beyond_budget) {
            self.shared.full.store(true, Ordering::Relaxed);
            return Err(AppendError::Full);
        }
        self.disk_retry_at = None;
        let unnamed = self.shared.directory.join("seg.new");
        let error = match self.shared.allocate(&unnamed) {
            Ok(spare) => return Ok((spare, unnamed)),
            Err(error) => error,
        };
        self.shared.give_budget(bytes);
        self.shared.full.store(true, Ordering::Relaxed);
        self.disk_retry_at = Some(Instant::now() + DISK_RETRY);
        Err(if is_disk_full(&error) { AppendError::Full } else { AppendError::Io(error) })
    }

    /// A sync failed: what was published since the last good one is in doubt. Copies it under the same seqs to new files of the next
    /// generation and goes on there. Killed in between, the old files still hold everything: the new ones get their names from the
    /// last to the first, and each name replaces only what is behind it.
    #[cold]
    fn rewrite(&mut self) -> Result<(), AppendError> {
        let live = lock(&self.shared.files).live.clone();
        let poisoned = |segment: &Arc<Segment>| segment.poisoned.load(Ordering::Relaxed);
        let Some(from) = live.iter().position(poisoned) else {
            self.shared.rewrite_wanted.store(false, Ordering::Relaxed);
            return Ok(());
        };
        if self.disk_retry_at.is_some_and(|at| Instant::now() < at) {
            return Err(AppendError::Full);
        }
        let mut copy = Copy {
            shared: &self.shared,
            seed: self.seed,
            generation: self.generation + 1,
            segments: Vec::new(),
            draft: Draft::default(),
        };
        if let Err(error) = copy.all(&live[from..], self.next_seq) {
            copy.undo();
            self.shared.full.store(true, Ordering::Relaxed);
            self.disk_retry_at = Some(Instant::now() + DISK_RETRY);
            return Err(error.into());
        }
        copy.name()?;
        let Some((segment, mark, _)) = copy.segments.last() else {
            return Ok(());
        };
        self.generation += 1;
        self.segment = Arc::clone(segment);
        self.mark = *mark;
        let mut files = lock(&self.shared.files);
        files.live.truncate(from);
        let copied = copy.segments.iter().map(|(segment, ..)| Arc::clone(segment));
        files.live.extend(copied);
        files.directory_dirty = true;
        drop(files);
        self.disk_retry_at = None;
        self.shared.full.store(false, Ordering::Relaxed);
        self.shared.rewrite_wanted.store(false, Ordering::Relaxed);
        Ok(())
    }
}

/// The copying of frames to files of a new generation.
struct Copy<'a> {
    shared: &'a Shared,
    seed: u32,
    generation: u32,
    /// Each with its fill and its name for now.
    segments: Vec<(Arc<Segment>, Mark, PathBuf)>,
    draft: Draft,
}

impl Copy<'_> {
    /// Copies what `live` holds beyond its first one's synced mark, up to `next_seq`.
    fn all(&mut self, live: &[Arc<Segment>], next_seq: u64) -> Result<(), Error> {
        let mut skip = live.first().map_or(Mark::EMPTY, |first| first.synced());
        for segment in live {
            self.frames_of(segment, skip)?;
            skip = Mark::EMPTY;
        }
        // The new current segment, if nothing was in doubt or the last frames could not be read back.
        let reached = self.segments.last();
        let reached = reached.map(|(segment, mark, _)| segment.name.first_seq + mark.count);
        if reached != Some(next_seq) {
            self.begin(next_seq)?;
        }
        Ok(())
    }

    fn frames_of(&mut self, segment: &Segment, from: Mark) -> Result<(), Error> {
        let path = segment.name.path(&self.shared.directory);
        let to = segment.published();
        // Read, not taken from the mapping: a page that the kernel dropped is an error here and SIGBUS there.
        let mut bytes = vec![0; (to.end - from.end) as usize];
        if let Err(error) = segment.file.read_exact_at(&mut bytes, from.end) {
            tracing::error!(
                path = %path.display(), %error,
                first_seq = segment.name.first_seq + from.count, next_seq = segment.name.first_seq + to.count,
                "records lost: the disk neither wrote them nor gives them back"
            );
            return Ok(());
        }
        let (mut at, mut seq) = (0, segment.name.first_seq + from.count);
        while let Some((head, payload)) = frame::read(&bytes[at..], self.seed) {
            if head.seq != seq {
                break;
            }
            self.append(head.seq, head.about, payload)?;
            at += head.frame_bytes();
            seq += 1;
        }
        if seq != segment.name.first_seq + to.count {
            tracing::error!(
                path = %path.display(), first_seq = seq, next_seq = segment.name.first_seq + to.count,
                "records lost: the disk did not write them and gives back something else"
            );
        }
        Ok(())
    }

    fn append(&mut self, seq: u64, about: SlotRef, payload: &[u8]) -> Result<(), Error> {
        let fits = self.segments.last().is_some_and(|(segment, mark, _)| {
            segment.name.first_seq + mark.count == seq && segment.has_room(mark.end, frame::frame_bytes(payload.len()))
        });
        if !fits {
            self.begin(seq)?;
        }
        if let Some((segment, mark, _)) = self.segments.last_mut() {
            self.draft.copy(payload);
            *mark = segment.append(*mark, self.seed, about, &mut self.draft);
        }
        Ok(())
    }

    fn begin(&mut self, first_seq: u64) -> Result<(), Error> {
        let name = format!("rewrite-{:04}.new", self.segments.len());
        let unnamed = self.shared.directory.join(name);
        let spare = self.shared.allocate(&unnamed)?;
        self.shared.take_budget(self.shared.options.segment_bytes, true);
        let segment = self.shared.begin_segment(spare, first_seq, self.generation);
        self.segments.push((Arc::new(segment), Mark::EMPTY, unnamed));
        Ok(())
    }

    fn name(&self) -> Result<(), Error> {
        for (segment, _, unnamed) in self.segments.iter().rev() {
            let path = segment.name.path(&self.shared.directory);
            std::fs::rename(unnamed, &path).map_err(io_error("name", &path))?;
        }
        Ok(())
    }

    fn undo(&self) {
        for (_, _, unnamed) in &self.segments {
            self.shared.give_budget(self.shared.options.segment_bytes);
            if let Err(error) = remove_if_there(unnamed) {
                tracing::warn!(%error, "a half-written copy is left");
            }
        }
    }
}
