//! `[proxmox]` of the cluster's file, checked.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use node::values::{Hostname, VmId};
use serde::Serialize;

use super::common::{text, texts};
use super::document::{At, Document};
use super::problem::{Problem, Problems};
use super::raw_cluster::{RawCluster, RawHost, RawProxmox};
use super::syntax;

/// Numbers of templates when the file names none: far from those people give to VMs by hand.
const TEMPLATES: (u32, u32) = (9000, 9999);
/// Numbers of nodes' next VMs when the file names none.
const SPARES: (u32, u32) = (8000, 8999);

/// Proxmox VE without its secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Proxmox {
    /// URL of the API.
    pub endpoint: String,
    /// Bridge of the network card.
    pub bridge: String,
    /// Where disks and uploads go, unless a host says otherwise.
    pub place: Place,
    /// File with the API token; absolute or below `~/`.
    pub token_file: Option<String>,
    /// CA in PEM; relative to the project folder, or absolute.
    pub ca_file: Option<String>,
    /// Fingerprints of trusted certificates.
    pub fingerprints: Vec<String>,
    /// Pool of all VMs and templates.
    pub pool: Option<String>,
    /// Numbers that templates may take: first and last.
    pub templates: (u32, u32),
    /// Numbers that a node's next VM may take while the node's own is taken: first and last.
    pub spares: (u32, u32),
    /// Whether whole disks are copied also where the storage can link.
    pub full_clones: bool,
    /// Public SSH keys for every node.
    pub ssh_keys: Vec<String>,
    /// Places of hosts that differ, by name.
    pub hosts: BTreeMap<String, Place>,
}

/// Where things are on one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Place {
    /// URL of the host's own API; `None`: it is reached through [`Proxmox::endpoint`].
    pub endpoint: Option<String>,
    /// Storage of disks.
    pub storage: String,
    /// Storage that images are uploaded to.
    pub import_storage: String,
}

impl Proxmox {
    /// The place of `host`.
    pub fn on(&self, host: &str) -> &Place {
        self.hosts.get(host).unwrap_or(&self.place)
    }

    /// Numbers that templates may take.
    pub fn template_ids(&self) -> RangeInclusive<u32> {
        self.templates.0..=self.templates.1
    }

    /// Numbers that nodes' next VMs may take.
    pub fn spare_ids(&self) -> RangeInclusive<u32> {
        self.spares.0..=self.spares.1
    }
}

/// Checks the table; `raw` is the whole file, whose nodes may not stand among the templates.
pub fn check(
    doc: &Document,
    at: &At<RawProxmox>,
    raw: &RawCluster,
    problems: &mut Problems,
) -> Option<Proxmox> {
    let (own, table) = (at.get(), at.span());
    let mut need = |key: &str, field: Option<&At<String>>, rule: fn(&str) -> syntax::Rule| {
        let at = doc.need(Some(&table), key, field, problems)?;
        Some(text(doc, at, rule, problems))
    };
    let endpoint = need("endpoint", own.endpoint.as_ref(), syntax::endpoint);
    let storage = need("storage", own.storage.as_ref(), syntax::proxmox_name);
    let import = need("import_storage", own.import_storage.as_ref(), syntax::proxmox_name);
    let bridge = need("bridge", own.bridge.as_ref(), syntax::proxmox_name);
    let mut may = |field: Option<&At<String>>, rule: fn(&str) -> syntax::Rule| {
        Some(text(doc, field?, rule, problems))
    };
    let token_file = may(own.token_file.as_ref(), syntax::private_path);
    let ca_file = may(own.ca_file.as_ref(), syntax::not_empty);
    let pool = may(own.pool.as_ref(), syntax::proxmox_name);
    let fingerprints = texts(doc, own.fingerprints.as_ref(), syntax::fingerprint, problems);
    let ssh_keys = texts(doc, own.ssh_keys.as_ref(), syntax::ssh_key, problems);
    let templates = range(doc, own.templates.as_ref(), TEMPLATES, problems);
    check_templates(doc, templates, raw, problems);
    let spares = range(doc, own.spares.as_ref(), SPARES, problems);
    if spares.0 <= templates.1 && templates.0 <= spares.1 {
        problems.extend(overlap(doc, own, spares, templates));
    }
    let place = Place { endpoint: None, storage: storage?, import_storage: import? };
    let hosts = hosts(doc, own, raw, &place, problems);
    Some(Proxmox {
        endpoint: endpoint?,
        bridge: bridge?,
        place,
        token_file,
        ca_file,
        fingerprints,
        pool,
        templates,
        spares,
        full_clones: own.full_clones.as_ref().is_some_and(|at| *at.get()),
        ssh_keys,
        hosts,
    })
}

/// `A-B`.
fn range(
    doc: &Document,
    at: Option<&At<String>>,
    default: (u32, u32),
    problems: &mut Problems,
) -> (u32, u32) {
    let Some(at) = at else { return default };
    let number = |text: &str| VmId::try_from(text.trim().parse::<i64>().ok()?).ok();
    let range = at
        .get()
        .split_once('-')
        .and_then(|(a, b)| Some((number(a)?.get(), number(b)?.get())))
        .filter(|(a, b)| a <= b);
    if range.is_none() {
        let rule = "must be two VM numbers, the first not after the last: `9000-9999`";
        problems.push(doc.problem(&at.span(), rule));
    }
    range.unwrap_or(default)
}

/// Told where the file names numbers: those it leaves out overlap nothing by themselves.
fn overlap(
    doc: &Document,
    own: &RawProxmox,
    spares: (u32, u32),
    templates: (u32, u32),
) -> Option<Problem> {
    let told = |at: &At<String>, whose: &str, (first, last): (u32, u32)| {
        doc.problem(&at.span(), format!("overlaps {whose} numbers, {first}-{last}"))
    };
    match (&own.spares, &own.templates) {
        (Some(at), _) => Some(told(at, "the templates'", templates)),
        (None, Some(at)) => {
            let hint = "take others, or move proxmox.spares, which is left out".to_owned();
            Some(told(at, "the spares'", spares).hint(hint))
        }
        (None, None) => None,
    }
}

/// No node's number may be a template's.
fn check_templates(doc: &Document, range: (u32, u32), raw: &RawCluster, problems: &mut Problems) {
    let nodes = raw.node.iter().flat_map(At::get).filter_map(|n| n.get().vmid.as_ref());
    for vmid in nodes.filter(|at| (range.0..=range.1).contains(&at.get().get())) {
        let rule = format!("is among the templates' numbers, {}-{}", range.0, range.1);
        let hint = "take another, or move proxmox.templates".to_owned();
        problems.push(doc.problem(&vmid.span(), rule).hint(hint));
    }
}

fn hosts(
    doc: &Document,
    own: &RawProxmox,
    raw: &RawCluster,
    place: &Place,
    problems: &mut Problems,
) -> BTreeMap<String, Place> {
    let nodes = raw.node.iter().flat_map(At::get).filter_map(|n| n.get().host.as_ref());
    let used: Vec<&str> = nodes.map(|at| at.get().as_str()).collect();
    let mut hosts = BTreeMap::new();
    for (name, at) in own.host.iter().flat_map(At::get) {
        if let Err(error) = name.parse::<Hostname>() {
            problems.push(doc.key_problem(&at.span(), error.rule));
        } else if !used.is_empty() && !used.contains(&name.as_str()) {
            let known = super::problem::suggest(name, used.iter().copied());
            problems.push(doc.key_problem(&at.span(), "is the host of no node").hint(known));
        }
        hosts.insert(name.clone(), host(doc, at.get(), place, problems));
    }
    hosts
}

fn host(doc: &Document, raw: &RawHost, place: &Place, problems: &mut Problems) -> Place {
    let mut may = |field: Option<&At<String>>, rule: fn(&str) -> syntax::Rule| {
        Some(text(doc, field?, rule, problems))
    };
    let storage = may(raw.storage.as_ref(), syntax::proxmox_name);
    let import = may(raw.import_storage.as_ref(), syntax::proxmox_name);
    Place {
        endpoint: may(raw.endpoint.as_ref(), syntax::endpoint),
        storage: storage.unwrap_or_else(|| place.storage.clone()),
        import_storage: import.unwrap_or_else(|| place.import_storage.clone()),
    }
}
