//! What a database of the full city schema costs: time and peak memory of a build, size of the table, a look-up.
//!
//! ```sh
//! cargo bench -p weir-geoip --bench city
//! ```
//!
//! The database is made here, of about the size that vendors sell: some three million IPv4 networks and one million of IPv6 in
//! 200,000 places, each with country, subdivision, city, names and coordinates. Another one can be given by its path.

// A benchmark fails loudly.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use weir_geoip::plan::{Budget, Source};
use weir_geoip::{Plan, compile};

const PLACES: u32 = 200_000;
const LOOK_UPS: u32 = 1 << 20;

fn main() {
    let given = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).map(PathBuf::from);
    let files = tempfile::tempdir().unwrap();
    let database = given.unwrap_or_else(|| {
        let path = files.path().join("city.mmdb");
        std::fs::write(&path, database()).unwrap();
        path
    });
    println!("{} MB on the disk", std::fs::metadata(&database).unwrap().len() / 1_000_000);
    // On a busy machine it may take its time.
    let budget = Budget { compile_ms_max: 600_000, ..Budget::default() };
    let plan = Plan { sources: vec![Source::database("city", database)], budget, ..Plan::default() };
    // From here on the peak counts anew.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = status_mb("VmRSS:");
    let begun = cpu_time();
    let table = compile(&plan, SystemTime::now()).unwrap();
    let took = cpu_time() - begun;
    let peak = status_mb("VmHWM:") - before;
    let bytes: usize = table.bytes().iter().sum();
    println!(
        "build {:.2} s CPU, peak {peak} MB; table {} MB, {} records, {} + {} ranges",
        took.as_secs_f64(),
        bytes / 1_000_000,
        table.records(),
        table.ranges4().count(),
        table.ranges6().count(),
    );
    let mut random = Random(1);
    let begun = cpu_time();
    let known = (0..LOOK_UPS).filter(|_| {
        let address = IpAddr::V4(Ipv4Addr::from(random.next() as u32));
        !black_box(table.of(address)).city().is_empty()
    });
    let known = known.count();
    let each = (cpu_time() - begun).as_nanos() as f64 / f64::from(LOOK_UPS);
    println!("{each:.0} ns for an IPv4 address and its city; {} % have one", known * 100 / LOOK_UPS as usize);
}

/// Of this thread; a build has no other.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn status_mb(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1_024 / 1_000_000
}

/// A MaxMind DB of 32 bits a record: `::/96` holds IPv4, `2000::/3` IPv6.
fn database() -> Vec<u8> {
    let mut data = Vec::new();
    let places: Vec<u32> = (0..PLACES)
        .map(|place| {
            let at = data.len() as u32;
            put_place(&mut data, place);
            at
        })
        .collect();
    let mut tree = Tree { nodes: vec![[Leaf::NONE; 2]; 96], places, random: Random(5) };
    for node in 0..95 {
        tree.nodes[node][0] = Leaf(node as u32 + 1);
    }
    tree.nodes[95][0] = tree.grow(0, [11, 24]);
    tree.nodes[2][1] = tree.grow(3, [24, 48]);
    let nodes = tree.nodes.len() as u32;
    let mut file = Vec::with_capacity(tree.nodes.len() * 8 + data.len() + 1_000);
    for record in tree.nodes.as_flattened() {
        let value = match *record {
            Leaf::NONE => nodes,
            Leaf(value) if value >= Leaf::DATA => nodes + 16 + (value - Leaf::DATA),
            Leaf(node) => node,
        };
        file.extend_from_slice(&value.to_be_bytes());
    }
    file.extend_from_slice(&[0; 16]);
    file.extend_from_slice(&data);
    file.extend_from_slice(b"\xab\xcd\xefMaxMind.com");
    put_map(&mut file, 9);
    put_text(&mut file, "binary_format_major_version");
    file.extend_from_slice(&[0xa1, 2]);
    put_text(&mut file, "binary_format_minor_version");
    file.push(0xa0);
    put_text(&mut file, "build_epoch");
    file.extend_from_slice(&[0x04, 0x02]);
    file.extend_from_slice(&1_790_000_000_u32.to_be_bytes());
    put_text(&mut file, "database_type");
    put_text(&mut file, "GeoIP2-City");
    put_text(&mut file, "description");
    put_map(&mut file, 0);
    put_text(&mut file, "languages");
    file.extend_from_slice(&[0x00, 0x04]);
    put_text(&mut file, "ip_version");
    file.extend_from_slice(&[0xa1, 6]);
    put_text(&mut file, "node_count");
    file.push(0xc4);
    file.extend_from_slice(&nodes.to_be_bytes());
    put_text(&mut file, "record_size");
    file.extend_from_slice(&[0xa1, 32]);
    file
}

/// A node's number, or from `DATA` on where a place is.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Leaf(u32);

impl Leaf {
    const DATA: u32 = 1 << 31;
    const NONE: Leaf = Leaf(u32::MAX);
}

struct Tree {
    nodes: Vec<[Leaf; 2]>,
    places: Vec<u32>,
    random: Random,
}

impl Tree {
    /// A subtree whose networks are between so many bits long: few are short, most are long.
    fn grow(&mut self, depth: u32, lengths: [u32; 2]) -> Leaf {
        let drawn = self.random.next();
        // In IPv6 most of the space is nobody's.
        if lengths[1] > 32 && depth > 8 && drawn % 100 < 30 {
            return Leaf::NONE;
        }
        let ends = depth >= lengths[0] && drawn >> 32 & 0xff < 32;
        if ends || depth >= lengths[1] {
            let place = self.places[(self.random.next() % self.places.len() as u64) as usize];
            return Leaf(Leaf::DATA + place);
        }
        let node = self.nodes.len();
        self.nodes.push([Leaf::NONE; 2]);
        self.nodes[node] = [self.grow(depth + 1, lengths), self.grow(depth + 1, lengths)];
        Leaf(node as u32)
    }
}

fn put_place(data: &mut Vec<u8>, place: u32) {
    let country = [b'A' + (place % 26) as u8, b'A' + (place / 26 % 9) as u8];
    let country = std::str::from_utf8(&country).unwrap();
    put_map(data, 4);
    put_text(data, "city");
    put_names(data, &format!("City of place {place}"));
    put_text(data, "country");
    put_map(data, 2);
    put_text(data, "iso_code");
    put_text(data, country);
    put_text(data, "names");
    put_map(data, 1);
    put_text(data, "en");
    put_text(data, "A country");
    put_text(data, "location");
    put_map(data, 2);
    for (name, value) in [("latitude", f64::from(place) / 3e3), ("longitude", f64::from(place) / 2e3)] {
        put_text(data, name);
        data.push(0x68);
        data.extend_from_slice(&value.to_be_bytes());
    }
    put_text(data, "subdivisions");
    data.extend_from_slice(&[0x01, 0x04]);
    put_map(data, 2);
    put_text(data, "iso_code");
    put_text(data, &format!("{:03}", place / 234 % 900));
    put_text(data, "names");
    put_map(data, 1);
    put_text(data, "en");
    put_text(data, "A region");
}

fn put_names(data: &mut Vec<u8>, english: &str) {
    put_map(data, 1);
    put_text(data, "names");
    put_map(data, 1);
    put_text(data, "en");
    put_text(data, english);
}

fn put_map(data: &mut Vec<u8>, entries: u8) {
    data.push(0xe0 | entries);
}

/// Of at most 28 octets.
fn put_text(data: &mut Vec<u8>, text: &str) {
    data.push(0x40 | text.len() as u8);
    data.extend_from_slice(text.as_bytes());
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
