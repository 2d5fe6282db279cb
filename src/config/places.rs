//! `[geoip]`, `[screening]` and `[privacy]`: what is said of addresses, what follows from it, and what is kept of them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use http::HeaderName;
use serde::Serialize;

use super::serialized;

/// `[geoip]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Geoip {
    /// File that says what the table of addresses is made of; none: nothing is known of any address.
    #[serde(serialize_with = "serialized::path_or_none")]
    pub plan: Option<PathBuf>,
}

/// `[screening]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Screening {
    /// Tells the origin; a client's own is always removed.
    #[serde(serialize_with = "serialized::header_name")]
    pub header: HeaderName,
    /// Labels behind which anybody may be.
    pub anonymisers: Vec<String>,
    /// In the file's order.
    pub rules: Vec<ScreeningRule>,
}

/// `[[screening.rules]]`. It means any of its places, networks and labels; all traffic of its accounts, if it names nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ScreeningRule {
    /// Unique.
    pub name: String,
    /// Goes into records with the name.
    pub version: u32,
    /// From this µs on (key `valid_from`, a date).
    #[serde(rename = "valid_from")]
    pub valid_from_us: i64,
    /// Up to before this one (key `valid_to`).
    #[serde(rename = "valid_to")]
    pub valid_to_us: i64,
    /// ISO 3166-1, capitals.
    pub countries: Vec<String>,
    /// `UA-43`, or `RU/Crimea`.
    pub subdivisions: Vec<String>,
    /// Numbers of networks.
    pub asns: Vec<u32>,
    /// Dotted labels; one stands for those below it too.
    pub labels: Vec<String>,
    /// Empty: everybody's traffic.
    pub accounts: Vec<String>,
    /// What follows from a match.
    pub action: ScreeningAction,
    /// What follows where it might match.
    pub indeterminate: ScreeningAction,
}

/// What follows from a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ScreeningAction {
    /// Its verdict stands in the record.
    Record,
    /// And the origin is told.
    Tag,
    /// It is refused: 451, or the connection is closed.
    Refuse,
}

/// `[privacy]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Privacy {
    /// What is kept of addresses.
    pub client_ip: PrivacyMode,
    /// The same by account.
    pub accounts: BTreeMap<String, PrivacyMode>,
    /// Directory of the keys of pseudonyms.
    #[serde(serialize_with = "serialized::path")]
    pub pseudonym_keys: PathBuf,
    /// How long a key makes pseudonyms.
    #[serde(rename = "pseudonym_key_s", serialize_with = "serialized::seconds")]
    pub pseudonym_key: Duration,
    /// Keys beyond these are destroyed; 0: none is.
    pub pseudonym_keys_max: u32,
    /// File of the key of `encrypted`; there where an account has that mode.
    #[serde(serialize_with = "serialized::path_or_none")]
    pub encryption_key: Option<PathBuf>,
}

/// What is kept of an address; the later, the stricter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PrivacyMode {
    /// All of it.
    #[default]
    Full,
    /// All of it, for whoever has the key.
    Encrypted,
    /// Its network.
    Truncated,
    /// That it is the same one, while the key stays.
    Pseudonym,
    /// Nothing.
    None,
}
