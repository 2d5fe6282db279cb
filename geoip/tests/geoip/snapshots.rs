//! A snapshot says what the table said, to whoever has the key, and nothing at all once a bit of it is changed.

use sha2::{Digest, Sha256};
use weir_geoip::{Addresses, compile, difference, kept, snapshot};

use crate::files::{AT, Files, chain, maxmind, said, time};

fn files() -> (Files, String) {
    let files = Files::new();
    files.write(
        "accounts.csv",
        "81.2.69.0/24,acme,,,contract-7\n2a00:1::/64,beta,,,\n2a00:1:0:0:8000::/65,gamma,,,\n10.0.0.0/8,own,,,\n",
    );
    files.write("labels.csv", "81.2.0.0/16,hosting,,x\nasn:1221,carrier,,y\n");
    let (city, asn) = (maxmind("test-data/GeoIP2-City-Test.mmdb"), maxmind("test-data/GeoLite2-ASN-Test.mmdb"));
    let plan = format!(
        "accounts = \"accounts.csv\"\nlabels = [\"labels.csv\"]\n\
         [[sources]]\nname = \"city\"\nkind = \"mmdb\"\npaths = [{city:?}]\nlicence = \"MIT\"\n\
         [[sources]]\nname = \"asn\"\nkind = \"mmdb\"\npaths = [{asn:?}]\n"
    );
    (files, plan)
}

const KEY: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60\n";
/// RFC 8032's first test.
const PUBLIC: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
const OTHER: &str = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c";

#[test]
fn a_snapshot_answers_like_the_table() {
    let (files, plan) = files();
    let table = files.compile(&plan).unwrap();
    let path = files.path("it.weirgeo");
    snapshot::write(&table, &path, None).unwrap();
    let loaded = snapshot::read(&path, None).unwrap();
    assert_eq!(loaded.facts(), table.facts());
    assert!(table.ranges4().eq(loaded.ranges4()) && table.ranges6().eq(loaded.ranges6()));
    for address in ["81.2.69.160", "1.128.0.0", "2a00:1::1", "2a00:1::8000:0:0:1", "10.0.0.1", "::1", "8.8.8.8"] {
        assert_eq!(said(&loaded, address), said(&table, address), "{address}");
    }
    assert_eq!(said(&loaded, "81.2.69.160"), "GB/GB-ENG/London acme hosting");
    assert_eq!(said(&loaded, "2a00:1::8000:0:0:1"), "AS3209 Vodafone GmbH gamma");
    assert_eq!(difference(&table, &loaded, |_| 0, |_| panic!("nothing changed")).any, Addresses::default());
    // A plan can name it in place of sources.
    let by_plan = files.compile("snapshot = { path = \"it.weirgeo\" }").unwrap();
    assert_eq!(by_plan.id(), table.id());
    let error = files.compile("snapshot = { path = \"it.weirgeo\" }\naccounts = \"accounts.csv\"").unwrap_err();
    assert_eq!(error, "a plan has a snapshot or sources, not both");
}

#[test]
fn only_the_right_signature_counts() {
    let (files, plan) = files();
    let table = files.compile(&plan).unwrap();
    let key = snapshot::SigningKey::read(&files.write("key", KEY)).unwrap();
    assert_eq!(key.public(), PUBLIC);
    let path = files.path("it.weirgeo");
    let (public, other) = (files.write("key.pub", PUBLIC), files.write("other.pub", OTHER));
    let read = |public: Option<&std::path::Path>| snapshot::read(&path, public).map_err(|error| chain(&error));
    snapshot::write(&table, &path, None).unwrap();
    assert!(read(Some(&public)).unwrap_err().ends_with("it is not signed"));
    snapshot::write(&table, &path, Some(&key)).unwrap();
    assert_eq!(read(Some(&public)).unwrap().id(), table.id());
    assert_eq!(read(None).unwrap().id(), table.id());
    assert!(read(Some(&other)).unwrap_err().ends_with("its signature is not of the key given"));
    assert!(read(Some(&files.write("no.pub", "12"))).unwrap_err().contains("does not hold a key"));
}

#[test]
fn no_changed_bit_and_no_shorter_file_is_taken() {
    let (files, plan) = files();
    let key = snapshot::SigningKey::read(&files.write("key", KEY)).unwrap();
    let table = files.compile(&plan).unwrap();
    for key in [None, Some(&key)] {
        let good = snapshot::encode(&table, key).unwrap();
        assert!(snapshot::decode(&good, None).is_ok());
        let signature_at = good.len() - key.map_or(0, |_| 64);
        for position in (0..signature_at).step_by(61) {
            let mut bytes = good.clone();
            bytes[position] ^= 1 << (position % 8);
            assert!(snapshot::decode(&bytes, None).is_err(), "changed at {position}");
        }
        for len in (0..signature_at).step_by(997).chain([signature_at - 1]) {
            assert!(snapshot::decode(&good[..len], None).is_err(), "cut at {len}");
        }
    }
}

#[test]
fn a_difference_counts_addresses_and_names_accounts() {
    let files = Files::new();
    let plan = "accounts = \"accounts.csv\"\n[[sources]]\nname = \"a\"\nkind = \"ranges\"\npaths = [\"a.csv\"]";
    files.write("a.csv", "cidr,country\n1.0.0.0/8,US\n2a00::/32,FR\n");
    files.write("accounts.csv", "1.0.0.0/24,acme\n1.0.1.0/24,beta\n");
    let old = files.compile(plan).unwrap();
    files.write("a.csv", "cidr,country\n1.0.0.0/8,US\n1.0.0.0/25,CA\n2a00::/33,FR\n");
    files.write("accounts.csv", "1.0.0.0/24,acme\n1.0.1.0/24,gamma\n");
    let new = files.compile(plan).unwrap();
    let mut ranges = Vec::new();
    let difference = difference(
        &old,
        &new,
        |record| u32::from(record.country() == "CA"),
        |change| {
            ranges.push(format!("{}-{}", change.first, change.last));
        },
    );
    let v4 = |v4| Addresses { v4, v6: 0 };
    assert_eq!(difference.country, Addresses { v4: 128, v6: 1 << 31 });
    assert_eq!((difference.account, difference.verdict, difference.asn), (v4(256), v4(128), v4(0)));
    assert_eq!(difference.accounts["acme"], v4(128));
    assert_eq!((difference.accounts["beta"], difference.accounts["gamma"]), (v4(256), v4(256)));
    assert_eq!(difference.countries["US → CA"], v4(128));
    assert_eq!(ranges[..2], ["1.0.0.0-1.0.0.127", "1.0.1.0-1.0.1.255"]);
}

#[test]
fn the_past_is_answered_from_what_may_be_kept() {
    let files = Files::new();
    let keep = files.path("kept");
    let source = |days: &str| format!("[[sources]]\nname = \"a\"\nkind = \"ranges\"\npaths = [\"a.csv\"]\n{days}");
    let day = 86_400;
    for (position, country) in ["AA", "BB"].into_iter().enumerate() {
        files.write("a.csv", format!("cidr,country\n1.0.0.0/8,{country}\n"));
        let table = compile(&files.plan(&source("")), time(AT + position as i64 * day)).unwrap();
        assert!(kept::keep(&table, &keep).unwrap().is_some());
    }
    let country = |at: i64| kept::as_of(&keep, time(at)).unwrap().map(|table| said(&table, "1.2.3.4"));
    assert_eq!(country(AT - 1), None);
    assert_eq!(country(AT).as_deref(), Some("AA"));
    assert_eq!(country(AT + day).as_deref(), Some("BB"));

    let table = compile(&files.plan(&source("keep_days_max = 0")), time(AT + 2 * day)).unwrap();
    assert_eq!(kept::keep(&table, &keep).unwrap(), None, "its licence forbids it");
    let table = compile(&files.plan(&source("keep_days_max = 30")), time(AT + 3 * day)).unwrap();
    assert!(kept::keep(&table, &keep).unwrap().is_some());
    kept::prune(&keep, time(AT + 33 * day - 1)).unwrap();
    assert_eq!(kept::list(&keep).unwrap().len(), 3);
    kept::prune(&keep, time(AT + 33 * day)).unwrap();
    assert_eq!(kept::list(&keep).unwrap().len(), 2);
}

/// `weir geoip build --plan PLAN --to FILE`, then `head -c -32 FILE`: the fuzz target makes the digest itself.
#[test]
fn the_seeds_of_the_fuzz_target_are_snapshots_of_today() {
    let seeds = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/geoip_snapshot");
    let records = ["empty", "places", "all"].map(|name| {
        let mut file = std::fs::read(seeds.join(name)).unwrap();
        file.extend_from_slice(&Sha256::digest(&file));
        snapshot::decode(&file, None).unwrap_or_else(|error| panic!("{name}: {error}")).records()
    });
    assert_eq!(records, [9, 12, 19]);
}
