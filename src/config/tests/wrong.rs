//! Wrong configurations and the exact text of their errors.

use std::path::Path;

use super::super::Config;
use super::{dir_with_pem, read};

/// The exact text of every kind of error.
#[test]
fn wrong_configurations_say_what_is_wrong() {
    let dir = dir_with_pem(&["cert.pem"], &["key.pem"]);
    std::fs::write(dir.path().join("empty.pem"), "").unwrap();
    let good = "[[listeners]]\nname = \"web\"\nlisten = \"127.0.0.1:8080\"\nupstream = \"127.0.0.1:3000\"\n";
    let here = dir.path().display().to_string();
    for (before, after, expected) in WRONG {
        let text = format!("{before}\n{good}{after}\n");
        let errors = read(&text, dir.path()).expect_err(&text).replace(&here, "DIR");
        assert_eq!(errors, *expected, "{text}");
    }
}

/// Text before and after the lines of one good listener (line 2 to 5, `after` begins on line 6), and the errors.
const WRONG: &[(&str, &str, &str)] = &[
    (
        "unknwon = 1",
        "",
        "weir.toml:1:1: unknwon: unknown key; known here: node, state_dir, workers, checkpoint_interval_ms, request_id_header, admin, log, journal, sink, limits, listeners, upstreams, attribution, account_tables, geoip, screening, privacy, ledger, portal, meters, alerts, budgets, archive, query",
    ),
    (
        "",
        "[ledger]\ndatabase = \"mysql://host/db\"",
        "weir.toml:7:12: ledger.database: is no address of a PostgreSQL server; write postgres://user:password@host/database",
    ),
    (
        "",
        "[[meters]]\nname = \"egress\"\ncolumn = \"sent_ackd_bytes\"",
        "weir.toml:8:10: meters.egress.column: \"sent_ackd_bytes\" is not known; did you mean \"sent_acked_bytes\"? Known: \
         received_body_bytes, received_app_bytes, received_wire_bytes, sent_body_bytes, sent_app_bytes, sent_wire_bytes, \
         sent_acked_bytes, upstream_sent_bytes, upstream_received_bytes, requests, sessions, session_seconds",
    ),
    (
        "[alerts]\nwebhook = \"https://hooks.example.com/weir\"",
        "",
        "weir.toml:2:11: alerts.secret: is missing; write the file of the secret that alerts are signed with",
    ),
    (
        "[[budgets]]\naccount = \"acme\"\nmeter = \"egres_bytes\"\namount = 5",
        "",
        "weir.toml:3:9: budgets.meter: \"egres_bytes\" is not known; did you mean \"egress_bytes\"? Known: \
         egress_bytes, ingress_bytes, requests, sessions, session_seconds",
    ),
    ("[log]\nformt = \"text\"", "", "weir.toml:2:1: log.formt: unknown key; did you mean `format`?"),
    ("node = 5", "", "weir.toml:1:8: node: 5 is not text; write it in quotes"),
    ("node = \"\"", "", "weir.toml:1:8: node: \"\" cannot be used; write 1 to 128 bytes without control characters"),
    ("workers = \"two\"", "", "weir.toml:1:11: workers: \"two\" is text; write a whole number without quotes"),
    ("workers = -1", "", "weir.toml:1:11: workers: -1 is negative; write a whole number from 0"),
    ("workers = 1.5", "", "weir.toml:1:11: workers: 1.5 is not a whole number; write a whole number from 0"),
    ("workers = 5000", "", "weir.toml:1:11: workers: 5000 is above the limit; write 0 to 1024"),
    (
        "checkpoint_interval_ms = 99",
        "",
        "weir.toml:1:26: checkpoint_interval_ms: 99 is below the limit; write 100 to 3600000",
    ),
    (
        "request_id_header = \"content-length\"",
        "",
        "weir.toml:1:21: request_id_header: \"content-length\" has a meaning of its own; write one like \"x-request-id\"",
    ),
    (
        "request_id_header = \"x id\"",
        "",
        "weir.toml:1:21: request_id_header: \"x id\" is not a header name; write letters, digits and -, like \"x-name\"",
    ),
    (
        "[admin]\nlisten = \"localhost:9900\"",
        "",
        "weir.toml:2:10: admin.listen: \"localhost:9900\" is not an address; write an IP address and a port, like \"127.0.0.1:9900\", or \"[::]:9900\" for all",
    ),
    (
        "[admin]\nlisten = \"127.0.0.1:8080\"",
        "",
        "weir.toml:5:10: listeners.web.listen: \"127.0.0.1:8080\" is already used by admin.listen; write another address or port",
    ),
    (
        "[log]\nfilter = \"loud\"",
        "",
        "weir.toml:2:10: log.filter: \"loud\" is not a filter; write a level like \"info\", or \"weir=debug,h2=warn\"",
    ),
    (
        "[log]\nformat = \"jsn\"",
        "",
        "weir.toml:2:10: log.format: \"jsn\" is not known; did you mean \"json\"? Known: text, json",
    ),
    ("log = 3", "", "weir.toml:1:7: log: 3 is not a table; write { key = value }"),
    (
        "[journal]\nsegment_bytes = 100000",
        "",
        "weir.toml:2:17: journal.segment_bytes: 100000 is not a multiple of 4096; write 102400",
    ),
    (
        "workers = 4\n[journal]\njournal_bytes_max = 16777216",
        "",
        "weir.toml:3:21: journal.journal_bytes_max: 16777216 is less than two segments for each of 4 workers; write at least 134217728",
    ),
    (
        "[journal]\non_full = \"drop\"",
        "",
        "weir.toml:2:11: journal.on_full: \"drop\" is not known; write one of: refuse, count",
    ),
    ("[sink]\nkind = \"kafka\"", "", "weir.toml:2:8: sink.bootstrap_servers: is missing; write host:port of a broker"),
    (
        "[sink]\nkind = \"kafka\"\nbootstrap_servers = \"broker\"\ntopic = \"a b\"",
        "",
        "weir.toml:3:21: sink.bootstrap_servers: \"broker\" names no brokers; write \"host:9092\", several with commas\n\
         weir.toml:4:9: sink.topic: \"a b\" cannot be a topic; write 1 to 249 of A-Z a-z 0-9 . _ -",
    ),
    (
        "[sink]\nkind = \"kafka\"\nbootstrap_servers = \"a:1\"\n[sink.kafka.properties]\n\"acks\" = 1\n\"acs\" = 1\n\
         \"message.timeout.ms\" = 0\n\"socket.timeout.ms\" = \"x\"\n\"compression.type\" = \"lz4\"\n\"sasl.mechanism\" = \"OAUTHBEARER\"",
        "",
        "weir.toml:5:10: sink.kafka.properties.\"acks\": \"1\" would break the promise that nothing is lost: a batch would count as \
         delivered before its replicas have it; leave it out (it is all or -1)\n\
         weir.toml:6:9: sink.kafka.properties.\"acs\": is no property of librdkafka; see librdkafka's CONFIGURATION.md for the names\n\
         weir.toml:8:23: sink.kafka.properties.\"socket.timeout.ms\": Invalid value for configuration property \"socket.timeout.ms\"; see \
         librdkafka's CONFIGURATION.md for its values\n\
         weir.toml:9:22: sink.kafka.properties.\"compression.type\": has an option of its own; write it as [sink.kafka] compression\n\
         weir.toml:10:20: sink.kafka.properties.\"sasl.mechanism\": is OAUTHBEARER, but there is no sasl.oauthbearer.config; write \
         \"token_file=PATH\" there",
    ),
    ("[sink]\nkind = \"file\"", "", "weir.toml:2:8: sink.path: is missing; write the directory for the files"),
    (
        "[sink]\npath = \"x\"",
        "",
        "weir.toml:2:8: sink.path: is a key of a file sink; write kind = \"file\", or leave it out",
    ),
    (
        "[limits]\nbuffer_bytes_max = 1048576\nconnection_buffer_bytes_max = 2097152",
        "",
        "weir.toml:2:20: limits.buffer_bytes_max: 1048576 is less than connection_buffer_bytes_max = 2097152; write at least 2097152, or lower connection_buffer_bytes_max",
    ),
    (
        "[limits]\nheaders_max = 99999999999999999999",
        "",
        "weir.toml:2:15: limits.headers_max: 99999999999999999999 is above the limit; write a smaller number",
    ),
    ("", "tls = true", "weir.toml:6:7: listeners.web.tls: true is not a table; write { key = value }"),
    (
        "",
        "tls = {}",
        "weir.toml:6:7: listeners.web.tls.certificate: is missing; write certificate = \"cert.pem\" and key = \"key.pem\"",
    ),
    (
        "",
        "tls = { certificate = \"cert.pem\" }",
        "weir.toml:6:7: listeners.web.tls.key: is missing; write the key that belongs to the certificate",
    ),
    (
        "",
        "tls = { certificate = \"no.pem\", key = \"cert.pem\" }",
        "weir.toml:6:23: listeners.web.tls.certificate: DIR/no.pem: cannot be read: No such file or directory (os error 2); create it or correct the path (relative to the configuration file)\nweir.toml:6:39: listeners.web.tls.key: DIR/cert.pem: holds a certificate, not a key; name the key's file",
    ),
    (
        "",
        "tls = { certificate = \"empty.pem\", key = \"empty.pem\" }",
        "weir.toml:6:23: listeners.web.tls.certificate: DIR/empty.pem: holds no PEM certificate; it must hold BEGIN CERTIFICATE\nweir.toml:6:42: listeners.web.tls.key: DIR/empty.pem: holds no PEM private key; it must hold BEGIN PRIVATE KEY",
    ),
    (
        "",
        "tls = { certificate = \"cert.pem\", key = \"key.pem\", client_auth = \"required\" }",
        "weir.toml:6:66: listeners.web.tls.client_ca: is missing; write the PEM file of authorities that clients are checked against",
    ),
    (
        "",
        "tls = { certificate = \"cert.pem\", key = \"key.pem\", client_ca = \"cert.pem\" }",
        "weir.toml:6:64: listeners.web.tls.client_ca: is never looked at with client_auth = \"off\"; write client_auth = \"required\" or \"optional\", or leave client_ca out",
    ),
    (
        "",
        "tls = { certificate = \"cert.pem\", key = \"key.pem\", version_min = \"1.1\" }",
        "weir.toml:6:66: listeners.web.tls.version_min: \"1.1\" is not known; did you mean \"1.2\"? Known: 1.2, 1.3",
    ),
    (
        "",
        "proxy_protocol = \"optional\"",
        "weir.toml:6:18: listeners.web.proxy_protocol: \"optional\" is believed from trusted_proxies only; write trusted_proxies = [\"10.0.0.0/8\"], the networks of your proxies",
    ),
    (
        "",
        "forwarded = \"x-forwarded-for\"",
        "weir.toml:6:13: listeners.web.forwarded: \"x-forwarded-for\" is believed from trusted_proxies only; write trusted_proxies = [\"10.0.0.0/8\"], the networks of your proxies",
    ),
    (
        "",
        "trusted_proxies = [\"10.0.0.0/33\", 7, \"192.0.2.1\"]",
        "weir.toml:6:20: listeners.web.trusted_proxies: \"10.0.0.0/33\" is not a network; write it like \"10.0.0.0/8\", \"fd00::/8\" or \"192.0.2.1\"\nweir.toml:6:35: listeners.web.trusted_proxies[1]: 7 is not text; write it in quotes",
    ),
    (
        "",
        "trusted_proxies = \"10.0.0.0/8\"",
        "weir.toml:6:19: listeners.web.trusted_proxies: \"10.0.0.0/8\" is not a list; write it in [brackets]",
    ),
    (
        "",
        "http2 = \"yes\"",
        "weir.toml:6:9: listeners.web.http2: \"yes\" is neither true nor false; write true or false, without quotes",
    ),
    (
        "",
        "kind = \"tcp\"\nhttp2 = true",
        "weir.toml:7:9: listeners.web.http2: is about HTTP; leave it out, or write kind = \"http\"",
    ),
    (
        "",
        "kind = \"tls-passthrough\"\ntls = { certificate = \"cert.pem\", key = \"key.pem\" }",
        "weir.toml:7:7: listeners.web.tls: is not opened by a tls-passthrough listener; leave it out, or write kind = \"tcp\"",
    ),
    (
        "",
        "kind = \"tcp\"\n[[listeners.routes]]\nhost = \"a.example\"\nupstream = \"127.0.0.1:1\"",
        "weir.toml:7:1: listeners.web.routes: cannot be chosen: plain TCP names no host; write upstream in the listener instead, or add tls",
    ),
    (
        "",
        "[[listeners.routes]]\nhost = \"a*.example\"\nupstream = \"127.0.0.1\"",
        "weir.toml:7:8: listeners.web.routes[0].host: \"a*.example\" has a * in the wrong place; write \"*.example.com\" or \"*\"\nweir.toml:8:12: listeners.web.routes[0].upstream: \"127.0.0.1\" has no port; write it like \"127.0.0.1:3000\", \"[::1]:3000\", \"name:3000\" or \"https://name\"",
    ),
    (
        "",
        "[[listeners.routes]]\nhost = \"a.example:80\"\npath_prefix = \"api\"\nupstream = \"127.0.0.1:1\"",
        "weir.toml:7:8: listeners.web.routes[0].host: \"a.example:80\" is not a host; write it without scheme and port\nweir.toml:8:15: listeners.web.routes[0].path_prefix: \"api\" does not begin with /; write it like \"/api\"",
    ),
    (
        "",
        "[[listeners.routes]]\nhost = \"a.example\"\nupstream = \"127.0.0.1:1\"\n[[listeners.routes]]\nhost = \"A.example\"\nupstream = \"127.0.0.1:2\"",
        "weir.toml:9:1: listeners.web.routes[1].host: a.example / is routed twice; leave one of them out",
    ),
    (
        "",
        "[[listeners.routes]]\nhost = \"*\"\nupstream = \"127.0.0.1:1\"",
        "weir.toml:5:12: listeners.web.upstream: is never reached: a route already takes every host and path; leave one of them out",
    ),
    (
        "",
        "[[listeners]]\nname = \"web\"\nlisten = \"127.0.0.1:8080\"\nupstream = \"127.0.0.1:3000\"",
        "weir.toml:7:8: listeners.web.name: is used twice; give each listener a name of its own\nweir.toml:8:10: listeners.web.listen: \"127.0.0.1:8080\" is already used by listeners.web.listen; write another address or port",
    ),
    (
        "",
        "[[listeners]]",
        "weir.toml:6:1: listeners[1].name: is missing; write name = \"…\"\nweir.toml:6:1: listeners[1].listen: is missing; write listen = \"127.0.0.1:8080\"\nweir.toml:6:1: listeners[1].upstream: is missing; write upstream = \"127.0.0.1:3000\", or [[listeners.routes]]",
    ),
    (
        "",
        "[[listeners]]\nname = \"x\"\nlisten = \":80\"\nupstream = \"apo\"\n[[upstreams]]\nname = \"api\"\nservers = [\"a:1\"]",
        "weir.toml:8:10: listeners.x.listen: \":80\" is not an address; write an IP address and a port, like \"127.0.0.1:80\", or \"[::]:80\" for all\nweir.toml:9:12: listeners.x.upstream: \"apo\" is not the name of an upstream; did you mean \"api\"?",
    ),
    (
        "",
        "[[upstreams]]\nname = \"api\"\nservers = []",
        "weir.toml:8:11: upstreams.api.servers: is missing; write servers = [\"127.0.0.1:3000\"]",
    ),
    (
        "",
        "[[upstreams]]\nname = \"a:1\"\nservers = [\"http://a\", \"https://b\", \"c:1\", \"c:1\"]",
        "weir.toml:7:8: upstreams.a:1.name: \"a:1\" is not a name; write 1 to 64 of A-Z a-z 0-9 - _ .\nweir.toml:8:24: upstreams.a:1.servers: \"https://b\" has another scheme than the one before; write all with the same scheme, or all without\nweir.toml:8:37: upstreams.a:1.servers: \"c:1\" has another scheme than the one before; write all with the same scheme, or all without\nweir.toml:8:44: upstreams.a:1.servers: \"c:1\" is there twice; write each server once",
    ),
    (
        "",
        "[upstreams]\nname = \"api\"",
        "weir.toml:6:1: upstreams: is a table; write [[upstreams]] with double brackets",
    ),
    (
        "",
        "[[upstreams]]\nname = \"api\"\nservers = [\"http://a\"]\ntls = { client_key = \"key.pem\", insecure = true, ca = \"cert.pem\" }",
        "weir.toml:9:7: upstreams.api.tls: contradicts servers written http://; write https://, or leave tls out\nweir.toml:9:22: upstreams.api.tls.client_certificate: is missing; write the certificate of client_key\nweir.toml:9:55: upstreams.api.tls.ca: is never looked at with insecure = true; leave one of them out",
    ),
    (
        "",
        "[[upstreams]]\nname = \"api\"\nservers = [\"a:1\"]\nhealth = { kind = \"tcp\", path = \"/x\" }",
        "weir.toml:9:33: upstreams.api.health.path: is a key of an http check; write kind = \"http\", or leave it out",
    ),
    (
        "",
        "[[attribution]]",
        "weir.toml:6:1: attribution[0].name: is missing; write name = \"…\"; records say which rule decided\nweir.toml:6:1: attribution[0].account: is missing; write account = \"…\" or account_from = \"host\"",
    ),
    (
        "",
        "[[attribution]]\nname = \"r\"\nlistener = \"wep\"\naccount = \"a\"\naccount_from = \"sni\"",
        "weir.toml:8:12: attribution.r.listener: \"wep\" is not the name of a listener; did you mean \"web\"?\nweir.toml:10:16: attribution.r.account_from: is beside account; leave one of them out",
    ),
    (
        "",
        "[[attribution]]\nname = \"r\"\nlistener = \"web\"\nsni = \"a.example\"\naccount_from = \"tls_subject\"",
        "weir.toml:9:7: attribution.r.sni: never matches: it needs tls, which this listener has not; correct the listener or leave this out\nweir.toml:10:16: attribution.r.account_from: never matches: it needs tls.client_auth, which this listener has not; correct the listener or leave this out",
    ),
    (
        "",
        "[[attribution]]\nname = \"r\"\naccount_from = \"cookie\"",
        "weir.toml:8:16: attribution.r.account_from: \"cookie\" is not known; write \"host\", \"sni\", \"tls_subject\", \"tls_san\", \"client_cidr\", { header = \"x-account\" }, { proxy_field = 224 } or { table = \"…\", by = \"host\" }",
    ),
    (
        "",
        "[[attribution]]\nname = \"r\"\naccount_from = { header = \"x y\" }\nheader = { value = \"v\" }\nclient_cidr = []",
        "weir.toml:8:16: attribution.r.account_from: \"x y\" is not a header name; write letters, digits and -, like \"x-name\"\nweir.toml:9:10: attribution.r.header.name: is missing; write header = { name = \"…\" }\nweir.toml:9:10: attribution.r.header: never matches: it needs trusted_proxies, which no listener has; correct the listener or leave this out\nweir.toml:10:15: attribution.r.client_cidr: is empty; write networks, or leave it out for every client",
    ),
    (
        "",
        "[[attribution]]\nname = \"r\"\naccount_from = { header = \"x-account\" }\n[[attribution]]\nname = \"p\"\naccount_from = { proxy_field = 224 }\n[[attribution]]\nname = \"f\"\naccount_from = { proxy_field = 3 }",
        "weir.toml:8:16: attribution.r.account_from: never matches: it needs trusted_proxies, which no listener has; correct the listener or leave this out\nweir.toml:11:16: attribution.p.account_from: never matches: it needs proxy_protocol and trusted_proxies, which no listener has; correct the listener or leave this out\nweir.toml:14:16: attribution.f.account_from: { proxy_field = 3 } is not known; write \"host\", \"sni\", \"tls_subject\", \"tls_san\", \"client_cidr\", { header = \"x-account\" }, { proxy_field = 224 } or { table = \"…\", by = \"host\" }",
    ),
    (
        "",
        "[[attribution]]\nname = \"r\"\naccount_from = { table = \"tenant\", by = \"host\" }\n[[account_tables]]\nname = \"tenants\"\nkind = \"keys\"",
        "weir.toml:8:16: attribution.r.account_from: \"tenant\" is not the name of a table; did you mean \"tenants\"?\nweir.toml:9:1: account_tables.tenants.file: is missing; write file = \"…\", a CSV file of accounts\nweir.toml:9:1: account_tables.tenants.hash_key: is missing; write hash_key = \"…\", the file that keys are hashed with",
    ),
    (
        "",
        "[[screening.rules]]\nname = \"r\"\nvalid_from = \"2025-07-01\"\nvalid_to = \"yesterday\"\ncountries = [\"Iran\"]\nsubdivisions = [\"UA\"]\nasns = [0]\nlabels = [\"Tor\"]\naction = \"refused\"",
        "weir.toml:9:12: screening.rules.r.valid_to: \"yesterday\" is no time; write \"2025-07-01\" or \"2025-07-01T12:00:00Z\"\nweir.toml:10:14: screening.rules.r.countries: \"Iran\" is no country; write its two letters of ISO 3166-1, like \"UA\"\nweir.toml:11:17: screening.rules.r.subdivisions: \"UA\" is no subdivision; write \"UA-43\", or country and name: \"RU/Crimea\"\nweir.toml:12:9: screening.rules.r.asns: 0 is no number of a network; write 1 to 4294967295\nweir.toml:13:11: screening.rules.r.labels: \"Tor\" is no label; write words with dots, like \"proxy.anonymous\"\nweir.toml:14:10: screening.rules.r.action: \"refused\" is not known; did you mean \"refuse\"? Known: record, tag, refuse",
    ),
    (
        "",
        "[[screening.rules]]\nname = \"r\"\nvalid_from = \"2025-07-01\"\nvalid_to = \"2025-07-01\"",
        "weir.toml:6:1: screening.rules.r.countries: is missing; write what it means: countries, subdivisions, asns, labels or accounts\nweir.toml:9:12: screening.rules.r.valid_to: is not after valid_from; correct one of them",
    ),
    (
        "",
        "[privacy]\nclient_ip = \"encrypted\"\naccounts = { acme = \"hashed\" }",
        "weir.toml:7:13: privacy.encryption_key: is missing; write encryption_key = \"…\", a file of 32 hexadecimal digits\nweir.toml:8:21: privacy.accounts.acme: \"hashed\" is not known; write one of: full, encrypted, truncated, pseudonym, none",
    ),
];

#[test]
fn all_errors_come_at_once_in_the_order_of_the_file() {
    let text = "chekpoint_interval_ms = 1\nworkers = \"two\"\n[limits]\nheaders_max = 0\nlinger_ms = -1\n\
                [[listeners]]\nname = \"a b\"\nlisten = \"localhost:80\"\nkind = \"htp\"\nupstream = \"ap\"\n\
                [[upstreams]]\nname = \"api\"\nservers = [1, \"x\"]\n[upstreams.health]\npath = 5\n";
    let errors = read(text, Path::new("/")).unwrap_err();
    let expected = [
        "weir.toml:1:1: chekpoint_interval_ms: unknown key; did you mean `checkpoint_interval_ms`?",
        "weir.toml:2:11: workers: \"two\" is text; write a whole number without quotes",
        "weir.toml:4:15: limits.headers_max: 0 is below the limit; write 8 to 4096",
        "weir.toml:5:13: limits.linger_ms: -1 is negative; write a whole number from 0",
        "weir.toml:7:8: listeners.a b.name: \"a b\" is not a name; write 1 to 64 of A-Z a-z 0-9 - _ .",
        "weir.toml:8:10: listeners.a b.listen: \"localhost:80\" is not an address; write an IP address and a port, like \"127.0.0.1:80\", or \"[::]:80\" for all",
        "weir.toml:9:8: listeners.a b.kind: \"htp\" is not known; did you mean \"http\"? Known: http, tcp, tls-passthrough",
        "weir.toml:10:12: listeners.a b.upstream: \"ap\" is not the name of an upstream; did you mean \"api\"?",
        "weir.toml:13:12: upstreams.api.servers[0]: 1 is not text; write it in quotes",
        "weir.toml:13:15: upstreams.api.servers: \"x\" has no port; write it like \"127.0.0.1:3000\", \"[::1]:3000\", \"name:3000\" or \"https://name\"",
        "weir.toml:15:8: upstreams.api.health.path: 5 is not text; write it in quotes",
    ]
    .join("\n");
    assert_eq!(errors, expected);
}

#[test]
fn syntax_errors_come_with_their_places() {
    let errors = read("node = \n[log\nformat = \"text\"\nlisten = \"x\n", Path::new("/")).unwrap_err();
    let expected = [
        "weir.toml:1:8: syntax: string values must be quoted, expected literal string; see https://toml.io for the format",
        "weir.toml:2:5: syntax: unclosed table, expected `]`; see https://toml.io for the format",
    ]
    .join("\n");
    assert_eq!(errors, expected);
}

#[test]
fn flags_are_named_in_errors() {
    let errors = Config::for_flags("3000", Some("8080"), None).unwrap_err().to_string();
    let expected = [
        "--listen: \"8080\" is not an address; write an IP address and a port, like \"127.0.0.1:8080\", or \"[::]:8080\" for all",
        "--upstream: \"3000\" has no port; write it like \"127.0.0.1:3000\", \"[::1]:3000\", \"name:3000\" or \"https://name\"",
    ]
    .join("\n");
    assert_eq!(errors, expected);
}
