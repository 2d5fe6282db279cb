//! How much memory traffic holds: what the worker threads have allocated and not freed, and what their pipes hold.
//!
//! Whatever a connection buffers (engines, TLS, streams, tunnels) is allocated and freed by its worker's thread, and the
//! allocator counts both for each thread. So the sum is exact, costs nothing where bytes flow, and leaves out what other
//! threads hold: configuration, tables, what the sink has in flight. Octets that go from socket to socket lie in pipes of
//! the thread's meanwhile, which are the kernel's memory. What its sockets hold is limited by the kernel.

use tikv_jemalloc_ctl::thread::{allocatedp, deallocatedp};

use super::splice::piped_bytes;

/// What this thread has allocated beyond what it has freed, and its pipes, bytes. Below zero where it freed what others
/// allocated. Of a program with another allocator the pipes alone.
pub fn held_bytes() -> i64 {
    let piped = piped_bytes().cast_signed() as i64;
    let (Ok(allocated), Ok(freed)) = (allocatedp::read(), deallocatedp::read()) else { return piped };
    allocated.get().wrapping_sub(freed.get()).cast_signed() + piped
}
