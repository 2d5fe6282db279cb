use std::fs;
use std::io::{Read as _, Write as _};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair};
use rustls::{ClientConnection, ServerConnection};
use tempfile::TempDir;

use super::*;

/// An authority and a directory for the files of its certificates.
struct Authority {
    dir: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test authority");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("ca.pem"), issuer.pem()).unwrap();
        Authority { dir, issuer }
    }

    fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    fn issue(&self, file: &str, names: &[&str], subject: DistinguishedName) -> CertificateFiles {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name = subject;
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let path = |end: &str| self.dir.path().join(format!("{file}.{end}"));
        let files = CertificateFiles { certificate: path("pem"), key: path("key") };
        fs::write(&files.certificate, certificate.pem()).unwrap();
        fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    }

    /// A certificate for hosts whose common name is `file`, so that the peer can tell which one it got.
    fn host(&self, file: &str, names: &[&str]) -> CertificateFiles {
        self.issue(file, names, named(file))
    }

    fn upstream(&self) -> UpstreamTls {
        UpstreamTls { server_name: None, ca: Some(self.ca()), insecure: false, client: None }
    }
}

fn named(common_name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, common_name);
    subject
}

/// Shakes hands in memory and sends one byte each way, so that errors and tickets arrive.
fn shake(
    client: &Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
    name: &str,
) -> Result<(ClientConnection, ServerConnection), rustls::Error> {
    let mut client = ClientConnection::new(Arc::clone(client), server_name(name).unwrap()).unwrap();
    let mut server = ServerConnection::new(Arc::clone(server)).unwrap();
    client.writer().write_all(b"a").unwrap();
    server.writer().write_all(b"b").unwrap();
    for _ in 0..8 {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets()?;
        }
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets()?;
        }
    }
    let mut byte = [0];
    client.reader().read_exact(&mut byte).unwrap();
    server.reader().read_exact(&mut byte).unwrap();
    Ok((client, server))
}

fn server(store: &Arc<CertificateStore>, client_auth: ClientAuth, version_min: TlsVersion) -> Arc<ServerConfig> {
    let tls = ListenerTls { certificates: Vec::new(), client_auth, version_min };
    server_config(&tls, Arc::clone(store), ListenerKind::Http, true).unwrap()
}

fn plain_server(store: &Arc<CertificateStore>) -> Arc<ServerConfig> {
    server(store, ClientAuth::Off, TlsVersion::V1_2)
}

/// The subject of the certificate that a client asking for `name` is shown.
fn shown(store: &Arc<CertificateStore>, name: &str) -> String {
    let insecure = UpstreamTls { server_name: None, ca: None, insecure: true, client: None };
    let client = client_config(&insecure, UpstreamProtocol::H1).unwrap();
    let (client, _) = shake(&client, &plain_server(store), name).unwrap();
    subject(&client.peer_certificates().unwrap()[0]).unwrap()
}

#[test]
fn the_certificate_is_chosen_by_name() {
    let authority = Authority::new();
    let files = [
        authority.host("first", &["first.test"]),
        authority.host("exact", &["A.example.test", "b.example.test"]),
        authority.host("wild", &["*.example.test"]),
        authority.host("later", &["a.example.test"]),
        authority.host("common.test", &[]),
    ];
    let store = Arc::new(CertificateStore::load(&files).unwrap());
    for (name, expected) in [
        ("first.test", "first"),
        ("a.example.test", "exact"),
        ("b.EXAMPLE.test", "exact"),
        ("c.example.test", "wild"),
        ("d.c.example.test", "first"),
        ("example.test", "first"),
        ("common.test", "common.test"),
        ("unknown.test", "first"),
        ("127.0.0.1", "first"),
    ] {
        assert_eq!(shown(&store, name), format!("CN={expected}"), "{name}");
    }
}

#[test]
fn changed_files_are_taken_all_or_nothing() {
    let authority = Authority::new();
    let files = [authority.host("one", &["one.test"]), authority.host("two", &["two.test"])];
    let store = Arc::new(CertificateStore::load(&files).unwrap());
    assert!(!store.reload_if_changed().unwrap());

    // Both are new, but the second one's key is not its own: neither is taken, and it is said once.
    let renewed = authority.issue("renewed", &["one.test"], named("renewed"));
    fs::rename(&renewed.certificate, &files[0].certificate).unwrap();
    fs::rename(&renewed.key, &files[0].key).unwrap();
    let foreign = authority.host("foreign", &["two.test"]);
    let good_key = fs::read(&files[1].key).unwrap();
    fs::rename(&foreign.key, &files[1].key).unwrap();
    let error = store.reload_if_changed().unwrap_err();
    assert!(matches!(error, Error::Pair { .. }), "{error}");
    assert!(!store.reload_if_changed().unwrap());
    assert_eq!(shown(&store, "one.test"), "CN=one");

    fs::write(&files[1].key, good_key).unwrap();
    assert!(store.reload_if_changed().unwrap());
    assert_eq!(shown(&store, "one.test"), "CN=renewed");
    assert_eq!(shown(&store, "two.test"), "CN=two");

    fs::remove_file(&files[0].key).unwrap();
    assert!(matches!(store.reload_if_changed(), Err(Error::Read { .. })));
    assert_eq!(shown(&store, "one.test"), "CN=renewed");
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let authority = Authority::new();
    let good = authority.host("good", &["good.test"]);
    let path = |name: &str, content: &[u8]| {
        let path = authority.dir.path().join(name);
        fs::write(&path, content).unwrap();
        path
    };
    let empty = path("empty", b"no PEM here");
    let broken = path("broken", b"-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n");
    let no_certificate = path("odd", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let check = |certificate: &Path, key: &Path, expected: &str| {
        let pair = CertificateFiles { certificate: certificate.to_owned(), key: key.to_owned() };
        let error = CertificateStore::load(&[pair]).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains(authority.dir.path().to_str().unwrap()), "{error}");
    };
    check(Path::new(&authority.dir.path().join("absent")), &good.key, "cannot read");
    check(&empty, &good.key, "contains no certificate");
    check(&broken, &good.key, "is not a PEM file");
    check(&no_certificate, &good.key, "malformed");
    check(&good.certificate, &empty, "contains no private key");
    check(&good.certificate, &good.certificate, "contains no private key");
    assert!(matches!(CertificateStore::load(&[]), Err(Error::NoneConfigured)));
    let tls = UpstreamTls { ca: Some(empty), ..authority.upstream() };
    assert!(matches!(client_config(&tls, UpstreamProtocol::Auto), Err(Error::Missing { .. })));
    let tls = UpstreamTls { ca: Some(no_certificate), ..authority.upstream() };
    assert!(matches!(client_config(&tls, UpstreamProtocol::Auto), Err(Error::Authorities { .. })));
}

#[test]
fn origins_are_verified_unless_it_is_switched_off() {
    let authority = Authority::new();
    let store = Arc::new(CertificateStore::load(&[authority.host("a", &["a.test"])]).unwrap());
    let server = plain_server(&store);
    let verified = client_config(&authority.upstream(), UpstreamProtocol::H2).unwrap();
    let (client, server_side) = shake(&verified, &server, "a.test").unwrap();
    assert_eq!(client.alpn_protocol(), Some(&b"h2"[..]));
    assert_eq!(server_side.server_name(), Some("a.test"));
    assert!(shake(&verified, &server, "b.test").is_err());
    let public = client_config(&UpstreamTls { ca: None, ..authority.upstream() }, UpstreamProtocol::Auto).unwrap();
    assert!(shake(&public, &server, "a.test").is_err());
    let insecure =
        client_config(&UpstreamTls { ca: None, insecure: true, ..authority.upstream() }, UpstreamProtocol::Auto)
            .unwrap();
    assert!(shake(&insecure, &server, "b.test").is_ok());
    assert!(matches!(server_name("no name"), Err(Error::Name { .. })));
}

#[test]
fn the_oldest_version_is_kept_to_and_sessions_resume() {
    let authority = Authority::new();
    let store = Arc::new(CertificateStore::load(&[authority.host("a", &["a.test"])]).unwrap());
    for (version, oldest, expected) in [
        (&version::TLS12, TlsVersion::V1_2, true),
        (&version::TLS13, TlsVersion::V1_2, true),
        (&version::TLS12, TlsVersion::V1_3, false),
        (&version::TLS13, TlsVersion::V1_3, true),
    ] {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
        let builder = builder.with_root_certificates(read_authorities(&authority.ca()).unwrap());
        let client = Arc::new(builder.with_no_client_auth());
        let server = server(&store, ClientAuth::Off, oldest);
        let first = shake(&client, &server, "a.test");
        assert_eq!(first.is_ok(), expected, "{version:?} {oldest:?}");
        if expected {
            let (again, _) = shake(&client, &server, "a.test").unwrap();
            assert_eq!(again.handshake_kind(), Some(rustls::HandshakeKind::Resumed), "{version:?}");
        }
    }
}

#[test]
fn clients_are_verified_as_configured_and_named() {
    let authority = Authority::new();
    let other = Authority::new();
    let store = Arc::new(CertificateStore::load(&[authority.host("a", &["a.test"])]).unwrap());
    let mut person = DistinguishedName::new();
    person.push(DnType::CountryName, "GB");
    person.push(DnType::OrganizationName, "Example, Inc. ");
    person.push(DnType::CommonName, "#Ada=\u{e9}\u{1}+");
    let files = authority.issue("ada", &[], person);
    let none = client_config(&authority.upstream(), UpstreamProtocol::Auto).unwrap();
    let good =
        client_config(&UpstreamTls { client: Some(files), ..authority.upstream() }, UpstreamProtocol::Auto).unwrap();
    let stranger = Some(other.host("eve", &[]));
    let bad = client_config(&UpstreamTls { client: stranger, ..authority.upstream() }, UpstreamProtocol::Auto).unwrap();

    let client_ca = authority.ca();
    for (client_auth, without, with) in [
        (ClientAuth::Off, true, false),
        (ClientAuth::Optional { client_ca: client_ca.clone() }, true, true),
        (ClientAuth::Required { client_ca }, false, true),
    ] {
        let server = server(&store, client_auth.clone(), TlsVersion::V1_2);
        assert_eq!(shake(&none, &server, "a.test").is_ok(), without, "{client_auth:?}");
        assert_eq!(shake(&bad, &server, "a.test").is_ok(), client_auth == ClientAuth::Off, "{client_auth:?}");
        let (_, side) = shake(&good, &server, "a.test").unwrap();
        let shown = side.peer_certificates().map(|chain| subject(&chain[0]).unwrap());
        let expected = r"CN=\#Ada\=é\01\+,O=Example\, Inc.\ ,C=GB".to_owned();
        assert_eq!(shown, with.then_some(expected), "{client_auth:?}");
    }
}

#[test]
fn only_http_listeners_speak_alpn() {
    let authority = Authority::new();
    let store = Arc::new(CertificateStore::load(&[authority.host("a", &["a.test"])]).unwrap());
    let client = client_config(&authority.upstream(), UpstreamProtocol::Auto).unwrap();
    let tls = ListenerTls { certificates: Vec::new(), client_auth: ClientAuth::Off, version_min: TlsVersion::V1_2 };
    for (kind, http2, expected) in [
        (ListenerKind::Http, true, Some(&b"h2"[..])),
        (ListenerKind::Http, false, Some(b"http/1.1")),
        (ListenerKind::Tcp, true, None),
    ] {
        let server = server_config(&tls, Arc::clone(&store), kind, http2).unwrap();
        let (client, _) = shake(&client, &server, "a.test").unwrap();
        assert_eq!(client.alpn_protocol(), expected, "{kind:?} {http2}");
    }
}

#[test]
fn a_malformed_certificate_has_no_subject() {
    assert!(matches!(subject(&CertificateDer::from(vec![1, 2, 3])), Err(Error::Peer { .. })));
}
