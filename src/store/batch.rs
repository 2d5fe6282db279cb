//! What one batch of records changes.

use super::block::Block;
use super::rows::{Gap, ItemRow, Move, Quarantined, Series, StreamRow, Usage};

/// All that one batch changes.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// How far the sources were read.
    pub moves: Vec<Move>,
    /// Streams that it brought records of.
    pub streams: Vec<StreamRow>,
    /// Gaps that are no more, or not as they were.
    pub gaps_gone: Vec<Gap>,
    /// Gaps that are new, or changed.
    pub gaps: Vec<Gap>,
    /// Items: none means that nothing more is expected.
    pub items: Vec<(String, Option<ItemRow>)>,
    /// Series that no batch had before.
    pub series: Vec<(i64, Series)>,
    /// What is to be added.
    pub usage: Vec<Usage>,
    /// What could not be read.
    pub quarantine: Vec<Quarantined>,
    /// Records, to be looked up one by one.
    pub details: Vec<Block>,
    /// How many periods were sealed when this batch was made.
    pub seals: i64,
}

impl Batch {
    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.moves.is_empty() && self.streams.is_empty() && self.quarantine.is_empty()
    }
}
