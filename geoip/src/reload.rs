//! Replaces the table in use when its files change, on a thread that the caller gives: nothing here waits for traffic and
//! no traffic waits for it.
//!
//! At each check the files' stamps (device, inode, size, times) are compared with those of the last attempt. If one
//! differs, or a dated row has begun or ended, all files are read whole, the table is compiled within the plan's budget,
//! held against canaries and against what the one in use knows, and swapped in. Whatever fails, the table in use stays,
//! and the same files are not tried again until one of them changes. Tables that were replaced are dropped here, once no
//! reader has them, and never on a reader's thread.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::source::seconds;
use crate::{Error, Live, Plan, SourceState, Table, compile, guard};

/// What a check did.
#[derive(Debug)]
pub enum Outcome {
    /// Nothing changed since the last attempt.
    Unchanged,
    /// Another table is in use.
    Swapped {
        /// The one in use now.
        table: Arc<Table>,
        /// Id of the one before.
        before: String,
        /// Time to read and compile.
        took: Duration,
    },
    /// The files were read and made the same table again.
    Same,
    /// Something is wrong; the one before is still in use.
    Refused(Error),
}

/// A source's name, state and age.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceAge {
    /// As in the plan.
    pub name: String,
    /// Stale too if its newer files could not be used.
    pub state: SourceState,
    /// Since its build.
    pub age_s: u64,
}

/// What tells one content of a file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// Keeps a [`Live`] up to date with a plan's files.
#[derive(Debug)]
pub struct Reloader {
    plan: Plan,
    live: Arc<Live>,
    stamps: HashMap<PathBuf, Option<Stamp>>,
    /// Replaced, and maybe still in some reader's hands.
    retired: Vec<Arc<Table>>,
    failed: Option<Option<PathBuf>>,
    /// Id of the table that was kept last.
    kept: String,
    keep_error: Option<Error>,
}

impl Reloader {
    /// For a table that was compiled from this plan just now: only changes from here on count.
    pub fn new(plan: Plan, live: Arc<Live>) -> Reloader {
        let stamps = stamps(&plan);
        Reloader { plan, live, stamps, retired: Vec::new(), failed: None, kept: String::new(), keep_error: None }
    }

    /// With another plan from the next check on, which then always compiles.
    pub fn set_plan(&mut self, plan: Plan) {
        self.plan = plan;
        self.stamps.clear();
    }

    /// Looks at the files, and replaces the table if they changed; `force` reads them in any case. Takes as long as a
    /// compilation.
    pub fn check(&mut self, now: SystemTime, force: bool) -> Outcome {
        let outcome = self.reload(now, force);
        self.keep(now);
        outcome
    }

    /// What went wrong when a table in use was to be kept, once.
    pub fn keep_error(&mut self) -> Option<Error> {
        self.keep_error.take()
    }

    /// Keeps the table in use where the plan says so, once.
    fn keep(&mut self, now: SystemTime) {
        let Some(directory) = &self.plan.keep else { return };
        let table = self.live.load();
        if self.kept == table.id() {
            return;
        }
        table.id().clone_into(&mut self.kept);
        let kept = crate::kept::keep(&table, directory).and_then(|_| crate::kept::prune(directory, now));
        self.keep_error = kept.err();
    }

    fn reload(&mut self, now: SystemTime, force: bool) -> Outcome {
        self.retired.retain(|table| Arc::strong_count(table) > 1);
        let stamps = stamps(&self.plan);
        // A snapshot's rows are dated where it is compiled.
        let due =
            self.plan.snapshot.is_none() && self.live.load().facts().changes_at.is_some_and(|at| at <= seconds(now));
        if !force && stamps == self.stamps && !(due && self.failed.is_none()) {
            return Outcome::Unchanged;
        }
        // Of before the reading: what changes meanwhile is seen at the next check.
        self.stamps = stamps;
        let started = Instant::now();
        match self.replacement(now) {
            Ok(table) => {
                self.failed = None;
                let table = Arc::new(table);
                // Even the same table: what it knows of its sources and of its next change is new.
                let before = self.live.swap(table.clone());
                let id = before.id().to_owned();
                self.retired.push(before);
                if id == table.id() {
                    Outcome::Same
                } else {
                    Outcome::Swapped { table, before: id, took: started.elapsed() }
                }
            }
            Err(error) => {
                if matches!(error, Error::Changing { .. }) {
                    // Whoever writes may be done before the times tell.
                    self.stamps.clear();
                }
                self.failed = Some(error.path().map(PathBuf::from));
                Outcome::Refused(error)
            }
        }
    }

    fn replacement(&self, now: SystemTime) -> Result<Table, Error> {
        let table = compile(&self.plan, now)?;
        guard::check(&self.plan, &table, Some(&self.live.load()))?;
        Ok(table)
    }

    /// State and age of each source of the table in use.
    pub fn ages(&self, now: SystemTime) -> Vec<SourceAge> {
        let table = self.live.load();
        let sources = table.sources().iter().filter(|source| source.kind != "scope");
        sources
            .map(|source| {
                let failed = self.failed.as_ref().is_some_and(|path| self.is_of(&source.name, path.as_deref()));
                let state = source.state(now).max(if failed { SourceState::Stale } else { SourceState::Fresh });
                SourceAge { name: source.name.clone(), state, age_s: source.age(now).as_secs() }
            })
            .collect()
    }

    /// Whether a failure at this path concerns the source; one without a path concerns all.
    fn is_of(&self, name: &str, path: Option<&std::path::Path>) -> bool {
        let Some(path) = path else { return true };
        match self.plan.sources.iter().find(|source| source.paths.iter().any(|own| own == path)) {
            Some(source) => source.name == name,
            None => !self.plan.sources.iter().any(|source| source.name == name),
        }
    }
}

/// Of every file of a plan; None for one that is not there.
fn stamps(plan: &Plan) -> HashMap<PathBuf, Option<Stamp>> {
    let stamp = |path: &std::path::Path| {
        let metadata = std::fs::metadata(path).ok()?;
        Some(Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    };
    plan.files().map(|path| (path.to_path_buf(), stamp(path))).collect()
}
