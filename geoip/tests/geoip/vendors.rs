//! Every vendor's shape is read right: MaxMind's own test files, flat maps, field maps, published lists.

use crate::files::{Files, maxmind, record, said};

fn check(database: &str, answers: &[(&str, &str)]) {
    let files = Files::new();
    let path = maxmind(&format!("test-data/{database}.mmdb"));
    let table = files
        .compile(&format!("[[sources]]\nname = \"it\"\nkind = \"mmdb\"\npaths = [{path:?}]"))
        .unwrap_or_else(|error| panic!("{database}: {error}"));
    for (address, expected) in answers {
        assert_eq!(said(&table, address), *expected, "{address} in {database}");
    }
    let facts = &table.sources()[1];
    assert!(facts.build_epoch > 1_300_000_000 && facts.rows > 0 && facts.sha256.len() == 64, "{facts:?}");
}

#[test]
fn city_country_and_enterprise() {
    check("GeoIP2-City-Test", &[("81.2.69.160", "GB/GB-ENG/London"), ("2001:218::1", "JP"), ("8.8.8.8", "")]);
    check(
        "GeoLite2-City-Test",
        &[("89.160.20.112", "SE/SE-E/Linköping"), ("::ffff:89.160.20.112", "SE/SE-E/Linköping")],
    );
    check("GeoIP2-Country-Test", &[("81.2.69.160", "GB"), ("2002:5102:45a0::1", "GB")]);
    check("GeoIP2-Enterprise-Test", &[("74.209.24.0", "US/US-NY/Chatham AS14671 FairPoint Communications")]);
    check("GeoIP2-Precision-Enterprise-Test", &[("74.209.24.0", "US/US-NY/Chatham AS14671 FairPoint Communications")]);
}

#[test]
fn networks() {
    check(
        "GeoLite2-ASN-Test",
        &[("1.128.0.0", "AS1221 Telstra Pty Ltd"), ("2600:6000::1", "AS237 Merit Network Inc.")],
    );
    check("GeoIP2-ISP-Test", &[("1.128.0.0", "AS1221 Telstra Pty Ltd")]);
}

#[test]
fn anonymisers() {
    check(
        "GeoIP2-Anonymous-IP-Test",
        &[
            ("1.2.0.1", "proxy.anonymous,proxy.anonymous.vpn"),
            ("71.160.223.1", "hosting,proxy.anonymous"),
            ("65.0.0.1", "proxy.anonymous,proxy.anonymous.tor"),
        ],
    );
    check("GeoIP-Anonymous-Plus-Test", &[("1.2.0.1", "proxy.anonymous,proxy.anonymous.vpn")]);
}

#[test]
fn a_field_map_reads_any_shape() {
    let files = Files::new();
    let path = maxmind("test-data/GeoIP2-Connection-Type-Test.mmdb");
    let table = files
        .compile(&format!(
            "[[sources]]\nname = \"it\"\nkind = \"mmdb\"\npaths = [{path:?}]\nfields = {{ as_org = \"connection_type\" }}"
        ))
        .unwrap();
    assert_eq!(record(&table, "1.0.1.1").as_org(), "Cellular");
    // A path that leads to something that is no country is a mistake in the map.
    let error = files
        .compile(&format!(
            "[[sources]]\nname = \"it\"\nkind = \"mmdb\"\npaths = [{path:?}]\nfields = {{ country = \"connection_type\" }}"
        ))
        .unwrap_err();
    assert!(error.contains("is no country; is the field's path right?"), "{error}");
}

#[test]
fn ranges_are_read_by_header_or_columns_and_as_numbers() {
    let files = Files::new();
    files.write("header.csv", "start_ip,end_ip,country_code,note\n1.0.0.0,1.0.0.255,au,x\n2a00::,2a00::ff,FR,y\n");
    files.write("numbers.csv", "16777216,16777471,13335,\"Cloudflare, Inc.\"\n");
    let table = files
        .compile(
            "[[sources]]\nname = \"a\"\nkind = \"ranges\"\npaths = [\"header.csv\"]\n\
             [[sources]]\nname = \"b\"\nkind = \"ranges\"\npaths = [\"numbers.csv\"]\n\
             columns = [\"start\", \"end\", \"asn\", \"as_org\"]",
        )
        .unwrap();
    assert_eq!(said(&table, "1.0.0.255"), "AU AS13335 Cloudflare, Inc.");
    assert_eq!(said(&table, "1.0.1.0"), "");
    assert_eq!(said(&table, "2a00::ff"), "FR");
    assert_eq!(record(&table, "1.0.0.1").asn_source().unwrap().name, "b");
}

#[test]
fn published_lists_are_labels() {
    let files = Files::new();
    files.write(
        "aws.json",
        r#"{"syncToken":"1700000000","createDate":"x","prefixes":[{"ip_prefix":"3.5.0.0/16","region":"r","service":"AMAZON","network_border_group":"r"},{"ip_prefix":"3.5.140.0/22","region":"r","service":"EC2","network_border_group":"r"}],"ipv6_prefixes":[{"ipv6_prefix":"2600:1f00::/24","region":"r","service":"S3","network_border_group":"r"}]}"#,
    );
    files.write(
        "gcp.json",
        r#"{"syncToken":"1700000000123","prefixes":[{"ipv4Prefix":"34.1.208.0/20","service":"Google Cloud","scope":"x"},{"ipv6Prefix":"2600:1900:8000::/44","service":"Google Cloud","scope":"x"}]}"#,
    );
    files.write(
        "azure.json",
        r#"{"changeNumber":1,"cloud":"Public","values":[{"name":"AzureStorage.x","id":"x","properties":{"changeNumber":1,"region":"x","systemService":"AzureStorage","addressPrefixes":["13.66.60.119/32","2603:1030::/45"]}}]}"#,
    );
    files.write("cloudflare.txt", "173.245.48.0/20\n2400:cb00::/32");
    files.write("fastly.json", r#"{"addresses":["23.235.32.0/20"],"ipv6_addresses":["2a04:4e40::/32"]}"#);
    files.write(
        "tor.txt",
        "ExitNode 0011\nPublished 2026-01-01 00:00:00\nExitAddress 171.25.193.25 2026-01-01 01:00:00\n",
    );
    files.write("tor2.txt", "# exits\n185.220.101.1\n");
    let mut plan = String::new();
    for (kind, path) in [
        ("aws", "aws.json"),
        ("gcp", "gcp.json"),
        ("azure", "azure.json"),
        ("cloudflare", "cloudflare.txt"),
        ("fastly", "fastly.json"),
        ("tor", "tor.txt\", \"tor2.txt"),
    ] {
        plan += &format!("[[sources]]\nname = \"{kind}\"\nkind = \"{kind}\"\npaths = [\"{path}\"]\n");
    }
    let table = files.compile(&plan).unwrap();
    for (address, expected) in [
        ("3.5.0.1", "cloud.aws,hosting"),
        ("3.5.140.1", "cloud.aws,cloud.aws.ec2,hosting"),
        ("2600:1f00::1", "cloud.aws.s3,hosting"),
        ("34.1.208.1", "cloud.gcp,hosting"),
        ("2600:1900:8000::1", "cloud.gcp,hosting"),
        ("13.66.60.119", "cloud.azure.azurestorage,hosting"),
        ("173.245.48.1", "cdn.cloudflare"),
        ("2400:cb00::1", "cdn.cloudflare"),
        ("23.235.32.1", "cdn.fastly"),
        ("171.25.193.25", "proxy.anonymous.tor"),
        ("185.220.101.1", "proxy.anonymous.tor"),
        ("185.220.101.2", ""),
    ] {
        assert_eq!(said(&table, address), expected, "{address}");
    }
    assert!(record(&table, "3.5.140.1").has_label("cloud.aws"));
    assert!(!record(&table, "3.5.140.1").has_label("cloud.a"));
    let built = |name: &str| table.sources().iter().find(|source| source.name == name).unwrap().build_epoch;
    assert_eq!((built("aws"), built("gcp")), (1_700_000_000, 1_700_000_000));
}
