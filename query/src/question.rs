//! From a text to a plan that only reads: one statement, a query or an EXPLAIN of one, with its parameters bound as values.
//!
//! What a statement may do is decided twice: by its kind, before anything is planned, and by its plan (a `SELECT … INTO` or an INSERT
//! inside a WITH looks like a query). A parameter never becomes text of the statement: it is put into the plan, as the type that its
//! place in the statement asks for. An id is 32 hexadecimal digits, an address is written as addresses are, a time as RFC 3339.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::{DataFusionError, ScalarValue};
use datafusion::execution::context::{SQLOptions, SessionState};
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::Statement as SqlStatement;
use weir::archive::schema::octets;
use weir::clock::parse_utc;
use weir::ids::unhex;

/// No question is longer.
pub const SQL_BYTES_MAX: usize = 64 << 10;

/// What is wrong with a question.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its length.
    #[error("the question is {0} bytes long; {SQL_BYTES_MAX} are allowed")]
    TooLong(usize),
    /// Its kind.
    #[error("only reading is possible here: SELECT, WITH, VALUES or EXPLAIN of one of these, not {0}")]
    NotReading(String),
    /// An account's own view has no plans.
    #[error("EXPLAIN shows files that hold other accounts' records too; it is there without an account only")]
    Explain,
    /// A parameter that is not given.
    #[error("the question has a parameter ${name}: give it with --param {name}=VALUE")]
    Missing {
        /// Its name.
        name: String,
    },
    /// A parameter that is nowhere.
    #[error("there is no parameter ${name} in the question")]
    Unknown {
        /// Its name.
        name: String,
    },
    /// A parameter of another type.
    #[error("the parameter ${name} must be {kind} here, and '{value}' is none")]
    Value {
        /// Its name.
        name: String,
        /// What it should be.
        kind: String,
        /// What was given.
        value: String,
    },
    /// Everything else that SQL can be wrong in.
    #[error("{}", .0.strip_backtrace())]
    Sql(Box<DataFusionError>),
}

impl From<DataFusionError> for Error {
    fn from(error: DataFusionError) -> Self {
        Self::Sql(Box::new(error))
    }
}

/// What is asked, by name: `$from`.
pub type Parameters = BTreeMap<String, String>;

/// The plan of a question. `explains` says whether EXPLAIN is possible.
pub async fn plan(
    state: &SessionState,
    sql: &str,
    parameters: &Parameters,
    explains: bool,
) -> Result<LogicalPlan, Error> {
    if sql.len() > SQL_BYTES_MAX {
        return Err(Error::TooLong(sql.len()));
    }
    let statement = state.sql_to_statement(sql, &state.config_options().sql_parser.dialect)?;
    check(&statement, explains)?;
    let plan = state.statement_to_plan(statement).await?;
    let reading = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    reading.verify_plan(&plan)?;
    bind(plan, parameters)
}

fn check(statement: &Statement, explains: bool) -> Result<(), Error> {
    match statement {
        Statement::Statement(statement) if matches!(**statement, SqlStatement::Query(_)) => Ok(()),
        Statement::Explain(_) if !explains => Err(Error::Explain),
        Statement::Explain(explain) => match &*explain.statement {
            inner @ Statement::Statement(_) => check(inner, explains),
            other => Err(refused(other)),
        },
        other => Err(refused(other)),
    }
}

fn refused(statement: &Statement) -> Error {
    // Its first word says what it is; the rest may be long.
    Error::NotReading(statement.to_string().split_whitespace().next().unwrap_or_default().to_uppercase())
}

fn bind(plan: LogicalPlan, parameters: &Parameters) -> Result<LogicalPlan, Error> {
    let kinds = plan.get_parameter_types()?;
    for name in parameters.keys() {
        if !kinds.contains_key(&format!("${name}")) {
            return Err(Error::Unknown { name: name.clone() });
        }
    }
    if kinds.is_empty() {
        return Ok(plan);
    }
    let mut values: HashMap<String, ScalarValue> = HashMap::new();
    for (placeholder, kind) in &kinds {
        let name = placeholder.trim_start_matches('$').to_owned();
        let Some(text) = parameters.get(&name) else { return Err(Error::Missing { name }) };
        let kind = kind.as_ref().unwrap_or(&DataType::Utf8);
        let Some(value) = value(text, kind) else {
            return Err(Error::Value { name, kind: kind_name(kind), value: text.clone() });
        };
        values.insert(name, value);
    }
    Ok(plan.with_param_values(values)?)
}

/// A text as the type that is asked for.
fn value(text: &str, kind: &DataType) -> Option<ScalarValue> {
    match kind {
        DataType::Dictionary(_, values) => value(text, values),
        DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 | DataType::Null => {
            Some(ScalarValue::Utf8(Some(text.to_owned())))
        }
        // Nobody's id and nobody's address is empty: it is how a report leaves one open.
        DataType::FixedSizeBinary(bytes) if text.is_empty() => Some(ScalarValue::FixedSizeBinary(*bytes, None)),
        DataType::FixedSizeBinary(bytes) => {
            let octets = octets_of(text).filter(|octets| i32::try_from(octets.len()) == Ok(*bytes))?;
            Some(ScalarValue::FixedSizeBinary(*bytes, Some(octets)))
        }
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => {
            Some(ScalarValue::Binary(Some(octets_of(text)?)))
        }
        DataType::Timestamp(unit, zone) => {
            let us = parse_utc(text)?;
            match unit {
                TimeUnit::Second => Some(ScalarValue::TimestampSecond(Some(us.div_euclid(1_000_000)), zone.clone())),
                TimeUnit::Millisecond => {
                    Some(ScalarValue::TimestampMillisecond(Some(us.div_euclid(1000)), zone.clone()))
                }
                TimeUnit::Microsecond => Some(ScalarValue::TimestampMicrosecond(Some(us), zone.clone())),
                TimeUnit::Nanosecond => Some(ScalarValue::TimestampNanosecond(us.checked_mul(1000), zone.clone())),
            }
        }
        _ => ScalarValue::try_from_string(text.to_owned(), kind).ok(),
    }
}

/// An address or hexadecimal digits.
fn octets_of(text: &str) -> Option<Vec<u8>> {
    match text.parse::<IpAddr>() {
        Ok(address) => Some(octets(address).to_vec()),
        Err(_) => unhex(text.as_bytes()),
    }
}

fn kind_name(kind: &DataType) -> String {
    match kind {
        DataType::FixedSizeBinary(16) => "an id (32 hexadecimal digits) or an address".to_owned(),
        DataType::Timestamp(..) => "a time (2026-01-31 or 2026-01-31T12:00:00Z)".to_owned(),
        kind if kind.is_integer() => "a whole number".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use arrow::util::pretty::pretty_format_batches;
    use datafusion::prelude::SessionContext;

    use super::*;

    async fn ask(sql: &str, parameters: &[(&str, &str)]) -> Result<String, String> {
        let context = SessionContext::new();
        for definition in [
            "CREATE TABLE t (n BIGINT, s TEXT, at TIMESTAMP) AS VALUES (1, 'a', TIMESTAMP '2026-01-01T00:00:00Z'), \
             (2, 'b', TIMESTAMP '2026-02-01T00:00:00Z')",
            "CREATE TABLE ids AS SELECT arrow_cast(x'0102030405060708090a0b0c0d0e0f10', 'FixedSizeBinary(16)') AS id, \
             arrow_cast(x'00000000000000000000ffffc0000207', 'FixedSizeBinary(16)') AS ip, \
             arrow_cast('acme', 'Dictionary(Int32, Utf8)') AS account",
        ] {
            context.sql(definition).await.unwrap().collect().await.unwrap();
        }
        let parameters = parameters.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let plan = plan(&context.state(), sql, &parameters, true).await.map_err(|error| error.to_string())?;
        let frame = context.execute_logical_plan(plan).await.map_err(|error| error.to_string())?;
        let batches = frame.collect().await.map_err(|error| error.to_string())?;
        Ok(pretty_format_batches(&batches).unwrap().to_string())
    }

    #[tokio::test]
    async fn only_reading_is_possible() {
        for sql in [
            "INSERT INTO t VALUES (3, 'c', NULL)",
            "DELETE FROM t",
            "UPDATE t SET n = 0",
            "DROP TABLE t",
            "CREATE TABLE u AS SELECT 1",
            "CREATE VIEW v AS SELECT 1",
            "CREATE EXTERNAL TABLE p STORED AS CSV LOCATION '/etc/passwd'",
            "COPY t TO '/tmp/stolen.csv'",
            "COPY (SELECT 1) TO '/tmp/stolen.parquet'",
            "SET datafusion.execution.batch_size = 1",
            "RESET datafusion.execution.batch_size",
            "PREPARE p AS SELECT 1",
            "SHOW ALL",
            "SELECT 1 INTO u",
            "WITH x AS (SELECT 1) INSERT INTO t SELECT 1, 'a', NULL",
            "EXPLAIN INSERT INTO t VALUES (1, 'a', NULL)",
            "EXPLAIN COPY t TO '/tmp/stolen.csv'",
            "EXPLAIN EXPLAIN SELECT 1",
            "CREATE FUNCTION f() RETURNS INT RETURN 1",
            "BEGIN",
            "SELECT 1; SELECT 2",
            "SELECT 1; DROP TABLE t",
            "TRUNCATE TABLE t",
            "",
        ] {
            assert!(ask(sql, &[]).await.is_err(), "{sql}");
        }
        assert!(!std::path::Path::new("/tmp/stolen.csv").exists());
        for sql in
            ["SELECT * FROM '/etc/passwd'", "SELECT * FROM read_csv('/etc/passwd')", "SELECT * FROM \"/etc/passwd\""]
        {
            assert!(ask(sql, &[]).await.is_err(), "{sql}");
        }
        for sql in
            ["SELECT 1", "WITH x AS (SELECT 1 AS a) SELECT a FROM x", "VALUES (1)", "EXPLAIN SELECT 1", "(SELECT 1)"]
        {
            assert!(ask(sql, &[]).await.is_ok(), "{sql}");
        }
    }

    #[tokio::test]
    async fn parameters_are_values_never_text() {
        for (sql, parameters, rows) in [
            ("SELECT n FROM t WHERE n = $n", vec![("n", "2")], 1),
            ("SELECT n FROM t WHERE s = $s", vec![("s", "a")], 1),
            ("SELECT n FROM t WHERE s = $s", vec![("s", "a' OR '1'='1")], 0),
            ("SELECT n FROM t WHERE s = $s OR s = $s", vec![("s", "b")], 1),
            (
                "SELECT n FROM t WHERE at >= $from AND at < $to",
                vec![("from", "2026-01-01"), ("to", "2026-01-31T12:00:00Z")],
                1,
            ),
            ("SELECT id FROM ids WHERE id = $id", vec![("id", "0102030405060708090a0b0c0d0e0f10")], 1),
            ("SELECT id FROM ids WHERE ip = $ip", vec![("ip", "192.0.2.7")], 1),
            ("SELECT id FROM ids WHERE account = $account", vec![("account", "acme")], 1),
            ("SELECT id FROM ids WHERE account IN ($a, $b)", vec![("a", "acme"), ("b", "x")], 1),
        ] {
            let answer = ask(sql, &parameters).await.unwrap();
            assert_eq!(answer.lines().count().saturating_sub(4), rows, "{sql}\n{answer}");
        }
        for (sql, parameters, part) in [
            ("SELECT n FROM t WHERE n = $n", vec![("n", "2 OR 1=1")], "whole number"),
            ("SELECT n FROM t WHERE n = $n", vec![], "--param n=VALUE"),
            ("SELECT n FROM t", vec![("n", "1")], "no parameter $n"),
            ("SELECT id FROM ids WHERE id = $id", vec![("id", "0102")], "32 hexadecimal digits"),
            ("SELECT n FROM t WHERE at >= $from", vec![("from", "yesterday")], "a time"),
            ("SELECT n FROM $t", vec![("t", "t")], ""),
        ] {
            let error = ask(sql, &parameters).await.unwrap_err();
            assert!(error.contains(part), "{sql}: {error}");
        }
    }

    #[tokio::test]
    async fn a_deeply_nested_question_is_an_error() {
        let sql = format!("SELECT {}1{}", "(".repeat(20_000), ")".repeat(20_000));
        assert!(ask(&sql, &[]).await.is_err());
        let long = format!("SELECT '{}'", "x".repeat(SQL_BYTES_MAX));
        assert!(ask(&long, &[]).await.unwrap_err().contains("65536"));
    }
}
