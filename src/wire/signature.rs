//! Signatures: that a message is from one who holds the key. Over schema and hash, so a batch of any size costs the same.

use std::collections::BTreeMap;

use ring::hmac;
use ring::signature::{ED25519, Ed25519KeyPair, UnparsedPublicKey};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};

use super::{Error, Hash, hex};
use crate::ids::unhex;

const HMAC: &str = "hmac-sha256";
const EDDSA: &str = "ed25519";
const SECRET_BYTES_MIN: usize = 16;
/// What comes before the 32 bytes of an ed25519 key in its DER form (RFC 8410).
const PUBLIC_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// Signs messages.
pub struct SigningKey {
    id: String,
    secret: Secret,
}

enum Secret {
    Hmac(hmac::Key),
    Ed25519(Ed25519KeyPair),
}

/// A key file in PEM is ed25519; anything else is a shared secret, which ends before the white space that an editor adds.
fn is_pem(file: &[u8]) -> bool {
    file.starts_with(b"-----BEGIN")
}

impl SigningKey {
    /// What a key file holds: a private key as [`Self::ed25519`] takes it, or a secret as [`Self::hmac_sha256`] does.
    pub fn of_file(id: &str, file: &[u8]) -> Result<Self, Error> {
        if is_pem(file) { Self::ed25519(id, file) } else { Self::hmac_sha256(id, file.trim_ascii_end()) }
    }

    /// A shared secret of at least 16 bytes.
    pub fn hmac_sha256(id: &str, secret: &[u8]) -> Result<Self, Error> {
        Ok(Self { id: key_id(id)?, secret: Secret::Hmac(hmac_key(id, secret)?) })
    }

    /// A private key as `openssl genpkey -algorithm ed25519` writes it (PKCS#8 in PEM).
    pub fn ed25519(id: &str, pem: &[u8]) -> Result<Self, Error> {
        let wrong = || Error::Ed25519 { id: id.to_owned() };
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem).map_err(|_| wrong())?;
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der()).map_err(|_| wrong())?;
        Ok(Self { id: key_id(id)?, secret: Secret::Ed25519(pair) })
    }

    /// The header's value.
    pub(super) fn sign(&self, schema: &str, hash: &Hash) -> String {
        let text = signed_text(schema, hash);
        let (algorithm, signature) = match &self.secret {
            Secret::Hmac(key) => (HMAC, hex(hmac::sign(key, text.as_bytes()).as_ref())),
            Secret::Ed25519(pair) => (EDDSA, hex(pair.sign(text.as_bytes()).as_ref())),
        };
        format!("{algorithm} {} {signature}", self.id)
    }
}

/// Verifies messages.
pub struct VerifyingKey {
    id: String,
    key: Public,
}

enum Public {
    Hmac(hmac::Key),
    Ed25519([u8; 32]),
}

impl VerifyingKey {
    /// What a key file holds: a public key as [`Self::ed25519`] takes it, or a secret as [`Self::hmac_sha256`] does.
    pub fn of_file(id: &str, file: &[u8]) -> Result<Self, Error> {
        if is_pem(file) { Self::ed25519(id, file) } else { Self::hmac_sha256(id, file.trim_ascii_end()) }
    }

    /// A shared secret of at least 16 bytes.
    pub fn hmac_sha256(id: &str, secret: &[u8]) -> Result<Self, Error> {
        Ok(Self { id: key_id(id)?, key: Public::Hmac(hmac_key(id, secret)?) })
    }

    /// A public key as `openssl pkey -pubout` writes it (PEM).
    pub fn ed25519(id: &str, pem: &[u8]) -> Result<Self, Error> {
        let wrong = || Error::Ed25519 { id: id.to_owned() };
        let der = SubjectPublicKeyInfoDer::from_pem_slice(pem).map_err(|_| wrong())?;
        let key = der.as_ref().strip_prefix(&PUBLIC_PREFIX).and_then(|key| key.try_into().ok()).ok_or_else(wrong)?;
        Ok(Self { id: key_id(id)?, key: Public::Ed25519(key) })
    }

    fn verifies(&self, algorithm: &str, text: &[u8], signature: &[u8]) -> bool {
        match &self.key {
            Public::Hmac(key) => algorithm == HMAC && hmac::verify(key, text, signature).is_ok(),
            Public::Ed25519(key) => {
                algorithm == EDDSA && UnparsedPublicKey::new(&ED25519, key).verify(text, signature).is_ok()
            }
        }
    }
}

/// What is wrong with a signature.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Fault {
    /// Keys are configured, and it has none.
    #[error("is not signed")]
    Missing,
    /// Not the header's form.
    #[error("has a signature header that is none")]
    Malformed,
    /// Somebody else's, or a key that was taken away.
    #[error("is signed with key {0:?}, which is not known here")]
    UnknownKey(String),
    /// Not made with that key over this value.
    #[error("has a forged signature of key {0:?}")]
    Forged(String),
}

/// The keys that a reader trusts, by name.
#[derive(Default)]
pub(super) struct Keys(BTreeMap<String, VerifyingKey>);

impl Keys {
    pub(super) fn new(keys: Vec<VerifyingKey>) -> Self {
        Self(keys.into_iter().map(|key| (key.id.clone(), key)).collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn verify(&self, header: Option<&[u8]>, schema: &str, hash: &Hash) -> Result<(), Fault> {
        let header = header.ok_or(Fault::Missing)?;
        let mut words = str::from_utf8(header).map_err(|_| Fault::Malformed)?.split(' ');
        let (Some(algorithm), Some(id), Some(signature), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(Fault::Malformed);
        };
        let signature = unhex(signature.as_bytes()).ok_or(Fault::Malformed)?;
        let key = self.0.get(id).ok_or_else(|| Fault::UnknownKey(id.to_owned()))?;
        if !key.verifies(algorithm, signed_text(schema, hash).as_bytes(), &signature) {
            return Err(Fault::Forged(id.to_owned()));
        }
        Ok(())
    }
}

fn signed_text(schema: &str, hash: &Hash) -> String {
    format!("{schema} {hash}")
}

fn key_id(id: &str) -> Result<String, Error> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if id.is_empty() || id.len() > 64 || !id.bytes().all(good) {
        return Err(Error::KeyId(id.to_owned()));
    }
    Ok(id.to_owned())
}

fn hmac_key(id: &str, secret: &[u8]) -> Result<hmac::Key, Error> {
    if secret.len() < SECRET_BYTES_MIN {
        return Err(Error::ShortSecret { id: id.to_owned(), bytes: secret.len() });
    }
    Ok(hmac::Key::new(hmac::HMAC_SHA256, secret))
}
