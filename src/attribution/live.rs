//! A table that follows its file: read at start, with each configuration, and when the file changes. A broken one keeps the old.
//!
//! Nothing waits for a reload: readers take the table in use by one pointer, and the old one goes when the last reader has let go.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use ring::hmac;

use super::read::{self, Error};
use super::table::Table;
use crate::config::{AccountTable, TableKind};
use crate::ids::unhex;

/// Fewest bytes of a secret.
const SECRET_BYTES_MIN: usize = 16;

/// A table and its file.
#[derive(Debug)]
pub struct LiveTable {
    config: AccountTable,
    current: ArcSwap<Content>,
    /// The files as they were when last looked at, good or bad: one bad change is reported once.
    seen: Mutex<[Option<FileState>; 2]>,
}

#[derive(Debug)]
struct Content {
    table: Table,
    /// What keys are hashed with, in a table of keys.
    secret: Option<Secret>,
}

/// Whose something is, and which table says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The account.
    pub account: Arc<str>,
    /// The version of the table.
    pub version: i64,
}

/// What changes when a file is written or replaced: device, inode, size, time of change.
type FileState = (u64, u64, u64, i64, i64);

impl LiveTable {
    /// Reads the file.
    pub fn load(config: &AccountTable) -> Result<Self, Error> {
        let seen = look_at(config);
        let content = read_content(config)?;
        Ok(Self { config: config.clone(), current: ArcSwap::from_pointee(content), seen: Mutex::new(seen) })
    }

    /// Whether it is the table that this configuration means, and follows its file already.
    pub fn is_of(&self, config: &AccountTable) -> bool {
        self.config == *config
    }

    /// Its name in the configuration.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// What its names are.
    pub fn kind(&self) -> TableKind {
        self.config.kind
    }

    /// Rows and version of the table in use.
    pub fn state(&self) -> (usize, i64) {
        let current = self.current.load();
        (current.table.row_count(), current.table.version())
    }

    /// Whose this text is at a time: a host or the like in a table of names, an API key in a table of keys.
    pub fn find(&self, text: &str, at_us: i64) -> Option<Found> {
        let current = self.current.load();
        let account = match &current.secret {
            // Where a hash is found takes no time that tells anything of a key: the hash cannot be steered without the secret.
            Some(secret) => current.table.exact(secret.hash(text).as_ref(), at_us),
            None if text.bytes().any(|byte| byte.is_ascii_uppercase()) => {
                current.table.host(&text.to_ascii_lowercase(), at_us)
            }
            None => current.table.host(text, at_us),
        };
        account.map(|account| Found { account: account.clone(), version: current.table.version() })
    }

    /// Reads the file again if it changed since last time: true if the new table is in use now. On an error the old one stays, and it
    /// is returned once per change. Costs two `stat` when nothing changed.
    pub fn reload_if_changed(&self) -> Result<bool, Error> {
        // Looked at before it is read: a file that changes while it is read differs again next time.
        let now = look_at(&self.config);
        {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            if *seen == now {
                return Ok(false);
            }
            *seen = now;
        }
        self.current.store(Arc::new(read_content(&self.config)?));
        Ok(true)
    }
}

fn read_content(config: &AccountTable) -> Result<Content, Error> {
    let secret = match (&config.secret, config.kind) {
        (Some(path), TableKind::Keys) => Some(Secret::read(path)?),
        _ => None,
    };
    let table = read::table(&config.file, &read::file(&config.file)?, config.kind)?;
    Ok(Content { table, secret })
}

/// What API keys are hashed with.
#[derive(Debug)]
pub struct Secret(hmac::Key);

impl Secret {
    /// As hexadecimal digits in a file, white space around them allowed.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = read::file(path)?;
        let bytes = unhex(text.trim_ascii()).unwrap_or_default();
        if bytes.len() < SECRET_BYTES_MIN {
            return Err(Error::Secret { path: path.to_owned(), bytes: bytes.len() });
        }
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &bytes)))
    }

    /// As a table of keys holds it, in hexadecimal there.
    pub fn hash(&self, api_key: &str) -> hmac::Tag {
        hmac::sign(&self.0, api_key.as_bytes())
    }
}

fn look_at(config: &AccountTable) -> [Option<FileState>; 2] {
    // A file that is not there is a state too; reading it gives the error.
    let state = |path: &Path| {
        let found = std::fs::metadata(path).ok()?;
        Some((found.dev(), found.ino(), found.size(), found.mtime(), found.mtime_nsec()))
    };
    [state(&config.file), config.secret.as_deref().and_then(state)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_by_their_hash_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (file, secret) = (dir.path().join("keys.csv"), dir.path().join("keys.secret"));
        let key = hmac::Key::new(hmac::HMAC_SHA256, &[7; 32]);
        let hash: String = hmac::sign(&key, b"k-123").as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        std::fs::write(&secret, "07".repeat(32) + "\n").unwrap();
        std::fs::write(&file, format!("hash,account_id\n{hash},acme\n")).unwrap();
        let config =
            AccountTable { name: "keys".into(), kind: TableKind::Keys, file: file.clone(), secret: Some(secret) };
        let table = LiveTable::load(&config).unwrap();
        assert_eq!(table.find("k-123", 0).map(|found| found.account), Some("acme".into()));
        assert_eq!(table.find("k-124", 0), None);
        assert_eq!(table.find(&hash, 0), None, "a hash is no key");

        // A broken file keeps the old table, and is told once.
        let version = table.state();
        std::fs::write(&file, "hash,account_id\nk-123,acme\n").unwrap();
        assert!(table.reload_if_changed().is_err());
        assert!(matches!(table.reload_if_changed(), Ok(false)));
        assert_eq!(table.state(), version);
        std::fs::write(&file, format!("hash,account_id\n{hash},other\n")).unwrap();
        assert!(table.reload_if_changed().unwrap());
        assert_eq!(table.find("k-123", 0).map(|found| found.account), Some("other".into()));
    }
}
