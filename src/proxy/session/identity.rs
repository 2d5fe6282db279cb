//! Who a session is: what its connection tells, then what its first request tells of it.

use std::cell::Ref;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use http::HeaderValue;

use super::Session;
use crate::enrichment::Place;
use crate::event::{Addresses, PlaceNote, RequestNote, SessionNote, UNATTRIBUTED};
use crate::ids::Id;
use crate::proxy::worker::Worker;
use crate::screening::Ruling;

/// Of an IPv6 address written in full.
const ADDRESS_TEXT_BYTES_MAX: usize = 39;

/// What is known of the client; complete once the handshakes are over.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The client: the peer, or who a trusted PROXY header names.
    pub client: SocketAddr,
    /// The TCP peer.
    pub peer: SocketAddr,
    /// Billed account.
    pub account: Arc<str>,
    /// What of the account's was reached.
    pub endpoint: Arc<str>,
    /// The rule that decided.
    pub attribution: Arc<str>,
    /// Name of the listener.
    pub listener: Arc<str>,
    /// `h1`, `h2`, `tcp`, `tls-passthrough`; empty before it is known.
    pub protocol: &'static str,
    /// `1.2`, `1.3`, or empty.
    pub tls_version: &'static str,
    /// Server name the client asked for.
    pub sni: Arc<str>,
    /// Subject of the client's certificate.
    pub tls_subject: Arc<str>,
    /// Its alternative names.
    pub tls_sans: Arc<[Box<str>]>,
    /// Fields of a trusted peer's PROXY header, by type.
    pub proxy_fields: Arc<[(u8, Box<str>)]>,
    /// Version of the table that named the account, or of the table of networks.
    pub accounts_version: i64,
}

/// Where the client is, and what the screening rules say of it.
#[derive(Clone, Debug)]
pub struct Origin {
    /// What is known of its address.
    pub place: Place,
    /// The verdict.
    pub ruling: Ruling,
}

impl Identity {
    /// What is known at accept.
    pub fn of_peer(peer: SocketAddr, listener: Arc<str>) -> Self {
        let empty: Arc<str> = Arc::from("");
        Self {
            client: peer,
            peer,
            account: Arc::from(UNATTRIBUTED),
            endpoint: empty.clone(),
            attribution: empty.clone(),
            listener,
            protocol: "",
            tls_version: "",
            sni: empty.clone(),
            tls_subject: empty,
            tls_sans: Arc::new([]),
            proxy_fields: Arc::new([]),
            accounts_version: 0,
        }
    }
}

impl Session {
    /// What is known of the client.
    pub fn identity(&self) -> Ref<'_, Identity> {
        self.identity.borrow()
    }

    /// Learns more of the client; the slot is told with the next [`Session::identify`].
    pub fn learn(&self, change: impl FnOnce(&mut Identity)) {
        change(&mut self.identity.borrow_mut());
    }

    /// Learns more of the client; the slot knows it at once.
    pub fn identify(&self, change: impl FnOnce(&mut Identity)) {
        self.learn(change);
        self.shown.set(show(&self.worker, &self.identity.borrow(), self.worker.coarse_now_us()));
        let mut note = self.note.borrow_mut();
        note.clear();
        encode_identity(self.id, &self.identity.borrow(), self.shown.get(), &mut note);
        if let Some(origin) = &*self.origin.borrow() {
            origin.encode(self.identity.borrow().accounts_version, &mut note);
        }
        self.with(|measured| measured.set_note(&note));
    }

    /// Learns where the client is; to be followed by [`Session::identify`].
    pub fn locate(&self, origin: Origin) {
        *self.origin.borrow_mut() = Some(origin);
    }

    /// Where the client is, once known.
    pub fn origin(&self) -> Ref<'_, Option<Origin>> {
        self.origin.borrow()
    }

    /// The client's country, or empty.
    pub fn country(&self) -> Box<str> {
        self.origin.borrow().as_ref().map(|origin| origin.place.country.clone()).unwrap_or_default()
    }

    /// Client and peer as they may be written.
    pub fn shown(&self) -> Addresses {
        self.shown.get()
    }

    /// The client's address as text; asked for once the handshakes are over.
    pub fn client_text(&self) -> HeaderValue {
        let text = || {
            let mut text = String::with_capacity(ADDRESS_TEXT_BYTES_MAX);
            // Writing to a String cannot fail.
            write!(text, "{}", self.identity.borrow().client.ip().to_canonical()).unwrap_or_default();
            // Digits, dots and colons are a valid value.
            HeaderValue::from_maybe_shared(text.into_bytes()).unwrap_or(HeaderValue::from_static("unknown"))
        };
        self.client_text.get_or_init(text).clone()
    }

    /// All that the connection itself tells of its client is known: shows the session in the live table.
    pub fn announce(&self) {
        self.with(|measured| self.worker.node.sessions.insert(self, measured.view()));
    }

    /// Whose its first request is, if not whose the connection by itself is: the whole session's from here on. What the next requests
    /// begin with stays as it is, for some may have begun already.
    pub fn first_request_is(&self, owner: &RequestNote<'_>) {
        if self.has_request.replace(true) {
            return;
        }
        self.with(|measured| measured.append_note(|bytes| owner.encode(bytes)));
        if !owner.account.is_empty() {
            self.worker.node.sessions.belongs_to(self.id, owner.account);
        }
        self.open();
    }

    /// Records the opening, unless some record states the session already.
    pub fn open(&self) {
        self.with(|measured| {
            if !measured.is_recorded() {
                self.worker.recorder.open(measured);
            }
        });
    }

    /// TLS is spoken: wire and app octets differ from here on.
    pub fn becomes_tls(&self) {
        self.plain.set(false);
    }

    /// True without TLS.
    pub fn is_plain(&self) -> bool {
        self.plain.get()
    }
}

impl Origin {
    pub(super) fn encode(&self, accounts_version: i64, to: &mut Vec<u8>) {
        PlaceNote {
            accounts_version,
            screening: self.ruling.verdict,
            screening_rule: &self.ruling.rule,
            ..self.place.note()
        }
        .encode(to);
    }
}

/// As may be written of who this is. An HTTP connection may come to serve any account.
pub(super) fn show(worker: &Worker, identity: &Identity, at_us: i64) -> Addresses {
    let setup = worker.setup();
    let is_whole = matches!(identity.protocol, "tcp" | "tls-passthrough") && !identity.attribution.is_empty();
    let mode = if is_whole { setup.privacy.of(&identity.account) } else { setup.privacy.strictest() };
    setup.privacy.show(mode, identity.client, identity.peer.ip(), at_us)
}

pub(super) fn encode_identity(id: Id, identity: &Identity, addresses: Addresses, to: &mut Vec<u8>) {
    SessionNote {
        session_id: id,
        account: &identity.account,
        endpoint: &identity.endpoint,
        attribution: &identity.attribution,
        listener: &identity.listener,
        protocol: identity.protocol,
        tls_version: identity.tls_version,
        sni: &identity.sni,
        tls_subject: &identity.tls_subject,
        addresses,
    }
    .encode(to);
}
