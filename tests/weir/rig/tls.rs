//! TLS without a library's own sockets: what rustls reads and writes is counted where the kernel is.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use super::socket::{self, Counting};

pub type Stream = StreamOwned<ClientConnection, Counting>;

/// A certificate for `test`, and who trusts it.
pub struct Certificate {
    pub pem: String,
    pub key_pem: String,
    der: CertificateDer<'static>,
    key_der: Vec<u8>,
}

impl Certificate {
    pub fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["test".to_owned(), "other.test".to_owned()]).unwrap();
        Self {
            pem: made.cert.pem(),
            key_pem: made.signing_key.serialize_pem(),
            der: made.cert.der().clone(),
            key_der: made.signing_key.serialize_der(),
        }
    }

    /// Writes both files; the line of configuration that names them.
    pub fn write(&self, to: &Path) -> String {
        let (certificate, key) = (to.join("cert.pem"), to.join("key.pem"));
        std::fs::write(&certificate, &self.pem).unwrap();
        std::fs::write(&key, &self.key_pem).unwrap();
        format!("tls = {{ certificate = {certificate:?}, key = {key:?} }}")
    }

    pub fn client(&self, alpn: &[&str], version: &'static rustls::SupportedProtocolVersion) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }

    /// Who trusts it, and shows a certificate of its own.
    pub fn client_with(&self, own: (CertificateDer<'static>, PrivateKeyDer<'static>)) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        Arc::new(builder.with_root_certificates(roots).with_client_auth_cert(vec![own.0], own.1).unwrap())
    }

    pub fn server(&self) -> Arc<ServerConfig> {
        let key = PrivateKeyDer::try_from(self.key_der.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        Arc::new(builder.with_no_client_auth().with_single_cert(vec![self.der.clone()], key).unwrap())
    }
}

/// Signs certificates of clients.
pub struct Authority {
    pub pem: String,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl Authority {
    pub fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut about = rcgen::CertificateParams::new(Vec::new()).unwrap();
        about.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let pem = about.self_signed(&key).unwrap().pem();
        Self { pem, issuer: rcgen::Issuer::new(about, key) }
    }

    /// One with this alternative name.
    pub fn client(&self, name: &str) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut about = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        about.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = about.signed_by(&key, &self.issuer).unwrap();
        (certificate.der().clone(), PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    }
}

/// Connects; the handshake happens with the first octets.
pub fn connect(to: SocketAddr, config: &Arc<ClientConfig>) -> (Stream, u16) {
    over(socket::connect(to, None), config)
}

/// TLS on a connection that may have said something already.
pub fn over(stream: TcpStream, config: &Arc<ClientConfig>) -> (Stream, u16) {
    let port = stream.local_addr().unwrap().port();
    let connection = ClientConnection::new(config.clone(), ServerName::try_from("test").unwrap()).unwrap();
    (StreamOwned::new(connection, Counting::new(stream)), port)
}

/// The server's side of a connection.
pub fn accept(stream: TcpStream, config: &Arc<ServerConfig>) -> StreamOwned<ServerConnection, Counting> {
    StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), Counting::new(stream))
}
