//! Files that are damaged or made to do harm end in an error or in a table, soon and in bounded memory; never in a panic.

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use weir_geoip::{Plan, Table, compile};

use crate::files::{Files, Random, chain, maxmind, time};

/// No file may keep a compilation longer than its budget of a second; how slow a machine may be on top.
const HANG: Duration = Duration::from_secs(120);

fn all_files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "mmdb") {
            found.push(path);
        }
    }
}

/// Compiles with every field and label there could be, on a thread that must come back.
fn within_budget(path: &Path) -> Result<Table, String> {
    let plan = format!(
        "[budget]\ncompile_ms_max = 1000\nmemory_bytes_max = 67108864\n\
         [[sources]]\nname = \"typed\"\nkind = \"mmdb\"\npaths = [{path:?}]\n\
         [[sources]]\nname = \"mapped\"\nkind = \"mmdb\"\npaths = [{path:?}]\n\
         fields = {{ country = \"country.iso_code\", region = \"utf8_string\", city = \"ip\", asn = \"uint32\", as_org = \"map.mapX.arrayX.0\" }}\n\
         labels = {{ boolean = \"yes\" }}\n"
    );
    let plan: Plan = toml::from_str(&plan).unwrap();
    let (done, wait) = mpsc::channel();
    std::thread::spawn(move || {
        let compiled = compile(&plan, time(0)).map_err(|error| chain(&error));
        // Nobody listens any more once the time is over.
        drop(done.send(compiled));
    });
    wait.recv_timeout(HANG).unwrap_or_else(|_| panic!("{}: no end", path.display()))
}

#[test]
fn all_73_official_files_end_in_a_table_or_an_error() {
    let mut paths = Vec::new();
    all_files(&maxmind("."), &mut paths);
    assert_eq!(paths.len(), 73);
    paths.sort();
    let mut refused = Vec::new();
    for path in &paths {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        match within_budget(path) {
            Ok(table) => {
                assert!(table.bytes().iter().sum::<usize>() < 32 << 20, "{name}");
                assert_eq!(table.of("10.0.0.1".parse().unwrap()).country(), "", "{name}");
            }
            Err(error) => refused.push(format!("{name}: {error}")),
        }
    }
    // Good files are good; of the bad ones those that are certainly bad are refused.
    for good in [
        "GeoIP2-City-Test:",
        "GeoLite2-ASN-Test:",
        "MaxMind-DB-test-ipv6-24:",
        "MaxMind-DB-test-mixed-32:",
        "MaxMind-DB-no-ipv4-search-tree:",
    ] {
        assert!(!refused.iter().any(|error| error.starts_with(good)), "{refused:#?}");
    }
    for bad in [
        "GeoIP2-City-Test-Invalid-Node-Count",
        "libmaxminddb-metadata-marker-only",
        "libmaxminddb-offset-integer-overflow",
        "metadata-is-an-uint128",
        "unexpected-bytes",
        "MaxMind-DB-test-broken-search-tree-24",
    ] {
        assert!(refused.iter().any(|error| error.starts_with(bad)), "{bad} is in use; refused: {refused:#?}");
    }
}

#[test]
fn flipped_and_cut_databases_never_panic() {
    let files = Files::new();
    let mut random = Random(4);
    for name in ["GeoIP2-City-Test", "MaxMind-DB-test-mixed-24", "GeoIP2-Anonymous-IP-Test"] {
        let good = std::fs::read(maxmind(&format!("test-data/{name}.mmdb"))).unwrap();
        for _ in 0..150 {
            let mut bytes = good.clone();
            for _ in 0..=random.next() % 4 {
                let at = (random.next() % bytes.len() as u64) as usize;
                bytes[at] = random.next() as u8;
            }
            if random.next().is_multiple_of(5) {
                bytes.truncate((random.next() % bytes.len() as u64) as usize);
            }
            let path = files.write("it.mmdb", &bytes);
            if let Ok(table) = within_budget(&path) {
                assert_eq!(table.of("127.0.0.1".parse().unwrap()).country(), "");
            }
        }
        for cut in 1..200 {
            let path = files.write("it.mmdb", &good[..good.len() - cut]);
            assert!(within_budget(&path).is_err(), "{name} short of {cut} octets is in use");
        }
    }
}

#[test]
fn the_memory_budget_ends_a_compilation() {
    let files = Files::new();
    let rows: String =
        (0..60_000_u32).map(|n| format!("{}/32,a{n},,,\n", std::net::Ipv4Addr::from(n << 8 | 1 << 24))).collect();
    files.write("accounts.csv", rows);
    let error = files.compile("accounts = \"accounts.csv\"\n[budget]\nmemory_bytes_max = 1000000").unwrap_err();
    assert!(error.contains("memory_bytes_max = 1000000"), "{error}");
    let error = files.compile("accounts = \"accounts.csv\"\n[budget]\ncompile_ms_max = 0").unwrap_err();
    assert!(error.contains("compile_ms_max = 0"), "{error}");
}

#[test]
fn the_time_budget_ends_the_reading_of_one_file() {
    let files = Files::new();
    // The clock is looked at long before the last line, which would be an error of its own.
    let rows = |row: &str| row.repeat(20_000) + "nonsense\n";
    files.write("a.csv", rows("1.2.3.0/24,acme\n"));
    files.write("l.csv", rows("1.2.3.0/24,vpn,,x\n"));
    files.write("r.csv", rows("1.2.3.0,1.2.3.255,DE\n"));
    let ranges = "[[sources]]\nname = \"it\"\nkind = \"ranges\"\npaths = [\"r.csv\"]\ncolumns = [\"start\", \"end\", \"country\"]\n";
    for plan in ["accounts = \"a.csv\"\n", "labels = [\"l.csv\"]\n", ranges] {
        let error = files.compile(&format!("{plan}[budget]\ncompile_ms_max = 0\n")).unwrap_err();
        assert!(error.contains("compile_ms_max = 0"), "{error}");
        let error = files.compile(plan).unwrap_err();
        assert!(error.contains("nonsense") || error.contains(":20001"), "{error}");
    }
}
