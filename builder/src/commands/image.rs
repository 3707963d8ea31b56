//! `builder image`: plan, fetch, build; and says what it made.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result};
use serde_json::json;

use super::Context;
use super::inputs::Sources;
use crate::cli::ImageArgs;
use crate::config::Project;
use crate::image::{Build, Manifest, Plan, preflight};
use crate::ui::since;

/// `builder image`.
///
/// # Errors
/// The configuration or the lock is wrong, an input cannot be had, or a stage fails.
pub fn run(ctx: &Context, args: &ImageArgs) -> Result<ExitCode> {
    let project = ctx.project()?;
    let root = ctx.root()?;
    let sources = Sources::new(&root.join(&args.lock), &args.artifacts, &args.source)?;
    let mut made = Vec::new();
    for name in names(&project, args) {
        let profile = project.profile(&name)?;
        let plan = sources.plan(&project, profile)?;
        show(ctx, &plan)?;
        if args.dry_run {
            continue;
        }
        let start = Instant::now();
        preflight::build()?;
        sources.fetch(ctx, &project, &plan)?;
        let build = Build { plan: &plan, store: &sources.store, ui: &ctx.ui };
        let manifest = build
            .run(&root.join(&args.out))
            .with_context(|| format!("failed to build {}", plan.id))?;
        ctx.ui.line(format!("{} in {}", summary(&manifest), since(start)));
        made.push(manifest);
    }
    print(ctx, args, &made)?;
    Ok(ExitCode::SUCCESS)
}

/// What `--all` or `--profile` names. Profiles that others only extend have no role of their own
/// and are not among the project's.
fn names(project: &Project, args: &ImageArgs) -> Vec<String> {
    match &args.profile {
        Some(name) => vec![name.clone()],
        None => project.profiles.keys().cloned().collect(),
    }
}

/// The plan on stderr, before any work: what would be built from what.
fn show(ctx: &Context, plan: &Plan) -> Result<()> {
    ctx.ui.line(format!("profile {}:", plan.profile.name));
    for line in serde_json::to_string_pretty(&plan.profile)?.lines() {
        ctx.ui.line(format!("  {line}"));
    }
    let mark = if plan.facts.standin { " (stand-in, not the real release)" } else { "" };
    ctx.ui.line(format!(
        "image {}: {} with {} packages, K3s {}{mark}",
        plan.id,
        plan.image.name,
        plan.base.packages.len(),
        plan.k3s.version
    ));
    Ok(())
}

fn summary(manifest: &Manifest) -> String {
    let mib = |bytes: u64| bytes >> 20;
    format!(
        "{}: qcow2 {} MiB, root file system {} MiB ({} MiB before K3s), {} packages",
        manifest.image_id,
        mib(manifest.qcow2.bytes),
        mib(manifest.root.bytes),
        mib(manifest.root.base_bytes),
        manifest.root.packages
    )
}

/// The data: the files made, one a line, or their manifests.
#[expect(clippy::print_stdout, reason = "this is the command's data")]
fn print(ctx: &Context, args: &ImageArgs, made: &[Manifest]) -> Result<()> {
    if ctx.json {
        println!("{}", serde_json::to_string_pretty(&json!(made))?);
        return Ok(());
    }
    for manifest in made {
        println!("{}", ctx.root()?.join(&args.out).join(&manifest.qcow2.file).display());
    }
    Ok(())
}
