//! A VM: settings, what waits for its next start, and what runs.

use std::collections::BTreeMap;

use super::cloudinit::SeedFiles;
use super::drive;
use super::{Statistic, World};

/// Settings as in the configuration file.
pub type Config = BTreeMap<String, String>;

/// A VM.
#[derive(Debug, Clone, Default)]
pub struct Vm {
    /// The node it is on.
    pub node: String,
    /// Settings in force, `lock` and `template` among them.
    pub config: Config,
    /// Settings that wait for the next start; none deletes.
    pub pending: BTreeMap<String, Option<String>>,
    /// While it runs.
    pub run: Option<Run>,
    /// What the cloud-init drive holds since it was last written.
    pub seed: Option<SeedFiles>,
    /// The settings that the cloud-init drive was written with.
    pub seeded: Option<Config>,
    /// Names of its snapshots.
    pub snapshots: Vec<String>,
}

/// A running VM.
#[derive(Debug, Clone, Default)]
pub struct Run {
    /// Virtual time of the start.
    pub since: u64,
    /// Virtual time from which its agent answers; none for never.
    pub agent_at: Option<u64>,
    /// Virtual time from which it has its address; none for never.
    pub address_at: Option<u64>,
    /// Files that the agent wrote, which are gone with the next stop.
    pub files: BTreeMap<String, Vec<u8>>,
}

/// What can be changed on a running VM at once; all else waits.
const AT_ONCE: [&str; 16] = [
    "name",
    "description",
    "tags",
    "onboot",
    "protection",
    "startup",
    "shares",
    "hookscript",
    "ciuser",
    "cipassword",
    "citype",
    "cicustom",
    "ciupgrade",
    "sshkeys",
    "nameserver",
    "searchdomain",
];

impl Vm {
    /// A setting.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.config.get(key).map(String::as_str)
    }

    /// Whether it is a template.
    pub fn is_template(&self) -> bool {
        self.get("template") == Some("1")
    }

    /// Whether the agent is switched on.
    pub fn has_agent(&self) -> bool {
        let keys = self.get("agent").map(|text| crate::table::TABLE.split("agent", text));
        keys.is_some_and(|keys| {
            ["1", "on", "yes", "true"].contains(&keys.get("enabled").map_or("", String::as_str))
        })
    }

    /// Proxmox' check before most changes.
    ///
    /// # Errors
    /// The lock's name in Proxmox' words.
    pub(crate) fn check_lock(&self) -> Result<(), String> {
        match self.get("lock") {
            Some(lock) => Err(format!("VM is locked ({lock})")),
            None => Ok(()),
        }
    }

    /// SHA-1 over all settings: changes whenever one does.
    pub fn digest(&self) -> String {
        let mut hash = sha1_smol::Sha1::new();
        for (key, value) in &self.config {
            hash.update(format!("{key}: {value}\n").as_bytes());
        }
        for (key, value) in &self.pending {
            hash.update(format!("pending {key}: {value:?}\n").as_bytes());
        }
        hash.digest().to_string()
    }

    /// Settings as after the next start.
    pub fn merged(&self) -> Config {
        let mut config = self.config.clone();
        for (key, value) in &self.pending {
            match value {
                Some(value) => drop(config.insert(key.clone(), value.clone())),
                None => drop(config.remove(key)),
            }
        }
        config
    }

    /// Sets or deletes at once, or for the next start when the VM runs.
    pub(crate) fn set(&mut self, key: &str, value: Option<String>) {
        if self.run.is_some() && waits(key) {
            if self.config.get(key) == value.as_ref() {
                self.pending.remove(key);
            } else {
                self.pending.insert(key.to_owned(), value);
            }
            return;
        }
        match value {
            Some(value) => drop(self.config.insert(key.to_owned(), value)),
            None => drop(self.config.remove(key)),
        }
        self.pending.remove(key);
    }

    /// What waits comes into force.
    pub(crate) fn apply_pending(&mut self) {
        self.config = self.merged();
        self.pending.clear();
    }

    /// Drives with their keys, by name.
    pub(crate) fn drives(&self) -> impl Iterator<Item = (&String, drive::Keys)> {
        let drives = self.config.iter().filter(|(key, _)| drive::is_drive(key));
        drives.map(|(key, text)| (key, drive::parse(key, text)))
    }

    pub(super) fn statistic(&self) -> Statistic {
        Statistic {
            name: self.get("name").unwrap_or_default().to_owned(),
            running: self.run.is_some(),
            template: self.is_template(),
        }
    }
}

fn waits(key: &str) -> bool {
    let hot = drive::is_net(key)
        || key.starts_with("ipconfig")
        || drive::is_drive(key) && !key.starts_with("efi");
    !hot && !AT_ONCE.contains(&key)
}

impl World {
    /// A VM on a node.
    ///
    /// # Errors
    /// Proxmox' words for a missing configuration.
    pub(crate) fn vm(&self, node: &str, vmid: u32) -> Result<&Vm, String> {
        let vm = self.vms.get(&vmid).filter(|vm| vm.node == node);
        vm.ok_or_else(|| {
            format!("Configuration file 'nodes/{node}/qemu-server/{vmid}.conf' does not exist")
        })
    }

    /// The drive's files for the settings of now.
    pub(crate) fn seed_of(&self, vmid: u32) -> SeedFiles {
        let config = self.vms.get(&vmid).map(Vm::merged).unwrap_or_default();
        SeedFiles::of(vmid, &config, (&[], None))
    }
}
