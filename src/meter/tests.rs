//! What the meters' tests share: a tally that remembers, and conversations cut at will.

mod h1;
mod h2;
mod smuggling;

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{Burden, Direction, H1Meter, H2Meter, Tally, Violation};

/// `[received app, received body, sent app, sent body]`.
type Octets = [u64; 4];

/// What a meter told besides octets, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Begin(u64),
    Status(u64, u16),
    ReceivedEnd(u64),
    SentEnd(u64),
    Reset(u64, bool, u32),
    Tunnel(u64),
    Violation(Option<u64>, Violation),
    Lost(Direction),
}

/// A tally that remembers everything and holds the meter to its promises in every call.
#[derive(Debug, Default, PartialEq, Eq)]
struct Recorder {
    octets: BTreeMap<Option<u64>, Octets>,
    told: Vec<Told>,
    fed: [u64; 2],
}

impl Recorder {
    fn count(&mut self, exchange: Option<u64>, first: usize, app: u64, body: u64) {
        assert!(body <= app);
        assert!(app > 0, "a call without octets");
        let octets = self.octets.entry(exchange).or_default();
        octets[first] += app;
        octets[first + 1] += body;
        self.fed[first / 2] += app;
    }

    fn of(&self, exchange: u64) -> Octets {
        self.octets.get(&Some(exchange)).copied().unwrap_or_default()
    }

    fn overhead(&self) -> Octets {
        self.octets.get(&None).copied().unwrap_or_default()
    }

    fn violation(&self) -> Option<Violation> {
        self.told.iter().find_map(|told| match told {
            Told::Violation(_, what) => Some(*what),
            _ => None,
        })
    }
}

impl Tally for Recorder {
    fn begin(&mut self, exchange: u64) {
        assert!(self.octets.insert(Some(exchange), [0; 4]).is_none(), "begun twice, or octets before");
        self.told.push(Told::Begin(exchange));
    }
    fn received(&mut self, exchange: Option<u64>, app: u64, body: u64) {
        self.count(exchange, 0, app, body);
    }
    fn sent(&mut self, exchange: Option<u64>, app: u64, body: u64) {
        self.count(exchange, 2, app, body);
    }
    fn reclaim(&mut self, direction: Direction, exchange: u64, app: u64) {
        assert!((1..=8).contains(&app));
        let column = if direction == Direction::Received { 0 } else { 2 };
        self.octets.get_mut(&None).unwrap()[column] -= app;
        self.octets.entry(Some(exchange)).or_default()[column] += app;
    }
    fn status(&mut self, exchange: u64, code: u16) {
        self.told.push(Told::Status(exchange, code));
    }
    fn received_end(&mut self, exchange: u64) {
        self.told.push(Told::ReceivedEnd(exchange));
    }
    fn sent_end(&mut self, exchange: u64) {
        self.told.push(Told::SentEnd(exchange));
    }
    fn reset(&mut self, exchange: u64, from_client: bool, code: u32) {
        self.told.push(Told::Reset(exchange, from_client, code));
    }
    fn tunnel(&mut self, exchange: u64) {
        self.told.push(Told::Tunnel(exchange));
    }
    fn violation(&mut self, exchange: Option<u64>, what: Violation) {
        self.told.push(Told::Violation(exchange, what));
    }
    fn lost(&mut self, direction: Direction) {
        self.told.push(Told::Lost(direction));
    }
}

/// Either meter.
enum Meter {
    H1(H1Meter),
    H2(H2Meter),
}

impl Meter {
    /// Feeds, and checks that the feed was told to the octet.
    fn feed(&mut self, direction: Direction, bytes: &[u8], recorder: &mut Recorder) {
        let before = recorder.fed;
        match (self, direction) {
            (Meter::H1(meter), Direction::Received) => meter.feed_received(bytes, recorder),
            (Meter::H1(meter), Direction::Sent) => meter.feed_sent(bytes, recorder),
            (Meter::H2(meter), Direction::Received) => meter.feed_received(bytes, recorder),
            (Meter::H2(meter), Direction::Sent) => meter.feed_sent(bytes, recorder),
        }
        let mut expected = before;
        expected[if direction == Direction::Received { 0 } else { 1 }] += bytes.len() as u64;
        assert_eq!(recorder.fed, expected);
    }
}

/// Octets in turn of direction.
type Conversation = Vec<(Direction, Vec<u8>)>;

fn received(bytes: impl AsRef<[u8]>) -> (Direction, Vec<u8>) {
    (Direction::Received, bytes.as_ref().to_vec())
}

fn sent(bytes: impl AsRef<[u8]>) -> (Direction, Vec<u8>) {
    (Direction::Sent, bytes.as_ref().to_vec())
}

/// Feeds each turn in pieces of the lengths that `pieces` goes round in; whole without any.
fn play(mut meter: Meter, conversation: &Conversation, pieces: &[usize]) -> Recorder {
    let mut recorder = Recorder::default();
    let mut lengths = pieces.iter().copied().cycle();
    for (direction, bytes) in conversation {
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(lengths.next().unwrap_or(rest.len()).min(rest.len()));
            meter.feed(*direction, piece, &mut recorder);
            rest = after;
        }
    }
    recorder
}

fn play_h1(conversation: &Conversation, pieces: &[usize]) -> Recorder {
    play(Meter::H1(H1Meter::new()), conversation, pieces)
}

fn play_h2(conversation: &Conversation, pieces: &[usize]) -> Recorder {
    play(Meter::H2(H2Meter::new()), conversation, pieces)
}

/// Piece lengths: mostly tiny, some long.
fn pieces() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(prop_oneof![3 => 1usize..4, 2 => 1usize..40, 1 => 1usize..3000], 1..20)
}

/// One change to a stream: at a place (of 2^16), an octet replaced, put in, or taken out.
fn damages() -> impl Strategy<Value = Vec<(u16, u8, u8)>> {
    prop::collection::vec(
        (any::<u16>(), 0u8..3, prop_oneof![any::<u8>(), prop::sample::select(&b"\r\n\0 \t:;,05aH_"[..])]),
        0..6,
    )
}

fn damage(conversation: &mut Conversation, damages: &[(u16, u8, u8)]) {
    for &(place, how, octet) in damages {
        let turn = usize::from(place) % conversation.len().max(1);
        let Some((_, bytes)) = conversation.get_mut(turn) else {
            continue;
        };
        if bytes.is_empty() {
            continue;
        }
        let at = usize::from(place) * bytes.len() / 65536;
        match how {
            0 => bytes[at] = octet,
            1 => bytes.insert(at, octet),
            _ => drop(bytes.remove(at)),
        }
    }
}
