//! `weir demo`: the whole chain on one machine, with an origin and traffic of its own.
//!
//! ```text
//! clients (thread) ⇄ weir run (a process, this binary) ⇄ origin (thread)
//!    │ own socket counts      │ journal ──► weir ledger (a process) ──► usage · page
//!    └────────► report ◄── tally ──► screen                              │
//!                  ▲──────────────────────────────────────────────────────┘
//! ```
//!
//! Nothing is simulated: the traffic goes through sockets and the real sidecar, and what is shown is read from its journal
//! and its admin listener. At the end the records are held against what the clients and their kernel counted; it fails if
//! one octet is not explained, or if the ledger says another number.

mod ledger;
mod load;
mod origin;
mod report;
mod screen;
mod sidecar;
mod socket;
mod tally;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::cli::DemoArgs;
use ledger::Ledger;
use report::Report;
use screen::{Screen, Style};
use sidecar::Sidecar;
use socket::Totals;
use tally::Tally;

/// Between two looks at the journal.
const TICK: Duration = Duration::from_millis(100);

/// Runs until its time is over or it is interrupted.
pub fn run(args: &DemoArgs) -> anyhow::Result<()> {
    let interrupted = interrupts()?;
    let origin = origin::start()?;
    let mut sidecar = Sidecar::start(origin)?;
    let mut ledger = Ledger::start(&sidecar.directory)?;
    let mut tally = Tally::new(&sidecar.state_dir());
    let style = Style::of_output();
    let (bold, dim, off) = (style.bold, style.dim, style.off);
    println!("{bold}weir demo{off}   five customers, one sidecar, every octet counted");
    println!("  {bold}page      {}{off}   {dim}lets you in once, within ten minutes{off}", ledger.page);
    println!("  admin     http://{}   {dim}/sessions /metrics /config /readyz{off}", sidecar.admin);
    println!("  listeners http://{} and raw tcp {}", sidecar.targets.http, sidecar.targets.tcp);
    println!("  records   weir events --follow --state {}", sidecar.state_dir().display());
    println!("  usage     weir usage --by account --config {}\n", sidecar.directory.join("weir.toml").display());

    let totals = Arc::new(Totals::default());
    let clients = load::start(sidecar.targets, totals.clone())?;
    let started = Instant::now();
    let mut screen = Screen::new();
    let length = args.seconds.map(Duration::from_secs);
    while !interrupted.load(Ordering::Relaxed) && length.is_none_or(|length| started.elapsed() < length) {
        std::thread::sleep(TICK);
        sidecar.check()?;
        tally.read()?;
        if screen.is_due() {
            let remaining = length.map(|length| length.saturating_sub(started.elapsed()).as_secs());
            screen.draw(&tally, &sidecar.live().unwrap_or_default(), remaining)?;
        }
    }
    println!("\n  {dim}ending: clients finish what they began, weir drains{off}\n");
    totals.stop.store(true, Ordering::Relaxed);
    if clients.join().is_err() {
        bail!("the clients died of a bug");
    }
    sidecar.drain()?;
    tally.read()?;

    let said = ledger.finish()?;
    let mut report = Report::new(&tally, &totals);
    report.unexplained.extend(said.differences(&tally));
    report.print(style);
    said.print(style);
    if report.unexplained.is_empty() {
        return sidecar.remove();
    }
    bail!(
        "{} counts are not explained; the journal stays in {}",
        report.unexplained.len(),
        sidecar.state_dir().display()
    );
}

/// Set once the user, or the system, wants it to end.
fn interrupts() -> anyhow::Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let set = interrupted.clone();
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                let Ok(mut terminate) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
                else {
                    return;
                };
                tokio::select! {
                    _ = tokio::signal::ctrl_c() => {}
                    _ = terminate.recv() => {}
                }
                set.store(true, Ordering::Relaxed);
            });
        })
        .context("cannot listen for signals")?;
    Ok(interrupted)
}
