//! The files in `config/` against the code.

mod arbitrary;
mod wrong;

use std::path::Path;

use serde::Deserialize;

use super::*;

const EVERY_OPTION: &str = include_str!("../../../config/weir.toml");
const DEMO: &str = include_str!("../../../config/demo.toml");
const PRODUCTION: &str = include_str!("../../../config/production.toml");

/// A directory with PEM files of the given names.
fn dir_with_pem(certificates: &[&str], keys: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (names, label) in [(certificates, "CERTIFICATE"), (keys, "PRIVATE KEY")] {
        for name in names {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, format!("-----BEGIN {label}-----\nAA==\n-----END {label}-----\n")).unwrap();
        }
    }
    dir
}

fn every_option_dir() -> tempfile::TempDir {
    dir_with_pem(
        &["cert.pem", "cert2.pem", "clients.pem", "origin-ca.pem", "weir.pem"],
        &["key.pem", "key2.pem", "weir.key"],
    )
}

fn read(text: &str, dir: &Path) -> Result<Config, String> {
    Config::parse(text, "weir.toml", dir).map_err(|errors| errors.to_string())
}

/// `config/weir.toml` with all its examples in force. Prose has a space after the #, examples do not.
fn uncommented() -> String {
    let lines = EVERY_OPTION.lines().map(|line| match line.strip_prefix('#') {
        Some(example) if example.starts_with(|first: char| first.is_ascii_lowercase() || first == '[') => example,
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The same, as it would be for one kind of sink: keys of the other kind are refused.
fn uncommented_with(kind: &str) -> String {
    let other = if kind == "file" { "# kafka" } else { "# file:" };
    let lines = uncommented().replace("kind = \"none\"", &format!("kind = \"{kind}\""));
    // The default of journal_bytes_max depends on the processors of this machine.
    let lines = lines.replace("workers = 0", "workers = 1");
    let kept = lines.lines().map(|line| if line.contains(other) { "" } else { line });
    kept.collect::<Vec<_>>().join("\n")
}

#[test]
fn every_example_file_is_valid() {
    let dir = dir_with_pem(&["tls/fullchain.pem", "tls/partners.pem"], &["tls/privkey.pem"]);
    for text in [EVERY_OPTION, DEMO, PRODUCTION] {
        read(text, dir.path()).unwrap();
    }
    for kind in ["file", "kafka"] {
        read(&uncommented_with(kind), every_option_dir().path()).unwrap();
    }
}

#[test]
fn smallest_file_and_flags_agree() {
    let dir = tempfile::tempdir().unwrap();
    let text = format!(
        "state_dir = {:?}\n[[listeners]]\nname = \"web\"\nlisten = \"127.0.0.1:8080\"\nupstream = \"127.0.0.1:3000\"",
        dir.path()
    );
    let of_file = read(&text, dir.path()).unwrap();
    let of_flags = Config::for_flags("127.0.0.1:3000", None, Some(dir.path())).unwrap();
    assert_eq!(of_file, of_flags);
}

/// Every key that serde knows, by asking each table of the file for one that nobody knows.
#[test]
fn every_known_key_is_in_the_file() {
    let whole: toml::Table = uncommented().parse().unwrap();
    let mut tables = Vec::new();
    collect_tables(&toml::Value::Table(whole.clone()), &mut Vec::new(), &mut tables);
    let mut checked = 0;
    for path in &tables {
        let mut changed = toml::Value::Table(whole.clone());
        let table = at_mut(&mut changed, path);
        let Some(table) = table.as_table_mut() else { panic!("{path:?}") };
        table.insert("no_such_key".to_string(), toml::Value::Boolean(true));
        // Through text, for only text has the places that the raw types keep.
        let text = toml::to_string(&changed).unwrap();
        let deserializer = toml::de::Deserializer::parse(&text).unwrap();
        let Err(error) = raw::RawConfig::deserialize(deserializer) else {
            continue;
        };
        for key in read::known_keys(error.message()) {
            let everywhere = tables.iter().filter(|other| same_kind(other, path));
            let mut found = everywhere.map(|other| at(&whole, other));
            assert!(found.any(|table| table.get(&key).is_some()), "{path:?}.{key} is not in config/weir.toml");
            checked += 1;
        }
    }
    assert!(checked > 90, "only {checked} keys were found");
}

/// Steps to a table: a key, or a position in a list.
type Steps = Vec<String>;

fn collect_tables(value: &toml::Value, path: &mut Steps, tables: &mut Vec<Steps>) {
    let children: Vec<(String, &toml::Value)> = match value {
        toml::Value::Table(table) => {
            tables.push(path.clone());
            table.iter().map(|(key, value)| (key.clone(), value)).collect()
        }
        toml::Value::Array(list) => list.iter().enumerate().map(|(at, value)| (at.to_string(), value)).collect(),
        _ => return,
    };
    for (step, child) in children {
        path.push(step);
        collect_tables(child, path, tables);
        path.pop();
    }
}

fn same_kind(a: &Steps, b: &Steps) -> bool {
    let keys = |path: &Steps| path.iter().filter(|step| step.parse::<usize>().is_err()).cloned().collect::<Vec<_>>();
    keys(a) == keys(b)
}

fn at(whole: &toml::Table, path: &Steps) -> toml::Value {
    at_mut(&mut toml::Value::Table(whole.clone()), path).clone()
}

fn at_mut<'a>(value: &'a mut toml::Value, path: &Steps) -> &'a mut toml::Value {
    path.iter().fold(value, |value, step| match step.parse::<usize>() {
        Ok(position) => &mut value[position],
        Err(_) => &mut value[step.as_str()],
    })
}

/// A line `key = value  # words` of the file.
struct Line<'a> {
    line: usize,
    key: &'a str,
    value: &'a str,
    words: &'a str,
}

fn options(text: &str) -> Vec<Line<'_>> {
    let mut options = Vec::new();
    for (line, content) in text.lines().enumerate() {
        if content.starts_with('#') {
            continue;
        }
        let Some((key, rest)) = content.split_once(" = ") else {
            continue;
        };
        let (value, words) = rest.split_once(" # ").unwrap_or((rest, ""));
        options.push(Line { line, key, value: value.trim(), words });
    }
    options
}

fn with_line(text: &str, line: usize, content: &str) -> String {
    let lines = text.lines().enumerate().map(|(at, old)| if at == line { content } else { old });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn every_default_shown_is_the_codes() {
    let dir = every_option_dir();
    let (file, kafka) = (uncommented_with("file"), uncommented_with("kafka"));
    let mut shown = 0;
    for text in [EVERY_OPTION, &file, &kafka] {
        for option in options(text) {
            // What is in force in the file as it stands is looked at there, where nothing else interferes.
            let example = EVERY_OPTION.lines().nth(option.line).unwrap().starts_with('#');
            if option.words.contains("no default") || option.words.is_empty() || example != (text != EVERY_OPTION) {
                continue;
            }
            let default = match option.words.split_once("default: ") {
                Some((_, default)) => default.split([' ', ';']).next().unwrap(),
                None => option.value,
            };
            let without = read(&with_line(text, option.line, ""), dir.path());
            let with = read(&with_line(text, option.line, &format!("{} = {default}", option.key)), dir.path());
            assert_eq!(plain(&with), plain(&without), "line {}: {} = {default}", option.line + 1, option.key);
            shown += 1;
        }
    }
    assert!(shown > 60, "only {shown} defaults are shown");
}

/// Without the places of errors, which a changed line may move.
fn plain(read: &Result<Config, String>) -> Result<&Config, String> {
    read.as_ref().map_err(|errors| {
        let texts = errors.lines().map(|line| line.splitn(4, ':').last().unwrap_or_default());
        texts.collect::<Vec<_>>().join("\n")
    })
}

#[test]
fn every_limit_shown_is_the_codes() {
    let dir = every_option_dir();
    let (file, kafka) = (uncommented_with("file"), uncommented_with("kafka"));
    let mut shown = 0;
    for (text, option) in options(&file)
        .into_iter()
        .map(|option| (&file, option))
        .chain(options(&kafka).into_iter().map(|option| (&kafka, option)))
    {
        if option.value.parse::<u64>().is_err() {
            continue;
        }
        let limits = option.words.split("; ").find_map(|words| {
            let (low, high) = words.split_once(" to ")?;
            Some((low.trim().parse::<u64>().ok()?, high.trim().parse::<u64>().ok()?))
        });
        let Some((low, high)) = limits else { panic!("{} shows no limits", option.key) };
        for (value, side) in [
            (Some(low), None),
            (low.checked_sub(1), Some("below the limit")),
            (Some(high), None),
            (high.checked_add(1), Some("above the limit")),
        ] {
            let Some(value) = value else { continue };
            let changed = with_line(text, option.line, &format!("{} = {value}", option.key));
            let errors = read(&changed, dir.path()).err().unwrap_or_default();
            let hit = errors
                .lines()
                .any(|line| line.contains(&format!("{}: {value} is ", option.key)) && line.contains("the limit"));
            assert_eq!(hit, side.is_some(), "{} = {value}: {errors}", option.key);
            assert!(errors.contains(side.unwrap_or_default()), "{} = {value}: {errors}", option.key);
        }
        shown += 1;
    }
    assert!(shown > 40, "only {shown} limits are shown");
}

/// Whether each option says truly if a reload puts it in force.
#[test]
fn every_option_says_when_it_takes_effect() {
    for option in options(&uncommented()) {
        let says = option.words.ends_with("; live") || option.words.ends_with("; restart");
        assert!(says || option.words.is_empty() || option.words == "live", "{}: {}", option.key, option.words);
    }
    let dir = every_option_dir();
    let text = EVERY_OPTION;
    let old = read(text, dir.path()).unwrap();
    let mut compared = 0;
    for option in options(text) {
        let other = match option.value {
            "true" => "false".to_string(),
            "false" => "true".to_string(),
            "[]" => "[\"10.0.0.0/8\"]".to_string(),
            "\"text\"" => "\"json\"".to_string(),
            "\"count\"" => "\"refuse\"".to_string(),
            "\"http\"" | "\"none\"" | "\"off\"" => continue,
            level if level.starts_with("\"info") => "\"debug\"".to_string(),
            "16777216" => "8388608".to_string(),
            number if number.parse::<u64>().is_ok() => (number.parse::<u64>().unwrap() + 1).to_string(),
            text if text.contains(':') => "\"127.0.0.1:4000\"".to_string(),
            _ => "\"other\"".to_string(),
        };
        let Ok(new) = read(&with_line(text, option.line, &format!("{} = {other}", option.key)), dir.path()) else {
            panic!("{} = {other}", option.key);
        };
        let difference = reloadable_difference(&old, &new);
        let live = option.words.ends_with("live");
        assert_eq!(difference.restart.is_empty(), live, "{}: {difference:?}", option.key);
        assert!(!difference.is_empty(), "{}", option.key);
        compared += 1;
    }
    assert!(compared > 40, "only {compared} were compared");
}

#[test]
fn only_a_ledger_needs_no_listener() {
    let parse = |text: &str| Config::parse(text, "weir.toml", Path::new("/")).map_err(|errors| errors.to_string());
    assert!(parse("[ledger]\ngroup = \"g\"\n").unwrap().listeners.is_empty());
    let refused = parse("[sink]\nkind = \"none\"\n").unwrap_err();
    assert!(refused.contains("listeners: there is none"), "{refused}");
}

#[test]
fn listeners_come_and_go_with_a_restart_and_upstreams_live() {
    let dir = tempfile::tempdir().unwrap();
    let listener = "[[listeners]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nupstream = \"api\"\n";
    let upstream = "[[upstreams]]\nname = \"api\"\nservers = [\"a:1\"]\n";
    let second = "[[listeners]]\nname = \"raw\"\nkind = \"tcp\"\nlisten = \"127.0.0.1:0\"\nupstream = \"a:1\"\n";
    let old = read(&format!("{listener}{upstream}"), dir.path()).unwrap();
    let moved = read(&format!("{upstream}{listener}"), dir.path()).unwrap();
    assert!(reloadable_difference(&old, &moved).is_empty());

    let server = format!("{listener}{upstream}").replace("a:1", "b:1");
    let difference = reloadable_difference(&old, &read(&server, dir.path()).unwrap());
    assert_eq!(difference.live, ["upstreams.api.servers"]);
    assert!(difference.restart.is_empty());

    let added = read(&format!("{listener}{second}{upstream}"), dir.path()).unwrap();
    assert!(reloadable_difference(&old, &added).restart.contains(&"listeners.raw".to_string()));
    assert!(reloadable_difference(&added, &old).restart.contains(&"listeners.raw".to_string()));
}

#[test]
fn routes_are_in_order_of_specificity() {
    let dir = tempfile::tempdir().unwrap();
    let mut text = "[[listeners]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nupstream = \"last:1\"\n".to_string();
    for (host, path) in [
        ("*", "/long/path"),
        ("*.example.com", "/"),
        ("a.example.com", "/"),
        ("*.b.example.com", "/"),
        ("a.example.com", "/v1"),
        ("*.example.com", "/v1"),
    ] {
        text += &format!("[[listeners.routes]]\nhost = {host:?}\npath_prefix = {path:?}\nupstream = \"a:1\"\n");
    }
    let config = read(&text, dir.path()).unwrap();
    let order = config.listeners[0].routes.iter();
    let order: Vec<String> = order.map(|route| format!("{}{}", route.host, route.path_prefix)).collect();
    assert_eq!(
        order,
        [
            "a.example.com/v1",
            "a.example.com/",
            "*.b.example.com/",
            "*.example.com/v1",
            "*.example.com/",
            "*/long/path",
            "*/",
        ]
    );
}

#[test]
fn redacted_shows_everything_but_secrets() {
    let dir = every_option_dir();
    let kafka = read(&uncommented_with("kafka"), dir.path()).unwrap().redacted();
    assert_eq!(kafka["sink"]["kafka"]["properties"], "(redacted)");
    let config = read(&uncommented_with("file"), dir.path()).unwrap();
    let shown = config.redacted();
    assert!(!shown.to_string().contains("k-123"), "{shown}");
    assert_eq!(shown["attribution"][0]["header"]["value"], "(redacted)");
    assert_eq!(shown["listeners"][0]["routes"][0]["upstream"], "api");
    assert_eq!(shown["checkpoint_interval_ms"], 10_000);
    assert_eq!(shown["limits"]["request_timeout_ms"], 0);
    assert_eq!(shown["listeners"][0]["tls"]["client_auth"], "required");
    assert_eq!(shown["sink"]["kind"], "file");
}
