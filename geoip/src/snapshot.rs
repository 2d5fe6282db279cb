//! A table in a file: compact, verified, and signed where it matters. A fleet loads it instead of compiling.
//!
//! ```text
//! "WEIRGEO2"
//! u32 length, then JSON: what it was made of (TableFacts), and how long the sections are
//! the sections, zstd: all arrays of the table, little-endian, each after its count
//! 32 octets: SHA-256 of everything above
//! 64 octets, if signed: Ed25519 signature of that digest
//! ```
//!
//! A file that is short, long, changed in one bit, or signed by another is refused. What its numbers point to is checked
//! once, here, so that a look-up never has to. A file is written beside its name and renamed when it is safe on the disk.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::address::Scope;
use crate::names::Names;
use crate::packed::Packed;
use crate::record::{Account, Label, Network, Place, Records, Row};
use crate::source::hexadecimal;
use crate::table::{Table4, Table6};
use crate::{Error, Table, TableFacts};

const MAGIC: &[u8; 8] = b"WEIRGEO2";
const DIGEST_BYTES: usize = 32;
const SIGNATURE_BYTES: usize = 64;
/// A manifest of 250 sources is far below.
const HEADER_BYTES_MAX: usize = 1 << 20;
/// The city schema needs 100 MB.
const SECTIONS_BYTES_MAX: u64 = 2 << 30;
/// Of an array at a time.
const PIECE_BYTES: usize = 64 << 10;
const ZSTD_LEVEL: i32 = 3;

/// Why a snapshot cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// It does not begin as one.
    #[error("it is no snapshot, or one of another version")]
    Magic,
    /// It is not as long as it says, or its digest is another.
    #[error("it is damaged or cut short")]
    Damaged,
    /// Its manifest cannot be read.
    #[error("its manifest cannot be read")]
    Manifest(#[from] serde_json::Error),
    /// Its sections cannot be unpacked.
    #[error("its sections cannot be unpacked")]
    Unpack(#[from] std::io::Error),
    /// Its arrays contradict one another, though nothing is damaged.
    #[error("its {0} contradict one another")]
    Contradiction(&'static str),
    /// Nobody signed it, and a signature is wanted.
    #[error("it is not signed")]
    Unsigned,
    /// Somebody else signed it.
    #[error("its signature is not of the key given")]
    Signature,
    /// A key file is not 64 hexadecimal digits.
    #[error("{} does not hold a key: 64 hexadecimal digits", .0.display())]
    Key(PathBuf),
}

#[derive(Serialize, Deserialize)]
struct Header {
    facts: TableFacts,
    sections_bytes: u64,
}

/// The key that signs.
pub struct SigningKey(Ed25519KeyPair);

impl SigningKey {
    /// Of 32 secret octets in a file, in hexadecimal.
    pub fn read(path: &Path) -> Result<SigningKey, Error> {
        let wrong = || snapshot_error(path, SnapshotError::Key(path.to_path_buf()));
        let seed = key(path)?;
        Ed25519KeyPair::from_seed_unchecked(&seed).map(SigningKey).map_err(|_| wrong())
    }

    /// The public half in hexadecimal.
    pub fn public(&self) -> String {
        hexadecimal(self.0.public_key().as_ref())
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningKey({})", self.public())
    }
}

fn key(path: &Path) -> Result<[u8; 32], Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_path_buf(), source })?;
    let text = text.trim();
    let mut key = [0; 32];
    let digits = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    for (position, byte) in key.iter_mut().enumerate() {
        let pair = text.get(2 * position..2 * position + 2).filter(|_| digits);
        *byte = pair
            .and_then(|pair| u8::from_str_radix(pair, 16).ok())
            .ok_or_else(|| snapshot_error(path, SnapshotError::Key(path.to_path_buf())))?;
    }
    Ok(key)
}

fn snapshot_error(path: &Path, source: SnapshotError) -> Error {
    Error::Snapshot { path: path.to_path_buf(), source }
}

/// Writes a table to a file, signed or not.
pub fn write(table: &Table, path: &Path, key: Option<&SigningKey>) -> Result<(), Error> {
    let failed = |source| Error::Write { path: path.to_path_buf(), source };
    let file = encode(table, key).map_err(failed)?;
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let mut out = std::fs::File::create(&beside).map_err(failed)?;
    out.write_all(&file).map_err(failed)?;
    out.sync_all().map_err(failed)?;
    std::fs::rename(&beside, path).map_err(failed)
}

/// The file's content.
pub fn encode(table: &Table, key: Option<&SigningKey>) -> std::io::Result<Vec<u8>> {
    let mut sections = Vec::new();
    put_sections(table, &mut |bytes| sections.extend_from_slice(bytes));
    let header = Header { facts: table.facts.clone(), sections_bytes: sections.len() as u64 };
    let header = serde_json::to_vec(&header)?;
    let mut file = MAGIC.to_vec();
    file.extend_from_slice(&(header.len() as u32).to_le_bytes());
    file.extend_from_slice(&header);
    file.extend_from_slice(&zstd::encode_all(sections.as_slice(), ZSTD_LEVEL)?);
    let digest = Sha256::digest(&file);
    file.extend_from_slice(&digest);
    if let Some(key) = key {
        file.extend_from_slice(key.0.sign(&digest).as_ref());
    }
    Ok(file)
}

/// Reads a file. With a public key's file, only what that key signed.
pub fn read(path: &Path, public_key: Option<&Path>) -> Result<Table, Error> {
    let public_key = public_key.map(key).transpose()?;
    let file = std::fs::read(path).map_err(|source| Error::Read { path: path.to_path_buf(), source })?;
    decode(&file, public_key.as_ref()).map_err(|source| snapshot_error(path, source))
}

/// A table of a file's content.
pub fn decode(file: &[u8], public_key: Option<&[u8; 32]>) -> Result<Table, SnapshotError> {
    if file.get(..MAGIC.len()) != Some(MAGIC) {
        return Err(SnapshotError::Magic);
    }
    let signed = |end: usize| {
        let (body, digest) = file.get(..end)?.split_at_checked(end.checked_sub(DIGEST_BYTES)?)?;
        (Sha256::digest(body)[..] == *digest).then_some((body, digest))
    };
    let body = match signed(file.len()) {
        Some((body, _)) if public_key.is_none() => body,
        Some(_) => return Err(SnapshotError::Unsigned),
        None => {
            let end = file.len().saturating_sub(SIGNATURE_BYTES);
            let (body, digest) = signed(end).ok_or(SnapshotError::Damaged)?;
            if let Some(public_key) = public_key {
                let signature = file.get(end..).unwrap_or_default();
                UnparsedPublicKey::new(&ED25519, public_key)
                    .verify(digest, signature)
                    .map_err(|_| SnapshotError::Signature)?;
            }
            body
        }
    };
    let rest = body.get(MAGIC.len()..).unwrap_or_default();
    let (length, rest) = rest.split_first_chunk::<4>().ok_or(SnapshotError::Damaged)?;
    let length = u32::from_le_bytes(*length) as usize;
    let (header, packed) =
        rest.split_at_checked(length).filter(|_| length <= HEADER_BYTES_MAX).ok_or(SnapshotError::Damaged)?;
    let header: Header = serde_json::from_slice(header)?;
    if header.sections_bytes > SECTIONS_BYTES_MAX {
        return Err(SnapshotError::Contradiction("lengths"));
    }
    let mut sections = Vec::new();
    // One octet more than it says would be a contradiction.
    zstd::Decoder::new(packed)?.take(header.sections_bytes + 1).read_to_end(&mut sections)?;
    if sections.len() as u64 != header.sections_bytes {
        return Err(SnapshotError::Contradiction("lengths"));
    }
    let said = header.facts.id.clone();
    let table = take_sections(&sections, header.facts)?;
    if table.id() != said {
        return Err(SnapshotError::Contradiction("id and content"));
    }
    Ok(table)
}

/// SHA-256 of everything that a table says, and of what its sources were.
pub(crate) fn id(table: &Table) -> String {
    let mut digest = Sha256::new();
    put_sections(table, &mut |bytes| digest.update(bytes));
    for source in &table.facts.sources {
        digest.update(source.name.as_bytes());
        digest.update(source.sha256.as_bytes());
    }
    hexadecimal(&digest.finalize())
}

fn put_sections(table: &Table, put: &mut dyn FnMut(&[u8])) {
    let Table { v4, v6, records, .. } = table;
    let u32s = |values: &[u32], put: &mut dyn FnMut(&[u8])| {
        array(values.iter(), put, |value, out| out.extend(value.to_le_bytes()));
    };
    u32s(&v4.roots, put);
    array(v4.keys.keys().iter(), put, |key, out| out.extend(key.to_le_bytes()));
    rows(&v4.values, put);
    u32s(&v6.roots, put);
    u32s(v6.keys.keys(), put);
    rows(&v6.values, put);
    u32s(&v6.run_ends, put);
    array(v6.run_keys.iter(), put, |key, out| out.extend(key.to_le_bytes()));
    rows(&v6.run_values, put);
    rows(&records.rows, put);
    array(records.places.iter(), put, |place, out| {
        [place.country, place.region, place.city].iter().for_each(|part| out.extend(part.to_le_bytes()));
        out.extend([place.country_source, place.region_source, place.city_source, place.scope as u8]);
    });
    array(records.networks.iter(), put, |network, out| {
        [network.asn, network.as_org].iter().for_each(|part| out.extend(part.to_le_bytes()));
        out.extend([network.asn_source, network.as_org_source]);
    });
    array(records.labels.iter(), put, |label, out| {
        out.extend(label.name.to_le_bytes());
        out.push(label.source);
    });
    u32s(&records.label_ends, put);
    array(records.accounts.iter(), put, |account, out| {
        [account.account, account.reference].iter().for_each(|part| out.extend(part.to_le_bytes()));
    });
    u32s(&records.names.ends, put);
    put(&(records.names.text.len() as u64).to_le_bytes());
    put(records.names.text.as_bytes());
}

/// Rows as words, however they are packed.
fn rows<const N: usize>(rows: &Packed<N>, put: &mut dyn FnMut(&[u8])) {
    array(rows.iter(), put, |row, out| row.iter().for_each(|part| out.extend(part.to_le_bytes())));
}

/// An array after its count, in pieces of some size.
fn array<T>(values: impl ExactSizeIterator<Item = T>, put: &mut dyn FnMut(&[u8]), encode: impl Fn(T, &mut Vec<u8>)) {
    put(&(values.len() as u64).to_le_bytes());
    let mut piece = Vec::with_capacity(PIECE_BYTES);
    for value in values {
        encode(value, &mut piece);
        if piece.len() >= PIECE_BYTES {
            put(&piece);
            piece.clear();
        }
    }
    put(&piece);
}

fn take_sections(sections: &[u8], facts: TableFacts) -> Result<Table, SnapshotError> {
    let mut rest = sections;
    let u32s = |rest: &mut &[u8]| take(rest, |bytes: &[u8; 4]| u32::from_le_bytes(*bytes));
    let roots4 = u32s(&mut rest)?;
    let keys4 = take(&mut rest, |bytes: &[u8; 2]| u16::from_le_bytes(*bytes))?;
    let v4 = Table4::of(&roots4, &keys4, &u32s(&mut rest)?);
    let (roots6, keys6, values6, run_ends) = (u32s(&mut rest)?, u32s(&mut rest)?, u32s(&mut rest)?, u32s(&mut rest)?);
    let run_keys = take(&mut rest, |bytes: &[u8; 16]| u128::from_le_bytes(*bytes))?;
    let run_values = u32s(&mut rest)?;
    let word = |bytes: &[u8], at: usize| {
        bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes)
    };
    let rows = take(&mut rest, |b: &[u8; 16]| Row {
        place: word(b, 0),
        network: word(b, 4),
        labels: word(b, 8),
        account: word(b, 12),
    })?;
    let v6 = Table6::of([&roots6, &keys6, &values6], &run_ends, &run_keys, &run_values, rows.len() as u32);
    let places = take(&mut rest, |b: &[u8; 16]| {
        let place = Place {
            country: word(b, 0),
            region: word(b, 4),
            city: word(b, 8),
            country_source: b[12],
            region_source: b[13],
            city_source: b[14],
            scope: Scope::Global,
        };
        Scope::from_number(b[15]).map(|scope| Place { scope, ..place })
    })?;
    let places = places.into_iter().collect::<Option<Vec<_>>>().ok_or(SnapshotError::Contradiction("scopes"))?;
    let networks = take(&mut rest, |b: &[u8; 10]| Network {
        asn: word(b, 0),
        as_org: word(b, 4),
        asn_source: b[8],
        as_org_source: b[9],
    })?;
    let labels = take(&mut rest, |b: &[u8; 5]| Label { name: word(b, 0), source: b[4] })?;
    let label_ends = u32s(&mut rest)?;
    let accounts = take(&mut rest, |b: &[u8; 8]| Account { account: word(b, 0), reference: word(b, 4) })?;
    let ends = u32s(&mut rest)?;
    let text = take(&mut rest, |b: &[u8; 1]| b[0])?;
    let text = String::from_utf8(text).map_err(|_| SnapshotError::Contradiction("texts"))?;
    if !rest.is_empty() {
        return Err(SnapshotError::Contradiction("lengths"));
    }
    if !v4.is_sound(rows.len()) || !v6.is_sound(rows.len()) {
        return Err(SnapshotError::Contradiction("ranges"));
    }
    let names = Names { text, ends };
    let records = Records { rows: Records::pack(&rows), places, networks, labels, label_ends, accounts, names };
    Ok(Table::new(v4, v6, records, facts))
}

/// An array after its count. What numbers in it point to need not be there: reading a record then finds nothing.
fn take<const N: usize, T>(rest: &mut &[u8], decode: impl Fn(&[u8; N]) -> T) -> Result<Vec<T>, SnapshotError> {
    let short = SnapshotError::Contradiction("lengths");
    let Some((count, after)) = rest.split_first_chunk::<8>() else { return Err(short) };
    let bytes = usize::try_from(u64::from_le_bytes(*count)).ok().and_then(|count| count.checked_mul(N));
    let Some((array, after)) = bytes.and_then(|bytes| after.split_at_checked(bytes)) else { return Err(short) };
    *rest = after;
    Ok(array.as_chunks::<N>().0.iter().map(decode).collect())
}
