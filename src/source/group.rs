//! A topic read by several processes at once: a consumer group with cooperative rebalance. Who joins keeps the positions itself and is
//! asked for them whenever a partition comes to it; nothing is committed to Kafka.
//!
//! **Where a position is no longer there** (retention took it, or the topic was made anew) reading goes on at the oldest message, with an
//! ERROR in the log; what is missing shows as gaps of seqs. Never silently at the newest. A topic made anew is known by its being shorter
//! than the position: once it has grown beyond, nothing tells it from the old one, and what lies before the position is a gap.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::base_consumer::BaseConsumer;
use rdkafka::consumer::{Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset, TopicPartitionList};
use tracing::{debug, error, info, warn};

use super::Error;

/// How long the broker may take to answer.
const ASK_MAX: Duration = Duration::from_secs(10);

/// Says where a partition goes on: none for one that was never read.
pub type Positions = Arc<dyn Fn() -> Option<HashMap<i32, i64>> + Send + Sync>;

struct Context {
    positions: Positions,
    topic: String,
    /// Partitions that are ours.
    ours: Mutex<Vec<i32>>,
}

impl ClientContext for Context {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, text: &str) {
        debug!(facility, "librdkafka: {text}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        debug!(%error, reason, "librdkafka");
    }
}

impl ConsumerContext for Context {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, event: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let partitions: Vec<i32> = list.elements().iter().map(|element| element.partition()).collect();
        let mut ours = self.ours.lock().unwrap_or_else(PoisonError::into_inner);
        let done = if event == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            info!(topic = self.topic, ?partitions, "partitions come");
            ours.extend(&partitions);
            match (self.positions)() {
                Some(positions) => consumer.incremental_assign(&placed(&self.topic, &partitions, &positions)),
                // Without the store nothing can be read: the messages that come are out of step and are read again.
                None => consumer.incremental_assign(&placed(&self.topic, &partitions, &HashMap::new())),
            }
        } else {
            info!(topic = self.topic, ?partitions, "partitions go");
            ours.retain(|partition| !partitions.contains(partition));
            consumer.incremental_unassign(list)
        };
        if let Err(error) = done {
            error!(%error, "the consumer group cannot be followed");
        }
    }
}

fn placed(topic: &str, partitions: &[i32], positions: &HashMap<i32, i64>) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for partition in partitions {
        let offset = positions.get(partition).map_or(Offset::Beginning, |offset| Offset::Offset(*offset));
        if let Err(error) = list.add_partition_offset(topic, *partition, offset) {
            warn!(%error, partition, "a partition's position is none");
        }
    }
    list
}

/// What [`Group::next`] found.
pub enum Heard<'a> {
    /// A message.
    Message(BorrowedMessage<'a>),
    /// Nothing yet.
    Nothing,
}

/// A member of a consumer group.
pub struct Group {
    consumer: BaseConsumer<Context>,
    topic: String,
    servers: String,
    /// Partitions that were made anew: their messages are numbered from 0 again.
    anew: Mutex<HashSet<i32>>,
}

impl Group {
    /// Joins. `properties` are librdkafka's, for TLS and SASL.
    pub fn join(
        servers: &str,
        topic: &str,
        group: &str,
        properties: &BTreeMap<String, String>,
        positions: Positions,
    ) -> Result<Self, Error> {
        let failed = |operation: &'static str| {
            let (topic, servers) = (topic.to_owned(), servers.to_owned());
            move |source| Error::Kafka { operation, topic, servers, source: Box::new(source) }
        };
        let mut config = ClientConfig::new();
        config.set("client.id", "weir-ledger").set("session.timeout.ms", "10000");
        for (name, value) in properties {
            config.set(name, value);
        }
        config
            .set("bootstrap.servers", servers)
            .set("group.id", group)
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("allow.auto.create.topics", "false")
            // A store that stands still must not cost the partitions.
            .set("max.poll.interval.ms", "600000")
            .set("check.crcs", "true");
        let context = Context { positions, topic: topic.to_owned(), ours: Mutex::default() };
        let consumer = BaseConsumer::from_config_and_context(&config, context).map_err(failed("read"))?;
        consumer.subscribe(&[topic]).map_err(failed("subscribe to"))?;
        Ok(Self { consumer, topic: topic.to_owned(), servers: servers.to_owned(), anew: Mutex::default() })
    }

    /// The topic.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Goes on where `position` says, in all partitions that are ours.
    pub fn rewind(&mut self, position: impl Fn(i32) -> Option<i64>) -> Result<(), Error> {
        self.anew.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let ours = self.consumer.context().ours.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let positions = ours.iter().filter_map(|partition| Some((*partition, position(*partition)?))).collect();
        self.begin_at(&ours, &positions)
    }

    /// Reads these anew from there. No seek: a partition whose position is gone is not read any more, and librdkafka seeks in none such.
    fn begin_at(&self, partitions: &[i32], positions: &HashMap<i32, i64>) -> Result<(), Error> {
        if partitions.is_empty() {
            return Ok(());
        }
        let list = placed(&self.topic, partitions, positions);
        let begun = self.consumer.incremental_unassign(&list).and_then(|()| self.consumer.incremental_assign(&list));
        begun.map_err(self.failed("go back in"))
    }

    fn failed(&self, operation: &'static str) -> impl FnOnce(KafkaError) -> Error {
        let (topic, servers) = (self.topic.clone(), self.servers.clone());
        move |source| Error::Kafka { operation, topic, servers, source: Box::new(source) }
    }

    /// The next message; waits at most this long.
    pub fn next(&mut self, wait: Duration) -> Result<Heard<'_>, Error> {
        match self.consumer.poll(wait) {
            Some(Ok(message)) => return Ok(Heard::Message(message)),
            Some(Err(KafkaError::MessageConsumption(
                RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange,
            ))) => self.overrun()?,
            // The client goes on by itself.
            Some(Err(error)) => debug!(%error, "librdkafka"),
            None => {}
        }
        Ok(Heard::Nothing)
    }

    /// Whether a partition was made anew since its position was noted, so that what comes lies before it. Said once.
    pub fn begins_anew(&self, partition: i32) -> bool {
        self.anew.lock().unwrap_or_else(PoisonError::into_inner).remove(&partition)
    }

    /// A position is gone: those partitions that stand below the oldest message, or beyond the newest, begin at the oldest.
    fn overrun(&self) -> Result<(), Error> {
        let ours = self.consumer.context().ours.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let positions = (self.consumer.context().positions)().unwrap_or_default();
        for partition in ours {
            // An error: everything is begun again, and finds the same.
            let watermarks = self.consumer.fetch_watermarks(&self.topic, partition, ASK_MAX);
            let (low, high) = watermarks.map_err(self.failed("find the oldest message of"))?;
            let Some(position) = positions.get(&partition).copied() else { continue };
            if position < low || position > high {
                error!(
                    topic = self.topic,
                    partition,
                    position,
                    low,
                    high,
                    "messages were deleted before they were read: what is missing shows as gaps"
                );
                self.begin_at(&[partition], &HashMap::from([(partition, low)]))?;
                if position > high {
                    self.anew.lock().unwrap_or_else(PoisonError::into_inner).insert(partition);
                }
            }
        }
        Ok(())
    }
}
