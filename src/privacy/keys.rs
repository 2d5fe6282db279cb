//! The keys of pseudonyms, one for each stretch of time, each a file of its own: `EPOCH.key`, 64 hexadecimal digits.
//!
//! Processes that share the directory agree on each key: whoever makes it first has made it for all. A key that is destroyed (by its
//! age, or by hand) makes every pseudonym of its time nobody's for ever: 32 random bytes are in no other place.
//!
//! Nothing here is in the way of traffic: the next key is there before it is needed, and a reader takes it by one pointer. If it could
//! not be made, the newest there is goes on, and says its number.

use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use ring::rand::{SecureRandom, SystemRandom};

use super::Error;
use crate::ids::unhex;

const KEY_BYTES: usize = 32;
/// The next key is made this long before it is needed, µs.
const AHEAD_US: i64 = 60_000_000;

/// One stretch of time's.
#[derive(Clone)]
pub struct Key {
    /// Its number: how many stretches since 1970.
    pub epoch: i64,
    bytes: [u8; KEY_BYTES],
}

/// Those of now.
pub struct Keys {
    directory: PathBuf,
    stretch_us: i64,
    kept_max: u32,
    /// In order of their numbers: the last, the current and the next, as far as there are.
    ready: ArcSwap<Vec<Key>>,
}

impl Keys {
    /// None is read or made before [`Keys::turn`].
    pub fn new(directory: &Path, stretch: Duration, kept_max: u32) -> Self {
        let stretch_us = i64::try_from(stretch.as_micros()).unwrap_or(i64::MAX).max(1);
        Self { directory: directory.to_owned(), stretch_us, kept_max, ready: ArcSwap::default() }
    }

    /// The key of this time, or else the newest.
    pub fn at(&self, at_us: i64) -> Option<Key> {
        let epoch = at_us.div_euclid(self.stretch_us);
        let ready = self.ready.load();
        ready.iter().find(|key| key.epoch == epoch).or_else(|| ready.last()).cloned()
    }

    /// Has this moment's key ready, soon before its time the next one, and destroys those that are too old; says which.
    pub fn turn(&self, now_us: i64) -> Result<Vec<i64>, Error> {
        let (epoch, soon) = (now_us.div_euclid(self.stretch_us), (now_us + AHEAD_US).div_euclid(self.stretch_us));
        let ready = self.ready.load();
        if ready.iter().any(|key| key.epoch == epoch) && ready.last().is_some_and(|key| key.epoch >= soon) {
            return Ok(Vec::new());
        }
        let mut next: Vec<Key> = ready.iter().filter(|key| (epoch - 1..=soon).contains(&key.epoch)).cloned().collect();
        for wanted in epoch..=soon.min(epoch + 1) {
            if !next.iter().any(|key| key.epoch == wanted) {
                next.push(self.read_or_make(wanted)?);
            }
        }
        next.sort_by_key(|key| key.epoch);
        self.ready.store(Arc::new(next));
        self.destroy_before(epoch - i64::from(self.kept_max) + 1)
    }

    fn path(&self, epoch: i64) -> PathBuf {
        self.directory.join(format!("{epoch}.key"))
    }

    /// All that there still are, in no order.
    pub fn kept(directory: &Path) -> Result<Vec<Key>, Error> {
        let kept = |source| Error::Keep { path: directory.to_owned(), source };
        let entries = match std::fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(kept(error)),
        };
        let mut keys = Vec::new();
        for entry in entries {
            let entry = entry.map_err(kept)?;
            let name = entry.file_name();
            let epoch = name.to_str().and_then(|name| name.strip_suffix(".key")).and_then(|epoch| epoch.parse().ok());
            let Some(epoch) = epoch else { continue };
            keys.push(Key { epoch, bytes: read(&entry.path())? });
        }
        Ok(keys)
    }

    fn read_or_make(&self, epoch: i64) -> Result<Key, Error> {
        let path = self.path(epoch);
        if !path.exists() {
            self.make(epoch, &path)?;
        }
        Ok(Key { epoch, bytes: read(&path)? })
    }

    /// Written whole under another name first; a link fails where another process was faster, whose key then counts.
    fn make(&self, epoch: i64, path: &Path) -> Result<(), Error> {
        let kept = |source| Error::Keep { path: self.directory.clone(), source };
        std::fs::create_dir_all(&self.directory).map_err(kept)?;
        let mut bytes = [0; KEY_BYTES];
        SystemRandom::new().fill(&mut bytes).map_err(|_| Error::NoRandomness)?;
        let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let new = self.directory.join(format!(".{epoch}.{}.new", std::process::id()));
        let mut file =
            std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new).map_err(kept)?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(kept)?;
        let linked = std::fs::hard_link(&new, path);
        std::fs::remove_file(&new).map_err(kept)?;
        match linked {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(kept(error)),
            _ => Ok(()),
        }
    }

    fn destroy_before(&self, oldest: i64) -> Result<Vec<i64>, Error> {
        let kept = |source| Error::Keep { path: self.directory.clone(), source };
        let mut destroyed = Vec::new();
        if self.kept_max == 0 {
            return Ok(destroyed);
        }
        for entry in std::fs::read_dir(&self.directory).map_err(kept)? {
            let name = entry.map_err(kept)?.file_name();
            let epoch = name.to_str().and_then(|name| name.strip_suffix(".key")).and_then(|epoch| epoch.parse().ok());
            let Some(epoch) = epoch.filter(|epoch: &i64| *epoch < oldest) else { continue };
            match std::fs::remove_file(self.path(epoch)) {
                Ok(()) => destroyed.push(epoch),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(kept(error)),
            }
        }
        Ok(destroyed)
    }
}

impl Key {
    /// 120 bits of a keyed hash, where no public address can be.
    pub fn pseudonym(&self, address: IpAddr) -> IpAddr {
        let octets = match address.to_canonical() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        let hash = blake3::keyed_hash(&self.bytes, &octets);
        let mut shown = [0xfd; 16];
        shown[1..].copy_from_slice(&hash.as_bytes()[..15]);
        IpAddr::from(shown)
    }
}

/// So many bytes, as hexadecimal digits in a file; white space around them is allowed.
pub(super) fn read<const BYTES: usize>(path: &Path) -> Result<[u8; BYTES], Error> {
    let text = std::fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    let bytes = unhex(text.trim_ascii()).and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or(Error::Key { path: path.to_owned(), digits: 2 * BYTES })
}
