//! The portal: what the ledger knows, over HTTP, for customers and operators. `weir ledger` serves it on `[portal] listen`.
//!
//! | path | answer | who |
//! |---|---|---|
//! | `/v1/…`, [`ROUTES`] | usage, sessions, requests, accounts, watermarks, periods, audit, accesses; questions and reports | a token |
//! | `POST /login` (`token=…`) | sets the cookie `weir_token`, then to `/` | anybody |
//! | `GET /login/{code}` | the same, by the link that `weir ledger` prints: once, within ten minutes | anybody who has it |
//! | `POST /logout` | takes the cookie back | anybody |
//! | `/openapi.json` | the API, for machines | anybody |
//! | `/livez`, `/readyz` | 200 while the process runs; 200, or 503 with the reason while the ledger does not count | anybody |
//! | `/metrics` | Prometheus text | a listener on loopback: anybody there; else scope `admin` |
//! | all else | the pages (`pages/`) | a token; a browser without one is sent to `/login` |
//!
//! **Who looks** ([`Viewer`]) is said by a signed token (`token.rs`) and by nothing else. It comes as `Authorization: Bearer`, or in the
//! cookie, which is `HttpOnly` and `SameSite=Strict`. The guard (`guard.rs`) stands before every route: a path that is not listed there as
//! open is not reached without a token. A customer's account is the token's: [`Viewer::account`] refuses every other one.
//! Where no `public_keys` are configured, the ledger makes a key of its own in `state_dir` (`portal.key`) at its first start and prints
//! a link for the operator at each. There is no way to serve without a key.
//!
//! **What is refused.** An URL of more than 8 KiB, a body of more than 8 KiB (a question's: 128 KiB), more than `requests_per_minute_max` by one token, more than
//! 60 wrong tokens a minute from one address, a `POST` from another site's page. An answer that has not begun after `request_timeout_ms` is
//! given up (503). At most 1,024 connections. Errors are one JSON form ([`Problem`]).
//!
//! **Beside the ledger, never in its way**: the portal has a thread, a runtime and database connections of its own. If its address is taken,
//! or it fails, records are counted all the same.
//!
//! # For whoever writes pages
//!
//! `pages/` adds routes to [`routes`]; a handler takes `State(portal): State<Arc<Portal>>` and [`Viewer`], and returns
//! `Result<impl IntoResponse, Problem>`. A style sheet, scripts and pictures come from `/static/…`, which is open, as `/login` is: the
//! Content-Security-Policy allows nothing inline and nothing from elsewhere. What is shown comes from [`figures`] and [`details`];
//! [`Shown`] on a response says how many rows the list of accesses names.

mod accesses;
mod api;
mod asked;
mod asking;
mod audits;
pub mod details;
mod export;
pub mod figures;
mod guard;
mod health;
mod listener;
mod login;
mod pages;
mod parquet;
mod problem;
pub mod queries;
mod rates;
pub mod table;
pub mod token;
mod viewer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::Semaphore;

use crate::config::{self, Budget, Meter};
use crate::store::{self, Store};
pub use accesses::Shown;
pub use api::ROUTES;
pub use asked::{Asked, chosen, cursor};
pub use health::Vitals;
pub use problem::Problem;
pub use token::Scope;
pub use viewer::{COOKIE_NAME, Viewer};

/// The key that is made where none is configured.
const OWN_KEY: &str = "portal.key";
/// Exports at once.
const STREAMS_MAX: usize = 4;
/// Wrong tokens of one address, a minute.
const STRANGERS_PER_MINUTE_MAX: u32 = 60;

/// Why there is no portal.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its keys.
    #[error(transparent)]
    Key(#[from] token::Error),
    /// Its certificate.
    #[error("the portal cannot use {}: {reason}", path.display())]
    Certificate {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The system.
    #[error("the portal cannot start")]
    Start(#[from] std::io::Error),
    /// The database.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// What every answer comes from.
pub struct Portal {
    /// The ledger's database, over connections that only the portal uses.
    pub store: Store,
    /// `[[meters]]`, the default ones among them.
    pub meters: Vec<Meter>,
    /// `[[budgets]]`.
    pub budgets: Vec<Budget>,
    /// `[portal]`.
    pub settings: config::Portal,
    /// How the ledger is.
    pub vitals: Arc<Vitals>,
    /// So long single sessions and requests are kept.
    pub details_keep_days: u32,
    prometheus: PrometheusHandle,
    accesses: accesses::Accesses,
    /// Answers questions to the archive, where there is one.
    queries: Option<queries::Queries>,
    /// Exports that may run at once.
    streams: Arc<Semaphore>,
    keys: token::PublicKeys,
    entry: login::Entry,
    rates: rates::Rates<blake3::Hash>,
    strangers: rates::Rates<std::net::IpAddr>,
}

/// What a portal is made of.
pub struct Setting {
    /// `[portal]`.
    pub portal: config::Portal,
    /// Where a key of its own lies.
    pub state_dir: PathBuf,
    /// The ledger's database.
    pub database: String,
    /// `[ledger] details_keep_days`.
    pub details_keep_days: u32,
    /// `[[meters]]`.
    pub meters: Vec<Meter>,
    /// `[[budgets]]`.
    pub budgets: Vec<Budget>,
    /// What answers questions to the archive; none: there is none.
    pub queries: Option<queries::Program>,
    /// How the ledger is.
    pub vitals: Arc<Vitals>,
    /// Where metrics are gathered.
    pub prometheus: PrometheusHandle,
}

/// A running portal.
pub struct Serving {
    stop: tokio::sync::watch::Sender<bool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Serving {
    /// No more connections; answers under way have five seconds.
    pub fn end(mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the portal has died of a bug");
        }
    }
}

/// Serves on a thread of its own. None where the file says `listen = "off"`.
pub fn start(setting: Setting) -> Result<Option<Serving>, Error> {
    let Some(listen) = setting.portal.listen else { return Ok(None) };
    let tls = setting.portal.tls.as_ref().map(listener::acceptor).transpose()?;
    let (keys, own_key) = keys(&setting.portal, &setting.state_dir)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let store = runtime.block_on(Store::open(&setting.database))?;
    let portal = Arc::new(Portal {
        accesses: accesses::Accesses::start(store.clone(), &runtime),
        queries: setting.queries.map(queries::Queries::new),
        streams: Arc::new(Semaphore::new(STREAMS_MAX)),
        details_keep_days: setting.details_keep_days,
        store,
        meters: setting.meters,
        budgets: setting.budgets,
        vitals: setting.vitals,
        prometheus: setting.prometheus,
        keys,
        entry: login::Entry::new(own_key),
        rates: rates::Rates::new(setting.portal.requests_per_minute_max),
        strangers: rates::Rates::new(STRANGERS_PER_MINUTE_MAX),
        settings: setting.portal,
    });
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let thread = std::thread::Builder::new().name("portal".to_owned()).spawn(move || {
        runtime.block_on(listener::serve(listen, tls, portal, stopped));
        // A query that hangs does not hold up the end.
        runtime.shutdown_timeout(Duration::from_secs(1));
    })?;
    Ok(Some(Serving { stop, thread: Some(thread) }))
}

/// The keys that are configured, or one of its own.
fn keys(settings: &config::Portal, state_dir: &Path) -> Result<(token::PublicKeys, Option<token::SigningKey>), Error> {
    let valid_max = settings.token_valid_max;
    if !settings.public_keys.is_empty() {
        return Ok((token::PublicKeys::read(&settings.public_keys, valid_max)?, None));
    }
    let path = state_dir.join(OWN_KEY);
    std::fs::create_dir_all(state_dir)?;
    let key = if path.exists() { token::SigningKey::read(&path)? } else { token::SigningKey::make(&path)? };
    Ok((token::PublicKeys::read(&[token::public_path(&path)], valid_max)?, Some(key)))
}

/// Everything there is, behind the guard.
pub fn routes(portal: &Arc<Portal>) -> Router {
    let routes =
        Router::new().merge(api::routes()).merge(health::routes()).merge(login::routes()).merge(pages::routes());
    routes
        .fallback(|| async {
            Problem::new(axum::http::StatusCode::NOT_FOUND, "there is nothing here: see /openapi.json")
        })
        .method_not_allowed_fallback(|| async {
            Problem::new(axum::http::StatusCode::METHOD_NOT_ALLOWED, "not with this method: see /openapi.json")
        })
        .layer(from_fn_with_state(portal.clone(), guard::guard))
        .layer(from_fn(pages::errors_as_pages))
        .with_state(portal.clone())
}
