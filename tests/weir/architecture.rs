//! Who may import whom, as `src/lib.rs` draws it: an arrow against the flow fails here, not in a review.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const VOCABULARY: &[&str] = &["ids", "units", "clock", "event", "causes", "metrics", "sheet", "config"];
const MECHANISMS: &[&str] = &[
    "meter",
    "journal",
    "attribution",
    "enrichment",
    "screening",
    "privacy",
    "login",
    "sink",
    "source",
    "store",
    "wire",
];
const STAGES: &[&str] = &["proxy", "shipper", "rollup", "archive", "alerts", "portal", "admin"];
const ASSEMBLY: &[&str] = &[
    "app",
    "handover",
    "cli",
    "events",
    "journal_command",
    "ip",
    "geoip_command",
    "ledger_command",
    "archive_command",
    "usage_command",
    "audit_command",
    "correct_command",
    "node_command",
    "query_command",
    "token_command",
    "key_command",
    "demo",
];

/// What a module may import besides itself and the vocabulary.
fn allowed(module: &str) -> &'static [&'static str] {
    match module {
        "proxy" => &["meter", "journal", "attribution", "enrichment", "screening", "privacy"],
        "sink" => &["login", "wire"],
        "source" => &["login"],
        "shipper" => &["journal", "sink"],
        "rollup" => &["journal", "source", "store", "wire"],
        "archive" => &["privacy", "rollup", "store", "wire"],
        "alerts" => &["rollup", "store"],
        "portal" => &["alerts", "rollup", "store"],
        "admin" => &["proxy", "sink"],
        "app" => &["journal", "proxy", "shipper", "admin", "handover", "sink", "enrichment"],
        // Without a file it looks whether addresses were fetched.
        "cli" => &["enrichment"],
        "events" => &["cli", "journal", "source", "wire"],
        "journal_command" => &["cli", "journal", "proxy"],
        "ip" => &["cli", "enrichment", "privacy", "screening"],
        "geoip_command" => &["cli", "enrichment", "screening", "ip"],
        "archive_command" => &["archive", "cli", "ledger_command", "rollup", "store"],
        "ledger_command" => {
            &["alerts", "archive", "cli", "portal", "query_command", "rollup", "source", "store", "wire"]
        }
        "usage_command" => &["cli", "ledger_command", "rollup", "store"],
        "audit_command" => &["cli", "ledger_command", "rollup", "source", "store"],
        "correct_command" | "node_command" => &["cli", "ledger_command", "rollup", "store"],
        "token_command" => &["cli", "portal"],
        "key_command" => &["attribution", "cli"],
        "demo" => &["cli", "journal", "ledger_command", "proxy", "rollup", "store"],
        // The vocabulary and the mechanisms.
        _ => &[],
    }
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn is_test(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "tests")
        || path.file_stem().is_some_and(|name| name.to_string_lossy().ends_with("tests"))
}

fn files(under: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(under).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The module of `src/` that a file belongs to.
fn module(path: &Path) -> String {
    let first = path.strip_prefix(source()).unwrap().components().next().unwrap().as_os_str().to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

/// Every `crate::name` of its production code, one of several in braces included.
fn imports(path: &Path) -> BTreeSet<String> {
    let text = std::fs::read_to_string(path).unwrap();
    let production = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let code: Vec<_> = production.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let mut found = BTreeSet::new();
    for part in code.join("\n").split("crate::").skip(1) {
        let names = match part.strip_prefix('{') {
            Some(group) => group.split('}').next().unwrap(),
            None => part,
        };
        for name in names.split(',').take(if part.starts_with('{') { usize::MAX } else { 1 }) {
            let end = name.trim_start().find(|c: char| !(c.is_alphanumeric() || c == '_'));
            found.insert(name.trim_start()[..end.unwrap_or(name.trim_start().len())].to_owned());
        }
    }
    found.remove("");
    found
}

fn production() -> Vec<PathBuf> {
    let mut found = Vec::new();
    files(&source(), &mut found);
    found.retain(|path| !is_test(path) && !matches!(module(path).as_str(), "lib" | "main"));
    assert!(found.len() > 60, "the sources are not where they are looked for");
    found
}

#[test]
fn every_module_has_its_place() {
    let places: BTreeSet<&str> = [VOCABULARY, MECHANISMS, STAGES, ASSEMBLY].concat().into_iter().collect();
    let modules: BTreeSet<String> = production().iter().map(|path| module(path)).collect();
    let unplaced: Vec<_> = modules.iter().filter(|module| !places.contains(module.as_str())).collect();
    assert!(unplaced.is_empty(), "say in src/lib.rs and here where these belong: {unplaced:?}");
}

#[test]
fn imports_go_with_the_flow() {
    let mut against = Vec::new();
    for path in production() {
        let module = module(&path);
        for import in imports(&path) {
            let with = import == module
                || VOCABULARY.contains(&import.as_str())
                || allowed(&module).contains(&import.as_str())
                // A macro or an item of the root would be a module that is not one.
                || !source().join(&import).exists() && !source().join(format!("{import}.rs")).exists();
            if !with {
                against.push(format!("{}: crate::{import}", path.strip_prefix(source()).unwrap().display()));
            }
        }
    }
    assert!(against.is_empty(), "against the flow:\n{}", against.join("\n"));
}

#[test]
fn only_files_named_for_it_are_unsafe() {
    let named =
        ["proxy/kernel.rs", "proxy/memory.rs", "journal/checksum.rs", "journal/mapping.rs", "sink/kafka/token.rs"];
    let mut surprising = Vec::new();
    for path in production() {
        let name = path.strip_prefix(source()).unwrap().display().to_string();
        let text = std::fs::read_to_string(&path).unwrap();
        let blocks = text.lines().filter(|line| line.contains("unsafe {") || line.contains("unsafe impl")).count();
        if blocks > 0 && !named.contains(&name.as_str()) {
            surprising.push(name);
        }
    }
    assert!(surprising.is_empty(), "unsafe code where none was expected: {surprising:?}");
}
