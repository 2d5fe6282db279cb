//! The broker is away, slow, or moves.

use std::time::{Duration, Instant};

use super::{Book, Load, asked, await_acknowledged, p99, stop};
use crate::rig::kafka::{Kafka, turn};
use crate::rig::origin::Origin;
use crate::rig::process::{Config, Weir};
use crate::rig::until;

/// Full form: `WEIR_OUTAGE_S=60`, or 3600.
#[test]
fn an_outage_is_waited_out_and_harms_no_client() {
    let _turn = turn();
    let kafka = Kafka::start(1);
    let outage = Duration::from_secs(asked("WEIR_OUTAGE_S", 8) as u64);
    let origin = Origin::http();
    let mut config = Config::http(origin.address).workers(2).top("checkpoint_interval_ms = 200");
    config.sink = kafka.sink("outage", "");
    let weir = Weir::start(&config);
    // As much as the journal holds of it without summing up.
    let pause = outage / 150_000;
    let load = Load::start(weir.address("web"), 4, pause.max(Duration::from_millis(2)));
    await_acknowledged(&weir.process, 100.0);
    std::thread::sleep(Duration::from_secs(3));
    let away = Instant::now();
    kafka.kill(1);
    let told = until("/readyz to tell of the sink", || {
        let (status, text) = weir.process.admin("/readyz");
        assert_eq!(status, 200, "{text}");
        text.contains("the sink takes no records").then_some(text)
    });
    assert!(told.starts_with("ready\n"), "{told}");
    assert_eq!(weir.process.metric("weir_sink_up") as i64, 0);
    std::thread::sleep(outage.saturating_sub(away.elapsed()));
    let back = Instant::now();
    kafka.revive(1);
    until("the sink to be up", || (weir.process.metric("weir_sink_up") > 0.0).then_some(()));
    await_acknowledged(&weir.process, 100.0);
    assert_eq!(weir.process.admin("/readyz").1, "ready\n");
    let mut book = Book::default();
    book.note(&weir.house);
    let times = load.end();
    stop(weir.process);
    let before = p99(times.iter().filter(|(at, _)| *at < away).map(|(_, time)| *time));
    let during = p99(times.iter().filter(|(at, _)| *at >= away && *at < back).map(|(_, time)| *time));
    eprintln!("outage of {outage:?}: p99 {before:?} before, {during:?} during");
    // The target is 1.2 times; this machine also runs the broker, the clients and other tests.
    assert!(during < before * 3 + Duration::from_millis(5), "{before:?} before, {during:?} during");
    let reading = kafka.read("outage");
    reading.assert_whole();
    reading.records.assert_lawful();
    book.assert_in(&reading);
    assert_eq!(reading.records.0.iter().filter(|record| record.is("request", "close")).count(), times.len());
}

/// Full form: `WEIR_LEADER_MOVES=30`.
#[test]
fn leaders_that_move_lose_nothing() {
    let _turn = turn();
    let kafka = Kafka::start(3);
    let origin = Origin::http();
    let mut config = Config::http(origin.address).workers(2).top("checkpoint_interval_ms = 200");
    config.sink = kafka.sink("moves", "");
    let weir = Weir::start(&config);
    let load = Load::start(weir.address("web"), 4, Duration::from_millis(2));
    await_acknowledged(&weir.process, 100.0);
    let mut book = Book::default();
    for at in 0..asked("WEIR_LEADER_MOVES", 3) {
        let broker = 1 + at % 3;
        kafka.kill(broker);
        book.note(&weir.house);
        std::thread::sleep(Duration::from_secs(2));
        kafka.revive(broker);
        await_acknowledged(&weir.process, 100.0);
    }
    let requests = load.end().len();
    book.note(&weir.house);
    stop(weir.process);
    let reading = kafka.read("moves");
    eprintln!("{}", reading.findings.lines().last().unwrap());
    reading.assert_whole();
    reading.records.assert_lawful();
    book.assert_in(&reading);
    assert_eq!(reading.records.0.iter().filter(|record| record.is("request", "close")).count(), requests);
}
