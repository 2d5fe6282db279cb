//! A frame: one record in a segment.
//!
//! ```text
//! len u32 | crc32c u32 | seq u64 | slot u32 | generation u32 | payload, padded with zeros to a multiple of 8
//! ```
//!
//! The checksum covers everything but itself and starts from the epoch and the shard, so that a frame of another journal is no frame.
//! `slot` is the number of the slot that the record is about, plus one (0: none), its top bit set when the record closes it; with
//! `generation` (the low half of the slot's) recovery after a power cut knows which records a slot page of an older moment does not.

use super::checksum;
use super::mapping::Mapping;

/// The largest payload of a record.
pub const PAYLOAD_BYTES_MAX: usize = 256 * 1024;

pub(super) const HEADER_BYTES: usize = 24;

/// The slot a record is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct SlotRef {
    /// Number of the slot plus one, top bit for a close; 0 is none.
    pub(super) slot: u32,
    /// Low half of the slot's generation.
    pub(super) generation: u32,
}

const CLOSES: u32 = 1 << 31;

impl SlotRef {
    pub(super) fn new(slot: u32, generation: u64, closing: bool) -> Self {
        assert!(slot < CLOSES - 1, "slot {slot} is past every limit");
        Self { slot: (slot + 1) | if closing { CLOSES } else { 0 }, generation: generation as u32 }
    }

    /// The slot's number.
    pub(super) fn number(self) -> Option<u32> {
        (self.slot & !CLOSES).checked_sub(1)
    }

    pub(super) fn closes(self) -> bool {
        self.slot & CLOSES != 0
    }
}

/// A frame's header, found good.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Head {
    pub(super) seq: u64,
    pub(super) payload_bytes: usize,
    pub(super) about: SlotRef,
}

impl Head {
    pub(super) fn frame_bytes(&self) -> usize {
        frame_bytes(self.payload_bytes)
    }
}

/// Size of a frame, padding included.
pub(super) fn frame_bytes(payload_bytes: usize) -> usize {
    (HEADER_BYTES + payload_bytes).next_multiple_of(8)
}

/// What the checksums of a shard start from.
pub(super) fn seed(epoch: u32, shard: u16) -> u32 {
    let mut bytes = *b"weir....--";
    bytes[4..8].copy_from_slice(&epoch.to_le_bytes());
    bytes[8..].copy_from_slice(&shard.to_le_bytes());
    crc32c::crc32c(&bytes)
}

fn checksum_of(seed: u32, header: &[u8; HEADER_BYTES], payload: &[u8]) -> u32 {
    let sum = checksum::append(seed, &header[0..4]);
    let sum = checksum::append(sum, &header[8..]);
    checksum::append(sum, payload)
}

/// A frame being put together: four octets of nothing, then all that the checksum covers in the order that it is covered in, so
/// that one pass does it. What is stored is the same with the length moved to the front and the checksum behind it.
#[derive(Debug, Default)]
pub(super) struct Draft {
    /// As long as any frame before it: what is behind `used` is of no meaning.
    bytes: Vec<u8>,
    used: usize,
}

impl Draft {
    /// A frame whose payload, of at most `bytes_max`, `encode` writes to the beginning of the room it is given; it says how much.
    #[inline]
    pub(super) fn fill(&mut self, bytes_max: usize, encode: impl FnOnce(&mut [u8]) -> usize) {
        if self.bytes.len() < HEADER_BYTES + bytes_max {
            self.bytes.resize(HEADER_BYTES + bytes_max, 0);
        }
        let room = &mut self.bytes[HEADER_BYTES..];
        let used = encode(room);
        assert!(used <= room.len(), "a payload longer than its room");
        self.used = HEADER_BYTES + used;
    }

    pub(super) fn copy(&mut self, payload: &[u8]) {
        self.fill(payload.len(), |room| {
            room[..payload.len()].copy_from_slice(payload);
            payload.len()
        });
    }

    #[inline]
    pub(super) fn payload_bytes(&self) -> usize {
        self.used - HEADER_BYTES
    }

    /// Writes the frame at byte `offset` (a multiple of 8) of `mapping`. It is published by nobody yet.
    #[inline]
    pub(super) fn write(&mut self, mapping: &Mapping, offset: u64, seed: u32, seq: u64, about: SlotRef) {
        let length = self.payload_bytes() as u32;
        if let Some(header) = self.bytes.first_chunk_mut::<HEADER_BYTES>() {
            header[4..8].copy_from_slice(&length.to_le_bytes());
            header[8..16].copy_from_slice(&seq.to_le_bytes());
            header[16..20].copy_from_slice(&about.slot.to_le_bytes());
            header[20..24].copy_from_slice(&about.generation.to_le_bytes());
        }
        let checksum = checksum::append(seed, &self.bytes[4..self.used]);
        let first = u64::from(length) | u64::from(checksum) << 32;
        let at = (offset / 8) as usize;
        mapping.copy_in(at + 1, &self.bytes[8..self.used]);
        mapping.copy_in(at, &first.to_le_bytes());
    }
}

/// What the first bytes claim: (payload length, seq), checked against nothing.
pub(super) fn claim(bytes: &[u8]) -> Option<(usize, u64)> {
    let header = bytes.first_chunk::<HEADER_BYTES>()?;
    let [a, b, c, d, ..] = *header;
    let payload_bytes = u32::from_le_bytes([a, b, c, d]) as usize;
    let (_, rest) = header.split_at(8);
    let seq = u64::from_le_bytes(*rest.first_chunk::<8>()?);
    Some((payload_bytes, seq))
}

/// The frame that begins `bytes`, if there is a whole and good one.
pub(super) fn read(bytes: &[u8], seed: u32) -> Option<(Head, &[u8])> {
    let header = bytes.first_chunk::<HEADER_BYTES>()?;
    let (payload_bytes, seq) = claim(bytes)?;
    if payload_bytes > PAYLOAD_BYTES_MAX {
        return None;
    }
    let payload = bytes.get(HEADER_BYTES..HEADER_BYTES + payload_bytes)?;
    let word = |at: usize| header[at..].first_chunk::<4>().map(|bytes| u32::from_le_bytes(*bytes));
    if word(4)? != checksum_of(seed, header, payload) {
        return None;
    }
    let about = SlotRef { slot: word(16)?, generation: word(20)? };
    let head = Head { seq, payload_bytes, about };
    Some((head, payload))
}

#[cfg(test)]
mod tests {
    use super::super::words::copy_out;
    use super::*;

    fn framed(payload: &[u8]) -> Vec<u8> {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        let mapping = Mapping::new(&file, 4096).unwrap();
        let mut draft = Draft::default();
        draft.copy(&[0xFF; 2000]);
        draft.copy(payload);
        assert_eq!(draft.payload_bytes(), payload.len());
        draft.write(&mapping, 64, seed(1, 2), 42, SlotRef::new(7, 3, true));
        let mut bytes = vec![0; frame_bytes(payload.len())];
        copy_out(&mapping.words()[8..], &mut bytes);
        bytes
    }

    #[test]
    fn a_frame_comes_back() {
        for size in [0, 1, 7, 8, 9, 1000] {
            let payload = vec![0xA5; size];
            let bytes = framed(&payload);
            let (head, back) = read(&bytes, seed(1, 2)).unwrap();
            assert_eq!((head.seq, back), (42, payload.as_slice()));
            assert_eq!((head.about.number(), head.about.closes()), (Some(7), true));
            assert_eq!(head.frame_bytes(), bytes.len());
        }
    }

    #[test]
    fn any_flipped_bit_is_noticed() {
        let bytes = framed(b"0123456789abcdef");
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&damaged, seed(1, 2)).is_none(), "bit {bit}");
        }
    }

    #[test]
    fn a_frame_of_another_shard_or_epoch_is_none() {
        let bytes = framed(b"x");
        assert!(read(&bytes, seed(1, 3)).is_none());
        assert!(read(&bytes, seed(2, 2)).is_none());
        assert!(read(&[0; 64], seed(1, 2)).is_none());
    }
}
