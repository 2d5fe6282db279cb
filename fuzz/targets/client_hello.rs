//! ClientHello: an answer never changes when more bytes follow, and a name is fit to route by.
#![no_main]

use weir::proxy::client_hello::{HELLO_BYTES_MAX, Hello, parse};

libfuzzer_sys::fuzz_target!(|received: &[u8]| {
    let answer = parse(received);
    for end in 0..received.len() {
        let earlier = parse(&received[..end]);
        assert!(earlier == Hello::Incomplete || earlier == answer, "{earlier:?} at {end} became {answer:?}");
    }
    match answer {
        Hello::Incomplete => assert!(received.len() < HELLO_BYTES_MAX, "waits for ever"),
        Hello::Hello { server_name: Some(name), .. } => {
            assert!(!name.is_empty() && !name.ends_with('.') && name.len() <= 255);
            assert_eq!(name, name.to_ascii_lowercase());
        }
        Hello::Hello { server_name: None, .. } | Hello::NotTls => {}
    }
});
