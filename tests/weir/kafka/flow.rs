//! The ordinary way.

use std::process::Command;
use std::time::Duration;

use super::{Book, Load, await_acknowledged, stop};
use crate::rig::kafka::{Kafka, is_real};
use crate::rig::origin::Origin;
use crate::rig::process::{Config, WEIR, Weir};

#[test]
fn records_in_kafka_are_the_journals() {
    let kafka = Kafka::shared();
    let origin = Origin::http();
    let mut config = Config::http(origin.address).workers(2).top("checkpoint_interval_ms = 200");
    config.sink = kafka.sink("flow", "");
    let weir = Weir::start(&config);
    let load = Load::start(weir.address("web"), 4, Duration::from_millis(5));
    let mut book = Book::default();
    for _ in 0..10 {
        std::thread::sleep(Duration::from_millis(200));
        book.note(&weir.house);
    }
    let requests = load.end().len();
    book.note(&weir.house);
    stop(weir.process);
    let reading = kafka.read("flow");
    reading.assert_whole();
    assert!(reading.findings.contains(" 0 came twice"), "{}", reading.findings);
    reading.records.assert_lawful();
    book.assert_in(&reading);
    let recorded = reading.records.0.iter().filter(|record| record.is("request", "close")).count();
    assert_eq!(recorded, requests);
    assert!(book.0.len() > requests, "the journal was read too late: {}", book.0.len());
}

#[test]
fn every_layout_and_format_arrives_whole_and_signed() {
    let kafka = Kafka::shared();
    let origin = Origin::http();
    let keys = tempfile::tempdir().unwrap();
    let key = keys.path().join("signing.key");
    std::fs::write(&key, "0123456789abcdef0123456789abcdef\n").unwrap();
    let wrong = keys.path().join("wrong.key");
    std::fs::write(&wrong, "fedcba9876543210fedcba9876543210\n").unwrap();
    for (layout, format, compression) in
        [("batch", "json", "lz4"), ("record", "protobuf", "zstd"), ("record", "json", "none")]
    {
        let topic = format!("layout-{layout}-{format}");
        let more = format!(
            "layout = \"{layout}\"\nformat = \"{format}\"\ncompression = \"{compression}\"\nsigning_key = {key:?}\n\
             signing_key_id = \"test\""
        );
        let mut config = Config::http(origin.address);
        config.sink = kafka.sink(&topic, &more);
        let weir = Weir::start(&config);
        let load = Load::start(weir.address("web"), 2, Duration::from_millis(2));
        await_acknowledged(&weir.process, 20.0);
        load.end();
        stop(weir.process);
        let reading = kafka.read(&topic);
        reading.assert_whole();
        reading.records.assert_lawful();
        for (file, code) in [(&key, 0), (&wrong, 1)] {
            let read = Command::new(WEIR)
                .args(["events", "--kafka", &kafka.servers, "--topic", &topic, "--verify"])
                .arg(format!("test={}", file.display()))
                .output()
                .unwrap();
            let findings = String::from_utf8_lossy(&read.stderr);
            assert_eq!(read.status.code(), Some(code), "{findings}");
            let count = read.stdout.split(|octet| *octet == b'\n').filter(|line| !line.is_empty()).count();
            assert_eq!(count, if code == 0 { reading.records.0.len() } else { 0 }, "{findings}");
        }
    }
}

#[test]
fn a_reader_begins_where_it_is_told() {
    let kafka = Kafka::shared();
    let origin = Origin::http();
    let mut config = Config::http(origin.address);
    config.sink = kafka.sink("starts", "partitions = 1").replace("partitions = 3\n", "");
    let weir = Weir::start(&config);
    await_acknowledged(&weir.process, 3.0);
    stop(weir.process);
    let count = |from: &str| {
        let read = Command::new(WEIR)
            .args(["events", "--json", "--kafka", &kafka.servers, "--topic", "starts", "--from", from])
            .output()
            .unwrap();
        assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
        read.stdout.split(|octet| *octet == b'\n').filter(|line| !line.is_empty()).count()
    };
    let all = count("earliest");
    assert!(all >= 4);
    assert_eq!(count("2020-01-01T00:00:00Z"), all);
    assert_eq!(count("latest"), 0);
    assert!((1..all).contains(&count("offset:1")));
    let in_a_year = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() + 31_536_000_000;
    assert_eq!(count(&in_a_year.to_string()), 0);
}

#[test]
fn what_a_topic_lacks_is_named() {
    if !is_real() {
        eprintln!("the mock cluster has no settings of topics: nothing to look at");
        return;
    }
    let kafka = Kafka::shared();
    let origin = Origin::http();
    let settings = [
        ("retention.ms", "60000"),
        ("retention.bytes", "1000000"),
        ("message.timestamp.type", "CreateTime"),
        ("max.message.bytes", "100000"),
    ];
    kafka.make_topic("poor", 1, &settings);
    let mut config = Config::http(origin.address);
    config.sink = kafka.sink("poor", "");
    let weir = Weir::start(&config);
    for named in [
        "retention.ms is 60000",
        "retention.bytes is 1000000",
        "CreateTime",
        "max.message.bytes is 100000",
        "1 replica",
    ] {
        weir.process.await_line(named);
    }
    let check = Command::new(WEIR).args(["check", "--sink", "--config"]).arg(weir.house.file()).output().unwrap();
    let said = String::from_utf8_lossy(&check.stdout);
    assert!(
        said.contains("retention.ms is 60000") && check.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&check.stderr)
    );
    stop(weir.process);

    // One that weir makes lacks nothing but replicas, of which there is one broker's.
    config.sink = kafka.sink("made", "");
    let weir = Weir::start(&config);
    weir.process.await_line("topic made");
    await_acknowledged(&weir.process, 1.0);
    let lacks: Vec<_> = weir.process.log().into_iter().filter(|line| line.contains("\"WARN\"")).collect();
    assert!(lacks.iter().all(|line| line.contains("1 replica")), "{lacks:#?}");
    stop(weir.process);
}
