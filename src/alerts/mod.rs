//! Budgets: who is told when an account has used half, most or all of what it wanted to.
//!
//! ```text
//! usage of the period ─ standings (pure) ─► a threshold was passed ─ a row in the store, once ─► webhook ─► delivered
//!                                                                                          └─ not 2xx: again, later ─► given up
//! ```
//!
//! **Once.** The row's key is (account, meter, period, budget, threshold); only whoever inserts it has fired the alert. Restarts and
//! other ledgers find it there. The next period is another key, so it re-arms by itself; so does another amount. Usage that
//! comes late for a period that has just ended is looked at for an hour more.
//!
//! **At least once on the wire.** Before an attempt its number is raised by compare and set, so two ledgers never send at once. A ledger
//! that dies between the webhook's 200 and writing it down sends again after a minute: the receiver knows it by `weir-alert-id`.
//!
//! **When the webhook is away**: again after `retry_first_ms`, twice as long each time up to an hour, until `give_up_s`; then the row says
//! so and the log has an ERROR. When the store is away nothing is fired, and looked at again. Nothing here stops traffic or counting.

mod webhook;

use std::time::Duration;

use tracing::{error, info, warn};

use crate::clock::{Clock, HOUR_US};
use crate::config::{Alerts as Setting, Budget, BudgetPeriod, Meter};
use crate::rollup::{Window, amount, shown, window_end};
use crate::store::{Alert, AlertState, Error, Filter, Group, Series, Store, Sums};

/// A period that has ended is looked at for so long.
const LATE_US: i64 = HOUR_US;
/// An attempt whose end nobody wrote down is over by then.
const CLAIM_US: i64 = 60_000_000;
/// Longest wait between attempts.
const RETRY_MAX: Duration = Duration::from_secs(3600);

/// Where an account stands in one of its budgets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Whose.
    pub account: String,
    /// Of what.
    pub meter: String,
    /// Like `2026-11` or `2026-11-23`.
    pub period: String,
    /// Its first µs.
    pub from_us: i64,
    /// The first µs behind it.
    pub to_us: i64,
    /// All that is in it, in the meter's unit.
    pub budget: i64,
    /// What was used.
    pub used: i64,
    /// When to say so.
    pub thresholds_percent: Vec<i64>,
}

impl Standing {
    /// How much of it is used; whole percents, rounded down.
    pub fn percent(&self) -> i64 {
        let percent = i128::from(self.used.max(0)) * 100 / i128::from(self.budget.max(1));
        i64::try_from(percent).unwrap_or(i64::MAX)
    }

    /// Thresholds that were passed.
    pub fn passed(&self) -> impl Iterator<Item = i64> {
        let percent = self.percent();
        self.thresholds_percent.iter().copied().filter(move |threshold| percent >= *threshold)
    }
}

/// Where everybody stands at this time; of one account, or of all.
pub async fn standings(
    store: &Store,
    budgets: &[Budget],
    meters: &[Meter],
    account: Option<&str>,
    at_us: i64,
) -> Result<Vec<Standing>, Error> {
    let mut standings = Vec::new();
    for kind in [BudgetPeriod::Month, BudgetPeriod::Day] {
        let of_kind: Vec<&Budget> = budgets.iter().filter(|budget| budget.period == kind).collect();
        if of_kind.is_empty() {
            continue;
        }
        let window = if kind == BudgetPeriod::Month { Window::Month } else { Window::Day };
        let (period, from_us) = window.of(at_us);
        let to_us = window_end(window, at_us);
        let filter = Filter { account: account.map(str::to_owned), from_us, to_us };
        let usage = store.usage(&filter, Group::Series).await?;
        standings.extend(stand(&of_kind, meters, account, (&period, from_us, to_us), &usage));
    }
    standings
        .sort_by(|a, b| (&a.account, &a.meter, a.from_us, a.budget).cmp(&(&b.account, &b.meter, b.from_us, b.budget)));
    Ok(standings)
}

/// Pure: where accounts stand in budgets of one period, whose usage this is.
fn stand(
    budgets: &[&Budget],
    meters: &[Meter],
    account: Option<&str>,
    (period, from_us, to_us): (&str, i64, i64),
    usage: &[(Series, i64, Sums)],
) -> Vec<Standing> {
    let mut standings = Vec::new();
    for budget in budgets {
        let Some(meter) = meters.iter().find(|meter| meter.name == budget.meter) else { continue };
        let mut accounts: Vec<&str> = if budget.account == "*" {
            usage.iter().map(|(series, ..)| series.account.as_str()).collect()
        } else {
            vec![&budget.account]
        };
        accounts.sort_unstable();
        accounts.dedup();
        for of in accounts.into_iter().filter(|of| account.is_none_or(|account| account == *of)) {
            let rows = usage.iter().filter(|(series, ..)| series.account == of);
            let used = shown(meter, rows.map(|(series, _, sums)| amount(meter, series, sums)).sum());
            standings.push(Standing {
                account: of.to_owned(),
                meter: meter.name.clone(),
                period: period.to_owned(),
                from_us,
                to_us,
                budget: budget.amount,
                used,
                thresholds_percent: budget.thresholds_percent.clone(),
            });
        }
    }
    standings
}

/// Looks at budgets, fires and delivers.
pub struct Alerts {
    store: Store,
    setting: Setting,
    budgets: Vec<Budget>,
    meters: Vec<Meter>,
}

impl Alerts {
    /// Of a ledger; none where there is no budget.
    pub fn new(store: Store, setting: Setting, budgets: Vec<Budget>, meters: Vec<Meter>) -> Option<Self> {
        (!budgets.is_empty()).then_some(Self { store, setting, budgets, meters })
    }

    /// For ever: looks, and looks again.
    pub async fn run(self) {
        let clock = Clock::anchored();
        loop {
            let now_us = clock.now_us() + clock.wall_ahead_us();
            if let Err(error) = self.look(now_us).await {
                let error = format!("{:#}", anyhow::Error::from(error));
                warn!(error, "budgets cannot be looked at; again in a moment");
            }
            tokio::time::sleep(self.setting.look_interval.min(self.setting.retry_first)).await;
        }
    }

    /// Fires what was passed, and sends what is due.
    pub async fn look(&self, now_us: i64) -> Result<(), Error> {
        let mut standings = standings(&self.store, &self.budgets, &self.meters, None, now_us).await?;
        for late in self::standings(&self.store, &self.budgets, &self.meters, None, now_us - LATE_US).await? {
            if !standings.contains(&late) {
                standings.push(late);
            }
        }
        let state = if self.setting.webhook.is_some() { AlertState::Waiting } else { AlertState::Shown };
        for standing in &standings {
            for percent in standing.passed() {
                let alert = Alert {
                    account: standing.account.clone(),
                    meter: standing.meter.clone(),
                    period: standing.period.clone(),
                    budget: standing.budget,
                    percent,
                    amount: standing.used,
                    passed_at_us: now_us,
                    state,
                    attempts: 0,
                    next_at_us: now_us,
                    delivered_at_us: 0,
                    problem: String::new(),
                };
                if self.store.fire(&alert).await? {
                    metrics::counter!("weir_alerts_fired_total").increment(1);
                    info!(
                        account = alert.account,
                        meter = alert.meter,
                        period = alert.period,
                        percent,
                        "a budget's threshold was passed"
                    );
                }
            }
        }
        for alert in self.store.due_alerts(now_us).await? {
            self.deliver(alert, now_us).await?;
        }
        Ok(())
    }

    async fn deliver(&self, mut alert: Alert, now_us: i64) -> Result<(), Error> {
        let Some(hook) = &self.setting.webhook else { return Ok(()) };
        if !self.store.claim_alert(&mut alert, now_us + CLAIM_US).await? {
            return Ok(());
        }
        // A kill right here: nobody knows whether it was sent, so it is sent again once the claim is over.
        match webhook::send(hook, &alert, now_us).await {
            Ok(()) => {
                alert.state = AlertState::Delivered;
                alert.delivered_at_us = now_us;
                alert.problem.clear();
                metrics::counter!("weir_alerts_delivered_total").increment(1);
            }
            Err(problem) => {
                metrics::counter!("weir_alerts_attempts_failed_total").increment(1);
                alert.problem = problem.to_string().chars().take(255).collect();
                alert.next_at_us = now_us + micros(self.wait(alert.attempts));
                if now_us - alert.passed_at_us >= micros(self.setting.give_up) {
                    alert.state = AlertState::GivenUp;
                    error!(id = alert.id(), %problem, "an alert could not be delivered and is given up");
                } else if alert.attempts == 1 {
                    warn!(id = alert.id(), %problem, "an alert could not be delivered: tried again");
                }
            }
        }
        self.store.tried_alert(&alert).await
    }

    /// Until the next attempt, after so many.
    fn wait(&self, attempts: i64) -> Duration {
        let doublings = u32::try_from(attempts.saturating_sub(1)).unwrap_or(u32::MAX).min(20);
        self.setting.retry_first.saturating_mul(1 << doublings).min(RETRY_MAX.max(self.setting.retry_first))
    }
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
