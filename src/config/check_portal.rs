//! `[portal]`.

use std::time::Duration;

use super::check_listeners::certificate;
use super::fields::Section;
use super::portal::Portal;
use super::raw::RawPortal;

/// Where usage is shown, and to whom.
pub(super) fn portal(section: &mut Section<'_>, raw: &RawPortal) -> Portal {
    let listen = match &raw.listen {
        None => Some(([127, 0, 0, 1], 9800).into()),
        Some(given) if given.get_ref() == "off" => None,
        Some(given) => section.address("listen", given),
    };
    let tls = raw.tls.as_ref().and_then(|given| {
        let pair = given.get_ref();
        let section = &mut section.check.section("portal.tls");
        certificate(section, pair.certificate.as_ref(), pair.key.as_ref(), given.span())
    });
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
