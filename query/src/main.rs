//! `weir-query`: SQL over the archive.
fn main() {}
