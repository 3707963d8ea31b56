//! `builder lock`.

use std::process::ExitCode;

use anyhow::{Result, bail};

use super::Context;
use crate::cli::LockArgs;

/// (in the making)
///
/// # Errors
/// Always, until it is written.
pub fn run(_ctx: &Context, _args: &LockArgs) -> Result<ExitCode> {
    bail!("`builder lock` is not built yet")
}
