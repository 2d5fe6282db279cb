//! Where records go from the journal. A [`Sink`] takes a batch of consecutive records of one shard without waiting, and says
//! later what became of it.
//!
//! * **Contract**: a batch is *safe* only when its [`Outcome`] says so; until then its records stay in the journal. Any other
//!   outcome, and silence, means *unknown*: it may be there or not, so it is sent again, and readers drop what comes twice by
//!   its seq.
//! * **When full**: [`Sent::Full`], which is no error; the batch stays with the caller.
//! * **What survives a crash**: nothing here. The journal and its cursor do.

mod file;
mod kafka;
mod status;

use std::time::Duration;

pub use file::FileSink;
pub use kafka::{KafkaSink, Shortcoming, client as kafka_client, inspect as inspect_topic};
pub use status::Status;

use crate::config;
pub use crate::wire::{Boundary, Hash};

/// Names a batch until its outcome is known. Never used twice in a process.
pub type Ticket = usize;

/// Consecutive records of one shard.
pub struct Batch<'a> {
    /// Name of the node.
    pub node: &'a str,
    /// Process start of the node.
    pub epoch: u32,
    /// Which journal.
    pub shard: u16,
    /// Seq of the first record; the others follow without a gap.
    pub first_seq: u64,
    /// Where the batch before ended: below `first_seq` if records between were lost to damage.
    pub after: Boundary,
    /// Each record's `UsageRecord` bytes.
    pub records: &'a [&'a [u8]],
}

/// What [`Sink::send`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sent {
    /// The sink has it; an outcome follows. The next batch of the shard states where this one ended.
    Taken(Boundary),
    /// It has no room now: the same batch again, later.
    Full,
}

/// What became of a batch.
#[derive(Debug)]
pub struct Outcome {
    /// Which batch.
    pub ticket: Ticket,
    /// Whether it is safe.
    pub result: Result<(), Failure>,
}

/// Why a batch is not known to be safe.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It is larger than the sink takes: smaller ones may do. Others are not concerned.
    #[error("the sink takes no batch of this size: {0}")]
    TooLarge(String),
    /// Neither safe nor certainly absent. The sink must be reset, and everything not acknowledged sent again.
    #[error("{0}")]
    Unknown(String),
}

/// Somewhere records are safe.
pub trait Sink: Send {
    /// Whether batches can be sent. Called before each round; waits a few seconds at most.
    fn open(&mut self) -> Result<(), Error>;

    /// Takes a batch without waiting for it to be safe.
    fn send(&mut self, ticket: Ticket, batch: &Batch<'_>) -> Result<Sent, Error>;

    /// Collects what became of batches, waiting for at most this long if nothing has.
    fn poll(&mut self, wait: Duration, outcomes: &mut Vec<Outcome>);

    /// Forgets everything in flight: no outcome follows for what was sent before.
    fn reset(&mut self);

    /// The last thing that the other side said is wrong, since a batch was last acknowledged.
    fn complaint(&self) -> Option<String>;
}

/// Everything of a sink that can be looked at without asking anybody.
pub fn check(sink: &config::Sink) -> Result<(), Error> {
    match sink {
        config::Sink::Kafka(kafka) => KafkaSink::new(kafka).map(drop),
        config::Sink::None | config::Sink::File(_) => Ok(()),
    }
}

/// What a sink cannot do. The same batch comes again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system refused.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was to be done.
        operation: &'static str,
        /// To what.
        path: std::path::PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A record that the journal vouches for is no record.
    #[error("record {seq} of shard {shard} in epoch {epoch} cannot be read")]
    Record {
        /// Epoch.
        epoch: u32,
        /// Shard.
        shard: u16,
        /// Position.
        seq: u64,
        /// Why.
        source: prost::DecodeError,
    },
    /// It cannot be written as JSON.
    #[error("record {0} cannot be written as JSON")]
    Json(u64, #[source] serde_json::Error),
    /// It cannot be written as a message, or its key is none.
    #[error(transparent)]
    Wire(#[from] crate::wire::Error),
    /// The broker, or librdkafka, refused.
    #[error("cannot {operation} at {servers}")]
    Kafka {
        /// What was to be done.
        operation: &'static str,
        /// `bootstrap_servers`.
        servers: String,
        /// Why not.
        source: rdkafka::error::KafkaError,
    },
    /// The topic is not fit to be sent to.
    #[error("topic {topic}: {why}")]
    Topic {
        /// Its name.
        topic: String,
        /// What is wrong, and what to do.
        why: String,
    },
}
