//! What a new table has to pass before it is used: canary addresses, and how much less it may know than the one before.

use crate::{Error, Plan, Record, Table};

/// How many addresses are known: IPv4 addresses, and IPv6 networks of 64 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// With a country: IPv4, IPv6.
    pub country: [u64; 2],
    /// With an autonomous system.
    pub asn: [u64; 2],
    /// With an account.
    pub account: [u64; 2],
}

impl Coverage {
    /// Of a table.
    pub fn of(table: &Table) -> Coverage {
        let mut coverage = Coverage::default();
        let mut v4 = table.ranges4().peekable();
        while let Some((start, record)) = v4.next() {
            let after = v4.peek().map_or(1 << 32, |(next, _)| u64::from(*next));
            coverage.add(0, after - u64::from(start), table.record(record));
        }
        let mut v6 = table.ranges6().peekable();
        while let Some((start, record)) = v6.next() {
            let last = v6.peek().map_or(u128::MAX, |(next, _)| *next - 1);
            // Parts of a /64 count as one.
            let networks = (last >> 64) - (start >> 64) + 1;
            coverage.add(1, u64::try_from(networks).unwrap_or(u64::MAX), table.record(record));
        }
        coverage
    }

    fn add(&mut self, family: usize, addresses: u64, record: Record<'_>) {
        let known = [
            (&mut self.country, !record.country().is_empty()),
            (&mut self.asn, record.asn() != 0),
            (&mut self.account, !record.account().is_empty()),
        ];
        for (count, known) in known {
            if known {
                count[family] = count[family].saturating_add(addresses);
            }
        }
    }
}

/// Whether `table` may be used in place of `before`.
pub fn check(plan: &Plan, table: &Table, before: Option<&Table>) -> Result<(), Error> {
    for canary in &plan.canaries {
        let record = table.of(canary.address);
        let differs = |field, expected: &str, found: &str| {
            (expected != found).then(|| Error::Canary {
                address: canary.address,
                field,
                expected: expected.to_owned(),
                found: found.to_owned(),
            })
        };
        let country = canary.country.as_deref().and_then(|country| differs("country", country, record.country()));
        let asn = canary.asn.and_then(|asn| differs("asn", &asn.to_string(), &record.asn().to_string()));
        let account = canary.account.as_deref().and_then(|account| differs("account", account, record.account()));
        if let Some(error) = country.or(asn).or(account) {
            return Err(error);
        }
    }
    let Some(before) = before else { return Ok(()) };
    let (before, after) = (Coverage::of(before), Coverage::of(table));
    let geo = plan.guard.coverage_drop_max_percent;
    let accounts = plan.guard.accounts_drop_max_percent;
    let compared = [
        ("a country", before.country, after.country, geo),
        ("an autonomous system", before.asn, after.asn, geo),
        ("an account", before.account, after.account, accounts),
    ];
    for (field, before, after, max_percent) in compared {
        for (family, (before, after)) in ["IPv4", "IPv6"].into_iter().zip(before.into_iter().zip(after)) {
            let lost = u128::from(before.saturating_sub(after));
            // Rounded up: one address more than the limit is over it.
            let percent = (lost * 100).div_ceil(u128::from(before.max(1))) as u32;
            if percent > max_percent {
                return Err(Error::Coverage { family, field, percent, max_percent });
            }
        }
    }
    Ok(())
}
