//! The cursor of a shard: the first seq that the sink has not acknowledged.
//!
//! A file of two 64-byte slots, written in turn: `generation u64 | next_seq u64 | crc32c u32 of both`. A write that is cut off leaves the other
//! slot; both bad (or no file) is a cursor at 0, which repeats records (the ledger drops them by seq) and loses none. Durable when
//! [`Cursor::advance`] returns, so before anything is unlinked or recycled.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::allocation::sync_directory;
use super::{Error, io_error};

const SLOT_BYTES: usize = 64;

/// The cursor of a shard, held by its one shipper.
#[derive(Debug)]
pub struct Cursor {
    file: File,
    path: PathBuf,
    generation: u64,
    next_seq: u64,
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
        let mut cursor = Self { file, path, generation: 0, next_seq: 0 };
        if there {
            (cursor.generation, cursor.next_seq) = newest(&read(&cursor.file, &cursor.path)?);
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
            Ok(file) => Ok(newest(&read(&file, &path)?).1),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
            Err(source) => Err(io_error("open", &path)(source)),
        }
    }

    /// The first seq that is not acknowledged.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// Everything below `next_seq` is acknowledged. Durable when it returns; it never goes back.
    pub fn advance(&mut self, next_seq: u64) -> Result<(), Error> {
        assert!(next_seq >= self.next_seq, "a cursor goes back from {} to {next_seq}", self.next_seq);
        if next_seq == self.next_seq {
            return Ok(());
        }
        let before = (self.generation, self.next_seq);
        (self.generation, self.next_seq) = (self.generation + 1, next_seq);
        let written = self.write();
        if written.is_err() {
            // The slot in doubt is the one that the next attempt writes.
            (self.generation, self.next_seq) = before;
        }
        written
    }

    fn write(&self) -> Result<(), Error> {
        let mut slot = [0; SLOT_BYTES];
        slot[0..8].copy_from_slice(&self.generation.to_le_bytes());
        slot[8..16].copy_from_slice(&self.next_seq.to_le_bytes());
        let checksum = crc32c::crc32c(&slot[..16]);
        slot[16..20].copy_from_slice(&checksum.to_le_bytes());
        let at = self.generation % 2 * SLOT_BYTES as u64;
        self.file
            .write_all_at(&slot, at)
            .and_then(|()| Ok(rustix::fs::fdatasync(&self.file)?))
            .map_err(io_error("write", &self.path))
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

/// (generation, next_seq) of the newest good slot.
fn newest(bytes: &[u8]) -> (u64, u64) {
    let word = |slot: &[u8], at: usize| slot[at..].first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    bytes
        .chunks_exact(SLOT_BYTES)
        .filter(|slot| word(slot, 16) as u32 == crc32c::crc32c(&slot[..16]))
        .map(|slot| (word(slot, 0), word(slot, 8)))
        .max()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_comes_back_where_it_was() {
        let directory = tempfile::tempdir().unwrap();
        for next_seq in [0, 5, 5, 9, 1000] {
            let mut cursor = Cursor::open(directory.path()).unwrap();
            cursor.advance(next_seq).unwrap();
            assert_eq!(Cursor::peek(directory.path()).unwrap(), next_seq);
        }
        assert_eq!(Cursor::open(directory.path()).unwrap().next_seq(), 1000);
    }

    #[test]
    fn a_write_cut_off_anywhere_leaves_the_one_before() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cursor");
        let mut cursor = Cursor::open(directory.path()).unwrap();
        cursor.advance(7).unwrap();
        let before = std::fs::read(&path).unwrap();
        cursor.advance(8).unwrap();
        let after = std::fs::read(&path).unwrap();
        for cut in 0..64 {
            let mut torn = before.clone();
            torn.resize(128, 0);
            torn[..cut].copy_from_slice(&after[..cut]);
            std::fs::write(&path, &torn).unwrap();
            let next_seq = Cursor::peek(directory.path()).unwrap();
            assert!(next_seq == 7 || next_seq == 8 && cut >= 20, "{cut}: {next_seq}");
        }
        std::fs::write(&path, [0xFF; 128]).unwrap();
        assert_eq!(Cursor::peek(directory.path()).unwrap(), 0);
    }
}
