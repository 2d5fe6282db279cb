//! `[alerts]` and `[[budgets]]`.

use std::path::PathBuf;
use std::time::Duration;

use http::Uri;
use serde::Serialize;

use super::serialized;

/// `[alerts]`: who learns that a budget is nearly used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Alerts {
    /// None: the pages alone show them.
    #[serde(flatten)]
    pub webhook: Option<Webhook>,
    /// How often budgets are looked at.
    #[serde(rename = "look_interval_ms", serialize_with = "serialized::milliseconds")]
    pub look_interval: Duration,
    /// A failed attempt is followed by another after this, then after twice as long.
    #[serde(rename = "retry_first_ms", serialize_with = "serialized::milliseconds")]
    pub retry_first: Duration,
    /// After this there are no more attempts.
    #[serde(rename = "give_up_s", serialize_with = "serialized::seconds")]
    pub give_up: Duration,
}

/// Where alerts go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Webhook {
    /// `http://…` or `https://…`.
    #[serde(rename = "webhook", serialize_with = "serialized::uri")]
    pub uri: Uri,
    /// File of the secret that they are signed with.
    #[serde(serialize_with = "serialized::path")]
    pub secret: PathBuf,
}

/// `[[budgets]]`: what an account wants to use at most.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Budget {
    /// Whose; `*`: each account has as much.
    pub account: String,
    /// Of what.
    pub meter: String,
    /// In the meter's unit.
    pub amount: i64,
    /// In which time.
    pub period: BudgetPeriod,
    /// When to say so.
    pub thresholds_percent: Vec<i64>,
}

/// How long a budget is for; UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BudgetPeriod {
    /// From the first to the last of a month.
    Month,
    /// From midnight to midnight.
    Day,
}
