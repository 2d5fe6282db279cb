//! Raw TCP: the whole session is one tunnel, with TLS terminated here, or passed through and routed by its server name.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::client_hello::{self, Hello};
use super::session::Session;
use super::setup::ListenerSetup;
use super::stream::{AppStream, Transport, WireStream, read_more};
use super::tunnel::{Hold, Tunnel, join_session};
use super::upstream::{self, Wanted};
use crate::event::{End, Reason};
use crate::screening::Action;

/// Joins the plaintext of the session with its route's upstream. `early`: octets read behind a PROXY header.
pub async fn terminated(session: &Rc<Session>, listener: &ListenerSetup, mut stream: AppStream, early: Bytes) {
    session.identify(|identity| identity.protocol = "tcp");
    session.meter_tunnel();
    stream.replay(early);
    to_upstream(session, listener, &mut stream, "").await;
    if !session.was_reset()
        && let Err(error) = stream.shutdown().await
    {
        debug!(session = %session.id, %error, "shutdown");
    }
}

/// Reads the ClientHello, and joins the untouched octets with the upstream of the name in it.
pub async fn passthrough(session: &Rc<Session>, listener: &ListenerSetup, early: Bytes) {
    session.identify(|identity| identity.protocol = "tls-passthrough");
    let limit = session.worker.setup().config.limits.tls_handshake_timeout;
    let mut received = early.to_vec();
    let hello = async {
        loop {
            match client_hello::parse(&received) {
                Hello::Incomplete => {}
                hello => return Ok(hello),
            }
            if read_more(session, &mut received).await? == 0 {
                return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof));
            }
        }
    };
    let hello = timeout(limit, hello).await;
    session.meter_tunnel();
    let mut stream = AppStream::new(Transport::Plain(WireStream::new(session.clone())), session.clone());
    stream.replay(Bytes::from(received));
    let name = match hello {
        Ok(Ok(Hello::Hello { server_name, .. })) => server_name.unwrap_or_default(),
        other => {
            debug!(session = %session.id, hello = ?other.is_ok(), "no ClientHello");
            session.attribute_by(listener, None);
            let end = if other.is_err() { End::Timeout } else { End::TlsError };
            return session.ends(end, Reason::NoRequest);
        }
    };
    let name = name.to_ascii_lowercase();
    session.identify(|identity| identity.sni = Arc::from(name.as_str()));
    to_upstream(session, listener, &mut stream, &name).await;
}

async fn to_upstream(session: &Rc<Session>, listener: &ListenerSetup, stream: &mut AppStream, name: &str) {
    let setup = session.worker.setup();
    let name = if name.is_empty() { session.identity().sni.to_string() } else { name.to_owned() };
    let route = listener.config.routes.iter().position(|route| route.matches(&name, "/"));
    session.attribute_by(listener, route);
    session.announce();
    session.open();
    if session.origin().as_ref().is_some_and(|origin| origin.ruling.action == Action::Refuse) {
        session.worker.metrics.screened_refused.increment(1);
        return session.ends(End::Refused, Reason::Screened);
    }
    let upstream = route.and_then(|route| {
        let index = listener.config.routes[route].upstream.index();
        setup.upstreams.get(index).map(|upstream| (index, upstream))
    });
    let Some((upstream_index, upstream)) = upstream else {
        debug!(session = %session.id, name, "no route");
        return session.ends(End::Refused, Reason::BadRequest);
    };
    let (for_upstream, for_session) = (upstream.clone(), session.clone());
    let wanted = Wanted {
        upstream: for_upstream,
        upstream_index,
        session: for_session,
        index: u64::MAX,
        grpc: false,
        upgrade: true,
        fresh: true,
    };
    match upstream::raw(&wanted).await {
        Ok((origin, in_flight)) => {
            session.sent_to_session(&in_flight.name);
            let tunnel = Tunnel { origin, early: Bytes::new(), stream: None, hold: Hold::Raw(in_flight) };
            join_session(session, stream, None, tunnel).await;
        }
        Err(error) => {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            warn!(upstream = %upstream.config.name, %error, cause, "no connection to an origin");
            session.worker.metrics.upstream_failures.increment(1);
            session.ends(End::UpstreamError, Reason::PlatformError);
        }
    }
}
