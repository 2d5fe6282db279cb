//! `[journal]` and `[sink]`: where records are kept and where they go.

use std::ops::Range;

use super::check_kafka;
use super::fields::{Section, TOP};
use super::raw::{RawJournal, RawSink};
use super::{FileSink, Journal, OnFull, Sink, SinkFormat};

/// The journal of so many workers.
pub(super) fn journal(section: &mut Section<'_>, raw: &RawJournal, workers: usize, no_sink: bool) -> Journal {
    let segment_bytes = section.number("segment_bytes", &raw.segment_bytes, 16 << 20, 64 << 10..=1 << 30);
    if let Some(given) = &raw.segment_bytes
        && !segment_bytes.is_multiple_of(4096)
    {
        let action = format!("write {}", segment_bytes.next_multiple_of(4096));
        section.wrong(given.span(), "segment_bytes", format!("{segment_bytes} is not a multiple of 4096"), action);
    }
    let least = segment_bytes.saturating_mul(2).saturating_mul(workers as u64);
    let journal_bytes_max =
        section.number("journal_bytes_max", &raw.journal_bytes_max, (1 << 30).max(least), 128 << 10..=1 << 44);
    if let Some(given) = &raw.journal_bytes_max
        && journal_bytes_max < least
    {
        let what = format!("{journal_bytes_max} is less than two segments for each of {workers} workers");
        section.wrong(given.span(), "journal_bytes_max", what, format!("write at least {least}"));
    }
    let default = if no_sink { OnFull::Count } else { OnFull::Refuse };
    // Without a sink the oldest records go instead, and the journal is always nearly full.
    let above = section.number("fold_above_percent", &raw.fold_above_percent, 75, 1..=100);
    let below = section.number("fold_below_percent", &raw.fold_below_percent, above.min(50), 1..=100);
    if let Some(given) = &raw.fold_below_percent
        && below > above
    {
        let what = format!("{below} is more than fold_above_percent, {above}");
        section.wrong(given.span(), "fold_below_percent", what, format!("write at most {above}"));
    }
    Journal {
        segment_bytes,
        journal_bytes_max,
        sync_interval: section.milliseconds("sync_interval_ms", &raw.sync_interval_ms, 100, 1..=60_000),
        slots_max: section.size("slots_max", &raw.slots_max, 262_144, 1024..=16_777_216),
        on_full: section.choice(
            "on_full",
            &raw.on_full,
            default,
            &[("refuse", OnFull::Refuse), ("count", OnFull::Count)],
        ),
        fold_above_percent: if no_sink { 100 } else { above },
        fold_below_percent: below,
    }
}

#[derive(Clone, Copy, PartialEq)]
enum SinkKind {
    None,
    File,
    Kafka,
}

/// The sink; keys of another kind are errors.
pub(super) fn sink(section: &mut Section<'_>, raw: &RawSink) -> Sink {
    let kinds = [("none", SinkKind::None), ("file", SinkKind::File), ("kafka", SinkKind::Kafka)];
    let kind = section.choice("kind", &raw.kind, SinkKind::None, &kinds);
    let file = [
        ("path", raw.path.as_ref().map(|given| given.span())),
        ("format", raw.format.as_ref().map(|given| given.span())),
        ("rotate_bytes", raw.rotate_bytes.as_ref().map(|given| given.span())),
        ("rotate_interval_s", raw.rotate_interval_s.as_ref().map(|given| given.span())),
    ];
    let kafka = [
        ("bootstrap_servers", raw.bootstrap_servers.as_ref().map(|given| given.span())),
        ("topic", raw.topic.as_ref().map(|given| given.span())),
        ("kafka", raw.kafka.as_ref().map(|given| given.span())),
    ];
    if kind != SinkKind::File {
        belongs_to(section, &file, "file");
    }
    if kind != SinkKind::Kafka {
        belongs_to(section, &kafka, "kafka");
    }
    let kind_span = raw.kind.as_ref().map_or(TOP, |given| given.span());
    match kind {
        SinkKind::None => Sink::None,
        SinkKind::File => file_sink(section, raw, kind_span),
        SinkKind::Kafka => check_kafka::sink(section, raw, kind_span),
    }
}

/// Keys of another kind of sink are a misunderstanding that would else stay unseen.
fn belongs_to(section: &mut Section<'_>, keys: &[(&str, Option<Range<usize>>)], kind: &str) {
    for (name, span) in keys {
        if let Some(span) = span {
            let what = format!("is a key of a {kind} sink");
            section.wrong(span.clone(), name, what, format!("write kind = \"{kind}\", or leave it out"));
        }
    }
}

fn file_sink(section: &mut Section<'_>, raw: &RawSink, kind: Range<usize>) -> Sink {
    let Some(path) = &raw.path else {
        section.missing(kind, "path", "write the directory for the files");
        return Sink::None;
    };
    let formats = [("json", SinkFormat::Json), ("protobuf", SinkFormat::Protobuf)];
    let rotate_interval_s = section.number("rotate_interval_s", &raw.rotate_interval_s, 3600, 1..=604_800);
    Sink::File(FileSink {
        path: section.path("path", path),
        format: section.choice("format", &raw.format, SinkFormat::Json, &formats),
        rotate_bytes: section.number("rotate_bytes", &raw.rotate_bytes, 256 << 20, 64 << 10..=1 << 40),
        rotate_interval: std::time::Duration::from_secs(rotate_interval_s),
    })
}
