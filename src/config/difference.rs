//! What a configuration shows of itself, and what changes between two of them.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::Config;

/// Keys whose values may be secrets, wherever they stand.
const SECRET_WORDS: [&str; 4] = ["password", "secret", "token", "credential"];

/// What stands in a secret's place.
const REDACTED: &str = "(redacted)";

/// Keys of two configurations whose values differ, as `limits.headers_max` or `listeners.web.routes`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Difference {
    /// Takes effect for new connections and requests at once.
    pub live: Vec<String>,
    /// Takes effect with the next process; a reload leaves them as they were.
    pub restart: Vec<String>,
}

impl Difference {
    /// Whether the two say the same.
    pub fn is_empty(&self) -> bool {
        self.live.is_empty() && self.restart.is_empty()
    }
}

/// What a reload from `old` to `new` changes, key by key, sorted.
pub fn reloadable_difference(old: &Config, new: &Config) -> Difference {
    let (old, new) = (flat(&old.effective()), flat(&new.effective()));
    let mut difference = Difference::default();
    let added = new.keys().filter(|key| !old.contains_key(*key));
    let mut keys: Vec<&String> = old.keys().chain(added).collect();
    keys.sort();
    for key in keys {
        if old.get(key) == new.get(key) {
            continue;
        }
        if is_live(key) {
            difference.live.push(key.clone());
        } else {
            difference.restart.push(key.clone());
        }
    }
    difference
}

/// Whether a key can change in a running process. Sockets, threads and files stay as they were opened.
fn is_live(key: &str) -> bool {
    let parts: Vec<&str> = key.split('.').collect();
    match parts.as_slice() {
        ["checkpoint_interval_ms" | "request_id_header"] | ["log", "filter"] => true,
        ["limits", "accept_queue_max"] => false,
        ["limits" | "screening" | "privacy", _] | ["upstreams", ..] | ["attribution" | "account_tables", ..] => true,
        // A listener as a whole is there or not there; these of its keys belong to its socket.
        ["listeners", _] => false,
        ["listeners", .., "name" | "listen" | "kind"] => false,
        ["listeners", ..] => true,
        _ => false,
    }
}

/// Flattens to one entry per key. Listeners and upstreams go by name, since their order says nothing; other lists are values.
fn flat(value: &Value) -> BTreeMap<String, Value> {
    let mut entries = BTreeMap::new();
    let Value::Object(top) = value else {
        return entries;
    };
    for (key, value) in top {
        match value {
            Value::Array(elements) if key == "listeners" || key == "upstreams" => {
                for element in elements {
                    let name = element.get("name").and_then(Value::as_str).unwrap_or_default();
                    let at = format!("{key}.{}", name.replace('.', "_"));
                    // That it is there at all, so that adding and removing one show up as such.
                    entries.insert(at.clone(), Value::Bool(true));
                    for (field, value) in element.as_object().into_iter().flatten() {
                        entries.insert(format!("{at}.{field}"), value.clone());
                    }
                }
            }
            Value::Object(table) => {
                for (field, value) in table {
                    entries.insert(format!("{key}.{field}"), value.clone());
                }
            }
            value => {
                entries.insert(key.clone(), value.clone());
            }
        }
    }
    entries
}

impl Config {
    /// The effective configuration under the file's key names, upstreams by name; may hold secrets.
    fn effective(&self) -> Value {
        let mut value = match serde_json::to_value(self) {
            Ok(value) => value,
            Err(error) => return json!({ "error": error.to_string() }),
        };
        let listeners = value.get_mut("listeners").and_then(Value::as_array_mut);
        for (shown, listener) in listeners.into_iter().flatten().zip(&self.listeners) {
            let routes = shown.get_mut("routes").and_then(Value::as_array_mut);
            for (shown, route) in routes.into_iter().flatten().zip(&listener.routes) {
                shown["upstream"] = Value::String(self.upstream(route.upstream).name.clone());
            }
        }
        value
    }

    /// The effective configuration, defaults included, for showing to an operator: under the file's key names, with every
    /// value that may be a secret replaced.
    pub fn redacted(&self) -> Value {
        let mut value = self.effective();
        redact(&mut value);
        value
    }
}

fn redact(value: &mut Value) {
    match value {
        Value::Object(table) => redact_table(table),
        Value::Array(elements) => elements.iter_mut().for_each(redact),
        _ => {}
    }
}

fn redact_table(table: &mut Map<String, Value>) {
    for (key, value) in table {
        if key == "header" {
            // The value a header must have may be the customer's API key.
            if let Some(expected) = value.get_mut("value").filter(|expected| expected.is_string()) {
                *expected = Value::String(REDACTED.to_string());
            }
        } else if key == "database" && value.as_str().is_some_and(|database| database.contains("://")) {
            // It may hold a password.
            *value = Value::String(REDACTED.to_string());
        } else if key == "properties" || SECRET_WORDS.iter().any(|word| key.contains(word)) {
            *value = Value::String(REDACTED.to_string());
        } else {
            redact(value);
        }
    }
}
