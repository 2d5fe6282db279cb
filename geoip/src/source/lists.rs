//! Lists that clouds and the Tor project publish, read as labels: `cloud.aws.ec2`, `cdn.fastly`, `proxy.anonymous.tor`, …
//! The networks of clouds (not of content delivery networks) are `hosting` too.

use serde::Deserialize;

use super::text::network;
use super::{Answers, Input};
use crate::Error;
use crate::answer::{Answer, Vocabulary};
use crate::plan::Kind;
use crate::steps::Range;

/// A list as steps.
#[derive(Debug)]
pub(crate) struct List {
    pub(crate) answers: Answers,
    pub(crate) rows: u64,
    /// When it was published, if it says so: seconds since 1970.
    pub(crate) build_epoch: Option<i64>,
}

#[derive(Deserialize)]
struct Aws {
    #[serde(default, rename = "syncToken")]
    sync_token: String,
    prefixes: Vec<AwsPrefix>,
    #[serde(default)]
    ipv6_prefixes: Vec<AwsPrefix>,
}

#[derive(Deserialize)]
struct AwsPrefix {
    #[serde(alias = "ip_prefix", alias = "ipv6_prefix")]
    prefix: String,
    service: String,
}

#[derive(Deserialize)]
struct Gcp {
    #[serde(default, rename = "syncToken")]
    sync_token: String,
    prefixes: Vec<GcpPrefix>,
}

#[derive(Deserialize)]
struct GcpPrefix {
    #[serde(alias = "ipv4Prefix", alias = "ipv6Prefix")]
    prefix: String,
}

#[derive(Deserialize)]
struct Azure {
    values: Vec<AzureTag>,
}

#[derive(Deserialize)]
struct AzureTag {
    properties: AzureProperties,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AzureProperties {
    #[serde(default)]
    system_service: String,
    address_prefixes: Vec<String>,
}

#[derive(Deserialize)]
struct Cloudflare {
    result: CloudflareNetworks,
}

#[derive(Deserialize)]
struct CloudflareNetworks {
    ipv4_cidrs: Vec<String>,
    ipv6_cidrs: Vec<String>,
}

#[derive(Deserialize)]
struct Fastly {
    addresses: Vec<String>,
    ipv6_addresses: Vec<String>,
}

pub(crate) fn read(input: &Input, kind: Kind, words: &mut Vocabulary) -> Result<List, Error> {
    let mut rows =
        Rows { input, words, hosting: false, answers: vec![Answer::default()], ranges: [Vec::new(), Vec::new()] };
    let json = |source| Error::Json { path: input.path.clone(), source };
    let mut build_epoch = None;
    match kind {
        Kind::Aws => {
            let list: Aws = serde_json::from_slice(&input.bytes).map_err(json)?;
            build_epoch = list.sync_token.parse().ok();
            rows.hosting = true;
            for prefix in list.prefixes.iter().chain(&list.ipv6_prefixes) {
                // AMAZON is everything of theirs, the others say what it is used for.
                let service = if prefix.service == "AMAZON" { "" } else { &prefix.service };
                rows.add(&prefix.prefix, "cloud.aws", service, 0)?;
            }
        }
        Kind::Gcp => {
            let list: Gcp = serde_json::from_slice(&input.bytes).map_err(json)?;
            build_epoch = list.sync_token.parse::<i64>().ok().map(|milliseconds| milliseconds / 1_000);
            rows.hosting = true;
            for prefix in &list.prefixes {
                rows.add(&prefix.prefix, "cloud.gcp", "", 0)?;
            }
        }
        Kind::Azure => {
            let list: Azure = serde_json::from_slice(&input.bytes).map_err(json)?;
            rows.hosting = true;
            for tag in &list.values {
                for prefix in &tag.properties.address_prefixes {
                    rows.add(prefix, "cloud.azure", &tag.properties.system_service, 0)?;
                }
            }
        }
        Kind::Cloudflare if input.bytes.starts_with(b"{") => {
            let list: Cloudflare = serde_json::from_slice(&input.bytes).map_err(json)?;
            for prefix in list.result.ipv4_cidrs.iter().chain(&list.result.ipv6_cidrs) {
                rows.add(prefix, "cdn.cloudflare", "", 0)?;
            }
        }
        Kind::Fastly => {
            let list: Fastly = serde_json::from_slice(&input.bytes).map_err(json)?;
            for prefix in list.addresses.iter().chain(&list.ipv6_addresses) {
                rows.add(prefix, "cdn.fastly", "", 0)?;
            }
        }
        Kind::Cloudflare | Kind::Tor | Kind::Mmdb | Kind::Ranges => {
            let label = if kind == Kind::Tor { "proxy.anonymous.tor" } else { "cdn.cloudflare" };
            for (position, line) in lines(input, kind)?.enumerate() {
                if let Some(prefix) = prefix_of(line) {
                    rows.add(prefix, label, "", position as u64 + 1)?;
                }
            }
        }
    }
    let Rows { answers, ranges, .. } = rows;
    let rows = answers.len() as u64 - 1;
    let [ranges4, ranges6] = ranges;
    Ok(List { answers: Answers::of(ranges4, ranges6, answers, words), rows, build_epoch })
}

/// Cloudflare publishes its list without an end of its last line.
fn lines(input: &Input, kind: Kind) -> Result<std::str::Lines<'_>, Error> {
    if kind == Kind::Cloudflare {
        let wrong = |_| Error::Line { path: input.path.clone(), line: 1, reason: "not UTF-8".to_owned() };
        return Ok(std::str::from_utf8(&input.bytes).map_err(wrong)?.lines());
    }
    Ok(input.text()?.lines())
}

/// The network in a line of text: the line, or what follows `ExitAddress` in Tor's longer form, whose other lines say
/// nothing of addresses.
fn prefix_of(line: &str) -> Option<&str> {
    let mut words = line.split_whitespace();
    match words.next()? {
        "ExitAddress" => words.next(),
        "ExitNode" | "Published" | "LastStatus" => None,
        word if word.starts_with('#') => None,
        word => Some(word),
    }
}

struct Rows<'a> {
    input: &'a Input,
    words: &'a mut Vocabulary,
    hosting: bool,
    answers: Vec<Answer>,
    ranges: [Vec<Range>; 2],
}

impl Rows<'_> {
    fn add(&mut self, prefix: &str, label: &str, service: &str, line: u64) -> Result<(), Error> {
        self.input.deadline.check_row(self.answers.len() as u64)?;
        let wrong = |reason| Error::Line { path: self.input.path.clone(), line, reason };
        let network = network(prefix).map_err(wrong)?;
        let service: String = service
            .chars()
            .map(|letter| if letter.is_ascii_alphanumeric() { letter.to_ascii_lowercase() } else { '_' })
            .collect();
        let label = if service.is_empty() { label.to_owned() } else { format!("{label}.{service}") };
        let mut labels = vec![self.words.names.intern(&label)];
        if self.hosting {
            labels.push(self.words.names.intern("hosting"));
        }
        labels.sort_unstable();
        let labels = self.words.label_sets.intern(&labels);
        self.answers.push(Answer { labels, ..Answer::default() });
        let range = Range::of(network, self.answers.len() as u32 - 1);
        self.ranges[usize::from(network.addr().is_ipv6())].push(range);
        Ok(())
    }
}
