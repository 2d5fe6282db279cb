//! The program as a whole, against an archive that the real writer has written: what it answers, what it refuses, and what it writes down.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::let_underscore_must_use, missing_docs)]

mod access;
mod answers;
mod limits;
mod population;
mod portal;
mod reports;
mod scope;
mod world;
