//! `builder schema KIND`: the JSON schema of a kind of file, made from the types that read it.

use std::process::ExitCode;

use anyhow::{Result, bail};
use schemars::{Schema, schema_for};

use crate::cli::{SchemaArgs, SchemaKind};
use crate::config::{RawCluster, RawImage, RawProfile};

/// Prints the schema.
///
/// # Errors
/// stdout cannot be written.
pub fn run(args: &SchemaArgs) -> Result<ExitCode> {
    println!("{}", serde_json::to_string_pretty(&schema(args.kind)?)?);
    Ok(ExitCode::SUCCESS)
}

fn schema(kind: SchemaKind) -> Result<Schema> {
    Ok(match kind {
        SchemaKind::Image => schema_for!(RawImage),
        SchemaKind::Profile => schema_for!(RawProfile),
        SchemaKind::Cluster => schema_for!(RawCluster),
        SchemaKind::Lock => bail!("the schema of builder.lock is not built yet"),
    })
}
