//! What an image is made from, as its templates may see it. The image key hashes exactly this, so
//! that a fact no file shows (a VM id, a storage's name) never makes a new image.

use std::collections::BTreeMap;

use node::config::{ClusterFacts, NodeConfig, NodeFact, SCHEMA};
use node::image_id::ImageId;
use serde::Serialize;
use uuid::Uuid;

use crate::config::{Birth, Cluster, Image, K3sSettings, Network, Nfs, Profile, Upgrades};

/// Everything a template can name, but for the identity derived from its own digest.
#[derive(Debug, Clone, Serialize)]
pub struct Facts {
    /// `SOURCE_DATE_EPOCH`: the floor of every node's clock, in seconds since 1970.
    pub built_at: i64,
    /// Version of K3s.
    pub k3s_version: String,
    /// Whether K3s is the stand-in.
    pub standin: bool,
    /// The operating system.
    pub image: ImageFacts,
    /// The role.
    pub profile: ProfileFacts,
    /// The cluster.
    pub cluster: ClusterView,
}

/// The operating system as templates see it.
#[derive(Debug, Clone, Serialize)]
pub struct ImageFacts {
    /// Such as `debian-13`.
    pub name: String,
    /// Such as `debian`.
    pub distribution: String,
    /// Such as `trixie`.
    pub suite: String,
    /// Units that never run, with reasons.
    pub mask: BTreeMap<String, String>,
}

/// The profile as templates see it.
#[derive(Debug, Clone, Serialize)]
pub struct ProfileFacts {
    /// Its name.
    pub name: String,
    /// `server` or `agent`.
    pub role: node::config::Role,
    /// Labels, taints and kubelet settings.
    pub k3s: K3sSettings,
    /// unattended-upgrades.
    pub upgrades: Upgrades,
}

/// The cluster as templates see it.
#[derive(Debug, Clone, Serialize)]
pub struct ClusterView {
    /// Its name.
    pub name: String,
    /// DNS domain.
    pub domain: String,
    /// Address of the API.
    pub api: std::net::Ipv4Addr,
    /// The nodes' LAN.
    pub network: Network,
    /// K3s settings fixed at the cluster's birth.
    pub k3s: Birth,
    /// NFS exports by name.
    pub nfs: BTreeMap<String, Nfs>,
    /// Every node.
    pub nodes: Vec<NodeFact>,
}

/// Who an image is: given to templates beside [`Facts`].
#[derive(Debug, Clone, Serialize)]
pub struct Identity {
    /// `worker-3f9c2a71b0de`.
    pub image_id: String,
    /// `3f9c2a71b0de`.
    pub image_version: String,
    /// UUID of the root file system.
    pub root_uuid: Uuid,
}

impl Facts {
    /// The facts of a profile. `role_of` gives the role of a node's profile.
    pub fn new(image: &Image, profile: &Profile, cluster: &Cluster, nodes: Vec<NodeFact>) -> Self {
        Self {
            built_at: image.source_date_epoch,
            k3s_version: String::new(),
            standin: false,
            image: ImageFacts {
                name: image.name.clone(),
                distribution: image.distribution.clone(),
                suite: image.suite.clone(),
                mask: image.mask.clone(),
            },
            profile: ProfileFacts {
                name: profile.name.to_string(),
                role: profile.role,
                k3s: profile.k3s.clone(),
                upgrades: profile.upgrades.clone(),
            },
            cluster: ClusterView {
                name: cluster.name.to_string(),
                domain: cluster.domain.to_string(),
                api: cluster.api,
                network: cluster.network.clone(),
                k3s: cluster.k3s.clone(),
                nfs: cluster.nfs.clone(),
                nodes,
            },
        }
    }

    /// What firstboot reads on the node.
    pub fn node_config(&self, id: &ImageId, cluster: &Cluster) -> NodeConfig {
        NodeConfig {
            schema: SCHEMA,
            image_id: id.clone(),
            built_at: self.built_at,
            role: self.profile.role,
            k3s_version: self.k3s_version.clone(),
            labels: self.profile.k3s.labels.clone(),
            taints: self.profile.k3s.taints.clone(),
            cluster: ClusterFacts {
                name: cluster.name.clone(),
                domain: cluster.domain.clone(),
                api: cluster.api,
                network: cluster.network.cidr,
                gateway: cluster.network.gateway,
                nodes: self.cluster.nodes.clone(),
            },
        }
    }
}
