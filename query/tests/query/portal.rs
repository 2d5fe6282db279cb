//! The portal in front: who may ask what, and how it comes back.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use metrics_exporter_prometheus::PrometheusBuilder;
use serde_json::{Value, json};
use weir::config;
use weir::portal::queries::Program;
use weir::portal::token::{Claims, SigningKey, public_path};
use weir::portal::{self, Scope, Serving, Setting};

use crate::scope::HOSTILE;
use crate::world::world;

struct Portal {
    address: SocketAddr,
    key: SigningKey,
    directory: tempfile::TempDir,
    serving: Option<Serving>,
}

struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Portal {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let key = SigningKey::make(&path("portal.key")).unwrap();
        let file = format!(
            "state_dir = \"{}\"\n[ledger]\n[archive]\nplace = \"{}\"\nkeys = \"{}\"\n[query]\nrows_max = 15000\ntime_s_max = 600\n",
            path("state").display(),
            world().path("archive").display(),
            world().path("keys").display()
        );
        std::fs::write(path("weir.toml"), file).unwrap();
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let serving = portal::start(Setting {
            portal: config::Portal {
                listen: Some(address),
                tls: None,
                public_keys: vec![public_path(&path("portal.key"))],
                token_valid_max: Duration::from_secs(3600),
                requests_per_minute_max: 10_000,
                request_timeout: Duration::from_secs(600),
                access_keep_days: 0,
            },
            state_dir: path("state"),
            database: path("ledger.db").display().to_string(),
            details_keep_days: 1,
            meters: Vec::new(),
            budgets: Vec::new(),
            queries: Some(Program {
                path: env!("CARGO_BIN_EXE_weir-query").into(),
                config: path("weir.toml"),
                time_s_max: 500,
            }),
            vitals: Arc::default(),
            prometheus: PrometheusBuilder::new().build_recorder().handle(),
        });
        Self { address, key, serving: serving.unwrap(), directory }
    }

    fn token(&self, scope: Scope, account: Option<&str>) -> String {
        let claims = Claims::new("jo", scope, account, SystemTime::now(), Duration::from_secs(600));
        self.key.sign(&claims).unwrap()
    }

    fn send(&self, token: &str, method: &str, path: &str, body: Option<(&str, &str)>) -> Reply {
        let mut stream = loop {
            match TcpStream::connect(self.address) {
                Ok(stream) => break stream,
                Err(_) => std::thread::yield_now(),
            }
        };
        let (kind, body) = body.unwrap_or(("text/plain", ""));
        let length = body.len();
        write!(stream, "{method} {path} HTTP/1.0\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n{body}").unwrap();
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply).unwrap();
        let reply = String::from_utf8_lossy(&reply).into_owned();
        let (head, body) = reply.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Reply { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    fn ask(&self, token: &str, question: &Value) -> Reply {
        self.send(token, "POST", "/v1/query", Some(("application/json", &question.to_string())))
    }
}

impl Drop for Portal {
    fn drop(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.end();
        }
    }
}

fn json_of(reply: &Reply) -> Value {
    assert_eq!(reply.status, 200, "{}", reply.body);
    serde_json::from_str(&reply.body).unwrap()
}

#[test]
fn the_tokens_scope_and_account_decide() {
    let portal = Portal::start();
    let count =
        json!({ "sql": "SELECT count(*) AS n, count(DISTINCT account) AS a FROM requests", "purpose": "a test" });
    let of = |account: Option<&str>| {
        world().rows("SELECT count(*) AS n FROM requests", account.map_or(&[][..], |_| &["--account", "account-1"][..]))
            [0]["n"]
            .clone()
    };
    let one = portal.token(Scope::Query, Some("account-1"));
    let answer = json_of(&portal.ask(&one, &count));
    assert_eq!((&answer["rows"][0]["n"], answer["rows"][0]["a"].as_i64()), (&of(Some("account-1")), Some(1)));
    let all = portal.token(Scope::Query, None);
    assert_eq!(json_of(&portal.ask(&all, &count))["rows"][0]["n"], of(None));
    let chosen = json!({ "sql": count["sql"], "account": "account-1" });
    assert_eq!(json_of(&portal.ask(&all, &chosen))["rows"][0]["n"], of(Some("account-1")));
    assert_eq!(portal.ask(&one, &json!({ "sql": "SELECT 1", "account": "account-0" })).status, 403);
    assert_eq!(portal.ask(&portal.token(Scope::UsageRead, Some("account-1")), &count).status, 403);
    assert_eq!(portal.ask("weir1.a.b.c", &count).status, 401);
    assert_eq!(portal.send(&one, "GET", "/v1/reports/access", None).status, 400, "who looked is everybody's affair");
    let log = std::fs::read_to_string(portal.directory.path().join("state/access.jsonl")).unwrap();
    assert!(
        log.contains("\"who\":\"jo\"") && log.contains("\"via\":\"portal\"") && log.contains("\"purpose\":\"a test\"")
    );
}

#[test]
fn nothing_that_is_sent_becomes_text_of_sql_or_a_flag() {
    let portal = Portal::start();
    let (one, all) = (portal.token(Scope::Query, Some("account-1")), portal.token(Scope::Query, None));
    let (bound, seen) =
        ("SELECT count(*) AS n FROM requests WHERE account = $a OR path = $b", "SELECT count(*) AS n FROM requests");
    for hostile in HOSTILE.iter().filter(|hostile| !hostile.is_empty()) {
        for question in [
            json!({ "sql": bound, "parameters": { "a": hostile, "b": hostile }, "purpose": hostile }),
            json!({ "sql": seen, "account": hostile }),
        ] {
            assert_eq!(json_of(&portal.ask(&all, &question))["rows"][0]["n"].as_i64(), Some(0), "{question}");
        }
        for question in [
            json!({ "sql": "SELECT 1", "account": hostile }),
            json!({ "sql": "SELECT 1", "from": hostile }),
            json!({ "sql": "SELECT 1", "to": hostile }),
            json!({ "sql": "SELECT 1", "format": hostile }),
            json!({ "sql": hostile }),
        ] {
            let reply = portal.ask(&one, &question);
            let is_refused = [400, 403, 422].contains(&reply.status);
            assert!(is_refused && !reply.body.contains("account-0"), "{question}: {} {}", reply.status, reply.body);
        }
        let coded: String = hostile.bytes().map(|byte| format!("%{byte:02x}")).collect();
        for path in [
            format!("/v1/reports/{coded}"),
            format!("/v1/reports/subject?parameters=%7B%22address%22%3A%22{coded}%22%7D"),
            format!("/v1/reports/errors?from={coded}x"),
        ] {
            let reply = portal.send(&one, "GET", &path, None);
            assert!([400, 404].contains(&reply.status), "{path}: {} {}", reply.status, reply.body);
            assert!(!reply.body.contains("account-0"), "{path}: {}", reply.body);
        }
    }
    assert!(!std::path::Path::new("/tmp/weir-stolen.csv").exists());
    // What is asked stands in the archive's log, without addresses, and nowhere else.
    portal.send(&all, "GET", "/v1/reports/subject?parameters=%7B%22address%22:%2210.0.0.7%22%7D", None);
    portal.send(&all, "GET", "/archive/reports/subject?address=10.0.0.7", None);
    portal.send(&all, "GET", "/v1/query?sql=SELECT+'10.0.0.7'", None);
    let accesses = portal.send(&portal.token(Scope::Admin, None), "GET", "/v1/accesses", None);
    assert!(accesses.status == 200 && accesses.body.contains("/v1/reports/subject"), "{}", accesses.body);
    assert!(!accesses.body.contains("10.0.0.7"), "{}", accesses.body);
    let log = std::fs::read_to_string(portal.directory.path().join("state/access.jsonl")).unwrap();
    assert!(log.contains("address:") && !log.contains("10.0.0.7"), "{log}");
}

#[test]
fn what_is_wrong_with_a_question_is_said_with_a_status() {
    let portal = Portal::start();
    let token = portal.token(Scope::Query, None);
    for (question, status, part) in [
        (json!({ "sql": "DROP TABLE requests" }), 422, "only reading"),
        (json!({ "sql": "SELECT nothing FROM requests" }), 422, "nothing"),
        (json!({ "sql": "SELECT * FROM generate_series(1, 20000)" }), 422, "more than 15000 rows"),
        (json!({ "sql": "SELECT 1", "format": "xlsx" }), 400, "one of json, csv, parquet"),
        (json!({ "sql": "SELECT 1", "from": "yesterday" }), 400, "yesterday"),
        (json!({ "sql": "SELECT 1", "accounts": "a" }), 400, "accounts"),
        (json!({ "sql": "" }), 400, "`sql`"),
        (json!({ "sql": "SELECT $x" }), 422, "$x"),
        (json!({ "sql": "SELECT 1 / (seq - seq) FROM requests" }), 422, "zero"),
        (json!({ "sql": "SELECT CAST(path AS BIGINT) FROM requests" }), 422, "Cannot cast"),
        (
            json!({ "sql": "SELECT regexp_like(path, '((a{1000}){1000}){1000}') FROM requests" }),
            422,
            "egular expression",
        ),
    ] {
        let reply = portal.ask(&token, &question);
        assert_eq!(reply.status, status, "{question}: {}", reply.body);
        assert!(reply.body.contains(part), "{question}: {}", reply.body);
    }
    assert_eq!(portal.send(&token, "GET", "/v1/reports/nothing", None).status, 404);
    assert_eq!(portal.send(&token, "GET", "/v1/query?sql=SELECT+1&x=1", None).status, 400);
}

#[test]
fn answers_reports_and_pages_come_in_their_forms() {
    let portal = Portal::start();
    let token = portal.token(Scope::Query, None);
    let reply = portal.send(
        &token,
        "GET",
        "/v1/query?sql=SELECT+%24a+AS+a&parameters=%7B%22a%22%3A%22b%22%7D&format=csv",
        None,
    );
    assert_eq!((reply.status, reply.body.as_str()), (200, "a\nb\n"));
    assert!(reply.head.contains("attachment; filename=\"weir-query.csv\""), "{}", reply.head);
    // More than is held back: it flows.
    let reply = portal.ask(&token, &json!({ "sql": "SELECT * FROM requests", "format": "csv" }));
    assert_eq!(
        reply.body.lines().count() as u64,
        world().rows("SELECT count(*) AS n FROM requests", &[])[0]["n"].as_u64().unwrap() + 1
    );
    let report = json_of(&portal.send(&token, "GET", "/v1/reports/residency?from=2026-11-22", None));
    assert_eq!(
        report["parts"]["countries"],
        world().report("residency", &["--from", "2026-11-22"])["parts"]["countries"]
    );
    let page = portal.send(&token, "GET", "/v1/reports/sources?format=html", None);
    assert!(page.status == 200 && page.body.starts_with("<!DOCTYPE html>") && page.head.contains("attachment"));
    let form = "sql=SELECT+account%2C+count%28*%29+AS+n+FROM+sessions+GROUP+BY+account&account=&from=&to=&purpose=";
    let page = portal.send(&token, "POST", "/archive", Some(("application/x-www-form-urlencoded", form)));
    assert!(page.status == 200 && page.body.contains("account-0") && page.body.contains("badge good"), "{}", page.body);
    let page = portal.send(&token, "GET", "/archive", None);
    assert!(page.status == 200 && page.body.contains("/archive/reports/screening"));
    let page = portal.send(&token, "GET", "/archive/reports/subject?address=10.0.0.7", None);
    assert!(page.status == 200 && page.body.contains("Requests"), "{}", page.body);
}

#[test]
fn what_is_shown_on_a_page_is_text() {
    let portal = Portal::start();
    let token = portal.token(Scope::Query, None);
    let form = "sql=SELECT+%27%3Cscript%3Ealert%281%29%3C%2Fscript%3E%27+AS+%22%3Cb%3E%22";
    let page = portal.send(&token, "POST", "/archive", Some(("application/x-www-form-urlencoded", form)));
    assert!(
        page.status == 200 && !page.body.contains("<script>alert") && page.body.contains("&lt;script&gt;"),
        "{}",
        page.body
    );
}
