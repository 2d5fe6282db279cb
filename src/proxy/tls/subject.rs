//! The subject of a certificate as one line of text, and its other names.

use std::fmt::Write as _;
use std::net::IpAddr;

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{AttributeTypeAndValue, FromDer as _, GeneralName, X509Certificate};

use super::Error;

/// The subject in the form of RFC 4514, most specific part first: `CN=Ada,O=Example\, Inc.,C=GB`.
///
/// Everything that has a meaning in the form is escaped, so that two different subjects never look alike. Types without a
/// short name appear by number, values that are no text as `#` and their DER in hexadecimal. Empty for an empty subject.
pub fn subject(certificate: &CertificateDer<'_>) -> Result<String, Error> {
    let malformed = |reason: String| Error::Peer { reason };
    let (_, certificate) = X509Certificate::from_der(certificate).map_err(|error| malformed(error.to_string()))?;
    let mut text = String::new();
    let parts: Vec<_> = certificate.subject().iter_rdn().collect();
    for part in parts.into_iter().rev() {
        if !text.is_empty() {
            text.push(',');
        }
        for (index, attribute) in part.iter().enumerate() {
            if index > 0 {
                text.push('+');
            }
            push_attribute(&mut text, attribute);
        }
    }
    Ok(text)
}

/// Its alternative names: hosts in lower case, URIs, e-mail addresses and IP addresses as they are. Empty for a malformed one.
pub fn alternative_names(certificate: &CertificateDer<'_>) -> Vec<Box<str>> {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return Vec::new() };
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return Vec::new() };
    let names = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        GeneralName::URI(name) | GeneralName::RFC822Name(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(octets) => match (<[u8; 4]>::try_from(*octets), <[u8; 16]>::try_from(*octets)) {
            (Ok(v4), _) => Some(IpAddr::from(v4).to_string()),
            (_, Ok(v6)) => Some(IpAddr::from(v6).to_string()),
            _ => None,
        },
        _ => None,
    });
    names.filter(|name| !name.is_empty()).map(String::into_boxed_str).collect()
}

fn push_attribute(text: &mut String, attribute: &AttributeTypeAndValue<'_>) {
    let number = attribute.attr_type().to_id_string();
    text.push_str(short_name(&number).unwrap_or(&number));
    text.push('=');
    match attribute.as_str() {
        Ok(value) => push_escaped(text, value),
        Err(_) => push_der(text, attribute),
    }
}

/// RFC 4514 §3, and those that OpenSSL prints by name and people put into client certificates.
fn short_name(number: &str) -> Option<&'static str> {
    Some(match number {
        "2.5.4.3" => "CN",
        "2.5.4.5" => "serialNumber",
        "2.5.4.6" => "C",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.9" => "STREET",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "0.9.2342.19200300.100.1.1" => "UID",
        "0.9.2342.19200300.100.1.25" => "DC",
        "1.2.840.113549.1.9.1" => "emailAddress",
        _ => return None,
    })
}

fn push_escaped(text: &mut String, value: &str) {
    let last = value.len().saturating_sub(1);
    for (at, character) in value.char_indices() {
        let is_outer = (at == 0 && (character == ' ' || character == '#')) || (at == last && character == ' ');
        if is_outer || matches!(character, '"' | '+' | ',' | ';' | '<' | '>' | '=' | '\\') {
            text.push('\\');
            text.push(character);
        } else if character.is_control() {
            let mut bytes = [0; 4];
            character.encode_utf8(&mut bytes).bytes().for_each(|byte| push_hex(text, "\\", byte));
        } else {
            text.push(character);
        }
    }
}

/// `#` and the value's DER (RFC 4514 §2.4).
fn push_der(text: &mut String, attribute: &AttributeTypeAndValue<'_>) {
    text.push('#');
    let content = attribute.as_slice();
    // String and number types have one-byte tags; a tag beyond 30 in a name is nothing anybody issues.
    push_hex(text, "", u8::try_from(attribute.attr_value().tag().0).unwrap_or(0));
    let length = content.len().to_be_bytes();
    if content.len() < 0x80 {
        push_hex(text, "", length[length.len() - 1]);
    } else {
        let significant = &length[length.iter().position(|byte| *byte != 0).unwrap_or(0)..];
        push_hex(text, "", 0x80 | u8::try_from(significant.len()).unwrap_or(0));
        significant.iter().for_each(|byte| push_hex(text, "", *byte));
    }
    content.iter().for_each(|byte| push_hex(text, "", *byte));
}

fn push_hex(text: &mut String, before: &str, byte: u8) {
    // Writing to a String cannot fail.
    if write!(text, "{before}{byte:02x}").is_err() {
        text.push('?');
    }
}
