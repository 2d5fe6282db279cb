//! The sidecar as it is run: real processes, real sockets, and peers that count every octet themselves.
//!
//! `rig` starts the binary, plays clients and origins, and reads what `weir events --json` says; every other module
//! states facts. Nothing here knows the inside of the process: what is asserted is what a customer could check.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)] // all of it is tests

mod accounting;
mod rig;
