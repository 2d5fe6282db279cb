//! The reports: what each is for, and the questions that it is made of.
//!
//! Bytes of requests are those of their HTTP conversations (`app`), bytes of sessions all that went through the socket (`wire`), requests
//! included: the two stand in tables of their own and are never added up. A request that lives long has several rows; it is counted
//! where it closes. Folded rows stand for as many as they say.

/// What a picture of a part shows: bars of a column, each called by another.
#[derive(Clone, Copy, Debug)]
pub struct Chart {
    /// Column with the names.
    pub of: &'static str,
    /// Column with the lengths.
    pub by: &'static str,
}

/// One table of a report.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// For machines.
    pub name: &'static str,
    /// For people.
    pub title: &'static str,
    /// The question.
    pub sql: &'static str,
    /// Where a picture says it better.
    pub chart: Option<Chart>,
}

/// A report.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// As it is asked for.
    pub name: &'static str,
    /// For people.
    pub title: &'static str,
    /// What it answers.
    pub about: &'static str,
    /// A parameter that it takes; a report of records without it is about an `--account`.
    pub parameter: Option<&'static str>,
    /// It looks at all of the past, to tell what is new in the time asked about.
    pub looks_back: bool,
    /// Its tables, the most important first.
    pub parts: &'static [Part],
}

/// All of them.
pub const REPORTS: &[Report] = &[
    Report {
        name: "screening",
        title: "Screening",
        about: "What the rules matched or could not clear when it happened, and whether it was refused.",
        parameter: None,
        looks_back: false,
        parts: &[
            Part {
                name: "rules",
                title: "By rule",
                sql: "SELECT screening_rule AS rule, screening AS verdict, kind, refused, count(*) AS records, \
                      count(DISTINCT account) AS accounts, sum(received_wire_bytes) AS received_bytes, \
                      sum(sent_wire_bytes) AS sent_bytes, min(at) AS first_at, max(at) AS last_at FROM screening \
                      GROUP BY screening_rule, screening, kind, refused ORDER BY records DESC, rule, verdict, kind, refused",
                chart: Some(Chart { of: "rule", by: "records" }),
            },
            Part {
                name: "accounts",
                title: "By account and country",
                sql: "SELECT account, country, screening AS verdict, kind, refused, count(*) AS records, \
                      sum(received_wire_bytes) AS received_bytes, sum(sent_wire_bytes) AS sent_bytes FROM screening \
                      GROUP BY account, country, screening, kind, refused \
                      ORDER BY records DESC, account, country, verdict, kind, refused",
                chart: None,
            },
            Part {
                name: "latest",
                title: "The latest 1,000",
                sql: "SELECT at, kind, session_id, request_id, account, endpoint, screening AS verdict, screening_rule AS rule, \
                      refused, country, region, asn, as_org, labels, client_ip, received_wire_bytes AS received_bytes, \
                      sent_wire_bytes AS sent_bytes FROM screening ORDER BY at DESC, session_id, request_id LIMIT 1000",
                chart: None,
            },
        ],
    },
    Report {
        name: "rescreening",
        title: "Screening again",
        about: "What the rules of today say of the records of then, and where that is something else.",
        parameter: None,
        looks_back: false,
        parts: &[
            Part {
                name: "differences",
                title: "What is different",
                sql: "SELECT then_verdict, then_rule, now_verdict, now_rule, kind, count(*) AS records, \
                      count(DISTINCT account) AS accounts, sum(received_wire_bytes) AS received_bytes, \
                      sum(sent_wire_bytes) AS sent_bytes, min(at) AS first_at, max(at) AS last_at FROM rescreened \
                      WHERE then_verdict <> now_verdict OR then_rule <> now_rule \
                      GROUP BY then_verdict, then_rule, now_verdict, now_rule, kind \
                      ORDER BY records DESC, then_verdict, then_rule, now_verdict, now_rule, kind",
                chart: None,
            },
            Part {
                name: "rules",
                title: "Rules, then and now",
                sql: "SELECT rule, verdict, sum(then) AS records_then, sum(now) AS records_now, sum(now) - sum(then) AS difference \
                      FROM (SELECT then_rule AS rule, then_verdict AS verdict, 1 AS then, 0 AS now FROM rescreened \
                            WHERE then_verdict <> 'clear' \
                            UNION ALL SELECT now_rule, now_verdict, 0, 1 FROM rescreened WHERE now_verdict <> 'clear') \
                      GROUP BY rule, verdict ORDER BY rule, verdict",
                chart: None,
            },
            Part {
                name: "latest",
                title: "The latest 1,000 of them",
                sql: "SELECT at, kind, session_id, request_id, account, then_verdict, then_rule, now_verdict, now_rule, country, \
                      region, asn, labels, client_ip, received_wire_bytes AS received_bytes, sent_wire_bytes AS sent_bytes \
                      FROM rescreened WHERE then_verdict <> now_verdict OR then_rule <> now_rule \
                      ORDER BY at DESC, session_id, request_id LIMIT 1000",
                chart: None,
            },
        ],
    },
    Report {
        name: "residency",
        title: "Where data went",
        about: "Bytes by country and region of the client, and by what was reached.",
        parameter: None,
        looks_back: false,
        parts: &[
            Part {
                name: "countries",
                title: "Connections by country and region",
                sql: "SELECT country, region, count(DISTINCT session_id) AS sessions, sum(received_wire_bytes) AS received_bytes, \
                      sum(sent_wire_bytes) AS sent_bytes FROM sessions GROUP BY country, region \
                      ORDER BY sent_bytes DESC, country, region",
                chart: Some(Chart { of: "country", by: "sent_bytes" }),
            },
            Part {
                name: "endpoints",
                title: "Requests by country, region and endpoint",
                sql: "SELECT country, region, account, endpoint, \
                      sum(CASE WHEN folded > 0 THEN folded WHEN phase = 'close' THEN 1 ELSE 0 END) AS requests, \
                      sum(received_app_bytes) AS received_bytes, sum(sent_app_bytes) AS sent_bytes FROM requests \
                      GROUP BY country, region, account, endpoint ORDER BY sent_bytes DESC, country, region, account, endpoint",
                chart: None,
            },
        ],
    },
    Report {
        name: "sources",
        title: "Where traffic came from",
        about: "Networks and anonymisers, by account.",
        parameter: None,
        looks_back: false,
        parts: &[
            Part {
                name: "networks",
                title: "Networks",
                sql: "SELECT account, asn, as_org, country, count(DISTINCT session_id) AS sessions, \
                      count(DISTINCT coalesce(client_ip, client_ip_sealed)) AS addresses, \
                      sum(received_wire_bytes) AS received_bytes, sum(sent_wire_bytes) AS sent_bytes FROM sessions \
                      GROUP BY account, asn, as_org, country ORDER BY sent_bytes DESC, account, asn, as_org, country",
                chart: Some(Chart { of: "as_org", by: "sent_bytes" }),
            },
            Part {
                name: "anonymisers",
                title: "Anonymisers and other labels",
                sql: "SELECT account, label, count(DISTINCT session_id) AS sessions, sum(received_wire_bytes) AS received_bytes, \
                      sum(sent_wire_bytes) AS sent_bytes \
                      FROM (SELECT account, session_id, received_wire_bytes, sent_wire_bytes, unnest(labels) AS label FROM sessions) \
                      GROUP BY account, label ORDER BY sessions DESC, account, label",
                chart: None,
            },
        ],
    },
    Report {
        name: "subject",
        title: "Everything held about a subject",
        about: "All records of an address (--param address=192.0.2.7), of an account (--account acme), or of both; every column.",
        parameter: Some("address"),
        looks_back: false,
        parts: &[
            Part {
                name: "requests",
                title: "Requests",
                sql: "SELECT * FROM requests WHERE $address IS NULL OR client_ip = $address OR peer_ip = $address ORDER BY at, seq",
                chart: None,
            },
            Part {
                name: "sessions",
                title: "Sessions",
                sql: "SELECT * FROM sessions WHERE $address IS NULL OR client_ip = $address OR peer_ip = $address ORDER BY at, seq",
                chart: None,
            },
        ],
    },
    Report {
        name: "top-talkers",
        title: "Who moved most",
        about: "The 100 accounts and the 100 addresses that moved most bytes.",
        parameter: None,
        looks_back: false,
        parts: &[
            Part {
                name: "accounts",
                title: "Accounts",
                sql: "SELECT account, count(DISTINCT session_id) AS sessions, sum(received_wire_bytes) AS received_bytes, \
                      sum(sent_wire_bytes) AS sent_bytes FROM sessions GROUP BY account \
                      ORDER BY sum(received_wire_bytes) + sum(sent_wire_bytes) DESC, account LIMIT 100",
                chart: Some(Chart { of: "account", by: "sent_bytes" }),
            },
            Part {
                name: "addresses",
                title: "Addresses",
                sql: "SELECT client_ip, account, country, asn, as_org, count(DISTINCT session_id) AS sessions, \
                      sum(received_wire_bytes) AS received_bytes, sum(sent_wire_bytes) AS sent_bytes FROM sessions \
                      WHERE client_ip IS NOT NULL GROUP BY client_ip, account, country, asn, as_org \
                      ORDER BY sum(received_wire_bytes) + sum(sent_wire_bytes) DESC, client_ip, account LIMIT 100",
                chart: None,
            },
        ],
    },
    Report {
        name: "new-sources",
        title: "Sources never seen before",
        about: "Networks and countries that an account's traffic came from for the first time in the time asked about.",
        parameter: None,
        looks_back: true,
        parts: &[
            Part {
                name: "networks",
                title: "Networks",
                sql: "SELECT account, asn, as_org, country, min(started_at) AS first_at, count(DISTINCT session_id) AS sessions, \
                      sum(received_wire_bytes) AS received_bytes, sum(sent_wire_bytes) AS sent_bytes FROM sessions \
                      GROUP BY account, asn, as_org, country HAVING min(started_at) >= $from \
                      ORDER BY first_at, account, asn, as_org, country",
                chart: None,
            },
            Part {
                name: "countries",
                title: "Countries",
                sql: "SELECT account, country, min(started_at) AS first_at, count(DISTINCT session_id) AS sessions, \
                      sum(received_wire_bytes) AS received_bytes, sum(sent_wire_bytes) AS sent_bytes FROM sessions \
                      GROUP BY account, country HAVING min(started_at) >= $from ORDER BY first_at, account, country",
                chart: None,
            },
        ],
    },
    Report {
        name: "errors",
        title: "What went wrong",
        about: "Requests that failed, by account, endpoint, status and why they ended.",
        parameter: None,
        looks_back: false,
        parts: &[
            Part {
                name: "endpoints",
                title: "By endpoint",
                sql: "SELECT account, endpoint, status, \"end\", reason, \
                      sum(CASE WHEN folded > 0 THEN folded ELSE 1 END) AS requests, sum(sent_app_bytes) AS sent_bytes, \
                      min(at) AS first_at, max(at) AS last_at FROM requests \
                      WHERE phase = 'close' AND (status >= 500 OR \"end\" NOT IN ('done', '')) \
                      GROUP BY account, endpoint, status, \"end\", reason \
                      ORDER BY requests DESC, account, endpoint, status, \"end\", reason",
                chart: None,
            },
            Part {
                name: "hours",
                title: "By hour",
                sql: "SELECT date_trunc('hour', at) AS hour, sum(CASE WHEN folded > 0 THEN folded ELSE 1 END) AS requests \
                      FROM requests WHERE phase = 'close' AND (status >= 500 OR \"end\" NOT IN ('done', '')) \
                      GROUP BY date_trunc('hour', at) ORDER BY hour",
                chart: Some(Chart { of: "hour", by: "requests" }),
            },
        ],
    },
    Report {
        name: "access",
        title: "Who looked",
        about: "Every question and report, who asked it and why, and how it ended, or those about an address (--param address=192.0.2.7); the log is verified.",
        parameter: Some("address"),
        looks_back: false,
        parts: &[Part {
            name: "questions",
            title: "Questions",
            sql: "SELECT seq, at, who, via, account, what, purpose, sql, parameters, \"from\", \"to\", outcome, rows, took_ms \
                  FROM access ORDER BY seq",
            chart: None,
        }],
    },
    Report {
        name: "retention",
        title: "What is held, and for how long",
        about: "Rows by table, what grew too old and is gone, what was erased, and what a legal hold keeps.",
        parameter: None,
        looks_back: false,
        parts: &[
            Part {
                name: "held",
                title: "Held",
                sql: "SELECT table_name, files, rows, file_bytes, first_at, last_at, kept FROM held ORDER BY table_name",
                chart: Some(Chart { of: "table_name", by: "rows" }),
            },
            Part {
                name: "expired",
                title: "Grown too old",
                sql: "SELECT table_name, rows, received_bytes, sent_bytes FROM expired ORDER BY table_name",
                chart: None,
            },
            Part {
                name: "erased",
                title: "Erased",
                sql: "SELECT at, kind, actor, keys, files, rows, subject FROM erased ORDER BY at",
                chart: None,
            },
            Part {
                name: "holds",
                title: "Legal holds",
                sql: "SELECT name, account, from_at, to_at, reason, actor, at FROM holds ORDER BY name",
                chart: None,
            },
        ],
    },
];

/// Rules by which records were judged when they were made, asked for beside `rescreening`.
pub const RULES_THEN: &str =
    "SELECT DISTINCT screening_rule AS rule FROM screening WHERE screening_rule <> '' ORDER BY rule";

/// Versions of what records were enriched with: asked for beside every report of records.
pub const VERSIONS: &str = "SELECT geo_epoch, accounts_version, count(*) AS records, min(at) AS first_at, max(at) AS last_at \
     FROM (SELECT geo_epoch, accounts_version, at FROM requests UNION ALL SELECT geo_epoch, accounts_version, at FROM sessions) \
     GROUP BY geo_epoch, accounts_version ORDER BY first_at, geo_epoch, accounts_version";
