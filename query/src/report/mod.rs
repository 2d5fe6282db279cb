//! Reports: questions that are asked again and again, with names (`catalog.rs`), and what stands around their answers.
//!
//! Every report says of which time it is, up to when everything has come, what is missing, and by which versions of databases, accounts
//! and rules its records were enriched. It is written down in the access log as questions are.

pub mod catalog;
mod held;
mod page;
mod text;

use std::net::IpAddr;

use arrow::record_batch::RecordBatch;
use clap::builder::PossibleValuesParser;
use serde::Serialize;
use weir::clock::{Clock, utc_text};
use weir::config::Screening;

use crate::access_log;
use crate::archive::Archive;
use crate::completeness::Completeness;
use crate::engine::{self, Engine, Limits};
use crate::functions::screened_now::ScreenedNow;
use crate::question::Parameters;
use crate::scope::Scope;
use catalog::{Part, REPORTS, RULES_THEN, Report, VERSIONS};

pub use page::page;
pub use text::{csv, json, table};

/// Of them only `access` and `retention` are about something else than records.
const WITHOUT_RECORDS: [&str; 2] = ["access", "retention"];

/// How a report is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Form {
    /// For people, on a terminal.
    Table,
    /// One object with all parts.
    Json,
    /// The first part, or the one that --part names.
    Csv,
    /// A page by itself, with pictures.
    Html,
}

/// What a report cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum Misuse {
    /// What it needs.
    #[error("the report {report} asks whom it is about: give --param {parameter}=…, --account, or both")]
    Whom {
        /// Which.
        report: &'static str,
        /// Its parameter.
        parameter: &'static str,
    },
    /// A parameter it does not have.
    #[error("the report {report} has no parameter {name}")]
    Parameter {
        /// Which.
        report: &'static str,
        /// What was given.
        name: String,
    },
    /// A parameter that is none.
    #[error("--param address={0}: write an address, like 192.0.2.7")]
    Address(String),
    /// A part that it does not have.
    #[error("the report {report} has no part {name}; there are {parts}")]
    Part {
        /// Which.
        report: &'static str,
        /// What was given.
        name: String,
        /// Those that it has.
        parts: String,
    },
    /// New since when.
    #[error("the report {0} says what is new since a time: give --from")]
    Since(&'static str),
    /// It is about everybody.
    #[error("the report {0} is about everybody; it is not there for one account")]
    NotForOne(&'static str),
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// One of its questions.
    #[error("part {part}")]
    Part {
        /// Which.
        part: &'static str,
        /// Why.
        source: Box<engine::Error>,
    },
    /// What it is about besides records.
    #[error("cannot gather what the report is about")]
    Gather(#[from] datafusion::error::DataFusionError),
    /// The access log.
    #[error(transparent)]
    Log(#[from] access_log::Error),
}

impl Error {
    /// What its question ended with, if that is why.
    pub fn engine(&self) -> Option<&engine::Error> {
        match self {
            Self::Part { source, .. } => Some(source),
            Self::Gather(_) | Self::Log(_) => None,
        }
    }
}

/// A report that was made.
#[derive(Debug)]
pub struct Made {
    /// Which.
    pub report: &'static Report,
    /// When, RFC 3339.
    pub at: String,
    /// Its tables, in order.
    pub parts: Vec<(&'static Part, Vec<RecordBatch>)>,
    /// What stands around them.
    pub around: Around,
}

/// What stands around the answers of a report.
#[derive(Debug, Serialize)]
pub struct Around {
    /// Of which time, and what of it is there.
    pub completeness: Completeness,
    /// By which versions its records were enriched; empty where it is not about records.
    pub versions: Vec<serde_json::Value>,
    /// Where it is about them, the rules that records name, by which they were judged then: `name@version`.
    pub rules_then: Vec<String>,
    /// And those that are in force now, of the configuration.
    pub rules_now: Vec<String>,
    /// What is wrong with the access log, where it is about that.
    pub flaws: Vec<String>,
    /// BLAKE3 of the access log's last line, where it is about that.
    pub head: Option<String>,
}

/// What a report is made of.
pub struct Sources<'a> {
    /// The archive.
    pub archive: &'a Archive,
    /// How much of it may be seen.
    pub scope: &'a Scope,
    /// Limits of each of its questions.
    pub limits: Limits,
    /// Today's rules.
    pub screening: &'a Screening,
    /// Days that rows are kept, by table.
    pub keep_days: [u32; 3],
    /// Where questions are written down.
    pub access_log: &'a std::path::Path,
    /// Keys of whole addresses.
    pub keys: Option<weir::archive::Keys>,
}

/// The names, for the command line.
pub fn names() -> PossibleValuesParser {
    PossibleValuesParser::new(REPORTS.iter().map(|report| report.name))
}

/// By name.
pub fn find(name: &str) -> Option<&'static Report> {
    REPORTS.iter().find(|report| report.name == name)
}

/// What a report's questions are asked with, checked before anything is read.
pub fn check(report: &'static Report, given: &Parameters, scope: &Scope) -> Result<Parameters, Misuse> {
    if WITHOUT_RECORDS.contains(&report.name) && scope.account.is_some() {
        return Err(Misuse::NotForOne(report.name));
    }
    if let Some(name) = given.keys().find(|name| Some(name.as_str()) != report.parameter) {
        return Err(Misuse::Parameter { report: report.name, name: name.clone() });
    }
    let mut parameters = given.clone();
    if let Some(parameter) = report.parameter {
        let text = parameters.entry(parameter.to_owned()).or_default();
        if !text.is_empty() && text.parse::<IpAddr>().is_err() {
            return Err(Misuse::Address(text.clone()));
        }
        if text.is_empty() && scope.account.is_none() && !WITHOUT_RECORDS.contains(&report.name) {
            return Err(Misuse::Whom { report: report.name, parameter });
        }
    }
    if report.looks_back {
        if scope.from_us == i64::MIN {
            return Err(Misuse::Since(report.name));
        }
        parameters.insert("from".to_owned(), utc_text(scope.from_us));
    }
    Ok(parameters)
}

/// Whether it has this part.
pub fn check_part(report: &'static Report, name: &str) -> Result<(), Misuse> {
    let names: Vec<&str> = report.parts.iter().map(|part| part.name).collect();
    if names.contains(&name) {
        return Ok(());
    }
    Err(Misuse::Part { report: report.name, name: name.to_owned(), parts: names.join(", ") })
}

/// Makes it.
pub async fn make(report: &'static Report, parameters: &Parameters, sources: Sources<'_>) -> Result<Made, Error> {
    let mut scope = sources.scope.clone();
    if report.looks_back {
        scope.from_us = i64::MIN;
    }
    let failed = |part| move |source| Error::Part { part, source: Box::new(source) };
    let is_of_records = !WITHOUT_RECORDS.contains(&report.name);
    let engine = Engine::new(sources.archive, &scope, sources.limits, sources.keys).await.map_err(failed("tables"))?;
    let completeness = Completeness::of(&sources.archive.manifest, sources.scope);
    let mut around = Around {
        completeness,
        versions: Vec::new(),
        rules_then: Vec::new(),
        rules_now: Vec::new(),
        flaws: Vec::new(),
        head: None,
    };
    match report.name {
        "rescreening" => {
            let named = rows(&engine, RULES_THEN, &Parameters::new()).await.map_err(failed("rules"))?;
            around.rules_then = text::words(&named, "rule");
            around.rules_now =
                sources.screening.rules.iter().map(|rule| format!("{}@{}", rule.name, rule.version)).collect();
            let now = ScreenedNow::new(sources.screening, Clock::anchored().now_us());
            held::rescreened(engine.context(), now).await?;
        }
        "access" => {
            let log = access_log::read(sources.access_log)?;
            let address = parameters.get("address").and_then(|text| text.parse().ok());
            // Where no key was ever made, nothing was ever asked.
            let mark = match address {
                Some(address) => Some(access_log::mark(sources.access_log, address)?.unwrap_or_default()),
                None => None,
            };
            held::access(engine.context(), &log, sources.scope, mark.as_deref())?;
            (around.flaws, around.head) = (log.flaws, Some(log.head));
        }
        "retention" => held::retention(engine.context(), &sources.archive.manifest, sources.keep_days)?,
        _ => {}
    }
    let mut parts = Vec::with_capacity(report.parts.len());
    for part in report.parts {
        // A parameter that a part does not have is not its.
        let own = parameters.iter().filter(|(name, _)| part.sql.contains(&format!("${name}")));
        let own = own.map(|(name, value)| (name.clone(), value.clone())).collect();
        parts.push((part, rows(&engine, part.sql, &own).await.map_err(failed(part.name))?));
    }
    if is_of_records {
        let versions = rows(&engine, VERSIONS, &Parameters::new()).await.map_err(failed("versions"))?;
        around.versions = text::objects(&versions);
    }
    Ok(Made { report, at: utc_text(Clock::anchored().now_us()), parts, around })
}

async fn rows(engine: &Engine, sql: &str, parameters: &Parameters) -> Result<Vec<RecordBatch>, engine::Error> {
    let mut answer = engine.ask(sql, parameters).await?;
    let mut batches = vec![RecordBatch::new_empty(answer.schema.clone())];
    while let Some(batch) = answer.next().await? {
        batches.push(batch);
    }
    Ok(batches)
}

impl Made {
    /// Rows of all parts.
    pub fn rows(&self) -> u64 {
        self.parts.iter().flat_map(|(_, batches)| batches).map(|batch| batch.num_rows() as u64).sum()
    }
}
