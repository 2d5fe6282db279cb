//! Audit: every step side by side, as a picture and a table, and what explains each difference. For operators.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use maud::{Markup, html};

use super::super::asked::Asked;
use super::super::audits;
use super::super::{Portal, Problem, Viewer};
use super::audit_part;
use super::frame::{self, Place};
use super::html;
use super::number::{self, Unit, exact};
use crate::rollup::{Step, Tally, nodes, tally_of};
use crate::store::{Found, Gap};

/// Sentences that are listed.
const LISTED: usize = 50;

/// `/audit`
pub(super) async fn page(State(portal): State<Arc<Portal>>, viewer: Viewer, uri: Uri) -> Result<Response, Problem> {
    viewer.operator()?;
    let asked = Asked::of(&uri, &audits::PARAMETERS)?;
    if let Some(part) = audits::part(&asked)? {
        let audit = audits::of_part(&portal, &part).await?;
        let main = audit_part::page(&asked, &part, &audit);
        return Ok(html(frame::page(&viewer, Place::Audit, "Audit", None, main)));
    }
    let (look, audit) = audits::whole(&portal.store).await?;
    let corrections = portal.store.corrections().await?;
    let (tally, by_node) = tallies(&look.found).map_err(|why| {
        tracing::error!(why, "the page of the audit cannot be made");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the ledger cannot be audited right now: its log says why")
    })?;
    let usage = audit.steps.iter().find(|step| step.name == "usage");
    let main = html! {
        div.title {
            div { h1 { "Audit" } p.about { "every step from the kernel's socket to usage, since the ledger began" } }
            p.badges {
                @if audit.unexplained.is_empty() { span.badge.good { "Every byte is explained" } }
                @else { span.badge.bad { (audit.unexplained.len()) " differences are not explained" } }
            }
        }
        (audit_part::filter(&asked))
        section aria-labelledby="steps" {
            h2 #steps { "Side by side" }
            (flow(&tally, usage))
            (table(&tally, &audit.steps))
        }
        @if !audit.unexplained.is_empty() {
            section aria-labelledby="unexplained" { h2 #unexplained { "Not explained" } ul.reasons.bad { @for line in audit.unexplained.iter().take(LISTED) { li { (line) } } }
                p.quiet { "Run " code { "weir audit" } ": it reads the source again and names the first record that differs." } }
        }
        section aria-labelledby="explained" {
            h2 #explained { "What explains the differences" }
            @if audit.explained.is_empty() { p.quiet { "There are none." } }
            ul.reasons { @for line in audit.explained.iter().take(LISTED) { li { (line) } } }
            @if audit.explained.len() > LISTED { p.quiet { "And " (audit.explained.len() - LISTED) " more: " code { "weir audit --json" } " lists them." } }
        }
        section aria-labelledby="nodes" {
            h2 #nodes { "Nodes" }
            (node_table(&look.found, &by_node))
            (gap_table(&look.found.gaps))
        }
        @if !corrections.is_empty() {
            section aria-labelledby="corrections" {
                h2 #corrections { "Corrections by hand" }
                table.numbers.cards {
                    thead { tr { th scope="col" { "Correction" } th scope="col" { "When" } th scope="col" { "Who" } th scope="col" { "What" } th scope="col" { "Why" } } }
                    tbody { @for correction in corrections.iter().rev().take(LISTED) {
                        tr { th scope="row" { (correction.id) } td data-label="When" { (number::time(correction.at_us)) } td data-label="Who" { (correction.actor) } td.long data-label="What" { (correction.what) } td.long data-label="Why" { (correction.reason) } }
                    } }
                }
            }
        }
        p.quiet { code { "weir audit" } " does more than this page: it reads the journal, the files or the topic again from the oldest record." }
    };
    Ok(html(frame::page(&viewer, Place::Audit, "Audit", None, main)))
}

type ByNode<'a> = BTreeMap<&'a str, (Tally, i64, i64)>;

/// Sums over all records, and by node with duplicates and broken links.
fn tallies(found: &Found) -> Result<(Tally, ByNode<'_>), String> {
    let (mut all, mut by_node) = (Tally::default(), ByNode::new());
    for row in &found.streams {
        let tally = tally_of(row)?;
        all.join(&tally);
        let (sum, duplicates, broken) = by_node.entry(&row.place.node).or_default();
        sum.join(&tally);
        *duplicates += row.duplicates;
        *broken += row.links_broken;
    }
    Ok((all, by_node))
}

/// The steps as a picture: a box each, and what holds between two of them.
fn flow(tally: &Tally, usage: Option<&Step>) -> Markup {
    let sent = |n: i64| html! { span.short { (Unit::Bytes.short(n)) } span.exact { (Unit::Bytes.exact(n)) } };
    let usage_sent = usage.map_or(0, |step| step.sessions[4]);
    let steps: [(&str, &str, Markup, bool); 4] = [
        (
            "Kernel",
            "TCP_INFO of every socket",
            html! { span.short { (exact(tally.session_closes)) } span.exact { "sessions compared" } },
            tally.differences == 0,
        ),
        ("Sessions", "sent, as their records say", sent(tally.sessions[4]), true),
        ("Requests", "sent inside of sessions", sent(tally.requests[4]), true),
        ("Usage", "sent, as it is billed from", sent(usage_sent), usage_sent == tally.sessions[4]),
    ];
    let between = [
        if tally.differences == 0 {
            "every one agrees".to_owned()
        } else {
            format!("{} differ", exact(tally.differences))
        },
        format!("{} beyond requests", Unit::Bytes.short(tally.sessions[4] - tally.requests[4] + tally.folded[4])),
        if usage_sent == tally.sessions[4] {
            "equal".to_owned()
        } else {
            format!("{} apart", Unit::Bytes.short(usage_sent - tally.sessions[4]))
        },
    ];
    html! {
        ol.flow {
            @for (n, (name, what, figure, good)) in steps.iter().enumerate() {
                li.bad[!*good] {
                    strong { (name) } span.note { (what) } p { (figure) }
                    @if let Some(between) = between.get(n) { span.between { (between) } }
                }
            }
        }
    }
}

fn table(tally: &Tally, steps: &[Step]) -> Markup {
    html! {
        table.numbers.cards {
            caption { "Octets of the conversation (HTTP, without TLS), and how many records say so" }
            thead { tr { th scope="col" { "Step" } th.n scope="col" { "Records" } th.n scope="col" { "Sessions received" } th.n scope="col" { "Sessions sent" } th.n scope="col" { "Requests received" } th.n scope="col" { "Requests sent" } } }
            tbody { @for step in steps {
                tr { th scope="row" { (if step.name == "usage" { "Usage" } else { "Records" }) }
                    td.n data-label="Records" { (exact(step.records)) }
                    td.n data-label="Sessions received" { (exact(step.sessions[1])) } td.n data-label="Sessions sent" { (exact(step.sessions[4])) }
                    td.n data-label="Requests received" { (exact(step.requests[1])) } td.n data-label="Requests sent" { (exact(step.requests[4])) } }
            } }
        }
        p.quiet { (exact(tally.session_closes)) " sessions and " (exact(tally.request_closes)) " requests have ended. Written to sockets: " (Unit::Bytes.exact(tally.sessions[5])) ", of it acknowledged: " (Unit::Bytes.exact(tally.sessions[6])) "." }
    }
}

fn node_table(found: &Found, by_node: &ByNode<'_>) -> Markup {
    let nodes = nodes(&found.streams, &found.gaps, &found.periods, &found.lost);
    html! {
        @if nodes.is_empty() { div.empty { p { strong { "No record has come yet." } } p { "Start " code { "weir run" } " beside this ledger, and send a request through it." } } }
        @else {
            table.numbers.cards {
                thead { tr { th scope="col" { "Node" } th scope="col" { "Complete up to" } th.n scope="col" { "Records" } th.n scope="col" { "Missing" } th.n scope="col" { "Came twice" } th.n scope="col" { "Recovered" } th.n scope="col" { "In doubt" } th scope="col" { "Chain" } } }
                tbody { @for node in &nodes {
                    @let (tally, duplicates, broken) = by_node.get(node.name.as_str()).copied().unwrap_or_default();
                    tr { th scope="row" { (node.name) }
                        td data-label="Complete up to" { @match node.complete_until_us { Some(at_us) => { (number::time(at_us)) }, None => { "everything came" } }
                            @if let Some(lost) = found.lost.iter().rev().find(|lost| lost.node == node.name) {
                                " " span.quiet { "What it had when last heard of " (number::time(lost.until_us)) " is lost, says " (lost.actor) ": " (lost.reason) }
                            }
                        }
                        td.n data-label="Records" { (exact(tally.records)) }
                        td.n data-label="Missing" { (crate::units::grouped(node.missing)) }
                        td.n data-label="Came twice" { (exact(duplicates)) }
                        td.n data-label="Recovered" { (exact(tally.recovered)) }
                        td.n data-label="In doubt" { (Unit::Bytes.exact(tally.uncertain_bytes)) }
                        td data-label="Chain" { @if broken == 0 { "whole" } @else { span.badge.bad { (broken) " links broken" } } } }
                } }
            }
        }
    }
}

fn gap_table(gaps: &[Gap]) -> Markup {
    html! {
        @if !gaps.is_empty() {
            h3 { "Open gaps" }
            table.numbers.cards {
                thead { tr { th scope="col" { "Node" } th.n scope="col" { "Epoch / shard" } th.n scope="col" { "Seqs" } th.n scope="col" { "Records" } th scope="col" { "Why" } th scope="col" { "Between" } } }
                tbody { @for gap in gaps.iter().take(LISTED) {
                    tr { th scope="row" { (gap.place.node) } td.n data-label="Epoch / shard" { (gap.place.epoch) " / " (gap.place.shard) }
                        td.n data-label="Seqs" { (gap.first_seq) "–" (gap.next_seq - 1) } td.n data-label="Records" { (exact(gap.next_seq - gap.first_seq)) }
                        td data-label="Why" { (gap.cause.replace('_', " ")) }
                        td data-label="Between" { @if gap.from_us > 0 { (number::time(gap.from_us)) } @else { "the beginning" } " and " (number::time(gap.to_us)) } }
                } }
            }
        }
    }
}
