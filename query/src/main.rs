//! The life of the process: read the command line, take a limit of memory, write down what is asked, answer it, write down how it ended.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use weir_query::cli::{Cli, EXIT_USAGE};
use weir_query::command::{CutOff, Job, common, complaint, is_misuse};
use weir_query::memory;

/// Rows are many small buffers that live as long as their batch.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors.
            let is_printed = error.print().is_ok();
            return if is_printed && !error.use_stderr() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_USAGE) };
        }
    };
    let is_request = common(&cli.command).request;
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if is_request {
                eprintln!("{}", complaint(&error));
            } else {
                eprintln!("weir: {error:#}");
            }
            if is_misuse(&error) { ExitCode::from(EXIT_USAGE) } else { ExitCode::FAILURE }
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let job = Arc::new(Job::prepare(cli.command)?);
    memory::limit(job.setting.limits.memory_bytes_max)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let answer = runtime.spawn(job.clone().answer());
    // The clock runs on this thread alone: the others may be in the middle of a function that takes long.
    let clock = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answered = clock.block_on(within(&job, answer));
    // Nor is anybody waited for.
    runtime.shutdown_background();
    let noted = job.end(&answered);
    answered.and(noted)
}

/// As long as it may take, and until somebody stops it.
async fn within(job: &Job, answer: JoinHandle<anyhow::Result<()>>) -> anyhow::Result<()> {
    let (mut interrupt, mut end) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let time_max = job.setting.time_max;
    tokio::select! {
        answered = answer => answered?,
        () = tokio::time::sleep(time_max) => Err(CutOff::Time(time_max.as_secs()).into()),
        _ = interrupt.recv() => Err(CutOff::Stopped.into()),
        _ = end.recv() => Err(CutOff::Stopped.into()),
    }
}
