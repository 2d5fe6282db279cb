//! Compiles the published .proto into Rust types, without protoc: prost's, and a record as it is read (`src/event/view.rs`).

use std::fmt::Write as _;
use std::path::Path;

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(["weir/usage/v1/usage.proto"], ["proto"])?;
    let view = record_view(&descriptors)?;
    std::fs::write(Path::new(&std::env::var("OUT_DIR")?).join("record_view.rs"), view)?;
    prost_build::Config::new()
        .bytes(["."])
        // The one message inside a record: printed and read as JSON by the names that it has here.
        .type_attribute(".weir.usage.v1.ShardEnd", "#[derive(serde::Serialize, serde::Deserialize)]")
        .compile_fds(descriptors)?;
    Ok(())
}

/// A field of a view: its type, how it is read, and how it comes from prost's (borrowed, or moved) and goes there.
struct Kind {
    rust: String,
    read: String,
    borrowed: String,
    moved: String,
    back: String,
}

impl Kind {
    fn of(field: &FieldDescriptorProto) -> Result<Self, String> {
        let message = field.type_name().rsplit('.').next().unwrap_or_default();
        let is_list = field.label() == Label::Repeated;
        let (rust, read, borrowed, moved, back) = match (field.r#type(), is_list) {
            (Type::Int64, false) => ("i64", "= fields.number(field)? as i64", "NAME", "NAME", "NAME"),
            (Type::Int32 | Type::Enum, false) => ("i32", "= fields.number(field)? as i32", "NAME", "NAME", "NAME"),
            (Type::Bool, false) => ("bool", "= fields.number(field)? != 0", "NAME", "NAME", "NAME"),
            (Type::String, false) => (
                "Cow<'a, str>",
                "= Cow::Borrowed(fields.text(field)?)",
                "Cow::Borrowed(&NAME)",
                "Cow::Owned(NAME)",
                "NAME.into_owned()",
            ),
            (Type::Bytes, false) => (
                "Cow<'a, [u8]>",
                "= Cow::Borrowed(fields.octets(field)?)",
                "Cow::Borrowed(&NAME)",
                "Cow::Owned(NAME.into())",
                "NAME.into_owned().into()",
            ),
            (Type::String, true) => (
                "Vec<Cow<'a, str>>",
                ".push(Cow::Borrowed(fields.text(field)?))",
                "NAME.iter().map(|text| Cow::Borrowed(text.as_str())).collect()",
                "NAME.into_iter().map(Cow::Owned).collect()",
                "NAME.into_iter().map(Cow::into_owned).collect()",
            ),
            (Type::Message, true) => (
                "Vec<v1::MESSAGE>",
                ".push(v1::MESSAGE::decode(fields.octets(field)?)?)",
                "NAME.clone()",
                "NAME",
                "NAME",
            ),
            (other, _) => return Err(format!("UsageRecord.{}: a view has no {other:?}", field.name())),
        };
        let place = format!("from.{}", field.name());
        let [rust, read] = [rust, read].map(|text| text.replace("MESSAGE", message));
        let [borrowed, moved, back] = [borrowed, moved, back].map(|text| text.replace("NAME", &place));
        Ok(Self { rust, read, borrowed, moved, back })
    }
}

fn record_view(descriptors: &FileDescriptorSet) -> Result<String, Box<dyn std::error::Error>> {
    let mut messages = descriptors.file.iter().flat_map(|file| &file.message_type);
    let record: &DescriptorProto =
        messages.find(|message| message.name() == "UsageRecord").ok_or("the .proto has no UsageRecord")?;
    let [mut members, mut reads, mut borrowed, mut moved, mut back, mut enums] = [const { String::new() }; 6];
    for field in &record.field {
        let (name, kind) = (field.name(), Kind::of(field)?);
        writeln!(members, "    pub {name}: {},", kind.rust)?;
        writeln!(reads, "                {} => self.{name}{},", field.number(), kind.read)?;
        writeln!(borrowed, "            {name}: {},", kind.borrowed)?;
        writeln!(moved, "            {name}: {},", kind.moved)?;
        writeln!(back, "            {name}: {},", kind.back)?;
        if field.r#type() == Type::Enum {
            let rust = field.type_name().rsplit('.').next().unwrap_or_default();
            writeln!(enums, "    pub fn {name}(&self) -> v1::{rust} {{")?;
            writeln!(enums, "        v1::{rust}::try_from(self.{name}).unwrap_or_default()\n    }}")?;
        }
    }
    Ok(format!(
        "#[derive(Clone, Debug, Default, PartialEq)]
pub struct RecordView<'a> {{
{members}}}

impl<'a> RecordView<'a> {{
    fn merge(&mut self, message: &'a [u8]) -> Result<(), Malformed> {{
        let mut fields = Fields::new(message);
        while let Some(field) = fields.next_field()? {{
            match field.number {{
{reads}                _ => fields.skip(field)?,
            }}
        }}
        Ok(())
    }}

{enums}}}

impl<'a> From<&'a v1::UsageRecord> for RecordView<'a> {{
    fn from(from: &'a v1::UsageRecord) -> Self {{
        Self {{
{borrowed}        }}
    }}
}}

impl From<v1::UsageRecord> for RecordView<'static> {{
    fn from(from: v1::UsageRecord) -> Self {{
        Self {{
{moved}        }}
    }}
}}

impl From<RecordView<'_>> for v1::UsageRecord {{
    fn from(from: RecordView<'_>) -> Self {{
        Self {{
{back}        }}
    }}
}}
"
    ))
}
