//! Where earlier epochs ended: without it a reader cannot see that the tail of one, or all of it, never came.
//!
//! `<state_dir>/ends`, a line for each shard, `epoch shard started_us ended_us next_seq`; of a shard that still runs, or died and was
//! not taken over yet, the last two are 0. Written anew as a whole: beside it, synced, renamed.
//!
//! **How much**: the latest [`EPOCHS_MAX`] epochs that ended, and at most [`SHARDS_MAX`] shards; what is older is forgotten. It is kept
//! beyond the acknowledgement of the sink, because what the sink had may be gone from there before a ledger has read it.
//! **What survives**: an end is durable before its epoch may be removed, so each is known to the next epochs; killed before that, the
//! epoch is still there and is taken over again. A line that cannot be read is passed over, and a lost file means that nothing is said
//! of what was in it.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::allocation::sync_directory;
use super::{Error, io_error};
use crate::event::ShardEnd;

/// Epochs that are remembered: as many in a row may be lost with all that they say before an end goes unseen.
const EPOCHS_MAX: usize = 8;
/// Shards of all these epochs together.
const SHARDS_MAX: usize = 1024;

/// What is known of earlier epochs.
#[derive(Debug)]
pub(super) struct Ends {
    path: PathBuf,
    known: BTreeMap<(i64, i32), ShardEnd>,
}

impl Ends {
    /// Of this state directory.
    pub(super) fn open(state_dir: &Path) -> Result<Self, Error> {
        let path = state_dir.join("ends");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(source) => return Err(io_error("read", &path)(source)),
        };
        let known = text.lines().filter_map(read_line).map(|end| ((end.epoch, end.shard), end)).collect();
        Ok(Self { path, known })
    }

    /// Those that ended, in order.
    pub(super) fn ended(&self) -> Vec<ShardEnd> {
        self.known.values().filter(|end| end.next_seq > 0).copied().collect()
    }

    /// These shards of an epoch begin.
    pub(super) fn begin(&mut self, epoch: u32, shards: u16, started_at_us: i64) -> Result<(), Error> {
        for shard in (0..shards).map(i32::from) {
            let end = ShardEnd { epoch: i64::from(epoch), shard, started_at: started_at_us, ..ShardEnd::default() };
            self.known.insert((end.epoch, shard), end);
        }
        self.forget();
        self.write()
    }

    /// A shard has ended, or, where closes waited for room, has ended again. It is known here even where it cannot be written.
    pub(super) fn end(
        &mut self,
        epoch: u32,
        shard: u16,
        next_seq: u64,
        ended_at_us: i64,
    ) -> (ShardEnd, Result<(), Error>) {
        let (epoch, shard) = (i64::from(epoch), i32::from(shard));
        let began = ShardEnd { epoch, shard, started_at: ended_at_us, ..ShardEnd::default() };
        let end = self.known.entry((epoch, shard)).or_insert(began);
        let before = *end;
        end.next_seq = end.next_seq.max(i64::try_from(next_seq).unwrap_or(i64::MAX));
        end.ended_at = end.ended_at.max(ended_at_us).max(end.started_at);
        let end = *end;
        if end == before {
            return (end, Ok(()));
        }
        self.forget();
        (end, self.write())
    }

    /// The oldest go; never the newest epoch, which is the one that runs.
    fn forget(&mut self) {
        let mut epochs: Vec<i64> = self.known.keys().map(|(epoch, _)| *epoch).collect();
        epochs.dedup();
        let mut oldest = epochs.iter();
        let mut left = epochs.len();
        while left > 1 && (left > EPOCHS_MAX + 1 || self.known.len() > SHARDS_MAX) {
            let Some(epoch) = oldest.next() else { return };
            self.known.retain(|(of, _), _| of != epoch);
            left -= 1;
        }
    }

    fn write(&self) -> Result<(), Error> {
        let text: String = self.known.values().map(line).collect();
        let new = self.path.with_extension("new");
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)
            .and_then(|mut file| {
                file.write_all(text.as_bytes())?;
                file.sync_all()
            })
            .and_then(|()| std::fs::rename(&new, &self.path))
            .map_err(io_error("write", &self.path))?;
        self.path.parent().map_or(Ok(()), sync_directory)
    }
}

fn line(end: &ShardEnd) -> String {
    let ShardEnd { epoch, shard, next_seq, started_at, ended_at } = end;
    format!("{epoch} {shard} {started_at} {ended_at} {next_seq}\n")
}

fn read_line(line: &str) -> Option<ShardEnd> {
    let numbers: Vec<i64> = line.split(' ').map(str::parse).collect::<Result<_, _>>().ok()?;
    let [epoch, shard, started_at, ended_at, next_seq] = numbers[..] else { return None };
    Some(ShardEnd { epoch, shard: i32::try_from(shard).ok()?, next_seq, started_at, ended_at })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_ends_are_known_to_the_next_start() {
        let directory = tempfile::tempdir().unwrap();
        for epoch in 1..=20 {
            let mut ends = Ends::open(directory.path()).unwrap();
            if epoch > 1 {
                let (end, written) = ends.end(epoch - 1, 0, 7 * u64::from(epoch), 100 * i64::from(epoch));
                written.unwrap();
                assert_eq!(end.started_at, 100 * i64::from(epoch - 1));
            }
            ends.begin(epoch, 2, 100 * i64::from(epoch)).unwrap();
        }
        // Of shard 1 nothing is known but that it began.
        let ended = Ends::open(directory.path()).unwrap().ended();
        let epochs: Vec<i64> = ended.iter().map(|end| end.epoch).collect();
        assert_eq!(epochs, (12..20).collect::<Vec<i64>>());
        assert_eq!(ended[7], ShardEnd { epoch: 19, shard: 0, next_seq: 140, started_at: 1900, ended_at: 2000 });
    }

    #[test]
    fn an_end_only_grows() {
        let directory = tempfile::tempdir().unwrap();
        let mut ends = Ends::open(directory.path()).unwrap();
        ends.begin(1, 1, 5).unwrap();
        for (next_seq, grown) in [(10, 10), (10, 10), (12, 12), (3, 12)] {
            assert_eq!(ends.end(1, 0, next_seq, 9).0.next_seq, grown);
        }
        assert_eq!(Ends::open(directory.path()).unwrap().ended()[0].next_seq, 12);
    }

    #[test]
    fn many_shards_are_bounded_and_the_running_epoch_stays() {
        let directory = tempfile::tempdir().unwrap();
        let mut ends = Ends::open(directory.path()).unwrap();
        for epoch in 1..=3 {
            ends.begin(epoch, 600, 1).unwrap();
        }
        assert_eq!(ends.known.len(), 600);
        assert!(ends.known.keys().all(|(epoch, _)| *epoch == 3));
    }

    #[test]
    fn a_line_that_cannot_be_read_is_passed_over() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("ends"), "1 0 5 9 10\nx\n2 0 5\n3 0 5 9 11 12\n2 1 6 9 4\n").unwrap();
        let ended = Ends::open(directory.path()).unwrap().ended();
        assert_eq!(ended.iter().map(|end| (end.epoch, end.next_seq)).collect::<Vec<_>>(), [(1, 10), (2, 4)]);
    }
}
