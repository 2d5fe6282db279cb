//! Memory in huge pages, where the kernel gives them: a look-up in a cold table is then about 45 % faster.
//!
//! The only unsafe code of the crate. A [`Pages`] is a fixed array, aligned to a cache line, or so that its whole 2 MiB
//! parts can be huge pages; what is left over at its end stays in small ones, so no memory is wasted.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::Deref;
use std::ptr::NonNull;

/// A huge page of x86-64 and aarch64.
const HUGE_BYTES: usize = 2 << 20;
const CACHE_LINE_BYTES: usize = 64;

/// Types without padding or invalid values: any octets are one of theirs, zeros too.
pub(crate) trait Plain: Copy + Send + Sync + 'static {}

impl Plain for u8 {}
impl Plain for u16 {}
impl Plain for u32 {}
impl Plain for u128 {}

/// A fixed array in memory of its own.
#[derive(Debug)]
pub(crate) struct Pages<T: Plain> {
    first: NonNull<T>,
    len: usize,
}

// SAFETY: a Pages owns its memory alone and gives out shared references only; T is Send and Sync.
unsafe impl<T: Plain> Send for Pages<T> {}
// SAFETY: as above.
unsafe impl<T: Plain> Sync for Pages<T> {}

impl<T: Plain> Pages<T> {
    /// A copy of these.
    pub(crate) fn of(values: &[T]) -> Pages<T> {
        Pages::filled(values.len(), |pages| pages.copy_from_slice(values))
    }

    /// So many; all are 0 before `fill` writes them.
    pub(crate) fn filled(len: usize, fill: impl FnOnce(&mut [T])) -> Pages<T> {
        let Some(layout) = layout::<T>(len) else {
            return Pages { first: NonNull::dangling(), len: 0 };
        };
        // SAFETY: layout's size is not 0: layout() answers None for an empty array.
        let memory = unsafe { alloc_zeroed(layout) };
        let Some(first) = NonNull::new(memory.cast::<T>()) else { handle_alloc_error(layout) };
        advise(memory, layout.size());
        let pages = Pages { first, len };
        // SAFETY: `first` holds `len` values of T by its layout, is aligned for T, and is nobody else's; the memory is
        // zeroed, and zeros are values of a Plain type.
        fill(unsafe { std::slice::from_raw_parts_mut(first.as_ptr(), len) });
        pages
    }
}

impl<T: Plain> Deref for Pages<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `first` holds `len` initialised values of T until drop (or is dangling with len 0).
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.len) }
    }
}

impl<T: Plain> Drop for Pages<T> {
    fn drop(&mut self) {
        if let Some(layout) = layout::<T>(self.len) {
            // SAFETY: allocated in of() with the same layout, which depends on `len` alone.
            unsafe { dealloc(self.first.as_ptr().cast(), layout) }
        }
    }
}

/// None for an empty array and for one that no memory could hold.
fn layout<T>(len: usize) -> Option<Layout> {
    let layout = Layout::array::<T>(len).ok()?;
    let align = if layout.size() >= HUGE_BYTES { HUGE_BYTES } else { CACHE_LINE_BYTES };
    layout.align_to(align).ok().filter(|layout| layout.size() > 0)
}

/// Asks for huge pages before the memory is first touched. A kernel that has none says so, and small pages do.
fn advise(memory: *mut u8, bytes: usize) {
    let whole = bytes - bytes % HUGE_BYTES;
    if whole == 0 || cfg!(miri) {
        return;
    }
    // SAFETY: `memory` is the start of an allocation of at least `whole` bytes, aligned to a huge page; the advice does
    // not change what it holds.
    unsafe { rustix::mm::madvise(memory.cast(), whole, rustix::mm::Advice::LinuxHugepage) }.ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_holds_what_was_copied() {
        let sizes = if cfg!(miri) { [0, 1, 100] } else { [0, 1, 3 << 20] };
        for len in sizes {
            let values: Vec<u32> = (0..len).collect();
            assert_eq!(*Pages::of(&values), *values, "{len}");
        }
    }

    #[test]
    fn large_arrays_start_on_a_huge_page() {
        let pages = Pages::of(&vec![7u16; HUGE_BYTES]);
        assert_eq!(pages.as_ptr() as usize % HUGE_BYTES, 0);
    }
}
