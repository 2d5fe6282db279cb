//! A Kafka topic to read from: all of its partitions, from any start, without a consumer group ([`Source`]); or shared with other
//! processes in one ([`Group`]).
//!
//! Nothing is committed and nobody else is disturbed: whoever reads keeps its own place. Messages come in the order of their
//! partition; what they mean is the reader's.
//!
//! * **The end**, for who does not follow: what lay in each partition when it was opened. Later messages of a partition may come
//!   too while others are still being read.
//! * **When the broker is away** nothing comes, and it goes on by itself; who does not follow waits 30 s.
//! * **When the topic is deleted** it ends with an error. Is it made again within seconds, reading goes on at its beginning:
//!   what went with the old one is a gap in the records' own numbers.

mod group;

use std::collections::{BTreeMap, HashMap};
use std::str::FromStr;
use std::time::{Duration, Instant};

use rdkafka::client::OAuthToken;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::{ClientConfig, ClientContext, Offset, TopicPartitionList};
use tracing::debug;

use crate::clock::parse_utc;
use crate::login;

pub use group::{Group, Heard, Positions};

/// How long the broker may take to answer at the start.
const ASK_MAX: Duration = Duration::from_secs(10);
/// Without following: how long nothing may come of what is to be read.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// What keeps a topic from being read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The broker, or librdkafka, refused.
    #[error("cannot {operation} {topic} at {servers}")]
    Kafka {
        /// What was to be done.
        operation: &'static str,
        /// The topic.
        topic: String,
        /// The brokers.
        servers: String,
        /// Why not.
        source: Box<KafkaError>,
    },
    /// There is no such topic.
    #[error("there is no topic {topic} at {servers}")]
    Missing {
        /// The topic.
        topic: String,
        /// The brokers.
        servers: String,
    },
    /// The broker is gone half-way.
    #[error("nothing came from {servers} for {seconds} s before the end of {topic}")]
    Silent {
        /// The topic.
        topic: String,
        /// The brokers.
        servers: String,
        /// For how long.
        seconds: u64,
    },
}

/// Where to begin, in every partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Start {
    /// The oldest message there is.
    #[default]
    Earliest,
    /// Only what comes from now on.
    Latest,
    /// The first message that is not older than this, in milliseconds since the Unix epoch.
    Timestamp(i64),
    /// This offset.
    Offset(i64),
}

impl FromStr for Start {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            "write earliest, latest, offset:N, milliseconds since 1970, or a time in UTC like 2026-01-31T12:00:00Z"
                .to_owned()
        };
        match text {
            "earliest" => return Ok(Self::Earliest),
            "latest" => return Ok(Self::Latest),
            _ => {}
        }
        if let Some(offset) = text.strip_prefix("offset:") {
            let offset = offset.parse().ok().filter(|offset| *offset >= 0);
            return offset.map(Self::Offset).ok_or_else(wrong);
        }
        if let Ok(milliseconds) = text.parse::<u32>().map(i64::from).or_else(|_| text.parse::<i64>()) {
            return if milliseconds >= 0 { Ok(Self::Timestamp(milliseconds)) } else { Err(wrong()) };
        }
        parse_utc(text).map(|at_us| Self::Timestamp(at_us / 1000)).ok_or_else(wrong)
    }
}

struct Context;

impl ClientContext for Context {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, config: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        Ok(login::token(config)?)
    }

    fn log(&self, _: RDKafkaLogLevel, facility: &str, text: &str) {
        debug!(facility, "librdkafka: {text}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        debug!(%error, reason, "librdkafka");
    }
}

impl ConsumerContext for Context {}

/// What [`Source::next`] found.
pub enum Next<'a> {
    /// A message.
    Message(BorrowedMessage<'a>),
    /// Nothing yet.
    Nothing,
    /// Every partition was read to what was its end when it was opened.
    End,
}

/// A topic being read.
pub struct Source {
    consumer: BaseConsumer<Context>,
    topic: String,
    servers: String,
    /// Partitions that were not read to their end yet, and that end.
    ends: HashMap<i32, i64>,
    heard_at: Instant,
}

impl Source {
    /// Begins to read. `properties` are librdkafka's, for TLS and SASL.
    pub fn open(
        servers: &str,
        topic: &str,
        properties: &BTreeMap<String, String>,
        start: Start,
    ) -> Result<Self, Error> {
        let failed = |operation: &'static str| {
            let (topic, servers) = (topic.to_owned(), servers.to_owned());
            move |source| Error::Kafka { operation, topic, servers, source: Box::new(source) }
        };
        let mut config = ClientConfig::new();
        config.set("client.id", "weir");
        for (name, value) in properties {
            config.set(name, value);
        }
        config
            .set("bootstrap.servers", servers)
            // Asked for by librdkafka; no group is joined.
            .set("group.id", "weir-events")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "earliest")
            .set("allow.auto.create.topics", "false")
            // A topic that is gone is an error soon.
            .set("topic.metadata.propagation.max.ms", "5000")
            .set("check.crcs", "true");
        let consumer = BaseConsumer::from_config_and_context(&config, Context).map_err(failed("read"))?;
        // A token that the broker asks for is handed over by polling.
        if let Some(Err(error)) = consumer.poll(Duration::from_millis(20)) {
            debug!(%error, "librdkafka");
        }
        let metadata = consumer.fetch_metadata(Some(topic), ASK_MAX).map_err(failed("find"))?;
        let known = metadata.topics().iter().find(|known| known.name() == topic);
        let partitions: Vec<i32> =
            known.map(|known| known.partitions().iter().map(|partition| partition.id()).collect()).unwrap_or_default();
        if partitions.is_empty() {
            return Err(Error::Missing { topic: topic.to_owned(), servers: servers.to_owned() });
        }
        let mut found = TopicPartitionList::new();
        if let Start::Timestamp(milliseconds) = start {
            for partition in &partitions {
                let time = Offset::Offset(milliseconds);
                found.add_partition_offset(topic, *partition, time).map_err(failed("begin in"))?;
            }
            found = consumer.offsets_for_times(found, ASK_MAX).map_err(failed("find the time in"))?;
        }
        let mut list = TopicPartitionList::new();
        let mut ends = HashMap::new();
        for partition in partitions {
            let (oldest, end) =
                consumer.fetch_watermarks(topic, partition, ASK_MAX).map_err(failed("find the end of"))?;
            let offset = match start {
                Start::Earliest => oldest,
                Start::Latest => end,
                Start::Timestamp(_) => match found.find_partition(topic, partition).map(|found| found.offset()) {
                    Some(Offset::Offset(offset)) => offset,
                    _ => end,
                },
                Start::Offset(offset) => offset.clamp(oldest, end),
            };
            list.add_partition_offset(topic, partition, Offset::Offset(offset)).map_err(failed("begin in"))?;
            if offset < end {
                ends.insert(partition, end);
            }
        }
        consumer.assign(&list).map_err(failed("read"))?;
        Ok(Self { consumer, topic: topic.to_owned(), servers: servers.to_owned(), ends, heard_at: Instant::now() })
    }

    /// The next message, or the end if `follow` is false; waits at most this long.
    pub fn next(&mut self, wait: Duration, follow: bool) -> Result<Next<'_>, Error> {
        if !follow && self.ends.is_empty() {
            return Ok(Next::End);
        }
        match self.consumer.poll(wait) {
            Some(Ok(message)) => {
                // What others write meanwhile is no progress.
                if let Some(end) = self.ends.get(&message.partition()) {
                    self.heard_at = Instant::now();
                    if message.offset() + 1 >= *end {
                        self.ends.remove(&message.partition());
                    }
                }
                return Ok(Next::Message(message));
            }
            // The log may end in what is no message.
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                self.ends.remove(&partition);
            }
            Some(Err(
                source @ KafkaError::MessageConsumption(
                    RDKafkaErrorCode::UnknownTopicOrPartition
                    | RDKafkaErrorCode::TopicAuthorizationFailed
                    | RDKafkaErrorCode::UnknownPartition
                    | RDKafkaErrorCode::UnknownTopic,
                ),
            )) => {
                let (topic, servers) = (self.topic.clone(), self.servers.clone());
                return Err(Error::Kafka { operation: "read", topic, servers, source: Box::new(source) });
            }
            // The client goes on by itself.
            Some(Err(error)) => debug!(%error, "librdkafka"),
            None => {}
        }
        if !follow && self.heard_at.elapsed() > SILENCE_MAX {
            let (topic, servers) = (self.topic.clone(), self.servers.clone());
            return Err(Error::Silent { topic, servers, seconds: SILENCE_MAX.as_secs() });
        }
        Ok(Next::Nothing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_a_word_an_offset_or_a_time() {
        for (text, start) in [
            ("earliest", Some(Start::Earliest)),
            ("latest", Some(Start::Latest)),
            ("offset:0", Some(Start::Offset(0))),
            ("offset:12", Some(Start::Offset(12))),
            ("1700000000000", Some(Start::Timestamp(1_700_000_000_000))),
            ("1970-01-01T00:00:00Z", Some(Start::Timestamp(0))),
            ("2000-02-29T12:00:01Z", Some(Start::Timestamp(951_825_601_000))),
            ("2026-11-22T18:17:00Z", Some(Start::Timestamp(1_795_371_420_000))),
            ("2026-13-01T00:00:00Z", None),
            ("2026-11-22", Some(Start::Timestamp(1_795_305_600_000))),
            ("offset:-1", None),
            ("-5", None),
            ("", None),
        ] {
            assert_eq!(text.parse().ok(), start, "{text}");
        }
    }
}
