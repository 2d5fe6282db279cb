//! CSV of ranges (`start,end,country`) or networks (`cidr,asn,as_org`), as vendors and registries publish them.
//!
//! Addresses may be written as numbers. Ranges may be in any order and inside one another; of two
//! that cross the one that begins later holds.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hashbrown::HashMap;
use ipnet::IpNet;

use super::text::Lines;
use super::{Answers, Input};
use crate::Error;
use crate::address;
use crate::answer::{Answer, Vocabulary, is_label};
use crate::plan::{Column, Field, Source};
use crate::steps::{Range, number};

pub(crate) fn read(input: &Input, source: &Source, words: &mut Vocabulary) -> Result<(Answers, u64), Error> {
    // Checks that it is text and not cut short.
    let text = input.text()?;
    let wrong = |line: u64, reason: String| Error::Line { path: input.path.clone(), line, reason };
    let mut reader =
        csv::ReaderBuilder::new().has_headers(false).flexible(true).comment(Some(b'#')).from_reader(text.as_bytes());
    let mut record = csv::StringRecord::new();
    let mut columns = source.columns.clone();
    let mut ranges: [Vec<Range>; 2] = [Vec::new(), Vec::new()];
    let mut answers = vec![Answer::default()];
    let mut known: HashMap<Answer, u32> = HashMap::new();
    let mut rows = 0;
    let mut first = true;
    let mut lines = Lines::new(text);
    loop {
        let more = reader.read_record(&mut record);
        let line = lines.of(&reader);
        if !more.map_err(|error| wrong(line, error.to_string()))? {
            break;
        }
        if std::mem::take(&mut first) && header(&record, &mut columns).map_err(|reason| wrong(line, reason))? {
            continue;
        }
        let (start, end, answer) = row(&record, &columns, words).map_err(|reason| wrong(line, reason))?;
        rows += 1;
        input.deadline.check_row(rows)?;
        if answer == Answer::default() {
            continue;
        }
        let value = *known.entry(answer).or_insert_with(|| {
            answers.push(answer);
            answers.len() as u32 - 1
        });
        let range = Range { start: number(start), end: number(end), value };
        ranges[usize::from(start.is_ipv6())].push(range);
    }
    drop(known);
    let [ranges4, ranges6] = ranges;
    Ok((Answers::of(ranges4, ranges6, answers, words), rows))
}

/// Whether the first line names columns instead of a range; it must if the plan does not.
fn header(record: &csv::StringRecord, columns: &mut Vec<Column>) -> Result<bool, String> {
    let is_address = |text: &str| address_of(text).is_some() || text.parse::<IpNet>().is_ok();
    if record.iter().any(is_address) {
        if columns.is_empty() {
            return Err(
                "name the columns in the plan (columns = [\"start\", \"end\", …]) or in the first line".to_owned()
            );
        }
        return Ok(false);
    }
    if columns.is_empty() {
        *columns = record
            .iter()
            .map(|name| match name.trim() {
                "start" | "start_ip" | "ip_range_start" => Column::Start,
                "end" | "end_ip" | "ip_range_end" => Column::End,
                "cidr" | "network" => Column::Cidr,
                "country" | "country_code" => Column::Country,
                "region" | "state1" => Column::Region,
                "city" => Column::City,
                "asn" | "autonomous_system_number" => Column::Asn,
                "as_org" | "autonomous_system_organization" => Column::AsOrg,
                "label" => Column::Label,
                _ => Column::Skip,
            })
            .collect();
    }
    Ok(true)
}

fn row(
    record: &csv::StringRecord,
    columns: &[Column],
    words: &mut Vocabulary,
) -> Result<(IpAddr, IpAddr, Answer), String> {
    let (mut start, mut end) = (None, None);
    let mut answer = Answer::default();
    for (column, text) in columns.iter().zip(record) {
        let address = || address_of(text).ok_or_else(|| format!("{text:?} is no address"));
        let field = match column {
            Column::Start => {
                start = Some(address()?);
                continue;
            }
            Column::End => {
                end = Some(address()?);
                continue;
            }
            Column::Cidr => {
                let network = super::text::network(text.trim())?;
                start = Some(network.network());
                end = Some(network.broadcast());
                continue;
            }
            Column::Label => {
                if !is_label(text) {
                    return Err(format!("{text:?} is no label: dotted words of a to z, 0 to 9, - and _"));
                }
                let name = words.names.intern(text);
                answer.labels = words.label_sets.intern(&[name]);
                continue;
            }
            Column::Skip => continue,
            Column::Country => Field::Country,
            Column::Region => Field::Region,
            Column::City => Field::City,
            Column::Asn => Field::Asn,
            Column::AsOrg => Field::AsOrg,
        };
        let value = words.value(field, text).ok_or_else(|| format!("{text:?} is no {}", field.name()))?;
        answer.set(field, value);
    }
    let (Some(start), Some(end)) = (start, end) else {
        return Err("a row needs start and end, or cidr".to_owned());
    };
    let (start, end) = (plain(start), plain(end));
    if start.is_ipv4() != end.is_ipv4() || start > end {
        return Err(format!("{start} to {end} is no range"));
    }
    Ok((start, end, answer))
}

/// IPv4-mapped is IPv4; other carriers of IPv4 addresses stay what they are, and are never looked up.
fn plain(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => match address::embedded(v6) {
            Some((v4, address::Via::Mapped)) => IpAddr::V4(v4),
            _ => address,
        },
        IpAddr::V4(_) => address,
    }
}

/// An address, or a number that stands for one: up to 2^32 - 1 for IPv4, above for IPv6.
fn address_of(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let number: u128 = if text.starts_with('+') { return None } else { text.parse().ok()? };
    Some(u32::try_from(number).map_or_else(|_| Ipv6Addr::from(number).into(), |v4| Ipv4Addr::from(v4).into()))
}
