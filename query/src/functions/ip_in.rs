//! `ip_in(address, 'network')`: whether an address lies in a network. `network` is CIDR, or one address.

use std::net::IpAddr;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use datafusion::common::{Result, exec_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};
use ipnet::IpNet;

use super::address::{addresses, is_readable, misuse};

const USAGE: &str = "ip_in takes an address and a network: ip_in(client_ip, '192.0.2.0/24')";

/// The function.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct IpIn {
    signature: Signature,
}

impl IpIn {
    pub(super) fn new() -> Self {
        Self { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for IpIn {
    fn name(&self) -> &str {
        "ip_in"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, kinds: &[DataType]) -> Result<Vec<DataType>> {
        match kinds {
            [address, _] if is_readable(address) => Ok(vec![address.clone(), DataType::Utf8View]),
            _ => misuse(USAGE),
        }
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [address, network] = args.args.as_slice() else { return misuse(USAGE) };
        // One network for all rows is read once.
        let networks: Vec<Option<IpNet>> = match network {
            ColumnarValue::Scalar(scalar) => networks(&scalar.to_array()?)?,
            ColumnarValue::Array(array) => networks(array)?,
        };
        let all_rows = matches!((address, network), (ColumnarValue::Scalar(_), ColumnarValue::Scalar(_)));
        let rows = if all_rows { 1 } else { args.number_rows };
        let addresses = addresses(&address.to_array(rows)?)?;
        let network = |row: usize| if networks.len() == 1 { networks.first() } else { networks.get(row) };
        let answers = addresses.iter().enumerate().map(|(row, address)| {
            let (address, network) = ((*address)?, (*network(row)?)?);
            Some(network.contains(&address))
        });
        let answers: ArrayRef = Arc::new(answers.collect::<BooleanArray>());
        Ok(ColumnarValue::Array(answers))
    }
}

fn networks(column: &ArrayRef) -> Result<Vec<Option<IpNet>>> {
    let texts = cast(column, &DataType::Utf8View)?;
    texts.as_string_view().iter().map(|text| text.map(network).transpose()).collect()
}

fn network(text: &str) -> Result<IpNet> {
    let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    let Ok(network) = network else {
        return exec_err!("'{text}' is no network: write one as 192.0.2.0/24 or 2001:db8::/32");
    };
    // Addresses are compared as IPv4 where they are, so networks are, too.
    if let IpNet::V6(v6) = network
        && let (Some(v4), 96..) = (v6.addr().to_ipv4_mapped(), v6.prefix_len())
        && let Ok(mapped) = IpNet::new(v4.into(), v6.prefix_len() - 96)
    {
        return Ok(mapped);
    }
    Ok(network)
}
