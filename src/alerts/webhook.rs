//! One POST of one alert, signed.
//!
//! ```text
//! weir-alert-id: 32 hexadecimal digits, the same at each attempt
//! weir-signature: t=<s since 1970>,v1=<HMAC-SHA256(secret, "<t>.<body>") in hexadecimal>
//! ```
//!
//! A receiver recomputes the signature over the body as it came, compares in constant time, and refuses a `t` that is minutes old.
//! Any 2xx is taken as received. Redirects are not followed.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, USER_AGENT};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use ring::hmac;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::clock::utc_text;
use crate::config::Webhook;
use crate::ids::hex;
use crate::store::Alert;

/// From the first packet to the answer's head.
const ATTEMPT_MAX: Duration = Duration::from_secs(10);
/// A shorter secret can be guessed.
const SECRET_BYTES_MIN: usize = 16;

/// Why it did not arrive.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("cannot read the secret {path}: {source}")]
    Secret { path: String, source: io::Error },
    #[error("the secret {0} is shorter than {SECRET_BYTES_MIN} bytes")]
    ShortSecret(String),
    #[error("the webhook's address names no host")]
    Address,
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    #[error("the webhook broke off: {0}")]
    Http(#[from] hyper::Error),
    #[error("the request cannot be made: {0}")]
    Request(#[from] http::Error),
    #[error("no answer within {} s", ATTEMPT_MAX.as_secs())]
    Slow,
    #[error("the webhook answered {0}")]
    Refused(StatusCode),
}

/// What is sent: the same at each attempt, but for the signature's time.
fn body(alert: &Alert) -> String {
    serde_json::json!({
        "id": alert.id(),
        "type": "budget.threshold_passed",
        "account": alert.account,
        "meter": alert.meter,
        "period": alert.period,
        "budget": alert.budget,
        "threshold_percent": alert.percent,
        "used": alert.amount,
        "passed_at": utc_text(alert.passed_at_us),
    })
    .to_string()
}

fn signature(secret: &[u8], at_s: i64, body: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let tag = hmac::sign(&key, format!("{at_s}.{body}").as_bytes());
    format!("t={at_s},v1={}", hex(tag.as_ref()))
}

/// Sends it once.
pub(super) async fn send(hook: &Webhook, alert: &Alert, now_us: i64) -> Result<(), Failure> {
    let path = || hook.secret.display().to_string();
    let secret = std::fs::read(&hook.secret).map_err(|source| Failure::Secret { path: path(), source })?;
    let secret = secret.trim_ascii();
    if secret.len() < SECRET_BYTES_MIN {
        return Err(Failure::ShortSecret(path()));
    }
    let body = body(alert);
    let authority = hook.uri.authority().ok_or(Failure::Address)?;
    let request = Request::builder()
        .method(Method::POST)
        .uri(hook.uri.path_and_query().map_or("/", |path| path.as_str()))
        .header(HOST, authority.as_str())
        .header(USER_AGENT, concat!("weir/", env!("CARGO_PKG_VERSION")))
        .header(CONTENT_TYPE, "application/json")
        .header("weir-alert-id", alert.id())
        .header("weir-signature", signature(secret, now_us.div_euclid(1_000_000), &body))
        .body(Full::new(Bytes::from(body)))?;
    match tokio::time::timeout(ATTEMPT_MAX, post(&hook.uri, request)).await {
        Ok(answer) => answer,
        Err(_) => Err(Failure::Slow),
    }
}

async fn post(uri: &Uri, request: Request<Full<Bytes>>) -> Result<(), Failure> {
    let host = uri.host().ok_or(Failure::Address)?;
    // An IPv6 address stands in brackets in an URL, and nowhere else.
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let is_tls = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
    let stream = TcpStream::connect((bare, port)).await.map_err(Failure::Connect)?;
    if !is_tls {
        return exchange(stream, request).await;
    }
    let name = ServerName::try_from(bare.to_owned()).map_err(|_| Failure::Address)?;
    let stream = connector()?.connect(name, stream).await.map_err(Failure::Connect)?;
    exchange(stream, request).await
}

fn connector() -> Result<TlsConnector, Failure> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Failure::Connect(io::Error::other(error)))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Result<(), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let mut connection = std::pin::pin!(connection);
    let mut sent = std::pin::pin!(sender.send_request(request));
    let mut has_ended = false;
    let answer = loop {
        tokio::select! {
            answer = sent.as_mut() => break answer?,
            // Its end may be known before the answer that came with it; without one, the sender says why.
            ended = connection.as_mut(), if !has_ended => {
                has_ended = true;
                if let Err(error) = ended {
                    tracing::debug!(%error, "the connection to a webhook");
                }
            }
        }
    };
    if answer.status().is_success() { Ok(()) } else { Err(Failure::Refused(answer.status())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Python's hmac computes it.
    #[test]
    fn signatures_are_what_others_compute() {
        assert_eq!(
            signature(b"0123456789abcdef", 1_700_000_000, "{\"id\":1}"),
            "t=1700000000,v1=4bcaced68dfea90a68df035b89cb7fb26692d899d32a1ccb1b0616cf48e4d1ed"
        );
    }
}
