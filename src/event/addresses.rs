//! Client and peer as a record shows them: whole, or what the privacy mode in force leaves of them.

use std::net::IpAddr;

pub use super::v1::AddressForm;

/// What a record says of where a session or request came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The client; `None` where nothing is to be kept of it.
    pub client: Option<IpAddr>,
    /// Its port; 0 where none is to be kept.
    pub port: u16,
    /// The TCP peer.
    pub peer: Option<IpAddr>,
    /// How the two are to be read.
    pub form: AddressForm,
    /// Number of the pseudonyms' key; 0 without.
    pub key_epoch: i64,
}

impl Addresses {
    /// As they are.
    pub fn full(client: IpAddr, port: u16, peer: IpAddr) -> Self {
        Self { client: Some(client), port, peer: Some(peer), form: AddressForm::Full, key_epoch: 0 }
    }

    /// Nothing of them.
    pub const NONE: Self = Self { client: None, port: 0, peer: None, form: AddressForm::None, key_epoch: 0 };
}

impl AddressForm {
    /// As printed in `address_form`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "",
            Self::Truncated => "truncated",
            Self::Pseudonym => "pseudonym",
            Self::Encrypted => "encrypted",
            Self::None => "none",
        }
    }

    /// The one that is printed so; none: of a later release.
    pub fn of_name(name: &str) -> Option<Self> {
        let all = [Self::Full, Self::Truncated, Self::Pseudonym, Self::Encrypted, Self::None];
        all.into_iter().find(|form| form.name() == name)
    }
}
