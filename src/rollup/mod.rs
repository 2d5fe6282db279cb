//! The ledger: records → usage that an invoice can be made of.
//!
//! ```text
//! Kafka · journal · files ─ feed ─► book (pure: no I/O, no clock) ─ one transaction per batch ─► store ─► usage · audit · seal
//! ```
//!
//! # Who bills what
//!
//! A session's totals hold what its requests moved. So that no byte is billed twice, for each byte column:
//!
//! ```text
//! request series   += a request record's deltas
//! session series   += a session record's deltas − Σ deltas of its requests since the session record before   (overhead)
//! gap series       += a gap record's sums                                                                    (never billed)
//! ```
//!
//! A session of raw TCP or TLS passthrough has no requests: all of it is its own. Requests are recorded before their session at
//! each checkpoint, hour and end, so both sides lie in the same UTC hour. At any time, over everything:
//!
//! **Σ all series = Σ session deltas + Σ gap sums + Σ folded − Σ requests whose session's record has not come yet**
//!
//! and the last term ends with the session. `billable` and `reason` are those of the record that brought the bytes.
//!
//! *Unitemised.* Requests that were folded (`folded` > 0, no session named), given up or lost have no record of their own, and their
//! bytes would show as their session's overhead. A session that closes having begun more requests than it had closes of requests is
//! therefore not billed for its overhead: it moves to a series with reason `unitemised`, not billable. The folded sums are billed as what
//! they are; what of unitemised bytes they are is counted twice in the sum over all series, and never billed twice.
//!
//! Meters are formulas over the columns of a series (`meter.rs`); `egress_bytes` is `sent_acked_bytes` of what is billable.
//!
//! # What is certain
//!
//! | what happens | what becomes of it |
//! |---|---|
//! | a record comes again, at any time | its seq is known: dropped, counted |
//! | a record is missing | its exact range is a gap; the totals of later records of the same session or request say how many bytes |
//! | it comes late | it counts, in the hour that it states, and the gap shrinks |
//! | late, for a sealed period | it counts in the first hour of the open period, in a series that names the sealed one (`corrects`) |
//! | a gap record with a range | its sums count if none of the range was read, and once; taken back where its records come after all; the gap stays, as `stated` |
//! | bytes that cannot be read | quarantined with the reason; what they held stays a gap; both keep a period from being sealed |
//! | a kill, at any moment | either nothing of the batch happened or all of it (`store`): reading goes on at the right place |
//! | a failed commit, a fence | everything in memory is thrown away and read again |
//! | a record's time in another hour than its bytes | cannot be: the sidecar writes a checkpoint at each UTC hour, and `at` is that hour's last µs |
//!
//! *Items* (`item.rs`): for each open session and request, what its records brought and what its latest totals state. The difference is
//! what is missing, to the byte, in whatever order records come. A session is forgotten at its close, unless a record of it may still
//! be in a gap. *Not proven*: that two records at one seq are the same (the first counts), and a tail that never came: that is what
//! watermarks are for (`watermark.rs`).
//!
//! # Limits
//!
//! Streams 1,000,000, gaps of one stream 100,000 (beyond, the lowest is given up: a gap for ever), hosts of one account `hosts_max`
//! (beyond, `(other)`), items as many as there are open sessions: about 600 bytes of memory each.

mod against;
mod audit;
mod audit_part;
mod book;
mod catalog;
mod consume;
mod correction;
mod feed;
mod gaps;
mod item;
mod meter;
mod tally;
mod watermark;
mod window;

#[cfg(test)]
mod model_tests;

pub use against::{Against, Bucket, Odd, Where, against};
pub use audit::{Audit, Look, Step, look};
pub use audit_part::{Cause, Part, PartAudit, Watch, part_usage};
pub use book::{Book, GAP, Options, Refused, Spot, UNITEMISED, Watcher, fingerprint_of, seqs, tally_of};
pub use consume::{Consumer, Progress, Stop, load};
pub use correction::{Change, corrected};
pub use feed::{Error as FeedError, Feed, FilesFeed, JournalFeed, KafkaFeed};
pub use meter::{Amount, amount, shown};
pub use tally::Tally;
pub use watermark::{Node, nodes, seal};
pub use window::{Window, month, window_end};
