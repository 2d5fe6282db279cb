//! `[limits]`: bounds on size, time, number and rate. Each one is counted when it is hit.

use std::time::Duration;

use serde::Serialize;

use super::serialized;

/// Bounds against abuse and for time; sizes in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Start line of an HTTP/1 request; longer is 414.
    pub request_line_bytes_max: usize,
    /// All header fields of a request, either version; more is 431.
    pub header_bytes_max: usize,
    /// Number of header fields of a request; more is 431.
    pub headers_max: usize,
    /// Number of header fields of an origin's HTTP/1 response; more is 502.
    pub response_headers_max: usize,
    /// From the first byte of a request (or of the connection) to the end of its header; also for a PROXY header and an SNI.
    #[serde(rename = "header_read_timeout_ms", serialize_with = "serialized::milliseconds")]
    pub header_read_timeout: Duration,
    /// From accept to the end of the TLS handshake.
    #[serde(rename = "tls_handshake_timeout_ms", serialize_with = "serialized::milliseconds")]
    pub tls_handshake_timeout: Duration,
    /// An HTTP connection with no request on it.
    #[serde(rename = "keep_alive_timeout_ms", serialize_with = "serialized::milliseconds")]
    pub keep_alive_timeout: Duration,
    /// A request or response of which no byte moves.
    #[serde(rename = "idle_timeout_ms", serialize_with = "serialized::milliseconds")]
    pub idle_timeout: Duration,
    /// A tunnel (WebSocket, CONNECT, tcp, tls-passthrough) through which no byte moves.
    #[serde(rename = "tunnel_idle_timeout_ms", serialize_with = "serialized::milliseconds")]
    pub tunnel_idle_timeout: Duration,
    /// A whole request, tunnels excepted; None (0 in the file) for no limit.
    #[serde(rename = "request_timeout_ms", serialize_with = "serialized::milliseconds_or_zero")]
    pub request_timeout: Option<Duration>,
    /// Request bodies slower than this on average are cut after the grace; 0 for no limit.
    pub body_rate_min_bytes_per_s: u64,
    /// How long a body may be slow.
    #[serde(rename = "body_rate_grace_ms", serialize_with = "serialized::milliseconds")]
    pub body_rate_grace: Duration,
    /// Downstream connections at once, all listeners and workers together.
    pub connections_max: usize,
    /// Downstream connections at once from one client address.
    pub connections_per_source_max: usize,
    /// Connections the kernel holds per listener before they are accepted.
    pub accept_queue_max: u32,
    /// HTTP/2 streams at once per connection.
    pub streams_per_connection_max: u32,
    /// HTTP/2 streams a client may reset per second (rapid reset).
    pub h2_resets_per_s_max: u32,
    /// HTTP/2 SETTINGS, PING, PRIORITY and empty DATA frames per second and connection.
    pub h2_control_frames_per_s_max: u32,
    /// HTTP/2 CONTINUATION frames in one header block.
    pub h2_continuations_max: u32,
    /// HTTP/2 flow-control window of a stream.
    pub h2_stream_window_bytes: u32,
    /// HTTP/2 flow-control window of a connection; at least one stream's.
    pub h2_connection_window_bytes: u32,
    /// Bytes buffered for one connection, both directions.
    pub connection_buffer_bytes_max: usize,
    /// Bytes buffered for all connections.
    pub buffer_bytes_max: usize,
    /// How long a drain waits for sessions to end by themselves.
    #[serde(rename = "drain_timeout_ms", serialize_with = "serialized::milliseconds")]
    pub drain_timeout: Duration,
    /// How long a closed session waits to learn what was acknowledged.
    #[serde(rename = "linger_ms", serialize_with = "serialized::milliseconds")]
    pub linger: Duration,
    /// Bytes of a path that go into a record; 0 records none. A query string is never recorded.
    pub path_bytes_max: usize,
}

impl Limits {
    /// What an HTTP/1 engine may buffer of what a client sends, bytes: 128 KiB by default. More costs more: the buffer
    /// leaves the processor's cache before it is written on.
    pub fn client_buffer_bytes(&self) -> usize {
        (self.connection_buffer_bytes_max / 16).max(H1_BUFFER_BYTES_MIN)
    }

    /// And of what an origin sends: 1 MiB by default. Here fewer and larger reads are cheaper: the client takes its time,
    /// and each wait for it is a turn.
    pub fn origin_buffer_bytes(&self) -> usize {
        (self.connection_buffer_bytes_max / 2).max(H1_BUFFER_BYTES_MIN)
    }
}

/// The smallest buffer that the engine takes.
const H1_BUFFER_BYTES_MIN: usize = 8192;
