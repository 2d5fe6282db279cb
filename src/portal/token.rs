//! Tokens: who may see what, and until when.
//!
//! ```text
//! weir1.<key>.<claims>.<signature>
//!        key        first 16 hexadecimal digits of the BLAKE3 of the public key: which of several it is
//!        claims     {"subject":…,"scope":"usage:read"|"query"|"admin","account":…,"not_before":…,"expires_at":…}, base64url; times in s since 1970
//!        signature  ed25519 over everything before the last dot, base64url
//! ```
//!
//! A token is good where its key is known, its signature holds, it is now between its two times, and these lie no further apart than
//! the portal's `token_valid_s_max`. `usage:read` names the one account that may be seen; `query` may ask the archive, of the one account
//! that it names or of all; `admin` names none and sees all. Nothing is
//! kept of a token: taking a key out of `public_keys` takes all its tokens back.
//!
//! A key is 32 secret octets in a file, 64 hexadecimal digits, as `weir geoip key` makes them; its public half lies beside it as `FILE.pub`.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use serde::{Deserialize, Serialize};

use crate::ids::{hex, unhex};

const VERSION: &str = "weir1";
/// No token of ours is longer.
const TOKEN_BYTES_MAX: usize = 2048;
/// Subjects and accounts.
const NAME_BYTES_MAX: usize = 255;
/// So much earlier than `not_before` a token is good: clocks differ.
const LEEWAY_S: u64 = 30;

/// What a token lets see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scope {
    /// The usage of one account.
    #[serde(rename = "usage:read")]
    UsageRead,
    /// The archive, by questions and reports: one account's, or all of it.
    #[serde(rename = "query")]
    Query,
    /// Everything.
    #[serde(rename = "admin")]
    Admin,
}

impl Scope {
    /// As tokens say it.
    pub fn name(self) -> &'static str {
        match self {
            Self::UsageRead => "usage:read",
            Self::Query => "query",
            Self::Admin => "admin",
        }
    }
}

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    /// Who, as it stands in the list of accesses.
    pub subject: String,
    /// What may be seen.
    pub scope: Scope,
    /// Whose usage; none with `admin`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// Good from then on, s since 1970.
    pub not_before: u64,
    /// Not good from then on, s since 1970.
    pub expires_at: u64,
}

impl Claims {
    /// Good from `now` on for so long.
    pub fn new(subject: &str, scope: Scope, account: Option<&str>, now: SystemTime, valid: Duration) -> Self {
        let not_before = seconds(now);
        let expires_at = not_before.saturating_add(valid.as_secs());
        Self { subject: subject.to_owned(), scope, account: account.map(str::to_owned), not_before, expires_at }
    }

    /// What no token may say.
    fn flaw(&self) -> Option<&'static str> {
        let is_name =
            |name: &str| !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.chars().any(char::is_control);
        match (&self.account, self.scope) {
            _ if !is_name(&self.subject) => Some("its subject is no name"),
            (Some(account), Scope::UsageRead | Scope::Query) if !is_name(account) => Some("its account is no name"),
            (None, Scope::UsageRead) => Some("usage:read names an account"),
            (Some(_), Scope::Admin) => Some("admin names no account: it sees all"),
            _ if self.not_before >= self.expires_at => Some("it ends before it begins"),
            _ => None,
        }
    }
}

/// What is wrong with a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Not the form above.
    #[error("it is no token of weir's")]
    Malformed,
    /// Somebody else's, or taken back.
    #[error("its key is not known here")]
    UnknownKey,
    /// Not signed with that key.
    #[error("it was altered")]
    Altered,
    /// Too early.
    #[error("it is not good yet")]
    NotYet,
    /// Too late.
    #[error("it has expired: ask for a new one")]
    Expired,
    /// Good for longer than any may be.
    #[error("it would be good for longer than token_valid_s_max")]
    TooLong,
    /// Claims that contradict one another.
    #[error("{0}")]
    Contradicts(&'static str),
}

/// What keys cannot do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file.
    #[error("cannot {operation} {}", path.display())]
    File {
        /// What was to be done.
        operation: &'static str,
        /// To which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Its content.
    #[error("{} does not hold a key: 64 hexadecimal digits", .0.display())]
    Key(PathBuf),
    /// What was to be signed.
    #[error("no such token is good: {0}")]
    Claims(&'static str),
}

/// The key that signs.
pub struct SigningKey(Ed25519KeyPair);

impl SigningKey {
    /// Makes one in a file that is not there yet, readable by its owner alone, and the public half beside it.
    pub fn make(path: &Path) -> Result<Self, Error> {
        let mut seed = [0; 32];
        let random = Path::new("/dev/urandom");
        std::fs::File::open(random)
            .and_then(|mut random| random.read_exact(&mut seed))
            .map_err(file("read", random))?;
        write_new(path, &hex(&seed), 0o600)?;
        let key = Self::read(path)?;
        write_new(&public_path(path), &key.public(), 0o644)?;
        Ok(key)
    }

    /// Of a file.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let wrong = || Error::Key(path.to_owned());
        Ed25519KeyPair::from_seed_unchecked(&read_key(path)?).map(Self).map_err(|_| wrong())
    }

    /// The public half in hexadecimal.
    pub fn public(&self) -> String {
        hex(self.0.public_key().as_ref())
    }

    /// A token that says this.
    pub fn sign(&self, claims: &Claims) -> Result<String, Error> {
        if let Some(flaw) = claims.flaw() {
            return Err(Error::Claims(flaw));
        }
        let json = serde_json::to_vec(claims).map_err(|_| Error::Claims("it cannot be written"))?;
        let signed = format!("{VERSION}.{}.{}", key_id(self.0.public_key().as_ref()), BASE64.encode(json));
        let signature = BASE64.encode(self.0.sign(signed.as_bytes()));
        Ok(format!("{signed}.{signature}"))
    }
}

/// The keys that tokens may be signed with.
pub struct PublicKeys {
    keys: Vec<(String, [u8; 32])>,
    valid_s_max: u64,
}

impl PublicKeys {
    /// Of files; each token is good for at most `valid_max`.
    pub fn read(paths: &[PathBuf], valid_max: Duration) -> Result<Self, Error> {
        let keys = paths.iter().map(|path| read_key(path).map(|key| (key_id(&key), key)));
        Ok(Self { keys: keys.collect::<Result<_, _>>()?, valid_s_max: valid_max.as_secs() })
    }

    /// What a token says, if it is good now.
    pub fn verify(&self, token: &str, now: SystemTime) -> Result<Claims, Refused> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Refused::Malformed);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(Refused::Malformed)?;
        let mut parts = signed.split('.');
        let (Some(VERSION), Some(id), Some(claims), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Refused::Malformed);
        };
        let signature = BASE64.decode(signature).map_err(|_| Refused::Malformed)?;
        let (_, key) = self.keys.iter().find(|(known, _)| known == id).ok_or(Refused::UnknownKey)?;
        let key = UnparsedPublicKey::new(&ED25519, key);
        key.verify(signed.as_bytes(), &signature).map_err(|_| Refused::Altered)?;
        let claims = BASE64.decode(claims).map_err(|_| Refused::Malformed)?;
        let claims: Claims = serde_json::from_slice(&claims).map_err(|_| Refused::Malformed)?;
        let now = seconds(now);
        match claims.flaw() {
            Some(flaw) => Err(Refused::Contradicts(flaw)),
            None if claims.expires_at - claims.not_before > self.valid_s_max => Err(Refused::TooLong),
            None if now >= claims.expires_at => Err(Refused::Expired),
            None if now + LEEWAY_S < claims.not_before => Err(Refused::NotYet),
            None => Ok(claims),
        }
    }
}

/// Where a key's public half lies.
pub fn public_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".pub");
    name.into()
}

fn key_id(public: &[u8]) -> String {
    hex(&blake3::hash(public).as_bytes()[..8])
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn file(operation: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { operation, path, source }
}

fn read_key(path: &Path) -> Result<[u8; 32], Error> {
    let text = std::fs::read_to_string(path).map_err(file("read", path))?;
    let key = unhex(text.trim().as_bytes()).and_then(|key| key.try_into().ok());
    key.ok_or_else(|| Error::Key(path.to_owned()))
}

fn write_new(path: &Path, digits: &str, mode: u32) -> Result<(), Error> {
    let mut made = OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(file("make", path))?;
    writeln!(made, "{digits}").and_then(|()| made.sync_all()).map_err(file("write", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(s)
    }

    fn keys(paths: &[PathBuf]) -> PublicKeys {
        PublicKeys::read(paths, Duration::from_secs(3600)).unwrap()
    }

    #[test]
    fn good_tokens_are_taken_and_all_others_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let (ours, theirs) = (directory.path().join("a"), directory.path().join("b"));
        let (key, foreign) = (SigningKey::make(&ours).unwrap(), SigningKey::make(&theirs).unwrap());
        let known = keys(&[public_path(&ours)]);
        let claims = Claims::new("jo", Scope::UsageRead, Some("acme"), at(1_000_000), Duration::from_secs(3600));
        let token = key.sign(&claims).unwrap();
        for (token, now, expected) in [
            (token.clone(), 1_000_000, Ok(claims.clone())),
            (token.clone(), 1_000_000 - LEEWAY_S, Ok(claims.clone())),
            (token.clone(), 1_000_000 - LEEWAY_S - 1, Err(Refused::NotYet)),
            (token.clone(), 1_003_599, Ok(claims.clone())),
            (token.clone(), 1_003_600, Err(Refused::Expired)),
            (foreign.sign(&claims).unwrap(), 1_000_000, Err(Refused::UnknownKey)),
            (key.sign(&Claims { expires_at: 1_003_601, ..claims.clone() }).unwrap(), 1_000_000, Err(Refused::TooLong)),
            (format!("{token}{}", "A".repeat(3000)), 1_000_000, Err(Refused::Malformed)),
            (String::new(), 1_000_000, Err(Refused::Malformed)),
            ("weir1.a.b".to_owned(), 1_000_000, Err(Refused::Malformed)),
            (token.replace("weir1", "weir2"), 1_000_000, Err(Refused::Malformed)),
        ] {
            assert_eq!(known.verify(&token, at(now)), expected, "{token} at {now}");
        }
        // While keys change both are good; the old one's tokens end with it.
        let both = keys(&[public_path(&ours), public_path(&theirs)]);
        assert!(both.verify(&foreign.sign(&claims).unwrap(), at(1_000_000)).is_ok());
    }

    #[test]
    fn no_octet_of_a_token_can_be_altered() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        let key = SigningKey::make(&path).unwrap();
        let known = keys(&[public_path(&path)]);
        let claims = Claims::new("jo", Scope::UsageRead, Some("acme"), at(1_000_000), Duration::from_secs(60));
        let token = key.sign(&claims).unwrap();
        for place in 0..token.len() {
            for with in ['A', 'B', '.', '-'] {
                let mut altered = token.clone();
                altered.replace_range(place..=place, &with.to_string());
                if altered != token {
                    assert!(known.verify(&altered, at(1_000_000)).is_err(), "{altered}");
                }
            }
        }
        // The same key id before claims that another key signed.
        let other = SigningKey::make(&directory.path().join("other")).unwrap();
        let forged = other.sign(&Claims { account: Some("globex".into()), ..claims }).unwrap();
        let mut parts: Vec<&str> = forged.split('.').collect();
        parts[1] = token.split('.').nth(1).unwrap();
        assert_eq!(known.verify(&parts.join("."), at(1_000_000)), Err(Refused::Altered));
    }

    #[test]
    fn claims_that_contradict_one_another_are_not_signed() {
        let directory = tempfile::tempdir().unwrap();
        let key = SigningKey::make(&directory.path().join("key")).unwrap();
        let valid = Duration::from_secs(60);
        for (scope, account, subject, valid) in [
            (Scope::UsageRead, None, "jo", valid),
            (Scope::UsageRead, Some(""), "jo", valid),
            (Scope::UsageRead, Some("a\0b"), "jo", valid),
            (Scope::Admin, Some("acme"), "jo", valid),
            (Scope::Admin, None, "", valid),
            (Scope::Admin, None, "jo", Duration::ZERO),
        ] {
            assert!(key.sign(&Claims::new(subject, scope, account, at(1), valid)).is_err());
        }
        assert!(SigningKey::make(&directory.path().join("key")).is_err(), "a key is never written over");
    }
}
