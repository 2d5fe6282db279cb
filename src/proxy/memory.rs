//! Memory given back to the system after a crowd has gone or fallen silent.
//!
//! The allocator keeps what was freed until its pages are wanted again. After 10,000 connections have parked that is tens
//! of megabytes, so the worker asks for them to be returned.

/// Returns what this thread's heap does not use. Some tenths of a millisecond: not for the hot path.
pub fn give_back() {
    // SAFETY: mi_collect takes no pointer and may be called at any time, from any thread, even where mimalloc is not the
    // program's allocator (it has nothing to return then).
    unsafe { libmimalloc_sys::mi_collect(true) }
}
