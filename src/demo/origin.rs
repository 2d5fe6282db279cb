//! The demo's origin: HTTP with bodies of any size, an upgrade that echoes, and a raw TCP echo. It counts nothing.
//!
//! | request | answer |
//! |---|---|
//! | `GET /octets/N` | 200, N octets |
//! | `POST /upload` | 201, when the body has ended |
//! | `GET /echo` with `Upgrade` | 101, then what comes goes back |
//! | anything else | 404 |

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::mpsc;
use std::task::{Context, Poll};

use anyhow::Context as _;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Where it answers.
#[derive(Clone, Copy)]
pub struct Origin {
    /// HTTP.
    pub http: SocketAddr,
    /// Echo.
    pub tcp: SocketAddr,
}

/// Starts it in a thread that ends with the process.
pub fn start() -> anyhow::Result<Origin> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (ready, started) = mpsc::channel();
    std::thread::Builder::new().name("origin".to_owned()).spawn(move || {
        runtime.block_on(async {
            let bound =
                async { Ok((TcpListener::bind("127.0.0.1:0").await?, TcpListener::bind("127.0.0.1:0").await?)) };
            match bound.await {
                Ok((http, tcp)) => {
                    let addresses = http.local_addr().and_then(|http| Ok(Origin { http, tcp: tcp.local_addr()? }));
                    if ready.send(addresses).is_ok() {
                        tokio::join!(serve(http, serve_http), serve(tcp, serve_echo));
                    }
                }
                // The other side has gone only if the process is ending.
                Err(error) => ready.send(Err(error)).unwrap_or_default(),
            }
        });
    })?;
    started.recv().context("the origin's thread died")?.context("the origin cannot listen")
}

async fn serve<F: Future<Output = ()> + Send + 'static>(listener: TcpListener, connection: fn(TcpStream) -> F) {
    loop {
        match listener.accept().await {
            Ok((tcp, _)) => drop(tokio::spawn(connection(tcp))),
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
        }
    }
}

async fn serve_http(tcp: TcpStream) {
    let service = service_fn(|request| async { Ok::<_, Infallible>(answer(request).await) });
    // A client that goes away in mid-answer is part of the demo.
    http1::Builder::new().serve_connection(TokioIo::new(tcp), service).with_upgrades().await.unwrap_or_default();
}

async fn serve_echo(tcp: TcpStream) {
    echo(tcp).await;
}

async fn answer(mut request: Request<Incoming>) -> Response<Octets> {
    if request.method() == Method::POST {
        while let Some(Ok(_)) = request.body_mut().frame().await {}
        return response(StatusCode::CREATED, 0);
    }
    if request.headers().contains_key(header::UPGRADE) {
        let mut switching = response(StatusCode::SWITCHING_PROTOCOLS, 0);
        for name in [header::UPGRADE, header::CONNECTION] {
            if let Some(value) = request.headers().get(&name) {
                switching.headers_mut().insert(name, value.clone());
            }
        }
        tokio::spawn(async move {
            if let Ok(upgraded) = hyper::upgrade::on(request).await {
                echo(TokioIo::new(upgraded)).await;
            }
        });
        return switching;
    }
    match request.uri().path().strip_prefix("/octets/").and_then(|octets| octets.parse().ok()) {
        Some(octets) => response(StatusCode::OK, octets),
        None => response(StatusCode::NOT_FOUND, 42),
    }
}

async fn echo(stream: impl AsyncRead + AsyncWrite) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    if tokio::io::copy(&mut reader, &mut writer).await.is_ok() {
        // Gone already: then nobody waits for our end.
        writer.shutdown().await.unwrap_or_default();
    }
}

fn response(status: StatusCode, octets: u64) -> Response<Octets> {
    let mut response = Response::new(Octets(octets));
    *response.status_mut() = status;
    response
}

/// So many octets.
struct Octets(u64);

static PIECE: [u8; 64 << 10] = [b'w'; 64 << 10];

impl Body for Octets {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.0 == 0 {
            return Poll::Ready(None);
        }
        let n = usize::try_from(self.0).unwrap_or(usize::MAX).min(PIECE.len());
        self.0 -= n as u64;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&PIECE[..n])))))
    }

    fn is_end_stream(&self) -> bool {
        self.0 == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0)
    }
}
