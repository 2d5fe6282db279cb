//! The keys of whole addresses: one for each account and UTC day, each of which can be destroyed.
//!
//! ```text
//! <keys>/master.key        64 hexadecimal digits
//! <keys>/2026-11-23.keys   a line for each account: `<hash of its name> <its key, under the master key>`, both hexadecimal
//! <keys>/destroyed         how many times keys were destroyed
//! <keys>/lock              held by whoever changes a file, and by whoever commits what was encrypted
//! ```
//!
//! An address is encrypted with ipcrypt-deterministic: one AES block, 16 bytes in and out. *Deterministic*, so that equal addresses are equal
//! and can be counted, joined and found without any key, within an account and a day; they compress as well as plain ones (AES-GCM would
//! add 28 bytes to each row and make all of them different). It proves nothing, and need not: the manifest has each file's hash.
//! Across days and accounts nothing can be compared: whoever has no key learns of an address that it came again today.
//!
//! A key is in its file before anything is encrypted with it, and on the disk before that is committed. Destroying one writes its day's
//! file anew and overwrites the old one; where the disk keeps what was overwritten (snapshots, flash), destroying the master key ends all
//! keys at once. Keys are kept under it (AES-256-GCM; name and day are authenticated) so that a copy of the directory without it is worth
//! nothing.
//!
//! **Processes that have keys in memory** ask [`Keys::stand_still`] before each commit: where keys were destroyed since, what they have
//! encrypted is thrown away and encrypted again with keys that are there. So whatever a destroyed key encrypted was committed before it was
//! destroyed, and who destroys it first and reads the manifest then finds all of that.
//!
//! Files and directory are the owner's alone (0600, 0700).

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use ipcrypt_rs::Ipcrypt;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};

use super::Error;
use crate::clock::{DAY_US, date_of, parse_utc};
use crate::ids::{hex, unhex};

/// Keys that are ready in memory; beyond, those of other days are forgotten.
const READY_MAX: usize = 100_000;

/// Which account, without its name: the first 16 bytes of the name's BLAKE3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner([u8; 16]);

impl Owner {
    /// Of this account.
    pub fn of(account: &str) -> Self {
        let mut owner = [0; 16];
        owner.copy_from_slice(&blake3::hash(account.as_bytes()).as_bytes()[..16]);
        Self(owner)
    }
}

/// Keys in a day's file.
type Lines = BTreeMap<Owner, [u8; 16]>;

/// A directory of keys.
pub struct Keys {
    directory: PathBuf,
    master: LessSafeKey,
    random: SystemRandom,
    ready: HashMap<(Owner, i64), Ipcrypt>,
    /// Days whose keys are ready.
    days: HashMap<i64, Read>,
    /// The key that was asked for last and is not there: rows of an account follow one another.
    absent: Option<(Owner, i64)>,
    /// How many times keys had been destroyed when those in memory were read.
    destructions: u64,
}

/// How far a day's file was read. It only grows, until keys are destroyed: then it is another one.
#[derive(Clone, Copy)]
struct Read {
    inode: u64,
    destructions: u64,
    /// Bytes, to the end of the last line.
    whole: u64,
}

impl Keys {
    /// Opens a directory, or makes it with a master key.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(failed("make", directory))?;
        let path = directory.join("master.key");
        let random = SystemRandom::new();
        if !path.exists() {
            let _lock = lock(directory)?;
            let mut secret = [0; 32];
            random.fill(&mut secret).map_err(|_| Error::NoRandomness)?;
            if !path.exists() {
                write(&path, &format!("{}\n", hex(&secret)))?;
            }
        }
        let text = fs::read(&path).map_err(failed("read", &path))?;
        let bytes = unhex(text.trim_ascii()).filter(|bytes| bytes.len() == 32);
        let bytes = bytes.ok_or_else(|| Error::Key { path, reason: "it holds no 64 hexadecimal digits".to_owned() })?;
        let master = UnboundKey::new(&AES_256_GCM, &bytes).map_err(|_| Error::NoRandomness)?;
        Ok(Self {
            directory: directory.to_owned(),
            master: LessSafeKey::new(master),
            random,
            ready: HashMap::new(),
            days: HashMap::new(),
            absent: None,
            destructions: destructions(directory)?,
        })
    }

    /// Encrypts an address of this account and time; its key is made if there is none.
    pub fn seal(&mut self, owner: Owner, at_us: i64, mut address: [u8; 16]) -> Result<[u8; 16], Error> {
        let place = (owner, at_us.div_euclid(DAY_US));
        if let Some(key) = self.ready.get(&place) {
            key.encrypt_ip16(&mut address);
            return Ok(address);
        }
        self.make(place.0, place.1)?;
        let key = self.ready.get(&place).ok_or(Error::NoRandomness)?;
        key.encrypt_ip16(&mut address);
        Ok(address)
    }

    /// Reads an encrypted address; none where its key was destroyed.
    pub fn unseal(&mut self, account: &str, at_us: i64, mut sealed: [u8; 16]) -> Result<Option<[u8; 16]>, Error> {
        let Some(key) = self.known(account, at_us)? else { return Ok(None) };
        key.decrypt_ip16(&mut sealed);
        Ok(Some(sealed))
    }

    /// What an address looks like if it is encrypted at this time; none where there is no key. Makes none.
    pub fn sealed(&mut self, account: &str, at_us: i64, mut address: [u8; 16]) -> Result<Option<[u8; 16]>, Error> {
        let Some(key) = self.known(account, at_us)? else { return Ok(None) };
        key.encrypt_ip16(&mut address);
        Ok(Some(address))
    }

    fn known(&mut self, account: &str, at_us: i64) -> Result<Option<&Ipcrypt>, Error> {
        let place = (Owner::of(account), at_us.div_euclid(DAY_US));
        if !self.ready.contains_key(&place) && self.absent != Some(place) {
            self.learn(place.1)?;
            self.absent = (!self.ready.contains_key(&place)).then_some(place);
        }
        Ok(self.ready.get(&place))
    }

    /// Has all keys on the disk, and keeps everybody from destroying any while the answer lives. None: some were destroyed since this
    /// process read them; it has forgotten all of them now, and what it has encrypted and not committed is to be encrypted again.
    pub fn stand_still(&mut self) -> Result<Option<File>, Error> {
        let lock = lock(&self.directory)?;
        let destructions = destructions(&self.directory)?;
        if destructions == self.destructions {
            for day in self.days.keys() {
                let path = self.path(*day);
                match File::open(&path) {
                    Ok(file) => file.sync_all().map_err(failed("sync", &path))?,
                    // Destroyed by hand.
                    Err(error) if error.kind() == ErrorKind::NotFound => {
                        self.forget();
                        return Ok(None);
                    }
                    Err(source) => return Err(failed("open", &path)(source)),
                }
            }
            sync(&self.directory)?;
            return Ok(Some(lock));
        }
        self.destructions = destructions;
        self.forget();
        Ok(None)
    }

    /// Destroys an account's keys of all days; says how many there were.
    pub fn destroy(&mut self, account: &str) -> Result<i64, Error> {
        let owner = Owner::of(account);
        let _lock = lock(&self.directory)?;
        let mut destroyed = 0;
        for day in self.kept()? {
            let Some((_, mut lines)) = self.read(day, None)? else { continue };
            if lines.remove(&owner).is_none() {
                continue;
            }
            if destroyed == 0 {
                self.announce()?;
            }
            destroyed += 1;
            self.replace(day, &lines)?;
        }
        self.forget();
        Ok(destroyed)
    }

    fn forget(&mut self) {
        self.ready.clear();
        self.days.clear();
        self.absent = None;
    }

    /// Destroys all keys of days that ended before this time: nothing is left that was encrypted with them.
    pub fn destroy_before(&mut self, before_us: i64) -> Result<(), Error> {
        let _lock = lock(&self.directory)?;
        let mut days = self.kept()?;
        days.retain(|day| (day + 1) * DAY_US <= before_us);
        if !days.is_empty() {
            self.announce()?;
        }
        days.into_iter().try_for_each(|day| self.replace(day, &Lines::new()))
    }

    /// Has every process that holds keys forget them, before the first is destroyed.
    fn announce(&self) -> Result<(), Error> {
        let next = destructions(&self.directory)? + 1;
        write(&self.directory.join("destroyed"), &format!("{next}\n"))
    }

    fn path(&self, day: i64) -> PathBuf {
        let (year, month, day) = date_of(day * DAY_US);
        self.directory.join(format!("{year:04}-{month:02}-{day:02}.keys"))
    }

    /// Days that there are keys of.
    fn kept(&self) -> Result<Vec<i64>, Error> {
        let failed = |source| Error::Io { operation: "list", path: self.directory.clone(), source };
        let mut days = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let day = name.to_str().and_then(|name| name.strip_suffix(".keys")).and_then(parse_utc);
            days.extend(day.map(|at_us| at_us / DAY_US));
        }
        Ok(days)
    }

    fn make(&mut self, owner: Owner, day: i64) -> Result<(), Error> {
        let _lock = lock(&self.directory)?;
        self.learn(day)?;
        if self.ready.contains_key(&(owner, day)) {
            return Ok(());
        }
        let mut key = [0; 16];
        self.random.fill(&mut key).map_err(|_| Error::NoRandomness)?;
        let path = self.path(day);
        let line = format!("{} {}\n", hex(&owner.0), hex(&self.wrap(owner, day, key)?));
        let whole = self.days.get(&day).map_or(0, |read| read.whole);
        append(&path, whole, &line).map_err(failed("write", &path))?;
        self.learn(day)
    }

    /// Reads what there is of a day's keys and is not in memory yet.
    fn learn(&mut self, day: i64) -> Result<(), Error> {
        if self.ready.len() > READY_MAX {
            self.ready.retain(|(_, of), _| *of == day);
            self.days.retain(|of, _| *of == day);
        }
        let known = self.days.get(&day).copied();
        let Some((read, keys)) = self.read(day, known)? else {
            self.days.remove(&day);
            return Ok(());
        };
        self.days.insert(day, read);
        self.ready.extend(keys.into_iter().map(|(owner, key)| ((owner, day), Ipcrypt::new(key))));
        Ok(())
    }

    /// A day's keys, beyond those that are known; none if it has no file.
    fn read(&self, day: i64, known: Option<Read>) -> Result<Option<(Read, Lines)>, Error> {
        let path = self.path(day);
        let destructions = destructions(&self.directory)?;
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::Io { operation: "read", path, source }),
        };
        let inode = file.metadata().map_err(failed("read", &path))?.ino();
        let is_same = |known: &Read| (known.inode, known.destructions) == (inode, destructions);
        let mut whole = known.filter(is_same).map_or(0, |known| known.whole);
        let mut text = Vec::new();
        let found = file.seek(SeekFrom::Start(whole)).and_then(|_| file.read_to_end(&mut text));
        found.map_err(failed("read", &path))?;
        let mut keys = Lines::new();
        for line in text.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n")) {
            whole += line.len() as u64;
            // Torn by a power cut, as the last one may be by a kill: nothing was committed that it encrypted.
            if line.contains(&0) {
                continue;
            }
            let Some((owner, key)) = self.key(day, line) else {
                let reason = "a line of it is no key under the master key beside it".to_owned();
                return Err(Error::Key { path, reason });
            };
            keys.insert(owner, key);
        }
        Ok(Some((Read { inode, destructions, whole }, keys)))
    }

    fn key(&self, day: i64, line: &[u8]) -> Option<(Owner, [u8; 16])> {
        let (owner, wrapped) = line.trim_ascii_end().split_at_checked(2 * size_of::<Owner>())?;
        let owner = Owner(unhex(owner)?.try_into().ok()?);
        Some((owner, self.unwrap(owner, day, unhex(wrapped.strip_prefix(b" ")?)?)?))
    }

    /// Writes a day's file anew, or removes it; then overwrites what it was.
    fn replace(&self, day: i64, keys: &Lines) -> Result<(), Error> {
        let path = self.path(day);
        let mut old = OpenOptions::new().write(true).open(&path).map_err(failed("open", &path))?;
        if keys.is_empty() {
            fs::remove_file(&path).map_err(failed("remove", &path))?;
            sync(&self.directory)?;
        } else {
            let mut text = String::new();
            for (owner, key) in keys {
                text += &format!("{} {}\n", hex(&owner.0), hex(&self.wrap(*owner, day, *key)?));
            }
            write(&path, &text)?;
        }
        let bytes = old.metadata().map_err(failed("overwrite", &path))?.len();
        let zeros = vec![0; usize::try_from(bytes).unwrap_or(0)];
        old.write_all(&zeros).and_then(|()| old.sync_all()).map_err(failed("overwrite", &path))
    }

    fn wrap(&self, owner: Owner, day: i64, key: [u8; 16]) -> Result<Vec<u8>, Error> {
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).map_err(|_| Error::NoRandomness)?;
        let mut wrapped = key.to_vec();
        let sealed =
            self.master.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad(owner, day), &mut wrapped);
        sealed.map_err(|_| Error::NoRandomness)?;
        Ok([nonce.as_slice(), &wrapped].concat())
    }

    fn unwrap(&self, owner: Owner, day: i64, mut wrapped: Vec<u8>) -> Option<[u8; 16]> {
        let nonce: [u8; NONCE_LEN] = wrapped.get(..NONCE_LEN)?.try_into().ok()?;
        let sealed = wrapped.get_mut(NONCE_LEN..)?;
        let key = self.master.open_in_place(Nonce::assume_unique_for_key(nonce), aad(owner, day), sealed).ok()?;
        (&*key).try_into().ok()
    }
}

fn aad(owner: Owner, day: i64) -> Aad<[u8; 24]> {
    let mut bytes = [0; 24];
    bytes[..16].copy_from_slice(&owner.0);
    bytes[16..].copy_from_slice(&day.to_le_bytes());
    Aad::from(bytes)
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    move |source| Error::Io { operation, path: path.to_owned(), source }
}

fn destructions(directory: &Path) -> Result<u64, Error> {
    let path = directory.join("destroyed");
    match fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().map_err(|_| Error::Key { path, reason: "it holds no number".to_owned() }),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(0),
        Err(error) => Err(failed("read", &path)(error)),
    }
}

/// Whoever has it may change files; it ends when it is dropped.
fn lock(directory: &Path) -> Result<File, Error> {
    let path = directory.join("lock");
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    file.and_then(|file| file.lock().map(|()| file)).map_err(failed("lock", &path))
}

/// Adds a line behind those that are whole: a kill may have torn the last.
fn append(path: &Path, whole: u64, line: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    file.set_len(whole)?;
    file.seek(SeekFrom::End(0))?;
    file.write_all(line.as_bytes())
}

/// Writes a file, all of it or nothing. The lock keeps the draft ours.
fn write(path: &Path, text: &str) -> Result<(), Error> {
    let draft = path.with_extension("draft");
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
    written.and_then(|()| fs::rename(&draft, path)).map_err(failed("write", path))?;
    sync(path.parent().unwrap_or(path))
}

fn sync(directory: &Path) -> Result<(), Error> {
    File::open(directory).and_then(|open| open.sync_all()).map_err(failed("sync", directory))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destroyed_key_reads_nothing_and_no_other_is_touched() {
        let directory = tempfile::tempdir().unwrap();
        let mut keys = Keys::open(&directory.path().join("keys")).unwrap();
        let address = [7; 16];
        let sealed = keys.seal(Owner::of("acme"), 5, address).unwrap();
        let others = keys.seal(Owner::of("globex"), 5, address).unwrap();
        let next_day = keys.seal(Owner::of("acme"), DAY_US + 5, address).unwrap();
        assert_eq!(keys.seal(Owner::of("acme"), DAY_US - 1, address).unwrap(), sealed);
        assert!(sealed != address && sealed != others && sealed != next_day);
        let mut again = Keys::open(&directory.path().join("keys")).unwrap();
        assert_eq!(again.unseal("acme", 5, sealed).unwrap(), Some(address));
        assert_eq!(again.sealed("acme", 5, address).unwrap(), Some(sealed));
        assert_eq!(again.destroy("acme").unwrap(), 2);
        assert_eq!(again.destroy("acme").unwrap(), 0);
        let mut after = Keys::open(&directory.path().join("keys")).unwrap();
        assert_eq!(after.unseal("acme", 5, sealed).unwrap(), None);
        assert_eq!(after.unseal("globex", 5, others).unwrap(), Some(address));
        after.destroy_before(2 * DAY_US).unwrap();
        assert_eq!(Keys::open(&directory.path().join("keys")).unwrap().unseal("globex", 5, others).unwrap(), None);
    }

    #[test]
    fn what_a_kill_has_torn_costs_no_key() {
        let directory = tempfile::tempdir().unwrap();
        let sealed = Keys::open(directory.path()).unwrap().seal(Owner::of("acme"), 5, [7; 16]).unwrap();
        let day = directory.path().join("1970-01-01.keys");
        let line = fs::read_to_string(&day).unwrap();
        fs::write(&day, format!("{line}{}", &line[..40])).unwrap();
        fs::write(directory.path().join("master.draft"), "12").unwrap();
        Keys::open(directory.path()).unwrap().seal(Owner::of("globex"), 5, [7; 16]).unwrap();
        let mut keys = Keys::open(directory.path()).unwrap();
        assert_eq!(keys.unseal("acme", 5, sealed).unwrap(), Some([7; 16]));
        assert!(keys.sealed("globex", 5, [7; 16]).unwrap().is_some());
    }

    #[test]
    fn what_two_processes_add_to_a_day_both_know() {
        let directory = tempfile::tempdir().unwrap();
        let open = || Keys::open(directory.path()).unwrap();
        let (mut one, mut other) = (open(), open());
        let account = |at: usize| format!("account-{at}");
        let sealed: Vec<_> = (0..40)
            .map(|at| {
                (if at % 3 == 0 { &mut one } else { &mut other })
                    .seal(Owner::of(&account(at)), 5, [at as u8; 16])
                    .unwrap()
            })
            .collect();
        for keys in [&mut one, &mut other, &mut open()] {
            for (at, sealed) in sealed.iter().enumerate() {
                assert_eq!(keys.seal(Owner::of(&account(at)), 5, [at as u8; 16]).unwrap(), *sealed, "{at}");
            }
            assert!(keys.stand_still().unwrap().is_some());
        }
        // Destroyed: the file is another one.
        assert_eq!(open().destroy(&account(7)).unwrap(), 1);
        let new = other.seal(Owner::of("new"), 5, [1; 16]).unwrap();
        assert!(other.stand_still().unwrap().is_none() && one.stand_still().unwrap().is_none());
        assert_eq!(one.seal(Owner::of("new"), 5, [1; 16]).unwrap(), new);
        assert_ne!(one.seal(Owner::of(&account(7)), 5, [7; 16]).unwrap(), sealed[7]);
        assert_eq!(other.seal(Owner::of(&account(8)), 5, [8; 16]).unwrap(), sealed[8]);
        fs::remove_file(directory.path().join("1970-01-01.keys")).unwrap();
        assert!(other.stand_still().unwrap().is_none() && other.stand_still().unwrap().is_some());
        assert_ne!(other.seal(Owner::of("new"), 5, [1; 16]).unwrap(), new);
    }

    #[test]
    fn without_their_master_key_they_are_worth_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let sealed = Keys::open(directory.path()).unwrap().seal(Owner::of("acme"), 5, [7; 16]).unwrap();
        fs::remove_file(directory.path().join("master.key")).unwrap();
        let read = Keys::open(directory.path()).unwrap().unseal("acme", 5, sealed);
        assert!(matches!(read, Err(Error::Key { .. })));
    }
}
