//! Messages → records, each once, and what is wrong with the rest.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::read::{self, Content, Reject};
use super::signature::{Keys, VerifyingKey};
use super::stream::{Cause, Finding, Missing, Outcome, Stream};
use super::{Hash, NODE_HEADER, SCHEMA_HEADER, SEQ_HEADER, SIGNATURE_HEADER, StreamId};
use crate::event::{Kind, Phase, RecordView, ShardEnd};

/// A message as it was read.
#[derive(Clone, Copy, Debug)]
pub struct Incoming<'h, 'a> {
    /// Names and values.
    pub headers: &'h [(&'h str, &'h [u8])],
    /// The value.
    pub payload: &'a [u8],
}

impl<'h> Incoming<'h, '_> {
    /// The last one with this name, as Kafka's own readers take it.
    fn header(&self, name: &str) -> Option<&'h [u8]> {
        self.headers.iter().rev().find(|(known, _)| *known == name).map(|(_, value)| *value)
    }
}

/// What the verifier keeps at most; see the module's header for what happens then.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Streams known, about 300 bytes each when complete, up to 100 KB with all of the bounds below used.
    pub streams_max: usize,
    /// Open gaps of one stream, 24 bytes each.
    pub gaps_max: usize,
    /// Boundaries, and open links, of one stream; 48 bytes each.
    pub boundaries_max: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { streams_max: 100_000, gaps_max: 1024, boundaries_max: 256 }
    }
}

/// What a message added.
#[derive(Debug)]
pub struct Taken<'a> {
    /// Whose records.
    pub stream: StreamId,
    /// What it showed.
    pub findings: Vec<Finding>,
    seqs: Vec<u64>,
    records: Vec<RecordView<'a>>,
}

impl<'a> Taken<'a> {
    /// How many records.
    pub fn count(&self) -> usize {
        self.records.len()
    }

    /// Seq and record, in order, each for the first time.
    pub fn records(&self) -> impl Iterator<Item = (u64, &RecordView<'a>)> {
        self.seqs.iter().copied().zip(&self.records)
    }

    /// The same, to keep.
    pub fn into_records(self) -> impl Iterator<Item = (u64, RecordView<'a>)> {
        self.seqs.into_iter().zip(self.records)
    }
}

/// Counts of everything that was fed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Totals {
    /// Messages taken.
    pub messages: u64,
    /// Records given out.
    pub records: u64,
    /// Records that came again.
    pub duplicates: u64,
    /// Seqs of gaps that were given up.
    pub given_up: u64,
    /// Messages that are not weir's, or of a schema that is not known.
    pub foreign: u64,
    /// Messages with a bad signature.
    pub bad_signatures: u64,
    /// Messages that cannot be read.
    pub unreadable: u64,
    /// Messages refused because there were too many streams.
    pub refused: u64,
    /// Signed messages taken unverified, because no key is configured.
    pub signatures_unchecked: u64,
    /// Batches whose predecessor is the one they name, or who rightly have none.
    pub links_verified: u64,
    /// Links that broke, less those mended.
    pub links_broken: u64,
    /// Batches that name no predecessor where there was one.
    pub links_restarted: u64,
    /// Batches whose predecessor is too long ago.
    pub links_forgotten: u64,
}

/// All that has to be kept. In JSON: `{"totals": …, "streams": [[id, stream], …]}`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct State {
    /// Counts.
    pub totals: Totals,
    /// By stream.
    #[serde(with = "pairs")]
    pub streams: BTreeMap<StreamId, Stream>,
}

/// Takes the messages of any number of streams, in any order.
pub struct Verifier {
    keys: Keys,
    bounds: Bounds,
    state: State,
}

impl Verifier {
    /// Begins anew, or where `state` was kept. Without keys no signature is asked for.
    pub fn new(keys: Vec<VerifyingKey>, bounds: Bounds, state: State) -> Self {
        Self { keys: Keys::new(keys), bounds, state }
    }

    /// Everything known.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// One stream, for who keeps them apart.
    pub fn stream(&self, id: &StreamId) -> Option<&Stream> {
        self.state.streams.get(id)
    }

    /// Every open gap.
    pub fn missing(&self) -> impl Iterator<Item = (&StreamId, &Missing)> {
        self.state.streams.iter().flat_map(|(id, stream)| stream.missing().iter().map(move |missing| (id, missing)))
    }

    /// Takes a message. A rejected one changes nothing but the count.
    pub fn take<'a>(&mut self, message: Incoming<'_, 'a>) -> Result<Taken<'a>, Reject> {
        let taken = self.checked(message);
        let totals = &mut self.state.totals;
        match &taken {
            Ok(_) => totals.messages += 1,
            Err(Reject::Foreign | Reject::UnknownSchema(_)) => totals.foreign += 1,
            Err(Reject::Signature(_)) => totals.bad_signatures += 1,
            Err(Reject::Malformed(_)) => totals.unreadable += 1,
            Err(Reject::TooManyStreams { .. }) => totals.refused += 1,
        }
        taken
    }

    /// Takes consecutive records that no message held: read from a journal, or from a file. They have no chain and no signature;
    /// `skipped` records right before them are lost for ever.
    pub fn take_records<'a>(
        &mut self,
        stream: StreamId,
        first_seq: u64,
        skipped: u64,
        records: Vec<RecordView<'a>>,
    ) -> Result<Taken<'a>, Reject> {
        self.has_room_for(&stream)?;
        let skipped = skipped.min(first_seq);
        let content = Content { stream, first_seq, records, skipped, chain: None };
        Ok(self.apply(content, Hash([0; 32]), &mut Vec::new()))
    }

    /// A record of `by` says where an earlier shard of its node ended: what of that did not come is missing, until it does. An epoch
    /// of which nothing came is only known by this; if nothing of an earlier one came either, it was before the reader's start.
    /// None where that is nothing new, is nonsense, or is one stream too many.
    pub fn ended(&mut self, by: &StreamId, end: &ShardEnd) -> Option<(StreamId, Vec<Finding>)> {
        let epoch = u32::try_from(end.epoch).ok().filter(|epoch| *epoch < by.epoch)?;
        let stream = StreamId { node: by.node.clone(), epoch, shard: u16::try_from(end.shard).ok()? };
        let next_seq = u64::try_from(end.next_seq).ok()?;
        if self.stream(&stream).map_or(0, Stream::next_seq) >= next_seq || self.has_room_for(&stream).is_err() {
            return None;
        }
        let first = StreamId { epoch: 0, shard: 0, ..stream.clone() };
        let last = StreamId { shard: u16::MAX, ..stream.clone() };
        let was_heard = self.state.streams.range(first..=last).any(|(_, known)| !known.is_unheard());
        let cause = if was_heard { Cause::Missing } else { Cause::BeforeStart };
        let findings = self.state.streams.entry(stream.clone()).or_default().ended(next_seq, cause, &self.bounds);
        self.count(&findings);
        Some((stream, findings))
    }

    fn checked<'a>(&mut self, message: Incoming<'_, 'a>) -> Result<Taken<'a>, Reject> {
        let schema = read::schema(message.header(SCHEMA_HEADER))?;
        let hash = Hash::of(message.payload);
        let signature = message.header(SIGNATURE_HEADER);
        if !self.keys.is_empty() {
            self.keys.verify(signature, schema.name(), &hash)?;
        }
        let content = read::content(schema, message.payload)?;
        self.has_room_for(&content.stream)?;
        // From here on it is taken.
        if self.keys.is_empty() && signature.is_some() {
            self.state.totals.signatures_unchecked += 1;
        }
        let mut findings = differing_headers(&message, &content);
        Ok(self.apply(content, hash, &mut findings))
    }

    fn count(&mut self, findings: &[Finding]) {
        let totals = &mut self.state.totals;
        for finding in findings {
            match finding {
                Finding::GivenUp(seqs) => totals.given_up += seqs.end - seqs.start,
                Finding::Broken { .. } => totals.links_broken += 1,
                Finding::Mended { .. } => totals.links_broken = totals.links_broken.saturating_sub(1),
                _ => {}
            }
        }
    }

    fn has_room_for(&self, stream: &StreamId) -> Result<(), Reject> {
        if self.state.streams.len() >= self.bounds.streams_max && !self.state.streams.contains_key(stream) {
            let streams_max = self.bounds.streams_max;
            return Err(Reject::TooManyStreams { stream: stream.clone(), streams_max });
        }
        Ok(())
    }

    fn apply<'a>(&mut self, content: Content<'a>, hash: Hash, findings: &mut Vec<Finding>) -> Taken<'a> {
        let (totals, bounds) = (&mut self.state.totals, &self.bounds);
        let stream = self.state.streams.entry(content.stream.clone()).or_default();
        let seqs = content.range();
        let stated_from = seqs.start - content.skipped;
        if let Some(chain) = &content.chain {
            match stream.link(chain, bounds, findings) {
                Outcome::Verified => totals.links_verified += 1,
                Outcome::Restarted => totals.links_restarted += 1,
                Outcome::Forgotten => totals.links_forgotten += 1,
                Outcome::Broken | Outcome::Waiting => {}
            }
        }
        let fresh = stream.take(seqs.clone(), stated_from, bounds, findings);
        if content.chain.is_some() {
            totals.links_verified += stream.bound(seqs.end, hash, bounds, findings);
        }
        let mut fresh = fresh.into_iter().peekable();
        let mut records = content.records;
        let (came, mut seqs, mut taken) = (records.len(), seqs, Vec::with_capacity(records.len()));
        records.retain(|record| {
            let Some(seq) = seqs.next() else { return false };
            while fresh.next_if(|range| range.end <= seq).is_some() {}
            let is_fresh = fresh.peek().is_some_and(|range| range.contains(&seq));
            if is_fresh {
                taken.push(seq);
                if record.kind() == Kind::Node && record.phase() == Phase::Close {
                    stream.closed_by(seq);
                }
            }
            is_fresh
        });
        totals.records += taken.len() as u64;
        totals.duplicates += (came - taken.len()) as u64;
        if stream.is_complete() {
            stream.shrink();
        }
        self.count(findings);
        Taken { stream: content.stream, findings: std::mem::take(findings), seqs: taken, records }
    }
}

fn differing_headers(message: &Incoming<'_, '_>, content: &Content<'_>) -> Vec<Finding> {
    let range = content.range();
    let seqs = format!("{}-{}", range.start, range.end - 1);
    [(NODE_HEADER, content.stream.node.as_bytes()), (SEQ_HEADER, seqs.as_bytes())]
        .into_iter()
        .filter(|(name, value)| message.header(name).is_some_and(|header| header != *value))
        .map(|(name, _)| Finding::HeaderDiffers(name))
        .collect()
}

/// JSON has no maps with such keys.
mod pairs {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serializer};

    use super::{Stream, StreamId};

    pub(super) fn serialize<S: Serializer>(
        streams: &BTreeMap<StreamId, Stream>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(streams)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<StreamId, Stream>, D::Error> {
        Ok(Vec::<(StreamId, Stream)>::deserialize(deserializer)?.into_iter().collect())
    }
}
