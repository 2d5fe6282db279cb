//! Connections: plain or TLS, HTTP/1.1, so many at once, and an end that lets answers under way arrive.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, error, info};

use super::guard::Peer;
use super::{Error, Portal, routes};
use crate::config::CertificateFiles;

const CONNECTIONS_MAX: u32 = 1_024;
/// A client that says nothing for this long is let go.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest head of a request.
const HEAD_BYTES_MAX: usize = 32 << 10;
/// Between two attempts to listen.
const RETRY: Duration = Duration::from_secs(5);
/// What answers under way have at the end.
const GRACE: Duration = Duration::from_secs(5);

/// True once it is to end.
pub(super) type Stop = tokio::sync::watch::Receiver<bool>;

/// What speaks TLS with these files.
pub(super) fn acceptor(files: &CertificateFiles) -> Result<TlsAcceptor, Error> {
    let wrong = |path: &std::path::Path, reason: String| Error::Certificate { path: path.to_owned(), reason };
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_file_iter(&files.certificate).and_then(Iterator::collect);
    let certificates = certificates.map_err(|error| wrong(&files.certificate, error.to_string()))?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| wrong(&files.key, error.to_string()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(&files.certificate, error.to_string()))?
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .map_err(|error| wrong(&files.certificate, error.to_string()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Serves until `stop` is said. While the address is taken it waits.
pub(super) async fn serve(listen: SocketAddr, tls: Option<TlsAcceptor>, portal: Arc<Portal>, mut stop: Stop) {
    let listener = tokio::select! {
        listener = bind(listen) => listener,
        () = said(&mut stop) => return,
    };
    let scheme = if tls.is_some() { "https" } else { "http" };
    let address = listener.local_addr().unwrap_or(listen);
    info!(address = %format!("{scheme}://{address}"), "the portal listens");
    if let Some(code) = portal.entry.code() {
        println!("usage, for the operator (once, within ten minutes): {scheme}://{address}/login/{code}");
    }
    let router = routes(&portal);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX as usize));
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &places) => accepted,
            () = said(&mut stop) => break,
        };
        let Some((stream, peer, place)) = accepted else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let router = router.clone().layer(axum::Extension(Peer(peer)));
        let (tls, stop) = (tls.clone(), stop.clone());
        tokio::spawn(async move {
            match tls {
                None => connection(stream, router, stop).await,
                Some(tls) => match tokio::time::timeout(HEAD_TIMEOUT, tls.accept(stream)).await {
                    Ok(Ok(stream)) => connection(stream, router, stop).await,
                    Ok(Err(error)) => debug!(%error, "TLS with a client of the portal"),
                    Err(_) => debug!("a client of the portal began TLS and said no more"),
                },
            }
            drop(place);
        });
    }
    drop(listener);
    if tokio::time::timeout(GRACE, places.acquire_many(CONNECTIONS_MAX)).await.is_err() {
        debug!("answers of the portal are cut off");
    }
}

/// Waits until it is said, or nobody is left who could.
async fn said(stop: &mut Stop) {
    stop.wait_for(|stop| *stop).await.map(drop).unwrap_or_default();
}

async fn bind(listen: SocketAddr) -> TcpListener {
    let mut is_logged = false;
    loop {
        match TcpListener::bind(listen).await {
            Ok(listener) => return listener,
            Err(error) if !is_logged => {
                error!(%error, "the portal cannot listen on {listen}: the ledger counts, and this is tried again");
                is_logged = true;
            }
            Err(_) => {}
        }
        tokio::time::sleep(RETRY).await;
    }
}

type Place = tokio::sync::OwnedSemaphorePermit;

async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> Option<(TcpStream, SocketAddr, Place)> {
    let place = places.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => Some((stream, peer, place)),
        Err(error) => {
            debug!(%error, "the portal cannot accept");
            None
        }
    }
}

async fn connection<S>(stream: S, router: axum::Router, mut stop: Stop)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut served = std::pin::pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = said(&mut stop) => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, "a connection of the portal");
    }
}
