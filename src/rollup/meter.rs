//! Meters: formulas over the columns of usage. No I/O, no clock.
//!
//! `amount = Σ column over the series that the meter's filter takes`. A meter is evaluated when it is read, so one that is declared
//! later is right for the past too; what a sealed period came to by each meter was written down with the seal and stays.

use crate::config::{Meter, MeterColumn, MeterKind};
use crate::store::{Kind, Series, Sums};

/// A column's sum; µs for `session_seconds`, so that nothing is lost before the last addition.
pub type Amount = i64;

/// What these sums of this series add to the meter.
pub fn amount(meter: &Meter, series: &Series, sums: &Sums) -> Amount {
    let listed = |list: &[String], value: &str| list.is_empty() || list.iter().any(|known| known == value);
    let takes = (series.billable || meter.unbillable)
        && match meter.kind {
            MeterKind::Any => series.kind != Kind::Gap,
            MeterKind::Request => series.kind == Kind::Request,
            MeterKind::Session => series.kind == Kind::Session,
        }
        && listed(&meter.protocols, &series.protocol)
        && listed(&meter.countries, &series.country)
        && listed(&meter.endpoints, &series.endpoint)
        && listed(&meter.hosts, &series.host);
    if !takes {
        return 0;
    }
    match meter.column {
        MeterColumn::Bytes(column) => sums.bytes[column as usize],
        MeterColumn::Requests => sums.requests,
        MeterColumn::Sessions => sums.sessions,
        MeterColumn::SessionSeconds => sums.session_us,
    }
}

/// The amount in the meter's own unit.
pub fn shown(meter: &Meter, amount: Amount) -> i64 {
    match meter.column {
        MeterColumn::SessionSeconds => amount.div_euclid(1_000_000),
        _ => amount,
    }
}
