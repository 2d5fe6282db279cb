//! An alert on its whole way: traffic passes a budget's threshold, and a receiver is told until it says 2xx, once.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::mpsc;
use std::time::{SystemTime, UNIX_EPOCH};

use ring::hmac;
use serde_json::Value;

use super::{ledger, read_all};
use crate::rig::PATIENCE;
use crate::rig::client::Client;
use crate::rig::origin::Origin;
use crate::rig::process::{Config, Weir};

const SECRET: &[u8] = b"a secret that only the two know";

/// What a receiver was sent: its id, and its body; both as they were signed.
#[derive(Debug, PartialEq, Eq)]
struct Alert {
    id: String,
    body: String,
}

/// Answers with these, the last for ever. Whatever is not signed as it should be ends the test.
fn receiver(answers: &'static [u16]) -> (u16, mpsc::Receiver<Alert>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (send, received) = mpsc::channel();
    std::thread::spawn(move || {
        for (n, stream) in listener.incoming().enumerate() {
            let mut stream = stream.unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut got = Vec::new();
            let (head, body) = loop {
                let mut piece = [0; 4096];
                let n = stream.read(&mut piece).unwrap();
                assert!(n > 0, "cut off");
                got.extend_from_slice(&piece[..n]);
                let text = String::from_utf8(got.clone()).unwrap();
                let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                if field(head, "content-length").parse() == Ok(body.len()) {
                    break (head.to_owned(), body.to_owned());
                }
            };
            assert!(head.starts_with("POST /hook?of=weir HTTP/1.1\r\n"), "{head}");
            verify(&field(&head, "weir-signature"), &body);
            let status = answers[n.min(answers.len() - 1)];
            write!(stream, "HTTP/1.1 {status} so\r\ncontent-length: 0\r\n\r\n").unwrap();
            if send.send(Alert { id: field(&head, "weir-alert-id"), body }).is_err() {
                return;
            }
        }
    });
    (port, received)
}

fn field(head: &str, name: &str) -> String {
    let mut fields = head.lines().filter_map(|line| line.split_once(": "));
    fields.find(|(known, _)| known.eq_ignore_ascii_case(name)).map_or_else(String::new, |(_, value)| value.to_owned())
}

/// As a receiver has to: over the time and the body as it came, and not of long ago.
fn verify(signature: &str, body: &str) {
    let (time, tag) = signature.strip_prefix("t=").and_then(|rest| rest.split_once(",v1=")).unwrap();
    let tag: Vec<u8> = (0..tag.len() / 2).map(|at| u8::from_str_radix(&tag[2 * at..2 * at + 2], 16).unwrap()).collect();
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET);
    hmac::verify(&key, format!("{time}.{body}").as_bytes(), &tag).unwrap();
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    assert!(now_s.abs_diff(time.parse().unwrap()) < 120, "{time} and it is {now_s}");
}

#[test]
fn a_receiver_that_fails_twice_is_told_again_and_then_never_more() {
    let origin = Origin::http();
    let (port, received) = receiver(&[500, 500, 200]);
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), SECRET).unwrap();
    let mut config = Config::listener("web", "http", origin.address, "account = \"acme\"");
    config.listeners += &format!(
        "[ledger]\nbatch_interval_ms = 20\n[alerts]\nwebhook = \"http://127.0.0.1:{port}/hook?of=weir\"\nsecret = {:?}\n\
         look_interval_ms = 100\nretry_first_ms = 50\n\
         [[budgets]]\naccount = \"acme\"\nmeter = \"requests\"\namount = 4\nthresholds_percent = [50]\n",
        secret.path()
    );
    let sidecar = Weir::start(&config);
    let mut client = Client::connect(sidecar.address("web"));
    client.get("/bytes/10");
    // A quarter of the budget: a ledger that looks has nothing to say.
    read_all(&sidecar.house);
    assert_eq!(received.try_recv(), Err(mpsc::TryRecvError::Empty));
    (0..2).for_each(|_| drop(client.get("/bytes/10")));
    client.close();
    sidecar.settled(1);
    let first = ledger(&sidecar.house);
    let told: Vec<Alert> = (0..3).map(|_| received.recv_timeout(PATIENCE).unwrap()).collect();
    assert!(told.iter().all(|alert| *alert == told[0]), "{told:?}");
    let body: Value = serde_json::from_str(&told[0].body).unwrap();
    assert_eq!(body["id"], told[0].id);
    assert_eq!((&body["account"], &body["meter"], &body["used"]), (&"acme".into(), &"requests".into(), &3.into()));
    assert_eq!((&body["budget"], &body["threshold_percent"]), (&4.into(), &50.into()));
    // It was answered 200: neither this ledger nor the next says it again, though more is used.
    crate::rig::until("the alert to be written down as delivered", || {
        let database = sidecar.house.state().join("ledger.db").display().to_string();
        (state_of(&database) == ["delivered"]).then_some(())
    });
    first.stop();
    Client::connect(sidecar.address("web")).get("/bytes/10");
    // Before it ends it has looked, and sent what was due.
    read_all(&sidecar.house);
    assert_eq!(received.try_recv(), Err(mpsc::TryRecvError::Empty));
}

/// Of all alerts.
fn state_of(database: &str) -> Vec<String> {
    use sqlx::Row;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        sqlx::any::install_default_drivers();
        let pool = sqlx::AnyPool::connect(&format!("sqlite://{database}")).await.unwrap();
        let rows = sqlx::query("SELECT state FROM alerts").fetch_all(&pool).await.unwrap();
        rows.iter().map(|row| row.get("state")).collect()
    })
}
