//! A Kafka to test against: Apache Kafka where Java and Maven are there (`tests/kafka.sh`), else librdkafka's mock cluster.
//! `WEIR_KAFKA=mock` asks for the mock anyway; `WEIR_KAFKA=real` fails where the real one cannot be had.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use super::process::WEIR;
use super::records::{Record, Records};

/// A cluster.
pub struct Kafka {
    pub servers: String,
    /// Other ways to the real one; empty where there are none.
    pub ways: Ways,
    kind: Kind,
}

/// Addresses that ask who one is.
#[derive(Default)]
pub struct Ways {
    pub sasl: String,
    pub tls: String,
    pub sasl_tls: String,
    /// Where `server.pem`, `client.p12` and `stranger.p12` are.
    pub certificates: String,
}

enum Kind {
    Real { state: PathBuf, brokers: usize },
    // A mock cluster stays with the thread that made it.
    Mock(Mutex<mpsc::Sender<Job>>),
}

type Cluster = MockCluster<'static, DefaultProducerContext>;
type Job = Box<dyn FnOnce(&Cluster) + Send>;

/// Clusters that are killed and restarted are heavy: one test at a time has them.
pub fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether Apache Kafka can be had. Said once.
pub fn is_real() -> bool {
    static REAL: OnceLock<bool> = OnceLock::new();
    *REAL.get_or_init(|| {
        let asked = std::env::var("WEIR_KAFKA").unwrap_or_default();
        let there = |command: &str| {
            std::env::var_os("PATH")
                .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(command).is_file()))
        };
        let real = asked != "mock" && there("java") && there("mvn");
        assert!(real || asked != "real", "WEIR_KAFKA=real, but Java or Maven is missing");
        let which =
            if real { "Apache Kafka" } else { "librdkafka's mock cluster: no Java and Maven, or WEIR_KAFKA=mock" };
        eprintln!("kafka: tests run against {which}");
        real
    })
}

impl Kafka {
    /// One that nobody harms, for all tests of this process.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Kafka> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(1))
    }

    /// One of its own.
    pub fn start(brokers: usize) -> Self {
        if is_real() { Self::real(brokers) } else { Self::mock(brokers) }
    }

    /// librdkafka's, which can be told to answer with errors.
    pub fn mock(brokers: usize) -> Self {
        let (jobs, theirs) = mpsc::channel::<Job>();
        let (address, addresses) = mpsc::channel();
        std::thread::spawn(move || {
            let cluster = MockCluster::new(i32::try_from(brokers).unwrap()).unwrap();
            address.send(cluster.bootstrap_servers()).unwrap();
            theirs.iter().for_each(|job| job(&cluster));
        });
        let servers = addresses.recv().unwrap();
        Self { servers, ways: Ways::default(), kind: Kind::Mock(Mutex::new(jobs)) }
    }

    fn real(brokers: usize) -> Self {
        static NUMBER: Mutex<usize> = Mutex::new(0);
        let mut number = NUMBER.lock().unwrap();
        *number += 1;
        let name = format!("kafka-{}-{number}", std::process::id());
        let state = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        // Until one starts: between looking for free ports and using them somebody else may take one.
        for _ in 0..3 {
            let port = free_ports(brokers).to_string();
            let (brokers, pid) = (brokers.to_string(), std::process::id().to_string());
            let output = script(&state, &["start", "--brokers", &brokers, "--port", &port, "--until-exit-of", &pid]);
            if let Some(text) = output {
                let value = |name: &str| {
                    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
                    line.trim_matches([' ', '=', '"']).to_owned()
                };
                let ways = Ways {
                    sasl: value("sasl_bootstrap_servers"),
                    tls: value("tls_bootstrap_servers"),
                    sasl_tls: value("sasl_tls_bootstrap_servers"),
                    certificates: value("certificates"),
                };
                let (servers, brokers) = (value("bootstrap_servers"), brokers.parse().unwrap());
                return Self { servers, ways, kind: Kind::Real { state, brokers } };
            }
            script(&state, &["clean"]);
        }
        panic!("no Kafka could be started");
    }

    /// A sink that writes to this topic, with more lines of `[sink.kafka]`.
    pub fn sink(&self, topic: &str, more: &str) -> String {
        if let Kind::Mock(_) = self.kind {
            // The mock cluster makes no topic when it is asked to.
            let topic = topic.to_owned();
            self.mocked(move |cluster| drop(cluster.create_topic(&topic, 3, 1)));
        }
        let replication = if let Kind::Real { brokers: 3.., .. } = self.kind { 3 } else { 1 };
        format!(
            "kind = \"kafka\"\nbootstrap_servers = \"{}\"\ntopic = \"{topic}\"\n[sink.kafka]\npartitions = 3\n\
             replication = {replication}\nlinger_ms = 10\n{more}\n",
            self.servers
        )
    }

    /// Does something to the mock cluster.
    pub fn mocked(&self, job: impl FnOnce(&Cluster) + Send + 'static) {
        let Kind::Mock(jobs) = &self.kind else { panic!("this cluster is real") };
        let (done, is_done) = mpsc::channel();
        let job = move |cluster: &Cluster| {
            job(cluster);
            done.send(()).unwrap();
        };
        jobs.lock().unwrap().send(Box::new(job)).unwrap();
        is_done.recv().unwrap();
    }

    /// `kill -9` of a broker (numbered from 1), or the mock's like.
    pub fn kill(&self, broker: usize) {
        self.broker(broker, "kill", |cluster, id| cluster.broker_down(id).unwrap());
    }

    /// Starts a killed broker again.
    pub fn revive(&self, broker: usize) {
        self.broker(broker, "start", |cluster, id| cluster.broker_up(id).unwrap());
    }

    fn broker(&self, broker: usize, what: &str, mock: impl FnOnce(&Cluster, i32) + Send + 'static) {
        match &self.kind {
            Kind::Real { state, .. } => {
                script(state, &["broker", &broker.to_string(), what]).expect("tests/kafka.sh broker");
            }
            Kind::Mock(_) => self.mocked(move |cluster| mock(cluster, i32::try_from(broker).unwrap())),
        }
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        ClientConfig::new().set("bootstrap.servers", &self.servers).create().unwrap()
    }

    /// Makes a topic with these settings.
    pub fn make_topic(&self, topic: &str, partitions: i32, settings: &[(&str, &str)]) {
        let Kind::Real { brokers, .. } = &self.kind else {
            let topic = topic.to_owned();
            self.mocked(move |cluster| cluster.create_topic(&topic, partitions, 1).unwrap());
            return;
        };
        let replication = i32::try_from(*brokers).unwrap();
        let mut wanted = NewTopic::new(topic, partitions, TopicReplication::Fixed(replication));
        for (name, value) in settings {
            wanted = wanted.set(name, value);
        }
        let results = block_on(self.admin().create_topics([&wanted], &AdminOptions::new())).unwrap();
        results.into_iter().for_each(|result| {
            result.unwrap();
        });
    }

    /// Changes a topic's settings; real ones only.
    pub fn set_topic(&self, topic: &str, settings: &[(&str, &str)]) {
        let mut wanted = AlterConfig::new(ResourceSpecifier::Topic(topic));
        for (name, value) in settings {
            wanted = wanted.set(name, value);
        }
        let results = block_on(self.admin().alter_configs([&wanted], &AdminOptions::new())).unwrap();
        results.into_iter().for_each(|result| {
            result.unwrap();
        });
    }

    /// Deletes a topic with all that it holds; real ones only.
    pub fn delete_topic(&self, topic: &str) {
        let results = block_on(self.admin().delete_topics(&[topic], &AdminOptions::new())).unwrap();
        results.into_iter().for_each(|result| {
            result.unwrap();
        });
    }

    /// Deletes all messages but the newest of each partition, as retention does; real ones only.
    pub fn delete_but(&self, topic: &str, partitions: i32, kept: i64) {
        let consumer: BaseConsumer = ClientConfig::new().set("bootstrap.servers", &self.servers).create().unwrap();
        let mut list = TopicPartitionList::new();
        for partition in 0..partitions {
            let (low, high) = consumer.fetch_watermarks(topic, partition, Duration::from_secs(10)).unwrap();
            list.add_partition_offset(topic, partition, Offset::Offset((high - kept).max(low))).unwrap();
        }
        block_on(self.admin().delete_records(&list, &AdminOptions::new())).unwrap();
    }

    /// What `weir events --kafka` says of a topic.
    pub fn read(&self, topic: &str) -> Reading {
        let output =
            Command::new(WEIR).args(["events", "--json", "--kafka", &self.servers, "--topic", topic]).output().unwrap();
        let lines = output.stdout.split(|octet| *octet == b'\n').filter(|line| !line.is_empty());
        let mut records: Vec<Record> = lines.map(|line| Record(serde_json::from_slice(line).unwrap())).collect();
        // What was late is printed late.
        records.sort_by_key(Record::place);
        Reading {
            records: Records(records),
            findings: String::from_utf8(output.stderr).unwrap(),
            code: output.status.code().unwrap(),
        }
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        if let Kind::Real { state, .. } = &self.kind {
            script(state, &["clean"]);
        }
    }
}

/// What a topic holds.
pub struct Reading {
    pub records: Records,
    /// stderr.
    pub findings: String,
    pub code: i32,
}

impl Reading {
    /// Nothing is missing, and no chain is broken.
    pub fn assert_whole(&self) {
        assert_eq!(self.code, 0, "{}", self.findings);
        assert!(self.findings.contains(" 0 missing without an explanation"), "{}", self.findings);
        self.records.assert_gapless();
    }
}

/// Runs `tests/kafka.sh`; its output, if it was good.
fn script(state: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kafka.sh"))
        .args(arguments)
        .env("WEIR_KAFKA_DIR", state)
        .output()
        .unwrap();
    if !output.status.success() {
        eprintln!("tests/kafka.sh {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        return None;
    }
    Some(String::from_utf8(output.stdout).unwrap())
}

/// The first of a row of ports that nobody uses, below those that the kernel gives out.
fn free_ports(brokers: usize) -> u16 {
    let first = 10_000 + (std::process::id() % 400) as u16 * 50;
    (0..400u16)
        .map(|step| 10_000 + (first - 10_000 + step * 50) % 20_000)
        .find(|port| {
            let wanted = (0..5).flat_map(|row| (0..brokers as u16).map(move |broker| port + row * 10 + broker));
            wanted.into_iter().all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok())
        })
        .expect("free ports")
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}
