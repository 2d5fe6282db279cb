//! Usage cut as it is asked for: by dimensions and by hours or days, added up by the database.

use sqlx::Row;
use sqlx::any::AnyRow;

use super::query::{number, text};
use super::rows::{Kind, SUM_COLUMNS, Series, Sums};
use super::{Error, Store, failed};

/// What usage is told apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)] // the columns of `series`
pub enum Dimension {
    Kind,
    Account,
    Endpoint,
    Host,
    Protocol,
    Country,
    Status,
    Reason,
    Corrects,
}

impl Dimension {
    /// All of them, by the name that they are asked for with.
    pub const ALL: [(&'static str, Self); 9] = [
        ("kind", Self::Kind),
        ("account", Self::Account),
        ("endpoint", Self::Endpoint),
        ("host", Self::Host),
        ("protocol", Self::Protocol),
        ("country", Self::Country),
        ("status", Self::Status),
        ("reason", Self::Reason),
        ("corrects", Self::Corrects),
    ];

    /// As it is asked for.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, known)| *known == self).map_or("", |(name, _)| name)
    }

    fn column(self) -> &'static str {
        if self == Self::Status { "status_class" } else { self.name() }
    }

    /// What a series says of it; a status class as `4xx`, empty where there is none.
    pub fn label(self, series: &Series) -> String {
        match self {
            Self::Kind => series.kind.name().to_owned(),
            Self::Account => series.account.clone(),
            Self::Endpoint => series.endpoint.clone(),
            Self::Host => series.host.clone(),
            Self::Protocol => series.protocol.clone(),
            Self::Country => series.country.clone(),
            Self::Status if series.status_class == 0 => String::new(),
            Self::Status => format!("{}xx", series.status_class),
            Self::Reason => series.reason.clone(),
            Self::Corrects => series.corrects.clone(),
        }
    }
}

/// Which usage, and how it is cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Only this account's.
    pub account: Option<String>,
    /// From this hour on, µs.
    pub from_us: i64,
    /// Up to this hour, µs.
    pub to_us: i64,
    /// Only where the label is this one.
    pub only: Vec<(Dimension, String)>,
    /// Told apart by these; kind, reason and whether it is billable always are.
    pub by: Vec<Dimension>,
    /// And by pieces of time of this length, µs: whole hours, at most a day. 0: not by time.
    pub step_us: i64,
    /// Most rows there may be.
    pub rows_max: usize,
}

impl Store {
    /// Usage so cut: a series in which only the dimensions asked for say anything, the begin of its piece of time (0 if there are none),
    /// and its sums. In no order. None: there is more than `rows_max`.
    pub async fn slice(&self, slice: &Slice) -> Result<Option<Vec<(Series, i64, Sums)>>, Error> {
        let mut columns = vec!["kind", "reason"];
        columns.extend(slice.by.iter().map(|dimension| dimension.column()));
        columns.sort_unstable();
        columns.dedup();
        let columns: Vec<String> = columns.iter().map(|column| format!("series.{column}")).collect();
        let columns = columns.join(", ");
        let sums: Vec<String> =
            SUM_COLUMNS.iter().map(|name| format!("CAST(SUM(usage.{name}) AS BIGINT) AS {name}")).collect();
        let (from, by) = match slice.step_us {
            0 => ("CAST(0 AS BIGINT)".to_owned(), String::new()),
            step_us => {
                let from = format!("usage.hour - usage.hour % {step_us}");
                (from.clone(), format!(", {from}"))
            }
        };
        let mut of = String::new();
        let mut place = 2;
        let mut next = || {
            place += 1;
            place
        };
        if slice.account.is_some() {
            of += &format!(" AND series.account = ${}", next());
        }
        for (dimension, _) in &slice.only {
            of += &format!(" AND series.{} = ${}", dimension.column(), next());
        }
        let sql = format!(
            "SELECT {columns}, series.billable, {from} AS piece, {} FROM usage JOIN series ON series.id = usage.series \
             WHERE usage.hour >= $1 AND usage.hour < $2{of} GROUP BY {columns}, series.billable{by} LIMIT {}",
            sums.join(", "),
            slice.rows_max + 1,
        );
        let mut query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(slice.from_us).bind(slice.to_us);
        if let Some(account) = &slice.account {
            query = query.bind(account.clone());
        }
        for (dimension, label) in &slice.only {
            query = match dimension {
                Dimension::Status => query.bind(status_class(label)),
                _ => query.bind(label.clone()),
            };
        }
        let rows = query.fetch_all(&self.pool).await.map_err(failed("read usage"))?;
        if rows.len() > slice.rows_max {
            return Ok(None);
        }
        rows.iter().map(row).collect::<Result<_, _>>().map(Some)
    }
}

/// `4xx` → 4; what is no class is none that there is.
fn status_class(label: &str) -> i64 {
    match label.as_bytes() {
        [] => 0,
        [digit @ b'1'..=b'9', b'x', b'x'] => i64::from(digit - b'0'),
        _ => -1,
    }
}

fn row(row: &AnyRow) -> Result<(Series, i64, Sums), Error> {
    // What was not asked for is not there, and stays empty.
    let has = |column: &str| row.try_column(column).is_ok();
    let text_or_none = |column: &str| if has(column) { text(row, column) } else { Ok(String::new()) };
    let series = Series {
        kind: Kind::of_name(&text(row, "kind")?),
        account: text_or_none("account")?,
        endpoint: text_or_none("endpoint")?,
        host: text_or_none("host")?,
        protocol: text_or_none("protocol")?,
        country: text_or_none("country")?,
        status_class: if has("status_class") { number(row, "status_class")? } else { 0 },
        billable: number(row, "billable")? != 0,
        reason: text(row, "reason")?,
        corrects: text_or_none("corrects")?,
        correction: String::new(),
    };
    let mut sums = [0; SUM_COLUMNS.len()];
    for (sum, name) in sums.iter_mut().zip(SUM_COLUMNS) {
        *sum = number(row, name)?;
    }
    Ok((series, number(row, "piece")?, Sums::from_array(sums)))
}
