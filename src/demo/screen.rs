//! What is seen while it runs: a table redrawn in place on a terminal, a line a second elsewhere.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use super::sidecar::Live;
use super::tally::{Account, Tally};
use crate::units::grouped;

/// Between two drawings, and between two lines.
const REDRAW: Duration = Duration::from_millis(500);
const LINE: Duration = Duration::from_secs(1);
/// Rates are means over this many drawings.
const RATE_DRAWINGS: usize = 4;

/// How text is told apart on a terminal; nothing elsewhere.
#[derive(Clone, Copy)]
pub struct Style {
    /// Begins what stands out.
    pub bold: &'static str,
    /// Begins what stands back.
    pub dim: &'static str,
    /// Begins what is good.
    pub good: &'static str,
    /// Begins what is not.
    pub bad: &'static str,
    /// Ends each of them.
    pub off: &'static str,
}

impl Style {
    /// For this standard output; plain where colours are not wanted (`NO_COLOR`).
    pub fn of_output() -> Self {
        if io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
            return Self { bold: "\x1b[1m", dim: "\x1b[2m", good: "\x1b[32m", bad: "\x1b[31m", off: "\x1b[0m" };
        }
        Self { bold: "", dim: "", good: "", bad: "", off: "" }
    }
}

/// The live view.
pub struct Screen {
    is_terminal: bool,
    style: Style,
    started: Instant,
    drawn_at: Option<Instant>,
    /// Lines of the last drawing, to be drawn over.
    lines: usize,
    /// Earlier sums, oldest first.
    before: Vec<(Instant, BTreeMap<String, Account>)>,
}

impl Screen {
    /// For this standard output.
    pub fn new() -> Self {
        Self {
            is_terminal: io::stdout().is_terminal(),
            style: Style::of_output(),
            started: Instant::now(),
            drawn_at: None,
            lines: 0,
            before: Vec::new(),
        }
    }

    /// True when it is time to draw.
    pub fn is_due(&self) -> bool {
        let every = if self.is_terminal { REDRAW } else { LINE };
        self.drawn_at.is_none_or(|at| at.elapsed() >= every)
    }

    /// Shows how it stands. `remaining`: seconds to the end, where there is one.
    pub fn draw(&mut self, tally: &Tally, live: &Live, remaining: Option<u64>) -> io::Result<()> {
        let now = Instant::now();
        self.drawn_at = Some(now);
        self.before.push((now, tally.accounts.clone()));
        if self.before.len() > RATE_DRAWINGS + 1 {
            self.before.remove(0);
        }
        let mut out = io::stdout().lock();
        if !self.is_terminal {
            let sum = tally.accounts.values().fold(Account::default(), |sum, account| sum.plus(account));
            return writeln!(
                out,
                "{:>4} s  sessions {:>3} open {:>6} closed  requests {:>8}  in {:>9}  out {:>9}",
                self.started.elapsed().as_secs(),
                live.open,
                grouped(tally.sessions),
                grouped(sum.requests),
                bytes(sum.received_bytes),
                bytes(sum.sent_bytes),
            );
        }
        let text = self.table(tally, live, remaining);
        if self.lines > 0 {
            write!(out, "\x1b[{}A\x1b[J", self.lines)?;
        }
        self.lines = text.lines().count();
        out.write_all(text.as_bytes())?;
        out.flush()
    }

    fn table(&self, tally: &Tally, live: &Live, remaining: Option<u64>) -> String {
        let Style { bold, dim, off, .. } = self.style;
        let elapsed = self.started.elapsed().as_secs();
        let mut text = String::new();
        let ends = match remaining {
            Some(seconds) => format!("ends in {seconds} s"),
            None => "Ctrl-C ends it".to_owned(),
        };
        // Writing to a String cannot fail.
        let mut line = |line: String| writeln!(text, "{line}").unwrap_or_default();
        line(format!(
            "  {:02}:{:02}   sessions {bold}{}{off} open, {} closed   records {}   {dim}{ends}{off}",
            elapsed / 60,
            elapsed % 60,
            live.open,
            grouped(tally.sessions),
            grouped(tally.records),
        ));
        line(String::new());
        line(format!(
            "  {dim}{:<12} {:>10} {:>11} {:>11}   {:>7} {:>12} {:>12}{off}",
            "account", "requests", "in", "out", "req/s", "in/s", "out/s"
        ));
        let mut sum = (Account::default(), Rate::default());
        for (name, account) in &tally.accounts {
            let rate = self.rate(name, account);
            sum = (sum.0.plus(account), sum.1.plus(&rate));
            line(row(name, account, &rate));
        }
        line(format!("{bold}{}{off}", row("all", &sum.0, &sum.1)));
        line(String::new());
        line(format!(
            "  {dim}{:<12} {:>10} {:>11} {:>11}   {:>7} {:>12}{off}",
            "open now", "protocol", "in", "out", "age", "client port"
        ));
        let now_us = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_micros();
        for place in 0..5 {
            line(live.sessions.get(place).map_or_else(String::new, |session| {
                let age_us = now_us.saturating_sub(u128::try_from(session.started_at).unwrap_or(0));
                // An HTTP session belongs to nobody; its requests do.
                let account = if session.protocol == "tcp" { session.account.as_str() } else { "by request" };
                format!(
                    "  {:<12} {:>10} {:>11} {:>11}   {:>5}.{} {:>12}",
                    account,
                    session.protocol,
                    bytes(session.received_wire_bytes),
                    bytes(session.sent_wire_bytes),
                    age_us / 1_000_000,
                    age_us / 100_000 % 10,
                    session.client_port,
                )
            }));
        }
        text
    }

    fn rate(&self, name: &str, now: &Account) -> Rate {
        let Some((at, accounts)) = self.before.first() else { return Rate::default() };
        let elapsed_ms = u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX);
        let then = accounts.get(name).copied().unwrap_or_default();
        if elapsed_ms < 100 {
            return Rate::default();
        }
        let per_s = |now: u64, then: u64| now.saturating_sub(then).saturating_mul(1000) / elapsed_ms;
        Rate {
            requests: per_s(now.requests, then.requests),
            received_bytes: per_s(now.received_bytes, then.received_bytes),
            sent_bytes: per_s(now.sent_bytes, then.sent_bytes),
        }
    }
}

/// Per second.
#[derive(Default)]
struct Rate {
    requests: u64,
    received_bytes: u64,
    sent_bytes: u64,
}

impl Rate {
    fn plus(&self, other: &Self) -> Self {
        Self {
            requests: self.requests + other.requests,
            received_bytes: self.received_bytes + other.received_bytes,
            sent_bytes: self.sent_bytes + other.sent_bytes,
        }
    }
}

impl Account {
    fn plus(&self, other: &Self) -> Self {
        Self {
            requests: self.requests + other.requests,
            received_bytes: self.received_bytes + other.received_bytes,
            sent_bytes: self.sent_bytes + other.sent_bytes,
        }
    }
}

fn row(name: &str, account: &Account, rate: &Rate) -> String {
    format!(
        "  {:<12} {:>10} {:>11} {:>11}   {:>7} {:>12} {:>12}",
        name,
        grouped(account.requests),
        bytes(account.received_bytes),
        bytes(account.sent_bytes),
        grouped(rate.requests),
        bytes(rate.received_bytes) + "/s",
        bytes(rate.sent_bytes) + "/s",
    )
}

/// Octets for people: three or four digits and a decimal unit.
fn bytes(n: u64) -> String {
    let mut unit = "B";
    let (mut whole, mut tenths) = (n, None);
    for larger in ["kB", "MB", "GB", "TB"] {
        if whole < 1000 {
            break;
        }
        tenths = Some(whole / 100 % 10);
        whole /= 1000;
        unit = larger;
    }
    match tenths {
        Some(tenths) => format!("{whole}.{tenths} {unit}"),
        None => format!("{whole} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_people_write_them() {
        for (n, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(n), text);
        }
        for (n, text) in
            [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1_950_000, "1.9 MB"), (12_300_000_000, "12.3 GB")]
        {
            assert_eq!(bytes(n), text);
        }
    }
}
