//! Erasure: what is known of somebody goes, what is owed stays.
//!
//! * **An account**: its keys are destroyed, on all days; and in all of its rows, what says anything of people is emptied.
//! * **An address**: the rows that have it, as client or peer, in whatever form a record keeps it (`trace.rs`), are emptied likewise; the
//!   keys stay, for they are others' too. Rows that keep only a network it lies in, and rows that nobody can read any more, are left,
//!   and the certificate says how many.
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
//! **What comes later** is not erased: records that are still on their way to the archive are there once they have come, under new keys. Keys
//! are destroyed before the manifest is read, and a writer that runs notices it before its next commit (`keys.rs`): whatever
//! a destroyed key has encrypted is emptied too.
//!
//! **A crash** before the commit changes nothing but keys that are gone, and the rest is done by doing it again; after the commit old files
//! may be left, and so may files that a crash of a writer left unnamed: the sweep removes both within the hour.

use arrow_array::builder::FixedSizeBinaryBuilder;
use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef, DictionaryArray, Int32Array, RecordBatch, StringArray};
use arrow_schema::DataType;
use ring::rand::{SecureRandom, SystemRandom};
use std::sync::Arc;

use super::file::{self, Effort, Encoder, PAGE_ROWS};
use super::keys::Keys;
use super::manifest::{Certificate, Commit, File, Manifest, Removed, Why};
use super::schema::{Table, bucket};
use super::trace::{Trace, Traces};
use super::{Error, Place, proof, upkeep};
use crate::event::AddressForm;
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

/// Others may commit while files are written anew: so often it is begun again.
const ATTEMPTS: usize = 5;

/// Whose data is to go.
pub enum Subject {
    /// All of an account's.
    Account(String),
    /// All of an address's.
    Address(Traces),
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
            Self::Address(traces) => traces.address().to_string(),
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
    mut keys: Option<&mut Keys>,
    subject: &Subject,
    (actor, at_us): (&str, i64),
    is_rehearsal: bool,
) -> Result<Erased, Error> {
    let mut secret = [0; 16];
    SystemRandom::new().fill(&mut secret).map_err(|_| Error::NoRandomness)?;
    let receipt = hex(&secret);
    // Before anything is destroyed: nothing may be held.
    let mut affected = Affected::of(place, &Manifest::read(place)?, keys.as_deref_mut(), subject)?;
    let mut certificate = Certificate {
        subject: Hash::of(format!("{receipt} {}", subject.text()).as_bytes()),
        kind: subject.kind().to_owned(),
        actor: actor.to_owned(),
        at_us,
        keys: 0,
        files: affected.files.len() as i64,
        rows: affected.rows,
        rows_of_network: affected.rows_of_network,
        rows_unreadable: affected.rows_unreadable,
    };
    if is_rehearsal {
        return Ok(Erased { receipt: None, certificate });
    }
    if let (Subject::Account(account), Some(keys)) = (subject, keys.as_deref_mut()) {
        certificate.keys = keys.destroy(account)?;
    }
    for _ in 0..ATTEMPTS {
        let mut manifest = Manifest::read(place)?;
        affected = Affected::of(place, &manifest, keys.as_deref_mut(), subject)?;
        (certificate.files, certificate.rows) = (affected.files.len() as i64, affected.rows);
        (certificate.rows_of_network, certificate.rows_unreadable) =
            (affected.rows_of_network, affected.rows_unreadable);
        let mut commit = Commit::after(&manifest, at_us, Why::Erase);
        for file in &affected.files {
            commit.add.push(rewritten(place, file, commit.number, keys.as_deref_mut(), subject)?);
            commit.remove.push(Removed { path: file.path.clone(), is_replaced: true });
        }
        commit.certificate = Some(certificate.clone());
        if !manifest.commit(place, commit)? {
            continue;
        }
        // At once, whoever may be reading: these, and those that were joined and left for readers.
        for path in manifest.removed_since(place, at_us - 2 * upkeep::LEFT_ALONE_US)? {
            place.remove(&path)?;
            place.remove(&proof::path(&path))?;
        }
        return Ok(Erased { receipt: Some(receipt), certificate });
    }
    Err(Error::Busy)
}

/// What has to do with a subject.
#[derive(Default)]
struct Affected {
    /// Files that have rows of theirs.
    files: Vec<File>,
    rows: i64,
    rows_of_network: i64,
    rows_unreadable: i64,
}

impl Affected {
    /// An error where a legal hold has any of the rows.
    fn of(place: &Place, manifest: &Manifest, mut keys: Option<&mut Keys>, subject: &Subject) -> Result<Self, Error> {
        let mut affected = Self::default();
        for file in manifest.files.values().filter(|file| file.table != Table::Nodes) {
            if let Subject::Account(account) = subject
                && bucket(account, file.buckets) != file.bucket
            {
                continue;
            }
            let before = affected.rows;
            for rows in upkeep::open(place, file, PAGE_ROWS)? {
                let rows = rows?;
                let traces = traces_in(file.table, &rows, keys.as_deref_mut(), subject)?;
                let count = |wanted: Trace| traces.iter().filter(|trace| **trace == wanted).count() as i64;
                affected.rows_of_network += count(Trace::Network);
                affected.rows_unreadable += count(Trace::Unreadable);
                if count(Trace::Theirs) > 0 {
                    held(manifest, file, &rows, &traces)?;
                    affected.rows += count(Trace::Theirs);
                }
            }
            if affected.rows > before {
                affected.files.push(file.clone());
            }
        }
        Ok(affected)
    }
}

/// A file without what it says of them.
fn rewritten(
    place: &Place,
    file: &File,
    number: u64,
    mut keys: Option<&mut Keys>,
    subject: &Subject,
) -> Result<File, Error> {
    let of = (file.hour_us, file.bucket, file.buckets);
    let expected = usize::try_from(file.rows).unwrap_or(0);
    let mut encoder = Encoder::new(file.table, of, number, expected, Effort::Thorough)?;
    for rows in upkeep::open(place, file, PAGE_ROWS)? {
        let rows = rows?;
        let traces = traces_in(file.table, &rows, keys.as_deref_mut(), subject)?;
        let is_theirs: Vec<bool> = traces.into_iter().map(|trace| trace == Trace::Theirs).collect();
        encoder.push(&emptied(file.table, &rows, &is_theirs)?)?;
    }
    let written = encoder.finish()?.write(place)?;
    upkeep::same(std::slice::from_ref(file), &written)?;
    Ok(written)
}

/// An error where a legal hold has any of their rows.
fn held(manifest: &Manifest, file: &File, rows: &RecordBatch, traces: &[Trace]) -> Result<(), Error> {
    let at = file::column::<TimestampMicrosecondType>(file.table, rows, "at")?;
    let (accounts, account) = file::words_of(file.table, rows, "account")?;
    for (row, _) in traces.iter().enumerate().filter(|(_, trace)| **trace == Trace::Theirs) {
        let account = accounts.get(account[row]).map_or("", String::as_str);
        if let Some(hold) = manifest.hold_on(account, at.value(row), at.value(row) + 1) {
            return Err(Error::Held { name: hold.name.clone(), reason: hold.reason.clone() });
        }
    }
    Ok(())
}

/// What each row has to do with a subject.
fn traces_in(
    table: Table,
    rows: &RecordBatch,
    mut keys: Option<&mut Keys>,
    subject: &Subject,
) -> Result<Vec<Trace>, Error> {
    let (accounts, account) = file::words_of(table, rows, "account")?;
    let name = |row: usize| accounts.get(account[row]).map_or("", String::as_str);
    let wanted = match subject {
        Subject::Account(wanted) => {
            let trace = |row| if name(row) == wanted { Trace::Theirs } else { Trace::Others };
            return Ok((0..rows.num_rows()).map(trace).collect());
        }
        Subject::Address(wanted) => wanted,
    };
    let at = file::column::<TimestampMicrosecondType>(table, rows, "at")?;
    let key_epoch = file::column::<Int64Type>(table, rows, "key_epoch")?;
    let (forms, form) = file::words_of(table, rows, "address_form")?;
    let forms: Vec<Option<AddressForm>> = forms.iter().map(|name| AddressForm::of_name(name)).collect();
    let bytes = |name: &str, row: usize| -> Option<[u8; 16]> {
        let column = rows.column_by_name(name)?.as_fixed_size_binary_opt()?;
        if column.is_valid(row) { column.value(row).try_into().ok() } else { None }
    };
    let mut traces = Vec::with_capacity(rows.num_rows());
    for row in 0..rows.num_rows() {
        let mut trace = Trace::Others;
        for (plain, sealed) in ADDRESSES {
            let found = match (bytes(plain, row), bytes(sealed, row)) {
                (Some(shown), _) => match forms.get(form[row]).copied().flatten() {
                    Some(form) => wanted.of(form, key_epoch.value(row), shown),
                    None => Trace::Unreadable,
                },
                (None, Some(shown)) => {
                    let theirs = match keys.as_deref_mut() {
                        Some(keys) => keys.sealed(name(row), at.value(row), wanted.whole())?,
                        None => None,
                    };
                    match theirs {
                        Some(theirs) if theirs == shown => Trace::Theirs,
                        Some(_) => Trace::Others,
                        None => Trace::Unreadable,
                    }
                }
                (None, None) => Trace::Others,
            };
            trace = trace.max(found);
        }
        traces.push(trace);
    }
    Ok(traces)
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
