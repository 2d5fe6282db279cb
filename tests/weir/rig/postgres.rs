//! A PostgreSQL to test against, where it is installed: a cluster of its own in a temporary directory, which ends with the tests.
//! `WEIR_POSTGRES=off` does without; `WEIR_POSTGRES=real` fails where there is none.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

struct Cluster {
    port: u16,
}

/// A database of its own, as an address; none where PostgreSQL is not installed.
pub fn database() -> Option<String> {
    static CLUSTER: OnceLock<Option<Cluster>> = OnceLock::new();
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let cluster = CLUSTER.get_or_init(start).as_ref()?;
    let name = format!("ledger{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    let port = cluster.port.to_string();
    let made =
        Command::new(binary("createdb")?).args(["-h", "127.0.0.1", "-p", &port, "-U", "weir", &name]).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    Some(format!("postgres://weir@127.0.0.1:{port}/{name}"))
}

/// Debian keeps the servers' programs apart from the path.
fn binary(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = std::env::split_paths(&path).collect();
    places.extend(
        std::fs::read_dir("/usr/lib/postgresql")
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path().join("bin"))),
    );
    places.into_iter().map(|place| place.join(name)).find(|file| file.is_file())
}

fn start() -> Option<Cluster> {
    let asked = std::env::var("WEIR_POSTGRES").unwrap_or_default();
    let there = ["initdb", "postgres", "createdb"].iter().all(|name| binary(name).is_some());
    assert!(there || asked != "real", "WEIR_POSTGRES=real, but it is not installed");
    if !there || asked == "off" {
        eprintln!("ledger: tests run on SQLite alone: no PostgreSQL, or WEIR_POSTGRES=off");
        return None;
    }
    sweep();
    let directory = std::env::temp_dir().join(format!("weir-postgres-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let data = directory.join("data");
    // It refuses to run as root.
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
    if is_root {
        std::os::unix::fs::chown(&directory, Some(65534), Some(65534)).unwrap();
    }
    let made = command(&binary("initdb")?, is_root)
        .args(["--auth=trust", "--username=weir", "--encoding=UTF8", "--no-sync", "-D"])
        .arg(&data)
        .output()
        .unwrap();
    assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let log = std::fs::File::create(directory.join("log")).unwrap();
    let (postgres, server_data, sockets) = (binary("postgres")?, data.clone(), directory.clone());
    // The server ends with the thread that started it: this one never does before the process.
    std::thread::spawn(move || {
        let server = command(&postgres, is_root)
            .arg("-D")
            .arg(&server_data)
            .arg("-k")
            .arg(&sockets)
            .args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        drop(server.unwrap().wait());
    });
    let deadline = Instant::now() + Duration::from_secs(60);
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() || !is_ready(port) {
        let log = || std::fs::read_to_string(directory.join("log")).unwrap_or_default();
        assert!(Instant::now() < deadline, "PostgreSQL does not start: {}", log());
        std::thread::sleep(Duration::from_millis(50));
    }
    Some(Cluster { port })
}

fn is_ready(port: u16) -> bool {
    let asked = binary("psql").map(|psql| {
        Command::new(psql)
            .args(["-h", "127.0.0.1", "-p", &port.to_string(), "-U", "weir", "-c", "select 1", "postgres"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
    });
    asked.is_none_or(|status| status.is_ok_and(|status| status.success()))
}

fn command(program: &Path, is_root: bool) -> Command {
    let mut command = Command::new("setpriv");
    command.arg("--pdeathsig").arg("INT");
    if is_root {
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    }
    command.arg(program);
    command
}

/// What earlier test processes left: they ended without a word.
fn sweep() {
    for entry in std::fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid =
            name.to_str().and_then(|name| name.strip_prefix("weir-postgres-")).and_then(|pid| pid.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            std::fs::remove_dir_all(entry.path()).unwrap_or_default();
        }
    }
}
