//! Counters and gauges, registered once; names are `weir_<component>_<noun>_<unit>_total`. README lists them.

use std::sync::OnceLock;

use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};

macro_rules! metrics {
    ($($name:ident: $type:ident $register:ident $describe:ident $text:literal, $help:literal;)*) => {
        /// Every metric without labels, resolved before the hot loop.
        #[allow(missing_docs)] // each line below says what it counts
        pub struct Metrics { $(pub $name: $type),* }

        impl Metrics {
            fn register() -> Self {
                $($describe!($text, $help);)*
                Self { $($name: $register!($text)),* }
            }
        }
    };
}

metrics! {
    sessions: Counter counter describe_counter "weir_sessions_total", "downstream connections accepted";
    sessions_open: Gauge gauge describe_gauge "weir_sessions_open", "downstream connections open now";
    sessions_refused: Counter counter describe_counter "weir_sessions_refused_total", "connections turned away by a limit, a full journal or a drain";
    sessions_shed: Counter counter describe_counter "weir_sessions_shed_total", "connections not accepted because descriptors ran out";
    requests: Counter counter describe_counter "weir_requests_total", "requests and tunnels begun";
    requests_refused: Counter counter describe_counter "weir_requests_refused_total", "requests that weir itself answered with an error";
    traffic_memory_bytes: Gauge gauge describe_gauge "weir_traffic_memory_bytes", "octets that connections hold in memory; above limits.buffer_bytes_max new ones are turned away";
    received_wire_bytes: Counter counter describe_counter "weir_received_wire_bytes_total", "octets from clients, counted at session checkpoints and closes";
    sent_wire_bytes: Counter counter describe_counter "weir_sent_wire_bytes_total", "octets to clients, counted at session checkpoints and closes";
    upstream_connections: Counter counter describe_counter "weir_upstream_connections_total", "connections made to origins";
    upstream_failures: Counter counter describe_counter "weir_upstream_failures_total", "requests that an origin failed";
    upstream_retries: Counter counter describe_counter "weir_upstream_retries_total", "second attempts after a failed connect";
    timeouts: Counter counter describe_counter "weir_timeouts_total", "sessions and requests cut by a limit in time or rate";
    floods: Counter counter describe_counter "weir_http2_floods_total", "HTTP/2 sessions cut for flooding";
    violations: Counter counter describe_counter "weir_request_violations_total", "requests that break the grammar, refused";
    meter_lost: Counter counter describe_counter "weir_meter_lost_total", "directions that a meter could not follow; their octets are session overhead";
    records: Counter counter describe_counter "weir_journal_records_total", "records written to the journal";
    records_unwritten: Counter counter describe_counter "weir_journal_records_unwritten_total", "closes summed up for a gap record because the journal was full";
    records_folded: Counter counter describe_counter "weir_journal_records_folded_total", "request records given up for sums by account, endpoint, hour and reason, because the journal was nearly full";
    journal_folding: Gauge gauge describe_gauge "weir_journal_folding", "shards that sum requests up instead of recording them one by one";
    records_recovered: Counter counter describe_counter "weir_journal_records_recovered_total", "closes written for a process that died";
    torn_bytes: Counter counter describe_counter "weir_journal_torn_bytes_total", "octets of torn frames discarded at recovery";
    slots_refused: Counter counter describe_counter "weir_journal_slots_refused_total", "sessions and requests not measured because every slot was taken";
    sink_records: Counter counter describe_counter "weir_sink_records_total", "records that the sink has taken";
    sink_failures: Counter counter describe_counter "weir_sink_failures_total", "attempts that the sink failed; each is repeated";
    sink_batches: Counter counter describe_counter "weir_sink_batches_total", "batches handed to the sink, repeated ones included";
    sink_resent_batches: Counter counter describe_counter "weir_sink_resent_batches_total", "batches whose outcome was unknown, read again from the journal and sent again; readers drop what comes twice";
    sink_up: Gauge gauge describe_gauge "weir_sink_up", "1 while the sink takes records, 0 while they wait in the journal";
    sink_waiting_records: Gauge gauge describe_gauge "weir_sink_waiting_records", "records in the journal that the sink has not acknowledged";
    sink_in_flight_bytes: Gauge gauge describe_gauge "weir_sink_in_flight_bytes", "octets of records sent and not acknowledged yet";
    journal_bytes: Gauge gauge describe_gauge "weir_journal_bytes", "octets of segment files; at weir_journal_bytes_max on_full decides";
    journal_bytes_max: Gauge gauge describe_gauge "weir_journal_bytes_max", "journal_bytes_max of the configuration";
    audit_sessions: Counter counter describe_counter "weir_audit_sessions_total", "times that sessions were held against the kernel, at checkpoints and at their close";
    audit_wire_received: Counter counter describe_counter "weir_audit_wire_received_violations_total", "sessions whose received octets differ from the kernel's";
    audit_wire_sent: Counter counter describe_counter "weir_audit_wire_sent_violations_total", "sessions whose sent octets differ from the kernel's";
    audit_app_sum: Counter counter describe_counter "weir_audit_app_sum_violations_total", "sessions whose requests and overhead do not add up to their app octets";
    audit_app_wire: Counter counter describe_counter "weir_audit_app_wire_violations_total", "plaintext sessions whose app octets differ from their wire octets";
    audit_counter_went_back: Counter counter describe_counter "weir_audit_counter_went_back_total", "counters that were smaller than what was recorded before";
    undelivered_bytes: Counter counter describe_counter "weir_undelivered_bytes_total", "octets written and never acknowledged by the client";
    unattributed: Counter counter describe_counter "weir_unattributed_total", "requests and raw sessions that no rule, route or listener gives to an account";
    account_tables_refused: Counter counter describe_counter "weir_account_tables_refused_total", "changed tables of accounts refused; the old one stayed";
    screened_matches: Counter counter describe_counter "weir_screening_matches_total", "sessions whose client a screening rule means";
    screened_indeterminate: Counter counter describe_counter "weir_screening_indeterminate_total", "sessions whose client a screening rule might mean";
    screened_refused: Counter counter describe_counter "weir_screening_refused_total", "requests and raw sessions refused by a screening rule";
    geoip_reloads: Counter counter describe_counter "weir_geoip_reloads_total", "tables of addresses taken over while running";
    geoip_reloads_refused: Counter counter describe_counter "weir_geoip_reloads_refused_total", "new tables of addresses, or plans of them, refused; the old one stayed";
    pseudonym_keys_failed: Counter counter describe_counter "weir_pseudonym_keys_failed_total", "times that the next key of pseudonyms could not be made or an old one not be destroyed";
    ledger_records: Counter counter describe_counter "weir_ledger_records_total", "records that the ledger has taken";
    ledger_duplicates: Counter counter describe_counter "weir_ledger_duplicates_total", "records that had come before, dropped";
    ledger_failures: Counter counter describe_counter "weir_ledger_failures_total", "batches that could not be read or committed; each is begun again";
    ledger_lag_seconds: Gauge gauge describe_gauge "weir_ledger_lag_seconds", "how long ago everything had come; 0 where nothing more is expected";
    ledger_complete_until_seconds: Gauge gauge describe_gauge "weir_ledger_complete_until_seconds", "everything up to here has come, seconds since 1970; 0 where nothing more is expected";
    ledger_missing_records: Gauge gauge describe_gauge "weir_ledger_missing_records", "records in open gaps";
    ledger_gaps: Gauge gauge describe_gauge "weir_ledger_gaps", "open gaps";
    ledger_quarantined: Gauge gauge describe_gauge "weir_ledger_quarantined", "pieces that cannot be read; they keep their period from being sealed";
    portal_tokens_refused: Counter counter describe_counter "weir_portal_tokens_refused_total", "tokens and links that were not good";
    reloads: Counter counter describe_counter "weir_config_reloads_total", "configurations taken over while running";
    reloads_refused: Counter counter describe_counter "weir_config_reloads_refused_total", "new configurations refused; the old one stayed";
}

/// The process's metrics. Call after the recorder of the `metrics` crate is installed, or they go nowhere.
pub fn metrics() -> &'static Metrics {
    static METRICS: OnceLock<Metrics> = OnceLock::new();
    METRICS.get_or_init(Metrics::register)
}
