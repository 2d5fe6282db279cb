//! Reading a shard, also while another process writes it.
//!
//! By `read`, never by mapping: a file that is cut off or recycled meanwhile is an error or a jump, not SIGBUS. What is not a good frame
//! inside the published range is reported as [`Entry::Damaged`] with its exact seqs and place, never skipped in silence; reading goes
//! on at the next good frame, found by its checksum.

use std::path::{Path, PathBuf};

use super::cursor::Cursor;
use super::frame::Head;
use super::segment::{Mark, Name, Names};
use super::segment_file::SegmentFile;
use super::statedir::is_gone;
use super::{Error, io_error};

/// A record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// Its seq.
    pub seq: u64,
    /// What was appended.
    pub payload: Vec<u8>,
}

/// A range of seqs that cannot be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DamagedRange {
    /// The file, or the shard's directory if the file is missing.
    pub path: PathBuf,
    /// Where in it, in bytes.
    pub offset: u64,
    /// How many bytes of it.
    pub bytes: u64,
    /// The first lost seq.
    pub first_seq: u64,
    /// The seq behind the last lost one; equal to `first_seq` if no record was lost.
    pub next_seq: u64,
    /// What is wrong.
    pub reason: &'static str,
}

/// What a reader comes upon.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Entry {
    /// A record.
    Frame(Frame),
    /// Records that are lost.
    Damaged(DamagedRange),
}

/// What a reader comes upon, a record by its seq alone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// A record's seq; its bytes are [`Reader::payload`].
    Record(u64),
    /// Records that are lost.
    Damaged(DamagedRange),
}

/// Reads the records of a shard in order.
#[derive(Debug)]
pub struct Reader {
    directory: PathBuf,
    epoch: u32,
    shard: u16,
    /// The first seq to give out.
    from_seq: u64,
    /// The seq expected next.
    want: u64,
    current: Option<SegmentFile>,
    /// First seq of the segment after the current one, if there is one.
    stop: Option<u64>,
    /// Everything that can be read, not only what is published: for recovery.
    unpublished_too: bool,
    /// Where damage was seen once. A directory listed while files are renamed can miss one: only what is seen twice is reported.
    suspect: Option<u64>,
    last: Option<(Head, u64)>,
}

impl Reader {
    /// Opens a shard's directory at `from_seq`, or at the first seq that is still there if those before were shipped and freed.
    pub fn open(shard_directory: &Path, from_seq: u64) -> Result<Self, Error> {
        let (epoch, shard) = identity(shard_directory)?;
        let names = Names::of(shard_directory)?;
        // Seqs below the cursor may be gone rightly.
        let freed = Cursor::peek(shard_directory)?;
        let oldest = names.effective.first().map_or(0, |name| name.first_seq);
        let from_seq = from_seq.max(oldest.min(freed));
        Ok(Self {
            directory: shard_directory.to_owned(),
            epoch,
            shard,
            from_seq,
            want: from_seq,
            current: None,
            stop: None,
            unpublished_too: false,
            suspect: None,
            last: None,
        })
    }

    /// A reader of everything in the directory of a dead epoch, from the oldest file on.
    pub(super) fn recover(shard_directory: &Path, first_seq: u64) -> Result<Self, Error> {
        let mut reader = Self::open(shard_directory, first_seq)?;
        reader.from_seq = first_seq;
        reader.want = first_seq;
        reader.unpublished_too = true;
        Ok(reader)
    }

    /// The seq that the next entry begins with.
    pub fn next_seq(&self) -> u64 {
        self.want
    }

    /// The next record or lost range; `None` when everything published was read. Call it again later to follow.
    #[expect(clippy::should_implement_trait, reason = "None is not the end: a reader follows")]
    pub fn next(&mut self) -> Result<Option<Entry>, Error> {
        self.next_below(u64::MAX)
    }

    /// [`Self::next`], but only records below `limit`, such as [`super::Shared::synced_seq`].
    pub fn next_below(&mut self, limit: u64) -> Result<Option<Entry>, Error> {
        Ok(self.step_below(limit)?.map(|step| match step {
            Step::Record(seq) => Entry::Frame(Frame { seq, payload: self.payload().to_vec() }),
            Step::Damaged(range) => Entry::Damaged(range),
        }))
    }

    /// The bytes of the record that the last step came upon, without a copy.
    pub fn payload(&self) -> &[u8] {
        match (&self.current, &self.last) {
            (Some(segment), Some((head, offset))) => segment.payload(*offset, head),
            _ => &[],
        }
    }

    /// [`Self::next_below`] without a copy of the record.
    pub fn step_below(&mut self, limit: u64) -> Result<Option<Step>, Error> {
        loop {
            if self.want >= limit {
                return Ok(None);
            }
            if self.current.is_none() && !self.select()? {
                return Ok(None);
            }
            let Some(segment) = &mut self.current else {
                return Ok(None);
            };
            if let Some(stop) = self.stop
                && self.want >= stop
            {
                self.current = None;
                continue;
            }
            // Segments begin at or before what is wanted, except where one is missing.
            if segment.next.count == 0 && segment.name.first_seq > self.want {
                if self.look_again() {
                    continue;
                }
                let Some(segment) = &self.current else {
                    continue;
                };
                if segment.name.first_seq <= Cursor::peek(&self.directory)? {
                    // Shipped and freed before this reader came to it.
                    self.want = segment.name.first_seq;
                    continue;
                }
                let damaged = DamagedRange {
                    path: self.directory.clone(),
                    offset: 0,
                    bytes: 0,
                    first_seq: self.want,
                    next_seq: segment.name.first_seq,
                    reason: "missing segment",
                };
                self.want = segment.name.first_seq;
                return Ok(Some(Step::Damaged(damaged)));
            }
            let at = segment.name.first_seq + segment.next.count;
            let head = segment.frame(self.stop.is_some() || self.unpublished_too)?;
            if let Some(head) = head
                && head.seq == at
            {
                let offset = segment.next.end;
                segment.next.end += head.frame_bytes() as u64;
                segment.next.count += 1;
                if at < self.want {
                    continue;
                }
                self.want = at + 1;
                self.last = Some((head, offset));
                return Ok(Some(Step::Record(at)));
            }
            match segment.damage(self.stop, self.unpublished_too)? {
                Some(damaged) => {
                    if damaged.next_seq <= self.want {
                        continue;
                    }
                    if self.look_again() {
                        continue;
                    }
                    let damaged = DamagedRange { first_seq: damaged.first_seq.max(self.want), ..damaged };
                    self.want = damaged.next_seq;
                    return Ok(Some(Step::Damaged(damaged)));
                }
                None => {
                    // All of it was read. Has the writer gone on to another file?
                    if !self.refresh()? {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// Whether to look a second time before damage is reported: from the list of files on.
    fn look_again(&mut self) -> bool {
        if self.suspect == Some(self.want) {
            return false;
        }
        self.suspect = Some(self.want);
        self.current = None;
        true
    }

    /// The header, offset and file of the frame that was read last.
    pub(super) fn last(&self) -> Option<(Head, u64, Name)> {
        let (head, offset) = self.last?;
        Some((head, offset, self.current.as_ref()?.name))
    }

    /// The segment being read, how far it was read, and its marks.
    pub(super) fn position(&self) -> Option<(&SegmentFile, Mark)> {
        self.current.as_ref().map(|segment| (segment, segment.next))
    }

    /// The files to read; none if the epoch was freed, with all its records acknowledged.
    fn names(&self) -> Result<Vec<Name>, Error> {
        match Names::of(&self.directory) {
            Ok(names) => Ok(names.effective),
            Err(_) if is_gone(&self.directory) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Opens the segment that holds the wanted seq. False: there is none yet.
    fn select(&mut self) -> Result<bool, Error> {
        // A file that is gone by the time it is opened was recycled: look again.
        for _ in 0..100 {
            let names = self.names()?;
            let behind = names.partition_point(|name| name.first_seq <= self.want);
            let at = behind.saturating_sub(1);
            let Some(name) = names.get(at) else {
                return Ok(false);
            };
            let Some(segment) = SegmentFile::open(&self.directory, *name, self.epoch, self.shard)? else {
                continue;
            };
            self.stop = names.get(at + 1).map(|name| name.first_seq);
            self.current = Some(segment);
            return Ok(true);
        }
        Ok(false)
    }

    /// Whether the files have changed in a way that leads on.
    fn refresh(&mut self) -> Result<bool, Error> {
        let Some(segment) = &self.current else {
            return Ok(true);
        };
        let names = self.names()?;
        let behind = names.partition_point(|name| name.first_seq <= self.want);
        let there = behind.checked_sub(1).and_then(|at| names.get(at));
        let stop = names.get(behind).map(|name| name.first_seq);
        if there.is_some_and(|name| *name != segment.name) {
            self.current = None;
            return Ok(true);
        }
        if there.is_none() {
            // Everything up to here was freed while we stood; what is next begins later.
            self.current = None;
            return Ok(!names.is_empty());
        }
        let changed = stop != self.stop;
        self.stop = stop;
        Ok(changed)
    }
}

/// Epoch and shard, by the names of the directories.
fn identity(shard_directory: &Path) -> Result<(u32, u16), Error> {
    let number = |path: Option<&Path>, prefix: &str| {
        path.and_then(Path::file_name)
            .and_then(|name| name.to_str())
            .and_then(|name| name.strip_prefix(prefix))
            .and_then(|number| number.parse::<u32>().ok())
    };
    let canonical = shard_directory.canonicalize().map_err(io_error("open directory", shard_directory))?;
    let shard = number(Some(&canonical), "shard-").and_then(|shard| u16::try_from(shard).ok());
    match (number(canonical.parent(), "epoch-"), shard) {
        (Some(epoch), Some(shard)) => Ok((epoch, shard)),
        _ => {
            Err(Error::Options(format!("{} is no shard's directory (epoch-<n>/shard-<n>)", shard_directory.display())))
        }
    }
}
