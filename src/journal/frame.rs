//! A frame: one record in a segment.
//!
//! ```text
//! len u32 | crc32c u32 | seq u64 | slot u32 | generation u32 | payload, padded with zeros to a multiple of 8
//! ```
//!
//! The checksum covers everything but itself and starts from the epoch and the shard, so that a frame of another journal is no frame.
//! `slot` is the number of the slot that the record is about, plus one (0: none), its top bit set when the record closes it; with
//! `generation` (the low half of the slot's) recovery after a power cut knows which records a slot page of an older moment does not.

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

fn header(seed: u32, seq: u64, about: SlotRef, payload: &[u8]) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[0..4].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    bytes[8..16].copy_from_slice(&seq.to_le_bytes());
    bytes[16..20].copy_from_slice(&about.slot.to_le_bytes());
    bytes[20..24].copy_from_slice(&about.generation.to_le_bytes());
    let checksum = checksum(seed, &bytes, payload);
    bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

fn checksum(seed: u32, header: &[u8; HEADER_BYTES], payload: &[u8]) -> u32 {
    let checksum = crc32c::crc32c_append(seed, &header[0..4]);
    let checksum = crc32c::crc32c_append(checksum, &header[8..]);
    crc32c::crc32c_append(checksum, payload)
}

/// Writes a frame at byte `offset` (a multiple of 8) of `mapping`. It is published by nobody yet.
#[inline]
pub(super) fn write(mapping: &Mapping, offset: u64, seed: u32, seq: u64, about: SlotRef, payload: &[u8]) {
    let at = (offset / 8) as usize;
    mapping.copy_in(at + HEADER_BYTES / 8, payload);
    mapping.copy_in(at, &header(seed, seq, about, payload));
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
    if word(4)? != checksum(seed, header, payload) {
        return None;
    }
    let about = SlotRef { slot: word(16)?, generation: word(20)? };
    let head = Head { seq, payload_bytes, about };
    Some((head, payload))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(payload: &[u8]) -> Vec<u8> {
        let about = SlotRef::new(7, 3, true);
        let mut bytes = header(seed(1, 2), 42, about, payload).to_vec();
        bytes.extend_from_slice(payload);
        bytes.resize(frame_bytes(payload.len()), 0);
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
