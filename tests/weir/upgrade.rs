//! Another process takes over, or this one ends, while clients ask: nobody is failed, nothing is counted twice.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::Signal;

use crate::rig::client::{Client, Cuts, sized};
use crate::rig::message::Reader;
use crate::rig::origin::Origin;
use crate::rig::process::{Config, House};
use crate::rig::{h2, octets, socket, until};

/// What the clients got, by path.
#[derive(Default)]
struct Got {
    answers: Mutex<HashMap<String, (u64, u64)>>,
    answered: AtomicU64,
    stop: AtomicBool,
}

/// Asks again and again over kept connections, and reconnects only where it was told so. Any failure panics.
fn ask(to: SocketAddr, name: usize, got: &Got) {
    let mut n = 0;
    'connections: while !got.stop.load(Ordering::Relaxed) {
        let stream = TcpStream::connect(to).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut reader = Reader::new(stream);
        while !got.stop.load(Ordering::Relaxed) {
            n += 1;
            let path = format!("/bytes/{}/{name}-{n}", n % 3000);
            let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n");
            reader.from.write_all(request.as_bytes()).unwrap_or_else(|error| panic!("{path}: {error}"));
            let answer = reader.response("GET").unwrap_or_else(|| panic!("{path} was not answered"));
            assert_eq!((answer.status(), answer.cut), (200, false), "{path}");
            assert_eq!(answer.body.len(), n % 3000);
            got.answers.lock().unwrap().insert(path, (request.len() as u64, answer.app));
            got.answered.fetch_add(1, Ordering::Relaxed);
            if answer.field("connection") == Some("close") {
                continue 'connections;
            }
        }
    }
}

/// Runs while clients ask all the time; returns what they got.
fn under_load(to: SocketAddr, act: impl FnOnce(&dyn Fn(u64))) -> HashMap<String, (u64, u64)> {
    let got = Got::default();
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|name| {
                scope.spawn({
                    let got = &got;
                    move || ask(to, name, got)
                })
            })
            .collect();
        act(&|more| {
            let wanted = got.answered.load(Ordering::Relaxed) + more;
            until("more answers", || {
                let failed = clients.iter().any(|client| client.is_finished());
                (failed || got.answered.load(Ordering::Relaxed) >= wanted).then_some(())
            });
        });
        got.stop.store(true, Ordering::Relaxed);
    });
    got.answers.into_inner().unwrap()
}

/// Every answer has exactly one close with its bytes, over all processes.
fn assert_each_once(house: &House, answers: &HashMap<String, (u64, u64)>) {
    let records = house.records();
    records.assert_lawful();
    let mut closes = HashMap::new();
    for close in records.closes("request") {
        *closes.entry((close.text("path"), close.total("received_app"), close.total("sent_app"))).or_insert(0) += 1;
    }
    for (path, (received, sent)) in answers {
        let closes = closes.get(&(path.as_str(), *received as i64, *sent as i64));
        assert_eq!(closes, Some(&1), "{path}: {received} {sent}");
    }
    assert_eq!(records.closes("request").len(), answers.len());
}

#[test]
fn an_upgrade_under_load_fails_no_request_and_counts_each_once() {
    let origin = Origin::http();
    let house = House::new(&Config::http(origin.address).workers(2));
    let mut first = house.run(&[]);
    let to = first.address("web");
    let mut last = None;
    let answers = under_load(to, |answered| {
        answered(200);
        let mut second = house.run(&["--upgrade"]);
        assert_eq!(second.address("web"), to);
        answered(200);
        assert!(first.ended().success(), "{:#?}", first.log());
        // And once more: the successor is as good a predecessor.
        let third = house.run(&["--upgrade"]);
        answered(200);
        assert!(second.ended().success(), "{:#?}", second.log());
        answered(50);
        last = Some(third);
    });
    last.unwrap().stop();
    assert_each_once(&house, &answers);
    let epochs: std::collections::HashSet<_> = house.records().0.iter().map(|record| record.number("epoch")).collect();
    assert_eq!(epochs.len(), 3);
}

/// The same over HTTP/2: whatever weir does not take it says so (GOAWAY), and that is asked again.
fn ask_h2(to: SocketAddr, name: usize, got: &Got) {
    let mut n = 0;
    while !got.stop.load(Ordering::Relaxed) {
        let mut client = h2::Client::plain(socket::connect(to, None), 1 << 20);
        let mut stream = 1;
        while !got.stop.load(Ordering::Relaxed) && client.goaway.is_none() {
            n += 1;
            let path = format!("/bytes/{}/{name}-h2-{n}", n % 3000);
            client.get(stream, &path);
            while !client.streams[&stream].ended && client.goaway.is_none_or(|last| stream <= last) {
                assert!(client.read().is_some(), "{path}: the connection ended: {:?}", client.goaway);
            }
            let books = &client.streams[&stream];
            if books.ended {
                assert_eq!((books.status, books.reset, books.body.len()), (200, None, n % 3000), "{path}");
                got.answers.lock().unwrap().insert(path, (books.received_app, books.sent_app));
                got.answered.fetch_add(1, Ordering::Relaxed);
            }
            stream += 2;
        }
        // A client that goes without reading what is left may take acknowledgements with it.
        client.reader.from.shutdown(std::net::Shutdown::Write).unwrap();
        client.drain();
    }
}

#[test]
fn h2_streams_survive_an_upgrade() {
    let origin = Origin::http();
    let house = House::new(&Config::http(origin.address).workers(2));
    let mut first = house.run(&[]);
    let to = first.address("web");
    let got = Got::default();
    let second = std::thread::scope(|scope| {
        (0..3).for_each(|name| {
            drop(scope.spawn({
                let got = &got;
                move || ask_h2(to, name, got)
            }))
        });
        let answered = |more| {
            let wanted = got.answered.load(Ordering::Relaxed) + more;
            until("more answers", || (got.answered.load(Ordering::Relaxed) >= wanted).then_some(()));
        };
        answered(100);
        let second = house.run(&["--upgrade"]);
        assert!(first.ended().success(), "{:#?}", first.log());
        answered(100);
        got.stop.store(true, Ordering::Relaxed);
        second
    });
    second.stop();
    let records = house.records();
    records.assert_lawful();
    let closes = records.closes("request");
    for (path, (received, sent)) in got.answers.lock().unwrap().iter() {
        // The window of a finished stream may still be given back behind its end: that is the session's.
        let of_path: Vec<_> = closes.iter().filter(|close| close.text("path") == path).collect();
        assert_eq!(of_path.len(), 1, "{path}");
        assert_eq!([of_path[0].total("received_app"), of_path[0].total("sent_app")], [*received as i64, *sent as i64]);
        assert_eq!((of_path[0].number("status"), of_path[0].text("end")), (200, "done"));
    }
}

#[test]
fn what_is_open_at_an_upgrade_is_finished_by_the_old_process() {
    let origin = Origin::http();
    let house = House::new(&Config::http(origin.address));
    let mut first = house.run(&[]);
    let to = first.address("web");
    let mut paused = Client::connect(to);
    paused.request(b"GET /pause/100000 HTTP/1.1\r\nhost: test\r\n\r\n", 0, Cuts::Whole);
    let mut uploading = Client::connect(to);
    let bytes = sized("/sink/3/half", &octets(50_000));
    uploading.note_request(&bytes, 50_000);
    uploading.write(&bytes[..20_000], Cuts::Whole);
    until("both to be served", || {
        let sessions: serde_json::Value = serde_json::from_str(&first.admin("/sessions").1).unwrap();
        let moving = |session: &&serde_json::Value| session["upstream_sent_bytes"].as_i64() > Some(0);
        (sessions["sessions"].as_array()?.iter().filter(moving).count() == 2).then_some(())
    });
    let second = house.run(&["--upgrade"]);
    let mut fresh = Client::connect(to);
    fresh.get("/bytes/9/fresh");
    origin.open("pause");
    assert_eq!(paused.response().body, octets(100_000));
    uploading.write(&bytes[20_000..], Cuts::Whole);
    assert_eq!(uploading.response().status(), 200);
    assert!(first.ended().success());
    let accounts = [paused.close().account(), uploading.close().account(), fresh.close().account()];
    second.stop();
    let records = house.records();
    records.assert_lawful();
    let epoch = house.epoch();
    for (account, epoch) in accounts.iter().zip([epoch - 1, epoch - 1, epoch]) {
        let (session, _) = account.assert_recorded(&records);
        assert_eq!(session.number("epoch"), epoch);
    }
}

#[test]
fn sigterm_answers_what_is_open_and_ends_well() {
    let origin = Origin::http();
    let house = House::new(&Config::http(origin.address));
    let mut process = house.run(&[]);
    let to = process.address("web");
    let mut paused = Client::connect(to);
    paused.request(b"GET /pause/100000 HTTP/1.1\r\nhost: test\r\n\r\n", 0, Cuts::Whole);
    let mut idle = Client::connect(to);
    idle.get("/bytes/1");
    until("the request at the origin", || {
        process.admin("/sessions").1.contains("\"upstream_sent_bytes\":1").then_some(())
    });
    process.signal(Signal::TERM);
    until("/readyz to say so", || (process.admin("/readyz").0 == 503).then_some(()));
    // An idle client's next request is answered, with the word that it was the last.
    let last = idle.get("/bytes/2");
    assert_eq!(last.field("connection"), Some("close"));
    until("the listening socket to close", || TcpStream::connect(to).err());
    origin.open("pause");
    assert_eq!(paused.response().body, octets(100_000));
    let accounts = [paused.close().account(), idle.close().account()];
    assert!(process.ended().success());
    let records = house.records();
    records.assert_lawful();
    accounts.iter().for_each(|account| drop(account.assert_recorded(&records)));
    assert!(records.0.last().unwrap().is("node", "close"));
}

#[test]
fn a_drain_that_takes_too_long_cuts_what_is_left_and_records_it() {
    let origin = Origin::http();
    let house = House::new(&Config::http(origin.address).limit("drain_timeout_ms = 300\nlinger_ms = 200"));
    let mut process = house.run(&[]);
    let mut hanging = Client::connect(process.address("web"));
    hanging.request(b"GET /hang HTTP/1.1\r\nhost: test\r\n\r\n", 0, Cuts::Whole);
    let mut tunnel = Client::connect(process.address("web"));
    let head = b"GET /upgrade/5 HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
    tunnel.request(head, 0, Cuts::Whole);
    tunnel.response();
    tunnel.reader.octets(5);
    process.signal(Signal::TERM);
    assert!(process.ended().success(), "{:#?}", process.log());
    let records = house.records();
    records.assert_lawful();
    assert_eq!(records.closed_sessions(), 2);
    for close in records.sessions().iter().chain(&records.closes("request")) {
        assert_eq!(close.text("end"), "drain", "{}", close.0);
    }
}

#[test]
fn a_successor_that_dies_before_it_serves_changes_nothing() {
    let origin = Origin::http();
    let house = House::new(&Config::http(origin.address));
    let process = house.run(&[]);
    let to = process.address("web");
    let answers = under_load(to, |answered| {
        answered(50);
        // It asks for the sockets, gets them, and is gone.
        let mut successor = UnixStream::connect(house.state().join("upgrade.sock")).unwrap();
        successor.write_all(b"TAKE 1\n").unwrap();
        let mut said = Vec::new();
        let mut reader = BufReader::new(&mut successor);
        while !said.ends_with(b"RELEASED\n") {
            assert!(reader.read_until(b'\n', &mut said).unwrap() > 0);
        }
        drop(successor);
        process.await_line("the successor does not serve: going on");
        answered(50);
        assert_eq!(process.admin("/readyz").0, 200);
        // Nor has it lost its state directory to anyone.
        let mut other = house.spawn(&[]);
        assert_eq!(other.ended().code(), Some(1), "{:#?}", other.log());
        // One that is wrong from the start does not even ask.
        house.write_text("listeners = 7");
        assert_eq!(house.spawn(&["--upgrade"]).ended().code(), Some(64));
        answered(50);
    });
    process.stop();
    assert_each_once(&house, &answers);
}

#[test]
fn an_upgrade_without_a_predecessor_fails_and_says_so() {
    let origin = Origin::http();
    let house = House::new(&Config::http(origin.address));
    let mut process = house.spawn(&["--upgrade"]);
    assert_eq!(process.ended().code(), Some(1));
    process.await_line("cannot take over the running process's sockets");
}
