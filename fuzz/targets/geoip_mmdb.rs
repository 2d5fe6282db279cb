//! Databases: any octets are a table or an error, within the time and memory of the budget.
#![no_main]

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::UNIX_EPOCH;

use weir_fuzz::geoip::assert_sound;
use weir_geoip::{Plan, compile};

fn plan() -> &'static (PathBuf, Plan) {
    static PLAN: OnceLock<(PathBuf, Plan)> = OnceLock::new();
    PLAN.get_or_init(|| {
        let path = std::env::temp_dir().join(format!("geoip-{}.mmdb", std::process::id()));
        let text = format!(
            "[budget]\ncompile_ms_max = 2000\nmemory_bytes_max = 67108864\n\
             [[sources]]\nname = \"typed\"\nkind = \"mmdb\"\npaths = [{path:?}]\n\
             [[sources]]\nname = \"mapped\"\nkind = \"mmdb\"\npaths = [{path:?}]\n\
             fields = {{ region = \"ip\", asn = \"uint32\" }}\nlabels = {{ boolean = \"yes\" }}\n"
        );
        (path, toml::from_str(&text).expect("a plan"))
    })
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let (path, plan) = plan();
    std::fs::write(path, input).expect("a file");
    match compile(plan, UNIX_EPOCH) {
        Ok(table) => assert_sound(&table),
        Err(error) => assert!(!error.reason().is_empty()),
    }
});
