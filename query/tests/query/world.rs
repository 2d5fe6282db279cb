//! An archive that the real writer has written, and the real program asked about it.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::Value;
use weir::archive::Archiver;
use weir::clock::HOUR_US;
use weir::config::{Archive, ArchiveAddresses, ArchivePlace};
use weir::event::UsageRecord;
use weir::rollup::{Feed, FilesFeed, Options};

use crate::population::{self, Population};

/// What all tests look at.
pub const POPULATION: Population = Population { sessions: 3000, accounts: 40, span_us: 30 * HOUR_US };

/// An archive, with the records that are in it.
pub struct World {
    pub directory: tempfile::TempDir,
    pub records: Vec<UsageRecord>,
}

/// How the program ended.
pub struct Ended {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

/// The archive that no test changes.
pub fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| World::new(POPULATION))
}

impl World {
    pub fn new(population: Population) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let sink = directory.path().join("sink");
        std::fs::create_dir(&sink).unwrap();
        let world = Self { directory, records: population.records().collect() };
        let file = std::fs::File::create(sink.join("usage-3-0-000000000000.binpb")).unwrap();
        population::write(world.records.iter().cloned(), 0, file).unwrap();
        let config = Archive {
            place: ArchivePlace::Directory(world.path("archive")),
            addresses: ArchiveAddresses::Sealed,
            keys: world.path("keys"),
            buckets: 4,
            commit_interval: Duration::from_secs(3600),
            commit_records_max: 4000,
            group: String::new(),
            keep_requests_days: 0,
            keep_sessions_days: 0,
            keep_nodes_days: 0,
        };
        let feed = Feed::Files(FilesFeed::new(&sink));
        let options = || Options { keys: Vec::new(), hosts_max: 0 };
        let mut archiver = Archiver::new(config, feed, options).unwrap();
        while !archiver.step(true).unwrap().is_idle {}
        world
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn command(&self, what: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weir-query"));
        command.arg(what).arg("--archive").arg(self.path("archive")).arg("--access-log").arg(self.path("access.jsonl"));
        command
    }

    pub fn run(&self, what: &str, args: &[&str]) -> Ended {
        let mut command = self.command(what);
        if !args.contains(&"--time-s-max") {
            // How long it takes is not what most tests are about.
            command.arg("--time-s-max=600");
        }
        ended(command.args(args).stdin(Stdio::null()).output().unwrap())
    }

    /// With something on standard input.
    pub fn told(&self, what: &str, args: &[&str], input: &str) -> Ended {
        let mut command = self.command(what);
        let pipes = command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = pipes.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        ended(child.wait_with_output().unwrap())
    }

    /// An answer as JSON, which must be there.
    pub fn ask(&self, sql: &str, args: &[&str]) -> Value {
        let ended = self.run("query", &[&["--format", "json"], args, &[sql]].concat());
        assert_eq!(ended.code, Some(0), "{sql}\n{}", ended.err);
        serde_json::from_str(&ended.out).unwrap()
    }

    /// Its rows.
    pub fn rows(&self, sql: &str, args: &[&str]) -> Vec<Value> {
        self.ask(sql, args)["rows"].as_array().unwrap().clone()
    }

    /// A report as JSON, which must be there.
    pub fn report(&self, name: &str, args: &[&str]) -> Value {
        let ended = self.run("report", &[&[name, "--format", "json"], args].concat());
        assert_eq!(ended.code, Some(0), "{name}\n{}", ended.err);
        serde_json::from_str(&ended.out).unwrap()
    }
}

fn ended(output: Output) -> Ended {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    Ended { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
}
