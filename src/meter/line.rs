//! Lines out of feeds that may end anywhere. A line whole in one feed is not copied.

use std::borrow::Cow;

use memchr::memchr;

/// The longest line of a request head or trailer, its LF included, in octets. A longer one is `head_too_large`.
pub const LINE_BYTES_MAX: usize = 64 * 1024;

/// The line that ends a head; every head has one, so it is worth not searching for.
const BLANK: &[u8] = b"\r\n";

/// The start of a line whose end has not come yet.
#[derive(Default)]
pub(super) struct Unfinished {
    held: Vec<u8>,
}

/// What the front of a feed is to the line being read.
pub(super) enum Cut<'a> {
    /// The line is complete, LF included.
    Line(Cow<'a, [u8]>),
    /// The line goes on after this feed.
    More,
    /// The line reached its limit without an LF. Nothing is held any more.
    TooLong,
}

impl Unfinished {
    /// Takes octets up to and including the first LF, or all, or as many as make the line `max` long; says how many.
    #[inline]
    pub(super) fn cut<'a>(&mut self, bytes: &'a [u8], max: usize) -> (usize, Cut<'a>) {
        if self.held.is_empty() && bytes.starts_with(BLANK) {
            return (BLANK.len(), Cut::Line(Cow::Borrowed(BLANK)));
        }
        let room = max.saturating_sub(self.held.len());
        let window = &bytes[..bytes.len().min(room)];
        if let Some(lf) = memchr(b'\n', window) {
            let taken = lf + 1;
            return (taken, Cut::Line(self.join(&window[..taken])));
        }
        if window.len() == room {
            self.held = Vec::new();
            return (room, Cut::TooLong);
        }
        self.held.extend_from_slice(window);
        (window.len(), Cut::More)
    }

    /// The same for lines of which only the first `keep` octets matter, however long they are.
    #[inline]
    pub(super) fn cut_prefix<'a>(&mut self, bytes: &'a [u8], keep: usize) -> (usize, Cut<'a>) {
        if self.held.is_empty() && bytes.starts_with(BLANK) {
            return (BLANK.len(), Cut::Line(Cow::Borrowed(BLANK)));
        }
        let room = keep.saturating_sub(self.held.len());
        if let Some(lf) = memchr(b'\n', bytes) {
            let taken = lf + 1;
            return (taken, Cut::Line(self.join(&bytes[..taken.min(room)])));
        }
        self.held.extend_from_slice(&bytes[..bytes.len().min(room)]);
        (bytes.len(), Cut::More)
    }

    /// No line has been started.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Forgets a line that will not be read to its end.
    pub(super) fn clear(&mut self) {
        self.held = Vec::new();
    }

    #[inline]
    fn join<'a>(&mut self, end: &'a [u8]) -> Cow<'a, [u8]> {
        if self.held.is_empty() {
            return Cow::Borrowed(end);
        }
        let mut line = std::mem::take(&mut self.held);
        line.extend_from_slice(end);
        Cow::Owned(line)
    }
}
