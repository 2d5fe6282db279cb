//! `[portal]`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::{CertificateFiles, serialized};

/// `[portal]`: where `weir ledger` shows usage, and to whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Portal {
    /// None when the file says `"off"`.
    #[serde(serialize_with = "serialized::address_or_off")]
    pub listen: Option<SocketAddr>,
    /// With it, TLS.
    pub tls: Option<CertificateFiles>,
    /// Files of the public keys that tokens may be signed with; none: a key of the ledger's own, in `state_dir`.
    pub public_keys: Vec<PathBuf>,
    /// No token is good for longer than this.
    #[serde(rename = "token_valid_s_max", serialize_with = "serialized::seconds")]
    pub token_valid_max: Duration,
    /// Of one token.
    pub requests_per_minute_max: u32,
    /// An answer that has not begun by then is given up.
    #[serde(rename = "request_timeout_ms", serialize_with = "serialized::milliseconds")]
    pub request_timeout: Duration,
    /// So long it is kept who looked at what; 0: for ever.
    pub access_keep_days: u32,
}
