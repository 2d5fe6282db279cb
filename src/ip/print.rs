//! An answer as one JSON line, or as text for people.

use std::io::{self, Write};
use std::net::IpAddr;
use std::time::SystemTime;

use serde_json::{Value, json};
use weir_geoip::{Opinion, Record, SourceFacts, Table, canonical, embedded};

use super::{Knowledge, judge};
use crate::event::Screening;
use crate::screening::Screen;

/// `{"ip":…,` and what else is of the address alone, then the tail, then the line's end.
pub(super) fn json_line(line: &mut Vec<u8>, input: &str, address: IpAddr, tail: &str) {
    line.extend_from_slice(b"{\"ip\":\"");
    // An address that was parsed has nothing to escape.
    line.extend_from_slice(input.as_bytes());
    line.extend_from_slice(b"\",");
    if let IpAddr::V6(v6) = address
        && let Some((v4, via)) = embedded(v6)
    {
        let carried = format!("\"canonical\":\"{v4}\",\"via\":\"{}\",", via.name());
        line.extend_from_slice(carried.as_bytes());
    }
    line.extend_from_slice(tail.as_bytes());
    line.push(b'\n');
}

/// What a table was made of, and how old each source is.
pub(crate) fn sources(table: &Table, now: SystemTime) -> Vec<Value> {
    let stated = table.sources().iter().map(|source| {
        let mut facts = json!(source);
        facts["state"] = Value::from(source.state(now).name());
        facts["age_s"] = Value::from(source.age(now).as_secs());
        facts
    });
    stated.collect()
}

/// What is of the record: the fields after those of the address, with the closing brace.
pub(super) fn json_tail(table: &Table, screen: Option<&Screen>, address: IpAddr, at: SystemTime) -> String {
    let record = table.of(address);
    let known = |text: &str| if text.is_empty() { Value::Null } else { Value::from(text) };
    let labels: Vec<&str> = record.labels().collect();
    let label_sources: Vec<[&str; 2]> =
        record.label_sources().map(|(label, source)| [label, source.name.as_str()]).collect();
    let mut fields = json!({
        "scope": record.scope().name(),
        "country": known(record.country()),
        "region": known(record.region()),
        "city": known(record.city()),
        "asn": if record.asn() == 0 { Value::Null } else { Value::from(record.asn()) },
        "as_org": known(record.as_org()),
        "labels": labels,
        "account": known(record.account()),
        "account_ref": known(record.account_reference()),
        "sources": {
            "country": name(record.country_source()),
            "region": name(record.region_source()),
            "city": name(record.city_source()),
            "asn": name(record.asn_source()),
            "as_org": name(record.as_org_source()),
            "labels": label_sources,
            "account": name(record.account_source()),
        },
        "geo_epoch": table.geo_epoch(),
        "accounts_version": table.accounts_version(),
        "snapshot": table.id(),
    });
    if let (Some(ruling), Some(fields)) = (judge(screen, &record, "", at), fields.as_object_mut()) {
        fields.insert("screening".to_owned(), json!({ "verdict": verdict(ruling.verdict), "rule": &*ruling.rule }));
    }
    let mut text = fields.to_string();
    // The opening brace is the line's.
    text.remove(0);
    text
}

fn name(source: Option<&SourceFacts>) -> Option<&str> {
    source.map(|source| source.name.as_str())
}

/// As records print it.
pub(super) fn verdict(verdict: Screening) -> &'static str {
    match verdict {
        Screening::Match => "match",
        Screening::Indeterminate => "indeterminate",
        Screening::Clear => "clear",
        Screening::Unspecified => "",
    }
}

/// For people: a line for each thing that is known, and who says it.
pub(super) fn text(
    out: &mut impl Write,
    knowledge: &Knowledge,
    input: &str,
    address: IpAddr,
    at: SystemTime,
) -> io::Result<()> {
    let record = knowledge.table.of(address);
    let (first, last) = knowledge.table.range(address);
    let looked_up = canonical(address);
    if looked_up == address {
        writeln!(out, "{input}")?;
    } else {
        writeln!(out, "{input} is {looked_up}")?;
    }
    let mut line = |what: &str, says: &str, source: Option<&SourceFacts>| {
        if says.is_empty() {
            return Ok(());
        }
        let source = source.map_or("", |source| source.name.as_str());
        writeln!(out, "  {what:<10} {says:<44} {source}")
    };
    line("scope", record.scope().name(), None)?;
    line("range", &format!("{first} - {last}"), None)?;
    line("country", record.country(), record.country_source())?;
    line("region", record.region(), record.region_source())?;
    line("city", record.city(), record.city_source())?;
    if record.asn() != 0 {
        line("asn", &record.asn().to_string(), record.asn_source())?;
    }
    line("as_org", record.as_org(), record.as_org_source())?;
    for (label, source) in record.label_sources() {
        line("label", label, Some(source))?;
    }
    let account = [record.account(), record.account_reference()].join(" ");
    line("account", account.trim(), record.account_source())?;
    if let Some(ruling) = judge(knowledge.screen.as_ref(), &record, "", at) {
        line("screening", format!("{} {}", verdict(ruling.verdict), ruling.rule).trim_end(), None)?;
    }
    Ok(())
}

/// Each source's own answer; `*` marks what counts.
pub(super) fn opinions(
    out: &mut impl Write,
    opinions: &[Opinion],
    record: &Record<'_>,
    as_json: bool,
) -> io::Result<()> {
    let won =
        |source: Option<&SourceFacts>, opinion: &Opinion| source.is_some_and(|source| source.name == opinion.source);
    for opinion in opinions {
        let asn = if opinion.asn == 0 { String::new() } else { opinion.asn.to_string() };
        let fields = [
            ("country", &opinion.country, won(record.country_source(), opinion)),
            ("region", &opinion.region, won(record.region_source(), opinion)),
            ("city", &opinion.city, won(record.city_source(), opinion)),
            ("asn", &asn, won(record.asn_source(), opinion)),
            ("as_org", &opinion.as_org, won(record.as_org_source(), opinion)),
        ];
        if as_json {
            let mut line = json!({ "source": opinion.source, "labels": opinion.labels });
            for (field, says, won) in fields.iter().filter(|(_, says, _)| !says.is_empty()) {
                line[*field] = json!({ "says": says, "counts": won });
            }
            writeln!(out, "{line}")?;
            continue;
        }
        write!(out, "  {:<24}", opinion.source)?;
        for (field, says, won) in fields.iter().filter(|(_, says, _)| !says.is_empty()) {
            write!(out, " {field}={says}{}", if *won { "*" } else { "" })?;
        }
        if !opinion.labels.is_empty() {
            write!(out, " labels={}", opinion.labels.join(","))?;
        }
        writeln!(out)?;
    }
    Ok(())
}
