//! The process's own limit of memory.
//!
//! DataFusion counts the rows that its operators hold. What a function makes meanwhile is not counted (`repeat('x', 2000000000)`), so the
//! kernel is told too: an allocation beyond its limit fails, and the process ends with `memory allocation of … bytes failed`. A question
//! can cost the process that answers it, and nothing else.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Beyond what questions may hold: code, threads, buffers of files and of the answer.
const OWN_BYTES: u64 = 1 << 30;

/// Allows as much as this for rows, and what the process needs besides; less stays if less is allowed already.
pub fn limit(rows_bytes: usize) -> std::io::Result<()> {
    let wanted = (rows_bytes as u64).saturating_mul(2).saturating_add(OWN_BYTES);
    let allowed = getrlimit(Resource::Data);
    let most = allowed.maximum.map_or(wanted, |maximum| maximum.min(wanted));
    Ok(setrlimit(Resource::Data, Rlimit { current: Some(most), maximum: Some(most) })?)
}
