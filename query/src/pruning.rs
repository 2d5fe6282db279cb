//! Which files a question need not open, by what the manifest says of each.
//!
//! Known of a file: its bucket of accounts, the least and greatest `at`, and of ids that sort by time the least and greatest. A
//! condition that cannot hold for any row of a file leaves it out. What is inside a file (row groups, pages, bloom filters) is
//! DataFusion's to leave out.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, FixedSizeBinaryBuilder, Int32Array, TimestampMicrosecondArray, UInt64Array,
};
use datafusion::common::Column;
use datafusion::common::pruning::PruningStatistics;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::pruning::PruningPredicateBuilder;
use datafusion::scalar::ScalarValue;
use weir::archive::Table;
use weir::archive::manifest::File;
use weir::archive::schema::bucket;
use weir::ids::unhex;

/// Those of the files that can have a row for which the condition holds.
pub fn worth_opening(
    files: &[File],
    condition: Arc<dyn PhysicalExpr>,
    schema: &arrow::datatypes::SchemaRef,
) -> Vec<File> {
    let predicate = PruningPredicateBuilder::new().with_file_schema(schema.clone()).try_build(condition);
    let kept = predicate.and_then(|predicate| predicate.prune(&Known(files)));
    match kept {
        Ok(kept) => files.iter().zip(kept).filter(|(_, is_kept)| *is_kept).map(|(file, _)| file.clone()).collect(),
        // Nothing can be told from it.
        Err(_) => files.to_vec(),
    }
}

struct Known<'a>(&'a [File]);

impl Known<'_> {
    fn times(&self, of: fn(&File) -> i64) -> ArrayRef {
        Arc::new(self.0.iter().map(|file| Some(of(file))).collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
    }

    /// The least (0) or greatest (1) id of each file; none of this column's where the manifest has another's.
    fn ids(&self, column: &str, which: usize) -> Option<ArrayRef> {
        let is_kept = |file: &File| {
            matches!((file.table, column), (Table::Requests, "request_id") | (Table::Sessions, "session_id"))
        };
        let mut ids = FixedSizeBinaryBuilder::with_capacity(self.0.len(), 16);
        for file in self.0 {
            let kept = file.ids.as_ref().filter(|_| is_kept(file)).and_then(|ids| unhex(ids.get(which)?.as_bytes()));
            match kept {
                Some(id) => ids.append_value(id).ok()?,
                None => ids.append_null(),
            }
        }
        Some(Arc::new(ids.finish()))
    }

    fn buckets(&self) -> ArrayRef {
        Arc::new(self.0.iter().map(|file| i32::try_from(file.bucket).ok()).collect::<Int32Array>())
    }
}

impl PruningStatistics for Known<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        match column.name.as_str() {
            "at" => Some(self.times(|file| file.first_at_us)),
            id @ ("request_id" | "session_id") => self.ids(id, 0),
            "account_bucket" => Some(self.buckets()),
            _ => None,
        }
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        match column.name.as_str() {
            "at" => Some(self.times(|file| file.last_at_us)),
            id @ ("request_id" | "session_id") => self.ids(id, 1),
            "account_bucket" => Some(self.buckets()),
            _ => None,
        }
    }

    fn num_containers(&self) -> usize {
        self.0.len()
    }

    fn null_counts(&self, _: &Column) -> Option<ArrayRef> {
        None
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        Some(Arc::new(self.0.iter().map(|file| u64::try_from(file.rows).ok()).collect::<UInt64Array>()))
    }

    /// An account is in a file of its bucket, or nowhere.
    fn contained(&self, column: &Column, values: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        if column.name != "account" {
            return None;
        }
        let accounts: Option<Vec<&str>> = values.iter().map(text).collect();
        let accounts = accounts?;
        let may_hold = |file: &File| accounts.iter().any(|account| bucket(account, file.buckets) == file.bucket);
        Some(self.0.iter().map(|file| (!may_hold(file)).then_some(false)).collect())
    }
}

fn text(value: &ScalarValue) -> Option<&str> {
    match value {
        ScalarValue::Dictionary(_, value) => text(value),
        ScalarValue::Utf8(text) | ScalarValue::Utf8View(text) | ScalarValue::LargeUtf8(text) => text.as_deref(),
        _ => None,
    }
}
