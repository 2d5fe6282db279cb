//! The process under test: started as an operator starts it, killed as the kernel kills it.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use rustix::process::{Pid, Signal, kill_process};

use super::records::Records;
use super::{PATIENCE, until};

/// The binary.
pub const WEIR: &str = env!("CARGO_BIN_EXE_weir");

/// A configuration in parts, each of which a test may replace or add to.
#[derive(Clone)]
pub struct Config {
    /// Before the first table.
    pub top: String,
    pub workers: usize,
    pub journal: String,
    pub limits: String,
    pub sink: String,
    /// Behind everything: listeners, upstreams, attribution.
    pub listeners: String,
    pub admin: String,
    /// Of a ledger.
    pub portal: String,
}

impl Config {
    /// One HTTP listener, `web`, in front of this origin.
    pub fn http(origin: SocketAddr) -> Self {
        Self::listener("web", "http", origin, "")
    }

    /// One listener with this much more to say.
    pub fn listener(name: &str, kind: &str, origin: SocketAddr, more: &str) -> Self {
        let config = Self {
            top: "checkpoint_interval_ms = 60000\n".to_owned(),
            workers: 1,
            journal: "segment_bytes = 1048576\nslots_max = 8192\n".to_owned(),
            limits: String::new(),
            sink: String::new(),
            listeners: String::new(),
            admin: "listen = \"127.0.0.1:0\"\n".to_owned(),
            portal: "listen = \"127.0.0.1:0\"\n".to_owned(),
        };
        config.and_listener(name, kind, origin, more)
    }

    /// And one more.
    pub fn and_listener(mut self, name: &str, kind: &str, origin: SocketAddr, more: &str) -> Self {
        self.listeners += &format!(
            "\n[[listeners]]\nname = \"{name}\"\nlisten = \"127.0.0.1:0\"\nkind = \"{kind}\"\nupstream = \"{origin}\"\n{more}\n"
        );
        self
    }

    /// With this limit.
    pub fn limit(mut self, line: &str) -> Self {
        self.limits += line;
        self.limits.push('\n');
        self
    }

    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    pub fn top(mut self, line: &str) -> Self {
        self.top = line.to_owned() + "\n";
        self
    }

    pub fn text(&self, state: &Path) -> String {
        let sink = if self.sink.is_empty() { "kind = \"none\"\n" } else { &self.sink };
        format!(
            "node = \"test\"\nstate_dir = {state:?}\nworkers = {}\n{}\n[admin]\n{}\n[portal]\n{}\n[log]\nformat = \"json\"\n\n[journal]\n{}\n\
             [limits]\n{}\n[sink]\n{sink}\n{}",
            self.workers, self.top, self.admin, self.portal, self.journal, self.limits, self.listeners
        )
    }
}

/// A place for its state and its configuration; outlives processes.
pub struct House {
    pub directory: tempfile::TempDir,
}

impl House {
    pub fn new(config: &Config) -> Self {
        let house = Self { directory: tempfile::tempdir().unwrap() };
        house.write(config);
        house
    }

    /// Replaces the configuration, in one step.
    pub fn write(&self, config: &Config) {
        self.write_text(&config.text(&self.state()));
    }

    pub fn write_text(&self, text: &str) {
        let new = self.directory.path().join("weir.toml.new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.file()).unwrap();
    }

    pub fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// The epoch that was claimed last.
    pub fn epoch(&self) -> i64 {
        std::fs::read_to_string(self.state().join("epoch")).unwrap().trim().parse().unwrap()
    }

    pub fn file(&self) -> PathBuf {
        self.directory.path().join("weir.toml")
    }

    /// `weir run`, with more arguments; it serves when this returns.
    pub fn run(&self, arguments: &[&str]) -> Process {
        let process = self.spawn(arguments);
        process.await_serving();
        process
    }

    /// `weir run`, which may end at once.
    pub fn spawn(&self, arguments: &[&str]) -> Process {
        let mut command = Command::new(WEIR);
        command.arg("run").arg("--config").arg(self.file()).args(arguments);
        Process::spawn(command)
    }

    /// What `weir events` says now.
    pub fn records(&self) -> Records {
        Records::read(&self.state())
    }
}

/// A running `weir run`. Killed when dropped.
pub struct Process {
    pub child: Child,
    log: Arc<Mutex<Vec<String>>>,
}

impl Process {
    pub fn spawn(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::<Mutex<Vec<String>>>::default();
        let (lines, to) = (BufReader::new(child.stderr.take().unwrap()).lines(), log.clone());
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| to.lock().unwrap().push(line)));
        Self { child, log }
    }

    /// Lines of its log so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    /// Waits for a line that holds this text.
    pub fn await_line(&self, text: &str) -> String {
        until(&format!("{text:?} in the log"), || self.log().into_iter().find(|line| line.contains(text)))
    }

    /// The addresses of its listeners, once it has opened all of them.
    fn addresses(&self) -> HashMap<String, SocketAddr> {
        let lines = self.log();
        let values = lines.iter().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        values
            .filter(|value| value["message"] == "listening")
            .map(|value| {
                (value["listener"].as_str().unwrap().to_owned(), value["address"].as_str().unwrap().parse().unwrap())
            })
            .collect()
    }

    /// The address of a listener.
    pub fn address(&self, listener: &str) -> SocketAddr {
        until(&format!("the address of {listener}"), || self.addresses().get(listener).copied())
    }

    /// Returns once its admin listener says that it is ready.
    pub fn await_serving(&self) {
        let admin = until("the admin address", || {
            let log = self.log();
            assert!(!self.has_ended(), "it ended: {log:#?}");
            self.addresses().get("admin").copied()
        });
        until("/readyz", || (get(admin, "/readyz").0 == 200).then_some(()));
    }

    fn has_ended(&self) -> bool {
        !Path::new(&format!("/proc/{}/stat", self.child.id())).exists()
            || std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).is_ok_and(|stat| stat.contains(") Z"))
    }

    /// Status and body of an admin path.
    pub fn admin(&self, path: &str) -> (u16, String) {
        get(self.address("admin"), path)
    }

    /// A metric's value, summed over its labels; 0 if it is not there.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.admin("/metrics").1;
        let lines =
            text.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.child.id().try_into().unwrap()).unwrap(), signal).unwrap();
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end.
    pub fn ended(&mut self) -> ExitStatus {
        until("the process's end", || self.child.try_wait().unwrap())
    }

    /// SIGTERM, and waits for its end, which must be a good one.
    pub fn stop(mut self) -> Vec<String> {
        self.signal(Signal::TERM);
        let status = self.ended();
        assert!(status.success(), "{status}: {:#?}", self.log());
        self.log()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            self.child.kill().unwrap();
            self.child.wait().unwrap();
        }
        let log = self.log();
        if std::thread::panicking() {
            eprintln!("log of process {}:\n{}", self.child.id(), log.join("\n"));
        } else {
            let panicked: Vec<_> = log.iter().filter(|line| line.contains("panicked at")).collect();
            assert!(panicked.is_empty(), "the process panicked: {panicked:#?}");
        }
    }
}

/// A process with its house.
pub struct Weir {
    pub process: Process,
    pub house: House,
}

impl Weir {
    pub fn start(config: &Config) -> Self {
        let house = House::new(config);
        Self { process: house.run(&[]), house }
    }

    /// Where traffic goes.
    pub fn address(&self, listener: &str) -> SocketAddr {
        self.process.address(listener)
    }

    /// Its records once this many sessions are closed, held to every law that records have.
    pub fn settled(&self, sessions: usize) -> Records {
        let records = until(&format!("{sessions} closed sessions"), || {
            let records = self.house.records();
            (records.closed_sessions() >= sessions).then_some(records)
        });
        records.assert_lawful();
        assert_eq!(records.closed_sessions(), sessions);
        records
    }
}

/// Status and body.
pub fn get(from: SocketAddr, path: &str) -> (u16, String) {
    let exchange = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(from)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    let Ok(text) = exchange() else { return (0, String::new()) };
    let status = text.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    (status, text.split_once("\r\n\r\n").map_or("", |(_, body)| body).to_owned())
}
