//! TLS configuration of both sides: rustls with ring, TLS 1.2 and 1.3.
//!
//! Downstream ([`server_config`]): certificates chosen by SNI from a [`CertificateStore`], which follows its files while
//! the configuration, its tickets and its sessions live on; client certificates verified against authorities of one file.
//! Upstream ([`client_config`]): verified against public authorities or those of one file, optionally with a certificate of
//! our own. Authority files and client certificates are read when a configuration is built; a new one is built on reload.
//!
//! Everything here reads files and builds values; nothing does network I/O. Whatever fails leaves the old value in use.

mod certificates;
mod subject;

pub use certificates::CertificateStore;
pub use subject::{alternative_names, subject};

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme, SupportedProtocolVersion,
    version,
};

use crate::config::{
    CertificateFiles, ClientAuth, ListenerKind, ListenerTls, TlsVersion, UpstreamProtocol, UpstreamTls,
};

/// HTTP/2 and HTTP/1.1 in ALPN (RFC 9113 §3.1, RFC 7301 §6).
const ALPN_H2: &[u8] = b"h2";
const ALPN_H1: &[u8] = b"http/1.1";

/// Largest PEM file read, in bytes. All public authorities together are near 250 KiB.
const PEM_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Why a TLS configuration could not be built. Each names the file to look at.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be opened or read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file is larger than any PEM file of sense.
    #[error("{} is larger than {PEM_BYTES_MAX} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The file is no PEM.
    #[error("{} is not a PEM file", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        source: pem::Error,
    },
    /// A PEM file without what was looked for.
    #[error("{} contains no {wanted}", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// `certificate` or `private key`.
        wanted: &'static str,
    },
    /// A certificate that does not parse.
    #[error("a certificate in {} is malformed: {reason}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        reason: String,
    },
    /// Certificate and key do not belong together, or the key is of no usable kind.
    #[error("certificate {} cannot be used with key {}", certificate.display(), key.display())]
    Pair {
        /// Certificate file.
        certificate: PathBuf,
        /// Key file.
        key: PathBuf,
        /// What rustls says.
        source: rustls::Error,
    },
    /// A file of authorities that cannot serve as one.
    #[error("cannot verify against the authorities in {}: {reason}", path.display())]
    Authorities {
        /// The file.
        path: PathBuf,
        /// What rustls says.
        reason: String,
    },
    /// A store needs at least one certificate to fall back on.
    #[error("no certificate is configured")]
    NoneConfigured,
    /// An upstream's name that no certificate can be verified for.
    #[error("{name:?} is no server name for TLS")]
    Name {
        /// The name.
        name: String,
    },
    /// The peer's certificate does not parse.
    #[error("the peer's certificate is malformed: {reason}")]
    Peer {
        /// What the parser says.
        reason: String,
    },
    /// rustls refused the settings.
    #[error("cannot set up TLS")]
    Setup(#[source] rustls::Error),
}

/// The downstream side of one listener: certificates from `store`, sessions resumable by tickets. HTTP listeners speak
/// ALPN, preferring HTTP/2 if it is on; a raw listener does not, whatever flows inside is not ours to name.
pub fn server_config(
    tls: &ListenerTls,
    store: Arc<CertificateStore>,
    kind: ListenerKind,
    http2: bool,
) -> Result<Arc<ServerConfig>, Error> {
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions(tls.version_min))
        .map_err(Error::Setup)?;
    let (authorities, is_optional) = match &tls.client_auth {
        ClientAuth::Off => (None, true),
        ClientAuth::Optional { client_ca } => (Some(client_ca), true),
        ClientAuth::Required { client_ca } => (Some(client_ca), false),
    };
    let builder = match authorities {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let roots = Arc::new(read_authorities(path)?);
            let mut verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
            if is_optional {
                verifier = verifier.allow_unauthenticated();
            }
            let verifier = verifier.build().map_err(|error| refused_authorities(path, &error))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_cert_resolver(store);
    config.alpn_protocols = match kind {
        ListenerKind::Http if http2 => owned(&[ALPN_H2, ALPN_H1]),
        ListenerKind::Http => owned(&[ALPN_H1]),
        ListenerKind::Tcp | ListenerKind::TlsPassthrough => Vec::new(),
    };
    config.ticketer = ring::Ticketer::new().map_err(Error::Setup)?;
    Ok(Arc::new(config))
}

/// The upstream side: verifies the origin unless `tls.insecure`, shows our certificate if there is one, and
/// offers what `protocol` allows. Sessions are resumed where the origin allows it.
pub fn client_config(tls: &UpstreamTls, protocol: UpstreamProtocol) -> Result<Arc<ClientConfig>, Error> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions(TlsVersion::V1_2))
        .map_err(Error::Setup)?;
    let builder = if tls.insecure {
        let verifier = Arc::new(InsecureAcceptAnyCertificate { provider });
        builder.dangerous().with_custom_certificate_verifier(verifier)
    } else {
        let roots = match &tls.ca {
            Some(path) => read_authorities(path)?,
            None => RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() },
        };
        builder.with_root_certificates(roots)
    };
    let mut config = match &tls.client {
        None => builder.with_no_client_auth(),
        Some(files) => {
            let (chain, key) = read_pair(files)?;
            builder.with_client_auth_cert(chain, key).map_err(|source| Error::Pair {
                certificate: files.certificate.clone(),
                key: files.key.clone(),
                source,
            })?
        }
    };
    config.alpn_protocols = match protocol {
        UpstreamProtocol::Auto => owned(&[ALPN_H2, ALPN_H1]),
        UpstreamProtocol::H1 => owned(&[ALPN_H1]),
        UpstreamProtocol::H2 => owned(&[ALPN_H2]),
    };
    Ok(Arc::new(config))
}

/// The name an origin is verified against and, unless it is an address, asked for by SNI.
pub fn server_name(name: &str) -> Result<ServerName<'static>, Error> {
    ServerName::try_from(name.to_owned()).map_err(|_| Error::Name { name: name.to_owned() })
}

fn owned(protocols: &[&[u8]]) -> Vec<Vec<u8>> {
    protocols.iter().map(|protocol| protocol.to_vec()).collect()
}

static ONLY_TLS13: &[&SupportedProtocolVersion] = &[&version::TLS13];

fn versions(version_min: TlsVersion) -> &'static [&'static SupportedProtocolVersion] {
    match version_min {
        TlsVersion::V1_2 => rustls::ALL_VERSIONS,
        TlsVersion::V1_3 => ONLY_TLS13,
    }
}

fn read_pem(path: &Path) -> Result<Vec<u8>, Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    let mut text = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(PEM_BYTES_MAX + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > PEM_BYTES_MAX {
        return Err(Error::TooLarge { path: path.to_owned() });
    }
    Ok(text)
}

/// All certificates of a PEM file, at least one.
fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let text = read_pem(path)?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let certificates = read.map_err(|source| Error::Pem { path: path.to_owned(), source })?;
    if certificates.is_empty() {
        return Err(Error::Missing { path: path.to_owned(), wanted: "certificate" });
    }
    Ok(certificates)
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    PrivateKeyDer::from_pem_slice(&read_pem(path)?).map_err(|source| match source {
        pem::Error::NoItemsFound => Error::Missing { path: path.to_owned(), wanted: "private key" },
        source => Error::Pem { path: path.to_owned(), source },
    })
}

fn read_pair(files: &CertificateFiles) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Error> {
    Ok((read_certificates(&files.certificate)?, read_key(&files.key)?))
}

fn read_authorities(path: &Path) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates(path)? {
        roots.add(certificate).map_err(|error| refused_authorities(path, &error))?;
    }
    Ok(roots)
}

fn refused_authorities(path: &Path, error: &dyn std::error::Error) -> Error {
    Error::Authorities { path: path.to_owned(), reason: error.to_string() }
}

/// Accepts every certificate, for `insecure = true` only: whoever stands between us and the origin can then read and
/// change everything. The handshake's signature is still checked, as it proves the peer has the certificate's key.
#[derive(Debug)]
struct InsecureAcceptAnyCertificate {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for InsecureAcceptAnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
