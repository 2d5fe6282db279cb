//! Configuration: any text is a [`Config`] or a list of errors with positions, never a panic; what weir would print of a
//! configuration (`/config`) can be printed.
#![no_main]

use std::path::Path;

use weir::config::Config;

libfuzzer_sys::fuzz_target!(|text: &[u8]| {
    let Ok(text) = str::from_utf8(text) else {
        return;
    };
    // A directory that is not there: no input can name a file that exists by luck, other than by an absolute path.
    match Config::parse(text, "weir.toml", Path::new("/nonexistent")) {
        Ok(config) => assert!(!config.listeners.is_empty()),
        Err(errors) => {
            assert!(!errors.errors().is_empty(), "refused without a reason");
            assert!(!errors.to_string().is_empty());
        }
    }
});
