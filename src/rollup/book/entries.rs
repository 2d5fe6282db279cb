//! What a record brings to usage: a request's bytes, and what a session moved beyond its requests; see the header of `rollup`.

use super::fingerprint::fingerprint;
use super::{Book, UNITEMISED};
use crate::clock::hour_of;
use crate::event::{Kind as RecordKind, Phase, RecordView};
use crate::rollup::catalog::Named;
use crate::rollup::item::{Bytes, Closed, Item, add, bytes_of, minus, negative};
use crate::rollup::window;
use crate::store::{Kind, Sums};
use crate::units::COLUMNS;
use crate::wire::{Stream, StreamId};

impl Book {
    /// What a record brings to usage. Nothing asks whether it came before: that is up to whoever looks at records again.
    pub(in crate::rollup) fn record(&mut self, stream: &StreamId, seq: u64, record: &RecordView<'_>) {
        let hour_us = hour_of(record.at);
        match record.kind() {
            RecordKind::Gap => self.gap(stream, record, hour_us),
            RecordKind::Node => record.ended.iter().for_each(|end| self.ended(stream, end)),
            _ if !self.keeps_usage => {}
            RecordKind::Request => self.request(stream, seq, record, hour_us),
            RecordKind::Session => self.session(stream, seq, record, hour_us),
            RecordKind::Unspecified => {}
        }
    }

    fn request(&mut self, stream: &StreamId, seq: u64, record: &RecordView<'_>, hour_us: i64) {
        let (delta, total) = (bytes_of(record.deltas()), bytes_of(record.totals()));
        let is_close = record.phase() == Phase::Close;
        let requests = if is_close { record.folded.max(1) } else { 0 };
        let sums = Sums {
            bytes: delta,
            requests,
            records: 1,
            fingerprint: fingerprint(stream, seq, &delta),
            ..Sums::default()
        };
        let named = Named {
            kind: Kind::Request,
            account: record.payer(),
            endpoint: &record.endpoint,
            host: &record.host,
            protocol: &record.protocol,
            country: &record.country,
            status_class: i64::from(record.status / 100),
            billable: record.billable,
            reason: record.reason().name(),
            corrects: "",
            correction: "",
        };
        self.add(named, hour_us, &sums);
        if let Ok(session) = <[u8; 16]>::try_from(record.session_id.as_ref()) {
            self.charge(stream, session, &delta, is_close, hour_us);
        }
        let Ok(id) = <[u8; 16]>::try_from(record.request_id.as_ref()) else { return };
        // Most requests have one record, which says all.
        if is_close && delta == total && !self.items.contains_key(&id) {
            return;
        }
        let (_, item) = self.items.entry(id).or_insert_with(|| (stream.clone(), Item::default()));
        item.take(seq, &delta, &total, record);
        item.last_at_us = Some(item.last_at_us.unwrap_or(record.at).max(record.at));
        item.is_closed |= is_close;
        self.changed.items.insert(id);
        if is_close && item.is_whole() && !self.may_miss(stream, id) {
            self.items.remove(&id);
        }
    }

    /// What a request's record brought is no longer its session's own.
    fn charge(&mut self, stream: &StreamId, session: [u8; 16], delta: &Bytes, is_close: bool, hour_us: i64) {
        let (_, item) = self.items.entry(session).or_insert_with(|| (stream.clone(), Item::default()));
        self.changed.items.insert(session);
        item.closes += i64::from(is_close);
        let Some(closed) = item.closed.clone() else {
            add(&mut item.debt, delta);
            return;
        };
        // The session's close is behind us: the record was in a gap.
        item.beyond = minus(&item.beyond, delta);
        let (beyond, all_came) = (item.beyond, item.closes >= item.requests);
        let unitemised = Named { billable: false, reason: UNITEMISED, ..Named::of(&closed.series) };
        let now = if closed.unitemised { unitemised } else { Named::of(&closed.series) };
        self.add(now, hour_us, &of_bytes(negative(delta)));
        if closed.unitemised && all_came {
            // Everything that it began is accounted for after all.
            self.add(unitemised, hour_us, &of_bytes(negative(&beyond)));
            self.add(Named::of(&closed.series), hour_us, &of_bytes(beyond));
            if let Some((_, item)) = self.items.get_mut(&session) {
                item.closed = Some(Closed { unitemised: false, ..closed });
            }
        }
    }

    fn session(&mut self, stream: &StreamId, seq: u64, record: &RecordView<'_>, hour_us: i64) {
        let Ok(id) = <[u8; 16]>::try_from(record.session_id.as_ref()) else { return };
        let (delta, total) = (bytes_of(record.deltas()), bytes_of(record.totals()));
        let is_close = record.phase() == Phase::Close;
        let (_, item) = self.items.entry(id).or_insert_with(|| (stream.clone(), Item::default()));
        item.take(seq, &delta, &total, record);
        let beyond = minus(&delta, &item.debt);
        item.debt = [0; COLUMNS];
        item.requests = item.requests.max(record.requests);
        let before_us = item.last_at_us.unwrap_or(record.started_at);
        item.last_at_us = Some(before_us.max(record.at));
        if record.billable {
            add(&mut item.beyond, &beyond);
        }
        let named = Named {
            kind: Kind::Session,
            account: record.payer(),
            endpoint: &record.endpoint,
            host: "",
            protocol: &record.protocol,
            country: &record.country,
            status_class: 0,
            billable: record.billable,
            reason: record.reason().name(),
            corrects: "",
            correction: "",
        };
        // What comes after such a close goes where the rest of its overhead went.
        let is_late = record.billable && item.closed.as_ref().is_some_and(|closed| closed.unitemised);
        let is_unitemised = is_close && item.requests > item.closes;
        item.is_closed |= is_close;
        let billed = item.beyond;
        if is_close {
            let at = self.catalog.place(Named { billable: true, reason: "", ..named });
            item.closed = Some(Closed { series: self.catalog.series(at).clone(), unitemised: is_unitemised });
        }
        let sums = Sums {
            bytes: if is_late { [0; COLUMNS] } else { beyond },
            sessions: i64::from(is_close),
            session_us: (record.at - before_us).max(0),
            records: 1,
            fingerprint: fingerprint(stream, seq, &delta),
            ..Sums::default()
        };
        self.add(named, hour_us, &sums);
        if is_late {
            self.add(Named { billable: false, reason: UNITEMISED, ..named }, hour_us, &of_bytes(beyond));
        }
        if is_unitemised {
            self.add(Named { billable: true, reason: "", ..named }, hour_us, &of_bytes(negative(&billed)));
            self.add(Named { billable: false, reason: UNITEMISED, ..named }, hour_us, &of_bytes(billed));
        }
        self.changed.items.insert(id);
        let is_whole = self.items.get(&id).is_some_and(|(_, item)| item.is_whole());
        if is_close && is_whole && !self.may_miss(stream, id) {
            self.items.remove(&id);
        }
    }

    /// Whether a record of this item may still come: a gap above its first record, or anywhere if that did not come.
    fn may_miss(&self, stream: &StreamId, id: [u8; 16]) -> bool {
        let missing = self.verifier.stream(stream).map_or(&[][..], Stream::missing);
        let Some(last) = missing.last() else { return false };
        let opened_seq = self.items.get(&id).and_then(|(_, item)| item.opened_seq);
        opened_seq.is_none_or(|opened_seq| last.seqs.end > opened_seq)
    }

    /// Adds to usage: in this hour, or, where its period is sealed, in the first of the open one, in a series that names the sealed.
    pub(super) fn add(&mut self, named: Named<'_>, hour_us: i64, sums: &Sums) {
        if sums.is_zero() {
            return;
        }
        let key = if hour_us < self.sealed_until_us {
            let sealed = self.periods.iter().find(|period| period.from_us <= hour_us && hour_us < period.to_us);
            let name = sealed.map_or_else(|| window::month_name(hour_us), |period| period.name.clone());
            (self.catalog.place(Named { corrects: &name, ..named }), self.sealed_until_us)
        } else {
            (self.catalog.place(named), hour_us)
        };
        self.changed.usage.entry(key).or_default().add(sums);
    }
}

pub(super) fn of_bytes(bytes: Bytes) -> Sums {
    Sums { bytes, ..Sums::default() }
}
