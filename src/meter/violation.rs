//! What the guard of the request direction refuses, by name.

use std::fmt;

/// What is wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Violation {
    /// A line ends in LF without CR.
    BareLf,
    /// A CR that no LF follows.
    BareCr,
    /// A field line starts with whitespace (RFC 9112 §5.2).
    ObsFold,
    /// Whitespace between a field name and its colon (RFC 9112 §5.1).
    SpaceBeforeColon,
    /// A field name is not a token, or the colon is missing.
    BadHeaderName,
    /// A field value holds NUL or another control octet.
    BadHeaderValue,
    /// Both Content-Length and Transfer-Encoding (RFC 9112 §6.1).
    ClAndTe,
    /// More than one Content-Length, equal or not.
    DuplicateContentLength,
    /// A Content-Length of anything but 1–18 digits.
    BadContentLength,
    /// A Transfer-Encoding of anything but `chunked`, once.
    BadTransferEncoding,
    /// Transfer-Encoding in an HTTP/1.0 request.
    TeOnHttp10,
    /// The request line: method, target, version or the spaces between (RFC 9112 §3).
    BadRequestLine,
    /// Host missing in HTTP/1.1, repeated, empty or not `host[:port]` (RFC 9112 §3.2).
    BadHost,
    /// `content_length` or `transfer_encoding`, which some back ends take for the field with a hyphen.
    UnderscoreFraming,
    /// Chunk size, extension, or the CRLF after the data (RFC 9112 §7.1).
    BadChunk,
    /// A trailer that is no field line, or a field that must not be in a trailer (RFC 9110 §6.5.1).
    BadTrailer,
    /// `Connection` names Content-Length, Transfer-Encoding or Host, to have them taken out on the way.
    ConnectionNamesFraming,
    /// A line longer than [`LINE_BYTES_MAX`](super::LINE_BYTES_MAX).
    HeadTooLarge,
    /// More than [`PIPELINE_MAX`](super::PIPELINE_MAX) requests without an answer.
    PipelineTooDeep,
}

impl Violation {
    /// The name in records, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Violation::BareLf => "bare_lf",
            Violation::BareCr => "bare_cr",
            Violation::ObsFold => "obs_fold",
            Violation::SpaceBeforeColon => "space_before_colon",
            Violation::BadHeaderName => "bad_header_name",
            Violation::BadHeaderValue => "bad_header_value",
            Violation::ClAndTe => "cl_and_te",
            Violation::DuplicateContentLength => "duplicate_content_length",
            Violation::BadContentLength => "bad_content_length",
            Violation::BadTransferEncoding => "bad_transfer_encoding",
            Violation::TeOnHttp10 => "te_on_http10",
            Violation::BadRequestLine => "bad_request_line",
            Violation::BadHost => "bad_host",
            Violation::UnderscoreFraming => "underscore_framing",
            Violation::BadChunk => "bad_chunk",
            Violation::BadTrailer => "bad_trailer",
            Violation::ConnectionNamesFraming => "connection_names_framing",
            Violation::HeadTooLarge => "head_too_large",
            Violation::PipelineTooDeep => "pipeline_too_deep",
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
