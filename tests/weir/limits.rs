//! Limits against abuse: each is kept, counted when it is hit, and harms nobody else.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::rig::client::{Client, Cuts, sized};
use crate::rig::message::Reader;
use crate::rig::origin::Origin;
use crate::rig::process::{Config, House, Process, Weir};
use crate::rig::{h2, octets, socket, until};

/// Connected, and served: it has had an answer.
fn served(to: SocketAddr) -> Client {
    let mut client = Client::connect(to);
    assert_eq!(client.get("/bytes/1").status(), 200);
    client
}

/// Turned away: the end comes without an octet.
fn assert_turned_away(to: SocketAddr) {
    let mut client = Client::connect(to);
    assert_eq!(client.reader.rest(), b"");
}

/// A place that becomes free is taken by the next who asks.
fn until_served(to: SocketAddr) -> Client {
    until("a free place", || {
        let mut client = Client::connect(to);
        let request = b"GET /bytes/1 HTTP/1.1\r\nhost: test\r\n\r\n";
        std::io::Write::write_all(&mut client.reader.from, request).ok()?;
        client.reader.response("GET").filter(|answer| answer.status() == 200)?;
        Some(client)
    })
}

#[test]
fn connections_per_source_are_limited_and_others_are_served() {
    let origin = Origin::http();
    let weir = Weir::start(&Config::http(origin.address).limit("connections_per_source_max = 4"));
    let to = weir.address("web");
    let mut open: Vec<_> = (0..4).map(|_| served(to)).collect();
    assert_turned_away(to);
    assert_turned_away(to);
    assert_eq!(weir.process.metric("weir_sessions_refused_total"), 2.0);
    let other = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    other.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), 0)).into()).unwrap();
    other.connect(&to.into()).unwrap();
    let mut reader = Reader::new(TcpStream::from(other));
    std::io::Write::write_all(&mut reader.from, b"GET /bytes/2 HTTP/1.1\r\nhost: test\r\n\r\n").unwrap();
    assert_eq!(reader.response("GET").unwrap().body, octets(2));
    open.pop().unwrap().close();
    until_served(to).close();
}

#[test]
fn connections_in_all_are_limited() {
    let origin = Origin::http();
    let weir = Weir::start(&Config::http(origin.address).limit("connections_max = 3").workers(2));
    let to = weir.address("web");
    let mut open: Vec<_> = (0..3).map(|_| served(to)).collect();
    assert_turned_away(to);
    open.pop().unwrap().close();
    until_served(to).close();
    drop(open);
    // A place is given back whatever the end was.
    until_served(to);
}

#[test]
fn what_all_connections_hold_in_memory_is_limited() {
    let origin = Origin::http();
    let limits = "connection_buffer_bytes_max = 1048576\nbuffer_bytes_max = 4194304";
    let weir = Weir::start(&Config::http(origin.address).limit(limits));
    let to = weir.address("web");
    let at_rest = weir.process.metric("weir_traffic_memory_bytes");
    let idle: Vec<_> = (0..64).map(|_| served(to)).collect();
    // Clients that ask for much and take nothing.
    let mut greedy: Vec<_> = (0..24).map(|_| Client::connect_narrow(to)).collect();
    for client in &mut greedy {
        client.write(b"GET /bytes/8000000 HTTP/1.1\r\nhost: test\r\n\r\n", Cuts::Whole);
    }
    weir.process.await_line("memory for buffers");
    assert!(weir.process.metric("weir_traffic_memory_bytes") > 4194304.0 + at_rest);
    assert_turned_away(to);
    drop(greedy);
    until_served(to).close();
    drop(idle);
}

#[test]
fn an_idle_connection_is_closed_after_its_time() {
    let origin = Origin::http();
    let weir = Weir::start(&Config::http(origin.address).limit("keep_alive_timeout_ms = 300"));
    let mut asked = served(weir.address("web"));
    let mut silent = Client::connect(weir.address("web"));
    assert_eq!((asked.reader.rest(), silent.reader.rest()), (Vec::new(), Vec::new()));
    let accounts = [asked.close().account(), silent.close().account()];
    let records = weir.settled(2);
    for account in accounts {
        let (session, _) = account.assert_recorded(&records);
        assert_eq!(session.text("end"), "done");
    }
}

#[test]
fn a_client_that_has_said_nothing_is_not_late_with_its_head() {
    let origin = Origin::http();
    let weir = Weir::start(&Config::http(origin.address).limit("header_read_timeout_ms = 200"));
    let mut silent = Client::connect(weir.address("web"));
    // Later than its head would have been due, by the clock of another who is late.
    let mut late = Client::connect(weir.address("web"));
    for _ in 0..2 {
        late.write(b"GET /bytes/1 HT", Cuts::Whole);
        late.reader.rest();
        late = Client::connect(weir.address("web"));
    }
    assert_eq!(silent.get("/bytes/1").status(), 200);
}

#[test]
fn a_body_that_stops_is_answered_408_and_a_silent_origin_504() {
    let origin = Origin::http();
    let weir = Weir::start(&Config::http(origin.address).limit("idle_timeout_ms = 400"));
    let mut stopped = Client::connect(weir.address("web"));
    let bytes = sized("/sink/1", &octets(1000));
    let part = bytes.len() - 500;
    stopped.note_request(&bytes[..part], 500);
    stopped.write(&bytes[..part], Cuts::Whole);
    assert_eq!(stopped.response().status(), 408);
    let mut waiting = Client::connect(weir.address("web"));
    waiting.request(b"GET /hang HTTP/1.1\r\nhost: test\r\n\r\n", 0, Cuts::Whole);
    assert_eq!(waiting.response().status(), 504);
    let accounts = [stopped.close().account(), waiting.close().account()];
    let records = weir.settled(2);
    for account in accounts {
        let (_, requests) = account.assert_recorded(&records);
        assert_eq!(requests[0].text("end"), "timeout");
    }
    assert_eq!(weir.process.metric("weir_timeouts_total"), 2.0);
}

#[test]
fn a_response_that_stops_half_way_is_cut() {
    let origin = Origin::http();
    let weir = Weir::start(&Config::http(origin.address).limit("idle_timeout_ms = 400"));
    let mut client = Client::connect(weir.address("web"));
    client.request(b"GET /pause/10000 HTTP/1.1\r\nhost: test\r\n\r\n", 0, Cuts::Whole);
    let answer = client.response();
    assert!(answer.cut && answer.body.len() == 5000, "{} octets", answer.body.len());
    let account = client.close().account();
    let records = weir.settled(1);
    let (_, requests) = account.assert_recorded(&records);
    assert_eq!(requests[0].text("end"), "timeout");
    origin.open("pause");
}

#[test]
fn a_trickling_body_and_a_request_that_takes_too_long_are_cut() {
    let origin = Origin::http();
    let slow = Config::http(origin.address).limit("body_rate_min_bytes_per_s = 100000\nbody_rate_grace_ms = 300");
    let long = Config::http(origin.address).limit("request_timeout_ms = 500");
    for config in [slow, long] {
        let weir = Weir::start(&config);
        let mut client = Client::connect(weir.address("web"));
        let bytes = sized("/sink/1", &octets(1000));
        // One octet at a time, never still for long.
        let started = Instant::now();
        client.stream().set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let mut sent = 0;
        let mut octet = [0];
        while client.stream().peek(&mut octet).is_err() {
            assert!(started.elapsed() < Duration::from_secs(10), "it goes on for ever");
            client.write(&bytes[sent..=sent], Cuts::Whole);
            sent += usize::from(sent + 1 < bytes.len() - 1);
        }
        client.stream().set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let answer = client.reader.response("POST").unwrap();
        assert_eq!(answer.status(), 408);
        client.reader.rest();
        drop(client);
        let records = weir.settled(1);
        assert_eq!(records.closes("request")[0].text("end"), "timeout");
    }
}

#[test]
fn a_silent_tunnel_is_cut_after_its_time() {
    let (origin, raw) = (Origin::http(), Origin::echo());
    let config = Config::http(origin.address).and_listener("raw", "tcp", raw.address, "");
    let weir = Weir::start(&config.limit("tunnel_idle_timeout_ms = 400"));
    let mut upgraded = Client::connect(weir.address("web"));
    let head = b"GET /upgrade/1 HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
    upgraded.request(head, 0, Cuts::Whole);
    upgraded.response();
    let mut tcp = Client::connect(weir.address("raw"));
    tcp.write(b"hello", Cuts::Whole);
    assert_eq!(tcp.reader.octets(5), b"hello");
    assert_eq!((upgraded.reader.rest(), tcp.reader.rest()), (octets(1), Vec::new()));
    drop((upgraded, tcp));
    let records = weir.settled(2);
    for session in records.sessions() {
        assert_eq!(session.text("end"), "timeout", "{}", session.0);
    }
}

#[test]
fn heads_that_are_too_large_are_refused_and_counted() {
    let origin = Origin::http();
    let config = Config::http(origin.address);
    let weir = Weir::start(&config.limit("request_line_bytes_max = 300\nheader_bytes_max = 2000\nheaders_max = 10"));
    let long_path = format!("GET /{} HTTP/1.1\r\nhost: test\r\n\r\n", "a".repeat(400));
    let long_field = format!("GET /bytes/1 HTTP/1.1\r\nhost: test\r\nx: {}\r\n\r\n", "a".repeat(3000));
    let many = format!("GET /bytes/1 HTTP/1.1\r\nhost: test\r\n{}\r\n", "x: y\r\n".repeat(20));
    let endless = format!("GET /bytes/1 HTTP/1.1\r\nhost: test\r\nx: {}", "a".repeat(200_000));
    for (n, (bytes, status)) in [(long_path, 414), (long_field, 431), (many, 431), (endless, 431)].iter().enumerate() {
        let mut client = Client::connect(weir.address("web"));
        client.stream().set_write_timeout(Some(Duration::from_secs(5))).unwrap();
        // It may be refused before it is whole.
        let written = std::io::Write::write_all(&mut client.reader.from, bytes.as_bytes());
        let answer =
            client.reader.response("GET").unwrap_or_else(|| panic!("{written:?}: no answer to {}", &bytes[..40]));
        assert_eq!(answer.status(), *status, "{}", &bytes[..40]);
        drop(client);
        let records = weir.settled(n + 1);
        let close = *records.closes("request").last().unwrap();
        assert_eq!((close.number("status"), close.0["billable"].as_bool()), (i64::from(*status), Some(false)));
    }
    assert!(origin.all_seen().is_empty());
}

#[test]
fn as_many_fields_pass_as_are_allowed_and_no_more() {
    let origin = Origin::http();
    let asked = |path: &str, fields: usize| {
        // Host is one of them.
        format!("GET {path} HTTP/1.1\r\nhost: test\r\n{}\r\n", "x: y\r\n".repeat(fields - 1))
    };
    let by_default = Weir::start(&Config::http(origin.address));
    let raised = "headers_max = 400\nresponse_headers_max = 300";
    let raised = Weir::start(&Config::http(origin.address).limit(raised));
    for (weir, request_max, response_max) in [(&by_default, 99, 100), (&raised, 400, 300)] {
        let cases = [
            (asked("/bytes/1", request_max), 200, "bill"),
            (asked("/bytes/1", request_max + 1), 431, "limited"),
            (asked(&format!("/fields/{response_max}"), 1), 200, "bill"),
            (asked(&format!("/fields/{}", response_max + 1), 1), 502, "platform_error"),
            (asked("/bytes/1", 1), 200, "bill"),
        ];
        for (n, (request, status, reason)) in cases.iter().enumerate() {
            let mut client = Client::connect(weir.address("web"));
            client.request(request.as_bytes(), 0, Cuts::Whole);
            assert_eq!(client.response().status(), *status, "{n}");
            drop(client);
            let records = weir.settled(n + 1);
            let close = *records.closes("request").last().unwrap();
            let is_billed = close.0["billable"].as_bool() == Some(true);
            assert_eq!(if is_billed { "bill" } else { close.text("reason") }, *reason, "{n}");
        }
    }
}

#[test]
fn a_client_that_resets_streams_rapidly_is_cut_and_another_is_served() {
    let origin = Origin::http();
    let weir = Weir::start(&Config::http(origin.address).limit("h2_resets_per_s_max = 50"));
    let mut innocent = served(weir.address("web"));
    let mut client = h2::Client::plain(socket::connect(weir.address("web"), None), 1 << 16);
    let mut flood = Vec::new();
    for stream in (1..4000).step_by(2) {
        flood.extend(h2::frame(
            h2::HEADERS,
            h2::END_HEADERS | h2::END_STREAM,
            stream,
            &h2::head_block("GET", "/hang", &[]),
        ));
        flood.extend(h2::frame(h2::RST_STREAM, 0, stream, &8u32.to_be_bytes()));
    }
    // It is cut while it writes.
    let _ = std::io::Write::write_all(&mut client.reader.from, &flood);
    while client.reader.octet().is_some() {}
    assert_eq!(innocent.get("/bytes/7").body, octets(7));
    innocent.close();
    let records = weir.settled(2);
    assert!(records.sessions().iter().any(|session| session.text("end") == "protocol_error"));
    assert!(weir.process.metric("weir_http2_floods_total") >= 1.0);
}

#[test]
fn without_descriptors_it_sheds_says_so_and_recovers() {
    let origin = Origin::http();
    let house = House::new(&Config::http(origin.address));
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 60; exec \"$0\" run --config \"$1\"", crate::rig::process::WEIR]).arg(house.file());
    let process = Process::spawn(command);
    process.await_serving();
    let to = process.address("web");
    let mut open: Vec<_> = (0..100).map(|_| socket::connect(to, None)).collect();
    process.await_line("no descriptor for another connection");
    open.drain(..90);
    until_served(to).close();
    process.await_line("descriptors are free again");
    drop(open);
    assert!(process.metric("weir_sessions_shed_total") >= 1.0);
    let mut client = until_served(to);
    client.get("/bytes/5");
    client.close();
    process.stop();
    house.records().assert_lawful();
}

#[test]
fn idle_connections_are_cheap_and_end_well() {
    const CONNECTIONS: usize = 1000;
    let origin = Origin::http();
    let weir = Weir::start(&Config::http(origin.address));
    let to = weir.address("web");
    let resident = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", weir.process.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
    };
    // What the first requests leave behind is no connection's.
    drop((0..20).map(|_| served(to)).collect::<Vec<_>>());
    let open_now = || weir.process.metric("weir_sessions_open") as usize;
    until("the first to be gone", || (open_now() == 0).then_some(()));
    // An engine is larger in an unoptimised build; its memory goes when the client has idled for a while, and when the
    // allocator thinks of it.
    let asked_bytes_max = if cfg!(debug_assertions) { 16 * 1024 } else { 8 * 1024 };
    let mut open = Vec::new();
    for (what, connect, bytes_max) in
        [("silent", Client::connect as fn(SocketAddr) -> Client, 8192), ("that has asked", served, asked_bytes_max)]
    {
        let (before, count) = (resident(), open.len() + CONNECTIONS);
        open.extend((0..CONNECTIONS).map(|_| connect(to)));
        until("all to be accepted", || (open_now() == count).then_some(()));
        let bytes = until("their memory to be small", || {
            let bytes = resident().saturating_sub(before) / CONNECTIONS;
            (bytes <= bytes_max).then_some(bytes)
        });
        eprintln!("{bytes} bytes resident per connection {what}");
    }
    assert_eq!(open[0].get("/bytes/3").body, octets(3));
    drop(open);
    until("all to be gone", || (open_now() == 0).then_some(()));
}

#[test]
fn a_full_journal_gives_up_detail_and_states_every_byte() {
    let origin = Origin::http();
    let mut config = Config::http(origin.address);
    config.journal = "segment_bytes = 65536\njournal_bytes_max = 196608\nslots_max = 1024\n".to_owned();
    let weir = Weir::start(&config);
    let mut accounts = Vec::new();
    for n in 0..40 {
        let mut client = Client::connect(weir.address("web"));
        for m in 0..20 {
            client.get(&format!("/bytes/{}", n + m));
        }
        accounts.push(client.close().account());
    }
    let (sent, received) =
        accounts.iter().fold((0, 0), |sum, account| (sum.0 + account.sent, sum.1 + account.received));
    // A session's records and the gaps together hold every byte, whatever was given up.
    let mut before = None;
    until("every byte", || {
        let records = weir.house.records();
        let kinds = |record: &&crate::rig::records::Record| matches!(record.text("kind"), "session" | "gap");
        let sum = |column| records.0.iter().filter(kinds).map(|record| record.number(column)).sum::<i64>();
        let gaps = records.0.iter().filter(|record| record.text("kind") == "gap").count();
        let all = (sum("received_wire_bytes"), sum("sent_wire_bytes"), sum("sent_acked_bytes"));
        if before.replace((gaps, all)) != Some((gaps, all)) {
            eprintln!("{gaps} gaps, {all:?} of {sent}, {received}");
        }
        (gaps > 0 && all == (sent as i64, received as i64, received as i64)).then_some(())
    });
}
