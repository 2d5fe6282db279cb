//! A segment: a file of consecutive frames.
//!
//! ```text
//! byte 0     magic "WEIRSEG1" | version u32 | header bytes u32 | epoch u32 | shard u32 | first_seq u64 | file bytes u64
//!      40    generation u32 | node length u32 | node, 248 bytes | ... crc32c u32 of all before it at 296   (place and sum fixed for all versions)
//!      512   published: end of the last whole frame and number of frames, one word, stored by release
//!      576   synced: the same, as of the last fdatasync
//!      4096  frames
//! ```
//!
//! The name is `seg-<first_seq>`, with `.r<generation>` once a write error made the writer copy unsynced frames to a new file. A segment
//! of a higher generation replaces all lower ones from its first seq on.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::frame::{self, Draft, SlotRef};
use super::mapping::Mapping;
use super::words::{publish, published};
use super::{Error, FORMAT_VERSION, io_error};

/// Where the frames begin.
pub(super) const FRAMES_AT: u64 = 4096;
/// The longest node name.
pub(super) const NODE_BYTES_MAX: usize = 248;

const MAGIC: [u8; 8] = *b"WEIRSEG1";
const NODE_AT: usize = 48;
const CHECKSUM_AT: usize = NODE_AT + NODE_BYTES_MAX;
const PUBLISHED_AT: usize = 512;
const SYNCED_AT: usize = 576;

/// The name of a segment file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Name {
    pub(super) first_seq: u64,
    pub(super) generation: u32,
}

impl Name {
    pub(super) fn parse(name: &str) -> Option<Self> {
        let rest = name.strip_prefix("seg-")?;
        let (seq, generation) = match rest.split_once(".r") {
            Some((seq, generation)) => (seq, generation.parse().ok()?),
            None => (rest, 0),
        };
        if seq.len() != 20 {
            return None;
        }
        let name = Self { first_seq: seq.parse().ok()?, generation };
        Some(name)
    }

    pub(super) fn path(self, directory: &Path) -> PathBuf {
        match self.generation {
            0 => directory.join(format!("seg-{:020}", self.first_seq)),
            generation => directory.join(format!("seg-{:020}.r{generation}", self.first_seq)),
        }
    }
}

/// The segments in a directory.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Names {
    /// In order; each holds the seqs from its first to the first of the next.
    pub(super) effective: Vec<Name>,
    /// Wholly replaced by ones of a higher generation.
    pub(super) superseded: Vec<Name>,
}

impl Names {
    pub(super) fn of(directory: &Path) -> Result<Self, Error> {
        let entries = std::fs::read_dir(directory).map_err(io_error("list", directory))?;
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(io_error("list", directory))?;
            names.extend(entry.file_name().to_str().and_then(Name::parse));
        }
        Ok(Self::order(names))
    }

    /// The node that wrote the shard, as the newest file says whose header is good.
    pub(super) fn node(&self, directory: &Path) -> Result<Option<String>, Error> {
        for name in self.effective.iter().rev() {
            let path = name.path(directory);
            let file = match File::open(&path) {
                Ok(file) => file,
                // Freed meanwhile.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(source) => return Err(io_error("open", &path)(source)),
            };
            if let (FirstPage::Good(header), ..) = read_first_page(&file, &path)? {
                return Ok(Some(header.node));
            }
        }
        Ok(None)
    }

    fn order(mut names: Vec<Name>) -> Self {
        // Highest generation first, each cut where a higher one begins.
        names.sort_by_key(|name| (std::cmp::Reverse(name.generation), name.first_seq));
        let mut ordered = Self::default();
        let (mut generation, mut cut, mut next_cut) = (u32::MAX, u64::MAX, u64::MAX);
        for name in names {
            if name.generation != generation {
                (generation, cut) = (name.generation, next_cut);
            }
            if name.first_seq >= cut {
                ordered.superseded.push(name);
            } else {
                ordered.effective.push(name);
                next_cut = next_cut.min(name.first_seq);
            }
        }
        ordered.effective.sort_by_key(|name| name.first_seq);
        ordered
    }
}

/// How far a segment is filled, in one word: a single store moves both ends. 27 bits of end (in words), 26 of count, 11 of check.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Mark {
    /// End of the last frame, in bytes from the start of the file.
    pub(super) end: u64,
    /// Frames.
    pub(super) count: u64,
}

impl Mark {
    pub(super) const EMPTY: Self = Self { end: FRAMES_AT, count: 0 };

    #[inline]
    fn pack(self) -> u64 {
        let words = self.end / 8;
        debug_assert!(words <= 1 << 27 && self.count < 1 << 26 && self.end.is_multiple_of(8));
        // The end of a full 1 GiB file is 2^27 words: one too many, so one is taken off.
        let value = (words - 1) << 26 | self.count;
        value << 11 | check_bits(value)
    }

    /// `None`: damaged, or read while it was stored.
    fn unpack(word: u64) -> Option<Self> {
        let value = word >> 11;
        let mark = Self { end: ((value >> 26) + 1) * 8, count: value & ((1 << 26) - 1) };
        let frames_fit = mark.end >= FRAMES_AT + mark.count * frame::HEADER_BYTES as u64;
        (word & 0x7ff == check_bits(value) && frames_fit).then_some(mark)
    }
}

#[inline]
fn check_bits(value: u64) -> u64 {
    (value ^ 0x5bd1_e995).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 53
}

/// The fixed part of a segment's header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Header {
    pub(super) epoch: u32,
    pub(super) shard: u16,
    pub(super) first_seq: u64,
    pub(super) generation: u32,
    pub(super) node: String,
}

/// What the first page of a file says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum FirstPage {
    /// All zeros: allocated, or recycled, and never synced since.
    Blank,
    Good(Header),
    Damaged(&'static str),
    /// Of a later release.
    Newer(u32),
}

impl Header {
    fn write(&self, mapping: &Mapping, file_bytes: u64) {
        let mut bytes = [0; CHECKSUM_AT + 8];
        bytes[0..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&(FRAMES_AT as u32).to_le_bytes());
        bytes[16..20].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[20..24].copy_from_slice(&u32::from(self.shard).to_le_bytes());
        bytes[24..32].copy_from_slice(&self.first_seq.to_le_bytes());
        bytes[32..40].copy_from_slice(&file_bytes.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.generation.to_le_bytes());
        let node = self.node.as_bytes();
        assert!(node.len() <= NODE_BYTES_MAX, "checked when the node was named");
        bytes[44..48].copy_from_slice(&(node.len() as u32).to_le_bytes());
        bytes[NODE_AT..NODE_AT + node.len()].copy_from_slice(node);
        let checksum = crc32c::crc32c(&bytes[..CHECKSUM_AT]);
        bytes[CHECKSUM_AT..CHECKSUM_AT + 4].copy_from_slice(&checksum.to_le_bytes());
        mapping.copy_in(0, &bytes);
    }

    fn read(page: &[u8]) -> FirstPage {
        if page.len() < FRAMES_AT as usize {
            return FirstPage::Damaged("shorter than its header");
        }
        if page[..SYNCED_AT + 8].iter().all(|byte| *byte == 0) {
            return FirstPage::Blank;
        }
        let word = |at: usize| u32::from_le_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]]);
        if page[..8] != MAGIC {
            return FirstPage::Damaged("not a segment");
        }
        if word(CHECKSUM_AT) != crc32c::crc32c(&page[..CHECKSUM_AT]) {
            return FirstPage::Damaged("header checksum");
        }
        if word(8) > FORMAT_VERSION {
            return FirstPage::Newer(word(8));
        }
        let node_bytes = word(44) as usize;
        let node = page[NODE_AT..CHECKSUM_AT].get(..node_bytes).and_then(|node| std::str::from_utf8(node).ok());
        let (Some(node), Ok(shard)) = (node, u16::try_from(word(20))) else {
            return FirstPage::Damaged("header values");
        };
        FirstPage::Good(Self {
            epoch: word(16),
            shard,
            first_seq: u64::from(word(24)) | u64::from(word(28)) << 32,
            generation: word(40),
            node: node.to_owned(),
        })
    }
}

/// The first page of a segment file, its `published` and its `synced` mark as they are at this moment.
pub(super) fn read_first_page(file: &File, path: &Path) -> Result<(FirstPage, Option<Mark>, Option<Mark>), Error> {
    let mut page = [0; FRAMES_AT as usize];
    let mut there = 0;
    while there < page.len() {
        let read = file.read_at(&mut page[there..], there as u64).map_err(io_error("read", path))?;
        if read == 0 {
            break;
        }
        there += read;
    }
    let word = |at: usize| page[at..].first_chunk::<8>().and_then(|bytes| Mark::unpack(u64::from_le_bytes(*bytes)));
    let first = Header::read(&page[..there]);
    Ok((first, word(PUBLISHED_AT), word(SYNCED_AT)))
}

/// A segment open for appending. Shared by the writer, who fills it, and the keeper, who syncs it.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) name: Name,
    pub(super) bytes: u64,
    pub(super) file: File,
    pub(super) mapping: Mapping,
    /// A write to it failed: never synced again.
    pub(super) poisoned: AtomicBool,
}

impl Segment {
    /// Takes an allocated file whose first page is blank (or of no more worth) and writes the header. The file still needs its name.
    pub(super) fn begin(file: File, mapping: Mapping, bytes: u64, header: &Header) -> Self {
        let name = Name { first_seq: header.first_seq, generation: header.generation };
        let segment = Self { name, bytes, file, mapping, poisoned: AtomicBool::new(false) };
        segment.set_published(Mark::EMPTY);
        segment.set_synced(Mark::EMPTY);
        header.write(&segment.mapping, bytes);
        segment
    }

    /// Opens one to append to it at `mark`, which becomes what is published.
    pub(super) fn resume(directory: &Path, header: &Header, mark: Mark) -> Result<Self, Error> {
        let name = Name { first_seq: header.first_seq, generation: header.generation };
        let path = name.path(directory);
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(io_error("open", &path))?;
        let bytes = file.metadata().map_err(io_error("look at", &path))?.len();
        let mapping = Mapping::new(&file, bytes).map_err(io_error("map", &path))?;
        let segment = Self { name, bytes, file, mapping, poisoned: AtomicBool::new(false) };
        header.write(&segment.mapping, bytes);
        segment.set_published(mark);
        Ok(segment)
    }

    /// Whether a frame of `frame_bytes` fits behind `end`.
    #[inline]
    pub(super) fn has_room(&self, end: u64, frame_bytes: usize) -> bool {
        end + frame_bytes as u64 <= self.bytes
    }

    /// Appends behind `mark` and publishes. The writer alone does this.
    #[inline]
    pub(super) fn append(&self, mark: Mark, seed: u32, about: SlotRef, draft: &mut Draft) -> Mark {
        let seq = self.name.first_seq + mark.count;
        draft.write(&self.mapping, mark.end, seed, seq, about);
        let mark = Mark { end: mark.end + frame::frame_bytes(draft.payload_bytes()) as u64, count: mark.count + 1 };
        self.set_published(mark);
        mark
    }

    pub(super) fn published(&self) -> Mark {
        // Only this process stores it, always packed.
        Mark::unpack(published(self.word(PUBLISHED_AT))).unwrap_or(Mark::EMPTY)
    }

    #[inline]
    pub(super) fn set_published(&self, mark: Mark) {
        publish(self.word(PUBLISHED_AT), mark.pack());
    }

    pub(super) fn synced(&self) -> Mark {
        Mark::unpack(self.word(SYNCED_AT).load(Ordering::Acquire)).unwrap_or(Mark::EMPTY)
    }

    pub(super) fn set_synced(&self, mark: Mark) {
        self.word(SYNCED_AT).store(mark.pack(), Ordering::Release);
    }

    #[inline]
    fn word(&self, byte: usize) -> &AtomicU64 {
        &self.mapping.words()[byte / 8]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(first_seq: u64, generation: u32) -> Name {
        Name { first_seq, generation }
    }

    #[test]
    fn names_come_back() {
        for name in [name(0, 0), name(7, 3), name(u64::MAX, 0)] {
            let path = name.path(Path::new("/d"));
            let file = path.file_name().unwrap().to_str().unwrap();
            assert_eq!(Name::parse(file), Some(name));
        }
        for other in ["seg-1", "spare", "seg-00000000000000000001.bad", "cursor"] {
            assert_eq!(Name::parse(other), None);
        }
    }

    #[test]
    fn a_higher_generation_replaces_what_is_behind_its_first() {
        let all = vec![name(0, 0), name(50, 1), name(60, 0), name(100, 0), name(120, 1)];
        let names = Names::order(all);
        assert_eq!(names.effective, [name(0, 0), name(50, 1), name(120, 1)]);
        assert_eq!(names.superseded, [name(60, 0), name(100, 0)]);
        let names = Names::order(vec![name(0, 0), name(0, 1), name(0, 2)]);
        assert_eq!(names.effective, [name(0, 2)]);
    }

    #[test]
    fn marks_come_back_and_a_flipped_bit_is_noticed() {
        for mark in [Mark::EMPTY, Mark { end: 1 << 30, count: 44_739_071 }, Mark { end: 8192, count: 7 }] {
            assert_eq!(Mark::unpack(mark.pack()), Some(mark));
            for bit in 0..64 {
                assert_eq!(Mark::unpack(mark.pack() ^ 1 << bit), None, "{mark:?} {bit}");
            }
        }
        assert_eq!(Mark::unpack(0), None);
    }
}
