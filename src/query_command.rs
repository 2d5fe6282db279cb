//! `weir query` and `weir report`: run by the program `weir-query`, the way git runs its subcommands.
//!
//! It is a program of its own because what it is made of (DataFusion) takes as long to build as everything else together, and nothing
//! that carries traffic should hold it. It is looked for beside this one, then in `PATH`, and takes this process's place: its
//! exit code, signals and output are the command's.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, bail};

/// Its name.
pub const PROGRAM: &str = "weir-query";

/// Becomes `weir-query WHAT ARGUMENTS…`; returns only if that is not possible.
pub fn run(what: &str, arguments: &[OsString]) -> anyhow::Result<()> {
    let error = Command::new(program()).arg(what).args(arguments).exec();
    if error.kind() == ErrorKind::NotFound {
        bail!(
            "`weir {what}` is run by the program {PROGRAM}, which is neither beside this one nor in PATH; \
             build it with `cargo build --release -p {PROGRAM}`"
        );
    }
    Err(error).with_context(|| format!("cannot run {PROGRAM}"))
}

/// Beside this program, or whatever `PATH` has.
pub fn program() -> PathBuf {
    let beside = std::env::current_exe().ok().map(|own| own.with_file_name(PROGRAM));
    beside.filter(|path| path.is_file()).unwrap_or_else(|| PROGRAM.into())
}
