//! A step of a plan that nothing of a question gets below.
//!
//! Under it lie files whose rows belong to several accounts, and the filter that leaves one account's. DataFusion moves a question's
//! conditions down to where rows are read, so that fewer are read. A condition that is held against a row of somebody else's can say
//! something about it even if the row is never shown: `1 / length(path)` fails on an empty path, `CAST(path AS INT)` puts the text into
//! its error. So conditions, projections, limits and statistics stop here; only [`is_harmless`] ones are offered below by whoever makes the
//! fence, as they cannot fail. No column below is a dictionary (`table.rs`): a filter would leave it as it was, with the words of rows that
//! it took away, and a cast looks at all of them.

use std::fmt;
use std::sync::Arc;

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, plan_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, Operator};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties};

/// The step. All defaults of [`ExecutionPlan`] keep things from getting below it.
#[derive(Debug)]
pub struct Fence {
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
}

impl Fence {
    /// Around this.
    pub fn new(input: Arc<dyn ExecutionPlan>) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(input.schema()),
            input.output_partitioning().clone(),
            input.pipeline_behavior(),
            input.boundedness(),
        );
        Self { input, properties: Arc::new(properties) }
    }
}

impl DisplayAs for Fence {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fence")
    }
}

impl ExecutionPlan for Fence {
    fn name(&self) -> &str {
        "Fence"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        match <[_; 1]>::try_from(children) {
            Ok([input]) => Ok(Arc::new(Self::new(input))),
            Err(children) => plan_err!("a fence stands around one step, not {}", children.len()),
        }
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        self.input.execute(partition, context)
    }
}

/// Whether a condition can be held against any row without failing or saying anything: comparisons of columns with constants, and
/// what joins them.
pub fn is_harmless(condition: &Expr) -> bool {
    let is_plain = |expr: &Expr| matches!(expr, Expr::Column(_) | Expr::Literal(..));
    match condition {
        Expr::Column(_) | Expr::Literal(..) => true,
        Expr::BinaryExpr(binary) => match binary.op {
            Operator::And | Operator::Or => is_harmless(&binary.left) && is_harmless(&binary.right),
            Operator::Eq | Operator::NotEq | Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq => {
                is_plain(&binary.left) && is_plain(&binary.right)
            }
            _ => false,
        },
        Expr::Not(inner) => is_harmless(inner),
        Expr::IsNull(inner) | Expr::IsNotNull(inner) => is_plain(inner),
        Expr::InList(list) => is_plain(&list.expr) && list.list.iter().all(is_plain),
        Expr::Between(between) => is_plain(&between.expr) && is_plain(&between.low) && is_plain(&between.high),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::{cast, col, lit};

    use super::*;

    #[test]
    fn only_what_cannot_fail_goes_below() {
        for harmless in [
            col("a").eq(lit(1)),
            col("a").gt(lit(1)).and(col("b").lt_eq(lit("x")).or(col("c").is_null())),
            col("a").in_list(vec![lit(1), lit(2)], true),
            col("a").between(lit(1), lit(2)),
        ] {
            assert!(is_harmless(&harmless), "{harmless}");
        }
        for harmful in [
            (lit(1) / col("a")).gt(lit(0)),
            cast(col("a"), arrow::datatypes::DataType::Int64).eq(lit(1)),
            col("a").eq(lit(1)).and((lit(1) / col("a")).gt(lit(0))),
            (col("a") + lit(1)).is_null(),
            col("a").in_list(vec![lit(1) / col("b")], false),
        ] {
            assert!(!is_harmless(&harmful), "{harmful}");
        }
    }
}
