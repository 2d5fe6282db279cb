//! The h2 meter against frames whose octets are known.

use super::*;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

fn frame(kind: u8, flags: u8, id: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(id.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Octets by exchange (`None` first) and what was told, for the frames whole and for three cuts of them.
#[track_caller]
fn check(frames: &[(Direction, Vec<u8>)], octets: &[(Option<u64>, Octets)], told: &[Told]) {
    let mut conversation = vec![received(PREFACE)];
    conversation.extend(frames.iter().cloned());
    for pieces in [&[][..], &[1], &[8], &[11, 2]] {
        let recorder = play_h2(&conversation, pieces);
        assert_eq!(recorder.octets, octets.iter().copied().collect(), "pieces {pieces:?}");
        assert_eq!(recorder.told, told, "pieces {pieces:?}");
    }
}

#[test]
fn frames_belong_to_their_stream_header_included() {
    use Told::*;
    check(
        &[
            received(frame(SETTINGS, 0, 0, b"")),
            sent(frame(SETTINGS, 0, 0, b"123456")),
            received(frame(HEADERS, 4, 1, b"hpack")),
            received(frame(DATA, 1, 1, b"body")),
            sent(frame(WINDOW_UPDATE, 0, 0, b"1234")),
            sent(frame(WINDOW_UPDATE, 0, 1, b"1234")),
            sent(frame(HEADERS, 4, 1, b"h")),
            sent(frame(DATA, 0, 1, b"0123456789")),
            sent(frame(HEADERS, 5, 1, b"trailer")),
        ],
        &[(None, [33, 0, 15 + 13, 0]), (Some(1), [14 + 13, 4, 13 + 10 + 19 + 16, 10])],
        &[Begin(1), ReceivedEnd(1), SentEnd(1)],
    );
}

#[test]
fn padding_is_not_body() {
    use Told::*;
    let padded = |padding: u8, data: &[u8]| [&[padding], data, &vec![0; usize::from(padding)][..]].concat();
    check(
        &[
            received(frame(HEADERS, 4, 3, b"")),
            received(frame(DATA, 8, 3, &padded(5, b"abc"))),
            received(frame(DATA, 8, 3, &padded(0, b""))),
            received(frame(DATA, 8, 3, b"")),
            received(frame(DATA, 8, 3, b"\x09xx")),
            received(frame(DATA, 9, 3, &padded(2, b""))),
        ],
        &[(None, [24, 0, 0, 0]), (Some(3), [9 + 18 + 10 + 9 + 12 + 12, 3, 0, 0])],
        &[Begin(3), ReceivedEnd(3)],
    );
}

#[test]
fn end_stream_on_headers_counts_when_the_block_ends() {
    use Told::*;
    check(
        &[
            received(frame(HEADERS, 1, 1, b"ab")),
            received(frame(CONTINUATION, 0, 1, b"c")),
            received(frame(CONTINUATION, 4, 1, b"d")),
            received(frame(HEADERS, 0, 5, b"ab")),
            received(frame(CONTINUATION, 4, 5, b"d")),
        ],
        &[(None, [24, 0, 0, 0]), (Some(1), [31, 0, 0, 0]), (Some(5), [21, 0, 0, 0])],
        &[Begin(1), ReceivedEnd(1), Begin(5)],
    );
}

#[test]
fn resets_are_told_with_their_code_and_side() {
    use Told::*;
    check(
        &[
            received(frame(HEADERS, 5, 1, b"")),
            received(frame(HEADERS, 5, 3, b"")),
            received(frame(RST_STREAM, 0, 1, &8u32.to_be_bytes())),
            sent(frame(RST_STREAM, 0, 3, &0xdead_beef_u32.to_be_bytes())),
            received(frame(RST_STREAM, 0, 3, b"12345")),
        ],
        &[(None, [24, 0, 0, 0]), (Some(1), [22, 0, 0, 0]), (Some(3), [23, 0, 13, 0])],
        &[Begin(1), ReceivedEnd(1), Begin(3), ReceivedEnd(3), Reset(1, true, 8), Reset(3, false, 0xdead_beef)],
    );
}

#[test]
fn streams_that_never_began_are_overhead() {
    use Told::*;
    check(
        &[
            received(frame(DATA, 1, 1, b"abc")),
            received(frame(HEADERS, 5, 2, b"")),
            received(frame(RST_STREAM, 0, 7, b"1234")),
            received(frame(HEADERS, 5, 0x8000_0007, b"")),
            sent(frame(PUSH_PROMISE, 4, 7, b"pushed")),
            sent(frame(HEADERS, 5, 9, b"")),
        ],
        &[(None, [24 + 12 + 9 + 13, 0, 15 + 9, 0]), (Some(7), [9, 0, 0, 0])],
        &[Begin(7), ReceivedEnd(7)],
    );
}

#[test]
fn a_wrong_preface_is_lost() {
    for pieces in [&[][..], &[1], &[3]] {
        let recorder = play_h2(&vec![received("PRI * HTTP/1.1\r\n\r\nSM\r\n\r\nand more")], pieces);
        assert_eq!(recorder.told, [Told::Lost(Direction::Received)]);
        assert_eq!(recorder.overhead(), [32, 0, 0, 0]);
    }
}

/// Kind, flags, id, payload.
fn any_frame() -> impl Strategy<Value = (bool, Vec<u8>)> {
    let kind = prop::sample::select(
        &[DATA, DATA, DATA, HEADERS, HEADERS, RST_STREAM, SETTINGS, PUSH_PROMISE, WINDOW_UPDATE, CONTINUATION, 77][..],
    );
    let flags = prop::sample::select(&[0u8, 1, 4, 5, 8, 9, 13, 255][..]);
    let payload = prop::collection::vec(0u8..20, 0..60);
    (any::<bool>(), kind, flags, 0u32..10, payload)
        .prop_map(|(from_client, kind, flags, id, payload)| (from_client, frame(kind, flags, id, &payload)))
}

fn conversation(frames: &[(bool, Vec<u8>)]) -> Conversation {
    let mut turns = vec![received(PREFACE)];
    turns.extend(frames.iter().map(|(from_client, frame)| if *from_client { received(frame) } else { sent(frame) }));
    turns
}

proptest! {
    /// Every frame's app octets by a model that sees whole frames.
    #[test]
    fn whole_frames_come_to_their_streams(frames in prop::collection::vec(any_frame(), 0..40), pieces in pieces()) {
        let recorder = play_h2(&conversation(&frames), &pieces);
        let (mut expected, mut begun_max) = (BTreeMap::from([(None, [24, 0, 0, 0])]), 0);
        for (from_client, frame) in &frames {
            let (kind, id) = (frame[3], u64::from(frame[8]));
            if *from_client && kind == HEADERS && id % 2 == 1 && id > begun_max {
                begun_max = id;
            }
            let owned = id % 2 == 1 && id <= begun_max && kind != PUSH_PROMISE;
            let octets: &mut Octets = expected.entry(owned.then_some(id)).or_default();
            let column = if *from_client { 0 } else { 2 };
            octets[column] += frame.len() as u64;
            if kind == DATA && owned {
                let padding = if frame[4] & 8 != 0 { frame.get(9).map_or(0, |pad| 1 + usize::from(*pad)) } else { 0 };
                octets[column + 1] += (frame.len() - 9).saturating_sub(padding) as u64;
            }
        }
        prop_assert_eq!(recorder.octets, expected);
    }

    #[test]
    fn damaged_frames_come_to_the_same_for_every_split(
        frames in prop::collection::vec(any_frame(), 0..20), damages in damages(), pieces in pieces()
    ) {
        let mut conversation = conversation(&frames);
        damage(&mut conversation, &damages);
        prop_assert_eq!(play_h2(&conversation, &pieces), play_h2(&conversation, &[]));
    }
}

/// What the client's frames cost, for the frames whole and cut.
#[track_caller]
fn burden_of(frames: &[(Direction, Vec<u8>)]) -> Burden {
    let mut burdens = Vec::new();
    for piece in [usize::MAX, 1, 8] {
        let (mut meter, mut recorder) = (H2Meter::new(), Recorder::default());
        meter.feed_received(PREFACE, &mut recorder);
        for (direction, bytes) in frames {
            for bytes in bytes.chunks(piece.min(bytes.len())) {
                match direction {
                    Direction::Received => meter.feed_received(bytes, &mut recorder),
                    Direction::Sent => meter.feed_sent(bytes, &mut recorder),
                }
            }
        }
        burdens.push(meter.burden());
    }
    assert!(burdens.iter().all(|burden| *burden == burdens[0]), "{burdens:?}");
    burdens[0]
}

#[test]
fn frames_that_carry_nothing_are_counted() {
    const PING: u8 = 6;
    let control = [
        received(frame(SETTINGS, 0, 0, b"")),
        received(frame(PING, 0, 0, b"12345678")),
        received(frame(2, 0, 1, b"12345")),
        received(frame(0xfa, 0, 0, b"unknown")),
        received(frame(HEADERS, 4, 1, b"h")),
        received(frame(DATA, 0, 1, b"")),
        // These carry or end something.
        received(frame(DATA, 0, 1, b"x")),
        received(frame(DATA, 1, 1, b"")),
        sent(frame(PING, 1, 0, b"12345678")),
    ];
    assert_eq!(burden_of(&control), Burden { resets: 0, control_frames: 5, continuations: 0 });
    let blocks = [
        received(frame(HEADERS, 0, 1, b"h")),
        received(frame(CONTINUATION, 0, 1, b"")),
        received(frame(CONTINUATION, 4, 1, b"")),
        received(frame(HEADERS, 0, 3, b"h")),
        received(frame(CONTINUATION, 4, 3, b"")),
        received(frame(RST_STREAM, 0, 3, &8_u32.to_be_bytes())),
    ];
    assert_eq!(burden_of(&blocks), Burden { resets: 1, control_frames: 0, continuations: 2 });
}

#[test]
fn windows_may_be_opened_twice_for_each_data_frame() {
    let updates = |n| received(frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes()).repeat(n));
    let download = [updates(1000), sent(frame(DATA, 0, 1, b"x").repeat(5000)), updates(1024), updates(7)];
    assert_eq!(burden_of(&download).control_frames, 7);
}
