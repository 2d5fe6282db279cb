//! The demo's weir: this very binary as a process of its own, `weir run --config`, with its state in a directory that goes
//! when the demo has ended well.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;

use super::load::{HOSTS, Targets};
use super::origin::Origin;

/// It serves within this, or the demo gives up.
const START_MAX: Duration = Duration::from_secs(20);
/// It has drained within this, or is killed.
const DRAIN_MAX: Duration = Duration::from_secs(20);

/// So small that the page of alerts has something to show within a minute.
const BUDGETS: [(&str, &str, u64); 3] = [
    ("acme", "requests", 20_000),
    ("globex", "egress_bytes", 1_000_000_000),
    ("umbrella", "egress_bytes", 100_000_000),
];

/// A running weir.
pub struct Sidecar {
    child: Child,
    /// Its directory: configuration, log, state.
    pub directory: PathBuf,
    /// Its operator's listener.
    pub admin: SocketAddr,
    /// What clients connect to.
    pub targets: Targets,
}

/// As `GET /sessions` answers.
#[derive(Deserialize, Default)]
pub struct Live {
    /// How many are open.
    pub open: usize,
    /// Those that moved most.
    pub sessions: Vec<LiveSession>,
}

/// One of them.
#[derive(Deserialize)]
#[allow(missing_docs)] // named as in records
pub struct LiveSession {
    pub client_port: u16,
    pub account: String,
    pub protocol: String,
    pub started_at: i64,
    pub received_wire_bytes: u64,
    pub sent_wire_bytes: u64,
}

impl Sidecar {
    /// Starts it in front of an origin and waits until it serves.
    pub fn start(origin: Origin) -> anyhow::Result<Self> {
        let directory = std::env::temp_dir().join(format!("weir-demo-{}", std::process::id()));
        std::fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let [http, tcp, admin, portal] = free_addresses()?;
        let targets = Targets { http, tcp };
        let config = directory.join("weir.toml");
        std::fs::write(&config, configuration(origin, targets, admin, portal))?;
        let log = File::create(directory.join("weir.log"))?;
        let child = Command::new(std::env::current_exe().context("this program's file is gone")?)
            .arg("run")
            .arg("--config")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            // A Ctrl-C at the terminal is the demo's to act on.
            .process_group(0)
            .spawn()
            .context("cannot start weir run")?;
        let mut sidecar = Self { child, directory, admin, targets };
        let deadline = Instant::now() + START_MAX;
        while sidecar.ask("/readyz").is_err() {
            sidecar.check()?;
            if Instant::now() > deadline {
                bail!("weir run does not get ready; its log: {}", sidecar.log_path().display());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(sidecar)
    }

    /// Where its state is.
    pub fn state_dir(&self) -> PathBuf {
        self.directory.join("state")
    }

    fn log_path(&self) -> PathBuf {
        self.directory.join("weir.log")
    }

    /// An error if it has ended by itself.
    pub fn check(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            let log = std::fs::read_to_string(self.log_path()).unwrap_or_default();
            bail!("weir run has ended by itself ({status}): {}", log.lines().last().unwrap_or("no log"));
        }
        Ok(())
    }

    /// The open sessions that moved most.
    pub fn live(&self) -> anyhow::Result<Live> {
        Ok(serde_json::from_str(&self.ask("/sessions?limit=5")?)?)
    }

    /// A 200's body from its admin listener.
    fn ask(&self, path: &str) -> anyhow::Result<String> {
        let mut stream = TcpStream::connect_timeout(&self.admin, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        write!(stream, "GET {path} HTTP/1.0\r\nhost: weir\r\n\r\n")?;
        let mut answer = String::new();
        stream.take(1 << 20).read_to_string(&mut answer)?;
        match answer.split_once("\r\n\r\n") {
            Some((head, body)) if head.split(' ').nth(1) == Some("200") => Ok(body.to_owned()),
            _ => bail!("no answer from the admin listener"),
        }
    }

    /// Tells it to drain and waits until it has ended.
    pub fn drain(&mut self) -> anyhow::Result<()> {
        self.check()?;
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("weir run has no process id")?;
        kill_process(pid, Signal::TERM)?;
        let deadline = Instant::now() + DRAIN_MAX;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                return if status.success() { Ok(()) } else { bail!("weir run ended with {status}") };
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("weir run does not end; its log: {}", self.log_path().display())
    }

    /// Removes all that it left.
    pub fn remove(&self) -> anyhow::Result<()> {
        remove(&self.directory)
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        // Only where the demo failed half-way: it has been waited for otherwise, and the kill says so.
        if matches!(self.child.try_wait(), Ok(None)) {
            self.child.kill().unwrap_or_default();
            self.child.wait().map(drop).unwrap_or_default();
        }
    }
}

fn remove(directory: &Path) -> anyhow::Result<()> {
    std::fs::remove_dir_all(directory).with_context(|| format!("cannot remove {}", directory.display()))
}

/// Addresses that were free a moment ago.
fn free_addresses() -> std::io::Result<[SocketAddr; 4]> {
    let [a, b, c, d] = [bind()?, bind()?, bind()?, bind()?];
    Ok([a.local_addr()?, b.local_addr()?, c.local_addr()?, d.local_addr()?])
}

fn bind() -> std::io::Result<TcpListener> {
    TcpListener::bind("127.0.0.1:0")
}

fn configuration(origin: Origin, targets: Targets, admin: SocketAddr, portal: SocketAddr) -> String {
    let mut text = format!(
        "# Made by `weir demo`.\n\
         node = \"demo\"\n\
         state_dir = \"state\"\n\
         checkpoint_interval_ms = 500\n\n\
         [admin]\n\
         listen = \"{admin}\"\n\n\
         [portal]\n\
         listen = \"{portal}\"\n\n\
         [[listeners]]\n\
         name = \"web\"\n\
         listen = \"{}\"\n\
         upstream = \"{}\"\n\n\
         [[listeners]]\n\
         name = \"raw\"\n\
         kind = \"tcp\"\n\
         listen = \"{}\"\n\
         upstream = \"{}\"\n\
         account = \"umbrella\"\n",
        targets.http, origin.http, targets.tcp, origin.tcp
    );
    for (account, meter, amount) in BUDGETS {
        text.push_str(&format!("\n[[budgets]]\naccount = \"{account}\"\nmeter = \"{meter}\"\namount = {amount}\n"));
    }
    for (account, host) in HOSTS {
        text.push_str(&format!(
            "\n[[attribution]]\nname = \"{account}-host\"\nhost = \"{host}\"\naccount = \"{account}\"\n"
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn the_configuration_is_good() {
        let address: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let text = configuration(
            Origin { http: address, tcp: address },
            Targets { http: "127.0.0.1:2".parse().unwrap(), tcp: "127.0.0.1:3".parse().unwrap() },
            "127.0.0.1:4".parse().unwrap(),
            "127.0.0.1:5".parse().unwrap(),
        );
        let config = Config::parse(&text, "demo", Path::new("/tmp")).unwrap();
        assert_eq!(config.attribution.len(), HOSTS.len());
        assert_eq!(config.budgets.len(), BUDGETS.len());
    }
}
