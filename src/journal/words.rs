//! What two threads do to the same words, and in which order.
//!
//! One thread writes: frames and the mark that publishes them, the counters of slots. Others read while it does: shippers and the keeper the
//! frames, views the counters. `tests/protocol` includes this very file and tries every order in which the stores can be seen.

use super::atomics::{AtomicU64, Ordering, fence};

/// Copies `bytes` into `words`, of which there are just enough; the last one is padded with zeros.
#[inline]
pub(crate) fn copy_in(words: &[AtomicU64], bytes: &[u8]) {
    let (whole, rest) = bytes.as_chunks::<8>();
    for (word, chunk) in words.iter().zip(whole) {
        word.store(u64::from_le_bytes(*chunk), Ordering::Relaxed);
    }
    if !rest.is_empty() {
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        words[whole.len()].store(u64::from_le_bytes(last), Ordering::Relaxed);
    }
}

/// Copies out of `words` until `bytes` is full.
#[inline]
pub(crate) fn copy_out(words: &[AtomicU64], bytes: &mut [u8]) {
    for (word, chunk) in words.iter().zip(bytes.chunks_mut(8)) {
        let value = word.load(Ordering::Relaxed).to_le_bytes();
        chunk.copy_from_slice(&value[..chunk.len()]);
    }
}

/// Whoever sees `mark` sees all that was stored before.
#[inline]
pub(crate) fn publish(word: &AtomicU64, mark: u64) {
    word.store(mark, Ordering::Release);
}

/// The newest mark.
#[inline]
pub(crate) fn published(word: &AtomicU64) -> u64 {
    word.load(Ordering::Acquire)
}

/// Makes a free slot live, odd in its generation, once `write` has filled it; the generation.
#[inline]
pub(crate) fn make_live(generation: &AtomicU64, write: impl FnOnce()) -> u64 {
    let live = generation.load(Ordering::Relaxed) + 1;
    // Who reads what is written now sees that the slot was freed before.
    fence(Ordering::Release);
    write();
    generation.store(live, Ordering::Release);
    live
}

/// Makes a live slot free.
#[inline]
pub(crate) fn make_free(generation: &AtomicU64) {
    generation.store(generation.load(Ordering::Relaxed) + 1, Ordering::Release);
}

/// What `read` finds in a slot, if it is of this generation before and after.
#[inline]
pub(crate) fn read_live<T>(generation: &AtomicU64, live: u64, read: impl FnOnce() -> T) -> Option<T> {
    if generation.load(Ordering::Acquire) != live {
        return None;
    }
    let found = read();
    fence(Ordering::Acquire);
    (generation.load(Ordering::Relaxed) == live).then_some(found)
}

/// Begins a sync, whose number it is, of all that was stored before [`syncs_begun`] said a lower one.
#[inline]
pub(crate) fn begin_sync(begun: &AtomicU64) -> u64 {
    let number = begun.fetch_add(1, Ordering::SeqCst) + 1;
    fence(Ordering::SeqCst);
    number
}

/// How many syncs had begun when all of this thread's stores until now were made.
#[inline]
pub(crate) fn syncs_begun(begun: &AtomicU64) -> u64 {
    fence(Ordering::SeqCst);
    begun.load(Ordering::SeqCst)
}
