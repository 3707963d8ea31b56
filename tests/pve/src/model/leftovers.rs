//! What is still there: for tests that must leave nothing behind.

use std::collections::BTreeSet;

use super::World;

/// Names of things by kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Leftovers {
    /// VMs that are no templates.
    pub vms: Vec<u32>,
    /// Templates.
    pub templates: Vec<u32>,
    /// Disks that no VM names.
    pub orphans: Vec<String>,
    /// Uploaded images.
    pub images: Vec<String>,
    /// ISO files.
    pub isos: Vec<String>,
    /// Files of refused uploads in `/var/tmp`.
    pub uploads: Vec<String>,
    /// VMs with a lock, and which.
    pub locks: Vec<(u32, String)>,
    /// Files that the agent wrote into running VMs.
    pub secrets: Vec<(u32, String)>,
    /// Tasks that still run.
    pub tasks: Vec<String>,
}

impl World {
    /// All that is there now.
    pub fn leftovers(&self) -> Leftovers {
        let (templates, vms) = self.vms.keys().partition(|id| self.vms[id].is_template());
        let named: BTreeSet<String> = self
            .vms
            .values()
            .flat_map(super::Vm::drives)
            .filter_map(|(_, keys)| keys.get("file").cloned())
            .collect();
        let volumes = self.storages.iter().flat_map(|(storage, content)| {
            content
                .volumes
                .iter()
                .map(move |(name, volume)| (format!("{storage}:{name}"), volume.content.as_str()))
        });
        let mut found = Leftovers { vms, templates, ..Leftovers::default() };
        for (id, content) in volumes {
            match content {
                "iso" => found.isos.push(id),
                "import" => found.images.push(id),
                _ if named.contains(&id) => {}
                _ => found.orphans.push(id),
            }
        }
        found.uploads = self.uploads.keys().cloned().collect();
        let locked = self.vms.iter().filter_map(|(id, vm)| Some((*id, vm.get("lock")?.to_owned())));
        found.locks = locked.collect();
        let runs = self.vms.iter().filter_map(|(id, vm)| Some((*id, vm.run.as_ref()?)));
        found.secrets = runs
            .flat_map(|(id, run)| run.files.keys().map(move |name| (id, name.clone())))
            .collect();
        let running = self.tasks.iter().filter(|task| task.exit.is_none());
        found.tasks = running.map(|task| task.upid.clone()).collect();
        found
    }
}
