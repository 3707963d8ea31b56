//! A "running" VM of the model can be a real machine: whoever implements [`Machine`] is told of each
//! start and stop and answers for the guest agent.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Result;
use serde_json::Value;

use crate::model::{Config, SeedFiles, World};

/// What a machine needs to start.
#[derive(Debug, Clone)]
pub struct Start {
    /// The VM.
    pub vmid: u32,
    /// Its settings: memory, cores, network cards with addresses …
    pub config: Config,
    /// The contents of its cloud-init drive.
    pub seed: SeedFiles,
    /// Whether it has one.
    pub has_seed: bool,
    /// Its disks in the order of their names; empty disks and firmware stores are left out.
    pub disks: BTreeMap<String, Disk>,
}

impl Start {
    /// A setting.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.config.get(key).map(String::as_str)
    }

    /// What no other VM has, also none of the same number.
    pub fn uuid(&self) -> Option<String> {
        crate::table::TABLE.split("smbios", self.get("smbios1")?).remove("uuid")
    }
}

/// A disk of a machine that starts.
#[derive(Debug, Clone)]
pub struct Disk {
    /// The volume (`disks:101/vm-101-disk-0.qcow2`): the same bytes for as long as its VM lives.
    pub volume: String,
    /// The image it was imported or cloned from; not to be written to.
    pub base: PathBuf,
    /// `qcow2` or `raw`: the format of `base`.
    pub format: String,
    /// The size the guest must see.
    pub size: u64,
}

/// Runs VMs for real.
pub trait Machine: Send + std::fmt::Debug {
    /// The VM starts.
    ///
    /// # Errors
    /// The start's task fails with the text.
    fn start(&mut self, start: &Start) -> Result<()>;
    /// The VM stops; a machine that stands already is no error.
    fn stop(&mut self, vmid: u32);
    /// The guest is asked to end, as by its power button.
    ///
    /// # Errors
    /// It cannot be asked.
    fn press_power(&mut self, vmid: u32) -> Result<()>;
    /// Whether the machine is on: a guest may turn itself off.
    fn runs(&mut self, vmid: u32) -> bool;
    /// The agent answers.
    ///
    /// # Errors
    /// It does not, yet.
    fn ping(&mut self, vmid: u32) -> Result<()>;
    /// The agent writes a file.
    ///
    /// # Errors
    /// The agent's words.
    fn write_file(&mut self, vmid: u32, name: &str, content: &[u8]) -> Result<()>;
    /// The agent's list of interfaces, as the agent gives it.
    ///
    /// # Errors
    /// The agent's words.
    fn interfaces(&mut self, vmid: u32) -> Result<Value>;
}

impl World {
    pub(crate) fn disk_files(&self, vmid: u32) -> BTreeMap<String, Disk> {
        let drives = self.vms.get(&vmid).into_iter().flat_map(crate::model::Vm::drives);
        let disks = drives.filter_map(|(key, keys)| {
            let file = keys.get("file")?;
            let (storage, name) = crate::model::drive::volume(file)?;
            let volume = self.storages.get(storage)?.volumes.get(name)?;
            let base = volume.file.clone()?;
            let format = base.extension()?.to_str()?.to_owned();
            Some((key.clone(), Disk { volume: file.clone(), base, format, size: volume.size }))
        });
        disks.collect()
    }
}
