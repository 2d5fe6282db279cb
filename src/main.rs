//! The life of the process: read the command line, run the command, end with its code.

use std::process::ExitCode;

use weir::cli::{Cli, Command, EXIT_USAGE};
use weir::config::ConfigErrors;

/// Hands the block freed last out first: buffers of bulk transfers stay in the processor's cache.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Buffers up to 256 KiB are kept at hand by each thread, of small ones as many as the requests that it has under way at once (with the
/// default of 20 a twelfth of the instructions of a connection was the allocator's); what a crowd leaves behind goes back to the system
/// within seconds, by a thread of the allocator's.
// SAFETY: the name is the allocator's for its options; it reads a C string there, before `main`.
#[unsafe(export_name = "_rjem_malloc_conf")]
pub static ALLOCATOR_OPTIONS: &[u8; 105] =
    b"lg_tcache_max:18,tcache_nslots_small_min:128,background_thread:true,dirty_decay_ms:3000,muzzy_decay_ms:0\0";

fn main() -> ExitCode {
    let cli = match Cli::read() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let result = match cli.command {
        Command::Run(args) => match args.configuration() {
            Ok(config) => weir::app::run(config, args.config, args.upgrade),
            Err(errors) => return wrong(&errors),
        },
        Command::Check(args) => match weir::app::check(&args.config, args.sink) {
            Ok(()) => Ok(()),
            Err(text) => return wrong(&text),
        },
        Command::Events(args) => weir::events::run(&args),
        Command::Demo(args) => weir::demo::run(&args),
        Command::Journal(args) => weir::journal_command::run(&args),
        Command::Ip(args) => weir::ip::run(&args),
        Command::Key(args) => weir::key_command::run(&args),
        Command::Geoip(args) => weir::geoip_command::run(&args),
        Command::Ledger(args) => weir::ledger_command::run(&args),
        Command::Usage(args) => weir::usage_command::run(&args),
        Command::Period(args) => weir::ledger_command::period(&args),
        Command::Node(args) => weir::node_command::run(&args),
        Command::Audit(args) => weir::audit_command::run(&args),
        Command::Correct(args) => weir::correct_command::run(&args),
        Command::Archive(args) => weir::archive_command::run(&args),
        Command::Erase(args) => weir::archive_command::erase(&args),
        Command::Query(args) => weir::query_command::run("query", &args.arguments),
        Command::Report(args) => weir::query_command::run("report", &args.arguments),
        Command::Token(args) => weir::token_command::run(&args),
        Command::Health(args) => weir::admin::health(args.admin),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<ConfigErrors>() => wrong(&error),
        Err(error) => {
            eprintln!("weir: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn wrong(errors: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("{errors}");
    ExitCode::from(EXIT_USAGE)
}
