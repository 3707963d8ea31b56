//! `builder verify`: builds an image again and compares.

use std::process::ExitCode;

use anyhow::Result;

use super::Context;
use super::inputs::Sources;
use crate::cli::VerifyArgs;
use crate::image::verify::verify;
use crate::image::{Manifest, preflight};

/// `builder verify`.
///
/// # Errors
/// The inputs here are not the image's, or it cannot be built again.
#[expect(clippy::print_stdout, reason = "this is the command's data")]
pub fn run(ctx: &Context, args: &VerifyArgs) -> Result<ExitCode> {
    let project = ctx.project()?;
    let manifest = Manifest::beside(&args.image)?;
    let sources = Sources::new(&ctx.root()?.join(&args.lock), &args.artifacts, &args.source)?;
    let plan = sources.plan(&project, project.profile(&manifest.profile)?)?;
    preflight::build()?;
    sources.fetch(ctx, &project, &plan)?;
    let result = verify(&args.image, &plan, &sources.store, &ctx.ui)?;
    if ctx.json {
        println!("{}", serde_json::to_string_pretty(&result)?);
    } else {
        match &result.difference {
            None => println!("{}: equal, bit for bit: sha256 {}", manifest.image_id, result.found),
            Some(what) => println!(
                "{}: differs, first in {what}: sha256 {}, built again {}",
                manifest.image_id, result.found, result.rebuilt
            ),
        }
    }
    Ok(if result.difference.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
