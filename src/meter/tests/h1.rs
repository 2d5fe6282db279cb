//! The h1 meter against conversations whose octets are known.

use super::*;
use crate::meter::{LINE_BYTES_MAX, PIPELINE_MAX};

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";

/// Octets of exchange 0, of overhead, and what was told, for the whole conversation and for two cuts of it.
#[track_caller]
fn check(conversation: Conversation, exchange: Octets, overhead: Octets, told: &[Told]) {
    for pieces in [&[][..], &[1], &[7, 2]] {
        let recorder = play_h1(&conversation, pieces);
        assert_eq!(recorder.of(0), exchange, "octets of exchange 0, pieces {pieces:?}");
        assert_eq!(recorder.overhead(), overhead, "overhead, pieces {pieces:?}");
        assert_eq!(recorder.told, told, "pieces {pieces:?}");
    }
}

fn len(bytes: &[u8]) -> u64 {
    bytes.len() as u64
}

fn post(fields: &str, body: &str) -> Vec<u8> {
    format!("POST / HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n{body}").into_bytes()
}

#[test]
fn a_get_and_its_answer() {
    use Told::*;
    check(
        vec![received(GET), sent(OK)],
        [len(GET), 0, len(OK), 2],
        [0; 4],
        &[Begin(0), ReceivedEnd(0), Status(0, 200), SentEnd(0)],
    );
}

#[test]
fn chunked_bodies_count_data_only() {
    use Told::*;
    let request =
        post("Transfer-Encoding: chunked\r\n", "5;a=\"b c\"\r\nhello\r\nA\r\n0123456789\r\n0\r\nX-T: 1\r\n\r\n");
    let response = b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, Chunked\r\n\r\n3\r\nabc\r\n0\r\nx: y\r\n\r\n";
    check(
        vec![received(&request), sent(response)],
        [len(&request), 15, len(response), 3],
        [0; 4],
        &[Begin(0), ReceivedEnd(0), Status(0, 200), SentEnd(0)],
    );
}

#[test]
fn interim_responses_belong_to_the_exchange_and_end_nothing() {
    use Told::*;
    let head = post("Content-Length: 5\r\nExpect: 100-continue\r\n", "");
    let early = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
    check(
        vec![received(&head), sent(early), received("hello"), sent(OK)],
        [len(&head) + 5, 5, len(early) + len(OK), 2],
        [0; 4],
        &[Begin(0), ReceivedEnd(0), Status(0, 200), SentEnd(0)],
    );
}

#[test]
fn responses_without_body_end_with_their_head() {
    use Told::*;
    let head = b"HEAD / HTTP/1.1\r\nHost: a.test\r\n\r\n";
    for (request, response, status) in [
        (&head[..], &b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n"[..], 200),
        (&head[..], &b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"[..], 200),
        (GET, &b"HTTP/1.1 204 No Content\r\n\r\n"[..], 204),
        (GET, &b"HTTP/1.1 304 Not Modified\r\nContent-Length: 500\r\n\r\n"[..], 304),
        (GET, &b"HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n"[..], 200),
    ] {
        check(
            vec![received(request), sent(response)],
            [len(request), 0, len(response), 0],
            [0; 4],
            &[Begin(0), ReceivedEnd(0), Status(0, status), SentEnd(0)],
        );
    }
}

#[test]
fn a_close_delimited_response_has_no_end() {
    use Told::*;
    let request = b"GET / HTTP/1.0\r\n\r\n";
    let response = b"HTTP/1.0 200 OK\r\n\r\nall the rest";
    check(
        vec![received(request), sent(response)],
        [len(request), 0, len(response), 12],
        [0; 4],
        &[Begin(0), ReceivedEnd(0), Status(0, 200)],
    );
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let requests =
        [&b"\r\n"[..], GET, &post("Content-Length: 5\r\n", "hello"), b"\r\n\r\nHEAD / HTTP/1.1\r\nHost: b\r\n\r\n"]
            .concat();
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n";
    let answers = [OK, OK, head].concat();
    let recorder = play_h1(&vec![received(&requests), sent(&answers)], &[]);
    assert_eq!(recorder.of(0), [len(GET), 0, len(OK), 2]);
    assert_eq!(recorder.of(1)[1..], [5, len(OK), 2]);
    assert_eq!(recorder.of(2), [28, 0, len(head), 0]);
    assert_eq!(recorder.overhead(), [6, 0, 0, 0], "CRLFs before request lines");
}

#[test]
fn what_follows_a_request_that_closes_is_overhead() {
    use Told::*;
    for request in [
        &b"GET / HTTP/1.0\r\n\r\n"[..],
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: x, Close\r\n\r\n",
        b"GET / HTTP/1.0\r\nConnection: keep-alive\r\nConnection: close\r\n\r\n",
    ] {
        check(
            vec![received([request, GET].concat()), sent(OK)],
            [len(request), 0, len(OK), 2],
            [len(GET), 0, 0, 0],
            &[Begin(0), ReceivedEnd(0), Status(0, 200), SentEnd(0)],
        );
    }
    let kept = b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n";
    let recorder = play_h1(&vec![received([kept, GET].concat())], &[]);
    assert_eq!(recorder.of(1), [len(GET), 0, 0, 0]);
}

#[test]
fn a_switch_of_protocols_makes_everything_body() {
    use Told::*;
    let request = b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let switch = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n";
    check(
        vec![received(request), sent([switch, &b"\x81\x02hi"[..]].concat()), received("\x01\r\n\x7f"), sent("more")],
        [len(request) + 4, 4, len(switch) + 8, 8],
        [0; 4],
        &[Begin(0), ReceivedEnd(0), Status(0, 101), Tunnel(0)],
    );
}

#[test]
fn connect_becomes_a_tunnel_only_when_accepted() {
    use Told::*;
    let request = b"CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n";
    let accepted = b"HTTP/1.1 200 OK\r\n\r\n";
    check(
        vec![received(request), sent(accepted), received("abc"), sent("de")],
        [len(request) + 3, 3, len(accepted) + 2, 2],
        [0; 4],
        &[Begin(0), ReceivedEnd(0), Status(0, 200), Tunnel(0)],
    );
    let declined = b"HTTP/1.1 405 No\r\nContent-Length: 0\r\n\r\n";
    let recorder = play_h1(&vec![received(request), sent(declined), received(GET), sent(OK)], &[]);
    assert_eq!(recorder.of(1), [len(GET), 0, len(OK), 2]);
}

/// Read as a request until the answer decides: seen by the guard if declined, early payload if accepted.
#[test]
fn octets_between_an_upgrade_and_its_answer_are_the_next_exchange() {
    let upgrade = b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n";
    let both = received([upgrade, GET].concat());
    let declined = play_h1(&vec![both.clone(), sent(OK), sent(OK)], &[]);
    assert_eq!(declined.of(1), [len(GET), 0, len(OK), 2]);
    assert_eq!(declined.told.iter().filter(|told| matches!(told, Told::SentEnd(_))).count(), 2);

    let switch = b"HTTP/1.1 101 Switching Protocols\r\n\r\n";
    let accepted = play_h1(&vec![both, sent(switch), received("raw"), sent("raw")], &[]);
    assert_eq!(accepted.of(0), [len(upgrade) + 3, 3, len(switch) + 3, 3]);
    assert_eq!(accepted.of(1), [len(GET), 0, 0, 0]);

    let early_frame = received([upgrade, &b"\x81\x02\n"[..]].concat());
    let after_violation = play_h1(&vec![early_frame, sent(switch), received("raw")], &[]);
    assert_eq!(after_violation.of(0)[..2], [len(upgrade) + 3, 3], "a tunnel ends being lost");
}

#[test]
fn an_answer_may_come_before_the_request_is_complete() {
    use Told::*;
    let head = post("Content-Length: 9\r\n", "");
    let refused = b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n";
    check(
        vec![received(&head), sent(refused), received("123456789")],
        [len(&head) + 9, 9, len(refused), 0],
        [0; 4],
        &[Begin(0), Status(0, 413), SentEnd(0), ReceivedEnd(0)],
    );
    let timeout = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n";
    check(
        vec![received("HEAD / HT"), sent(timeout), received("TP/1.1\r\n")],
        [17, 0, len(timeout), 0],
        [0; 4],
        &[Begin(0), Status(0, 408), SentEnd(0)],
    );
}

#[test]
fn an_answer_that_nobody_asked_for_is_overhead() {
    let timeout = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 1\r\n\r\nx";
    check(vec![received("\r\n"), sent(timeout)], [0; 4], [2, 0, len(timeout), 0], &[]);
}

#[test]
fn a_response_that_cannot_be_followed_is_overhead_from_there() {
    use Told::*;
    check(
        vec![received(GET), sent("HTTP/2 200\r\nx")],
        [len(GET), 0, 12, 0],
        [0, 0, 1, 0],
        &[Begin(0), ReceivedEnd(0), Lost(Direction::Sent)],
    );
}

#[test]
fn a_violation_owns_its_line_and_the_rest_is_overhead() {
    use Told::*;
    check(
        vec![received("GET / HTTP/1.1\r\nA : b\r\nHost: a\r\n\r\n"), sent(OK)],
        [23, 0, len(OK), 2],
        [11, 0, 0, 0],
        &[
            Begin(0),
            Violation(Some(0), super::Violation::SpaceBeforeColon),
            Lost(Direction::Received),
            Status(0, 200),
            SentEnd(0),
        ],
    );
}

#[test]
fn a_line_too_long_is_a_violation_at_its_limit() {
    let start = b"GET /";
    for (length, violation) in [(LINE_BYTES_MAX, None), (LINE_BYTES_MAX + 1, Some(Violation::HeadTooLarge))] {
        let path = vec![b'a'; length - start.len() - b" HTTP/1.1\r\n".len()];
        let request = [start, &path[..], b" HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
        for pieces in [&[][..], &[1000], &[65535, 1]] {
            let recorder = play_h1(&vec![received(&request)], pieces);
            assert_eq!(recorder.violation(), violation);
            if violation.is_some() {
                assert_eq!(recorder.of(0)[0], LINE_BYTES_MAX as u64);
            }
        }
    }
}

#[test]
fn too_many_unanswered_requests_are_a_violation() {
    let all = received(GET.repeat(PIPELINE_MAX + 2));
    let recorder = play_h1(&vec![all], &[]);
    let last = PIPELINE_MAX as u64;
    assert!(recorder.told.contains(&Told::Violation(Some(last), Violation::PipelineTooDeep)));
    assert_eq!(recorder.of(last), [1, 0, 0, 0]);
    assert_eq!(recorder.overhead()[0], 2 * len(GET) - 1);
}

#[test]
fn open_exchanges_are_those_begun_and_not_answered() {
    let (mut meter, mut recorder) = (H1Meter::new(), Recorder::default());
    meter.feed_received(&[GET, GET, b"GE"].concat(), &mut recorder);
    meter.feed_sent(OK, &mut recorder);
    assert_eq!(meter.open_exchanges(), 1..3);
}

/// One message body as octets on the wire and its size.
#[derive(Clone, Debug)]
enum Body {
    None,
    Length(usize),
    Chunks(Vec<usize>, bool, bool),
}

impl Body {
    fn field(&self) -> String {
        match self {
            Body::None => String::new(),
            Body::Length(length) => format!("content-Length: \t{length} \r\n"),
            Body::Chunks(..) => "Transfer-Encoding: chunked\r\n".to_owned(),
        }
    }
    fn octets(&self) -> (Vec<u8>, u64) {
        match self {
            Body::None => (Vec::new(), 0),
            Body::Length(length) => (vec![b'\n'; *length], *length as u64),
            Body::Chunks(sizes, extension, trailer) => {
                let mut octets = Vec::new();
                for size in sizes {
                    octets.extend(format!("{size:x}{}\r\n", if *extension { " ;e=\"\t1\"" } else { "" }).bytes());
                    octets.extend(vec![b'\r'; *size]);
                    octets.extend(b"\r\n");
                }
                octets.extend(if *trailer { &b"00\r\nX-T: 1\r\nY:\r\n\r\n"[..] } else { b"0\r\n\r\n" });
                (octets, sizes.iter().sum::<usize>() as u64)
            }
        }
    }
}

fn body() -> impl Strategy<Value = Body> {
    let chunks = prop::collection::vec(1usize..300, 0..5);
    prop_oneof![
        Just(Body::None),
        (0usize..600).prop_map(Body::Length),
        (chunks, any::<bool>(), any::<bool>()).prop_map(|(sizes, e, t)| Body::Chunks(sizes, e, t)),
    ]
}

/// One exchange: the octets both ways and what they must come to.
#[derive(Clone, Debug)]
struct Exchange {
    crlfs: usize,
    request: Vec<u8>,
    response: Vec<u8>,
    octets: Octets,
    status: u16,
}

fn exchange() -> impl Strategy<Value = Exchange> {
    let method = prop::sample::select(&["GET", "HEAD", "POST", "get"][..]);
    let status = prop::sample::select(&[200u16, 204, 304, 404, 500][..]);
    (0usize..3, method, body(), 0usize..3, status, body()).prop_map(
        |(crlfs, method, asked, interim, status, answer)| {
            let (content, request_body) = asked.octets();
            let mut request = format!("{method} /p?q HTTP/1.1\r\n{}host: [::1]:80\r\n\r\n", asked.field()).into_bytes();
            request.extend(content);
            // A final response without framing would be close-delimited: see the table tests.
            let answer = if matches!(answer, Body::None) { Body::Length(0) } else { answer };
            let mut response = b"HTTP/1.1 103 Early Hints\r\nX: y\r\n\r\n".repeat(interim);
            response.extend(format!("HTTP/1.1 {status} Why\r\nA: b\r\n{}\r\n", answer.field()).bytes());
            let (content, mut response_body) = answer.octets();
            if method == "HEAD" || status == 204 || status == 304 {
                response_body = 0;
            } else {
                response.extend(content);
            }
            let octets = [request.len() as u64, request_body, response.len() as u64, response_body];
            Exchange { crlfs, request, response, octets, status }
        },
    )
}

fn conversation(exchanges: &[Exchange], pipelined: bool) -> Conversation {
    let mut turns = Vec::new();
    for exchange in exchanges {
        turns.push(received([&b"\r\n".repeat(exchange.crlfs), &exchange.request[..]].concat()));
        turns.push(sent(&exchange.response));
    }
    if pipelined {
        turns.sort_by_key(|(direction, _)| *direction); // stable: all requests, then all responses
    }
    turns
}

proptest! {
    #[test]
    fn valid_conversations_come_to_what_was_said(
        exchanges in prop::collection::vec(exchange(), 1..6), pipelined: bool, pieces in pieces()
    ) {
        let recorder = play_h1(&conversation(&exchanges, pipelined), &pieces);
        for (number, exchange) in (0..).zip(&exchanges) {
            prop_assert_eq!(recorder.of(number), exchange.octets);
            for told in [Told::Begin(number), Told::ReceivedEnd(number), Told::Status(number, exchange.status), Told::SentEnd(number)] {
                prop_assert_eq!(recorder.told.iter().filter(|t| **t == told).count(), 1);
            }
        }
        prop_assert_eq!(recorder.told.len(), exchanges.len() * 4);
        let crlfs: usize = exchanges.iter().map(|e| 2 * e.crlfs).sum();
        prop_assert_eq!(recorder.overhead(), [crlfs as u64, 0, 0, 0]);
    }

    #[test]
    fn a_body_that_passes_beside_the_meter_is_counted_like_one_that_it_sees(
        length in 1usize..5000, pieces in pieces(), beside in any::<u32>()
    ) {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
        let body = vec![b'x'; length];
        let seen = play_h1(&vec![received(GET), sent(&head), sent(&body), received(GET), sent(OK)], &[]);

        let (mut meter, mut recorder) = (H1Meter::new(), Recorder::default());
        meter.feed_received(GET, &mut recorder);
        meter.feed_sent(head.as_bytes(), &mut recorder);
        let mut left = length;
        for (n, piece) in pieces.iter().cycle().enumerate() {
            if left == 0 {
                break;
            }
            let piece = left.min(*piece);
            match beside >> (n % 32) & 1 {
                0 => meter.feed_sent(&body[..piece], &mut recorder),
                _ => meter.body_passed(piece, &mut recorder),
            }
            left -= piece;
        }
        meter.feed_received(GET, &mut recorder);
        meter.feed_sent(OK, &mut recorder);
        prop_assert_eq!([recorder.of(0), recorder.of(1), recorder.overhead()], [seen.of(0), seen.of(1), seen.overhead()]);
        prop_assert_eq!(&recorder.told, &seen.told);

        // Where there is no body they are nobody's.
        meter.body_passed(length, &mut recorder);
        prop_assert_eq!(recorder.overhead()[2], seen.overhead()[2] + len(&body));
        prop_assert_eq!(recorder.told, seen.told);
    }

    #[test]
    fn damaged_conversations_come_to_the_same_for_every_split(
        exchanges in prop::collection::vec(exchange(), 1..5), pipelined: bool, damages in damages(), pieces in pieces()
    ) {
        let mut conversation = conversation(&exchanges, pipelined);
        damage(&mut conversation, &damages);
        prop_assert_eq!(play_h1(&conversation, &pieces), play_h1(&conversation, &[]));
    }

    #[test]
    fn garbage_comes_to_the_same_for_every_split(
        turns in prop::collection::vec((any::<bool>(), prop::collection::vec(fragment(), 0..12)), 1..6), pieces in pieces()
    ) {
        let conversation = turns.into_iter().map(|(from_client, fragments)| {
            if from_client { received(fragments.concat()) } else { sent(fragments.concat()) }
        }).collect();
        prop_assert_eq!(play_h1(&conversation, &pieces), play_h1(&conversation, &[]));
    }
}

/// Parts that h1 messages are made of, and octets at random.
fn fragment() -> impl Strategy<Value = Vec<u8>> {
    let parts: &[&[u8]] = &[
        b"GET / HTTP/1.1\r\n",
        b"CONNECT a:1 HTTP/1.1\r\n",
        b"HEAD / HTTP/1.0\r\n",
        b"Host: a\r\n",
        b"\r\n",
        b"\n",
        b"\r",
        b"Content-Length: 3\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"abc",
        b"3\r\nabc\r\n",
        b"0\r\n\r\n",
        b"X: y\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 101 S\r\n",
        b"HTTP/1.1 100 C\r\n\r\n",
        b"HTTP/1.1 204 N\r\n\r\n",
        b"Connection: close\r\n",
    ];
    prop_oneof![
        9 => prop::sample::select(parts).prop_map(<[u8]>::to_vec),
        1 => prop::collection::vec(any::<u8>(), 0..300),
    ]
}
