//! How far a question is, on a terminal: rows read of those that may have to be, and for how long.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use datafusion::physical_plan::ExecutionPlan;
use weir::units::grouped;

/// Nothing is shown of what is answered sooner.
const FIRST: Duration = Duration::from_millis(500);
/// And then as often as this.
const EVERY: Duration = Duration::from_millis(200);

/// A line on stderr that is written over and over.
pub struct Progress {
    plan: Arc<dyn ExecutionPlan>,
    rows_max: u64,
    begun: Instant,
    shown: bool,
}

impl Progress {
    /// Of a plan that reads at most so many rows. None where stderr is no terminal.
    pub fn of(plan: Arc<dyn ExecutionPlan>, rows_max: u64) -> Option<Self> {
        std::io::stderr().is_terminal().then(|| Self { plan, rows_max, begun: Instant::now(), shown: false })
    }

    /// Until when nothing needs to be shown.
    pub fn next(&self) -> Duration {
        if self.shown { EVERY } else { FIRST.saturating_sub(self.begun.elapsed()) }
    }

    /// Shows how far it is.
    pub fn show(&mut self) -> std::io::Result<()> {
        self.shown = true;
        let rows = rows_read(self.plan.as_ref());
        let percent = (rows * 100).checked_div(self.rows_max).unwrap_or(0).min(100);
        let seconds = self.begun.elapsed().as_secs();
        write!(
            std::io::stderr(),
            "\r\x1b[K{seconds} s, {percent} %: {} of {} rows read",
            grouped(rows),
            grouped(self.rows_max)
        )
    }

    /// Takes the line away.
    pub fn clear(&mut self) -> std::io::Result<()> {
        if std::mem::take(&mut self.shown) { write!(std::io::stderr(), "\r\x1b[K") } else { Ok(()) }
    }
}

/// By the steps that have none below them.
fn rows_read(plan: &dyn ExecutionPlan) -> u64 {
    let children = plan.children();
    if children.is_empty() {
        return plan.metrics().and_then(|metrics| metrics.output_rows()).unwrap_or(0) as u64;
    }
    children.into_iter().map(|child| rows_read(child.as_ref())).sum()
}
