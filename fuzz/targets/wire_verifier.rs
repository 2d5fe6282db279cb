//! Wire: whatever lies in a topic, the verifier comes to an end, gives each record out once, and what it says is missing is
//! exactly what did not come; its state can be kept and taken up at any message.
//!
//! Random bytes are hardly ever a message, so each part of the input is by its first byte a message as it stands, or a
//! few numbers of which the harness makes a batch that is one: of any stream, position and chain.
#![no_main]

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;
use weir::event::UsageRecord;
use weir::event::v1::UsageBatch;
use weir::wire::{Bounds, Finding, Hash, Incoming, State, StreamId, Taken, Verifier};

/// Between two messages.
const CUT: &[u8] = b"<|>";
const SCHEMAS: [&str; 6] = [
    "weir.usage.v1.UsageBatch",
    "weir.usage.v1.UsageRecord",
    "weir.usage.v1.UsageBatch+json",
    "weir.usage.v1.UsageRecord+json",
    "weir.usage.v9",
    "",
];
const BOUNDS: Bounds = Bounds { streams_max: 4, gaps_max: 3, boundaries_max: 3 };

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let mut verifier = Verifier::new(Vec::new(), BOUNDS, State::default());
    let mut seen: BTreeMap<StreamId, BTreeSet<u64>> = BTreeMap::new();
    let mut given_up: BTreeMap<StreamId, BTreeSet<u64>> = BTreeMap::new();
    let mut hashes = vec![Vec::new()];
    let mut rest = input;
    for _ in 0..64 {
        let end = rest.windows(CUT.len()).position(|window| window == CUT).unwrap_or(rest.len());
        let (part, after) = rest.split_at(end);
        rest = after.get(CUT.len()..).unwrap_or_default();
        let Some((kind, part)) = part.split_first() else {
            break;
        };
        let made = if kind & 128 == 0 { None } else { batch(part, &hashes) };
        let (schema, payload) = match &made {
            Some(made) => (SCHEMAS[0], made.as_slice()),
            None => (SCHEMAS[usize::from(*kind) % SCHEMAS.len()], part),
        };
        let headers = [("weir-schema", schema.as_bytes()), ("weir-seq", b"0-0")];
        let before = verifier.state().clone();
        let headers = if schema.is_empty() { &headers[..0] } else { &headers[..] };
        let message = Incoming { headers, payload };
        let taken = match verifier.take(message) {
            Ok(taken) => taken,
            Err(reject) => {
                assert!(!reject.to_string().is_empty());
                assert_eq!(before.streams, verifier.state().streams, "a rejected message changed something");
                continue;
            }
        };
        hashes.push(Hash::of(payload).0.to_vec());
        // The same from a state that was kept.
        let kept = serde_json::from_slice(&serde_json::to_vec(&before).expect("a state")).expect("a state");
        let mut resumed = Verifier::new(Vec::new(), BOUNDS, kept);
        let again = resumed.take(message).expect("what was taken is taken again");
        assert!(again.records().eq(taken.records()), "a kept state takes other records");
        assert_eq!(again.findings, taken.findings);
        assert_eq!(resumed.state(), verifier.state());
        check(&taken, seen.entry(taken.stream.clone()).or_default(), given_up.entry(taken.stream.clone()).or_default());
        let stream = verifier.stream(&taken.stream).expect("it was taken");
        assert!(stream.missing().len() <= BOUNDS.gaps_max && stream.unlinked().len() <= BOUNDS.boundaries_max);
        let missing: u64 = stream.missing().iter().map(|missing| missing.seqs.end - missing.seqs.start).sum();
        let came = seen[&taken.stream].len() as u64;
        let known = came + missing;
        assert!(known <= stream.next_seq(), "more came or is missing than there can be");
        for missing in stream.missing() {
            assert!(missing.seqs.start < missing.seqs.end && missing.seqs.end < stream.next_seq());
            assert!(seen[&taken.stream].range(missing.seqs.clone()).next().is_none(), "it came");
        }
        if verifier.state().totals.given_up == 0 {
            assert_eq!(known, stream.next_seq());
        }
    }
});

fn check(taken: &Taken<'_>, seen: &mut BTreeSet<u64>, given_up: &mut BTreeSet<u64>) {
    for (seq, _) in taken.records() {
        assert!(seen.insert(seq), "{seq} was given out twice");
        assert!(!given_up.contains(&seq), "{seq} was given up before");
    }
    let new = |seq: u64| taken.records().any(|(known, _)| known == seq);
    for finding in &taken.findings {
        match finding {
            Finding::Filled(seqs) => assert!(seqs.clone().all(new)),
            Finding::Duplicate(seqs) => assert!(!seqs.clone().any(new)),
            // Only its edges: it may be as long as numbers are.
            Finding::GivenUp(seqs) => given_up.extend([seqs.start, seqs.end - 1]),
            _ => {}
        }
    }
}

/// A batch as some encoder may have made it: [stream, first seq (2), count, skipped, which hash].
fn batch(numbers: &[u8], hashes: &[Vec<u8>]) -> Option<Vec<u8>> {
    let [stream, high, low, count, skipped, which, ..] = numbers else {
        return None;
    };
    let count = count % 16 + 1;
    let first_seq = i64::from(u16::from_be_bytes([*high, *low]));
    let records = (0..count).map(|_| UsageRecord::default()).collect();
    let batch = UsageBatch {
        node: "n".to_owned(),
        epoch: i64::from(stream % 8),
        shard: 0,
        first_seq,
        count: i32::from(count),
        records,
        previous_hash: hashes[usize::from(*which) % hashes.len()].clone().into(),
        skipped: i64::from(*skipped).min(first_seq),
    };
    Some(batch.encode_to_vec())
}
