//! The table against other hands' code, at every boundary, one before and one after, and at a million random addresses:
//! `maxminddb` walking its tree, and `prefix-trie` for networks of the operator's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use maxminddb::{Reader, path};
use prefix_trie::PrefixMap;
use weir_geoip::{Scope, Table, canonical, scope};

use crate::files::{Files, Random, maxmind};

/// Every first address of a range, one before and after, and as many random ones.
fn probes(table: &Table, random: u32) -> Vec<IpAddr> {
    let mut probes = Vec::new();
    for (start, _) in table.ranges4() {
        probes
            .extend([start.wrapping_sub(1), start, start.wrapping_add(1)].map(|bits| IpAddr::V4(Ipv4Addr::from(bits))));
    }
    for (start, _) in table.ranges6() {
        probes
            .extend([start.wrapping_sub(1), start, start.wrapping_add(1)].map(|bits| IpAddr::V6(Ipv6Addr::from(bits))));
    }
    let mut numbers = Random(11);
    for position in 0..random {
        let high = (0x2 << 60) | (numbers.next() >> 4);
        probes.push(match position % 3 {
            0 => IpAddr::V6(Ipv6Addr::from((u128::from(high) << 64) | u128::from(numbers.next()))),
            _ => IpAddr::V4(Ipv4Addr::from(numbers.next() as u32)),
        });
    }
    probes
}

/// Addresses that the databases and the table look up by the same rule.
fn is_plain(address: IpAddr) -> bool {
    canonical(address) == address && scope(address) == Scope::Global
}

/// The database's networks in a structure of another hand.
fn tries(
    reader: &Reader<Vec<u8>>,
    key: &[maxminddb::PathElement<'_>],
) -> (PrefixMap<Ipv4Net, String>, PrefixMap<Ipv6Net, String>) {
    let (mut v4, mut v6) = (PrefixMap::new(), PrefixMap::new());
    for found in reader.networks(maxminddb::WithinOptions::default()).unwrap() {
        let found = found.unwrap();
        let country = found.decode_path::<String>(key).unwrap_or_default().unwrap_or_default();
        let network = found.network().unwrap();
        match network.ip() {
            IpAddr::V4(address) => drop(v4.insert(Ipv4Net::new(address, network.prefix()).unwrap(), country)),
            IpAddr::V6(address) => drop(v6.insert(Ipv6Net::new(address, network.prefix()).unwrap(), country)),
        }
    }
    (v4, v6)
}

/// Compares country by country; how many addresses.
fn check_country(database: &str, key: &[maxminddb::PathElement<'_>], random: u32) -> usize {
    let files = Files::new();
    let table = files.compile(&format!("[[sources]]\nname = \"it\"\nkind = \"mmdb\"\npaths = [{database:?}]")).unwrap();
    let reader = Reader::open_readfile(database).unwrap();
    let (v4, v6) = tries(&reader, key);
    let mut compared = 0;
    for address in probes(&table, random).into_iter().filter(|address| is_plain(*address)) {
        let expected = match reader.lookup(address) {
            Ok(found) => found.decode_path::<&str>(key).unwrap_or_default().unwrap_or_default(),
            // An IPv6 address in a database of IPv4.
            Err(_) => "",
        };
        assert_eq!(table.of(address).country(), expected, "{address} in {database}");
        let by_prefix = match address {
            IpAddr::V4(address) => v4.get_lpm(&Ipv4Net::from(address)).map(|(_, country)| country),
            IpAddr::V6(address) => v6.get_lpm(&Ipv6Net::from(address)).map(|(_, country)| country),
        };
        assert_eq!(table.of(address).country(), by_prefix.map_or("", String::as_str), "{address} in {database}");
        compared += 1;
    }
    compared
}

#[test]
fn countries_agree_with_the_reader_of_the_database() {
    let iso = path!["country", "iso_code"];
    for name in [
        "GeoIP2-City-Test",
        "GeoIP2-Country-Test",
        "GeoLite2-City-Test",
        "GeoLite2-Country-Test",
        "GeoIP2-Enterprise-Test",
    ] {
        let database = maxmind(&format!("test-data/{name}.mmdb"));
        assert!(check_country(database.to_str().unwrap(), &iso, 100_000) > 50_000, "{name}");
    }
    // A whole database of today's size, where one was fetched.
    if let Some(database) = std::env::var_os("WEIR_GEOIP_COUNTRY") {
        let compared = check_country(database.to_str().unwrap(), &path!["country_code"], 1_000_000);
        println!("{compared} addresses compared with {}", database.display());
    }
}

#[test]
fn nested_networks_agree_with_a_prefix_trie() {
    let files = Files::new();
    let mut numbers = Random(7);
    let mut rows = String::new();
    let (mut v4, mut v6) = (PrefixMap::<Ipv4Net, String>::new(), PrefixMap::<Ipv6Net, String>::new());
    for position in 0..20_000 {
        let account = format!("acct{}", numbers.next() % 3_000);
        if position % 4 == 3 {
            let length = [32, 40, 44, 48, 52, 53, 56, 64, 120, 128][(numbers.next() % 10) as usize];
            let bits = (0x2a_u128 << 120) | (u128::from(numbers.next()) << 48) | u128::from(numbers.next() >> 32);
            let network = Ipv6Net::new(Ipv6Addr::from(bits), length).unwrap().trunc();
            if v6.get(&network).is_none() {
                rows += &format!("{network},{account},,,\n");
                v6.insert(network, account);
            }
        } else {
            let length = [8, 12, 16, 20, 22, 24, 26, 28, 30, 32][(numbers.next() % 10) as usize];
            let network = Ipv4Net::new(Ipv4Addr::from(numbers.next() as u32), length).unwrap().trunc();
            if v4.get(&network).is_none() {
                rows += &format!("{network},{account},,,\n");
                v4.insert(network, account);
            }
        }
    }
    files.write("accounts.csv", rows);
    let table = files.compile("accounts = \"accounts.csv\"").unwrap();
    let probes = probes(&table, 1_000_000);
    assert!(probes.len() > 1_050_000);
    for address in probes {
        let expected = match canonical(address) {
            IpAddr::V4(address) => v4.get_lpm(&Ipv4Net::from(address)).map(|(_, account)| account),
            IpAddr::V6(address) => v6.get_lpm(&Ipv6Net::from(address)).map(|(_, account)| account),
        };
        assert_eq!(table.of(address).account(), expected.map_or("", |account| account), "{address}");
        let (first, last) = table.range(address);
        let address = canonical(address);
        assert!(first <= address && address <= last, "{first} {address} {last}");
    }
}
