//! What the two meters' targets share: a conversation written as one input, and a [`Tally`] that checks what it is told.

pub mod geoip;

use std::collections::{BTreeMap, BTreeSet};

use weir::meter::{Direction, Tally, Violation};

/// Turns the conversation to the other direction; the first octets are the client's.
const TURN: &[u8] = b"<->";
/// Ends a feed.
const CUT: &[u8] = b"<|>";

/// The feeds that an input stands for: its octets, cut at every `<|>` and `<->`, the direction turning at every `<->`.
pub fn feeds(mut input: &[u8]) -> Vec<(Direction, Vec<u8>)> {
    let mut feeds = vec![(Direction::Received, Vec::new())];
    while let Some((&octet, rest)) = input.split_first() {
        let (direction, feed) = feeds.last_mut().expect("there is always one");
        if let Some(after) = input.strip_prefix(TURN) {
            let turned = match direction {
                Direction::Received => Direction::Sent,
                Direction::Sent => Direction::Received,
            };
            feeds.push((turned, Vec::new()));
            input = after;
        } else if let Some(after) = input.strip_prefix(CUT) {
            let same = *direction;
            feeds.push((same, Vec::new()));
            input = after;
        } else {
            feed.push(octet);
            input = rest;
        }
    }
    feeds.retain(|(_, octets)| !octets.is_empty());
    feeds
}

/// The same conversation in as few feeds as there can be.
pub fn joined(feeds: &[(Direction, Vec<u8>)]) -> Vec<(Direction, Vec<u8>)> {
    let mut joined: Vec<(Direction, Vec<u8>)> = Vec::new();
    for (direction, octets) in feeds {
        match joined.last_mut() {
            Some((last, gathered)) if last == direction => gathered.extend_from_slice(octets),
            _ => joined.push((*direction, octets.clone())),
        }
    }
    joined
}

/// The same conversation an octet at a time.
pub fn single_octets(feeds: &[(Direction, Vec<u8>)]) -> Vec<(Direction, Vec<u8>)> {
    feeds.iter().flat_map(|(direction, octets)| octets.iter().map(|octet| (*direction, vec![*octet]))).collect()
}

/// Feeds a whole conversation; `feed` hands one feed to the meter. Checks after each that its octets were told.
pub fn told(feeds: &[(Direction, Vec<u8>)], mut feed: impl FnMut(Direction, &[u8], &mut CheckedTally)) -> CheckedTally {
    let mut tally = CheckedTally::default();
    for (direction, octets) in feeds {
        tally.told = 0;
        tally.feeding = Some(*direction);
        feed(*direction, octets, &mut tally);
        assert_eq!(tally.told, octets.len() as u64, "told and fed differ in {direction:?} {octets:?}");
    }
    tally.events.sort();
    tally
}

/// Application and body octets.
type Octets = (u64, u64);

/// Everything told, in sum. Two are equal when the same was told of the same exchanges, in whatever pieces.
#[derive(Debug, Default)]
pub struct CheckedTally {
    /// Octets by direction and exchange; None is session overhead.
    sums: BTreeMap<(Direction, Option<u64>), Octets>,
    /// Whatever is told other than octets: exchange, what, with which number.
    events: Vec<(Option<u64>, &'static str, u64)>,
    violation: Option<Violation>,
    begun: BTreeSet<u64>,
    feeding: Option<Direction>,
    told: u64,
}

impl PartialEq for CheckedTally {
    fn eq(&self, other: &Self) -> bool {
        let sums = |tally: &CheckedTally| -> Vec<_> {
            tally.sums.iter().filter(|(_, octets)| **octets != (0, 0)).map(|(key, octets)| (*key, *octets)).collect()
        };
        sums(self) == sums(other) && self.events == other.events && self.violation == other.violation
    }
}

impl CheckedTally {
    fn add(&mut self, direction: Direction, exchange: Option<u64>, app: u64, body: u64) {
        assert_eq!(Some(direction), self.feeding, "octets of the direction that was not fed");
        assert!(body <= app, "{body} body octets of {app}");
        self.can_have_begun(exchange);
        let sum = self.sums.entry((direction, exchange)).or_default();
        sum.0 += app;
        sum.1 += body;
        self.told += app;
    }

    fn event(&mut self, exchange: Option<u64>, what: &'static str, number: u64) {
        self.can_have_begun(exchange);
        self.events.push((exchange, what, number));
    }

    /// h2 also names ids that the client skipped, below the highest that began; h1 skips none.
    fn can_have_begun(&self, exchange: Option<u64>) {
        assert!(exchange <= self.begun.last().copied(), "{exchange:?} is told of and cannot have begun");
    }

    /// The exchanges that began, in order of their number.
    pub fn exchanges(&self) -> impl Iterator<Item = u64> {
        self.begun.iter().copied()
    }
}

impl Tally for CheckedTally {
    fn begin(&mut self, exchange: u64) {
        assert!(self.begun.insert(exchange), "exchange {exchange} began twice");
    }

    fn received(&mut self, exchange: Option<u64>, app: u64, body: u64) {
        self.add(Direction::Received, exchange, app, body);
    }

    fn sent(&mut self, exchange: Option<u64>, app: u64, body: u64) {
        self.add(Direction::Sent, exchange, app, body);
    }

    fn reclaim(&mut self, direction: Direction, exchange: u64, app: u64) {
        assert!(app <= 8, "{app} octets reclaimed");
        self.can_have_begun(Some(exchange));
        let overhead = self.sums.entry((direction, None)).or_default();
        assert!(overhead.0 - overhead.1 >= app, "more reclaimed than there was overhead");
        overhead.0 -= app;
        self.sums.entry((direction, Some(exchange))).or_default().0 += app;
    }

    fn status(&mut self, exchange: u64, code: u16) {
        self.event(Some(exchange), "status", u64::from(code));
    }

    fn received_end(&mut self, exchange: u64) {
        self.event(Some(exchange), "received_end", 0);
    }

    fn sent_end(&mut self, exchange: u64) {
        self.event(Some(exchange), "sent_end", 0);
    }

    fn reset(&mut self, exchange: u64, from_client: bool, code: u32) {
        self.event(Some(exchange), if from_client { "reset_by_client" } else { "reset_by_us" }, u64::from(code));
    }

    fn tunnel(&mut self, exchange: u64) {
        self.event(Some(exchange), "tunnel", 0);
    }

    fn violation(&mut self, exchange: Option<u64>, what: Violation) {
        assert!(self.violation.replace(what).is_none(), "a second violation");
        self.event(exchange, "violation", 0);
    }

    fn lost(&mut self, direction: Direction) {
        let what = match direction {
            Direction::Received => "lost_received",
            Direction::Sent => "lost_sent",
        };
        assert!(!self.events.iter().any(|event| event.1 == what), "lost twice");
        self.event(None, what, 0);
    }
}
