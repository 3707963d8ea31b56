//! `builder preflight`: what would stop a push or a rebuild, all at once.

use std::process::ExitCode;

use anyhow::Result;

use super::Context;
use crate::cli::PreflightArgs;
use crate::proxmox;
use crate::proxmox::preflight::{Load, Scope, problems, run as check, status, table};

/// `builder preflight`.
///
/// # Errors
/// The configuration is wrong, or there is no token. What the checks find is data, with exit status
/// 1, or 2 where the project's files are to be changed.
#[expect(clippy::print_stdout, reason = "the report is the command's data")]
pub fn run(ctx: &Context, args: &PreflightArgs) -> Result<ExitCode> {
    let project = ctx.project()?;
    let connection = proxmox::connect(&project, &ctx.ui)?;
    let report = check(&project, &connection, (&args.hosts, Load::default()), Scope::All);
    if ctx.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", table(&report, &ctx.ui));
    }
    let count = problems(&report).count();
    if count > 0 {
        ctx.ui.line(format!("{count} problem{}", if count == 1 { "" } else { "s" }));
    }
    Ok(ExitCode::from(status(&report)))
}
