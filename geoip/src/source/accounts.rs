//! `accounts.csv`: `cidr,account_id,valid_from,valid_to,ref`.
//!
//! Half-open in time: valid from `valid_from` on and until before `valid_to`; empty is without limit. The longest network
//! decides. Two rows with the same network, different accounts and a time in common are an error that names both.

use ipnet::IpNet;

use super::text::{network, rows, time};
use super::{Input, facts};
use crate::Error;
use crate::answer::Vocabulary;
use crate::interner::Interner;
use crate::record::Account;
use crate::sources::SourceFacts;
use crate::steps::{Family, Range, Steps, flatten};

/// The accounts at one time.
#[derive(Debug)]
pub(crate) struct Accounts {
    pub(crate) facts: SourceFacts,
    pub(crate) v4: Steps,
    pub(crate) v6: Steps,
    /// The next time at which a row begins or ends to be valid.
    pub(crate) changes_at: Option<i64>,
}

#[derive(Debug)]
struct Row {
    network: IpNet,
    account: u32,
    from: Option<i64>,
    to: Option<i64>,
    line: u64,
    value: u32,
}

impl Row {
    fn holds(&self, at: i64) -> bool {
        self.from.is_none_or(|from| from <= at) && self.to.is_none_or(|to| at < to)
    }
}

pub(crate) fn read(
    input: &Input,
    at: i64,
    words: &mut Vocabulary,
    accounts: &mut Interner<Account>,
) -> Result<Accounts, Error> {
    let mut all = Vec::new();
    rows(input, "cidr", |fields, line| {
        let field = |position: usize| fields.get(position).unwrap_or("");
        if fields.len() < 2 || fields.len() > 5 {
            return Err("a row is cidr,account_id,valid_from,valid_to,ref".to_owned());
        }
        if field(1).is_empty() {
            return Err("the account is missing".to_owned());
        }
        let (from, to) = (time(field(2))?, time(field(3))?);
        if let (Some(from), Some(to)) = (from, to)
            && from >= to
        {
            return Err(format!("valid_to {} is not after valid_from {}", field(3), field(2)));
        }
        let account = Account { account: words.names.intern(field(1)), reference: words.names.intern(field(4)) };
        let value = accounts.intern(account);
        all.push(Row { network: network(field(0))?, account: account.account, from, to, line, value });
        Ok(())
    })?;
    all.sort_by(|a, b| a.network.cmp(&b.network).then(a.from.cmp(&b.from)).then(a.line.cmp(&b.line)));
    if let Some((first, second)) = conflict(&all) {
        let (first, second) = if first.line < second.line { (first, second) } else { (second, first) };
        let (network, first, second) = (first.network, first.line, second.line);
        return Err(Error::TwoAccounts { path: input.path.clone(), first, second, network });
    }
    let changes_at = all.iter().flat_map(|row| [row.from, row.to]).flatten().filter(|time| *time > at).min();
    let mut facts = facts("accounts", "accounts", &[input]);
    facts.rows = all.len() as u64;
    let steps = |family: Family| {
        let valid = all.iter().filter(|row| Family::of(row.network.addr()) == family && row.holds(at));
        let ranges = valid.map(|row| Range::of(row.network, row.value)).collect();
        flatten(family, ranges, |_, own| own)
    };
    Ok(Accounts { facts, v4: steps(Family::V4), v6: steps(Family::V6), changes_at })
}

/// Two rows for different accounts with the same network and a time in common. Rows are sorted by network and begin.
fn conflict(rows: &[Row]) -> Option<(&Row, &Row)> {
    rows.chunk_by(|a, b| a.network == b.network).find_map(|same| {
        // Of the rows so far the one that ends last, and the one of another account that ends last.
        let mut latest: Option<&Row> = None;
        let mut other: Option<&Row> = None;
        let ends_after = |row: &Row, than: Option<&Row>| {
            than.is_none_or(|than| than.to.is_some_and(|than| row.to.is_none_or(|to| to > than)))
        };
        for row in same {
            let overlaps = |before: &&Row| {
                before.account != row.account && before.to.is_none_or(|to| row.from.is_none_or(|from| from < to))
            };
            if let Some(before) = latest.filter(overlaps).or(other.filter(overlaps)) {
                return Some((before, row));
            }
            if ends_after(row, latest) {
                if latest.is_some_and(|latest| latest.account != row.account) {
                    other = latest;
                }
                latest = Some(row);
            } else if latest.is_some_and(|latest| latest.account != row.account) && ends_after(row, other) {
                other = Some(row);
            }
        }
        None
    })
}
