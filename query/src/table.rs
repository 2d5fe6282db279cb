//! A table of the archive: the files that the manifest names, as far as the scope lets them be seen.
//!
//! ```text
//! no account      files that can matter ─ DataFusion's own filters and limits
//! an account      files of its bucket ─ filter: its rows alone ─ fence ─ DataFusion's own
//! ```
//!
//! A question's conditions decide which files are opened; whether a row fulfils them is left to DataFusion, above the fence if there is
//! one (`fence.rs` says why). What was looked at is noted, so that the answer can say of which time it is complete.

use std::sync::{Arc, Mutex, PoisonError};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::stats::Precision;
use datafusion::common::{DFSchema, Result, Statistics};
use datafusion::datasource::TableType;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::filter::FilterExecBuilder;
use serde::Serialize;
use weir::archive::Table;
use weir::archive::manifest::File;

use crate::fence::{Fence, is_harmless};
use crate::pruning::worth_opening;
use crate::scope::Scope;
use crate::sheet::ADDRESS;

/// Files and rows that the tables of a question were planned to look at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Looked {
    /// Files that are opened.
    pub files: u64,
    /// Files that the scope lets be seen.
    pub files_in_sight: u64,
    /// Rows in those that are opened.
    pub rows: u64,
}

/// The table.
#[derive(Debug)]
pub struct ArchiveTable {
    schema: SchemaRef,
    files: Vec<File>,
    scope: Scope,
    store: ObjectStoreUrl,
    looked: Arc<Mutex<Looked>>,
}

impl ArchiveTable {
    /// Of these files, as far as the scope goes. What is looked at is added to `looked`.
    pub fn new<'a>(
        table: Table,
        files: impl Iterator<Item = &'a File>,
        scope: &Scope,
        store: ObjectStoreUrl,
        looked: Arc<Mutex<Looked>>,
    ) -> Self {
        let files: Vec<File> = files.filter(|file| scope.can_see(file, table)).cloned().collect();
        Self { schema: schema(table), files, scope: scope.clone(), store, looked }
    }

    fn note(&self, opened: &[File]) {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        looked.files += opened.len() as u64;
        looked.files_in_sight += self.files.len() as u64;
        looked.rows += rows(opened);
    }

    /// The rows of these files, all of them, with these columns.
    fn scan_files(
        &self,
        state: &dyn Session,
        files: &[File],
        projection: Option<&Vec<usize>>,
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let options = state.config_options().execution.parquet.clone();
        let mut source = ParquetSource::new(self.schema.clone());
        source = source.with_pushdown_filters(options.pushdown_filters);
        if let Some(bytes) = options.metadata_size_hint {
            source = source.with_metadata_size_hint(bytes);
        }
        let parts: Vec<PartitionedFile> = files.iter().map(|file| self.part(file)).collect();
        let groups = FileGroup::new(parts).split_files(state.config().target_partitions().max(1));
        let config = FileScanConfigBuilder::new(self.store.clone(), Arc::new(source))
            .with_projection_indices(projection.cloned())?
            .with_limit(limit)
            .with_file_groups(groups)
            .with_statistics(statistics(rows(files), &self.schema))
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }

    fn part(&self, file: &File) -> PartitionedFile {
        let part = PartitionedFile::new(file.path.clone(), u64::try_from(file.file_bytes).unwrap_or(0));
        part.with_statistics(Arc::new(statistics(rows(std::slice::from_ref(file)), &self.schema)))
    }

    fn physical(
        &self,
        state: &dyn Session,
        conditions: Vec<Expr>,
    ) -> Result<Option<Arc<dyn datafusion::physical_expr::PhysicalExpr>>> {
        let schema = DFSchema::try_from(self.schema.clone())?;
        conjunction(conditions).map(|condition| state.create_physical_expr(condition, &schema)).transpose()
    }
}

#[async_trait]
impl TableProvider for ArchiveTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let own = self.scope.conditions(&self.files);
        let all = filters.iter().cloned().chain(own.iter().cloned()).collect();
        let files = match self.physical(state, all)? {
            Some(condition) => worth_opening(&self.files, condition, &self.schema),
            None => self.files.clone(),
        };
        self.note(&files);
        let harmless = filters.iter().filter(|filter| is_harmless(filter)).cloned();
        let is_fenced = self.scope.account.is_some();
        let below = own.iter().cloned().chain(harmless).filter(|_| is_fenced || !own.is_empty()).collect();
        let Some(condition) = self.physical(state, below)? else {
            return self.scan_files(state, &files, projection, limit);
        };
        let whole = self.scan_files(state, &files, None, None)?;
        let filter = FilterExecBuilder::new(condition, whole).apply_projection(projection.cloned())?.build()?;
        if is_fenced {
            return Ok(Arc::new(Fence::new(Arc::new(filter))));
        }
        Ok(Arc::new(filter))
    }
}

/// The archive's columns: texts as views, by which DataFusion groups and compares fastest; those with addresses are marked, so that they
/// are shown as such.
fn schema(table: Table) -> SchemaRef {
    let shown = |field: &Arc<Field>| {
        let field = field.as_ref().clone();
        match (field.name().as_str(), field.data_type()) {
            ("client_ip" | "peer_ip", _) => field.with_metadata([(ADDRESS.0.to_owned(), ADDRESS.1.to_owned())].into()),
            (_, DataType::Dictionary(..) | DataType::Utf8) => field.with_data_type(DataType::Utf8View),
            _ => field,
        }
    };
    Arc::new(Schema::new(table.schema().fields().iter().map(shown).collect::<Vec<_>>()))
}

fn rows(files: &[File]) -> u64 {
    files.iter().map(|file| u64::try_from(file.rows).unwrap_or(0)).sum()
}

/// How many rows there are is known before a file is opened.
fn statistics(rows: u64, schema: &Schema) -> Statistics {
    let mut statistics = Statistics::new_unknown(schema);
    statistics.num_rows = usize::try_from(rows).map_or(Precision::Absent, Precision::Exact);
    statistics
}
