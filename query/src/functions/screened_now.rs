//! `screened_now(country, region, asn, labels, account)`: what the rules of the configuration say now of what is recorded: `clear`, or
//! `match name@version`, or `indeterminate name@version`. Only the report `rescreening` has it.
//!
//! The rules are those in force at this moment; that one of them was not yet in force when the record was made is what the report
//! is about.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int64Type};
use datafusion::common::Result;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};
use weir::config::Screening;
use weir::event::Screening as Verdict;
use weir::screening::{Facts, Screen};

use super::address::misuse;

/// The function, with the rules.
#[derive(Clone)]
pub struct ScreenedNow {
    signature: Signature,
    screen: Arc<Screen>,
    now_us: i64,
}

impl ScreenedNow {
    /// By these rules, as they are at this moment.
    pub fn new(rules: &Screening, now_us: i64) -> Self {
        Self { signature: Signature::user_defined(Volatility::Stable), screen: Arc::new(Screen::new(rules)), now_us }
    }
}

impl fmt::Debug for ScreenedNow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("screened_now")
    }
}

impl PartialEq for ScreenedNow {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.screen, &other.screen)
    }
}

impl Eq for ScreenedNow {}

impl Hash for ScreenedNow {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.screen).hash(state);
    }
}

impl ScalarUDFImpl for ScreenedNow {
    fn name(&self) -> &str {
        "screened_now"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, kinds: &[DataType]) -> Result<Vec<DataType>> {
        if kinds.len() != 5 {
            return misuse("screened_now takes country, region, asn, labels and account");
        }
        let labels = DataType::List(Arc::new(Field::new("element", DataType::Utf8, false)));
        Ok(vec![DataType::Utf8, DataType::Utf8, DataType::Int64, labels, DataType::Utf8])
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let columns: Vec<ArrayRef> =
            args.args.iter().map(|column| column.to_array(args.number_rows)).collect::<Result<_>>()?;
        let [countries, regions, asns, labels, accounts] = columns.as_slice() else {
            return misuse("screened_now takes country, region, asn, labels and account");
        };
        let (countries, regions, accounts) =
            (countries.as_string::<i32>(), regions.as_string::<i32>(), accounts.as_string::<i32>());
        let (asns, lists) = (asns.as_primitive::<Int64Type>(), labels.as_list::<i32>());
        let words = cast(lists.values(), &DataType::Utf8)?;
        let words = words.as_string::<i32>();
        let mut verdicts = Vec::with_capacity(args.number_rows);
        for row in 0..args.number_rows {
            let ends = lists.value_offsets();
            let (first, last) = (ends.get(row).copied().unwrap_or(0), ends.get(row + 1).copied().unwrap_or(0));
            let labels: Vec<Box<str>> = (first..last).map(|at| Box::from(words.value(at as usize))).collect();
            let ruling = self.screen.judge(&Facts {
                country: countries.value(row),
                region: regions.value(row),
                asn: u32::try_from(asns.value(row)).unwrap_or(0),
                labels: &labels,
                account: accounts.value(row),
                at_us: self.now_us,
            });
            verdicts.push(match ruling.verdict {
                Verdict::Match | Verdict::Indeterminate => format!("{} {}", ruling.verdict.name(), ruling.rule),
                Verdict::Clear | Verdict::Unspecified => Verdict::Clear.name().to_owned(),
            });
        }
        let verdicts: ArrayRef = Arc::new(StringArray::from(verdicts));
        Ok(ColumnarValue::Array(verdicts))
    }
}
