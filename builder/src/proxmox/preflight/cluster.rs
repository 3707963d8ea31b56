//! What `cluster.toml` says against what stands there: numbers, addresses, templates, nodes, and the
//! servers around.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use node::image_id::ImageId;

use super::{Finding, Kind, Look, Outcome, told};
use crate::boot::{API_PORT, NFS_PORT};
use crate::config::NodeSpec;
use crate::proxmox::calls::VmEntry;
use crate::proxmox::inventory::Template;
use crate::proxmox::{Error, settings, tags};

/// A server of the LAN that does not answer for so long is not there.
const CONNECT: Duration = Duration::from_secs(2);

impl Look<'_> {
    fn node(&self, vm: &VmEntry) -> Option<&NodeSpec> {
        let cluster = &self.project.cluster;
        let own = tags::is_of(&vm.tags(), &cluster.name);
        cluster.nodes.iter().find(|n| own && n.name.as_str() == vm.name)
    }
}

/// Whether a node's number is somebody else's, or a template's number a foreign VM's.
pub fn numbers(look: &Look<'_>) -> Outcome {
    let cluster = &look.project.cluster;
    let mut findings = Vec::new();
    for vm in &look.inventory.vms {
        let own = tags::is_of(&vm.tags(), &cluster.name);
        let node = cluster.nodes.iter().find(|n| n.vmid.get() == vm.id());
        let Some(node) = node.filter(|_| !own) else { continue };
        let (id, name) = (vm.id(), &vm.name);
        findings.push(
            Finding::new(
                format!(
                    "VM {id}, the number of {}, is `{name}` on {}, not ours",
                    node.name, vm.node
                ),
                format!("give {} another vmid in cluster/cluster.toml", node.name),
            )
            .of(Kind::Configuration),
        );
    }
    let range = cluster.proxmox.template_ids();
    let taken = look.inventory.vms.iter().filter(|vm| range.contains(&vm.id())).count();
    let (first, last) = (range.start(), range.end());
    if taken as u64 > u64::from(last - first) {
        let text = format!("every number from {first} to {last} is taken");
        let fix = "widen proxmox.templates in cluster/cluster.toml";
        findings.push(Finding::new(text, fix).of(Kind::Configuration));
    }
    let nodes = cluster.nodes.len();
    (format!("{nodes} nodes, templates {first} to {last}, {taken} of them taken"), findings)
}

/// Whether another VM has a node's address, or something else answers at one that has no VM.
pub fn addresses(look: &Look<'_>) -> Outcome {
    told(shared_addresses(look).map(|mut findings| {
        findings.extend(squatters(look));
        (format!("{} nodes", look.project.cluster.nodes.len()), findings)
    }))
}

/// Other VMs with a node's address.
fn shared_addresses(look: &Look<'_>) -> Result<Vec<Finding>, Error> {
    let cluster = &look.project.cluster;
    let mut findings = Vec::new();
    let range = cluster.proxmox.template_ids();
    for vm in look.inventory.readable().filter(|vm| !range.contains(&vm.id())) {
        let Some(config) = look.client.find_config(&vm.node, vm.id())? else { continue };
        let Some(address) = address_of(config.get("ipconfig0")) else { continue };
        let node = cluster.nodes.iter().find(|n| n.address == address);
        let Some(node) = node.filter(|n| n.name.as_str() != config.get("name")) else { continue };
        let name = config.get("name");
        let text = format!("{address} of {} is also that of VM {} `{name}`", node.name, vm.id());
        let fix = format!("give {} another address in cluster/cluster.toml", node.name);
        findings.push(Finding::new(text, fix).of(Kind::Configuration));
    }
    Ok(findings)
}

/// What answers at the address of a node that has no VM.
fn squatters(look: &Look<'_>) -> Vec<Finding> {
    let cluster = &look.project.cluster;
    let vms = look.inventory.vms.iter();
    let present: BTreeSet<_> = vms.filter_map(|vm| look.node(vm)).map(|n| &n.name).collect();
    let absent: Vec<_> = cluster.nodes.iter().filter(|n| !present.contains(&n.name)).collect();
    let answering = std::thread::scope(|scope| {
        let asks: Vec<_> =
            absent.iter().map(|n| scope.spawn(|| is_there(n.address, 22).then_some(*n))).collect();
        asks.into_iter().filter_map(|ask| ask.join().ok().flatten()).collect::<Vec<_>>()
    });
    let finding = |node: &NodeSpec| {
        let (address, name) = (node.address, &node.name);
        let text =
            format!("something answers at {address}, the address of {name}, which has no VM");
        Finding::new(text, format!("free the address, or give {name} another one"))
    };
    answering.into_iter().map(finding).collect()
}

/// `ip=192.168.2.21/24,gw=…`
fn address_of(ipconfig: &str) -> Option<Ipv4Addr> {
    let ip = ipconfig.split(',').find_map(|part| part.strip_prefix("ip="))?;
    ip.split('/').next()?.parse().ok()
}

/// Whether somebody takes a connection there; a machine that only refuses looks like none.
fn is_there(address: Ipv4Addr, port: u16) -> bool {
    TcpStream::connect_timeout(&SocketAddr::from((address, port)), CONNECT).is_ok()
}

/// Whether templates are what their tags say, and alike on all hosts.
pub fn templates(look: &Look<'_>) -> Outcome {
    let cluster = &look.project.cluster;
    let mut findings = Vec::new();
    let mut count = 0;
    for t in &look.inventory.templates {
        let name = t.config.get("name");
        if t.is_whole(cluster) {
            count += 1;
            findings.extend(faults(t));
        } else if name.parse::<ImageId>().is_ok() {
            findings.push(unfinished(t));
        }
    }
    findings.extend(uneven(look));
    (format!("{count} of this cluster"), findings)
}

fn unfinished(t: &Template) -> Finding {
    let (name, lock, place) = (t.config.get("name"), t.config.get("lock"), t.place());
    let (text, fix) = if lock.is_empty() {
        let text = format!("VM {place}, `{name}`, is an unfinished template");
        (text, "run `builder push` again: it goes on with it".to_owned())
    } else {
        let text = format!("VM {place}, `{name}`, was left half-made with the lock `{lock}`");
        (text, format!("as root on {}: `qm unlock {1} && qm destroy {1}`", t.host, t.vmid))
    };
    Finding::new(text, fix).of(Kind::Warning)
}

fn faults(t: &Template) -> Vec<Finding> {
    let (name, place) = (t.config.get("name"), t.place());
    let settings = settings::faults(&t.config, t.vmid, None).into_iter();
    let mut findings: Vec<_> = settings
        .map(|(text, fix)| Finding::new(format!("template {place}: {text}"), fix))
        .collect();
    if t.image.as_ref().is_some_and(|image| image.to_string() != name) {
        let text = format!("template {place} is called `{name}`, but its tags say otherwise");
        findings.push(Finding::new(text, format!("as root: `qm destroy {}`, push again", t.vmid)));
    }
    findings
}

/// A profile whose newest template is another one on another host.
fn uneven(look: &Look<'_>) -> Vec<Finding> {
    let cluster = &look.project.cluster;
    let mut findings = Vec::new();
    for profile in look.project.profiles.keys() {
        let nodes = cluster.nodes.iter().filter(|n| n.profile == *profile);
        let hosts: BTreeSet<_> = nodes.map(|n| n.host.to_string()).collect();
        let newest = |host: &String| {
            let images = look.inventory.whole(cluster, host).filter(|t| !t.is_quarantined());
            let images = images.filter_map(|t| t.image.clone());
            images.into_iter().find(|image| image.profile().as_str() == profile)
        };
        let images: Vec<_> = hosts.iter().map(|host| (host, newest(host))).collect();
        let first = images.first().and_then(|(_, image)| image.clone());
        if images.iter().any(|(_, image)| *image != first) {
            let told = images.iter().map(|(host, image)| {
                let image = image.as_ref().map_or("none".to_owned(), ToString::to_string);
                format!("{host}: {image}")
            });
            let text = format!(
                "the newest template of `{profile}` is not the same on all hosts ({})",
                told.collect::<Vec<_>>().join(", ")
            );
            let fix = format!("run `builder push --profile {profile}`");
            findings.push(Finding::new(text, fix).of(Kind::Warning));
        }
    }
    findings
}

/// Whether the nodes' VMs have settings that break boots.
pub fn nodes(look: &Look<'_>) -> Outcome {
    told(settings_of_nodes(look))
}

fn settings_of_nodes(look: &Look<'_>) -> Result<Outcome, Error> {
    let mut findings = Vec::new();
    let mut count = 0;
    for vm in look.inventory.readable() {
        let Some(node) = look.node(vm) else { continue };
        let Some(config) = look.client.find_config(&vm.node, vm.id())? else { continue };
        count += 1;
        for (text, fix) in settings::faults(&config, vm.id(), Some(&node.vm)) {
            findings.push(Finding::new(format!("{} (VM {}): {text}", node.name, vm.id()), fix));
        }
    }
    Ok((format!("{count} VMs of nodes"), findings))
}

/// Whether the NFS servers answer, and the Kubernetes API once there are nodes.
pub fn network(look: &Look<'_>) -> Outcome {
    let cluster = &look.project.cluster;
    let mut findings = Vec::new();
    for (name, nfs) in &cluster.nfs {
        if let Some(why) = unreached(nfs.server, NFS_PORT) {
            let text = format!("the NFS server of `{name}`, {}:{NFS_PORT}, {why}", nfs.server);
            findings.push(Finding::new(text, "start it, or open TCP port 2049 to the nodes"));
        }
    }
    let runs =
        look.inventory.vms.iter().any(|vm| look.node(vm).is_some() && vm.status == "running");
    if let Some(why) = unreached(cluster.api, API_PORT) {
        let text = format!("the Kubernetes API, {}:{API_PORT}, {why}", cluster.api);
        let kind = if runs { Kind::Environment } else { Kind::Warning };
        let fix = "nothing to do before the first node; else look at the master's console";
        findings.push(Finding::new(text, fix).of(kind));
    }
    (format!("{} NFS exports, the API at {}", cluster.nfs.len(), cluster.api), findings)
}

fn unreached(address: Ipv4Addr, port: u16) -> Option<String> {
    let connected = TcpStream::connect_timeout(&SocketAddr::from((address, port)), CONNECT);
    connected.err().map(|e| format!("cannot be reached from here: {e}"))
}
