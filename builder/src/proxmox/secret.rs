//! How a node gets its join secret (D10): by the guest's agent into memory, or on a second drive where
//! the agent cannot be used; and how nothing of it is left anywhere.

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use fs_err as fs;
use node::config::Role;
use node::join::{Bootstrap, DRIVE, FILE, FOLDER, Join};
use node::values::Digest;

use super::calls::VmEntry;
use super::life::Vms;
use super::transport::Upload;
use super::{iso, machine};
use crate::life::{Answer, Entry, Failed, Hypervisor as _, Member, Off, Place, Way};
use crate::secrets::random_text;

/// How long an agent's token is good: a boot under emulation takes minutes.
const TTL: Duration = Duration::from_hours(1);
/// Start of the names of our drives. The parts after it have no `_`, so that `w1` is not the start
/// of `w1-a`.
const PREFIX: &str = "firstboot_";
/// Letters that no other drive of the same node has.
const UNIQUE: usize = 12;
/// How Proxmox begins what the guest's agent says.
const GUEST: &str = "Agent error";
/// Memory that looks like a folder: what lies there never reaches a disk.
const MEMORY: &str = "/dev/shm";

impl Vms<'_> {
    pub(super) fn hand_over(
        &self,
        vm: &Place,
        node: &Member,
        entry: Entry,
        way: Way,
    ) -> Answer<()> {
        self.own_there(vm)?;
        match way {
            Way::Agent => {
                // Before a token is made for nothing.
                if !self.client.agent_answers(vm.host.as_str(), vm.vmid)? {
                    return Err(Failed::Later(format!("the agent of {vm} does not answer yet")));
                }
                let payload = self.payload(node, entry)?;
                let text = String::from_utf8(payload).map_err(|_| never("it is no text"))?;
                let file = format!("/{FOLDER}/{FILE}");
                let written = self.client.agent_write(vm.host.as_str(), vm.vmid, &file, &text);
                written.map_err(|error| match &error.text {
                    // The guest's own words: early in its boot the folder is not there yet.
                    text if text.contains(GUEST) => Failed::Later(error.to_string()),
                    _ => error.into(),
                })
            }
            Way::Drive => self.attach(vm, node, entry),
        }
    }

    /// The bytes that a node is given.
    ///
    /// # Errors
    /// The secrets were not opened, or the cluster's API makes no token.
    pub fn payload(&self, node: &Member, entry: Entry) -> Answer<Vec<u8>> {
        self.join(node, entry)?.encode().map_err(|e| never(&e.to_string()))
    }

    fn join(&self, node: &Member, entry: Entry) -> Answer<Join> {
        let escrow = self.escrow.ok_or_else(|| never("cluster/secrets.age was not opened"))?;
        let token = match (node.role, self.kube) {
            (Role::Agent, Some(kube)) => {
                Some(kube.make_token(node.name.as_str(), TTL, escrow.ca_hash.or(self.ca))?.text)
            }
            _ => None,
        };
        let bootstrap = match entry {
            Entry::Bootstrap if self.cluster.nfs.is_empty() => Bootstrap::Unrecorded,
            Entry::Bootstrap => Bootstrap::Once,
            // A sole server restores by itself: the permission is for one of several.
            Entry::Restore if self.servers > 1 => Bootstrap::Restore,
            Entry::Join | Entry::Restore => Bootstrap::No,
        };
        let mut join = escrow.join(&node.name, node.role, token, bootstrap);
        if node.role == Role::Server && self.servers > 1 && entry == Entry::Join {
            // Who joins asks the others to prove that they have the CA that its token names.
            let hash = escrow.ca_hash.or(self.ca).ok_or_else(|| {
                never("the cluster's CA is not known yet; name its credentials with --kubeconfig")
            })?;
            join.token = format!("K10{hash}::server:{}", join.token);
        }
        Ok(join)
    }

    /// Puts a drive with the secret into a VM. An IDE drive cannot be added to one that runs, so that
    /// is turned off for it: it waits for the secret and has nothing to lose.
    fn attach(&self, vm: &Place, node: &Member, entry: Entry) -> Answer<()> {
        let host = vm.host.as_str();
        let storage = self.drives(host)?;
        let there = self.own_there(vm)?;
        let mine = format!("{storage}:iso/{}", self.prefix(node));
        if there.get(machine::DRIVE).starts_with(&mine) {
            return self.start(vm);
        }
        let volume = self.upload(host, &storage, node, &self.payload(node, entry)?)?;
        let drive = (machine::DRIVE.to_owned(), format!("{volume},media=cdrom"));
        self.stop(vm, Off::Hard)?;
        self.client.set_config(host, vm.vmid, &[drive], &[])?;
        self.start(vm)
    }

    /// The storage that takes drives on a host.
    fn drives(&self, host: &str) -> Answer<String> {
        let name = &self.cluster.proxmox.on(host).import_storage;
        let all = self.client.storages(host)?;
        if all.iter().any(|s| s.storage == *name && s.holds("iso")) {
            return Ok(name.clone());
        }
        Err(Failed::Never(format!(
            "the agent does not answer, and {name} on {host} takes no drives: `pvesm set {name} \
             --content …,iso`"
        )))
    }

    fn prefix(&self, node: &Member) -> String {
        format!("{PREFIX}{}_{}_", self.cluster.name, node.name)
    }

    /// Uploads a drive; its volume.
    fn upload(&self, host: &str, storage: &str, node: &Member, payload: &[u8]) -> Answer<String> {
        let error = |e: &dyn std::fmt::Display| never(&e.to_string());
        let bytes = iso::image(DRIVE, FILE, payload).map_err(|e| error(&e))?;
        let unique = random_text(UNIQUE).map_err(|e| error(&e))?;
        let mut file = in_memory().map_err(|e| error(&e))?;
        file.write_all(&bytes).map_err(|e| error(&e))?;
        let upload = Upload {
            endpoint: self.cluster.proxmox.on(host).endpoint.clone(),
            node: host.to_owned(),
            storage: storage.to_owned(),
            content: "iso",
            name: format!("{}{unique}.iso", self.prefix(node)),
            file: file.path().to_owned(),
            bytes: bytes.len() as u64,
            sha256: Digest::of(&bytes),
        };
        self.client.upload(&upload)?;
        Ok(upload.volume())
    }

    /// Drives of a node: on which host, which storage, their volumes.
    fn volumes(&self, node: &Member) -> Answer<Vec<(String, String, String)>> {
        let prefix = self.prefix(node);
        let mut found = Vec::new();
        for host in self.client.hosts()?.iter().filter(|host| host.status != "offline") {
            let storage = &self.cluster.proxmox.on(&host.node).import_storage;
            let seen = self.client.storages(&host.node)?;
            if !seen.iter().any(|s| s.storage == *storage && s.holds("iso")) {
                continue;
            }
            let start = format!("{storage}:iso/{prefix}");
            let volumes = self.client.volumes(&host.node, storage, "iso")?;
            let own = volumes.into_iter().filter(|volume| volume.volid.starts_with(&start));
            found.extend(own.map(|v| (host.node.clone(), storage.clone(), v.volid)));
        }
        Ok(found)
    }

    pub(super) fn holds_secret(&self, node: &Member) -> Answer<bool> {
        let tokens = self.kube.map_or(Ok(vec![]), |kube| kube.tokens_of(node.name.as_str()))?;
        Ok(!tokens.is_empty() || !self.volumes(node)?.is_empty())
    }

    pub(super) fn sweep_secret(&self, node: &Member) -> Answer<()> {
        let volumes = self.volumes(node)?;
        if !volumes.is_empty() {
            self.eject(node)?;
        }
        for (host, storage, volid) in &volumes {
            self.client.delete_volume(host, storage, volid)?;
        }
        let Some(kube) = self.kube else { return Ok(()) };
        kube.tokens_of(node.name.as_str())?.iter().try_for_each(|id| kube.delete_token(id))
    }

    /// Takes the node's drives out of its VMs.
    fn eject(&self, node: &Member) -> Answer<()> {
        let prefix = format!("iso/{}", self.prefix(node));
        let is_ours = |entry: &VmEntry| super::tags::is_of(&entry.tags(), &self.cluster.name);
        for entry in self.client.vms()?.into_iter().filter(is_ours) {
            let config = self.client.find_config(&entry.node, entry.id())?;
            if config.is_some_and(|c| c.get(machine::DRIVE).contains(&prefix)) {
                let empty = [(machine::DRIVE.to_owned(), "none,media=cdrom".to_owned())];
                self.client.set_config(&entry.node, entry.id(), &empty, &[])?;
            }
        }
        Ok(())
    }
}

fn never(text: &str) -> Failed {
    Failed::Never(format!("the join secret cannot be made: {text}"))
}

/// A file of our own that lies in memory, where the system has such a place.
fn in_memory() -> std::io::Result<tempfile::NamedTempFile> {
    let memory = Path::new(MEMORY);
    let folder = if fs::metadata(memory).is_ok_and(|m| m.is_dir()) {
        memory.to_owned()
    } else {
        std::env::temp_dir()
    };
    tempfile::Builder::new().prefix(".builder-").tempfile_in(folder)
}
