//! Certificates by server name, following their files.

use std::collections::HashMap;
use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::{Error, read_pair};
use crate::config::CertificateFiles;

/// The certificates of one listener, chosen by SNI: exact name, then `*.` of its parent, then the first certificate.
///
/// Names are those in each leaf (subject alternative names, or the common name without any). Where two certificates hold
/// one name (RSA and ECDSA), the first whose key the client can verify is used. A reload replaces all or nothing, and
/// connections keep what they were made with.
pub struct CertificateStore {
    files: Vec<CertificateFiles>,
    /// Read once per handshake, written per reload; the lock is held for a pointer copy.
    current: RwLock<Arc<Certificates>>,
    /// The files as they were when last looked at, good or bad: one bad change is reported once.
    seen: Mutex<Vec<Option<FileState>>>,
}

impl CertificateStore {
    /// Reads all files; the first is the fallback. Fails if one cannot be used.
    pub fn load(files: &[CertificateFiles]) -> Result<CertificateStore, Error> {
        let seen = look_at(files);
        let current = Certificates::read(files)?;
        Ok(CertificateStore { files: files.to_vec(), current: RwLock::new(Arc::new(current)), seen: Mutex::new(seen) })
    }

    /// Reads all files again if one changed since last time: true if the new ones are in use now. On an error the old ones
    /// stay, and it is returned once per change. Costs one `stat` per file when nothing changed; meant for every second.
    pub fn reload_if_changed(&self) -> Result<bool, Error> {
        // Looked at before they are read: a file that changes while it is read differs again next time.
        let now = look_at(&self.files);
        {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            if *seen == now {
                return Ok(false);
            }
            *seen = now;
        }
        self.reload()?;
        Ok(true)
    }

    /// Reads all files again. On an error the old ones stay.
    pub fn reload(&self) -> Result<(), Error> {
        let certificates = Arc::new(Certificates::read(&self.files)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = certificates;
        Ok(())
    }
}

impl fmt::Debug for CertificateStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateStore").field("files", &self.files).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for CertificateStore {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let current = Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner));
        let named = hello.server_name().and_then(|name| current.for_name(name)).unwrap_or(&current.fallback);
        let usable = |pair: &&Arc<CertifiedKey>| pair.key.choose_scheme(hello.signature_schemes()).is_some();
        // If none is usable the handshake fails with the right alert.
        named.iter().find(usable).or(named.first()).cloned()
    }
}

struct Certificates {
    /// The first configured.
    fallback: Vec<Arc<CertifiedKey>>,
    exact: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// By the name without its `*.`.
    wildcard: HashMap<String, Vec<Arc<CertifiedKey>>>,
}

impl Certificates {
    fn read(files: &[CertificateFiles]) -> Result<Certificates, Error> {
        let provider = ring::default_provider();
        let mut certificates = Certificates { fallback: Vec::new(), exact: HashMap::new(), wildcard: HashMap::new() };
        for pair in files {
            let (chain, key) = read_pair(pair)?;
            let names = match chain.first() {
                Some(leaf) => names(leaf, &pair.certificate)?,
                None => Vec::new(),
            };
            let certified = CertifiedKey::from_der(chain, key, &provider).map_err(|source| Error::Pair {
                certificate: pair.certificate.clone(),
                key: pair.key.clone(),
                source,
            })?;
            let certified = Arc::new(certified);
            if certificates.fallback.is_empty() {
                certificates.fallback.push(Arc::clone(&certified));
            }
            for name in names {
                let (index, name) = match name.strip_prefix("*.") {
                    Some(parent) => (&mut certificates.wildcard, parent.to_owned()),
                    None => (&mut certificates.exact, name),
                };
                index.entry(name).or_default().push(Arc::clone(&certified));
            }
        }
        if certificates.fallback.is_empty() {
            return Err(Error::NoneConfigured);
        }
        Ok(certificates)
    }

    fn for_name(&self, name: &str) -> Option<&Vec<Arc<CertifiedKey>>> {
        if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return self.for_name(&name.to_ascii_lowercase());
        }
        self.exact.get(name).or_else(|| self.wildcard.get(name.split_once('.')?.1))
    }
}

/// Lower-case DNS names of a leaf.
fn names(leaf: &CertificateDer<'_>, path: &Path) -> Result<Vec<String>, Error> {
    let malformed = |reason: String| Error::Certificate { path: path.to_owned(), reason };
    let (_, certificate) = X509Certificate::from_der(leaf).map_err(|error| malformed(error.to_string()))?;
    let alternative = certificate.subject_alternative_name().map_err(|error| malformed(error.to_string()))?;
    let Some(alternative) = alternative else {
        let common = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
        return Ok(common.map(str::to_ascii_lowercase).collect());
    };
    let mut names = Vec::new();
    for name in &alternative.value.general_names {
        if let GeneralName::DNSName(name) = name {
            names.push(name.to_ascii_lowercase());
        }
    }
    Ok(names)
}

/// What changes when a file is written or replaced: device, inode, size, time of change.
type FileState = (u64, u64, u64, i64, i64);

fn look_at(files: &[CertificateFiles]) -> Vec<Option<FileState>> {
    // A file that is not there is a state too; reading it gives the error.
    let state = |path: &Path| {
        let found = std::fs::metadata(path).ok()?;
        Some((found.dev(), found.ino(), found.size(), found.mtime(), found.mtime_nsec()))
    };
    files.iter().flat_map(|pair| [state(&pair.certificate), state(&pair.key)]).collect()
}
