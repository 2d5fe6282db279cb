//! The head of a request: its limits, what its record says, and what the origin is told.

use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Waker;

use http::header::{CONNECTION, HOST, SEC_WEBSOCKET_KEY, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};

use super::Refused;
use super::send::Incoming;
use crate::attribution::Facts;
use crate::config::{ForwardedHeader, Limits};
use crate::enrichment::Place;
use crate::event::{Reason, RequestNote, UNATTRIBUTED};
use crate::proxy::body::RequestBody;
use crate::proxy::forwarded::{ForwardedPolicy, Hop, client_address, is_trusted, set_forwarded};
use crate::proxy::headers::{self, Kept};
use crate::proxy::listener::judge;
use crate::proxy::session::{Origin, Session};
use crate::proxy::setup::{ListenerSetup, Setup};
use crate::proxy::worker;
use crate::screening::{Action, Ruling};

/// Most fields that the usual request gets on its way up: for and by whom, by what, and its id.
const FIELDS_ADDED: usize = 4;

pub(super) fn check_size(limits: &Limits, parts: &http::request::Parts) -> Result<(), Refused> {
    let refuse = |status| Err(Refused { reason: Reason::Limited, ..Refused::bad_request(status) });
    let target = parts.uri.path_and_query().map_or(0, |target| target.as_str().len());
    if target + parts.method.as_str().len() + 11 > limits.request_line_bytes_max {
        return refuse(StatusCode::URI_TOO_LONG);
    }
    if parts.headers.len() > limits.headers_max {
        return refuse(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    }
    let bytes: usize = parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if bytes > limits.header_bytes_max {
        return refuse(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    }
    Ok(())
}

/// Lower case and without the port; empty where there is none.
pub(super) fn host_of(authority: Option<&str>, headers: &HeaderMap) -> String {
    let text = authority.or_else(|| headers.get(HOST).and_then(|host| host.to_str().ok())).unwrap_or("");
    let name = match text.rfind(':') {
        Some(colon) if !text[colon..].contains(']') => &text[..colon],
        _ => text,
    };
    name.to_ascii_lowercase()
}

/// Says in the request's record who it is. Answers what the screening rules say, where something follows from it.
#[allow(clippy::too_many_arguments)] // all of it is who the request is
pub(super) fn describe(
    session: &Session,
    index: u64,
    listener: &ListenerSetup,
    setup: &Setup,
    route: Option<usize>,
    host: &str,
    path: &str,
    parts: &http::request::Parts,
    connect: bool,
) -> Option<Ruling> {
    let identity = session.identity();
    let trusted = &listener.config.trusted_proxies;
    let client = client_address(identity.client, &parts.headers, listener.config.forwarded, trusted);
    let at_us = session.worker.coarse_now_us();
    let own = session.origin();
    let other =
        (client.ip != identity.client.ip().to_canonical()).then(|| session.worker.node.enrichment.look_up(client.ip));
    let nowhere = Place::default();
    let place = other.as_ref().or(own.as_ref().map(|own| &own.place)).unwrap_or(&nowhere);
    let facts = Facts {
        listener: &listener.name,
        host,
        path,
        sni: &identity.sni,
        tls_subject: &identity.tls_subject,
        tls_sans: &identity.tls_sans,
        proxy_fields: &identity.proxy_fields,
        client: client.ip,
        client_account: place.account.as_ref(),
        networks_version: place.accounts_version,
        is_trusted: is_trusted(identity.client.ip(), trusted),
        at_us,
        headers: Some(&parts.headers),
    };
    let attribution = listener.attributor.attribute(&facts, route);
    let is_proxied = facts.is_trusted;
    // A proxy's own health check is nobody's: it keeps what the session has, which is no account.
    let is_nobodys = session.is_health_check();
    if *attribution.rule == *UNATTRIBUTED && !is_nobodys {
        session.worker.count_unattributed();
    }
    let account = if is_nobodys { &identity.account } else { &attribution.account };
    let differs =
        |own: &Arc<str>, other: &Arc<str>| if own == other || is_nobodys { String::new() } else { own.to_string() };
    // What was said of the session holds for its requests, unless it is about another account or place, or its time is over.
    let holds = other.is_none() && (!setup.screen.names_accounts() || *account == identity.account);
    let own_ruling = own.as_ref().map(|own| &own.ruling).filter(|ruling| holds && at_us < ruling.until_us);
    let judged = own_ruling.is_none().then(|| judge(session, place, account, at_us));
    let accounts_version = match attribution.accounts_version {
        0 => place.accounts_version,
        version => version,
    };
    // Another client, or another account's way to show the same one.
    let addresses = (other.is_some() || setup.privacy.is_by_account()).then(|| {
        let client = SocketAddr::new(client.ip, client.port.unwrap_or(0));
        setup.privacy.show(setup.privacy.of(account), client, identity.peer.ip(), at_us)
    });
    let note = RequestNote {
        account: &differs(&attribution.account, &identity.account),
        endpoint: &differs(&attribution.endpoint, &identity.endpoint),
        attribution: &differs(&attribution.rule, &identity.attribution),
        protocol: if connect { "connect" } else { "" },
        host: cut(host, 255),
        method: cut(parts.method.as_str(), 32),
        path: cut(path, setup.config.limits.path_bytes_max),
        addresses,
        accounts_version: if accounts_version == identity.accounts_version { 0 } else { accounts_version },
        screening: judged.as_ref().map(|ruling| (ruling.verdict, &*ruling.rule)),
    };
    let ruling = judged.as_ref().or(own_ruling).filter(|ruling| ruling.action != Action::Record).cloned();
    match (other, &judged) {
        (Some(place), Some(judged)) => {
            let note = RequestNote { accounts_version: 0, screening: None, ..note };
            session.describe_anew(index, &note, &Origin { place, ruling: judged.clone() }, accounts_version);
        }
        _ => session.describe(index, &note),
    }
    // A trusted proxy's connection carries the requests of many: it stays whose the connection by itself is.
    let owner = if is_proxied {
        RequestNote::default()
    } else {
        RequestNote {
            account: note.account,
            endpoint: note.endpoint,
            attribution: note.attribution,
            accounts_version: note.accounts_version,
            ..RequestNote::default()
        }
    };
    session.first_request_is(&owner);
    ruling
}

/// At most `bytes_max` bytes, cut between characters.
fn cut(text: &str, bytes_max: usize) -> &str {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// What the origin is told: who the client is, which request this is, and nothing of our connection with the client.
pub(super) fn prepare_up(
    session: &Session,
    index: u64,
    listener: &ListenerSetup,
    setup: &Setup,
    parts: &mut http::request::Parts,
    upgrade: bool,
    screened: Option<&Ruling>,
) {
    let client: SocketAddr = session.identity().client;
    let peer = session.client_text();
    let trusted = is_trusted(client.ip(), &listener.config.trusted_proxies);
    let host = parts.headers.get(HOST).cloned();
    parts.headers.reserve(FIELDS_ADDED);
    headers::remove_hop_by_hop(&mut parts.headers, Kept { upgrade, proxy_authentication: false });
    headers::join_cookies(&mut parts.headers);
    let hop = Hop {
        peer: &peer,
        trusted,
        tls: !session.is_plain(),
        host: host.as_ref(),
        forwarded: if listener.config.forwarded == ForwardedHeader::Forwarded {
            ForwardedPolicy::Append
        } else {
            ForwardedPolicy::Untouched
        },
    };
    set_forwarded(&mut parts.headers, &hop);
    let screening = &setup.config.screening.header;
    headers::remove_alike(&mut parts.headers, screening);
    if let Some(ruling) = screened.filter(|ruling| ruling.action == Action::Tag)
        && let Ok(value) = HeaderValue::from_str(&format!("{}; rule={}", ruling.verdict.name(), ruling.rule))
    {
        parts.headers.insert(screening.clone(), value);
    }
    let name = &setup.config.request_id_header;
    if !(trusted && parts.headers.contains_key(name))
        && let Some(id) = session.exchange(index, |exchange| exchange.id)
        && let Ok(value) = HeaderValue::from_bytes(&id.hex())
    {
        parts.headers.insert(name.clone(), value);
    }
}

/// What the client gets of the response's head.
pub(super) fn finish_response(response: &mut Response<Incoming>) {
    let upgrade = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    headers::remove_hop_by_hop(response.headers_mut(), Kept { upgrade, proxy_authentication: false });
    *response.version_mut() = Version::HTTP_11;
}

pub(super) fn is_websocket(extensions: &http::Extensions) -> bool {
    extensions.get::<h2::ext::Protocol>().is_some_and(|protocol| protocol.as_str() == "websocket")
}

/// RFC 8441 §5: an extended CONNECT becomes the GET of RFC 6455.
pub(super) fn websocket_upgrade(parts: &mut http::request::Parts) {
    parts.method = Method::GET;
    parts.extensions.remove::<h2::ext::Protocol>();
    parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    parts.headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    // The key only has to be a base64 of 16 octets; the answer to it is checked by nobody but this hop.
    parts.headers.insert(SEC_WEBSOCKET_KEY, HeaderValue::from_static("d2VpciBvdmVyIEhUVFAvMg=="));
}

/// Has the origin's informational responses collected in the exchange. The callback must be `Send`, which a session is
/// not: it finds the session by its id, on the worker's own thread.
pub(super) fn relay_interim(session: &Session, index: u64, request: &mut Request<RequestBody>) {
    let id = session.id;
    hyper::ext::on_informational(request, move |response| {
        let (status, headers) = (response.status(), response.headers().clone());
        if status == StatusCode::CONTINUE {
            return;
        }
        worker::with_session(id, |session| {
            session.exchange(index, |exchange| {
                exchange.interim.push((status, headers));
                exchange.waker.take().into_iter().for_each(Waker::wake);
            });
        });
    });
}
