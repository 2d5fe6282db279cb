//! Addresses out of a column, in whatever form it holds them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use datafusion::common::{DataFusionError, Result, exec_err};

/// Whether a column can hold addresses.
pub(super) fn is_readable(kind: &DataType) -> bool {
    match kind {
        DataType::Dictionary(_, values) => is_readable(values),
        DataType::FixedSizeBinary(bytes) => *bytes == 4 || *bytes == 16,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::Null => true,
        _ => false,
    }
}

/// One address or none for each row; each different value of a dictionary is read once.
pub(super) fn addresses(column: &ArrayRef) -> Result<Vec<Option<IpAddr>>> {
    match column.data_type() {
        DataType::Dictionary(..) => {
            let dictionary = column.as_any_dictionary();
            let known = addresses(dictionary.values())?;
            if known.is_empty() {
                return Ok(vec![None; column.len()]);
            }
            let keys = dictionary.normalized_keys();
            let rows = keys.into_iter().enumerate();
            Ok(rows.map(|(row, key)| known.get(key).copied().flatten().filter(|_| dictionary.is_valid(row))).collect())
        }
        DataType::FixedSizeBinary(_) => {
            Ok(column.as_fixed_size_binary().iter().map(|octets| octets.and_then(of_octets)).collect())
        }
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => {
            let octets = cast(column, &DataType::BinaryView)?;
            Ok(octets.as_binary_view().iter().map(|octets| octets.and_then(of_octets)).collect())
        }
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
            let texts = cast(column, &DataType::Utf8View)?;
            Ok(texts.as_string_view().iter().map(|text| text.and_then(of_text)).collect())
        }
        DataType::Null => Ok(vec![None; column.len()]),
        other => exec_err!("{other} holds no addresses: give a column of addresses, or text"),
    }
}

fn of_text(text: &str) -> Option<IpAddr> {
    text.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

fn of_octets(octets: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(octets) {
        return Some(Ipv4Addr::from(octets).into());
    }
    let octets = <[u8; 16]>::try_from(octets).ok()?;
    Some(IpAddr::from(Ipv6Addr::from(octets)).to_canonical())
}

/// What is said where a function is given something else than it takes.
pub(super) fn misuse<T>(what: &str) -> Result<T> {
    Err(DataFusionError::Plan(what.to_owned()))
}
