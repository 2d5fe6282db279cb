//! Whether the ledger counts, and its metrics.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::guard::now_us;
use super::{Portal, Problem, figures};
use crate::metrics::metrics;

/// A ledger that has ended no step for so long is not ready.
const STALLED: Duration = Duration::from_secs(60);
/// Nodes with a metric of their own.
const NODES_MAX: usize = 1_000;

/// How the ledger is: what its loop says after each step.
#[derive(Debug, Default)]
pub struct Vitals(Mutex<Last>);

#[derive(Debug, Default)]
struct Last {
    step: Option<Instant>,
    failure: Option<String>,
}

impl Vitals {
    /// A step went well.
    pub fn stepped(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Last { step: Some(Instant::now()), failure: None };
    }

    /// A step failed; it is tried again.
    pub fn failed(&self, why: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).failure = Some(why.to_owned());
    }

    /// Why the ledger does not count; none where it does.
    pub fn trouble(&self) -> Option<String> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match (&last.failure, last.step) {
            (Some(why), _) => Some(why.clone()),
            (None, None) => Some("nothing was read yet".to_owned()),
            (None, Some(step)) if step.elapsed() > STALLED => {
                Some(format!("no batch was committed for {} s", step.elapsed().as_secs()))
            }
            (None, Some(_)) => None,
        }
    }
}

pub(super) fn routes() -> Router<Arc<Portal>> {
    Router::new()
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(prometheus))
}

/// Strangers ask: why it is not so stands in the log.
async fn ready(State(portal): State<Arc<Portal>>) -> Response {
    match portal.vitals.trouble() {
        None => "ready\n".into_response(),
        Some(_) => (StatusCode::SERVICE_UNAVAILABLE, "the ledger does not count: its log says why\n").into_response(),
    }
}

async fn prometheus(State(portal): State<Arc<Portal>>) -> Result<Response, Problem> {
    let complete = figures::completeness(&portal.store).await?;
    let metrics = metrics();
    let seconds = |us: i64| (us / 1_000_000) as f64;
    let lag_us = complete.until_us.map_or(0, |until_us| (now_us() - until_us).max(0));
    metrics.ledger_lag_seconds.set(seconds(lag_us));
    metrics.ledger_complete_until_seconds.set(seconds(complete.until_us.unwrap_or(0)));
    metrics.ledger_missing_records.set(complete.missing_records as f64);
    metrics.ledger_gaps.set(complete.gaps.len() as f64);
    metrics.ledger_quarantined.set(complete.quarantined as f64);
    for node in complete.nodes.iter().take(NODES_MAX) {
        let until_us = node.complete_until_us.unwrap_or(0);
        metrics::gauge!("weir_ledger_node_complete_until_seconds", "node" => node.name.clone()).set(seconds(until_us));
    }
    portal.prometheus.run_upkeep();
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    Ok((kind, portal.prometheus.render()).into_response())
}
