//! A bucket of S3, or of what speaks like it.

use futures_util::TryStreamExt as _;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path as Key;
use object_store::{ObjectStore as _, ObjectStoreExt as _, PutMode, PutOptions};

use super::Found;
use crate::archive::Error;
use crate::config::S3;

#[derive(Debug)]
pub(super) struct Bucket {
    store: AmazonS3,
    pub(super) url: String,
    prefix: String,
    /// Answers are waited for here.
    runtime: tokio::runtime::Runtime,
}

impl Bucket {
    pub(super) fn open(s3: &S3) -> Result<Self, Error> {
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

    pub(super) fn list(&self, folder: &str) -> Result<Vec<Found>, Error> {
        let cut = if self.prefix.is_empty() { 0 } else { self.prefix.len() + 1 };
        let listed = self.runtime.block_on(self.store.list(Some(&self.key(folder))).try_collect::<Vec<_>>());
        let found = listed.map_err(self.failed("list", folder))?.into_iter().map(|object| Found {
            path: object.location.as_ref().get(cut..).unwrap_or_default().to_owned(),
            bytes: object.size,
            modified_us: object.last_modified.timestamp_micros(),
        });
        Ok(found.collect())
    }

    pub(super) fn read(&self, path: &str) -> Result<Option<Vec<u8>>, Error> {
        let read = self.runtime.block_on(async { self.store.get(&self.key(path)).await?.bytes().await });
        match read {
            Ok(bytes) => Ok(Some(bytes.to_vec())),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(self.failed("read", path)(source)),
        }
    }

    pub(super) fn put(&self, path: &str, bytes: Vec<u8>, mode: PutMode) -> Result<bool, Error> {
        let options = PutOptions { mode, ..PutOptions::default() };
        let put = self.runtime.block_on(self.store.put_opts(&self.key(path), bytes.into(), options));
        match put {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => Ok(false),
            Err(source) => Err(self.failed("write", path)(source)),
        }
    }

    pub(super) fn remove(&self, path: &str) -> Result<(), Error> {
        match self.runtime.block_on(self.store.delete(&self.key(path))) {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(self.failed("remove", path)(source)),
        }
    }
}
