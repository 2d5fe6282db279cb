//! The token of a client that nothing asks for one: rdkafka's `AdminClient` serves no events, so what it shows a broker that
//! wants SASL OAUTHBEARER is handed to librdkafka once, at the start. It lives for one question, the token for longer.

use std::ffi::CString;

use rdkafka::ClientContext;
use rdkafka::bindings::rd_kafka_oauthbearer_set_token;
use rdkafka::client::Client;
use rdkafka::types::RDKafkaRespErr;

use crate::config::{KafkaSink, OAUTH_PROPERTY};
use crate::login;

/// Hands the token over, if the configuration says where it is. Why it could not be, if so.
pub fn hand_over(client: &Client<impl ClientContext>, config: &KafkaSink) -> Result<(), String> {
    let Some(source) = config.kafka.properties.get(OAUTH_PROPERTY) else { return Ok(()) };
    let token = login::token(Some(source)).map_err(|error| error.to_string())?;
    let value = CString::new(token.token).map_err(|error| error.to_string())?;
    let principal = CString::new(token.principal_name).map_err(|error| error.to_string())?;
    let mut why = [0_u8; 512];
    // SAFETY: `client` keeps the handle alive for the whole call. Both texts end with a zero and are copied before it returns; no
    // extensions are given; at most `why.len()` octets are written to `why`, which nobody else has.
    let code = unsafe {
        rd_kafka_oauthbearer_set_token(
            client.native_ptr(),
            value.as_ptr(),
            token.lifetime_ms,
            principal.as_ptr(),
            std::ptr::null_mut(),
            0,
            why.as_mut_ptr().cast(),
            why.len(),
        )
    };
    if code == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
        return Ok(());
    }
    let text = why.split(|octet| *octet == 0).next().unwrap_or_default();
    Err(String::from_utf8_lossy(text).into_owned())
}
