//! Which address is meant, and which part of the address space it is in.
//!
//! An IPv6 address that carries an IPv4 client is looked up as that client: IPv4-mapped (`::ffff:0:0/96`), NAT64
//! (`64:ff9b::/96`), 6to4 (`2002::/16`, bits 16 to 48) and Teredo (`2001::/32`, the last 32 bits inverted). Databases
//! disagree about these: some alias them, some say nothing, one puts all of 6to4 in one country.
//!
//! Special addresses (the IANA registries of special-purpose addresses, RFC 6890 and what updates it) have a [`Scope`]
//! of their own and never a country.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::steps::{Family, Range, Steps, flatten};

/// By which rule an IPv6 address was read as an IPv4 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// `::ffff:0:0/96`.
    Mapped,
    /// `64:ff9b::/96`.
    Nat64,
    /// `2002::/16`.
    SixToFour,
    /// `2001::/32`.
    Teredo,
}

impl Via {
    /// As printed.
    pub fn name(self) -> &'static str {
        match self {
            Via::Mapped => "v4_mapped",
            Via::Nat64 => "nat64",
            Via::SixToFour => "6to4",
            Via::Teredo => "teredo",
        }
    }
}

/// The IPv4 address that an IPv6 address carries, and by which rule.
pub fn embedded(address: Ipv6Addr) -> Option<(Ipv4Addr, Via)> {
    let bits = u128::from(address);
    let high = (bits >> 64) as u64;
    let low = bits as u32;
    if high >> 48 == 0x2002 {
        return Some((Ipv4Addr::from((high >> 16) as u32), Via::SixToFour));
    }
    if high >> 32 == 0x2001_0000 {
        return Some((Ipv4Addr::from(!low), Via::Teredo));
    }
    match bits >> 32 {
        0xffff => Some((Ipv4Addr::from(low), Via::Mapped)),
        0x0064_ff9b_0000_0000_0000_0000 => Some((Ipv4Addr::from(low), Via::Nat64)),
        _ => None,
    }
}

/// The address that is looked up for this one.
pub fn canonical(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => embedded(v6).map_or(address, |(v4, _)| IpAddr::V4(v4)),
    }
}

/// The network that is looked up for this one: IPv4-mapped becomes IPv4.
///
/// None where its addresses are looked up as IPv4 addresses that it does not name plainly (6to4, Teredo, NAT64, or a
/// network around all mapped ones): a row for it would never be found.
pub(crate) fn canonical_network(network: IpNet) -> Option<IpNet> {
    let IpNet::V6(v6) = network else { return Some(network) };
    match embedded(v6.network()) {
        None => Some(network),
        Some((v4, Via::Mapped)) if v6.prefix_len() >= 96 => {
            ipnet::Ipv4Net::new(v4, v6.prefix_len() - 96).ok().map(IpNet::V4)
        }
        // A network around the carriers, such as ::/0, starts outside of them and is kept.
        Some((_, Via::SixToFour)) if v6.prefix_len() < 16 => Some(network),
        Some((_, Via::Teredo)) if v6.prefix_len() < 32 => Some(network),
        Some((_, Via::Nat64)) if v6.prefix_len() < 96 => Some(network),
        Some(_) => None,
    }
}

/// The part of the address space that an address is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Scope {
    /// Routed on the internet, or could be.
    #[default]
    Global = 0,
    /// RFC 1918, unique local (`fc00::/7`), local NAT64.
    Private = 1,
    /// `100.64.0.0/10`: behind a carrier's NAT.
    Cgnat = 2,
    /// `127.0.0.0/8`, `::1`.
    Loopback = 3,
    /// `169.254.0.0/16`, `fe80::/10`.
    LinkLocal = 4,
    /// For texts: `192.0.2.0/24`, `2001:db8::/32`, …
    Documentation = 5,
    /// `198.18.0.0/15`, `2001:2::/48`.
    Benchmarking = 6,
    /// `224.0.0.0/4`, `ff00::/8`.
    Multicast = 7,
    /// Everything else that nobody may use, or nobody was given.
    Reserved = 8,
}

impl Scope {
    const ALL: [Scope; 9] = [
        Scope::Global,
        Scope::Private,
        Scope::Cgnat,
        Scope::Loopback,
        Scope::LinkLocal,
        Scope::Documentation,
        Scope::Benchmarking,
        Scope::Multicast,
        Scope::Reserved,
    ];

    /// As printed.
    pub fn name(self) -> &'static str {
        match self {
            Scope::Global => "global",
            Scope::Private => "private",
            Scope::Cgnat => "cgnat",
            Scope::Loopback => "loopback",
            Scope::LinkLocal => "link_local",
            Scope::Documentation => "documentation",
            Scope::Benchmarking => "benchmarking",
            Scope::Multicast => "multicast",
            Scope::Reserved => "reserved",
        }
    }

    /// Of its number in a snapshot.
    pub(crate) fn from_number(number: u8) -> Option<Scope> {
        Scope::ALL.get(usize::from(number)).copied()
    }
}

/// IANA's special-purpose registries; a longer prefix within a shorter one decides.
const SPECIAL_V4: &[(&str, Scope)] = &[
    ("0.0.0.0/0", Scope::Global),
    ("0.0.0.0/8", Scope::Reserved),
    ("10.0.0.0/8", Scope::Private),
    ("100.64.0.0/10", Scope::Cgnat),
    ("127.0.0.0/8", Scope::Loopback),
    ("169.254.0.0/16", Scope::LinkLocal),
    ("172.16.0.0/12", Scope::Private),
    ("192.0.0.0/24", Scope::Reserved),
    ("192.0.0.9/32", Scope::Global),  // port control protocol anycast, RFC 7723
    ("192.0.0.10/32", Scope::Global), // TURN anycast, RFC 8155
    ("192.0.2.0/24", Scope::Documentation),
    ("192.88.99.0/24", Scope::Reserved), // the 6to4 relays that were, RFC 7526
    ("192.168.0.0/16", Scope::Private),
    ("198.18.0.0/15", Scope::Benchmarking),
    ("198.51.100.0/24", Scope::Documentation),
    ("203.0.113.0/24", Scope::Documentation),
    ("224.0.0.0/4", Scope::Multicast),
    ("240.0.0.0/4", Scope::Reserved),
];

const SPECIAL_V6: &[(&str, Scope)] = &[
    ("::/0", Scope::Reserved), // outside 2000::/3 nothing is given out
    ("::1/128", Scope::Loopback),
    ("64:ff9b:1::/48", Scope::Private), // local NAT64, RFC 8215
    ("2000::/3", Scope::Global),
    ("2001::/23", Scope::Reserved), // IETF protocol assignments; Teredo is read as IPv4 before
    ("2001:1::1/128", Scope::Global),
    ("2001:1::2/128", Scope::Global),
    ("2001:1::3/128", Scope::Global),
    ("2001:2::/48", Scope::Benchmarking),
    ("2001:3::/32", Scope::Global),     // AMT, RFC 7450
    ("2001:4:112::/48", Scope::Global), // AS112, RFC 7535
    ("2001:20::/28", Scope::Global),    // ORCHIDv2, RFC 7343
    ("2001:30::/28", Scope::Global),    // drone remote ID, RFC 9374
    ("2001:db8::/32", Scope::Documentation),
    ("3fff::/20", Scope::Documentation), // RFC 9637
    ("fc00::/7", Scope::Private),
    ("fe80::/10", Scope::LinkLocal),
    ("fec0::/10", Scope::Reserved), // site-local, deprecated by RFC 3879
    ("ff00::/8", Scope::Multicast),
];

/// The whole of one family's address space as steps from scope to scope; values are a scope's number.
pub(crate) fn scopes(family: Family) -> Steps {
    let special = match family {
        Family::V4 => SPECIAL_V4,
        Family::V6 => SPECIAL_V6,
    };
    let ranges =
        special.iter().filter_map(|(network, scope)| Some(Range::of(network.parse().ok()?, *scope as u32))).collect();
    flatten(family, ranges, |_, own| own)
}

/// The scope of a network none of whose addresses can have a country.
pub(crate) fn special(network: IpNet) -> Option<Scope> {
    let special = if network.addr().is_ipv4() { SPECIAL_V4 } else { SPECIAL_V6 };
    let global_inside = |(entry, scope): &(&str, Scope)| {
        *scope == Scope::Global && entry.parse().is_ok_and(|entry: IpNet| network.contains(&entry) && network != entry)
    };
    let around = special.iter().filter_map(|(entry, scope)| {
        let entry: IpNet = entry.parse().ok()?;
        entry.contains(&network).then_some((entry.prefix_len(), *scope))
    });
    let (_, scope) = around.max_by_key(|(length, _)| *length)?;
    (scope != Scope::Global && !special.iter().any(global_inside)).then_some(scope)
}

/// The scope of one address, canonicalised.
pub fn scope(address: IpAddr) -> Scope {
    let (special, address) = match canonical(address) {
        address @ IpAddr::V4(_) => (SPECIAL_V4, address),
        address @ IpAddr::V6(_) => (SPECIAL_V6, address),
    };
    let holding = special.iter().filter_map(|(network, scope)| {
        let network: IpNet = network.parse().ok()?;
        network.contains(&address).then_some((network.prefix_len(), *scope))
    });
    holding.max_by_key(|(length, _)| *length).map_or(Scope::Reserved, |(_, scope)| scope)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(address: &str, canonical_text: &str, scope_expected: Scope) {
        let address: IpAddr = address.parse().unwrap();
        assert_eq!(canonical(address).to_string(), canonical_text, "{address}");
        assert_eq!(scope(address), scope_expected, "{address}");
    }

    #[test]
    fn carried_ipv4_addresses_are_found_by_rule() {
        check("8.8.8.8", "8.8.8.8", Scope::Global);
        check("::ffff:8.8.8.8", "8.8.8.8", Scope::Global);
        check("64:ff9b::808:808", "8.8.8.8", Scope::Global);
        check("2002:808:808::1", "8.8.8.8", Scope::Global);
        // RFC 4380's own example: 192.0.2.45 behind a Teredo client.
        check("2001:0:4136:e378:8000:63bf:3fff:fdd2", "192.0.2.45", Scope::Documentation);
        check("2002:a00:1::", "10.0.0.1", Scope::Private);
        // Not carriers: IPv4-compatible, local NAT64, the first address after Teredo.
        check("::8.8.8.8", "::808:808", Scope::Reserved);
        check("64:ff9b:1::808:808", "64:ff9b:1::808:808", Scope::Private);
        check("2001:1::1", "2001:1::1", Scope::Global);
    }

    #[test]
    fn special_addresses_have_their_scope_to_the_last_one() {
        check("100.63.255.255", "100.63.255.255", Scope::Global);
        check("100.64.0.0", "100.64.0.0", Scope::Cgnat);
        check("100.127.255.255", "100.127.255.255", Scope::Cgnat);
        check("172.31.255.255", "172.31.255.255", Scope::Private);
        check("172.32.0.0", "172.32.0.0", Scope::Global);
        check("192.0.0.8", "192.0.0.8", Scope::Reserved);
        check("192.0.0.9", "192.0.0.9", Scope::Global);
        check("255.255.255.255", "255.255.255.255", Scope::Reserved);
        check("fdff::1", "fdff::1", Scope::Private);
        check("fe80::1", "fe80::1", Scope::LinkLocal);
        check("::1", "::1", Scope::Loopback);
        check("4000::", "4000::", Scope::Reserved);
        check("2a00::", "2a00::", Scope::Global);
    }

    #[test]
    fn the_steps_agree_with_the_registry_at_every_boundary() {
        for (special, family) in [(SPECIAL_V4, Family::V4), (SPECIAL_V6, Family::V6)] {
            let steps = scopes(family);
            for (network, _) in special {
                let network: IpNet = network.parse().unwrap();
                for address in [network.network(), network.broadcast()] {
                    let bits = match address {
                        IpAddr::V4(v4) => u128::from(u32::from(v4)),
                        IpAddr::V6(v6) => u128::from(v6),
                    };
                    for bits in [bits.wrapping_sub(1), bits, bits.wrapping_add(1)] {
                        let address = match family {
                            Family::V4 => IpAddr::V4(Ipv4Addr::from(bits as u32)),
                            Family::V6 => IpAddr::V6(Ipv6Addr::from(bits)),
                        };
                        if canonical(address) != address {
                            continue;
                        }
                        let bits = if family == Family::V4 { u128::from(bits as u32) } else { bits };
                        assert_eq!(steps.at(bits), scope(address) as u32, "{address}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_network_is_special_if_all_of_it_is() {
        let special = |text: &str| special(text.parse().unwrap());
        assert_eq!(special("10.1.0.0/16"), Some(Scope::Private));
        assert_eq!(special("10.0.0.0/7"), None, "11.0.0.0/8 is inside");
        assert_eq!(special("0.0.0.0/0"), None);
        assert_eq!(special("192.0.0.0/24"), None, "192.0.0.9 is inside");
        assert_eq!(special("fd00::/8"), Some(Scope::Private));
        assert_eq!(special("8.8.8.0/24"), None);
    }

    #[test]
    fn networks_of_carriers_are_read_or_refused() {
        let network = |text: &str| canonical_network(text.parse().unwrap()).map(|network| network.to_string());
        assert_eq!(network("::ffff:10.0.0.0/104").as_deref(), Some("10.0.0.0/8"));
        assert_eq!(network("2002:808::/32"), None);
        assert_eq!(network("::/0").as_deref(), Some("::/0"));
        assert_eq!(network("2001::/23").as_deref(), Some("2001::/23"));
        assert_eq!(network("2001::/48"), None);
    }
}
