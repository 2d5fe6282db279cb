//! What a correction by hand adds to usage. No I/O, no clock.
//!
//! Nothing that came of records is changed: a correction is more usage, in series that name it, signed. What it adds lies in the hour
//! that it is about; where that hour's month is sealed, in the first hour of the open one, and names the sealed one (`corrects`).

use super::catalog::id_of;
use crate::store::{Corrected, Error, Period, Seen, Series, Sums};

/// What is to be corrected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// More, or less, in this hour; `series` says of what.
    Add {
        /// Of what.
        series: Box<Series>,
        /// First µs of the hour.
        hour_us: i64,
        /// How much more; negative: less.
        sums: Sums,
    },
    /// What was seen belongs to another account.
    Move {
        /// To whom.
        to: String,
        /// Of this endpoint alone.
        endpoint: Option<String>,
        /// Of this host alone.
        host: Option<String>,
    },
    /// What this correction added is taken back.
    Undo(String),
}

/// What the change adds, or why it cannot be made.
pub fn corrected(change: &Change, seen: &Seen) -> Result<Corrected, Error> {
    let refused = |why: String| Err(Error::Uncorrectable(why));
    let mut added = Corrected::new();
    match change {
        Change::Add { series, hour_us, sums } => {
            if sums.is_zero() {
                return refused("nothing would change: say how much, like egress_bytes=-1000".to_owned());
            }
            add(&mut added, seen, series, *hour_us, *sums);
        }
        Change::Move { to, endpoint, host } => {
            let of = |wanted: &Option<String>, value: &str| wanted.as_ref().is_none_or(|wanted| wanted == value);
            for (series, hour_us, sums) in &seen.usage {
                if series.account == *to {
                    return refused(format!("it is {to}'s already"));
                }
                if !of(endpoint, &series.endpoint) || !of(host, &series.host) || quantities(sums).is_zero() {
                    continue;
                }
                add(&mut added, seen, series, *hour_us, negative(sums));
                let theirs = Series { account: to.clone(), ..series.clone() };
                add(&mut added, seen, &theirs, *hour_us, quantities(sums));
            }
            if added.is_empty() {
                return refused("there is no such usage: nothing would move".to_owned());
            }
        }
        Change::Undo(id) => {
            if !seen.before.iter().any(|correction| correction.id == *id) {
                return refused(format!("there is no correction {id}: `weir correct list` names them"));
            }
            if let Some(undone) = seen.before.iter().find(|correction| correction.undoes == *id) {
                return refused(format!("{id} was taken back by {} already", undone.id));
            }
            for (series, hour_us, sums) in seen.usage.iter().filter(|(series, ..)| series.correction == *id) {
                add(&mut added, seen, series, *hour_us, negative(sums));
            }
        }
    }
    Ok(added)
}

/// In its hour, or in the open period's first where that is sealed.
fn add(added: &mut Corrected, seen: &Seen, series: &Series, hour_us: i64, sums: Sums) {
    let is_in = |period: &&Period| (period.from_us..period.to_us).contains(&hour_us);
    let open_us = seen.periods.iter().map(|period| period.to_us).max().unwrap_or(i64::MIN);
    let sealed = seen.periods.iter().find(is_in);
    let corrects = sealed.map_or_else(|| series.corrects.clone(), |period| period.name.clone());
    let series = Series { corrects, correction: seen.id.clone(), ..series.clone() };
    let hour_us = hour_us.max(open_us);
    let id = id_of(&series);
    match added.iter_mut().find(|(known, _, hour, _)| *known == id && *hour == hour_us) {
        Some((.., known)) => known.add(&sums),
        None => added.push((id, series, hour_us, sums)),
    }
}

/// Without what belongs to records alone.
fn quantities(sums: &Sums) -> Sums {
    Sums { records: 0, fingerprint: [0; 4], ..*sums }
}

fn negative(sums: &Sums) -> Sums {
    Sums::from_array(quantities(sums).to_array().map(|sum| -sum))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollup::month;
    use crate::store::{Correction, Kind};

    fn series(account: &str) -> Series {
        Series {
            kind: Kind::Request,
            account: account.to_owned(),
            endpoint: "web".to_owned(),
            host: String::new(),
            protocol: "h1".to_owned(),
            country: String::new(),
            status_class: 2,
            billable: true,
            reason: String::new(),
            corrects: String::new(),
            correction: String::new(),
        }
    }

    fn seen(sealed: &[&str], usage: Vec<(Series, i64, Sums)>) -> Seen {
        let period = |name: &&str| {
            let (from_us, to_us) = month(name).unwrap();
            let (actor, holes) = (String::new(), String::new());
            Period { name: (*name).to_owned(), from_us, to_us, sealed_at_us: 0, actor, holes }
        };
        Seen { id: "c7".to_owned(), periods: sealed.iter().map(period).collect(), usage, before: Vec::new() }
    }

    fn sums(requests: i64) -> Sums {
        Sums { requests, records: 9, fingerprint: [1; 4], ..Sums::default() }
    }

    #[test]
    fn what_is_sealed_stays_and_the_open_month_names_it() {
        let (october_us, november_us) = month("2026-10").unwrap();
        let change = Change::Add { series: Box::new(series("acme")), hour_us: october_us, sums: sums(-3) };
        let added = corrected(&change, &seen(&["2026-10"], Vec::new())).unwrap();
        let [(_, series, hour_us, _)] = added.as_slice() else { unreachable!("{added:?}") };
        assert_eq!((series.corrects.as_str(), series.correction.as_str()), ("2026-10", "c7"));
        assert_eq!(*hour_us, november_us);
        let added = corrected(&change, &seen(&[], Vec::new())).unwrap();
        assert_eq!((added[0].1.corrects.as_str(), added[0].2), ("", october_us));
    }

    #[test]
    fn a_move_takes_from_one_and_gives_to_the_other() {
        let usage = vec![(series("acme"), 0, sums(5)), (series("acme"), 3_600_000_000, sums(7))];
        let change = Change::Move { to: "umbrella".to_owned(), endpoint: None, host: None };
        let added = corrected(&change, &seen(&[], usage.clone())).unwrap();
        let of = |account: &str| -> i64 {
            added.iter().filter(|(_, series, ..)| series.account == account).map(|(.., sums)| sums.requests).sum()
        };
        assert_eq!((of("acme"), of("umbrella")), (-12, 12));
        assert!(added.iter().all(|(.., sums)| sums.records == 0 && sums.fingerprint == [0; 4]));
        let elsewhere = Change::Move { to: "umbrella".to_owned(), endpoint: Some("api".to_owned()), host: None };
        assert!(corrected(&elsewhere, &seen(&[], usage)).is_err());
    }

    #[test]
    fn one_is_taken_back_once() {
        let mut seen = seen(&[], vec![(Series { correction: "c1".to_owned(), ..series("acme") }, 0, sums(5))]);
        let undo = Change::Undo("c1".to_owned());
        assert!(corrected(&undo, &seen).is_err());
        let correction = |id: &str, undoes: &str| Correction {
            id: id.to_owned(),
            at_us: 0,
            actor: String::new(),
            reason: String::new(),
            what: String::new(),
            undoes: undoes.to_owned(),
        };
        seen.before.push(correction("c1", ""));
        assert_eq!(corrected(&undo, &seen).unwrap()[0].3.requests, -5);
        seen.before.push(correction("c2", "c1"));
        assert!(corrected(&undo, &seen).is_err());
    }
}
