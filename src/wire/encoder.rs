//! Journal records → messages. Copies record bytes behind one another; decodes only for JSON.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    Boundary, CONTENT_TYPE_HEADER, Error, Format, Hash, Layout, NODE_HEADER, SCHEMA_HEADER, SEQ_HEADER,
    SIGNATURE_HEADER, Schema, SigningKey, StreamId, json, protobuf,
};

/// Upper bound of what Kafka adds to a message, compressed or not (a batch's header is 61 bytes, a record's at most 35).
const KAFKA_BYTES: usize = 128;
/// The same for each header.
const KAFKA_HEADER_BYTES: usize = 10;
/// A signature header's longest value: ed25519 with a key name of 64 bytes.
const SIGNATURE_BYTES_MAX: usize = 7 + 1 + 64 + 1 + 128;

/// How much goes into one message.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of a message with key, headers and Kafka's framing, before compression.
    pub message_bytes_max: usize,
    /// Records of a batch.
    pub records_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { message_bytes_max: 900_000, records_max: 500 }
    }
}

/// One Kafka message.
#[derive(Clone, Debug)]
pub struct Message {
    /// `<node>/<shard>`.
    pub key: Arc<str>,
    /// Names and values.
    pub headers: Vec<(&'static str, Bytes)>,
    /// The value.
    pub payload: Bytes,
    /// Seq of its first record.
    pub first_seq: u64,
    /// Its end: to be kept beside the cursor once everything up to here is acknowledged.
    pub after: Boundary,
    /// One record that is larger than a message may be: a broker may refuse it.
    pub over_max: bool,
}

/// Makes the messages of one stream. Holds at most one unfinished message; a kill loses nothing, the journal has it.
pub struct Encoder {
    stream: StreamId,
    format: Format,
    schema: Schema,
    limits: Limits,
    key: Arc<str>,
    node: Bytes,
    signing: Option<Arc<SigningKey>>,
    /// Behind the last finished message.
    at: Boundary,
    /// Room kept before the records of a message for its head.
    head_bytes_max: usize,
    /// The largest value.
    payload_bytes_max: usize,
    /// Records of the unfinished message, behind the room for its head.
    open: Vec<u8>,
    open_first_seq: u64,
    open_count: usize,
    /// To allocate as much as the message before took.
    last_bytes: usize,
}

impl Encoder {
    /// Goes on at `at`: `Boundary::default()` for a new stream, else what was kept beside the cursor.
    pub fn new(
        stream: StreamId,
        layout: Layout,
        format: Format,
        limits: Limits,
        signing: Option<Arc<SigningKey>>,
        at: Boundary,
    ) -> Self {
        let schema = Schema { layout, is_json: format == Format::Json };
        let mut encoder = Self {
            key: Arc::from(format!("{}/{}", stream.node, stream.shard)),
            node: Bytes::copy_from_slice(stream.node.as_bytes()),
            stream,
            format,
            schema,
            limits,
            signing,
            at,
            head_bytes_max: 0,
            payload_bytes_max: 0,
            open: Vec::new(),
            open_first_seq: 0,
            open_count: 0,
            last_bytes: 0,
        };
        let mut longest = Vec::new();
        let some_hash = Some(Hash([0xff; 32]));
        encoder.head(&mut longest, some_hash, i64::MAX as u64, i64::MAX as u64, i32::MAX as usize);
        encoder.head_bytes_max = longest.len();
        let headers: usize = encoder
            .headers(i64::MAX as u64, i64::MAX as u64, &Hash([0; 32]))
            .iter()
            .map(|(name, value)| {
                let value_bytes = if *name == SIGNATURE_HEADER { SIGNATURE_BYTES_MAX } else { value.len() };
                KAFKA_HEADER_BYTES + name.len() + value_bytes
            })
            .sum();
        let envelope_bytes = KAFKA_BYTES + encoder.key.len() + headers;
        encoder.payload_bytes_max = encoder.limits.message_bytes_max.saturating_sub(envelope_bytes);
        encoder
    }

    /// Whose records.
    pub fn stream(&self) -> &StreamId {
        &self.stream
    }

    /// Adds the next record; gives the message that it did not fit into any more, or with `layout = "record"` its own.
    /// A jump in seq says that the journal lost what lies between. After an error nothing has changed.
    pub fn push(&mut self, seq: u64, record: &[u8]) -> Result<Option<Message>, Error> {
        let expected = match self.open_count {
            0 => self.at.next_seq,
            count => self.open_first_seq + count as u64,
        };
        if seq < expected {
            return Err(Error::Backwards { stream: self.stream.clone(), seq, expected });
        }
        if self.schema.layout == Layout::Record {
            return self.alone(seq, record).map(Some);
        }
        let text = match self.format {
            Format::Json => Some(json::record(&self.stream, seq, record)?),
            Format::Protobuf { .. } => None,
        };
        let added_bytes = match &text {
            Some((text, _)) => text.len() + 1,
            None => protobuf::batch_record_bytes(record),
        };
        let is_full = self.open_count >= self.limits.records_max
            || self.open.len() + added_bytes + self.tail_bytes_max() > self.payload_bytes_max;
        let full = if self.open_count > 0 && (is_full || seq > expected) { self.finish() } else { None };
        if self.open_count == 0 {
            self.open = Vec::with_capacity(self.last_bytes.max(self.head_bytes_max + added_bytes));
            self.open.resize(self.head_bytes_max, 0);
            self.open_first_seq = seq;
        }
        match &text {
            Some((text, _)) => {
                if self.open_count > 0 {
                    self.open.push(b',');
                }
                self.open.extend_from_slice(text.as_bytes());
            }
            None => protobuf::batch_record(&mut self.open, record),
        }
        self.open_count += 1;
        Ok(full)
    }

    /// The unfinished message, if there is one: to be sent without waiting for more.
    pub fn finish(&mut self) -> Option<Message> {
        if self.open_count == 0 {
            return None;
        }
        let (first_seq, count) = (self.open_first_seq, self.open_count);
        let next_seq = first_seq + count as u64;
        let skipped = first_seq - self.at.next_seq;
        let mut value = std::mem::take(&mut self.open);
        self.open_count = 0;
        self.last_bytes = value.len() + self.tail_bytes_max() + 256;
        match self.format {
            Format::Protobuf { .. } => protobuf::batch_tail(&mut value, self.at.hash, skipped),
            Format::Json => value.extend_from_slice(json::BATCH_TAIL),
        }
        // The head ends where the records begin.
        let mut head = Vec::with_capacity(self.head_bytes_max);
        self.head(&mut head, self.at.hash, skipped, first_seq, count);
        let begin = self.head_bytes_max.saturating_sub(head.len());
        value[begin..self.head_bytes_max].copy_from_slice(&head);
        let payload = Bytes::from(value).slice(begin..);
        let hash = Hash::of(&payload);
        self.at = Boundary { next_seq, hash: Some(hash) };
        Some(self.message(payload, first_seq, &hash))
    }

    fn alone(&mut self, seq: u64, record: &[u8]) -> Result<Message, Error> {
        let mut value = Vec::with_capacity(self.last_bytes);
        match self.format {
            Format::Protobuf { schema_id } => {
                protobuf::lone_record(&mut value, schema_id, &self.stream, seq, record);
            }
            Format::Json => {
                let (text, record) = json::record(&self.stream, seq, record)?;
                json::lone_record(&mut value, &self.stream, seq, &record, &text);
            }
        }
        self.last_bytes = value.len() + 64;
        // No chain; the hash is for the signature.
        let hash = if self.signing.is_some() { Hash::of(&value) } else { Hash([0; 32]) };
        self.at = Boundary { next_seq: seq + 1, hash: None };
        Ok(self.message(Bytes::from(value), seq, &hash))
    }

    fn message(&self, payload: Bytes, first_seq: u64, hash: &Hash) -> Message {
        Message {
            key: self.key.clone(),
            headers: self.headers(first_seq, self.at.next_seq - 1, hash),
            over_max: payload.len() > self.payload_bytes_max,
            payload,
            first_seq,
            after: self.at,
        }
    }

    fn headers(&self, first_seq: u64, last_seq: u64, hash: &Hash) -> Vec<(&'static str, Bytes)> {
        let mut headers = Vec::with_capacity(5);
        headers.push((SCHEMA_HEADER, Bytes::from_static(self.schema.name().as_bytes())));
        headers.push((NODE_HEADER, self.node.clone()));
        headers.push((SEQ_HEADER, Bytes::from(format!("{first_seq}-{last_seq}"))));
        if let Some(key) = &self.signing {
            headers.push((SIGNATURE_HEADER, Bytes::from(key.sign(self.schema.name(), hash))));
        }
        if self.format == Format::Json {
            headers.push((CONTENT_TYPE_HEADER, Bytes::from_static(json::CONTENT_TYPE.as_bytes())));
        }
        headers
    }

    fn head(&self, to: &mut Vec<u8>, previous: Option<Hash>, skipped: u64, first_seq: u64, count: usize) {
        match self.format {
            Format::Protobuf { schema_id } => protobuf::batch_head(to, schema_id, &self.stream, first_seq, count),
            Format::Json => json::batch_head(to, &self.stream, previous, skipped, first_seq, count),
        }
    }

    fn tail_bytes_max(&self) -> usize {
        match self.format {
            Format::Protobuf { .. } => protobuf::TAIL_BYTES_MAX,
            Format::Json => json::BATCH_TAIL.len(),
        }
    }
}
