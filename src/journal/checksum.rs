//! CRC-32C of short runs of octets.
//!
//! Notes and frames are tens to hundreds of octets, many thousands a second; what the crate does to be fast on megabytes (aligning,
//! three streams at once) costs more there than the sum itself. Longer runs, and machines without SSE 4.2, are left to the crate.
//! `unsafe` is here for one call: a function compiled for SSE 4.2, after the machine was asked whether it has it.

/// The longest run that is summed here.
const SHORT_BYTES_MAX: usize = 1024;

/// CRC-32C of what `checksum` sums up and then `bytes`.
#[inline]
pub(super) fn append(checksum: u32, bytes: &[u8]) -> u32 {
    #[cfg(target_arch = "x86_64")]
    if bytes.len() <= SHORT_BYTES_MAX && std::arch::is_x86_feature_detected!("sse4.2") {
        // SAFETY: the processor has SSE 4.2, as was just asked.
        return unsafe { append_short(checksum, bytes) };
    }
    crc32c::crc32c_append(checksum, bytes)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse4.2")]
fn append_short(checksum: u32, bytes: &[u8]) -> u32 {
    use std::arch::x86_64::{_mm_crc32_u8, _mm_crc32_u16, _mm_crc32_u32, _mm_crc32_u64};
    let (words, mut rest) = bytes.as_chunks::<8>();
    let mut sum = u64::from(!checksum);
    for word in words {
        sum = _mm_crc32_u64(sum, u64::from_le_bytes(*word));
    }
    let mut sum = sum as u32;
    if let Some((half, after)) = rest.split_first_chunk::<4>() {
        sum = _mm_crc32_u32(sum, u32::from_le_bytes(*half));
        rest = after;
    }
    if let Some((pair, after)) = rest.split_first_chunk::<2>() {
        sum = _mm_crc32_u16(sum, u16::from_le_bytes(*pair));
        rest = after;
    }
    if let [last] = rest {
        sum = _mm_crc32_u8(sum, *last);
    }
    !sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_crates_sum_at_every_length_and_place() {
        let bytes: Vec<u8> = (0..3000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for length in (0..300).chain([1023, 1024, 1025, 2048]) {
            for start in 0..9 {
                let run = &bytes[start..start + length];
                for before in [0, 0xDEAD_BEEF] {
                    assert_eq!(append(before, run), crc32c::crc32c_append(before, run), "{start} {length}");
                }
            }
        }
    }
}
