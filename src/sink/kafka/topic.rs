//! The topic: there, or made; and what it lacks for records that must not be lost.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::admin::{AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::OAuthToken;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, Producer as _, ProducerContext};
use tracing::{debug, info};

use super::super::Error;
use super::{producer, token};
use crate::config::KafkaSink;
use crate::login;

/// What Kafka takes in one message where nobody says otherwise.
const DEFAULT_MESSAGE_BYTES_MAX: usize = 1_048_588;

/// A topic that can be sent to.
pub struct Topic {
    /// How many partitions it has.
    pub partitions: usize,
    /// What it takes in one message, compressed or not.
    pub message_bytes_max: usize,
    /// What it lacks.
    pub shortcomings: Vec<Shortcoming>,
}

/// Something about a topic that an operator should know, with what to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Shortcoming {
    /// Records are deleted earlier than they may arrive.
    Retention {
        /// What the topic keeps, in milliseconds.
        retention_ms: i64,
        /// `outage_max_s`, in milliseconds.
        outage_max_ms: i64,
    },
    /// Records are deleted by size, however young.
    RetentionBytes(i64),
    /// The topic keeps one record per key only.
    Compacted,
    /// Retention goes by the sender's clock.
    CreateTime,
    /// One broker's disk is enough to lose what was acknowledged.
    Replicas {
        /// Replicas of the partition that has fewest.
        replicas: usize,
    },
    /// A record counts as safe when this many have it.
    InSync {
        /// `min.insync.replicas`.
        min_insync_replicas: i64,
        /// Replicas.
        replicas: usize,
    },
    /// A replica that lacks records may become leader.
    UncleanElection,
    /// Less than a batch fits into a message.
    SmallMessages {
        /// `max.message.bytes`.
        message_bytes_max: usize,
        /// `batch_bytes_max`.
        batch_bytes_max: usize,
    },
    /// The broker does not say how the topic is configured.
    Unknown(String),
}

impl std::fmt::Display for Shortcoming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Retention { retention_ms, outage_max_ms } => write!(
                f,
                "retention.ms is {retention_ms}, but records may be {outage_max_ms} ms on their way (outage_max_s): set \
                 retention.ms above it, or nobody may see them"
            ),
            Self::RetentionBytes(bytes) => {
                write!(f, "retention.bytes is {bytes}: records are deleted by size, read or not; set it to -1")
            }
            Self::Compacted => {
                write!(f, "cleanup.policy compacts: all but the last message of a shard would go; set it to delete")
            }
            Self::CreateTime => write!(
                f,
                "message.timestamp.type is CreateTime: retention goes by this machine's clock; LogAppendTime is advised"
            ),
            Self::Replicas { replicas } => {
                write!(f, "it has {replicas} replica(s): the loss of one disk can lose records; 3 are advised")
            }
            Self::InSync { min_insync_replicas, replicas } => write!(
                f,
                "min.insync.replicas is {min_insync_replicas} of {replicas} replicas: a record counts as safe while one \
                 broker has it; set it to 2"
            ),
            Self::UncleanElection => write!(
                f,
                "unclean.leader.election.enable is true: a broker that lacks acknowledged records may become leader; set it to false"
            ),
            Self::SmallMessages { message_bytes_max, batch_bytes_max } => write!(
                f,
                "max.message.bytes is {message_bytes_max}: batches (batch_bytes_max {batch_bytes_max}) are split to fit"
            ),
            Self::Unknown(why) => write!(f, "its configuration cannot be looked at: {why}"),
        }
    }
}

/// Keeps the last thing that went wrong: an answer that does not come says nothing of why.
#[derive(Default)]
struct Quiet {
    complaint: Mutex<Option<String>>,
}

impl ClientContext for Quiet {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, config: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        Ok(login::token(config)?)
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        producer::log(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        debug!(%error, reason, "librdkafka");
        // That all brokers are down says less than why.
        let mut complaint = self.complaint.lock().unwrap_or_else(PoisonError::into_inner);
        if complaint.is_none() || error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown) {
            *complaint = Some(reason.to_owned());
        }
    }
}

impl ProducerContext for Quiet {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}

/// What the topic is like; it is made if it is missing and may be. Waits at most a few times this long.
pub fn ready(config: &KafkaSink, wait: Duration) -> Result<Topic, Error> {
    look(config, wait, config.kafka.create_topic)
}

/// What the topic lacks, without changing anything.
pub fn inspect(config: &KafkaSink, wait: Duration) -> Result<Vec<Shortcoming>, Error> {
    Ok(look(config, wait, false)?.shortcomings)
}

fn look(config: &KafkaSink, wait: Duration, create: bool) -> Result<Topic, Error> {
    let failed = |operation: &'static str| {
        let servers = config.bootstrap_servers.clone();
        move |source| Error::Kafka { operation, servers, source }
    };
    let admin =
        AdminClient::from_config_and_context(&super::client(config), Quiet::default()).map_err(failed("ask"))?;
    token::hand_over(admin.inner(), config)
        .map_err(|why| Error::Topic { topic: config.topic.clone(), why: format!("it cannot be asked for: {why}") })?;
    // What a client has to say of itself is heard by polling it, which only a producer lets us do.
    let asker =
        BaseProducer::from_config_and_context(&super::client(config), Quiet::default()).map_err(failed("ask"))?;
    // A token that the broker asks for is handed over here, too.
    asker.poll(Duration::from_millis(20));
    let found = partitions(&asker, config, wait).map_err(|source| {
        asker.poll(Duration::from_millis(20));
        let complaint = asker.context().complaint.lock().unwrap_or_else(PoisonError::into_inner).take();
        match complaint {
            Some(why) => Error::Topic { topic: config.topic.clone(), why: format!("it cannot be asked for: {why}") },
            None => failed("ask for the topic")(source),
        }
    })?;
    let (partitions, replicas) = match found {
        Found::Partitions { count, replicas } => (count, replicas),
        Found::Refused(code) => {
            let why = format!("the broker refuses it ({code}); let weir's user describe and write it");
            return Err(Error::Topic { topic: config.topic.clone(), why });
        }
        Found::Missing if create => {
            make(&admin, config, wait)?;
            let partitions = usize::try_from(config.kafka.partitions).unwrap_or(1);
            (partitions, usize::try_from(config.kafka.replication).unwrap_or(1))
        }
        Found::Missing => {
            let why = "it is not there; make it, or set create_topic = true".to_owned();
            return Err(Error::Topic { topic: config.topic.clone(), why });
        }
    };
    let (message_bytes_max, shortcomings) = match describe(&admin, config, wait) {
        Ok(resource) => judge(&resource, config, replicas),
        // A broker that does not tell may still take records.
        Err(error) => (DEFAULT_MESSAGE_BYTES_MAX, vec![Shortcoming::Unknown(error.to_string())]),
    };
    Ok(Topic { partitions, message_bytes_max, shortcomings })
}

enum Found {
    Partitions { count: usize, replicas: usize },
    Missing,
    Refused(RDKafkaErrorCode),
}

fn partitions(asker: &BaseProducer<Quiet>, config: &KafkaSink, wait: Duration) -> Result<Found, KafkaError> {
    // All topics: asking for one that is missing can make it, with whatever the broker's defaults are.
    let metadata = asker.client().fetch_metadata(None, wait)?;
    let Some(topic) = metadata.topics().iter().find(|topic| topic.name() == config.topic) else {
        return Ok(Found::Missing);
    };
    if let Some(code) = topic.error().map(RDKafkaErrorCode::from) {
        return match code {
            RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic => Ok(Found::Missing),
            code => Ok(Found::Refused(code)),
        };
    }
    let replicas = topic.partitions().iter().map(|partition| partition.replicas().len()).min().unwrap_or(0);
    Ok(Found::Partitions { count: topic.partitions().len(), replicas })
}

fn make(admin: &AdminClient<Quiet>, config: &KafkaSink, wait: Duration) -> Result<(), Error> {
    let options = &config.kafka;
    // Twice the longest outage: whoever reads may be away for as long as we were.
    let retention_ms = (options.outage_max.as_millis() * 2).max(7 * 86_400_000).to_string();
    let in_sync = if options.replication > 2 { "2" } else { "1" };
    let topic = NewTopic::new(&config.topic, options.partitions, TopicReplication::Fixed(options.replication))
        .set("retention.ms", &retention_ms)
        .set("cleanup.policy", "delete")
        .set("message.timestamp.type", "LogAppendTime")
        .set("min.insync.replicas", in_sync);
    let refused = |why: String| Error::Topic { topic: config.topic.clone(), why };
    let asked = AdminOptions::new().request_timeout(Some(wait)).operation_timeout(Some(wait));
    let results = block_on(admin.create_topics([&topic], &asked))
        .map_err(|error| refused(format!("it is not there and cannot be made: {error}")))?;
    for result in results {
        match result {
            Ok(_) => info!(
                topic = config.topic,
                partitions = options.partitions,
                replication = options.replication,
                retention_ms,
                "topic made"
            ),
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((_, code)) => {
                return Err(refused(format!(
                    "it is not there and the broker does not make it with {} partitions and {} replicas ({code})",
                    options.partitions, options.replication
                )));
            }
        }
    }
    Ok(())
}

fn describe(admin: &AdminClient<Quiet>, config: &KafkaSink, wait: Duration) -> Result<ConfigResource, KafkaError> {
    let asked = AdminOptions::new().request_timeout(Some(wait));
    let topic = [ResourceSpecifier::Topic(&config.topic)];
    let described = block_on(admin.describe_configs(&topic, &asked))?;
    match described.into_iter().next() {
        Some(Ok(resource)) => Ok(resource),
        Some(Err(code)) => Err(KafkaError::AdminOp(code)),
        None => Err(KafkaError::Canceled),
    }
}

fn judge(resource: &ConfigResource, config: &KafkaSink, replicas: usize) -> (usize, Vec<Shortcoming>) {
    let text = |name: &str| resource.get(name).and_then(|entry| entry.value.as_deref());
    let number = |name: &str| text(name).and_then(|value| value.parse::<i64>().ok());
    let mut found = Vec::new();
    let outage_max_ms = i64::try_from(config.kafka.outage_max.as_millis()).unwrap_or(i64::MAX);
    if let Some(retention_ms) = number("retention.ms").filter(|ms| (0..=outage_max_ms).contains(ms)) {
        found.push(Shortcoming::Retention { retention_ms, outage_max_ms });
    }
    if let Some(bytes) = number("retention.bytes").filter(|bytes| *bytes >= 0) {
        found.push(Shortcoming::RetentionBytes(bytes));
    }
    if text("cleanup.policy").is_some_and(|policy| policy.contains("compact")) {
        found.push(Shortcoming::Compacted);
    }
    if text("message.timestamp.type") == Some("CreateTime") {
        found.push(Shortcoming::CreateTime);
    }
    if replicas < 2 {
        found.push(Shortcoming::Replicas { replicas });
    } else if let Some(min_insync_replicas) = number("min.insync.replicas").filter(|min| *min < 2) {
        found.push(Shortcoming::InSync { min_insync_replicas, replicas });
    }
    if text("unclean.leader.election.enable") == Some("true") {
        found.push(Shortcoming::UncleanElection);
    }
    let message_bytes_max = number("max.message.bytes").and_then(|bytes| usize::try_from(bytes).ok());
    let message_bytes_max = message_bytes_max.unwrap_or(DEFAULT_MESSAGE_BYTES_MAX);
    if message_bytes_max < config.kafka.batch_bytes_max {
        let batch_bytes_max = config.kafka.batch_bytes_max;
        found.push(Shortcoming::SmallMessages { message_bytes_max, batch_bytes_max });
    }
    (message_bytes_max, found)
}

/// Waits for an answer that librdkafka's own threads bring.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Wake(std::thread::Thread);
    impl std::task::Wake for Wake {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = std::sync::Arc::new(Wake(std::thread::current())).into();
    let mut context = std::task::Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            std::task::Poll::Ready(output) => return output,
            std::task::Poll::Pending => std::thread::park(),
        }
    }
}
