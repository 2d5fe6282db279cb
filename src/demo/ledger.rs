//! The demo's ledger: this very binary as a process of its own, `weir ledger --config`, beside the sidecar; and what it says at the end.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::screen::Style;
use super::tally::Tally;
use crate::cli::LedgerPlace;
use crate::config::Meter;
use crate::ledger_command::{Setting, runtime};
use crate::rollup::{amount, nodes};
use crate::store::{Filter, Found, Group, Kind, Series, Sums};
use crate::units::grouped;

/// It shows its page within this, or the demo gives up.
const START_MAX: Duration = Duration::from_secs(20);

/// A running ledger.
pub struct Ledger {
    child: Child,
    /// A link to its page that lets the operator in, once.
    pub page: String,
    directory: PathBuf,
}

/// What it says when everything was read.
pub struct Said {
    found: Found,
    usage: Vec<(Series, i64, Sums)>,
    meters: Vec<Meter>,
}

impl Ledger {
    /// Starts it on the sidecar's configuration in this directory, and waits until it shows its page.
    pub fn start(directory: &Path) -> anyhow::Result<Self> {
        let said = directory.join("ledger.out");
        let child =
            command(directory, &[])?.stdout(File::create(&said)?).spawn().context("cannot start weir ledger")?;
        let mut ledger = Self { child, page: String::new(), directory: directory.to_owned() };
        let deadline = Instant::now() + START_MAX;
        while ledger.page.is_empty() {
            // The line is whole once its end is there.
            let text = std::fs::read_to_string(&said)?;
            let link =
                text.split_inclusive('\n').filter(|line| line.ends_with('\n')).find_map(|line| line.split_once(": "));
            if let Some((_, link)) = link {
                link.trim().clone_into(&mut ledger.page);
            } else if Instant::now() > deadline || ledger.child.try_wait()?.is_some() {
                bail!("weir ledger does not show its page; its log: {}", directory.join("ledger.log").display());
            } else {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(ledger)
    }

    /// Lets it read what the sidecar wrote to its end, and asks it.
    pub fn finish(&mut self) -> anyhow::Result<Said> {
        let pid =
            i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("weir ledger has no process id")?;
        if let Some(status) = self.child.try_wait()? {
            bail!(
                "weir ledger has ended by itself ({status}); its log: {}",
                self.directory.join("ledger.log").display()
            );
        }
        kill_process(pid, Signal::TERM)?;
        let ended = self.child.wait()?;
        // What came after its last batch.
        let rest = command(&self.directory, &["--once"])?.status().context("cannot start weir ledger")?;
        if !ended.success() || !rest.success() {
            bail!(
                "weir ledger ended with {ended} and {rest}; its log: {}",
                self.directory.join("ledger.log").display()
            );
        }
        let setting = Setting::of(&LedgerPlace { config: Some(self.directory.join("weir.toml")), state: None })?;
        let (found, usage) = runtime()?.block_on(async {
            let store = setting.store().await?;
            anyhow::Ok((store.load().await?, store.usage(&Filter::default(), Group::Series).await?))
        })?;
        Ok(Said { found, usage, meters: setting.meters })
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        // Only where the demo failed half-way.
        if matches!(self.child.try_wait(), Ok(None)) {
            self.child.kill().unwrap_or_default();
            self.child.wait().map(drop).unwrap_or_default();
        }
    }
}

fn command(directory: &Path, more: &[&str]) -> anyhow::Result<Command> {
    let log = File::options().create(true).append(true).open(directory.join("ledger.log"))?;
    let mut command = Command::new(std::env::current_exe().context("this program's file is gone")?);
    command.arg("ledger").arg("--config").arg(directory.join("weir.toml")).args(more);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    Ok(command)
}

impl Said {
    /// Each a sentence; empty when the ledger says to the octet what the records do.
    pub fn differences(&self, tally: &Tally) -> Vec<String> {
        let sum = |of: &dyn Fn(&Series, &Sums) -> i64| -> i64 {
            self.usage.iter().map(|(series, _, sums)| of(series, sums)).sum()
        };
        let moved = &tally.moved;
        let mut differences = Vec::new();
        for (what, ledger, records) in [
            ("requests", sum(&|_, sums| sums.requests), tally.requests),
            ("sessions", sum(&|_, sums| sums.sessions), tally.sessions),
            ("octets received", sum(&|_, sums| sums.bytes[2]), moved.received_wire),
            ("octets sent", sum(&|_, sums| sums.bytes[5]), moved.sent_wire),
            ("octets acknowledged", sum(&|_, sums| sums.bytes[6]), moved.sent_acked),
        ] {
            if u64::try_from(ledger) != Ok(records) {
                differences.push(format!("{what}: {ledger} in the ledger, {} in records", grouped(records)));
            }
        }
        let missing = self.found.gaps.len() + self.found.items.len();
        if missing > 0 {
            differences.push(format!("the ledger misses records: {missing} gaps and open items"));
        }
        differences
    }

    /// For people.
    pub fn print(&self, style: Style) {
        let Style { bold, dim, off, .. } = style;
        println!("\n  {bold}usage{off}  {dim}from the ledger{off}");
        print!("  {dim}{:<20}", "account");
        for meter in &self.meters {
            print!(" {:>17}", meter.name);
        }
        println!("{off}");
        let mut accounts: Vec<&str> = self.usage.iter().map(|(series, ..)| series.account.as_str()).collect();
        accounts.sort_unstable();
        accounts.dedup();
        for account in accounts {
            print!("  {account:<20}");
            for meter in &self.meters {
                let rows =
                    self.usage.iter().filter(|(series, ..)| series.account == account && series.kind != Kind::Gap);
                let sum = rows.map(|(series, _, sums)| amount(meter, series, sums)).sum();
                let sum = crate::rollup::shown(meter, sum);
                print!(" {:>17}", grouped(u64::try_from(sum).unwrap_or(0)));
            }
            println!();
        }
        let nodes = nodes(&self.found.streams, &self.found.gaps, &self.found.periods, &self.found.lost);
        if nodes.iter().all(|node| node.complete_until_us.is_none()) {
            println!("  {dim}complete: every record of {} node came{off}", nodes.len());
        }
    }
}
