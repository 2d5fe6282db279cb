//! HTTP/1: every framing, every way to cut it, and what is no request at all.

use std::io::Write;

use crate::rig::client::{Client, Cuts, chunked, sized};
use crate::rig::origin::Origin;
use crate::rig::process::{Config, Weir};
use crate::rig::records::Record;
use crate::rig::socket::kernel_received;
use crate::rig::{Dice, octets};

fn weir() -> (Origin, Weir) {
    let origin = Origin::http();
    let weir = Weir::start(&Config::http(origin.address));
    (origin, weir)
}

/// What moved between weir and the origin is what the origin's socket saw.
fn assert_upstream(origin: &Origin, request: &Record) {
    let seen = origin.seen(request.text("path"));
    let counted = [request.total("upstream_sent"), request.total("upstream_received")];
    assert_eq!(counted, [seen.received_app as i64, seen.sent_app as i64], "upstream, of {}", request.0);
}

#[test]
fn every_framing_is_counted_to_the_octet() {
    let (origin, weir) = weir();
    let to = weir.address("web");
    let mut accounts = Vec::new();

    let mut client = Client::connect(to);
    assert_eq!(client.get("/bytes/0").body, b"");
    assert_eq!(client.get("/bytes/1000").body, octets(1000));
    let answer = client.get("/chunked/20000");
    assert_eq!(answer.body, octets(20_000));
    assert_eq!(client.get("/status/204").status(), 204);
    assert_eq!(client.get("/status/304").status(), 304);
    client.request(b"HEAD /bytes/4000 HTTP/1.1\r\nhost: test\r\n\r\n", 0, Cuts::Whole);
    assert_eq!(client.response().field("content-length"), Some("4000"));
    client.request(b"HEAD /chunked/4000 HTTP/1.1\r\nhost: test\r\n\r\n", 0, Cuts::Whole);
    client.response();
    assert_eq!(client.post("/sink/5", &octets(70_000)).body, octets(5));
    client.request(&chunked("/sink/6", &[1, 10, 999, 30_000]), 31_010, Cuts::Whole);
    assert_eq!(client.response().body, octets(6));
    assert_eq!(origin.seen("/sink/6").received_body, 31_010);
    assert_eq!(origin.seen("/sink/6").trailers, [("x-sum".to_owned(), "1234".to_owned())]);
    let answer = client.get("/hints/12");
    assert_eq!((answer.interim.as_slice(), answer.status()), ([103].as_slice(), 200));
    accounts.push(client.close().account());

    let mut client = Client::connect(to);
    assert_eq!(client.get("/close/30000").body, octets(30_000));
    accounts.push(client.close().account());

    let mut client = Client::connect(to);
    client.request(b"GET /old/3000 HTTP/1.0\r\nhost: test\r\n\r\n", 0, Cuts::Whole);
    assert_eq!(client.response().body, octets(3000));
    accounts.push(client.close().account());

    let mut client = Client::connect(to);
    client.request(b"GET /bytes/300/old HTTP/1.0\r\nhost: test\r\nconnection: keep-alive\r\n\r\n", 0, Cuts::Whole);
    assert_eq!(client.response().body, octets(300));
    client.request(b"GET /bytes/400/old HTTP/1.0\r\nhost: test\r\n\r\n", 0, Cuts::Whole);
    assert_eq!(client.response().body, octets(400));
    accounts.push(client.close().account());

    let records = weir.settled(accounts.len());
    for account in &accounts {
        let (session, requests) = account.assert_recorded(&records);
        assert_eq!(records.overhead(session), (0, 0), "{}", session.0);
        assert_eq!(session.text("end"), "done");
        for request in requests {
            assert_eq!((request.text("end"), request.0["billable"].as_bool()), ("done", Some(true)), "{}", request.0);
            assert_upstream(&origin, request);
        }
    }
}

#[test]
fn a_body_waits_for_100_continue_and_both_are_counted() {
    let (origin, weir) = weir();
    let mut client = Client::connect(weir.address("web"));
    let head = b"POST /sink/9 HTTP/1.1\r\nhost: test\r\nexpect: 100-continue\r\ncontent-length: 5000\r\n\r\n";
    let body = octets(5000);
    client.note_request(&[head.as_slice(), &body].concat(), body.len());
    client.write(head, Cuts::Whole);
    let interim = client.reader.octets(b"HTTP/1.1 100 Continue\r\n\r\n".len());
    assert!(interim.starts_with(b"HTTP/1.1 100 "), "{:?}", String::from_utf8_lossy(&interim));
    client.exchanges[0].sent_app += interim.len() as u64;
    client.write(&body, Cuts::Odd(1));
    assert_eq!(client.response().body, octets(9));
    let account = client.close().account();
    let records = weir.settled(1);
    account.assert_recorded(&records);
    assert_eq!(origin.seen("/sink/9").received_body, 5000);
}

#[test]
fn pipelined_requests_are_told_apart() {
    let (origin, weir) = weir();
    let mut client = Client::connect(weir.address("web"));
    let mut all = Vec::new();
    for n in 0..30 {
        let bytes = match n % 3 {
            0 => format!("GET /bytes/{}/p{n} HTTP/1.1\r\nhost: test\r\n\r\n", n * 37).into_bytes(),
            1 => sized(&format!("/sink/3/p{n}"), &octets(n * 101)),
            _ => chunked(&format!("/sink/4/p{n}"), &[n, 2 * n + 1]),
        };
        let body = [0, n * 101, 3 * n + 1][n % 3];
        client.note_request(&bytes, body);
        all.extend_from_slice(&bytes);
    }
    // An empty line before a request line is legal, and nobody's.
    let (first, second) = all.split_at(all.len() / 2);
    client.write(first, Cuts::Odd(3));
    client.write(second, Cuts::Whole);
    for _ in 0..30 {
        assert_eq!(client.response().status(), 200);
    }
    let account = client.close().account();
    let records = weir.settled(1);
    let (session, requests) = account.assert_recorded(&records);
    assert_eq!(records.overhead(session), (0, 0));
    requests.iter().for_each(|request| assert_upstream(&origin, request));
}

#[test]
fn cutting_a_stream_into_other_writes_changes_no_count() {
    let (_origin, weir) = weir();
    let mut accounts = Vec::new();
    for (n, cuts) in [Cuts::EachOctet, Cuts::Odd(1), Cuts::Odd(2), Cuts::Odd(3), Cuts::Whole].into_iter().enumerate() {
        let mut client = Client::connect(weir.address("web"));
        client.request(&chunked(&format!("/sink/7/c{n}"), &[3, 1, 77]), 81, cuts);
        client.response();
        client.request(&sized(&format!("/sink/7/s{n}"), &octets(333)), 333, cuts);
        client.response();
        client.request(format!("GET /chunked/99/g{n} HTTP/1.1\r\nhost: test\r\n\r\n").as_bytes(), 0, cuts);
        client.response();
        accounts.push(client.close().account());
    }
    let records = weir.settled(accounts.len());
    accounts.iter().for_each(|account| drop(account.assert_recorded(&records)));
}

#[test]
fn empty_lines_between_requests_are_overhead() {
    let (_origin, weir) = weir();
    let mut client = Client::connect(weir.address("web"));
    client.write(b"\r\n\r\n", Cuts::Whole);
    client.get("/bytes/5");
    client.write(b"\r\n", Cuts::Whole);
    client.get("/bytes/6");
    let account = client.close().account();
    let records = weir.settled(1);
    let (session, _) = account.assert_recorded(&records);
    assert_eq!(records.overhead(session), (6, 0));
}

#[test]
fn a_response_before_the_request_is_whole_is_counted_with_it() {
    let (_origin, weir) = weir();
    let mut client = Client::connect(weir.address("web"));
    let bytes = sized("/early/50", &octets(40_000));
    client.note_request(&bytes, 40_000);
    client.write(&bytes[..10_000], Cuts::Whole);
    assert_eq!(client.response().body, octets(50));
    client.write(&bytes[10_000..], Cuts::Whole);
    client.get("/bytes/1/after");
    let account = client.close().account();
    let records = weir.settled(1);
    account.assert_recorded(&records);
}

#[test]
fn a_half_closed_client_gets_its_whole_answer() {
    let (_origin, weir) = weir();
    let mut client = Client::connect(weir.address("web"));
    client.request(&sized("/sink/90000", &octets(3)), 3, Cuts::Whole);
    client.fin();
    assert_eq!(client.response().body, octets(90_000));
    let account = client.close().account();
    let records = weir.settled(1);
    let (session, requests) = account.assert_recorded(&records);
    assert_eq!((session.text("end"), requests[0].text("end")), ("done", "done"));
}

#[test]
fn the_last_answer_and_the_end_of_the_connection_come_in_one_segment() {
    let (_origin, weir) = weir();
    let mut accounts = Vec::new();
    for n in 0..20 {
        let mut client = Client::connect(weir.address("web"));
        assert_eq!(client.get("/bytes/5").body, octets(5), "which is not the last");
        let body = octets(n * 100);
        let head =
            format!("POST /sink/12 HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", n * 100);
        client.request(&[head.as_bytes(), &body].concat(), body.len(), Cuts::Whole);
        assert_eq!(client.response().body, octets(12));
        let received = kernel_received(client.stream());
        let account = client.close().account();
        let answers: u64 = account.exchanges.iter().map(|exchange| exchange.sent_app).sum();
        assert_eq!(received, answers + 1, "the FIN was there with the answer's last octet");
        accounts.push(account);
    }
    let records = weir.settled(accounts.len());
    for account in &accounts {
        account.assert_recorded(&records);
    }
}

/// Bodies that go from socket to socket past the engines, and the largest that do not.
#[test]
fn large_answers_one_after_the_other_are_counted_to_the_octet() {
    let (origin, weir) = weir();
    let to = weir.address("web");
    let mut accounts = Vec::new();

    let mut client = Client::connect(to);
    for (n, bytes) in [524_287, 524_288, 0, 3_000_000, 12, 700_000, 5_000_000].into_iter().enumerate() {
        assert!(client.get(&format!("/bytes/{bytes}/{n}")).body == octets(bytes), "{bytes}");
    }
    assert_eq!(origin.connections(), 1, "the origin's connection went on behind each");
    // While one is under way the next requests are there already.
    let mut all = Vec::new();
    for n in 0..6 {
        let bytes = match n % 3 {
            0 => format!("GET /bytes/900000/p{n} HTTP/1.1\r\nhost: test\r\n\r\n").into_bytes(),
            1 => sized(&format!("/sink/800000/p{n}"), &octets(70_000)),
            _ => chunked(&format!("/sink/4/p{n}"), &[n, 2 * n + 1]),
        };
        client.note_request(&bytes, [0, 70_000, 3 * n + 1][n % 3]);
        all.extend_from_slice(&bytes);
    }
    client.write(&all, Cuts::Whole);
    for n in 0..6 {
        let answer = client.response();
        assert!(answer.body == octets([900_000, 800_000, 4][n % 3]), "{n}: {}, {}", answer.start, answer.body.len());
    }
    client.request(b"HEAD /bytes/4000000 HTTP/1.1\r\nhost: test\r\n\r\n", 0, Cuts::Whole);
    assert_eq!(client.response().field("content-length"), Some("4000000"));
    assert!(client.get("/hints/600000").body == octets(600_000));
    accounts.push(client.close().account());

    // The client's last request, and one of an older client.
    for head in [
        "GET /bytes/2000000/last HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n",
        "GET /bytes/2000000/old HTTP/1.0\r\nhost: test\r\n\r\n",
    ] {
        let mut client = Client::connect(to);
        client.request(head.as_bytes(), 0, Cuts::Whole);
        assert!(client.response().body == octets(2_000_000), "{head}");
        assert_eq!(client.reader.rest(), b"", "{head}");
        accounts.push(client.close().account());
    }

    let records = weir.settled(accounts.len());
    for account in &accounts {
        let (session, requests) = account.assert_recorded(&records);
        assert_eq!(session.text("end"), "done");
        for request in requests {
            assert_eq!((request.text("end"), request.0["billable"].as_bool()), ("done", Some(true)), "{}", request.0);
            assert_upstream(&origin, request);
        }
    }
}

#[test]
fn a_large_answer_that_breaks_off_is_counted_to_where_it_broke() {
    let (origin, weir) = weir();
    for (n, path) in ["/cut/300000", "/cut/4000000", "/reset/2000000"].into_iter().enumerate() {
        let mut client = Client::connect(weir.address("web"));
        client.request(format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n").as_bytes(), 0, Cuts::Whole);
        let answer = client.response();
        assert!(answer.cut, "{path}: {}", answer.start);
        let account = client.close().account();
        let records = weir.settled(n + 1);
        let (_, requests) = account.assert_recorded(&records);
        assert_eq!(requests[0].text("end"), "upstream_error", "{}", requests[0].0);
        if path.starts_with("/cut") {
            assert_upstream(&origin, requests[0]);
        }
    }
}

#[test]
fn what_is_refused_is_counted_and_not_billed() {
    let (origin, weir) = weir();
    let refused: [(&[u8], u16); 6] = [
        (b"GET /bytes/1 HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", 400),
        (b"POST /sink/1 HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"GET /bytes/1 HTTP/1.1\r\nhost : a\r\n\r\n", 400),
        (b"GET  /bytes/1 HTTP/1.1\r\nhost: a\r\n\r\n", 400),
        (b"CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\n\r\n", 405),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03this is no HTTP at all\r\n\r\n", 400),
    ];
    let mut accounts = Vec::new();
    for (bytes, status) in refused {
        let mut client = Client::connect(weir.address("web"));
        client.write(bytes, Cuts::Whole);
        let answer = client.reader.response("GET").expect("an answer");
        assert_eq!(answer.status(), status, "{:?}", String::from_utf8_lossy(bytes));
        accounts.push(client.close().account());
    }
    let records = weir.settled(refused.len());
    for (account, (bytes, status)) in accounts.iter().zip(refused) {
        let (_, requests) = account.assert_session_recorded(&records);
        assert_eq!(requests.len(), 1, "{:?}", String::from_utf8_lossy(bytes));
        assert_eq!(requests[0].number("status"), i64::from(status), "{}", requests[0].0);
        assert_eq!(requests[0].total("sent_app"), account.received as i64);
        assert_eq!(requests[0].0["billable"].as_bool(), Some(false), "{}", requests[0].0);
        assert_eq!(requests[0].total("upstream_sent"), 0);
    }
    assert!(origin.all_seen().is_empty());
}

#[test]
fn a_bad_chunk_ends_the_request_and_every_octet_is_counted() {
    let (_origin, weir) = weir();
    let mut client = Client::connect(weir.address("web"));
    let bytes = b"POST /sink/1 HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\nXYZ\r\nmore";
    client.write(bytes, Cuts::Whole);
    let answer = client.reader.response("POST").expect("an answer");
    assert_eq!(answer.status(), 400);
    let account = client.close().account();
    let records = weir.settled(1);
    let (session, requests) = account.assert_session_recorded(&records);
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].total("received_body"), 5);
    let (overhead, _) = records.overhead(session);
    assert_eq!(requests[0].total("received_app") + overhead, bytes.len() as i64);
}

#[test]
fn octets_behind_the_last_request_are_overhead() {
    let (_origin, weir) = weir();
    let mut client = Client::connect(weir.address("web"));
    client.request(b"GET /bytes/5 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n", 0, Cuts::Whole);
    client.write(b"GET /bytes/6 HTTP/1.1\r\nhost: a\r\n\r\n", Cuts::Whole);
    client.response();
    let account = client.close().account();
    let records = weir.settled(1);
    let (session, _) = account.assert_recorded(&records);
    assert_eq!(records.overhead(session), (34, 0));
}

#[test]
fn a_connection_with_nothing_is_a_session_with_nothing() {
    let (_origin, weir) = weir();
    let account = Client::connect(weir.address("web")).close().account();
    let records = weir.settled(1);
    let (session, requests) = account.assert_session_recorded(&records);
    assert!(requests.is_empty());
    assert_eq!((session.text("reason"), session.0["billable"].as_bool()), ("no_request", Some(false)));
}

#[test]
fn half_a_head_then_nothing_is_answered_408() {
    let origin = Origin::http();
    let weir = Weir::start(&Config::http(origin.address).limit("header_read_timeout_ms = 300"));
    let mut client = Client::connect(weir.address("web"));
    client.request(b"GET /bytes/5 HTTP/1.1\r\nhost: a", 0, Cuts::Whole);
    assert_eq!(client.response().status(), 408);
    let account = client.close().account();
    let records = weir.settled(1);
    let (session, requests) = account.assert_recorded(&records);
    assert_eq!((session.text("end"), requests[0].text("end")), ("timeout", "timeout"));
}

#[test]
fn an_upgraded_connection_is_one_request_both_ways() {
    let (origin, weir) = weir();
    let mut client = Client::connect(weir.address("web"));
    client.get("/bytes/11");
    let head = b"GET /upgrade/700 HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
    let early = b"early octets that look like nothing";
    let later = octets(100_000);
    client.note_request(&[head.as_slice(), early, &later].concat(), early.len() + later.len());
    client.write(&[head.as_slice(), early].concat(), Cuts::Whole);
    let answer = client.response();
    assert_eq!(answer.status(), 101);
    assert_eq!(client.reader.octets(700), octets(700));
    assert_eq!(client.reader.octets(early.len()), early);
    client.write(&later, Cuts::Whole);
    assert_eq!(client.reader.octets(later.len()), later);
    client.fin();
    let tunnelled = 700 + early.len() as u64 + later.len() as u64;
    client.exchanges[1].sent_app += tunnelled;
    client.exchanges[1].sent_body += tunnelled;
    let account = client.close().account();
    let records = weir.settled(1);
    let (_, requests) = account.assert_recorded(&records);
    assert_eq!((requests[1].text("end"), requests[1].number("status")), ("done", 101));
    assert_upstream(&origin, requests[1]);
}

#[test]
fn an_upgrade_with_early_octets_that_look_like_a_request_is_one_request() {
    let (_origin, weir) = weir();
    let mut client = Client::connect(weir.address("web"));
    let head = b"GET /upgrade/3 HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
    let early = b"GET /bytes/5 HTTP/1.1\r\nhost: x\r\n\r\nGET /by";
    client.request(&[head.as_slice(), early].concat(), early.len(), Cuts::Whole);
    client.response();
    client.reader.octets(3);
    assert_eq!(client.reader.octets(early.len()), early);
    client.fin();
    client.exchanges[0].sent_app += 3 + early.len() as u64;
    client.exchanges[0].sent_body += 3 + early.len() as u64;
    let account = client.close().account();
    let records = weir.settled(1);
    account.assert_recorded(&records);
}

#[test]
fn a_client_that_ends_half_way_through_its_body_is_counted_to_where_it_ended() {
    let (origin, weir) = weir();
    for (n, part) in [1, 100, 9_999].into_iter().enumerate() {
        let mut client = Client::connect(weir.address("web"));
        let bytes = sized(&format!("/sink/5/{part}"), &octets(10_000));
        let head = bytes.len() - 10_000;
        client.note_request(&bytes[..head + part], part);
        client.write(&bytes[..head + part], Cuts::Whole);
        client.fin();
        // It may be told so, or just be let go.
        let answer = client.reader.rest();
        client.exchanges[0].sent_app = answer.len() as u64;
        let account = client.account();
        drop(client);
        let records = weir.settled(n + 1);
        let (session, requests) = account.assert_session_recorded(&records);
        assert_eq!(requests.len(), 1);
        assert_eq!(requests[0].total("received_app"), (head + part) as i64);
        assert_eq!(requests[0].total("received_body"), part as i64);
        assert_eq!(requests[0].text("end"), "client_abort", "{}", session.0);
        assert_eq!(origin.seen(&format!("/sink/5/{part}")).received_body, part as u64);
    }
}

#[test]
fn an_origin_that_breaks_off_is_counted_to_where_it_broke() {
    let (_origin, weir) = weir();
    for (n, path) in ["/cut/5000", "/reset/5000", "/cut/1", "/reset/300000"].into_iter().enumerate() {
        let mut client = Client::connect(weir.address("web"));
        client.request(format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n").as_bytes(), 0, Cuts::Whole);
        let answer = client.response();
        assert!(answer.cut || answer.status() == 502, "{path}: {}", answer.start);
        let account = client.close().account();
        let records = weir.settled(n + 1);
        let (_, requests) = account.assert_recorded(&records);
        assert_eq!(requests[0].text("end"), "upstream_error", "{}", requests[0].0);
    }
}

#[test]
fn an_origin_that_is_not_there_is_answered_502_and_not_billed() {
    let gone = Origin::http().address;
    let weir = Weir::start(&Config::http(gone));
    let mut client = Client::connect(weir.address("web"));
    assert_eq!(client.get("/bytes/1").status(), 502);
    assert_eq!(client.post("/sink/1", &octets(2000)).status(), 502);
    let account = client.close().account();
    let records = weir.settled(1);
    let (_, requests) = account.assert_recorded(&records);
    for request in requests {
        let said = (request.text("end"), request.text("reason"), request.0["billable"].as_bool());
        assert_eq!(said, ("upstream_error", "platform_error", Some(false)));
    }
}

#[test]
fn the_other_direction_goes_on_after_a_tunnel_is_half_closed() {
    let (_origin, weir) = weir();
    let mut client = Client::connect(weir.address("web"));
    let head = b"GET /upgrade/200000 HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
    client.request(head, 0, Cuts::Whole);
    client.fin();
    client.response();
    assert_eq!(client.reader.octets(200_000), octets(200_000));
    client.exchanges[0].sent_app += 200_000;
    client.exchanges[0].sent_body += 200_000;
    let account = client.close().account();
    let records = weir.settled(1);
    account.assert_recorded(&records);
}

#[test]
fn checkpoints_of_a_long_request_sum_to_its_close() {
    let origin = Origin::http();
    let weir = Weir::start(&Config::http(origin.address).top("checkpoint_interval_ms = 300"));
    let mut client = Client::connect(weir.address("web"));
    let bytes = sized("/sink/10", &octets(3000));
    client.note_request(&bytes, 3000);
    for piece in bytes.chunks(bytes.len() / 3 + 1) {
        client.reader.from.write_all(piece).unwrap();
        client.sent += piece.len() as u64;
        let total = client.sent as i64;
        crate::rig::until("a checkpoint with these octets", || {
            let records = weir.house.records();
            records
                .0
                .iter()
                .any(|record| {
                    record.text("phase") == "checkpoint"
                        && record.text("kind") == "session"
                        && record.total("received_app") == total
                })
                .then_some(())
        });
    }
    client.response();
    let account = client.close().account();
    let records = weir.settled(1);
    account.assert_recorded(&records);
    let checkpoints = |kind| records.0.iter().filter(|record| record.is(kind, "checkpoint")).count();
    assert!(checkpoints("request") >= 2 && checkpoints("session") >= 3);
}

#[test]
fn a_download_under_way_has_its_acknowledged_octets_recorded() {
    let origin = Origin::http();
    let weir = Weir::start(&Config::http(origin.address).top("checkpoint_interval_ms = 200"));
    let mut client = Client::connect(weir.address("web"));
    // More than all buffers in between hold: it stays open until the client reads.
    client.request(&sized("/bytes/40000000", &[]), 0, Cuts::Whole);
    let is_under_way = |record: &Record| record.is("request", "checkpoint") && record.total("sent_acked") > 0;
    crate::rig::until("a checkpoint of acknowledged octets", || {
        weir.house.records().0.iter().any(is_under_way).then_some(())
    });
    client.response();
    let account = client.close().account();
    let records = weir.settled(1);
    let (session, requests) = account.assert_recorded(&records);
    assert_eq!(requests[0].total("sent_acked"), requests[0].total("sent_app"));
    assert_eq!(session.total("sent_acked"), session.total("sent_wire"));
    for record in records.0.iter().filter(|record| is_under_way(record)) {
        assert!(record.total("sent_acked") <= record.total("sent_app"), "{record:?}");
    }
}

#[test]
fn any_sequence_of_requests_cut_anywhere_and_ended_anyhow_is_counted_to_the_octet() {
    let (origin, weir) = weir();
    let mut accounts = Vec::new();
    for seed in 0..40 {
        let mut dice = Dice::new(seed);
        let mut client = Client::connect(weir.address("web"));
        let mut pipelined = 0;
        for n in 0..1 + dice.below(12) {
            let (size, unique) = (dice.below(3000), format!("{seed}-{n}"));
            let (bytes, body) = match dice.below(6) {
                0 => (sized(&format!("/sink/{size}/{unique}"), &octets(size * 7)), size * 7),
                1 => (chunked(&format!("/sink/{size}/{unique}"), &[size + 1, 1, 2 * size + 3]), 3 * size + 5),
                2 => (format!("GET /chunked/{size}/{unique} HTTP/1.1\r\nhost: test\r\n\r\n").into_bytes(), 0),
                3 => (format!("HEAD /bytes/{size}/{unique} HTTP/1.1\r\nhost: test\r\n\r\n").into_bytes(), 0),
                4 => (format!("GET /status/204/{unique} HTTP/1.1\r\nhost: test\r\n\r\n").into_bytes(), 0),
                _ => (format!("GET /hints/{size}/{unique} HTTP/1.1\r\nhost: test\r\n\r\n").into_bytes(), 0),
            };
            client.request(&bytes, body, [Cuts::Whole, Cuts::Odd(seed)][dice.below(2)]);
            pipelined += 1;
            if dice.below(3) > 0 {
                (0..std::mem::take(&mut pipelined)).for_each(|_| drop(client.response()));
            }
        }
        if dice.below(2) == 0 {
            client.fin();
        }
        (0..pipelined).for_each(|_| drop(client.response()));
        accounts.push(client.close().account());
    }
    let records = weir.settled(accounts.len());
    for account in &accounts {
        let (session, requests) = account.assert_recorded(&records);
        assert_eq!(records.overhead(session), (0, 0), "{}", session.0);
        requests.iter().for_each(|request| assert_upstream(&origin, request));
    }
}

#[test]
fn a_connect_tunnel_is_one_request_where_it_is_allowed() {
    let origin = Origin::echo();
    let weir = Weir::start(&Config::listener("web", "http", origin.address, "allow_connect = true"));
    let mut client = Client::connect(weir.address("web"));
    let head = b"CONNECT anywhere:443 HTTP/1.1\r\nhost: anywhere:443\r\n\r\n";
    client.note_request(head, 0);
    client.write(head, Cuts::Odd(5));
    assert_eq!(client.response().status(), 200);
    let bytes = octets(60_000);
    client.write(&bytes, Cuts::Whole);
    assert_eq!(client.reader.octets(bytes.len()), bytes);
    client.fin();
    let books = &mut client.exchanges[0];
    books.received_app += bytes.len() as u64;
    books.received_body += bytes.len() as u64;
    books.sent_app += bytes.len() as u64;
    books.sent_body += bytes.len() as u64;
    let account = client.close().account();
    let records = weir.settled(1);
    let (_, requests) = account.assert_recorded(&records);
    assert_eq!((requests[0].text("protocol"), requests[0].text("end")), ("connect", "done"));
    let upstream = [requests[0].total("upstream_sent"), requests[0].total("upstream_received")];
    assert_eq!(upstream, [60_000, 60_000]);
}
