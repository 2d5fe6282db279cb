//! `[portal]`.

use std::time::Duration;

use super::fields::{Pem, Section};
use super::portal::Portal;
use super::raw::RawPortal;
use super::routing::CertificateFiles;

/// Where usage is shown, and to whom.
pub(super) fn portal(section: &mut Section<'_>, raw: &RawPortal) -> Portal {
    let listen = match &raw.listen {
        None => Some(([127, 0, 0, 1], 9800).into()),
        Some(given) if given.get_ref() == "off" => None,
        Some(given) => section.address("listen", given),
    };
    let tls = match (&raw.certificate, &raw.key) {
        (Some(certificate), Some(key)) => Some(CertificateFiles {
            certificate: section.pem("certificate", certificate, Pem::Certificate),
            key: section.pem("key", key, Pem::Key),
        }),
        (Some(given), None) => {
            section.missing(given.span(), "key", "write the certificate's private key");
            None
        }
        (None, Some(given)) => {
            section.missing(given.span(), "certificate", "write the key's certificate");
            None
        }
        (None, None) => None,
    };
    let public_keys = raw.public_keys.iter().flat_map(|list| list.get_ref());
    let public_keys = public_keys.map(|given| section.path("public_keys", given)).collect();
    let valid_s = section.number("token_valid_s_max", &raw.token_valid_s_max, 86_400, 60..=31_622_400);
    Portal {
        listen,
        tls,
        public_keys,
        token_valid_max: Duration::from_secs(valid_s),
        requests_per_minute_max: section.count(
            "requests_per_minute_max",
            &raw.requests_per_minute_max,
            600,
            1..=1_000_000,
        ),
        request_timeout: section.milliseconds("request_timeout_ms", &raw.request_timeout_ms, 30_000, 100..=600_000),
        access_keep_days: section.count("access_keep_days", &raw.access_keep_days, 400, 0..=36_500),
    }
}
