//! Storages and volumes: names, parents and room by type.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::Deserialize;

use crate::setup::StorageSetup;

/// What a storage is made of; it decides names, linked clones and what a used base refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StorageKind {
    /// A folder.
    Dir,
    /// A folder on a file server.
    Nfs,
    /// Thick LVM: no linked clones.
    Lvm,
    /// Thin LVM: a base with clones can be deleted.
    LvmThin,
    /// ZFS.
    ZfsPool,
    /// Ceph.
    Rbd,
}

impl StorageKind {
    /// Files with formats, in folders by VM.
    pub fn has_files(self) -> bool {
        matches!(self, Self::Dir | Self::Nfs)
    }

    /// As the API writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dir => "dir",
            Self::Nfs => "nfs",
            Self::Lvm => "lvm",
            Self::LvmThin => "lvmthin",
            Self::ZfsPool => "zfspool",
            Self::Rbd => "rbd",
        }
    }

    /// Whether a base volume can have linked clones.
    pub fn clones(self) -> bool {
        self != Self::Lvm
    }

    /// Whether a base with clones refuses to be deleted, which also shows in the clones' names.
    pub fn keeps_bases(self) -> bool {
        !matches!(self, Self::Lvm | Self::LvmThin)
    }
}

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// `images`, `import`, `iso`, `vztmpl`.
    pub content: String,
    /// `qcow2`, `raw`, `iso` …
    pub format: String,
    /// Size the guest sees, or of the file.
    pub size: u64,
    /// Room it takes.
    pub used: u64,
    /// The VM it belongs to.
    pub vmid: Option<u32>,
    /// The base it is a linked clone of, by name in the same storage.
    pub parent: Option<String>,
    /// Its bytes on this machine: what was uploaded, or what it was imported or cloned from.
    pub file: Option<PathBuf>,
    /// Seconds since 1970.
    pub ctime: u64,
}

/// A storage.
#[derive(Debug, Clone)]
pub struct Storage {
    /// What it is made of.
    pub kind: StorageKind,
    /// Content types.
    pub content: BTreeSet<String>,
    /// Bytes in all.
    pub total: u64,
    /// Only on these nodes; none: on all.
    pub nodes: Vec<String>,
    /// Whether all nodes see the same.
    pub shared: bool,
    /// Whether it is switched on.
    pub enabled: bool,
    /// By the part of the id after the colon.
    pub volumes: BTreeMap<String, Volume>,
}

impl Storage {
    pub(crate) fn new(setup: &StorageSetup) -> Self {
        Self {
            kind: setup.kind,
            content: setup.content.iter().cloned().collect(),
            total: setup.total,
            nodes: setup.nodes.clone(),
            shared: setup.shared,
            enabled: setup.enabled,
            volumes: BTreeMap::new(),
        }
    }

    /// Whether the node sees it.
    pub fn on(&self, node: &str) -> bool {
        self.nodes.is_empty() || self.nodes.iter().any(|name| name == node)
    }

    /// Room taken.
    pub fn used(&self) -> u64 {
        self.volumes.values().map(|volume| volume.used).sum()
    }

    /// Room left.
    pub fn avail(&self) -> u64 {
        self.total.saturating_sub(self.used())
    }

    /// The name of a disk: `9000/vm-9000-disk-0.qcow2`, or `vm-9000-disk-0` without files.
    pub fn disk_name(&self, vmid: u32, what: &str, format: &str) -> String {
        match (self.kind.has_files(), format) {
            (false, _) => format!("vm-{vmid}-{what}"),
            (true, format) => format!("{vmid}/vm-{vmid}-{what}.{format}"),
        }
    }

    /// The first `disk-N` that is free for this VM.
    pub fn free_disk(&self, vmid: u32, format: &str) -> String {
        let stem = |name: &str| {
            let file = name.rsplit('/').next().unwrap_or(name);
            file.split('.').next().unwrap_or(file).to_owned()
        };
        let taken: BTreeSet<String> = self.volumes.keys().map(|name| stem(name)).collect();
        let free = |number: &u32| {
            !taken.contains(&format!("vm-{vmid}-disk-{number}"))
                && !taken.contains(&format!("base-{vmid}-disk-{number}"))
        };
        let number = (0..=u32::MAX).find(free).unwrap_or_default();
        self.disk_name(vmid, &format!("disk-{number}"), format)
    }

    /// The format a new disk has when none is asked for.
    pub fn format<'a>(&self, asked: Option<&'a str>) -> &'a str {
        if self.kind.has_files() { asked.unwrap_or("raw") } else { "raw" }
    }

    /// Linked clones of a base.
    pub fn clones_of(&self, base: &str) -> usize {
        self.volumes.values().filter(|volume| volume.parent.as_deref() == Some(base)).count()
    }
}
