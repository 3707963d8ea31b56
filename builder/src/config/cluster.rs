//! The facts of one cluster, checked.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use node::values::{Cidr, Domain, Hostname, VmId};
use serde::Serialize;

use super::common::{text, texts};
use super::document::{At, Document};
use super::network::{self, Network};
use super::nodes::{self, Known};
use super::problem::Problems;
use super::profile::Vm;
use super::proxmox::{self, Proxmox};
use super::raw_cluster::{FlannelBackend, RawBirth, RawCluster, RawNfs, SecretsEncryption};
use super::syntax;

/// A cluster as `cluster/cluster.toml` gives it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cluster {
    /// Short name.
    pub name: Hostname,
    /// DNS domain of its services.
    pub domain: Domain,
    /// Address of the Kubernetes API.
    pub api: Ipv4Addr,
    /// Whether `api` moves between the servers.
    pub api_is_virtual: bool,
    /// The nodes' network.
    pub network: Network,
    /// What K3s is born with.
    pub k3s: Birth,
    /// NFS exports by name.
    pub nfs: BTreeMap<String, Nfs>,
    /// Topic of an ntfy server that hears of failures.
    pub ntfy: Option<String>,
    /// What a rebuilt node must pass beyond being Ready.
    pub rollout: Rollout,
    /// The nodes, in the order of the file.
    pub nodes: Vec<NodeSpec>,
    /// Where the VMs live.
    pub proxmox: Proxmox,
}

/// Settings of K3s that servers compare when they join: a change needs a new cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Birth {
    /// Addresses of the pods.
    pub cluster_cidr: Cidr,
    /// Addresses of the Services.
    pub service_cidr: Cidr,
    /// The cluster's DNS.
    pub cluster_dns: Ipv4Addr,
    /// Domain of the Services inside the cluster.
    pub cluster_domain: Domain,
    /// How pods of different nodes reach each other.
    pub flannel_backend: FlannelBackend,
    /// Cipher of the Secrets in etcd.
    pub secrets_encryption: SecretsEncryption,
    /// Names and addresses of the API's certificate beyond `api`.
    pub tls_san: Vec<String>,
}

/// An NFS export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Nfs {
    /// Address of the server.
    pub server: Ipv4Addr,
    /// Absolute path.
    pub export: String,
}

/// Gates of rebuilds: files of the project.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Rollout {
    /// Programs.
    pub gates: Vec<String>,
    /// Manifests of Jobs.
    pub jobs: Vec<String>,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeSpec {
    /// Host name and Kubernetes node name.
    pub name: Hostname,
    /// Name of its profile.
    pub profile: String,
    /// Fixed address.
    pub address: Ipv4Addr,
    /// Number of its VM.
    pub vmid: VmId,
    /// The Proxmox host that runs it.
    pub host: Hostname,
    /// Size of its VM: the profile's, with what the node says itself.
    pub vm: Vm,
}

/// Checks the cluster's file.
pub fn check(
    doc: &Document,
    raw: &RawCluster,
    known: &Known<'_>,
    problems: &mut Problems,
) -> Option<Cluster> {
    let name = doc.need(None, "name", raw.name.as_ref(), problems);
    let domain = doc.need(None, "domain", raw.domain.as_ref(), problems);
    let api = doc.need(None, "api", raw.api.as_ref(), problems);
    let birth = doc.need(None, "k3s", raw.k3s.as_ref(), problems);
    let birth = birth.and_then(|at| birth_of(doc, at, problems));
    let proxmox = doc.need(None, "proxmox", raw.proxmox.as_ref(), problems);
    let proxmox = proxmox.and_then(|at| proxmox::check(doc, at, raw, problems));
    let network = doc.need(None, "network", raw.network.as_ref(), problems);
    let network = network.and_then(|at| network::check(doc, at, problems));
    let nodes = nodes::check(doc, raw, known, network.as_ref(), problems);
    network::check_api(doc, raw, known, network.as_ref(), problems);
    network::check_overlaps(doc, raw, network.as_ref(), problems);
    let nfs = nfs(doc, raw, problems);
    let ntfy = raw.notify.as_ref().and_then(|at| {
        let topic = doc.need(Some(&at.span()), "ntfy", at.get().ntfy.as_ref(), problems)?;
        Some(text(doc, topic, syntax::ntfy, problems))
    });
    let rollout = raw.rollout.as_ref().map_or_else(Rollout::default, |at| {
        let mut files = |list| texts(doc, list, syntax::relative_path, problems);
        Rollout { gates: files(at.get().gates.as_ref()), jobs: files(at.get().jobs.as_ref()) }
    });
    Some(Cluster {
        name: name?.get().clone(),
        domain: domain?.get().clone(),
        api: *api?.get(),
        api_is_virtual: raw.api_is_virtual.as_ref().is_some_and(|at| *at.get()),
        network: network?,
        k3s: birth?,
        nfs,
        ntfy,
        rollout,
        nodes,
        proxmox: proxmox?,
    })
}

fn birth_of(doc: &Document, at: &At<RawBirth>, problems: &mut Problems) -> Option<Birth> {
    let (raw, table) = (at.get(), Some(&at.span()));
    let cluster_cidr = doc.need(table, "cluster_cidr", raw.cluster_cidr.as_ref(), problems);
    let service_cidr = doc.need(table, "service_cidr", raw.service_cidr.as_ref(), problems);
    let dns = doc.need(table, "cluster_dns", raw.cluster_dns.as_ref(), problems);
    let domain = doc.need(table, "cluster_domain", raw.cluster_domain.as_ref(), problems);
    let flannel = doc.need(table, "flannel_backend", raw.flannel_backend.as_ref(), problems);
    let secrets = raw.secrets_encryption.as_ref();
    let secrets = doc.need(table, "secrets_encryption", secrets, problems);
    if let (Some(dns), Some(services)) = (dns, service_cidr)
        && !services.get().contains(*dns.get())
    {
        let rule = format!("must lie inside service_cidr, {}", services.get());
        problems.push(doc.problem(&dns.span(), rule));
    }
    Some(Birth {
        tls_san: texts(doc, raw.tls_san.as_ref(), syntax::host, problems),
        cluster_cidr: *cluster_cidr?.get(),
        service_cidr: *service_cidr?.get(),
        cluster_dns: *dns?.get(),
        cluster_domain: domain?.get().clone(),
        flannel_backend: *flannel?.get(),
        secrets_encryption: *secrets?.get(),
    })
}

fn nfs(doc: &Document, raw: &RawCluster, problems: &mut Problems) -> BTreeMap<String, Nfs> {
    let mut exports = BTreeMap::new();
    for (name, at) in raw.nfs.iter().flat_map(At::get) {
        // The name becomes part of a unit's and a folder's name.
        if let Err(error) = name.parse::<Hostname>() {
            problems.push(doc.key_problem(&at.span(), error.rule));
        }
        exports.extend(export(doc, at, problems).map(|export| (name.clone(), export)));
    }
    exports
}

fn export(doc: &Document, at: &At<RawNfs>, problems: &mut Problems) -> Option<Nfs> {
    let (raw, table) = (at.get(), Some(&at.span()));
    let server = doc.need(table, "server", raw.server.as_ref(), problems);
    let export = doc.need(table, "export", raw.export.as_ref(), problems);
    let export = export.map(|at| text(doc, at, syntax::absolute_path, problems));
    Some(Nfs { server: *server?.get(), export: export? })
}
