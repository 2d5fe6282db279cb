//! What is written down of a question names no address: each is replaced by its mark, a keyed hash of it.
//!
//! The access log stays for years and cannot be changed; who is erased from the archive must not live on in the questions that were
//! asked about him. `address:` and 16 hexadecimal digits stand there instead: the same for the same address however it is written, so that
//! whoever has the key can still ask who looked for a given one (`weir report access --param address=…`), and nobody can read one out.
//!
//! An address is: dotted or colon text (IPv6 of two groups or more: `::int` is a cast), 32 hexadecimal digits (how SQL writes 16 bytes; ids
//! of requests look the same and are hidden with them), and 8 of them in `x'…'`. What a statement computes (`'192.0.' || '2.7'`) is not seen.
//!
//! The key is 32 random bytes in a file beside the log, made with it. Without it the log is as whole as before, and marks are nobody's.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use weir::archive::schema::octets;
use weir::ids::{hex, unhex};

/// No address is longer as text.
const TEXT_BYTES_MAX: usize = 45;
/// Nor shorter.
const TEXT_BYTES_MIN: usize = 3;

/// Of marks.
#[derive(Clone)]
pub struct Key([u8; 32]);

impl Key {
    /// A new one.
    pub fn random() -> std::io::Result<Self> {
        let mut bytes = [0; 32];
        std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// One that was kept; none: these are no bytes of a key.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// To be kept.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// What stands for an address.
    pub fn mark(&self, address: IpAddr) -> String {
        let hash = blake3::keyed_hash(&self.0, &octets(address));
        format!("address:{}", hex(&hash.as_bytes()[..8]))
    }

    /// A text with marks for addresses.
    pub fn hide(&self, text: &str) -> String {
        let (mut hidden, mut rest) = (String::with_capacity(text.len()), text);
        while let Some(begin) = rest.find(is_part) {
            let end = rest[begin..].find(|c| !is_part(c)).map_or(rest.len(), |length| begin + length);
            let is_bytes = rest[..begin].ends_with(['\''])
                && rest[..begin - 1].ends_with(['x', 'X'])
                && rest[end..].starts_with('\'');
            hidden.push_str(&rest[..begin]);
            self.hide_run(&rest[begin..end], is_bytes, &mut hidden);
            rest = &rest[end..];
        }
        hidden.push_str(rest);
        hidden
    }

    /// Of characters that addresses are made of.
    fn hide_run(&self, run: &str, is_bytes: bool, to: &mut String) {
        if let Some(address) = of_digits(run, is_bytes) {
            to.push_str(&self.mark(address));
            return;
        }
        if !run.contains([':', '.']) {
            to.push_str(run);
            return;
        }
        let mut at = 0;
        while at < run.len() {
            let mut ends = (at + TEXT_BYTES_MIN..=run.len().min(at + TEXT_BYTES_MAX)).rev();
            match ends.find_map(|end| Some((end, of_text(&run[at..end])?))) {
                Some((end, address)) => {
                    to.push_str(&self.mark(address));
                    at = end;
                }
                None => {
                    to.push_str(&run[at..=at]);
                    at += 1;
                }
            }
        }
    }
}

fn is_part(c: char) -> bool {
    c.is_ascii_hexdigit() || c == ':' || c == '.'
}

fn of_digits(run: &str, is_bytes: bool) -> Option<IpAddr> {
    let octets = unhex(run.as_bytes()).filter(|octets| octets.len() == 16 || is_bytes)?;
    match octets.len() {
        16 => Some(IpAddr::from(<[u8; 16]>::try_from(octets).ok()?)),
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(octets).ok()?)),
        _ => None,
    }
}

fn of_text(text: &str) -> Option<IpAddr> {
    if let Ok(address) = text.parse::<Ipv4Addr>() {
        return Some(address.into());
    }
    let groups = text.split(':').filter(|group| !group.is_empty()).count();
    text.parse::<Ipv6Addr>().ok().filter(|_| groups > 1).map(IpAddr::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_hidden_and_nothing_else() {
        let key = Key::of(&[7; 32]).unwrap();
        let v4 = key.mark("192.0.2.7".parse().unwrap());
        let v6 = key.mark("2001:db8::1".parse().unwrap());
        assert_ne!(v4, v6);
        for (text, expected) in [
            ("192.0.2.7", v4.clone()),
            ("::ffff:192.0.2.7", v4.clone()),
            ("2001:DB8:0::1", v6.clone()),
            ("ip_in(client_ip, '192.0.2.7/32')", format!("ip_in(client_ip, '{v4}/32')")),
            ("client_ip = x'00000000000000000000ffffc0000207'", format!("client_ip = x'{v4}'")),
            ("peer_ip = X'C0000207'", format!("peer_ip = X'{v4}'")),
            ("20010db8000000000000000000000001", v6.clone()),
            ("of 192.0.2.7, not of 2001:db8::1.", format!("of {v4}, not of {v6}.")),
            ("address:192.0.2.7:443", format!("address:{v4}:443")),
        ] {
            assert_eq!(key.hide(text), expected, "{text}");
        }
        for plain in [
            "SELECT at::date, 1.5, x'c00002', '20261101' FROM requests WHERE account = 'acme' AND status = 200",
            "2026-11-01T12:00:00Z",
            "ticket 12:30:45, v1.2.3",
            "ünïcödé: déjà vu",
            "",
        ] {
            assert_eq!(key.hide(plain), plain);
        }
    }

    #[test]
    fn another_key_has_other_marks() {
        let address: IpAddr = "192.0.2.7".parse().unwrap();
        let keys = [Key::random().unwrap(), Key::random().unwrap()];
        assert_ne!(keys[0].mark(address), keys[1].mark(address));
        assert!(Key::of(&[0; 31]).is_none());
    }
}
