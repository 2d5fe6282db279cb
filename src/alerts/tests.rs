//! Against a real receiver on a socket, on SQLite.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::mpsc;

use super::*;
use crate::clock::parse_utc;
use crate::config::{MeterColumn, Webhook};
use crate::rollup::{Change, corrected};
use crate::store::{Correction, Kind};

const SECRET: &[u8] = b"a secret of the test";

/// What came of a request.
struct Received {
    head: String,
    body: String,
}

/// Answers with these, one for each request, and says what came; the last is answered for ever.
fn receiver(answers: &'static [u16]) -> (u16, mpsc::Receiver<Received>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (send, received) = mpsc::channel();
    std::thread::spawn(move || {
        for (n, stream) in listener.incoming().enumerate() {
            let mut stream = stream.unwrap();
            let mut bytes = Vec::new();
            let (head, body) = loop {
                let mut part = [0; 4096];
                let n = stream.read(&mut part).unwrap();
                bytes.extend_from_slice(&part[..n]);
                let text = String::from_utf8(bytes.clone()).unwrap();
                let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
                if body.len() == length.parse::<usize>().unwrap() {
                    break (head.to_owned(), body.to_owned());
                }
            };
            let status = answers[n.min(answers.len() - 1)];
            if send.send(Received { head, body }).is_err() {
                return;
            }
            write!(stream, "HTTP/1.1 {status} so\r\ncontent-length: 0\r\n\r\n").unwrap();
        }
    });
    (port, received)
}

struct House {
    directory: tempfile::TempDir,
    store: Store,
}

impl House {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("secret"), SECRET).unwrap();
        let store = Store::open(&directory.path().join("ledger.db").display().to_string()).await.unwrap();
        Self { directory, store }
    }

    async fn alerts(&self, port: Option<u16>) -> Alerts {
        let webhook = port.map(|port| Webhook {
            uri: format!("http://127.0.0.1:{port}/hook?x=1").parse().unwrap(),
            secret: self.directory.path().join("secret"),
        });
        let second = Duration::from_secs(1);
        let setting = Setting { webhook, look_interval: second, retry_first: second, give_up: 100 * second };
        let budget = |account: &str, amount: i64| Budget {
            account: account.to_owned(),
            meter: "egress_bytes".to_owned(),
            amount,
            period: BudgetPeriod::Month,
            thresholds_percent: vec![50, 80, 100],
        };
        let budgets = vec![budget("acme", 1000), budget("globex", 1000)];
        // Another process has a store of its own.
        let store = Store::open(&self.directory.path().join("ledger.db").display().to_string()).await.unwrap();
        Alerts::new(store, setting, budgets, Meter::defaults()).unwrap()
    }

    /// So much more was used in this hour.
    async fn used(&self, account: &str, at: &str, bytes: i64) {
        let series = Series {
            kind: Kind::Session,
            account: account.to_owned(),
            endpoint: String::new(),
            host: String::new(),
            protocol: String::new(),
            country: String::new(),
            status_class: 0,
            billable: true,
            reason: String::new(),
            corrects: String::new(),
            correction: String::new(),
        };
        let mut sums = Sums::default();
        let Some((_, MeterColumn::Bytes(column))) =
            MeterColumn::ALL.into_iter().find(|(name, _)| *name == "sent_acked_bytes")
        else {
            unreachable!("there is such a column")
        };
        sums.bytes[column as usize] = bytes;
        let change = Change::Add { series: Box::new(series), hour_us: parse_utc(at).unwrap(), sums };
        let text = String::new;
        let made = Correction { id: text(), at_us: 0, actor: text(), reason: text(), what: text(), undoes: text() };
        self.store.correct(made, &Filter::default(), |seen| corrected(&change, seen)).await.unwrap();
    }

    async fn fired(&self) -> Vec<(String, i64, AlertState)> {
        let mut fired: Vec<_> = self
            .store
            .alerts(None)
            .await
            .unwrap()
            .into_iter()
            .map(|alert| (alert.period, alert.percent, alert.state))
            .collect();
        fired.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
        fired
    }
}

fn at(text: &str) -> i64 {
    parse_utc(text).unwrap()
}

#[tokio::test]
async fn a_webhook_that_fails_at_first_gets_it_later_signed_and_once() {
    let house = House::new().await;
    let (port, received) = receiver(&[503, 500, 200]);
    let alerts = house.alerts(Some(port)).await;
    let mut now_us = at("2026-11-03T10:00:00Z");
    house.used("acme", "2026-11-03T09:00:00Z", 499).await;
    alerts.look(now_us).await.unwrap();
    assert!(house.fired().await.is_empty());
    house.used("acme", "2026-11-03T09:00:00Z", 1).await;
    for expected in [AlertState::Waiting, AlertState::Waiting, AlertState::Delivered] {
        alerts.look(now_us).await.unwrap();
        assert_eq!(house.fired().await, [("2026-11".to_owned(), 50, expected)]);
        // Not before its time: after a second, then after two.
        alerts.look(now_us + 999_999).await.unwrap();
        now_us += 2_000_000;
    }
    alerts.look(now_us).await.unwrap();
    let all: Vec<Received> = received.try_iter().collect();
    assert_eq!(all.len(), 3);
    let header = |received: &Received, name: &str| -> String {
        let line = received.head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")).map(str::to_owned));
        line.unwrap_or_else(|| unreachable!("no {name} in {}", received.head))
    };
    for one in &all {
        assert!(one.head.starts_with("POST /hook?x=1 HTTP/1.1"), "{}", one.head);
        assert_eq!((header(one, "weir-alert-id"), &one.body), (header(&all[0], "weir-alert-id"), &all[0].body));
        let signature = header(one, "weir-signature");
        let (time, tag) = signature.strip_prefix("t=").unwrap().split_once(",v1=").unwrap();
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, SECRET);
        let tag = crate::ids::unhex(tag.as_bytes()).unwrap();
        assert!(ring::hmac::verify(&key, format!("{time}.{}", one.body).as_bytes(), &tag).is_ok());
        assert!(ring::hmac::verify(&key, format!("{time}.{} ", one.body).as_bytes(), &tag).is_err());
    }
    let body: serde_json::Value = serde_json::from_str(&all[0].body).unwrap();
    assert_eq!(
        (&body["account"], &body["used"], &body["threshold_percent"]),
        (&"acme".into(), &500.into(), &50.into())
    );
}

#[tokio::test]
async fn two_ledgers_and_restarts_fire_once_and_the_next_period_re_arms() {
    let house = House::new().await;
    let (port, received) = receiver(&[200]);
    house.used("acme", "2026-11-03T09:00:00Z", 850).await;
    let now_us = at("2026-11-03T10:00:00Z");
    let (one, two) = (house.alerts(Some(port)).await, house.alerts(Some(port)).await);
    let (first, second) = tokio::join!(one.look(now_us), two.look(now_us));
    first.unwrap();
    second.unwrap();
    house.alerts(Some(port)).await.look(now_us + 5_000_000).await.unwrap();
    assert_eq!(received.try_iter().count(), 2, "50 and 80 percent, once each");
    // The month is over, and what came late belongs to it.
    house.used("acme", "2026-11-30T23:00:00Z", 200).await;
    let december_us = at("2026-12-01T00:30:00Z");
    one.look(december_us).await.unwrap();
    assert_eq!(received.try_iter().count(), 1, "100 percent of November");
    house.used("acme", "2026-12-01T00:00:00Z", 500).await;
    one.look(december_us).await.unwrap();
    let last = received.try_iter().map(|received| received.body).collect::<Vec<_>>();
    assert!(last.len() == 1 && last[0].contains("\"2026-12\""), "{last:?}");
}

#[tokio::test]
async fn a_webhook_that_never_answers_is_given_up_and_said_so() {
    let house = House::new().await;
    // Bound and closed again: nobody listens there.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let alerts = house.alerts(Some(port)).await;
    house.used("globex", "2026-11-03T09:00:00Z", 500).await;
    let now_us = at("2026-11-03T10:00:00Z");
    for second in 0..200 {
        alerts.look(now_us + second * 1_000_000).await.unwrap();
    }
    let all = house.store.alerts(Some("globex")).await.unwrap();
    assert_eq!((all.len(), all[0].state), (1, AlertState::GivenUp));
    assert!(all[0].problem.starts_with("cannot connect"), "{}", all[0].problem);
    // 1 + 2 + 4 + … s: the eighth is the first one after 100 s.
    assert_eq!(all[0].attempts, 8);
    assert_eq!(house.store.alerts(Some("acme")).await.unwrap(), []);
}

#[tokio::test]
async fn without_a_webhook_they_are_shown() {
    let house = House::new().await;
    house.used("acme", "2026-11-03T09:00:00Z", 5000).await;
    house.alerts(None).await.look(at("2026-11-03T10:00:00Z")).await.unwrap();
    let shown = |percent| ("2026-11".to_owned(), percent, AlertState::Shown);
    assert_eq!(house.fired().await, [shown(50), shown(80), shown(100)]);
}
