//! An archive as a question sees it: the manifest of this moment, and where its files are read.

use std::sync::Arc;

use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::RuntimeEnv;
use object_store::ObjectStore;
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::prefix::PrefixStore;
use weir::archive::{Manifest, Place};
use weir::config::{ArchivePlace, S3};

/// By this name plans call the archive; nothing else is reachable by any.
const URL: &str = "weir://archive";

/// Why there is nothing to ask.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The manifest.
    #[error(transparent)]
    Manifest(#[from] weir::archive::Error),
    /// The files.
    #[error("cannot reach the archive {place}")]
    Store {
        /// Where it should be.
        place: String,
        /// Why not.
        source: object_store::Error,
    },
    /// The name above.
    #[error("cannot name the archive")]
    Name(#[from] datafusion::error::DataFusionError),
}

/// The archive.
pub struct Archive {
    /// What is in it.
    pub manifest: Manifest,
    /// What it is called in messages.
    pub name: String,
    store: Arc<dyn ObjectStore>,
    url: ObjectStoreUrl,
}

impl Archive {
    /// Reads the manifest; no file yet. Blocks.
    pub fn open(place: &ArchivePlace) -> Result<Self, Error> {
        let objects = Place::open(place)?;
        let manifest = Manifest::read(&objects)?;
        let name = objects.name();
        let store = match place {
            ArchivePlace::Directory(root) => LocalFileSystem::new_with_prefix(root).map(|store| Arc::new(store) as _),
            ArchivePlace::S3(s3) => bucket(s3),
        };
        let store = store.map_err(|source| Error::Store { place: name.clone(), source })?;
        Ok(Self { manifest, name, store, url: ObjectStoreUrl::parse(URL)? })
    }

    /// Where its tables find their files.
    pub fn url(&self) -> ObjectStoreUrl {
        self.url.clone()
    }

    /// Makes the files reachable in a runtime.
    pub fn register(&self, runtime: &RuntimeEnv) {
        runtime.register_object_store(self.url.as_ref(), self.store.clone());
    }
}

fn bucket(s3: &S3) -> object_store::Result<Arc<dyn ObjectStore>> {
    let mut builder = AmazonS3Builder::from_env().with_bucket_name(&s3.bucket);
    if let Some(region) = &s3.region {
        builder = builder.with_region(region);
    }
    if let Some(endpoint) = &s3.endpoint {
        builder = builder.with_endpoint(endpoint).with_allow_http(endpoint.starts_with("http://"));
    }
    Ok(Arc::new(PrefixStore::new(builder.build()?, s3.prefix.as_str())))
}
