//! The usage record: what the data plane writes, the journal keeps and everything downstream reads.
//!
//! The published form is `proto/weir/usage/v1/usage.proto`. On the hot path a record is put together by hand from two
//! pieces, which protobuf allows to be concatenated in any order:
//!
//! * the *note*: who and what (ids, account, addresses, host, path), encoded once when it becomes known and kept in
//!   the slot, so that a successor can still write the record after a kill;
//! * the *tail*: what moved (phase, time, outcome, deltas, totals), encoded when the record is written.
//!
//! Position (node, epoch, shard, seq) is not in the bytes: the journal's frame holds it.

mod addresses;
mod encode;
mod fields;
mod loss;
mod print;
#[allow(missing_docs)] // as v1: generated in part
mod view;

pub use addresses::{AddressForm, Addresses};
pub use encode::{PlaceNote, RequestNote, SessionNote, Tail};
pub use fields::{Fields, Malformed};
pub use loss::{Loss, Losses, SeqRange};
pub use print::{CSV_HEADER, Position, csv_line, from_json, json_line, text_line};

/// Types generated from `weir.usage.v1`.
#[allow(missing_docs, clippy::doc_markdown)] // generated; the .proto holds the comments
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/weir.usage.v1.rs"));
}

pub use view::RecordView;

use crate::units::Counters;

pub use v1::{End, Kind, Phase, Reason, Screening, ShardEnd, UsageRecord};

/// What an account is called when no rule names one: a record is never dropped for want of an owner.
pub const UNATTRIBUTED: &str = "unattributed";

impl Kind {
    /// As printed in `kind`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unspecified => "",
            Self::Session => "session",
            Self::Request => "request",
            Self::Node => "node",
            Self::Gap => "gap",
        }
    }
}

impl Phase {
    /// As printed in `phase`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unspecified => "",
            Self::Open => "open",
            Self::Checkpoint => "checkpoint",
            Self::Close => "close",
        }
    }
}

impl End {
    /// As printed in `end`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unspecified => "",
            Self::Done => "done",
            Self::ClientAbort => "client_abort",
            Self::UpstreamError => "upstream_error",
            Self::Timeout => "timeout",
            Self::Drain => "drain",
            Self::Recovered => "recovered",
            Self::Refused => "refused",
            Self::TlsError => "tls_error",
            Self::ProtocolError => "protocol_error",
            Self::Internal => "internal",
        }
    }
}

impl Reason {
    /// As printed in `reason`; empty where something is billable.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unspecified => "",
            Self::HealthCheck => "health_check",
            Self::PlatformError => "platform_error",
            Self::Limited => "limited",
            Self::BadRequest => "bad_request",
            Self::Retry => "retry",
            Self::NoRequest => "no_request",
            Self::Screened => "screened",
        }
    }
}

impl Screening {
    /// As printed in `screening`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unspecified => "",
            Self::Clear => "clear",
            Self::Match => "match",
            Self::Indeterminate => "indeterminate",
        }
    }
}

/// What a record says, read or kept.
macro_rules! said {
    ($($record:ty),*) => {$(
        impl $record {
            /// Who pays; [`UNATTRIBUTED`] where no rule named one, never empty.
            pub fn payer(&self) -> &str {
                if self.account.is_empty() { UNATTRIBUTED } else { &self.account }
            }

            /// The range that a gap record names, if it names one.
            pub fn gap_range(&self) -> Option<SeqRange> {
                let range = SeqRange {
                    epoch: u32::try_from(self.gap_epoch).ok()?,
                    shard: u16::try_from(self.gap_shard).ok()?,
                    first_seq: u64::try_from(self.gap_first_seq).ok()?,
                    next_seq: u64::try_from(self.gap_next_seq).ok()?,
                };
                (range.next_seq > range.first_seq).then_some(range)
            }

            /// What moved since the record before.
            pub fn deltas(&self) -> Counters {
                Counters::from_array(
                    [
                        self.received_body_bytes,
                        self.received_app_bytes,
                        self.received_wire_bytes,
                        self.sent_body_bytes,
                        self.sent_app_bytes,
                        self.sent_wire_bytes,
                        self.sent_acked_bytes,
                        self.upstream_sent_bytes,
                        self.upstream_received_bytes,
                    ]
                    .map(|bytes| u64::try_from(bytes).unwrap_or(0)),
                )
            }

            /// What moved since it began.
            pub fn totals(&self) -> Counters {
                Counters::from_array(
                    [
                        self.total_received_body_bytes,
                        self.total_received_app_bytes,
                        self.total_received_wire_bytes,
                        self.total_sent_body_bytes,
                        self.total_sent_app_bytes,
                        self.total_sent_wire_bytes,
                        self.total_sent_acked_bytes,
                        self.total_upstream_sent_bytes,
                        self.total_upstream_received_bytes,
                    ]
                    .map(|bytes| u64::try_from(bytes).unwrap_or(0)),
                )
            }
        }
    )*};
}

said!(UsageRecord, RecordView<'_>);
