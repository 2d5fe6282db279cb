//! MaxMind DB files of any vendor.
//!
//! Which part of a record is which field is by the plan's field map, else by the kind of database that the file says it
//! is: MaxMind's own shape, or the flat one of ip-location-db. Each record is decoded once, however many networks point
//! to it. Damage ends in an error or, where it cannot be seen, in wrong answers; never in a panic or without end: what a
//! walk and a decode may cost is bounded here and in the reader.

use std::net::IpAddr;

use hashbrown::HashMap;
use maxminddb::{MaxMindDbError, PathElement, Reader, Within, WithinOptions};

use super::Input;
use crate::Error;
use crate::answer::{Answer, Vocabulary};
use crate::plan::{Field, Source};
use crate::steps::{Family, number};

/// A database and how its records are read.
#[derive(Debug)]
pub(crate) struct Database {
    path: std::path::PathBuf,
    reader: Reader<Vec<u8>>,
    fields: Vec<(Field, Path)>,
    labels: Vec<(Path, String)>,
    /// Record → what it says.
    decoded: HashMap<usize, Answer>,
    pub(crate) networks: u64,
}

/// Where each field is, and which booleans are labels.
type Shape = (Vec<(Field, Path)>, Vec<(Path, String)>);

/// Where in a record: names of map entries and positions in lists.
type Path = Vec<Element>;

#[derive(Clone, Debug)]
enum Element {
    Key(String),
    Index(usize),
}

/// MaxMind's place: City, Country, Enterprise.
const PLACE: &[(Field, &str)] =
    &[(Field::Country, "country.iso_code"), (Field::Region, "subdivisions.0.iso_code"), (Field::City, "city.names.en")];
/// MaxMind's network: ASN, ISP.
const NETWORK: &[(Field, &str)] =
    &[(Field::Asn, "autonomous_system_number"), (Field::AsOrg, "autonomous_system_organization")];
/// The same within Enterprise and Insights.
const TRAITS: &[(Field, &str)] =
    &[(Field::Asn, "traits.autonomous_system_number"), (Field::AsOrg, "traits.autonomous_system_organization")];
/// ip-location-db, DB-IP and others that put all in one flat map.
const FLAT: &[(Field, &str)] = &[
    (Field::Country, "country_code"),
    (Field::Region, "state1"),
    (Field::City, "city"),
    (Field::Asn, "autonomous_system_number"),
    (Field::AsOrg, "autonomous_system_organization"),
];
/// Booleans of Anonymous-IP, Anonymous-Plus, Residential-Proxy and, below `traits`, of the others.
const LABELS: &[(&str, &str)] = &[
    ("is_anonymous", "proxy.anonymous"),
    ("is_anonymous_proxy", "proxy.anonymous"),
    ("is_anonymous_vpn", "proxy.anonymous.vpn"),
    ("is_hosting_provider", "hosting"),
    ("is_public_proxy", "proxy.anonymous.public"),
    ("is_residential_proxy", "proxy.residential"),
    ("is_tor_exit_node", "proxy.anonymous.tor"),
    ("is_anycast", "anycast"),
    ("is_satellite_provider", "satellite"),
];

impl Database {
    pub(crate) fn open(input: Input, source: &Source) -> Result<Database, Error> {
        let path = input.path;
        let reader =
            Reader::from_source(input.bytes).map_err(|error| Error::Mmdb { path: path.clone(), source: error })?;
        let (fields, labels) = if source.fields.is_empty() && source.labels.is_empty() {
            shape(&reader.metadata().database_type)
        } else {
            let fields = source.fields.iter().map(|(field, text)| (*field, elements(text))).collect();
            (fields, source.labels.iter().map(|(text, label)| (elements(text), label.clone())).collect())
        };
        Ok(Database { path, reader, fields, labels, decoded: HashMap::new(), networks: 0 })
    }

    pub(crate) fn database_type(&self) -> &str {
        &self.reader.metadata().database_type
    }

    pub(crate) fn build_epoch(&self) -> i64 {
        i64::try_from(self.reader.metadata().build_epoch).unwrap_or(i64::MAX)
    }

    /// What it says of one address.
    pub(crate) fn at(&self, address: IpAddr, words: &mut Vocabulary) -> Result<Answer, Error> {
        if address.is_ipv6() && self.reader.metadata().ip_version == 4 {
            return Ok(Answer::default());
        }
        let found = self.reader.lookup(address).map_err(|source| failed(&self.path, source))?;
        answer(&self.path, &found, &self.fields, &self.labels, words)
    }

    /// Its networks of one family in order.
    pub(crate) fn walk(&mut self, family: Family) -> Result<Walk<'_>, Error> {
        let networks = self.reader.networks(WithinOptions::default());
        let within = networks.map_err(|source| failed(&self.path, source))?;
        Ok(Walk {
            path: &self.path,
            fields: &self.fields,
            labels: &self.labels,
            decoded: &mut self.decoded,
            count: &mut self.networks,
            within,
            family,
            gap: None,
            ready: None,
            done: false,
        })
    }
}

/// Steps of a database, decoded as they come.
#[derive(Debug)]
pub(crate) struct Walk<'a> {
    path: &'a std::path::Path,
    fields: &'a [(Field, Path)],
    labels: &'a [(Path, String)],
    decoded: &'a mut HashMap<usize, Answer>,
    count: &'a mut u64,
    within: Within<'a, Vec<u8>>,
    family: Family,
    /// After the network before: where nothing is known, unless a network begins there.
    gap: Option<u128>,
    /// A network that comes after the gap before it was told.
    ready: Option<(u128, Answer)>,
    done: bool,
}

impl Walk<'_> {
    /// The next step.
    pub(crate) fn next(&mut self, words: &mut Vocabulary) -> Result<Option<(u128, Answer)>, Error> {
        if let Some(ready) = self.ready.take() {
            return Ok(Some(ready));
        }
        if self.done {
            return Ok(None);
        }
        loop {
            let Some(found) = self.within.next() else {
                self.done = true;
                return Ok(self.gap.take().map(|start| (start, Answer::default())));
            };
            let found = found.map_err(|source| failed(self.path, source))?;
            let network = found.network().map_err(|source| failed(self.path, source))?;
            let (mut address, mut prefix) = (network.ip(), u32::from(network.prefix()));
            if self.family == Family::V4 {
                match address {
                    IpAddr::V4(_) => {}
                    // A record above all of IPv4: it is the answer for each of its addresses.
                    IpAddr::V6(v6) if v6.is_unspecified() && prefix <= 96 => {
                        address = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);
                        prefix = 0;
                    }
                    // IPv4 comes first.
                    IpAddr::V6(_) => {
                        self.done = true;
                        return Ok(self.gap.take().map(|start| (start, Answer::default())));
                    }
                }
            } else if address.is_ipv4() {
                continue;
            }
            let bits = if self.family == Family::V4 { 32 } else { 128 };
            let start = number(address);
            let end = start | (self.family.last() >> prefix.min(bits - 1) >> u32::from(prefix >= bits));
            let end = if prefix >= bits { start } else { end };
            if self.gap.is_some_and(|gap| start < gap) {
                let source = MaxMindDbError::invalid_database("networks are out of order");
                return Err(failed(self.path, source));
            }
            *self.count += 1;
            let answer = match found.offset().and_then(|offset| self.decoded.get(&offset)) {
                Some(answer) => *answer,
                None => {
                    let answer = answer(self.path, &found, self.fields, self.labels, words)?;
                    if let Some(offset) = found.offset() {
                        self.decoded.insert(offset, answer);
                    }
                    answer
                }
            };
            let gap = self.gap.take().filter(|gap| *gap < start);
            self.gap = (end < self.family.last()).then(|| end + 1);
            if let Some(gap) = gap {
                self.ready = Some((start, answer));
                return Ok(Some((gap, Answer::default())));
            }
            return Ok(Some((start, answer)));
        }
    }
}

fn failed(path: &std::path::Path, source: MaxMindDbError) -> Error {
    Error::Mmdb { path: path.to_path_buf(), source }
}

/// The fields of a record. What has another type than the field's says nothing; a text that cannot be the field is an
/// error, because the map is then wrong.
fn answer(
    path: &std::path::Path,
    found: &maxminddb::LookupResult<'_, Vec<u8>>,
    fields: &[(Field, Path)],
    labels: &[(Path, String)],
    words: &mut Vocabulary,
) -> Result<Answer, Error> {
    let mut answer = Answer::default();
    if !found.has_data() {
        return Ok(answer);
    }
    for (field, place) in fields {
        let elements = borrowed(place);
        if *field == Field::Asn {
            let number: Option<u32> = decode(path, found, &elements)?;
            answer.asn = number.unwrap_or(0);
            if number.is_some() {
                continue;
            }
        }
        let Some(text): Option<&str> = decode(path, found, &elements)? else { continue };
        let text = text.trim();
        // MaxMind's code of a subdivision is that within its country.
        let code = *field == Field::Region
            && place.last().is_some_and(|last| matches!(last, Element::Key(key) if key == "iso_code"));
        let value = if code && answer.country != 0 && !text.is_empty() {
            let region = format!("{}-{text}", words.names.get(answer.country));
            words.value(*field, &region)
        } else {
            words.value(*field, text)
        };
        let value = value.ok_or_else(|| Error::Value {
            path: path.to_path_buf(),
            network: found.network().map_or_else(|_| "?".to_owned(), |network| network.to_string()),
            field: field.name(),
            value: text.chars().take(80).collect(),
        })?;
        answer.set(*field, value);
    }
    for (place, label) in labels {
        if decode::<bool>(path, found, &borrowed(place))? == Some(true) {
            let name = words.names.intern(label);
            let set = words.label_sets.intern(&[name]);
            answer.labels = words.union(answer.labels, set);
        }
    }
    Ok(answer)
}

/// One part of a record, if it is there and of this type.
fn decode<'a, T: serde::Deserialize<'a>>(
    path: &std::path::Path,
    found: &'a maxminddb::LookupResult<'a, Vec<u8>>,
    elements: &[PathElement<'_>],
) -> Result<Option<T>, Error> {
    match found.decode_path(elements) {
        Ok(value) => Ok(value),
        Err(MaxMindDbError::Decoding { .. }) => Ok(None),
        Err(source) => Err(failed(path, source)),
    }
}

fn borrowed(path: &Path) -> Vec<PathElement<'_>> {
    path.iter()
        .map(|element| match element {
            Element::Key(key) => PathElement::Key(key),
            Element::Index(index) => PathElement::Index(*index),
        })
        .collect()
}

/// Of `subdivisions.0.iso_code`.
fn elements(text: &str) -> Path {
    text.split('.').map(|word| word.parse().map_or_else(|_| Element::Key(word.to_owned()), Element::Index)).collect()
}

/// Fields and labels by what a database says it is.
fn shape(database_type: &str) -> Shape {
    let is = |words: &[&str]| words.iter().any(|word| database_type.contains(word));
    let maxmind = is(&["GeoIP", "GeoLite2", "DBIP", "DB-IP"]);
    let fields: Vec<&[(Field, &str)]> = if !maxmind {
        vec![FLAT]
    } else if is(&["Enterprise", "Insights", "Precision"]) {
        vec![PLACE, TRAITS]
    } else if is(&["City", "Country", "Location"]) {
        vec![PLACE]
    } else if is(&["ASN", "ISP"]) {
        vec![NETWORK]
    } else {
        Vec::new()
    };
    let fields = fields.concat().iter().map(|(field, path)| (*field, elements(path))).collect();
    let labels = LABELS.iter().filter_map(|(key, label)| {
        let path = match () {
            () if maxmind && is(&["Anonymous", "Residential", "IP-Risk"]) => elements(key),
            () if maxmind && is(&["City", "Country", "Enterprise", "Insights", "Precision"]) => {
                elements(&format!("traits.{key}"))
            }
            () => return None,
        };
        Some((path, (*label).to_owned()))
    });
    (fields, labels.collect())
}
