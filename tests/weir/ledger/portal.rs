//! The portal over real HTTP: what each token sees, what nobody sees, and that what is shown is what the records say.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::{ledger, read_all, usage};
use crate::rig::process::{Config, House, Process, WEIR};
use crate::rig::records::Records;
use crate::rig::{PATIENCE, until};

/// An answer.
struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Answer {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }
}

/// HTTP/1.0: the body ends with the connection.
fn exchange(mut stream: impl Read + Write, method: &str, path: &str, headers: &str, body: &str) -> Answer {
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.0\r\nhost: portal\r\ncontent-length: {length}\r\n{headers}\r\n");
    // It may refuse before all of it was sent.
    stream.write_all((head + body).as_bytes()).ok();
    let mut got = Vec::new();
    stream.read_to_end(&mut got).ok();
    let end = got.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(got.len());
    let head = String::from_utf8_lossy(&got[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let headers = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    let headers = headers.map(|(name, value)| (name.to_lowercase(), value.trim().to_owned())).collect();
    Answer { status, headers, body: got.get(end + 4..).unwrap_or_default().to_vec() }
}

fn ask(to: SocketAddr, method: &str, path: &str, headers: &str, body: &str) -> Answer {
    let stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    exchange(stream, method, path, headers, body)
}

fn get(to: SocketAddr, token: &str, path: &str) -> Answer {
    ask(to, "GET", path, &format!("authorization: Bearer {token}\r\n"), "")
}

fn address(ledger: &Process) -> SocketAddr {
    let line = ledger.await_line("the portal listens");
    let at = line.find("127.0.0.1:").unwrap();
    let digits = line[at + 10..].chars().take_while(char::is_ascii_digit).collect::<String>();
    format!("127.0.0.1:{digits}").parse().unwrap()
}

fn weir(arguments: &[&str]) -> String {
    let output = Command::new(WEIR).args(arguments).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Two customers' traffic, recorded; a key, and a ledger that has read it all.
struct Shown {
    house: House,
    records: Records,
    key: String,
    _keys: tempfile::TempDir,
    ledger: Process,
    at: SocketAddr,
}

const REQUESTS: [(&str, usize); 2] = [("acme", 23), ("globex", 11)];

impl Shown {
    fn new(portal: &str) -> Self {
        Self::on(portal, "")
    }

    fn on(portal: &str, of_ledger: &str) -> Self {
        let origin = crate::rig::origin::Origin::http();
        let keys = tempfile::tempdir().unwrap();
        let key = keys.path().join("portal.key").display().to_string();
        weir(&["token", "key", &key]);
        let mut config = Config::http(origin.address).top("checkpoint_interval_ms = 200");
        config.listeners = String::new();
        for (account, _) in REQUESTS {
            config = config.and_listener(account, "http", origin.address, &format!("account = \"{account}\"\n"));
        }
        config.listeners += &format!("[ledger]\nbatch_interval_ms = 20\nbatch_records_max = 7\n{of_ledger}");
        config.portal += &format!("public_keys = [\"{key}.pub\"]\nrequests_per_minute_max = 1000000\n{portal}");
        let house = House::new(&config);
        let sidecar = house.run(&[]);
        for (account, requests) in REQUESTS {
            for n in 0..requests {
                let mut stream = TcpStream::connect(sidecar.address(account)).unwrap();
                // Three on a connection at most.
                for _ in 0..=n % 3 {
                    let path = format!("/bytes/{}?secret-of-{account}", 10 + n);
                    write!(stream, "GET {path} HTTP/1.1\r\nhost: {account}.example\r\n\r\n").unwrap();
                    let mut got = Vec::new();
                    while !got.windows(4).any(|four| four == b"\r\n\r\n") {
                        let mut piece = [0; 4096];
                        let n = stream.read(&mut piece).unwrap();
                        assert!(n > 0, "cut off");
                        got.extend_from_slice(&piece[..n]);
                    }
                }
            }
        }
        sidecar.stop();
        // Half of it by a ledger that is killed, the rest by another.
        let mut first = ledger(&house);
        std::thread::sleep(std::time::Duration::from_millis(150));
        first.child.kill().unwrap();
        first.child.wait().unwrap();
        read_all(&house);
        let ledger = ledger(&house);
        let at = address(&ledger);
        let records = house.records();
        Self { house, records, key, _keys: keys, ledger, at }
    }

    fn customer(&self, account: &str) -> String {
        weir(&["token", "issue", "--key", &self.key, "--account", account])
    }

    fn operator(&self) -> String {
        weir(&["token", "issue", "--key", &self.key, "--scope", "admin", "--subject", "jo"])
    }

    fn endpoints(&self) -> Vec<(String, Vec<String>)> {
        let document = ask(self.at, "GET", "/openapi.json", "", "").json();
        let paths = document["paths"].as_object().unwrap();
        let names = |path: &Value| -> Vec<String> {
            let parameters = path["get"]["parameters"].as_array().unwrap().iter();
            parameters.map(|parameter| parameter["name"].as_str().unwrap().to_owned()).collect()
        };
        paths.iter().map(|(path, said)| (path.clone(), names(said))).collect()
    }

    /// Ids of closed sessions or requests of an account, as the journal has them.
    fn ids(&self, kind: &str, account: &str) -> BTreeSet<String> {
        let id = format!("{kind}_id");
        let ours = self.records.0.iter().filter(|record| record.is(kind, "close") && record.0["account"] == account);
        ours.map(|record| record.0[&id].as_str().unwrap().to_owned()).collect()
    }
}

const FORMATS: [&str; 4] = ["json", "csv", "ndjson", "parquet"];

fn asks_the_archive(path: &str) -> bool {
    path == "/v1/query" || path.starts_with("/v1/reports/")
}

#[test]
fn every_endpoint_shows_a_customer_its_own_and_nothing_of_another() {
    let shown = Shown::new("");
    let (token, operator) = (shown.customer("acme"), shown.operator());
    let endpoints = shown.endpoints();
    assert!(endpoints.len() >= 9);
    let foreign = shown.ids("session", "globex").into_iter().chain(shown.ids("request", "globex")).collect::<Vec<_>>();
    assert!(foreign.len() > 10);
    let has_foreign = |answer: &Answer| {
        let text = answer.text();
        text.contains("globex") || foreign.iter().any(|id| text.contains(id))
    };
    let mut operators_own = Vec::new();
    for (path, parameters) in &endpoints {
        // Nobody, and nobody with a token of somebody's.
        for headers in ["", "authorization: Bearer x\r\n", "cookie: weir_token=x\r\n", "authorization: Basic eDp5\r\n"]
        {
            assert_eq!(ask(shown.at, "GET", path, headers, "").status, 401, "{path} {headers}");
        }
        let has = |name: &str| parameters.iter().any(|known| known == name);
        for format in FORMATS {
            let query = if has("format") { format!("?format={format}") } else { String::new() };
            let answer = get(shown.at, &token, &format!("{path}{query}"));
            assert!(!has_foreign(&answer), "{path}{query}: {}", answer.text());
            match answer.status {
                200 => {}
                403 => operators_own.push(path.as_str()),
                // Without a question, or without an archive; with both: query/tests.
                400 | 404 if asks_the_archive(path) => {}
                other => panic!("{path}: {other} {}", answer.text()),
            }
            // The foreign account, asked for in every way that there is.
            for asked in
                ["account=globex", "account=GLOBEX", "account=globex%00", "account=acme&account=globex", "account="]
            {
                let query = format!("?{asked}{}", query.replace('?', "&"));
                let answer = get(shown.at, &token, &format!("{path}{query}"));
                let is_refused = matches!(answer.status, 400 | 403) || asks_the_archive(path);
                assert!(is_refused || asked == "account=" && answer.status == 200, "{path}{query}: {}", answer.status);
                assert!(
                    !answer.text().contains(&foreign[0]) && !answer.text().contains("globex.example"),
                    "{path}{query}"
                );
            }
            for id in &foreign[..3] {
                for name in ["id", "session"].into_iter().filter(|name| has(name)) {
                    let answer = get(shown.at, &token, &format!("{path}?{name}={id}&format={format}"));
                    assert_eq!(answer.status, 200);
                    assert!(!answer.text().contains(id), "{path}?{name}: {}", answer.text());
                }
            }
            if has("host") {
                let answer = get(shown.at, &token, &format!("{path}?host=globex.example&format={format}"));
                assert!(answer.status == 200 && !has_foreign(&answer), "{path}: {}", answer.text());
            }
        }
        // The same with what an operator was given to go on with.
        if has("cursor") {
            let page = get(shown.at, &operator, &format!("{path}?limit=1")).json();
            if let Some(cursor) = page["next_cursor"].as_str() {
                let answer = get(shown.at, &token, &format!("{path}?cursor={cursor}"));
                assert!(answer.status == 200 && !has_foreign(&answer), "{path}: {}", answer.text());
            }
        }
        assert!(asks_the_archive(path) || get(shown.at, &operator, path).status == 200, "{path}");
    }
    operators_own.dedup();
    assert_eq!(operators_own, ["/v1/accesses", "/v1/audit"]);
    // And the pages behind the same door.
    assert_eq!(get(shown.at, &token, "/v1/nothing").status, 404);
    assert_eq!(ask(shown.at, "GET", "/v1/nothing", "", "").status, 401);
}

#[test]
fn what_is_shown_is_what_the_records_say() {
    let shown = Shown::new("");
    let operator = shown.operator();
    for (account, _) in REQUESTS {
        let token = shown.customer(account);
        for kind in ["session", "request"] {
            let expected = shown.ids(kind, account);
            let path = format!("/v1/{kind}s");
            // By pages, each once.
            let (mut found, mut cursor) = (Vec::new(), String::new());
            loop {
                let page = get(shown.at, &token, &format!("{path}?limit=4{cursor}")).json();
                let items = page["items"].as_array().unwrap();
                assert!(items.iter().all(|item| item["account"] == account && item["state"] == "closed"), "{page}");
                found.extend(items.iter().map(|item| item["id"].as_str().unwrap().to_owned()));
                match page["next_cursor"].as_str() {
                    Some(next) => cursor = format!("&cursor={next}"),
                    None => break,
                }
            }
            assert_eq!(found.len(), expected.len());
            assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected);
            // As files.
            let csv = get(shown.at, &token, &format!("{path}?format=csv")).text();
            assert!(csv.starts_with("id,session_id,account,"), "{csv}");
            let ids = csv.lines().skip(1).map(|line| line.split(',').next().unwrap().to_owned());
            assert_eq!(ids.collect::<BTreeSet<_>>(), expected);
            let lines = get(shown.at, &token, &format!("{path}?format=ndjson")).text();
            assert_eq!(lines.lines().count(), expected.len());
            let parquet = get(shown.at, &token, &format!("{path}?format=parquet")).body;
            assert!(parquet.starts_with(b"PAR1") && parquet.ends_with(b"PAR1"));
            // One of them, by its id; each number as in the record.
            let id = expected.first().unwrap();
            let one = get(shown.at, &token, &format!("{path}?id={id}")).json();
            let id_of = format!("{kind}_id");
            let record =
                shown.records.0.iter().find(|record| record.is(kind, "close") && record.0[&id_of] == **id).unwrap();
            let item = &one["items"][0];
            assert_eq!(one["items"].as_array().unwrap().len(), 1);
            for name in ["total_sent_acked_bytes", "total_received_wire_bytes", "status", "host", "end", "seq", "audit"]
            {
                let said = &record.0[name];
                let expected = if *said == 0 && name == "status" || *said == "" { &Value::Null } else { said };
                assert_eq!(&item[name], expected, "{name} of {id}");
            }
        }
        let closed = shown.ids("request", account).len() as i64;
        let total = get(shown.at, &token, "/v1/usage").json();
        assert_eq!(total["items"][0]["requests"], closed, "{total}");
        assert_eq!(total["account"], account);
        let by_host = get(shown.at, &token, "/v1/usage?group_by=host&window=hour&meter=requests").json();
        let sum: i64 = by_host["items"].as_array().unwrap().iter().map(|item| item["requests"].as_i64().unwrap()).sum();
        assert_eq!(sum, closed, "{by_host}");
        let status = get(shown.at, &token, "/v1/requests?status=4xx").json();
        assert_eq!(status["items"], serde_json::json!([]));
        let of_session = shown.ids("session", account).first().unwrap().clone();
        let requests = get(shown.at, &token, &format!("/v1/requests?session={of_session}")).json();
        let expected = shown
            .records
            .0
            .iter()
            .filter(|record| record.is("request", "close") && record.0["session_id"] == *of_session);
        assert_eq!(requests["items"].as_array().unwrap().len(), expected.count());
    }
    // As the command says it.
    let lines = usage(&shown.house, "account");
    let all = get(shown.at, &operator, "/v1/usage?group_by=account").json();
    for line in lines.iter().filter(|line| line["account"].is_string()) {
        let items = all["items"].as_array().unwrap();
        let item = items.iter().find(|item| item["account"] == line["account"]).unwrap();
        assert_eq!(item["egress_bytes"], line["egress_bytes"]);
        assert_eq!(item["sessions"], line["sessions"]);
    }
    assert_eq!(all["completeness"]["missing_records"], 0);
    assert_eq!(all["completeness"]["has_records"], true);
    let audit = get(shown.at, &operator, "/v1/audit").json();
    assert_eq!(audit["unexplained"], serde_json::json!([]));
    // Who looked, and at what, the refused look too.
    let token = shown.customer("acme");
    assert_eq!(get(shown.at, &token, "/v1/usage?account=globex").status, 403);
    let accesses = get(shown.at, &operator, "/v1/accesses?limit=1000").json();
    let accesses = accesses["items"].as_array().unwrap();
    let refused = accesses.iter().find(|access| access["status"] == 403).unwrap();
    assert_eq!((&refused["subject"], &refused["account"]), (&"acme".into(), &"acme".into()));
    assert_eq!((&refused["path"], &refused["query"]), (&"/v1/usage".into(), &"account=globex".into()));
    let exported = accesses.iter().filter(|access| access["query"] == "format=csv" && access["path"] == "/v1/requests");
    let rows: BTreeSet<i64> = exported.map(|access| access["rows"].as_i64().unwrap()).collect();
    let mut expected: BTreeSet<i64> =
        REQUESTS.iter().map(|(account, _)| shown.ids("request", account).len() as i64).collect();
    expected.insert(-1);
    assert_eq!(rows, expected);
    assert!(accesses.iter().any(|access| access["subject"] == "jo" && access["path"] == "/v1/audit"));
    shown.ledger.stop();
}

#[test]
fn hostile_input_is_refused_in_words() {
    let shown = Shown::new("");
    let (customer, operator) = (shown.customer("acme"), shown.operator());
    let long = "a".repeat(7000);
    let hostile = [
        "'",
        "''; DROP TABLE usage; --",
        "1 OR 1=1",
        "\" OR \"\"=\"",
        "%25",
        "_",
        "%00",
        "%0d%0aset-cookie:x=y",
        "%ff%fe",
        "..%2f..%2f",
        "99999999999999999999999999",
        "-1",
        "1e308",
        "NaN",
        "0x10",
        "9223372036854775807",
        "-9223372036854775808",
        "2026-02-30",
        "2026-13-01",
        "9999-12-31T23:59:60Z",
        "0000-00-00",
        "2026-01-01T00:00:00+14:00",
        "null",
        "{}",
        "[]",
        "%F0%9F%92%A9",
        "<script>",
        "weir1.a.b.c",
        "%",
        "%zz",
        "&&==",
        "W10",
        "eyJ4IjoxfQ",
        &long,
    ];
    for (path, mut parameters) in shown.endpoints() {
        parameters.extend(["nothing".to_owned(), String::new()]);
        for parameter in &parameters {
            for value in hostile {
                for token in [&customer, &operator] {
                    let url = format!("{path}?{parameter}={value}");
                    let url =
                        url.replace(' ', "%20").replace('"', "%22").replace(['<', '>', '{', '}', '[', ']'], "%5B");
                    let answer = get(shown.at, token, &url);
                    assert!((200..500).contains(&answer.status), "{url}: {} {}", answer.status, answer.text());
                    if answer.status >= 400 {
                        let problem = answer.json();
                        assert_eq!(problem["status"], answer.status);
                        assert!(problem["detail"].as_str().is_some_and(|detail| detail.len() > 10), "{problem}");
                    }
                    assert!(!answer.headers.contains_key("set-cookie"));
                }
            }
        }
        for method in ["POST", "PUT", "DELETE", "PATCH", "TRACE", "FOO"] {
            let answer = ask(shown.at, method, &path, &format!("authorization: Bearer {operator}\r\n"), "x");
            assert!(answer.status == 405 || (method, path.as_str()) == ("POST", "/v1/query"), "{method} {path}");
        }
    }
    let url = format!("/v1/usage?host={}", "a".repeat(9000));
    assert_eq!(get(shown.at, &operator, &url).status, 414);
    assert_eq!(ask(shown.at, "POST", "/login", "", &format!("token={}", "a".repeat(20_000))).status, 413);
    assert_eq!(ask(shown.at, "POST", "/login", "", "x=1").status, 400);
    assert_eq!(get(shown.at, &"a".repeat(30_000), "/v1/usage").status, 401);
    // All of that has changed nothing.
    assert_eq!(get(shown.at, &operator, "/v1/audit").json()["unexplained"], serde_json::json!([]));
    shown.ledger.stop();
}

#[test]
fn tokens_end_and_links_let_in_once() {
    let shown = Shown::new("token_valid_s_max = 3600\n");
    let issue = |valid: &str| weir(&["token", "issue", "--key", &shown.key, "--account", "acme", "--valid-s", valid]);
    let refused = |token: &str| {
        let answer = get(shown.at, token, "/v1/usage");
        assert_eq!((answer.status, answer.headers["www-authenticate"].as_str()), (401, "Bearer"));
        answer.json()["detail"].as_str().unwrap().to_owned()
    };
    assert!(refused(&issue("3601")).contains("token_valid_s_max"));
    let short = issue("1");
    assert!(until("the token's end", || {
        let answer = get(shown.at, &short, "/v1/usage");
        (answer.status == 401).then(|| answer.json()["detail"].as_str().unwrap().contains("expired"))
    }));
    let directory = tempfile::tempdir().unwrap();
    let theirs = directory.path().join("key").display().to_string();
    weir(&["token", "key", &theirs]);
    assert!(refused(&weir(&["token", "issue", "--key", &theirs, "--scope", "admin"])).contains("key is not known"));
    // In by a form, with a cookie, out again.
    let token = issue("60");
    let form = ask(
        shown.at,
        "POST",
        "/login",
        "content-type: application/x-www-form-urlencoded\r\n",
        &format!("token=+{token}%0A"),
    );
    assert_eq!((form.status, form.headers["location"].as_str()), (303, "/"));
    let cookie = &form.headers["set-cookie"];
    for part in ["HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=60"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    let cookie = format!("cookie: {}\r\n", cookie.split(';').next().unwrap());
    assert_eq!(ask(shown.at, "GET", "/v1/usage", &cookie, "").status, 200);
    let out = ask(shown.at, "POST", "/logout", &cookie, "");
    assert!(out.headers["set-cookie"].starts_with("weir_token=;") && out.headers["set-cookie"].contains("Max-Age=0"));
    // Not by another site's page.
    for foreign in ["origin: https://evil.example\r\n", "sec-fetch-site: cross-site\r\n", "origin: null\r\n"] {
        assert_eq!(ask(shown.at, "POST", "/logout", foreign, "").status, 403, "{foreign}");
    }
    assert_eq!(ask(shown.at, "POST", "/logout", "origin: http://portal\r\n", "").status, 303);
    // What keeps browsers from doing harm.
    let answer = get(shown.at, &token, "/v1/usage");
    assert!(answer.headers["content-security-policy"].contains("frame-ancestors 'none'"));
    assert_eq!(answer.headers["x-content-type-options"], "nosniff");
    assert_eq!(answer.headers["referrer-policy"], "no-referrer");
    assert_eq!(answer.headers["cache-control"], "no-store");
    // A browser is shown the way in; the keys that are configured print no link.
    let page = ask(shown.at, "GET", "/anything", "accept: text/html,*/*\r\n", "");
    assert_eq!((page.status, page.headers["location"].as_str()), (303, "/login"));
    assert_eq!(ask(shown.at, "GET", "/login/0123456789abcdef0123456789abcdef", "", "").status, 401);
    shown.ledger.stop();
}

#[test]
fn without_keys_a_ledger_makes_one_and_prints_a_link() {
    let origin = crate::rig::origin::Origin::http();
    let house = House::new(&Config::http(origin.address));
    let mut command = Command::new(WEIR);
    command.arg("ledger").arg("--config").arg(house.file());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut line).unwrap();
    let link = line.trim().rsplit_once("http://").unwrap().1;
    let (at, path) = link.split_once('/').unwrap();
    let (at, path): (SocketAddr, String) = (at.parse().unwrap(), format!("/{path}"));
    assert_eq!(ask(at, "GET", "/v1/usage", "", "").status, 401);
    assert_eq!(ask(at, "GET", "/login/0123456789abcdef0123456789abcdef", "", "").status, 401);
    let first = ask(at, "GET", &path, "", "");
    assert_eq!(first.status, 303, "{}", first.text());
    let cookie = format!("cookie: {}\r\n", first.headers["set-cookie"].split(';').next().unwrap());
    assert_eq!(ask(at, "GET", "/v1/audit", &cookie, "").status, 200);
    assert_eq!(ask(at, "GET", &path, "", "").status, 401, "once");
    // The key is its owner's alone, and makes more tokens.
    let key = house.state().join("portal.key");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&key).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let token = weir(&["token", "issue", "--key", &key.display().to_string(), "--scope", "admin"]);
    assert_eq!(get(at, &token, "/v1/accesses").status, 200);
    // How it is.
    assert_eq!(ask(at, "GET", "/livez", "", "").status, 200);
    until("/readyz", || (ask(at, "GET", "/readyz", "", "").status == 200).then_some(()));
    let metrics = ask(at, "GET", "/metrics", "", "");
    assert!(metrics.status == 200 && metrics.text().contains("weir_ledger_missing_records 0"), "{}", metrics.text());
    // Behind a proxy everybody seems to be here.
    assert_eq!(ask(at, "GET", "/metrics", "x-forwarded-for: 192.0.2.1\r\n", "").status, 401);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn too_many_requests_are_turned_away() {
    let shown = Shown::new("");
    let mut config = std::fs::read_to_string(shown.house.file()).unwrap();
    config = config.replace("requests_per_minute_max = 1000000", "requests_per_minute_max = 20");
    shown.house.write_text(&config);
    let (one, other) = (shown.customer("acme"), shown.customer("globex"));
    let Shown { house, ledger: before, .. } = shown;
    before.stop();
    let ledger = ledger(&house);
    let at = address(&ledger);
    let statuses: Vec<u16> = (0..25).map(|_| get(at, &one, "/v1/meters").status).collect();
    assert_eq!(statuses[..20], [200; 20]);
    assert_eq!(statuses[24], 429);
    let answer = get(at, &one, "/v1/meters");
    assert!(answer.headers["retry-after"].parse::<u64>().unwrap() >= 1);
    assert_eq!(get(at, &other, "/v1/meters").status, 200, "another's tokens are another's");
    // Guessing is slower still.
    let guesses: Vec<u16> = (0..70).map(|n| get(at, &format!("weir1.{n}.b.c"), "/v1/meters").status).collect();
    assert_eq!((guesses[0], guesses[69]), (401, 429));
    ledger.stop();
}

#[test]
fn tls_is_spoken_where_there_is_a_certificate() {
    let directory = tempfile::tempdir().unwrap();
    let certificate = crate::rig::tls::Certificate::new();
    let lines = certificate.write(directory.path());
    let shown = Shown::new(&lines);
    let client = certificate.client(&["http/1.1"], &rustls::version::TLS13);
    let headers = format!("authorization: Bearer {}\r\n", shown.customer("acme"));
    let (stream, _) = crate::rig::tls::connect(shown.at, &client);
    let answer = exchange(stream, "GET", "/v1/usage", &headers, "");
    assert_eq!(answer.status, 200);
    assert!(answer.headers["strict-transport-security"].contains("max-age="));
    let (stream, _) = crate::rig::tls::connect(shown.at, &client);
    let login = exchange(stream, "POST", "/login", "", &format!("token={}", shown.customer("acme")));
    assert!(login.headers["set-cookie"].contains("; Secure"));
    shown.ledger.stop();
}

#[test]
fn details_are_kept_as_long_as_is_said() {
    let shown = Shown::on("", "details_keep_days = 0\n");
    let page = get(shown.at, &shown.customer("acme"), "/v1/requests").json();
    assert_eq!((&page["items"], &page["kept_days"]), (&serde_json::json!([]), &0.into()));
    let usage = get(shown.at, &shown.customer("acme"), "/v1/usage").json();
    assert!(usage["items"][0]["requests"].as_i64().unwrap() > 0);
    shown.ledger.stop();
}

#[test]
fn a_part_is_audited_by_the_records_that_the_ledger_keeps() {
    let shown = Shown::new("");
    let operator = shown.operator();
    let audit = |query: &str| get(shown.at, &operator, &format!("/v1/audit?{query}")).json();
    let sum = |account: &str| -> i64 {
        let sessions = shown.records.0.iter().filter(|record| record.0["kind"] == "session");
        sessions.filter(|record| record.0["account"] == account).map(|record| record.number("sent_app_bytes")).sum()
    };
    for query in ["from=2020-01-01", "from=2020-01-01&to=2099-12-28", "account=acme"] {
        let part = audit(query);
        assert_eq!(part["unexplained"], serde_json::json!([]), "{query}: {part}");
        let accounts = part["usage"].as_array().unwrap();
        assert_eq!(accounts.len(), if query == "account=acme" { 1 } else { 2 }, "{query}");
        for of in accounts {
            assert_eq!(of["records_come_to"], of["usage"], "{query}");
            assert_eq!(of["usage"]["sent_app_bytes"], sum(of["account"].as_str().unwrap()), "{query}");
        }
        assert!(!part["explained"].as_array().unwrap().iter().any(|cause| cause["cause"] == "gone"), "{part}");
    }
    let node = audit("node=test");
    assert_eq!((node["usage"].as_array().unwrap().len(), node["records"].as_array().unwrap().len()), (0, 2), "{node}");
    for nothing in ["account=nobody", "node=nobody", "to=2020-01-01"] {
        let part = audit(nothing);
        assert_eq!((&part["records"], &part["unexplained"]), (&serde_json::json!([]), &serde_json::json!([])));
    }
    assert_eq!(get(shown.at, &operator, "/v1/audit?from=2026-01-02&to=2026-01-01").status, 400);
    assert_eq!(get(shown.at, &shown.customer("acme"), "/v1/audit?account=acme").status, 403);
    let page = get(shown.at, &operator, "/audit?account=acme").text();
    assert!(page.contains("Every byte is explained") && page.contains("Records against usage"), "{page}");
    assert!(!page.contains("globex"), "{page}");
    // Usage that no record says.
    super::flow::tamper(&shown.house.state().join("ledger.db").display().to_string());
    let part = audit("from=2020-01-01");
    let unexplained = part["unexplained"].as_array().unwrap();
    assert_eq!(unexplained.len(), 1, "{part}");
    assert!(unexplained[0].as_str().unwrap().ends_with(": +1"), "{part}");
    let page = get(shown.at, &operator, "/audit?from=2020-01-01").text();
    assert!(page.contains("1 differences are not explained"), "{page}");
    shown.ledger.stop();
}
