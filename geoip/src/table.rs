//! The table: one immutable answer for every address there is.
//!
//! Both families are steps (from each start on, a record holds until the next start) behind a root that is indexed by
//! an address's first bits, so that a look-up searches one run of keys, by cache lines ([`crate::lines`]), and then reads
//! one number ([`crate::packed`]):
//!
//! * IPv4: 2^16 roots by the first 16 bits; keys are the other 16 bits.
//! * IPv6: 2^17 roots by bits 3 to 20, for `2000::/3`, where the internet is; keys are the next 32 bits. What differs
//!   within 52 bits (a /64 or an address of an account) is in small runs of its own with whole addresses as keys. All
//!   outside of `2000::/3` is one such run.
//!
//! A run holds only the starts in it: an address before the first of them belongs to the step before, in a run before.
//! So each table begins with a step at its very first address, and a search never leaves the table.

mod build6;
mod v4;
mod v6;

pub(crate) use build6::Builder6;
pub(crate) use v4::{Builder4, Table4};
pub(crate) use v6::Table6;

/// One more than the highest record number.
pub(crate) const RECORDS_MAX: u32 = v6::IS_RUN;

/// Whether these are all roots of a table with such keys, the first run begins with the first address, and all runs ascend.
fn roots_are_sound<K: Ord + Default>(roots: &[u32], bits: u32, keys: &[K], values: usize) -> bool {
    roots.len() == (1 << bits) + 1
        && roots.first() == Some(&1)
        && roots.get(1).is_some_and(|end| *end > 1)
        && roots.is_sorted()
        && roots.last().is_some_and(|end| *end as usize == keys.len())
        && keys.len() == values
        && keys.get(1) == Some(&K::default())
        && roots.windows(2).all(|run| keys[run[0] as usize..run[1] as usize].is_sorted())
}

#[cfg(test)]
mod tests;
