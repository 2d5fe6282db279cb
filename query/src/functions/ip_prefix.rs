//! `ip_prefix(address, bits)`: the network around an address as text, `192.0.2.0/24`; more bits than an address has are all of them.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, StringViewArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use datafusion::common::{Result, exec_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};
use ipnet::IpNet;

use super::address::{addresses, is_readable, misuse};

const USAGE: &str = "ip_prefix takes an address and a number of bits: ip_prefix(client_ip, 24)";

/// The function.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct IpPrefix {
    signature: Signature,
}

impl IpPrefix {
    pub(super) fn new() -> Self {
        Self { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for IpPrefix {
    fn name(&self) -> &str {
        "ip_prefix"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, kinds: &[DataType]) -> Result<Vec<DataType>> {
        match kinds {
            [address, _] if is_readable(address) => Ok(vec![address.clone(), DataType::Int64]),
            _ => misuse(USAGE),
        }
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8View)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [address, bits] = args.args.as_slice() else { return misuse(USAGE) };
        let addresses = addresses(&address.to_array(args.number_rows)?)?;
        let bits = cast(&bits.to_array(args.number_rows)?, &DataType::Int64)?;
        let mut prefixes = Vec::with_capacity(addresses.len());
        for (address, bits) in addresses.into_iter().zip(bits.as_primitive::<Int64Type>()) {
            let (Some(address), Some(bits)) = (address, bits) else {
                prefixes.push(None);
                continue;
            };
            let Ok(bits) = u8::try_from(bits) else {
                return exec_err!("{bits} is no number of bits: give one from 0 to 128");
            };
            let most = if address.is_ipv4() { 32 } else { 128 };
            prefixes.push(IpNet::new(address, bits.min(most)).ok().map(|network| network.trunc().to_string()));
        }
        let prefixes: ArrayRef = Arc::new(prefixes.into_iter().collect::<StringViewArray>());
        Ok(ColumnarValue::Array(prefixes))
    }
}
