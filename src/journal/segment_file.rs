//! One segment file as a reader sees it: good frames in order, and what lies between them.
//!
//! The header and the marks are read anew when no good frame is where one is expected: the writer may have gone on, or the file may
//! have been recycled. A damaged header costs nothing, the frames say themselves whose they are; a damaged mark costs nothing either, the
//! file is then read as far as frames are good.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::frame::{self, Head};
use super::reader::DamagedRange;
use super::segment::{FirstPage, Header, Mark, Name, read_first_page};
use super::{Error, io_error};

/// Read at once. Larger than any frame.
const WINDOW_BYTES: usize = 1 << 20;

/// A segment being read.
#[derive(Debug)]
pub(super) struct SegmentFile {
    pub(super) name: Name,
    pub(super) path: PathBuf,
    pub(super) header: FirstPage,
    file: File,
    seed: u32,
    pub(super) bytes: u64,
    pub(super) published: Option<Mark>,
    pub(super) synced: Option<Mark>,
    /// Behind the last frame that was read.
    pub(super) next: Mark,
    window: Vec<u8>,
    window_at: u64,
}

impl SegmentFile {
    /// `None`: it is gone.
    pub(super) fn open(directory: &Path, name: Name, epoch: u32, shard: u16) -> Result<Option<Self>, Error> {
        let path = name.path(directory);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(io_error("open", &path)(source)),
        };
        let mut segment = Self {
            name,
            header: FirstPage::Blank,
            seed: frame::seed(epoch, shard),
            bytes: 0,
            published: None,
            synced: None,
            next: Mark::EMPTY,
            window: Vec::new(),
            window_at: 0,
            file,
            path,
        };
        segment.look()?;
        if let FirstPage::Newer(version) = segment.header {
            return Err(Error::NewerFormat { path: segment.path, version });
        }
        Ok(Some(segment))
    }

    /// Reads the marks anew. A first page whose header is not this segment's any more (recycled) publishes nothing.
    fn look(&mut self) -> Result<(), Error> {
        let metadata = self.file.metadata();
        self.bytes = metadata.map_err(io_error("look at", &self.path))?.len();
        (self.header, self.published, self.synced) = read_first_page(&self.file, &self.path)?;
        if self.header_of(self.name.first_seq).is_none() && self.header == FirstPage::Blank {
            self.published = Some(Mark::EMPTY);
        }
        Ok(())
    }

    /// The header, if it says what the name says.
    pub(super) fn header_of(&self, first_seq: u64) -> Option<&Header> {
        match &self.header {
            FirstPage::Good(header) if header.first_seq == first_seq => Some(header),
            _ => None,
        }
    }

    /// Where to stop reading: what is published, or everything if the file is sealed or its mark is damaged.
    fn end(&self, everything: bool) -> u64 {
        match self.published {
            Some(mark) if !everything => mark.end.min(self.bytes / 8 * 8),
            _ => self.bytes / 8 * 8,
        }
    }

    /// The good frame at `next`, whatever its seq.
    pub(super) fn frame(&mut self, everything: bool) -> Result<Option<Head>, Error> {
        if let Some(head) = self.frame_at(self.next.end, self.end(everything))? {
            return Ok(Some(head));
        }
        // What was published may have moved since the marks were read, also while what lies there was being written.
        self.look()?;
        self.window.clear();
        self.frame_at(self.next.end, self.end(everything))
    }

    fn frame_at(&mut self, at: u64, end: u64) -> Result<Option<Head>, Error> {
        let there = |segment: &Self| {
            let skip = at.checked_sub(segment.window_at)?;
            let bytes = segment.window.get(usize::try_from(skip).ok()?..)?;
            let (payload_bytes, _) = frame::claim(bytes)?;
            (payload_bytes > frame::PAYLOAD_BYTES_MAX || bytes.len() >= frame::frame_bytes(payload_bytes))
                .then_some(skip as usize)
        };
        let skip = match there(self) {
            Some(skip) => skip,
            None => {
                self.fill(at, end)?;
                0
            }
        };
        let bytes = self.window.get(skip..).unwrap_or_default();
        let left = usize::try_from(end.saturating_sub(at)).unwrap_or(usize::MAX);
        let bytes = &bytes[..bytes.len().min(left)];
        Ok(frame::read(bytes, self.seed).map(|(head, _)| head))
    }

    fn fill(&mut self, at: u64, end: u64) -> Result<(), Error> {
        let wanted = end.saturating_sub(at).min(WINDOW_BYTES as u64) as usize;
        self.window.resize(wanted, 0);
        self.window_at = at;
        let mut there = 0;
        while there < wanted {
            let read = self
                .file
                .read_at(&mut self.window[there..], at + there as u64)
                .map_err(io_error("read", &self.path))?;
            if read == 0 {
                break;
            }
            there += read;
        }
        self.window.truncate(there);
        Ok(())
    }

    /// A frame's payload, as long as it is the one that was read last.
    pub(super) fn payload(&self, offset: u64, head: &Head) -> &[u8] {
        let at = (offset - self.window_at) as usize + frame::HEADER_BYTES;
        &self.window[at..at + head.payload_bytes]
    }

    /// There is no frame of the wanted seq at `next`: what is lost, up to the next good frame or the end, where reading goes on.
    /// `None`: nothing, all that is published was read.
    pub(super) fn damage(&mut self, stop: Option<u64>, unpublished_too: bool) -> Result<Option<DamagedRange>, Error> {
        let first_seq = self.name.first_seq + self.next.count;
        let published = self.published.map(|mark| self.name.first_seq + mark.count);
        // The seq behind the last one that was ever given out from this file, as far as is known.
        let known = stop.or(published);
        if known.is_some_and(|known| first_seq >= known) {
            return Ok(None);
        }
        let everything = stop.is_some() || unpublished_too || known.is_none();
        let end = self.end(everything);
        let found = self.find(first_seq, known, end)?;
        let (next_seq, next_end) = match (found, known) {
            (Some((seq, at)), _) => (seq, at),
            (None, Some(known)) => {
                let published_end = self.published.map_or(end, |mark| mark.end);
                (known, if stop.is_some() { end } else { published_end })
            }
            // No mark, no later file, no later frame: whatever was here, nothing tells of it.
            (None, None) => return Ok(None),
        };
        let damaged = DamagedRange {
            path: self.path.clone(),
            offset: self.next.end,
            bytes: next_end.saturating_sub(self.next.end),
            first_seq,
            next_seq,
            reason: match (&self.header, self.header_of(self.name.first_seq)) {
                (_, Some(_)) if self.bytes < next_end => "cut off",
                (_, Some(_)) => "frame checksum",
                (FirstPage::Damaged(reason), _) => reason,
                (FirstPage::Blank, _) => "blank header",
                _ => "another segment's header",
            },
        };
        self.next = Mark { end: next_end.max(self.next.end), count: next_seq - self.name.first_seq };
        Ok(Some(damaged))
    }

    /// Size of the frame behind the last one that was being written as `next_seq`, if its header had been; else 0.
    pub(super) fn torn_bytes(&self, next_seq: u64) -> Result<u64, Error> {
        let mut bytes = [0; frame::HEADER_BYTES];
        if self.next.end + frame::HEADER_BYTES as u64 > self.bytes {
            return Ok(0);
        }
        let read = self.file.read_exact_at(&mut bytes, self.next.end);
        read.map_err(io_error("read", &self.path))?;
        Ok(frame::claim(&bytes)
            .filter(|(payload_bytes, seq)| *seq == next_seq && *payload_bytes <= frame::PAYLOAD_BYTES_MAX)
            .map_or(0, |(payload_bytes, _)| frame::frame_bytes(payload_bytes) as u64))
    }

    /// The next good frame of a seq in (`after`, `before`), by trying every place from `next` on.
    fn find(&mut self, after: u64, before: Option<u64>, end: u64) -> Result<Option<(u64, u64)>, Error> {
        let frames_max = (self.bytes / frame::HEADER_BYTES as u64).max(1);
        let before = before.unwrap_or(after.saturating_add(frames_max));
        let mut at = self.next.end + 8;
        while at + frame::HEADER_BYTES as u64 <= end {
            let skip = at.wrapping_sub(self.window_at) as usize;
            let claim = match self.window.get(skip..).and_then(frame::claim) {
                Some(claim) => Some(claim),
                None => {
                    self.fill(at, end)?;
                    frame::claim(&self.window)
                }
            };
            let Some((payload_bytes, seq)) = claim else {
                return Ok(None);
            };
            let plausible = payload_bytes <= frame::PAYLOAD_BYTES_MAX && seq > after && seq < before;
            if plausible && self.frame_at(at, end)?.is_some() {
                return Ok(Some((seq, at)));
            }
            at += 8;
        }
        Ok(None)
    }
}
