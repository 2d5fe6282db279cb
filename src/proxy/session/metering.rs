//! What a session's engines read and write, told apart by its meter.

use tracing::debug;

use super::{Cut, Session};
use crate::event::{End, Reason};
use crate::meter::{Burden, Direction, H1Meter, H2Meter, Tally, Violation};
use crate::proxy::exchange::{self, Exchange, Exchanges};
use crate::units::Column;

/// What the HTTP meter of a session is.
pub(super) enum HttpMeter {
    /// Not HTTP, or not known yet.
    None,
    H1(Box<H1Meter>),
    H2(Box<H2Meter>),
    /// Raw TCP: every app octet is payload.
    Tunnel,
}

impl Session {
    /// From here on the app octets are HTTP/1.
    pub fn meter_h1(&self) {
        *self.meter.borrow_mut() = HttpMeter::H1(Box::default());
    }

    /// From here on the app octets are HTTP/2, beginning with the client preface.
    pub fn meter_h2(&self) {
        *self.meter.borrow_mut() = HttpMeter::H2(Box::default());
    }

    /// From here on the app octets are a raw tunnel's.
    pub fn meter_tunnel(&self) {
        *self.meter.borrow_mut() = HttpMeter::Tunnel;
    }

    /// App octets came from the client.
    pub fn app_received(&self, bytes: &[u8]) {
        if cfg!(feature = "unmetered") {
            return;
        }
        self.add(Column::ReceivedApp, bytes.len() as u64);
        self.feed(bytes, Direction::Received);
    }

    /// App octets went to the client (or, under TLS, to its engine).
    pub fn app_sent(&self, bytes: &[u8]) {
        if cfg!(feature = "unmetered") {
            return;
        }
        self.add(Column::SentApp, bytes.len() as u64);
        if !self.plain.get() {
            self.tls_unflushed.set(true);
        }
        self.feed(bytes, Direction::Sent);
    }

    /// Octets of a tunnel passed inside the kernel: app and payload at once. `exchange`: the upgraded one, or none where
    /// the session is the tunnel.
    pub fn tunnel_moved(&self, exchange: Option<u64>, direction: Direction, n: u64) {
        let mut exchanges = self.exchanges.borrow_mut();
        let mut tally = Count { session: self, exchanges: &mut exchanges };
        let (app, body) = match direction {
            Direction::Received => (Column::ReceivedApp, Column::ReceivedBody),
            Direction::Sent => (Column::SentApp, Column::SentBody),
        };
        self.add(app, n);
        // An exchange's payload is added to the session's with it.
        let payload = if exchange.is_some() { n } else { 0 };
        self.add(body, n - payload);
        match direction {
            Direction::Received => tally.received(exchange, n, payload),
            Direction::Sent => tally.sent(exchange, n, payload),
        }
    }

    /// Octets of the body of an HTTP/1 answer passed inside the kernel.
    pub fn body_passed(&self, bytes: usize) {
        if cfg!(feature = "unmetered") {
            return;
        }
        self.add(Column::SentApp, bytes as u64);
        let mut exchanges = self.exchanges.borrow_mut();
        let mut tally = Count { session: self, exchanges: &mut exchanges };
        match &mut *self.meter.borrow_mut() {
            HttpMeter::H1(meter) => meter.body_passed(bytes, &mut tally),
            _ => tally.sent(None, bytes as u64, 0),
        }
    }

    /// What TLS held back has reached the socket.
    pub fn flushed(&self) {
        if self.tls_unflushed.replace(false) {
            let sent = self.value(Column::SentWire);
            let mut exchanges = self.exchanges.borrow_mut();
            let exchanges = &mut *exchanges;
            for exchange in exchanges.open.iter_mut().chain(&mut exchanges.held).filter(|exchange| exchange.unflushed) {
                exchange.unflushed = false;
                exchange.sent_until = sent;
            }
        }
    }

    fn feed(&self, bytes: &[u8], direction: Direction) {
        let mut exchanges = self.exchanges.borrow_mut();
        let mut tally = Count { session: self, exchanges: &mut exchanges };
        match (&mut *self.meter.borrow_mut(), direction) {
            (HttpMeter::H1(meter), Direction::Received) => meter.feed_received(bytes, &mut tally),
            (HttpMeter::H1(meter), Direction::Sent) => meter.feed_sent(bytes, &mut tally),
            (HttpMeter::H2(meter), Direction::Received) => {
                meter.feed_received(bytes, &mut tally);
                self.watch_for_flood(meter.burden());
            }
            (HttpMeter::H2(meter), Direction::Sent) => meter.feed_sent(bytes, &mut tally),
            (HttpMeter::Tunnel, direction) => {
                let body = match direction {
                    Direction::Received => Column::ReceivedBody,
                    Direction::Sent => Column::SentBody,
                };
                self.add(body, bytes.len() as u64);
                match direction {
                    Direction::Received => tally.received(None, bytes.len() as u64, 0),
                    Direction::Sent => tally.sent(None, bytes.len() as u64, 0),
                }
            }
            (HttpMeter::None, Direction::Received) => tally.received(None, bytes.len() as u64, 0),
            (HttpMeter::None, Direction::Sent) => tally.sent(None, bytes.len() as u64, 0),
        }
    }

    fn watch_for_flood(&self, burden: Burden) {
        if self.flood_gate.has_news(burden) && self.cut.get().is_none() {
            let now_us = self.worker.coarse_now_us();
            if self.flood_gate.is_over(burden, now_us, &self.worker.setup().config.limits) {
                debug!(session = %self.id, ?burden, "the client floods");
                self.worker.metrics.floods.increment(1);
                self.ends(End::ProtocolError, Reason::Limited);
                self.cut(Cut::Flood);
            }
        }
    }
}

/// The session as its meter's tally.
struct Count<'a> {
    session: &'a Session,
    exchanges: &'a mut Exchanges,
}

impl Tally for Count<'_> {
    fn begin(&mut self, index: u64) {
        if self.exchanges.held.len() >= self.exchanges.left + exchange::HELD_STEP {
            // Most of what is held is acknowledged by now: one cheap call settles some.
            self.session.settle_held(self.exchanges);
        }
        self.exchanges.begun += 1;
        let worker = &self.session.worker;
        let requests = self.session.requests() + 1;
        if let Some((id, measured)) = worker.recorder.measure_request(&self.session.note.borrow(), requests) {
            // Counted once its slot is there: after a kill in between, the slot says what was to be counted.
            self.session.with(|session| session.set_requests(requests));
            worker.metrics.requests.increment(1);
            self.exchanges.open.push_back(Exchange::new(index, id, measured));
        }
    }

    fn received(&mut self, index: Option<u64>, app: u64, body: u64) {
        let now_us = self.session.worker.coarse_now_us();
        let Some(exchange) = index.and_then(|index| self.exchanges.find(index)) else {
            self.exchanges.overhead_received += app;
            return;
        };
        self.session.add(Column::ReceivedBody, body);
        exchange.measured.add(Column::ReceivedApp, app);
        exchange.measured.add(Column::ReceivedBody, body);
        exchange.active_at_us = now_us;
        self.exchanges.sum_received += app;
    }

    fn sent(&mut self, index: Option<u64>, app: u64, body: u64) {
        let sent_until = self.session.value(Column::SentWire);
        let (plain, now_us) = (self.session.plain.get(), self.session.worker.coarse_now_us());
        let Some(exchange) = index.and_then(|index| self.exchanges.find(index)) else {
            self.exchanges.overhead_sent += app;
            return;
        };
        self.session.add(Column::SentBody, body);
        exchange.measured.add(Column::SentApp, app);
        exchange.measured.add(Column::SentBody, body);
        exchange.sent_until = sent_until;
        exchange.unflushed = !plain;
        exchange.active_at_us = now_us;
        self.exchanges.sum_sent += app;
    }

    fn reclaim(&mut self, direction: Direction, index: u64, app: u64) {
        let Some(exchange) = self.exchanges.find(index) else { return };
        match direction {
            Direction::Received => {
                exchange.measured.add(Column::ReceivedApp, app);
                self.exchanges.overhead_received -= app;
                self.exchanges.sum_received += app;
            }
            Direction::Sent => {
                exchange.measured.add(Column::SentApp, app);
                self.exchanges.overhead_sent -= app;
                self.exchanges.sum_sent += app;
            }
        }
    }

    fn status(&mut self, index: u64, code: u16) {
        if let Some(exchange) = self.exchanges.find(index) {
            exchange.verdict.status = code;
        }
    }

    fn received_end(&mut self, index: u64) {
        if let Some(exchange) = self.exchanges.find(index) {
            exchange.received_done = true;
            self.hold_if_done(index);
        }
    }

    fn sent_end(&mut self, index: u64) {
        if let Some(exchange) = self.exchanges.find(index) {
            exchange.sent_done = true;
            self.hold_if_done(index);
        }
    }

    fn reset(&mut self, index: u64, from_client: bool, code: u32) {
        if let Some(exchange) = self.exchanges.find(index) {
            exchange.was_reset(from_client, code);
            self.hold_if_done(index);
        }
    }

    fn tunnel(&mut self, index: u64) {
        // What began after it were never requests: their octets are early tunnel payload.
        while let Some(later) = self.exchanges.open.pop_back_if(|exchange| exchange.index > index) {
            let moved = later.measured.get(Column::ReceivedApp);
            self.session.add(Column::ReceivedBody, moved - later.measured.get(Column::ReceivedBody));
            // Counted no more before its slot goes: a kill in between leaves a request, and the slot says so.
            self.session.with(|session| session.set_requests(session.requests() - 1));
            later.measured.discard();
            self.exchanges.begun -= 1;
            if let Some(tunnel) = self.exchanges.find(index) {
                tunnel.measured.add(Column::ReceivedApp, moved);
                tunnel.measured.add(Column::ReceivedBody, moved);
            }
        }
        if let Some(tunnel) = self.exchanges.find(index) {
            tunnel.tunnel = true;
        }
        if self.session.violation.get().is_some_and(|(at, _)| at.is_some_and(|at| at > index)) {
            self.session.violation.set(None);
        }
    }

    fn violation(&mut self, index: Option<u64>, what: Violation) {
        if self.session.violation.get().is_none() {
            debug!(session = %self.session.id, violation = what.as_str(), "a request breaks the grammar");
            self.session.worker.metrics.violations.increment(1);
            self.session.violation.set(Some((index, what)));
        }
    }

    fn lost(&mut self, direction: Direction) {
        debug!(session = %self.session.id, ?direction, "the meter cannot follow");
        self.session.worker.metrics.meter_lost.increment(1);
    }
}

impl Count<'_> {
    /// An exchange that is complete both ways is held until it is acknowledged.
    fn hold_if_done(&mut self, index: u64) {
        let Some(done) = self.exchanges.take_if_done(index) else { return };
        done.measured.decide(done.verdict);
        self.exchanges.held.push_back(done);
    }
}
