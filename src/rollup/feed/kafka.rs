//! A topic, by a consumer group; where to go on is in the store, never in the group.

use std::time::Duration;

use rdkafka::Message as _;
use rdkafka::message::Headers;

use super::Error;
use crate::rollup::book::{Book, Spot};
use crate::source::{Group, Heard};

/// A topic.
pub struct KafkaFeed {
    group: Group,
    source: String,
}

impl KafkaFeed {
    /// Of a group that reads this topic.
    pub fn new(group: Group) -> Self {
        let source = Self::source(group.topic());
        Self { group, source }
    }

    /// A topic's name as a source in the store.
    pub fn source(topic: &str) -> String {
        format!("kafka/{topic}")
    }

    pub(super) fn rewind(&mut self, book: &Book) -> Result<(), Error> {
        let source = self.source.clone();
        Ok(self.group.rewind(|partition| book.position(&source, &partition.to_string()))?)
    }

    pub(super) fn read(&mut self, book: &mut Book, records_max: u64, wait: Duration) -> Result<bool, Error> {
        let deadline = std::time::Instant::now() + wait;
        while book.counts().0 < records_max {
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            let (partition, offset, at_us, headers, payload) = match self.group.next(left)? {
                Heard::Message(message) => {
                    let headers: Vec<(String, Vec<u8>)> = message.headers().map_or_else(Vec::new, |headers| {
                        headers
                            .iter()
                            .filter_map(|header| Some((header.key.to_owned(), header.value?.to_vec())))
                            .collect()
                    });
                    let at_us = message.timestamp().to_millis().unwrap_or(0).saturating_mul(1000);
                    let payload = message.payload().unwrap_or_default().to_vec();
                    (message.partition(), message.offset(), at_us, headers, payload)
                }
                Heard::Nothing if left.is_zero() => return Ok(false),
                Heard::Nothing => continue,
            };
            let part = partition.to_string();
            let known = book.position(&self.source, &part);
            // Read before the store told where to go on, or after a rebalance that gave the partition away and back.
            if known.is_some_and(|known| offset < known) && !self.group.begins_anew(partition) {
                continue;
            }
            // Offsets are not gapless (aborted transactions, compaction, retention); seqs are, and say what is missing.
            let from = known.unwrap_or(offset);
            let spot = Spot { source: self.source.clone(), part, from, to: offset + 1, at_us };
            let headers: Vec<(&str, &[u8])> =
                headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
            book.message(spot, &headers, &payload)?;
        }
        Ok(true)
    }
}
