//! The life of the process: read the command line, run the command, end with its code.

use std::process::ExitCode;

use weir::cli::{Cli, Command, EXIT_USAGE};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
        Command::Check(args) => match weir::app::check(&args.config) {
            Ok(()) => Ok(()),
            Err(text) => return wrong(&text),
        },
        Command::Events(args) => weir::events::run(&args),
        Command::Demo(args) => weir::demo::run(&args),
        Command::Journal(args) => weir::journal_command::run(&args),
        Command::Health(args) => weir::admin::health(args.admin),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
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
