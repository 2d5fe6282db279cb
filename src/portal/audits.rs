//! The audits that the portal shows: of everything, and of a time, an account or a node. The page and the API ask here.

use axum::http::StatusCode;
use tracing::error;

use super::asked::Asked;
use super::guard::now_us;
use super::{Portal, Problem};
use crate::clock::{DAY_US, HOUR_US, hour_of};
use crate::rollup::{self, Audit, Look, Options, Part, PartAudit};
use crate::store::Store;

/// What a part is named by.
pub(super) const PARAMETERS: [&str; 4] = ["from", "to", "account", "node"];

/// The part that is asked for, in whole hours; none: everything.
pub(super) fn part(asked: &Asked) -> Result<Option<Part>, Problem> {
    let part = Part {
        from_us: asked.time("from")?.map_or(i64::MIN, hour_of),
        to_us: asked.time("to")?.map_or(i64::MAX, |to_us| hour_of(to_us + HOUR_US - 1)),
        account: asked.text("account").map(str::to_owned),
        node: asked.text("node").map(str::to_owned),
    };
    if part.from_us >= part.to_us {
        return Err(Problem::bad("`from` does not lie before `to`"));
    }
    let is_all = part == Part { from_us: i64::MIN, to_us: i64::MAX, account: None, node: None };
    Ok((!is_all).then_some(part))
}

/// What the ledger took against what it says was used.
pub(super) async fn whole(store: &Store) -> Result<(Look, Audit), Problem> {
    let look = look(store).await?;
    let audit = Audit::new(&look, options(), None).map_err(failed)?;
    Ok((look, audit))
}

/// The records that the ledger keeps of this part against usage.
pub(super) async fn of_part(portal: &Portal, part: &Part) -> Result<PartAudit, Problem> {
    let look = look(&portal.store).await?;
    let kept_from_us = now_us() - i64::from(portal.details_keep_days) * DAY_US;
    let audit = rollup::audit_kept(&portal.store, &look, options, part.clone(), kept_from_us).await.map_err(failed)?;
    audit.ok_or_else(|| {
        Problem::bad("more records lie in this time than are read at once: ask for a shorter one, or run `weir audit`")
    })
}

async fn look(store: &Store) -> Result<Look, Problem> {
    let look = rollup::look(store).await.map_err(failed)?;
    look.ok_or_else(|| {
        let detail = "the ledger commits faster than it can be looked at: try again, or run `weir audit`";
        Problem::busy(StatusCode::SERVICE_UNAVAILABLE, detail, 5)
    })
}

/// Signatures were verified when the records came.
fn options() -> Options {
    Options { keys: Vec::new(), hosts_max: usize::MAX }
}

fn failed(error: rollup::Stop) -> Problem {
    error!(error = %format!("{:#}", anyhow::Error::from(error)), "the portal cannot audit the ledger");
    Problem::busy(StatusCode::SERVICE_UNAVAILABLE, "the ledger cannot be audited right now: its log says why", 5)
}
