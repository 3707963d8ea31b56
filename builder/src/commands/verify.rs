//! `builder verify`.

use std::process::ExitCode;

use anyhow::{Result, bail};

use super::Context;
use crate::cli::VerifyArgs;

/// (in the making)
///
/// # Errors
/// Always, until it is written.
pub fn run(_ctx: &Context, _args: &VerifyArgs) -> Result<ExitCode> {
    bail!("`builder verify` is not built yet")
}
