//! The crate as it is used: files on a disk, a plan, a table, and other hands' code as the oracle.

// All of it is tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod files;

mod damage;
mod differential;
mod precedence;
mod reload;
mod snapshots;
mod vendors;
