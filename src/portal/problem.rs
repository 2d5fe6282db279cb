//! Errors: one JSON form (RFC 9457), which says what is wrong and what to do. What happened inside stays in the log.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tracing::error;

use crate::store;

/// An answer that is an error. It is in the response's extensions too, for whoever shows it as a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The status.
    pub status: StatusCode,
    /// What is wrong and what to do.
    pub detail: String,
    /// Try again after so many seconds.
    pub retry_after_s: Option<u64>,
}

impl Problem {
    /// Any.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), retry_after_s: None }
    }

    /// The request cannot be understood.
    pub fn bad(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// Nobody has said who asks.
    pub fn unauthorised(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, detail)
    }

    /// Whoever asks may not see it.
    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, detail)
    }

    /// Try again after so many seconds.
    pub(super) fn busy(status: StatusCode, detail: impl Into<String>, retry_after_s: u64) -> Self {
        Self { status, detail: detail.into(), retry_after_s: Some(retry_after_s) }
    }
}

impl From<store::Error> for Problem {
    fn from(error: store::Error) -> Self {
        error!(error = %format!("{:#}", anyhow::Error::from(error)), "the portal cannot read the ledger");
        Self::busy(StatusCode::SERVICE_UNAVAILABLE, "the ledger's database does not answer: try again", 5)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let title = self.status.canonical_reason().unwrap_or("error");
        let body = json!({ "status": self.status.as_u16(), "title": title, "detail": self.detail });
        let mut response = (self.status, format!("{body}\n")).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        response.extensions_mut().insert(self);
        response
    }
}
