//! The HTTP/2 meter: every octet fed is told, once, and to the same exchange however the feeds were cut.
#![no_main]

use weir::meter::{Direction, H2Meter};
use weir_fuzz::{CheckedTally, feeds, joined, single_octets, told};

fn metered(feeds: &[(Direction, Vec<u8>)]) -> CheckedTally {
    let mut meter = H2Meter::new();
    told(feeds, |direction, octets, tally| match direction {
        Direction::Received => meter.feed_received(octets, tally),
        Direction::Sent => meter.feed_sent(octets, tally),
    })
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let as_given = feeds(input);
    let tally = metered(&as_given);
    assert_eq!(tally, metered(&joined(&as_given)), "cut at the marks, and not at all");
    assert_eq!(tally, metered(&single_octets(&as_given)), "cut at the marks, and everywhere");
});
