//! `[limits]`: default and range of each, and those that bound each other.

use super::Limits;
use super::fields::{Section, TOP};
use super::raw::RawLimits;

/// The limits, each in its range.
pub(super) fn limits(section: &mut Section<'_>, raw: &RawLimits) -> Limits {
    const HOUR_MS: u64 = 3_600_000;
    const DAY_MS: u64 = 24 * HOUR_MS;
    let s = section;
    let request_timeout = s.milliseconds("request_timeout_ms", &raw.request_timeout_ms, 0, 0..=7 * DAY_MS);
    let limits = Limits {
        request_line_bytes_max: s.size("request_line_bytes_max", &raw.request_line_bytes_max, 8192, 256..=1 << 20),
        header_bytes_max: s.size("header_bytes_max", &raw.header_bytes_max, 65_536, 1024..=1 << 20),
        headers_max: s.size("headers_max", &raw.headers_max, 99, 8..=4096),
        response_headers_max: s.size("response_headers_max", &raw.response_headers_max, 100, 8..=4096),
        header_read_timeout: s.milliseconds(
            "header_read_timeout_ms",
            &raw.header_read_timeout_ms,
            10_000,
            10..=HOUR_MS,
        ),
        tls_handshake_timeout: s.milliseconds(
            "tls_handshake_timeout_ms",
            &raw.tls_handshake_timeout_ms,
            10_000,
            10..=HOUR_MS,
        ),
        keep_alive_timeout: s.milliseconds("keep_alive_timeout_ms", &raw.keep_alive_timeout_ms, 75_000, 10..=DAY_MS),
        idle_timeout: s.milliseconds("idle_timeout_ms", &raw.idle_timeout_ms, 60_000, 10..=DAY_MS),
        tunnel_idle_timeout: s.milliseconds(
            "tunnel_idle_timeout_ms",
            &raw.tunnel_idle_timeout_ms,
            HOUR_MS,
            10..=7 * DAY_MS,
        ),
        request_timeout: Some(request_timeout).filter(|timeout| !timeout.is_zero()),
        body_rate_min_bytes_per_s: s.number(
            "body_rate_min_bytes_per_s",
            &raw.body_rate_min_bytes_per_s,
            0,
            0..=1 << 30,
        ),
        body_rate_grace: s.milliseconds("body_rate_grace_ms", &raw.body_rate_grace_ms, 10_000, 10..=HOUR_MS),
        connections_max: s.size("connections_max", &raw.connections_max, 65_536, 1..=16_777_216),
        connections_per_source_max: s.size(
            "connections_per_source_max",
            &raw.connections_per_source_max,
            4096,
            1..=16_777_216,
        ),
        accept_queue_max: s.count("accept_queue_max", &raw.accept_queue_max, 4096, 1..=65_535),
        streams_per_connection_max: s.count(
            "streams_per_connection_max",
            &raw.streams_per_connection_max,
            100,
            1..=100_000,
        ),
        h2_resets_per_s_max: s.count("h2_resets_per_s_max", &raw.h2_resets_per_s_max, 200, 1..=1_000_000),
        h2_control_frames_per_s_max: s.count(
            "h2_control_frames_per_s_max",
            &raw.h2_control_frames_per_s_max,
            1000,
            10..=1_000_000,
        ),
        h2_continuations_max: s.count("h2_continuations_max", &raw.h2_continuations_max, 16, 1..=1024),
        h2_stream_window_bytes: s.count(
            "h2_stream_window_bytes",
            &raw.h2_stream_window_bytes,
            262_144,
            65_535..=0x7fff_ffff,
        ),
        h2_connection_window_bytes: s.count(
            "h2_connection_window_bytes",
            &raw.h2_connection_window_bytes,
            1 << 20,
            65_535..=0x7fff_ffff,
        ),
        connection_buffer_bytes_max: s.size(
            "connection_buffer_bytes_max",
            &raw.connection_buffer_bytes_max,
            2 << 20,
            16 << 10..=1 << 30,
        ),
        buffer_bytes_max: s.size("buffer_bytes_max", &raw.buffer_bytes_max, 256 << 20, 1 << 20..=1 << 40),
        drain_timeout: s.milliseconds("drain_timeout_ms", &raw.drain_timeout_ms, 30_000, 0..=DAY_MS),
        linger: s.milliseconds("linger_ms", &raw.linger_ms, 1000, 0..=60_000),
        path_bytes_max: s.size("path_bytes_max", &raw.path_bytes_max, 128, 0..=8192),
    };
    orders(s, raw, &limits);
    limits
}

/// Limits that bound each other.
fn orders(section: &mut Section<'_>, raw: &RawLimits, limits: &Limits) {
    let ordered = [
        (
            "h2_connection_window_bytes",
            limits.h2_connection_window_bytes as usize,
            raw.h2_connection_window_bytes.as_ref().or(raw.h2_stream_window_bytes.as_ref()),
            "h2_stream_window_bytes",
            limits.h2_stream_window_bytes as usize,
        ),
        (
            "buffer_bytes_max",
            limits.buffer_bytes_max,
            raw.buffer_bytes_max.as_ref().or(raw.connection_buffer_bytes_max.as_ref()),
            "connection_buffer_bytes_max",
            limits.connection_buffer_bytes_max,
        ),
        (
            "header_bytes_max",
            limits.header_bytes_max,
            raw.header_bytes_max.as_ref().or(raw.request_line_bytes_max.as_ref()),
            "request_line_bytes_max",
            limits.request_line_bytes_max,
        ),
    ];
    for (outer, outer_value, given, inner, inner_value) in ordered {
        if outer_value < inner_value {
            let span = given.map_or(TOP, |given| given.span());
            let what = format!("{outer_value} is less than {inner} = {inner_value}");
            section.wrong(span, outer, what, format!("write at least {inner_value}, or lower {inner}"));
        }
    }
}
