//! Whether the ledger counts, and its metrics.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::Portal;

/// A ledger that has ended no step for so long is not ready.
const STALLED: Duration = Duration::from_secs(60);

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
    Router::new().route("/livez", get(async || "alive\n")).route("/readyz", get(ready)).route("/metrics", get(metrics))
}

/// Strangers ask: why it is not so stands in the log.
async fn ready(State(portal): State<Arc<Portal>>) -> Response {
    match portal.vitals.trouble() {
        None => "ready\n".into_response(),
        Some(_) => (StatusCode::SERVICE_UNAVAILABLE, "the ledger does not count: its log says why\n").into_response(),
    }
}

async fn metrics(State(portal): State<Arc<Portal>>) -> Response {
    portal.prometheus.run_upkeep();
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (kind, portal.prometheus.render()).into_response()
}
