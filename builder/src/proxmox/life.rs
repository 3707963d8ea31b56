//! Proxmox as the engine of rebuilds and rollouts sees it: the VMs of nodes, each call made so that it
//! can be made again after anything.

use std::collections::BTreeSet;
use std::time::Duration;

use node::image_id::ImageId;
use node::values::{Digest, Hostname};

use super::calls::{Config, VmEntry};
use super::changes::Clone;
use super::client::Client;
use super::error::{Class, Error};
use super::inventory::Inventory;
use super::transport::{Method, Request};
use super::{machine, tags};
use crate::config::{Cluster, NodeSpec};
use crate::kubernetes::Kube;
use crate::life::{
    Answer, Entry, Failed, Found, Hypervisor, Member, Off, Place, Template, Vm, Way,
};
use crate::secrets::Escrow;

/// How long a guest that was asked may take to end: Proxmox gives up then, and whoever asked cuts the
/// power. Longer than any deadline of the engine.
const END: Duration = Duration::from_mins(15);

/// The VMs of one cluster's nodes.
#[derive(Debug)]
pub struct Vms<'a> {
    /// Proxmox.
    pub client: &'a Client,
    /// The cluster's file.
    pub cluster: &'a Cluster,
    /// What nodes are told; `None` for who only looks.
    pub escrow: Option<&'a Escrow>,
    /// The cluster's API, which makes agents' tokens; `None` before there is one.
    pub kube: Option<&'a Kube>,
    /// Hash of the cluster's CA where it is known.
    pub ca: Option<Digest>,
    /// How many servers the cluster's file has.
    pub servers: usize,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        let class = error.class;
        let text = error.to_string();
        match class {
            Class::IdTaken => Self::Taken(text),
            Class::Unknown | Class::StillRuns | Class::AgentNotReady => Self::Later(text),
            _ if error.is_passing() => Self::Later(text),
            _ => Self::Never(text),
        }
    }
}

impl Vms<'_> {
    /// The node's own lines of the cluster's file.
    pub(super) fn spec(&self, member: &Member) -> Answer<&NodeSpec> {
        let mut all = self.cluster.nodes.iter();
        all.find(|n| n.name == member.name)
            .ok_or_else(|| Failed::Never(format!("cluster.toml has no node {}", member.name)))
    }

    fn spec_of(&self, name: &str) -> Option<&NodeSpec> {
        self.cluster.nodes.iter().find(|n| n.name.as_str() == name)
    }

    /// A VM that is seen, as its configuration and its process say.
    fn vm(&self, place: Place, config: &Config) -> Answer<Vm> {
        let running = self.client.current(place.host.as_str(), place.vmid)?.status != "stopped";
        let name = config.get("name").to_owned();
        let spec = self.spec_of(&name);
        Ok(Vm {
            place,
            image: tags::image(&config.tags()),
            running,
            lock: Some(config.get("lock").to_owned()).filter(|lock| !lock.is_empty()),
            configured: spec.is_some_and(|n| machine::is_configured(self.cluster, n, config)),
            onboot: super::parse::flag_of(config.get("onboot")),
            link: machine::is_linked(config),
            name,
        })
    }

    /// The configuration of a VM of ours; `None`: nothing is there.
    fn own(&self, place: &Place) -> Answer<Option<Config>> {
        let Some(config) = self.client.find_config(place.host.as_str(), place.vmid)? else {
            return Ok(None);
        };
        let is_ours = tags::is_of(&config.tags(), &self.cluster.name) && !config.is_template();
        if !is_ours {
            let name = config.get("name");
            return Err(Failed::Never(format!(
                "{place}, `{name}`, is no node's VM of this cluster"
            )));
        }
        if !config.get("lock").is_empty() {
            return Err(Failed::Later(locked(place, config.get("lock"))));
        }
        Ok(Some(config))
    }

    /// The VMs of nodes, of those that the list of the whole cluster shows as wanted.
    fn seen(&self, wanted: impl Fn(&VmEntry) -> bool) -> Answer<Vec<Vm>> {
        let hosts = self.client.hosts()?;
        let templates = self.cluster.proxmox.template_ids();
        let mut found = Vec::new();
        for entry in self.client.vms()?.into_iter().filter(wanted) {
            let ours = tags::is_of(&entry.tags(), &self.cluster.name)
                && entry.kind != "lxc"
                && !entry.template
                && !templates.contains(&entry.id());
            let Some(place) = place(&entry.node, entry.id()).filter(|_| ours) else { continue };
            if hosts.iter().any(|host| host.node == entry.node && host.status == "offline") {
                // Whether it runs is what everything hangs on.
                return Err(Failed::Later(format!("{place} cannot be seen: its host is offline")));
            }
            let Some(config) = self.client.find_config(&entry.node, entry.id())? else { continue };
            if config.get("lock") != "clone" && !config.is_template() {
                found.push(self.vm(place, &config)?);
            }
        }
        Ok(found)
    }

    pub(super) fn own_there(&self, place: &Place) -> Answer<Config> {
        self.own(place)?.ok_or_else(|| Failed::Never(format!("{place} is not there")))
    }
}

/// A task that was killed leaves its lock behind for ever, and no token may take it away.
fn locked(place: &Place, lock: &str) -> String {
    let (host, id) = (&place.host, place.vmid);
    format!(
        "{place} has the lock `{lock}`; if no task runs there any more, as root on {host}: `qm unlock \
         {id}`"
    )
}

fn place(host: &str, vmid: u32) -> Option<Place> {
    Some(Place { host: host.parse().ok()?, vmid })
}

impl Hypervisor for Vms<'_> {
    fn templates(&self) -> Answer<Vec<Template>> {
        let inventory = Inventory::read(self.client, self.cluster)?;
        let whole = inventory.templates.iter().filter(|t| t.is_whole(self.cluster));
        let template = |t: &super::inventory::Template| {
            Some(Template {
                place: place(&t.host, t.vmid)?,
                image: t.image.clone()?,
                made: t.config.made_at().cast_signed(),
                k3s: tags::k3s(&t.config.tags()).map(str::to_owned),
                quarantined: t.is_quarantined(),
            })
        };
        Ok(whole.filter_map(template).collect())
    }

    fn vms(&self) -> Answer<Vec<Vm>> {
        self.seen(|_| true)
    }

    fn vms_of(&self, node: &Hostname) -> Answer<Vec<Vm>> {
        // Names are late in the list of the whole cluster. Tags are not, and a clone that is not
        // configured yet has none of a node.
        let own = tags::of_node(node);
        let of_another = |tag: &String| tags::node_of(tag).is_some() && *tag != own;
        let mut found = self.seen(|entry| !entry.tags().iter().any(of_another))?;
        found.retain(|vm| vm.name == node.as_str());
        Ok(found)
    }

    fn look(&self, place: &Place) -> Answer<Found> {
        match self.client.find_config(place.host.as_str(), place.vmid)? {
            Some(config) if config.is_template() => Ok(Found::Hidden),
            Some(config) => self.vm(place.clone(), &config).map(Found::Vm),
            None if self.client.is_free(place.vmid)? => Ok(Found::Free),
            None => Ok(Found::Hidden),
        }
    }

    fn number(&self, node: &Member, never: &BTreeSet<u32>) -> Answer<u32> {
        let taken: BTreeSet<u32> = self.client.vms()?.iter().map(VmEntry::id).collect();
        let own = self.spec(node)?.vmid.get();
        let others =
            || self.cluster.nodes.iter().any(|n| n.name != node.name && n.vmid.get() == own);
        let own = (!others()).then_some(own);
        let spares = self.cluster.proxmox.spare_ids();
        let nodes: BTreeSet<u32> = self.cluster.nodes.iter().map(|n| n.vmid.get()).collect();
        let spares = spares.filter(|id| !nodes.contains(id));
        for id in own.into_iter().chain(spares) {
            if !taken.contains(&id) && !never.contains(&id) && self.client.is_free(id)? {
                return Ok(id);
            }
        }
        let (first, last) = self.cluster.proxmox.spares;
        Err(Failed::Never(format!(
            "no number from {first} to {last} is free; widen proxmox.spares in cluster.toml"
        )))
    }

    fn clone_vm(&self, from: &Template, to: &Place, node: &Member) -> Answer<()> {
        let (host, name) = (to.host.as_str(), node.name.as_str());
        if let Some(config) = self.client.find_config(host, to.vmid)? {
            let same = config.get("name") == name
                && tags::image(&config.tags()).as_ref() == Some(&from.image);
            return match config.get("lock") {
                "" if same => Ok(()),
                lock if same => Err(Failed::Later(locked(to, lock))),
                _ => Err(Failed::Taken(format!("{to} is `{}`", config.get("name")))),
            };
        }
        let source = (from.place.host.as_str(), from.place.vmid);
        let place = self.cluster.proxmox.on(host);
        let full = self.cluster.proxmox.full_clones || !self.client.can_link(source.0, source.1)?;
        let clone = Clone {
            from: source,
            vmid: to.vmid,
            name,
            pool: self.cluster.proxmox.pool.as_deref(),
            full: full.then_some(place.storage.as_str()),
        };
        Ok(self.client.clone_vm(&clone).map(drop)?)
    }

    fn configure(&self, vm: &Place, node: &Member) -> Answer<()> {
        let config = self.own_there(vm)?;
        let (host, spec) = (vm.host.as_str(), self.spec(node)?);
        if machine::is_configured(self.cluster, spec, &config) {
            return Ok(());
        }
        let settings = machine::settings(self.cluster, spec, &config);
        self.client.set_config(host, vm.vmid, &settings, &[])?;
        self.client.grow(host, vm.vmid, machine::DISK, spec.vm.disk.bytes())?;
        Ok(())
    }

    fn start(&self, vm: &Place) -> Answer<()> {
        self.own_there(vm)?;
        Ok(self.client.start(vm.host.as_str(), vm.vmid).map(drop)?)
    }

    fn stop(&self, vm: &Place, how: Off) -> Answer<()> {
        self.own_there(vm)?;
        let host = vm.host.as_str();
        match how {
            Off::Hard => Ok(self.client.stop(host, vm.vmid).map(drop)?),
            Off::Clean => Ok(self.client.ask_to_end(host, vm.vmid, END)?),
        }
    }

    fn set_aside(&self, vm: &Place, aside: bool) -> Answer<()> {
        let config = self.own_there(vm)?;
        let onboot = super::parse::flag_of(config.get("onboot"));
        if machine::is_linked(&config) != aside && onboot != aside {
            return Ok(());
        }
        let onboot = u8::from(!aside).to_string();
        let card = machine::with_link(&config, !aside);
        let settings = [(machine::CARD.to_owned(), card), ("onboot".to_owned(), onboot)];
        Ok(self.client.set_config(vm.host.as_str(), vm.vmid, &settings, &[]).map(drop)?)
    }

    fn destroy(&self, vm: &Place) -> Answer<()> {
        if self.own(vm)?.is_none() {
            return Ok(());
        }
        Ok(self.client.delete_vm(vm.host.as_str(), vm.vmid).map(drop)?)
    }

    fn deliver(&self, vm: &Place, node: &Member, entry: Entry, way: Way) -> Answer<()> {
        self.hand_over(vm, node, entry, way)
    }

    fn has_secret(&self, node: &Member) -> Answer<bool> {
        self.holds_secret(node)
    }

    fn sweep(&self, node: &Member) -> Answer<()> {
        self.sweep_secret(node)
    }

    fn mark_bad(&self, image: &ImageId) -> Answer<()> {
        let inventory = Inventory::read(self.client, self.cluster)?;
        inventory.set_quarantined(self.client, self.cluster, image, true)?;
        Ok(())
    }
}

impl Client {
    /// Asks the guest to end and does not wait for it; one that is off, or was asked already, is left
    /// alone. Proxmox gives up after `limit`.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn ask_to_end(&self, host: &str, vmid: u32, limit: Duration) -> Result<(), Error> {
        if self.current(host, vmid)?.status == "stopped" || self.is_ending(host, vmid)? {
            return Ok(());
        }
        let path = format!("/nodes/{host}/qemu/{vmid}/status/shutdown");
        let request = Request::new(Method::Post, path).with("timeout", &limit.as_secs());
        self.call(&request).map(drop)
    }

    fn is_ending(&self, host: &str, vmid: u32) -> Result<bool, Error> {
        let request = Request::new(Method::Get, format!("/nodes/{host}/tasks"))
            .with("typefilter", "qmshutdown")
            .with("source", "active")
            .with("vmid", &vmid);
        let running = self.call(&request)?;
        Ok(running.as_array().is_some_and(|tasks| !tasks.is_empty()))
    }
}

/// A node of the cluster's file as the engine knows it.
pub fn member(node: &NodeSpec, role: node::config::Role) -> Option<Member> {
    let profile: Hostname = node.profile.parse().ok()?;
    Some(Member { name: node.name.clone(), profile, role, host: node.host.clone() })
}
