//! What a slot stands for, and how it ended.

/// What a slot stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
pub enum SlotKind {
    /// A downstream connection.
    Session = 1,
    /// An exchange inside one.
    Request = 2,
    /// The sum of what could not be recorded at all.
    Gap = 3,
    /// The sum of requests that were not recorded one by one.
    Fold = 4,
}

impl SlotKind {
    /// It counts nothing itself but takes what others counted ([`super::Sum`]).
    pub fn is_sum(self) -> bool {
        matches!(self, Self::Gap | Self::Fold)
    }

    pub(super) fn from_octet(octet: u8) -> Option<Self> {
        match octet {
            1 => Some(Self::Session),
            2 => Some(Self::Request),
            3 => Some(Self::Gap),
            4 => Some(Self::Fold),
            _ => None,
        }
    }
}

/// How it stands or ended, as far as is known; one word, so never half of one and half of another. The numbers are the caller's.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// HTTP status, 0 for none.
    pub status: u16,
    /// Why it closed.
    pub end: u8,
    /// Why it is not billable.
    pub reason: u8,
    /// Whether it is billed.
    pub billable: bool,
    /// Whatever else the caller keeps.
    pub flags: u16,
}

impl Outcome {
    pub(super) fn pack(self) -> u64 {
        u64::from(self.status)
            | u64::from(self.end) << 16
            | u64::from(self.reason) << 24
            | u64::from(self.flags) << 32
            | u64::from(self.billable) << 48
    }

    pub(super) fn unpack(word: u64) -> Self {
        Self {
            status: word as u16,
            end: (word >> 16) as u8,
            reason: (word >> 24) as u8,
            billable: word >> 48 & 1 == 1,
            flags: (word >> 32) as u16,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_fits_one_word() {
        let outcome = Outcome { status: 599, end: 255, reason: 7, billable: true, flags: 0xBEEF };
        assert_eq!(Outcome::unpack(outcome.pack()), outcome);
        assert_eq!(Outcome::unpack(0), Outcome::default());
    }
}
