//! `[sink] kind = "kafka"` and `[sink.kafka]`: names, limits, and the properties that would break the promise that nothing is lost.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use toml::Spanned;

use super::fields::Section;
use super::kafka::{
    Compression, KafkaFormat, KafkaLayout, KafkaOptions, KafkaSink, OAUTH_PROPERTY, SigningKeyFile, token_file,
};
use super::raw::{RawKafka, RawSink};
use super::{Sink, suggest};

/// Properties that are set by options of weir's own, and which.
const OPTIONS: &[(&str, &str)] = &[
    ("bootstrap.servers", "[sink] bootstrap_servers"),
    ("metadata.broker.list", "[sink] bootstrap_servers"),
    ("compression.codec", "[sink.kafka] compression"),
    ("compression.type", "[sink.kafka] compression"),
];

/// Properties that only one value keeps the promise with, and what another one would cost.
const PROMISES: &[(&str, &[&str], &str)] = &[
    ("enable.idempotence", &["true"], "the broker could write a batch twice, or two batches in the wrong order"),
    ("acks", &["all", "-1"], "a batch would count as delivered before its replicas have it"),
    ("request.required.acks", &["all", "-1"], "a batch would count as delivered before its replicas have it"),
    (
        "message.timeout.ms",
        &["0"],
        "the client would give batches up; they must wait in the journal for as long as it takes",
    ),
    (
        "delivery.timeout.ms",
        &["0"],
        "the client would give batches up; they must wait in the journal for as long as it takes",
    ),
    ("retries", &["2147483647"], "the client would give batches up after so many attempts"),
    ("message.send.max.retries", &["2147483647"], "the client would give batches up after so many attempts"),
    (
        "delivery.report.only.error",
        &["false"],
        "nobody would say what was delivered, and the journal could free nothing",
    ),
    (
        "partitioner",
        &["consistent", "consistent_random", "murmur2", "murmur2_random", "fnv1a", "fnv1a_random"],
        "a shard's records would be spread over partitions and lose their order",
    ),
];

/// Properties that have no place here at all, and why.
const REFUSED: &[(&str, &str)] = &[
    ("transactional.id", "weir sends without transactions: consumers drop what comes twice by its seq"),
    ("test.mock.num.brokers", "records would go to a pretended broker in this process, which forgets them"),
    ("test.mock.broker.rtt", "there is no pretended broker here"),
    ("enable.sasl.oauthbearer.unsecure.jwt", "anybody could make such a token; weir takes one from a file"),
    ("plugin.library.paths", "no foreign code is loaded into this process"),
    ("enable.sparse.connections", "every broker that leads a partition is needed"),
];

/// The sink that the file describes.
pub(super) fn sink(section: &mut Section<'_>, raw: &RawSink, kind: Range<usize>) -> Sink {
    let bootstrap_servers = match &raw.bootstrap_servers {
        Some(_) => section.parsed("bootstrap_servers", &raw.bootstrap_servers, servers).unwrap_or_default(),
        None => {
            section.missing(kind, "bootstrap_servers", "write host:port of a broker");
            String::new()
        }
    };
    let topic = match &raw.topic {
        Some(_) => section.parsed("topic", &raw.topic, topic).unwrap_or_default(),
        None => "weir.usage".to_string(),
    };
    let none = RawKafka::default();
    let raw = raw.kafka.as_ref().map_or(&none, |given| given.get_ref());
    let mut section = section.check.section("sink.kafka");
    Sink::Kafka(KafkaSink { bootstrap_servers, topic, kafka: options(&mut section, raw) })
}

fn options(section: &mut Section<'_>, raw: &RawKafka) -> KafkaOptions {
    let layouts = [("batch", KafkaLayout::Batch), ("record", KafkaLayout::Record)];
    let formats = [("protobuf", KafkaFormat::Protobuf), ("json", KafkaFormat::Json)];
    let compressions = [("none", Compression::None), ("lz4", Compression::Lz4), ("zstd", Compression::Zstd)];
    let batch_bytes_max = section.size("batch_bytes_max", &raw.batch_bytes_max, 512 << 10, 1024..=64 << 20);
    let in_flight_bytes_max =
        section.number("in_flight_bytes_max", &raw.in_flight_bytes_max, 32 << 20, 64 << 10..=1 << 30);
    if in_flight_bytes_max < batch_bytes_max as u64 {
        let given = raw.in_flight_bytes_max.as_ref().or(raw.batch_bytes_max.as_ref());
        let what = format!("{in_flight_bytes_max} does not hold one batch of {batch_bytes_max}");
        let span = given.map_or(0..0, |given| given.span());
        section.wrong(span, "in_flight_bytes_max", what, "write at least batch_bytes_max");
    }
    let outage_max_s = section.number("outage_max_s", &raw.outage_max_s, 86_400, 60..=31_536_000);
    let partitions = section.count("partitions", &raw.partitions, 12, 1..=10_000);
    let replication = section.count("replication", &raw.replication, 3, 1..=100);
    KafkaOptions {
        layout: section.choice("layout", &raw.layout, KafkaLayout::Batch, &layouts),
        format: section.choice("format", &raw.format, KafkaFormat::Protobuf, &formats),
        schema_id: raw.schema_id.as_ref().map(|_| section.count("schema_id", &raw.schema_id, 0, 0..=2_147_483_647)),
        signing: signing(section, raw),
        compression: section.choice("compression", &raw.compression, Compression::Zstd, &compressions),
        batch_records_max: section.size("batch_records_max", &raw.batch_records_max, 2000, 1..=100_000),
        batch_bytes_max,
        linger: section.milliseconds("linger_ms", &raw.linger_ms, 100, 0..=60_000),
        in_flight_bytes_max,
        drain_bytes_per_s_max: section.number(
            "drain_bytes_per_s_max",
            &raw.drain_bytes_per_s_max,
            32 << 20,
            4096..=1 << 40,
        ),
        create_topic: raw.create_topic.as_ref().is_none_or(|given| *given.get_ref()),
        partitions: i32::try_from(partitions).unwrap_or(i32::MAX),
        replication: i32::try_from(replication).unwrap_or(i32::MAX),
        outage_max: Duration::from_secs(outage_max_s),
        properties: raw.properties.as_ref().map(|given| properties(section, given)).unwrap_or_default(),
    }
}

/// Both keys, or neither.
fn signing(section: &mut Section<'_>, raw: &RawKafka) -> Option<SigningKeyFile> {
    match (&raw.signing_key, &raw.signing_key_id) {
        (Some(path), Some(_)) => {
            let path = section.path("signing_key", path);
            let id = section.parsed("signing_key_id", &raw.signing_key_id, super::syntax::label)?;
            Some(SigningKeyFile { id, path })
        }
        (Some(path), None) => {
            section.missing(path.span(), "signing_key_id", "write a name for the key, so that it can be replaced");
            None
        }
        (None, Some(id)) => {
            section.missing(id.span(), "signing_key", "write the key's file");
            None
        }
        (None, None) => None,
    }
}

fn properties(
    section: &mut Section<'_>,
    given: &BTreeMap<Spanned<String>, Spanned<toml::Value>>,
) -> BTreeMap<String, String> {
    let mut properties = BTreeMap::new();
    for (key, value) in given {
        let (name, span) = (key.get_ref().as_str(), value.span());
        let at = format!("properties.\"{name}\"");
        let text = match value.get_ref() {
            toml::Value::String(text) => text.clone(),
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Boolean(truth) => truth.to_string(),
            _ => {
                section.wrong(span, &at, "is neither text, whole number nor truth", "write it as librdkafka wants it");
                continue;
            }
        };
        if let Err((what, action)) = property(name, &text) {
            section.wrong(span, &at, what, action);
            continue;
        }
        if name == OAUTH_PROPERTY && token_file(&text).is_none() {
            let what = "does not say where the token is".to_string();
            section.wrong(span, &at, what, "write \"token_file=PATH\" of a JWT that is renewed there");
            continue;
        }
        if matches!(name, "sasl.mechanism" | "sasl.mechanisms")
            && text.eq_ignore_ascii_case("OAUTHBEARER")
            && !given.keys().any(|key| key.get_ref() == OAUTH_PROPERTY)
        {
            let what = format!("is OAUTHBEARER, but there is no {OAUTH_PROPERTY}");
            section.wrong(span, &at, what, "write \"token_file=PATH\" there");
            continue;
        }
        properties.insert(name.to_string(), text);
    }
    properties
}

/// Whether a property may be set to this.
fn property(name: &str, value: &str) -> Result<(), (String, String)> {
    if let Some((_, option)) = OPTIONS.iter().find(|(known, _)| *known == name) {
        return Err(("has an option of its own".to_string(), format!("write it as {option}")));
    }
    if let Some((_, why)) = REFUSED.iter().find(|(known, _)| *known == name) {
        return Err((format!("cannot be set: {why}"), "leave it out".to_string()));
    }
    if let Some((_, good, cost)) = PROMISES.iter().find(|(known, ..)| *known == name)
        && !good.contains(&value)
    {
        let action = format!("leave it out (it is {})", good.join(" or "));
        return Err((format!("{value:?} would break the promise that nothing is lost: {cost}"), action));
    }
    let mut native = rdkafka::ClientConfig::new();
    native.set(name, value);
    match native.create_native_config() {
        Ok(_) => Ok(()),
        Err(rdkafka::error::KafkaError::ClientConfig(rdkafka::types::RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, ..)) => {
            let action = match suggest::nearest(name, USUAL.iter().copied()) {
                Some(near) => format!("did you mean {near:?}?"),
                None => "see librdkafka's CONFIGURATION.md for the names".to_string(),
            };
            Err(("is no property of librdkafka".to_string(), action))
        }
        // The description of a wrong value does not hold the value: it may be a secret.
        Err(rdkafka::error::KafkaError::ClientConfig(_, description, ..)) => {
            Err((description, "see librdkafka's CONFIGURATION.md for its values".to_string()))
        }
        Err(error) => Err((error.to_string(), "see librdkafka's CONFIGURATION.md".to_string())),
    }
}

/// What people set, for suggestions.
const USUAL: &[&str] = &[
    "client.id",
    "security.protocol",
    "ssl.ca.location",
    "ssl.certificate.location",
    "ssl.key.location",
    "ssl.key.password",
    "ssl.endpoint.identification.algorithm",
    "sasl.mechanism",
    "sasl.mechanisms",
    "sasl.username",
    "sasl.password",
    "sasl.oauthbearer.config",
    "linger.ms",
    "message.max.bytes",
    "compression.level",
    "socket.timeout.ms",
    "client.dns.lookup",
    "broker.address.family",
    "statistics.interval.ms",
    "debug",
];

/// `host:port`, with commas.
fn servers(text: &str) -> Result<String, (String, String)> {
    let good = |server: &str| {
        let server = server.trim().rsplit("://").next().unwrap_or_default();
        server
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0))
    };
    if !text.is_empty() && text.split(',').all(good) {
        return Ok(text.to_string());
    }
    Err((format!("{text:?} names no brokers"), "write \"host:9092\", several with commas".to_string()))
}

/// What Kafka takes as a topic's name.
fn topic(text: &str) -> Result<String, (String, String)> {
    let letters = text.chars().all(|letter| letter.is_ascii_alphanumeric() || "._-".contains(letter));
    if (1..=249).contains(&text.len()) && letters && text != "." && text != ".." {
        return Ok(text.to_string());
    }
    Err((format!("{text:?} cannot be a topic"), "write 1 to 249 of A-Z a-z 0-9 . _ -".to_string()))
}
