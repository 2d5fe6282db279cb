//! What an operator does and sees: reload, the admin listener, exit codes, files of the sink.

use std::collections::HashSet;
use std::process::Command;

use rustix::process::Signal;

use crate::rig::client::{Client, Cuts};
use crate::rig::origin::Origin;
use crate::rig::process::{Config, House, Process, WEIR, Weir};
use crate::rig::records::Records;
use crate::rig::{octets, until};

fn weir(arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(WEIR).args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_reload_by_signal_or_by_file_is_in_force_for_the_next_request() {
    let (first, second) = (Origin::http(), Origin::http());
    let weir = Weir::start(&Config::http(first.address));
    let mut client = Client::connect(weir.address("web"));
    client.get("/bytes/1/one");
    first.seen("/bytes/1/one");
    let file = weir.house.file();
    let text = std::fs::read_to_string(&file).unwrap();
    // By the file itself.
    weir.house.write_text(&text.replace(&first.address.to_string(), &second.address.to_string()));
    weir.process.await_line("configuration taken over");
    client.get("/bytes/1/two");
    second.seen("/bytes/1/two");
    assert_eq!(weir.process.metric("weir_config_reloads_total"), 1.0);
    // By a signal: nothing has changed, so nothing is said.
    weir.process.signal(Signal::HUP);
    weir.house.write_text(&text.replace("slots_max = 8192", "slots_max = 4096"));
    let said = weir.process.await_line("these changes need a restart");
    assert!(said.contains("slots_max"), "{said}");
    client.get("/bytes/1/three");
    client.close();
    weir.settled(1);
}

#[test]
fn servers_of_an_upstream_take_turns() {
    let (first, second) = (Origin::http(), Origin::http());
    let more = format!(
        "[[listeners.routes]]\npath_prefix = \"/bytes\"\nupstream = \"both\"\n\n[[upstreams]]\nname = \"both\"\n\
         servers = [\"{}\", \"{}\"]",
        first.address, second.address
    );
    let weir = Weir::start(&Config::listener("web", "http", first.address, &more));
    let mut client = Client::connect(weir.address("web"));
    // The first two find no connection that is kept, the others do.
    for n in 0..6 {
        assert_eq!(client.get(&format!("/bytes/1/{n}")).status(), 200);
    }
    client.close();
    weir.settled(1);
    until("three requests at each", || ((first.all_seen().len(), second.all_seen().len()) == (3, 3)).then_some(()));
}

#[test]
fn a_bad_configuration_leaves_the_old_one_in_force_and_is_named() {
    let origin = Origin::http();
    let weir = Weir::start(&Config::http(origin.address));
    let text = std::fs::read_to_string(weir.house.file()).unwrap();
    weir.house.write_text(&text.replace("[limits]", "[limits]\nconnections_max = \"many\"\nno_such_limit = 1"));
    let said = weir.process.await_line("the new configuration is refused, the old one stays");
    assert!(said.contains("connections_max") && said.contains("no_such_limit"), "{said}");
    weir.process.signal(Signal::HUP);
    until("it to be refused again", || (weir.process.metric("weir_config_reloads_refused_total") >= 2.0).then_some(()));
    let mut client = Client::connect(weir.address("web"));
    assert_eq!(client.get("/bytes/1").status(), 200);
    client.close();
    weir.settled(1);
}

#[test]
fn the_admin_listener_shows_health_metrics_sessions_and_the_configuration_without_secrets() {
    let origin = Origin::http();
    let mut config = Config::listener("web", "http", origin.address, "trusted_proxies = [\"127.0.0.0/8\"]\n");
    config.listeners += "\n[[attribution]]\nname = \"key\"\nheader = { name = \"x-key\", value = \"s3cr3t-value\" }\naccount = \"acme\"\n";
    let weir = Weir::start(&config);
    assert_eq!(weir.process.admin("/livez"), (200, "alive\n".to_owned()));
    assert_eq!(weir.process.admin("/readyz"), (200, "ready\n".to_owned()));
    let mut client = Client::connect(weir.address("web"));
    client.request(b"GET /bytes/1000 HTTP/1.1\r\nhost: test\r\nx-key: s3cr3t-value\r\n\r\n", 0, Cuts::Whole);
    let answer = client.response();
    // The client may have its answer before weir has come back from the write.
    let row = until("the answer's octets in the live table", || {
        let (status, sessions) = weir.process.admin("/sessions");
        let sessions: serde_json::Value = serde_json::from_str(&sessions).unwrap();
        assert_eq!((status, sessions["open"].as_u64()), (200, Some(1)));
        let row = sessions["sessions"][0].clone();
        (row["sent_wire_bytes"].as_u64() == Some(answer.app)).then_some(row)
    });
    assert_eq!(row["client_port"].as_u64(), Some(client.port.into()));
    let (status, shown) = weir.process.admin("/config");
    assert_eq!(status, 200);
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert!(!shown.to_string().contains("s3cr3t-value"), "{shown}");
    assert!(shown.to_string().contains("x-key"), "{shown}");
    let (status, metrics) = weir.process.admin("/metrics");
    assert_eq!(status, 200);
    assert!(metrics.lines().any(|line| line.starts_with("# HELP weir_")), "metrics without a word on what they are");
    assert_eq!(weir.process.metric("weir_requests_total"), 1.0);
    assert_eq!(weir.process.admin("/nothing").0, 404);
    let health = crate::operation::weir(&["health", "--admin", &weir.address("admin").to_string()]);
    assert_eq!(health.0, 0, "{health:?}");
    let port = client.port;
    client.close();
    let records = weir.settled(1);
    let requests = records.requests(records.session(port));
    assert_eq!((requests[0].text("account"), requests[0].text("attribution")), ("acme", "key"));
}

#[test]
fn two_processes_never_share_a_state_directory() {
    let origin = Origin::http();
    let weir = Weir::start(&Config::http(origin.address));
    let mut second = weir.house.spawn(&[]);
    assert_eq!(second.ended().code(), Some(1));
    let said = until("its last words", || second.log().last().cloned());
    assert!(said.contains("lock") && said.contains(&weir.process.child.id().to_string()), "{said}");
    let mut client = Client::connect(weir.address("web"));
    client.get("/bytes/1");
    client.close();
    weir.settled(1);
}

#[test]
fn exit_codes_are_0_1_and_64() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    assert_eq!(weir(&["--version"]).0, 0);
    assert_eq!(weir(&["run"]).0, 64);
    assert_eq!(weir(&["run", "--config", &path("none.toml")]).0, 64);
    assert_eq!(weir(&["check", "--config", &path("none.toml")]).0, 64);
    assert_eq!(weir(&["events", "--state", &path("none")]).0, 1);
    assert_eq!(weir(&["health", "--admin", "127.0.0.1:1"]).0, 1);
    std::fs::write(path("no.toml"), "state_dir = \"/proc/nowhere\"\n[[listeners]]\nname = \"a\"\nupstream = \"127.0.0.1:1\"\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"off\"\n").unwrap();
    assert_eq!(weir(&["check", "--config", &path("no.toml")]).0, 0);
    assert_eq!(weir(&["run", "--config", &path("no.toml")]).0, 1);
}

#[test]
fn check_names_all_errors_at_once_with_their_lines() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("weir.toml");
    std::fs::write(
        &file,
        "state_dir = \"s\"\nworker = 3\n[limits]\nconnections_max = 0\n[[listeners]]\nname = \"a\"\nlisten = \"nowhere\"\nkind = \"htp\"\n",
    )
    .unwrap();
    let (code, said, error) = weir(&["check", "--config", file.to_str().unwrap()]);
    assert_eq!((code, said.as_str()), (64, ""));
    for (line, word) in [(2, "worker"), (4, "connections_max"), (7, "listen"), (8, "htp")] {
        let named = error.lines().any(|text| text.contains(word) && text.contains(&format!(":{line}")));
        assert!(named, "line {line}, {word}: {error}");
    }
}

/// Asks a few things, kills, and starts again, a few times; returns how many requests were answered.
fn killed_often(house: &House) -> usize {
    let mut answered = 0;
    for n in 0..5 {
        let process = house.run(&[]);
        let mut client = Client::connect(process.address("web"));
        for m in 0..60 {
            client.get(&format!("/bytes/3/{n}-{m}"));
            answered += 1;
        }
        // Part of it is in the files by now, or all, or nothing.
        if n % 2 == 0 {
            until("a file", || (!files(house).is_empty()).then_some(()));
        }
        process.kill();
    }
    house.run(&[]).stop();
    answered
}

fn files(house: &House) -> Vec<std::path::PathBuf> {
    let Ok(entries) = std::fs::read_dir(house.directory.path().join("records")) else { return Vec::new() };
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn files_of_the_sink_hold_every_record_once_whenever_it_is_killed() {
    for format in ["json", "protobuf"] {
        let origin = Origin::http();
        let mut config = Config::http(origin.address);
        config.journal = "segment_bytes = 65536\nslots_max = 1024\n".to_owned();
        config.sink = format!("kind = \"file\"\npath = \"records\"\nformat = \"{format}\"\nrotate_bytes = 65536\n");
        let house = House::new(&config);
        let answered = killed_often(&house);
        let mut records = Records::default();
        for file in files(&house) {
            records.0.extend(Records::of_file(&file).0);
        }
        records.0.sort_by_key(|record| (record.number("epoch"), record.number("shard"), record.number("seq")));
        records.assert_lawful();
        let paths: HashSet<_> = records.closes("request").iter().map(|close| close.text("path").to_owned()).collect();
        assert_eq!((paths.len(), records.closes("request").len()), (answered, answered), "{format}");
        assert_eq!(records.closed_sessions(), 5, "{format}");
        assert!(files(&house).len() > 5, "no file was rotated: {:?}", files(&house));
    }
}

#[test]
fn flags_alone_are_enough() {
    let origin = Origin::http();
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    // The admin listener has a port of its own, which somebody else on this machine may have at the moment.
    let (_process, address) = until("the admin port to be free", || {
        let mut command = Command::new(WEIR);
        command
            .args(["run", "--upstream", &origin.address.to_string(), "--listen", "127.0.0.1:0", "--state"])
            .arg(&state);
        let mut process = Process::spawn(command);
        // Without a file the log is for people.
        let line = until("a line for each listener, or the end", || {
            let ended = process.child.try_wait().unwrap().is_some();
            let line = process.log().into_iter().find(|line| line.contains("listening listener=\"web\""));
            (ended || line.is_some()).then_some(line)
        })?;
        Some((process, line.split("address=").nth(1)?.trim().to_owned()))
    });
    let mut client = Client::connect(address.parse().unwrap());
    assert_eq!(client.get("/bytes/10").body, octets(10));
    let account = client.close().account();
    let records = until("its records", || {
        let records = Records::read(&state);
        (records.closed_sessions() == 1).then_some(records)
    });
    records.assert_lawful();
    account.assert_recorded(&records);
    let (code, csv, _) = weir(&["events", "--state", state.to_str().unwrap(), "--csv"]);
    assert_eq!((code, csv.lines().count()), (0, records.0.len() + 1));
    assert!(csv.starts_with("node,epoch,shard,seq,kind,phase,"));
}
