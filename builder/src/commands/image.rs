//! `builder image`.

use std::process::ExitCode;

use anyhow::{Result, bail};

use super::Context;
use crate::cli::ImageArgs;

/// (in the making)
///
/// # Errors
/// Always, until it is written.
pub fn run(_ctx: &Context, _args: &ImageArgs) -> Result<ExitCode> {
    bail!("`builder image` is not built yet")
}
