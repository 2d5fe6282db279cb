//! Damaged journals: every one starts, every good record is delivered, every lost one is named.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::model_tests::{copy_tree, options};
use super::*;
use crate::units::Column;

const RECORDS: u64 = 25;

/// A journal of three segments, left by a killed process: record `n` is the bytes of `n`, and some filler.
fn journal() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("original");
    let state = StateDir::open(&path).unwrap();
    let epoch = state.claim_epoch().unwrap();
    let budget = Arc::new(Budget::new(1 << 30));
    let mut writer = Writer::create(&epoch, 0, "node", &options(), budget).unwrap();
    for seq in 0..RECORDS {
        writer.append(&payload(seq)).unwrap();
    }
    writer.shared().sync().unwrap();
    (directory, path)
}

fn payload(seq: u64) -> Vec<u8> {
    let mut payload = seq.to_le_bytes().to_vec();
    payload.resize(300 + seq as usize, seq as u8);
    payload
}

fn shard(path: &Path) -> PathBuf {
    path.join("epoch-0000000001/shard-00")
}

fn segments(path: &Path) -> Vec<PathBuf> {
    let names = super::segment::Names::of(&shard(path)).unwrap().effective;
    names.iter().map(|name| name.path(&shard(path))).collect()
}

/// Which seqs are still delivered, after recovery; all others below `RECORDS` must be in a damaged range, and none of the good ones.
fn survivors(path: &Path) -> (Vec<u64>, Recovery) {
    let state = StateDir::open(path).unwrap();
    let epoch = state.first_abandoned();
    let budget = Arc::new(Budget::new(1 << 30));
    let (mut writer, recovery) = Writer::reopen(&epoch, 0, "node", &options(), budget).unwrap();
    let seq = writer.append(b"after").unwrap();
    let mut good = Vec::new();
    let mut expected = 0;
    let mut reader = Reader::open(&epoch.shard_path(0), 0).unwrap();
    while let Some(entry) = reader.next().unwrap() {
        match entry {
            Entry::Frame(frame) => {
                assert_eq!(frame.seq, expected);
                expected += 1;
                if frame.seq != seq {
                    assert_eq!(frame.payload, payload(frame.seq));
                    good.push(frame.seq);
                }
            }
            Entry::Damaged(damaged) => {
                assert_eq!(damaged.first_seq, expected, "{damaged:?}");
                assert!(damaged.next_seq > expected && damaged.next_seq <= seq.max(RECORDS));
                let named =
                    |known: &DamagedRange| (known.first_seq, known.next_seq) == (damaged.first_seq, damaged.next_seq);
                assert!(recovery.damaged.iter().any(named), "{damaged:?} {recovery:?}");
                expected = damaged.next_seq;
            }
        }
    }
    assert_eq!(expected, seq + 1);
    let lost = recovery.damaged.iter().map(|range| range.next_seq - range.first_seq);
    assert_eq!(good.len() as u64 + lost.sum::<u64>(), seq, "{recovery:?}");
    assert_eq!(recovery.frames, good.len() as u64);
    (good, recovery)
}

fn damaged_copy(original: &Path, damage: impl FnOnce(&Path)) -> (Vec<u64>, Recovery) {
    let copy = original.with_file_name("copy");
    copy_tree(original, &copy);
    damage(&copy);
    let result = survivors(&copy);
    std::fs::remove_dir_all(&copy).unwrap();
    result
}

fn all_but(lost: impl Fn(u64) -> bool) -> Vec<u64> {
    (0..RECORDS).filter(|seq| !lost(*seq)).collect()
}

#[test]
fn an_undamaged_journal_is_whole() {
    let (_directory, original) = journal();
    let (good, recovery) = damaged_copy(&original, |_| {});
    assert_eq!(good, all_but(|_| false));
    assert!(recovery.damaged.is_empty() && recovery.quarantined.is_empty());
    assert_eq!(recovery.torn_bytes, 0);
}

#[test]
fn a_flipped_bit_anywhere_costs_at_most_the_record_it_is_in() {
    let (_directory, original) = journal();
    let segments = segments(&original);
    assert!(segments.len() >= 2);
    // A fixed walk over the bits of every part: headers, marks, frame headers, payloads, room behind the last frame.
    let mut places: Vec<(usize, u64, u8)> = Vec::new();
    for number in 0..segments.len() {
        for byte in (0..320).step_by(13).chain(512..520).chain(576..584) {
            places.push((number, byte, (byte % 8) as u8));
        }
        for byte in (4096..8192).step_by(53).chain(4096..4096 + 24) {
            places.push((number, byte, (byte % 8) as u8));
        }
    }
    for (number, byte, bit) in places {
        let (good, recovery) = damaged_copy(&original, |copy| {
            let path = shard(copy).join(segments[number].file_name().unwrap());
            let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
            let mut value = [0];
            file.read_exact_at(&mut value, byte).unwrap();
            file.write_all_at(&[value[0] ^ 1 << bit], byte).unwrap();
        });
        let lost = RECORDS as usize - good.len();
        assert!(lost <= usize::from(byte >= 4096), "segment {number} byte {byte} bit {bit}: {recovery:?}");
    }
}

#[test]
fn a_segment_cut_anywhere_loses_only_what_is_cut_off() {
    let (_directory, original) = journal();
    let segments = segments(&original);
    for (number, segment) in segments.iter().enumerate() {
        for length in (0..8192).step_by(97).chain([4095, 4096, 4097, 4120]) {
            let (good, recovery) = damaged_copy(&original, |copy| {
                let path = shard(copy).join(segment.file_name().unwrap());
                let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
                file.set_len(length).unwrap();
            });
            let first: u64 = (0..number).map(|before| frames_of(&segments[before])).sum();
            let kept = kept_frames(first, length);
            let last = number + 1 == segments.len();
            let next = if last { RECORDS } else { first + frames_of(segment) };
            assert_eq!(good, all_but(|seq| seq >= kept && seq < next), "{number} {length} {recovery:?}");
        }
    }
}

fn frames_of(segment: &Path) -> u64 {
    let file = std::fs::File::open(segment).unwrap();
    let (_, published, _) = super::segment::read_first_page(&file, segment).unwrap();
    published.unwrap().count
}

/// The first seq that a segment beginning at `first` no longer holds when it is `length` bytes long.
fn kept_frames(first: u64, length: u64) -> u64 {
    let mut end = 4096;
    let mut seq = first;
    loop {
        end += super::frame::frame_bytes(payload(seq).len()) as u64;
        if end > length {
            return seq;
        }
        seq += 1;
    }
}

#[test]
fn a_zeroed_or_missing_segment_is_a_named_range() {
    let (_directory, original) = journal();
    let segments = segments(&original);
    let counts: Vec<u64> = segments.iter().map(|path| frames_of(path)).collect();
    for number in 0..segments.len() - 1 {
        let first: u64 = counts[..number].iter().sum();
        let gone = first..first + counts[number];
        let name = segments[number].file_name().unwrap();
        let (good, _) = damaged_copy(&original, |copy| {
            std::fs::write(shard(copy).join(name), vec![0; 8192]).unwrap();
        });
        assert_eq!(good, all_but(|seq| gone.contains(&seq)));
        let (good, _) = damaged_copy(&original, |copy| {
            std::fs::remove_file(shard(copy).join(name)).unwrap();
        });
        assert_eq!(good, all_but(|seq| gone.contains(&seq)));
    }
}

#[test]
fn swapped_segments_are_put_where_they_belong() {
    let (_directory, original) = journal();
    let segments = segments(&original);
    let (good, recovery) = damaged_copy(&original, |copy| {
        let [a, b] = [0, 1].map(|at: usize| shard(copy).join(segments[at].file_name().unwrap()));
        let aside = copy.join("aside");
        std::fs::rename(&a, &aside).unwrap();
        std::fs::rename(&b, &a).unwrap();
        std::fs::rename(&aside, &b).unwrap();
    });
    assert_eq!(good, all_but(|_| false));
    assert_eq!(recovery.damaged.len(), 2);
    assert!(recovery.quarantined.is_empty());
}

#[test]
fn a_segment_of_another_shard_is_put_aside() {
    let (_directory, original) = journal();
    let (_other_directory, other) = journal();
    let foreign = other.with_file_name("foreign");
    {
        let state = StateDir::open(&foreign).unwrap();
        let epoch = state.claim_epoch().unwrap();
        let budget = Arc::new(Budget::new(1 << 30));
        let mut writer = Writer::create(&epoch, 5, "node", &options(), budget).unwrap();
        writer.append(b"of shard 5").unwrap();
    }
    let segments = segments(&original);
    let name = segments[1].file_name().unwrap();
    let first = frames_of(&segments[0]);
    let (good, recovery) = damaged_copy(&original, |copy| {
        let from = foreign.join("epoch-0000000001/shard-05/seg-00000000000000000000");
        std::fs::copy(from, shard(copy).join(name)).unwrap();
    });
    let gone = first..first + frames_of(&segments[1]);
    assert_eq!(good, all_but(|seq| gone.contains(&seq)));
    assert_eq!(recovery.quarantined.len(), 1);
}

#[test]
fn a_newer_format_is_refused_untouched() {
    let (_directory, original) = journal();
    let path = &segments(&original)[0];
    let mut bytes = std::fs::read(path).unwrap();
    bytes[8..12].copy_from_slice(&(FORMAT_VERSION + 1).to_le_bytes());
    let checksum = crc32c::crc32c(&bytes[..296]);
    bytes[296..300].copy_from_slice(&checksum.to_le_bytes());
    std::fs::write(path, &bytes).unwrap();
    let state = StateDir::open(&original).unwrap();
    let epoch = state.first_abandoned();
    let budget = Arc::new(Budget::new(1 << 30));
    let error = Writer::reopen(&epoch, 0, "node", &options(), budget).unwrap_err();
    assert!(matches!(error, Error::NewerFormat { .. }), "{error}");
    assert_eq!(std::fs::read(path).unwrap(), bytes);
}

#[test]
fn damaged_slots_are_put_aside_and_named() {
    let (_directory, original) = journal();
    let slots = shard(&original).join("slots-0000");
    let length = std::fs::metadata(&slots).unwrap().len();
    for cut in [0, 100, 4096, length - 1] {
        let (good, recovery) = damaged_copy(&original, |copy| {
            let path = shard(copy).join("slots-0000");
            let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
            file.set_len(cut).unwrap();
        });
        assert_eq!(good.len() as u64, RECORDS);
        assert_eq!(recovery.quarantined.len(), 1);
        assert_eq!(recovery.damaged.len(), 1);
    }
}

/// As a power cut leaves it: the machine has another boot id, records that were not synced are gone, slots are of an earlier moment.
mod power_cut {
    use super::*;

    fn cut(path: &Path) -> (Writer, Recovery) {
        let lock = path.join("epoch-0000000001/lock");
        std::fs::write(lock, "pid 1\nboot another\n").unwrap();
        let state = StateDir::open(path).unwrap();
        let epoch = state.first_abandoned();
        let budget = Arc::new(Budget::new(1 << 30));
        Writer::reopen(&epoch, 0, "node", &options(), budget).unwrap()
    }

    #[test]
    fn records_never_synced_are_a_torn_tail_and_their_seqs_are_used_again() {
        let directory = tempfile::tempdir().unwrap();
        {
            let state = StateDir::open(directory.path()).unwrap();
            let epoch = state.claim_epoch().unwrap();
            let budget = Arc::new(Budget::new(1 << 30));
            let mut writer = Writer::create(&epoch, 0, "node", &options(), budget).unwrap();
            (0..5).for_each(|seq| assert_eq!(writer.append(&payload(seq)).unwrap(), seq));
            writer.shared().sync().unwrap();
            (5..8).for_each(|seq| assert_eq!(writer.append(&payload(seq)).unwrap(), seq));
        }
        let path = &segments(directory.path())[0];
        let mut bytes = std::fs::read(path).unwrap();
        let end = 4096 + (0..6).map(|seq| super::super::frame::frame_bytes(payload(seq).len())).sum::<usize>();
        bytes[end..].fill(0);
        std::fs::write(path, bytes).unwrap();
        let (mut writer, recovery) = cut(directory.path());
        assert!(recovery.machine_restarted && recovery.damaged.is_empty());
        assert!(recovery.torn_bytes > 0);
        assert_eq!((recovery.frames, writer.append(b"again").unwrap()), (6, 6));
        let frames = super::super::model_tests::read_all(&shard(directory.path()), 0);
        assert_eq!(frames.len(), 7);
    }

    #[test]
    fn slots_older_than_the_records_do_not_bill_twice() {
        let directory = tempfile::tempdir().unwrap();
        let slots = shard(directory.path()).join("slots-0000");
        let older;
        {
            let state = StateDir::open(directory.path()).unwrap();
            let epoch = state.claim_epoch().unwrap();
            let budget = Arc::new(Budget::new(1 << 30));
            let mut writer = Writer::create(&epoch, 0, "node", &options(), budget).unwrap();
            let open = writer.slots().open(SlotKind::Session, 1, b"open").unwrap();
            let closed = writer.slots().open(SlotKind::Session, 1, b"closed").unwrap();
            for slot in [&open, &closed] {
                slot.add(Column::SentApp, 100);
            }
            older = std::fs::read(&slots).unwrap();
            open.add(Column::SentApp, 50);
            open.begin_record(0, &open.totals(), false);
            writer.append(b"total 150").unwrap();
            closed.begin_record(1, &closed.totals(), true);
            writer.append(b"total 100, closed").unwrap();
            closed.free();
            writer.shared().sync().unwrap();
        }
        std::fs::write(&slots, older).unwrap();
        let (_writer, recovery) = cut(directory.path());
        assert_eq!(recovery.open.len(), 1);
        let open = &recovery.open[0];
        assert_eq!(open.note, b"open");
        assert_eq!(open.later_record.as_ref().unwrap().payload, b"total 150");
    }
}

/// Where each record lies in its segment: (seq, first byte, end).
fn places(segments: &[PathBuf]) -> Vec<Vec<(u64, usize, usize)>> {
    let mut seq = 0;
    let of_segment = |path: &PathBuf| {
        let mut at = 4096;
        (0..frames_of(path))
            .map(|_| {
                let end = at + super::frame::frame_bytes(payload(seq).len());
                let place = (seq, at, end);
                (seq, at) = (seq + 1, end);
                place
            })
            .collect()
    };
    segments.iter().map(of_segment).collect()
}

#[test]
fn five_hundred_damaged_journals_start_and_deliver_what_is_good() {
    let (_directory, original) = journal();
    let segments = segments(&original);
    let places = places(&segments);
    let contents: Vec<Vec<u8>> = segments.iter().map(|path| std::fs::read(path).unwrap()).collect();
    let mut state = 0x2545_F491_4F6C_DD1Du64;
    let mut below = |n: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 17) as usize % n
    };
    let (mut lost_ever, mut whole) = (0, 0);
    for trial in 0..500 {
        // Which original each file has now, and what is in it.
        let mut now: Vec<(usize, Vec<u8>)> = contents.iter().cloned().enumerate().collect();
        let mut slots = std::fs::read(shard(&original).join("slots-0000")).unwrap();
        let mut done = Vec::new();
        for _ in 0..=below(3) {
            let file = below(now.len());
            let bytes = &mut now[file].1;
            let at = if bytes.is_empty() { 0 } else { below(bytes.len()) };
            let end = (at + 1 + below(2000)).min(bytes.len());
            let kind = below(6);
            match kind {
                0 if !bytes.is_empty() => bytes[at] ^= 1 << below(8),
                1 => bytes.truncate(at),
                2 => bytes[at..end].fill(0),
                3 => bytes[at..end].iter_mut().for_each(|byte| *byte = below(256) as u8),
                4 => {
                    let other = below(now.len());
                    now.swap(file, other);
                }
                _ => {
                    let at = below(slots.len());
                    slots[at] ^= 1 << below(8);
                }
            }
            done.push((kind, file, at, end));
        }
        let mut intact = Vec::new();
        for (place, (original, bytes)) in now.iter().enumerate() {
            let as_before = |from: usize, to: usize| bytes.get(from..to) == contents[*original].get(from..to);
            let (_, first, first_end) = places[*original][0];
            let says_whose = bytes.len() >= 4096 && as_before(0, 304) || as_before(first, first_end);
            if place != *original && !says_whose {
                // Under another's name, and neither header nor first frame tells.
                continue;
            }
            for (seq, at, end) in &places[*original] {
                if bytes.get(*at..*end) == contents[*original].get(*at..*end) {
                    intact.push(*seq);
                }
            }
        }
        intact.sort_unstable();
        let (good, recovery) = damaged_copy(&original, |copy| {
            for (path, (_, bytes)) in segments.iter().zip(&now) {
                std::fs::write(shard(copy).join(path.file_name().unwrap()), bytes).unwrap();
            }
            std::fs::write(shard(copy).join("slots-0000"), &slots).unwrap();
        });
        let missing: Vec<_> = intact.iter().filter(|seq| !good.contains(seq)).collect();
        assert!(missing.is_empty(), "trial {trial} {done:?}: {missing:?} are good and not delivered; {recovery:?}");
        lost_ever += RECORDS as usize - good.len();
        whole += usize::from(good.len() as u64 == RECORDS);
    }
    assert!(lost_ever > 500 && whole > 50, "{lost_ever} {whole}: the damage was another than meant");
}
