//! What the flags and the configuration say together.

use std::path::PathBuf;
use std::time::Duration;

use weir::archive::Keys;
use weir::clock::{parse_utc, utc_text};
use weir::config::{ArchivePlace, Config, ConfigErrors, Screening, default_state_dir};

use crate::access_log::Asked;
use crate::cli::CommonArgs;
use crate::engine::Limits;
use crate::question::Parameters;
use crate::scope::Scope;

/// What is wrong with them.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// Nothing says where the archive is.
    #[error("no archive is named: give --config FILE with a section [archive], or --archive DIR")]
    NoArchive,
    /// The file has none.
    #[error("{} has no section [archive]: there is nothing to ask", .0.display())]
    NoSection(PathBuf),
    /// A time.
    #[error("--{flag} {text}: write a UTC time as 2026-11-01 or 2026-11-01T12:00:00Z")]
    Time {
        /// Which flag.
        flag: &'static str,
        /// What it says.
        text: String,
    },
    /// No time between the two.
    #[error("--from must be before --to")]
    Span,
    /// A parameter.
    #[error("--param {0}: write NAME=VALUE")]
    Parameter(String),
}

/// The whole of it.
pub struct Setting {
    /// Where the archive is.
    pub place: ArchivePlace,
    /// Where questions are written down.
    pub access_log: PathBuf,
    /// What can be seen.
    pub scope: Scope,
    /// What may be used.
    pub limits: Limits,
    /// For how long.
    pub time_max: Duration,
    /// Today's rules.
    pub screening: Screening,
    /// `[archive] keep_…_days`, by table; 0: for ever.
    pub keep_days: [u32; 3],
    /// Where the keys of whole addresses are.
    keys: Option<PathBuf>,
}

impl Setting {
    /// Of a command.
    pub fn of(args: &CommonArgs) -> Result<Self, Error> {
        let config = match (&args.config, &args.archive) {
            (Some(file), _) => Config::load(file)?,
            (None, Some(_)) => Config::for_flags("127.0.0.1:3000", None, None)?,
            (None, None) => return Err(Error::NoArchive),
        };
        let keep_days = config.archive.as_ref().map_or([0; 3], |archive| {
            [archive.keep_requests_days, archive.keep_sessions_days, archive.keep_nodes_days]
        });
        let keys = args.keys.clone().or_else(|| config.archive.as_ref().map(|archive| archive.keys.clone()));
        let place = match (&args.archive, config.archive, &args.config) {
            (Some(directory), ..) => ArchivePlace::Directory(directory.clone()),
            (None, Some(archive), _) => archive.place,
            (None, None, file) => return Err(Error::NoSection(file.clone().unwrap_or_default())),
        };
        let log = args.access_log.clone();
        let access_log = match args.archive {
            Some(_) => log.unwrap_or_else(|| default_state_dir().join("access.jsonl")),
            None => config.query.access_log,
        };
        let from_us = time("from", args.from.as_ref())?.unwrap_or(i64::MIN);
        let to_us = time("to", args.to.as_ref())?.unwrap_or(i64::MAX);
        if from_us >= to_us {
            return Err(Error::Span);
        }
        let memory = args.memory_bytes_max.unwrap_or(config.query.memory_bytes_max);
        Ok(Self {
            place,
            access_log,
            scope: Scope { account: args.account.clone(), from_us, to_us },
            limits: Limits {
                memory_bytes_max: usize::try_from(memory).unwrap_or(usize::MAX),
                spill_bytes_max: config.query.spill_bytes_max,
                rows_max: args.rows_max.unwrap_or(config.query.rows_max),
            },
            time_max: args.time_s_max.map_or(config.query.time_max, Duration::from_secs),
            screening: config.screening,
            keep_days,
            keys,
        })
    }

    /// The keys of whole addresses, where there are any to read.
    pub fn keys(&self) -> Result<Option<Keys>, weir::archive::Error> {
        // Opening a directory makes it.
        let found = self.keys.as_ref().filter(|directory| directory.join("master.key").exists());
        found.map(|directory| Keys::open(directory)).transpose()
    }

    /// As it is written down before it is answered.
    pub fn asked(&self, args: &CommonArgs, what: &str, sql: &str, parameters: &Parameters) -> Asked {
        let text = |us: i64, open: i64| if us == open { String::new() } else { utc_text(us) };
        Asked {
            who: args.who.clone().unwrap_or_else(user),
            via: args.via.clone(),
            account: args.account.clone(),
            what: what.to_owned(),
            sql: sql.to_owned(),
            parameters: parameters.clone(),
            from: text(self.scope.from_us, i64::MIN),
            to: text(self.scope.to_us, i64::MAX),
            purpose: args.purpose.clone(),
        }
    }
}

/// `NAME=VALUE`, each.
pub fn parameters(texts: &[String]) -> Result<Parameters, Error> {
    let split = |text: &String| match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(Error::Parameter(text.clone())),
    };
    texts.iter().map(split).collect()
}

fn time(flag: &'static str, text: Option<&String>) -> Result<Option<i64>, Error> {
    let Some(text) = text else { return Ok(None) };
    parse_utc(text).map(Some).ok_or_else(|| Error::Time { flag, text: text.clone() })
}

/// By the kernel's word, not the environment's.
fn user() -> String {
    let uid = rustix::process::getuid().as_raw();
    let name = std::fs::read_to_string("/etc/passwd").ok().and_then(|table| {
        table.lines().map(|line| line.split(':')).find_map(|mut fields| {
            let name = fields.next()?;
            (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
        })
    });
    name.unwrap_or_else(|| format!("uid {uid}"))
}
