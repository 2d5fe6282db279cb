//! Quantities: the four columns of DESIGN in both directions, and what moved upstream.

/// Byte counts of one session or request. What each column counts:
///
/// * `body`: HTTP body octets after transfer framing; tunnel payload after an upgrade;
/// * `app`: every plaintext octet of the HTTP conversation, framing and headers included;
/// * `wire`: octets through the socket, TLS and PROXY header included;
/// * `acked`: sent octets that the client's kernel acknowledged;
/// * `upstream`: octets through the socket to the origin.
///
/// *received* came from the client, *sent* went to the client.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Hash)]
#[allow(missing_docs)] // the columns are explained above
pub struct Counters {
    pub received_body: u64,
    pub received_app: u64,
    pub received_wire: u64,
    pub sent_body: u64,
    pub sent_app: u64,
    pub sent_wire: u64,
    pub sent_acked: u64,
    pub upstream_sent: u64,
    pub upstream_received: u64,
}

/// One of the nine counters; the number is its place in slots and records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // named as in `Counters`
pub enum Column {
    ReceivedBody = 0,
    ReceivedApp = 1,
    ReceivedWire = 2,
    SentBody = 3,
    SentApp = 4,
    SentWire = 5,
    SentAcked = 6,
    UpstreamSent = 7,
    UpstreamReceived = 8,
}

impl Column {
    /// All of them, in their order.
    pub const ALL: [Self; COLUMNS] = [
        Self::ReceivedBody,
        Self::ReceivedApp,
        Self::ReceivedWire,
        Self::SentBody,
        Self::SentApp,
        Self::SentWire,
        Self::SentAcked,
        Self::UpstreamSent,
        Self::UpstreamReceived,
    ];
}

/// How many counters there are.
pub const COLUMNS: usize = 9;

impl Counters {
    /// In the order of [`Column`].
    #[inline]
    pub fn to_array(&self) -> [u64; COLUMNS] {
        [
            self.received_body,
            self.received_app,
            self.received_wire,
            self.sent_body,
            self.sent_app,
            self.sent_wire,
            self.sent_acked,
            self.upstream_sent,
            self.upstream_received,
        ]
    }

    /// From the order of [`Column`].
    #[inline]
    pub fn from_array(columns: [u64; COLUMNS]) -> Self {
        let [
            received_body,
            received_app,
            received_wire,
            sent_body,
            sent_app,
            sent_wire,
            sent_acked,
            upstream_sent,
            upstream_received,
        ] = columns;
        Self {
            received_body,
            received_app,
            received_wire,
            sent_body,
            sent_app,
            sent_wire,
            sent_acked,
            upstream_sent,
            upstream_received,
        }
    }

    /// Column by column; `None` if any would be negative.
    pub fn checked_sub(&self, other: &Self) -> Option<Self> {
        self.zip(other, u64::checked_sub)
    }

    /// Column by column; `None` if any would overflow.
    pub fn checked_add(&self, other: &Self) -> Option<Self> {
        self.zip(other, u64::checked_add)
    }

    /// The larger of each column.
    pub fn max(&self, other: &Self) -> Self {
        let (a, b) = (self.to_array(), other.to_array());
        Self::from_array(std::array::from_fn(|column| a[column].max(b[column])))
    }

    /// One column.
    pub fn get(&self, column: Column) -> u64 {
        self.to_array()[column as usize]
    }

    /// Whether nothing was counted.
    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }

    fn zip(&self, other: &Self, apply: fn(u64, u64) -> Option<u64>) -> Option<Self> {
        let (a, b) = (self.to_array(), other.to_array());
        let mut columns = [0; COLUMNS];
        for (column, sum) in columns.iter_mut().enumerate() {
            *sum = apply(a[column], b[column])?;
        }
        Some(Self::from_array(columns))
    }
}

/// `1234567` as `1,234,567`.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn deltas_add_up_to_totals(a in proptest::array::uniform9(0u64..1 << 60), b in proptest::array::uniform9(0u64..1 << 60)) {
            let (earlier, delta) = (Counters::from_array(a), Counters::from_array(b));
            let now = earlier.checked_add(&delta).unwrap();
            prop_assert_eq!(now.checked_sub(&earlier), Some(delta));
        }
    }

    #[test]
    fn a_counter_that_went_back_is_seen() {
        let more = Counters { sent_app: 2, ..Default::default() };
        assert_eq!(Counters::default().checked_sub(&more), None);
    }

    #[test]
    fn columns_keep_their_order() {
        let counters = Counters::from_array([1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(counters.to_array(), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(counters.get(Column::ReceivedBody), counters.received_body);
        assert_eq!(counters.get(Column::SentAcked), counters.sent_acked);
        assert_eq!(counters.get(Column::UpstreamReceived), 9);
    }

    #[test]
    fn arithmetic_is_checked() {
        let one = Counters::from_array([1; 9]);
        let two = one.checked_add(&one).unwrap();
        assert_eq!(two.checked_sub(&one), Some(one));
        assert_eq!(one.checked_sub(&two), None);
        assert_eq!(Counters::from_array([u64::MAX; 9]).checked_add(&one), None);
    }
}
