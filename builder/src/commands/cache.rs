//! `builder cache`.

use std::process::ExitCode;

use anyhow::{Result, bail};

use super::Context;
use crate::cli::CacheCommand;

/// (in the making)
///
/// # Errors
/// Always, until it is written.
pub fn run(_ctx: &Context, _args: &CacheCommand) -> Result<ExitCode> {
    bail!("`builder cache` is not built yet")
}
