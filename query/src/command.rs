//! `weir query` and `weir report`: from flags to an answer.
//!
//! [`Job::prepare`] checks everything that can be checked, and has the access log say what is asked; [`Job::answer`] answers it, as long
//! as it is let (`main.rs` has the clock); [`Job::end`] has the log say how it ended.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use arrow::record_batch::RecordBatch;
use serde::Deserialize;
use serde_json::json;

use crate::archive::Archive;
use crate::cli::{Command, CommonArgs, QueryArgs, ReportArgs};
use crate::completeness::Completeness;
use crate::engine::{self, Answer, Engine};
use crate::progress::Progress;
use crate::question::{Parameters, SQL_BYTES_MAX};
use crate::recorded::Recorded;
use crate::report::{self, Form, Sources};
use crate::setting::{self, Setting, parameters};
use crate::sheet::{Format, Sheet};

/// A question, its parameters and its purpose.
const REQUEST_BYTES_MAX: u64 = 256 << 10;

/// Why an answer was cut off.
#[derive(Debug, thiserror::Error)]
pub enum CutOff {
    /// It took longer than it may.
    #[error("this took longer than {0} s: ask for less, or raise --time-s-max")]
    Time(u64),
    /// Ctrl-C, or a signal to end.
    #[error("stopped")]
    Stopped,
}

/// Something to answer.
pub struct Job {
    /// From flags and configuration.
    pub setting: Setting,
    command: Command,
    sql: String,
    parameters: Parameters,
    recorded: Recorded,
}

impl Job {
    /// Checks what is asked, and writes it down.
    pub fn prepare(mut command: Command) -> anyhow::Result<Self> {
        if common(&command).request {
            take_request(&mut command)?;
        }
        let setting = Setting::of(common(&command))?;
        let (sql, given, parameters, what) = match &command {
            Command::Query(args) => {
                let given = parameters(&args.parameters)?;
                (statement(&args.sql)?, given.clone(), given, "query")
            }
            Command::Report(args) => {
                let given = parameters(&args.parameters)?;
                let report = report::find(&args.name).context("there is no such report")?;
                args.part.as_deref().map_or(Ok(()), |part| report::check_part(report, part))?;
                (String::new(), given.clone(), report::check(report, &given, &setting.scope)?, report.name)
            }
        };
        let recorded = Recorded::begin(&setting.access_log, setting.asked(common(&command), what, &sql, &given))?;
        Ok(Self { setting, command, sql, parameters, recorded })
    }

    /// Answers it.
    pub async fn answer(self: Arc<Self>) -> anyhow::Result<()> {
        let archive = open(&self.setting)?;
        match &self.command {
            Command::Query(args) => self.query(args, &archive).await,
            Command::Report(args) => self.report(args, &archive).await,
        }
    }

    /// Writes down how it ended.
    pub fn end(&self, answered: &anyhow::Result<()>) -> anyhow::Result<()> {
        Ok(self.recorded.end(answered.as_ref().map_or_else(outcome, |()| "answered"))?)
    }

    async fn query(&self, args: &QueryArgs, archive: &Archive) -> anyhow::Result<()> {
        let completeness = Completeness::of(&archive.manifest, &self.setting.scope);
        let setting = &self.setting;
        let engine = Engine::new(archive, &setting.scope, setting.limits, setting.keys()?).await?;
        let mut answer = engine.ask(&self.sql, &self.parameters).await?;
        let out = output(args.common.output.as_deref())?;
        let mut sheet = Sheet::begin(args.format, answer.schema.clone(), out)?;
        let mut progress = Progress::of(answer.plan(), answer.looked.rows);
        while let Some(batch) = next(&mut answer, progress.as_mut()).await? {
            sheet.add(&batch)?;
            self.recorded.set_rows(answer.rows());
        }
        sheet.end(&json!({
            "row_count": self.recorded.rows(),
            "completeness": completeness,
            "looked_at": answer.looked,
            "receipt": self.recorded.receipt(),
        }))?;
        if args.format != Format::Json {
            self.say(&completeness);
        }
        Ok(())
    }

    async fn report(&self, args: &ReportArgs, archive: &Archive) -> anyhow::Result<()> {
        let report = report::find(&args.name).context("there is no such report")?;
        let sources = Sources {
            archive,
            scope: &self.setting.scope,
            limits: self.setting.limits,
            screening: &self.setting.screening,
            keep_days: self.setting.keep_days,
            access_log: &self.setting.access_log,
            keys: self.setting.keys()?,
        };
        let made = report::make(report, &self.parameters, sources).await?;
        self.recorded.set_rows(made.rows());
        let mut out = output(args.common.output.as_deref())?;
        match args.format {
            Form::Table => report::table(&made, out)?,
            Form::Json => report::json(&made, &json!({ "receipt": self.recorded.receipt() }), out)?,
            Form::Csv => {
                report::csv(&made, args.part.as_deref(), out)?;
                self.say(&made.around.completeness);
            }
            Form::Html => {
                out.write_all(report::page(&made)?.into_string().as_bytes())?;
                out.flush()?;
            }
        }
        anyhow::ensure!(made.around.flaws.is_empty(), "the access log was changed: {}", made.around.flaws.join("; "));
        Ok(())
    }

    /// On stderr, where the rows themselves cannot say it.
    fn say(&self, completeness: &Completeness) {
        let (rows, ms) = (self.recorded.rows(), self.recorded.took().as_millis());
        let plural = if rows == 1 { "" } else { "s" };
        eprintln!("{rows} row{plural} in {ms} ms; access log entry {}", self.recorded.receipt().seq);
        for line in completeness.lines() {
            eprintln!("{line}");
        }
    }
}

/// The flags of both.
pub fn common(command: &Command) -> &CommonArgs {
    match command {
        Command::Query(args) => &args.common,
        Command::Report(args) => &args.common,
    }
}

/// What the portal sends on standard input.
#[derive(Deserialize)]
struct Request {
    sql: String,
    parameters: Parameters,
    purpose: String,
}

fn take_request(command: &mut Command) -> anyhow::Result<()> {
    let input = io::stdin().lock().take(REQUEST_BYTES_MAX);
    let request: Request = serde_json::from_reader(input).context("cannot read the request from standard input")?;
    let given = request.parameters.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    match command {
        Command::Query(args) => {
            (args.sql, args.parameters) = (request.sql, given);
            args.common.purpose = request.purpose;
        }
        Command::Report(args) => {
            args.parameters = given;
            args.common.purpose = request.purpose;
        }
    }
    Ok(())
}

/// An error for the portal: what is at fault, and what is wrong.
pub fn complaint(error: &anyhow::Error) -> String {
    let outcome = if is_misuse(error) { "misuse" } else { outcome(error) };
    json!({ "outcome": outcome, "error": format!("{error:#}") }).to_string()
}

/// Whether whoever asked can mend it by asking otherwise.
pub fn is_misuse(error: &anyhow::Error) -> bool {
    error.is::<setting::Error>() || error.is::<report::Misuse>()
}

/// In a word or two: errors themselves can hold what rows hold.
fn outcome(error: &anyhow::Error) -> &'static str {
    match error.downcast_ref::<CutOff>() {
        Some(CutOff::Time(_)) => return "took too long",
        Some(CutOff::Stopped) => return "stopped",
        None => {}
    }
    let of_report = error.downcast_ref::<report::Error>().and_then(report::Error::engine);
    match error.downcast_ref::<engine::Error>().or(of_report) {
        Some(engine::Error::Question(_) | engine::Error::Compute(_)) => "refused",
        Some(engine::Error::Rows(_)) => "too many rows",
        Some(engine::Error::Memory { .. }) => "too much memory",
        Some(engine::Error::Run(_)) | None => "failed",
    }
}

/// The next rows; meanwhile, on a terminal, how far it is.
async fn next(answer: &mut Answer, progress: Option<&mut Progress>) -> anyhow::Result<Option<RecordBatch>> {
    let Some(progress) = progress else { return Ok(answer.next().await?) };
    loop {
        let wait = progress.next();
        tokio::select! {
            batch = answer.next() => {
                progress.clear()?;
                return Ok(batch?);
            }
            () = tokio::time::sleep(wait) => progress.show()?,
        }
    }
}

fn open(setting: &Setting) -> anyhow::Result<Archive> {
    // Blocks: for S3 the manifest is read on a runtime of its own, and none may be waited for inside another.
    tokio::task::block_in_place(|| Ok(Archive::open(&setting.place)?))
}

fn statement(given: &str) -> anyhow::Result<String> {
    if given != "-" {
        return Ok(given.to_owned());
    }
    let mut sql = String::new();
    let most = SQL_BYTES_MAX as u64 + 1;
    io::stdin().lock().take(most).read_to_string(&mut sql).context("cannot read the question from standard input")?;
    Ok(sql)
}

fn output(path: Option<&Path>) -> anyhow::Result<Box<dyn Write + Send>> {
    match path {
        Some(path) => {
            let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
            Ok(Box::new(BufWriter::new(file)))
        }
        None => Ok(Box::new(BufWriter::new(io::stdout()))),
    }
}
