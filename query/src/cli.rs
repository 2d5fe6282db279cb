//! The command line. `weir query …` and `weir report …` run `weir-query query …` and `weir-query report …` with the same arguments.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::sheet::Format;

/// Exit code of wrong usage and of a wrong configuration. 0 is good, 1 is failed.
pub const EXIT_USAGE: u8 = 64;

/// What the process was asked to do.
#[derive(Debug, Parser)]
#[command(name = "weir", version, about = "Questions to weir's archive, in SQL and by name.")]
#[command(subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = "Exit codes: 0 good, 1 failed, 64 wrong usage or configuration.")]
pub struct Cli {
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// One of the commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Ask the archive in SQL
    Query(QueryArgs),
    /// Have a report made of the archive
    Report(ReportArgs),
}

/// `weir query`
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    weir query \"SELECT account, human_bytes(sum(sent_wire_bytes)) FROM sessions GROUP BY account\"\n  \
    weir query --param id=0192f1c2a4e35d0c9b1a7f3e00000001 'SELECT * FROM requests WHERE request_id = $id'\n  \
    weir query --format csv --from 2026-11-01 --to 2026-12-01 --purpose \"ticket 4711\" \\\n    \
    \"SELECT at, host, path FROM requests WHERE ip_in(client_ip, '192.0.2.0/24')\" > found.csv\n\n\
    Tables: requests, sessions, nodes (the columns of `weir events --json`), accounts, screening.\n\
    Their columns: weir query \"SELECT table_name, column_name, data_type FROM information_schema.columns\"\n\
    Functions beyond SQL: ip_in(address, 'network'), ip_prefix(address, bits), human_bytes(n).")]
pub struct QueryArgs {
    /// The question; - reads it from standard input
    #[arg(value_name = "SQL")]
    pub sql: String,
    /// The value of $NAME in it; may be repeated
    #[arg(long = "param", value_name = "NAME=VALUE")]
    pub parameters: Vec<String>,
    /// How rows are written
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
    /// Where to and about what.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// `weir report`
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  weir report sources --from 2026-11-01 --to 2026-12-01\n  \
    weir report subject --param address=192.0.2.7 --purpose \"access request 12\" --format json\n  \
    weir report screening --format html --output screening.html\n  weir report access")]
pub struct ReportArgs {
    /// Which
    #[arg(value_name = "NAME", value_parser = crate::report::names())]
    pub name: String,
    /// What it asks for, like address=192.0.2.7; may be repeated
    #[arg(long = "param", value_name = "NAME=VALUE")]
    pub parameters: Vec<String>,
    /// With --format csv: which of its parts [default: the first]
    #[arg(long, value_name = "NAME")]
    pub part: Option<String>,
    /// How it is written
    #[arg(long, value_enum, default_value_t = crate::report::Form::Table)]
    pub format: crate::report::Form,
    /// Where to and about what.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// Of both.
#[derive(Debug, Args)]
pub struct CommonArgs {
    /// Configuration file, the sidecar's
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// With no file: the archive's directory
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    pub archive: Option<PathBuf>,
    /// With --archive: where the access log is kept [default: ~/.local/state/weir/access.jsonl]
    #[arg(long, value_name = "FILE", requires = "archive")]
    pub access_log: Option<PathBuf>,
    /// With --archive: directory of the keys of whole addresses; without it they are not shown
    #[arg(long, value_name = "DIR", requires = "archive")]
    pub keys: Option<PathBuf>,
    /// Only this account's records
    #[arg(long, value_name = "ACCOUNT")]
    pub account: Option<String>,
    /// Only records from this UTC time on, like 2026-11-01 or 2026-11-01T12:00:00Z
    #[arg(long, value_name = "TIME")]
    pub from: Option<String>,
    /// Only records before this time
    #[arg(long, value_name = "TIME")]
    pub to: Option<String>,
    /// Why: kept in the access log
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub purpose: String,
    /// Who asks: kept in the access log [default: the system's user]
    #[arg(long = "as", value_name = "NAME")]
    pub who: Option<String>,
    /// Write to this file instead of standard output
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// More rows are an error [default: query.rows_max]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub rows_max: Option<u64>,
    /// A longer time is an error [default: query.time_s_max]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub time_s_max: Option<u64>,
    /// More memory for rows is an error [default: query.memory_bytes_max]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1 << 20..))]
    pub memory_bytes_max: Option<u64>,
    /// For the portal: by which way it was asked
    #[arg(long, hide = true, default_value = "command")]
    pub via: String,
    /// For the portal: the question, its parameters and its purpose come as JSON on standard input, and errors are JSON
    #[arg(long, hide = true)]
    pub request: bool,
}
