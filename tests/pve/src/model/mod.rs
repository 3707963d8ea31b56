//! What stands behind the calls: nodes, storages, VMs, tasks, and time that passes over them.

pub(crate) mod cloudinit;
pub(crate) mod drive;
mod guest;
mod leftovers;
mod storage;
mod task;
mod vm;
mod work;
mod work_clone;
mod work_disks;
mod work_import;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;

use serde::Deserialize;

use crate::access::{Access, Pools};
use crate::clock::Clock;
use crate::fault::Faults;
use crate::hook::Machine;
use crate::setup::{NodeSetup, Setup};

pub use cloudinit::SeedFiles;
pub use leftovers::Leftovers;
pub use storage::{Storage, StorageKind, Volume};
pub use task::Task;
pub(crate) use task::{TaskFault, vm_lock_text};
pub use vm::{Config, Run, Vm};
pub(crate) use work::{Copy, Import, Work};

/// Who may set tags.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TagAccess {
    /// Whoever may change the VM.
    Free,
    /// Nobody without `Sys.Modify` on `/`.
    None,
    /// Tags that some VM has.
    Existing,
    /// These.
    List(Vec<String>),
}

/// A file that an upload left in `/var/tmp` of a node.
#[derive(Debug, Clone)]
pub struct Upload {
    /// The node that took it.
    pub node: String,
    /// Its bytes on this machine.
    pub file: PathBuf,
    /// Size in bytes.
    pub size: u64,
}

/// One request as it was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The call of the table, or method and path of one outside it.
    pub on: String,
    /// The decoded path.
    pub path: String,
    /// The answer's status; 0 for a connection closed without one.
    pub status: u16,
}

/// Somebody who is told of each request.
pub(crate) struct Watcher(pub Box<dyn FnMut(&Seen) + Send>);

impl std::fmt::Debug for Watcher {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Watcher")
    }
}

/// What the statistics daemon last saw of a VM.
#[derive(Debug, Clone)]
pub(crate) struct Statistic {
    pub name: String,
    pub running: bool,
    pub template: bool,
}

/// The whole model. A test may read and change all that is public.
#[derive(Debug)]
pub struct World {
    /// What it started with.
    pub setup: Setup,
    /// Virtual time.
    pub clock: Clock,
    /// By name.
    pub nodes: BTreeMap<String, NodeSetup>,
    /// By name.
    pub storages: BTreeMap<String, Storage>,
    /// By id.
    pub vms: BTreeMap<u32, Vm>,
    /// Pools and the VMs in them.
    pub pools: Pools,
    /// Tokens and rights.
    pub access: Access,
    /// All tasks, oldest first.
    pub tasks: Vec<Task>,
    /// Files in `/var/tmp` by name.
    pub uploads: BTreeMap<String, Upload>,
    /// The script of faults.
    pub faults: Faults,
    /// All requests so far.
    pub seen: Vec<Seen>,
    /// Requests and parameters that the project's table does not have.
    pub outside: Vec<String>,
    /// Who may set which tags.
    pub tag_access: TagAccess,
    /// Tags that need `Sys.Modify`.
    pub registered_tags: BTreeSet<String>,
    /// Locks of VMs held by something outside, until that virtual time.
    pub held_vm_locks: BTreeMap<u32, u64>,
    /// Locks of storages held by something outside, until that virtual time.
    pub held_storage_locks: BTreeMap<String, u64>,
    /// Where bytes of volumes lie on this machine.
    pub folder: PathBuf,
    /// Fingerprint (SHA-256, colons) and PEM of the certificate, then of the CA.
    pub(crate) certificates: [(String, String); 2],
    pub(crate) machine: Option<Box<dyn Machine>>,
    pub(crate) watcher: Option<Watcher>,
    pub(crate) statistics: BTreeMap<u32, Statistic>,
    pub(crate) statistics_at: u64,
    pub(crate) counter: u64,
    /// The effect that the running call's task shall suffer.
    pub(crate) task_fault: Option<TaskFault>,
}

impl World {
    pub(crate) fn new(setup: Setup, folder: PathBuf, certificates: [(String, String); 2]) -> Self {
        let storages =
            setup.storages.iter().map(|(name, storage)| (name.clone(), Storage::new(storage)));
        Self {
            clock: Clock::new(setup.pace),
            nodes: setup.nodes.clone(),
            storages: storages.collect(),
            vms: BTreeMap::new(),
            pools: setup.pools.iter().map(|name| (name.clone(), BTreeSet::new())).collect(),
            access: Access::new(&setup),
            tasks: Vec::new(),
            uploads: BTreeMap::new(),
            faults: Faults::default(),
            seen: Vec::new(),
            outside: Vec::new(),
            tag_access: setup.tag_access.clone(),
            registered_tags: setup.registered_tags.iter().cloned().collect(),
            held_vm_locks: BTreeMap::new(),
            held_storage_locks: BTreeMap::new(),
            folder,
            certificates,
            machine: None,
            watcher: None,
            statistics: BTreeMap::new(),
            statistics_at: 0,
            counter: 0,
            task_fault: None,
            setup,
        }
    }

    /// A number that was not given before.
    pub(crate) fn number(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    /// Sixteen bytes that look random and are the same in each run.
    fn noise(&mut self) -> [u8; 20] {
        let number = self.number();
        sha1_smol::Sha1::from(format!("pve-double {number}")).digest().bytes()
    }

    /// A new address in Proxmox' range.
    pub(crate) fn new_mac(&mut self) -> String {
        let noise = self.noise();
        format!("BC:24:11:{:02X}:{:02X}:{:02X}", noise[0], noise[1], noise[2])
    }

    /// A new UUID.
    pub(crate) fn new_uuid(&mut self) -> String {
        let noise = self.noise();
        let hex = hex(&noise[..16]);
        format!(
            "{}-{}-4{}-8{}-{}",
            &hex[..8],
            &hex[8..12],
            &hex[13..16],
            &hex[17..20],
            &hex[20..32]
        )
    }

    /// A name in the upload folder that was not there before.
    pub(crate) fn new_upload_name(&mut self) -> String {
        let noise = self.noise();
        let hex = hex(&noise[..16]);
        format!("/var/tmp/pveupload-{hex}")
    }

    /// Lets all that is due happen: tasks in the order of their ends, then the statistics.
    pub fn settle(&mut self) {
        self.notice_ends();
        let now = self.clock.now();
        while let Some(index) = self.next_due(now) {
            self.run_task(index);
        }
        if now >= self.statistics_at {
            self.statistics_at = now + self.setup.delays.statistics;
            self.statistics = self.vms.iter().map(|(id, vm)| (*id, vm.statistic())).collect();
        }
    }

    /// How long a task of this type takes.
    pub(crate) fn duration(&self, kind: &str) -> u64 {
        let delays = &self.setup.delays;
        delays.tasks.get(kind).copied().unwrap_or(delays.task)
    }
}

/// Bytes as lower-case digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
