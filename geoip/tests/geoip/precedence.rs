//! Who is believed: scope, override, account, source by source; longest prefix inside one; dated rows.

use ipnet::IpNet;
use proptest::prelude::*;
use weir_geoip::{Scope, compile};

use crate::files::{Files, chain, record, said, time};

const TWO: &str = "[[sources]]\nname = \"a\"\nkind = \"ranges\"\npaths = [\"a.csv\"]\n\
                   [[sources]]\nname = \"b\"\nkind = \"ranges\"\npaths = [\"b.csv\"]\n";

fn two_vendors() -> Files {
    let files = Files::new();
    // One vendor calls Crimea RU, another UA-43.
    files.write("a.csv", "cidr,country,region,city\n91.207.56.0/22,RU,Crimea,\n5.0.0.0/8,SY,,\n0.0.0.0/0,ZZ,,\n");
    files.write(
        "b.csv",
        "cidr,country,region,city,asn\n91.207.56.0/24,UA,UA-43,Simferopol,50000\n5.5.0.0/16,DE,,Berlin,1\n",
    );
    files
}

#[test]
fn each_field_is_decided_by_its_own_order() {
    let files = two_vendors();
    let table = files.compile(TWO).unwrap();
    assert_eq!(said(&table, "91.207.56.1"), "RU/Crimea/Simferopol AS50000");
    // A shorter prefix of the first source wins over a longer one of the second.
    assert_eq!(said(&table, "5.5.0.1"), "SY//Berlin AS1");
    let of = record(&table, "91.207.56.1");
    assert_eq!((of.region_source().unwrap().name.as_str(), of.city_source().unwrap().name.as_str()), ("a", "b"));

    let table = files.compile(&format!("{TWO}[precedence]\ncountry = [\"b\", \"a\"]\nregion = [\"b\"]")).unwrap();
    assert_eq!(said(&table, "91.207.56.1"), "UA/UA-43/Simferopol AS50000");
    assert_eq!(said(&table, "91.207.57.1"), "RU", "region asks b only");
    assert_eq!(said(&table, "5.5.0.1"), "DE//Berlin AS1");

    let error = files.compile(&format!("{TWO}[precedence]\ncity = [\"c\"]")).unwrap_err();
    assert_eq!(error, "precedence.city: no source is named \"c\"");
}

#[test]
fn special_addresses_have_no_country_whoever_says_so() {
    let files = Files::new();
    files.write("a.csv", "cidr,country,asn\n0.0.0.0/0,US,1\n::/0,US,1\n");
    files.write("accounts.csv", "cidr,account_id,valid_from,valid_to,ref\n10.0.0.0/8,acme,,,own network\n");
    files.write("labels.csv", "10.1.0.0/16,site.par1\n");
    let plan = "accounts = \"accounts.csv\"\nlabels = [\"labels.csv\"]\n\
                [[sources]]\nname = \"a\"\nkind = \"ranges\"\npaths = [\"a.csv\"]";
    let table = files.compile(plan).unwrap();
    for (address, scope, expected) in [
        ("10.1.2.3", Scope::Private, "acme bogon,site.par1"),
        ("100.64.0.1", Scope::Cgnat, "bogon"),
        ("127.0.0.1", Scope::Loopback, "bogon"),
        ("203.0.113.9", Scope::Documentation, "bogon"),
        ("::1", Scope::Loopback, "bogon"),
        ("fe80::1", Scope::LinkLocal, "bogon"),
        ("64:ff9b::808:808", Scope::Global, "US AS1"),
        ("2001:0:4136:e378:8000:63bf:f7f7:f7f7", Scope::Global, "US AS1"),
        ("2002:a01:203::1", Scope::Private, "acme bogon,site.par1"),
    ] {
        assert_eq!(record(&table, address).scope(), scope, "{address}");
        assert_eq!(said(&table, address), expected, "{address}");
    }
    assert_eq!(record(&table, "10.1.2.3").account_reference(), "own network");
    assert_eq!(record(&table, "10.1.2.3").account_source().unwrap().name, "accounts");
    files.write("overrides.csv", "cidr,field,value\n8.8.8.0/24,country,CH\n10.0.0.0/8,country,FR\n");
    let error = files.compile("overrides = \"overrides.csv\"").unwrap_err();
    assert!(error.ends_with("overrides.csv:3: 10.0.0.0/8 is private: it has no country"), "{error}");
}

#[test]
fn an_override_decides_field_by_field() {
    let files = two_vendors();
    files.write("labels.csv", "cidr,label,expires,source\n5.5.0.0/16,hosting,,lists\nasn:1,vpn,,team\n");
    files.write(
        "overrides.csv",
        "cidr,field,value\n5.0.0.0/8,city,Damascus\n5.5.0.0/16,country,NL\n5.5.0.0/24,label,-hosting\n5.5.0.0/24,label,own\n",
    );
    let plan = format!("overrides = \"overrides.csv\"\nlabels = [\"labels.csv\"]\n{TWO}");
    let table = files.compile(&plan).unwrap();
    assert_eq!(said(&table, "5.5.1.1"), "NL//Damascus AS1 hosting,vpn");
    assert_eq!(said(&table, "5.5.0.1"), "NL//Damascus AS1 own,vpn");
    let sources: Vec<_> =
        record(&table, "5.5.0.1").label_sources().map(|(label, source)| format!("{label} {}", source.name)).collect();
    assert_eq!(sources, ["own overrides", "vpn team"]);
    files.write("overrides.csv", "5.5.0.0/16,country,NL\n5.5.0.0/16,country,BE\n");
    let error = files.compile(&plan).unwrap_err();
    assert!(error.ends_with(":2: line 1 says another country for 5.5.0.0/16"), "{error}");
}

#[test]
fn rows_hold_from_their_begin_until_before_their_end() {
    let files = Files::new();
    files.write(
        "accounts.csv",
        "cidr,account_id,valid_from,valid_to,ref\n\
         198.0.0.0/16,old,,2025-07-01,\n198.0.0.0/16,new,2025-07-01,,\n198.0.1.0/24,inner,2025-01-01T12:00:00+02:00,,\n",
    );
    files.write("labels.csv", "198.0.0.0/16,hosting,2025-07-01,x\n");
    let plan = files.plan("accounts = \"accounts.csv\"\nlabels = [\"labels.csv\"]");
    let end = 1_751_328_000;
    for (at, outer, inner, changes_at) in [
        (0, "old hosting", "old hosting", Some(1_735_725_600)),
        (1_735_725_599, "old hosting", "old hosting", Some(1_735_725_600)),
        (1_735_725_600, "old hosting", "inner hosting", Some(end)),
        (end - 1, "old hosting", "inner hosting", Some(end)),
        (end, "new", "inner", None),
    ] {
        let table = compile(&plan, time(at)).unwrap();
        assert_eq!(said(&table, "198.0.0.1"), outer, "{at}");
        assert_eq!(said(&table, "198.0.1.1"), inner, "{at}");
        assert_eq!(table.facts().changes_at, changes_at, "{at}");
    }
}

#[test]
fn mistakes_are_named_with_file_and_line() {
    let check = |name: &str, content: &str, plan: &str, expected: &str| {
        let files = Files::new();
        files.write(name, content);
        let error = files.compile(plan).unwrap_err();
        assert!(error.contains(expected), "{error}\nis not {expected}");
    };
    let accounts = |content: &str, expected: &str| check("a.csv", content, "accounts = \"a.csv\"", expected);
    accounts("10.0.0.0/8,x\n10.0.0.0/8,y\n", "lines 1 and 2 give 10.0.0.0/8 to different accounts at the same time");
    accounts("10.0.0.0/8,x,,2025-01-02,\n10.0.0.0/8,y,2025-01-01,,\n", "lines 1 and 2 give 10.0.0.0/8");
    accounts("10.0.0.0/8,x,,2025-01-01,\n::ffff:10.0.0.0/104,y,2024-01-01,,\n", "lines 1 and 2 give 10.0.0.0/8");
    accounts("# a\n\n10.0.0.1/8,x\n", ":3: 10.0.0.1/8 has bits set after its prefix; did you mean 10.0.0.0/8?");
    accounts("10.0.0.0/8,\n", ":1: the account is missing");
    accounts("10.0.0.0/8,x,2025-13-01,,\n", ":1: \"2025-13-01\" is no time");
    accounts("10.0.0.0/8,x,2025-02-01,2025-02-01,\n", ":1: valid_to 2025-02-01 is not after valid_from 2025-02-01");
    accounts("2002:a00::/24,x\n", "carries IPv4 addresses, which are looked up as such: write the IPv4 network");
    accounts("10.0.0.0/8,acct_42", "the last line does not end: the file is cut short");
    check("l.csv", "asn:x,hosting\n", "labels = [\"l.csv\"]", ":1: \"asn:x\" is no autonomous system");
    check("l.csv", "1.0.0.0/8,Hosting!\n", "labels = [\"l.csv\"]", ":1: \"Hosting!\" is no label");
    check("o.csv", "1.0.0.0/8,land,FR\n", "overrides = \"o.csv\"", ":1: \"land\" is no field");
    check("o.csv", "1.0.0.0/8,country,France\n", "overrides = \"o.csv\"", ":1: \"France\" is no country");
    let ranges = "[[sources]]\nname = \"a\"\nkind = \"ranges\"\npaths = [\"a.csv\"]";
    check("a.csv", "start,end,country\n1.0.0.9,1.0.0.0,FR\n", ranges, ":2: 1.0.0.9 to 1.0.0.0 is no range");
    check("a.csv", "1.0.0.0,1.0.0.9,FR\n", ranges, ":1: name the columns in the plan");
}

#[derive(Clone, Debug)]
struct Row {
    network: IpNet,
    account: u8,
    from: Option<i64>,
    to: Option<i64>,
}

fn rows() -> impl Strategy<Value = Vec<Row>> {
    // Few bits vary, so that networks nest and repeat.
    let network = (any::<u8>(), 8_u8..=32, any::<bool>()).prop_map(|(bits, length, v6)| {
        if v6 {
            let address = (0x2a00_u128 << 112) | (u128::from(bits) << 60);
            IpNet::new(std::net::Ipv6Addr::from(address).into(), 40 + length).unwrap().trunc()
        } else {
            let address = (0x0b00_u32 << 16) | (u32::from(bits & 0xf0) << 12) | u32::from(bits & 0x0f);
            IpNet::new(std::net::Ipv4Addr::from(address).into(), length).unwrap().trunc()
        }
    });
    let day = prop::option::of(0_i64..6);
    let row = (network, 0_u8..3, day.clone(), day).prop_map(|(network, account, from, to)| {
        let (from, to) = match (from, to) {
            (Some(from), Some(to)) if from >= to => (Some(to), Some(from + 1)),
            other => other,
        };
        Row { network, account, from, to }
    });
    prop::collection::vec(row, 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Whatever networks overlap in space and time: the table says what a search through the rows says, or two rows
    /// contradict one another and both are named.
    #[test]
    fn accounts_agree_with_a_search_through_the_rows(rows in rows(), day in 0_i64..7) {
        let files = Files::new();
        let date = |day: Option<i64>| day.map_or_else(String::new, |day| format!("1970-01-{:02}", day + 1));
        let text: String =
            rows.iter().map(|row| format!("{},acct{},{},{},\n", row.network, row.account, date(row.from), date(row.to))).collect();
        files.write("accounts.csv", text);
        let meets = |a: &Row, b: &Row| {
            a.from.is_none_or(|from| b.to.is_none_or(|to| from < to)) && b.from.is_none_or(|from| a.to.is_none_or(|to| from < to))
        };
        let contradiction = rows.iter().enumerate().any(|(position, a)| {
            rows[..position].iter().any(|b| a.network == b.network && a.account != b.account && meets(a, b))
        });
        let table = compile(&files.plan("accounts = \"accounts.csv\""), time(day * 86_400));
        prop_assert_eq!(contradiction, table.is_err(), "{:?}", table.map_err(|error| chain(&error)).err());
        if contradiction {
            return Ok(());
        }
        let table = files.compile_at("accounts = \"accounts.csv\"", day * 86_400);
        let edges = rows.iter().flat_map(|row| [row.network.network(), row.network.broadcast()]);
        for edge in edges.flat_map(around) {
            let holds = |row: &&Row| row.network.contains(&edge) && row.from.is_none_or(|from| from <= day) && row.to.is_none_or(|to| day < to);
            let longest = rows.iter().filter(holds).max_by_key(|row| row.network.prefix_len());
            let expected = longest.map_or_else(String::new, |row| format!("acct{}", row.account));
            prop_assert_eq!(table.of(edge).account(), expected, "{} on day {}", edge, day);
        }
    }
}

fn around(address: std::net::IpAddr) -> [std::net::IpAddr; 3] {
    match address {
        std::net::IpAddr::V4(v4) => {
            let bits = u32::from(v4);
            [bits.wrapping_sub(1), bits, bits.wrapping_add(1)].map(|bits| std::net::Ipv4Addr::from(bits).into())
        }
        std::net::IpAddr::V6(v6) => {
            let bits = u128::from(v6);
            [bits.wrapping_sub(1), bits, bits.wrapping_add(1)].map(|bits| std::net::Ipv6Addr::from(bits).into())
        }
    }
}

#[test]
fn an_unchanged_plan_makes_the_same_table() {
    let files = two_vendors();
    let (one, two) = (files.compile(TWO).unwrap(), files.compile(TWO).unwrap());
    assert_eq!(one.id(), two.id());
    files.write("b.csv", "cidr,country\n1.0.0.0/8,FR\n");
    assert_ne!(files.compile(TWO).unwrap().id(), one.id());
}
