//! A directory. What is being written is a draft in [`DRAFTS`] first, and comes to its own name when it is whole and durable: a kill
//! leaves a draft, which no listing of objects shows and the sweep removes.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use ring::rand::{SecureRandom, SystemRandom};

use super::Found;
use crate::archive::Error;
use crate::ids::hex;

/// Folder of what is being written.
const DRAFTS: &str = "drafts";

#[derive(Clone, Debug)]
pub(super) struct Directory {
    pub(super) root: PathBuf,
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    move |source| Error::Io { operation, path: path.to_owned(), source }
}

impl Directory {
    pub(super) fn open(root: &Path) -> Result<Self, Error> {
        fs::create_dir_all(root).map_err(failed("make", root))?;
        Ok(Self { root: root.to_owned() })
    }

    pub(super) fn list(&self, folder: &str) -> Result<Vec<Found>, Error> {
        let mut found = Vec::new();
        list(&self.root, folder, &mut found)?;
        Ok(found)
    }

    pub(super) fn read(&self, path: &str) -> Result<Option<Vec<u8>>, Error> {
        let file = self.root.join(path);
        match fs::read(&file) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", &file)(error)),
        }
    }

    pub(super) fn open_object(&self, path: &str) -> Result<Option<File>, Error> {
        let file = self.root.join(path);
        match File::open(&file) {
            Ok(open) => Ok(Some(open)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("open", &file)(error)),
        }
    }

    /// The bytes on the disk, under a name that is nobody's.
    pub(super) fn draft(&self, bytes: &[u8]) -> Result<PathBuf, Error> {
        let mut name = [0; 16];
        SystemRandom::new().fill(&mut name).map_err(|_| Error::NoRandomness)?;
        let folder = self.root.join(DRAFTS);
        fs::create_dir_all(&folder).map_err(failed("make", &folder))?;
        let draft = folder.join(hex(&name));
        let open = OpenOptions::new().write(true).create_new(true).mode(0o640).open(&draft);
        let written = open.and_then(|mut open| open.write_all(bytes).and_then(|()| open.sync_all()));
        written.map_err(failed("write", &draft))?;
        Ok(draft)
    }

    /// Gives a draft its name. False: the name is taken, and stays whose it is.
    pub(super) fn create(&self, draft: &Path, path: &str) -> Result<bool, Error> {
        // A link, unlike a rename, does not replace what is there.
        let is_new = match self.named(path, |file| fs::hard_link(draft, file)) {
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::AlreadyExists => false,
            made => made.map(|()| true)?,
        };
        remove(draft)?;
        sync_folders(&self.root.join(path))?;
        Ok(is_new)
    }

    /// Gives a draft its name, whatever was there.
    pub(super) fn replace(&self, draft: &Path, path: &str) -> Result<(), Error> {
        self.named(path, |file| fs::rename(draft, file))?;
        sync_folders(&self.root.join(path))
    }

    fn named(&self, path: &str, make: impl Fn(&Path) -> std::io::Result<()>) -> Result<(), Error> {
        let file = self.root.join(path);
        let folder = file.parent().unwrap_or(&self.root);
        let mut attempts = 3;
        loop {
            fs::create_dir_all(folder).map_err(failed("make", folder))?;
            attempts -= 1;
            match make(&file) {
                // Its folder was empty, and another process has just removed it.
                Err(error) if error.kind() == ErrorKind::NotFound && attempts > 0 => {}
                made => return made.map_err(failed("make", &file)),
            }
        }
    }

    pub(super) fn remove(&self, path: &str) -> Result<(), Error> {
        let file = self.root.join(path);
        remove(&file)?;
        // Folders that are left empty go too; what is not empty says so.
        let mut folder = file.parent();
        while let Some(path) = folder.filter(|path| *path != self.root) {
            if fs::remove_dir(path).is_err() {
                break;
            }
            folder = path.parent();
        }
        Ok(())
    }

    /// Removes drafts that were begun before this time; says how many.
    pub(super) fn sweep_drafts(&self, before_us: i64) -> Result<usize, Error> {
        let mut swept = 0;
        for draft in self.list(DRAFTS)?.into_iter().filter(|draft| draft.modified_us < before_us) {
            remove(&self.root.join(draft.path))?;
            swept += 1;
        }
        Ok(swept)
    }
}

fn remove(file: &Path) -> Result<(), Error> {
    match fs::remove_file(file) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("remove", file)(error)),
    }
}

/// The names of a file and of its folders survive a power cut.
fn sync_folders(file: &Path) -> Result<(), Error> {
    for folder in file.ancestors().skip(1).take(4) {
        match File::open(folder).and_then(|open| open.sync_all()) {
            Ok(()) => {}
            // Above the archive there may be folders that are not ours to open.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => break,
            Err(error) => return Err(failed("sync", folder)(error)),
        }
    }
    Ok(())
}

fn list(root: &Path, folder: &str, found: &mut Vec<Found>) -> Result<(), Error> {
    let path = root.join(folder);
    let entries = match fs::read_dir(&path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("list", &path)(error)),
    };
    for entry in entries {
        let entry = entry.map_err(failed("list", &path))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let name = if folder.is_empty() { name } else { format!("{folder}/{name}") };
        let metadata = match entry.metadata() {
            Ok(metadata) => metadata,
            // Removed meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(failed("list", &path)(error)),
        };
        if metadata.is_dir() {
            list(root, &name, found)?;
            continue;
        }
        let modified_us = metadata.modified().ok().map_or(0, since_epoch_us);
        found.push(Found { path: name, bytes: metadata.len(), modified_us });
    }
    Ok(())
}

fn since_epoch_us(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}
