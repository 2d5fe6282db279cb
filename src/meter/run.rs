//! Octets gathered over one feed, so that a tally is called once for each change of exchange and not for each line.

use super::{Direction, Tally};

/// Octets of consecutive parts of one exchange within one feed of one direction. Must be flushed at the feed's end.
pub(super) struct Run {
    direction: Direction,
    exchange: Option<u64>,
    app: u64,
    body: u64,
}

impl Run {
    pub(super) fn new(direction: Direction) -> Self {
        Run { direction, exchange: None, app: 0, body: 0 }
    }

    /// Adds `app` octets of which `body` are body, if they are an exchange's: overhead has none.
    #[inline]
    pub(super) fn count(&mut self, exchange: Option<u64>, app: usize, body: usize, tally: &mut impl Tally) {
        if self.exchange != exchange {
            self.flush(tally);
            self.exchange = exchange;
        }
        self.app += app as u64;
        if exchange.is_some() {
            self.body += body as u64;
        }
    }

    /// Tells the tally what was gathered.
    #[inline]
    pub(super) fn flush(&mut self, tally: &mut impl Tally) {
        if self.app == 0 {
            return;
        }
        match self.direction {
            Direction::Received => tally.received(self.exchange, self.app, self.body),
            Direction::Sent => tally.sent(self.exchange, self.app, self.body),
        }
        self.app = 0;
        self.body = 0;
    }
}
