//! Below HTTP: TLS, the PROXY header, raw TCP and TLS passed through.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use crate::rig::client::{Client, Cuts};
use crate::rig::message::Reader;
use crate::rig::origin::Origin;
use crate::rig::process::{Config, Weir};
use crate::rig::records::Record;
use crate::rig::socket::Counting;
use crate::rig::tls::{self, Certificate};
use crate::rig::{h2, octets, socket};

/// Ends TLS properly and reads to the end of the connection: `close_notify`, then FIN.
fn end_tls(stream: &mut tls::Stream) {
    stream.conn.send_close_notify();
    stream.flush().unwrap();
    stream.sock.stream.shutdown(Shutdown::Write).unwrap();
    let _ = stream.read_to_end(&mut Vec::new());
}

fn assert_wire(session: &Record, counted: &Counting) {
    let wire = [session.total("received_wire"), session.total("sent_wire"), session.total("sent_acked")];
    assert_eq!(wire, [counted.sent, counted.received, counted.received].map(|n| n as i64), "{}", session.0);
}

#[test]
fn tls_wire_octets_are_those_of_the_clients_socket_and_app_octets_the_plaintext() {
    let origin = Origin::http();
    let certificate = Certificate::new();
    let directory = tempfile::tempdir().unwrap();
    let weir = Weir::start(&Config::listener("web", "http", origin.address, &certificate.write(directory.path())));
    let mut ended = Vec::new();
    for (version, name) in [(&rustls::version::TLS13, "1.3"), (&rustls::version::TLS12, "1.2")] {
        let (stream, port) = tls::connect(weir.address("web"), &certificate.client(&["http/1.1"], version));
        let mut reader = Reader::new(stream);
        let mut books = Vec::new();
        for path in ["/bytes/100000", "/chunked/3000", "/bytes/0"] {
            let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n");
            reader.from.write_all(request.as_bytes()).unwrap();
            books.push((request.len() as u64, reader.response("GET").unwrap()));
        }
        end_tls(&mut reader.from);
        ended.push((port, name, books, reader.from.sock));
    }
    let records = weir.settled(2);
    for (port, name, books, socket) in ended {
        let session = records.session(port);
        assert_wire(session, &socket);
        assert_eq!((session.text("tls_version"), session.text("sni")), (name, "test"));
        let requests = records.requests(session);
        assert_eq!(requests.len(), books.len());
        for (request, (received, response)) in requests.iter().zip(&books) {
            let counted =
                ["received_app", "sent_app", "sent_body", "sent_acked"].map(|name| request.total(name) as u64);
            assert_eq!(counted, [*received, response.app, response.body.len() as u64, response.app], "{}", request.0);
        }
        assert_eq!(records.overhead(session), (0, 0));
    }
}

#[test]
fn h2_over_tls_is_counted_per_stream() {
    let origin = Origin::http();
    let certificate = Certificate::new();
    let directory = tempfile::tempdir().unwrap();
    let weir = Weir::start(&Config::listener("web", "http", origin.address, &certificate.write(directory.path())));
    let (stream, port) = tls::connect(weir.address("web"), &certificate.client(&["h2"], &rustls::version::TLS13));
    let mut client = h2::Client::over(stream, port, 1 << 20);
    client.get(1, "/bytes/70000/1");
    client.head(3, "POST", "/sink/9/3", &[], 0);
    client.data(3, &octets(12_000), None, h2::END_STREAM);
    client.finish(&[1, 3]);
    client.settle();
    client.reader.from.conn.send_close_notify();
    client.reader.from.flush().unwrap();
    client.reader.from.sock.stream.shutdown(Shutdown::Write).unwrap();
    client.drain();
    let records = weir.settled(1);
    let (session, _) = client.assert_recorded(&records);
    assert_wire(session, &client.reader.from.sock);
    assert_eq!((session.text("protocol"), session.text("tls_version")), ("h2", "1.3"));
}

#[test]
fn a_handshake_that_fails_is_counted_on_the_wire_and_nowhere_else() {
    let origin = Origin::http();
    let certificate = Certificate::new();
    let directory = tempfile::tempdir().unwrap();
    let weir = Weir::start(&Config::listener("web", "http", origin.address, &certificate.write(directory.path())));
    let mut accounts = Vec::new();
    for bytes in
        [b"GET / HTTP/1.1\r\nhost: test\r\n\r\n".as_slice(), b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", b"\x16"]
    {
        let mut client = Client::connect(weir.address("web"));
        client.write(bytes, Cuts::Whole);
        client.fin();
        client.reader.rest();
        accounts.push(client.account());
    }
    let records = weir.settled(accounts.len());
    for account in accounts {
        let session = records.session(account.port);
        let wire = [session.total("received_wire"), session.total("sent_wire")];
        assert_eq!(wire, [account.sent as i64, account.received as i64], "{}", session.0);
        assert_eq!([session.total("received_app"), session.total("sent_app")], [0, 0]);
        assert_eq!((session.text("end"), session.0["billable"].as_bool()), ("tls_error", Some(false)));
    }
}

#[test]
fn a_proxy_header_is_wire_and_not_app_and_names_the_client() {
    let origin = Origin::http();
    let trusting = "proxy_protocol = \"required\"\ntrusted_proxies = [\"127.0.0.0/8\"]";
    let weir = Weir::start(&Config::listener("web", "http", origin.address, trusting));
    let v1 = b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 80\r\n".to_vec();
    let mut v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0f".to_vec();
    v2.extend_from_slice(&[192, 0, 2, 8, 198, 51, 100, 1, 0x12, 0x68, 0, 80, 4, 0, 0]);
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00".to_vec();
    let mut ended = Vec::new();
    for (header, client_ip, client_port, cuts) in [
        (v1, "192.0.2.7", 4711, Cuts::Whole),
        (v2.clone(), "192.0.2.8", 4712, Cuts::EachOctet),
        (v2, "192.0.2.8", 4712, Cuts::Whole),
        (local, "127.0.0.1", 0, Cuts::Whole),
    ] {
        let mut client = Client::connect(weir.address("web"));
        let request = b"GET /bytes/77 HTTP/1.1\r\nhost: test\r\n\r\n";
        client.note_request(request, 0);
        client.write(&[header.as_slice(), request].concat(), cuts);
        assert_eq!(client.response().body, octets(77));
        let client_port = if client_port == 0 { client.port } else { client_port };
        ended.push((client.close().account(), header.len() as i64, client_ip, client_port));
        let n = ended.len();
        let records = weir.settled(n);
        let (account, header, client_ip, client_port) = &ended[n - 1];
        let session = records.sessions()[n - 1];
        assert_eq!((session.text("client_ip"), session.number("client_port")), (*client_ip, i64::from(*client_port)));
        assert_eq!(session.text("peer_ip"), "127.0.0.1");
        assert_eq!(session.total("received_wire"), account.sent as i64);
        assert_eq!(session.total("received_app"), account.sent as i64 - header);
        assert_eq!(session.total("sent_wire"), account.received as i64);
        let requests = records.requests(session);
        account.assert_requests_recorded(&requests);
        assert_eq!(records.overhead(session), (0, 0));
        let checked_by_proxy = *client_ip == "127.0.0.1";
        assert_eq!(session.text("reason") == "health_check", checked_by_proxy, "{}", session.0);
    }
}

#[test]
fn a_connection_without_its_proxy_header_is_counted_and_ended() {
    let origin = Origin::http();
    let weir = Weir::start(&Config::listener("web", "http", origin.address, "proxy_protocol = \"required\""));
    for (n, bytes) in [b"GET / HTTP/1.1\r\n\r\n".as_slice(), b"PROXY TCP4 nonsense\r\nGET", b"PROX"].iter().enumerate()
    {
        let mut client = Client::connect(weir.address("web"));
        client.write(bytes, Cuts::Whole);
        client.fin();
        client.reader.rest();
        let records = weir.settled(n + 1);
        let session = records.sessions()[n];
        assert_eq!(session.total("received_wire"), bytes.len() as i64, "{}", session.0);
        assert_eq!(session.0["billable"].as_bool(), Some(false), "{}", session.0);
    }
    assert!(origin.all_seen().is_empty());
}

#[test]
fn a_proxy_header_before_tls_is_on_the_wire() {
    let origin = Origin::http();
    let certificate = Certificate::new();
    let directory = tempfile::tempdir().unwrap();
    let more = format!("proxy_protocol = \"required\"\n{}", certificate.write(directory.path()));
    let weir = Weir::start(&Config::listener("web", "http", origin.address, &more));
    let header = b"PROXY TCP6 2001:db8::1 2001:db8::2 4713 443\r\n";
    let mut stream = socket::connect(weir.address("web"), None);
    stream.write_all(header).unwrap();
    let (stream, _) = tls::over(stream, &certificate.client(&[], &rustls::version::TLS13));
    let mut reader = Reader::new(stream);
    reader.from.write_all(b"GET /bytes/5 HTTP/1.1\r\nhost: test\r\n\r\n").unwrap();
    assert_eq!(reader.response("GET").unwrap().body, octets(5));
    end_tls(&mut reader.from);
    let records = weir.settled(1);
    let session = records.sessions()[0];
    reader.from.sock.sent += header.len() as u64;
    assert_wire(session, &reader.from.sock);
    assert_eq!(session.text("client_ip"), "2001:db8::1");
}

fn assert_tunnel(session: &Record, sent: u64, received: u64, protocol: &str) {
    for column in ["received_wire", "received_app", "received_body", "upstream_sent"] {
        assert_eq!(session.total(column), sent as i64, "{column} of {}", session.0);
    }
    for column in ["sent_wire", "sent_app", "sent_body", "sent_acked", "upstream_received"] {
        assert_eq!(session.total(column), received as i64, "{column} of {}", session.0);
    }
    assert_eq!((session.text("protocol"), session.text("end")), (protocol, "done"), "{}", session.0);
}

/// Writes and reads at once, so that no buffer between can stand full.
fn exchange(stream: &TcpStream, bytes: &[u8]) -> Vec<u8> {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut stream = stream;
            stream.write_all(bytes).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
        });
        let mut received = Vec::new();
        let mut stream = stream;
        stream.read_to_end(&mut received).unwrap();
        received
    })
}

#[test]
fn raw_tcp_is_all_payload() {
    let origin = Origin::echo();
    let weir = Weir::start(&Config::listener("raw", "tcp", origin.address, ""));
    let mut ended = Vec::new();
    for n in [0, 1, 70_000, 5_000_000] {
        let stream = socket::connect(weir.address("raw"), None);
        let bytes = octets(n);
        assert!(exchange(&stream, &bytes) == bytes);
        ended.push((stream.local_addr().unwrap().port(), n as u64));
    }
    let records = weir.settled(ended.len());
    for (port, n) in ended {
        assert_tunnel(records.session(port), n, n, "tcp");
        assert!(records.requests(records.session(port)).is_empty());
    }
}

#[test]
fn raw_tcp_that_is_reset_is_charged_for_what_arrived() {
    let origin = Origin::echo();
    let weir = Weir::start(&Config::listener("raw", "tcp", origin.address, ""));
    let mut client = Client::connect_narrow(weir.address("raw"));
    let bytes = octets(50_000);
    // Everything comes back, so the client's own buffer fills while it does not read.
    for _ in 0..20 {
        client.stream().set_write_timeout(Some(std::time::Duration::from_millis(100))).unwrap();
        let Ok(n) = client.reader.from.write(&bytes) else { break };
        client.sent += n as u64;
    }
    client.reader.octets(10_000);
    let arrived = socket::kernel_received_at_rest(client.stream());
    let (port, sent) = (client.port, client.sent);
    client.reset();
    let records = weir.settled(1);
    let session = records.session(port);
    assert_eq!(session.total("sent_acked"), arrived as i64, "{}", session.0);
    assert!(session.total("received_wire") <= sent as i64);
    assert_eq!(session.text("end"), "client_abort");
}

#[test]
fn tls_passed_through_is_routed_by_name_and_not_opened() {
    let certificate = Certificate::new();
    let server = certificate.server();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let origin = std::thread::spawn(move || {
        let mut stream = tls::accept(listener.accept().unwrap().0, &server);
        let mut bytes = vec![0; 40_000];
        stream.read_exact(&mut bytes).unwrap();
        stream.write_all(&bytes).unwrap();
        stream.conn.send_close_notify();
        stream.flush().unwrap();
        stream.sock.stream.shutdown(Shutdown::Write).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
        (stream.sock.received, stream.sock.sent)
    });
    let weir = Weir::start(&Config::listener("through", "tls-passthrough", address, ""));
    let (mut stream, port) = tls::connect(weir.address("through"), &certificate.client(&[], &rustls::version::TLS13));
    stream.write_all(&octets(40_000)).unwrap();
    let mut back = vec![0; 40_000];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(back, octets(40_000));
    end_tls(&mut stream);
    let (received, sent) = origin.join().unwrap();
    assert_eq!((received, sent), (stream.sock.sent, stream.sock.received));
    let records = weir.settled(1);
    let session = records.session(port);
    assert_tunnel(session, stream.sock.sent, stream.sock.received, "tls-passthrough");
    assert_eq!(session.text("sni"), "test");
}
