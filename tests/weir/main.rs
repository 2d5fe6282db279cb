//! The sidecar as it is run: real processes, real sockets, and peers that count every octet themselves.
//!
//! `rig` starts the binary, plays clients and origins, and reads what `weir events --json` says; every other module
//! states facts. Nothing here knows the inside of the process: what is asserted is what a customer could check.

// All of it is tests, whose sockets may fail as they like at the end.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::let_underscore_must_use, missing_docs)]

mod accounting;
mod architecture;
mod archive;
mod attribution;
mod clock;
mod disk;
mod ip;
mod journal;
mod kafka;
mod kill;
mod ledger;
mod limits;
mod operation;
mod rig;
mod upgrade;
