//! A model of a disk that keeps what was synced and, of all else, whatever it likes.
//!
//! The journal runs on real files; after each sync the model remembers every file as it was then. At a cut each 512-byte sector of a
//! file is either as it was synced (or written back of the kernel's own accord) or as it was last written, at random, and the directory is
//! as it was synced or as it is.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const SECTOR: usize = 512;

/// Numbers that look random.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }
}

/// The disk's memory: contents by inode, names by the last sync of the directory.
#[derive(Default)]
pub(super) struct Disk {
    contents: HashMap<u64, Vec<u8>>,
    names: HashMap<String, u64>,
}

fn files(directory: &Path) -> Vec<(String, u64, Vec<u8>)> {
    let entries = std::fs::read_dir(directory).unwrap().map(Result::unwrap);
    let files = entries.map(|entry| {
        let (name, inode) = (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().ino());
        (name, inode, std::fs::read(entry.path()).unwrap())
    });
    files.collect()
}

impl Disk {
    /// Files whose name begins so, and the directory, are durable as they are.
    pub(super) fn synced(&mut self, directory: &Path, prefixes: &[&str]) {
        self.names.clear();
        for (name, inode, bytes) in files(directory) {
            if prefixes.iter().any(|prefix| name.starts_with(prefix)) {
                self.contents.insert(inode, bytes);
            }
            self.names.insert(name, inode);
        }
    }

    /// The kernel writes back some of what is dirty, nobody having asked for it.
    pub(super) fn writes_back(&mut self, directory: &Path, dice: &mut Dice) {
        for (_, inode, bytes) in files(directory) {
            let share = dice.below(101);
            let durable = self.contents.entry(inode).or_insert_with(|| vec![0; bytes.len()]);
            durable.resize(bytes.len(), 0);
            for (durable, now) in durable.chunks_mut(SECTOR).zip(bytes.chunks(SECTOR)) {
                if dice.below(100) < share {
                    durable.copy_from_slice(now);
                }
            }
        }
    }

    /// What a power cut leaves of `directory`, in `to`.
    pub(super) fn cut(&self, directory: &Path, to: &Path, dice: &mut Dice) {
        std::fs::create_dir_all(to).unwrap();
        let now = files(directory);
        let written: HashMap<u64, &Vec<u8>> = now.iter().map(|(_, inode, bytes)| (*inode, bytes)).collect();
        let names: Vec<(String, u64)> = if dice.below(2) == 0 {
            self.names.iter().map(|(name, inode)| (name.clone(), *inode)).collect()
        } else {
            now.iter().map(|(name, inode, _)| (name.clone(), *inode)).collect()
        };
        for (name, inode) in names {
            let durable = self.contents.get(&inode);
            let Some(last) = written.get(&inode).copied().or(durable) else { continue };
            let mut bytes = last.clone();
            // One disk writes nearly everything back before the cut, another nearly nothing.
            let share = dice.below(101);
            for (at, sector) in bytes.chunks_mut(SECTOR).enumerate() {
                if dice.below(100) < share {
                    continue;
                }
                match durable.and_then(|durable| durable.get(at * SECTOR..at * SECTOR + sector.len())) {
                    Some(old) => sector.copy_from_slice(old),
                    None => sector.fill(0),
                }
            }
            std::fs::write(to.join(name), bytes).unwrap();
        }
    }
}
