//! `human_bytes(n)`: a number of bytes for people, in powers of 1000 as they are billed: `1.5 GB`.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, StringViewArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use datafusion::common::Result;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};

use super::address::misuse;

/// The function.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct HumanBytes {
    signature: Signature,
}

impl HumanBytes {
    pub(super) fn new() -> Self {
        Self { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for HumanBytes {
    fn name(&self) -> &str {
        "human_bytes"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, kinds: &[DataType]) -> Result<Vec<DataType>> {
        match kinds {
            [_] => Ok(vec![DataType::Int64]),
            _ => misuse("human_bytes takes one number: human_bytes(sum(sent_wire_bytes))"),
        }
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8View)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [bytes] = args.args.as_slice() else { return misuse("human_bytes takes one number") };
        let bytes = cast(&bytes.to_array(args.number_rows)?, &DataType::Int64)?;
        let texts = bytes.as_primitive::<Int64Type>().iter().map(|bytes| bytes.map(text));
        let texts: ArrayRef = Arc::new(texts.collect::<StringViewArray>());
        Ok(ColumnarValue::Array(texts))
    }
}

/// Three digits and a unit; integers throughout, so that 999,950 is 1.0 MB and not 1000.0 kB.
fn text(bytes: i64) -> String {
    let (sign, bytes) = (if bytes < 0 { "-" } else { "" }, u128::from(bytes.unsigned_abs()));
    if bytes < 1000 {
        return format!("{sign}{bytes} B");
    }
    let mut unit = 1000_u128;
    for name in ["kB", "MB", "GB", "TB", "PB", "EB"] {
        let tenths = (bytes * 10 + unit / 2) / unit;
        if tenths < 10_000 || name == "EB" {
            return format!("{sign}{}.{} {name}", tenths / 10, tenths % 10);
        }
        unit *= 1000;
    }
    format!("{sign}{bytes} B")
}
