//! HTTP/2: each octet of each frame belongs to one stream, and the rest to the session.

use crate::rig::client::{Client as PlainClient, Cuts};
use crate::rig::h2::{CONTINUATION, Client, END_HEADERS, END_STREAM, HEADERS, PING, PREFACE, frame, head_block};
use crate::rig::origin::Origin;
use crate::rig::process::{Config, Weir};
use crate::rig::{Dice, octets, socket};

const WINDOW: u32 = 1 << 20;

fn weir() -> (Origin, Weir) {
    let origin = Origin::http();
    let weir = Weir::start(&Config::http(origin.address));
    (origin, weir)
}

fn connect(weir: &Weir, window: u32) -> Client<std::net::TcpStream> {
    Client::plain(socket::connect(weir.address("web"), None), window)
}

/// Ends the connection from our side and reads what was still said.
fn close(client: &mut Client<std::net::TcpStream>) {
    client.reader.from.shutdown(std::net::Shutdown::Write).unwrap();
    client.drain();
}

#[test]
fn interleaved_streams_are_told_apart() {
    let (origin, weir) = weir();
    let mut client = connect(&weir, WINDOW);
    client.get(1, "/bytes/100000/1");
    client.head(3, "POST", "/sink/20/3", &[], 0);
    client.get(5, "/chunked/50000/5");
    let body = octets(30_000);
    for (n, piece) in body.chunks(7000).enumerate() {
        client.data(3, piece, None, if (n + 1) * 7000 >= body.len() { END_STREAM } else { 0 });
        client.frame(PING, 0, 0, &[n as u8; 8]);
    }
    client.get(7, "/status/204/7");
    client.head(9, "HEAD", "/bytes/55/9", &[], END_STREAM);
    client.finish(&[1, 3, 5, 7, 9]);
    assert_eq!(client.streams[&1].body, octets(100_000));
    assert_eq!(client.streams[&5].body, octets(50_000));
    assert_eq!(client.streams[&5].heads, 2, "trailers come as a second head");
    assert_eq!(client.streams[&7].status, 204);
    close(&mut client);
    let records = weir.settled(1);
    let (session, requests) = client.assert_recorded(&records);
    assert_eq!((session.text("protocol"), session.text("end")), ("h2", "done"));
    assert_eq!(session.total("sent_acked"), session.total("sent_wire"));
    for request in requests {
        let seen = origin.seen(request.text("path"));
        let counted = [request.total("upstream_sent"), request.total("upstream_received")];
        assert_eq!(counted, [seen.received_app as i64, seen.sent_app as i64], "{}", request.0);
        assert_eq!(request.text("end"), "done", "{}", request.0);
    }
}

#[test]
fn padding_trailers_and_continuations_are_the_streams_own() {
    let (origin, weir) = weir();
    let mut client = connect(&weir, WINDOW);
    client.head(1, "POST", "/sink/3/1", &[("te", "trailers"), ("trailer", "x-sum")], 0);
    client.data(1, &octets(999), Some(255), 0);
    client.data(1, &octets(1), Some(0), 0);
    client.data(1, &[], Some(17), 0);
    client.trailers(1, &[("x-sum", "12")]);
    let block = head_block("GET", "/bytes/4/3", &[("x-long", "value")]);
    client.frame(HEADERS, END_STREAM, 3, &block[..10]);
    client.frame(CONTINUATION, 0, 3, &block[10..11]);
    client.frame(CONTINUATION, END_HEADERS, 3, &block[11..]);
    client.finish(&[1, 3]);
    close(&mut client);
    assert_eq!(origin.seen("/sink/3/1").received_body, 1000);
    assert_eq!(origin.seen("/sink/3/1").trailers, [("x-sum".to_owned(), "12".to_owned())]);
    let records = weir.settled(1);
    let (_, requests) = client.assert_recorded(&records);
    assert_eq!(requests[0].total("received_body"), 1000);
}

#[test]
fn small_windows_and_odd_cuts_change_no_count() {
    let (_origin, weir) = weir();
    let mut client = connect(&weir, 100);
    // Written octet by octet where frames begin: headers are cut everywhere.
    let mut dice = Dice::new(4);
    for stream in [1, 3, 5] {
        let block = head_block("GET", &format!("/bytes/{}/{stream}", 700 * stream), &[]);
        let bytes = frame(HEADERS, END_HEADERS | END_STREAM, stream, &block);
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let (piece, more) = rest.split_at((1 + dice.below(4)).min(rest.len()));
            client.raw(stream, piece);
            rest = more;
        }
    }
    client.finish(&[1, 3, 5]);
    assert_eq!(client.streams[&5].body, octets(3500));
    close(&mut client);
    let records = weir.settled(1);
    client.assert_recorded(&records);
}

#[test]
fn resets_by_either_side_leave_no_octet_uncounted() {
    let (_origin, weir) = weir();
    let mut client = connect(&weir, 5000);
    client.generous = false;
    client.get(1, "/bytes/900000/1");
    client.head(3, "POST", "/sink/3/3", &[], 0);
    client.data(3, &octets(3000), None, 0);
    // The client gives up both; the origin breaks the third off.
    while client.streams.get(&1).is_none_or(|books| books.sent_body < 5000) {
        client.read().unwrap();
    }
    client.reset(1, 8);
    client.reset(3, 8);
    client.get(5, "/cut/2000/5");
    client.finish(&[5]);
    assert!(client.streams[&5].reset.is_some(), "{:?}", client.streams[&5]);
    client.generous = true;
    client.get(7, "/bytes/10/7");
    client.finish(&[7]);
    client.settle();
    close(&mut client);
    let records = weir.settled(1);
    let (_, requests) = client.assert_recorded(&records);
    let ends: Vec<_> = requests.iter().map(|request| request.text("end")).collect();
    assert_eq!(ends, ["client_abort", "client_abort", "upstream_error", "done"]);
}

#[test]
fn octets_for_a_stream_that_is_over_are_still_the_sessions() {
    let (_origin, weir) = weir();
    let mut client = connect(&weir, WINDOW);
    client.head(1, "POST", "/early/10/1", &[], 0);
    client.reset(1, 8);
    // In flight when the reset was sent, as far as weir knows.
    let late = frame(0, END_STREAM, 1, &octets(500));
    client.raw(1, &late);
    client.get(3, "/bytes/1/3");
    client.finish(&[3]);
    client.settle();
    close(&mut client);
    let records = weir.settled(1);
    let session = records.session(client.port);
    assert_eq!(session.total("received_app"), client.sent as i64);
    assert_eq!(session.total("sent_app"), client.reader.taken as i64);
}

#[test]
fn an_h2_client_that_vanishes_is_charged_for_what_arrived() {
    let (_origin, weir) = weir();
    let stream = socket::connect(weir.address("web"), Some(4096));
    let mut client = Client::plain(stream, 8 << 20);
    client.window(0, 8 << 20);
    client.get(1, "/bytes/4000000/1");
    while client.streams.get(&1).is_none_or(|books| books.sent_body < 200_000) {
        client.generous = false;
        client.read().unwrap();
    }
    let arrived = socket::kernel_received_at_rest(&client.reader.from);
    let port = client.port;
    socket::reset(client.reader.from);
    let records = weir.settled(1);
    let session = records.session(port);
    assert_eq!(session.total("sent_acked"), arrived as i64, "{}", session.0);
    let requests = records.requests(session);
    assert_eq!(requests[0].text("end"), "client_abort");
    let undelivered = session.total("sent_wire") - arrived as i64;
    assert_eq!(requests[0].total("sent_app") - requests[0].total("sent_acked"), undelivered);
}

#[test]
fn less_than_a_preface_neither_waits_for_ever_nor_is_lost() {
    let (_origin, weir) = weir();
    let mut accounts = Vec::new();
    for n in [1, 3, 14, 23] {
        let mut client = PlainClient::connect(weir.address("web"));
        client.write(&PREFACE[..n], Cuts::Whole);
        client.fin();
        client.reader.rest();
        accounts.push((client.account(), n));
    }
    // What only looks like the beginning of a preface is HTTP/1.
    let mut client = PlainClient::connect(weir.address("web"));
    client.request(b"PRI /bytes/3 HTTP/1.1\r\nhost: test\r\n\r\n", 0, Cuts::EachOctet);
    assert_eq!(client.response().body, octets(3));
    accounts.push((client.close().account(), 0));
    let records = weir.settled(accounts.len());
    for (account, _) in accounts {
        account.assert_session_recorded(&records);
    }
}

#[test]
fn a_connection_error_is_answered_with_goaway_and_counted() {
    let (_origin, weir) = weir();
    let mut client = connect(&weir, WINDOW);
    client.get(1, "/bytes/10/1");
    client.finish(&[1]);
    // DATA on stream 0 (RFC 9113 §6.1).
    client.frame(0, 0, 0, b"nothing");
    client.drain();
    assert!(client.goaway.is_some());
    let records = weir.settled(1);
    let (session, _) = client.assert_recorded(&records);
    assert_eq!(session.text("end"), "protocol_error");
}

#[test]
fn a_websocket_over_h2_is_one_stream_both_ways() {
    let (origin, weir) = weir();
    let mut client = connect(&weir, WINDOW);
    let more = [(":protocol", "websocket"), ("sec-websocket-version", "13")];
    client.head(1, "CONNECT", "/upgrade/300/1", &more, 0);
    while client.streams.get(&1).is_none_or(|books| books.sent_body < 300) {
        client.read().unwrap();
    }
    assert_eq!(client.streams[&1].status, 200);
    client.data(1, &octets(10_000), None, 0);
    client.get(3, "/bytes/5/3");
    client.data(1, &octets(10), Some(3), END_STREAM);
    client.finish(&[1, 3]);
    assert_eq!(client.streams[&1].body, [octets(300), octets(10_000), octets(10)].concat());
    client.settle();
    close(&mut client);
    let records = weir.settled(1);
    let (_, requests) = client.assert_recorded(&records);
    assert_eq!(requests[0].text("end"), "done", "{}", requests[0].0);
    let seen = origin.seen("/upgrade/300/1");
    let upstream = [requests[0].total("upstream_sent"), requests[0].total("upstream_received")];
    assert_eq!(upstream, [seen.received_app as i64, seen.sent_app as i64]);
}
