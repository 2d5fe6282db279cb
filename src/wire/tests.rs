//! Facts of the encoder and the verifier, one at a time.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;

use super::*;
use crate::event::v1::UsageBatch;
use crate::event::{AddressForm, CSV_HEADER, End, Kind, Phase, Reason, Screening, ShardEnd, UsageRecord};

pub(super) const SECRET: &[u8] = b"a secret of 32 bytes for tests..";
/// Made for these tests by `openssl genpkey -algorithm ed25519`; it signs nothing else.
pub(super) const PRIVATE_PEM: &[u8] = b"-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIFEeMzaTbYW2jG9XUYIaA20DmReyRZ6xUuYT64AvfcjY
-----END PRIVATE KEY-----
";
const PUBLIC_PEM: &[u8] = b"-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAY6iVYs3X5Y0oBZRmV8peh6n1sPcJqFYva+rmt60C6p4=
-----END PUBLIC KEY-----
";

pub(super) fn id() -> StreamId {
    StreamId { node: "edge-1".to_owned(), epoch: 7, shard: 2 }
}

/// Every field set, each to a value of its own.
pub(super) fn full_record() -> UsageRecord {
    let text = |name: &str| format!("{name} \"ü\"");
    UsageRecord {
        kind: Kind::Request.into(),
        phase: Phase::Close.into(),
        session_id: Bytes::from_static(&[0xab; 16]),
        request_id: Bytes::from_static(&[0xcd; 16]),
        account: text("account"),
        endpoint: text("endpoint"),
        attribution: text("attribution"),
        listener: text("listener"),
        protocol: text("protocol"),
        tls_version: text("tls_version"),
        sni: text("sni"),
        tls_subject: text("tls_subject"),
        host: text("host"),
        method: text("method"),
        path: text("path"),
        status: 404,
        origin: text("origin"),
        client_ip: Bytes::from_static(&[192, 0, 2, 7]),
        client_port: 4711,
        peer_ip: Bytes::from_static(&[0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
        country: text("country"),
        region: text("region"),
        city: text("city"),
        asn: 64500,
        as_org: text("as_org"),
        labels: vec![text("one"), text("two")],
        geo_epoch: 1_700_000_000,
        accounts_version: 3,
        started_at: 1_700_000_000_000_001,
        at: 1_709_210_096_789_012,
        received_body_bytes: 40,
        received_app_bytes: 41,
        received_wire_bytes: 42,
        sent_body_bytes: 43,
        sent_app_bytes: 44,
        sent_wire_bytes: 45,
        sent_acked_bytes: 46,
        upstream_sent_bytes: 47,
        upstream_received_bytes: 48,
        total_received_body_bytes: 50,
        total_received_app_bytes: 51,
        total_received_wire_bytes: 52,
        total_sent_body_bytes: 53,
        total_sent_app_bytes: 54,
        total_sent_wire_bytes: 1 << 50,
        total_sent_acked_bytes: 56,
        total_upstream_sent_bytes: 57,
        total_upstream_received_bytes: 58,
        billable: true,
        reason: Reason::Limited.into(),
        end: End::ClientAbort.into(),
        audit: text("audit"),
        uncertain_bytes: 61,
        folded: 62,
        requests: 63,
        software: text("software"),
        gap_epoch: 3,
        gap_shard: 1,
        gap_first_seq: 20,
        gap_next_seq: 60,
        clock_step_us: -3_600_000_000,
        ..Default::default()
    }
}

/// A small record that says which it is.
pub(super) fn record(seq: u64) -> Vec<u8> {
    UsageRecord { kind: Kind::Request.into(), at: at_of(seq), ..Default::default() }.encode_to_vec()
}

pub(super) fn at_of(seq: u64) -> i64 {
    1_700_000_000_000_000 + i64::try_from(seq).unwrap()
}

fn node_close() -> Vec<u8> {
    UsageRecord { kind: Kind::Node.into(), phase: Phase::Close.into(), ..Default::default() }.encode_to_vec()
}

pub(super) fn encoder(layout: Layout, format: Format, records_max: usize, at: Boundary) -> Encoder {
    let limits = Limits { records_max, ..Limits::default() };
    Encoder::new(id(), layout, format, limits, None, at)
}

fn batches(records_max: usize, at: Boundary) -> Encoder {
    encoder(Layout::Batch, Format::default(), records_max, at)
}

/// The messages of these seqs.
pub(super) fn messages(encoder: &mut Encoder, seqs: impl IntoIterator<Item = u64>) -> Vec<Message> {
    let mut made = Vec::new();
    for seq in seqs {
        made.extend(encoder.push(seq, &record(seq)).unwrap());
    }
    made.extend(encoder.finish());
    made
}

pub(super) fn take<'a>(verifier: &mut Verifier, message: &'a Message) -> Result<Taken<'a>, Reject> {
    let headers: Vec<(&str, &[u8])> = message.headers.iter().map(|(name, value)| (*name, value.as_ref())).collect();
    verifier.take(Incoming { headers: &headers, payload: &message.payload })
}

pub(super) fn verifier() -> Verifier {
    Verifier::new(Vec::new(), Bounds::default(), State::default())
}

/// Feeds all; the seqs given out and everything found.
fn fed<'a>(verifier: &mut Verifier, messages: impl IntoIterator<Item = &'a Message>) -> (Vec<u64>, Vec<Finding>) {
    let (mut seqs, mut findings) = (Vec::new(), Vec::new());
    for message in messages {
        let taken = take(verifier, message).unwrap();
        seqs.extend(taken.records().map(|(seq, _)| seq));
        findings.extend(taken.findings);
    }
    (seqs, findings)
}

fn gap(seqs: std::ops::Range<u64>, cause: Cause) -> Finding {
    Finding::Gap(Missing { seqs, cause })
}

fn with_header(message: &Message, name: &'static str, value: &[u8]) -> Message {
    let mut changed = message.clone();
    changed.headers.retain(|(known, _)| *known != name);
    if !value.is_empty() {
        changed.headers.push((name, Bytes::copy_from_slice(value)));
    }
    changed
}

/// The batch with another content, as somebody without a key would write it.
pub(super) fn altered(message: &Message, alter: impl FnOnce(&mut UsageBatch)) -> Message {
    let mut batch = UsageBatch::decode(message.payload.as_ref()).unwrap();
    alter(&mut batch);
    Message { payload: batch.encode_to_vec().into(), ..message.clone() }
}

#[test]
fn what_is_concatenated_is_what_prost_writes() {
    let mut encoder = batches(3, Boundary::default());
    for message in messages(&mut encoder, [2, 3, 4, 5, 6]) {
        let batch = UsageBatch::decode(message.payload.as_ref()).unwrap();
        assert_eq!(batch.encode_to_vec(), message.payload);
        assert_eq!(batch.records.len(), usize::try_from(batch.count).unwrap());
    }
}

#[test]
fn a_message_stays_below_its_limit_and_a_record_above_it_goes_alone() {
    let limits = Limits { message_bytes_max: 1000, records_max: 500 };
    for format in [Format::default(), Format::Json] {
        let mut encoder = Encoder::new(id(), Layout::Batch, format, limits, None, Boundary::default());
        let large = UsageRecord { path: "x".repeat(2000), ..Default::default() }.encode_to_vec();
        let mut made = Vec::new();
        for seq in 0..60 {
            made.extend(encoder.push(seq, if seq == 20 { &large } else { &[] }).unwrap());
        }
        made.extend(encoder.finish());
        let (seqs, findings) = fed(&mut verifier(), &made);
        assert_eq!((seqs, findings), ((0..60).collect(), vec![]));
        for message in &made {
            let envelope: usize = message.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
            let bytes = message.payload.len() + envelope + message.key.len();
            let is_large = message.first_seq == 20;
            assert_eq!(message.over_max, bytes > 1000 || is_large);
            assert!(!is_large || message.after.next_seq == 21 || format == Format::Json);
        }
        assert!(made.iter().any(|message| message.over_max));
    }
}

#[test]
fn a_record_before_the_next_is_refused_and_changes_nothing() {
    let mut encoder = batches(10, Boundary { next_seq: 5, hash: None });
    assert!(matches!(encoder.push(4, &record(4)), Err(Error::Backwards { seq: 4, expected: 5, .. })));
    assert!(encoder.push(5, &record(5)).unwrap().is_none());
    assert!(matches!(encoder.push(5, &record(5)), Err(Error::Backwards { seq: 5, expected: 6, .. })));
    assert_eq!(encoder.finish().unwrap().after.next_seq, 6);
    assert!(encoder.finish().is_none());
}

#[test]
fn json_reads_back_every_field() {
    let record = UsageRecord {
        address_form: AddressForm::Pseudonym.into(),
        key_epoch: 20_000,
        screening: Screening::Match.into(),
        screening_rule: "crimea@2".to_owned(),
        geo_snapshot: "5a3c".to_owned(),
        ended: vec![ShardEnd { epoch: 6, shard: 2, next_seq: 9, started_at: 3, ended_at: 7 }],
        ..full_record()
    };
    let names = CSV_HEADER.trim_end_matches(',').split(',').count();
    let (text, _) = json::record(&id(), 9, &record.encode_to_vec()).unwrap();
    let members: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text).unwrap();
    assert_eq!(members.len(), names);
    let positioned = UsageRecord { node: "edge-1".to_owned(), epoch: 7, shard: 2, seq: 9, ..record };
    assert_eq!(json::read_record(&members).unwrap(), positioned);
    for kind in [Kind::Session, Kind::Request, Kind::Node, Kind::Gap] {
        for end in [End::Done, End::UpstreamError, End::TlsError, End::Internal] {
            let record = UsageRecord { kind: kind.into(), end: end.into(), ..Default::default() };
            let (text, _) = json::record(&id(), 0, &record.encode_to_vec()).unwrap();
            let read = json::read_record(&serde_json::from_str(&text).unwrap()).unwrap();
            assert_eq!((read.kind(), read.end()), (kind, end));
        }
    }
}

#[test]
fn every_form_gives_the_same_records() {
    let full = full_record().encode_to_vec();
    for layout in [Layout::Batch, Layout::Record] {
        for format in [Format::default(), Format::Protobuf { schema_id: Some(258) }, Format::Json] {
            let mut encoder = encoder(layout, format, 10, Boundary::default());
            let mut made: Vec<Message> = encoder.push(0, &full).unwrap().into_iter().collect();
            made.extend(encoder.finish());
            let mut verifier = verifier();
            let taken = take(&mut verifier, &made[0]).unwrap();
            assert_eq!((&taken.stream, taken.findings.as_slice()), (&id(), &[][..]));
            let (seq, record) = taken.into_records().next().unwrap();
            // Only layouts that state it in the record have it there.
            let bare = UsageRecord { node: String::new(), epoch: 0, shard: 0, seq: 0, ..record.into() };
            assert_eq!((seq, bare), (0, full_record()));
        }
    }
}

#[test]
fn a_registry_frame_is_as_the_vendor_writes_it() {
    let format = Format::Protobuf { schema_id: Some(258) };
    let message = &messages(&mut encoder(Layout::Record, format, 1, Boundary::default()), [0])[0];
    assert_eq!(message.payload[..6], [0, 0, 0, 1, 2, 0]);
    let message = &messages(&mut encoder(Layout::Batch, format, 1, Boundary::default()), [0])[0];
    assert_eq!(message.payload[..7], [0, 0, 0, 1, 2, 2, 2]);
    let wrong = Message { payload: [&[0, 0, 0, 1, 2, 0], &message.payload[7..]].concat().into(), ..message.clone() };
    assert!(matches!(take(&mut verifier(), &wrong), Err(Reject::Malformed(_))));
}

#[test]
fn cloud_events_have_what_the_specification_asks_for() {
    let mut encoder = Encoder::new(
        StreamId { node: "a/ü".to_owned(), epoch: 1, shard: 0 },
        Layout::Record,
        Format::Json,
        Limits::default(),
        None,
        Boundary::default(),
    );
    let message = encoder.push(3, &full_record().encode_to_vec()).unwrap().unwrap();
    let event: serde_json::Value = serde_json::from_slice(&message.payload).unwrap();
    assert_eq!(event["specversion"], "1.0");
    assert_eq!(event["type"], "weir.usage.v1.UsageRecord");
    assert_eq!(event["source"], "/weir/a%2F%C3%BC/1/0");
    assert_eq!(event["id"], "3");
    assert_eq!(event["time"], "2024-02-29T12:34:56.789012Z");
    assert_eq!(event["subject"], full_record().account);
    assert_eq!(event["data"]["node"], "a/ü");
    assert!(message.headers.contains(&(CONTENT_TYPE_HEADER, Bytes::from_static(json::CONTENT_TYPE.as_bytes()))));
}

#[test]
fn a_message_that_comes_again_is_a_duplicate() {
    let made = messages(&mut batches(5, Boundary::default()), 0..10);
    let mut verifier = verifier();
    let (seqs, findings) = fed(&mut verifier, [&made[0], &made[0], &made[1], &made[0]]);
    assert_eq!(seqs, (0..10).collect::<Vec<_>>());
    assert_eq!(findings, [Finding::Duplicate(0..5), Finding::Duplicate(0..5)]);
    assert_eq!(verifier.state().totals.links_verified, 4);
}

#[test]
fn a_resumed_sender_may_cut_elsewhere() {
    let before = messages(&mut batches(4, Boundary::default()), 0..12);
    let after = messages(&mut batches(3, before[0].after), 4..14);
    let mut verifier = verifier();
    let (seqs, findings) = fed(&mut verifier, before.iter().chain(&after));
    assert_eq!(seqs, (0..14).collect::<Vec<_>>());
    assert_eq!(findings, [Finding::Duplicate(4..7), Finding::Duplicate(7..10), Finding::Duplicate(10..12)]);
    assert_eq!(verifier.state().totals.links_verified, 7);
}

#[test]
fn a_gap_is_exact_and_filled_when_it_comes_late() {
    let made = messages(&mut batches(2, Boundary::default()), 0..10);
    let mut verifier = verifier();
    let (_, findings) = fed(&mut verifier, [&made[0], &made[4]]);
    assert_eq!(findings, [gap(2..8, Cause::Missing)]);
    let (seqs, findings) = fed(&mut verifier, [&made[2]]);
    assert_eq!((seqs, findings), (vec![4, 5], vec![Finding::Filled(4..6)]));
    let missing: Vec<_> = verifier.missing().map(|(_, missing)| missing.seqs.clone()).collect();
    assert_eq!(missing, [2..4, 6..8]);
    assert_eq!(verifier.stream(&id()).unwrap().unlinked().len(), 2);
    let (seqs, findings) = fed(&mut verifier, [&made[3], &made[1]]);
    assert_eq!((seqs, findings), (vec![6, 7, 2, 3], vec![Finding::Filled(6..8), Finding::Filled(2..4)]));
    assert_eq!((verifier.missing().count(), verifier.stream(&id()).unwrap().unlinked().len()), (0, 0));
    assert_eq!(verifier.state().totals.links_verified, 5);
}

#[test]
fn a_reader_may_begin_in_the_middle() {
    let made = messages(&mut batches(2, Boundary::default()), 0..6);
    let mut verifier = verifier();
    let (seqs, findings) = fed(&mut verifier, &made[1..]);
    assert_eq!((seqs, findings), (vec![2, 3, 4, 5], vec![gap(0..2, Cause::BeforeStart)]));
    assert_eq!(verifier.state().totals.links_verified, 1);
}

#[test]
fn what_the_sender_lost_is_a_gap_with_a_reason_and_the_chain_goes_on() {
    let made = messages(&mut batches(3, Boundary::default()), [2, 3, 4, 5, 9, 10, 11, 12]);
    let starts: Vec<u64> = made.iter().map(|message| message.first_seq).collect();
    assert_eq!(starts, [2, 5, 9, 12]);
    let (seqs, findings) = fed(&mut verifier(), &made);
    assert_eq!(seqs, [2, 3, 4, 5, 9, 10, 11, 12]);
    assert_eq!(findings, [gap(0..2, Cause::LostBySender), gap(6..9, Cause::LostBySender)]);

    // The reason may come later than the gap.
    let mut verifier = verifier();
    let (_, findings) = fed(&mut verifier, [&made[0], &made[3], &made[2]]);
    let lost = gap(0..2, Cause::LostBySender);
    let stated = gap(6..9, Cause::LostBySender);
    assert_eq!(findings, [lost, gap(5..12, Cause::Missing), Finding::Filled(9..12), stated]);
    let causes: Vec<_> = verifier.missing().map(|(_, missing)| (missing.seqs.clone(), missing.cause)).collect();
    let expected = [(0..2, Cause::LostBySender), (5..6, Cause::Missing), (6..9, Cause::LostBySender)];
    assert_eq!(causes, expected);
}

#[test]
fn an_altered_batch_breaks_the_chain_behind_it() {
    let made = messages(&mut batches(2, Boundary::default()), 0..6);
    let forged = altered(&made[1], |batch| batch.records[0].account = "other".to_owned());
    let hash = made[1].after.hash.unwrap();
    let mut verifier = verifier();
    let (seqs, findings) = fed(&mut verifier, [&made[0], &forged, &made[2]]);
    assert_eq!((seqs.len(), findings), (6, vec![Finding::Broken { boundary: 4, hash }]));
    assert_eq!(verifier.state().totals.links_broken, 1);
    // The true one comes too: late, or it was there before the reader's start.
    let (seqs, findings) = fed(&mut verifier, [&made[1]]);
    assert_eq!((seqs, findings), (vec![], vec![Finding::Duplicate(2..4), Finding::Mended { boundary: 4 }]));
    assert_eq!(verifier.state().totals.links_broken, 0);
}

#[test]
fn a_late_predecessor_that_is_another_leaves_the_link_open() {
    let made = messages(&mut batches(2, Boundary::default()), 0..6);
    let forged = altered(&made[1], |batch| batch.records[0].account = "other".to_owned());
    let mut verifier = verifier();
    let (_, findings) = fed(&mut verifier, [&made[0], &made[2], &forged]);
    assert_eq!(findings, [gap(2..4, Cause::Missing), Finding::Filled(2..4)]);
    let link = Link { boundary: 4, hash: made[1].after.hash.unwrap(), is_broken: false };
    assert_eq!(verifier.stream(&id()).unwrap().unlinked(), [link]);
}

#[test]
fn a_predecessor_that_never_was_is_a_break() {
    let made = messages(&mut batches(4, Boundary::default()), 0..8);
    let cut = altered(&made[1], |batch| {
        batch.first_seq = 3;
        batch.count = 1;
        batch.records.truncate(1);
    });
    let hash = made[0].after.hash.unwrap();
    let (_, findings) = fed(&mut verifier(), [&made[0], &cut]);
    let differs = Finding::HeaderDiffers(SEQ_HEADER);
    assert_eq!(findings, [differs, Finding::Broken { boundary: 3, hash }, Finding::Duplicate(3..4)]);
    let first = altered(&made[0], |batch| batch.previous_hash = Bytes::from_static(&[9; 32]));
    let (_, findings) = fed(&mut verifier(), [&first]);
    assert_eq!(findings, [Finding::Broken { boundary: 0, hash: Hash([9; 32]) }]);
}

#[test]
fn a_chain_that_begins_anew_is_named() {
    let before = messages(&mut batches(4, Boundary::default()), 0..4);
    let after = messages(&mut batches(4, Boundary { next_seq: 4, hash: None }), 4..8);
    let (seqs, findings) = fed(&mut verifier(), before.iter().chain(&after));
    assert_eq!((seqs.len(), findings), (8, vec![Finding::Restarted { boundary: 4 }]));
}

#[test]
fn with_keys_only_what_they_sign_is_taken() {
    let hmac = Arc::new(SigningKey::hmac_sha256("2026", SECRET).unwrap());
    let eddsa = Arc::new(SigningKey::ed25519("edge-1.a", PRIVATE_PEM).unwrap());
    let keys = || {
        vec![VerifyingKey::hmac_sha256("2026", SECRET).unwrap(), VerifyingKey::ed25519("edge-1.a", PUBLIC_PEM).unwrap()]
    };
    let signed = |key: &Arc<SigningKey>| {
        let key = Some(key.clone());
        let mut encoder =
            Encoder::new(id(), Layout::Batch, Format::default(), Limits::default(), key, Boundary::default());
        messages(&mut encoder, 0..4).remove(0)
    };
    for (key, name) in [(hmac, "2026"), (eddsa, "edge-1.a")] {
        let good = signed(&key);
        let mut verifier = Verifier::new(keys(), Bounds::default(), State::default());
        let mut reject = |message: &Message| match take(&mut verifier, message) {
            Err(Reject::Signature(fault)) => fault,
            other => panic!("{other:?}"),
        };
        let forged = || Fault::Forged(name.to_owned());
        let header = good.headers.iter().find(|(header, _)| *header == SIGNATURE_HEADER).unwrap().1.clone();
        let header = str::from_utf8(&header).unwrap();
        assert_eq!(reject(&altered(&good, |batch| batch.first_seq = 1)), forged());
        assert_eq!(reject(&with_header(&good, SIGNATURE_HEADER, b"")), Fault::Missing);
        assert_eq!(reject(&with_header(&good, SIGNATURE_HEADER, b"hmac-sha256 2026")), Fault::Malformed);
        assert_eq!(reject(&with_header(&good, SIGNATURE_HEADER, b"hmac-sha256 2026 x")), Fault::Malformed);
        assert_eq!(reject(&with_header(&good, SIGNATURE_HEADER, &header.as_bytes()[..header.len() - 2])), forged());
        let other = header.replace(name, "x");
        assert_eq!(reject(&with_header(&good, SIGNATURE_HEADER, other.as_bytes())), Fault::UnknownKey("x".to_owned()));
        // The same value under another schema is not what was signed.
        assert_eq!(reject(&with_header(&good, SCHEMA_HEADER, b"weir.usage.v1.UsageRecord")), forged());
        // A public key is no secret to sign with.
        let confused = header.replace("ed25519 ", "hmac-sha256 ").replace("hmac-sha256 2", "ed25519 2");
        assert_eq!(reject(&with_header(&good, SIGNATURE_HEADER, confused.as_bytes())), forged());
        assert_eq!(verifier.state().totals.bad_signatures, 8);
        assert_eq!(verifier.state().streams.len(), 0);
        assert_eq!(take(&mut verifier, &good).unwrap().count(), 4);
    }
}

#[test]
fn keys_that_are_none_are_refused() {
    assert!(matches!(SigningKey::hmac_sha256("k", b"short"), Err(Error::ShortSecret { bytes: 5, .. })));
    assert!(matches!(SigningKey::hmac_sha256("a key", SECRET), Err(Error::KeyId(_))));
    assert!(matches!(SigningKey::ed25519("k", PUBLIC_PEM), Err(Error::Ed25519 { .. })));
    assert!(matches!(VerifyingKey::ed25519("k", PRIVATE_PEM), Err(Error::Ed25519 { .. })));
}

#[test]
fn what_cannot_be_read_is_named_and_changes_nothing() {
    let good = &messages(&mut batches(4, Boundary::default()), 0..4)[0];
    let mut verifier = verifier();
    let mut reject = |message: &Message| take(&mut verifier, message).unwrap_err();
    assert_eq!(reject(&with_header(good, SCHEMA_HEADER, b"")), Reject::Foreign);
    assert_eq!(reject(&with_header(good, SCHEMA_HEADER, b"v9")), Reject::UnknownSchema("v9".to_owned()));
    for broken in [
        altered(good, |batch| batch.count = 3),
        altered(good, |batch| (batch.count, batch.records) = (0, vec![])),
        altered(good, |batch| batch.node.clear()),
        altered(good, |batch| batch.epoch = -1),
        altered(good, |batch| batch.shard = 1 << 16),
        altered(good, |batch| batch.first_seq = -1),
        altered(good, |batch| batch.skipped = 1),
        altered(good, |batch| batch.skipped = -1),
        altered(good, |batch| batch.previous_hash = Bytes::from_static(b"short")),
        Message { payload: good.payload.slice(..good.payload.len() - 1), ..good.clone() },
        with_header(good, SCHEMA_HEADER, b"weir.usage.v1.UsageBatch+json"),
        with_header(good, SCHEMA_HEADER, b"weir.usage.v1.UsageRecord"),
    ] {
        assert!(matches!(reject(&broken), Reject::Malformed(_)));
    }
    assert_eq!((verifier.state().totals.foreign, verifier.state().totals.unreadable), (2, 12));
    assert_eq!(fed(&mut verifier, [good]), ((0..4).collect(), vec![]));
}

#[test]
fn a_header_that_differs_from_the_value_is_named() {
    let good = &messages(&mut batches(4, Boundary::default()), 0..4)[0];
    let (seqs, findings) = fed(&mut verifier(), [&with_header(good, SEQ_HEADER, b"0-9")]);
    assert_eq!((seqs.len(), findings), (4, vec![Finding::HeaderDiffers(SEQ_HEADER)]));
    let (_, findings) = fed(&mut verifier(), [&with_header(good, NODE_HEADER, b"edge-2")]);
    assert_eq!(findings, [Finding::HeaderDiffers(NODE_HEADER)]);
}

#[test]
fn beyond_its_bounds_a_gap_is_given_up_and_a_stream_refused() {
    let bounds = Bounds { gaps_max: 2, streams_max: 1, boundaries_max: 2 };
    let made = messages(&mut batches(1, Boundary::default()), 0..12);
    let mut verifier = Verifier::new(Vec::new(), bounds, State::default());
    let (_, findings) = fed(&mut verifier, [&made[1], &made[3], &made[5]]);
    assert_eq!(findings[3], Finding::GivenUp(0..1));
    let (seqs, findings) = fed(&mut verifier, [&made[0]]);
    assert_eq!((seqs, findings), (vec![], vec![Finding::Duplicate(0..1)]));
    assert_eq!(verifier.state().totals.given_up, 1);
    // A link to a boundary that was dropped is neither good nor broken.
    let (_, findings) = fed(&mut verifier, [&made[6], &made[7], &made[1], &made[0], &made[1]]);
    assert!(!findings.iter().any(|finding| matches!(finding, Finding::Broken { .. })));

    let other = altered(&made[0], |batch| batch.epoch = 8);
    let too_many = Reject::TooManyStreams { stream: StreamId { epoch: 8, ..id() }, streams_max: 1 };
    assert_eq!(take(&mut verifier, &other).unwrap_err(), too_many);
}

#[test]
fn a_closed_stream_is_complete_and_small() {
    let mut encoder = batches(1, Boundary::default());
    let mut made = messages(&mut encoder, 0..300);
    encoder.push(300, &node_close()).unwrap();
    made.extend(encoder.finish());
    let mut verifier = verifier();
    fed(&mut verifier, made.iter().filter(|message| message.first_seq != 7));
    assert!(!verifier.stream(&id()).unwrap().is_complete());
    fed(&mut verifier, [&made[7]]);
    assert!(verifier.stream(&id()).unwrap().is_complete());
    let kept = serde_json::to_string(verifier.stream(&id()).unwrap()).unwrap();
    assert!(kept.len() < 600, "{} bytes: {kept}", kept.len());
}

#[test]
fn state_that_was_kept_goes_on_as_if_nothing_had_happened() {
    let made = messages(&mut batches(2, Boundary::default()), 0..12);
    let mut whole = verifier();
    fed(&mut whole, [&made[0], &made[3]]);
    let kept = serde_json::to_vec(whole.state()).unwrap();
    let state: State = serde_json::from_slice(&kept).unwrap();
    assert_eq!(&state, whole.state());
    let mut resumed = Verifier::new(Vec::new(), Bounds::default(), state);
    let rest = [&made[1], &made[3], &made[4], &made[2]];
    assert_eq!(fed(&mut whole, rest), fed(&mut resumed, rest));
    assert_eq!(whole.state(), resumed.state());
}
