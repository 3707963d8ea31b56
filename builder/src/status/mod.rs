//! How the cluster stands: each node of `cluster.toml` against its VM, the templates of its profile and
//! its Node. Putting that together is pure; what is looked at comes in a [`Seen`].

pub mod html;
pub mod table;

use std::collections::BTreeMap;

use node::config::Role;
use node::image_id::ImageId;
use serde::Serialize;

use crate::config::{NodeSpec, Project};
use crate::kubernetes::Node;
use crate::proxmox::calls::VmEntry;
use crate::proxmox::inventory::Inventory;
use crate::proxmox::tags;

/// What was looked at.
#[derive(Debug, Default)]
pub struct Seen {
    /// Proxmox' side; `None`: it could not be asked.
    pub inventory: Option<Inventory>,
    /// The cluster's side; `None`: it could not be asked, or was not to be.
    pub nodes: Option<BTreeMap<String, Node>>,
    /// Why something is missing, a sentence each.
    pub notes: Vec<String>,
    /// When, in seconds since 1970.
    pub at: i64,
}

/// How a node fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should.
    Healthy,
    /// It is not there, off, or not Ready.
    Unhealthy,
    /// Nobody could be asked.
    Unknown,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// `server` or `agent`.
    pub role: String,
    /// Its profile.
    pub profile: String,
    /// Its address.
    pub address: String,
    /// Number of its VM.
    pub vmid: Option<u32>,
    /// The Proxmox host.
    pub host: String,
    /// What it runs: what its Node says, else what its VM was made of.
    pub image: Option<ImageId>,
    /// Whether that is the newest good template of its profile on its host; `None`: not known.
    pub current: Option<bool>,
    /// Where that template stands: `N`, `N-1`, …, `bad`, `gone`; empty: not known.
    pub template: String,
    /// Packages that are not its image's any more; `None`: not known.
    pub modified: Option<String>,
    /// K3s' version.
    pub k3s: String,
    /// Seconds since its Node registered.
    pub age: Option<u64>,
    /// How it fares.
    pub state: State,
    /// The same in words.
    pub health: String,
    /// Further VMs of the node: kept aside, or forgotten.
    pub others: Vec<u32>,
}

impl Row {
    /// Whether a rebuild would bring it another image.
    pub fn is_stale(&self) -> bool {
        self.current == Some(false)
    }
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The cluster's name.
    pub cluster: String,
    /// When this was seen, in seconds since 1970.
    pub at: i64,
    /// The nodes in the order of the file.
    pub nodes: Vec<Row>,
    /// Why something is missing, or what else is to be known.
    pub notes: Vec<String>,
}

impl Status {
    /// Whether no node is stale or not healthy.
    pub fn is_sound(&self) -> bool {
        self.nodes.iter().all(|row| row.state == State::Healthy && !row.is_stale())
    }
}

/// Puts together what was seen.
pub fn of(project: &Project, seen: &Seen) -> Status {
    let mut notes = seen.notes.clone();
    let nodes: Vec<_> = project.cluster.nodes.iter().map(|n| row(project, seen, n)).collect();
    for row in nodes.iter().filter(|row| !row.others.is_empty()) {
        let others: Vec<_> = row.others.iter().map(ToString::to_string).collect();
        notes.push(format!("{} has also VM {}", row.name, others.join(", ")));
    }
    notes.extend(strangers(project, seen));
    notes.extend(seen.inventory.iter().flat_map(|i| i.passed_over(&project.cluster)));
    Status { cluster: project.cluster.name.to_string(), at: seen.at, nodes, notes }
}

/// Nodes in the cluster that the file does not have.
fn strangers(project: &Project, seen: &Seen) -> Vec<String> {
    let known = |name: &str| project.cluster.nodes.iter().any(|n| n.name.as_str() == name);
    let nodes = seen.nodes.iter().flat_map(BTreeMap::keys);
    nodes
        .filter(|name| !known(name))
        .map(|n| format!("{n} is a Node, and not in cluster.toml"))
        .collect()
}

fn row(project: &Project, seen: &Seen, spec: &NodeSpec) -> Row {
    let (name, vms) = (spec.name.as_str(), vms_of(project, seen, spec));
    let vm = vms.iter().find(|vm| vm.status == "running").or(vms.first()).copied();
    let node = seen.nodes.as_ref().and_then(|nodes| nodes.get(name));
    let made_of = vm.and_then(|vm| tags::image(&vm.tags()));
    let image = node.and_then(|n| n.image.clone()).or(made_of);
    let template = image.as_ref().map_or(String::new(), |image| place(project, seen, spec, image));
    let role = project.profile(&spec.profile).map_or("", |p| match p.role {
        Role::Server => "server",
        Role::Agent => "agent",
    });
    let (state, health) = health(seen, vm, node);
    Row {
        name: name.to_owned(),
        role: role.to_owned(),
        profile: spec.profile.clone(),
        address: spec.address.to_string(),
        vmid: vm.map(VmEntry::id),
        host: spec.host.to_string(),
        current: (!template.is_empty()).then(|| template == "N"),
        template,
        image,
        modified: node.map(|n| n.modified.clone()),
        k3s: node.map_or(String::new(), |n| n.version.clone()),
        age: node.and_then(|n| u64::try_from(seen.at - n.created).ok()),
        state,
        health,
        others: vms
            .iter()
            .map(|vm| vm.id())
            .filter(|id| Some(*id) != vm.map(VmEntry::id))
            .collect(),
    }
}

/// The VMs of a node: by the tag, or by the name of one that was cloned by hand.
fn vms_of<'a>(project: &Project, seen: &'a Seen, spec: &NodeSpec) -> Vec<&'a VmEntry> {
    let (cluster, tag) = (&project.cluster, tags::of_node(&spec.name));
    let range = cluster.proxmox.template_ids();
    let is_its = |vm: &&VmEntry| {
        let all = vm.tags();
        let tagged = all.contains(&tag);
        let of_another = all.iter().any(|t| tags::node_of(t).is_some());
        let named = vm.name == spec.name.as_str() && !of_another;
        tags::is_of(&all, &cluster.name)
            && !vm.template
            && !range.contains(&vm.id())
            && (tagged || named)
    };
    seen.inventory.iter().flat_map(|i| &i.vms).filter(is_its).collect()
}

/// Where an image stands among the templates of the profile on the node's host.
fn place(project: &Project, seen: &Seen, spec: &NodeSpec, image: &ImageId) -> String {
    let Some(inventory) = &seen.inventory else { return String::new() };
    if inventory.is_quarantined(image) {
        return "bad".to_owned();
    }
    let cluster = &project.cluster;
    let of_profile = |image: &ImageId| image.profile().as_str() == spec.profile;
    let good = inventory.whole(cluster, spec.host.as_str()).filter(|t| !t.is_quarantined());
    let mut good = good.filter_map(|t| t.image.as_ref()).filter(|image| of_profile(image));
    match good.position(|found| found == image) {
        Some(0) => "N".to_owned(),
        Some(back) => format!("N-{back}"),
        None => "gone".to_owned(),
    }
}

fn health(seen: &Seen, vm: Option<&VmEntry>, node: Option<&Node>) -> (State, String) {
    let bad = |text: &str| (State::Unhealthy, text.to_owned());
    let power = match (&seen.inventory, vm) {
        (None, _) => None,
        (Some(_), None) => return bad("no VM"),
        (Some(_), Some(vm)) if vm.status == "stopped" => return bad("off"),
        (Some(_), Some(vm)) => Some(vm.status.as_str()),
    };
    match (node, power) {
        (None, _) if seen.nodes.is_some() => bad("not in the cluster"),
        (None, Some(power)) => (State::Unknown, format!("{power}; the cluster was not asked")),
        (None, None) => (State::Unknown, "not known".to_owned()),
        (Some(node), _) if node.leaving => bad("its Node is being deleted"),
        (Some(node), _) if !node.ready => bad(&format!("not Ready: {}", node.reason)),
        (Some(node), _) if node.cordoned => (State::Healthy, "Ready, cordoned".to_owned()),
        (Some(_), _) => (State::Healthy, "Ready".to_owned()),
    }
}

#[cfg(test)]
pub mod tests;
