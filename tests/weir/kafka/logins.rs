//! Who weir is to a broker, and which broker it trusts: passwords, certificates, tokens. Wrong ones are told, and cost nothing.

use std::process::Command;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use super::refusals::{only_real, readyz_tells};
use super::{Book, Load, await_acknowledged, stop};
use crate::rig::kafka::Kafka;
use crate::rig::origin::Origin;
use crate::rig::process::{Config, House, Process, WEIR};

type Properties<'a> = &'a [(&'a str, &'a str)];

/// One node that tries one way after the other.
struct Node {
    kafka: &'static Kafka,
    topic: &'static str,
    house: House,
    origin: Origin,
    book: Book,
}

impl Node {
    fn new(kafka: &'static Kafka, topic: &'static str) -> Self {
        let origin = Origin::http();
        Self { kafka, topic, house: House::new(&Config::http(origin.address)), origin, book: Book::default() }
    }

    /// Starts it, with traffic for a while.
    fn run(&mut self, servers: &str, properties: Properties<'_>) -> Process {
        let mut config = Config::http(self.origin.address);
        let lines: String = properties.iter().map(|(name, value)| format!("{name:?} = {value:?}\n")).collect();
        let sink = self.kafka.sink(self.topic, "").replace(&self.kafka.servers, servers);
        config.sink = format!("{sink}[sink.kafka.properties]\n{lines}");
        self.house.write(&config);
        let process = self.house.run(&[]);
        let load = Load::start(process.address("web"), 2, Duration::from_millis(5));
        std::thread::sleep(Duration::from_secs(1));
        load.end();
        self.book.note(&self.house);
        process
    }

    /// It is refused, and says one of these words, and never its secret.
    fn refused(&mut self, servers: &str, properties: Properties<'_>, words: &[&str]) {
        let process = self.run(servers, properties);
        readyz_tells(&process, "the sink takes no records");
        let told = process.await_line("the sink does not take records");
        assert!(words.iter().any(|word| told.contains(word)), "{told}");
        assert!(!process.log().iter().any(|line| line.contains("no-such-secret")));
        process.stop();
    }

    fn taken(&mut self, servers: &str, properties: Properties<'_>) {
        let process = self.run(servers, properties);
        await_acknowledged(&process, 1.0);
        stop(process);
    }

    /// All that it recorded on any of the ways is in the topic.
    fn end(self) {
        let reading = self.kafka.read(self.topic);
        reading.assert_whole();
        reading.records.assert_lawful();
        self.book.assert_in(&reading);
    }
}

fn password<'a>(protocol: &'a str, mechanism: &'a str, name: &'a str, secret: &'a str) -> [(&'a str, &'a str); 4] {
    [("security.protocol", protocol), ("sasl.mechanism", mechanism), ("sasl.username", name), ("sasl.password", secret)]
}

#[test]
fn a_wrong_password_or_no_right_is_told_and_nothing_is_lost() {
    if !only_real("SASL") {
        return;
    }
    let kafka = Kafka::shared();
    let mut node = Node::new(kafka, "secured");
    let sasl = &kafka.ways.sasl;
    let wrong = password("sasl_plaintext", "SCRAM-SHA-512", "weir", "no-such-secret");
    node.refused(sasl, &wrong, &["uthentication"]);
    let outsider = password("sasl_plaintext", "PLAIN", "outsider", "outsider-secret");
    node.refused(sasl, &outsider, &["uthorization", "refuse"]);
    for mechanism in ["SCRAM-SHA-512", "PLAIN"] {
        node.taken(sasl, &password("sasl_plaintext", mechanism, "weir", "weir-secret"));
    }
    node.end();
}

#[test]
fn tls_is_verified_on_both_sides() {
    if !only_real("TLS") {
        return;
    }
    let kafka = Kafka::shared();
    let mut node = Node::new(kafka, "certified");
    let file = |name: &str| format!("{}/{name}", kafka.ways.certificates);
    let (authority, client, stranger) = (file("server.pem"), file("client.p12"), file("stranger.p12"));
    let with = |keys: &str| {
        [
            ("security.protocol", "ssl".to_owned()),
            ("ssl.ca.location", authority.clone()),
            ("ssl.keystore.location", keys.to_owned()),
            ("ssl.keystore.password", "weir-secret".to_owned()),
        ]
    };
    // A broker that nobody vouches for is not spoken with.
    node.refused(&kafka.ways.tls, &[("security.protocol", "ssl")], &["ertificate"]);
    let unknown = with(&stranger);
    let unknown = unknown.each_ref().map(|(name, value)| (*name, value.as_str()));
    node.refused(&kafka.ways.tls, &unknown, &["SSL", "ssl", "ertificate"]);
    let known = with(&client);
    let known = known.each_ref().map(|(name, value)| (*name, value.as_str()));
    node.taken(&kafka.ways.tls, &known);
    for mechanism in ["SCRAM-SHA-512", "PLAIN"] {
        let [protocol, mechanism, name, secret] = password("sasl_ssl", mechanism, "weir", "weir-secret");
        let authority = ("ssl.ca.location", authority.as_str());
        node.taken(&kafka.ways.sasl_tls, &[protocol, mechanism, name, secret, authority]);
    }
    node.end();
}

#[test]
fn a_token_is_taken_from_its_file_also_when_it_comes_late() {
    if !only_real("SASL") {
        return;
    }
    let kafka = Kafka::shared();
    let mut node = Node::new(kafka, "tokens");
    let file = node.house.directory.path().join("token");
    // As a broker without a key to check them with takes them.
    let write = |lives_s: i64| {
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs() as i64;
        let claims = format!(r#"{{"sub":"weir","iat":{},"exp":{}}}"#, now - 3600, now + lives_s);
        let [head, claims] = [r#"{"alg":"none"}"#, &claims].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part));
        std::fs::write(&file, format!("{head}.{claims}.\n")).unwrap();
    };
    let (authority, named) =
        (format!("{}/server.pem", kafka.ways.certificates), format!("token_file={}", file.display()));
    let properties = [
        ("security.protocol", "sasl_ssl"),
        ("sasl.mechanism", "OAUTHBEARER"),
        ("sasl.oauthbearer.config", &named),
        ("ssl.ca.location", &authority),
    ];
    let late = node.run(&kafka.ways.sasl_tls, &properties);
    let told = late.await_line("the sink does not take records");
    assert!(told.contains("cannot read the token"), "{told}");
    write(-10);
    readyz_tells(&late, "expired");
    // It is looked for every ten seconds. This one lives so short that it has to be renewed before the test ends.
    write(20);
    await_acknowledged(&late, 1.0);
    write(3600);
    stop(late);
    node.taken(&kafka.ways.sasl_tls, &properties);
    let mut read = Command::new(WEIR);
    read.args(["events", "--json", "--topic", "tokens", "--kafka", &kafka.ways.sasl_tls]);
    for (name, value) in properties {
        read.arg("--property").arg(format!("{name}={value}"));
    }
    let read = read.output().unwrap();
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
    let count = read.stdout.split(|octet| *octet == b'\n').filter(|line| !line.is_empty()).count();
    assert_eq!(count, kafka.read("tokens").records.0.len());
    node.end();
}
