//! Making files and directories whose every block exists before anything is stored in them.
//!
//! A sparse file on a full disk turns the first store into SIGBUS. So a file is reserved (`fallocate`), written with zeros (on ext4 a
//! later `fdatasync` is then up to 25 times cheaper than into merely reserved blocks) and only then mapped: a full disk is an error here.
//! That holds on ext4, xfs, tmpfs and overlays of them. On btrfs a store also wants room for metadata (before Linux 6.17 for data too,
//! whatever is reserved), and is SIGBUS without: the journal then stays whole as after a `kill -9`, but the process is gone.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FallocateFlags, IFlags, fallocate, fstatfs, ioctl_getflags, ioctl_setflags};
use rustix::io::Errno;

use super::{Error, io_error};

const BTRFS_MAGIC: u64 = 0x9123_683E;
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// A new file of `bytes` zeros, mode 0600, every block allocated. Left behind on no error.
pub(super) fn allocate_file(path: &Path, bytes: u64) -> Result<File, Error> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(io_error("create", path))?;
    if let Err(source) = fill(&file, bytes) {
        if let Err(error) = std::fs::remove_file(path) {
            tracing::warn!(path = %path.display(), %error, "cannot remove a half-allocated file");
        }
        return Err(Error::Io { operation: "allocate", path: path.to_owned(), source });
    }
    Ok(file)
}

/// Reserves every block of `file` that is not there; what is there stays.
pub(super) fn ensure_allocated(file: &File, bytes: u64) -> io::Result<()> {
    match fallocate(file, FallocateFlags::empty(), 0, bytes) {
        // Where the file system cannot reserve, writing the zeros is what allocates.
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn fill(file: &File, bytes: u64) -> io::Result<()> {
    ensure_allocated(file, bytes)?;
    let mut file = file;
    let mut left = bytes;
    while left > 0 {
        let part = left.min(ZEROS.len() as u64);
        file.write_all(&ZEROS[..part as usize])?;
        left -= part;
    }
    Ok(())
}

/// A directory of mode 0700, made if it is not there. On btrfs new files in it are not copied on write, or else every store into an
/// allocated block could still find the disk full.
pub(super) fn make_directory(path: &Path) -> Result<(), Error> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new().mode(0o700).recursive(true).create(path).map_err(io_error("create directory", path))?;
        }
        Err(source) => {
            return Err(Error::Io { operation: "create directory", path: path.to_owned(), source });
        }
    }
    let directory = File::open(path).map_err(io_error("open directory", path))?;
    if is_on_btrfs(&directory).map_err(io_error("look at the file system of", path))? {
        let set = ioctl_getflags(&directory).and_then(|flags| ioctl_setflags(&directory, flags | IFlags::NOCOW));
        if let Err(error) = set {
            tracing::warn!(path = %path.display(), %error, "cannot turn copy-on-write off: stores may find the disk full");
        }
    }
    Ok(())
}

/// Whether a full file system may still end the process: see above.
pub(super) fn is_on_btrfs(directory: &File) -> io::Result<bool> {
    Ok(fstatfs(directory)?.f_type as u64 == BTRFS_MAGIC)
}

/// Makes the names in `directory` durable.
pub(super) fn sync_directory(directory: &Path) -> Result<(), Error> {
    File::open(directory).and_then(|opened| opened.sync_all()).map_err(io_error("sync directory", directory))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    #[test]
    fn every_block_is_there_and_nobody_else_can_read_it() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("a/b");
        make_directory(&directory).unwrap();
        let file = allocate_file(&directory.join("file"), 1 << 20).unwrap();
        let metadata = file.metadata().unwrap();
        assert_eq!(metadata.len(), 1 << 20);
        assert!(metadata.blocks() * 512 >= 1 << 20);
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
        let mode = std::fs::metadata(&directory).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn an_allocation_that_fails_leaves_no_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        assert!(allocate_file(&path, 1 << 60).is_err());
        assert!(!path.exists());
    }
}
