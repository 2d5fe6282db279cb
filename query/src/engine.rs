//! A question from its text to its rows, within limits.
//!
//! | limit | what happens at it |
//! |---|---|
//! | `memory_bytes_max` | what DataFusion holds of rows; an operator that needs more ends the question |
//! | `spill_bytes_max` | 0: nothing of anybody is ever written to disk; else sorts and joins go there first |
//! | `rows_max` | the row after the last ends the question: an answer is never cut silently |
//! | `time_max` | whoever runs it drops it (`main.rs`); there is no question that cannot be ended |
//!
//! Nothing but the archive's tables can be read: there is no file or URL that SQL could name, and what a plan may do is decided in
//! `question.rs`. The whole process has a limit of memory too, for what functions allocate beside DataFusion's count (`memory.rs`).

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use datafusion::common::DataFusionError;
use datafusion::datasource::ViewTable;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{FairSpillPool, TrackConsumersPool};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::{SendableRecordBatchStream, SessionStateBuilder};
use datafusion::logical_expr::{LogicalPlan, ScalarUDF};
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::prelude::{SessionConfig, SessionContext};
use futures::StreamExt;
use weir::archive::{Keys, Table};

use crate::archive::Archive;
use crate::functions;
use crate::functions::unsealed::Unsealed;
use crate::question::{self, Parameters};
use crate::scope::Scope;
use crate::table::{ArchiveTable, Looked};
use crate::views;

/// What a question may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Of rows in memory.
    pub memory_bytes_max: usize,
    /// Of rows on disk, in the system's directory for temporary files.
    pub spill_bytes_max: u64,
    /// Of the answer.
    pub rows_max: u64,
}

/// Why there is no answer, or no more of it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The question.
    #[error(transparent)]
    Question(#[from] question::Error),
    /// Its rows.
    #[error("the answer has more than {0} rows: ask for less (LIMIT, a sum, a shorter time), or raise --rows-max")]
    Rows(u64),
    /// Its memory.
    #[error(
        "the question needs more than {limit_bytes} bytes of memory: ask for less, or raise --memory-bytes-max ({detail})"
    )]
    Memory {
        /// How much it may.
        limit_bytes: usize,
        /// Who wanted more.
        detail: String,
    },
    /// What it computes: a division by zero, a text that is no number, a regular expression that is none or too large.
    #[error("the question cannot be computed: {0}")]
    Compute(String),
    /// Everything else.
    #[error("{}", .0.strip_backtrace())]
    Run(DataFusionError),
}

/// An archive that can be asked, by one who may see this much of it.
pub struct Engine {
    context: SessionContext,
    limits: Limits,
    explains: bool,
    looked: Arc<Mutex<Looked>>,
}

/// Rows as they come.
pub struct Answer {
    /// Their columns.
    pub schema: SchemaRef,
    /// What it was planned to look at.
    pub looked: Looked,
    plan: Arc<dyn ExecutionPlan>,
    stream: SendableRecordBatchStream,
    limits: Limits,
    rows: u64,
}

impl Engine {
    /// Of this archive, seen through this scope; with keys, whole addresses are shown where there is one for them.
    pub async fn new(archive: &Archive, scope: &Scope, limits: Limits, keys: Option<Keys>) -> Result<Self, Error> {
        let mut config = SessionConfig::new().with_information_schema(true);
        let options = config.options_mut();
        options.execution.time_zone = Some("UTC".to_owned());
        // Conditions on one column first, then the other columns of the rows that are left.
        options.execution.parquet.pushdown_filters = true;
        options.execution.parquet.reorder_filters = true;
        let pool = TrackConsumersPool::new(FairSpillPool::new(limits.memory_bytes_max), NonZeroUsize::MIN);
        let disk = match limits.spill_bytes_max {
            0 => DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled),
            bytes => DiskManagerBuilder::default().with_max_temp_directory_size(bytes),
        };
        let runtime = RuntimeEnvBuilder::new().with_memory_pool(Arc::new(pool)).with_disk_manager_builder(disk);
        let runtime = runtime.build_arc().map_err(Error::Run)?;
        archive.register(&runtime);
        let state = SessionStateBuilder::new().with_config(config).with_runtime_env(runtime).with_default_features();
        let context = SessionContext::new_with_state(state.build());
        functions::register(&context);
        let looked = Arc::new(Mutex::new(Looked::default()));
        let unsealed = keys.map(|keys| ScalarUDF::from(Unsealed::new(keys)));
        for table in Table::ALL {
            let files = archive.manifest.files.values();
            let provider = ArchiveTable::new(table, files, scope, archive.url(), looked.clone());
            let kept = Arc::new(provider);
            let shown = match &unsealed {
                Some(unsealed) if table != Table::Nodes => views::with_addresses(kept, unsealed).map_err(Error::Run)?,
                _ => kept,
            };
            context.register_table(table.name(), shown).map_err(Error::Run)?;
        }
        for (name, sql) in views::VIEWS {
            let plan = context.state().create_logical_plan(sql).await.map_err(Error::Run)?;
            let view = ViewTable::new(plan, Some(sql.to_owned()));
            context.register_table(name, Arc::new(view)).map_err(Error::Run)?;
        }
        Ok(Self { context, limits, explains: scope.account.is_none(), looked })
    }

    /// For functions that a report needs beyond those of every question.
    pub fn context(&self) -> &SessionContext {
        &self.context
    }

    /// Begins to answer.
    pub async fn ask(&self, sql: &str, parameters: &Parameters) -> Result<Answer, Error> {
        let plan = question::plan(&self.context.state(), sql, parameters, self.explains).await?;
        self.begin(plan).await.map_err(|error| self.limits.told(error))
    }

    async fn begin(&self, plan: LogicalPlan) -> Result<Answer, DataFusionError> {
        *self.looked.lock().unwrap_or_else(PoisonError::into_inner) = Looked::default();
        let state = self.context.state();
        let plan = state.create_physical_plan(&plan).await?;
        let stream = execute_stream(plan.clone(), state.task_ctx())?;
        let looked = *self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Answer { schema: stream.schema(), looked, plan, stream, limits: self.limits, rows: 0 })
    }
}

impl Answer {
    /// The next rows; none: these were all.
    pub async fn next(&mut self) -> Result<Option<RecordBatch>, Error> {
        let Some(batch) = self.stream.next().await.transpose().map_err(|error| self.limits.told(error))? else {
            return Ok(None);
        };
        self.rows += batch.num_rows() as u64;
        if self.rows > self.limits.rows_max {
            return Err(Error::Rows(self.limits.rows_max));
        }
        Ok(Some(batch))
    }

    /// Rows so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The steps of it, for who shows progress.
    pub fn plan(&self) -> Arc<dyn ExecutionPlan> {
        self.plan.clone()
    }
}

impl Limits {
    /// DataFusion's words for a limit are about pools.
    fn told(&self, error: DataFusionError) -> Error {
        match error.find_root() {
            DataFusionError::ResourcesExhausted(detail) => {
                let detail = detail.lines().next().unwrap_or_default().to_owned();
                Error::Memory { limit_bytes: self.memory_bytes_max, detail }
            }
            DataFusionError::ArrowError(cause, _) if !is_of_files(cause) => Error::Compute(cause.to_string()),
            DataFusionError::Execution(cause) => Error::Compute(cause.clone()),
            // A regular expression is the question's, whatever DataFusion calls it.
            DataFusionError::Internal(cause) if cause.contains("Regular expression") => Error::Compute(cause.clone()),
            _ => Error::Run(error),
        }
    }
}

/// Whether it is about reading and not about computing.
fn is_of_files(error: &ArrowError) -> bool {
    matches!(
        error,
        ArrowError::IoError(..) | ArrowError::ParquetError(_) | ArrowError::ExternalError(_) | ArrowError::IpcError(_)
    )
}
