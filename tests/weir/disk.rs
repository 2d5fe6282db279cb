//! The disk fails, is slow, stands still, or is full, under a process that serves: traffic goes on, and no byte is missing from
//! the records.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::rig::client::Client;
use crate::rig::origin::Origin;
use crate::rig::process::{Config, House, Process};
use crate::rig::records::Records;
use crate::rig::shim::{Shim, Word};
use crate::rig::until;

/// What clients know: sessions, requests, octets received.
#[derive(Default, Debug)]
struct Known {
    sessions: usize,
    requests: usize,
    received: u64,
}

impl Known {
    /// A session with this many requests, all of which must be answered.
    fn session(&mut self, to: SocketAddr, requests: usize) {
        let mut client = Client::connect(to);
        (0..requests).for_each(|n| self.request(&mut client, n));
        client.close();
        self.sessions += 1;
    }

    fn request(&mut self, client: &mut Client, n: usize) {
        assert_eq!(client.get(&format!("/bytes/{}", n * 7)).status(), 200);
        self.requests += 1;
        self.received += client.exchanges.last().unwrap().sent_app;
    }

    /// Every request has its record, and the octets are the clients'.
    fn assert_recorded(&self, records: &Records) {
        records.assert_lawful();
        let requests = records.closes("request");
        assert_eq!((records.sessions().len(), requests.len()), (self.sessions, self.requests));
        let sent: i64 = requests.iter().map(|record| record.total("sent_app")).sum();
        assert_eq!(sent as u64, self.received);
    }
}

fn config(origin: &Origin) -> Config {
    let mut config = Config::http(origin.address);
    config.journal = "segment_bytes = 65536\nslots_max = 1024\nsync_interval_ms = 5\non_full = \"count\"\n".to_owned();
    config
}

/// Killed, started again, and stopped.
fn end(house: &House, process: Process) -> Records {
    process.kill();
    house.run(&[]).stop();
    house.records()
}

#[test]
fn an_error_at_any_fdatasync_loses_nothing() {
    let origin = Origin::http();
    for (file, errors) in [("/seg-", 8), ("/slots-", 1), ("/shard-", 4)] {
        let house = House::new(&config(&origin));
        let shim = Shim::about(file);
        let process = shim.run(&house);
        let mut known = Known::default();
        for error in 1..=errors {
            shim.set(Word::Fails, 1 + error % 3);
            let failed = shim.get(Word::Failed);
            shim.set(Word::FailAt, shim.get(Word::Begun) + error);
            until("an error", || {
                known.session(process.address("web"), 5);
                (shim.get(Word::Failed) > failed).then_some(())
            });
            known.session(process.address("web"), 5);
        }
        shim.set(Word::Fails, 0);
        known.assert_recorded(&end(&house, process));
    }
}

#[test]
fn a_disk_that_stands_still_keeps_no_request_waiting() {
    let origin = Origin::http();
    let house = House::new(&config(&origin));
    let shim = Shim::about("/shard-");
    let process = shim.run(&house);
    let mut known = Known::default();
    let mut open = Client::connect(process.address("web"));
    known.request(&mut open, 1);
    shim.set(Word::Stuck, 1);
    until("a sync that does not return", || (shim.get(Word::Held) == 1).then_some(()));
    let ended = shim.get(Word::Ended);
    // Beyond the segment that is there, and the next.
    for _ in 0..100 {
        known.session(process.address("web"), 6);
        known.request(&mut open, 3);
    }
    assert_eq!(shim.get(Word::Ended), ended, "it was to stand still");
    shim.set(Word::SyncMs, 200);
    shim.set(Word::Stuck, 0);
    until("syncs of 200 ms", || {
        known.session(process.address("web"), 6);
        (shim.get(Word::Ended) >= ended + 8).then_some(())
    });
    open.close();
    known.sessions += 1;
    known.assert_recorded(&end(&house, process));
}

/// A small file system; unmounted when dropped, and then what it lies on.
struct Mount {
    path: PathBuf,
    _below: Option<Box<Mount>>,
}

impl Mount {
    /// In memory. Only root may.
    fn tmpfs(path: &Path) -> Option<Self> {
        Self::at(path, &["-t", "tmpfs", "-o", "size=64m", "weir-test"])
    }

    fn ext4(path: &Path) -> Option<Self> {
        Self::image(path, "ext4", 64 << 20, &["-q", "-F", "-m", "0"])
    }

    /// It takes no less than 300 MiB.
    fn xfs(path: &Path) -> Option<Self> {
        Self::image(path, "xfs", 300 << 20, &["-q", "-f"])
    }

    /// What a container writes to.
    fn overlay(path: &Path) -> Option<Self> {
        let below = Self::tmpfs(&path.with_extension("below"))?;
        let part = |name: &str| {
            let part = below.path.join(name);
            std::fs::create_dir_all(&part).unwrap();
            part.display().to_string()
        };
        let options = format!("lowerdir={},upperdir={},workdir={}", part("lower"), part("upper"), part("work"));
        let mut mount = Self::at(path, &["-t", "overlay", "-o", &options, "weir-test"])?;
        mount._below = Some(Box::new(below));
        Some(mount)
    }

    /// In a file beside it, by a loop device. Where there is none, or no mkfs, there is no such mount.
    fn image(path: &Path, kind: &str, bytes: u64, make: &[&str]) -> Option<Self> {
        let image = path.with_extension(kind);
        std::fs::File::create(&image).unwrap().set_len(bytes).unwrap();
        let made = Command::new(format!("mkfs.{kind}")).args(make).arg(&image).output();
        let is_made = made.is_ok_and(|output| output.status.success());
        is_made.then(|| Self::at(path, &["-t", kind, "-o", "loop", image.to_str().unwrap()])).flatten()
    }

    fn at(path: &Path, what: &[&str]) -> Option<Self> {
        std::fs::create_dir_all(path).unwrap();
        let mounted = Command::new("mount").args(what).arg(path).output();
        mounted.is_ok_and(|output| output.status.success()).then(|| Self { path: path.to_owned(), _below: None })
    }

    /// Fills it to the last block.
    fn fill(&self) -> PathBuf {
        let ballast = self.path.join("ballast");
        let mut file = std::fs::File::create(&ballast).unwrap();
        while file.write_all(&[1; 4096]).is_ok() {}
        ballast
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(&self.path).status();
        assert!(unmounted.is_ok_and(|status| status.success()), "{} is left mounted", self.path.display());
    }
}

#[test]
fn a_full_tmpfs_takes_nothing_from_the_sums() {
    fill_and_free(Mount::tmpfs);
}

#[test]
fn a_full_ext4_takes_nothing_from_the_sums() {
    fill_and_free(Mount::ext4);
}

#[test]
fn a_full_xfs_takes_nothing_from_the_sums() {
    fill_and_free(Mount::xfs);
}

#[test]
fn a_full_overlay_takes_nothing_from_the_sums() {
    fill_and_free(Mount::overlay);
}

fn fill_and_free(mount: impl Fn(&Path) -> Option<Mount>) {
    let origin = Origin::http();
    let house = House::new(&config(&origin));
    let Some(mount) = mount(&house.state()) else {
        eprintln!("skipped: a file system of its own needs root and, in a file, its mkfs and a loop device");
        return;
    };
    let process = house.run(&[]);
    let mut known = Known::default();
    for _ in 0..3 {
        known.session(process.address("web"), 20);
        let ballast = mount.fill();
        until("a record that has no room", || {
            known.session(process.address("web"), 20);
            (process.metric("weir_journal_records_unwritten_total") > 0.0).then_some(())
        });
        (0..5).for_each(|_| known.session(process.address("web"), 20));
        std::fs::remove_file(ballast).unwrap();
        until("room", || {
            known.session(process.address("web"), 1);
            (process.admin("/readyz").0 == 200).then_some(())
        });
    }
    let records = end(&house, process);
    records.assert_gapless();
    // Whatever had no record of its own is in a gap record.
    let stated = records.0.iter().filter(|record| matches!(record.text("kind"), "session" | "gap"));
    let sent: i64 = stated.map(|record| record.number("sent_app_bytes")).sum();
    assert_eq!(sent as u64, known.received);
    let gaps: i64 = records.closes("gap").iter().map(|record| record.number("folded")).sum();
    assert!(gaps > 0, "everything had room");
    drop(mount);
}
