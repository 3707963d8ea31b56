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
    let found = seen.nodes.as_ref().map(|nodes| nodes.get(name));
    let node = found.flatten();
    let made_of = vm.and_then(|vm| tags::image(&vm.tags()));
    let image = node.and_then(|n| n.image.clone()).or(made_of);
    let template = image.as_ref().map_or(String::new(), |image| place(project, seen, spec, image));
    let role = project.profile(&spec.profile).map_or("", |p| match p.role {
        Role::Server => "server",
        Role::Agent => "agent",
    });
    let (state, health) = health(seen, vm, found);
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

/// `found`: `None` when the cluster was not asked.
fn health(seen: &Seen, vm: Option<&VmEntry>, found: Option<Option<&Node>>) -> (State, String) {
    let bad = |text: &str| (State::Unhealthy, text.to_owned());
    let power = match (&seen.inventory, vm) {
        (None, _) => None,
        (Some(_), None) => return bad("no VM"),
        (Some(_), Some(vm)) if vm.status == "stopped" => return bad("off"),
        (Some(_), Some(vm)) => Some(vm.status.as_str()),
    };
    match (found, power) {
        (Some(None), _) => bad("not in the cluster"),
        (Some(Some(node)), _) if node.leaving => bad("its Node is being deleted"),
        (Some(Some(node)), _) if !node.ready => bad(&format!("not Ready: {}", node.reason)),
        (Some(Some(node)), _) if node.cordoned => (State::Healthy, "Ready, cordoned".to_owned()),
        (Some(Some(_)), _) => (State::Healthy, "Ready".to_owned()),
        (None, Some(power)) => (State::Unknown, format!("{power}; the cluster was not asked")),
        (None, None) => (State::Unknown, "not known".to_owned()),
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::proxmox::calls::Config;
    use crate::proxmox::inventory::Template;
    use serde_json::json;
    use std::path::Path;

    pub fn project() -> Project {
        Project::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config/valid")).unwrap()
    }

    pub fn id(profile: &str, n: u32) -> ImageId {
        format!("{profile}-{n:012x}").parse().unwrap()
    }

    fn marks(image: &ImageId, more: &[&str]) -> String {
        let mut all = tags::of_template(&"lab".parse().unwrap(), image, "v1.36.4+k3s1");
        all.extend(more.iter().map(|tag| (*tag).to_owned()));
        tags::text(&all)
    }

    fn template(image: ImageId, made: u32, more: &[&str]) -> Template {
        let values = [
            ("tags", marks(&image, more)),
            ("template", "1".into()),
            ("meta", format!("ctime={made}")),
        ];
        let config = Config(values.map(|(k, v)| (k.to_owned(), v)).into());
        Template { host: "pve1".into(), vmid: 9000 + made, config, image: Some(image) }
    }

    fn vm(vmid: u32, name: &str, status: &str, image: &ImageId, more: &[&str]) -> VmEntry {
        serde_json::from_value(json!({"vmid": vmid, "node": "pve1", "name": name, "status": status,
            "type": "qemu", "tags": marks(image, more)}))
        .unwrap()
    }

    fn node(name: &str, image: &ImageId) -> (String, Node) {
        let node = Node {
            name: name.into(),
            ready: true,
            image: Some(image.clone()),
            version: "v1.36.4+k3s1".into(),
            created: 1_795_000_000,
            ..Node::default()
        };
        (name.to_owned(), node)
    }

    /// One server on its newest image, one worker on the one before and with an old VM beside it.
    pub fn seen() -> Seen {
        let templates = vec![
            template(id("worker", 3), 9, &[tags::QUARANTINED]),
            template(id("worker", 2), 8, &[]),
            template(id("worker", 1), 7, &[]),
            template(id("master", 1), 6, &[]),
        ];
        let vms = vec![
            vm(200, "m1", "running", &id("master", 1), &["node-m1"]),
            vm(201, "", "stopped", &id("worker", 1), &["node-w1"]),
            vm(8000, "w1", "running", &id("worker", 1), &["node-w1"]),
            vm(150, "w1", "running", &id("worker", 1), &["node-other"]),
        ];
        let (name, worker) = node("w1", &id("worker", 1));
        let worker = Node { modified: "openssl 3.5.1 -> 3.5.2".into(), ..worker };
        Seen {
            inventory: Some(Inventory { templates, vms, ..Inventory::default() }),
            nodes: Some([node("m1", &id("master", 1)), (name, worker)].into()),
            notes: vec![],
            at: 1_795_100_000,
        }
    }

    #[test]
    fn the_newest_good_template_is_what_nodes_are_held_against() {
        let (project, seen) = (project(), seen());
        let status = of(&project, &seen);
        let told: Vec<_> = status
            .nodes
            .iter()
            .map(|r| (r.vmid, r.template.as_str(), r.current, r.health.as_str(), r.others.clone()))
            .collect();
        assert_eq!(
            told,
            [
                (Some(200), "N", Some(true), "Ready", vec![]),
                (Some(8000), "N-1", Some(false), "Ready", vec![201]),
            ]
        );
        assert_eq!(status.notes, ["w1 has also VM 201"]);
        assert!(!status.is_sound());
        let good = Inventory {
            templates: seen.inventory.as_ref().unwrap().templates[2..].to_vec(),
            ..seen.inventory.clone().unwrap()
        };
        assert!(of(&project, &Seen { inventory: Some(good), ..seen }).is_sound());
    }

    #[test]
    fn each_way_of_not_being_well_has_its_words() {
        let project = project();
        let health = |change: fn(&mut Seen)| {
            let mut seen = seen();
            change(&mut seen);
            let row = of(&project, &seen).nodes.remove(1);
            (row.state, row.health)
        };
        type Change = fn(&mut Seen);
        let cases: [(Change, State, &str); 8] = [
            (|s| s.inventory.as_mut().unwrap().vms.clear(), State::Unhealthy, "no VM"),
            (
                |s| s.inventory.as_mut().unwrap().vms[2].status = "stopped".into(),
                State::Unhealthy,
                "off",
            ),
            (
                |s| drop(s.nodes.as_mut().unwrap().remove("w1")),
                State::Unhealthy,
                "not in the cluster",
            ),
            (
                |s| {
                    let node = s.nodes.as_mut().unwrap().get_mut("w1").unwrap();
                    (node.ready, node.reason) = (false, "KubeletNotReady: no cni".into());
                },
                State::Unhealthy,
                "not Ready: KubeletNotReady: no cni",
            ),
            (
                |s| s.nodes.as_mut().unwrap().get_mut("w1").unwrap().leaving = true,
                State::Unhealthy,
                "its Node is being deleted",
            ),
            (
                |s| s.nodes.as_mut().unwrap().get_mut("w1").unwrap().cordoned = true,
                State::Healthy,
                "Ready, cordoned",
            ),
            (|s| s.nodes = None, State::Unknown, "running; the cluster was not asked"),
            (|s| (s.nodes, s.inventory) = (None, None), State::Unknown, "not known"),
        ];
        for (change, state, words) in cases {
            assert_eq!(health(change), (state, words.to_owned()));
        }
    }

    #[test]
    fn a_node_that_the_file_does_not_have_is_told() {
        let mut seen = seen();
        seen.nodes.as_mut().unwrap().extend([node("stray", &id("worker", 1))]);
        let notes = of(&project(), &seen).notes;
        assert_eq!(notes, ["w1 has also VM 201", "stray is a Node, and not in cluster.toml"]);
    }
}
