//! `[query]`.

use std::path::Path;
use std::time::Duration;

use super::fields::Section;
use super::query::Query;
use super::raw::RawQuery;

/// What a question may use.
pub(super) fn query(section: &mut Section<'_>, raw: &RawQuery, state_dir: &Path) -> Query {
    let access_log = match &raw.access_log {
        Some(given) => section.path("access_log", given),
        None => state_dir.join("access.jsonl"),
    };
    let memory = section.number("memory_bytes_max", &raw.memory_bytes_max, 1 << 30, 1 << 20..=1 << 40);
    let time_s = section.number("time_s_max", &raw.time_s_max, 60, 1..=86_400);
    Query {
        access_log,
        memory_bytes_max: memory,
        spill_bytes_max: section.number("spill_bytes_max", &raw.spill_bytes_max, 0, 0..=1 << 40),
        time_max: Duration::from_secs(time_s),
        rows_max: section.number("rows_max", &raw.rows_max, 1_000_000, 1..=1_000_000_000),
    }
}
