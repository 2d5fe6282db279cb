//! Why this number: the formula of a figure, its parts, and the way down to the records that it is made of.
//!
//! A month leads to its days, a day to its hours, an hour to its records. There the records are held against the rollup: equal counts and
//! equal fingerprints (`rollup`, 128 bits over position and bytes of each record) mean that these records and no others are in the sum.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use maud::{Markup, html};

use super::super::asked::Asked;
use super::super::{Portal, Problem, Viewer};
use super::frame::{self, Place, link, trail};
use super::number::{self, Unit, exact, query_time};
use super::usage::{meter, shown_name};
use super::{html, record, sessions};
use crate::clock::{Clock, DAY_US, HOUR_US, hour_of, utc_text};
use crate::config::{Meter, MeterColumn, MeterKind};
use crate::event::{Kind as RecordKind, UsageRecord};
use crate::ids::hex;
use crate::rollup::{Window, amount, fingerprint_of, shown};
use crate::store::{Correction, Filter, Group, Kind, Series, Sums};

/// Records that are read for an hour.
const RECORDS_MAX: usize = 200_000;
const BLOCKS_MAX: usize = 256;
/// Records that are listed.
const LISTED: usize = 100;
/// Ranges of seqs that are written out.
const RANGES_MAX: usize = 12;

type Rows = Vec<(Series, i64, Sums)>;

struct View {
    account: Option<String>,
    meter: Meter,
    from_us: i64,
    to_us: i64,
    is_operator: bool,
}

impl View {
    fn link(&self, from_us: i64, to_us: i64) -> String {
        let account = self.account.as_deref().filter(|_| self.is_operator);
        let (from, to) = (query_time(from_us), query_time(to_us));
        link(
            "/why",
            &[("account", account), ("meter", Some(&self.meter.name)), ("from", Some(&from)), ("to", Some(&to))],
        )
    }

    fn is_hour(&self) -> bool {
        self.to_us - self.from_us <= HOUR_US
    }

    fn is_day(&self) -> bool {
        !self.is_hour() && self.to_us - self.from_us <= DAY_US
    }

    fn title(&self) -> String {
        if self.is_hour() {
            format!("{}, {} to {}", number::day(self.from_us), number::hour(self.from_us), number::hour(self.to_us))
        } else if self.is_day() {
            number::day(self.from_us)
        } else if Window::Month.of(self.from_us).1 == self.from_us
            && crate::rollup::window_end(Window::Month, self.from_us) == self.to_us
        {
            number::month(self.from_us)
        } else {
            format!("{} to {}", number::day(self.from_us), number::day(self.to_us - 1))
        }
    }

    fn trail(&self) -> Markup {
        let (month_us, day_us) = (Window::Month.of(self.from_us).1, Window::Day.of(self.from_us).1);
        let account = self.account.as_deref().filter(|_| self.is_operator);
        let period = &utc_text(self.from_us)[..7];
        let mut steps = vec![(
            "Usage".to_owned(),
            link("/", &[("account", account), ("meter", Some(&self.meter.name)), ("period", Some(period))]),
        )];
        if self.is_day() || self.is_hour() {
            steps.push((
                number::month(month_us),
                self.link(month_us, crate::rollup::window_end(Window::Month, month_us)),
            ));
        }
        if self.is_hour() {
            steps.push((number::day(day_us), self.link(day_us, day_us + DAY_US)));
        }
        trail(&steps, &if self.is_hour() { number::hour(self.from_us) } else { self.title() })
    }
}

/// `/why`
pub(super) async fn page(State(portal): State<Arc<Portal>>, viewer: Viewer, uri: Uri) -> Result<Response, Problem> {
    let asked = Asked::of(&uri, &["account", "meter", "from", "to"])?;
    let now_us = Clock::anchored().now_us();
    let from_us = hour_of(asked.time("from")?.unwrap_or(Window::Month.of(now_us).1));
    let to_us = hour_of(asked.time("to")?.unwrap_or(crate::rollup::window_end(Window::Month, from_us)));
    if to_us <= from_us {
        return Err(Problem::bad("`to` is not later than `from`: the shortest time is an hour"));
    }
    let view = View {
        account: viewer.account(asked.text("account"))?,
        meter: meter(&portal, asked.text("meter"))?,
        from_us,
        to_us,
        is_operator: viewer.is_operator(),
    };
    let filter = Filter { account: view.account.clone(), from_us, to_us };
    let usage: Rows = portal.store.usage(&filter, Group::Hour).await?;
    let corrections = portal.store.corrections().await?;
    let sum = |takes: &dyn Fn(&Series) -> bool| -> i64 {
        let rows = usage.iter().filter(|(series, ..)| takes(series));
        shown(&view.meter, rows.map(|(series, _, sums)| amount(&view.meter, series, sums)).sum())
    };
    let unit = Unit::of(&view.meter);
    let total = sum(&|_| true);
    let whose = view.account.as_deref().unwrap_or("all accounts");
    let down = if view.is_hour() { records(&portal, &view, &filter, &usage).await? } else { pieces(&view, &usage) };
    let main = html! {
        (view.trail())
        div.title { div { h1 { "Why this number" } p.about { (shown_name(&view.meter.name)) " · " (view.title()) " · " (whose) } } }
        section.sum aria-labelledby="formula" {
            p.total { span.short { (unit.short(total)) } " " span.exact { (unit.exact(total)) } }
            h2 #formula { "How it is made" }
            p { (formula(&view.meter)) }
            (parts(&view, &usage, &corrections, total))
        }
        (down)
        section aria-labelledby="trust" {
            h2 #trust { "Why you can believe it" }
            ul.plain-list {
                li { "Each record has a place, gapless from 0: a missing one is seen, one that comes twice is dropped." }
                li { "Bytes are counted at the socket and held against the kernel's own count at every step." }
                @if matches!(view.meter.column, MeterColumn::Bytes(crate::units::Column::SentAcked)) { li { "What was written and never reached the client is not in it: only what the client's kernel confirmed." } }
                li { "Nothing is overwritten: a correction is another row, with who and why." }
            }
        }
    };
    Ok(html(frame::page(&viewer, Place::Usage, "Why this number", view.account.as_deref(), main)))
}

/// The meter in words.
fn formula(meter: &Meter) -> Markup {
    let column = MeterColumn::ALL.iter().find(|(_, column)| *column == meter.column).map_or("", |(name, _)| *name);
    let what = match meter.kind {
        MeterKind::Any => {
            "requests, and what sessions moved beyond their requests (TLS, HTTP/2 frames; all of raw TCP)"
        }
        MeterKind::Request => "requests",
        MeterKind::Session => "what sessions moved beyond their requests",
    };
    let lists = [
        ("protocol", &meter.protocols),
        ("country", &meter.countries),
        ("endpoint", &meter.endpoints),
        ("host", &meter.hosts),
    ];
    html! {
        code { (meter.name) } " is the sum of " code { (column) } " over " (what)
        @if meter.unbillable { ", billable or not" } @else { ", of everything that is billable" }
        @for (name, list) in lists { @if !list.is_empty() { ", where the " (name) " is " (list.join(" or ")) } } "."
    }
}

/// The figure as an addition.
fn parts(view: &View, usage: &Rows, corrections: &[Correction], total: i64) -> Markup {
    let unit = Unit::of(&view.meter);
    let part = |takes: &dyn Fn(&Series) -> bool| -> (i64, i64) {
        let rows: Vec<_> = usage.iter().filter(|(series, ..)| takes(series)).collect();
        let sum = rows.iter().map(|(series, _, sums)| amount(&view.meter, series, sums)).sum();
        // Records that add nothing to this meter are not what it is made of.
        let counted = rows.iter().filter(|(series, _, sums)| amount(&view.meter, series, sums) != 0);
        (shown(&view.meter, sum), counted.map(|(_, _, sums)| sums.records).sum())
    };
    let own = |series: &Series| series.correction.is_empty();
    let rows = [
        (
            "Requests",
            "what each exchange moved",
            part(&|series| own(series) && series.kind == Kind::Request && series.corrects.is_empty()),
        ),
        (
            "Sessions",
            "what connections moved beyond their requests",
            part(&|series| own(series) && series.kind == Kind::Session && series.corrects.is_empty()),
        ),
        (
            "Late records",
            "of months that were sealed before they came",
            part(&|series| own(series) && !series.corrects.is_empty()),
        ),
    ];
    html! {
        table.numbers.equation {
            thead { tr { th scope="col" { "Part" } th.n scope="col" { "Records" } th.n scope="col" { "Amount" } } }
            tbody {
                @for (name, what, (sum, records)) in rows.iter().filter(|(name, _, (sum, records))| *name != "Late records" || *sum != 0 || *records != 0) {
                    tr { th scope="row" { (name) span.note { (what) } } td.n { (exact(*records)) } td.n { (unit.exact(*sum)) } }
                }
                @for correction in corrections {
                    @let (sum, _) = part(&|series| series.correction == correction.id);
                    @if usage.iter().any(|(series, ..)| series.correction == correction.id) {
                        tr { th scope="row" { "Correction " (correction.id) span.note { (correction.actor) ", " (number::time(correction.at_us)) ": " (correction.reason) } } td.n { "–" } td.n { (unit.exact(sum)) } }
                    }
                }
            }
            tfoot { tr { th scope="row" { "Together" } td {} td.n { (unit.exact(total)) } } }
        }
    }
}

/// By day, or by hour: each leads further down.
fn pieces(view: &View, usage: &Rows) -> Markup {
    let (window, step_us) = if view.is_day() { (Window::Hour, HOUR_US) } else { (Window::Day, DAY_US) };
    let mut sums: BTreeMap<i64, (i64, i64)> = BTreeMap::new();
    for (series, hour_us, row) in usage {
        let (sum, records) = sums.entry(window.of(*hour_us).1).or_default();
        *sum += amount(&view.meter, series, row);
        *records += row.records;
    }
    let unit = Unit::of(&view.meter);
    html! {
        section aria-labelledby="pieces" {
            h2 #pieces { "What it adds up from, by " (if step_us == DAY_US { "day" } else { "hour" }) }
            @if sums.is_empty() { div.empty { p { strong { "There is no usage in this time." } } } }
            @else {
                table.numbers {
                    thead { tr { th scope="col" { (if step_us == DAY_US { "Day" } else { "Hour" }) } th.n scope="col" { "Records" } th.n scope="col" { "Amount" } } }
                    tbody { @for (from_us, (sum, records)) in &sums {
                        tr {
                            th scope="row" { a href=(view.link(*from_us, from_us + step_us)) { (if step_us == DAY_US { number::day(*from_us) } else { number::hour(*from_us) }) } }
                            td.n { (exact(*records)) }
                            td.n { (unit.exact(shown(&view.meter, *sum))) }
                        }
                    } }
                }
            }
        }
    }
}

/// The records of an hour, held against the rollup.
async fn records(portal: &Portal, view: &View, filter: &Filter, usage: &Rows) -> Result<Markup, Problem> {
    let Some(found) = portal.store.records(filter, RECORDS_MAX, BLOCKS_MAX).await? else {
        return Ok(
            html! { section { h2 { "Records" } p { "More than " (exact(RECORDS_MAX as i64)) " records lie in this hour; the export of the API has all of them." } } },
        );
    };
    let (mut counted, mut stored) = (Proof::default(), Proof::default());
    for (_, _, sums) in usage {
        counted.add(sums.records, sums.fingerprint);
    }
    for record in &found {
        stored.add(1, fingerprint_of(record));
    }
    let account = view.account.as_deref().filter(|_| view.is_operator);
    let of_meter: Vec<&UsageRecord> = found.iter().filter(|record| moved(&view.meter, record) != 0).collect();
    let unit = Unit::of(&view.meter);
    let is_late = usage.iter().any(|(series, ..)| !series.corrects.is_empty());
    Ok(html! {
        section aria-labelledby="records" {
            h2 #records { "The records of this hour" }
            @if stored == counted {
                p { span.badge.good { "Proven" } " These " strong { (exact(stored.records)) } " records and no others are in the sums of this hour: count and fingerprint " code { (stored.text()) } " are the same on both sides." }
            } @else if found.is_empty() {
                p { span.badge.idle { "Not kept" } " The sums of this hour are made of " strong { (exact(counted.records)) } " records with the fingerprint " code { (counted.text()) } ". Single records are kept for " (portal.details_keep_days) " days." }
            } @else {
                p { span.badge.warn { "Not all here" } " The sums of this hour are made of " strong { (exact(counted.records)) } " records (fingerprint " code { (counted.text()) } "), of which " strong { (exact(stored.records)) } " are here (" code { (stored.text()) } ")."
                    @if is_late { " Some belong to a month that was sealed before they came." } " Those that have just come show within seconds." }
            }
            (ranges(&found))
            @if !of_meter.is_empty() {
                h3 { "One by one" }
                table.numbers.cards {
                    thead { tr { th scope="col" { "At" } th scope="col" { "Record" } th scope="col" { "What" } th.n scope="col" { "It says" } } }
                    tbody { @for record in of_meter.iter().take(LISTED) {
                        tr {
                            th scope="row" { a href=(record::link_to(account, record)) { (number::time(record.at)) } }
                            td data-label="Record" { (record.node) " / " (record.epoch) " / " (record.shard) " / " (exact(record.seq)) }
                            td.long data-label="What" { @if record.kind() == RecordKind::Request { (sessions::request(record)) } @else { "Session of " (sessions::client(record)) } @if !record.billable { span.note { "not billed: " (record.reason().name()) } } }
                            td.n data-label="It says" { (unit.exact(moved(&view.meter, record))) }
                        }
                    } }
                }
                @if of_meter.len() > LISTED { p.quiet { "And " (exact((of_meter.len() - LISTED) as i64)) " more." } }
                p.quiet { "A session's record holds what its requests moved too. So that nothing is billed twice, only what goes beyond them counts." }
            }
        }
    })
}

/// What a record says in the meter's column.
fn moved(meter: &Meter, record: &UsageRecord) -> i64 {
    let is_close = record.phase() == crate::event::Phase::Close;
    let is_request = record.kind() == RecordKind::Request;
    match meter.column {
        MeterColumn::Bytes(column) => i64::try_from(record.deltas().get(column)).unwrap_or(i64::MAX),
        MeterColumn::Requests => {
            if is_close && is_request {
                record.folded.max(1)
            } else {
                0
            }
        }
        MeterColumn::Sessions => i64::from(is_close && !is_request),
        MeterColumn::SessionSeconds if is_close && !is_request => (record.at - record.started_at) / 1_000_000,
        MeterColumn::SessionSeconds => 0,
    }
}

/// How many, and which.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Proof {
    records: i64,
    lanes: [u32; 4],
}

impl Proof {
    fn add(&mut self, records: i64, fingerprint: [i64; 4]) {
        self.records += records;
        for (lane, more) in self.lanes.iter_mut().zip(fingerprint) {
            // Compared modulo 2³².
            *lane = lane.wrapping_add(u32::try_from(more.rem_euclid(1 << 32)).unwrap_or_default());
        }
    }

    fn text(&self) -> String {
        hex(&self.lanes.map(u32::to_be_bytes).concat())
    }
}

/// By stream: from which seq to which.
fn ranges(records: &[UsageRecord]) -> Markup {
    type Stream<'a> = (&'a str, i64, i32);
    let mut streams: BTreeMap<Stream<'_>, Vec<(i64, i64)>> = BTreeMap::new();
    for record in records {
        let ranges = streams.entry((&record.node, record.epoch, record.shard)).or_default();
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == record.seq => *last = record.seq,
            _ => ranges.push((record.seq, record.seq)),
        }
    }
    let text = |ranges: &[(i64, i64)]| {
        let one =
            |(first, last): &(i64, i64)| if first == last { first.to_string() } else { format!("{first}–{last}") };
        let mut text = ranges.iter().take(RANGES_MAX).map(one).collect::<Vec<_>>().join(", ");
        if ranges.len() > RANGES_MAX {
            text +=
                &format!(" … {} more, up to {}", ranges.len() - RANGES_MAX, ranges.last().map_or(0, |(_, last)| *last));
        }
        text
    };
    html! {
        @if !streams.is_empty() {
            table.numbers.cards {
                thead { tr { th scope="col" { "Node" } th.n scope="col" { "Epoch" } th.n scope="col" { "Shard" } th.n scope="col" { "Records" } th scope="col" { "Seqs" } } }
                tbody { @for ((node, epoch, shard), ranges) in &streams {
                    tr {
                        th scope="row" { (node) }
                        td.n data-label="Epoch" { (epoch) } td.n data-label="Shard" { (shard) }
                        td.n data-label="Records" { (exact(ranges.iter().map(|(first, last)| last - first + 1).sum())) }
                        td.seqs data-label="Seqs" { (text(ranges)) }
                    }
                } }
            }
        }
    }
}
