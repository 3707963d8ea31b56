//! `builder push`: the newest tested image of a profile becomes a template on each host.

use std::process::ExitCode;

use anyhow::{Context as _, Result};

use super::Context;
use super::inputs::newest;
use crate::cli::PushArgs;
use crate::config::{Profile, Project};
use crate::proxmox::preflight::{self, Load, Scope};
use crate::proxmox::push::{Push, Pushed, Tested};
use crate::proxmox::{self, Connection};

/// `builder push`.
///
/// # Errors
/// The image is not tested, or a call to Proxmox failed for good.
#[expect(clippy::print_stdout, reason = "what was pushed is the command's data")]
pub fn run(ctx: &Context, args: &PushArgs) -> Result<ExitCode> {
    let project = ctx.project()?;
    let profile = project.profile(&args.profile)?;
    let image = Tested::load(&newest(ctx, &args.out, &args.profile)?, args.allow_standin, &ctx.ui)?;
    let hosts = hosts(&project, profile, args)?;
    let connection = proxmox::connect(&project, &ctx.ui)?;
    let disk = image.manifest.virtual_bytes;
    let grown = disk.max(profile.vm.disk.bytes());
    let load = Load { bytes: image.manifest.qcow2.bytes, disk, grown };
    if let Some(status) = stopped(ctx, &project, &connection, (&hosts, load)) {
        return Ok(status);
    }
    let push = Push {
        client: &connection.client,
        cluster: &project.cluster,
        profile,
        image: &image,
        prune: !args.no_prune,
    };
    let mut done = Vec::new();
    for host in &hosts {
        let pushed = push
            .to(host)
            .with_context(|| format!("failed to push {} to {host}", image.manifest.image_id))?;
        done.push(pushed);
    }
    tell(ctx, &done);
    if ctx.json {
        println!("{}", serde_json::to_string_pretty(&done)?);
        return Ok(ExitCode::SUCCESS);
    }
    for pushed in &done {
        println!("{} {}", pushed.host, pushed.vmid);
    }
    Ok(ExitCode::SUCCESS)
}

/// What preflight finds stops a push before it changes anything.
fn stopped(
    ctx: &Context,
    project: &Project,
    connection: &Connection,
    (hosts, load): (&[String], Load),
) -> Option<ExitCode> {
    let report = preflight::run(project, connection, (hosts, load), Scope::Push);
    let status = preflight::status(&report);
    let bad = report.iter().filter(|checked| !checked.findings.is_empty());
    let told: Vec<_> = bad.cloned().collect();
    if status != 0 {
        eprintln!("error: nothing was changed, as the preflight found:");
    }
    if !told.is_empty() {
        eprint!("{}", preflight::table(&told, &ctx.ui));
    }
    (status != 0).then(|| ExitCode::from(status))
}

/// The hosts meant: those named, else those of the profile's nodes.
fn hosts(project: &Project, profile: &Profile, args: &PushArgs) -> Result<Vec<String>> {
    let own = |all: bool| {
        let nodes = project.cluster.nodes.iter();
        let nodes = nodes.filter(move |n| all || n.profile == profile.name.as_str());
        let mut hosts: Vec<_> = nodes.map(|n| n.host.to_string()).collect();
        hosts.sort();
        hosts.dedup();
        hosts
    };
    let hosts = match args.to.as_slice() {
        [] => own(false),
        [all] if all == "all" => own(true),
        named => named.to_vec(),
    };
    if hosts.is_empty() {
        let rule = format!("cluster.toml has no node of profile {}", profile.name);
        let hint = "name the Proxmox host with --to".to_owned();
        return Err(crate::config::Problems::usage(rule, Some(hint)).into());
    }
    Ok(hosts)
}

fn tell(ctx: &Context, done: &[Pushed]) {
    for pushed in done {
        for (vmid, why) in &pushed.kept {
            ctx.ui.line(format!("template {vmid} on {} stays: {why}", pushed.host));
        }
    }
    if done.iter().all(|p| !p.made && p.pruned.is_empty()) {
        ctx.ui.line("nothing to do");
    }
}
