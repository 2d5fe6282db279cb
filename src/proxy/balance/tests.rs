use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::discovery::{Names, reachable};
use super::{Group, Member};
use crate::config::{
    Balance, Ejection, HealthCheck, HealthKind, ProxyProtocolOut, Server, ServerHost, Upstream, UpstreamProtocol,
    UpstreamTls,
};

fn literal(address: SocketAddr) -> Server {
    Server { host: ServerHost::Ip(address.ip()), port: address.port() }
}

fn named(name: &str, port: u16) -> Server {
    Server { host: ServerHost::Name(name.into()), port }
}

/// Servers 10.0.0.1:80 and on, that nothing connects to.
fn numbered(count: u8) -> Vec<Server> {
    (1..=count).map(|last| literal(([10, 0, 0, last], 80).into())).collect()
}

fn upstream(servers: Vec<Server>) -> Upstream {
    Upstream {
        name: "origin".into(),
        servers,
        balance: Balance::RoundRobin,
        protocol: UpstreamProtocol::Auto,
        tls: None,
        proxy_protocol: ProxyProtocolOut::Off,
        connect_timeout: Duration::from_secs(2),
        retries: 1,
        idle_connections_max: 8,
        idle_timeout: Duration::from_secs(60),
        health: None,
        ejection: None,
    }
}

fn health(kind: HealthKind) -> Option<HealthCheck> {
    Some(HealthCheck { kind, interval: Duration::from_millis(10), healthy_after: 2, unhealthy_after: 2 })
}

fn http_health() -> Option<HealthCheck> {
    health(HealthKind::Http { path: "/health?deep=1".into() })
}

fn ejecting(servers: Vec<Server>, rest: Duration) -> Upstream {
    Upstream { ejection: Some(Ejection { consecutive_failures: 3, rest }), ..upstream(servers) }
}

fn group(upstream: &Upstream) -> Arc<Group> {
    Arc::new(Group::new(upstream).unwrap())
}

fn run(group: &Arc<Group>) -> (watch::Sender<bool>, JoinHandle<()>) {
    let (sender, stop) = watch::channel(false);
    let group = Arc::clone(group);
    (sender, tokio::spawn(async move { group.run(stop).await }))
}

/// The last number of each address picked in `count` picks.
fn picks(group: &Group, count: usize) -> Vec<u8> {
    (0..count).map(|_| last(&group.pick(&[]).unwrap())).collect()
}

fn last(member: &Member) -> u8 {
    let SocketAddr::V4(address) = member.address else { panic!("not IPv4: {}", member.address) };
    address.ip().octets()[3]
}

fn fail_times(member: &Member, times: usize) {
    for _ in 0..times {
        member.failed();
    }
}

/// Waits for what other tasks bring about; the pause only yields to them.
async fn until(what: &str, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(20), "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[test]
fn round_robin_takes_turns() {
    assert_eq!(picks(&group(&upstream(numbered(3))), 7), [1, 2, 3, 1, 2, 3, 1]);
}

#[test]
fn turns_of_an_unavailable_member_go_round_all_others() {
    let group = group(&upstream(numbered(4)));
    group.members()[1].change_health(false);
    let picked = picks(&group, 1200);
    let count = |server: u8| picked.iter().filter(|&&picked| picked == server).count();
    assert_eq!((count(1), count(2), count(3), count(4)), (400, 0, 400, 400));
}

#[test]
fn tried_members_are_not_picked_again() {
    for balance in [Balance::RoundRobin, Balance::LeastConnections] {
        let group = group(&Upstream { balance, ..upstream(numbered(3)) });
        let mut tried = Vec::new();
        while let Some(member) = group.pick(&tried) {
            assert!(!tried.contains(&member.address));
            tried.push(member.address);
        }
        assert_eq!(tried.len(), 3, "{balance:?}");
    }
}

#[test]
fn an_unavailable_member_is_no_retry_while_another_is_available() {
    let group = group(&upstream(numbered(2)));
    let members = group.members();
    members[1].change_health(false);
    assert!(group.pick(&[members[0].address]).is_none());
}

#[test]
fn least_connections_prefers_the_least_busy_and_spreads_ties() {
    let group = group(&Upstream { balance: Balance::LeastConnections, ..upstream(numbered(3)) });
    let members = group.members();
    let busy = [members[0].started(), members[0].started(), members[1].started()];
    assert_eq!(picks(&group, 3), [3, 3, 3]);
    let more = [members[2].started(), members[2].started()];
    assert_eq!(picks(&group, 3), [2, 2, 2]);
    drop((busy, more));
    assert!(members.iter().all(|member| member.open() == 0));
    let mut tied = picks(&group, 3);
    tied.sort_unstable();
    assert_eq!(tied, [1, 2, 3]);
}

#[test]
fn least_connections_under_threads_stays_level() {
    let group = group(&Upstream { balance: Balance::LeastConnections, ..upstream(numbered(4)) });
    let held: Mutex<Vec<_>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..250 {
                    let begun = group.pick(&[]).unwrap().started();
                    held.lock().unwrap().push(begun);
                }
            });
        }
    });
    let open: Vec<usize> = group.members().iter().map(|member| member.open()).collect();
    assert_eq!(open.iter().sum::<usize>(), 1000);
    // Each of four threads may be one pick behind.
    assert!(open.iter().all(|open| (246..=254).contains(open)), "{open:?}");
}

#[test]
fn failures_in_a_row_eject_and_a_success_between_does_not() {
    let group = group(&ejecting(numbered(2), Duration::from_secs(3600)));
    let first = &group.members()[0];
    fail_times(first, 2);
    first.succeeded();
    fail_times(first, 2);
    assert!(first.is_available());
    first.failed();
    assert!(!first.is_available());
    assert_eq!(picks(&group, 3), [2, 2, 2]);
}

#[test]
fn a_rest_ends_by_the_clock_and_needs_as_many_failures_again() {
    let rest = Duration::from_secs(60);
    let group = group(&ejecting(numbered(2), rest));
    let first = &group.members()[0];
    let now = Instant::now();
    for _ in 0..3 {
        first.failed_at(now);
    }
    assert!(!first.is_available_at(now + rest - Duration::from_millis(1)));
    // Failures of requests that were under way do not prolong it.
    first.failed_at(now + rest / 2);
    let over = now + rest + Duration::from_millis(1);
    assert!(first.is_available_at(over));
    first.failed_at(over);
    first.failed_at(over);
    assert!(first.is_available_at(over));
    first.failed_at(over);
    assert!(!first.is_available_at(over));
}

#[test]
fn the_last_available_member_never_rests() {
    let group = group(&ejecting(numbered(3), Duration::from_secs(3600)));
    let members = group.members();
    members[0].change_health(false);
    fail_times(&members[1], 3);
    fail_times(&members[2], 30);
    let available: Vec<bool> = members.iter().map(|member| member.is_available()).collect();
    assert_eq!(available, [false, false, true]);
}

#[test]
fn concurrent_failures_leave_one_available() {
    for _ in 0..50 {
        let group = group(&ejecting(numbered(4), Duration::from_secs(3600)));
        std::thread::scope(|scope| {
            for member in group.members() {
                scope.spawn(move || fail_times(&member, 3));
            }
        });
        assert_eq!(group.members().iter().filter(|member| member.is_available()).count(), 1);
    }
}

#[test]
fn fails_open_to_all_when_none_is_available_and_closes_again() {
    let group = group(&upstream(numbered(3)));
    let members = group.members();
    for member in &members {
        member.change_health(false);
    }
    assert_eq!(picks(&group, 3), [1, 2, 3]);
    assert!(group.shared.failing_open.load(SeqCst));
    assert_eq!(group.pick(&[members[0].address, members[1].address]).map(|member| last(&member)), Some(3));
    members[1].change_health(true);
    assert_eq!(picks(&group, 3), [2, 2, 2]);
    assert!(!group.shared.failing_open.load(SeqCst));
}

#[test]
fn gauges_and_ejections_are_published_by_configured_server() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let shows = |line: &str| recorder.handle().render().lines().any(|shown| shown == line);
    metrics::with_local_recorder(&recorder, || {
        let group = group(&ejecting(numbered(2), Duration::from_secs(3600)));
        assert!(shows("weir_upstream_healthy{upstream=\"origin\",server=\"10.0.0.1:80\"} 1"));
        fail_times(&group.members()[0], 3);
        assert!(shows("weir_upstream_healthy{upstream=\"origin\",server=\"10.0.0.1:80\"} 0"));
        assert!(shows("weir_upstream_healthy{upstream=\"origin\",server=\"10.0.0.2:80\"} 1"));
        assert!(shows("weir_upstream_ejections_total{upstream=\"origin\",server=\"10.0.0.1:80\"} 1"));
        group.shared.set_healthy(&group.members()[1], false);
        assert!(shows("weir_upstream_healthy{upstream=\"origin\",server=\"10.0.0.2:80\"} 0"));
    });
}

#[tokio::test]
async fn an_ejected_member_is_released_by_run() {
    let group = group(&ejecting(numbered(2), Duration::from_millis(30)));
    let (_stop, _task) = run(&group);
    let first = &group.members()[0];
    fail_times(first, 3);
    until("rest over", || first.resting_until().is_none()).await;
    assert!(first.is_available());
}

#[tokio::test]
async fn run_ends_when_stopped_or_abandoned() {
    let group = group(&Upstream { health: health(HealthKind::Tcp), ..ejecting(numbered(1), Duration::from_secs(1)) });
    let (stop, task) = run(&group);
    stop.send(true).unwrap();
    task.await.unwrap();
    let (stop, task) = run(&group);
    drop(stop);
    task.await.unwrap();
}

#[tokio::test]
async fn a_server_that_goes_down_and_comes_back_is_noticed() {
    let (up, down) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let (up_address, down_address) = (up.local_addr().unwrap(), down.local_addr().unwrap());
    let servers = vec![literal(up_address), literal(down_address)];
    let group = group(&Upstream { health: health(HealthKind::Tcp), ..upstream(servers) });
    let (_stop, _task) = run(&group);
    // Accepting keeps the backlog free.
    let _up = tokio::spawn(async move { while up.accept().await.is_ok() {} });
    let watched = group.members()[1].clone();
    down.accept().await.unwrap();
    assert!(watched.is_available());
    drop(down);
    until("down", || !watched.is_healthy()).await;
    for _ in 0..4 {
        assert_eq!(group.pick(&[]).unwrap().address, up_address);
    }
    let back = TcpListener::bind(down_address).await.unwrap();
    let _back = tokio::spawn(async move { while back.accept().await.is_ok() {} });
    until("back", || watched.is_healthy()).await;
    assert!(group.members()[0].is_healthy());
}

/// Answers every connection's first request with the status that stands in `status`; keeps what it last received.
async fn http_origin(status: Arc<AtomicUsize>, seen: Arc<Mutex<Vec<u8>>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                if stream.read_buf(&mut request).await.unwrap() == 0 {
                    break;
                }
            }
            *seen.lock().unwrap() = request;
            let status = status.load(SeqCst);
            let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 2\r\n\r\nok");
            let answer = if status == 204 { "HTTP/1.1 204 X\r\n\r\n".to_owned() } else { answer };
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    address
}

#[tokio::test]
async fn http_checks_want_2xx_and_introduce_themselves() {
    for (proxy_protocol, header) in [
        (ProxyProtocolOut::Off, &b""[..]),
        (ProxyProtocolOut::V1, b"PROXY UNKNOWN\r\n"),
        (ProxyProtocolOut::V2, b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"),
    ] {
        let (status, seen) = (Arc::new(AtomicUsize::new(200)), Arc::default());
        let address = http_origin(Arc::clone(&status), Arc::clone(&seen)).await;
        let group = group(&Upstream { health: http_health(), proxy_protocol, ..upstream(vec![literal(address)]) });
        let (_stop, _task) = run(&group);
        let member = group.members()[0].clone();
        until("asked", || !seen.lock().unwrap().is_empty()).await;
        let request = seen.lock().unwrap().clone();
        let request = request.strip_prefix(header).unwrap();
        let request = String::from_utf8(request.to_vec()).unwrap();
        assert!(request.starts_with("GET /health?deep=1 HTTP/1.1\r\n"), "{request}");
        assert!(request.to_lowercase().contains(&format!("\r\nhost: {address}\r\n")), "{request}");
        assert_eq!(request.to_lowercase().matches("host:").count(), 1);
        assert!(member.is_healthy());
        for bad in [503, 302] {
            status.store(bad, SeqCst);
            until("unhealthy", || !member.is_healthy()).await;
            status.store(204, SeqCst);
            until("healthy", || member.is_healthy()).await;
        }
    }
}

#[tokio::test]
async fn http_checks_of_an_h2_upstream_speak_h2() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (good, asked) = (Arc::new(AtomicBool::new(true)), Arc::new(Mutex::new(None)));
    let (goodness, asking) = (Arc::clone(&good), Arc::clone(&asked));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (good, asked) = (Arc::clone(&goodness), Arc::clone(&asking));
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    *asked.lock().unwrap() = Some(request.uri().to_string());
                    let status = if good.load(SeqCst) { 200 } else { 500 };
                    respond.send_response(http::Response::builder().status(status).body(()).unwrap(), true).unwrap();
                }
            });
        }
    });
    let protocol = UpstreamProtocol::H2;
    let group = group(&Upstream { health: http_health(), protocol, ..upstream(vec![literal(address)]) });
    let (_stop, _task) = run(&group);
    let member = group.members()[0].clone();
    until("asked", || asked.lock().unwrap().is_some()).await;
    assert_eq!(asked.lock().unwrap().clone().unwrap(), format!("http://{address}/health?deep=1"));
    assert!(member.is_healthy());
    good.store(false, SeqCst);
    until("unhealthy", || !member.is_healthy()).await;
    good.store(true, SeqCst);
    until("healthy", || member.is_healthy()).await;
}

#[tokio::test]
async fn http_check_through_tls_only_connects() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tls = UpstreamTls { server_name: Some("origin.example".into()), ca: None, insecure: false, client: None };
    let servers = vec![literal(listener.local_addr().unwrap())];
    let group = group(&Upstream { health: http_health(), tls: Some(tls), ..upstream(servers) });
    let (_stop, _task) = run(&group);
    for _ in 0..3 {
        let (mut stream, _) = listener.accept().await.unwrap();
        assert_eq!(stream.read(&mut [0; 16]).await.unwrap(), 0);
    }
    let member = group.pick(&[]).unwrap();
    assert!(member.is_healthy());
    assert_eq!(member.server_name.as_ref().unwrap().to_str(), "origin.example");
}

#[tokio::test]
async fn a_name_resolves_to_members_that_carry_it() {
    let group = group(&upstream(vec![named("localhost", 8080), literal(([10, 0, 0, 1], 80).into())]));
    assert_eq!(group.members().len(), 1);
    group.resolve().await;
    let members = group.members();
    assert!(members.len() >= 2);
    assert!(members[0].address.ip().is_loopback());
    assert_eq!((&*members[0].name, members[0].address.port()), ("localhost:8080", 8080));
    assert_eq!(&*members.last().unwrap().name, "10.0.0.1:80");
}

#[tokio::test]
async fn a_name_that_does_not_resolve_leaves_the_others() {
    let group = group(&upstream(vec![named("nowhere.invalid", 80), literal(([10, 0, 0, 2], 80).into())]));
    group.resolve().await;
    assert_eq!(picks(&group, 2), [2, 2]);
}

#[test]
fn a_failed_lookup_keeps_the_last_good_answer() {
    let names = Names::new("origin".into(), vec![named("a.example", 80)]);
    let address = |last: u8| SocketAddr::from(([10, 0, 0, last], 80));
    let known = || -> Vec<SocketAddr> {
        names.backends().iter().map(|backend| super::discovery::place(backend).unwrap().1).collect()
    };
    assert!(names.unresolved());
    names.apply(0, Ok(vec![address(2), address(1), address(2)]));
    assert!(!names.unresolved());
    assert_eq!(known(), [address(1), address(2)]);
    names.apply(0, Err(io::ErrorKind::TimedOut.into()));
    names.apply(0, Ok(Vec::new()));
    assert_eq!(known(), [address(1), address(2)]);
    names.apply(0, Ok((1..=200).map(address).collect()));
    assert_eq!(known().len(), 64);
}

#[test]
fn members_keep_their_state_over_a_new_answer() {
    let group = group(&upstream(vec![named("a.example", 80), named("b.example", 80)]));
    let address = |last: u8| SocketAddr::from(([10, 0, 0, last], 80));
    group.names.apply(0, Ok(vec![address(1), address(2)]));
    group.shared.replace(&group.names.backends());
    let before = group.members();
    let _begun = before[1].started();
    before[0].change_health(false);
    // The first moves to another name, the second stays, the third is new.
    group.names.apply(0, Ok(vec![address(2), address(3)]));
    group.names.apply(1, Ok(vec![address(1), address(2)]));
    group.shared.replace(&group.names.backends());
    let after: Vec<_> =
        group.members().iter().map(|m| (last(m), m.name.to_string(), m.open(), m.is_healthy())).collect();
    let (a, b) = ("a.example:80".to_owned(), "b.example:80".to_owned());
    assert_eq!(after, [(2, a.clone(), 1, true), (3, a, 0, true), (1, b, 0, false)]);
}

#[test]
fn addresses_without_a_route_are_left_out_if_others_have_one() {
    let v4: SocketAddr = "192.0.2.1:80".parse().unwrap();
    let v6: SocketAddr = "[2001:db8::1]:80".parse().unwrap();
    assert_eq!(reachable(vec![v6, v4], |address| address.is_ipv4()), [v4]);
    assert_eq!(reachable(vec![v6, v4], |_| false), [v6, v4]);
    assert_eq!(reachable(vec![v6], |_| false), [v6]);
}

#[test]
fn what_cannot_be_asked_is_refused() {
    let bad_path = health(HealthKind::Http { path: "/a b".into() });
    let error = Group::new(&Upstream { health: bad_path, ..upstream(numbered(1)) }).err().unwrap();
    assert_eq!(error.to_string(), "upstream origin: health check of path /a b");
    let tls = UpstreamTls { server_name: Some("not a name".into()), ca: None, insecure: false, client: None };
    let error = Group::new(&Upstream { tls: Some(tls), ..upstream(numbered(1)) }).err().unwrap();
    assert_eq!(error.to_string(), "upstream origin: not a name as TLS server name");
}
