//! The nodes of a cluster, and the rules between them.

use std::collections::BTreeMap;

use node::config::Role;

use super::cluster::NodeSpec;
use super::common::text;
use super::document::{At, Document};
use super::network::Network;
use super::problem::{Problem, Problems, suggest};
use super::profile::{Profile, Vm, check_cores, check_disk, check_memory};
use super::raw_cluster::{RawCluster, RawNode};
use super::syntax;

/// What the profiles' folder holds.
#[derive(Debug)]
pub struct Known<'a> {
    /// Names of all files, right or wrong, and whether the profile has a role of its own.
    pub names: BTreeMap<&'a str, Option<Role>>,
    /// Those that are right and have a role.
    pub profiles: &'a BTreeMap<String, Profile>,
    /// Names of files that could not be read or that others extend without a role.
    pub broken: Vec<&'a str>,
}

impl Known<'_> {
    /// The role of a profile, where it is known.
    pub fn role(&self, name: &str) -> Option<Role> {
        self.profiles.get(name).map(|p| p.role).or_else(|| *self.names.get(name)?)
    }
}

/// Checks every `[[node]]`; those that are whole are returned.
pub fn check(
    doc: &Document,
    raw: &RawCluster,
    known: &Known<'_>,
    network: Option<&Network>,
    problems: &mut Problems,
) -> Vec<NodeSpec> {
    let Some(list) = doc.need(None, "node", raw.node.as_ref(), problems) else { return vec![] };
    let list = list.get();
    check_twins(doc, list, problems);
    check_servers(doc, list, known, problems);
    list.iter()
        .filter_map(|at| {
            if let (Some(address), Some(network)) = (&at.get().address, network) {
                check_address(doc, address, network, problems);
            }
            node(doc, at, known, problems)
        })
        .collect()
}

fn node(
    doc: &Document,
    at: &At<RawNode>,
    known: &Known<'_>,
    problems: &mut Problems,
) -> Option<NodeSpec> {
    let (raw, table) = (at.get(), Some(&at.span()));
    let name = doc.need(table, "name", raw.name.as_ref(), problems);
    let address = doc.need(table, "address", raw.address.as_ref(), problems);
    let vmid = doc.need(table, "vmid", raw.vmid.as_ref(), problems);
    let host = doc.need(table, "host", raw.host.as_ref(), problems);
    let profile = doc.need(table, "profile", raw.profile.as_ref(), problems)?;
    check_profile(doc, profile, known, problems);
    let role = known.role(profile.get());
    let own = raw.vm.as_ref().map(At::get);
    let cores = own.and_then(|vm| vm.cores.as_ref());
    let memory = own.and_then(|vm| vm.memory.as_ref());
    let disk = own.and_then(|vm| vm.disk.as_ref());
    if let Some(at) = cores {
        check_cores(doc, at, problems);
    }
    if let Some(at) = disk {
        check_disk(doc, at, problems);
    }
    if let (Some(at), Some(role)) = (memory, role) {
        check_memory(doc, at, role, problems);
    }
    let cpu = own.and_then(|vm| vm.cpu.as_ref());
    let cpu = cpu.map(|at| text(doc, at, syntax::cpu, problems));
    let default = &known.profiles.get(profile.get())?.vm;
    Some(NodeSpec {
        name: name?.get().clone(),
        profile: profile.get().clone(),
        address: *address?.get(),
        vmid: *vmid?.get(),
        host: host?.get().clone(),
        vm: Vm {
            cores: cores.map_or(default.cores, |at| *at.get()),
            memory: memory.map_or(default.memory, |at| *at.get()),
            disk: disk.map_or(default.disk, |at| *at.get()),
            cpu: cpu.unwrap_or_else(|| default.cpu.clone()),
        },
    })
}

fn check_profile(doc: &Document, at: &At<String>, known: &Known<'_>, problems: &mut Problems) {
    let name = at.get().as_str();
    // Without any profile the missing folder is the problem to tell.
    if known.names.is_empty() || known.role(name).is_some() || known.broken.contains(&name) {
        return;
    }
    let usable = known.profiles.keys().map(String::as_str);
    let rule = if known.names.contains_key(name) {
        "names a profile without a role, which is only there to be extended"
    } else {
        "names a profile that does not exist"
    };
    problems.push(doc.problem(&at.span(), rule).hint(suggest(name, usable)));
}

fn check_address(
    doc: &Document,
    at: &At<std::net::Ipv4Addr>,
    network: &Network,
    problems: &mut Problems,
) {
    let rule = match *at.get() {
        address if address == network.gateway => Some("is the address of the gateway".to_owned()),
        address => network.refuses(address),
    };
    problems.extend(rule.map(|rule| doc.problem(&at.span(), rule)));
}

/// Names, addresses and VM numbers stand once.
fn check_twins(doc: &Document, nodes: &[At<RawNode>], problems: &mut Problems) {
    let nodes = || nodes.iter().map(At::get);
    twins(doc, nodes().filter_map(|n| n.name.as_ref()), problems);
    twins(doc, nodes().filter_map(|n| n.address.as_ref()), problems);
    twins(doc, nodes().filter_map(|n| n.vmid.as_ref()), problems);
}

fn twins<'a, T: Ord + 'a>(
    doc: &Document,
    values: impl Iterator<Item = &'a At<T>>,
    problems: &mut Problems,
) {
    let mut seen = BTreeMap::new();
    for at in values {
        if let Some(first) = seen.get(at.get()) {
            let first = doc.problem(first, "");
            let rule = format!("is also {} in line {}", first.key, first.line);
            problems.push(doc.problem(&at.span(), rule));
        } else {
            seen.insert(at.get(), at.span());
        }
    }
}

/// At least one server, and an odd number: with an even one, etcd loses its majority with the
/// same number of failures as with one server less.
fn check_servers(
    doc: &Document,
    nodes: &[At<RawNode>],
    known: &Known<'_>,
    problems: &mut Problems,
) {
    let profiles: Vec<_> = nodes.iter().filter_map(|n| n.get().profile.as_ref()).collect();
    let roles: Vec<_> = profiles.iter().map(|at| known.role(at.get())).collect();
    // A node whose role is not known could be the one that makes the number right.
    if roles.iter().any(Option::is_none) || roles.len() < nodes.len() {
        return;
    }
    let servers: Vec<_> =
        profiles.iter().filter(|at| known.role(at.get()) == Some(Role::Server)).collect();
    let problem = match (servers.len(), servers.last(), nodes.first()) {
        (0, _, first) => {
            let place = first.map_or(0..0, At::span);
            let rule = "has no server: no profile of a node has the role \"server\"";
            Problem { key: "node".to_owned(), ..doc.problem(&place, rule) }
        }
        (count, Some(last), _) if count % 2 == 0 => {
            let rule = format!("makes {count} servers; etcd needs an odd number of them");
            let hint = format!("take {} or {}", count - 1, count + 1);
            doc.problem(&last.span(), rule).hint(hint)
        }
        _ => return,
    };
    problems.push(problem);
}
