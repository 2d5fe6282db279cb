//! Every octet, both ways, per request and per session, in every column, against peers that count for themselves.

mod aborts;
mod http1;
mod http2;
mod transports;
