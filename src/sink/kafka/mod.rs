//! Batches in a Kafka topic, each safe once all in-sync replicas have it.
//!
//! * **Producer**: librdkafka, idempotent, `acks=all`. It never gives a message up (`message.timeout.ms=0`): what must be given
//!   up is decided here, by forgetting the producer and starting a new one.
//! * **Format**: `wire`'s; key node/shard, so one partition holds one shard in order.
//! * **When full**: librdkafka's queue holds more than `in_flight_bytes_max`, so it hardly ever is; if it is, what did not fit
//!   waits here and nothing more is taken.
//! * **What survives a crash**: nothing but what the broker has.
//! * **Before the first message** the topic is looked at ([`topic`]): it is made where it is missing, and what it lacks is named.

mod producer;
mod token;
mod topic;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _};
use tracing::{error, info, warn};

use super::{Batch, Error, Failure, Outcome, Sent, Sink, Ticket};
use crate::config::{self, KafkaFormat, KafkaLayout};
use crate::wire::{Encoder, Format, Layout, Limits, Message, SigningKey, StreamId};
use producer::{Delivery, Producer, Reports, Undelivered};
pub use topic::{Shortcoming, inspect};

/// A producer without any news of what it holds for this long is given up and a new one started.
const SILENCE_MAX: Duration = Duration::from_secs(120);
/// How long the broker may take to say what a topic is like.
const ASK_MAX: Duration = Duration::from_secs(5);

/// How often the topic is asked what it takes, while a record is too large for it.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// The least that librdkafka can be told a message may hold.
const MESSAGE_BYTES_MAX_MIN: usize = 1000;

/// A topic refused a message as too large, although it holds no more than the topic states. Where the broker does not tell (weir
/// may not ask, or a default was changed under way) half of it is tried next.
#[derive(Clone, Copy, Debug)]
struct Refused {
    /// What the topic stated.
    stated: usize,
    /// What went into one message.
    limit: usize,
}

/// Sends batches to one topic.
pub struct KafkaSink {
    config: config::KafkaSink,
    layout: Layout,
    format: Format,
    signing: Option<Arc<SigningKey>>,
    producer: Option<Producer>,
    reports: Arc<Reports>,
    /// Messages of each ticket whose outcome is not known.
    unsettled: HashMap<Ticket, usize>,
    /// Taken, but librdkafka had no room yet.
    waiting: VecDeque<(Ticket, Message)>,
    /// Held a record that is larger than the topic takes.
    too_large: Vec<(Ticket, String)>,
    /// When a delivery was last reported, or the first message sent after a pause.
    heard_at: Instant,
    /// What the topic says that it takes in one message, and when it last said so.
    stated_bytes_max: usize,
    stated_at: Instant,
    /// What goes into one message: that, or less where it refused that.
    message_bytes_max: usize,
    refused: Option<Refused>,
    /// What was last said about the topic, so that it is said once.
    named: Vec<Shortcoming>,
}

impl KafkaSink {
    /// A sink that has not spoken with the broker yet. Reads the signing key.
    pub fn new(config: &config::KafkaSink) -> Result<Self, Error> {
        let options = &config.kafka;
        let layout = match options.layout {
            KafkaLayout::Batch => Layout::Batch,
            KafkaLayout::Record => Layout::Record,
        };
        let format = match options.format {
            KafkaFormat::Protobuf => Format::Protobuf { schema_id: options.schema_id },
            KafkaFormat::Json => Format::Json,
        };
        let signing = options.signing.as_ref().map(signing_key).transpose()?.map(Arc::new);
        Ok(Self {
            config: config.clone(),
            layout,
            format,
            signing,
            producer: None,
            reports: Arc::default(),
            unsettled: HashMap::new(),
            waiting: VecDeque::new(),
            too_large: Vec::new(),
            heard_at: Instant::now(),
            stated_bytes_max: usize::MAX,
            stated_at: Instant::now(),
            message_bytes_max: usize::MAX,
            refused: None,
            named: Vec::new(),
        })
    }

    fn failed(&self, operation: &'static str) -> impl FnOnce(KafkaError) -> Error {
        let servers = self.config.bootstrap_servers.clone();
        move |source| Error::Kafka { operation, servers, source }
    }

    /// Looks at the topic, names what it lacks, and starts a producer.
    fn start(&mut self) -> Result<(), Error> {
        let topic = topic::ready(&self.config, ASK_MAX)?;
        (self.stated_bytes_max, self.stated_at) = (topic.message_bytes_max, Instant::now());
        self.message_bytes_max = match self.refused {
            Some(refused) if refused.stated == topic.message_bytes_max => {
                (refused.limit / 2).max(MESSAGE_BYTES_MAX_MIN)
            }
            _ => topic.message_bytes_max,
        };
        for shortcoming in &topic.shortcomings {
            if !self.named.contains(shortcoming) {
                warn!(topic = self.config.topic, "{shortcoming}");
            }
        }
        self.named = topic.shortcomings;
        self.reports.clear();
        let producer = producer::create(&self.config, self.message_bytes_max, self.reports.clone())
            .map_err(self.failed("start a producer"))?;
        self.producer = Some(producer);
        self.heard_at = Instant::now();
        info!(topic = self.config.topic, partitions = topic.partitions, "sending to Kafka");
        Ok(())
    }

    /// An error if the topic takes more, or less, than it did: a new producer is needed, and everything sent again.
    fn look_again(&mut self) -> Result<(), Error> {
        if self.stated_at.elapsed() < LOOK_AGAIN {
            return Ok(());
        }
        let topic = topic::ready(&self.config, ASK_MAX)?;
        self.stated_at = Instant::now();
        if topic.message_bytes_max == self.stated_bytes_max {
            return Ok(());
        }
        let why = format!("max.message.bytes is {} now: beginning anew", topic.message_bytes_max);
        Err(Error::Topic { topic: self.config.topic.clone(), why })
    }

    /// Hands what waits to librdkafka, until it has no room.
    fn hand_over(&mut self) -> Result<(), KafkaError> {
        let Some(producer) = &self.producer else { return Ok(()) };
        while let Some((ticket, message)) = self.waiting.front() {
            let mut headers = OwnedHeaders::new_with_capacity(message.headers.len());
            for (key, value) in &message.headers {
                headers = headers.insert(Header { key, value: Some(value.as_ref()) });
            }
            let record = BaseRecord::with_opaque_to(&self.config.topic, *ticket)
                .key(message.key.as_bytes())
                .payload(message.payload.as_ref())
                .headers(headers);
            match producer.send(record) {
                Ok(()) => {}
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => return Ok(()),
                Err((error, _)) if is_too_large(&error) => {
                    // One record alone is larger than the topic takes: it never left.
                    let ticket = *ticket;
                    self.waiting.retain(|(waiting, _)| *waiting != ticket);
                    self.unsettled.remove(&ticket);
                    self.too_large.push((ticket, error.to_string()));
                    continue;
                }
                Err((error, _)) => return Err(error),
            }
            self.waiting.pop_front();
        }
        Ok(())
    }

    /// One message of a ticket is settled; the ticket is, once all of them are, or one has failed.
    fn settle(&mut self, delivery: Delivery) -> Option<Outcome> {
        let ticket = delivery.ticket;
        // Of a ticket that has failed, the rest is of no interest.
        let left = self.unsettled.get_mut(&ticket)?;
        *left -= 1;
        match delivery.result {
            Ok(()) if *left > 0 => None,
            Ok(()) => {
                self.unsettled.remove(&ticket);
                Some(Outcome { ticket, result: Ok(()) })
            }
            Err(failed) => {
                self.unsettled.remove(&ticket);
                self.waiting.retain(|(waiting, _)| *waiting != ticket);
                // Also where the broker says that it is too large: librdkafka joins messages up to what the topic took when the
                // producer was started, so another one is, for what the topic takes now.
                if matches!(&failed, Undelivered::Refused(error) if is_too_large(error)) {
                    self.refused = Some(Refused { stated: self.stated_bytes_max, limit: self.message_bytes_max });
                }
                Some(Outcome { ticket, result: Err(Failure::Unknown(failed.to_string())) })
            }
        }
    }
}

impl Sink for KafkaSink {
    fn open(&mut self) -> Result<(), Error> {
        if self.producer.is_none() {
            self.start()?;
        }
        Ok(())
    }

    fn send(&mut self, ticket: Ticket, batch: &Batch<'_>) -> Result<Sent, Error> {
        if !self.waiting.is_empty() {
            return Ok(Sent::Full);
        }
        let stream = StreamId { node: batch.node.to_owned(), epoch: batch.epoch, shard: batch.shard };
        let limits = Limits { message_bytes_max: self.message_bytes_max, records_max: usize::MAX };
        let mut encoder = Encoder::new(stream, self.layout, self.format, limits, self.signing.clone(), batch.after);
        let mut messages = Vec::new();
        for (seq, record) in (batch.first_seq..).zip(batch.records) {
            messages.extend(encoder.push(seq, record)?);
        }
        messages.extend(encoder.finish());
        let Some(end) = messages.last().map(|message| message.after) else { return Ok(Sent::Full) };
        if messages.iter().any(|message| message.over_max) {
            // One record alone is larger than the topic takes: the broker would refuse it, and what it is sent together with.
            self.look_again()?;
            let why = format!("the topic takes {} bytes in one message", self.message_bytes_max);
            self.too_large.push((ticket, why));
            return Ok(Sent::Taken(end));
        }
        if self.unsettled.is_empty() {
            self.heard_at = Instant::now();
        }
        self.unsettled.insert(ticket, messages.len());
        self.waiting.extend(messages.into_iter().map(|message| (ticket, message)));
        self.hand_over().map_err(self.failed("send to the topic"))?;
        Ok(Sent::Taken(end))
    }

    fn poll(&mut self, wait: Duration, outcomes: &mut Vec<Outcome>) {
        let Some(producer) = &self.producer else {
            std::thread::sleep(wait);
            return;
        };
        self.reports.wait(producer, wait);
        let fatal = producer.client().fatal_error();
        let deliveries = self.reports.take();
        if !deliveries.is_empty() {
            self.heard_at = Instant::now();
        }
        let too_large = self.too_large.drain(..);
        outcomes.extend(too_large.map(|(ticket, why)| Outcome { ticket, result: Err(Failure::TooLarge(why)) }));
        outcomes.extend(deliveries.into_iter().filter_map(|delivery| self.settle(delivery)));
        if let Err(error) = self.hand_over() {
            self.fail_all(&error.to_string(), outcomes);
        } else if let Some((_, why)) = fatal {
            self.fail_all(&why, outcomes);
        } else if !self.unsettled.is_empty() && self.heard_at.elapsed() > SILENCE_MAX {
            self.fail_all("no news of what was sent", outcomes);
        }
    }

    fn reset(&mut self) {
        self.unsettled.clear();
        self.waiting.clear();
        self.too_large.clear();
        if let Some(producer) = self.producer.take() {
            // Ending a producer can take seconds while brokers are away, and nothing depends on it.
            let ended = std::thread::Builder::new().name("weir-producer-end".into()).spawn(move || drop(producer));
            if let Err(error) = ended {
                error!(%error, "a producer that was given up could not be ended apart");
            }
        }
        self.reports = Arc::default();
    }

    fn complaint(&self) -> Option<String> {
        self.reports.complaint()
    }
}

impl KafkaSink {
    fn fail_all(&mut self, why: &str, outcomes: &mut Vec<Outcome>) {
        let failed = self.unsettled.drain().map(|(ticket, _)| ticket);
        outcomes.extend(failed.map(|ticket| Outcome { ticket, result: Err(Failure::Unknown(why.to_owned())) }));
    }
}

fn is_too_large(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageSizeTooLarge)
}

fn signing_key(key: &config::SigningKeyFile) -> Result<SigningKey, Error> {
    let bytes = std::fs::read(&key.path).map_err(|source| Error::Io {
        operation: "read the signing key",
        path: key.path.clone(),
        source,
    })?;
    Ok(SigningKey::of_file(&key.id, &bytes)?)
}

/// What every client of the cluster begins with: its addresses and the properties from the configuration that clients of all
/// kinds know.
pub fn client(config: &config::KafkaSink) -> ClientConfig {
    let mut client = ClientConfig::new();
    client.set("client.id", "weir");
    for (name, value) in &config.kafka.properties {
        client.set(name, value);
    }
    client.set("bootstrap.servers", &config.bootstrap_servers);
    client
}
