//! `builder fetch`: fills the cache, for a build without a network or to see what can be had.

use std::process::ExitCode;

use anyhow::Result;

use super::Context;
use super::inputs::{Sources, all_requests};
use crate::cli::FetchArgs;
use crate::fetch::{fetch_artifacts, fetch_base};

/// `builder fetch`.
///
/// # Errors
/// The lock is wrong, or a file cannot be had; the last cause is named.
pub fn run(ctx: &Context, args: &FetchArgs) -> Result<ExitCode> {
    let project = ctx.project()?;
    let mut sources = Sources::new(&ctx.root()?.join(&args.lock), &[], &args.source)?;
    sources.fetch.deadline = args.deadline;
    let Sources { lock, store, mirrors, fetch, .. } = &sources;
    if !args.artifacts && args.names.is_empty() {
        for request in all_requests(&project)? {
            let set = lock.base(&request)?;
            fetch_base(store, set, &request, mirrors, &ctx.ui, fetch)?;
            ctx.ui.line(format!("{}: {} packages are here", set.name, set.packages.len()));
        }
    }
    if !args.packages {
        let here = lock.artifacts.values().filter(|a| !a.left_out);
        let names: Vec<&str> = match args.names.as_slice() {
            [] => here.map(|a| a.name.as_str()).collect(),
            names => names.iter().map(String::as_str).collect(),
        };
        fetch_artifacts(store, lock, &names, &ctx.ui, fetch)?;
        ctx.ui.line(format!("{} are here", names.join(", ")));
    }
    Ok(ExitCode::SUCCESS)
}
