//! Identities: derived, never random, so that they sort by time and name where they were made.

use std::fmt;

/// Identity of a session or a request: 16 bytes that sort by start time.
///
/// Layout, big endian: start in ms since the Unix epoch (6 bytes), hash of the node's name (3), the epoch's low
/// bits (2), shard (1), a counter within the shard (4). Two ids are equal only if one shard made more than 2³² ids
/// within one millisecond.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(pub [u8; 16]);

impl Id {
    /// As printed: 32 hexadecimal digits.
    pub fn hex(&self) -> [u8; 32] {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut hex = [0; 32];
        for (pair, byte) in hex.chunks_exact_mut(2).zip(self.0) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 0xf)];
        }
        hex
    }
}

/// These bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 0xf)]]);
    digits.map(char::from).collect()
}

/// Back from [`hex`]; none where it is not hexadecimal.
pub fn unhex(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    if !text.len().is_multiple_of(2) {
        return None;
    }
    text.chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(str::from_utf8(&self.hex()).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Makes the ids of one shard. Session and request ids come from one counter.
#[derive(Debug)]
pub struct IdSource {
    place: [u8; 6],
    counter: u32,
}

impl IdSource {
    /// Ids of this (node, epoch, shard).
    pub fn new(node: &str, epoch: u32, shard: u16) -> Self {
        let hash = crc32c::crc32c(node.as_bytes()).to_be_bytes();
        let epoch = epoch.to_be_bytes();
        let place = [hash[1], hash[2], hash[3], epoch[2], epoch[3], shard as u8];
        Self { place, counter: 0 }
    }

    /// The next id, for something that started at `started_at_us`.
    pub fn next(&mut self, started_at_us: i64) -> Id {
        let mut id = [0; 16];
        let ms = (started_at_us / 1000).max(0).to_be_bytes();
        id[..6].copy_from_slice(&ms[2..]);
        id[6..12].copy_from_slice(&self.place);
        id[12..].copy_from_slice(&self.counter.to_be_bytes());
        self.counter = self.counter.wrapping_add(1);
        Id(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_by_time_then_counter() {
        let mut source = IdSource::new("edge-1", 7, 3);
        let a = source.next(1_700_000_000_000_000);
        let b = source.next(1_700_000_000_000_000);
        let c = source.next(1_700_000_000_001_000);
        assert!(a < b && b < c);
        assert_eq!(a.to_string().len(), 32);
    }

    #[test]
    fn ids_of_two_shards_differ() {
        let at = 1_700_000_000_000_000;
        assert_ne!(IdSource::new("a", 1, 0).next(at), IdSource::new("a", 1, 1).next(at));
        assert_ne!(IdSource::new("a", 1, 0).next(at), IdSource::new("b", 1, 0).next(at));
        assert_ne!(IdSource::new("a", 1, 0).next(at), IdSource::new("a", 2, 0).next(at));
    }
}
