//! Connections that die half-way: what was written and never arrived is nobody's to pay.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use crate::rig::client::{Account, Client, Cuts, sized};
use crate::rig::origin::Origin;
use crate::rig::process::{Config, Weir};
use crate::rig::records::{Record, Records};
use crate::rig::tls::{self, Certificate};
use crate::rig::{Dice, octets, socket, until};

const ABORTS: usize = 12;

fn weir() -> (Origin, Weir) {
    let origin = Origin::http();
    let weir = Weir::start(&Config::http(origin.address));
    (origin, weir)
}

/// The one session of a client that was sent more than arrived.
fn assert_charged_back(records: &Records, port: u16, arrived: u64, read: &[u64]) {
    let session = records.session(port);
    assert_eq!(session.total("sent_acked"), arrived as i64, "{}", session.0);
    let requests = records.requests(session);
    let acked: i64 = requests.iter().map(|request| request.total("sent_acked")).sum();
    assert_eq!(acked, arrived as i64, "requests of {}", session.0);
    let (last, whole) = requests.split_last().unwrap();
    for (request, read) in whole.iter().zip(read) {
        assert_eq!(request.total("sent_acked"), *read as i64, "{}", request.0);
    }
    assert_eq!(last.text("end"), "client_abort", "{}", last.0);
}

/// Reads `offset` octets of a large answer, waits until the kernel holds what it can, and goes.
fn abort_download(weir: &Weir, path: &str, offset: usize, go: impl FnOnce(Client)) -> (u16, u64, Vec<u64>) {
    let mut client = Client::connect_narrow(weir.address("web"));
    client.get("/bytes/100/first");
    client.request(format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n").as_bytes(), 0, Cuts::Whole);
    client.reader.octets(offset);
    let arrived = socket::kernel_received_at_rest(client.stream());
    let read: Vec<_> = client.exchanges.iter().map(|books| books.sent_app).collect();
    let port = client.port;
    go(client);
    (port, arrived, read)
}

#[test]
fn a_download_that_is_reset_is_charged_for_what_arrived() {
    let (_origin, weir) = weir();
    let mut dice = Dice::new(7);
    let aborts: Vec<_> = (0..ABORTS)
        .map(|n| {
            let path = format!("/{}/3000000/{n}", ["bytes", "chunked", "close"][n % 3]);
            abort_download(&weir, &path, dice.below(400_000), |client| drop(client.reset()))
        })
        .collect();
    let records = weir.settled(ABORTS);
    for (port, arrived, read) in aborts {
        assert_charged_back(&records, port, arrived, &read);
    }
}

#[test]
fn a_download_that_the_client_leaves_by_close_is_charged_for_what_arrived() {
    let (_origin, weir) = weir();
    let mut dice = Dice::new(8);
    // Closing with unread octets makes the kernel say RST at once.
    let aborts: Vec<_> =
        (0..ABORTS).map(|n| abort_download(&weir, &format!("/bytes/3000000/{n}"), dice.below(400_000), drop)).collect();
    let records = weir.settled(ABORTS);
    for (port, arrived, read) in aborts {
        assert_charged_back(&records, port, arrived, &read);
    }
}

#[test]
fn a_client_that_stops_reading_is_cut_and_charged_for_what_arrived() {
    let origin = Origin::http();
    let weir = Weir::start(&Config::http(origin.address).limit("idle_timeout_ms = 2000\nlinger_ms = 300"));
    let mut client = Client::connect_narrow(weir.address("web"));
    client.request(b"GET /bytes/9000000 HTTP/1.1\r\nhost: test\r\n\r\n", 0, Cuts::Whole);
    client.reader.octets(20_000);
    let arrived = socket::kernel_received_at_rest(client.stream());
    let records = weir.settled(1);
    let session = records.session(client.port);
    assert_eq!(session.total("sent_acked"), arrived as i64, "{}", session.0);
    let requests = records.requests(session);
    assert_eq!(requests[0].total("sent_acked"), arrived as i64);
    assert_eq!((session.text("end"), requests[0].text("end")), ("timeout", "timeout"));
}

#[test]
fn uploads_that_end_anywhere_by_fin_are_counted_to_the_octet() {
    let (origin, weir) = weir();
    let mut dice = Dice::new(9);
    let mut accounts: Vec<(Account, String)> = Vec::new();
    for n in 0..ABORTS {
        let mut client = Client::connect(weir.address("web"));
        client.post("/sink/3/whole", &octets(2000));
        let path = format!("/sink/4/{n}");
        let bytes = sized(&path, &octets(500_000));
        let part = 1 + dice.below(bytes.len() - 1);
        client.note_request(&bytes[..part], 0);
        client.write(&bytes[..part], Cuts::Odd(n as u64));
        client.fin();
        let answer = client.reader.rest();
        client.exchanges[1].sent_app = answer.len() as u64;
        accounts.push((client.account(), path));
    }
    let records = weir.settled(ABORTS);
    for (account, path) in accounts {
        let (_, requests) = account.assert_session_recorded(&records);
        let (books, last) = (&account.exchanges[1], requests[1]);
        assert_eq!(last.total("received_app"), books.received_app as i64, "{}", last.0);
        let head = sized(&path, &octets(500_000)).len() as i64 - 500_000;
        assert_eq!(last.total("received_body"), (books.received_app as i64 - head).max(0), "{}", last.0);
        assert_eq!(last.total("sent_app"), books.sent_app as i64, "{}", last.0);
        assert_eq!(last.text("end"), "client_abort", "{}", last.0);
        if last.total("received_app") > head {
            assert_eq!(origin.seen(&path).received_body as i64, last.total("received_body"));
        }
    }
}

#[test]
fn uploads_that_are_reset_anywhere_are_counted_as_the_kernel_does() {
    let (origin, weir) = weir();
    let mut dice = Dice::new(10);
    let mut resets = Vec::new();
    for n in 0..ABORTS {
        let mut client = Client::connect(weir.address("web"));
        let path = format!("/stop/{}/{n}", dice.below(300_000));
        let bytes = sized(&path, &octets(4_000_000));
        client.note_request(&bytes, 0);
        client.stream().set_write_timeout(Some(Duration::from_millis(150))).unwrap();
        // The origin stops reading somewhere, so everything on the way fills up.
        let part = bytes.len().min(1 + dice.below(3_000_000));
        write_until_stuck(&mut client, &bytes[..part]);
        let acked = until("rest", || at_rest(&client));
        resets.push((client.port, client.sent, acked, path));
        client.reset();
    }
    // Nobody reads from these clients, for the origin does not: weir has to find out by itself that they are gone.
    let records = weir.settled(ABORTS);
    origin.open("stop");
    for (port, sent, acked, path) in resets {
        let session = records.session(port);
        let received = session.total("received_wire") as u64;
        // weir has read at most what its kernel took, and at least what went on to the origin.
        assert!(received <= acked && acked <= sent, "{received} {acked} {sent}: {}", session.0);
        let requests = records.requests(session);
        assert_eq!(requests[0].total("received_app") as u64, received);
        assert_eq!(requests[0].text("end"), "client_abort", "{}", requests[0].0);
        if requests[0].total("upstream_sent") > 0 {
            assert!(origin.seen(&path).received_body as i64 <= requests[0].total("received_body"));
        }
    }
}

fn write_until_stuck(client: &mut Client, bytes: &[u8]) {
    let mut rest = bytes;
    while !rest.is_empty() {
        match client.reader.from.write(rest) {
            Ok(n) => {
                client.sent += n as u64;
                rest = &rest[n..];
            }
            Err(_) => return,
        }
    }
}

/// What weir's kernel has acknowledged, once it does not grow.
fn at_rest(client: &Client) -> Option<u64> {
    let before = socket::kernel_acked(client.stream());
    std::thread::sleep(Duration::from_millis(60));
    // Our SYN counts as one.
    (socket::kernel_acked(client.stream()) == before).then_some(before - 1)
}

#[test]
fn a_tunnel_that_is_reset_is_charged_for_what_arrived() {
    let (_origin, weir) = weir();
    let mut client = Client::connect_narrow(weir.address("web"));
    let head = b"GET /upgrade/6000000 HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: push\r\n\r\n";
    client.request(head, 0, Cuts::Whole);
    client.reader.octets(100_000);
    let arrived = socket::kernel_received_at_rest(client.stream());
    let port = client.port;
    client.reset();
    let records = weir.settled(1);
    assert_charged_back(&records, port, arrived, &[]);
}

#[test]
fn pipelined_answers_that_never_arrived_are_charged_back_from_the_last() {
    let (_origin, weir) = weir();
    let mut client = Client::connect_narrow(weir.address("web"));
    for n in 0..10 {
        client.request(format!("GET /bytes/{}/{n} HTTP/1.1\r\nhost: test\r\n\r\n", 300_000).as_bytes(), 0, Cuts::Whole);
    }
    let first = client.response();
    client.reader.octets(1000);
    let arrived = socket::kernel_received_at_rest(client.stream());
    let port = client.port;
    client.reset();
    let records = weir.settled(1);
    let session = records.session(port);
    assert_eq!(session.total("sent_acked"), arrived as i64);
    let requests = records.requests(session);
    assert_eq!(requests.len(), 10);
    // In the order of the wire: every answer up to what arrived, then the rest of none.
    let mut left = arrived as i64;
    for request in &requests {
        let acked = left.min(request.total("sent_app"));
        assert_eq!(request.total("sent_acked"), acked, "{}", request.0);
        left -= acked;
    }
    assert_eq!((left, requests[0].total("sent_acked")), (0, first.app as i64));
}

#[test]
fn a_client_gone_before_its_answer_is_an_abort_without_an_answer() {
    let (_origin, weir) = weir();
    let mut client = Client::connect(weir.address("web"));
    client.request(b"GET /hang HTTP/1.1\r\nhost: test\r\n\r\n", 0, Cuts::Whole);
    until("the request to be forwarded", || {
        let sessions = weir.process.admin("/sessions").1;
        let sessions: serde_json::Value = serde_json::from_str(&sessions).unwrap();
        (sessions["sessions"][0]["upstream_sent_bytes"].as_i64()? > 0).then_some(())
    });
    let port = client.port;
    client.reset();
    let records = weir.settled(1);
    let session = records.session(port);
    let requests: Vec<&Record> = records.requests(session);
    assert_eq!((requests[0].text("end"), requests[0].total("sent_app")), ("client_abort", 0));
    assert!(requests[0].total("upstream_sent") > 0);
}

#[test]
fn a_client_that_half_closes_and_goes_is_told_apart_from_one_that_waits() {
    let (_origin, weir) = weir();
    let client = Client::connect(weir.address("web"));
    client.stream().shutdown(Shutdown::Both).unwrap();
    let port = client.port;
    drop(client);
    let records = weir.settled(1);
    assert_eq!(records.session(port).text("end"), "done");
}

#[test]
fn a_client_that_takes_its_answer_slowly_gets_and_owes_all_of_it() {
    let origin = Origin::http();
    let weir = Weir::start(&Config::http(origin.address).limit("linger_ms = 300"));
    let mut client = Client::connect_narrow(weir.address("web"));
    let request = b"GET /bytes/2000000 HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n";
    client.request(request, 0, Cuts::Whole);
    let mut read = 0;
    loop {
        let piece = client.reader.octets(40_000);
        read += piece.len() as u64;
        if piece.len() < 40_000 {
            break;
        }
        // Three times as long in all as weir waits for one sign of life.
        std::thread::sleep(Duration::from_millis(20));
    }
    client.exchanges[0].sent_app = read;
    client.exchanges[0].sent_body = 2_000_000;
    client.exchanges[0].status = 200;
    let account = client.close().account();
    let records = weir.settled(1);
    let (session, requests) = account.assert_recorded(&records);
    assert_eq!((session.text("end"), requests[0].text("end")), ("done", "done"));
}

#[test]
fn a_tls_download_that_is_reset_is_charged_for_what_arrived() {
    let origin = Origin::http();
    let certificate = Certificate::new();
    let directory = tempfile::tempdir().unwrap();
    let weir = Weir::start(&Config::listener("web", "http", origin.address, &certificate.write(directory.path())));
    let stream = socket::connect(weir.address("web"), Some(4096));
    let (mut stream, port) = tls::over(stream, &certificate.client(&[], &rustls::version::TLS13));
    stream.write_all(b"GET /bytes/4000000 HTTP/1.1\r\nhost: test\r\n\r\n").unwrap();
    stream.read_exact(&mut vec![0; 100_000]).unwrap();
    let arrived = socket::kernel_received_at_rest(&stream.sock.stream) as i64;
    socket::reset(stream.sock.stream);
    let records = weir.settled(1);
    let session = records.session(port);
    assert_eq!(session.total("sent_acked"), arrived, "{}", session.0);
    let undelivered = session.total("sent_wire") - arrived;
    let requests = records.requests(session);
    // What TLS adds to the undelivered octets is charged back with them: in the customer's favour.
    assert_eq!(requests[0].total("sent_acked"), requests[0].total("sent_app") - undelivered, "{}", requests[0].0);
    assert_eq!(requests[0].text("end"), "client_abort");
}
