//! Where an archive lies: a directory, or a bucket of S3 or of what speaks like it. Whole objects by name, nothing else.
//!
//! What [`Place::create`] and [`Place::write`] have written is durable when they return (in a directory: the file and its folder are
//! synced), and is there whole or not at all. An object is created once, whoever tries: that is what commits stand on. In S3
//! that is a conditional put (`If-None-Match: *`), which AWS, MinIO, Cloudflare R2 and Google have.
//!
//! Credentials for S3 come from the environment (`AWS_ACCESS_KEY_ID` and so on) or from the machine's role, as other tools take them.

mod bucket;
mod directory;
mod object;

use std::path::Path;
use std::sync::Arc;

use object_store::PutMode;

use self::bucket::Bucket;
use self::directory::Directory;
use super::Error;
use crate::config::ArchivePlace;

pub use self::object::Object;

/// A place for objects.
#[derive(Clone, Debug)]
pub struct Place {
    inner: Inner,
    /// So many changes more, and it stands still like a machine that was switched off.
    #[cfg(test)]
    pub(super) stop_after: Arc<std::sync::atomic::AtomicI64>,
}

#[derive(Clone, Debug)]
enum Inner {
    Directory(Directory),
    Bucket(Arc<Bucket>),
}

/// An object, as [`Place::list`] finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// From the root.
    pub path: String,
    /// Size.
    pub bytes: u64,
    /// When it was last written, µs.
    pub modified_us: i64,
}

impl Place {
    /// As configured. A directory is made; a bucket must be there.
    pub fn open(configured: &ArchivePlace) -> Result<Self, Error> {
        match configured {
            ArchivePlace::Directory(root) => Self::directory(root),
            ArchivePlace::S3(s3) => Ok(Self::of(Inner::Bucket(Arc::new(Bucket::open(s3)?)))),
        }
    }

    /// A directory, which is made if it is not there.
    pub fn directory(root: &Path) -> Result<Self, Error> {
        Ok(Self::of(Inner::Directory(Directory::open(root)?)))
    }

    fn of(inner: Inner) -> Self {
        Self {
            inner,
            #[cfg(test)]
            stop_after: Arc::new(i64::MAX.into()),
        }
    }

    /// Before each change.
    #[cfg(test)]
    fn change(&self, path: &str) -> Result<(), Error> {
        if self.stop_after.fetch_sub(1, std::sync::atomic::Ordering::Relaxed) > 0 {
            return Ok(());
        }
        Err(Error::Io { operation: "change", path: path.into(), source: std::io::Error::other("it is switched off") })
    }

    /// What it is called in messages.
    pub fn name(&self) -> String {
        match &self.inner {
            Inner::Directory(directory) => directory.root.display().to_string(),
            Inner::Bucket(bucket) => bucket.url.clone(),
        }
    }

    /// Everything below a folder, in order.
    pub fn list(&self, folder: &str) -> Result<Vec<Found>, Error> {
        let mut found = match &self.inner {
            Inner::Directory(directory) => directory.list(folder)?,
            Inner::Bucket(bucket) => bucket.list(folder)?,
        };
        found.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }

    /// All of an object; none where there is none.
    pub fn read(&self, path: &str) -> Result<Option<Vec<u8>>, Error> {
        match &self.inner {
            Inner::Directory(directory) => directory.read(path),
            Inner::Bucket(bucket) => bucket.read(path),
        }
    }

    /// An object to be read in pieces; none where there is none. Of a bucket all of it comes at once.
    pub fn object(&self, path: &str) -> Result<Option<Object>, Error> {
        match &self.inner {
            Inner::Directory(directory) => Ok(directory.open_object(path)?.map(Object::File)),
            Inner::Bucket(bucket) => Ok(bucket.read(path)?.map(|bytes| Object::Bytes(bytes.into()))),
        }
    }

    /// Makes an object that is not there yet. False: it is.
    pub fn create(&self, path: &str, bytes: Vec<u8>) -> Result<bool, Error> {
        match &self.inner {
            Inner::Directory(directory) => {
                let draft = directory.draft(&bytes)?;
                #[cfg(test)]
                self.change(path)?;
                directory.create(&draft, path)
            }
            Inner::Bucket(bucket) => bucket.put(path, bytes, PutMode::Create),
        }
    }

    /// Makes an object, or replaces it.
    pub fn write(&self, path: &str, bytes: Vec<u8>) -> Result<(), Error> {
        match &self.inner {
            Inner::Directory(directory) => {
                let draft = directory.draft(&bytes)?;
                #[cfg(test)]
                self.change(path)?;
                directory.replace(&draft, path)
            }
            Inner::Bucket(bucket) => bucket.put(path, bytes, PutMode::Overwrite).map(|_| ()),
        }
    }

    /// Removes an object, if it is there.
    pub fn remove(&self, path: &str) -> Result<(), Error> {
        #[cfg(test)]
        self.change(path)?;
        match &self.inner {
            Inner::Directory(directory) => directory.remove(path),
            Inner::Bucket(bucket) => bucket.remove(path),
        }
    }

    /// Removes what writers that were killed before this time have left of objects that they had not finished; says how many.
    pub fn sweep_drafts(&self, before_us: i64) -> Result<usize, Error> {
        match &self.inner {
            Inner::Directory(directory) => directory.sweep_drafts(before_us),
            // An object of a bucket is there when all of it is, and nothing before.
            Inner::Bucket(_) => Ok(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_created_once_and_leaves_no_draft() {
        let directory = tempfile::tempdir().unwrap();
        let place = Place::directory(&directory.path().join("archive")).unwrap();
        assert!(place.create("a/b/1.json", b"one".to_vec()).unwrap());
        assert!(!place.create("a/b/1.json", b"two".to_vec()).unwrap());
        assert_eq!(place.read("a/b/1.json").unwrap().as_deref(), Some(&b"one"[..]));
        place.write("a/c", b"three".to_vec()).unwrap();
        place.write("a/c", b"four".to_vec()).unwrap();
        let names: Vec<String> = place.list("a").unwrap().into_iter().map(|found| found.path).collect();
        assert_eq!(names, ["a/b/1.json", "a/c"]);
        assert_eq!(place.read("a/d").unwrap(), None);
        assert!(place.list("z").unwrap().is_empty());
        place.remove("a/b/1.json").unwrap();
        place.remove("a/b/1.json").unwrap();
        assert_eq!(place.list("").unwrap().len(), 1, "no draft is left");
        assert!(!directory.path().join("archive/a/b").exists());
    }
}
