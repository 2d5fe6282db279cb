//! What is known of one stream: which records came, and where messages ended. No I/O, no clock.

use std::collections::VecDeque;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::read::Chain;
use super::{Boundary, Bounds, Hash};

/// Boundaries that a complete stream keeps, for what a dying sender may still repeat.
const BOUNDARIES_OF_COMPLETE: usize = 4;

/// Why records are missing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// They came before where the reader began.
    BeforeStart,
    /// They should have been there.
    Missing,
    /// The sender says that its journal lost them.
    LostBySender,
}

/// Records that did not come.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Missing {
    /// Their seqs.
    pub seqs: Range<u64>,
    /// Why.
    pub cause: Cause,
}

/// A link to a predecessor that is not there.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Link {
    /// Where the predecessor ended.
    pub boundary: u64,
    /// Its hash.
    pub hash: Hash,
    /// When the link was read, another one had ended there; or none, though its records had come.
    pub is_broken: bool,
}

/// What a message shows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Finding {
    /// Records are missing.
    Gap(Missing),
    /// Records of a gap came.
    Filled(Range<u64>),
    /// More gaps than may be kept: this one is closed, and whatever fills it is taken for a duplicate.
    GivenUp(Range<u64>),
    /// Records that came before.
    Duplicate(Range<u64>),
    /// The batch names a predecessor that is another than the one seen. Reported once, however many batches name it.
    Broken {
        /// Where the predecessor ended.
        boundary: u64,
        /// What it should have been.
        hash: Hash,
    },
    /// The predecessor of a broken link came.
    Mended {
        /// Where it ended.
        boundary: u64,
    },
    /// The batch names no predecessor, though there were records before: the sender lost its hash, or somebody cut the chain.
    Restarted {
        /// Where.
        boundary: u64,
    },
    /// This header says something else than the value, which counts.
    HeaderDiffers(&'static str),
}

/// What became of a batch's link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    Verified,
    Restarted,
    Broken,
    /// Its predecessor did not come yet.
    Waiting,
    /// Its predecessor is too long ago.
    Forgotten,
}

/// One (node, epoch, shard).
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Stream {
    /// Behind the highest seq that came.
    next_seq: u64,
    /// What below that did not come: in order, apart from one another (unless the causes differ).
    missing: Vec<Missing>,
    /// Seq of the node's closing record.
    closed_by: Option<u64>,
    /// The newest last. One seq may have several hashes: messages that were sent again, cut elsewhere.
    boundaries: VecDeque<Boundary>,
    /// True once a boundary was dropped.
    has_forgotten: bool,
    unlinked: Vec<Link>,
}

impl Stream {
    /// Behind the highest seq that came.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// What below [`Stream::next_seq`] did not come.
    pub fn missing(&self) -> &[Missing] {
        &self.missing
    }

    /// Batches whose predecessor did not come.
    pub fn unlinked(&self) -> &[Link] {
        &self.unlinked
    }

    /// Links whose predecessor came as another than the one named.
    pub fn links_broken(&self) -> usize {
        self.unlinked.iter().filter(|link| link.is_broken).count()
    }

    /// Whether everything came, up to the record with which the node closed the shard: nothing will follow.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty() && self.closed_by.is_some_and(|seq| seq + 1 == self.next_seq)
    }

    /// The node's closing record has this seq.
    pub(super) fn closed_by(&mut self, seq: u64) {
        self.closed_by = self.closed_by.max(Some(seq));
    }

    fn has(&self, seq: u64) -> bool {
        seq < self.next_seq && !self.missing.iter().any(|missing| missing.seqs.contains(&seq))
    }

    /// Checks a batch's link to its predecessor; before its records are taken.
    pub(super) fn link(&mut self, chain: &Chain, bounds: &Bounds, findings: &mut Vec<Finding>) -> Outcome {
        let boundary = chain.boundary;
        let Some(hash) = chain.previous else {
            if boundary == 0 {
                return Outcome::Verified;
            }
            findings.push(Finding::Restarted { boundary });
            return Outcome::Restarted;
        };
        let mut others = self.boundaries.iter().rev().filter(|known| known.next_seq == boundary).peekable();
        let is_known = others.peek().is_some();
        if others.any(|known| known.hash == Some(hash)) {
            return Outcome::Verified;
        }
        let came = boundary > 0 && self.has(boundary - 1);
        if came && !is_known && self.has_forgotten {
            return Outcome::Forgotten;
        }
        let is_broken = is_known || came || boundary == 0;
        match self.unlinked.iter_mut().find(|link| link.boundary == boundary && link.hash == hash) {
            // Another batch, or the same again, that waits for the same predecessor.
            Some(link) if link.is_broken || !is_broken => {}
            Some(link) => {
                link.is_broken = true;
                findings.push(Finding::Broken { boundary, hash });
            }
            None => {
                if self.unlinked.len() >= bounds.boundaries_max.max(1) {
                    self.unlinked.remove(0);
                }
                self.unlinked.push(Link { boundary, hash, is_broken });
                if is_broken {
                    findings.push(Finding::Broken { boundary, hash });
                }
            }
        }
        if is_broken { Outcome::Broken } else { Outcome::Waiting }
    }

    /// A batch with this hash ends here. Says how many links that makes good.
    pub(super) fn bound(&mut self, at: u64, hash: Hash, bounds: &Bounds, findings: &mut Vec<Finding>) -> u64 {
        let boundary = Boundary { next_seq: at, hash: Some(hash) };
        self.boundaries.retain(|known| *known != boundary);
        self.boundaries.push_back(boundary);
        while self.boundaries.len() > bounds.boundaries_max.max(1) {
            self.boundaries.pop_front();
            self.has_forgotten = true;
        }
        let mut linked = 0;
        self.unlinked.retain_mut(|link| {
            if link.boundary != at {
                return true;
            }
            if link.hash == hash {
                linked += 1;
                if link.is_broken {
                    findings.push(Finding::Mended { boundary: at });
                }
                return false;
            }
            // Another one ends here as well: a message that was sent again, cut elsewhere, or an altered one. It cannot be
            // told which, so the link stays open.
            true
        });
        linked
    }

    /// Takes these seqs; what lies between `stated_from` and them is stated to be lost. Gives those that are new, in order.
    pub(super) fn take(
        &mut self,
        seqs: Range<u64>,
        stated_from: u64,
        bounds: &Bounds,
        findings: &mut Vec<Finding>,
    ) -> Vec<Range<u64>> {
        let is_first = self.next_seq == 0;
        let mut fresh = self.fill(&seqs);
        findings.extend(fresh.iter().cloned().map(Finding::Filled));
        if seqs.end > self.next_seq {
            if seqs.start > self.next_seq {
                let cause = if is_first { Cause::BeforeStart } else { Cause::Missing };
                let stated_from = stated_from.max(self.next_seq);
                self.open_gap(self.next_seq..stated_from, cause, findings);
                self.open_gap(stated_from..seqs.start, Cause::LostBySender, findings);
            }
            fresh.push(seqs.start.max(self.next_seq)..seqs.end);
            self.next_seq = seqs.end;
        }
        self.state_lost(&(stated_from..seqs.start), findings);
        self.give_up(bounds, findings);
        let mut at = seqs.start;
        for new in &fresh {
            if new.start > at {
                findings.push(Finding::Duplicate(at..new.start));
            }
            at = new.end;
        }
        if at < seqs.end {
            findings.push(Finding::Duplicate(at..seqs.end));
        }
        fresh
    }

    /// It is known to have ended before this seq: what of that is still to come is missing.
    pub(super) fn ended(&mut self, next_seq: u64, cause: Cause, bounds: &Bounds) -> Vec<Finding> {
        let mut findings = Vec::new();
        if next_seq > self.next_seq {
            self.open_gap(self.next_seq..next_seq, cause, &mut findings);
            self.next_seq = next_seq;
            self.give_up(bounds, &mut findings);
        }
        findings
    }

    /// Whether nothing of it ever came.
    pub(super) fn is_unheard(&self) -> bool {
        self.missing.iter().map(|missing| missing.seqs.end - missing.seqs.start).sum::<u64>() == self.next_seq
    }

    /// Forgets what a complete stream does not need.
    pub(super) fn shrink(&mut self) {
        while self.boundaries.len() > BOUNDARIES_OF_COMPLETE {
            self.boundaries.pop_front();
            self.has_forgotten = true;
        }
        self.boundaries.shrink_to_fit();
        self.missing.shrink_to_fit();
    }

    /// More gaps than may be kept: the lowest go.
    fn give_up(&mut self, bounds: &Bounds, findings: &mut Vec<Finding>) {
        while self.missing.len() > bounds.gaps_max {
            findings.push(Finding::GivenUp(self.missing.remove(0).seqs));
        }
    }

    fn open_gap(&mut self, seqs: Range<u64>, cause: Cause, findings: &mut Vec<Finding>) {
        if seqs.start < seqs.end {
            let missing = Missing { seqs, cause };
            findings.push(Finding::Gap(missing.clone()));
            self.missing.push(missing);
        }
    }

    /// Takes `seqs` out of what is missing; gives what was, joined where it touches.
    fn fill(&mut self, seqs: &Range<u64>) -> Vec<Range<u64>> {
        let mut filled: Vec<Range<u64>> = Vec::new();
        if !self.missing.iter().any(|missing| overlaps(&missing.seqs, seqs)) {
            return filled;
        }
        let mut left = Vec::with_capacity(self.missing.len() + 1);
        for missing in self.missing.drain(..) {
            let (before, within, after) = cut(&missing.seqs, seqs);
            for seqs in [before, after] {
                if seqs.start < seqs.end {
                    left.push(Missing { seqs, cause: missing.cause });
                }
            }
            match filled.last_mut() {
                _ if within.is_empty() => {}
                Some(last) if last.end == within.start => last.end = within.end,
                _ => filled.push(within),
            }
        }
        self.missing = left;
        filled
    }

    /// What is missing of `seqs` was lost by the sender, as it turns out.
    fn state_lost(&mut self, seqs: &Range<u64>, findings: &mut Vec<Finding>) {
        let news = |missing: &Missing| missing.cause != Cause::LostBySender && overlaps(&missing.seqs, seqs);
        if !self.missing.iter().any(news) {
            return;
        }
        let mut parts = Vec::with_capacity(self.missing.len() + 2);
        for missing in self.missing.drain(..) {
            if !news(&missing) {
                parts.push(missing);
                continue;
            }
            let (before, within, after) = cut(&missing.seqs, seqs);
            let stated = Missing { seqs: within, cause: Cause::LostBySender };
            findings.push(Finding::Gap(stated.clone()));
            for part in
                [Missing { seqs: before, cause: missing.cause }, stated, Missing { seqs: after, cause: missing.cause }]
            {
                if !part.seqs.is_empty() {
                    parts.push(part);
                }
            }
        }
        self.missing = parts;
    }
}

fn overlaps(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}

/// `range` before, within and behind `by`.
fn cut(range: &Range<u64>, by: &Range<u64>) -> (Range<u64>, Range<u64>, Range<u64>) {
    let begin = by.start.clamp(range.start, range.end);
    let end = by.end.clamp(range.start, range.end);
    (range.start..begin, begin..end, end..range.end)
}
