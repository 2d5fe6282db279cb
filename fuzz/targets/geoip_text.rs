//! The operator's and the publishers' texts: any accounts, labels, overrides, ranges or lists are a table or an error that
//! names the file; the table answers at every border, and special addresses never have a country.
#![no_main]

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, UNIX_EPOCH};

use weir_fuzz::geoip::assert_sound;
use weir_geoip::{Plan, compile};

/// What the first octet makes of the rest.
const PLANS: [&str; 9] = [
    "accounts = \"it\"",
    "labels = [\"it\"]",
    "overrides = \"it\"",
    "[[sources]]\nname = \"it\"\nkind = \"ranges\"\npaths = [\"it\"]",
    "[[sources]]\nname = \"it\"\nkind = \"aws\"\npaths = [\"it\"]",
    "[[sources]]\nname = \"it\"\nkind = \"gcp\"\npaths = [\"it\"]",
    "[[sources]]\nname = \"it\"\nkind = \"azure\"\npaths = [\"it\"]",
    "[[sources]]\nname = \"it\"\nkind = \"cloudflare\"\npaths = [\"it\"]",
    "[[sources]]\nname = \"it\"\nkind = \"tor\"\npaths = [\"it\"]",
];

fn directory() -> &'static PathBuf {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        let path = std::env::temp_dir().join(format!("geoip-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a directory");
        path
    })
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((kind, text)) = input.split_first() else { return };
    std::fs::write(directory().join("it"), text).expect("a file");
    let mut plan: Plan = toml::from_str(PLANS[usize::from(*kind) % PLANS.len()]).expect("a plan");
    plan.resolve_paths(directory());
    match compile(&plan, UNIX_EPOCH + Duration::from_secs(1_790_000_000)) {
        Ok(table) => assert_sound(&table),
        Err(error) => assert!(error.path().is_some() || matches!(error.reason(), "plan" | "budget"), "{error}"),
    }
});
