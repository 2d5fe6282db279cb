//! Looking for an address among what records keep of addresses.
//!
//! | `address_form` | theirs? |
//! |---|---|
//! | empty (whole) | can be told; where the archive has encrypted it, while the key of its account and day is there |
//! | `encrypted` | can be told by whoever has `[privacy] encryption_key` |
//! | `pseudonym` | can be told while the key of its stretch of time is there: it is computed again |
//! | `truncated` | cannot be told: the network (/24, /48) is many people's, and to empty their rows would be to erase what nobody asked for |
//! | `none` | nothing is there |
//!
//! What cannot be told is counted, so that the certificate says what is left and why: rows of a network *identify nobody*; rows under a key
//! that is gone are nobody's any more. Where a network is known to be one person's or one household's (a /48 often is a site's), whoever
//! erases says so (`--truncated`), and its rows are theirs.

use std::collections::HashMap;
use std::net::IpAddr;

use ipcrypt_rs::Ipcrypt;

use super::schema::octets;
use crate::config;
use crate::event::AddressForm;
use crate::privacy::keys::Keys;
use crate::privacy::{self, truncated};

/// What of a record's address points to the one that is looked for; the later, the more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trace {
    /// It is another one, or none.
    Others,
    /// Nobody can tell, without a key that is gone or is not here.
    Unreadable,
    /// A network that it lies in.
    Network,
    /// It is it.
    Theirs,
}

/// An address, and what it looks like in every form.
pub struct Traces {
    address: IpAddr,
    whole: [u8; 16],
    network: [u8; 16],
    encrypted: Option<[u8; 16]>,
    pseudonyms: HashMap<i64, [u8; 16]>,
    is_network_theirs: bool,
}

impl Traces {
    /// With the keys that are there. `is_network_theirs`: what keeps only its network is theirs too.
    pub fn new(address: IpAddr, config: &config::Privacy, is_network_theirs: bool) -> Result<Self, privacy::Error> {
        let address = address.to_canonical();
        let cipher: Option<Ipcrypt> = config.encryption_key.as_deref().map(privacy::cipher).transpose()?;
        let keys = Keys::kept(&config.pseudonym_keys)?;
        Ok(Self {
            address,
            whole: octets(address),
            network: octets(truncated(address)),
            encrypted: cipher.map(|cipher| octets(cipher.encrypt_ipaddr(address))),
            pseudonyms: keys.iter().map(|key| (key.epoch, octets(key.pseudonym(address)))).collect(),
            is_network_theirs,
        })
    }

    /// The address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Its 16 bytes.
    pub fn whole(&self) -> [u8; 16] {
        self.whole
    }

    /// Of what a record says (16 bytes, IPv4 mapped), which is of this form.
    pub fn of(&self, form: AddressForm, key_epoch: i64, shown: [u8; 16]) -> Trace {
        let is = |wanted: [u8; 16]| if shown == wanted { Trace::Theirs } else { Trace::Others };
        match form {
            AddressForm::Full => is(self.whole),
            AddressForm::Encrypted => self.encrypted.map_or(Trace::Unreadable, is),
            AddressForm::Pseudonym => self.pseudonyms.get(&key_epoch).copied().map_or(Trace::Unreadable, is),
            AddressForm::Truncated if shown != self.network => Trace::Others,
            AddressForm::Truncated if self.is_network_theirs => Trace::Theirs,
            AddressForm::Truncated => Trace::Network,
            AddressForm::None => Trace::Others,
        }
    }
}
