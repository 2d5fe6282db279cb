//! librdkafka's producer: how it is set up, and what it reports.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::Message as _;
use rdkafka::client::OAuthToken;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, ProducerContext};
use tracing::{debug, info, warn};

use super::super::Ticket;
use crate::config::{KafkaLayout, KafkaSink};
use crate::login;

/// How long the thread sleeps between two looks for what librdkafka reports.
const PAUSE: Duration = Duration::from_millis(5);

/// A producer that reports to [`Reports`].
pub type Producer = BaseProducer<Context>;

/// The broker's word on one message.
#[derive(Debug)]
pub struct Delivery {
    /// The batch it belongs to.
    pub ticket: Ticket,
    /// Whether all in-sync replicas have it; if not, or if nobody knows, why.
    pub result: Result<(), Undelivered>,
}

/// Why a message is not known to be in the log.
#[derive(Debug, thiserror::Error)]
pub enum Undelivered {
    /// The broker, or librdkafka, says so.
    #[error(transparent)]
    Refused(KafkaError),
    /// librdkafka calls a message delivered, without an offset, when one behind it was: it trusts the broker to refuse what does not
    /// follow without a gap. A broker that has forgotten the producer (its topic was made again) refuses nothing.
    #[error("the broker has not said where it lies: only that of one behind it")]
    Implied,
}

/// What a producer has reported and nobody has taken yet.
#[derive(Debug, Default)]
pub struct Reports {
    deliveries: Mutex<Vec<Delivery>>,
    complaint: Mutex<Option<String>>,
}

impl Reports {
    /// Everything reported so far.
    pub fn take(&self) -> Vec<Delivery> {
        std::mem::take(&mut lock(&self.deliveries))
    }

    /// Whether nothing is reported.
    pub fn is_empty(&self) -> bool {
        lock(&self.deliveries).is_empty()
    }

    /// Serves the producer until something is reported, for at most this long.
    pub fn wait(&self, producer: &Producer, wait: Duration) {
        let until = Instant::now() + wait;
        loop {
            producer.poll(Duration::ZERO);
            let left = until.saturating_duration_since(Instant::now());
            if !self.is_empty() || left.is_zero() {
                return;
            }
            // Not by `poll`: it waits to the end even if something comes, and for the last millisecond in a busy loop.
            std::thread::sleep(left.min(PAUSE));
        }
    }

    /// What the client last said is wrong, since a message was last delivered.
    pub fn complaint(&self) -> Option<String> {
        lock(&self.complaint).clone()
    }

    /// Forgets everything.
    pub fn clear(&self) {
        lock(&self.deliveries).clear();
        *lock(&self.complaint) = None;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where librdkafka calls back: only while the shipper polls, on its thread, except for logs.
pub struct Context {
    reports: Arc<Reports>,
}

impl ClientContext for Context {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, config: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        Ok(login::token(config)?)
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        log(level, facility, text);
    }

    fn stats_raw(&self, statistics: &[u8]) {
        debug!(statistics = %String::from_utf8_lossy(statistics), "librdkafka");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        debug!(%error, reason, "librdkafka");
        *lock(&self.reports.complaint) = Some(reason.to_owned());
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = Ticket;

    fn delivery(&self, result: &DeliveryResult<'_>, ticket: Ticket) {
        let result = match result {
            Ok(message) if message.offset() >= 0 => Ok(()),
            Ok(_) => Err(Undelivered::Implied),
            Err((error, _)) => Err(Undelivered::Refused(error.clone())),
        };
        if result.is_ok() {
            lock(&self.reports.complaint).take();
        }
        lock(&self.reports.deliveries).push(Delivery { ticket, result });
    }
}

/// librdkafka's log lines, a step quieter: what matters for records is said by the shipper.
pub fn log(level: RDKafkaLogLevel, facility: &str, text: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            warn!(facility, "librdkafka: {text}");
        }
        RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => info!(facility, "librdkafka: {text}"),
        _ => debug!(facility, "librdkafka: {text}"),
    }
}

/// A producer that keeps the promise, whatever else is configured.
pub fn create(config: &KafkaSink, message_bytes_max: usize, reports: Arc<Reports>) -> Result<Producer, KafkaError> {
    let options = &config.kafka;
    let mut client = super::client(config);
    let defaults = [
        // A batch has waited for its records already (`linger_ms`); single records are joined here.
        ("linger.ms", if options.layout == KafkaLayout::Batch { "0" } else { "5" }),
        // A broker that was away is asked again soon, but not in a storm.
        ("reconnect.backoff.ms", "100"),
        ("reconnect.backoff.max.ms", "2000"),
        ("retry.backoff.ms", "100"),
        ("retry.backoff.max.ms", "2000"),
        // A topic that is gone is an error soon, so that it is looked at again.
        ("topic.metadata.propagation.max.ms", "5000"),
        ("socket.keepalive.enable", "true"),
    ];
    for (name, value) in defaults {
        if !options.properties.contains_key(name) {
            client.set(name, value);
        }
    }
    if !options.properties.contains_key("message.max.bytes") {
        // librdkafka's own batches must not be larger than what the topic takes.
        client
            .set("message.max.bytes", message_bytes_max.clamp(super::MESSAGE_BYTES_MAX_MIN, 1_000_000_000).to_string());
    }
    // More than we ever have in flight, so that the queue is never what holds us up.
    let queue_kbytes = (options.in_flight_bytes_max / 512 + 1024).min(2_097_151);
    client
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("message.timeout.ms", "0")
        .set("compression.codec", options.compression.name())
        .set("queue.buffering.max.kbytes", queue_kbytes.to_string())
        .set("queue.buffering.max.messages", "1000000");
    Producer::from_config_and_context(&client, Context { reports })
}
