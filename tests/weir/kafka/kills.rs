//! `kill -9` of weir, of the broker, and of both: nothing lost, nothing doubled.

use std::time::{Duration, Instant};

use super::{Book, Load, asked, await_acknowledged, stop};
use crate::kill::{MixedLoad, assert_against_clients};
use crate::rig::Dice;
use crate::rig::kafka::{Kafka, turn};
use crate::rig::origin::Origin;
use crate::rig::process::{Config, Weir};

/// Full form: `WEIR_KILLS=200`.
#[test]
fn killed_again_and_again_it_delivers_each_record_once() {
    let kafka = Kafka::shared();
    let _turn = turn();
    let kills = asked("WEIR_KILLS", 10);
    let load = MixedLoad::new(&kafka.sink("kills", "linger_ms = 0").replace("linger_ms = 10\n", ""));
    let mut book = Book::default();
    let started = Instant::now();
    let known = load.kills(kills, Duration::from_millis(1500), |house| book.note(house));
    stop(load.house.run(&[]));
    eprintln!("{kills} kills in {:?}", started.elapsed());
    let reading = kafka.read("kills");
    eprintln!("{}", reading.findings.lines().last().unwrap());
    reading.assert_whole();
    reading.records.assert_lawful();
    book.assert_in(&reading);
    assert_against_clients(&reading.records, &known, kills);
}

/// Full form: `WEIR_BROKER_KILLS=20`.
#[test]
fn a_broker_killed_again_and_again_costs_nothing() {
    let _turn = turn();
    let kafka = Kafka::start(1);
    let kills = asked("WEIR_BROKER_KILLS", 3);
    let origin = Origin::http();
    let mut config = Config::http(origin.address).workers(2).top("checkpoint_interval_ms = 200");
    config.sink = kafka.sink("broker-kills", "");
    let weir = Weir::start(&config);
    let load = Load::start(weir.address("web"), 4, Duration::from_millis(2));
    let mut dice = Dice::new(7);
    let mut book = Book::default();
    for _ in 0..kills {
        await_acknowledged(&weir.process, 10.0);
        std::thread::sleep(Duration::from_millis(dice.below(500) as u64));
        kafka.kill(1);
        book.note(&weir.house);
        std::thread::sleep(Duration::from_millis(dice.below(1500) as u64));
        kafka.revive(1);
    }
    await_acknowledged(&weir.process, 10.0);
    let requests = load.end().len();
    book.note(&weir.house);
    stop(weir.process);
    let reading = kafka.read("broker-kills");
    eprintln!("{}", reading.findings.lines().last().unwrap());
    reading.assert_whole();
    reading.records.assert_lawful();
    book.assert_in(&reading);
    assert_eq!(reading.records.0.iter().filter(|record| record.is("request", "close")).count(), requests);
}

#[test]
fn weir_and_the_broker_killed_at_once_lose_nothing() {
    let _turn = turn();
    let kafka = Kafka::start(1);
    let load = MixedLoad::new(&kafka.sink("both", ""));
    let mut book = Book::default();
    let mut known = Vec::new();
    for _ in 0..2 {
        known.extend(load.kills(2, Duration::from_millis(1500), |house| {
            kafka.kill(1);
            book.note(house);
        }));
        // The next one begins while the broker is away, and the broker comes while it runs.
        kafka.revive(1);
    }
    let process = load.house.run(&[]);
    await_acknowledged(&process, 1.0);
    stop(process);
    let reading = kafka.read("both");
    eprintln!("{}", reading.findings.lines().last().unwrap());
    reading.assert_whole();
    reading.records.assert_lawful();
    book.assert_in(&reading);
    assert_against_clients(&reading.records, &known, 4);
}
