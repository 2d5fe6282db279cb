//! How fast the archive answers: generated traffic of realistic skew, written by the real writer, asked four questions.
//!
//! ```sh
//! cargo bench -p weir-query --bench questions -- --records 50000000 --archive /var/tmp/archive   # made once, then asked
//! ```
//!
//! With fewer records take fewer `--days` (30): how many rows an hour has decides how small they become.
//!
//! The archive stays, so that other engines can be asked about the same files (`beside.py`, in the same run). It prints a JSON object a
//! line: how fast the archive was made and how large it became, then each question with the times of each of its runs. The first run
//! finds files cold only if the system's cache is.

#![allow(clippy::unwrap_used)]

#[path = "../tests/query/population.rs"]
mod population;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use population::Population;
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;
use weir::archive::{Archiver, Table};
use weir::clock::DAY_US;
use weir::config::{Archive as Settings, ArchiveAddresses, ArchivePlace};
use weir::ids::hex;
use weir::rollup::{Feed, FilesFeed, Options};
use weir_query::archive::Archive;
use weir_query::engine::{Engine, Limits};
use weir_query::question::Parameters;
use weir_query::scope::Scope;

/// The program's own.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Six records make a session: its open, four requests, its close.
const RECORDS_OF_SESSION: u64 = 6;
const ACCOUNTS: u64 = 10_000;
/// Records that are generated at a time.
const PORTION: usize = 2_000_000;
const RUNS: usize = 5;
const LIMITS: Limits = Limits { memory_bytes_max: 2 << 30, spill_bytes_max: 0, rows_max: 10_000_000 };

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let given = |name: &str| arguments.iter().position(|found| found == name).and_then(|at| arguments.get(at + 1));
    let records: u64 = given("--records").map_or(Ok(600_000), |text| text.parse())?;
    let directory = given("--archive").map_or_else(|| std::env::temp_dir().join("weir-questions"), PathBuf::from);
    // A month of it, so that hours are many.
    let days: i64 = given("--days").map_or(Ok(30), |text| text.parse())?;
    let population = Population { sessions: records / RECORDS_OF_SESSION, accounts: ACCOUNTS, span_us: days * DAY_US };
    if !directory.join("manifest").exists() {
        make(population, &directory)?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let one = population.session_in_the_middle();
    let id = hex(one.iter().find(|record| !record.request_id.is_empty()).context("no request")?.request_id.as_ref());
    for (name, sql) in [
        ("bytes by account and day", "SELECT account, CAST(at AS DATE) AS day, sum(sent_wire_bytes) AS sent FROM requests GROUP BY account, CAST(at AS DATE)".to_owned()),
        ("sessions of an account from some countries", "SELECT * FROM sessions WHERE account = 'account-3' AND country IN ('FR', 'IN', 'BR')".to_owned()),
        ("distinct addresses by account", "SELECT account, count(DISTINCT client_ip) AS addresses FROM sessions GROUP BY account".to_owned()),
        ("one request by id", format!("SELECT * FROM requests WHERE request_id = x'{id}'")),
    ] {
        let mut runs_ms = Vec::new();
        let (mut rows, mut files) = (0, 0);
        for _ in 0..RUNS {
            let begun = Instant::now();
            (rows, files) = runtime.block_on(ask(&directory, &sql))?;
            runs_ms.push(begun.elapsed().as_secs_f64() * 1000.0);
        }
        println!("{}", json!({ "question": name, "sql": sql, "rows": rows, "files": files, "runs_ms": runs_ms }));
    }
    Ok(())
}

/// From the manifest to the last row, as a new process would.
async fn ask(directory: &Path, sql: &str) -> anyhow::Result<(u64, u64)> {
    let archive = Archive::open(&ArchivePlace::Directory(directory.to_owned()))?;
    let engine = Engine::new(&archive, &Scope::default(), LIMITS, None).await?;
    let mut answer = engine.ask(sql, &Parameters::new()).await?;
    while answer.next().await?.is_some() {}
    Ok((answer.rows(), answer.looked.files))
}

/// A portion is generated, archived and removed before the next, so that the disk holds hardly more than the archive.
fn make(population: Population, directory: &Path) -> anyhow::Result<()> {
    let sink = directory.with_extension("sink");
    std::fs::create_dir_all(&sink)?;
    let settings = Settings {
        place: ArchivePlace::Directory(directory.to_owned()),
        addresses: ArchiveAddresses::Plain,
        keys: directory.with_extension("keys"),
        buckets: 4,
        commit_interval: Duration::from_secs(3600),
        commit_records_max: 500_000,
        group: String::new(),
        keep_requests_days: 0,
        keep_sessions_days: 0,
        keep_nodes_days: 0,
    };
    let options = || Options { keys: Vec::new(), hosts_max: 0 };
    let mut archiver = Archiver::new(settings.clone(), Feed::Files(FilesFeed::new(&sink)), options)?;
    let mut records = population.records().peekable();
    let (mut next_seq, mut archiving, mut joining) = (0, Cost::default(), Cost::default());
    while records.peek().is_some() {
        let path = sink.join(format!("usage-3-0-{next_seq:012}.binpb"));
        let portion = records.by_ref().take(PORTION);
        next_seq = population::write(portion, next_seq, std::io::BufWriter::new(std::fs::File::create(&path)?))?;
        archiving.of(|| -> anyhow::Result<()> {
            while !archiver.step(true)?.is_idle {}
            Ok(())
        })?;
        std::fs::remove_file(path)?;
        eprintln!("{next_seq} records");
    }
    std::fs::remove_dir_all(&sink)?;
    // Small files of a commit become large ones, as they do in an archive that is kept up; a day later they are swept.
    for days in [60, 61] {
        joining.of(|| weir::archive::keep(archiver.place(), &settings, population::START_US + days * DAY_US))?;
    }
    for (what, cost) in [("archived", archiving), ("joined", joining)] {
        let rate = |of: Duration| (next_seq as f64 / of.as_secs_f64()) as u64;
        println!(
            "{}",
            json!({ "step": what, "records": next_seq, "records_per_s": rate(cost.wall), "records_per_cpu_s": rate(cost.cpu) })
        );
    }
    let archive = Archive::open(&settings.place)?;
    for table in Table::ALL {
        let files: Vec<_> = archive.manifest.files.values().filter(|file| file.table == table).collect();
        let (rows, bytes): (i64, i64) =
            files.iter().fold((0, 0), |sum, file| (sum.0 + file.rows, sum.1 + file.file_bytes));
        if rows > 0 {
            let bytes_per_row = bytes as f64 / rows as f64;
            println!(
                "{}",
                json!({ "table": table.name(), "files": files.len(), "rows": rows, "bytes": bytes, "bytes_per_row": bytes_per_row })
            );
        }
    }
    Ok(())
}

/// Time that passed, and that of all this process's threads on a CPU.
#[derive(Default)]
struct Cost {
    wall: Duration,
    cpu: Duration,
}

impl Cost {
    fn of<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let (begun, cpu) = (Instant::now(), cpu_time());
        let done = work();
        self.wall += begun.elapsed();
        self.cpu += cpu_time() - cpu;
        done
    }
}

fn cpu_time() -> Duration {
    let spent = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(spent.tv_sec as u64, spent.tv_nsec as u32)
}
