//! An object that is read in pieces: a file of the disk, or the bytes that came of a bucket.

use std::fs::File;
use std::io::{Read, Seek as _, SeekFrom};

use bytes::Bytes;
use parquet::errors::Result;
use parquet::file::reader::{ChunkReader, Length};

use crate::wire::Hash;

/// An object, open.
#[derive(Debug)]
pub enum Object {
    /// Of a directory.
    File(File),
    /// Of a bucket.
    Bytes(Bytes),
}

impl Object {
    /// BLAKE3 of all of it; afterwards it can be read as before.
    pub fn blake3(&mut self) -> std::io::Result<Hash> {
        let mut hasher = blake3::Hasher::new();
        match self {
            Self::File(file) => {
                file.seek(SeekFrom::Start(0))?;
                hasher.update_reader(file)?;
            }
            Self::Bytes(bytes) => {
                hasher.update(bytes);
            }
        }
        Ok(Hash(*hasher.finalize().as_bytes()))
    }
}

impl Length for Object {
    fn len(&self) -> u64 {
        match self {
            Self::File(file) => file.len(),
            Self::Bytes(bytes) => Length::len(bytes),
        }
    }
}

impl ChunkReader for Object {
    type T = Box<dyn Read>;

    fn get_read(&self, start: u64) -> Result<Self::T> {
        match self {
            Self::File(file) => Ok(Box::new(file.get_read(start)?)),
            Self::Bytes(bytes) => Ok(Box::new(bytes.get_read(start)?)),
        }
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        match self {
            Self::File(file) => file.get_bytes(start, length),
            Self::Bytes(bytes) => bytes.get_bytes(start, length),
        }
    }
}
