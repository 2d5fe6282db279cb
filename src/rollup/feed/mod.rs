//! Where records come from: a journal, files, or a topic. What is read goes straight into the book.
//!
//! Every feed goes on where the book says, and gives only what is *durable* where it came from: what a power cut could take back
//! must not be in the store. [`Feed::harden`] sees to that before each commit.

mod files;
mod journal;
mod kafka;

use std::path::Path;
use std::time::Duration;

pub use files::FilesFeed;
pub use journal::JournalFeed;
pub use kafka::KafkaFeed;

use super::Refused;
use super::book::Book;

/// What keeps a feed from giving more.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The journal.
    #[error("cannot read the journal")]
    Journal(#[from] crate::journal::Error),
    /// A file or directory.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was to be done.
        operation: &'static str,
        /// To what.
        path: std::path::PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The topic.
    #[error(transparent)]
    Source(#[from] crate::source::Error),
    /// The book does not take it.
    #[error(transparent)]
    Refused(#[from] Refused),
}

fn io(operation: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    move |source| Error::Io { operation, path: path.to_owned(), source }
}

/// One of them.
pub enum Feed {
    /// A state directory.
    Journal(JournalFeed),
    /// The directory of a file sink.
    Files(FilesFeed),
    /// A topic.
    Kafka(Box<KafkaFeed>),
}

impl Feed {
    /// Reads until the book has so many records of this batch, or there is nothing more for now; waits at most this long. False:
    /// everything that is there was read.
    pub fn read(&mut self, book: &mut Book, records_max: u64, wait: Duration) -> Result<bool, Error> {
        match self {
            Self::Journal(feed) => feed.read(book, records_max),
            Self::Files(feed) => feed.read(book, records_max),
            Self::Kafka(feed) => feed.read(book, records_max, wait),
        }
    }

    /// Makes sure that what was read survives a power cut where it was read.
    pub fn harden(&mut self) -> Result<(), Error> {
        match self {
            Self::Journal(feed) => feed.harden(),
            Self::Files(feed) => feed.harden(),
            // What a consumer is given is on all in-sync replicas.
            Self::Kafka(_) => Ok(()),
        }
    }

    /// Begins again where this book says.
    pub fn rewind(&mut self, book: &Book) -> Result<(), Error> {
        match self {
            Self::Journal(feed) => feed.rewind(),
            Self::Files(feed) => feed.rewind(),
            Self::Kafka(feed) => feed.rewind(book)?,
        }
        Ok(())
    }

    /// Whether a pause is needed where there was nothing to read.
    pub fn is_polled(&self) -> bool {
        !matches!(self, Self::Kafka(_))
    }
}
