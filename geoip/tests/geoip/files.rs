//! Files and plans of tests.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use weir_geoip::{Plan, Record, Table, compile};

/// A time of 2026, when nothing in the tests begins or ends.
pub const AT: i64 = 1_790_000_000;

/// A directory for a plan's files.
pub struct Files(tempfile::TempDir);

impl Files {
    pub fn new() -> Files {
        Files(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// A plan in TOML, its paths from here.
    pub fn plan(&self, text: &str) -> Plan {
        let mut plan: Plan = toml::from_str(text).unwrap();
        plan.resolve_paths(self.0.path());
        plan
    }

    pub fn compile(&self, text: &str) -> Result<Table, String> {
        compile(&self.plan(text), time(AT)).map_err(|error| chain(&error))
    }

    pub fn compile_at(&self, text: &str, at: i64) -> Table {
        compile(&self.plan(text), time(at)).unwrap()
    }
}

/// An error with its reasons.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(reason) = source {
        text = format!("{text}: {reason}");
        source = reason.source();
    }
    text
}

pub fn time(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds as u64)
}

/// MaxMind's own test files.
pub fn maxmind(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/maxmind").join(name)
}

pub fn record<'a>(table: &'a Table, address: &str) -> Record<'a> {
    table.of(address.parse().unwrap())
}

/// `country/region/city asn as_org account [labels]`, without what is not known.
pub fn said(table: &Table, address: &str) -> String {
    let record = record(table, address);
    let labels: Vec<&str> = record.labels().collect();
    let asn = if record.asn() == 0 { String::new() } else { format!("AS{}", record.asn()) };
    let place = [record.country(), record.region(), record.city()].join("/");
    let parts = [place.trim_end_matches('/'), &asn, record.as_org(), record.account(), &labels.join(",")];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Random numbers that are the same in every run.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}
