//! `cluster/cluster.toml` as written: nothing checked but types and key names.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use node::values::{Cidr, Domain, Hostname, VmId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::document::At;
use super::raw_profile::RawVm;

/// The facts of one cluster: its network, its nodes, what it is born with.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
#[schemars(title = "cluster/cluster.toml", rename = "Cluster")]
pub struct RawCluster {
    /// Short name of the cluster.
    #[schemars(required)]
    pub name: Option<At<Hostname>>,
    /// DNS domain of its services.
    #[schemars(required)]
    pub domain: Option<At<Domain>>,
    /// Address of the Kubernetes API: that of a server node, or a virtual one.
    #[schemars(required)]
    pub api: Option<At<Ipv4Addr>>,
    /// Whether `api` is a virtual address that moves between the servers.
    pub api_is_virtual: Option<At<bool>>,
    /// The nodes' network.
    #[schemars(required)]
    pub network: Option<At<RawNetwork>>,
    /// What K3s is started with first, and can never be changed after.
    #[schemars(required)]
    pub k3s: Option<At<RawBirth>>,
    /// NFS exports by name.
    pub nfs: Option<At<BTreeMap<String, At<RawNfs>>>>,
    /// Who hears of failures.
    pub notify: Option<At<RawNotify>>,
    /// What has to be well before the next node is rebuilt.
    pub rollout: Option<At<RawRollout>>,
    /// What the bundle is like in this home.
    pub bundle: Option<At<RawHome>>,
    /// Where the VMs live.
    #[schemars(required)]
    pub proxmox: Option<At<RawProxmox>>,
    /// The nodes.
    #[schemars(required)]
    pub node: Option<At<Vec<At<RawNode>>>>,
}

/// The nodes' network.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
#[schemars(rename = "Network")]
pub struct RawNetwork {
    /// Default gateway.
    #[schemars(required)]
    pub gateway: Option<At<Ipv4Addr>>,
    /// Prefix length of the network the gateway stands in.
    #[schemars(required)]
    pub prefix: Option<At<u8>>,
    /// First and last address that Services of type `LoadBalancer` may take: `A-B`.
    #[schemars(required)]
    pub load_balancers: Option<At<String>>,
    /// Addresses of a VPN whose members reach the nodes, such as `100.64.0.0/10` of Tailscale.
    pub vpn: Option<At<Cidr>>,
    /// DNS servers; the gateway when left out.
    pub nameservers: Option<At<Vec<At<Ipv4Addr>>>>,
    /// Time servers, by name or address; the distribution's own when left out.
    pub ntp: Option<At<Vec<At<String>>>>,
}

/// Settings of K3s that a cluster is born with. Servers compare them when they join, so a change
/// of any needs a new cluster.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
#[schemars(rename = "K3sBirth")]
pub struct RawBirth {
    /// Addresses of the pods.
    #[schemars(required)]
    pub cluster_cidr: Option<At<Cidr>>,
    /// Addresses of the Services.
    #[schemars(required)]
    pub service_cidr: Option<At<Cidr>>,
    /// Address of the cluster's DNS, inside `service_cidr`.
    #[schemars(required)]
    pub cluster_dns: Option<At<Ipv4Addr>>,
    /// Domain of the Services inside the cluster.
    #[schemars(required)]
    pub cluster_domain: Option<At<Domain>>,
    /// How pods of different nodes reach each other.
    #[schemars(required)]
    pub flannel_backend: Option<At<FlannelBackend>>,
    /// Cipher of the Secrets in etcd.
    #[schemars(required)]
    pub secrets_encryption: Option<At<SecretsEncryption>>,
    /// Names and addresses beyond `api` that the API's certificate shall hold.
    pub tls_san: Option<At<Vec<At<String>>>>,
}

/// Flannel's ways between nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FlannelBackend {
    /// Encapsulated in UDP; works across routers.
    Vxlan,
    /// Plain routes; all nodes must be on one network.
    HostGw,
    /// Encrypted.
    WireguardNative,
}

impl FlannelBackend {
    /// As K3s names it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Vxlan => "vxlan",
            Self::HostGw => "host-gw",
            Self::WireguardNative => "wireguard-native",
        }
    }
}

/// Ciphers of K3s for Secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SecretsEncryption {
    /// `XSalsa20` and `Poly1305`.
    Secretbox,
    /// AES-CBC, K3s' own default.
    Aescbc,
}

impl SecretsEncryption {
    /// As K3s names it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Secretbox => "secretbox",
            Self::Aescbc => "aescbc",
        }
    }
}

/// An NFS export.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
#[schemars(rename = "Nfs")]
pub struct RawNfs {
    /// Address of the server: a name would make storage depend on DNS.
    #[schemars(required)]
    pub server: Option<At<Ipv4Addr>>,
    /// Absolute path of the export.
    #[schemars(required)]
    pub export: Option<At<String>>,
}

/// Who hears of a node that failed to boot.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
#[schemars(rename = "Notify")]
pub struct RawNotify {
    /// Topic of an ntfy server: `https://HOST/TOPIC`. It stands in every image, so a topic that
    /// only its name guards is known to whoever has one.
    #[schemars(required)]
    pub ntfy: Option<At<String>>,
}

/// What a rebuilt node must pass beyond being Ready.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
#[schemars(rename = "Rollout")]
pub struct RawRollout {
    /// Programs in the project, called with the node's name until they end with status 0.
    pub gates: Option<At<Vec<At<String>>>>,
    /// Manifests of Kubernetes Jobs in the project; `{node}` in them is the node's name.
    pub jobs: Option<At<Vec<At<String>>>>,
}

/// What the bundle is like in this home.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
#[schemars(rename = "Home")]
pub struct RawHome {
    /// Releases that are off by themselves and on here.
    pub on: Option<At<Vec<At<String>>>>,
    /// Releases that are on by themselves and off here.
    pub off: Option<At<Vec<At<String>>>>,
    /// The `ClusterIssuer` that certificates of services are asked of. Default: `letsencrypt-prod`.
    #[schemars(with = "Option<String>")]
    pub issuer: Option<At<Hostname>>,
    /// Who tells of alerts. Default: `ntfy`.
    pub alerts: Option<At<Alerts>>,
}

/// Ways to tell a person of an alert.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Alerts {
    /// A topic of an ntfy server.
    #[default]
    Ntfy,
    /// Pushover.
    Pushover,
    /// A Slack channel.
    Slack,
    /// Alertmanager's own page only.
    None,
}

/// Proxmox VE, as far as no secret is concerned.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
#[schemars(rename = "Proxmox")]
pub struct RawProxmox {
    /// URL of the API: `https://HOST:8006`.
    #[schemars(required)]
    pub endpoint: Option<At<String>>,
    /// Storage of the VMs' disks.
    #[schemars(required)]
    pub storage: Option<At<String>>,
    /// Storage that images are uploaded to; it must allow the content type `import`.
    #[schemars(required)]
    pub import_storage: Option<At<String>>,
    /// Bridge of the VMs' network card.
    #[schemars(required)]
    pub bridge: Option<At<String>>,
    /// File with the API token, `USER@REALM!ID=SECRET`: absolute or below `~/`, so that it is not
    /// part of the project.
    pub token_file: Option<At<String>>,
    /// The cluster's own CA in PEM; relative to the project folder, or absolute.
    pub ca_file: Option<At<String>>,
    /// SHA-256 fingerprints of the certificates that are trusted instead, whoever signed them.
    pub fingerprints: Option<At<Vec<At<String>>>>,
    /// Resource pool of all VMs and templates; the token's rights hang on it.
    pub pool: Option<At<String>>,
    /// First and last number that templates may take: `A-B`.
    pub templates: Option<At<String>>,
    /// First and last number that a node's next VM may take while the one before it still has the
    /// node's own: `A-B`.
    pub spares: Option<At<String>>,
    /// Copy whole disks also where the storage can make linked clones.
    pub full_clones: Option<At<bool>>,
    /// Public SSH keys that may log in to every node, one line each.
    pub ssh_keys: Option<At<Vec<At<String>>>>,
    /// What is different on one Proxmox host, by the host's name.
    pub host: Option<At<BTreeMap<String, At<RawHost>>>>,
}

/// What is different on one Proxmox host.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
#[schemars(rename = "ProxmoxHost")]
pub struct RawHost {
    /// URL of this host's own API: an image goes straight to it instead of through another host.
    pub endpoint: Option<At<String>>,
    /// Storage of the VMs' disks.
    pub storage: Option<At<String>>,
    /// Storage that images are uploaded to.
    pub import_storage: Option<At<String>>,
}

/// One node.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
#[schemars(rename = "Node")]
pub struct RawNode {
    /// Host name and name of the Kubernetes Node.
    #[schemars(required)]
    pub name: Option<At<Hostname>>,
    /// Name of a file in `profiles/`, without `.toml`.
    #[schemars(required)]
    pub profile: Option<At<String>>,
    /// Its fixed address.
    #[schemars(required)]
    pub address: Option<At<Ipv4Addr>>,
    /// Number of its VM.
    #[schemars(required)]
    pub vmid: Option<At<VmId>>,
    /// The Proxmox host that runs it.
    #[schemars(required)]
    pub host: Option<At<Hostname>>,
    /// Size of the VM where it differs from the profile's.
    pub vm: Option<At<RawVm>>,
}
