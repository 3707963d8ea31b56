//! What `builder` bakes into an image for `firstboot` to read: the node's role and the facts of
//! its cluster. No secret is ever part of it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::image_id::ImageId;
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
        let path = root.join(PATH);
        let text = fs_err::read_to_string(&path)?;
        let config: Self = serde_json::from_str(&text)
            .with_context(|| format!("{} is not a node configuration", path.display()))?;
        ensure!(
            config.schema == SCHEMA,
            "{} has schema {}, this firstboot reads {SCHEMA}",
            path.display(),
            config.schema
        );
        Ok(config)
    }

    /// The entry of `cluster.toml` for a host name.
    pub fn node(&self, name: &str) -> Option<&NodeFact> {
        self.cluster.nodes.iter().find(|n| n.name.as_str() == name)
    }
}
