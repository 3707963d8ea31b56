//! `builder node create NAME --bootstrap`: the first server of a new cluster.
//!
//! Not by the engine: that proves a node by the cluster's API, whose credentials this server is about to
//! make. A second run goes on with what the first one left. The history has it as any other operation.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use jiff::Timestamp;
use node::config::Role;
use serde_json::json;

use super::Context;
use super::enroll::until;
use super::node::who;
use super::site::Site;
use crate::cli::CreateArgs;
use crate::life::{
    Entry, Failed, Folder, Found, Hypervisor as _, Journal, Kind, Member, Outcome, Place, Template,
    Way, history,
};
use crate::proxmox::life::Vms;

/// How long the guest's agent may take: a boot under emulation takes minutes.
const AGENT: Duration = Duration::from_mins(10);
/// How long a copy of a disk may take that a run which was cut off began.
const COPY: Duration = Duration::from_mins(30);

/// `builder node create NAME --bootstrap`.
///
/// # Errors
/// The node is no server, there is a cluster already, there is no image, or Proxmox refuses.
pub fn run(ctx: &Context, args: &CreateArgs) -> Result<ExitCode> {
    let site = Site::open(ctx, &args.cluster)?;
    let member = site.member(&args.name)?;
    let name = &member.name;
    ensure!(member.role == Role::Server, "{name} is an agent, and only a server starts a cluster");
    let shelf = Folder::own(&super::history::folder(&site.project)?)?;
    let begun = history::unfinished_first(&shelf, name)?;
    if site.kube.as_ref().is_some_and(|kube| kube.ready().is_ok()) {
        let Some(journal) = begun else { bail!("there is a cluster already: its API answers") };
        close(&shelf, journal, Ok(()))?;
        ctx.ui.line(format!("{name} was made by an earlier run, and its API answers: done"));
        return Ok(ExitCode::SUCCESS);
    }
    if !site.is_ready(ctx, std::slice::from_ref(&member)) {
        return Ok(ExitCode::FAILURE);
    }
    let vms = site.vms()?;
    let template = template(&vms, &shelf, &member, args)?;
    if let Some(place) = begun.as_ref().and_then(|journal| journal.new.as_ref()) {
        copied(ctx, &vms, place)?;
    }
    let place = place(&vms, &member, &template)?;
    ctx.ui.line(format!("{name}: {place} of {}", template.image));
    let new = || history::first(&shelf, &member, Kind::of(&member, &site.members()), who());
    let mut journal = begun.map_or_else(new, Ok)?;
    (journal.to, journal.new) = (Some(template.image.clone()), Some(place.clone()));
    (journal.cause, journal.asks) = (None, None);
    journal.save(&shelf)?;
    let made = make(ctx, &vms, &member, (&template, &place));
    close(&shelf, journal, made)?;
    told(ctx, &site, &member, &place);
    Ok(ExitCode::SUCCESS)
}

/// The clone, and its permission to start a cluster.
fn make(
    ctx: &Context,
    vms: &Vms<'_>,
    member: &Member,
    (template, place): (&Template, &Place),
) -> Result<()> {
    vms.clone_vm(template, place, member)?;
    vms.configure(place, member)?;
    vms.set_aside(place, false)?;
    vms.start(place)?;
    let deliver = || vms.deliver(place, member, Entry::Bootstrap, Way::Agent);
    until(ctx, vms.client.clock(), AGENT, deliver).with_context(|| {
        format!("{} runs and waits for its secret; run the same once more", member.name)
    })
}

/// Writes down how it ended. One that failed stays open, as the next run goes on with it.
fn close(shelf: &Folder, mut journal: Journal, made: Result<()>) -> Result<()> {
    match &made {
        Ok(()) => {
            (journal.cause, journal.asks) = (None, None);
            journal.outcome = Some(Outcome::Done);
            journal.ended = Some(Timestamp::now());
        }
        Err(why) => journal.asks = Some(format!("{why:#}")),
    }
    journal.save(shelf)?;
    made
}

#[expect(clippy::print_stdout, reason = "the VM is the command's data")]
fn told(ctx: &Context, site: &Site, member: &Member, place: &Place) {
    let name = &member.name;
    if ctx.json {
        println!("{}", json!({ "node": name, "host": place.host, "vmid": place.vmid }));
    } else {
        println!("{} {}", place.host, place.vmid);
    }
    let address = site.project.cluster.nodes.iter().find(|n| n.name == *name).map(|n| n.address);
    let address = address.map_or(String::new(), |address| address.to_string());
    ctx.ui.line(format!(
        "{name} starts the cluster; its console tells how far it is. Then fetch its credentials, and \
         all else goes by them:\n  ssh debian@{address} sudo cat /etc/rancher/k3s/k3s.yaml | sed \
         s/127.0.0.1/{address}/ > kubeconfig\n  builder status --kubeconfig kubeconfig"
    ));
}

/// The image that was asked for, or the newest good one, on the node's host.
fn template(vms: &Vms<'_>, shelf: &Folder, member: &Member, args: &CreateArgs) -> Result<Template> {
    let all = vms.templates()?;
    let is_bad = |t: &Template| all.iter().any(|o| o.image == t.image && o.quarantined);
    for template in all.iter().filter(|t| t.place.host == member.host) {
        let wanted = match &args.image {
            Some(image) => template.image == *image,
            None => *template.image.profile() == member.profile,
        };
        if wanted && !is_bad(template) && history::bad(shelf, &template.image)?.is_none() {
            return Ok(template.clone());
        }
    }
    let (profile, host) = (&member.profile, &member.host);
    match &args.image {
        Some(image) if all.iter().any(|t| t.image == *image && is_bad(t)) => {
            bail!(
                "{image} is quarantined; take another, or where it is not to blame `builder \
                 quarantine lift {image}`"
            )
        }
        Some(image) => {
            bail!("{image} is no good template on {host}; run `builder push --to {host}`")
        }
        None => bail!(
            "no good template of profile {profile} is on {host}; run `builder push --profile {profile}`"
        ),
    }
}

/// Waits for the copy that an earlier run began: until it is whole, it is in no list.
fn copied(ctx: &Context, vms: &Vms<'_>, place: &Place) -> Result<()> {
    let Place { host, vmid } = place;
    let whole = || match vms.look(place)? {
        Found::Vm(vm) if vm.lock.is_none() => Ok(()),
        Found::Free => Ok(()),
        Found::Vm(_) | Found::Hidden => Err(Failed::Later(format!(
            "{place} is still copied; if no task runs there any more, as root on {host}: `qm unlock {vmid} \
             && qm destroy {vmid}`"
        ))),
    };
    until(ctx, vms.client.clock(), COPY, whole)
}

/// The VM that an earlier run began, or a free number.
fn place(vms: &Vms<'_>, member: &Member, template: &Template) -> Result<Place> {
    let own = vms.vms_of(&member.name)?;
    match own.as_slice() {
        [] => {
            let vmid = vms.number(member, &BTreeSet::new())?;
            Ok(Place { host: member.host.clone(), vmid })
        }
        [vm] if vm.image.as_ref() == Some(&template.image) => Ok(vm.place.clone()),
        [vm, ..] => bail!(
            "{} is there already, of another image; remove it if it is not needed, or `builder node \
             rebuild {}`",
            vm.place,
            member.name
        ),
    }
}
