//! `builder node enroll`: the join secret for a node that waits for it, as a clone made by hand does.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use super::Context;
use super::site::Site;
use crate::cli::EnrollArgs;
use crate::life::{Entry, Failed, Hypervisor as _, Member, Vm, Way};
use crate::proxmox::clock::{Clock, Patience};
use crate::proxmox::life::Vms;

/// How long an agent may take to answer without `--watch`: a boot takes a minute.
const AGENT: Duration = Duration::from_mins(3);
/// With `--watch` nobody gives up; a week is as good as that.
const FOR_EVER: Duration = Duration::from_hours(7 * 24);

/// `builder node enroll NAME`.
///
/// # Errors
/// There is no such VM, or not the one that was meant; its agent does not answer; Proxmox refuses.
#[expect(clippy::print_stdout, reason = "the VM is the command's data")]
pub fn run(ctx: &Context, args: &EnrollArgs) -> Result<ExitCode> {
    let mut site = Site::open(ctx, &args.cluster)?;
    site.pin(ctx)?;
    let member = site.member(&args.name)?;
    refuse_running(&site, &member)?;
    let vms = site.vms()?;
    let entry = match (args.bootstrap, args.restore) {
        (true, _) => Entry::Bootstrap,
        (_, true) => Entry::Restore,
        _ => Entry::Join,
    };
    if let Some(path) = &args.file {
        node::files::write_atomic(path, &vms.payload(&member, entry)?, 0o600)?;
        let (path, name) = (path.display(), &member.name);
        ctx.ui
            .line(format!("{path} holds the join secret of {name}: `firstboot join` on the node"));
        return Ok(ExitCode::SUCCESS);
    }
    let way = if args.drive { Way::Drive } else { Way::Agent };
    let limit = if args.watch { FOR_EVER } else { AGENT };
    let place = until(ctx, vms.client.clock(), limit, || {
        let vm = the_vm(&vms, &member)?;
        vms.deliver(&vm.place, &member, entry, way)?;
        Ok(vm.place)
    })?;
    ctx.ui.line(format!("{place} has its join secret"));
    if args.watch {
        ready(ctx, &site, &vms, &member)?;
        vms.sweep(&member)?;
    } else if args.drive {
        let name = &member.name;
        ctx.ui.line(format!(
            "once {name} is Ready, `builder node enroll {name} --watch` removes the drive"
        ));
    }
    if ctx.json {
        println!("{}", json!({ "node": member.name, "host": place.host, "vmid": place.vmid }));
    } else {
        println!("{} {}", place.host, place.vmid);
    }
    Ok(ExitCode::SUCCESS)
}

/// A second secret would do no harm, but whoever asks for one is mistaken about something.
fn refuse_running(site: &Site, member: &Member) -> Result<()> {
    let Some(kube) = &site.kube else { return Ok(()) };
    kube.must_fit()?;
    match kube.node(member.name.as_str()) {
        Ok(Some(node)) if node.ready => bail!(
            "{0} is in the cluster already and Ready; to make it anew: `builder node rebuild {0}`",
            member.name
        ),
        // The first server's API is not there yet.
        Ok(_) | Err(Failed::Later(_)) => Ok(()),
        Err(refused) => Err(refused.into()),
    }
}

/// The one VM that is meant.
fn the_vm(vms: &Vms<'_>, member: &Member) -> Result<Vm, Failed> {
    let name = member.name.as_str();
    let mut own = vms.vms_of(&member.name)?;
    let running = own.iter().filter(|vm| vm.running).count();
    own.retain(|vm| vm.running || running == 0);
    let made_of = own.first().and_then(|vm| vm.image.as_ref());
    let profile = made_of.map(|image| image.profile().clone());
    match own.as_slice() {
        [] => Err(Failed::Later(format!(
            "no VM called {name} was made of a template of this cluster; clone one in Proxmox, with \
             this name, in the token's pool"
        ))),
        [vm] if !vm.running => Err(Failed::Later(format!("{} is off; start it", vm.place))),
        [_] if profile.as_ref().is_some_and(|p| *p != member.profile) => {
            Err(Failed::Never(format!(
                "the VM of {name} was made of an image of the profile `{}`, and cluster.toml says `{}`; \
                 clone the right template",
                profile.map_or(String::new(), |p| p.to_string()),
                member.profile
            )))
        }
        [vm] => Ok(vm.clone()),
        _ => Err(Failed::Never(format!("two running VMs are called {name}; turn one off"))),
    }
}

/// Tries again what passes, and tells each new reason once.
///
/// # Errors
/// What does not pass, or the last reason when the time is up.
pub fn until<T>(
    ctx: &Context,
    clock: &dyn Clock,
    limit: Duration,
    mut work: impl FnMut() -> Result<T, Failed>,
) -> Result<T> {
    let mut patience = Patience::new(clock, limit, Duration::from_secs(1), Duration::from_secs(10));
    let mut told = String::new();
    loop {
        let why = match work() {
            Ok(done) => return Ok(done),
            Err(Failed::Later(why)) => why,
            Err(other) => return Err(other.into()),
        };
        if told != why {
            ctx.ui.line(format!("waiting: {why}"));
            told.clone_from(&why);
        }
        if !patience.wait() {
            bail!("{why} (for {} s)", limit.as_secs());
        }
    }
}

/// Waits until the node is Ready.
fn ready(ctx: &Context, site: &Site, vms: &Vms<'_>, member: &Member) -> Result<()> {
    let name = member.name.as_str();
    let kube = site.kube().context("to see the node Ready")?;
    until(ctx, vms.client.clock(), FOR_EVER, || match kube.node(name)? {
        Some(node) if node.ready => Ok(()),
        Some(node) => Err(Failed::Later(format!("{name} is not Ready: {}", node.reason))),
        None => Err(Failed::Later(format!("{name} has not registered yet"))),
    })?;
    ctx.ui.line(format!("{name} is Ready"));
    Ok(())
}
