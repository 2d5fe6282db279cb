//! The pages: usage as customers and operators look at it. HTML from the server, usable without a script, from 320 px up, light and dark.
//!
//! | path | shows | file |
//! |---|---|---|
//! | `/` | a period: figures, chart, breakdowns, what was not billed | `usage.rs` |
//! | `/sessions`, `/requests` | what lies behind a bar: sessions, live and past; their requests | `sessions.rs` |
//! | `/why` | the formula of a figure, and the records behind it, with the ranges of seqs | `why.rs` |
//! | `/record` | one record, field by field | `record.rs` |
//! | `/alerts` | budgets, where each stands, what fired | `alerts.rs` |
//! | `/audit` | operators: every step side by side | `audit.rs` |
//! | `/archive`, `/archive/reports/{name}` | questions to the archive, and reports | `archive.rs` |
//! | `/login` | asks for a token | `login.rs` |
//! | `/static/…` | style sheet, script and uPlot, under names that hold their hash, kept for ever | `assets.rs` |
//!
//! **Who sees what**: [`super::Viewer::account`] says whose usage a page is about; nothing here looks at any other account.
//! **Numbers** are shown twice, for people and exact. **Every figure links to why it is that number.**
//! **Charts** are SVG with a link in each bar and a table below; where there is a script, uPlot draws the same numbers from that table.
//! **Errors** become a page where a browser asked ([`errors_as_pages`]).

mod alerts;
mod archive;
mod assets;
mod audit;
mod audit_part;
mod chart;
mod frame;
mod login;
mod number;
mod record;
mod sessions;
mod usage;
mod why;

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use maud::Markup;

use super::guard::wants_page;
use super::{Portal, Problem};

/// All pages.
pub(super) fn routes() -> Router<Arc<Portal>> {
    Router::new()
        .route("/", get(usage::page))
        .route("/sessions", get(sessions::sessions))
        .route("/requests", get(sessions::requests))
        .route("/record", get(record::page))
        .route("/why", get(why::page))
        .route("/alerts", get(alerts::page))
        .route("/audit", get(audit::page))
        .route("/archive", get(archive::page).post(archive::answer))
        .route("/archive/reports/{name}", get(archive::report))
        .route("/login", get(login::page))
        .route("/static/{file}", get(assets::file))
}

/// HTML.
fn html(page: Markup) -> Response {
    let kind = HeaderValue::from_static("text/html; charset=utf-8");
    ([(header::CONTENT_TYPE, kind)], page.into_string()).into_response()
}

/// Where a browser asked, an error is a page that says what to do.
pub(super) async fn errors_as_pages(request: Request, next: Next) -> Response {
    let is_page = wants_page(request.headers()) && !request.uri().path().starts_with("/v1/");
    let mut response = next.run(request).await;
    if !is_page {
        return response;
    }
    let Some(problem) = response.extensions().get::<Problem>().cloned() else { return response };
    let page = frame::problem(&problem).into_string();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.remove(header::CONTENT_LENGTH);
    let (parts, _) = response.into_parts();
    Response::from_parts(parts, page.into())
}
