//! A clock and a disk that do as a test says: `shim.c`, compiled with `cc` and preloaded into the process.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::process::{House, Process, WEIR};

/// A word of what `shim.c` is told, or tells.
#[derive(Clone, Copy, Debug)]
pub enum Word {
    ClockMs = 0,
    SyncMs = 1,
    Stuck = 2,
    FailAt = 3,
    Fails = 4,
    Begun = 5,
    Ended = 6,
    Failed = 7,
    Held = 8,
}

/// What a process is told.
pub struct Shim {
    told: tempfile::NamedTempFile,
}

fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("shim-{}.so", std::process::id()));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/weir/rig/shim.c");
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
            .arg(&library)
            .arg(source)
            .output();
        let compiled = compiled.expect("these tests need a C compiler, as the build does");
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        library
    })
}

impl Shim {
    /// About files with this in their path.
    pub fn about(file: &str) -> Self {
        let told = tempfile::NamedTempFile::new().unwrap();
        told.as_file().set_len(4096).unwrap();
        told.as_file().write_all_at(file.as_bytes(), 128).unwrap();
        Self { told }
    }

    fn file(&self) -> &File {
        self.told.as_file()
    }

    pub fn set(&self, word: Word, value: i64) {
        self.file().write_all_at(&value.to_le_bytes(), word as u64 * 8).unwrap();
    }

    pub fn get(&self, word: Word) -> i64 {
        let mut bytes = [0; 8];
        self.file().read_exact_at(&mut bytes, word as u64 * 8).unwrap();
        i64::from_le_bytes(bytes)
    }

    /// `weir run` under it; it serves when this returns.
    pub fn run(&self, house: &House) -> Process {
        let mut command = Command::new(WEIR);
        command.arg("run").arg("--config").arg(house.file());
        command.env("LD_PRELOAD", library()).env("WEIR_SHIM", self.told.path());
        let process = Process::spawn(command);
        process.await_serving();
        process
    }
}
