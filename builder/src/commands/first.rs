//! `builder node create NAME --bootstrap`: the first server of a new cluster.
//!
//! Not by the engine: that proves a node by the cluster's API, whose credentials this server is about to
//! make. A second run goes on with what the first one left.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use node::config::Role;
use serde_json::json;

use super::Context;
use super::enroll::until;
use super::site::Site;
use crate::cli::CreateArgs;
use crate::life::{Entry, Folder, Hypervisor as _, Member, Place, Template, Way, history};
use crate::proxmox::life::Vms;

/// How long the guest's agent may take: a boot under emulation takes minutes.
const AGENT: Duration = Duration::from_mins(10);

/// `builder node create NAME --bootstrap`.
///
/// # Errors
/// The node is no server, there is a cluster already, there is no image, or Proxmox refuses.
#[expect(clippy::print_stdout, reason = "the VM is the command's data")]
pub fn run(ctx: &Context, args: &CreateArgs) -> Result<ExitCode> {
    let site = Site::open(ctx, &args.cluster)?;
    let member = site.member(&args.name)?;
    let name = &member.name;
    ensure!(member.role == Role::Server, "{name} is an agent, and only a server starts a cluster");
    if let Some(kube) = &site.kube {
        ensure!(kube.ready().is_err(), "there is a cluster already: its API answers");
    }
    let shelf = Folder::own(&super::history::folder(&site.project)?)?;
    if !site.is_ready(ctx, std::slice::from_ref(&member)) {
        return Ok(ExitCode::FAILURE);
    }
    let vms = site.vms()?;
    let template = template(&vms, &shelf, &member, args)?;
    let place = place(&vms, &member, &template)?;
    ctx.ui.line(format!("{name}: {place} of {}", template.image));
    vms.clone_vm(&template, &place, &member)?;
    vms.configure(&place, &member)?;
    vms.set_aside(&place, false)?;
    vms.start(&place)?;
    let deliver = || vms.deliver(&place, &member, Entry::Bootstrap, Way::Agent);
    until(ctx, vms.client.clock(), AGENT, deliver)
        .with_context(|| format!("{name} runs and waits for its secret; run the same once more"))?;
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
    Ok(ExitCode::SUCCESS)
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
        Some(image) => {
            bail!("{image} is no good template on {host}; run `builder push --to {host}`")
        }
        None => bail!(
            "no good template of profile {profile} is on {host}; run `builder push --profile {profile}`"
        ),
    }
}

/// The VM that an earlier run began, or a free number.
fn place(vms: &Vms<'_>, member: &Member, template: &Template) -> Result<Place> {
    let own: Vec<_> = vms.vms()?.into_iter().filter(|vm| vm.name == member.name.as_str()).collect();
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
