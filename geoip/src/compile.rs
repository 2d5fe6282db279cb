//! Compile, don't look up: all sources are cut into disjoint ranges once, each field decided by precedence, and what comes
//! out is one table.
//!
//! Precedence, exactly: a special address has its scope and never a place or network → an override → per field the first
//! source, in the order of `precedence.FIELD` or of the plan, that says anything; inside one source the longest prefix
//! decides before the next source is asked. Labels are the union of all, those of the autonomous system included, and then
//! overrides take away. The account is a field of its own, by the accounts file alone.
//!
//! The merge is a stream: databases are walked, not copied, and the table is written as the ranges come. It holds the
//! files, the distinct answers of each source and the table itself, and ends with an error when that becomes more than
//! the budget allows, or when it takes longer.

use std::time::SystemTime;

use hashbrown::HashMap;

use crate::Error;
use crate::address::{Scope, scopes};
use crate::answer::{Answer, Sets, Vocabulary};
use crate::interner::Interner;
use crate::plan::{Field, Plan};
use crate::record::{Account, Label, Network, Place, Records, Row, SourceId};
use crate::source::accounts::{self, Accounts};
use crate::source::overrides::{self, Override, Overrides};
use crate::source::{Deadline, Input, Part, labels, mmdb, seconds};
use crate::sources::SourceFacts;
use crate::steps::{Family, Steps};
use crate::table::{Builder4, Builder6, RECORDS_MAX};
use crate::{Table, TableFacts};

/// Sources that a record's provenance can tell apart.
const SOURCES_MAX: usize = 250;
/// How many ranges are merged between two looks at the budget.
const RANGES_BETWEEN_CHECKS: u32 = 4_096;

/// The table of a plan, as it holds at `at`: accounts and labels are dated.
///
/// A plan with a snapshot loads that instead.
pub fn compile(plan: &Plan, at: SystemTime) -> Result<Table, Error> {
    if let Some(snapshot) = &plan.snapshot {
        if plan.files().count() > 1 + snapshot.public_key.iter().count() {
            return Err(Error::Plan { reason: "a plan has a snapshot or sources, not both".to_owned() });
        }
        return crate::snapshot::read(&snapshot.path, snapshot.public_key.as_deref());
    }
    let at_s = seconds(at);
    let mut meter = Meter::new(plan);
    let mut words = Vocabulary::new();
    let mut inputs = read(plan, at_s, &mut words, &mut meter)?;
    let mut merge = Merge {
        words,
        of_asn: std::mem::take(&mut inputs.of_asn),
        order: order(plan, &inputs.columns)?,
        bogon: 0,
        records: HashMap::from([(Resolved::default(), 0)]),
        rows: vec![Row::default()],
        places: Interner::new(),
        networks: Interner::new(),
        label_sets: Sets::new(),
        gathered: Vec::new(),
    };
    merge.bogon = merge.words.names.intern("bogon");
    let mut v4 = Builder4::new();
    merge.family(Family::V4, &mut inputs, &mut meter, |start, record| {
        v4.push(start as u32, record);
        v4.len() * 6
    })?;
    let v4 = v4.finish();
    let mut v6 = Builder6::new();
    merge.family(Family::V6, &mut inputs, &mut meter, |start, record| {
        v6.push(start, record);
        v6.len() * 8
    })?;
    let v6 = v6.finish(merge.rows.len() as u32);
    for column in &inputs.columns {
        if let Part::Mmdb(database) = &column.part
            && let Some(facts) = inputs.sources.get_mut(usize::from(column.source))
        {
            facts.rows += database.networks;
        }
    }
    let facts = TableFacts {
        id: String::new(),
        geo_epoch: inputs.geo_epoch,
        accounts_version: inputs.accounts_version,
        valid_from: at_s,
        changes_at: inputs.changes_at,
        sources: inputs.sources,
    };
    let Merge { words, rows, mut places, mut networks, mut label_sets, .. } = merge;
    places.values.shrink_to_fit();
    networks.values.shrink_to_fit();
    label_sets.items.shrink_to_fit();
    label_sets.ends.shrink_to_fit();
    let records = Records {
        rows: Records::pack(&rows),
        places: places.values,
        networks: networks.values,
        labels: label_sets.items,
        label_ends: label_sets.ends,
        accounts: inputs.account_values.values,
        names: words.names.finish(),
    };
    Ok(Table::new(v4, v6, records, facts))
}

/// Everything read, before it is merged.
struct Inputs {
    sources: Vec<SourceFacts>,
    columns: Vec<Column>,
    overrides: Option<(SourceId, Overrides)>,
    accounts: Option<Accounts>,
    account_values: Interner<Account>,
    /// Autonomous system → its labels, by source.
    of_asn: HashMap<u32, Vec<(SourceId, u32)>>,
    geo_epoch: i64,
    accounts_version: i64,
    changes_at: Option<i64>,
}

/// One file's answers.
struct Column {
    source: SourceId,
    name: String,
    part: Part,
}

fn read(plan: &Plan, at: i64, words: &mut Vocabulary, meter: &mut Meter) -> Result<Inputs, Error> {
    let scope = SourceFacts { name: "scope".to_owned(), kind: "scope".to_owned(), ..SourceFacts::default() };
    let mut inputs = Inputs {
        sources: vec![scope],
        columns: Vec::new(),
        overrides: None,
        accounts: None,
        account_values: Interner::new(),
        of_asn: HashMap::new(),
        geo_epoch: 0,
        accounts_version: 0,
        changes_at: None,
    };
    for source in &plan.sources {
        if inputs.sources.iter().any(|other| other.name == source.name) {
            return Err(Error::Plan { reason: format!("two sources are named {}", source.name) });
        }
        let loaded = crate::source::load(source, words, meter.deadline)?;
        meter.hold(loaded.facts.bytes)?;
        inputs.geo_epoch = inputs.geo_epoch.max(loaded.facts.build_epoch);
        let id = source_id(&mut inputs.sources, loaded.facts)?;
        let columns = loaded.parts.into_iter().map(|part| Column { source: id, name: source.name.clone(), part });
        inputs.columns.extend(columns);
    }
    for path in &plan.labels {
        let input = Input::read(path, meter.deadline)?;
        let file = labels::read(&input, at, words)?;
        inputs.changes_at = earliest(inputs.changes_at, file.changes_at);
        for labels in file.labels {
            let id = source_id(&mut inputs.sources, labels.facts)?;
            for (asn, set) in labels.of_asn {
                inputs.of_asn.entry(asn).or_default().push((id, set));
            }
            inputs.columns.push(Column { source: id, name: String::new(), part: Part::Answers(labels.answers) });
        }
    }
    if let Some(path) = &plan.overrides {
        let overrides = overrides::read(&Input::read(path, meter.deadline)?, words)?;
        let id = source_id(&mut inputs.sources, overrides.facts.clone())?;
        inputs.overrides = Some((id, overrides));
    }
    if let Some(path) = &plan.accounts {
        let accounts = accounts::read(&Input::read(path, meter.deadline)?, at, words, &mut inputs.account_values)?;
        inputs.changes_at = earliest(inputs.changes_at, accounts.changes_at);
        inputs.accounts_version = version(&accounts.facts.sha256);
        source_id(&mut inputs.sources, accounts.facts.clone())?;
        inputs.accounts = Some(accounts);
    }
    meter.check(words.names.bytes())?;
    Ok(inputs)
}

fn source_id(sources: &mut Vec<SourceFacts>, facts: SourceFacts) -> Result<SourceId, Error> {
    if sources.len() > SOURCES_MAX {
        return Err(Error::Plan { reason: format!("more than {SOURCES_MAX} sources; labels of one source are one") });
    }
    sources.push(facts);
    Ok((sources.len() - 1) as SourceId)
}

fn earliest(a: Option<i64>, b: Option<i64>) -> Option<i64> {
    a.into_iter().chain(b).min()
}

/// A file's version is its content: the first 48 bits of its digest, which every reader's numbers can hold.
fn version(sha256: &str) -> i64 {
    sha256.get(..12).and_then(|digits| i64::from_str_radix(digits, 16).ok()).unwrap_or(0)
}

/// Per field, the columns to ask in order.
fn order(plan: &Plan, columns: &[Column]) -> Result<[Vec<usize>; 5], Error> {
    let mut order: [Vec<usize>; 5] = Default::default();
    for (field, order) in Field::ALL.into_iter().zip(&mut order) {
        let names: Vec<&String> = match plan.precedence.of(field) {
            [] => plan.sources.iter().map(|source| &source.name).collect(),
            names => names.iter().collect(),
        };
        for name in names {
            if !plan.sources.iter().any(|source| source.name == *name) {
                let reason = format!("precedence.{}: no source is named {name:?}", field.name());
                return Err(Error::Plan { reason });
            }
            order.extend((0..columns.len()).filter(|column| columns[*column].name == *name));
        }
    }
    Ok(order)
}

/// Time and memory that a compilation may take.
struct Meter {
    deadline: Deadline,
    memory_bytes_max: u64,
    held_bytes: u64,
}

impl Meter {
    fn new(plan: &Plan) -> Meter {
        let deadline = Deadline::after_ms(plan.budget.compile_ms_max);
        Meter { deadline, memory_bytes_max: plan.budget.memory_bytes_max, held_bytes: 0 }
    }

    /// These stay in memory until the end.
    fn hold(&mut self, bytes: u64) -> Result<(), Error> {
        self.held_bytes += bytes;
        self.check(0)
    }

    fn check(&self, more_bytes: usize) -> Result<(), Error> {
        self.deadline.check()?;
        if self.held_bytes + more_bytes as u64 > self.memory_bytes_max {
            return Err(Error::Budget { limit: format!("memory_bytes_max = {}", self.memory_bytes_max) });
        }
        Ok(())
    }
}

/// The merge of all columns.
struct Merge {
    words: Vocabulary,
    of_asn: HashMap<u32, Vec<(SourceId, u32)>>,
    order: [Vec<usize>; 5],
    bogon: u32,
    /// Number of each combination that was found.
    records: HashMap<Resolved, u32>,
    /// By number.
    rows: Vec<Row>,
    places: Interner<Place>,
    networks: Interner<Network>,
    label_sets: Sets<Label>,
    /// Labels of the range at hand.
    gathered: Vec<Label>,
}

/// What is known of a range. It is looked up whole: of a large database each further look costs a fetch from memory for every range.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
struct Resolved {
    place: Place,
    network: Network,
    labels: u32,
    account: u32,
}

/// Where a walk through a column is.
struct Cursor<'a> {
    source: SourceId,
    walk: Walk<'a>,
    next: Option<(u128, Answer)>,
    current: Answer,
}

enum Walk<'a> {
    Mmdb(mmdb::Walk<'a>),
    Steps { steps: &'a Steps, position: usize, answers: &'a [Answer] },
}

impl Walk<'_> {
    fn next(&mut self, words: &mut Vocabulary) -> Result<Option<(u128, Answer)>, Error> {
        match self {
            Walk::Mmdb(walk) => walk.next(words),
            Walk::Steps { steps, position, answers } => {
                let step = steps.get(*position);
                *position += 1;
                Ok(step.map(|(start, value)| (start, answers.get(value as usize).copied().unwrap_or_default())))
            }
        }
    }
}

/// Steps whose values are used as they are.
struct Values<'a> {
    steps: &'a Steps,
    position: usize,
    current: u32,
}

impl Values<'_> {
    fn of(steps: &Steps) -> Values<'_> {
        Values { steps, position: 0, current: 0 }
    }

    /// Goes on to `at`; answers where the next step begins.
    fn advance(&mut self, at: u128) -> Option<u128> {
        while let Some((start, value)) = self.steps.get(self.position) {
            if start > at {
                return Some(start);
            }
            self.current = value;
            self.position += 1;
        }
        None
    }
}

impl Merge {
    /// Cuts one family's space into ranges and gives each a record; `emit` answers how many bytes the table has by now.
    fn family(
        &mut self,
        family: Family,
        inputs: &mut Inputs,
        meter: &mut Meter,
        mut emit: impl FnMut(u128, u32) -> usize,
    ) -> Result<(), Error> {
        let scopes = scopes(family);
        let nothing = Steps::new(family);
        let pick = |v4, v6| if family == Family::V4 { v4 } else { v6 };
        let mut scope = Values::of(&scopes);
        let mut override_ = Values::of(inputs.overrides.as_ref().map_or(&nothing, |(_, o)| pick(&o.v4, &o.v6)));
        let mut account = Values::of(inputs.accounts.as_ref().map_or(&nothing, |a| pick(&a.v4, &a.v6)));
        let (override_source, overrides): (SourceId, &[Override]) =
            inputs.overrides.as_ref().map_or((0, &[]), |(id, overrides)| (*id, &overrides.values));
        let mut cursors = Vec::with_capacity(inputs.columns.len());
        for column in &mut inputs.columns {
            let mut walk = match &mut column.part {
                Part::Mmdb(database) => Walk::Mmdb(database.walk(family)?),
                Part::Answers(answers) => {
                    Walk::Steps { steps: answers.steps(family), position: 0, answers: &answers.answers }
                }
            };
            let next = walk.next(&mut self.words)?;
            cursors.push(Cursor { source: column.source, walk, next, current: Answer::default() });
        }
        let mut at = 0;
        let mut last = None;
        let mut checks = 0_u32;
        let mut ranges = 0_u32;
        loop {
            let mut following =
                [scope.advance(at), override_.advance(at), account.advance(at)].into_iter().flatten().min();
            for cursor in &mut cursors {
                while let Some((start, answer)) = cursor.next {
                    if start > at {
                        following = Some(following.map_or(start, |following| following.min(start)));
                        break;
                    }
                    cursor.current = answer;
                    cursor.next = cursor.walk.next(&mut self.words)?;
                    // A database can be small and its walk endless.
                    checks += 1;
                    if checks.is_multiple_of(RANGES_BETWEEN_CHECKS) {
                        meter.check(self.bytes())?;
                    }
                }
            }
            let known_better = overrides.get(override_.current as usize).copied().unwrap_or_default();
            let scope = Scope::from_number(scope.current as u8).unwrap_or_default();
            let resolved = self.resolve(scope, known_better, override_source, account.current, &cursors);
            let record = self.number(resolved);
            if last.replace(record) != Some(record) {
                let table_bytes = emit(at, record);
                ranges += 1;
                if ranges.is_multiple_of(RANGES_BETWEEN_CHECKS) {
                    meter.check(table_bytes + self.bytes())?;
                }
                if record >= RECORDS_MAX {
                    return Err(Error::Budget { limit: format!("{RECORDS_MAX} records") });
                }
            }
            match following {
                Some(following) => at = following,
                None => return Ok(()),
            }
        }
    }

    /// About what the answers hold in memory.
    fn bytes(&self) -> usize {
        self.words.names.bytes() + self.rows.len() * (size_of::<Row>() + size_of::<Resolved>() + 8)
    }

    fn number(&mut self, resolved: Resolved) -> u32 {
        let Merge { records, rows, places, networks, .. } = self;
        *records.entry(resolved).or_insert_with(|| {
            let Resolved { place, network, labels, account } = resolved;
            rows.push(Row { place: places.intern(place), network: networks.intern(network), labels, account });
            rows.len() as u32 - 1
        })
    }

    fn resolve(
        &mut self,
        scope: Scope,
        known_better: Override,
        override_source: SourceId,
        account: u32,
        cursors: &[Cursor<'_>],
    ) -> Resolved {
        let mut place = Place { scope, ..Place::default() };
        let mut network = Network::default();
        if scope == Scope::Global {
            let first = |field: Field| {
                let better = known_better.answer.field(field);
                if better != 0 {
                    return (better, override_source);
                }
                let mut asked = self.order[field as usize].iter().filter_map(|column| cursors.get(*column));
                asked
                    .find_map(|cursor| {
                        let value = cursor.current.field(field);
                        (value != 0).then_some((value, cursor.source))
                    })
                    .unwrap_or_default()
            };
            (place.country, place.country_source) = first(Field::Country);
            (place.region, place.region_source) = first(Field::Region);
            (place.city, place.city_source) = first(Field::City);
            (network.asn, network.asn_source) = first(Field::Asn);
            (network.as_org, network.as_org_source) = first(Field::AsOrg);
        }
        let labels = self.labels(scope, known_better, override_source, network.asn, cursors);
        Resolved { place, network, labels, account }
    }

    fn labels(
        &mut self,
        scope: Scope,
        known_better: Override,
        override_source: SourceId,
        asn: u32,
        cursors: &[Cursor<'_>],
    ) -> u32 {
        let mut gathered = std::mem::take(&mut self.gathered);
        gathered.clear();
        let mut add = |source: SourceId, set: u32| {
            gathered.extend(self.words.label_sets.get(set).iter().map(|name| Label { name: *name, source }));
        };
        for cursor in cursors {
            add(cursor.source, cursor.current.labels);
        }
        for (source, set) in self.of_asn.get(&asn).into_iter().flatten().filter(|_| asn != 0) {
            add(*source, *set);
        }
        add(override_source, known_better.answer.labels);
        if scope != Scope::Global {
            gathered.push(Label { name: self.bogon, source: 0 });
        }
        if known_better.removed != 0 {
            let removed = self.words.label_sets.get(known_better.removed);
            gathered.retain(|label| !removed.contains(&label.name));
        }
        let names = &self.words.names;
        gathered.sort_unstable_by(|a, b| names.get(a.name).cmp(names.get(b.name)).then(a.source.cmp(&b.source)));
        gathered.dedup();
        let set = self.label_sets.intern(&gathered);
        self.gathered = gathered;
        set
    }
}
