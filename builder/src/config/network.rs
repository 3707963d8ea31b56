//! The nodes' network, checked, and the rules between it and the rest of the cluster's file.

use std::net::Ipv4Addr;

use node::config::Role;
use node::values::Cidr;
use serde::Serialize;

use super::common::texts;
use super::document::{At, Document};
use super::nodes::Known;
use super::problem::Problems;
use super::raw_cluster::{RawCluster, RawNetwork};
use super::syntax;

/// The nodes' network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Network {
    /// The network itself.
    pub cidr: Cidr,
    /// Default gateway.
    pub gateway: Ipv4Addr,
    /// First and last address of Services of type `LoadBalancer`.
    pub load_balancers: (Ipv4Addr, Ipv4Addr),
    /// Addresses of a VPN whose members reach the nodes.
    pub vpn: Option<Cidr>,
    /// DNS servers.
    pub nameservers: Vec<Ipv4Addr>,
    /// Time servers; empty for the distribution's own.
    pub ntp: Vec<String>,
}

impl Network {
    /// Whether Services of type `LoadBalancer` may take `address`.
    pub fn is_load_balancer(&self, address: Ipv4Addr) -> bool {
        (self.load_balancers.0..=self.load_balancers.1).contains(&address)
    }

    /// Why no machine may have `address`, if so.
    pub fn refuses(&self, address: Ipv4Addr) -> Option<String> {
        let (first, last) = self.load_balancers;
        match address {
            a if !self.cidr.contains(a) => Some(format!("must lie in the network {}", self.cidr)),
            a if a == self.cidr.network() => Some("is the address of the network itself".into()),
            a if a == self.cidr.broadcast() => Some("is the network's broadcast address".into()),
            a if self.is_load_balancer(a) => {
                Some(format!("lies among the load balancers' addresses {first}-{last}"))
            }
            _ => None,
        }
    }
}

/// The smallest network with room for a gateway, two nodes and a load balancer.
const PREFIX_MAX: u8 = 29;

/// Checks `[network]`.
pub fn check(doc: &Document, at: &At<RawNetwork>, problems: &mut Problems) -> Option<Network> {
    let (raw, table) = (at.get(), Some(&at.span()));
    let gateway = doc.need(table, "gateway", raw.gateway.as_ref(), problems);
    let prefix = doc.need(table, "prefix", raw.prefix.as_ref(), problems);
    let range = doc.need(table, "load_balancers", raw.load_balancers.as_ref(), problems);
    let ntp = texts(doc, raw.ntp.as_ref(), syntax::host, problems);
    let (gateway, prefix, range) = (gateway?, prefix?, range?);
    if !(8..=PREFIX_MAX).contains(prefix.get()) {
        let rule = format!("must be a prefix length from 8 to {PREFIX_MAX}");
        problems.push(doc.problem(&prefix.span(), rule));
        return None;
    }
    let cidr = Cidr::of(*gateway.get(), *prefix.get()).ok()?;
    let load_balancers = match load_balancers(range.get(), cidr) {
        Ok(range) => range,
        Err(rule) => {
            problems.push(doc.problem(&range.span(), rule));
            return None;
        }
    };
    let listed = raw.nameservers.as_ref().map(|list| list.get().iter().map(|at| *at.get()));
    let network = Network {
        cidr,
        gateway: *gateway.get(),
        load_balancers,
        vpn: raw.vpn.as_ref().map(|at| *at.get()),
        nameservers: listed.map_or_else(|| vec![*gateway.get()], Iterator::collect),
        ntp,
    };
    if let Some(rule) = network.refuses(network.gateway) {
        problems.push(doc.problem(&gateway.span(), rule));
    }
    Some(network)
}

/// `A-B` in the network, A not after B.
fn load_balancers(text: &str, cidr: Cidr) -> Result<(Ipv4Addr, Ipv4Addr), String> {
    let parsed = text
        .split_once('-')
        .and_then(|(first, last)| Some((first.trim().parse().ok()?, last.trim().parse().ok()?)));
    let Some((first, last)) = parsed else {
        return Err("must be two IPv4 addresses, such as `192.168.2.100-192.168.2.120`".into());
    };
    if first > last {
        return Err(format!("is reversed; write it as `{last}-{first}`"));
    }
    if !cidr.contains(first) || !cidr.contains(last) {
        return Err(format!("must lie in the network {cidr}"));
    }
    Ok((first, last))
}

/// The API answers at a server's address, or at a free one of the network that moves.
pub fn check_api(
    doc: &Document,
    raw: &RawCluster,
    known: &Known<'_>,
    network: Option<&Network>,
    problems: &mut Problems,
) {
    let (Some(at), Some(nodes)) = (&raw.api, &raw.node) else { return };
    let api = *at.get();
    let nodes = nodes.get().iter().map(At::get);
    let owner = nodes.clone().find(|n| n.address.as_ref().is_some_and(|a| *a.get() == api));
    let role = owner.and_then(|n| known.role(n.profile.as_ref()?.get()));
    let is_virtual = raw.api_is_virtual.as_ref().is_some_and(|at| *at.get());
    let problem = match (is_virtual, owner) {
        (true, Some(_)) => doc
            .problem(&at.span(), "is declared virtual, but is the address of a node")
            .hint("take a free address, or leave out `api_is_virtual`".to_owned()),
        (true, None) if network.is_some_and(|n| n.gateway == api) => {
            doc.problem(&at.span(), "is the address of the gateway")
        }
        (true, None) => match network.and_then(|n| n.refuses(api)) {
            Some(why) => doc.problem(&at.span(), why),
            None => return,
        },
        (false, Some(_)) if role != Some(Role::Agent) => return,
        (false, _) => {
            // Without any server the missing server is the problem to tell.
            let server = nodes.clone().find(|n| {
                n.profile.as_ref().is_some_and(|p| known.role(p.get()) == Some(Role::Server))
            });
            let Some(address) = server.and_then(|n| n.address.as_ref()) else { return };
            doc.problem(&at.span(), "must be the address of a server node").hint(format!(
                "write {}, or `api_is_virtual = true` for an address that moves",
                address.get()
            ))
        }
    };
    problems.push(problem);
}

/// Pods, Services, the nodes' network and the VPN must not share an address.
pub fn check_overlaps(
    doc: &Document,
    raw: &RawCluster,
    network: Option<&Network>,
    problems: &mut Problems,
) {
    let birth = raw.k3s.as_ref().map(At::get);
    let vpn = raw.network.as_ref().and_then(|n| n.get().vpn.as_ref());
    let cluster_cidr = birth.and_then(|b| b.cluster_cidr.as_ref());
    let service_cidr = birth.and_then(|b| b.service_cidr.as_ref());
    let mut taken: Vec<(&str, Cidr)> = network.iter().map(|n| ("the network", n.cidr)).collect();
    let ranges = [
        ("network.vpn", vpn),
        ("k3s.cluster_cidr", cluster_cidr),
        ("k3s.service_cidr", service_cidr),
    ];
    for (name, at) in ranges {
        let Some(at) = at else { continue };
        let cidr = *at.get();
        if let Some((other, range)) = taken.iter().find(|(_, range)| range.overlaps(cidr)) {
            let rule = format!("overlaps {other}, {range}");
            problems.push(doc.problem(&at.span(), rule));
        }
        taken.push((name, cidr));
    }
}
