//! Alerts: one row for each threshold of a budget that was passed in a period. Whoever inserts it has fired it; whoever moves its
//! `attempts` on delivers it next, so that several ledgers fire it once and send it one at a time.

use sqlx::any::AnyRow;

use super::query::{number, text};
use super::{Error, Store, failed};

/// How far an alert is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlertState {
    /// Nobody knows of it yet but the pages: it is to be sent, or sent again.
    Waiting,
    /// The webhook has taken it.
    Delivered,
    /// Tried for as long as it makes sense, or the webhook refuses it.
    GivenUp,
    /// There is no webhook.
    Shown,
}

impl AlertState {
    const ALL: [(&'static str, Self); 4] = [
        ("waiting", Self::Waiting),
        ("delivered", Self::Delivered),
        ("given_up", Self::GivenUp),
        ("shown", Self::Shown),
    ];

    /// As it stands in the table.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, state)| *state == self).map_or("", |(name, _)| name)
    }
}

/// A threshold that was passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alert {
    /// Whose budget.
    pub account: String,
    /// Of what.
    pub meter: String,
    /// Like `2026-11` or `2026-11-23`.
    pub period: String,
    /// The whole of it, in the meter's unit.
    pub budget: i64,
    /// The threshold.
    pub percent: i64,
    /// What had been used when it was seen.
    pub amount: i64,
    /// When that was, µs.
    pub passed_at_us: i64,
    /// How far it is.
    pub state: AlertState,
    /// How often it was tried.
    pub attempts: i64,
    /// Not tried before, µs.
    pub next_at_us: i64,
    /// When the webhook took it, µs; 0 if it has not.
    pub delivered_at_us: i64,
    /// What the last attempt met with.
    pub problem: String,
}

impl Alert {
    /// The same for the same threshold of the same period: a receiver knows by it what it has had already.
    pub fn id(&self) -> String {
        let Self { account, meter, period, budget, percent, .. } = self;
        let all = format!("{account}\0{meter}\0{period}\0{budget}\0{percent}");
        crate::ids::hex(&blake3::hash(all.as_bytes()).as_bytes()[..16])
    }
}

const KEY: &str = "account = $1 AND meter = $2 AND period = $3 AND budget = $4 AND percent = $5";

impl Store {
    /// Fires an alert. False: that was done before, by whomever.
    pub async fn fire(&self, alert: &Alert) -> Result<bool, Error> {
        let done = sqlx::query(
            "INSERT INTO alerts (account, meter, period, budget, percent, amount, passed_at, state, attempts, next_at, delivered_at, problem) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0, $9, 0, '') ON CONFLICT DO NOTHING",
        )
        .bind(alert.account.clone())
        .bind(alert.meter.clone())
        .bind(alert.period.clone())
        .bind(alert.budget)
        .bind(alert.percent)
        .bind(alert.amount)
        .bind(alert.passed_at_us)
        .bind(alert.state.name())
        .bind(alert.next_at_us)
        .execute(&self.pool)
        .await
        .map_err(failed("fire an alert"))?;
        Ok(done.rows_affected() == 1)
    }

    /// Takes an alert to deliver it; nobody else does before `until_us`. False: somebody else has it.
    pub async fn claim_alert(&self, alert: &mut Alert, until_us: i64) -> Result<bool, Error> {
        let sql = format!(
            "UPDATE alerts SET attempts = attempts + 1, next_at = $6 WHERE {KEY} AND attempts = $7 AND state = 'waiting'"
        );
        let done = self.of_alert(sql, alert).bind(until_us).bind(alert.attempts).execute(&self.pool).await;
        let is_ours = done.map_err(failed("take an alert"))?.rows_affected() == 1;
        if is_ours {
            alert.attempts += 1;
            alert.next_at_us = until_us;
        }
        Ok(is_ours)
    }

    /// Writes down what came of an attempt, if nobody has begun another one since.
    pub async fn tried_alert(&self, alert: &Alert) -> Result<(), Error> {
        let sql = format!(
            "UPDATE alerts SET state = $6, next_at = $7, delivered_at = $8, problem = $9 WHERE {KEY} AND attempts = $10"
        );
        let query = self.of_alert(sql, alert).bind(alert.state.name()).bind(alert.next_at_us);
        let query = query.bind(alert.delivered_at_us).bind(alert.problem.clone()).bind(alert.attempts);
        query.execute(&self.pool).await.map_err(failed("write down what became of an alert"))?;
        Ok(())
    }

    fn of_alert(&self, sql: String, alert: &Alert) -> sqlx::query::Query<'static, sqlx::Any, sqlx::any::AnyArguments> {
        sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(alert.account.clone())
            .bind(alert.meter.clone())
            .bind(alert.period.clone())
            .bind(alert.budget)
            .bind(alert.percent)
    }

    /// Alerts that are to be sent now, the oldest first.
    pub async fn due_alerts(&self, now_us: i64) -> Result<Vec<Alert>, Error> {
        let sql =
            "SELECT * FROM alerts WHERE state = 'waiting' AND next_at <= $1 ORDER BY passed_at, percent LIMIT 100";
        let rows = sqlx::query(sql).bind(now_us).fetch_all(&self.pool).await.map_err(failed("read alerts"))?;
        rows.iter().map(alert_of).collect()
    }

    /// Alerts, the latest first; of one account, or of all.
    pub async fn alerts(&self, account: Option<&str>) -> Result<Vec<Alert>, Error> {
        let rows = match account {
            None => self.rows("read alerts", "SELECT * FROM alerts ORDER BY passed_at DESC, percent DESC").await?,
            Some(account) => {
                let sql = "SELECT * FROM alerts WHERE account = $1 ORDER BY passed_at DESC, percent DESC";
                self.rows_of("read alerts", sql, account).await?
            }
        };
        rows.iter().map(alert_of).collect()
    }
}

fn alert_of(row: &AnyRow) -> Result<Alert, Error> {
    let state = text(row, "state")?;
    let state = AlertState::ALL.iter().find(|(name, _)| *name == state).map_or(AlertState::Shown, |(_, state)| *state);
    Ok(Alert {
        account: text(row, "account")?,
        meter: text(row, "meter")?,
        period: text(row, "period")?,
        budget: number(row, "budget")?,
        percent: number(row, "percent")?,
        amount: number(row, "amount")?,
        passed_at_us: number(row, "passed_at")?,
        state,
        attempts: number(row, "attempts")?,
        next_at_us: number(row, "next_at")?,
        delivered_at_us: number(row, "delivered_at")?,
        problem: text(row, "problem")?,
    })
}
