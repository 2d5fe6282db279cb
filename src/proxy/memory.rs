//! How much memory traffic holds: what the worker threads have allocated and not freed.
//!
//! Whatever a connection buffers (engines, TLS, streams, tunnels) is allocated and freed by its worker's thread, and the
//! allocator counts both for each thread. So the sum is exact, costs nothing where bytes flow, and leaves out what other
//! threads hold: configuration, tables, what the sink has in flight.

use tikv_jemalloc_ctl::thread::{allocatedp, deallocatedp};

/// What this thread has allocated beyond what it has freed, bytes. Below zero where it freed what others allocated. Zero in
/// a program with another allocator.
pub fn held_bytes() -> i64 {
    let (Ok(allocated), Ok(freed)) = (allocatedp::read(), deallocatedp::read()) else { return 0 };
    allocated.get().wrapping_sub(freed.get()).cast_signed()
}
