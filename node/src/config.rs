//! What `builder` bakes into an image for `firstboot` to read: the node's role and the facts of
//! its cluster. No secret is ever part of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Result, anyhow};
use serde::{Deserialize, Serialize};

use crate::image_id::ImageId;
use crate::json;
use crate::values::{Cidr, Domain, Hostname};

/// Where the file lies in an image, relative to its root.
pub const PATH: &str = "usr/lib/firstboot/node.json";

/// Version of this file's shape. A firstboot refuses any other: both come from one build.
pub const SCHEMA: u32 = 1;

/// Whether a node runs the control plane or joins one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Runs `k3s server`.
    Server,
    /// Runs `k3s agent`.
    Agent,
}

impl Role {
    /// The K3s subcommand, and the name used in paths.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Agent => "agent",
        }
    }

    /// The systemd unit that runs K3s in this role.
    pub const fn unit(self) -> &'static str {
        match self {
            Self::Server => "k3s.service",
            Self::Agent => "k3s-agent.service",
        }
    }
}

/// The baked configuration of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The image this file is part of.
    pub image_id: ImageId,
    /// Build time floor in seconds since 1970 (`SOURCE_DATE_EPOCH`): no clock may be earlier.
    pub built_at: i64,
    /// Server or agent.
    pub role: Role,
    /// Version of K3s in the image, such as `v1.36.4+k3s1`.
    pub k3s_version: String,
    /// Labels of the profile, given to the kubelet at registration.
    pub labels: BTreeMap<String, String>,
    /// Taints of the profile (`key=value:Effect`), given to the kubelet at registration.
    pub taints: Vec<String>,
    /// The cluster the image is made for.
    pub cluster: ClusterFacts,
}

/// Facts of the cluster, as `cluster/cluster.toml` gives them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterFacts {
    /// Short name of the cluster.
    pub name: Hostname,
    /// DNS domain of its services.
    pub domain: Domain,
    /// Address of the Kubernetes API: the master, or a virtual IP.
    pub api: Ipv4Addr,
    /// The nodes' LAN.
    pub network: Cidr,
    /// Default gateway of the nodes.
    pub gateway: Ipv4Addr,
    /// Every node the cluster may have.
    pub nodes: Vec<NodeFact>,
    /// NFS exports that every node mounts at [`NfsFact::mount_point`].
    #[serde(default)]
    pub nfs: Vec<NfsFact>,
    /// What the cluster was born with, as K3s names its settings: every server must have the same.
    #[serde(default)]
    pub birth: Birth,
    /// Topic of an ntfy server that hears of failures, as a URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ntfy: Option<String>,
}

/// K3s' settings that are fixed when a cluster is made, by their keys (k3s.md §2.3).
pub type Birth = BTreeMap<String, String>;

/// One NFS export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NfsFact {
    /// Short name, part of the mount point's and the unit's name.
    pub name: Hostname,
    /// Address of the server.
    pub server: Ipv4Addr,
    /// Absolute path on the server.
    pub export: String,
}

impl NfsFact {
    /// Where the export is mounted, relative to the root: `srv/nfs/NAME`, outside `/home` and
    /// `/usr` as systemd's ordering of mounts there differs between versions (traps B8).
    pub fn mount_point(&self) -> String {
        format!("srv/nfs/{}", self.name)
    }
}

/// One node of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeFact {
    /// Host name and Kubernetes node name.
    pub name: Hostname,
    /// Fixed IPv4 address.
    pub address: Ipv4Addr,
    /// Server or agent.
    pub role: Role,
}

impl NodeConfig {
    /// Reads and checks the file below `root` (`/` on a node).
    ///
    /// # Errors
    /// The file is missing, is not this shape, or is of another schema version.
    pub fn load(root: &Path) -> Result<Self> {
        Self::read(&root.join(PATH))
    }

    /// Reads and checks any file of this kind.
    ///
    /// # Errors
    /// As [`NodeConfig::load`].
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs_err::read(path)?;
        let config: Self = json::read(&text, &[])
            .map_err(|rule| anyhow!("{} is not a node configuration: {rule}", path.display()))?;
        config.check().map_err(|rule| anyhow!("{}: {rule}", path.display()))?;
        Ok(config)
    }

    /// What the types of the fields cannot say.
    fn check(&self) -> Result<(), String> {
        let cluster = &self.cluster;
        if self.schema != SCHEMA {
            return Err(format!("`schema` = {}: this firstboot reads {SCHEMA}", self.schema));
        }
        let mut names = BTreeSet::new();
        for (at, node) in cluster.nodes.iter().enumerate() {
            let field = |field: &str, value: &dyn std::fmt::Display, rule: &str| {
                Err(format!("`cluster.nodes[{at}].{field}` = \"{value}\": {rule}"))
            };
            if !names.insert(&node.name) {
                return field("name", &node.name, "another node has this name");
            }
            if !cluster.network.contains(node.address) {
                let rule = format!("is outside `cluster.network` = \"{}\"", cluster.network);
                return field("address", &node.address, &rule);
            }
        }
        for (at, nfs) in cluster.nfs.iter().enumerate() {
            if !nfs.export.starts_with('/') {
                let export = &nfs.export;
                return Err(format!(
                    "`cluster.nfs[{at}].export` = \"{export}\": must start with /"
                ));
            }
        }
        match &cluster.ntfy {
            Some(url) if !url.starts_with("https://") && !url.starts_with("http://") => {
                Err(format!("`cluster.ntfy` = \"{url}\": must start with https:// or http://"))
            }
            _ => Ok(()),
        }
    }

    /// The entry of `cluster.toml` for a host name.
    pub fn node(&self, name: &str) -> Option<&NodeFact> {
        self.cluster.nodes.iter().find(|n| n.name.as_str() == name)
    }
}
