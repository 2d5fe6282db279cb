//! Questions to the archive: each is answered by a process of its own, `weir-query`, whose output flows through.
//!
//! ```text
//! token (scope query) ─ account ─► weir-query --account … ◄─ question and parameters, on its standard input
//!                                      │ stdout ─► the answer          │ stderr ─► why there is none
//! ```
//!
//! What a question may do, see and use is decided there: it reads only, its tables hold one account's records where the token names one,
//! and it ends at limits of memory, rows and time (section `query`); and it writes down who asks what. Nothing of it stands in a command
//! line, which anybody on the machine can read. Here: how many run at once, that a client who goes takes its process along, and that an
//! error is an error's status as long as nothing has flowed.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Bytes;
use axum::http::StatusCode;
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use serde_json::{Value as Json, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::{Problem, Viewer};

/// Questions at once: each may use as much memory as `[query]` says.
const AT_ONCE: usize = 2;
/// An answer is held back up to here, so that what fails before is an error's status.
const HEAD_BYTES: usize = 256 << 10;
/// Of stdout, at a time.
const PIECE_BYTES: usize = 64 << 10;
/// Of stderr, all in all.
const COMPLAINT_BYTES_MAX: u64 = 16 << 10;
/// The process ends before the portal gives the answer up.
const EARLIER_S: u64 = 1;

/// The names of the reports, and what each is for.
pub const REPORTS: [(&str, &str); 10] = [
    ("screening", "What the rules matched or could not clear"),
    ("rescreening", "What the rules of today say of the records of then"),
    ("residency", "Where data went"),
    ("sources", "Where traffic came from"),
    ("subject", "Everything held about an address or an account"),
    ("top-talkers", "Who moved most"),
    ("new-sources", "Sources never seen before"),
    ("errors", "What went wrong"),
    ("access", "Who looked"),
    ("retention", "What is held, and for how long"),
];

/// The program, and what it is told.
#[derive(Clone, Debug)]
pub struct Program {
    /// Where it is.
    pub path: PathBuf,
    /// The configuration's file.
    pub config: PathBuf,
    /// `[query] time_s_max`.
    pub time_s_max: u64,
}

/// What runs them.
pub struct Queries {
    program: Program,
    places: Arc<Semaphore>,
}

/// What is asked.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// A statement; empty: a report.
    #[serde(default)]
    pub sql: String,
    /// A report's name; empty: a statement.
    #[serde(skip)]
    pub report: String,
    /// Values by name.
    #[serde(default)]
    pub parameters: std::collections::BTreeMap<String, String>,
    /// Whose records; a token that names an account has no choice.
    pub account: Option<String>,
    /// From this time on.
    pub from: Option<String>,
    /// Up to before this one.
    pub to: Option<String>,
    /// Why.
    #[serde(default)]
    pub purpose: String,
    /// How it is written.
    pub format: Option<String>,
}

/// An answer: what came of it so far, and what is still to come.
pub struct Answer {
    /// Its beginning, or all of it.
    pub head: Vec<u8>,
    /// The rest; none: there is none.
    pub rest: Option<Rest>,
}

/// The rest of an answer. Dropping it ends the process.
pub struct Rest {
    pieces: mpsc::Receiver<Piece>,
    _running: Running,
}

type Piece = Result<Bytes, Complaint>;

/// Why there is no answer.
struct Complaint {
    /// `refused`, `too many rows`, … as the program calls it; empty: it did not come to that.
    outcome: String,
    text: String,
}

/// A process that ends when nobody waits for it any more.
struct Running {
    pid: Arc<Mutex<Option<Pid>>>,
}

impl Queries {
    /// By this program.
    pub fn new(program: Program) -> Self {
        Self { program, places: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// Answers a question of this viewer's within this time.
    pub async fn ask(&self, viewer: &Viewer, question: &Question, within_s: u64) -> Result<Answer, Problem> {
        let account = viewer.asks(question.account.as_deref())?;
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            let detail = "as many questions as may be are being answered: try again";
            return Err(Problem::busy(StatusCode::SERVICE_UNAVAILABLE, detail, 5));
        };
        let told = json!({ "sql": question.sql, "parameters": question.parameters, "purpose": question.purpose });
        let mut command = self.command(viewer, question, account.as_deref(), within_s);
        let child = command.spawn().map_err(|error| {
            tracing::error!(%error, program = %self.program.path.display(), "questions cannot be answered");
            Problem::new(
                StatusCode::NOT_FOUND,
                "the program weir-query, which answers questions, is not installed here",
            )
        })?;
        let running = Running { pid: Arc::new(Mutex::new(Pid::from_raw(i32::try_from(child.id()).unwrap_or(0)))) };
        let (to, mut pieces) = mpsc::channel(2);
        let pid = running.pid.clone();
        let thread = std::thread::Builder::new().name("portal-query".to_owned());
        let started = thread.spawn(move || attend(child, &told, &to, &pid, place));
        started.map_err(|error| {
            tracing::error!(%error, "no thread for a question");
            Problem::busy(StatusCode::SERVICE_UNAVAILABLE, "the portal is out of threads: try again", 5)
        })?;
        let mut head = Vec::new();
        while let Some(piece) = pieces.recv().await {
            head.extend(piece.map_err(problem)?);
            if head.len() >= HEAD_BYTES {
                return Ok(Answer { head, rest: Some(Rest { pieces, _running: running }) });
            }
        }
        Ok(Answer { head, rest: None })
    }

    fn command(&self, viewer: &Viewer, question: &Question, account: Option<&str>, within_s: u64) -> Command {
        let mut command = Command::new(&self.program.path);
        match question.report.as_str() {
            "" => command.args(["query", "-"]),
            report => command.args(["report", report]),
        };
        let time_s = self.program.time_s_max.min(within_s.saturating_sub(EARLIER_S)).max(1);
        command.arg("--config").arg(&self.program.config).args(["--via", "portal", "--request"]);
        command.arg(format!("--time-s-max={time_s}")).arg(format!("--as={}", viewer.subject));
        let flags = [
            ("account", account),
            ("from", question.from.as_deref()),
            ("to", question.to.as_deref()),
            ("format", question.format.as_deref()),
        ];
        for (name, value) in flags {
            if let Some(value) = value {
                command.arg(format!("--{name}={value}"));
            }
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}

impl Rest {
    /// The next piece; an error breaks the answer off.
    pub async fn next(&mut self) -> Option<io::Result<Bytes>> {
        let piece = self.pieces.recv().await?;
        Some(piece.map_err(|complaint| io::Error::other(complaint.text)))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Under the lock: while it is there, nobody has waited for the process, so its number is nobody else's.
        let pid = self.pid.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pid) = *pid
            && let Err(error) = kill_process(pid, Signal::TERM)
        {
            tracing::debug!(%error, "a question's process has ended by itself");
        }
    }
}

/// From the question to the end of its process; on a thread of its own.
fn attend(
    mut child: Child,
    told: &Json,
    to: &mpsc::Sender<Piece>,
    pid: &Mutex<Option<Pid>>,
    place: OwnedSemaphorePermit,
) {
    let complaints = child.stderr.take().map(|stderr| {
        std::thread::spawn(move || {
            let mut text = String::new();
            // What cannot be read of it is as good as nothing.
            stderr.take(COMPLAINT_BYTES_MAX).read_to_string(&mut text).map_or_else(|_| String::new(), |_| text)
        })
    });
    let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(told.to_string().as_bytes()));
    let read = written.and_then(|()| pass_on(&mut child, to));
    *pid.lock().unwrap_or_else(PoisonError::into_inner) = None;
    let status = child.wait();
    let text = complaints.and_then(|thread| thread.join().ok()).unwrap_or_default();
    let is_good = read.is_ok() && status.as_ref().is_ok_and(|status| status.success());
    if !is_good {
        let said: Json = text.lines().last().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default();
        let part = |name: &str| said[name].as_str().unwrap_or_default().to_owned();
        let (outcome, mut detail) = (part("outcome"), part("error"));
        if detail.is_empty() {
            detail = format!("{text} ({status:?}, {read:?})");
        }
        // Whoever asked may be gone.
        if to.blocking_send(Err(Complaint { outcome, text: detail })).is_err() {
            tracing::debug!("nobody waits for an answer any more");
        }
    }
    drop(place);
}

fn pass_on(child: &mut Child, to: &mpsc::Sender<Piece>) -> io::Result<()> {
    let Some(stdout) = &mut child.stdout else { return Ok(()) };
    loop {
        let mut piece = vec![0; PIECE_BYTES];
        let read = stdout.read(&mut piece)?;
        if read == 0 {
            return Ok(());
        }
        piece.truncate(read);
        if to.blocking_send(Ok(piece.into())).is_err() {
            return Ok(());
        }
    }
}

/// What is at fault: the question, or what answers it.
fn problem(complaint: Complaint) -> Problem {
    match complaint.outcome.as_str() {
        "misuse" => Problem::bad(complaint.text),
        "refused" | "too many rows" | "too much memory" | "took too long" => {
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, complaint.text)
        }
        _ => {
            tracing::error!(error = complaint.text, "a question could not be answered");
            Problem::busy(StatusCode::SERVICE_UNAVAILABLE, "the archive cannot be asked right now: try again", 5)
        }
    }
}
