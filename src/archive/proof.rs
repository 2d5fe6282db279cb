//! The proof of a file's rows: a few bytes beside it by which single rows are found that were altered.
//!
//! `proofs/<path of the file>`: rows stand in squares of 64 × 64; for each square the sums of the rows' hashes by line and by column of it,
//! 32 bits each, little endian. A row that was altered shows where its line and its column cross: 1 bit per row for that. It says
//! *which*; *that* something was altered is said by BLAKE3 of the file, and the proof's own is in the manifest too.

use arrow_array::cast::AsArray;
use arrow_array::types::{ArrowPrimitiveType, Int32Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, PrimitiveArray, RecordBatch};
use arrow_schema::DataType;

const SIDE: usize = 64;
const SQUARE: usize = SIDE * SIDE;

/// Where a file's proof lies.
pub fn path(file: &str) -> String {
    format!("proofs/{file}")
}

/// A hash of each row, over all of its columns.
pub fn row_hashes(rows: &RecordBatch) -> Vec<u32> {
    let mut hashes = vec![0u64; rows.num_rows()];
    let to = &mut hashes;
    for (field, column) in rows.schema().fields().iter().zip(rows.columns()) {
        // The same value in another column is another row.
        let seed = hash(field.name().as_bytes(), 0);
        match column.data_type() {
            DataType::Int64 => numbers(to, seed, column.as_primitive::<Int64Type>(), |value| value as u64),
            DataType::Int32 => numbers(to, seed, column.as_primitive::<Int32Type>(), |value| value as u64),
            DataType::Timestamp(..) => {
                numbers(to, seed, column.as_primitive::<TimestampMicrosecondType>(), |value| value as u64);
            }
            DataType::Boolean => mix(to, seed, column.as_boolean().iter().map(|value| value.map(u64::from))),
            DataType::Utf8 => {
                let texts = column.as_string::<i32>().iter();
                mix(to, seed, texts.map(|text| Some(hash(text?.as_bytes(), seed))));
            }
            DataType::FixedSizeBinary(_) => {
                let values = column.as_fixed_size_binary().iter();
                mix(to, seed, values.map(|bytes| Some(hash(bytes?, seed))));
            }
            DataType::Dictionary(..) => {
                let values = column.as_dictionary::<Int32Type>();
                let words = values.values().as_string::<i32>();
                let words: Vec<u64> =
                    words.iter().map(|word| hash(word.unwrap_or_default().as_bytes(), seed)).collect();
                let word = |key: i32| words.get(key as usize).copied().unwrap_or_default();
                numbers(to, seed, values.keys(), word);
            }
            DataType::List(_) => {
                let lists = column.as_list::<i32>();
                let texts = lists.values().as_string::<i32>();
                let bounds = lists.value_offsets().windows(2);
                let hashed = bounds.map(|bounds| {
                    let of_list = bounds[0] as usize..bounds[1] as usize;
                    of_list.fold(seed, |all, at| hash(texts.value(at).as_bytes(), all))
                });
                let hashed = hashed.enumerate().map(|(row, hash)| (!lists.is_null(row)).then_some(hash));
                mix(to, seed, hashed);
            }
            // There is no other type in the schema; a column that a later release adds is not proven by this one.
            _ => {}
        }
    }
    hashes.into_iter().map(|hash| (hash >> 32) as u32).collect()
}

/// Where nothing is null, nothing is asked for it: most columns are these.
fn numbers<T: ArrowPrimitiveType>(
    to: &mut [u64],
    seed: u64,
    column: &PrimitiveArray<T>,
    as_u64: impl Fn(T::Native) -> u64,
) {
    if column.null_count() == 0 {
        mix(to, seed, column.values().iter().map(|value| Some(as_u64(*value))));
    } else {
        mix(to, seed, column.iter().map(|value| value.map(&as_u64)));
    }
}

/// Mixes a column into the hashes of its rows.
fn mix(to: &mut [u64], seed: u64, values: impl Iterator<Item = Option<u64>>) {
    for (hash, value) in to.iter_mut().zip(values) {
        *hash = fold(*hash ^ value.unwrap_or(!0), seed | 1);
    }
}

/// The proof of rows with these hashes.
pub fn of(hashes: &[u32]) -> Vec<u8> {
    let sums = hashes.chunks(SQUARE).flat_map(sums);
    sums.flat_map(u32::to_le_bytes).collect()
}

fn sums(square: &[u32]) -> [u32; 2 * SIDE] {
    let mut sums = [0u32; 2 * SIDE];
    for (at, hash) in square.iter().enumerate() {
        for place in [at / SIDE, SIDE + at % SIDE] {
            sums[place] = sums[place].wrapping_add(*hash);
        }
    }
    sums
}

/// Rows that are not what the proof says. None: it is another number of rows, so it cannot tell.
pub fn altered(proof: &[u8], hashes: &[u32]) -> Option<Vec<usize>> {
    if proof.len() != hashes.len().div_ceil(SQUARE) * 2 * SIDE * 4 {
        return None;
    }
    let mut altered = Vec::new();
    for ((square, hashes), proof) in hashes.chunks(SQUARE).enumerate().zip(proof.chunks(2 * SIDE * 4)) {
        let sums = sums(hashes);
        let differs = |place: usize| proof[place * 4..place * 4 + 4] != sums[place].to_le_bytes();
        altered.extend(
            (0..hashes.len())
                .filter(|at| differs(at / SIDE) && differs(SIDE + at % SIDE))
                .map(|at| square * SQUARE + at),
        );
    }
    Some(altered)
}

/// 128 bits of a product, folded.
#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a ^ 0x9E37_79B9_7F4A_7C15) * u128::from(b);
    (product as u64) ^ ((product >> 64) as u64)
}

fn hash(bytes: &[u8], seed: u64) -> u64 {
    let mut hash = fold(seed ^ bytes.len() as u64, 0xA076_1D64_78BD_642F);
    let mut mix = |word: [u8; 8]| hash = fold(hash ^ u64::from_le_bytes(word), 0xE703_7ED1_A0B4_28DB);
    let (words, rest) = bytes.as_chunks();
    words.iter().copied().for_each(&mut mix);
    if !rest.is_empty() {
        let mut word = [0; 8];
        word[..rest.len()].copy_from_slice(rest);
        mix(word);
    }
    hash
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::builder::{ListBuilder, StringBuilder};
    use arrow_array::{
        ArrayRef, BooleanArray, DictionaryArray, FixedSizeBinaryArray, Int32Array, Int64Array, StringArray,
        TimestampMicrosecondArray,
    };

    use super::*;

    #[test]
    fn hashes_never_change() {
        // The proofs of all archives are made of them.
        let mut lists = ListBuilder::new(StringBuilder::new());
        lists.append_value([Some("cloud"), Some("tor")]);
        lists.append_value([None::<&str>; 0]);
        let words: DictionaryArray<Int32Type> = ["acme", "globex-of-the-north"].into_iter().collect();
        let octets = [Some([7u8; 16]), None].into_iter();
        let octets = FixedSizeBinaryArray::try_from_sparse_iter_with_size(octets, 16).unwrap();
        let columns: [(&str, ArrayRef); 8] = [
            ("seq", Arc::new(Int64Array::from(vec![Some(-5), None]))),
            ("status", Arc::new(Int32Array::from(vec![-1, 404]))),
            ("at", Arc::new(TimestampMicrosecondArray::from(vec![1, 1_795_305_600_000_000]).with_timezone("UTC"))),
            ("billable", Arc::new(BooleanArray::from(vec![true, false]))),
            ("path", Arc::new(StringArray::from(vec!["/v1/things/77", ""]))),
            ("client_ip", Arc::new(octets)),
            ("account", Arc::new(words)),
            ("labels", Arc::new(lists.finish())),
        ];
        let rows = RecordBatch::try_from_iter(columns).unwrap();
        let each: Vec<Vec<u32>> = (0..8).map(|at| row_hashes(&rows.project(&[at]).unwrap())).collect();
        assert_eq!(row_hashes(&rows), [397_361_555, 2_951_746_211]);
        // Column by column.
        let expected = [
            [383_970_395, 328_921_558],
            [1_954_852_612, 1_301_036_581],
            [3_767_439_338, 1_023_354_355],
            [4_078_277_234, 3_723_782_446],
            [1_108_256_465, 4_290_229_286],
            [47_218_988, 2_093_574_832],
            [1_227_699_273, 4_042_681_410],
            [1_245_364_829, 461_523_693],
        ];
        assert_eq!(each, expected);
    }

    #[test]
    fn altered_rows_are_found_wherever_they_are() {
        let hashes: Vec<u32> = (0..10_000u32).map(|row| row.wrapping_mul(0x9E37_79B9)).collect();
        let proof = of(&hashes);
        assert_eq!(altered(&proof, &hashes), Some(Vec::new()));
        for row in [0, 1, 63, 64, 4095, 4096, 9999] {
            let mut other = hashes.clone();
            other[row] ^= 1;
            assert_eq!(altered(&proof, &other), Some(vec![row]));
        }
        let mut two = hashes.clone();
        (two[5], two[5000]) = (0, 1);
        assert_eq!(altered(&proof, &two), Some(vec![5, 5000]));
        assert_eq!(altered(&proof, &hashes[..5000]), None);
    }
}
