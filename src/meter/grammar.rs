//! Pieces of the HTTP and URI grammar over octets: tokens, numbers, names, targets.

use std::net::Ipv6Addr;

use memchr::memchr;

/// A number of 1–18 digits, which can neither overflow nor turn negative anywhere.
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 18 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

/// A number of 1–16 hexadecimal digits.
pub(super) fn hexadecimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 16 {
        return None;
    }
    let mut number = 0;
    for &digit in digits {
        let value = char::from(digit).to_digit(16)?;
        number = number << 4 | u64::from(value);
    }
    Some(number)
}

/// Without the optional whitespace around a value (RFC 9110 §5.6.3).
#[inline]
pub(super) fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// Equal but for case, and for underscores where the name has hyphens.
#[inline]
pub(super) fn name_is(name: &[u8], hyphenated: &[u8]) -> bool {
    name.len() == hyphenated.len()
        && name.iter().zip(hyphenated).all(|(&a, &b)| a.to_ascii_lowercase() == b || (a == b'_' && b == b'-'))
}

/// One of the four forms of RFC 9112 §3.2, in visible ASCII and without a fragment.
pub(super) fn is_target(method: &[u8], target: &[u8]) -> bool {
    let visible = target.iter().fold(true, |good, &b| good & (b > b' ') & (b < 0x7f) & (b != b'#'));
    if !visible {
        return false;
    }
    if method == b"CONNECT" {
        return is_authority(target) && memchr(b':', target).is_some();
    }
    match target {
        [b'/', ..] => true,
        b"*" => method == b"OPTIONS",
        _ => {
            let scheme_end = memchr(b':', target).unwrap_or(0);
            let (scheme, rest) = target.split_at(scheme_end);
            if !scheme.eq_ignore_ascii_case(b"http") && !scheme.eq_ignore_ascii_case(b"https") {
                return false;
            }
            let Some(rest) = rest.strip_prefix(b"://") else {
                return false;
            };
            let end = rest.iter().position(|b| matches!(b, b'/' | b'?')).unwrap_or(rest.len());
            is_authority(&rest[..end])
        }
    }
}

/// `host[:port]` without userinfo. Of what RFC 3986 lets a registered name hold, only what DNS names, addresses and
/// service names are made of.
pub(super) fn is_authority(authority: &[u8]) -> bool {
    let (host_good, port) = if let Some(rest) = authority.strip_prefix(b"[") {
        let Some(end) = memchr(b']', rest) else {
            return false;
        };
        let address = std::str::from_utf8(&rest[..end]).unwrap_or("");
        (address.parse::<Ipv6Addr>().is_ok(), &rest[end + 1..])
    } else {
        let end = memchr(b':', authority).unwrap_or(authority.len());
        let host = &authority[..end];
        let good = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        (!host.is_empty() && host.iter().all(good), &authority[end..])
    };
    let port_good = match port {
        [] | [b':'] => true,
        [b':', digits @ ..] => decimal(digits).is_some_and(|port| port <= 65535),
        _ => false,
    };
    host_good && port_good
}

/// How many octets at the front are of a token.
#[inline]
pub(super) fn token_bytes(bytes: &[u8]) -> usize {
    let token = |b: &u8| TOKEN[usize::from(*b)];
    bytes.iter().position(|b| !token(b)).unwrap_or(bytes.len())
}

/// Where the first control octet other than tab is. Looks at eight at a time: values are what heads are made of.
#[inline]
pub(super) fn first_control(bytes: &[u8]) -> Option<usize> {
    const EACH: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = EACH * 0x80;
    let mut at = 0;
    while let Some(eight) = bytes[at..].first_chunk() {
        let word = u64::from_le_bytes(*eight);
        let delete = word ^ (EACH * 0x7f);
        // The high bit of each octet below 0x20 or equal to 0x7f. A borrow may set more, but only above a true one.
        let below_space = word.wrapping_sub(EACH * 0x20) & !word & HIGH;
        let is_delete = delete.wrapping_sub(EACH) & !delete & HIGH;
        let found = below_space | is_delete;
        if found == 0 {
            at += 8;
            continue;
        }
        at += found.trailing_zeros() as usize / 8;
        if bytes[at] != b'\t' {
            return Some(at);
        }
        at += 1;
    }
    let control = |b: &u8| (*b < b' ' && *b != b'\t') || *b == 0x7f;
    bytes[at..].iter().position(control).map(|more| at + more)
}

/// RFC 9110 §5.6.2.
const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut b = 0;
    while b < 256 {
        table[b] = matches!(b as u8, b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_'
            | b'`' | b'|' | b'~' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z');
        b += 1;
    }
    table
};
