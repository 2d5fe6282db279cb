//! Whatever way the records of a stream are cut, repeated, reordered and resent, each is given out once and what is missing
//! is exact.

use std::collections::BTreeSet;

use bytes::Bytes;
use proptest::prelude::*;
use proptest::sample::Index;
use prost::Message as _;

use super::tests::{at_of, encoder, id, messages, record, take, verifier};
use super::*;
use crate::event::v1::UsageBatch;

/// Of one stream: enough for every shape of cut and gap.
const RECORDS: u64 = 60;

fn forms() -> impl Strategy<Value = (Layout, Format)> {
    prop_oneof![
        Just((Layout::Batch, Format::default())),
        Just((Layout::Batch, Format::Json)),
        Just((Layout::Record, Format::Protobuf { schema_id: Some(1) })),
        Just((Layout::Record, Format::Json)),
    ]
}

/// Feeds the log; gives every finding. Each record must come once, with its own position, and what is missing afterwards be
/// the rest.
fn fed_exactly(verifier: &mut Verifier, log: &[&Message]) -> Result<Vec<Finding>, TestCaseError> {
    let mut expected = BTreeSet::new();
    let mut seen = BTreeSet::new();
    let mut findings = Vec::new();
    let mut duplicates = 0;
    for message in log {
        let range = message.first_seq..message.after.next_seq;
        duplicates += range.clone().filter(|seq| !expected.insert(*seq)).count() as u64;
        let taken = take(verifier, message).map_err(|reject| TestCaseError::fail(reject.to_string()))?;
        prop_assert_eq!(&taken.stream, &id());
        for (seq, taken) in taken.records() {
            prop_assert!(seen.insert(seq), "{} came twice", seq);
            prop_assert_eq!(taken.at, at_of(seq));
        }
        findings.extend(taken.findings);
    }
    prop_assert_eq!(&seen, &expected);
    prop_assert_eq!(verifier.state().totals.duplicates, duplicates);
    let end = expected.last().map_or(0, |last| last + 1);
    let missing: BTreeSet<u64> = verifier.missing().flat_map(|(_, missing)| missing.seqs.clone()).collect();
    prop_assert_eq!(missing, (0..end).filter(|seq| !expected.contains(seq)).collect::<BTreeSet<_>>());
    let stated: u64 = findings
        .iter()
        .map(|finding| if let Finding::Duplicate(seqs) = finding { seqs.end - seqs.start } else { 0 })
        .sum();
    prop_assert_eq!(stated, duplicates);
    Ok(findings)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_cut_any_order_any_repetition(
        (layout, format) in forms(),
        lost in proptest::collection::btree_set(0..RECORDS, 0..5),
        cuts in proptest::collection::vec(1usize..10, 1..20),
        order in proptest::collection::vec(any::<Index>(), 0..40),
        (kept, everything) in (any::<Index>(), any::<bool>()),
    ) {
        let mut sender = encoder(layout, format, 1000, Boundary::default());
        let mut made = Vec::new();
        let mut cuts = cuts.iter().cycle();
        let mut left = *cuts.next().unwrap();
        for seq in (0..RECORDS).filter(|seq| !lost.contains(seq)) {
            made.extend(sender.push(seq, &record(seq)).unwrap());
            left -= 1;
            if left == 0 {
                made.extend(sender.finish());
                left = *cuts.next().unwrap();
            }
        }
        made.extend(sender.finish());
        let mut log: Vec<&Message> = order.iter().map(|index| index.get(&made)).collect();
        if everything {
            log.extend(&made);
        }
        // The state may be kept and taken up anywhere.
        let kept = kept.index(log.len() + 1);
        let mut verifier = verifier();
        let mut before = fed_exactly(&mut verifier, &log[..kept])?;
        let state = serde_json::from_slice(&serde_json::to_vec(verifier.state()).unwrap()).unwrap();
        let mut verifier = Verifier::new(Vec::new(), Bounds::default(), state);
        for message in &log[kept..] {
            before.extend(take(&mut verifier, message).unwrap().findings);
        }
        let at_once = fed_exactly(&mut super::tests::verifier(), &log)?;
        prop_assert_eq!(&before, &at_once);
        // One sender, one chain: nothing can look broken, in whatever order.
        let is_chain_fault = |finding: &Finding| matches!(finding, Finding::Broken { .. } | Finding::Restarted { .. });
        prop_assert!(!at_once.iter().any(is_chain_fault), "{:?}", at_once);
        if everything {
            let missing: BTreeSet<u64> = verifier.missing().flat_map(|(_, missing)| missing.seqs.clone()).collect();
            let end = RECORDS - (0..RECORDS).rev().take_while(|seq| lost.contains(seq)).count() as u64;
            prop_assert_eq!(missing, lost.range(..end).copied().collect::<BTreeSet<_>>());
            let causes = verifier.missing().map(|(_, missing)| missing.cause);
            prop_assert!(layout == Layout::Record || causes.into_iter().all(|cause| cause == Cause::LostBySender));
            prop_assert!(verifier.stream(&id()).unwrap().unlinked().is_empty());
        }
    }

    #[test]
    fn a_sender_that_is_killed_again_and_again_sends_one_chain(
        sessions in proptest::collection::vec((1usize..12, 1u64..60, any::<Index>()), 1..12),
        start in any::<Index>(),
    ) {
        let mut log: Vec<Message> = Vec::new();
        let mut cursor = Boundary::default();
        for (records_max, count, acknowledged) in sessions {
            // Goes on where it knows that everything before is in the log.
            let seqs = cursor.next_seq..cursor.next_seq + count;
            let made = messages(&mut encoder(Layout::Batch, Format::default(), records_max, cursor), seqs);
            let acknowledged = acknowledged.index(made.len() + 1);
            if acknowledged > 0 {
                cursor = made[acknowledged - 1].after;
            }
            log.extend(made);
        }
        let log: Vec<&Message> = log.iter().collect();
        let mut whole = verifier();
        let findings = fed_exactly(&mut whole, &log)?;
        prop_assert!(findings.iter().all(|finding| matches!(finding, Finding::Duplicate(_))), "{:?}", findings);
        prop_assert_eq!(whole.state().totals.links_verified, log.len() as u64);
        // Or from anywhere.
        let mut later = verifier();
        let findings = fed_exactly(&mut later, &log[start.index(log.len())..])?;
        let is_fault = |finding: &Finding| matches!(finding, Finding::Broken { .. } | Finding::Restarted { .. });
        prop_assert!(!findings.iter().any(is_fault), "{:?}", findings);
        prop_assert!(later.missing().all(|(_, missing)| missing.cause == Cause::BeforeStart));
    }

    #[test]
    fn a_resent_log_in_any_order_ends_without_a_break(
        first_max in 1usize..10, second_max in 1usize..10, acknowledged in any::<Index>(), shuffle in any::<u64>(),
    ) {
        let mut made = messages(&mut encoder(Layout::Batch, Format::default(), first_max, Boundary::default()), 0..50);
        let cursor = made[acknowledged.index(made.len())].after;
        made.extend(messages(&mut encoder(Layout::Batch, Format::default(), second_max, cursor), cursor.next_seq..60));
        let mut log: Vec<&Message> = made.iter().collect();
        log.sort_by_cached_key(|message| *blake3::hash(&[&message.payload[..], &shuffle.to_le_bytes()].concat()).as_bytes());
        let mut verifier = verifier();
        fed_exactly(&mut verifier, &log)?;
        prop_assert_eq!(verifier.state().totals.links_broken, 0);
        prop_assert!(verifier.stream(&id()).unwrap().unlinked().is_empty());
    }

    #[test]
    fn whatever_is_altered_is_seen(position in any::<Index>(), bit in 0u32..8, which in 0usize..4) {
        let key = || std::sync::Arc::new(SigningKey::hmac_sha256("k", super::tests::SECRET).unwrap());
        let limits = Limits { records_max: 3, ..Limits::default() };
        let mut sender =
            Encoder::new(id(), Layout::Batch, Format::default(), limits, Some(key()), Boundary::default());
        let made = messages(&mut sender, 0..15);
        let mut log = made.clone();
        let mut value = log[which].payload.to_vec();
        let at = position.index(value.len());
        value[at] ^= 1 << bit;
        log[which].payload = value.into();
        let signed = VerifyingKey::hmac_sha256("k", super::tests::SECRET).unwrap();
        let mut with_key = Verifier::new(vec![signed], Bounds::default(), State::default());
        prop_assert!(matches!(take(&mut with_key, &log[which]), Err(Reject::Signature(Fault::Forged(_)))));
        // Without a key the next batch tells: the altered one is no more what it says it follows.
        let mut unkeyed = verifier();
        let mut is_seen = false;
        for message in &log {
            match take(&mut unkeyed, message) {
                Err(_) => is_seen = true,
                Ok(taken) => is_seen |= taken.findings.iter().any(|finding| {
                    matches!(finding, Finding::Broken { .. } | Finding::Gap(_) | Finding::HeaderDiffers(_))
                }),
            }
        }
        prop_assert!(is_seen);
    }

    #[test]
    fn a_batch_is_read_as_prost_reads_it(position in any::<Index>(), bit in 0u32..8, cut in any::<Index>()) {
        let made = messages(&mut encoder(Layout::Batch, Format::default(), 3, Boundary::default()), 0..6);
        let mut value = made[1].payload.to_vec();
        let at = position.index(value.len());
        value[at] ^= 1 << bit;
        for value in [&value[..], &value[..cut.index(value.len())]] {
            let ours = Batch::decode(value).ok().map(|batch| UsageBatch {
                node: batch.node.to_owned(),
                epoch: batch.epoch,
                shard: batch.shard,
                first_seq: batch.first_seq,
                count: batch.count,
                records: batch.records.into_iter().map(Into::into).collect(),
                previous_hash: Bytes::copy_from_slice(batch.previous_hash),
                skipped: batch.skipped,
            });
            prop_assert_eq!(ours, UsageBatch::decode(value).ok());
        }
    }

    #[test]
    fn batches_of_a_file_end_where_it_is_torn(cut in any::<Index>()) {
        let made = messages(&mut encoder(Layout::Batch, Format::default(), 3, Boundary::default()), 0..9);
        let (mut file, mut ends) = (Vec::new(), vec![0]);
        for message in &made {
            prost::encode_length_delimiter(message.payload.len(), &mut file).unwrap();
            file.extend_from_slice(&message.payload);
            ends.push(file.len());
        }
        let cut = cut.index(file.len() + 1);
        let whole: Vec<_> = batches(&file[..cut]).collect();
        prop_assert_eq!(whole.len() + 1, ends.iter().filter(|end| **end <= cut).count());
        prop_assert_eq!(whole.iter().map(|(octets, _)| octets.len()).sum::<usize>(), ends[whole.len()]);
        let first_seqs: Vec<i64> = whole.iter().map(|(_, batch)| batch.first_seq).collect();
        prop_assert_eq!(first_seqs, [0, 3, 6][..whole.len()].to_vec());
    }
}
