//! PROXY headers: [`parse`] keeps its promises for every prefix of any bytes, and what weir writes it reads back.
#![no_main]

use weir::proxy::proxy_protocol::{HEADER_BYTES_MAX, Parsed, encode_v1, encode_v2, parse};

libfuzzer_sys::fuzz_target!(|received: &[u8]| {
    let answer = parse(received);
    // Once it is an answer it stays one, whatever follows.
    for end in 0..received.len() {
        let earlier = parse(&received[..end]);
        assert!(earlier == Ok(Parsed::Incomplete) || earlier == answer, "{earlier:?} at {end} became {answer:?}");
    }
    match answer {
        Ok(Parsed::Incomplete) => assert!(received.len() < HEADER_BYTES_MAX, "waits for ever"),
        Ok(Parsed::Header { header, bytes }) => {
            assert!(bytes <= received.len() && bytes <= HEADER_BYTES_MAX);
            // It needs its last byte: none of the conversation was waited for.
            assert_eq!(parse(&received[..bytes - 1]), Ok(Parsed::Incomplete));
            assert_eq!(header.source.is_some(), header.destination.is_some());
            if let (Some(source), Some(destination)) = (header.source, header.destination) {
                for written in [encode_v1(source, destination), encode_v2(source, destination)] {
                    let Ok(Parsed::Header { header: again, bytes }) = parse(&written) else {
                        panic!("weir cannot read what it wrote: {written:?}");
                    };
                    assert_eq!(bytes, written.len());
                    assert_eq!((again.source, again.destination), (Some(source), Some(destination)));
                }
            }
        }
        Ok(Parsed::NotProxy) | Err(_) => {}
    }
});
