//! `builder check`: all configuration, every problem at once.

use std::process::ExitCode;

use anyhow::Result;

use super::Context;

/// Reads everything and says what is wrong, or what there is.
///
/// # Errors
/// [`crate::config::Problems`]; with `--json` they are data on stdout instead, with exit code 2.
pub fn run(ctx: &Context) -> Result<ExitCode> {
    ctx.root()?;
    match ctx.project() {
        Ok(project) => {
            if ctx.json {
                println!("[]");
            }
            ctx.ui.line(format!(
                "configuration is sound: {} images, {} profiles, {} nodes",
                project.images.len(),
                project.profiles.len(),
                project.cluster.nodes.len()
            ));
            Ok(ExitCode::SUCCESS)
        }
        Err(problems) if ctx.json => {
            println!("{}", serde_json::to_string_pretty(problems.list())?);
            Ok(ExitCode::from(crate::USAGE))
        }
        Err(problems) => Err(problems.into()),
    }
}
