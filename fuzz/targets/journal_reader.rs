//! Journal: whatever lies in a shard's directory, the reader comes to an end, and what it gives out and what it reports
//! as lost follow one another without a gap or an overlap.
//!
//! Random bytes never get past a checksum, so the input is the frames' area of up to two segments, and by its first
//! byte the harness puts right what a writer would have: checksums of frames, the header, the published mark.
#![no_main]

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use weir::journal::{Entry, Reader};

const SUMS_RIGHT: u8 = 1;
const HEADER_RIGHT: u8 = 2;
const MARK_RIGHT: u8 = 4;
const TWO_SEGMENTS: u8 = 8;
const REWRITTEN: u8 = 16;

const EPOCH: u32 = 1;
const FRAMES_AT: usize = 4096;
const FRAME_HEADER_BYTES: usize = 24;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let [flags, second_seq, cut, area @ ..] = input else {
        return;
    };
    let shard = shard_directory();
    clear(shard);
    let cut = area.len().min(usize::from(*cut) * 8);
    let (first, second) = if flags & TWO_SEGMENTS == 0 { (area, None) } else { (&area[..cut], Some(&area[cut..])) };
    let suffix = if flags & REWRITTEN == 0 { "" } else { ".r1" };
    write_segment(shard, 0, "", *flags, first);
    if let Some(second) = second {
        write_segment(shard, u64::from(*second_seq), suffix, *flags, second);
    }
    let once = read(shard);
    assert_eq!(once, read(shard), "the same files read differently");
});

/// Everything there is, checked to be one sequence.
fn read(shard: &Path) -> Vec<Entry> {
    let mut reader = Reader::open(shard, 0).expect("the directory is there");
    let mut entries = Vec::new();
    loop {
        let expected = reader.next_seq();
        let entry = match reader.next() {
            Ok(Some(entry)) => entry,
            Ok(None) | Err(_) => return entries,
        };
        match &entry {
            Entry::Frame(frame) => {
                assert_eq!(frame.seq, expected);
                assert_eq!(reader.next_seq(), expected + 1);
            }
            Entry::Damaged(lost) => {
                assert_eq!(lost.first_seq, expected);
                assert!(lost.next_seq >= lost.first_seq);
                assert_eq!(reader.next_seq(), lost.next_seq);
            }
        }
        entries.push(entry);
        assert!(entries.len() < 10_000, "does not come to an end");
    }
}

fn write_segment(shard: &Path, first_seq: u64, suffix: &str, flags: u8, area: &[u8]) {
    let mut file = vec![0; FRAMES_AT];
    file.extend_from_slice(area);
    file.resize(file.len().next_multiple_of(4096), 0);
    let (end, count) = put_right(&mut file, if flags & SUMS_RIGHT == 0 { 0 } else { area.len() });
    if flags & HEADER_RIGHT != 0 {
        let file_bytes = file.len() as u64;
        file[0..8].copy_from_slice(b"WEIRSEG1");
        file[8..12].copy_from_slice(&1u32.to_le_bytes());
        file[12..16].copy_from_slice(&(FRAMES_AT as u32).to_le_bytes());
        file[16..20].copy_from_slice(&EPOCH.to_le_bytes());
        file[24..32].copy_from_slice(&first_seq.to_le_bytes());
        file[32..40].copy_from_slice(&file_bytes.to_le_bytes());
        file[40..44].copy_from_slice(&u32::from(!suffix.is_empty()).to_le_bytes());
        let checksum = crc32c::crc32c(&file[..296]);
        file[296..300].copy_from_slice(&checksum.to_le_bytes());
    }
    if flags & MARK_RIGHT != 0 {
        let value = (end as u64 / 8 - 1) << 26 | count;
        let check = (value ^ 0x5bd1_e995).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 53;
        file[512..520].copy_from_slice(&(value << 11 | check).to_le_bytes());
    }
    std::fs::write(shard.join(format!("seg-{first_seq:020}{suffix}")), file).expect("the directory can be written");
}

/// Gives every frame of the first `area` octets its checksum; says where the last one ends and how many there are.
fn put_right(file: &mut [u8], area: usize) -> (usize, u64) {
    let (mut at, mut count) = (FRAMES_AT, 0);
    let mut seed = *b"weir....\0\0";
    seed[4..8].copy_from_slice(&EPOCH.to_le_bytes());
    let seed = crc32c::crc32c(&seed);
    while at + FRAME_HEADER_BYTES <= FRAMES_AT + area {
        let payload = u32::from_le_bytes([file[at], file[at + 1], file[at + 2], file[at + 3]]) as usize;
        let end = at + (FRAME_HEADER_BYTES + payload).next_multiple_of(8);
        if end > file.len() {
            break;
        }
        let sum = crc32c::crc32c_append(seed, &file[at..at + 4]);
        let sum = crc32c::crc32c_append(sum, &file[at + 8..at + FRAME_HEADER_BYTES + payload]);
        file[at + 4..at + 8].copy_from_slice(&sum.to_le_bytes());
        (at, count) = (end, count + 1);
    }
    (at, count)
}

/// One directory for the whole run, below `TMPDIR`, which fuzz/run puts into memory and removes.
fn shard_directory() -> &'static Path {
    static SHARD: OnceLock<PathBuf> = OnceLock::new();
    SHARD.get_or_init(|| {
        let state = std::env::temp_dir().join(format!("weir-fuzz-{}", std::process::id()));
        let shard = state.join("epoch-0000000001/shard-00");
        std::fs::create_dir_all(&shard).expect("a shard's directory");
        shard
    })
}

fn clear(shard: &Path) {
    for entry in std::fs::read_dir(shard).expect("the directory can be listed") {
        std::fs::remove_file(entry.expect("an entry").path()).expect("a file can be removed");
    }
}
