//! What holds for every table of addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use weir_geoip::{Scope, Table};

/// Borders looked at.
const BORDERS_MAX: usize = 64;

/// Every address has an answer whose range holds it, and special ones have no country.
pub fn assert_sound(table: &Table) {
    let v4 = table.ranges4().take(BORDERS_MAX).map(|(start, _)| IpAddr::V4(Ipv4Addr::from(start)));
    let v6 = table.ranges6().take(BORDERS_MAX).map(|(start, _)| IpAddr::V6(Ipv6Addr::from(start)));
    for address in v4.chain(v6) {
        let (record, (first, last)) = (table.of(address), table.range(address));
        let address = weir_geoip::canonical(address);
        assert!(first <= address && address <= last, "{first} {address} {last}");
        assert!(record.scope() == Scope::Global || record.country().is_empty(), "{address} has a country");
        assert_eq!(record.labels().count() > 0, record.label_sources().count() > 0);
    }
}
