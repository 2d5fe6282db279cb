//! The broker refuses: nothing is dropped, it is told, and others flow.

use std::io::Read;
use std::time::Duration;

use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use super::{Book, Load, await_acknowledged, stop};
use crate::rig::kafka::{Kafka, is_real, turn};
use crate::rig::origin::Origin;
use crate::rig::process::{Config, Process, WEIR, Weir};
use crate::rig::until;

/// A sidecar with this sink, and what it forwards to.
fn start(sink: &str) -> (Weir, Origin) {
    let origin = Origin::http();
    let mut config = Config::http(origin.address).workers(2).top("checkpoint_interval_ms = 200");
    config.sink = sink.to_owned();
    (Weir::start(&config), origin)
}

pub fn readyz_tells(process: &Process, word: &str) {
    until(&format!("/readyz to tell of {word:?}"), || process.admin("/readyz").1.contains(word).then_some(()));
}

pub fn only_real(what: &str) -> bool {
    if !is_real() {
        eprintln!("the mock cluster has no {what}: left out");
    }
    is_real()
}

#[test]
fn half_of_all_requests_refused_for_now_cost_nothing() {
    let kafka = Kafka::mock(3);
    // The mock takes a message whose predecessor it has just refused, which no broker does; so one is under way at a time.
    let (weir, _origin) =
        start(&kafka.sink("retriable", "properties = { \"max.in.flight.requests.per.connection\" = \"1\" }"));
    let load = Load::start(weir.address("web"), 4, Duration::from_millis(2));
    await_acknowledged(&weir.process, 20.0);
    let mut book = Book::default();
    let errors = [
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR,
    ];
    for _ in 0..5 {
        kafka.mocked(move |cluster| cluster.request_errors(RDKafkaApiKey::Produce, &errors));
        await_acknowledged(&weir.process, 20.0);
    }
    // And two seconds to each answer.
    for broker in 1..=3 {
        kafka.mocked(move |cluster| cluster.broker_round_trip_time(broker, Duration::from_secs(2)).unwrap());
    }
    std::thread::sleep(Duration::from_secs(4));
    book.note(&weir.house);
    for broker in 1..=3 {
        kafka.mocked(move |cluster| cluster.broker_round_trip_time(broker, Duration::ZERO).unwrap());
    }
    let requests = load.end().len();
    stop(weir.process);
    let reading = kafka.read("retriable");
    reading.assert_whole();
    reading.records.assert_lawful();
    book.assert_in(&reading);
    assert_eq!(reading.records.0.iter().filter(|record| record.is("request", "close")).count(), requests);
}

#[test]
fn an_error_for_good_is_repeated_from_the_journal() {
    let kafka = Kafka::mock(1);
    let (weir, _origin) = start(&kafka.sink("fatal", ""));
    let load = Load::start(weir.address("web"), 2, Duration::from_millis(2));
    let mut book = Book::default();
    for error in [
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH,
    ] {
        await_acknowledged(&weir.process, 20.0);
        let before = weir.process.metric("weir_sink_failures_total");
        kafka.mocked(move |cluster| cluster.request_errors(RDKafkaApiKey::Produce, &[error]));
        until("the failure to be counted", || (weir.process.metric("weir_sink_failures_total") > before).then_some(()));
        book.note(&weir.house);
    }
    await_acknowledged(&weir.process, 20.0);
    let requests = load.end().len();
    stop(weir.process);
    let reading = kafka.read("fatal");
    reading.assert_whole();
    reading.records.assert_lawful();
    book.assert_in(&reading);
    assert_eq!(reading.records.0.iter().filter(|record| record.is("request", "close")).count(), requests);
}

#[test]
fn too_few_replicas_are_waited_for() {
    if !only_real("min.insync.replicas") {
        return;
    }
    let _turn = turn();
    let kafka = Kafka::start(3);
    kafka.make_topic("few", 2, &[("min.insync.replicas", "3")]);
    let (weir, _origin) = start(&kafka.sink("few", ""));
    let load = Load::start(weir.address("web"), 2, Duration::from_millis(5));
    await_acknowledged(&weir.process, 20.0);
    kafka.kill(3);
    // Until the broker is known to be gone, what was on its way may still be answered.
    std::thread::sleep(Duration::from_secs(5));
    let stuck = weir.process.metric("weir_sink_records_total");
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(weir.process.metric("weir_sink_records_total") as i64, stuck as i64);
    let mut book = Book::default();
    book.note(&weir.house);
    kafka.revive(3);
    await_acknowledged(&weir.process, 50.0);
    load.end();
    stop(weir.process);
    let reading = kafka.read("few");
    reading.assert_whole();
    reading.records.assert_lawful();
    book.assert_in(&reading);
}

#[test]
fn a_topic_that_takes_less_than_it_did_gets_smaller_batches() {
    if !only_real("max.message.bytes") {
        return;
    }
    let kafka = Kafka::shared();
    kafka.make_topic("shrinking", 1, &[]);
    // Uncompressed and slow to go, so that batches are large.
    let sink = kafka.sink("shrinking", "compression = \"none\"\nlinger_ms = 1500").replace("linger_ms = 10\n", "");
    let (weir, _origin) = start(&sink);
    let load = Load::start(weir.address("web"), 4, Duration::from_millis(2));
    await_acknowledged(&weir.process, 100.0);
    kafka.set_topic("shrinking", &[("max.message.bytes", "4000")]);
    let line = weir.process.await_line("max.message.bytes is 4000");
    assert!(line.contains("WARN"), "{line}");
    await_acknowledged(&weir.process, 500.0);
    let mut book = Book::default();
    book.note(&weir.house);
    // Not one record fits any more: it waits, and is named.
    kafka.set_topic("shrinking", &[("max.message.bytes", "400")]);
    weir.process.await_line("a record is larger than the sink takes");
    kafka.set_topic("shrinking", &[("max.message.bytes", "1000000")]);
    load.end();
    book.note(&weir.house);
    until("the rest", || (weir.process.metric("weir_sink_waiting_records") < 10.0).then_some(()));
    stop(weir.process);
    let reading = kafka.read("shrinking");
    reading.assert_whole();
    reading.records.assert_lawful();
    book.assert_in(&reading);
}

#[test]
fn a_deleted_topic_is_made_again_and_the_rest_arrives() {
    if !only_real("DeleteTopics") {
        return;
    }
    let kafka = Kafka::shared();
    let (weir, _origin) = start(&kafka.sink("deleted", ""));
    let load = Load::start(weir.address("web"), 2, Duration::from_millis(5));
    await_acknowledged(&weir.process, 50.0);
    let mut book = Book::default();
    book.note(&weir.house);
    let mut before = kafka.read("deleted").records;
    kafka.delete_topic("deleted");
    until("the topic to be made again", || {
        let made = weir.process.log().iter().filter(|line| line.contains("topic made")).count();
        (made == 2).then_some(())
    });
    await_acknowledged(&weir.process, 50.0);
    load.end();
    book.note(&weir.house);
    let acknowledged = weir.process.metric("weir_sink_records_total");
    stop(weir.process);
    let after = kafka.read("deleted");
    assert_eq!(after.code, 0, "what went before the deletion came before the start: {}", after.findings);
    // What was acknowledged between our reading and the deletion went with the topic, and nothing else.
    before.0.extend(after.records.0.iter().cloned());
    before.0.sort_by_key(|record| record.place());
    before.0.dedup_by_key(|record| record.place());
    let lost = book.0.keys().filter(|place| !before.0.iter().any(|record| record.place() == **place)).count();
    assert!((lost as f64) < acknowledged / 2.0, "{lost} of {acknowledged}");
    for shard in 0..2 {
        let seqs: Vec<i64> =
            after.records.0.iter().filter(|r| r.number("shard") == shard).map(|r| r.number("seq")).collect();
        assert!(seqs.windows(2).all(|pair| pair[1] == pair[0] + 1), "a hole in the new topic: {seqs:?}");
    }
}

#[test]
fn a_reader_of_a_topic_that_is_deleted_ends_and_says_so() {
    if !only_real("DeleteTopics") {
        return;
    }
    let kafka = Kafka::shared();
    let (weir, _origin) = start(&kafka.sink("gone", ""));
    await_acknowledged(&weir.process, 2.0);
    stop(weir.process);
    let reader = std::process::Command::new(WEIR)
        .args(["events", "--follow", "--json", "--kafka", &kafka.servers, "--topic", "gone"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn();
    let mut reader = reader.unwrap();
    let mut first = [0];
    reader.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    kafka.delete_topic("gone");
    until("the reader's end", || reader.try_wait().unwrap());
    let output = reader.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot read gone"), "{said}");
}
