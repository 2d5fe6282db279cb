//! Into the pages and out of them: a token becomes a cookie.

use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use axum::body::{Bytes, to_bytes};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};

use super::guard::{Peer, network, too_often, wants_page};
use super::token::{Claims, Scope, SigningKey};
use super::viewer::COOKIE_NAME;
use super::{Portal, Problem};
use crate::metrics::metrics;

/// A form with a token in it.
const FORM_BYTES_MAX: usize = 8 << 10;
/// The printed link is good for so long.
const LINK: Duration = Duration::from_secs(600);
/// And the token behind it.
const OPERATOR: Duration = Duration::from_secs(12 * 3600);

/// The operator's way in where the ledger has a key of its own.
pub(super) struct Entry {
    key: Option<SigningKey>,
    /// The code of the link that was printed, until it was used.
    code: Mutex<Option<(blake3::Hash, Instant)>>,
}

impl Entry {
    pub(super) fn new(key: Option<SigningKey>) -> Self {
        Self { key, code: Mutex::new(None) }
    }

    /// A code that lets in once; none without a key of its own.
    pub(super) fn code(&self) -> Option<String> {
        self.key.as_ref()?;
        let mut random = [0; 16];
        std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut random)).ok()?;
        let code = crate::ids::hex(&random);
        *self.code.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((blake3::hash(code.as_bytes()), Instant::now() + LINK));
        Some(code)
    }

    /// Takes a code, once. Comparing hashes takes the same time whatever they are.
    fn take(&self, given: &str) -> Option<&SigningKey> {
        let mut code = self.code.lock().unwrap_or_else(PoisonError::into_inner);
        code.take_if(|(code, until)| *code == blake3::hash(given.as_bytes()) && Instant::now() < *until)?;
        self.key.as_ref()
    }
}

pub(super) fn routes() -> Router<Arc<Portal>> {
    Router::new().route("/login", post(login)).route("/login/{code}", get(enter)).route("/logout", post(logout))
}

async fn login(State(portal): State<Arc<Portal>>, request: Request) -> Result<Response, Problem> {
    let network = network(request.extensions().get::<Peer>());
    let wants_page = wants_page(request.headers());
    let body = to_bytes(request.into_body(), FORM_BYTES_MAX).await;
    let body = body.map_err(|_| Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "a form of at most 8 KiB is expected"))?;
    let token = form_token(&body).ok_or_else(|| Problem::bad("a form with the field `token` is expected"))?;
    match portal.keys.verify(&token, SystemTime::now()) {
        Ok(claims) => Ok(entered(&portal, &token, &claims, "/")),
        Err(refused) => {
            metrics().portal_tokens_refused.increment(1);
            portal.strangers.take(network, Instant::now()).map_err(too_often)?;
            if wants_page {
                return Ok((StatusCode::SEE_OTHER, [(header::LOCATION, "/login?refused=1")]).into_response());
            }
            Err(Problem::unauthorised(format!("the token is not good: {refused}")))
        }
    }
}

/// White space around a token that was pasted is not part of it.
fn form_token(body: &Bytes) -> Option<String> {
    let mut pairs = form_urlencoded::parse(body);
    let token = pairs.find(|(name, _)| name == "token").map(|(_, value)| value.trim().to_owned());
    token.filter(|token| !token.is_empty())
}

async fn enter(
    State(portal): State<Arc<Portal>>,
    Path(code): Path<String>,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, Problem> {
    let now = SystemTime::now();
    let Some(key) = portal.entry.take(&code) else {
        portal.strangers.take(network(request.extensions().get::<Peer>()), Instant::now()).map_err(too_often)?;
        if wants_page(&headers) {
            return Ok((StatusCode::SEE_OTHER, [(header::LOCATION, "/login?refused=1")]).into_response());
        }
        return Err(Problem::unauthorised("this link is used up: `weir token issue` makes a token"));
    };
    let claims = Claims::new("operator", Scope::Admin, None, now, OPERATOR.min(portal.settings.token_valid_max));
    let token =
        key.sign(&claims).map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    Ok(entered(&portal, &token, &claims, "/"))
}

fn entered(portal: &Portal, token: &str, claims: &Claims, to: &'static str) -> Response {
    let left_s = claims.expires_at.saturating_sub(claims.not_before);
    let cookie = cookie(portal, token, left_s);
    (StatusCode::SEE_OTHER, [(header::LOCATION, to.to_owned()), (header::SET_COOKIE, cookie)]).into_response()
}

async fn logout(State(portal): State<Arc<Portal>>) -> Response {
    let cookie = cookie(&portal, "", 0);
    (StatusCode::SEE_OTHER, [(header::LOCATION, "/login".to_owned()), (header::SET_COOKIE, cookie)]).into_response()
}

fn cookie(portal: &Portal, token: &str, age_s: u64) -> String {
    let secure = if portal.settings.tls.is_some() { "; Secure" } else { "" };
    format!("{COOKIE_NAME}={token}; Path=/; HttpOnly; SameSite=Strict; Max-Age={age_s}{secure}")
}
