//! Where an archive lies: a directory, or a bucket of S3 or of what speaks like it. Whole objects by name, nothing else.
//!
//! What [`Place::create`] and [`Place::write`] have written is durable when they return (in a directory: the file and its folder are
//! synced), and is there whole or not at all. An object is created once, whoever tries: that is what commits stand on. In S3
//! that is a conditional put (`If-None-Match: *`), which AWS, MinIO, Cloudflare R2 and Google have.
//!
//! Credentials for S3 come from the environment (`AWS_ACCESS_KEY_ID` and so on) or from the machine's role, as other tools take them.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use futures_util::TryStreamExt as _;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path as Key;
use object_store::{ObjectStore as _, ObjectStoreExt as _, PutMode, PutOptions};

use super::Error;
use crate::config::{ArchivePlace, S3};

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
    Directory(PathBuf),
    Bucket(Arc<Bucket>),
}

#[derive(Debug)]
struct Bucket {
    store: AmazonS3,
    url: String,
    prefix: String,
    /// Answers are waited for here.
    runtime: tokio::runtime::Runtime,
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
        fs::create_dir_all(root).map_err(|source| Error::Io { operation: "make", path: root.to_owned(), source })?;
        Ok(Self::of(Inner::Directory(root.to_owned())))
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
            Inner::Directory(root) => root.display().to_string(),
            Inner::Bucket(bucket) => bucket.url.clone(),
        }
    }

    /// Everything below a folder, in order.
    pub fn list(&self, folder: &str) -> Result<Vec<Found>, Error> {
        let mut found = match &self.inner {
            Inner::Directory(root) => {
                let mut found = Vec::new();
                list_directory(root, folder, &mut found)?;
                found
            }
            Inner::Bucket(bucket) => bucket.list(folder)?,
        };
        found.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }

    /// All of an object; none where there is none.
    pub fn read(&self, path: &str) -> Result<Option<Vec<u8>>, Error> {
        match &self.inner {
            Inner::Directory(root) => {
                let file = root.join(path);
                match fs::read(&file) {
                    Ok(bytes) => Ok(Some(bytes)),
                    Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
                    Err(source) => Err(Error::Io { operation: "read", path: file, source }),
                }
            }
            Inner::Bucket(bucket) => bucket.read(path),
        }
    }

    /// Makes an object that is not there yet. False: it is.
    pub fn create(&self, path: &str, bytes: Vec<u8>) -> Result<bool, Error> {
        #[cfg(test)]
        self.change(path)?;
        match &self.inner {
            Inner::Directory(root) => {
                let draft = write_draft(root, path, &bytes)?;
                let file = root.join(path);
                // A link, unlike a rename, does not replace what is there.
                let is_new = match fs::hard_link(&draft, &file) {
                    Ok(()) => true,
                    Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
                    Err(source) => return Err(Error::Io { operation: "make", path: file, source }),
                };
                remove_file(&draft)?;
                sync_folder(&file)?;
                Ok(is_new)
            }
            Inner::Bucket(bucket) => bucket.put(path, bytes, PutMode::Create),
        }
    }

    /// Makes an object, or replaces it.
    pub fn write(&self, path: &str, bytes: Vec<u8>) -> Result<(), Error> {
        #[cfg(test)]
        self.change(path)?;
        match &self.inner {
            Inner::Directory(root) => {
                let draft = write_draft(root, path, &bytes)?;
                let file = root.join(path);
                fs::rename(&draft, &file).map_err(|source| Error::Io {
                    operation: "make",
                    path: file.clone(),
                    source,
                })?;
                sync_folder(&file)
            }
            Inner::Bucket(bucket) => bucket.put(path, bytes, PutMode::Overwrite).map(|_| ()),
        }
    }

    /// Removes an object, if it is there.
    pub fn remove(&self, path: &str) -> Result<(), Error> {
        #[cfg(test)]
        self.change(path)?;
        match &self.inner {
            Inner::Directory(root) => {
                let file = root.join(path);
                remove_file(&file)?;
                // Folders that are left empty go too; what is not empty says so.
                let mut folder = file.parent();
                while let Some(path) = folder.filter(|path| *path != root.as_path()) {
                    if fs::remove_dir(path).is_err() {
                        break;
                    }
                    folder = path.parent();
                }
                Ok(())
            }
            Inner::Bucket(bucket) => bucket.remove(path),
        }
    }
}

fn remove_file(file: &Path) -> Result<(), Error> {
    match fs::remove_file(file) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(source) => Err(Error::Io { operation: "remove", path: file.to_owned(), source }),
    }
}

/// The bytes in a file beside their own, on the disk. Its name is no object's.
fn write_draft(root: &Path, path: &str, bytes: &[u8]) -> Result<PathBuf, Error> {
    let file = root.join(path);
    let failed = |operation: &'static str, path: &Path| {
        let path = path.to_owned();
        move |source| Error::Io { operation, path, source }
    };
    let folder = file.parent().unwrap_or(root);
    fs::create_dir_all(folder).map_err(failed("make", folder))?;
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let draft = folder.join(format!(".{name}.{}", std::process::id()));
    let mut open = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o640)
        .open(&draft)
        .map_err(failed("make", &draft))?;
    open.write_all(bytes).and_then(|()| open.sync_all()).map_err(failed("write", &draft))?;
    Ok(draft)
}

/// The names of a file and of its folders survive a power cut.
fn sync_folder(file: &Path) -> Result<(), Error> {
    for folder in file.ancestors().skip(1).take(4) {
        let synced = File::open(folder).and_then(|open| open.sync_all());
        match synced {
            Ok(()) => {}
            // Above the archive there may be folders that are not ours to open.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => break,
            Err(source) => return Err(Error::Io { operation: "sync", path: folder.to_owned(), source }),
        }
    }
    Ok(())
}

fn list_directory(root: &Path, folder: &str, found: &mut Vec<Found>) -> Result<(), Error> {
    let path = root.join(folder);
    let failed = |source| Error::Io { operation: "list", path: path.clone(), source };
    let entries = match fs::read_dir(&path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(failed(source)),
    };
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{folder}/{name}");
        let metadata = match entry.metadata() {
            Ok(metadata) => metadata,
            // Removed meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(source) => return Err(failed(source)),
        };
        if metadata.is_dir() {
            list_directory(root, &path, found)?;
            continue;
        }
        let modified = metadata.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let modified_us = modified.map_or(0, |since| i64::try_from(since.as_micros()).unwrap_or(i64::MAX));
        found.push(Found { path, bytes: metadata.len(), modified_us });
    }
    Ok(())
}

impl Bucket {
    fn open(s3: &S3) -> Result<Self, Error> {
        let failed = |source| Error::Bucket { operation: "open", path: s3.url(), source: Box::new(source) };
        let mut builder = AmazonS3Builder::from_env().with_bucket_name(&s3.bucket);
        if let Some(region) = &s3.region {
            builder = builder.with_region(region);
        }
        if let Some(endpoint) = &s3.endpoint {
            builder = builder.with_endpoint(endpoint).with_allow_http(endpoint.starts_with("http://"));
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(|source| Error::Io { operation: "reach", path: s3.url().into(), source })?;
        Ok(Self { store: builder.build().map_err(failed)?, url: s3.url(), prefix: s3.prefix.clone(), runtime })
    }

    fn key(&self, path: &str) -> Key {
        Key::from(format!("{}/{path}", self.prefix))
    }

    fn failed(&self, operation: &'static str, path: &str) -> impl FnOnce(object_store::Error) -> Error {
        let path = format!("{}/{path}", self.url);
        move |source| Error::Bucket { operation, path, source: Box::new(source) }
    }

    fn list(&self, folder: &str) -> Result<Vec<Found>, Error> {
        let cut = if self.prefix.is_empty() { 0 } else { self.prefix.len() + 1 };
        let listed = self.runtime.block_on(self.store.list(Some(&self.key(folder))).try_collect::<Vec<_>>());
        let found = listed.map_err(self.failed("list", folder))?.into_iter().map(|object| Found {
            path: object.location.as_ref().get(cut..).unwrap_or_default().to_owned(),
            bytes: object.size,
            modified_us: object.last_modified.timestamp_micros(),
        });
        Ok(found.collect())
    }

    fn read(&self, path: &str) -> Result<Option<Vec<u8>>, Error> {
        let read = self.runtime.block_on(async { self.store.get(&self.key(path)).await?.bytes().await });
        match read {
            Ok(bytes) => Ok(Some(bytes.to_vec())),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(self.failed("read", path)(source)),
        }
    }

    fn put(&self, path: &str, bytes: Vec<u8>, mode: PutMode) -> Result<bool, Error> {
        let options = PutOptions { mode, ..PutOptions::default() };
        let put = self.runtime.block_on(self.store.put_opts(&self.key(path), bytes.into(), options));
        match put {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => Ok(false),
            Err(source) => Err(self.failed("write", path)(source)),
        }
    }

    fn remove(&self, path: &str) -> Result<(), Error> {
        match self.runtime.block_on(self.store.delete(&self.key(path))) {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(self.failed("remove", path)(source)),
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
        assert_eq!(place.list("").unwrap().len(), 1);
        assert!(!directory.path().join("archive/a/b").exists());
    }
}
