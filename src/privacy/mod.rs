//! What is kept of a client's address. Whatever else is learned of it is learned from the whole address in memory; what is written
//! (records, the notes of slots, logs, the operator's list of sessions) is what the mode in force leaves.
//!
//! | mode | kept |
//! |---|---|
//! | `full` | address and port |
//! | `encrypted` | the address under ipcrypt-deterministic, which whoever has the key can read, and the port |
//! | `truncated` | the network: 24 bits of IPv4, 48 of IPv6 |
//! | `pseudonym` | a keyed hash in `fd00::/8`: the same client has the same one while the key stays ([`keys`]) |
//! | `none` | nothing |
//!
//! Modes are by account. While it is not known whose something is, and for what serves several accounts (an HTTP connection), the
//! strictest of all holds: what is on disk never says more than the mode of the account that it turns out to be.

pub mod keys;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use ipcrypt_rs::Ipcrypt;

use self::keys::Keys;
use crate::config;
use crate::event::{AddressForm, Addresses};

pub use crate::config::PrivacyMode as Mode;

/// Why addresses cannot be kept as configured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file of a key.
    #[error("cannot read {}", path.display())]
    Read {
        /// Its name.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Its content; it is not repeated.
    #[error("{} holds no key; write {digits} hexadecimal digits", path.display())]
    Key {
        /// Its name.
        path: PathBuf,
        /// How many it takes.
        digits: usize,
    },
    /// The directory of the pseudonyms' keys.
    #[error("cannot keep the keys of pseudonyms in {}", path.display())]
    Keep {
        /// Its name.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// No randomness.
    #[error("no random numbers for a key")]
    NoRandomness,
}

/// The modes, with what they need.
pub struct Privacy {
    config: config::Privacy,
    strictest: Mode,
    cipher: Option<Ipcrypt>,
    keys: Option<Keys>,
}

impl Privacy {
    /// Reads the key that `encrypted` needs. Pseudonyms need [`Privacy::turn_keys`] first; before that, nothing is kept.
    pub fn new(config: &config::Privacy) -> Result<Self, Error> {
        let modes = || config.accounts.values().copied().chain([config.client_ip]);
        let cipher = match &config.encryption_key {
            Some(path) if modes().any(|mode| mode == Mode::Encrypted) => Some(cipher(path)?),
            _ => None,
        };
        let keys = modes()
            .any(|mode| mode == Mode::Pseudonym)
            .then(|| Keys::new(&config.pseudonym_keys, config.pseudonym_key, config.pseudonym_keys_max));
        let strictest = modes().max().unwrap_or_default();
        Ok(Self { config: config.clone(), strictest, cipher, keys })
    }

    /// For what is known to be this account's alone.
    pub fn of(&self, account: &str) -> Mode {
        self.config.accounts.get(account).copied().unwrap_or(self.config.client_ip)
    }

    /// For what may be anybody's.
    pub fn strictest(&self) -> Mode {
        self.strictest
    }

    /// False where every account has the same mode.
    pub fn is_by_account(&self) -> bool {
        !self.config.accounts.is_empty()
    }

    /// Client and peer as they may be written.
    pub fn show(&self, mode: Mode, client: SocketAddr, peer: IpAddr, at_us: i64) -> Addresses {
        let (client_ip, peer) = (client.ip().to_canonical(), peer.to_canonical());
        let both = |form, port, change: &dyn Fn(IpAddr) -> IpAddr| Addresses {
            client: Some(change(client_ip)),
            port,
            peer: Some(change(peer)),
            form,
            key_epoch: 0,
        };
        match (mode, &self.cipher, &self.keys) {
            (Mode::Full, ..) => Addresses::full(client_ip, client.port(), peer),
            (Mode::Truncated, ..) => both(AddressForm::Truncated, 0, &truncated),
            (Mode::Encrypted, Some(cipher), _) => {
                both(AddressForm::Encrypted, client.port(), &|address| cipher.encrypt_ipaddr(address))
            }
            (Mode::Pseudonym, _, Some(keys)) => {
                let Some(key) = keys.at(at_us) else { return Addresses::NONE };
                let shown = both(AddressForm::Pseudonym, 0, &|address| key.pseudonym(address));
                Addresses { key_epoch: key.epoch, ..shown }
            }
            (Mode::None | Mode::Encrypted | Mode::Pseudonym, ..) => Addresses::NONE,
        }
    }

    /// Client as a log line may say it.
    pub fn text(&self, mode: Mode, client: SocketAddr, at_us: i64) -> String {
        let shown = self.show(mode, client, client.ip(), at_us);
        shown.client.map_or_else(|| "(not kept)".to_owned(), |address| address.to_string())
    }

    /// To be called before the first pseudonym and every now and then: has this moment's key ready and the next one before it is
    /// needed, and destroys those whose time is over. The numbers of the destroyed ones.
    pub fn turn_keys(&self, now_us: i64) -> Result<Vec<i64>, Error> {
        self.keys.as_ref().map_or(Ok(Vec::new()), |keys| keys.turn(now_us))
    }
}

/// What `encrypted` writes by, of the key in a file.
pub fn cipher(key: &Path) -> Result<Ipcrypt, Error> {
    Ok(Ipcrypt::new(keys::read(key)?))
}

/// /24 of IPv4, /48 of IPv6.
pub fn truncated(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => Ipv4Addr::from(u32::from(v4) & !0xff).into(),
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6) >> 80 << 80).into(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const DAY_US: i64 = 86_400_000_000;

    fn privacy(dir: &Path, client_ip: Mode, accounts: &[(&str, Mode)]) -> Privacy {
        let key = dir.join("ip.key");
        std::fs::write(&key, "000102030405060708090a0b0c0d0e0f\n").unwrap();
        let config = config::Privacy {
            client_ip,
            accounts: accounts.iter().map(|(account, mode)| (account.to_string(), *mode)).collect(),
            pseudonym_keys: dir.join("keys"),
            pseudonym_key: Duration::from_secs(86_400),
            pseudonym_keys_max: 2,
            encryption_key: Some(key),
        };
        let privacy = Privacy::new(&config).unwrap();
        privacy.turn_keys(0).unwrap();
        privacy
    }

    fn client(text: &str) -> SocketAddr {
        SocketAddr::new(text.parse().unwrap(), 4711)
    }

    #[test]
    fn each_mode_leaves_what_it_says() {
        let dir = tempfile::tempdir().unwrap();
        let privacy = privacy(dir.path(), Mode::Full, &[("a", Mode::Pseudonym), ("b", Mode::Encrypted)]);
        let peer = "10.1.2.3".parse().unwrap();
        let show = |mode, text| privacy.show(mode, client(text), peer, 0);
        assert_eq!(show(Mode::Full, "::ffff:192.0.2.77"), Addresses::full("192.0.2.77".parse().unwrap(), 4711, peer));
        let truncated = show(Mode::Truncated, "192.0.2.77");
        assert_eq!((truncated.client, truncated.port), (Some("192.0.2.0".parse().unwrap()), 0));
        assert_eq!(truncated.peer, Some("10.1.2.0".parse().unwrap()));
        let truncated = show(Mode::Truncated, "2001:db8:1:2:3::4").client;
        assert_eq!(truncated, Some("2001:db8:1::".parse().unwrap()));
        assert_eq!(show(Mode::None, "192.0.2.77"), Addresses::NONE);
        let encrypted = show(Mode::Encrypted, "192.0.2.77");
        let read = Ipcrypt::new(std::array::from_fn(|at| at as u8)).decrypt_ipaddr(encrypted.client.unwrap());
        assert_eq!(read, client("192.0.2.77").ip());
        let pseudonym = show(Mode::Pseudonym, "192.0.2.77");
        assert_eq!(pseudonym.form, AddressForm::Pseudonym);
        assert!(matches!(pseudonym.client, Some(IpAddr::V6(v6)) if v6.octets()[0] == 0xfd));
        assert_eq!(pseudonym, show(Mode::Pseudonym, "192.0.2.77"), "while the key stays");
        assert_ne!(pseudonym.client, show(Mode::Pseudonym, "192.0.2.78").client);
    }

    #[test]
    fn the_strictest_holds_until_it_is_known_whose_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let privacy = privacy(dir.path(), Mode::Full, &[("a", Mode::Truncated), ("b", Mode::None)]);
        assert_eq!((privacy.of("a"), privacy.of("b"), privacy.of("c")), (Mode::Truncated, Mode::None, Mode::Full));
        assert_eq!(privacy.strictest(), Mode::None);
    }

    #[test]
    fn keys_turn_are_shared_and_are_destroyed() {
        let dir = tempfile::tempdir().unwrap();
        let one = privacy(dir.path(), Mode::Pseudonym, &[]);
        let other = privacy(dir.path(), Mode::Pseudonym, &[]);
        let show = |privacy: &Privacy, at_us| {
            privacy.show(Mode::Pseudonym, client("192.0.2.77"), "10.0.0.1".parse().unwrap(), at_us)
        };
        let first = show(&one, 0);
        assert_eq!(first, show(&other, 0), "two processes with one directory agree");
        // The key of the day after is there before its time.
        assert_eq!(one.turn_keys(DAY_US - 1_000_000).unwrap(), [] as [i64; 0]);
        let second = show(&one, DAY_US);
        assert_ne!((first.client, first.key_epoch), (second.client, second.key_epoch));
        other.turn_keys(DAY_US).unwrap();
        assert_eq!(show(&other, DAY_US), second);
        assert_eq!(one.turn_keys(2 * DAY_US).unwrap(), [0], "two keys are kept");
        let files: Vec<_> =
            std::fs::read_dir(dir.path().join("keys")).unwrap().map(|file| file.unwrap().file_name()).collect();
        assert_eq!(files.len(), 2, "{files:?}");
    }
}
