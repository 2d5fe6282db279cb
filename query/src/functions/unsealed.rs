//! `unsealed(plain, sealed, account, at)`: an address as it is kept, or out of its encrypted form while its key is there; else NULL.
//!
//! Only the tables use it, for `client_ip` and `peer_ip`: whoever asks sees addresses, not how they are kept.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{Array, ArrayRef, AsArray, FixedSizeBinaryBuilder};
use arrow::datatypes::{DataType, Field, FieldRef, TimeUnit, TimestampMicrosecondType};
use datafusion::common::{DataFusionError, Result};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};
use weir::archive::Keys;

use super::address::misuse;
use crate::sheet::ADDRESS;

const ADDRESS_KIND: DataType = DataType::FixedSizeBinary(16);

/// The function, with the keys.
#[derive(Clone)]
pub struct Unsealed {
    signature: Signature,
    keys: Arc<Mutex<Keys>>,
}

impl Unsealed {
    /// By these keys.
    pub fn new(keys: Keys) -> Self {
        let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let signature =
            Signature::exact(vec![ADDRESS_KIND, ADDRESS_KIND, DataType::Utf8View, time], Volatility::Stable);
        Self { signature, keys: Arc::new(Mutex::new(keys)) }
    }

    fn unseal(&self, account: &str, at_us: i64, sealed: &[u8]) -> Result<Option<[u8; 16]>> {
        let Ok(sealed) = <[u8; 16]>::try_from(sealed) else { return Ok(None) };
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.unseal(account, at_us, sealed).map_err(|error| DataFusionError::External(Box::new(error)))
    }
}

impl fmt::Debug for Unsealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("unsealed")
    }
}

impl PartialEq for Unsealed {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.keys, &other.keys)
    }
}

impl Eq for Unsealed {}

impl Hash for Unsealed {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.keys).hash(state);
    }
}

impl ScalarUDFImpl for Unsealed {
    fn name(&self) -> &str {
        "unsealed"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(ADDRESS_KIND)
    }

    fn return_field_from_args(&self, _: ReturnFieldArgs) -> Result<FieldRef> {
        let field = Field::new(self.name(), ADDRESS_KIND, true);
        Ok(Arc::new(field.with_metadata([(ADDRESS.0.to_owned(), ADDRESS.1.to_owned())].into())))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [plain, sealed, accounts, times] = args.args.as_slice() else {
            return misuse("unsealed takes two addresses, an account and a time");
        };
        let (plain, sealed) = (plain.to_array(args.number_rows)?, sealed.to_array(args.number_rows)?);
        if sealed.null_count() == sealed.len() {
            return Ok(ColumnarValue::Array(plain));
        }
        let (accounts, times) = (accounts.to_array(args.number_rows)?, times.to_array(args.number_rows)?);
        let accounts = accounts.as_string_view();
        let times = times.as_primitive::<TimestampMicrosecondType>();
        let (plain, sealed) = (plain.as_fixed_size_binary(), sealed.as_fixed_size_binary());
        let mut addresses = FixedSizeBinaryBuilder::with_capacity(args.number_rows, 16);
        // Neighbours are often alike: rows are sorted by account and time.
        let mut last: Option<(usize, Option<[u8; 16]>)> = None;
        for row in 0..args.number_rows {
            if plain.is_valid(row) {
                addresses.append_value(plain.value(row))?;
                continue;
            }
            if sealed.is_null(row) {
                addresses.append_null();
                continue;
            }
            let (account, at_us, form) = (accounts.value(row), times.value(row), sealed.value(row));
            let address = match last {
                Some((known, address))
                    if sealed.value(known) == form
                        && accounts.value(known) == account
                        && is_same_day(times.value(known), at_us) =>
                {
                    address
                }
                _ => self.unseal(account, at_us, form)?,
            };
            last = Some((row, address));
            match address {
                Some(address) => addresses.append_value(address)?,
                None => addresses.append_null(),
            }
        }
        let addresses: ArrayRef = Arc::new(addresses.finish());
        Ok(ColumnarValue::Array(addresses))
    }
}

fn is_same_day(a_us: i64, b_us: i64) -> bool {
    a_us.div_euclid(weir::clock::DAY_US) == b_us.div_euclid(weir::clock::DAY_US)
}
