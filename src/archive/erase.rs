//! Erasure: what is known of somebody goes, what is owed stays.
//!
//! * **An account**: its keys are destroyed, on all days; and in all of its rows, what says anything of people is emptied.
//! * **An address**: the rows that have it, whole or encrypted, as client or peer, are emptied likewise; the keys stay, for they are
//!   others' too.
//!
//! *Emptied* ([`EMPTIED`]): addresses, ports, path, SNI, certificate's subject, city, region, organisation. *Kept*: whose bill it was, when, how
//! much, for which host, from which country, and the position of each record: so every sum, every seq and every bill is as before. Rows keep their
//! places; files that have such rows are written anew, the old ones removed at once, and one commit says so, with a
//! [`Certificate`].
//!
//! The certificate names nobody: it has the BLAKE3 of a receipt, which whoever asked is given, and of what was asked for. Who has both can
//! show that the certificate is about them; who has the archive cannot tell whom it was about.
//!
//! **A legal hold wins**: where one covers any of the rows, nothing is erased, and the error says which.
//!
//! **What comes later** is not erased: records that are still on their way to the archive are there once they have come. A writer that
//! runs goes on with a key that was destroyed until it ends or the day does: what it wrote with it can be read by nobody.
//!
//! **A crash** before the commit changes nothing but keys that are gone, and the rest is done by doing it again; after the commit old files
//! may be left, and so may files that a crash of a writer left unnamed: the sweep removes both within the hour.

use arrow_array::builder::FixedSizeBinaryBuilder;
use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef, DictionaryArray, Int32Array, RecordBatch, StringArray};
use arrow_schema::DataType;
use ring::rand::{SecureRandom, SystemRandom};
use std::net::IpAddr;
use std::sync::Arc;

use super::file::{self, Effort, Encoded};
use super::keys::Keys;
use super::manifest::{Certificate, Commit, File, Manifest, Removed, Why};
use super::schema::{Table, bucket, octets};
use super::{Error, Place, proof, upkeep};
use crate::ids::hex;
use crate::wire::Hash;

/// Columns that say something of people.
pub const EMPTIED: [&str; 11] = [
    "client_ip",
    "client_ip_sealed",
    "client_port",
    "peer_ip",
    "peer_ip_sealed",
    "path",
    "sni",
    "tls_subject",
    "city",
    "region",
    "as_org",
];
const ADDRESSES: [(&str, &str); 2] = [("client_ip", "client_ip_sealed"), ("peer_ip", "peer_ip_sealed")];

/// Whose data is to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// All of an account's.
    Account(String),
    /// All of an address's.
    Address(IpAddr),
}

impl Subject {
    fn kind(&self) -> &'static str {
        match self {
            Self::Account(_) => "account",
            Self::Address(_) => "address",
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Account(account) => account.clone(),
            Self::Address(address) => address.to_canonical().to_string(),
        }
    }
}

/// What was erased, or would be.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Erased {
    /// For whoever asked; nobody else has it. None where nothing was done.
    pub receipt: Option<String>,
    /// What the manifest has of it.
    pub certificate: Certificate,
}

/// Erases; or, with `is_rehearsal`, says what would be.
pub fn erase(
    place: &Place,
    keys: Option<&mut Keys>,
    subject: &Subject,
    (actor, at_us): (&str, i64),
    is_rehearsal: bool,
) -> Result<Erased, Error> {
    let mut manifest = Manifest::read(place)?;
    let mut keys = keys;
    let affected = affected(place, &manifest, keys.as_deref_mut(), subject)?;
    let mut secret = [0; 16];
    SystemRandom::new().fill(&mut secret).map_err(|_| Error::NoRandomness)?;
    let receipt = hex(&secret);
    let mut certificate = Certificate {
        subject: Hash::of(format!("{receipt} {}", subject.text()).as_bytes()),
        kind: subject.kind().to_owned(),
        actor: actor.to_owned(),
        at_us,
        keys: 0,
        files: affected.len() as i64,
        rows: affected.iter().map(|(_, rows)| rows.iter().filter(|is_theirs| **is_theirs).count() as i64).sum(),
    };
    if is_rehearsal {
        return Ok(Erased { receipt: None, certificate });
    }
    if let (Subject::Account(account), Some(keys)) = (subject, keys) {
        certificate.keys = keys.destroy(account)?;
    }
    let mut commit = Commit::after(&manifest, at_us, Why::Erase);
    for (file, is_theirs) in &affected {
        let rows = emptied(file.table, &upkeep::read(place, file)?, is_theirs)?;
        let of = (file.hour_us, file.bucket, file.buckets);
        let encoded = Encoded::new(file.table, of, commit.number, &rows, Effort::Thorough)?;
        assert_eq!((encoded.file.sums, encoded.file.rows), (file.sums, file.rows), "erasing changes no sum");
        commit.add.push(encoded.write(place)?);
        commit.remove.push(Removed { path: file.path.clone(), is_replaced: true });
    }
    commit.certificate = Some(certificate.clone());
    if !manifest.commit(place, commit)? {
        return Err(Error::Busy);
    }
    // At once, whoever may be reading: these, and those that were joined and left for readers.
    for path in manifest.removed_since(place, at_us - 2 * upkeep::LEFT_ALONE_US)? {
        place.remove(&path)?;
        place.remove(&proof::path(&path))?;
    }
    Ok(Erased { receipt: Some(receipt), certificate })
}

/// Files that have rows of theirs, and which rows.
fn affected(
    place: &Place,
    manifest: &Manifest,
    mut keys: Option<&mut Keys>,
    subject: &Subject,
) -> Result<Vec<(File, Vec<bool>)>, Error> {
    let mut affected = Vec::new();
    for file in manifest.files.values().filter(|file| file.table != Table::Nodes) {
        if let Subject::Account(account) = subject
            && bucket(account, file.buckets) != file.bucket
        {
            continue;
        }
        let rows = upkeep::read(place, file)?;
        let is_theirs = theirs(file.table, &rows, keys.as_deref_mut(), subject)?;
        if !is_theirs.contains(&true) {
            continue;
        }
        held(manifest, file, &rows, &is_theirs)?;
        affected.push((file.clone(), is_theirs));
    }
    Ok(affected)
}

/// An error where a legal hold has any of these rows.
fn held(manifest: &Manifest, file: &File, rows: &RecordBatch, is_theirs: &[bool]) -> Result<(), Error> {
    let at = file::column::<TimestampMicrosecondType>(file.table, rows, "at")?;
    let (accounts, account) = file::words_of(file.table, rows, "account")?;
    for (row, _) in is_theirs.iter().enumerate().filter(|(_, is_theirs)| **is_theirs) {
        let account = accounts.get(account[row]).map_or("", String::as_str);
        if let Some(hold) = manifest.hold_on(account, at.value(row), at.value(row) + 1) {
            return Err(Error::Held { name: hold.name.clone(), reason: hold.reason.clone() });
        }
    }
    Ok(())
}

fn theirs(table: Table, rows: &RecordBatch, keys: Option<&mut Keys>, subject: &Subject) -> Result<Vec<bool>, Error> {
    let (accounts, account) = file::words_of(table, rows, "account")?;
    let name = |row: usize| accounts.get(account[row]).map_or("", String::as_str);
    let address = match subject {
        Subject::Account(wanted) => return Ok((0..rows.num_rows()).map(|row| name(row) == wanted).collect()),
        Subject::Address(address) => octets(address.to_canonical()),
    };
    let at = file::column::<TimestampMicrosecondType>(table, rows, "at")?;
    let mut keys = keys;
    let mut is_theirs = Vec::with_capacity(rows.num_rows());
    for row in 0..rows.num_rows() {
        let sealed = match keys.as_deref_mut() {
            Some(keys) => keys.sealed(name(row), at.value(row), address)?,
            None => None,
        };
        let has = |name: &str, wanted: Option<[u8; 16]>| {
            let column = rows.column_by_name(name).and_then(|column| column.as_fixed_size_binary_opt());
            let value = column.filter(|column| column.is_valid(row)).map(|column| column.value(row));
            value.is_some() && value == wanted.as_ref().map(|bytes| bytes.as_slice())
        };
        is_theirs.push(ADDRESSES.iter().any(|(plain, hidden)| has(plain, Some(address)) || has(hidden, sealed)));
    }
    Ok(is_theirs)
}

/// The same rows, of which some say nothing of people any more.
fn emptied(table: Table, rows: &RecordBatch, is_theirs: &[bool]) -> Result<RecordBatch, Error> {
    let mut columns = rows.columns().to_vec();
    for (at, field) in rows.schema().fields().iter().enumerate() {
        if EMPTIED.contains(&field.name().as_str()) {
            columns[at] = emptied_column(&columns[at], is_theirs);
        }
    }
    RecordBatch::try_new(rows.schema(), columns).map_err(|source| Error::Columns { table: table.name(), source })
}

fn emptied_column(column: &ArrayRef, is_theirs: &[bool]) -> ArrayRef {
    let rows = 0..column.len();
    match column.data_type() {
        DataType::FixedSizeBinary(_) => {
            let values = column.as_fixed_size_binary();
            let mut kept = FixedSizeBinaryBuilder::new(16);
            for row in rows {
                let is_kept = !is_theirs[row] && values.is_valid(row);
                if !is_kept || kept.append_value(values.value(row)).is_err() {
                    kept.append_null();
                }
            }
            Arc::new(kept.finish())
        }
        DataType::Int32 => {
            let values = column.as_primitive::<Int32Type>();
            Arc::new(Int32Array::from_iter_values(rows.map(|row| if is_theirs[row] { 0 } else { values.value(row) })))
        }
        DataType::Dictionary(..) => {
            // Anew: a dictionary must not keep words that no row has.
            let values = column.as_dictionary::<Int32Type>();
            let words = values.values().as_string::<i32>();
            let keys = values.keys().values();
            let word = |row: usize| if is_theirs[row] { "" } else { words.value(keys[row] as usize) };
            Arc::new(rows.map(word).collect::<DictionaryArray<Int32Type>>())
        }
        _ => {
            let values = column.as_string::<i32>();
            let texts = rows.map(|row| if is_theirs[row] { "" } else { values.value(row) });
            Arc::new(StringArray::from_iter_values(texts))
        }
    }
}
