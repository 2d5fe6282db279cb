//! The archive against what was put in: switched off at every step, tampered with, erased.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64};
use std::time::Duration;

use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use prost::Message;

use super::erase::{Subject, erase};
use super::manifest::{Commit, Hold, Why};
use super::trace::Traces;
use super::verify::verify;
use super::*;
use crate::clock::{Clock, DAY_US, HOUR_US};
use crate::config::{self, Archive, ArchiveAddresses, ArchivePlace};
use crate::event::v1::{AddressForm, UsageBatch};
use crate::event::{End, Kind, Phase, UsageRecord};
use crate::privacy;
use crate::rollup::{Feed, FilesFeed, Options};
use crate::units::COLUMNS;

const START_US: i64 = 1_795_305_600_000_000;
const ACCOUNTS: [&str; 5] = ["acme", "globex", "initech", "umbrella", ""];

/// Records of some streams, in files of a sink, and an archive to be.
struct World {
    directory: tempfile::TempDir,
    records: BTreeMap<(u32, u16, u64), UsageRecord>,
}

fn random(seed: u64) -> u64 {
    u64::from_le_bytes(*blake3::hash(&seed.to_le_bytes()).as_bytes().first_chunk::<8>().unwrap())
}

fn record(shard: u16, seq: u64) -> UsageRecord {
    let dice = random(u64::from(shard) << 32 | seq);
    let at = START_US + seq as i64 * 30_000_000 + i64::from(shard);
    let id = |of: u8| {
        let mut id = [of; 16];
        id[..8].copy_from_slice(&(seq + 1).to_be_bytes());
        id[8..10].copy_from_slice(&shard.to_be_bytes());
        bytes::Bytes::copy_from_slice(&id)
    };
    let mut record = UsageRecord {
        account: ACCOUNTS[dice as usize % 5].into(),
        at,
        started_at: at - 1000,
        host: "shop.example".into(),
        country: "DE".into(),
        billable: true,
        ..UsageRecord::default()
    };
    match seq % 10 {
        0 => {
            record.kind = Kind::Node.into();
            record.phase = Phase::Checkpoint.into();
            record.account.clear();
        }
        1..=3 => {
            record.kind = Kind::Session.into();
            record.session_id = id(1);
        }
        _ => {
            record.kind = Kind::Request.into();
            record.session_id = id(1);
            record.request_id = id(2);
            record.path = format!("/users/{}", dice % 1000);
            record.status = 200;
            record.labels = vec!["cloud.aws".into(); (dice % 3) as usize];
        }
    }
    if record.kind() != Kind::Node {
        record.phase = Phase::Close.into();
        record.end = End::Done.into();
        let client = [198, 51, 100, (dice >> 8) as u8 % 20];
        record.client_ip = bytes::Bytes::copy_from_slice(&client);
        record.client_port = 40_000 + (dice % 1000) as i32;
        record.sni = "shop.example".into();
        record.city = "Springfield".into();
        if dice.is_multiple_of(7) {
            record.address_form = AddressForm::Truncated.into();
            record.client_ip = bytes::Bytes::from_static(&[198, 51, 100, 0]);
        }
        let bytes = (dice >> 16) as i64 % 100_000;
        (record.sent_app_bytes, record.sent_acked_bytes, record.received_wire_bytes) = (bytes, bytes - bytes % 3, 77);
        (record.total_sent_app_bytes, record.total_sent_acked_bytes) = (bytes + 5, record.sent_acked_bytes);
        record.total_received_wire_bytes = 77;
    }
    record
}

impl World {
    fn new(shards: u16, seqs: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("sink")).unwrap();
        let mut world = Self { directory, records: BTreeMap::new() };
        for shard in 0..shards {
            world.write(shard, 0, seqs);
        }
        world
    }

    fn write(&mut self, shard: u16, first_seq: u64, next_seq: u64) {
        for from in (first_seq..next_seq).step_by(50) {
            let to = (from + 50).min(next_seq);
            self.give(shard, from, (from..to).map(|seq| record(shard, seq)).collect());
        }
    }

    fn give(&mut self, shard: u16, first_seq: u64, records: Vec<UsageRecord>) {
        for (seq, record) in (first_seq..).zip(&records) {
            self.records.insert((3, shard, seq), record.clone());
        }
        let next_seq = first_seq + records.len() as u64;
        let batch = UsageBatch {
            node: "edge-1".into(),
            epoch: 3,
            shard: i32::from(shard),
            first_seq: first_seq as i64,
            count: records.len() as i32,
            records,
            ..UsageBatch::default()
        };
        let name = format!("usage-3-{shard}-{first_seq:012}-{next_seq}.binpb");
        let file = batch.encode_length_delimited_to_vec();
        std::fs::write(self.directory.path().join("sink").join(name), file).unwrap();
    }

    fn config(&self) -> Archive {
        Archive {
            place: ArchivePlace::Directory(self.directory.path().join("archive")),
            addresses: ArchiveAddresses::Sealed,
            keys: self.directory.path().join("keys"),
            buckets: 3,
            commit_interval: Duration::from_secs(3600),
            commit_records_max: 150,
            group: String::new(),
            keep_requests_days: 0,
            keep_sessions_days: 0,
            keep_nodes_days: 0,
        }
    }

    /// Keys as a sidecar has them, for addresses that it does not write whole.
    fn privacy(&self) -> config::Privacy {
        config::Privacy {
            client_ip: config::PrivacyMode::Full,
            accounts: BTreeMap::new(),
            pseudonym_keys: self.directory.path().join("pseudonym-keys"),
            pseudonym_key: Duration::from_secs(86_400),
            pseudonym_keys_max: 0,
            encryption_key: None,
        }
    }

    fn place(&self) -> Place {
        Place::open(&self.config().place).unwrap()
    }

    fn archive(&self, place: &Place) -> Result<u64, Stop> {
        let feed = Feed::Files(FilesFeed::new(&self.directory.path().join("sink")));
        let options = || Options { keys: Vec::new(), hosts_max: 0 };
        Archiver::at(place.clone(), self.config(), feed, options)?.run(&AtomicBool::new(false), true)
    }

    /// Every row is the record that was put in.
    fn assert_is_archived(&self) {
        let place = self.place();
        let proof = verify(&place, START_US).unwrap();
        assert!(proof.wrong.is_empty(), "{:#?}", proof.wrong);
        let manifest = Manifest::read(&place).unwrap();
        let mut keys = Keys::open(&self.config().keys).unwrap();
        let mut left = self.records.clone();
        for file in manifest.files.values() {
            let rows = read(&place, file);
            let number =
                |name: &str, row: usize| rows.column_by_name(name).unwrap().as_primitive::<Int64Type>().value(row);
            let shards = rows.column_by_name("shard").unwrap().as_primitive::<arrow_array::types::Int32Type>().clone();
            let (accounts, account) = file::words_of(file.table, &rows, "account").unwrap();
            let mut before = (String::new(), 0);
            for row in 0..rows.num_rows() {
                let place = (number("epoch", row) as u32, shards.value(row) as u16, number("seq", row) as u64);
                let record = left.remove(&place).unwrap_or_else(|| panic!("{place:?} is there twice"));
                let account = accounts[account[row]].clone();
                assert_eq!(account, record.payer());
                assert_eq!(schema::bucket(&account, 3), file.bucket);
                assert_eq!(number("sent_app_bytes", row), record.sent_app_bytes);
                let key = (account.clone(), record.at);
                assert!(before <= key, "rows are in order");
                before = key;
                if file.table == Table::Nodes {
                    continue;
                }
                let bytes = |name: &str| {
                    let column = rows.column_by_name(name).unwrap().as_fixed_size_binary();
                    column.is_valid(row).then(|| <[u8; 16]>::try_from(column.value(row)).unwrap())
                };
                let total = rows.column_by_name("total_sent_app_bytes").unwrap().as_primitive::<Int64Type>();
                let stated = if total.is_null(row) { record.sent_app_bytes } else { total.value(row) };
                assert_eq!(stated, record.total_sent_app_bytes);
                let client = rows::address(&record.client_ip);
                if record.address_form() == AddressForm::Full {
                    let sealed = bytes("client_ip_sealed").unwrap();
                    assert_eq!((keys.unseal(&account, record.at, sealed).unwrap(), bytes("client_ip")), (client, None));
                } else {
                    assert_eq!((bytes("client_ip"), bytes("client_ip_sealed")), (client, None));
                }
            }
        }
        assert!(left.is_empty(), "{} records have no row", left.len());
        assert_eq!(proof.sums, self.sums());
    }

    fn sums(&self) -> [i64; COLUMNS] {
        let mut sums = [0; COLUMNS];
        for record in self.records.values() {
            let deltas = record.deltas().to_array();
            sums = std::array::from_fn(|column| sums[column] + deltas[column] as i64);
        }
        sums
    }
}

/// All rows of a file.
fn read(place: &Place, file: &manifest::File) -> arrow_array::RecordBatch {
    let batches: Vec<_> = upkeep::open(place, file, 50).unwrap().map(Result::unwrap).collect();
    arrow_select::concat::concat_batches(&batches[0].schema(), &batches).unwrap()
}

fn decoded_file(bytes: Vec<u8>) -> arrow_array::RecordBatch {
    let object = Object::Bytes(bytes.into());
    let batches: Vec<_> = file::Batches::of("", object, 1000).unwrap().map(Result::unwrap).collect();
    arrow_select::concat::concat_batches(&batches[0].schema(), &batches).unwrap()
}

/// The same place, which stands still after so many changes.
fn stopping(world: &World, changes: i64) -> Place {
    let mut place = world.place();
    place.stop_after = std::sync::Arc::new(AtomicI64::new(changes));
    place
}

#[test]
fn switched_off_at_any_step_nothing_is_lost_or_doubled() {
    let mut world = World::new(2, 200);
    let mut failures = 0;
    // Each attempt comes some changes further than the one before would have, from where that one had come to.
    for changes in (0..30).step_by(2).chain([7, 11]) {
        failures += usize::from(world.archive(&stopping(&world, changes)).is_err());
        let wrong = verify(&world.place(), Clock::anchored().now_us()).unwrap().wrong;
        assert!(wrong.is_empty(), "what was left is nobody's doing: {wrong:#?}");
    }
    assert!(failures > 5, "{failures}");
    world.archive(&world.place()).unwrap();
    world.assert_is_archived();
    world.write(1, 200, 350);
    // What the sink had written before comes again as well: another file with the same records.
    world.write(0, 50, 150);
    world.archive(&world.place()).unwrap();
    world.assert_is_archived();
    let manifest = Manifest::read(&world.place()).unwrap();
    assert!(manifest.gaps.is_empty() && manifest.number > 3);
    let until = manifest.complete_until_us().unwrap();
    assert!(manifest.holes(START_US, until).is_empty());
    assert_eq!(manifest.holes(START_US, until + HOUR_US * 100).len(), 2, "nobody knows what comes later");
}

#[test]
fn joining_files_and_sweeping_change_no_row() {
    let world = World::new(2, 200);
    world.archive(&world.place()).unwrap();
    let before = Manifest::read(&world.place()).unwrap().files.len();
    let now_us = START_US + 30 * DAY_US;
    for changes in [0, 1, 2, 3, 4, 9, 20] {
        // Some changes further each time, from where the one before had come to.
        let stopped = keep(&stopping(&world, changes), &world.config(), now_us);
        assert!(stopped.is_err() || changes > 5);
        world.assert_is_archived();
        if Manifest::read(&world.place()).unwrap().files.len() < before / 2 {
            break;
        }
    }
    keep(&world.place(), &world.config(), now_us).unwrap();
    world.assert_is_archived();
    let manifest = Manifest::read(&world.place()).unwrap();
    let mut parts: Vec<_> = manifest.files.values().map(|file| (file.table, file.hour_us, file.bucket)).collect();
    let files = parts.len();
    parts.dedup();
    assert_eq!(parts.len(), files, "one file for each hour and bucket");
    // Also of hours that had only one to begin with; and what is good stays as it is.
    assert!(manifest.files.values().all(|file| !file.is_provisional));
    assert_eq!(keep(&world.place(), &world.config(), now_us).unwrap().joined, 0);
    // An hour later nothing is left of those that were joined.
    let later_us = Clock::anchored().now_us().max(now_us) + 2 * HOUR_US;
    keep(&world.place(), &world.config(), later_us).unwrap();
    let objects: usize = Table::ALL.iter().map(|table| world.place().list(table.name()).unwrap().len()).sum();
    assert_eq!((objects, world.place().list("drafts").unwrap().len()), (files, 0));
    world.assert_is_archived();
}

#[test]
fn what_is_missing_is_known_by_seq_and_time() {
    let mut world = World::new(1, 100);
    world.write(0, 150, 200);
    world.archive(&world.place()).unwrap();
    let manifest = Manifest::read(&world.place()).unwrap();
    let gap = manifest.gaps.first().unwrap();
    assert_eq!((gap.first_seq, gap.next_seq, gap.cause.as_str()), (100, 150, "missing"));
    assert!(manifest.holes(START_US, gap.from_us).is_empty());
    assert_eq!(manifest.holes(START_US, gap.from_us + 1).len(), 1);
    world.assert_is_archived();
    world.write(0, 90, 160);
    world.archive(&world.place()).unwrap();
    assert!(Manifest::read(&world.place()).unwrap().gaps.is_empty());
    world.assert_is_archived();
}

fn wrong(world: &World) -> Vec<String> {
    verify(&world.place(), START_US + 300 * DAY_US).unwrap().wrong
}

fn assert_says(wrong: &[String], part: &str) {
    assert!(wrong.iter().any(|line| line.contains(part)), "{part}: {wrong:#?}");
}

#[test]
fn whatever_is_deleted_altered_or_added_is_named() {
    let world = World::new(1, 500);
    world.archive(&world.place()).unwrap();
    let root = world.directory.path().join("archive");
    let manifest = Manifest::read(&world.place()).unwrap();
    let file = manifest.files.values().find(|file| file.table == Table::Requests && file.rows > 20).unwrap().clone();
    let path = root.join(&file.path);
    let bytes = std::fs::read(&path).unwrap();

    std::fs::remove_file(&path).unwrap();
    assert_says(&wrong(&world), &format!("{} was deleted: {} rows are gone", file.path, file.rows));
    let (_, seqs) = file::positions_of(file.table, &decoded_file(bytes.clone())).unwrap().remove(0);
    assert_says(&wrong(&world), &format!("seqs {} to ", seqs.iter().min().unwrap()));

    // One row of it says another sum, as somebody with the right tools would do it.
    let rows = decoded_file(bytes.clone());
    let altered = with_another_sum(&rows, 7);
    std::fs::write(&path, encoded(&file, &altered)).unwrap();
    let found = wrong(&world);
    assert_says(&found, &format!("{} was altered", file.path));
    assert_says(&found, "row 7 was altered");
    assert_says(&found, "the sum of sent_app_bytes differs by 1");
    assert_eq!(found.iter().filter(|line| line.contains("row ")).count(), 1);

    // A row less, a row twice.
    std::fs::write(&path, encoded(&file, &rows.slice(1, rows.num_rows() - 1))).unwrap();
    let first = file::positions_of(file.table, &rows.slice(0, 1)).unwrap()[0].1[0];
    assert_says(&wrong(&world), &format!("seqs {first} to {first} are gone"));
    let twice = arrow_select::concat::concat_batches(&rows.schema(), [&rows, &rows.slice(3, 1)]).unwrap();
    std::fs::write(&path, encoded(&file, &twice)).unwrap();
    let third = file::positions_of(file.table, &rows.slice(3, 1)).unwrap()[0].1[0];
    assert_says(&wrong(&world), &format!("seq {third} is in two rows"));
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    assert_says(&wrong(&world), "cannot be read");
    std::fs::write(&path, &bytes).unwrap();
    assert!(wrong(&world).is_empty());

    // A file more; a commit less, another, and one that was cut off.
    let more = root.join("requests/hour=2026-11-22T00/bucket=00/more.parquet");
    std::fs::create_dir_all(more.parent().unwrap()).unwrap();
    std::fs::write(&more, &bytes).unwrap();
    let old = std::fs::File::options().write(true).open(&more).unwrap();
    old.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    assert_says(&wrong(&world), "more.parquet was added");
    std::fs::remove_file(&more).unwrap();
    let commit = root.join(Commit::path(2));
    let said = std::fs::read(&commit).unwrap();
    std::fs::remove_file(&commit).unwrap();
    assert_says(&wrong(&world), "manifest/commits/000000000003.json is there");
    std::fs::write(
        &commit,
        String::from_utf8(said.clone()).unwrap().replace("\"why\":\"append\"", "\"why\":\"append\" "),
    )
    .unwrap();
    assert_says(&wrong(&world), "manifest/commits/000000000003.json does not follow");
    std::fs::write(&commit, said).unwrap();
    assert!(wrong(&world).is_empty());
}

fn encoded(file: &manifest::File, rows: &arrow_array::RecordBatch) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let place = Place::directory(directory.path()).unwrap();
    let of = (file.hour_us, file.bucket, file.buckets);
    let encoded = file::Encoded::new(file.table, of, 1, rows, file::Effort::Quick).unwrap();
    let file = encoded.write(&place).unwrap();
    place.read(&file.path).unwrap().unwrap()
}

fn with_another_sum(rows: &arrow_array::RecordBatch, row: usize) -> arrow_array::RecordBatch {
    let at = rows.schema().index_of("sent_app_bytes").unwrap();
    let mut columns = rows.columns().to_vec();
    let values = columns[at].as_primitive::<Int64Type>();
    let values = (0..rows.num_rows()).map(|of| values.value(of) + i64::from(of == row));
    columns[at] = std::sync::Arc::new(arrow_array::Int64Array::from_iter_values(values));
    arrow_array::RecordBatch::try_new(rows.schema(), columns).unwrap()
}

/// Every byte of every file below.
fn everything(path: &Path) -> Vec<u8> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        all.extend(if path.is_dir() { everything(&path) } else { std::fs::read(&path).unwrap() });
    }
    all
}

fn contains(all: &[u8], part: &[u8]) -> bool {
    all.windows(part.len()).any(|window| window == part)
}

#[test]
fn an_erased_address_is_nowhere_and_all_sums_stay() {
    let world = World::new(1, 250);
    world.archive(&world.place()).unwrap();
    let mut keys = Keys::open(&world.config().keys).unwrap();
    let address: IpAddr = "198.51.100.7".parse().unwrap();
    let whole = rows::address(&[198, 51, 100, 7]).unwrap();
    let theirs: Vec<&UsageRecord> = world
        .records
        .values()
        .filter(|record| record.client_ip.as_ref() == [198, 51, 100, 7] && record.address_form() == AddressForm::Full)
        .collect();
    assert!(theirs.len() > 3);
    let sealed: Vec<[u8; 16]> =
        theirs.iter().map(|record| keys.sealed(record.payer(), record.at, whole).unwrap().unwrap()).collect();
    let archive = world.directory.path().join("archive");
    assert!(!contains(&everything(&archive), &whole), "whole addresses are not in the archive");

    let subject = Subject::Address(Traces::new(address, &world.privacy(), false).unwrap());
    let said = erase(&world.place(), Some(&mut keys), &subject, ("me", 5), true).unwrap();
    assert_eq!((said.certificate.rows, said.receipt), (theirs.len() as i64, None));
    assert!(Manifest::read(&world.place()).unwrap().certificates.is_empty());
    let done = erase(&world.place(), Some(&mut keys), &subject, ("me", 5), false).unwrap();
    assert_eq!(done.certificate.rows, theirs.len() as i64);
    let proof = verify(&world.place(), START_US).unwrap();
    assert!(proof.wrong.is_empty(), "{:#?}", proof.wrong);
    assert_eq!((proof.sums, proof.rows), (world.sums(), world.records.len() as i64));
    let left = decoded(&world);
    for sealed in sealed {
        assert!(!contains(&left, &sealed));
    }
    let again = erase(&world.place(), Some(&mut keys), &subject, ("me", 5), true).unwrap();
    assert_eq!(again.certificate.rows, 0);
    // The receipt shows whom the certificate is about; without it nothing does.
    let text = format!("{} 198.51.100.7", done.receipt.unwrap());
    assert_eq!(crate::wire::Hash::of(text.as_bytes()), done.certificate.subject);
}

/// Three days of keys, of which the second day's is destroyed.
fn pseudonyms(world: &World, address: IpAddr) -> Vec<IpAddr> {
    let privacy = world.privacy();
    let keys = privacy::keys::Keys::new(&privacy.pseudonym_keys, privacy.pseudonym_key, 0);
    let shown = (0..3).map(|day| {
        keys.turn(day * DAY_US).unwrap();
        keys.at(day * DAY_US).unwrap().pseudonym(address)
    });
    let shown = shown.collect();
    std::fs::remove_file(privacy.pseudonym_keys.join("1.key")).unwrap();
    shown
}

#[test]
fn an_address_is_erased_in_every_form_that_can_be_told_and_the_rest_is_counted() {
    let mut world = World::new(0, 0);
    let address: IpAddr = "198.51.100.7".parse().unwrap();
    let shown = pseudonyms(&world, address);
    let cipher = world.directory.path().join("ip.key");
    std::fs::write(&cipher, "000102030405060708090a0b0c0d0e0f\n").unwrap();
    let encrypted = privacy::cipher(&cipher).unwrap().encrypt_ipaddr(address);
    let octets = |address: IpAddr| bytes::Bytes::copy_from_slice(&schema::octets(address));
    let four = |octets: [u8; 4]| bytes::Bytes::copy_from_slice(&octets);
    let forms = [
        (AddressForm::Pseudonym, octets(shown[0]), 0),
        (AddressForm::Pseudonym, octets(shown[1]), 1),
        (AddressForm::Pseudonym, octets(shown[0]), 2),
        (AddressForm::Pseudonym, octets(shown[2]), 2),
        (AddressForm::Encrypted, octets(encrypted), 0),
        (AddressForm::Truncated, four([198, 51, 100, 0]), 0),
        (AddressForm::Truncated, four([198, 51, 101, 0]), 0),
        (AddressForm::Full, four([198, 51, 100, 8]), 0),
        (AddressForm::None, bytes::Bytes::new(), 0),
    ];
    let records = forms.iter().map(|(form, shown, key_epoch)| {
        let mut record = record(0, 5);
        record.set_address_form(*form);
        (record.client_ip, record.key_epoch) = (shown.clone(), *key_epoch);
        record
    });
    world.give(0, 0, records.collect());
    world.archive(&world.place()).unwrap();
    let mut keys = Keys::open(&world.config().keys).unwrap();
    let mut erased = |privacy: &config::Privacy, is_network_theirs, is_rehearsal| {
        let subject = Subject::Address(Traces::new(address, privacy, is_network_theirs).unwrap());
        let done = erase(&world.place(), Some(&mut keys), &subject, ("me", 5), is_rehearsal).unwrap().certificate;
        (done.rows, done.rows_of_network, done.rows_unreadable)
    };
    let with_key = config::Privacy { encryption_key: Some(cipher), ..world.privacy() };
    assert_eq!(erased(&world.privacy(), false, true), (2, 1, 2), "the encrypted one cannot be told without its key");
    assert_eq!(erased(&with_key, false, false), (3, 1, 1));
    assert_eq!(erased(&with_key, false, false), (0, 1, 1));
    assert_eq!(erased(&with_key, true, false), (1, 0, 1));
    let left = decoded(&world);
    for gone in [shown[0], shown[2], encrypted] {
        let is_others = gone == shown[0];
        assert_eq!(contains(&left, &schema::octets(gone)), is_others, "{gone}");
    }
    let proof = verify(&world.place(), START_US).unwrap();
    assert!(proof.wrong.is_empty() && proof.sums == world.sums(), "{proof:#?}");
}

#[test]
fn a_writer_that_runs_uses_no_key_that_was_destroyed_and_loses_nothing() {
    let world = World::new(1, 100);
    let feed = Feed::Files(FilesFeed::new(&world.directory.path().join("sink")));
    let options = || Options { keys: Vec::new(), hosts_max: 0 };
    let mut archiver = Archiver::at(world.place(), world.config(), feed, options).unwrap();
    // Read and encrypted, and not committed.
    assert_eq!(archiver.step(false).unwrap(), Progress { is_idle: true, ..Progress::default() });
    let mut keys = Keys::open(&world.config().keys).unwrap();
    let acmes = world.records.values().find(|record| record.account == "acme" && !record.client_ip.is_empty()).unwrap();
    let before = keys.sealed("acme", acmes.at, [7; 16]).unwrap().unwrap();
    let done = erase(&world.place(), Some(&mut keys), &Subject::Account("acme".into()), ("me", 5), false).unwrap();
    assert!(done.certificate.keys > 0 && done.certificate.rows == 0);
    assert_eq!(keys.sealed("acme", acmes.at, [7; 16]).unwrap(), None);
    // It has noticed; then it reads again, and makes keys of its own.
    assert_eq!(archiver.step(true).unwrap(), Progress::default());
    assert_eq!(archiver.step(true).unwrap().records, 100);
    world.assert_is_archived();
    let mut keys = Keys::open(&world.config().keys).unwrap();
    assert_ne!(keys.sealed("acme", acmes.at, [7; 16]).unwrap(), Some(before));
}

/// All columns that are bytes or texts, of all files, as they are read.
fn decoded(world: &World) -> Vec<u8> {
    let mut all = Vec::new();
    let place = world.place();
    for file in Manifest::read(&place).unwrap().files.values() {
        let rows = read(&place, file);
        for column in rows.columns() {
            let data = column.to_data();
            let children = data.child_data().iter().flat_map(|child| child.buffers().to_vec());
            data.buffers().iter().cloned().chain(children).for_each(|buffer| all.extend_from_slice(buffer.as_slice()));
        }
    }
    all
}

#[test]
fn an_erased_account_keeps_its_bill_and_nothing_else() {
    let world = World::new(1, 400);
    world.archive(&world.place()).unwrap();
    let mut keys = Keys::open(&world.config().keys).unwrap();
    let acmes: Vec<&UsageRecord> =
        world.records.values().filter(|record| record.account == "acme" && record.kind() == Kind::Request).collect();
    let mut others: Vec<&str> =
        world.records.values().filter(|record| record.account != "acme").map(|record| record.path.as_str()).collect();
    others.sort_unstable();
    let path =
        acmes.iter().map(|record| record.path.as_str()).find(|path| others.binary_search(path).is_err()).unwrap();
    let end = format!("{path}\0");
    assert!(contains(&decoded(&world), path.as_bytes()));
    let subject = Subject::Account("acme".into());
    let done = erase(&world.place(), Some(&mut keys), &subject, ("me", 5), false).unwrap();
    assert!(done.certificate.keys >= 1 && done.certificate.rows > 30);
    let proof = verify(&world.place(), START_US).unwrap();
    assert!(proof.wrong.is_empty(), "{:#?}", proof.wrong);
    assert_eq!(proof.sums, world.sums());
    let record = acmes.iter().find(|record| record.address_form() == AddressForm::Full).unwrap();
    assert_eq!(keys.sealed("acme", record.at, [0; 16]).unwrap(), None, "its keys are gone");
    let left = decoded(&world);
    // Texts stand one behind the other: only a path that is not the beginning of another's can be looked for.
    let is_prefix = others.iter().any(|other| other.starts_with(path));
    assert!(is_prefix || !contains(&left, path.as_bytes()), "{end}");
}

#[test]
fn a_legal_hold_wins_over_erasure_and_age() {
    let world = World::new(1, 300);
    let place = world.place();
    world.archive(&place).unwrap();
    let mut manifest = Manifest::read(&place).unwrap();
    let mut commit = Commit::after(&manifest, 1, Why::Hold);
    commit.hold = Some(Hold {
        name: "case-7".into(),
        account: Some("acme".into()),
        from_us: i64::MIN,
        to_us: i64::MAX,
        reason: "court order".into(),
        actor: "me".into(),
        at_us: 1,
    });
    assert!(manifest.commit(&place, commit).unwrap());
    let mut keys = Keys::open(&world.config().keys).unwrap();
    let refused = erase(&place, Some(&mut keys), &Subject::Account("acme".into()), ("me", 5), false).unwrap_err();
    assert!(refused.to_string().contains("case-7"), "{refused}");
    let config = Archive { keep_requests_days: 1, keep_sessions_days: 1, ..world.config() };
    let kept = keep(&place, &config, START_US + 30 * DAY_US).unwrap();
    assert!(kept.held > 0 && kept.expired > 0, "{kept:?}");
    let acmes_bucket = schema::bucket("acme", 3);
    let manifest = Manifest::read(&place).unwrap();
    assert!(manifest.files.values().all(|file| file.table == Table::Nodes || file.bucket == acmes_bucket));
    let proof = verify(&place, START_US).unwrap();
    assert!(proof.wrong.is_empty(), "{:#?}", proof.wrong);
    let mut lifted = Manifest::read(&place).unwrap();
    let mut commit = Commit::after(&lifted, 1, Why::Hold);
    commit.lifted = Some("case-7".into());
    assert!(lifted.commit(&place, commit).unwrap());
    keep(&place, &config, START_US + 30 * DAY_US).unwrap();
    assert!(Manifest::read(&place).unwrap().files.values().all(|file| file.table == Table::Nodes));
    assert!(verify(&place, START_US).unwrap().wrong.is_empty());
}

#[test]
fn two_writers_of_the_same_records_archive_them_once() {
    let world = World::new(2, 200);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                // Who was too late reads again.
                while world.archive(&world.place()).is_err() {}
            });
        }
    });
    world.assert_is_archived();
}
