//! Messages of released versions, as they lie in topics for years: they decode to the same values for ever, and the encoder
//! still makes them. `tests/golden/usage-v1` is this first form; a later one gets a folder of its own, and this one stays.

use std::fmt::Write as _;
use std::sync::Arc;

use prost::Message as _;

use super::tests::{PRIVATE_PEM, SECRET, full_record, id, take};
use super::*;
use crate::event::{Kind, Phase, UsageRecord};

/// Name and content; the first two are one chain.
const FILES: [(&str, &[u8]); 7] = [
    ("batch-0.binpb", include_bytes!("../../tests/golden/usage-v1/batch-0.binpb")),
    ("batch-1.binpb", include_bytes!("../../tests/golden/usage-v1/batch-1.binpb")),
    ("batch-framed.binpb", include_bytes!("../../tests/golden/usage-v1/batch-framed.binpb")),
    ("record.binpb", include_bytes!("../../tests/golden/usage-v1/record.binpb")),
    ("record-framed.binpb", include_bytes!("../../tests/golden/usage-v1/record-framed.binpb")),
    ("batch.json", include_bytes!("../../tests/golden/usage-v1/batch.json")),
    ("record.json", include_bytes!("../../tests/golden/usage-v1/record.json")),
];
/// Their keys and headers.
const ENVELOPES: &str = include_str!("../../tests/golden/usage-v1/envelopes.txt");

/// The records of the golden messages, by seq: 3 and 4 were lost by the sender.
fn records() -> Vec<(u64, UsageRecord)> {
    let node = |phase: Phase| UsageRecord {
        kind: Kind::Node.into(),
        phase: phase.into(),
        at: 1_700_000_000_000_000,
        software: "weir 0.1.0".to_owned(),
        ..Default::default()
    };
    let session = UsageRecord {
        kind: Kind::Session.into(),
        phase: Phase::Checkpoint.into(),
        account: "acme".to_owned(),
        client_ip: bytes::Bytes::from_static(&[127, 0, 0, 1]),
        ..Default::default()
    };
    vec![(0, node(Phase::Open)), (1, full_record()), (2, session), (5, full_record()), (6, node(Phase::Close))]
}

fn made() -> Vec<(&'static str, Message)> {
    let hmac = Arc::new(SigningKey::hmac_sha256("golden", SECRET).unwrap());
    let eddsa = Arc::new(SigningKey::ed25519("golden-ed", PRIVATE_PEM).unwrap());
    let framed = Format::Protobuf { schema_id: Some(100_042) };
    let encoder = |layout, format, key| {
        let limits = Limits { records_max: 3, ..Limits::default() };
        Encoder::new(id(), layout, format, limits, key, Boundary::default())
    };
    let first = |mut encoder: Encoder, seq: usize| {
        let (seq, record) = records().swap_remove(seq);
        encoder.push(seq, &record.encode_to_vec()).unwrap().or_else(|| encoder.finish()).unwrap()
    };
    let mut chain = encoder(Layout::Batch, Format::default(), Some(hmac.clone()));
    let mut batches = Vec::new();
    for (seq, record) in records() {
        batches.extend(chain.push(seq, &record.encode_to_vec()).unwrap());
    }
    batches.extend(chain.finish());
    let mut batches = batches.into_iter();
    vec![
        ("batch-0.binpb", batches.next().unwrap()),
        ("batch-1.binpb", batches.next().unwrap()),
        ("batch-framed.binpb", first(encoder(Layout::Batch, framed, None), 1)),
        ("record.binpb", first(encoder(Layout::Record, Format::default(), Some(eddsa)), 1)),
        ("record-framed.binpb", first(encoder(Layout::Record, framed, None), 1)),
        ("batch.json", first(encoder(Layout::Batch, Format::Json, Some(hmac)), 1)),
        ("record.json", first(encoder(Layout::Record, Format::Json, None), 1)),
    ]
}

fn envelopes(made: &[(&str, Message)]) -> String {
    let mut text = String::new();
    for (name, message) in made {
        writeln!(text, "{name}\nkey: {}", message.key).unwrap();
        for (header, value) in &message.headers {
            writeln!(text, "{header}: {}", str::from_utf8(value).unwrap()).unwrap();
        }
        text.push('\n');
    }
    text
}

#[test]
fn the_encoder_still_makes_the_golden_messages() {
    let made = made();
    assert_eq!(made.len(), FILES.len());
    for ((name, message), (file, golden)) in made.iter().zip(FILES) {
        assert_eq!(*name, file);
        assert_eq!(message.payload, golden, "{name}");
    }
    assert_eq!(envelopes(&made), ENVELOPES);
}

#[test]
fn golden_messages_still_decode_to_the_same_values() {
    let mut verifier = super::tests::verifier();
    let mut findings = Vec::new();
    let mut read = Vec::new();
    for (envelope, (name, golden)) in ENVELOPES.split_terminator("\n\n").zip(FILES) {
        let mut lines = envelope.lines();
        assert_eq!(lines.next(), Some(name));
        assert_eq!(lines.next(), Some("key: edge-1/2"));
        let headers: Vec<(&str, &[u8])> =
            lines.map(|line| line.split_once(": ").unwrap()).map(|(name, value)| (name, value.as_bytes())).collect();
        if !name.starts_with("batch-") || name.contains("framed") {
            verifier = super::tests::verifier();
        }
        let taken = verifier.take(Incoming { headers: &headers, payload: golden }).unwrap();
        assert_eq!(taken.stream, id());
        findings.extend_from_slice(&taken.findings);
        for (seq, record) in taken.into_records() {
            let bare = UsageRecord { node: String::new(), epoch: 0, shard: 0, seq: 0, ..record.into() };
            read.push((name, seq, bare));
        }
    }
    let chain =
        [("batch-0.binpb", 0), ("batch-0.binpb", 1), ("batch-0.binpb", 2), ("batch-1.binpb", 5), ("batch-1.binpb", 6)];
    let alone = FILES[2..].iter().map(|(name, _)| (*name, 1));
    let records = records();
    let expected: Vec<_> = chain
        .into_iter()
        .chain(alone)
        .map(|(name, seq)| (name, seq, records.iter().find(|(known, _)| *known == seq).unwrap().1.clone()))
        .collect();
    assert_eq!(read, expected);
    let lost = Finding::Gap(Missing { seqs: 3..5, cause: Cause::LostBySender });
    assert_eq!(findings[0], lost);
    // Those that stand alone are at seq 1: a batch states what came before as lost, a record states nothing.
    let before = |cause| Finding::Gap(Missing { seqs: 0..1, cause });
    let (batch, record) = (before(Cause::LostBySender), before(Cause::BeforeStart));
    assert_eq!(findings[1..], [batch.clone(), record.clone(), record.clone(), batch, record]);
}

#[test]
fn golden_signatures_still_verify() {
    let keys = vec![VerifyingKey::hmac_sha256("golden", SECRET).unwrap()];
    let mut verifier = Verifier::new(keys, Bounds::default(), State::default());
    let made = made();
    assert!(take(&mut verifier, &made[0].1).is_ok());
    assert!(take(&mut verifier, &made[5].1).is_ok());
    assert_eq!(
        take(&mut verifier, &made[3].1).unwrap_err(),
        Reject::Signature(Fault::UnknownKey("golden-ed".to_owned()))
    );
}
