//! The cursor of a shard: the first seq that the sink has not acknowledged.
//!
//! A file of two 64-byte slots, written in turn: `generation u64 | next_seq u64 | crc32c u32 of both | hash [u8; 32] | crc32c u32 of all of
//! it`. The hash is that of the batch that was acknowledged last (zeros: none), so that the chain of batches goes on where it was. A write
//! that is cut off leaves the other slot; both bad (or no file) is a cursor at 0, which repeats records (the ledger drops them by seq) and
//! loses none. A slot of an earlier release ends behind the first checksum: its hash is none. Durable when [`Cursor::advance`] returns,
//! so before anything is unlinked or recycled.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::allocation::sync_directory;
use super::{Error, io_error};

const SLOT_BYTES: usize = 64;
/// Where the hash and its checksum are in a slot.
const HASH_AT: usize = 20;
const ALL_AT: usize = HASH_AT + 32;

/// The cursor of a shard, held by its one shipper.
#[derive(Debug)]
pub struct Cursor {
    file: File,
    path: PathBuf,
    at: At,
}

/// What a slot says.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
struct At {
    generation: u64,
    next_seq: u64,
    hash: [u8; 32],
}

impl Cursor {
    /// Opens the cursor in a shard's directory, or makes one at 0.
    pub fn open(shard_directory: &Path) -> Result<Self, Error> {
        let path = shard_directory.join("cursor");
        let there = path.exists();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(io_error("open", &path))?;
        let mut cursor = Self { file, path, at: At::default() };
        if there {
            cursor.at = newest(&read(&cursor.file, &cursor.path)?);
        } else {
            cursor.write()?;
            sync_directory(shard_directory)?;
        }
        Ok(cursor)
    }

    /// What the cursor in a shard's directory says, without opening it for writing; 0 if there is none.
    pub fn peek(shard_directory: &Path) -> Result<u64, Error> {
        let path = shard_directory.join("cursor");
        match File::open(&path) {
            Ok(file) => Ok(newest(&read(&file, &path)?).next_seq),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
            Err(source) => Err(io_error("open", &path)(source)),
        }
    }

    /// The first seq that is not acknowledged.
    pub fn next_seq(&self) -> u64 {
        self.at.next_seq
    }

    /// Hash of the batch that ends there; zeros where none is known.
    pub fn hash(&self) -> [u8; 32] {
        self.at.hash
    }

    /// Everything below `next_seq` is acknowledged. Durable when it returns; it never goes back.
    pub fn advance(&mut self, next_seq: u64) -> Result<(), Error> {
        self.advance_to(next_seq, [0; 32])
    }

    /// The same, with the hash of the batch that ends there.
    pub fn advance_to(&mut self, next_seq: u64, hash: [u8; 32]) -> Result<(), Error> {
        let before = self.at;
        assert!(next_seq >= before.next_seq, "a cursor goes back from {} to {next_seq}", before.next_seq);
        if next_seq == before.next_seq {
            return Ok(());
        }
        self.at = At { generation: before.generation + 1, next_seq, hash };
        let written = self.write();
        if written.is_err() {
            // The slot in doubt is the one that the next attempt writes.
            self.at = before;
        }
        written
    }

    fn write(&self) -> Result<(), Error> {
        let mut slot = [0; SLOT_BYTES];
        slot[0..8].copy_from_slice(&self.at.generation.to_le_bytes());
        slot[8..16].copy_from_slice(&self.at.next_seq.to_le_bytes());
        let checksum = crc32c::crc32c(&slot[..16]);
        slot[16..HASH_AT].copy_from_slice(&checksum.to_le_bytes());
        slot[HASH_AT..ALL_AT].copy_from_slice(&self.at.hash);
        let checksum = crc32c::crc32c(&slot[..ALL_AT]);
        slot[ALL_AT..ALL_AT + 4].copy_from_slice(&checksum.to_le_bytes());
        let at = self.at.generation % 2 * SLOT_BYTES as u64;
        self.file.write_all_at(&slot, at).and_then(|()| self.file.sync_data()).map_err(io_error("write", &self.path))
    }
}

fn read(file: &File, path: &Path) -> Result<Vec<u8>, Error> {
    let mut bytes = vec![0; 2 * SLOT_BYTES];
    let mut there = 0;
    while there < bytes.len() {
        match file.read_at(&mut bytes[there..], there as u64) {
            Ok(0) => break,
            Ok(read) => there += read,
            Err(source) => return Err(io_error("read", path)(source)),
        }
    }
    Ok(bytes)
}

/// The newest good slot.
fn newest(bytes: &[u8]) -> At {
    bytes.chunks_exact(SLOT_BYTES).filter_map(slot).max().unwrap_or_default()
}

/// What a slot says, if it is whole.
fn slot(bytes: &[u8]) -> Option<At> {
    let word = |at: usize| bytes[at..].first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    let checksum = |at: usize| bytes[at..].first_chunk::<4>().map_or(0, |bytes| u32::from_le_bytes(*bytes));
    if checksum(16) != crc32c::crc32c(&bytes[..16]) {
        return None;
    }
    let old = bytes[HASH_AT..].iter().all(|byte| *byte == 0);
    if !old && checksum(ALL_AT) != crc32c::crc32c(&bytes[..ALL_AT]) {
        return None;
    }
    let hash = bytes[HASH_AT..].first_chunk::<32>().copied().unwrap_or_default();
    Some(At { generation: word(0), next_seq: word(8), hash })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_comes_back_where_it_was() {
        let directory = tempfile::tempdir().unwrap();
        for next_seq in [0, 5, 5, 9, 1000] {
            let mut cursor = Cursor::open(directory.path()).unwrap();
            cursor.advance_to(next_seq, [next_seq as u8; 32]).unwrap();
            assert_eq!(Cursor::peek(directory.path()).unwrap(), next_seq);
            assert_eq!(Cursor::open(directory.path()).unwrap().hash(), [next_seq as u8; 32]);
        }
        assert_eq!(Cursor::open(directory.path()).unwrap().next_seq(), 1000);
    }

    #[test]
    fn a_write_cut_off_anywhere_leaves_the_one_before() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cursor");
        let mut cursor = Cursor::open(directory.path()).unwrap();
        cursor.advance_to(7, [7; 32]).unwrap();
        let before = std::fs::read(&path).unwrap();
        cursor.advance_to(8, [8; 32]).unwrap();
        let after = std::fs::read(&path).unwrap();
        for cut in 0..64 {
            let mut torn = before.clone();
            torn.resize(128, 0);
            torn[..cut].copy_from_slice(&after[..cut]);
            std::fs::write(&path, &torn).unwrap();
            let next_seq = Cursor::peek(directory.path()).unwrap();
            // Cut right behind the first checksum it is a slot of the earlier release: right, but without a hash.
            assert!(next_seq == 7 || next_seq == 8 && (cut == 20 || cut >= 56), "{cut}: {next_seq}");
            let hash = Cursor::open(directory.path()).unwrap().hash();
            assert!(hash == [next_seq as u8; 32] || cut == 20 && hash == [0; 32], "{cut}");
        }
        std::fs::write(&path, [0xFF; 128]).unwrap();
        assert_eq!(Cursor::peek(directory.path()).unwrap(), 0);
    }
}
