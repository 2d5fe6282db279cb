//! What a table is made of, as configuration says it: sources in order, who is asked first for what, the operator's own
//! files, and what a new table must not get wrong.
//!
//! ```toml
//! accounts = "accounts.csv"
//! [[sources]]
//! name = "country"
//! kind = "mmdb"
//! paths = ["geo-whois-asn-country.mmdb"]
//! licence = "CC-BY-4.0"
//! [precedence]
//! country = ["city", "country"]
//! [[canaries]]
//! address = "8.8.8.8"
//! country = "US"
//! ```

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Everything that [`compile`](crate::compile) needs to know.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Plan {
    /// In this order each is asked, unless `precedence` says otherwise.
    pub sources: Vec<Source>,
    /// Per field, names of sources; empty is the order of `sources`.
    pub precedence: Precedence,
    /// `cidr,account_id,valid_from,valid_to,ref`.
    pub accounts: Option<PathBuf>,
    /// `cidr,field,value`.
    pub overrides: Option<PathBuf>,
    /// `cidr|asn:N,label,expires,source`.
    pub labels: Vec<PathBuf>,
    /// Instead of all of the above: a snapshot that was compiled and signed elsewhere.
    pub snapshot: Option<SnapshotSource>,
    /// Addresses whose answers a table must have to be used.
    pub canaries: Vec<Canary>,
    /// How far a new table may know less than the one before.
    pub guard: Guard,
    /// What a compilation may take.
    pub budget: Budget,
    /// Where to keep a snapshot of every table that was used, for questions about the past.
    pub keep: Option<PathBuf>,
}

/// Files of one vendor that answer together.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Unique; the provenance of every answer from it.
    pub name: String,
    /// How to read it.
    pub kind: Kind,
    /// One or more: many vendors have a file for each family.
    pub paths: Vec<PathBuf>,
    /// For `mmdb`: field → path in a record (`country.iso_code`, `subdivisions.0.iso_code`). Empty: by the database's type.
    #[serde(default)]
    pub fields: BTreeMap<Field, String>,
    /// For `mmdb`: path of a boolean → label.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// For `ranges`: what each column is. Empty: by the file's first line, which then names them.
    #[serde(default)]
    pub columns: Vec<Column>,
    /// What it may be used for.
    #[serde(default)]
    pub licence: String,
    /// Whom the licence wants named.
    #[serde(default)]
    pub attribution: String,
    /// Days that the licence lets a snapshot with it be kept. Leave out: for ever.
    #[serde(default)]
    pub keep_days_max: Option<u32>,
    /// Days from its build after which it is stale; 0 never.
    #[serde(default = "stale_after_days")]
    pub stale_after_days: u32,
    /// Days from its build after which it is expired; 0 never.
    #[serde(default = "expired_after_days")]
    pub expired_after_days: u32,
}

impl Source {
    /// A database with nothing else said of it.
    pub fn database(name: &str, path: PathBuf) -> Source {
        Source {
            name: name.to_owned(),
            kind: Kind::Mmdb,
            paths: vec![path],
            fields: BTreeMap::new(),
            labels: BTreeMap::new(),
            columns: Vec::new(),
            licence: String::new(),
            attribution: String::new(),
            keep_days_max: None,
            stale_after_days: stale_after_days(),
            expired_after_days: expired_after_days(),
        }
    }
}

fn stale_after_days() -> u32 {
    25
}

fn expired_after_days() -> u32 {
    30
}

/// How a source is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// MaxMind DB, of any vendor.
    Mmdb,
    /// CSV of ranges or networks.
    Ranges,
    /// `ip-ranges.json` of AWS.
    Aws,
    /// `cloud.json` of Google Cloud.
    Gcp,
    /// `ServiceTags_Public_….json` of Azure.
    Azure,
    /// `ips-v4`, `ips-v6` of Cloudflare: a network a line, or its API's JSON.
    Cloudflare,
    /// `public-ip-list` of Fastly.
    Fastly,
    /// Addresses of Tor exits, one a line, or `exit-addresses`.
    Tor,
}

impl Kind {
    /// As in configuration.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Mmdb => "mmdb",
            Kind::Ranges => "ranges",
            Kind::Aws => "aws",
            Kind::Gcp => "gcp",
            Kind::Azure => "azure",
            Kind::Cloudflare => "cloudflare",
            Kind::Fastly => "fastly",
            Kind::Tor => "tor",
        }
    }
}

/// What a source can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Field {
    /// ISO 3166-1 alpha-2.
    Country,
    /// ISO 3166-2, or a name.
    Region,
    /// A name.
    City,
    /// Number of the autonomous system.
    Asn,
    /// Its holder.
    AsOrg,
}

impl Field {
    /// All of them.
    pub const ALL: [Field; 5] = [Field::Country, Field::Region, Field::City, Field::Asn, Field::AsOrg];

    /// As in configuration and in `overrides.csv`.
    pub fn name(self) -> &'static str {
        match self {
            Field::Country => "country",
            Field::Region => "region",
            Field::City => "city",
            Field::Asn => "asn",
            Field::AsOrg => "as_org",
        }
    }
}

/// What a column of a CSV of ranges holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Column {
    /// First address.
    Start,
    /// Last address.
    End,
    /// A network, instead of first and last address.
    Cidr,
    /// See [`Field`].
    Country,
    /// See [`Field`].
    Region,
    /// See [`Field`].
    City,
    /// See [`Field`].
    Asn,
    /// See [`Field`].
    AsOrg,
    /// A label.
    Label,
    /// Anything else.
    Skip,
}

/// Who is asked, per field, in this order; a source that is not named is not asked for that field.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Precedence {
    /// For the country.
    pub country: Vec<String>,
    /// For the region.
    pub region: Vec<String>,
    /// For the city.
    pub city: Vec<String>,
    /// For the number of the autonomous system.
    pub asn: Vec<String>,
    /// For its holder.
    pub as_org: Vec<String>,
}

impl Precedence {
    /// The names for one field.
    pub fn of(&self, field: Field) -> &[String] {
        match field {
            Field::Country => &self.country,
            Field::Region => &self.region,
            Field::City => &self.city,
            Field::Asn => &self.asn,
            Field::AsOrg => &self.as_org,
        }
    }
}

/// A snapshot to load, and whose signature it must bear.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotSource {
    /// The file.
    pub path: PathBuf,
    /// File of the Ed25519 public key in hexadecimal. None: an unsigned snapshot is taken too.
    #[serde(default)]
    pub public_key: Option<PathBuf>,
}

/// An address and what must be known of it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Canary {
    /// Which.
    pub address: IpAddr,
    /// Its country, if that is to be checked; "" for none.
    #[serde(default)]
    pub country: Option<String>,
    /// Its autonomous system, if that is to be checked.
    #[serde(default)]
    pub asn: Option<u32>,
    /// Its account, if that is to be checked; "" for none.
    #[serde(default)]
    pub account: Option<String>,
}

/// How much less a new table may know, in percent of the addresses that the one before knew.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Guard {
    /// Of those with a country, and of those with an autonomous system.
    pub coverage_drop_max_percent: u32,
    /// Of those with an account.
    pub accounts_drop_max_percent: u32,
}

impl Default for Guard {
    fn default() -> Guard {
        Guard { coverage_drop_max_percent: 5, accounts_drop_max_percent: 50 }
    }
}

/// Where a compilation gives up.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Budget {
    /// Time for one compilation.
    pub compile_ms_max: u64,
    /// Memory for files, answers and table together.
    pub memory_bytes_max: u64,
}

impl Default for Budget {
    fn default() -> Budget {
        Budget { compile_ms_max: 60_000, memory_bytes_max: 1 << 30 }
    }
}

impl Plan {
    /// Paths that are not absolute are meant from here.
    pub fn resolve_paths(&mut self, base: &Path) {
        let Plan { sources, accounts, overrides, labels, snapshot, keep, .. } = self;
        let of_sources = sources.iter_mut().flat_map(|source| source.paths.iter_mut());
        let of_snapshot = snapshot
            .iter_mut()
            .flat_map(|snapshot| std::iter::once(&mut snapshot.path).chain(&mut snapshot.public_key));
        for path in of_sources.chain(accounts).chain(overrides).chain(labels).chain(of_snapshot).chain(keep) {
            *path = base.join(&*path);
        }
    }

    /// Whether it names nothing that could answer.
    pub fn is_empty(&self) -> bool {
        self.files().next().is_none()
    }

    /// Every file that a table of this plan is made of.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let of_sources = self.sources.iter().flat_map(|source| &source.paths);
        let of_snapshot =
            self.snapshot.iter().flat_map(|snapshot| std::iter::once(&snapshot.path).chain(&snapshot.public_key));
        of_sources
            .chain(&self.accounts)
            .chain(&self.overrides)
            .chain(&self.labels)
            .chain(of_snapshot)
            .map(PathBuf::as_path)
    }
}
