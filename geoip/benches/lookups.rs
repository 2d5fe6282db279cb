//! What a look-up costs, in one run beside what else could be asked: `maxminddb` decoding each time, `prefix-trie`, and a
//! dashmap and a quick_cache in front of `maxminddb`.
//!
//! ```sh
//! geoip/fetch /tmp/geoip
//! cargo bench -p weir-geoip -- /tmp/geoip
//! ```
//!
//! The table holds more than the rivals: country, autonomous system with its name, labels and 100,000 nested networks of
//! 20,000 accounts. Figures are nanoseconds of one thread's CPU time, the best of several rounds: `rate` with look-ups
//! that do not wait for one another, `wait` where each begins when the one before has its answer. The Zipf stream is
//! never the same twice, so that a cache has to earn its hits.

// A benchmark fails loudly.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use maxminddb::{Reader, path};
use prefix_trie::PrefixMap;
use weir_geoip::{Plan, Table, compile};

const QUERIES: usize = 1 << 17;
const ROUNDS: usize = 12;
const ACCOUNT_NETWORKS: usize = 100_000;
const CACHE_ENTRIES: usize = 1 << 16;

fn main() {
    let Some(data) = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).map(PathBuf::from) else {
        println!("say where the databases are: geoip/fetch DIR, then cargo bench -p weir-geoip -- DIR");
        return;
    };
    let files = tempfile::tempdir().unwrap();
    let plan = plan(&data, files.path());
    let before = resident_bytes();
    let (table, built) = timed(|| compile(&plan, SystemTime::now()).unwrap());
    let [v4, v6, records] = table.bytes();
    println!(
        "build {:.2} s CPU; {:.1} MiB: IPv4 {:.1}, IPv6 {:.1}, records with their words {:.1}; {} records; {:.0} MiB more resident",
        built.as_secs_f64(),
        mebibytes(v4 + v6 + records),
        mebibytes(v4),
        mebibytes(v6),
        mebibytes(records),
        table.records(),
        mebibytes(resident_bytes().saturating_sub(before)),
    );

    let database = data.join("geo-whois-asn-country.mmdb");
    let reader = Reader::open_readfile(&database).unwrap();
    let tries = tries(&reader);
    let mut random = Random(42);
    let uniform4: Vec<IpAddr> = (0..QUERIES).map(|_| Ipv4Addr::from(random.next() as u32).into()).collect();
    let starts6: Vec<u128> = table.ranges6().map(|(start, _)| start).filter(|start| start >> 125 == 1).collect();
    let uniform6: Vec<IpAddr> = (0..QUERIES)
        .map(|_| {
            let start = starts6[(random.next() % starts6.len() as u64) as usize];
            Ipv6Addr::from(start | u128::from(random.next())).into()
        })
        .collect();

    println!(
        "\n{:<36} {:>14} {:>14} {:>12}",
        "ns a look-up (rate / wait)", "IPv4 uniform", "IPv6 uniform", "Zipf stream"
    );
    let row = |name: &str, look_up: &mut dyn FnMut(IpAddr) -> u32| {
        let (v4, v6) = (measure(&uniform4, look_up), measure(&uniform6, look_up));
        let zipf = stream(&table, look_up);
        println!("{name:<36} {:>6.1} /{:>6.1} {:>6.1} /{:>6.1} {zipf:>12.1}", v4.0, v4.1, v6.0, v6.1);
    };
    row("weir-geoip: id", &mut |address| table.lookup(address).number());
    row("weir-geoip: id, country and asn", &mut |address| {
        let record = table.of(address);
        record.asn() + record.country().len() as u32
    });
    let decode = |address: IpAddr| {
        let found = reader.lookup(address).unwrap();
        let country: Option<&str> = found.decode_path(&path!["country_code"]).unwrap();
        country.map_or(0, |country| u32::from(country.as_bytes()[0]))
    };
    row("maxminddb: country, decoded", &mut |address| decode(address));
    row("prefix-trie: country", &mut |address| match address {
        IpAddr::V4(v4) => tries.0.get_lpm(&Ipv4Net::from(v4)).map_or(0, |(_, country)| *country),
        IpAddr::V6(v6) => tries.1.get_lpm(&Ipv6Net::from(v6)).map_or(0, |(_, country)| *country),
    });
    let unbounded = dashmap::DashMap::new();
    row("dashmap before maxminddb, unbounded", &mut |address| {
        if let Some(country) = unbounded.get(&address) {
            return *country;
        }
        let country = decode(address);
        unbounded.insert(address, country);
        country
    });
    let cache = quick_cache::sync::Cache::new(CACHE_ENTRIES);
    row("quick_cache 64 Ki before maxminddb", &mut |address| {
        cache.get(&address).unwrap_or_else(|| {
            let country = decode(address);
            cache.insert(address, country);
            country
        })
    });
}

fn plan(data: &Path, files: &Path) -> Plan {
    let mut random = Random(7);
    let mut rows = String::new();
    let mut seen = std::collections::HashSet::new();
    while seen.len() < ACCOUNT_NETWORKS {
        let network: IpNet = if seen.len() % 4 == 3 {
            let length = [32, 40, 44, 48, 56, 64][(random.next() % 6) as usize];
            let bits = (0x2_u128 << 124) | (((u128::from(random.next()) << 64) | u128::from(random.next())) >> 4);
            IpNet::new(Ipv6Addr::from(bits).into(), length).unwrap().trunc()
        } else {
            let length = [16, 20, 22, 24, 26, 28, 29, 30, 32][(random.next() % 9) as usize];
            IpNet::new(Ipv4Addr::from(random.next() as u32).into(), length).unwrap().trunc()
        };
        let carries = matches!(network, IpNet::V6(v6) if weir_geoip::embedded(v6.network()).is_some());
        if !carries && seen.insert(network) {
            rows += &format!("{network},acct_{},,,\n", random.next() % 20_000);
        }
    }
    std::fs::write(files.join("accounts.csv"), rows).unwrap();
    std::fs::write(files.join("labels.csv"), "asn:16509,hosting,,x\nasn:13335,cdn,,x\n5.0.0.0/8,anycast,,x\n").unwrap();
    let text = std::fs::read_to_string(data.join("geoip.toml")).unwrap();
    let mut plan: Plan = toml::from_str(&text).unwrap();
    plan.resolve_paths(data);
    plan.accounts = Some(files.join("accounts.csv"));
    plan.labels = vec![files.join("labels.csv")];
    plan
}

/// The database's networks, for a structure of another hand.
fn tries(reader: &Reader<Vec<u8>>) -> (PrefixMap<Ipv4Net, u32>, PrefixMap<Ipv6Net, u32>) {
    let (mut v4, mut v6) = (PrefixMap::new(), PrefixMap::new());
    for found in reader.networks(maxminddb::WithinOptions::default()).unwrap() {
        let found = found.unwrap();
        let network = found.network().unwrap();
        let country =
            found.decode_path::<&str>(&path!["country_code"]).unwrap().map_or(0, |c| u32::from(c.as_bytes()[0]));
        match network.ip() {
            IpAddr::V4(address) => drop(v4.insert(Ipv4Net::new(address, network.prefix()).unwrap(), country)),
            IpAddr::V6(address) => drop(v6.insert(Ipv6Net::new(address, network.prefix()).unwrap(), country)),
        }
    }
    (v4, v6)
}

/// Best of several rounds: nanoseconds a look-up, alone and one after the other.
fn measure(queries: &[IpAddr], look_up: &mut dyn FnMut(IpAddr) -> u32) -> (f64, f64) {
    let zero = black_box(0_usize);
    let (mut rate, mut wait) = (f64::MAX, f64::MAX);
    for _ in 0..ROUNDS {
        let (_, took) = timed(|| black_box(queries.iter().fold(0_u32, |sum, query| sum.wrapping_add(look_up(*query)))));
        rate = rate.min(took.as_nanos() as f64 / queries.len() as f64);
        let (_, took) = timed(|| {
            let mut last = 0;
            for position in 0..queries.len() {
                last = look_up(queries[position + (last as usize & zero)]);
            }
            black_box(last)
        });
        wait = wait.min(took.as_nanos() as f64 / queries.len() as f64);
    }
    (rate, wait)
}

/// Zipf (exponent 1) over a million sources, three quarters IPv4, never replayed; the first third warms up.
fn stream(table: &Table, look_up: &mut dyn FnMut(IpAddr) -> u32) -> f64 {
    const SOURCES: usize = 1_000_000;
    let mut random = Random(3);
    let v4: Vec<u32> = table.ranges4().map(|(start, _)| start).collect();
    let v6: Vec<u128> = table.ranges6().map(|(start, _)| start).filter(|start| start >> 125 == 1).collect();
    let sources: Vec<IpAddr> = (0..SOURCES)
        .map(|position| match position % 4 {
            3 => Ipv6Addr::from(v6[(random.next() % v6.len() as u64) as usize] | u128::from(random.next())).into(),
            _ => Ipv4Addr::from(v4[(random.next() % v4.len() as u64) as usize]).into(),
        })
        .collect();
    let mut sum = 0.0;
    let sums: Vec<f64> = (1..=SOURCES)
        .map(|rank| {
            sum += 1.0 / rank as f64;
            sum
        })
        .collect();
    let queries: Vec<IpAddr> = (0..1_500_000)
        .map(|_| {
            let drawn = (random.next() >> 11) as f64 / (1_u64 << 53) as f64 * sum;
            sources[sums.partition_point(|sum| *sum < drawn).min(SOURCES - 1)]
        })
        .collect();
    let (warm_up, measured) = queries.split_at(queries.len() / 3);
    black_box(warm_up.iter().fold(0_u32, |sum, query| sum.wrapping_add(look_up(*query))));
    let (_, took) = timed(|| black_box(measured.iter().fold(0_u32, |sum, query| sum.wrapping_add(look_up(*query)))));
    took.as_nanos() as f64 / measured.len() as f64
}

/// CPU time of this thread.
fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let now = || {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    };
    let begun = now();
    let done = work();
    (done, now() - begun)
}

fn resident_bytes() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4_096
}

fn mebibytes(bytes: usize) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}
