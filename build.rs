//! Compiles the published .proto into Rust types, without protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(["weir/usage/v1/usage.proto"], ["proto"])?;
    prost_build::Config::new()
        .bytes(["."])
        // The one message inside a record: printed and read as JSON by the names that it has here.
        .type_attribute(".weir.usage.v1.ShardEnd", "#[derive(serde::Serialize, serde::Deserialize)]")
        .compile_fds(descriptors)?;
    Ok(())
}
