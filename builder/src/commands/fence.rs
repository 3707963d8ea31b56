//! `builder node fence`: a node is dead, and what it holds is needed elsewhere.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use node::values::Hostname;
use serde_json::json;

use super::Context;
use super::site::Site;
use crate::cli::FenceArgs;
use crate::life::{Hypervisor as _, Off};
use crate::proxmox::clock::Patience;
use crate::proxmox::life::Vms;

/// How long Proxmox may take to cut a VM's power.
const LIMIT: Duration = Duration::from_mins(2);

/// `builder node fence NAME`.
///
/// # Errors
/// The power is not off for certain, or the cluster's API refuses.
#[expect(clippy::print_stdout, reason = "what was freed is the command's data")]
pub fn run(ctx: &Context, args: &FenceArgs) -> Result<ExitCode> {
    let site = Site::open(ctx, &args.cluster)?;
    let member = site.member(&args.name)?;
    site.must_reach(false)?;
    let kube = site.kube()?;
    let name = member.name.as_str();
    if kube.node(name)?.is_none() {
        bail!("the cluster has no Node {name}: it holds nothing");
    }
    if args.is_off {
        ctx.ui.warn(format!("you say that the power of {name} is off: Proxmox was not asked"));
    } else {
        power_off(ctx, &site.vms()?, &member.name)?;
    }
    kube.set_cordoned(name, true)?;
    kube.set_out_of_service(name)?;
    let freed = kube.free_pods(name)?;
    if ctx.json {
        println!("{}", serde_json::to_string_pretty(&json!({ "node": name, "freed": freed }))?);
    } else {
        for pod in &freed {
            println!("{pod}");
        }
    }
    ctx.ui.line(format!(
        "{name}: {} pods freed, and nothing is placed there. It comes back by `builder node rebuild \
         {name}`, or for good by `builder node delete {name}`",
        freed.len()
    ));
    Ok(ExitCode::SUCCESS)
}

/// Cuts the power of every VM of the node, and looks until each is seen off.
fn power_off(ctx: &Context, vms: &Vms<'_>, name: &Hostname) -> Result<()> {
    let own = vms.vms_of(name).with_context(dead_host)?;
    if own.is_empty() {
        bail!("Proxmox shows no VM `{name}`: whether it is off is not known; {DEAD}");
    }
    for vm in own.iter().filter(|vm| vm.running) {
        ctx.ui.line(format!("cutting the power of {}", vm.place));
        vms.stop(&vm.place, Off::Hard)?;
        // It must not come back with its host, and its old card would answer for the new one.
        vms.set_aside(&vm.place, true)?;
    }
    let second = Duration::from_secs(1);
    let mut patience = Patience::new(vms.client.clock(), LIMIT, second, 5 * second);
    while vms.vms_of(name)?.iter().any(|vm| vm.running) {
        if !patience.wait() {
            bail!("the VM of {name} still runs after {} s; nothing was freed", LIMIT.as_secs());
        }
    }
    Ok(())
}

/// What to do when Proxmox cannot tell.
const DEAD: &str = "if its host is dead, pull its plug and say --is-off";

fn dead_host() -> String {
    format!("Proxmox cannot say whether it is off; {DEAD}")
}
