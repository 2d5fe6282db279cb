//! The wall clock is set while traffic flows: sums stay exact, durations right, and no record spans two hours.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::rig::client::Client;
use crate::rig::origin::Origin;
use crate::rig::process::{Config, House, Process};
use crate::rig::records::{COLUMNS, Record, Records};
use crate::rig::shim::{Shim, Word};
use crate::rig::until;

const HOUR_MS: i64 = 3_600_000;
const HOUR_US: i64 = HOUR_MS * 1000;

/// Sets it, and waits until the process has seen it.
fn set(shim: &Shim, process: &Process, ahead_ms: i64) {
    let steps = || process.log().iter().filter(|line| line.contains("the wall clock was set")).count();
    let before = steps();
    shim.set(Word::ClockMs, ahead_ms);
    until("the step in the log", || (steps() > before).then_some(()));
}

/// How far the clock must be ahead for the next hour to begin that soon.
fn until_the_hour(left_ms: i64) -> i64 {
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
    HOUR_MS - now_ms % HOUR_MS - left_ms
}

#[test]
fn a_wall_clock_that_is_set_changes_no_sum() {
    let origin = Origin::http();
    let config = Config::http(origin.address).top("checkpoint_interval_ms = 500");
    let house = House::new(&config);
    let shim = Shim::about("no file");
    let process = shim.run(&house);
    let stop = AtomicBool::new(false);
    let clients: Vec<Client> = std::thread::scope(|scope| {
        let (stop, to) = (&stop, process.address("web"));
        let load = |n: usize| {
            move || {
                let mut client = Client::connect(to);
                let body = vec![7; n * 100];
                while !stop.load(Ordering::Relaxed) {
                    client.get(&format!("/bytes/{}", n * 1000));
                    client.post("/sink/3", &body);
                    std::thread::sleep(Duration::from_millis(10));
                }
                client.close()
            }
        };
        let loads: Vec<_> = (1..=3).map(|n| scope.spawn(load(n))).collect();
        set(&shim, &process, -24 * HOUR_MS);
        set(&shim, &process, 10 * 24 * HOUR_MS);
        for _ in 0..50 {
            set(&shim, &process, HOUR_MS);
            set(&shim, &process, 0);
        }
        // And an hour that turns by itself.
        set(&shim, &process, until_the_hour(3000));
        std::thread::sleep(Duration::from_secs(5));
        stop.store(true, Ordering::Relaxed);
        loads.into_iter().map(|load| load.join().unwrap()).collect()
    });
    process.stop();
    let records = house.records();
    records.assert_lawful();
    for client in &clients {
        assert_recorded(client, &records);
    }
    assert_times(&records);
}

/// Request by request, in the order of their records: ids are made of the time, which went back.
fn assert_recorded(client: &Client, records: &Records) {
    let session = records.session(client.port);
    let requests = records.0.iter().filter(|record| record.is("request", "close"));
    let requests: Vec<_> = requests.filter(|record| record.text("session_id") == session.id()).collect();
    assert_eq!(requests.len(), client.exchanges.len());
    for (record, books) in requests.iter().zip(&client.exchanges) {
        let recorded =
            ["received_app", "received_body", "sent_app", "sent_body"].map(|column| record.total(column) as u64);
        let known = [books.received_app, books.received_body, books.sent_app, books.sent_body];
        assert_eq!(recorded, known, "{}", record.0);
    }
    assert_eq!(session.total("received_wire") as u64, client.sent);
}

fn assert_times(records: &Records) {
    let mut steps: Vec<(i64, i64)> = Vec::new();
    let mut last: HashMap<&str, (i64, i64)> = HashMap::new();
    let mut turns = 0;
    for record in &records.0 {
        let (seq, at) = (record.number("seq"), record.number("at"));
        assert!(at >= record.number("started_at"), "it ends before it begins: {}", record.0);
        if record.text("kind") == "node" {
            let step = record.number("clock_step_us");
            steps.extend((step != 0).then_some((seq, step)));
            continue;
        }
        // The time from which it counts, by the clock as it was when it was recorded.
        let since = match last.insert(record.id(), (seq, at)) {
            Some((before, at)) => {
                at + steps.iter().filter(|(step, _)| *step > before).map(|(_, step)| step).sum::<i64>()
            }
            None => record.number("started_at"),
        };
        assert!(at >= since - 1_000_000, "it was recorded before the record before it: {}", record.0);
        turns += i64::from(at % HOUR_US == HOUR_US - 1);
        if moved(record) {
            let hour_us = at - at % HOUR_US;
            // A session that was still for the last moment of an hour has nothing to record at its end.
            assert!(since >= hour_us - 1_000_000, "since {since} it spans two hours: {}", record.0);
        }
    }
    assert!(steps.len() >= 103, "{} steps", steps.len());
    assert!(turns >= 3, "{turns} records end with an hour");
}

fn moved(record: &Record) -> bool {
    COLUMNS.iter().any(|column| record.number(column) != 0)
}
