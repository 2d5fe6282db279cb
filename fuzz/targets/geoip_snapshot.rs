//! Snapshots: any octets behind a right digest are a table that answers, or an error; never a panic.
#![no_main]

use sha2::{Digest, Sha256};
use weir_fuzz::geoip::assert_sound;
use weir_geoip::snapshot;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    assert!(snapshot::decode(input, None).is_err(), "without a digest");
    let mut file = input.to_vec();
    file.extend_from_slice(&Sha256::digest(input));
    if let Ok(table) = snapshot::decode(&file, None) {
        assert_sound(&table);
        assert!(snapshot::decode(&file, Some(&[1; 32])).is_err(), "unsigned");
    }
});
