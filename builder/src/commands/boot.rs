//! `builder boot`.

use std::process::ExitCode;

use anyhow::{Result, bail};

use super::Context;
use crate::cli::BootArgs;

/// (in the making)
///
/// # Errors
/// Always, until it is written.
pub fn run(_ctx: &Context, _args: &BootArgs) -> Result<ExitCode> {
    bail!("`builder boot` is not built yet")
}
