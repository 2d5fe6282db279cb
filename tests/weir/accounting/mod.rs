//! Every octet, both ways, per request and per session, in every column, against peers that count for themselves.

mod http1;
