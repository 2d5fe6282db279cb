//! The audit of a time, an account or a node: what the records that the ledger keeps come to, what usage says, and each cause by name.

use maud::{Markup, html};

use super::super::asked::Asked;
use super::number::{self, Unit, exact};
use crate::rollup::{Cause, Part, PartAudit};

/// Rows that are listed of each table.
const LISTED: usize = 200;

/// What is asked for, to be changed.
pub(super) fn filter(asked: &Asked) -> Markup {
    let fields = [
        ("from", "From (UTC)", "2026-11-23T14:00:00Z"),
        ("to", "To (UTC)", "2026-11-23T15:00:00Z"),
        ("account", "Account", "acme"),
        ("node", "Node", "edge-1"),
    ];
    html! {
        details.filter open[fields.iter().any(|(name, ..)| asked.text(name).is_some())] {
            summary { "A time, an account or a node" }
            form.choose method="get" action="/audit" {
                @for (name, title, example) in fields { label { span { (title) } input name=(name) value=(asked.text(name).unwrap_or_default()) placeholder=(example) autocomplete="off"; } }
                button type="submit" { "Audit" }
            }
        }
    }
}

/// All of it.
pub(super) fn page(asked: &Asked, part: &Part, audit: &PartAudit) -> Markup {
    html! {
        div.title {
            div { h1 { "Audit" } p.about { (about(part)) } }
            p.badges {
                @if audit.unexplained.is_empty() { span.badge.good { "Every byte is explained" } }
                @else { span.badge.bad { (audit.unexplained.len()) " differences are not explained" } }
                a.badge.idle href="/audit" { "Audit everything" }
            }
        }
        (filter(asked))
        @if !audit.unexplained.is_empty() {
            section aria-labelledby="unexplained" { h2 #unexplained { "Not explained" } ul.reasons.bad { @for line in audit.unexplained.iter().take(LISTED) { li { (line) } } } }
        }
        @if part.node.is_none() { section aria-labelledby="usage" { h2 #usage { "Records against usage" } (usage(audit)) } }
        section aria-labelledby="records" { h2 #records { "What records say" } (records(audit)) }
        section aria-labelledby="explained" { h2 #explained { "What explains the differences" } (causes(audit)) }
        p.quiet { code { "weir audit --from … --to … --account … --node …" } " reads the journal, the files or the topic again instead of what the ledger keeps." }
    }
}

fn about(part: &Part) -> Markup {
    html! {
        (part.account.as_deref().unwrap_or("all accounts"))
        @if let Some(node) = &part.node { " · node " (node) }
        @if part.from_us != i64::MIN { " · from " (number::time(part.from_us)) }
        @if part.to_us != i64::MAX { " · to " (number::time(part.to_us)) }
    }
}

fn usage(audit: &PartAudit) -> Markup {
    html! {
        @if audit.usage.is_empty() { p.quiet { "Nothing moved." } }
        @else {
            table.numbers.cards {
                caption { "Octets of the conversation sent, and those of them that clients acknowledged" }
                thead { tr { th scope="col" { "Account" } th.n scope="col" { "Sent, by records" } th.n scope="col" { "Sent, by usage" } th.n scope="col" { "Difference" } th.n scope="col" { "Acknowledged" } } }
                tbody { @for (account, (expected, said)) in audit.usage.iter().take(LISTED) {
                    tr { th scope="row" { (account) }
                        td.n data-label="Sent, by records" { (exact(expected[4])) } td.n data-label="Sent, by usage" { (exact(said[4])) }
                        td.n data-label="Difference" { (exact(said[4] - expected[4])) } td.n data-label="Acknowledged" { (exact(said[6])) } }
                } }
            }
            (rest(audit.usage.len()))
        }
    }
}

fn records(audit: &PartAudit) -> Markup {
    html! {
        @if audit.records.is_empty() { p.quiet { "There are none of this time, or they are no longer kept." } }
        @else {
            table.numbers.cards {
                thead { tr { th scope="col" { "Node" } th scope="col" { "Account" } th.n scope="col" { "Records" } th.n scope="col" { "Sessions sent" } th.n scope="col" { "Requests sent" } th.n scope="col" { "Sessions acknowledged" } th.n scope="col" { "Requests acknowledged" } } }
                tbody { @for ((node, account), tally) in audit.records.iter().take(LISTED) {
                    tr { th scope="row" { (node) } td data-label="Account" { (account) } td.n data-label="Records" { (exact(tally.records)) }
                        td.n data-label="Sessions sent" { (exact(tally.sessions[4])) } td.n data-label="Requests sent" { (exact(tally.requests[4])) }
                        td.n data-label="Sessions acknowledged" { (exact(tally.sessions[6])) } td.n data-label="Requests acknowledged" { (exact(tally.requests[6])) } }
                } }
            }
            (rest(audit.records.len()))
        }
    }
}

fn causes(audit: &PartAudit) -> Markup {
    html! {
        @if audit.explained.is_empty() { p.quiet { "There are none." } }
        @else {
            table.numbers.cards {
                thead { tr { th scope="col" { "Cause" } th scope="col" { "Node" } th scope="col" { "Account" } th.n scope="col" { "Records" } th.n scope="col" { "Received" } th.n scope="col" { "Sent" } th scope="col" { "More" } } }
                tbody { @for Cause { cause, node, account, records, received_bytes, sent_bytes, note } in audit.explained.iter().take(LISTED) {
                    tr { th scope="row" { (cause.replace('_', " ")) } td data-label="Node" { (node) } td data-label="Account" { (account) }
                        td.n data-label="Records" { (exact(*records)) } td.n data-label="Received" { (Unit::Bytes.exact(*received_bytes)) }
                        td.n data-label="Sent" { (Unit::Bytes.exact(*sent_bytes)) } td.long data-label="More" { (note) } }
                } }
            }
            (rest(audit.explained.len()))
        }
    }
}

fn rest(rows: usize) -> Markup {
    html! { @if rows > LISTED { p.quiet { "And " (rows - LISTED) " more: " code { "/v1/audit" } " lists them." } } }
}
