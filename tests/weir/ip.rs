//! `weir ip`, `weir ip serve` and `weir geoip` as people and other systems use them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::rig::process::WEIR;
use crate::rig::until;

struct Plan {
    directory: tempfile::TempDir,
}

impl Plan {
    fn new() -> Plan {
        let plan = Plan { directory: tempfile::tempdir().unwrap() };
        let city =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("geoip/tests/data/maxmind/test-data/GeoIP2-City-Test.mmdb");
        plan.write("a.csv", "cidr,country,asn\n81.2.69.0/24,FR,64500\n8.8.8.0/24,US,15169\n");
        plan.write("accounts.csv", "cidr,account_id,valid_from,valid_to,ref\n81.2.69.0/24,acme,,,contract-7\n");
        plan.write("labels.csv", "cidr,label,expires,source\nasn:15169,hosting,,clouds\n");
        plan.write(
            "geoip.toml",
            &format!(
                "accounts = \"accounts.csv\"\nlabels = [\"labels.csv\"]\nkeep = \"kept\"\n\
                 [[sources]]\nname = \"city\"\nkind = \"mmdb\"\npaths = [{city:?}]\n\
                 [[sources]]\nname = \"csv\"\nkind = \"ranges\"\npaths = [\"a.csv\"]\n"
            ),
        );
        plan
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// Runs weir with this plan's directory at hand; exit code, stdout, stderr.
    fn weir(&self, arguments: &[&str], input: &str) -> (i32, String, String) {
        let mut process = Command::new(WEIR)
            .args(arguments)
            .current_dir(self.directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = process.stdin.take().unwrap();
        let input = input.to_owned();
        let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
        let output = process.wait_with_output().unwrap();
        writer.join().unwrap().ok();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    fn good(&self, arguments: &[&str]) -> String {
        let (code, out, error) = self.weir(arguments, "");
        assert_eq!(code, 0, "{arguments:?}: {error}");
        out
    }
}

fn json(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

#[test]
fn an_address_is_answered_with_who_said_it() {
    let plan = Plan::new();
    let answer = json(&plan.good(&["ip", "--plan", "geoip.toml", "--json", "::ffff:81.2.69.160"]));
    assert_eq!(answer["ip"], "::ffff:81.2.69.160");
    assert_eq!((&answer["canonical"], &answer["via"]), (&Value::from("81.2.69.160"), &Value::from("v4_mapped")));
    assert_eq!(answer["country"], "GB");
    assert_eq!(answer["region"], "GB-ENG");
    assert_eq!(answer["asn"], 64500);
    assert_eq!((&answer["account"], &answer["account_ref"]), (&Value::from("acme"), &Value::from("contract-7")));
    assert_eq!((&answer["sources"]["country"], &answer["sources"]["asn"]), (&Value::from("city"), &Value::from("csv")));
    assert_eq!(answer["sources"]["as_org"], Value::Null);
    assert!(answer["geo_epoch"].as_i64().unwrap() > 0 && answer["accounts_version"].as_i64().unwrap() > 0);

    let text = plan.good(&["ip", "--plan", "geoip.toml", "--explain", "81.2.69.160", "10.0.0.1"]);
    assert!(text.contains("country=GB*") && text.contains("country=FR asn=64500*"), "{text}");
    assert!(text.contains("private") && text.contains("bogon"), "{text}");
    let (code, _, error) = plan.weir(&["ip", "--plan", "geoip.toml", "1.2.3"], "");
    assert_eq!(code, 1);
    assert!(error.contains("\"1.2.3\" is no address"), "{error}");
}

#[test]
fn lines_are_answered_in_order_and_bad_ones_in_their_place() {
    let plan = Plan::new();
    let mut input = String::new();
    for n in 0..20_000_u32 {
        input += &format!("{}\n", std::net::Ipv4Addr::from(n.wrapping_mul(2_654_435_761)));
    }
    input += "nonsense \"1\"\n\n2001:218::1\r\n";
    let (code, out, error) = plan.weir(&["ip", "--plan", "geoip.toml", "--stdin"], &input);
    assert_eq!(code, 1);
    assert!(error.contains("1 lines are no addresses"), "{error}");
    let asked: Vec<&str> = input.lines().filter(|line| !line.is_empty()).collect();
    let answers: Vec<Value> = out.lines().map(json).collect();
    assert_eq!(answers.len(), asked.len());
    for (asked, answer) in asked.iter().zip(&answers) {
        let said = answer.get("ip").or(answer.get("input")).unwrap();
        assert_eq!(said, asked.trim());
    }
    assert_eq!(answers[20_000]["error"], "invalid_ip");
    assert_eq!(answers[20_001]["country"], "JP");
}

#[test]
fn a_signed_snapshot_is_built_verified_and_compared() {
    let plan = Plan::new();
    let public = plan.good(&["geoip", "key", "signing.key"]);
    plan.write("signing.pub", &public);
    plan.good(&["geoip", "build", "--plan", "geoip.toml", "--to", "old.weirgeo", "--key", "signing.key"]);
    plan.good(&["geoip", "verify", "old.weirgeo", "--public-key", "signing.pub"]);
    let answer =
        plan.good(&["ip", "--snapshot", "old.weirgeo", "--public-key", "signing.pub", "--json", "81.2.69.160"]);
    assert_eq!(json(&answer)["account"], "acme");
    let (code, _, error) = plan.weir(&["geoip", "key", "signing.key"], "");
    assert_eq!(code, 1, "an old key is not overwritten");
    assert!(error.contains("cannot make signing.key"), "{error}");

    plan.write("accounts.csv", "81.2.69.0/25,acme\n81.2.69.128/25,beta\n");
    plan.good(&["geoip", "build", "--plan", "geoip.toml", "--to", "new.weirgeo"]);
    let (code, _, error) = plan.weir(&["geoip", "verify", "new.weirgeo", "--public-key", "signing.pub"], "");
    assert_eq!(code, 1);
    assert!(error.contains("it is not signed"), "{error}");
    let difference = json(&plan.good(&["geoip", "diff", "old.weirgeo", "new.weirgeo", "--json"]));
    let difference = &difference["difference"];
    assert_eq!((&difference["account"]["v4"], &difference["country"]["v4"]), (&Value::from(128), &Value::from(0)));
    assert_eq!(difference["accounts"]["beta"]["v4"], 128);
    // Cut wherever the city changes.
    let ranges = plan.good(&["geoip", "diff", "old.weirgeo", "new.weirgeo", "--ranges"]);
    assert!(ranges.contains("81.2.69.128 - ") && ranges.contains(" - 81.2.69.255: "), "{ranges}");
    let status = plan.good(&["geoip", "status", "--plan", "geoip.toml"]);
    assert!(status.contains("city") && status.contains("accounts") && status.contains("expired"), "{status}");

    let mut bytes = std::fs::read(plan.path("new.weirgeo")).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(plan.path("new.weirgeo"), bytes).unwrap();
    let (code, _, error) = plan.weir(&["geoip", "verify", "new.weirgeo"], "");
    assert_eq!(code, 1);
    assert!(error.contains("it is damaged or cut short"), "{error}");
}

struct Service(Child, SocketAddr);

impl Service {
    fn start(plan: &Plan, arguments: &[&str]) -> Service {
        let mut process = Command::new(WEIR)
            .args(["ip", "serve", "--listen", "127.0.0.1:0"])
            .args(arguments)
            .current_dir(plan.directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on http://").unwrap_or_else(|| panic!("{line:?}"));
        Service(process, address.parse().unwrap())
    }

    /// Status, head and body.
    fn ask(&self, method: &str, path: &str, more: &str, body: &str) -> (u16, String, String) {
        let mut stream = TcpStream::connect(self.1).unwrap();
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n{more}\r\n{body}"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), head.to_lowercase(), body.to_owned())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn the_service_answers_as_its_description_says() {
    let plan = Plan::new();
    let service = Service::start(&plan, &["--plan", "geoip.toml"]);
    let (status, head, body) = service.ask("GET", "/v1/ip/81.2.69.160", "", "");
    assert_eq!(status, 200);
    assert_eq!(json(&body)["country"], "GB");
    let tag = head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap();
    assert_eq!(tag.trim_matches('"'), json(&body)["snapshot"]);
    assert_eq!(service.ask("GET", "/v1/ip/81.2.69.160", &format!("if-none-match: {tag}\r\n"), "").0, 304);
    assert_eq!(service.ask("GET", "/v1/ip/81.2.69", "", "").0, 400);
    let (status, _, body) = service.ask("GET", "/v1/ip/%3a%3Affff:81.2.69.160", "", "");
    assert_eq!((status, &json(&body)["ip"]), (200, &Value::from("::ffff:81.2.69.160")));
    assert_eq!(service.ask("GET", "/v1/ip/%3", "", "").0, 400);
    let (status, _, body) = service.ask("POST", "/v1/ip:batch", "", "8.8.8.8\nno\n\"2001:218::1\"\n");
    assert_eq!(status, 200);
    let answers: Vec<Value> = body.lines().map(json).collect();
    assert_eq!(answers.len(), 3);
    assert_eq!((&answers[0]["labels"][0], &answers[1]["error"]), (&Value::from("hosting"), &Value::from("invalid_ip")));
    assert_eq!(answers[2]["country"], "JP");
    assert_eq!(service.ask("POST", "/v1/ip:batch", "", &"8.8.8.8\n".repeat(10_001)).0, 413);
    assert_eq!(service.ask("POST", "/v1/ip:batch", "", &" ".repeat((1 << 20) + 1)).0, 413);
    let (_, _, body) = service.ask("POST", "/v1/screen", "", "{\"ip\":\"8.8.8.8\"}");
    assert_eq!(json(&body)["verdict"], Value::Null, "there are no rules");
    assert_eq!(service.ask("POST", "/v1/screen", "", "{\"address\":1}").0, 400);
    let (_, _, body) = service.ask("GET", "/v1/snapshots", "", "");
    assert!(json(&body)["current"]["sources"].as_array().unwrap().iter().any(|source| source["name"] == "city"));

    // Everything described is there with its method and no other, and says nothing that is not described.
    let (_, _, body) = service.ask("GET", "/openapi.json", "", "");
    let described = json(&body);
    let schema = &described["components"]["schemas"]["Answer"];
    for field in schema["required"].as_array().unwrap() {
        assert!(answers[0].get(field.as_str().unwrap()).is_some(), "{field} is missing");
    }
    for field in answers[0].as_object().unwrap().keys() {
        assert!(schema["properties"].get(field).is_some(), "{field} is not described");
    }
    for (path, methods) in described["paths"].as_object().unwrap() {
        let path = path.replace("{ip}", "8.8.8.8");
        for method in ["GET", "POST"] {
            let status = service.ask(method, &path, "", "").0;
            if let Some(described) = methods.get(method.to_lowercase()) {
                assert!(described["responses"].get(status.to_string()).is_some(), "{method} {path}: {status}");
            } else {
                assert_eq!(status, 405, "{method} {path}");
            }
        }
    }
    assert_eq!(service.ask("GET", "/v1/nothing", "", "").0, 404);
}

#[test]
fn the_service_needs_a_token_where_tokens_are_given_and_follows_the_files() {
    let plan = Plan::new();
    plan.write("tokens", "# operators\nfirst-token\nsecond-token\n");
    let service = Service::start(&plan, &["--plan", "geoip.toml", "--tokens", "tokens"]);
    let ask = |token: &str| service.ask("GET", "/v1/ip/8.8.8.8", token, "");
    for refused in
        ["", "authorization: Bearer wrong\r\n", "authorization: Basic first-token\r\n", "authorization: Bearer\r\n"]
    {
        assert_eq!(ask(refused).0, 401, "{refused}");
    }
    let token = "authorization: Bearer second-token\r\n";
    assert_eq!(ask(token).0, 200);
    assert_eq!(service.ask("GET", "/openapi.json", "", "").0, 200);
    plan.write("new.csv", "cidr,country,asn\n8.8.8.0/24,CA,15169\n81.2.69.0/24,FR,64500\n");
    std::fs::rename(plan.path("new.csv"), plan.path("a.csv")).unwrap();
    let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while json(&ask(token).2)["country"] != "CA" {
        assert!(std::time::Instant::now() < until, "the new file is not in use");
        std::thread::yield_now();
    }
    assert!(!std::fs::read_dir(plan.path("kept")).unwrap().collect::<Vec<_>>().is_empty());
    plan.write("none", "# nobody\n");
    let (code, _, error) = plan.weir(&["ip", "serve", "--plan", "geoip.toml", "--tokens", "none"], "");
    assert_eq!(code, 1);
    assert!(error.contains("none holds no token"), "{error}");
}

#[test]
fn the_past_is_answered_from_kept_snapshots() {
    let plan = Plan::new();
    let service = Service::start(&plan, &["--plan", "geoip.toml"]);
    let first = || std::fs::read_dir(plan.path("kept")).ok()?.next();
    while first().is_none_or(|entry| entry.unwrap().path().extension().is_none_or(|extension| extension != "weirgeo")) {
        assert_eq!(service.ask("GET", "/v1/ip/8.8.8.8", "", "").0, 200);
    }
    plan.write("new.csv", "cidr,country,asn\n8.8.8.0/24,CA,1\n81.2.69.0/24,FR,64500\n");
    std::fs::rename(plan.path("new.csv"), plan.path("a.csv")).unwrap();
    let now = || service.ask("GET", "/v1/ip/8.8.8.8", "", "").2;
    until("the new file to be in use", || (json(&now())["country"] == "CA").then_some(()));
    let kept = until("both to be kept", || {
        let answer = json(&service.ask("GET", "/v1/snapshots", "", "").2);
        (answer["kept"].as_array().unwrap().len() == 2).then_some(answer)
    });
    // Files are looked at once a second, so the first one was in use for its own second.
    let first = kept["kept"][0]["valid_from"].as_i64().unwrap();
    let as_of = format!("as_of={}", weir_geoip::date::print(first).replace(':', "%3A"));
    let (status, head, past) = service.ask("GET", &format!("/v1/ip/8.8.8.8?{as_of}"), "", "");
    assert_eq!((status, &json(&past)["country"]), (200, &Value::from("US")), "{past}");
    let tag = head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap();
    assert_eq!(tag.trim_matches('"'), json(&past)["snapshot"]);
    let known = format!("if-none-match: {tag}\r\n");
    assert_eq!(service.ask("GET", &format!("/v1/ip/8.8.8.8?{as_of}"), &known, "").0, 304);
    assert_eq!(service.ask("GET", "/v1/ip/8.8.8.8", &known, "").0, 200);
    let (_, _, batch) = service.ask("POST", &format!("/v1/ip:batch?{as_of}"), "", "8.8.8.8\n");
    assert_eq!(json(&batch)["country"], "US");
    let (_, _, screened) = service.ask("POST", &format!("/v1/screen?{as_of}"), "", "{\"ip\":\"8.8.8.8\"}");
    let screened = json(&screened);
    assert_eq!((&screened["country"], &screened["snapshot"]), (&Value::from("US"), &json(&past)["snapshot"]));
    for (path, status) in [
        ("/v1/ip/8.8.8.8?as_of=1980-01-01", 404),
        ("/v1/ip/8.8.8.8?as_of=yesterday", 400),
        ("/v1/ip/8.8.8.8?asof=2026-01-01", 400),
        ("/v1/snapshots?as_of=2026-01-01", 400),
    ] {
        assert_eq!(service.ask("GET", path, "", "").0, status, "{path}");
    }
    drop(service);
    let past = plan.good(&["ip", "--plan", "geoip.toml", "--json", "--as-of", "2100-01-01", "8.8.8.8"]);
    assert_eq!(json(&past)["country"], "CA");
    let (code, _, error) = plan.weir(&["ip", "--plan", "geoip.toml", "--as-of", "1980-01-01", "8.8.8.8"], "");
    assert_eq!(code, 1);
    assert!(error.contains("no snapshot of that time"), "{error}");
}

#[test]
fn encrypted_addresses_are_read_with_the_key_alone() {
    let plan = Plan::new();
    plan.write("ip.key", "000102030405060708090a0b0c0d0e0f\n");
    plan.write("other.key", &"ff".repeat(16));
    let cipher = ipcrypt_rs::Ipcrypt::new(std::array::from_fn(|at| at as u8));
    let clients: [std::net::IpAddr; 2] = ["192.0.2.77".parse().unwrap(), "2001:db8::7".parse().unwrap()];
    let hidden = clients.map(|client| cipher.encrypt_ipaddr(client).to_string());
    assert_eq!(plan.good(&["ip", "decrypt", "--key", "ip.key", &hidden[0], &hidden[1]]), "192.0.2.77\n2001:db8::7\n");
    let (code, out, _) = plan.weir(&["ip", "decrypt", "--key", "ip.key"], &format!("{}\n{}\n", hidden[1], hidden[0]));
    assert_eq!((code, out.as_str()), (0, "2001:db8::7\n192.0.2.77\n"));
    assert_ne!(plan.good(&["ip", "decrypt", "--key", "other.key", &hidden[0]]), "192.0.2.77\n");
    for (key, address, says) in
        [("none.key", &*hidden[0], "cannot read none.key"), ("ip.key", "x", "\"x\" is no address")]
    {
        let (code, _, error) = plan.weir(&["ip", "decrypt", "--key", key, address], "");
        assert_eq!(code, 1);
        assert!(error.contains(says), "{error}");
    }
}
