//! Tables that are questions themselves: `accounts` and `screening`; and records with their whole addresses. Whoever sees less of the
//! archive sees less in them.

use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::common::Result;
use datafusion::datasource::{ViewTable, provider_as_source};
use datafusion::logical_expr::{Expr, LogicalPlanBuilder, ScalarUDF};
use datafusion::prelude::col;

/// A table whose `client_ip` and `peer_ip` are read out of their encrypted form where they are kept in it, and a key is there.
pub fn with_addresses(kept: Arc<dyn TableProvider>, unsealed: &ScalarUDF) -> Result<Arc<dyn TableProvider>> {
    let schema = kept.schema();
    let shown = schema.fields().iter().map(|field| match field.name().as_str() {
        name @ ("client_ip" | "peer_ip") => {
            let sealed = format!("{name}_sealed");
            unsealed.call(vec![col(name), col(sealed), col("account"), col("at")]).alias(name)
        }
        name => col(name),
    });
    let plan =
        LogicalPlanBuilder::scan("kept", provider_as_source(kept), None)?.project(shown.collect::<Vec<Expr>>())?;
    Ok(Arc::new(ViewTable::new(plan.build()?, None)))
}

/// Name and definition.
pub const VIEWS: [(&str, &str); 2] = [
    (
        "accounts",
        // Bytes of requests are those of their conversations, bytes of sessions all of the socket's: the latter hold the former.
        "SELECT account, min(started_at) AS first_at, max(at) AS last_at, \
                sum(requests) AS requests, sum(request_received_bytes) AS request_received_bytes, \
                sum(request_sent_bytes) AS request_sent_bytes, sum(sessions) AS sessions, \
                sum(session_received_bytes) AS session_received_bytes, sum(session_sent_bytes) AS session_sent_bytes \
         FROM (SELECT account, started_at, at, \
                      CASE WHEN folded > 0 THEN folded WHEN phase = 'close' THEN 1 ELSE 0 END AS requests, \
                      received_app_bytes AS request_received_bytes, sent_app_bytes AS request_sent_bytes, \
                      0 AS sessions, 0 AS session_received_bytes, 0 AS session_sent_bytes FROM requests \
               UNION ALL \
               SELECT account, started_at, at, 0, 0, 0, CASE WHEN phase = 'close' THEN 1 ELSE 0 END, \
                      received_wire_bytes, sent_wire_bytes FROM sessions) \
         GROUP BY account",
    ),
    (
        "screening",
        // What rules said of each record that they did not clear.
        "SELECT 'request' AS kind, at, started_at, phase, session_id, request_id, account, endpoint, screening, screening_rule, \
                reason = 'screened' AS refused, country, region, city, asn, as_org, labels, client_ip, address_form, \
                received_wire_bytes, sent_wire_bytes, geo_epoch, accounts_version \
         FROM requests WHERE screening IN ('match', 'indeterminate') \
         UNION ALL \
         SELECT 'session', at, started_at, phase, session_id, NULL, account, endpoint, screening, screening_rule, \
                reason = 'screened', country, region, city, asn, as_org, labels, client_ip, address_form, \
                received_wire_bytes, sent_wire_bytes, geo_epoch, accounts_version \
         FROM sessions WHERE screening IN ('match', 'indeterminate')",
    ),
];
