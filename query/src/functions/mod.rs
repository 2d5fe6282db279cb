//! What SQL lacks for traffic: `ip_in(address, 'network')`, `ip_prefix(address, bits)`, `human_bytes(n)`.
//!
//! Addresses are taken as the archive keeps them (4 or 16 octets) or as text; IPv4 in IPv6 form is IPv4. What is no address (an empty
//! text, a pseudonym's octets are one) gives NULL, never an error: one odd row does not spoil an answer. A network that is none is an
//! error, because it stands in the question.

mod address;
mod human_bytes;
mod ip_in;
mod ip_prefix;
pub mod screened_now;
pub mod unsealed;

use std::sync::Arc;

use arrow::array::{ArrayRef, StringArray};
use arrow::error::ArrowError;
use datafusion::logical_expr::ScalarUDF;
use datafusion::prelude::SessionContext;

/// Makes them known to every question of this context.
pub fn register(context: &SessionContext) {
    context.register_udf(ScalarUDF::from(ip_in::IpIn::new()));
    context.register_udf(ScalarUDF::from(ip_prefix::IpPrefix::new()));
    context.register_udf(ScalarUDF::from(human_bytes::HumanBytes::new()));
}

/// Addresses as they are written.
pub fn address_texts(column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let addresses = address::addresses(column).map_err(|error| ArrowError::ComputeError(error.to_string()))?;
    let texts = addresses.into_iter().map(|address| address.map(|address| address.to_string()));
    Ok(Arc::new(texts.collect::<StringArray>()))
}

#[cfg(test)]
mod tests {
    use arrow::util::pretty::pretty_format_batches;
    use datafusion::prelude::SessionContext;

    /// The one value of a question without tables.
    async fn answer(sql: &str) -> Result<String, String> {
        let context = SessionContext::new();
        super::register(&context);
        let frame = context.sql(&format!("SELECT {sql} AS a")).await.map_err(|error| error.to_string())?;
        let batches = frame.collect().await.map_err(|error| error.to_string())?;
        let text = pretty_format_batches(&batches).map_err(|error| error.to_string())?.to_string();
        Ok(text.lines().nth(3).unwrap_or_default().trim_matches(['|', ' ']).to_owned())
    }

    #[tokio::test]
    async fn functions_say_what_they_are_asked() {
        for (sql, expected) in [
            ("ip_in('192.0.2.7', '192.0.2.0/24')", "true"),
            ("ip_in('192.0.3.7', '192.0.2.0/24')", "false"),
            ("ip_in('::ffff:192.0.2.7', '192.0.2.0/24')", "true"),
            ("ip_in('192.0.2.7', '::ffff:192.0.2.0/120')", "true"),
            ("ip_in('192.0.2.7', '192.0.2.7')", "true"),
            ("ip_in('2001:db8::1', '2001:db8::/32')", "true"),
            ("ip_in('2001:db8::1', '0.0.0.0/0')", "false"),
            ("ip_in(x'c0000207', '192.0.2.0/24')", "true"),
            ("ip_in(x'00000000000000000000ffffc0000207', '192.0.2.0/24')", "true"),
            ("ip_in('', '0.0.0.0/0')", ""),
            ("ip_in(NULL, '0.0.0.0/0')", ""),
            ("ip_in(arrow_cast('192.0.2.7', 'Dictionary(Int32, Utf8)'), '192.0.2.0/24')", "true"),
            ("ip_prefix('192.0.2.77', 24)", "192.0.2.0/24"),
            ("ip_prefix('192.0.2.77', 32)", "192.0.2.77/32"),
            ("ip_prefix('192.0.2.77', 0)", "0.0.0.0/0"),
            ("ip_prefix('2001:db8:1:2::4', 48)", "2001:db8:1::/48"),
            ("ip_prefix('192.0.2.77', 48)", "192.0.2.77/32"),
            ("ip_prefix('nobody', 24)", ""),
            ("human_bytes(0)", "0 B"),
            ("human_bytes(999)", "999 B"),
            ("human_bytes(1000)", "1.0 kB"),
            ("human_bytes(999949)", "999.9 kB"),
            ("human_bytes(999950)", "1.0 MB"),
            ("human_bytes(-1500)", "-1.5 kB"),
            ("human_bytes(9223372036854775807)", "9.2 EB"),
            ("human_bytes(NULL)", ""),
        ] {
            assert_eq!(answer(sql).await.as_deref(), Ok(expected), "{sql}");
        }
        for (sql, part) in [
            ("ip_in('192.0.2.7', '192.0.2.0/33')", "192.0.2.0/33"),
            ("ip_in('192.0.2.7')", "ip_in"),
            ("ip_in(1, '192.0.2.0/24')", "ip_in"),
            ("ip_prefix('192.0.2.7', -1)", "-1"),
        ] {
            let error = answer(sql).await.unwrap_err();
            assert!(error.contains(part), "{sql}: {error}");
        }
    }
}
