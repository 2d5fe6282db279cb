//! A record as it is read: its texts and octets stay where they lie in the message.
//!
//! prost's [`UsageRecord`] has a copy of each text, some twenty allocations a record; who only looks at records, or makes rows of
//! them, needs none. [`RecordView`] has the same fields, made from the same .proto (`build.rs`), and takes and refuses the same messages
//! as prost's decoder: the tests hold it to that.

use std::borrow::Cow;

use prost::Message as _;

use super::fields::{Fields, Malformed};
use super::v1;

include!(concat!(env!("OUT_DIR"), "/record_view.rs"));

impl<'a> RecordView<'a> {
    /// Reads an encoded [`UsageRecord`](v1::UsageRecord).
    pub fn decode(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut view = Self::default();
        view.merge(message)?;
        Ok(view)
    }

    /// Reads one to the end of a list. After an error its last element is of no use.
    pub fn decode_into(views: &mut Vec<Self>, message: &'a [u8]) -> Result<(), Malformed> {
        views.push(Self::default());
        views.last_mut().map_or(Ok(()), |view| view.merge(message))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::encoding::{WireType, encode_key, encode_varint};

    use super::*;
    use crate::event::UsageRecord;

    /// A field that may be the record's own, or anybody's, or none.
    fn field() -> impl Strategy<Value = Vec<u8>> {
        let octets = prop_oneof![
            "[a-zA-Zäöü./]{0,20}".prop_map(String::into_bytes),
            proptest::collection::vec(any::<u8>(), 0..20),
            Just(v1::ShardEnd { epoch: 3, shard: 1, next_seq: 77, ..v1::ShardEnd::default() }.encode_to_vec()),
        ];
        let number = prop_oneof![0..3u64, any::<u64>(), Just(u64::from(u32::MAX) + 7)];
        (0..84u32, 0..8u8, number, octets).prop_map(|(field, wire, number, octets)| {
            let mut bytes = Vec::new();
            encode_varint(u64::from(field << 3 | u32::from(wire)), &mut bytes);
            match wire {
                0 => encode_varint(number, &mut bytes),
                1 => bytes.extend(number.to_le_bytes()),
                2 => {
                    encode_varint(octets.len() as u64, &mut bytes);
                    bytes.extend(octets);
                }
                3 => {
                    // With something in it, and its end.
                    encode_key(7, WireType::Varint, &mut bytes);
                    encode_varint(number, &mut bytes);
                    encode_key(field.max(1), WireType::EndGroup, &mut bytes);
                }
                5 => bytes.extend((number as u32).to_le_bytes()),
                _ => {}
            }
            bytes
        })
    }

    fn both(message: &[u8]) -> Result<(), TestCaseError> {
        let theirs = UsageRecord::decode(message).ok();
        let ours = RecordView::decode(message).ok();
        prop_assert_eq!(ours.clone().map(UsageRecord::from), theirs.clone());
        if let (Some(ours), Some(theirs)) = (ours, theirs) {
            prop_assert_eq!(&RecordView::from(&theirs), &ours);
            prop_assert_eq!((ours.kind(), ours.end(), ours.payer()), (theirs.kind(), theirs.end(), theirs.payer()));
            prop_assert_eq!(RecordView::from(theirs), ours);
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn a_view_takes_and_refuses_what_prost_does(fields in proptest::collection::vec(field(), 0..12)) {
            let message = fields.concat();
            both(&message)?;
            // Each field alone: most of them together are refused for one.
            fields.iter().try_for_each(|field| both(field))?;
            // Cut anywhere.
            (0..message.len()).try_for_each(|end| both(&message[..end]))?;
        }

        #[test]
        fn any_octets_are_the_same_to_both(message in proptest::collection::vec(any::<u8>(), 0..40)) {
            both(&message)?;
        }
    }

    #[test]
    fn groups_end_somewhere() {
        for depth in [1, 50, 99, 100, 101, 102, 500] {
            let mut message = vec![0xBB, 0x06]; // field 103, a group
            message.extend([0xBB, 0x06].repeat(depth - 1));
            message.extend([0xBC, 0x06].repeat(depth));
            assert_eq!(
                RecordView::decode(&message).is_ok(),
                UsageRecord::decode(message.as_slice()).is_ok(),
                "{depth}"
            );
        }
    }
}
