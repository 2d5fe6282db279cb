//! Whose traffic is, where it comes from, what the rules say of it, and what is kept of addresses: in the records, through the real
//! process, from many addresses by the PROXY protocol.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use ring::hmac;
use rustls::ClientConfig;

use crate::rig::client::{Client, Cuts};
use crate::rig::message::Reader;
use crate::rig::origin::Origin;
use crate::rig::process::{Config, House, Process, WEIR, Weir};
use crate::rig::records::{Record, Records};
use crate::rig::tls::{self, Authority, Certificate};
use crate::rig::until;

const PROXIED: &str = "proxy_protocol = \"required\"\ntrusted_proxies = [\"127.0.0.0/8\"]\n";

/// Addresses and what the files below say of them.
const PLACES: &str = "cidr,country,region,city,asn,as_org\n\
    81.2.69.0/24,GB,GB-ENG,London,20712,Andrews & Arnold\n\
    91.0.0.0/16,DE,,,3320,Deutsche Telekom\n\
    5.59.0.0/16,RU,Crimea,Simferopol,47598,Somebody\n\
    5.60.0.0/16,UA,UA-43,Simferopol,47599,Somebody else\n\
    5.61.0.0/16,UA,,,47600,A third\n\
    2a02:8100::/32,DE,,,3320,Deutsche Telekom\n";
const LABELS: &str = "cidr,label,expires,source\n91.0.7.0/24,proxy.anonymous.tor,,test\nasn:20712,hosting,,test\n";
const ACCOUNTS: &str = "cidr,account_id,valid_from,valid_to,ref\n\
    81.2.0.0/16,wide,,,\n81.2.69.0/25,narrow,,,\n2a02:8100:1::/48,six,,,\n91.0.0.0/16,former,,2020-01-01,\n";
const PLAN: &str = "accounts = \"accounts.csv\"\nlabels = [\"labels.csv\"]\n\
    [[sources]]\nname = \"places\"\nkind = \"ranges\"\npaths = [\"places.csv\"]\n";

/// The files of addresses beside the configuration.
fn write_places(directory: &Path) {
    for (name, text) in
        [("places.csv", PLACES), ("labels.csv", LABELS), ("accounts.csv", ACCOUNTS), ("geoip.toml", PLAN)]
    {
        std::fs::write(directory.join(name), text).unwrap();
    }
}

/// A house with these files, running.
fn start(config: &Config, files: &[(&str, &str)]) -> Weir {
    let house = House::new(config);
    write_places(house.directory.path());
    for (name, text) in files {
        std::fs::write(house.directory.path().join(name), text).unwrap();
    }
    Weir { process: house.run(&[]), house }
}

/// Replaces a file in one step.
fn replace(file: &Path, text: &str) {
    std::fs::write(file.with_extension("new"), text).unwrap();
    std::fs::rename(file.with_extension("new"), file).unwrap();
}

/// What is said after the listeners.
fn and(mut config: Config, more: &str) -> Config {
    config.listeners += more;
    config
}

/// What a client asks for: each something of its own.
fn path_of(client_ip: &str) -> String {
    format!("/bytes/7/{}", client_ip.replace(['.', ':'], "-"))
}

/// One GET from this client, which a proxy states; the status.
fn ask(weir: &Weir, client_ip: &str, headers: &str) -> u16 {
    let family = if client_ip.contains(':') { "TCP6" } else { "TCP4" };
    let own = if family == "TCP6" { "2001:db8::9" } else { "198.51.100.9" };
    let mut client = Client::connect(weir.address("web"));
    client.write(format!("PROXY {family} {client_ip} {own} 4711 80\r\n").as_bytes(), Cuts::Whole);
    client.request(
        format!("GET {} HTTP/1.1\r\nhost: test\r\n{headers}\r\n", path_of(client_ip)).as_bytes(),
        0,
        Cuts::Whole,
    );
    let status = client.response().status();
    client.close();
    status
}

/// The closes of sessions and requests of this client.
fn of<'r>(records: &'r Records, client_ip: &str) -> [&'r Record; 2] {
    ["session", "request"].map(|kind| {
        let found: Vec<_> =
            records.closes(kind).into_iter().filter(|record| record.text("client_ip") == client_ip).collect();
        assert_eq!(found.len(), 1, "{kind} records of {client_ip}");
        found[0]
    })
}

/// As `weir key hash` makes it of a key on its standard input.
fn hash_of(api_key: &str, secret: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("keys.secret");
    std::fs::write(&file, secret).unwrap();
    let mut process = Command::new(WEIR)
        .args(["key", "hash", "--hash-key"])
        .arg(&file)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    writeln!(process.stdin.take().unwrap(), "{api_key}").unwrap();
    let output = process.wait_with_output().unwrap();
    assert!(output.status.success());
    let hash = String::from_utf8(output.stdout).unwrap().trim_end().to_owned();
    let key = hmac::Key::new(hmac::HMAC_SHA256, &[7; 32]);
    let expected: String =
        hmac::sign(&key, api_key.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hash, expected);
    hash
}

fn optional<'r>(record: &'r Record, name: &str) -> &'r str {
    record.0[name].as_str().unwrap_or_default()
}

#[test]
fn many_addresses_have_the_right_account_country_and_verdict() {
    let origin = Origin::http();
    let rules = "[geoip]\nplan = \"geoip.toml\"\n[[attribution]]\nname = \"networks\"\naccount_from = \"client_cidr\"\n\
        [[screening.rules]]\nname = \"crimea\"\nversion = 2\nsubdivisions = [\"UA-43\", \"RU/Crimea\"]\naction = \"refuse\"\nindeterminate = \"tag\"\n\
        [[screening.rules]]\nname = \"ended\"\ncountries = [\"GB\"]\nvalid_to = \"2025-07-01\"\naction = \"refuse\"\n\
        [[screening.rules]]\nname = \"telekom\"\nasns = [3320]\naction = \"tag\"\n";
    let weir = start(&and(Config::listener("web", "http", origin.address, PROXIED), rules), &[]);
    // client, account, country, region, network, verdict and rule, status, what the origin is told
    let cases = [
        ("81.2.69.7", "narrow", "GB", "GB-ENG", 20712, "clear", "", 200, ""),
        ("81.2.69.200", "wide", "GB", "GB-ENG", 20712, "clear", "", 200, ""),
        ("91.0.1.1", "unattributed", "DE", "", 3320, "match", "telekom@1", 200, "match; rule=telekom@1"),
        ("5.59.1.1", "unattributed", "RU", "Crimea", 47598, "match", "crimea@2", 451, ""),
        ("5.60.1.1", "unattributed", "UA", "UA-43", 47599, "match", "crimea@2", 451, ""),
        ("5.61.1.1", "unattributed", "UA", "", 47600, "indeterminate", "crimea@2", 200, "indeterminate; rule=crimea@2"),
        ("2a02:8100:1::1", "six", "DE", "", 3320, "match", "telekom@1", 200, "match; rule=telekom@1"),
        ("8.8.8.8", "unattributed", "", "", 0, "indeterminate", "crimea@2", 200, "indeterminate; rule=crimea@2"),
        ("10.1.2.3", "unattributed", "", "", 0, "indeterminate", "crimea@2", 200, "indeterminate; rule=crimea@2"),
    ];
    for (client, .., status, told) in cases {
        assert_eq!(ask(&weir, client, "weir-screening: clear\r\nWeir_Screening: clear\r\n"), status, "{client}");
        if status == 200 {
            let seen = origin.seen(&path_of(client)).request;
            assert_eq!(seen.field("weir-screening").unwrap_or_default(), told, "{client}");
            assert_eq!(seen.field("weir_screening"), None, "{client}");
        }
    }
    let records = weir.settled(cases.len());
    for (client, account, country, region, asn, verdict, rule, status, _) in cases {
        for record in of(&records, client) {
            let texts = ["account", "country", "region"].map(|name| record.text(name));
            assert_eq!(texts, [account, country, region], "{}", record.0);
            assert_eq!(record.number("asn"), asn, "{}", record.0);
            assert_eq!(
                [optional(record, "screening"), optional(record, "screening_rule")],
                [verdict, rule],
                "{}",
                record.0
            );
            assert!(record.number("accounts_version") > 0, "{}", record.0);
            let (billable, reason) = if status == 451 { (false, "screened") } else { (true, "") };
            assert_eq!(
                (record.0["billable"].as_bool(), record.text("reason")),
                (Some(billable), reason),
                "{}",
                record.0
            );
        }
    }
    let [_, narrow] = of(&records, "81.2.69.7");
    assert_eq!(
        [narrow.text("attribution"), narrow.text("city"), narrow.text("as_org")],
        ["networks", "London", "Andrews & Arnold"]
    );
    assert_eq!(narrow.0["labels"], serde_json::json!(["hosting"]));
    let known: Vec<_> = records.0.iter().filter(|record| !optional(record, "geo_snapshot").is_empty()).collect();
    assert_eq!(known.len(), 1, "the table in force is stated once");
    assert_eq!(known[0].text("kind"), "node");
    until("what is nobody's to be counted", || (weir.process.metric("weir_unattributed_total") == 6.0).then_some(()));
    assert_eq!(weir.process.metric("weir_screening_refused_total"), 2.0);
}

#[test]
fn another_table_of_addresses_is_announced_and_a_broken_one_changes_nothing() {
    let origin = Origin::http();
    let config = and(Config::listener("web", "http", origin.address, PROXIED), "[geoip]\nplan = \"geoip.toml\"\n");
    let weir = start(&config, &[]);
    let places = weir.house.directory.path().join("places.csv");
    ask(&weir, "81.2.69.1", "");
    replace(&places, "cidr,country\n81.2.69.0/33,GB\n");
    weir.process.await_line("the new table of addresses is refused, the old one stays");
    until("the source to be stale", || (weir.process.metric("weir_geoip_source_state") >= 1.0).then_some(()));
    ask(&weir, "81.2.69.2", "");
    replace(&places, &PLACES.replace("81.2.69.0/24,GB", "81.2.69.0/24,IE"));
    weir.process.await_line("another table of addresses is in use");
    let announced = || {
        let records = weir.house.records();
        let ids: Vec<String> = records.0.iter().map(|record| optional(record, "geo_snapshot").to_owned()).collect();
        let ids: Vec<String> = ids.into_iter().filter(|id| !id.is_empty()).collect();
        (ids.len() == 2).then_some(ids)
    };
    let ids = until("both tables in node records", announced);
    assert_ne!(ids[0], ids[1]);
    ask(&weir, "81.2.69.3", "");
    let records = weir.settled(3);
    for (client, country) in [("81.2.69.1", "GB"), ("81.2.69.2", "GB"), ("81.2.69.3", "IE")] {
        assert_eq!(of(&records, client)[1].text("country"), country);
    }
}

#[test]
fn a_forged_header_chooses_nothing() {
    let origin = Origin::http();
    let rules = "[[attribution]]\nname = \"said\"\naccount_from = { header = \"x-account\" }\n\
        [[attribution]]\nname = \"plan\"\nheader = { name = \"x-plan\", value = \"gold\" }\naccount = \"gold\"\n";
    // The peer is trusted; the client that it states by PROXY is not.
    let weir = start(&and(Config::listener("web", "http", origin.address, PROXIED), rules), &[]);
    ask(&weir, "81.2.69.7", "x-account: victim\r\nx-plan: gold\r\nx-forwarded-for: 91.0.1.1\r\n");
    let records = weir.settled(1);
    let [_, request] = of(&records, "81.2.69.7");
    assert_eq!([request.text("account"), request.text("attribution")], ["unattributed", "unattributed"]);
    // A gateway of our own that speaks HTTP is.
    let weir = start(
        &and(Config::listener("web", "http", origin.address, "trusted_proxies = [\"127.0.0.0/8\"]\n"), rules),
        &[],
    );
    let mut client = Client::connect(weir.address("web"));
    client.request(b"GET /bytes/7 HTTP/1.1\r\nhost: test\r\nx-account: own\r\n\r\n", 0, Cuts::Whole);
    client.response();
    client.request(b"GET /bytes/7 HTTP/1.1\r\nhost: test\r\nx-plan: gold\r\n\r\n", 0, Cuts::Whole);
    client.response();
    client.close();
    let records = weir.settled(1);
    let accounts: Vec<_> = records.closes("request").iter().map(|record| record.text("account").to_owned()).collect();
    assert_eq!(accounts, ["own", "gold"]);
    // Its connection carries the requests of many, and is nobody's.
    assert_eq!(records.closes("session")[0].text("account"), "unattributed");
}

#[test]
fn a_connection_is_whose_its_first_request_is() {
    let origin = Origin::http();
    let rules = "[[attribution]]\nname = \"by-host\"\naccount_from = { table = \"tenants\", by = \"host\" }\n\
        [[account_tables]]\nname = \"tenants\"\nfile = \"tenants.csv\"\n";
    let tenants = "host,account_id\na.test,a\nb.test,b\n";
    let own = Config::listener("web", "http", origin.address, "account = \"own\"\n");
    let weir = start(&and(own, rules), &[("tenants.csv", tenants)]);
    // Three at once: all have begun before the first is known to be whose.
    let mut client = Client::connect(weir.address("web"));
    let pipelined = ["a", "b", "c"].map(|host| format!("GET /bytes/7 HTTP/1.1\r\nhost: {host}.test\r\n\r\n"));
    pipelined.iter().for_each(|request| client.note_request(request.as_bytes(), 0));
    client.write(pipelined.concat().as_bytes(), Cuts::Whole);
    for _ in 0..3 {
        client.response();
    }
    assert!(weir.process.admin("/sessions").1.contains("\"account\":\"a\""));
    client.close();
    // One that asks for nothing that can be understood stays its listener's.
    let mut garbage = Client::connect(weir.address("web"));
    garbage.request(b"no request\r\n\r\n", 0, Cuts::Whole);
    assert_eq!(garbage.response().status(), 400);
    garbage.close();
    let records = weir.settled(2);
    let whose = |kind: &str| -> Vec<String> {
        let of_kind = records.0.iter().filter(|record| record.text("kind") == kind);
        of_kind.map(|record| ["phase", "account", "attribution"].map(|name| record.text(name)).join(" ")).collect()
    };
    let sessions = ["open a by-host", "close a by-host", "open own listener", "close own listener"];
    assert_eq!(whose("session"), sessions);
    assert_eq!(whose("request")[..3], ["close a by-host", "close b by-host", "close own listener"]);
}

#[test]
fn hosts_keys_and_proxy_fields_find_their_accounts_and_keys_are_nowhere() {
    let origin = Origin::http();
    let hash = hash_of("sk-very-own-key", &"07".repeat(32));
    let keys = format!("hash,account_id\n{hash},keyed\n");
    let rules = "[[attribution]]\nname = \"by-key\"\naccount_from = { table = \"keys\", by = { header = \"authorization\" } }\n\
        [[attribution]]\nname = \"by-field\"\naccount_from = { table = \"tenants\", by = { proxy_field = 234 } }\n\
        [[attribution]]\nname = \"by-host\"\naccount_from = { table = \"tenants\", by = \"host\" }\n\
        [[account_tables]]\nname = \"tenants\"\nfile = \"tenants.csv\"\n\
        [[account_tables]]\nname = \"keys\"\nkind = \"keys\"\nfile = \"keys.csv\"\nhash_key = \"keys.secret\"\n";
    let tenants =
        "host,account_id,valid_from,valid_to\nold.test,former,,2020-01-01\n*.tenant.test,tenant\nvpce-17,endpoint\n";
    let files = [("tenants.csv", tenants), ("keys.csv", keys.as_str()), ("keys.secret", &"07".repeat(32))];
    let mut weir = start(
        &and(Config::listener("web", "http", origin.address, PROXIED).top("checkpoint_interval_ms = 60000"), rules),
        &files,
    );
    let request = |headers: &str, fields: &[u8]| {
        let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11".to_vec();
        header.extend_from_slice(&(12 + fields.len() as u16).to_be_bytes());
        header.extend_from_slice(&[81, 2, 69, 7, 198, 51, 100, 1, 0x12, 0x68, 0, 80]);
        header.extend_from_slice(fields);
        let mut client = Client::connect(weir.address("web"));
        client.write(&header, Cuts::Whole);
        client.request(format!("GET /bytes/7 HTTP/1.1\r\n{headers}\r\n").as_bytes(), 0, Cuts::Whole);
        client.response();
        client.close();
    };
    request("host: A.Tenant.test\r\nauthorization: Bearer sk-very-own-key\r\n", &[]);
    request("host: a.Tenant.test\r\nauthorization: Bearer sk-another\r\n", &[]);
    request("host: old.test\r\n", &[]);
    request("host: old.test\r\n", b"\xEA\x00\x08\x01vpce-17");
    let accounts = |records: &Records| -> Vec<String> {
        let closes = records.closes("request");
        closes.iter().map(|record| format!("{}/{}", record.text("account"), record.text("attribution"))).collect()
    };
    let records = weir.settled(4);
    let expected = ["keyed/by-key", "tenant/by-host", "unattributed/unattributed", "endpoint/by-field"];
    assert_eq!(accounts(&records), expected);
    assert!(records.closes("request")[0].number("accounts_version") > 0);
    // A broken table keeps the old one, and is named by line.
    let file = weir.house.directory.path().join("tenants.csv");
    replace(&file, "host,account_id\n*.tenant.test,\n");
    let said = weir.process.await_line("the new table of accounts is refused");
    assert!(said.contains("tenants.csv:2:"), "{said}");
    until("it to be counted", || (weir.process.metric("weir_account_tables_refused_total") == 1.0).then_some(()));
    replace(&file, "host,account_id\n*.tenant.test,another\n");
    weir.process.await_line("table of accounts read again");
    let mut client = Client::connect(weir.address("web"));
    client.write(b"PROXY TCP4 81.2.69.7 198.51.100.1 4711 80\r\n", Cuts::Whole);
    client.request(b"GET /bytes/7 HTTP/1.1\r\nhost: b.tenant.test\r\n\r\n", 0, Cuts::Whole);
    client.response();
    client.close();
    assert_eq!(accounts(&weir.settled(5))[4], "another/by-host");
    let log = weir.process.log().join("\n");
    assert!(!log.contains("sk-very"), "{log}");
    weir.process.signal(rustix::process::Signal::TERM);
    weir.process.ended();
    assert_eq!(holds(&weir.house.state(), b"sk-very"), Vec::<String>::new());
}

#[test]
fn a_table_that_cannot_be_used_is_named_by_check_with_its_lines() {
    let origin = Origin::http();
    let rules = "[[account_tables]]\nname = \"tenants\"\nfile = \"tenants.csv\"\n";
    let house = House::new(&and(Config::http(origin.address), rules));
    std::fs::write(house.directory.path().join("tenants.csv"), "host,account_id\na.test,x\n*,y\na.test,z,never\n")
        .unwrap();
    let output = Command::new(WEIR).arg("check").arg("--config").arg(house.file()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(64), "{said}");
    assert!(said.contains("tenants.csv:3:") && said.contains("tenants.csv:4:"), "{said}");
}

/// Files below a directory that hold these octets.
fn holds(directory: &Path, octets: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(holds(&path, octets));
        } else if path.is_file() && std::fs::read(&path).unwrap().windows(octets.len()).any(|window| window == octets) {
            found.push(path.display().to_string());
        }
    }
    found
}

/// The client under each mode, by a process that is killed in the middle of a request, so that its records are recovered from slots.
/// Returns the records.
fn kept(privacy: &str) -> (Records, House) {
    const CLIENT: [u8; 4] = [81, 2, 69, 77];
    let origin = Origin::http();
    let rules = format!(
        "[geoip]\nplan = \"geoip.toml\"\n[[attribution]]\nname = \"by-host\"\naccount_from = \"host\"\n[privacy]\n{privacy}\n"
    );
    let mut config = and(Config::listener("web", "http", origin.address, PROXIED), &rules);
    config.admin = "listen = \"127.0.0.1:0\"\n".to_owned();
    let weir = start(&config, &[]);
    ask(&weir, "81.2.69.77", "");
    // One that waits for the rest of its body, and is then recovered.
    let mut open = Client::connect(weir.address("web"));
    open.write(b"PROXY TCP4 81.2.69.77 198.51.100.9 4711 80\r\nPOST /sink HTTP/1.1\r\nhost: test\r\ncontent-length: 10\r\n\r\n12345", Cuts::Whole);
    let sessions = until("the open session alone", || {
        let (_, sessions) = weir.process.admin("/sessions");
        sessions.contains("\"open\":1").then_some(sessions)
    });
    assert!(!sessions.contains("81.2.69.77"), "{sessions}");
    until("it to be measured", || (weir.process.metric("weir_requests_total") >= 2.0).then_some(()));
    let log = weir.process.log().join("\n");
    let Weir { process, house } = weir;
    process.kill();
    drop(open);
    let again = house.run(&[]);
    let log = log + &again.log().join("\n");
    assert!(!log.contains("81.2.69.77"), "{log}");
    let records = until("both closes", || {
        let records = house.records();
        (records.closes("request").len() == 2).then_some(records)
    });
    drop(again);
    assert_eq!(holds(&house.state(), &CLIENT), Vec::<String>::new(), "the address is on disk");
    assert_eq!(holds(&house.state(), b"81.2.69.77"), Vec::<String>::new(), "the address is on disk as text");
    // It was known all the same.
    for record in records.closes("request") {
        assert_eq!([record.text("country"), record.text("account")], ["GB", "test"], "{}", record.0);
    }
    assert!(records.closes("request").iter().any(|record| record.text("end") == "recovered"));
    (records, house)
}

fn clients(records: &Records) -> Vec<String> {
    let closes = records.0.iter().filter(|record| record.text("phase") == "close" && record.text("kind") != "node");
    closes.map(|record| record.text("client_ip").to_owned()).collect()
}

#[test]
fn a_truncated_address_is_its_network_everywhere() {
    let (records, _) = kept("client_ip = \"truncated\"");
    assert!(clients(&records).iter().all(|client| client == "81.2.69.0"), "{:?}", clients(&records));
    assert!(records.closes("request").iter().all(|record| optional(record, "address_form") == "truncated"));
}

#[test]
fn nothing_is_kept_where_one_account_wants_nothing_kept() {
    let (records, _) = kept("accounts = { test = \"none\" }");
    assert!(clients(&records).iter().all(String::is_empty), "{:?}", clients(&records));
    assert!(records.closes("session").iter().all(|record| record.number("client_port") == 0));
}

#[test]
fn a_pseudonym_is_the_same_for_the_same_client_and_has_its_keys_number() {
    let (records, house) = kept("client_ip = \"pseudonym\"\npseudonym_key_s = 31622400");
    let clients = clients(&records);
    assert!(clients.iter().all(|client| client.starts_with("fd") && *client == clients[0]), "{clients:?}");
    let epoch = records.closes("request")[0].number("key_epoch");
    assert!(house.state().join("pseudonym-keys").join(format!("{epoch}.key")).exists());
}

#[test]
fn an_encrypted_address_is_read_with_the_key() {
    let house = tempfile::tempdir().unwrap();
    let key = house.path().join("ip.key");
    std::fs::write(&key, "000102030405060708090a0b0c0d0e0f").unwrap();
    let (records, _) = kept(&format!("client_ip = \"encrypted\"\nencryption_key = {key:?}"));
    let cipher = ipcrypt_rs::Ipcrypt::new(std::array::from_fn(|at| at as u8));
    for client in clients(&records) {
        assert_eq!(cipher.decrypt_ipaddr(client.parse().unwrap()).to_string(), "81.2.69.77");
    }
}

#[test]
fn a_raw_session_that_is_screened_is_closed_and_not_billable() {
    let origin = Origin::http();
    let rules = "[geoip]\nplan = \"geoip.toml\"\n[[screening.rules]]\nname = \"gb\"\ncountries = [\"GB\"]\naction = \"refuse\"\n";
    let weir = start(&and(Config::listener("raw", "tcp", origin.address, PROXIED), rules), &[]);
    for (client_ip, answered) in [("81.2.69.7", false), ("91.0.1.1", true)] {
        let mut client = Client::connect(weir.address("raw"));
        client.write(format!("PROXY TCP4 {client_ip} 198.51.100.9 4711 80\r\n").as_bytes(), Cuts::Whole);
        if answered {
            client.write(b"GET /bytes/7 HTTP/1.1\r\nhost: test\r\n\r\n", Cuts::Whole);
            assert_eq!(client.reader.response("GET").unwrap().status(), 200);
            client.fin();
        }
        assert_eq!(client.reader.rest(), b"", "{client_ip}");
    }
    let records = weir.settled(2);
    for (client_ip, end, reason, verdict) in
        [("81.2.69.7", "refused", "screened", "match"), ("91.0.1.1", "done", "", "clear")]
    {
        let sessions = records.sessions();
        let session = sessions.iter().find(|session| session.text("client_ip") == client_ip).unwrap();
        assert_eq!(
            [session.text("end"), session.text("reason"), optional(session, "screening")],
            [end, reason, verdict]
        );
    }
}

#[test]
fn a_client_certificate_says_whose_the_traffic_is() {
    let origin = Origin::http();
    let server = Certificate::new();
    let house = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let client_ca = house.path().join("clients.pem");
    std::fs::write(&client_ca, &authority.pem).unwrap();
    let tls = server.write(house.path());
    let tls =
        tls.trim_end_matches('}').to_owned() + &format!(", client_auth = \"required\", client_ca = {client_ca:?} }}\n");
    let rules = "[[attribution]]\nname = \"gateway\"\ntls_san = \"gateway.acme.test\"\naccount = \"acme\"\n\
        [[attribution]]\nname = \"certified\"\naccount_from = \"tls_san\"\n";
    let weir = start(&and(Config::listener("web", "http", origin.address, &tls), rules), &[]);
    let ask = |client: &Arc<ClientConfig>| {
        let (mut stream, _) = tls::connect(weir.address("web"), client);
        // The certificate is what counts, whatever the request says.
        stream
            .write_all(b"GET /bytes/7 HTTP/1.1\r\nhost: test\r\nx-account: acme\r\nconnection: close\r\n\r\n")
            .ok()?;
        Reader::new(stream).response("GET").map(|response| response.status())
    };
    let with = |name: &str, by: &Authority| server.client_with(by.client(name));
    assert_eq!(ask(&with("gateway.acme.test", &authority)), Some(200));
    assert_eq!(ask(&with("worker.beta.test", &authority)), Some(200));
    assert_eq!(ask(&with("gateway.acme.test", &Authority::new())), None, "of an authority that is not ours");
    assert_eq!(ask(&server.client(&[], &rustls::version::TLS13)), None, "without a certificate");
    let records = weir.settled(4);
    let closes = records.closes("request");
    let said: Vec<_> = closes.iter().map(|close| [close.text("account"), close.text("attribution")]).collect();
    assert_eq!(said, [["acme", "gateway"], ["worker.beta.test", "certified"]]);
}

#[test]
fn each_request_of_a_connection_is_kept_by_its_own_accounts_mode() {
    let origin = Origin::http();
    let rules = "[geoip]\nplan = \"geoip.toml\"\n[[attribution]]\nname = \"by-host\"\naccount_from = \"host\"\n\
        [privacy]\nclient_ip = \"full\"\naccounts = { \"a.test\" = \"truncated\", \"b.test\" = \"pseudonym\" }\n";
    let weir = start(&and(Config::listener("web", "http", origin.address, PROXIED), rules), &[]);
    let mut client = Client::connect(weir.address("web"));
    client.write(b"PROXY TCP4 81.2.69.77 198.51.100.9 4711 80\r\n", Cuts::Whole);
    for host in ["a.test", "b.test", "c.test"] {
        client.request(format!("GET /bytes/7 HTTP/1.1\r\nhost: {host}\r\n\r\n").as_bytes(), 0, Cuts::Whole);
        assert_eq!(client.response().status(), 200);
    }
    client.close();
    let records = weir.settled(1);
    let closes = records.closes("request");
    let of = |account: &str| *closes.iter().find(|close| close.text("account") == account).unwrap();
    assert_eq!([of("a.test").text("client_ip"), optional(of("a.test"), "address_form")], ["81.2.69.0", "truncated"]);
    assert!(of("b.test").text("client_ip").starts_with("fd"), "{}", of("b.test").0);
    assert_eq!(of("c.test").text("client_ip"), "81.2.69.77");
    // The connection served them all: the strictest mode of any holds.
    let session = &records.closes("session")[0];
    assert_eq!(session.text("client_ip"), of("b.test").text("client_ip"));
    for close in &closes {
        assert_eq!(close.text("country"), "GB", "{}", close.0);
    }
}

#[test]
fn a_forwarded_address_is_believed_from_trusted_proxies_alone() {
    let origin = Origin::http();
    let plan = "[geoip]\nplan = \"geoip.toml\"\n[[attribution]]\nname = \"networks\"\naccount_from = \"client_cidr\"\n";
    for (trusted, client_ip, country, account) in
        [("127.0.0.0/8", "81.2.69.7", "GB", "narrow"), ("10.0.0.0/8", "127.0.0.1", "", "unattributed")]
    {
        let listener = format!("trusted_proxies = [{trusted:?}]\nforwarded = \"x-forwarded-for\"\n");
        let weir = start(&and(Config::listener("web", "http", origin.address, &listener), plan), &[]);
        let mut client = Client::connect(weir.address("web"));
        // What the client itself had written stands to the left of what the proxy adds.
        let request = b"GET /bytes/7 HTTP/1.1\r\nhost: test\r\nx-forwarded-for: 91.0.1.1, 81.2.69.7\r\n\r\n";
        client.request(request, 0, Cuts::Whole);
        assert_eq!(client.response().status(), 200);
        client.close();
        let records = weir.settled(1);
        let request = &records.closes("request")[0];
        let said = ["client_ip", "country", "account"].map(|name| request.text(name));
        assert_eq!(said, [client_ip, country, account], "{trusted}: {}", request.0);
    }
}

#[test]
fn a_configuration_read_again_keeps_the_tables_that_it_still_names() {
    let origin = Origin::http();
    let rules = "[[account_tables]]\nname = \"tenants\"\nfile = \"tenants.csv\"\n\
        [[attribution]]\nname = \"by-host\"\naccount_from = { table = \"tenants\", by = \"host\" }\n";
    let config = and(Config::listener("web", "http", origin.address, ""), rules);
    let weir = start(&config, &[("tenants.csv", "host,account_id\n*.test,first\n")]);
    let account = |sessions: usize| {
        let mut client = Client::connect(weir.address("web"));
        client.request(b"GET /bytes/7 HTTP/1.1\r\nhost: a.test\r\n\r\n", 0, Cuts::Whole);
        client.response();
        client.close();
        weir.settled(sessions).closes("request").last().unwrap().text("account").to_owned()
    };
    assert_eq!(account(1), "first");
    // Broken on the disk: the table in use does not need it, and neither does a configuration that changes something else.
    let file = weir.house.directory.path().join("tenants.csv");
    replace(&file, "host,account_id\n*.test,\n");
    weir.process.await_line("the new table of accounts is refused");
    weir.house.write(&config.clone().limit("keep_alive_timeout_ms = 74000"));
    weir.process.signal(rustix::process::Signal::HUP);
    weir.process.await_line("configuration taken over");
    assert_eq!(account(2), "first");
    replace(&file, "host,account_id\n*.test,second\n");
    weir.process.await_line("table of accounts read again");
    assert_eq!(account(3), "second");
}

#[test]
fn what_was_fetched_is_used_without_a_configuration() {
    let origin = Origin::http();
    let home = tempfile::tempdir().unwrap();
    let run = |fetched: bool| {
        let places = home.path().join("weir/geoip");
        if fetched {
            std::fs::create_dir_all(&places).unwrap();
            write_places(&places);
        }
        // The admin listener has a port of its own, which somebody else on this machine may have at the moment.
        until("the admin port to be free", || {
            let mut command = Command::new(WEIR);
            command.args(["run", "--upstream", &origin.address.to_string(), "--listen", "127.0.0.1:0"]);
            command.env("XDG_STATE_HOME", home.path());
            let mut process = Process::spawn(command);
            let line = until("it to listen, or to end", || {
                let ended = process.child.try_wait().unwrap().is_some();
                let line = process.log().into_iter().find(|line| line.contains("listening listener=\"web\""));
                (ended || line.is_some()).then_some(line)
            });
            line.map(|_| process.log().join("\n"))
        })
    };
    let log = run(false);
    assert_eq!(log.matches("nothing is known of addresses").count(), 1, "{log}");
    let log = run(true);
    assert!(log.contains("addresses are known") && !log.contains("nothing is known"), "{log}");
}

/// Everything that can happen to a file while requests go on: each is answered by one whole version or the other.
#[test]
fn no_damage_to_a_file_of_addresses_gives_a_wrong_answer_under_load() {
    let origin = Origin::http();
    let config = and(Config::listener("web", "http", origin.address, PROXIED), "[geoip]\nplan = \"geoip.toml\"\n");
    let weir = start(&config, &[]);
    let file = weir.house.directory.path().join("places.csv");
    let next = PLACES.replace("81.2.69.0/24,GB", "81.2.69.0/24,IE");
    let refused = || weir.process.metric("weir_geoip_reloads_refused_total");
    let (stop, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|threads| {
        threads.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(ask(&weir, &format!("81.2.69.{}", asked.load(Ordering::Relaxed) % 200), ""), 200);
                asked.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        });
        let damages: [&dyn Fn(); 5] = [
            &|| std::fs::write(&file, &next[..next.len() / 2]).unwrap(),
            &|| std::fs::write(&file, &next[..next.len() - 1]).unwrap(),
            &|| std::fs::File::options().write(true).open(&file).unwrap().set_len(30).unwrap(),
            &|| replace(&file, &next.replace(",DE,", ",D!,")),
            &|| std::fs::rename(&file, file.with_extension("gone")).unwrap(),
        ];
        for damage in damages {
            let before = refused();
            damage();
            until("the damaged file to be refused", || (refused() > before).then_some(()));
        }
        std::fs::write(&file, &next).unwrap();
        weir.process.await_line("another table of addresses is in use");
        let before = asked.load(Ordering::Relaxed);
        until("more requests", || (asked.load(Ordering::Relaxed) > before + 2).then_some(()));
        stop.store(true, Ordering::Relaxed);
    });
    let records = weir.settled(asked.into_inner());
    let mut countries: Vec<&str> = records.closes("session").iter().map(|close| close.text("country")).collect();
    countries.sort_unstable();
    countries.dedup();
    assert_eq!(countries, ["GB", "IE"]);
    assert_eq!(weir.house.epoch(), records.closes("session")[0].number("epoch"), "it never started again");
}
