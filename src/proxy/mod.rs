//! The data plane: accept, meter, attribute, limit, forward, record.
//!
//! ```text
//! listener ─ PROXY header ─ TLS ─┬─ http1 ─┐
//!                                ├─ http2 ─┴─ forward ─ upstream (balance, link) ─ origin
//!                                └─ tcp (terminated, passthrough) ─ tunnel ────────┘
//! tunnels and large bodies, where neither side is TLS: socket ─ splice ─ socket
//! session: the socket, its counters, its exchanges ── recorder ── journal
//! worker: one thread, its sessions, the sweep       node: what workers share
//! ```
//!
//! It knows no sink, no ledger and no network but its own sockets.

pub mod balance;
mod body;
pub mod client_hello;
mod exchange;
mod flood;
mod folding;
mod forward;
pub mod forwarded;
pub mod headers;
mod http1;
mod http2;
mod kernel;
mod linger;
mod listener;
mod memory;
mod node;
pub mod proxy_protocol;
mod pump;
mod recorder;
mod recovery;
mod relay;
mod session;
mod setup;
mod splice;
mod stream;
mod tcp;
pub mod tls;
mod tunnel;
mod upstream;
mod worker;

pub use folding::FoldMarks;
pub use kernel::{TcpCounts, tcp_counts};
pub use listener::accept;
pub use node::{Node, SessionRow};
pub use recorder::{Facts, Measured, Recorder, Verdict};
pub use recovery::close_estate;
pub use setup::{Error as SetupError, Setup};
pub use worker::{Worker, spawn};
