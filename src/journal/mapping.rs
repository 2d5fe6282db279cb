//! Files shared with the kernel: the only `unsafe` of the journal.
//!
//! A [`Mapping`] is a MAP_SHARED view of a whole file, seen as 64-bit words that are only ever touched atomically. So there are no
//! data races, whoever else maps the file, and what was stored survives the death of the process: the kernel owns the pages.
//! Two rules keep stores from ending in SIGBUS: files are fully allocated before they are mapped (see `allocation.rs`) and are
//! never truncated while anything maps what is cut off.

use std::fs::File;
use std::io;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::AtomicU64;

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};

use super::words::copy_in;

#[cfg(not(all(target_endian = "little", target_pointer_width = "64")))]
compile_error!("the journal's files are little-endian and mapped whole: a 64-bit little-endian target is needed");

/// A file, mapped whole, readable and writable, as atomic words.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<AtomicU64>,
    words: usize,
}

// SAFETY: the mapping is plain memory that stays mapped until `drop`; it is only reachable as `AtomicU64`, which any thread may use.
unsafe impl Send for Mapping {}
// SAFETY: as above; shared access is atomic.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `bytes` of `file`, which must be at least that long. `bytes` is rounded down to whole words.
    pub(crate) fn new(file: &File, bytes: u64) -> io::Result<Self> {
        let there = file.metadata()?.len();
        if bytes < 8 || there < bytes {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("{there} bytes where {bytes} are to be mapped"),
            ));
        }
        let words = usize::try_from(bytes / 8).map_err(io::Error::other)?;
        // SAFETY: a new mapping at an address of the kernel's choice aliases nothing; length is not 0 and lies within the file.
        let start =
            unsafe { mmap(null_mut(), words * 8, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, file, 0)? };
        let Some(start) = NonNull::new(start.cast::<AtomicU64>()) else {
            return Err(io::Error::other("mapped at address 0"));
        };
        Ok(Self { start, words })
    }

    /// All of it.
    #[inline]
    pub(crate) fn words(&self) -> &[AtomicU64] {
        // SAFETY: `start` is page-aligned and `words` words are mapped for as long as `self` lives; every bit pattern is a valid
        // word; nothing hands out non-atomic access to the same memory.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.words) }
    }

    /// Copies `bytes` in from the word `at` on; the last word is padded with zeros.
    /// Publishing is the caller's: this is a run of relaxed stores.
    #[inline]
    pub(crate) fn copy_in(&self, at: usize, bytes: &[u8]) {
        copy_in(&self.words()[at..at + bytes.len().div_ceil(8)], bytes);
    }

    /// Lets go of the resident pages of the mapping. Nothing is lost: the file keeps what was stored.
    pub(crate) fn give_pages_back(&self) -> io::Result<()> {
        // SAFETY: the range is exactly this mapping. On a shared file mapping this advice (Linux MADV_DONTNEED) drops page table
        // entries only; the content stays in the page cache and in the file, and the next access maps it again.
        unsafe {
            madvise(self.start.as_ptr().cast(), self.words * 8, Advice::LinuxDontNeed)?;
        }
        Ok(())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly the range that `new` mapped, once; every borrow of it is bound to `self`.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.words * 8) };
        if let Err(error) = unmapped {
            tracing::error!(%error, "cannot unmap a journal file");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::super::words::copy_out;
    use super::*;

    #[test]
    fn stores_reach_the_file_and_come_back() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(8192).unwrap();
        let mapping = Mapping::new(&file, 8192).unwrap();
        mapping.copy_in(3, b"hello, journal");
        let mut back = [0; 14];
        copy_out(&mapping.words()[3..], &mut back);
        assert_eq!(&back, b"hello, journal");
        mapping.give_pages_back().unwrap();
        let other = Mapping::new(&file, 8192).unwrap();
        copy_out(&other.words()[3..], &mut back);
        assert_eq!(&back, b"hello, journal");
        assert_eq!(other.words()[4].load(Ordering::Relaxed) >> 48, 0, "padding is zero");
    }

    #[test]
    fn a_file_that_is_too_short_is_refused() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(100).unwrap();
        assert!(Mapping::new(&file, 4096).is_err());
    }
}
