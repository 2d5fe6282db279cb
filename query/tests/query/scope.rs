//! Who may see one account sees nothing of another, whatever is asked, and learns nothing from what fails.

use crate::world::world;

const SCOPE: [&str; 2] = ["--account", "account-1"];

/// None of these may show a word of another account's, or fail because of one.
const ESCAPES: &[&str] = &[
    "SELECT * FROM requests",
    "SELECT DISTINCT account FROM requests",
    "SELECT DISTINCT account FROM sessions UNION SELECT DISTINCT account FROM nodes",
    "SELECT account FROM requests WHERE account = 'account-0'",
    "SELECT account FROM requests WHERE account <> 'account-1' OR 1 = 1",
    "SELECT account FROM requests OR_ WHERE true OR account = 'account-0'",
    "SELECT account, path FROM requests WHERE account LIKE '%0' OR path LIKE '%account-0%'",
    "SELECT * FROM accounts",
    "SELECT * FROM screening",
    "SELECT min(account), max(account), min(path), max(path) FROM requests",
    "SELECT (SELECT max(account) FROM sessions)",
    "SELECT r.account FROM requests r JOIN sessions s ON r.session_id = s.session_id",
    "SELECT r.account FROM requests r CROSS JOIN (SELECT 1) x WHERE r.account IN (SELECT account FROM accounts)",
    "WITH x AS (SELECT * FROM requests) SELECT account FROM x",
    "WITH RECURSIVE x AS (SELECT account FROM requests UNION ALL SELECT account FROM x WHERE false) SELECT account FROM x",
    "SELECT account FROM requests EXCEPT SELECT 'account-1'",
    "SELECT account FROM weir.public.requests",
    "SELECT account FROM datafusion.public.requests",
    "SELECT account FROM public.requests",
    "SELECT account FROM requests ORDER BY account LIMIT 1",
    "SELECT first_value(account) OVER (ORDER BY account) FROM requests",
    "SELECT account, count(*) FROM requests GROUP BY GROUPING SETS ((account), ())",
    "SELECT account FROM requests TABLESAMPLE SYSTEM (100)",
    "SELECT * FROM kept",
    "SELECT view_definition FROM information_schema.views",
    // An error could say something of a row that is not shown, in its text or by being one.
    "SELECT count(*) FROM requests WHERE CAST(path AS BIGINT) > 0",
    "SELECT CAST(account AS BIGINT) FROM requests",
    "SELECT CAST(path AS BIGINT) FROM requests WHERE account = 'account-0'",
    "SELECT arrow_cast(account, 'Int64') FROM sessions",
    "SELECT date_trunc(account, at) FROM requests",
    "SELECT to_timestamp(path) FROM requests",
    "SELECT decode(path, 'hex') FROM requests",
    "SELECT ip_in(client_ip, path) FROM requests",
    "SELECT regexp_like('x', path || '(') FROM requests",
    "SELECT count(*) FROM sessions ORDER BY CAST(max(sni) AS BIGINT)",
    // What there is to know of tables, settings and functions.
    "SELECT * FROM information_schema.tables",
    "SELECT * FROM information_schema.columns",
    "SELECT * FROM information_schema.df_settings",
    "SELECT * FROM information_schema.schemata",
    "SHOW TABLES",
    "SHOW COLUMNS FROM requests",
    "SHOW ALL",
    "DESCRIBE requests",
    // Ways out of the archive, and into others' files.
    "COPY requests TO '/tmp/weir-stolen.csv'",
    "COPY (SELECT * FROM requests) TO '/tmp/weir-stolen.csv' STORED AS CSV",
    "CREATE EXTERNAL TABLE stolen STORED AS PARQUET LOCATION 'weir://archive/requests/'",
    "SELECT account FROM 'weir://archive/requests/'",
    "SELECT account FROM 'requests/'",
    "SET datafusion.catalog.information_schema = false",
    "EXPLAIN SELECT * FROM requests",
    "EXPLAIN ANALYZE VERBOSE SELECT * FROM requests",
    "PREPARE p AS SELECT account FROM requests",
    // From inside other parts of a statement.
    "SELECT (SELECT max(s.account) FROM sessions s WHERE s.account <> r.account) FROM requests r LIMIT 5",
    "SELECT account FROM requests r WHERE EXISTS (SELECT 1 FROM sessions s WHERE s.account = 'account-0')",
    "SELECT account FROM (SELECT * FROM sessions LIMIT 100000) WHERE account > 'account-1'",
    "SELECT l.account FROM (SELECT 1) x CROSS JOIN LATERAL (SELECT account FROM accounts) l",
    "SELECT string_agg(DISTINCT account, ' '), array_agg(DISTINCT sni) FROM sessions",
    "SELECT account FROM sessions INTERSECT SELECT account FROM requests",
    "TABLE sessions",
];

/// These fail if, and only if, a row of another account is looked at.
const ORACLES: &[&str] = &[
    "SELECT count(*) AS n FROM requests WHERE 1 / (CASE WHEN account = 'account-1' THEN 1 ELSE 0 END) = 1",
    "SELECT count(*) AS n FROM requests WHERE account = 'account-1' OR 1 / (CASE WHEN account = 'account-0' THEN 0 ELSE 1 END) = 1",
    "SELECT sum(1 / (CASE WHEN account = 'account-1' THEN 1 ELSE 0 END)) AS n FROM requests",
    "SELECT count(*) AS n FROM requests WHERE 1 / (CASE WHEN path LIKE '%account-0/%' THEN 0 ELSE 1 END) = 1",
    "SELECT count(*) AS n FROM requests WHERE status >= 0 AND 1 / (CASE WHEN length(path) < 25 THEN 1 ELSE 1 END) = 1",
    "SELECT count(*) AS n FROM (SELECT 1 / (CASE WHEN account = 'account-1' THEN 1 ELSE 0 END) AS x FROM requests) WHERE x = 1",
    "SELECT count(*) AS n FROM requests r JOIN (SELECT 1 AS one) o ON 1 / (CASE WHEN r.account = 'account-1' THEN 1 ELSE 0 END) = o.one",
    "SELECT count(*) AS n FROM sessions WHERE 1 / (CASE WHEN account = 'account-1' THEN 1 ELSE 0 END) = 1",
    "SELECT count(*) AS n FROM accounts WHERE 1 / (CASE WHEN account = 'account-1' THEN 1 ELSE 0 END) = 1",
    "SELECT count(*) AS n FROM screening WHERE 1 / (CASE WHEN account = 'account-1' THEN 1 ELSE 0 END) = 1",
    "SELECT count(*) AS n FROM sessions WHERE 1 / (CASE WHEN sni <> '1.example' THEN 0 ELSE 1 END) = 1",
    "SELECT count(*) FILTER (WHERE 1 / (CASE WHEN account = 'account-1' THEN 1 ELSE 0 END) = 1) AS n FROM requests",
    "SELECT account FROM sessions ORDER BY 1 / (CASE WHEN account = 'account-1' THEN 1 ELSE 0 END) LIMIT 1",
    "SELECT count(*) AS n FROM requests GROUP BY 1 / (CASE WHEN account = 'account-1' THEN 1 ELSE 0 END)",
    "SELECT count(*) AS n FROM requests HAVING min(1 / (CASE WHEN account = 'account-1' THEN 1 ELSE 0 END)) = 1",
    "SELECT seq FROM requests WHERE session_id IN (SELECT session_id FROM sessions WHERE 1 / (CASE WHEN account = 'account-1' THEN 1 ELSE 0 END) = 1) LIMIT 1",
    "SELECT sum(1 / (CASE WHEN account = 'account-1' THEN 1 ELSE 0 END)) OVER (ORDER BY seq) AS n FROM requests LIMIT 1",
];

/// Nothing of others can be counted, joined or compared either.
const COUNTS: &[&str] = &[
    "SELECT count(*) AS n FROM requests WHERE account <> 'account-1'",
    "SELECT count(*) AS n FROM sessions WHERE account <> 'account-1'",
    "SELECT count(*) AS n FROM nodes WHERE account <> 'account-1'",
    "SELECT count(*) AS n FROM accounts WHERE account <> 'account-1'",
    "SELECT count(*) AS n FROM screening WHERE account <> 'account-1'",
    "SELECT count(*) AS n FROM sessions a FULL JOIN sessions b ON a.session_id = b.session_id WHERE coalesce(a.account, b.account) <> 'account-1'",
    "SELECT count(*) AS n FROM requests r WHERE r.session_id NOT IN (SELECT session_id FROM sessions)",
];

/// Whether a text names an account other than ours.
fn names_others(text: &str) -> bool {
    text.match_indices("account-").any(|(at, found)| {
        let digits: String = text[at + found.len()..].chars().take_while(char::is_ascii_digit).collect();
        !digits.is_empty() && digits != "1"
    })
}

#[test]
fn no_statement_shows_another_account() {
    let mut answered = 0;
    for sql in ESCAPES {
        for format in ["json", "csv", "table"] {
            let ended = world().run("query", &[&SCOPE[..], &["--format", format, sql]].concat());
            // Its own statement may be quoted in an error.
            let said = format!("{}{}", ended.out, ended.err).replace(sql, "");
            let quoted = ["account-0", "%account-0%", "account-0/"].iter().any(|text| sql.contains(text));
            assert!(
                !names_others(&said) || quoted && ended.code != Some(0) && !ended.out.contains("account-0"),
                "{sql}\n{said}"
            );
            assert!(!said.contains("hour=") && !said.contains("bucket="), "{sql}\n{said}");
            answered += u32::from(ended.code == Some(0));
        }
    }
    assert!(!std::path::Path::new("/tmp/weir-stolen.csv").exists());
    assert!(answered > 40, "most of these are good questions: {answered}");
}

#[test]
fn no_error_depends_on_another_accounts_rows() {
    for sql in ORACLES {
        let ended = world().run("query", &[&SCOPE[..], &["--format", "json", sql]].concat());
        assert_eq!(ended.code, Some(0), "{sql}\n{}", ended.err);
        // Without the scope the first of them fails: the test can.
    }
    let open = world().run("query", &[ORACLES[0]]);
    assert_eq!(open.code, Some(1), "{}", open.out);
}

#[test]
fn nothing_of_others_can_be_counted() {
    for sql in COUNTS {
        assert_eq!(world().rows(sql, &SCOPE)[0]["n"].as_i64(), Some(0), "{sql}");
    }
}

#[test]
fn sums_within_the_scope_are_the_accounts_own() {
    let expected: i64 = world()
        .records
        .iter()
        .filter(|record| record.account == "account-1")
        .map(|record| record.sent_wire_bytes)
        .sum();
    let sql = "SELECT sum(b) AS b, count(DISTINCT account) AS a FROM (SELECT account, sent_wire_bytes AS b FROM requests UNION ALL SELECT account, sent_wire_bytes FROM sessions)";
    let rows = world().rows(sql, &SCOPE);
    assert_eq!((rows[0]["b"].as_i64(), rows[0]["a"].as_i64()), (Some(expected), Some(1)));
    assert!(expected > 0);
}

#[test]
fn plans_are_not_shown_within_a_scope() {
    for sql in ["EXPLAIN SELECT * FROM requests", "EXPLAIN ANALYZE SELECT * FROM requests"] {
        let ended = world().run("query", &[&SCOPE[..], &[sql]].concat());
        assert!(ended.code == Some(1) && ended.err.contains("EXPLAIN"), "{}", ended.err);
        assert_eq!(world().run("query", &[sql]).code, Some(0));
    }
}

/// What breaks out of a text, a name, a comment, a command line, a line of JSON.
pub const HOSTILE: &[&str] = &[
    "account-1' OR '1'='1",
    "account-1\" OR 1=1 --",
    "'; DROP TABLE requests; --",
    "x' UNION SELECT account FROM sessions --",
    "$account",
    "%",
    "",
    "*/ OR 1=1 /*",
    "--output=/tmp/weir-stolen.csv",
    "-",
    "\\' OR 1=1 --",
    "\u{2019} OR 1=1 --",
    "a\n\"}\n{\"seq\":0",
    "../../etc/passwd",
];

#[test]
fn what_is_given_is_a_value_and_no_text_of_sql() {
    for hostile in HOSTILE {
        let flags = ["purpose", "as", "param=a", "param=b"].map(|flag| format!("--{flag}={hostile}"));
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let rows = world().rows("SELECT count(*) AS n FROM requests WHERE account = $a OR path = $b", &flags);
        assert_eq!(rows[0]["n"].as_i64(), Some(0), "{hostile}");
        let rows = world().rows("SELECT count(*) AS n FROM requests", &[&format!("--account={hostile}")]);
        assert_eq!(rows[0]["n"].as_i64(), Some(0), "{hostile}");
        for flag in ["--from", "--to", "--rows-max", "--format"] {
            let ended = world().run("query", &[&format!("{flag}={hostile}"), "SELECT 1"]);
            assert_eq!((ended.code, ended.out.as_str()), (Some(64), ""), "{flag}={hostile}");
        }
        let (address, part) = (format!("--param=address={hostile}"), format!("--part={hostile}"));
        for args in [[*hostile, "--account=account-1"], ["subject", &address], ["errors", &part]] {
            let ended = world().run("report", &args);
            assert_eq!((ended.code, ended.out.as_str()), (Some(64), ""), "{args:?}: {}", ended.err);
        }
    }
    for (what, part) in [("status = $a", "a whole number"), ("at < $a", "a time"), ("client_ip = $a", "an address")] {
        let sql = format!("SELECT count(*) AS n FROM requests WHERE {what}");
        let ended = world().run("query", &["--param=a=1 OR 1=1", &sql]);
        assert!(ended.code == Some(1) && ended.err.contains(part), "{what}: {}{}", ended.out, ended.err);
    }
    // It is all in the log, a line each, and the chain is whole.
    let report = world().report("access", &[]);
    let questions = report["parts"]["questions"]["rows"].as_array().unwrap();
    for hostile in HOSTILE {
        assert!(questions.iter().any(|row| row["purpose"] == *hostile && row["who"] == *hostile), "{hostile}");
    }
    assert!(!std::path::Path::new("/tmp/weir-stolen.csv").exists());
}
