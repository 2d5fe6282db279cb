//! PROXY protocol, versions 1 and 2, in and out.
//!
//! A load balancer in front of us states the real client in a header before the first byte of the conversation
//! (HAProxy `doc/proxy-protocol.txt`, 2020/03/05). [`parse`] is given everything received so far and answers as soon as
//! the bytes allow an answer: [`Parsed::NotProxy`] at the first byte that differs from both signatures, an error at the
//! first byte that breaks a header, the header itself at its last byte. It never asks for a byte that belongs to the
//! conversation, and an answer other than [`Parsed::Incomplete`] never changes when more bytes follow.
//!
//! Bounds: a v1 line is at most 107 bytes, a v2 header at most [`HEADER_BYTES_MAX`]. The caller holds that many bytes at
//! most while the answer is `Incomplete`, and owns the timeout.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Longest header accepted, in bytes. The format allows 65,551; real ones with a client certificate stay below 8 KiB.
pub const HEADER_BYTES_MAX: usize = 16 * 1024;

/// Longest v1 line including CRLF, in bytes (specification §2.1).
const V1_BYTES_MAX: usize = 107;
const V1_SIGNATURE: &[u8] = b"PROXY ";
const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const V2_PREFIX_BYTES: usize = 16;

const TLV_AUTHORITY: u8 = 0x02;
const TLV_CRC32C: u8 = 0x03;
const TLV_UNIQUE_ID: u8 = 0x05;
/// Custom, experimental and future types (specification §2.2.7).
const TLV_CUSTOM_MIN: u8 = 0xE0;
/// Longest unique id, in bytes (specification §2.2.5).
const UNIQUE_ID_BYTES_MAX: usize = 128;

/// What the bytes received so far are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed {
    /// A header may be forming; more bytes decide.
    Incomplete,
    /// These bytes do not begin a PROXY header.
    NotProxy,
    /// A complete header.
    Header {
        /// What it says.
        header: ProxyHeader,
        /// Its length; the conversation begins here.
        bytes: usize,
    },
}

/// Which format the header came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyVersion {
    /// The text line.
    V1,
    /// The binary block.
    V2,
}

/// The content of one PROXY header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyHeader {
    /// Format.
    pub version: ProxyVersion,
    /// The sender made this connection for itself (a health check): nobody's traffic.
    pub local: bool,
    /// The client's address. None for LOCAL, UNKNOWN, UNSPEC, UNIX sockets and datagrams: the socket's own then hold.
    pub source: Option<SocketAddr>,
    /// The address the client had connected to. None exactly when `source` is.
    pub destination: Option<SocketAddr>,
    /// Host name that the client asked for (SNI as the sender saw it).
    pub authority: Option<String>,
    /// The sender's own id of the connection, at most 128 bytes.
    pub unique_id: Option<Vec<u8>>,
    /// Fields of types that are for applications to define, in their order; not longer than the header.
    pub fields: Vec<(u8, Vec<u8>)>,
}

/// Why a header that begins like one is not one. The connection cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// v1: no CRLF in the first 107 bytes.
    #[error("PROXY v1 line is longer than {V1_BYTES_MAX} bytes")]
    V1TooLong,
    /// v1: neither TCP4, TCP6 nor UNKNOWN, single spaces between fields, CRLF at the end.
    #[error("PROXY v1 line is malformed")]
    V1Line,
    /// v1: an address or port that does not parse or is of the other family.
    #[error("PROXY v1 address or port is malformed")]
    V1Address,
    /// v2: version nibble other than 2 or command other than LOCAL and PROXY.
    #[error("PROXY v2 version and command byte is {0:#04x}")]
    V2Command(u8),
    /// v2: a reserved family or transport.
    #[error("PROXY v2 family and transport byte is {0:#04x}")]
    V2Family(u8),
    /// v2: longer than [`HEADER_BYTES_MAX`].
    #[error("PROXY v2 header of {0} bytes is longer than {HEADER_BYTES_MAX}")]
    V2TooLong(usize),
    /// v2: too short for the addresses of its family.
    #[error("PROXY v2 header is too short for its addresses")]
    V2Short,
    /// v2: a TLV runs past the end, is repeated where once is allowed, or has an impossible value.
    #[error("PROXY v2 field of type {0:#04x} is malformed")]
    V2Field(u8),
    /// v2: the checksum field does not match the header.
    #[error("PROXY v2 checksum does not match")]
    V2Checksum,
}

/// Reads the PROXY header at the start of `received`, all bytes received so far.
pub fn parse(received: &[u8]) -> Result<Parsed, ProxyError> {
    let Some(first) = received.first() else {
        return Ok(Parsed::Incomplete);
    };
    // The signatures differ in their first byte, so one comparison each is enough.
    let signature: &[u8] = if *first == V1_SIGNATURE[0] { V1_SIGNATURE } else { V2_SIGNATURE };
    let compared = received.len().min(signature.len());
    if received[..compared] != signature[..compared] {
        return Ok(Parsed::NotProxy);
    }
    if compared < signature.len() {
        return Ok(Parsed::Incomplete);
    }
    if signature == V1_SIGNATURE { parse_v1(received) } else { parse_v2(received) }
}

/// The v1 line for a connection from `source` to `destination`; IPv4 only when both are (IPv4-mapped counts as IPv4).
pub fn encode_v1(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let (source_ip, destination_ip) = one_family(source.ip(), destination.ip());
    let family = if source_ip.is_ipv4() { "TCP4" } else { "TCP6" };
    let (source_port, destination_port) = (source.port(), destination.port());
    // Ipv6Addr prints a mapped address as `::ffff:1.2.3.4`, which the format allows and every reader takes.
    format!("PROXY {family} {source_ip} {destination_ip} {source_port} {destination_port}\r\n").into_bytes()
}

/// The v2 block for a connection from `source` to `destination`, 28 or 52 bytes, without TLVs.
pub fn encode_v2(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let mut block = Vec::with_capacity(52);
    block.extend_from_slice(V2_SIGNATURE);
    block.push(0x21);
    match one_family(source.ip(), destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            block.extend_from_slice(&[0x11, 0, 12]);
            block.extend_from_slice(&from.octets());
            block.extend_from_slice(&to.octets());
        }
        (from, to) => {
            block.extend_from_slice(&[0x21, 0, 36]);
            block.extend_from_slice(&as_v6(from).octets());
            block.extend_from_slice(&as_v6(to).octets());
        }
    }
    block.extend_from_slice(&source.port().to_be_bytes());
    block.extend_from_slice(&destination.port().to_be_bytes());
    block
}

/// Both addresses as IPv4 if both can be, else both as IPv6: a header has one family.
fn one_family(source: IpAddr, destination: IpAddr) -> (IpAddr, IpAddr) {
    let (source, destination) = (source.to_canonical(), destination.to_canonical());
    if source.is_ipv4() && destination.is_ipv4() {
        return (source, destination);
    }
    (as_v6(source).into(), as_v6(destination).into())
}

fn as_v6(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

fn parse_v1(received: &[u8]) -> Result<Parsed, ProxyError> {
    // The protocol word is checked as it arrives, so that a wrong one is refused without waiting for the line.
    let rest = &received[V1_SIGNATURE.len()..];
    let words: [&[u8]; 4] = [b"TCP4 ", b"TCP6 ", b"UNKNOWN ", b"UNKNOWN\r"];
    if !words.iter().any(|word| begins_alike(rest, word)) {
        return Err(ProxyError::V1Line);
    }
    let window = &received[..received.len().min(V1_BYTES_MAX - 1)];
    let Some(end) = window.iter().position(|byte| !(b' '..=b'~').contains(byte)) else {
        if window.len() == V1_BYTES_MAX - 1 {
            return Err(ProxyError::V1TooLong);
        }
        return Ok(Parsed::Incomplete);
    };
    if received[end] != b'\r' {
        return Err(ProxyError::V1Line);
    }
    match received.get(end + 1) {
        None => return Ok(Parsed::Incomplete),
        Some(b'\n') => {}
        Some(_) => return Err(ProxyError::V1Line),
    }
    let line = str::from_utf8(&received[V1_SIGNATURE.len()..end]).map_err(|_| ProxyError::V1Line)?;
    let mut header = ProxyHeader {
        version: ProxyVersion::V1,
        local: false,
        source: None,
        destination: None,
        authority: None,
        unique_id: None,
        fields: Vec::new(),
    };
    let mut fields = line.split(' ');
    let protocol = fields.next();
    // Whatever follows UNKNOWN is to be ignored (specification §2.1).
    if protocol != Some("UNKNOWN") {
        let five = (fields.next(), fields.next(), fields.next(), fields.next(), fields.next());
        let (Some(source), Some(destination), Some(source_port), Some(destination_port), None) = five else {
            return Err(ProxyError::V1Line);
        };
        let is_v4 = protocol == Some("TCP4");
        header.source = Some(v1_address(is_v4, source, source_port)?);
        header.destination = Some(v1_address(is_v4, destination, destination_port)?);
    }
    Ok(Parsed::Header { header, bytes: end + 2 })
}

fn begins_alike(received: &[u8], word: &[u8]) -> bool {
    let compared = received.len().min(word.len());
    received[..compared] == word[..compared]
}

fn v1_address(is_v4: bool, ip: &str, port: &str) -> Result<SocketAddr, ProxyError> {
    let ip = if is_v4 { ip.parse::<Ipv4Addr>().map(IpAddr::V4) } else { ip.parse::<Ipv6Addr>().map(IpAddr::V6) };
    let ip = ip.map_err(|_| ProxyError::V1Address)?;
    // u16's own parser also takes a plus sign and leading zeros.
    let canonical = port == "0" || port.starts_with(|c: char| ('1'..='9').contains(&c));
    match port.parse::<u16>() {
        Ok(port) if canonical => Ok(SocketAddr::new(ip.to_canonical(), port)),
        _ => Err(ProxyError::V1Address),
    }
}

fn parse_v2(received: &[u8]) -> Result<Parsed, ProxyError> {
    let Some(&command) = received.get(12) else {
        return Ok(Parsed::Incomplete);
    };
    if command != 0x20 && command != 0x21 {
        return Err(ProxyError::V2Command(command));
    }
    let Some(&family) = received.get(13) else {
        return Ok(Parsed::Incomplete);
    };
    let local = command == 0x20;
    // A LOCAL header's family and content are to be discarded, whatever they are (specification §2.2).
    if !local && (family >> 4 > 3 || family & 0x0f > 2) {
        return Err(ProxyError::V2Family(family));
    }
    let (Some(&high), Some(&low)) = (received.get(14), received.get(15)) else {
        return Ok(Parsed::Incomplete);
    };
    let bytes = V2_PREFIX_BYTES + usize::from(u16::from_be_bytes([high, low]));
    if bytes > HEADER_BYTES_MAX {
        return Err(ProxyError::V2TooLong(bytes));
    }
    let address_bytes = match family >> 4 {
        _ if local => 0,
        1 => 12,
        2 => 36,
        3 => 216,
        _ => 0,
    };
    if bytes < V2_PREFIX_BYTES + address_bytes {
        return Err(ProxyError::V2Short);
    }
    let Some(block) = received.get(..bytes) else {
        return Ok(Parsed::Incomplete);
    };
    let mut header = ProxyHeader {
        version: ProxyVersion::V2,
        local,
        source: None,
        destination: None,
        authority: None,
        unique_id: None,
        fields: Vec::new(),
    };
    // UNSPEC says nothing about the connection; what follows it has no defined place, so it is skipped like LOCAL's.
    if address_bytes > 0 {
        if let Some((source, destination)) = v2_addresses(family, block) {
            header.source = Some(source);
            header.destination = Some(destination);
        }
        read_fields(block, V2_PREFIX_BYTES + address_bytes, &mut header)?;
    }
    Ok(Parsed::Header { header, bytes })
}

/// Addresses of TCP over IPv4 or IPv6; a UNIX socket or a datagram names no TCP client. `block` is long enough.
fn v2_addresses(family: u8, block: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let address = &block[V2_PREFIX_BYTES..];
    let port = |at: usize| u16::from_be_bytes([address[at], address[at + 1]]);
    match family {
        0x11 => {
            let source: [u8; 4] = address[..4].try_into().ok()?;
            let destination: [u8; 4] = address[4..8].try_into().ok()?;
            Some((SocketAddr::new(source.into(), port(8)), SocketAddr::new(destination.into(), port(10))))
        }
        0x21 => {
            let source: [u8; 16] = address[..16].try_into().ok()?;
            let destination: [u8; 16] = address[16..32].try_into().ok()?;
            let (source, destination) = (IpAddr::from(source).to_canonical(), IpAddr::from(destination).to_canonical());
            Some((SocketAddr::new(source, port(32)), SocketAddr::new(destination, port(34))))
        }
        _ => None,
    }
}

/// Walks the TLVs from `at` to the end of `block`, keeps authority and unique id, verifies the checksum.
fn read_fields(block: &[u8], mut at: usize, header: &mut ProxyHeader) -> Result<(), ProxyError> {
    let mut checksum_seen = false;
    while at < block.len() {
        let kind = block[at];
        let Some(length) = block.get(at + 1..at + 3) else {
            return Err(ProxyError::V2Field(kind));
        };
        let value_at = at + 3;
        let end = value_at + usize::from(u16::from_be_bytes([length[0], length[1]]));
        let Some(value) = block.get(value_at..end) else {
            return Err(ProxyError::V2Field(kind));
        };
        match kind {
            TLV_AUTHORITY => {
                let name = str::from_utf8(value).map_err(|_| ProxyError::V2Field(kind))?;
                if header.authority.replace(name.to_owned()).is_some() {
                    return Err(ProxyError::V2Field(kind));
                }
            }
            TLV_UNIQUE_ID => {
                let repeated = header.unique_id.replace(value.to_vec()).is_some();
                if repeated || value.len() > UNIQUE_ID_BYTES_MAX {
                    return Err(ProxyError::V2Field(kind));
                }
            }
            TLV_CRC32C => {
                let Ok(stated) = <[u8; 4]>::try_from(value) else {
                    return Err(ProxyError::V2Field(kind));
                };
                if std::mem::replace(&mut checksum_seen, true) {
                    return Err(ProxyError::V2Field(kind));
                }
                // The checksum is of the whole header with its own four bytes as zeros (specification §2.2.3).
                let before = crc32c::crc32c(&block[..value_at]);
                let over_itself = crc32c::crc32c_append(before, &[0; 4]);
                if crc32c::crc32c_append(over_itself, &block[end..]) != u32::from_be_bytes(stated) {
                    return Err(ProxyError::V2Checksum);
                }
            }
            TLV_CUSTOM_MIN.. => header.fields.push((kind, value.to_vec())),
            _ => {}
        }
        at = end;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
