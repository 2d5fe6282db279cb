//! Who asked what: written down before it is answered, and not to be changed unseen.

use serde_json::Value;

use crate::population::Population;
use crate::world::{POPULATION, World};

fn small() -> World {
    World::new(Population { sessions: 20, ..POPULATION })
}

#[test]
fn every_question_is_written_down_with_its_end() {
    let world = small();
    world.ask(
        "SELECT count(*) AS n FROM requests WHERE path = $path",
        &["--param", "path=/x", "--as", "jo", "--purpose", "ticket 7"],
    );
    world.run("query", &["DROP TABLE requests"]);
    world.run("query", &["--rows-max", "1", "SELECT * FROM requests"]);
    let report = world.report("access", &[]);
    let questions = report["parts"]["questions"]["rows"].as_array().unwrap();
    let outcomes: Vec<&str> = questions.iter().map(|row| row["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes[..3], ["answered", "refused", "too many rows"]);
    assert!(outcomes[3].starts_with("no end"), "the report itself is still being made");
    let first = &questions[0];
    let text = |name: &str| first[name].as_str().unwrap().to_owned();
    assert_eq!(
        (text("who"), text("purpose"), text("parameters"), text("via")),
        ("jo".into(), "ticket 7".into(), "path=/x".into(), "command".into())
    );
    assert_eq!((first["rows"].as_u64(), text("sql").contains("$path")), (Some(1), true));
}

#[test]
fn a_changed_log_is_named_and_a_receipt_holds_it_to_its_word() {
    let world = small();
    let answer = world.ask("SELECT 1 AS one", &[]);
    world.ask("SELECT 2 AS two", &[]);
    let log = world.path("access.jsonl");
    let whole = std::fs::read_to_string(&log).unwrap();
    let line = whole.lines().nth(answer["receipt"]["seq"].as_u64().unwrap() as usize).unwrap();
    assert_eq!(answer["receipt"]["hash"].as_str(), Some(blake3::hash(line.as_bytes()).to_hex().as_str()));
    std::fs::write(&log, whole.replacen("SELECT 1", "SELECT 9", 1)).unwrap();
    let ended = world.run("report", &["access", "--format", "json"]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("line 2"), "{}", ended.err);
    let report: Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(report["flaws"].as_array().map(Vec::len), Some(1));
}

#[test]
fn without_the_log_nothing_is_answered() {
    let world = small();
    let args = ["--access-log", "/proc/nothing/access.jsonl", "SELECT 1"];
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_weir-query"));
    let output = command.arg("query").arg("--archive").arg(world.path("archive")).args(args).output().unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
}

#[test]
fn the_portals_way_in_takes_json_and_complains_in_json() {
    let world = small();
    let good = r#"{"sql":"SELECT count(*) AS n FROM requests WHERE status = $status","parameters":{"status":"200"},"purpose":"why"}"#;
    let ended = world.told("query", &["--request", "--via", "portal", "--format", "json", "-"], good);
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    let bad =
        world.told("query", &["--request", "-"], r#"{"sql":"DELETE FROM requests","parameters":{},"purpose":""}"#);
    let complaint: Value = serde_json::from_str(bad.err.lines().last().unwrap()).unwrap();
    assert_eq!(complaint["outcome"].as_str(), Some("refused"));
    let log = std::fs::read_to_string(world.path("access.jsonl")).unwrap();
    assert!(log.contains("\"via\":\"portal\"") && log.contains("\"purpose\":\"why\""));
}

#[test]
fn the_log_names_no_address_and_still_says_who_looked_for_one() {
    let world = small();
    let mapped = "SELECT count(*) AS n FROM sessions WHERE client_ip = x'00000000000000000000ffff0a000007' OR ip_in(client_ip, '10.0.0.7/32')";
    world.ask("SELECT count(*) AS n FROM sessions WHERE client_ip = $ip", &["--as", "jo", "--param", "ip=10.0.0.7"]);
    world.ask(mapped, &["--as", "kim", "--purpose", "the case of ::ffff:10.0.0.7"]);
    world.run("query", &["--as", "lee", "SELECT 10.0.0.7 FROM nowhere -- 10.0.0.7"]);
    world.ask("SELECT count(*) AS n FROM sessions", &["--as", "max", "--purpose", "10.0.0.70"]);
    let who = |address: &str| {
        let report = world.report("access", &["--param", &format!("address={address}")]);
        let rows = report["parts"]["questions"]["rows"].as_array().unwrap().clone();
        let asked = rows.iter().filter(|row| row["what"] == "query");
        asked.map(|row| row["who"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(who("10.0.0.7"), ["jo", "kim", "lee"]);
    assert_eq!((who("::ffff:10.0.0.70"), who("10.0.0.8")), (vec!["max".to_owned()], Vec::new()));
    let log = std::fs::read_to_string(world.path("access.jsonl")).unwrap();
    for form in ["10.0.0.7", "0a000007", "10.0.0.8"] {
        assert!(!log.contains(form), "{form} in {log}");
    }
    assert_eq!(world.run("report", &["access", "--param", "address=nobody"]).code, Some(64));
}
