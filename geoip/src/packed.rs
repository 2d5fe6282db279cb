//! Rows of numbers, each column in as few whole bytes as its largest number needs.
//!
//! A record's number takes 2 or 3 bytes and a row of four 7 or so, where words would take 4 and 16: a third of the table is
//! not there, and more of the rest stays in the caches.

use crate::pages::Pages;

/// Read beyond a row's end when its last column is read as a word.
const PADDING_BYTES: usize = 3;

/// Rows of `N` numbers.
#[derive(Debug)]
pub(crate) struct Packed<const N: usize> {
    bytes: Pages<u8>,
    row_bytes: usize,
    columns: [Column; N],
    len: usize,
}

#[derive(Clone, Copy, Debug)]
struct Column {
    offset: usize,
    mask: u32,
}

impl<const N: usize> Packed<N> {
    pub(crate) fn of(rows: impl ExactSizeIterator<Item = [u32; N]> + Clone) -> Packed<N> {
        let mut used = [0; N];
        for row in rows.clone() {
            for (used, value) in used.iter_mut().zip(row) {
                *used |= value;
            }
        }
        let mut row_bytes = 0;
        let columns = used.map(|used| {
            let width = (32 - used.leading_zeros()).div_ceil(8).max(1);
            let column = Column { offset: row_bytes, mask: u32::MAX >> (32 - 8 * width) };
            row_bytes += width as usize;
            column
        });
        let len = rows.len();
        let bytes = Pages::filled(len * row_bytes + PADDING_BYTES, |bytes| {
            for (row, bytes) in rows.zip(bytes.chunks_exact_mut(row_bytes)) {
                for (position, value) in row.into_iter().enumerate() {
                    let end = columns.get(position + 1).map_or(row_bytes, |next| next.offset);
                    let column = &mut bytes[columns[position].offset..end];
                    column.copy_from_slice(&value.to_le_bytes()[..column.len()]);
                }
            }
        });
        Packed { bytes, row_bytes, columns, len }
    }

    /// The row at a position, which must be below [`Packed::len`].
    #[inline(always)]
    pub(crate) fn get(&self, position: usize) -> [u32; N] {
        let row = position * self.row_bytes;
        self.columns.map(|column| {
            let at = row + column.offset;
            let word = &self.bytes[at..at + 4];
            u32::from_le_bytes([word[0], word[1], word[2], word[3]]) & column.mask
        })
    }

    /// Has the memory of a row brought near while something else is done.
    #[inline(always)]
    pub(crate) fn touch(&self, position: usize) {
        std::hint::black_box(self.bytes.get(position * self.row_bytes).copied());
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = [u32; N]> + Clone + '_ {
        (0..self.len).map(|position| self.get(position))
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_column_takes_what_its_largest_number_needs() {
        let packed = Packed::of([[0, 256, 0x00ff_ffff, u32::MAX]].into_iter());
        assert_eq!(packed.bytes(), 1 + 2 + 3 + 4 + PADDING_BYTES);
        assert_eq!(packed.get(0), [0, 256, 0x00ff_ffff, u32::MAX]);
        assert_eq!(Packed::<1>::of([].into_iter()).len(), 0);
    }

    proptest! {
        #[test]
        fn what_is_packed_is_read_again(rows in prop::collection::vec((any::<u32>(), any::<u16>(), 0..3_u32), 0..50)) {
            let rows: Vec<[u32; 3]> = rows.into_iter().map(|(a, b, c)| [a >> (b % 32), u32::from(b), c]).collect();
            let packed = Packed::of(rows.iter().copied());
            prop_assert_eq!(packed.iter().collect::<Vec<_>>(), rows);
        }
    }
}
