//! What an image is made from, as its templates may see it. The image key hashes exactly this, so
//! that a fact no file shows (a VM id, a storage's name) never makes a new image.

use std::collections::BTreeMap;

use node::config::{ClusterFacts, NfsFact, NodeConfig, NodeFact, SCHEMA};
use node::image_id::ImageId;
use serde::Serialize;
use uuid::Uuid;

use crate::config::{Birth, Cluster, Image, K3sSettings, Network, Nfs, Profile, Sources, Upgrades};

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
    /// Suites of the main archive, the release first.
    pub suites: Vec<String>,
    /// Suite of the security archive.
    pub security_suite: Option<String>,
    /// Components of the archive.
    pub components: Vec<String>,
    /// The archive's keyring, which lies on a node where it lies on the build host.
    pub keyring: String,
    /// Where nodes get updates from.
    pub sources: Option<Sources>,
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
    /// Topic of an ntfy server.
    pub ntfy: Option<String>,
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
                suites: image.suites.clone(),
                security_suite: image.security_suite.clone(),
                components: image.components.clone(),
                keyring: image.keyring.clone(),
                sources: image.sources.clone(),
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
                ntfy: cluster.ntfy.clone(),
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
                nfs: nfs(cluster),
                birth: birth(&cluster.k3s),
                ntfy: cluster.ntfy.clone(),
            },
        }
    }
}

/// The settings of birth as K3s names them. The names of the certificate are none: they may differ.
fn birth(birth: &Birth) -> node::config::Birth {
    let pairs = [
        ("cluster-cidr", birth.cluster_cidr.to_string()),
        ("service-cidr", birth.service_cidr.to_string()),
        ("cluster-dns", birth.cluster_dns.to_string()),
        ("cluster-domain", birth.cluster_domain.to_string()),
        ("flannel-backend", birth.flannel_backend.as_str().to_owned()),
        ("secrets-encryption-provider", birth.secrets_encryption.as_str().to_owned()),
    ];
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// The exports by name; names that are no host names were refused with the file.
fn nfs(cluster: &Cluster) -> Vec<NfsFact> {
    let fact = |(name, nfs): (&String, &Nfs)| {
        let name = name.parse().ok()?;
        Some(NfsFact { name, server: nfs.server, export: nfs.export.clone() })
    };
    cluster.nfs.iter().filter_map(fact).collect()
}
