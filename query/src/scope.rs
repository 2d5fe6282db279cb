//! What of the archive a question can see: an account, a time. The tables hold to it themselves (`table.rs`), so no SQL gets around it.

use datafusion::logical_expr::Expr;
use datafusion::prelude::{col, lit};
use datafusion::scalar::ScalarValue;
use weir::archive::Table;
use weir::archive::manifest::File;
use weir::archive::schema::bucket;

/// Everything, where nothing is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// Only its records; none: everybody's.
    pub account: Option<String>,
    /// From this µs on.
    pub from_us: i64,
    /// Up to before this one.
    pub to_us: i64,
}

impl Default for Scope {
    fn default() -> Self {
        Self { account: None, from_us: i64::MIN, to_us: i64::MAX }
    }
}

impl Scope {
    /// Whether a file of this table can have rows that may be seen.
    pub fn can_see(&self, file: &File, table: Table) -> bool {
        file.table == table
            && file.first_at_us < self.to_us
            && file.last_at_us >= self.from_us
            && self.account.as_ref().is_none_or(|account| bucket(account, file.buckets) == file.bucket)
    }

    /// What rows of these files must fulfil beyond being in one of them; empty: nothing.
    pub fn conditions(&self, files: &[File]) -> Vec<Expr> {
        let time = |us: i64| lit(ScalarValue::TimestampMicrosecond(Some(us), Some("UTC".into())));
        let mut conditions = Vec::new();
        if let Some(account) = &self.account {
            conditions.push(col("account").eq(lit(ScalarValue::Utf8View(Some(account.clone())))));
        }
        if files.iter().any(|file| file.first_at_us < self.from_us) {
            conditions.push(col("at").gt_eq(time(self.from_us)));
        }
        if files.iter().any(|file| file.last_at_us >= self.to_us) {
            conditions.push(col("at").lt(time(self.to_us)));
        }
        conditions
    }
}
