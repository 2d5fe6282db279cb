//! `[archive]`.

use std::path::Path;

use super::archive::{Archive, ArchiveAddresses, ArchivePlace, S3};
use super::fields::{Section, TOP};
use super::raw::RawArchive;
use super::syntax;
use std::time::Duration;

/// Where records are kept as Parquet; none without the section.
pub(super) fn archive(section: &mut Section<'_>, raw: Option<&RawArchive>, state_dir: &Path) -> Option<Archive> {
    let raw = raw?;
    let place = match &raw.place {
        None => {
            section.wrong(TOP, "place", "is not there", "write a directory, or \"s3://bucket/folder\"");
            return None;
        }
        Some(given) if given.get_ref().contains("://") => {
            let (bucket, prefix) = section.parsed("place", &raw.place, bucket)?;
            let text = |given: &super::raw::Text| given.as_ref().map(|given| given.get_ref().clone());
            ArchivePlace::S3(S3 { bucket, prefix, region: text(&raw.region), endpoint: text(&raw.endpoint) })
        }
        Some(given) => ArchivePlace::Directory(section.path("place", given)),
    };
    let keys = match &raw.keys {
        Some(given) => section.path("keys", given),
        None => state_dir.join("archive-keys"),
    };
    let forms = [("sealed", ArchiveAddresses::Sealed), ("plain", ArchiveAddresses::Plain)];
    let interval_s = section.number("commit_interval_s", &raw.commit_interval_s, 60, 1..=3600);
    let group = section.parsed("group", &raw.group, syntax::label);
    Some(Archive {
        place,
        addresses: section.choice("addresses", &raw.addresses, ArchiveAddresses::Sealed, &forms),
        keys,
        buckets: section.count("buckets", &raw.buckets, 4, 1..=256),
        commit_interval: Duration::from_secs(interval_s),
        commit_records_max: section.size("commit_records_max", &raw.commit_records_max, 500_000, 1..=10_000_000),
        group: group.unwrap_or_else(|| "weir-archive".to_owned()),
        keep_requests_days: section.count("keep_requests_days", &raw.keep_requests_days, 400, 0..=36_500),
        keep_sessions_days: section.count("keep_sessions_days", &raw.keep_sessions_days, 400, 0..=36_500),
        keep_nodes_days: section.count("keep_nodes_days", &raw.keep_nodes_days, 0, 0..=36_500),
    })
}

fn bucket(text: &str) -> Result<(String, String), (String, String)> {
    let action = || "write a directory, or \"s3://bucket/folder\"".to_owned();
    let Some(rest) = text.strip_prefix("s3://") else {
        return Err((format!("{text:?} is no place for an archive"), action()));
    };
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.is_empty() {
        return Err((format!("{text:?} names no bucket"), action()));
    }
    Ok((bucket.to_owned(), prefix.trim_matches('/').to_owned()))
}
