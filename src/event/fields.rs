//! The fields of a protobuf message, one after the other, without a copy ([encoding](https://protobuf.dev/programming-guides/encoding/)).

/// What a message is that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Its end comes too early.
    #[error("it ends within a field")]
    Cut,
    /// A number of more than 64 bits.
    #[error("a number in it has more than 64 bits")]
    Varint,
    /// No such key, or not here.
    #[error("{0} is no key of a field")]
    Key(u64),
    /// Not the type of this field.
    #[error("field {number} has wire type {wire}")]
    WireType {
        /// Which.
        number: u32,
        /// Which.
        wire: u8,
    },
    /// No UTF-8.
    #[error("field {0} is no UTF-8")]
    Text(u32),
    /// Groups within groups.
    #[error("unknown groups lie too deep in one another")]
    Depth,
    /// A message in it.
    #[error("{0}")]
    Inner(#[from] prost::DecodeError),
}

/// A field's key: what follows is of this wire type.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// As in the .proto.
    pub number: u32,
    wire: u8,
}

const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const OCTETS: u8 = 2;
const GROUP: u8 = 3;
const GROUP_END: u8 = 4;
const FIXED32: u8 = 5;
/// As prost has it.
const DEPTH_MAX: u32 = 100;

/// What is left of a message.
pub struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// All of it.
    pub fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    /// The next field; its value must be taken, or skipped. None: there is none.
    #[inline]
    pub fn next_field(&mut self) -> Result<Option<Field>, Malformed> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let number = u32::try_from(key).map_err(|_| Malformed::Key(key))? >> 3;
        let wire = (key & 7) as u8;
        if number == 0 || wire > FIXED32 {
            return Err(Malformed::Key(key));
        }
        Ok(Some(Field { number, wire }))
    }

    /// The next field's number, and all of it as it stands, key and value. None: there is none, or it is not whole.
    pub fn next_whole(&mut self) -> Option<(u32, &'a [u8])> {
        let before = self.rest;
        let field = self.next_field().ok()??;
        self.skip(field).ok()?;
        Some((field.number, &before[..before.len() - self.rest.len()]))
    }

    /// Its value as a number: what does not fit its type is cut, as everywhere in protobuf.
    #[inline]
    pub fn number(&mut self, field: Field) -> Result<u64, Malformed> {
        field.expect(VARINT)?;
        self.varint()
    }

    /// Its value as octets.
    #[inline]
    pub fn octets(&mut self, field: Field) -> Result<&'a [u8], Malformed> {
        field.expect(OCTETS)?;
        let length = self.varint()?;
        self.take(length)
    }

    /// Its value as a text.
    #[inline]
    pub fn text(&mut self, field: Field) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.octets(field)?).map_err(|_| Malformed::Text(field.number))
    }

    /// Leaves its value out.
    pub fn skip(&mut self, field: Field) -> Result<(), Malformed> {
        self.skip_below(field, DEPTH_MAX)
    }

    fn skip_below(&mut self, field: Field, depth: u32) -> Result<(), Malformed> {
        let depth = depth.checked_sub(1).ok_or(Malformed::Depth)?;
        match field.wire {
            VARINT => drop(self.varint()?),
            FIXED64 => drop(self.take(8)?),
            FIXED32 => drop(self.take(4)?),
            OCTETS => drop(self.octets(field)?),
            GROUP => loop {
                let inner = self.next_field()?.ok_or(Malformed::Cut)?;
                if inner.wire != GROUP_END {
                    self.skip_below(inner, depth)?;
                } else if inner.number == field.number {
                    break;
                } else {
                    return Err(Malformed::Key(inner.key()));
                }
            },
            _ => return Err(Malformed::Key(field.key())),
        }
        Ok(())
    }

    #[inline]
    fn take(&mut self, length: u64) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(length).map_err(|_| Malformed::Cut)?;
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Malformed::Cut)?;
        self.rest = rest;
        Ok(taken)
    }

    #[inline]
    fn varint(&mut self) -> Result<u64, Malformed> {
        // Nearly all keys and lengths.
        match *self.rest {
            [first, ref rest @ ..] if first < 0x80 => {
                self.rest = rest;
                Ok(u64::from(first))
            }
            [first, second, ref rest @ ..] if second < 0x80 => {
                self.rest = rest;
                Ok(u64::from(first & 0x7F) | u64::from(second) << 7)
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0;
        for (at, octet) in self.rest.iter().take(10).enumerate() {
            value |= u64::from(octet & 0x7F) << (7 * at);
            if *octet < 0x80 {
                // The tenth has one bit left.
                if at == 9 && *octet > 1 {
                    return Err(Malformed::Varint);
                }
                self.rest = &self.rest[at + 1..];
                return Ok(value);
            }
        }
        Err(if self.rest.len() < 10 { Malformed::Cut } else { Malformed::Varint })
    }
}

impl Field {
    #[inline]
    fn expect(self, wire: u8) -> Result<(), Malformed> {
        if self.wire == wire { Ok(()) } else { Err(Malformed::WireType { number: self.number, wire: self.wire }) }
    }

    fn key(self) -> u64 {
        u64::from(self.number) << 3 | u64::from(self.wire)
    }
}
