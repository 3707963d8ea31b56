//! `builder schema KIND`: the JSON schema of a kind of file, made from the types that read it.

use std::process::ExitCode;

use anyhow::Result;
use schemars::Schema;
use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use serde_json::Value;

use crate::bundle::{RawBundle, RawRelease};
use crate::cli::{SchemaArgs, SchemaKind};
use crate::config::{RawCluster, RawImage, RawProfile};
use crate::lock::RawLock;

/// Prints the schema.
///
/// # Errors
/// stdout cannot be written.
pub fn run(args: &SchemaArgs) -> Result<ExitCode> {
    println!("{}", serde_json::to_string_pretty(&schema(args.kind))?);
    Ok(ExitCode::SUCCESS)
}

fn schema(kind: SchemaKind) -> Schema {
    let generator = SchemaSettings::draft2020_12()
        .with_transform(RecursiveTransform(without_null))
        .into_generator();
    match kind {
        SchemaKind::Image => generator.into_root_schema_for::<RawImage>(),
        SchemaKind::Profile => generator.into_root_schema_for::<RawProfile>(),
        SchemaKind::Cluster => generator.into_root_schema_for::<RawCluster>(),
        SchemaKind::Bundle => generator.into_root_schema_for::<RawBundle>(),
        SchemaKind::Release => generator.into_root_schema_for::<RawRelease>(),
        SchemaKind::Lock => generator.into_root_schema_for::<RawLock>(),
    }
}

/// Takes out the `null` that an optional field may be in JSON: TOML has none.
fn without_null(schema: &mut Schema) {
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|t| t != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            schema.insert("type".to_owned(), only);
        }
    }
    let choices = schema.get("anyOf").and_then(Value::as_array);
    let some = choices.and_then(|choices| match choices.as_slice() {
        [some, null] if null.get("type").is_some_and(|t| t == "null") => some.as_object().cloned(),
        _ => None,
    });
    if let (Some(some), Some(object)) = (some, schema.as_object_mut()) {
        object.remove("anyOf");
        object.extend(some);
    }
}
