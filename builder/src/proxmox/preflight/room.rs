//! Hosts, their storages and the room on them.

use node::values::Size;

use super::{Finding, Kind, Look, Outcome, is_blind};
use crate::config::suggest;
use crate::proxmox::calls::{Host, Storage};
use crate::proxmox::error::Error;

/// Free space below which a host is near trouble even without our upload.
const SPARE: u64 = 1 << 30;

/// Whether every host that is meant exists and answers. Those that do not are left out of the checks
/// after this one: each would wait for them.
pub fn hosts(look: &mut Look<'_>) -> Outcome {
    let meant = std::mem::take(&mut look.hosts);
    let known = match look.client.hosts() {
        Ok(known) => known,
        Err(error) => return (meant.join(", "), vec![error.into()]),
    };
    let mut findings = Vec::new();
    for host in &meant {
        match absent(host, &known) {
            Some(finding) => findings.push(finding),
            None => look.hosts.push(host.clone()),
        }
    }
    (meant.join(", "), findings)
}

fn absent(host: &str, known: &[Host]) -> Option<Finding> {
    let names = known.iter().map(|h| h.node.as_str());
    match known.iter().find(|h| h.node == host) {
        None => {
            let near = suggest(host, names).unwrap_or_else(|| "it shows none".to_owned());
            let fix = format!("name the host as Proxmox does: {near}");
            let text = format!("Proxmox has no host `{host}`");
            Some(Finding::new(text, fix).of(Kind::Configuration))
        }
        Some(h) if h.status == "offline" => {
            let others: Vec<_> = names.filter(|name| *name != host).collect();
            let fix = match others.as_slice() {
                [] => "start it".to_owned(),
                others => {
                    format!("start it; for a push, or name others with --to: {}", others.join(", "))
                }
            };
            Some(Finding::new(format!("the host {host} is offline"), fix))
        }
        Some(_) => None,
    }
}

/// Whether storages are there, work, and take what will lie on them.
pub fn storages(look: &Look<'_>) -> Outcome {
    let mut findings = Vec::new();
    let mut seen = Vec::new();
    for host in &look.hosts {
        let place = look.project.cluster.proxmox.on(host);
        let all = match look.client.storages(host) {
            Ok(all) => all,
            Err(error) => {
                findings.push(error.into());
                continue;
            }
        };
        for (name, content) in [(&place.import_storage, "import"), (&place.storage, "images")] {
            seen.push(format!("{name} on {host}"));
            findings.extend(storage(host, name, content, &all));
        }
    }
    (seen.join(", "), findings)
}

fn storage(host: &str, name: &str, content: &str, all: &[Storage]) -> Option<Finding> {
    let Some(storage) = all.iter().find(|s| s.storage == name) else {
        let names = all.iter().map(|s| s.storage.as_str());
        let near = suggest(name, names).unwrap_or_else(|| "none is seen".to_owned());
        let text = format!("the token sees no storage `{name}` on {host}");
        return Some(Finding::new(text, format!("check its name ({near}), and the rights above")));
    };
    if !storage.enabled || !storage.active {
        let text = format!("the storage {name} does not work on {host}");
        return Some(Finding::new(text, format!("look at `pvesm status` on {host}")));
    }
    if !storage.holds(content) {
        let has: Vec<_> = storage.content.split(',').filter(|c| !c.is_empty()).collect();
        let text = format!("the storage {name} does not take `{content}` on {host}");
        let more = [&has[..], &[content]].concat().join(",");
        return Some(Finding::new(text, format!("as root: `pvesm set {name} --content {more}`")));
    }
    None
}

/// Whether there is room for the file, twice on the host, and for the disk.
pub fn space(look: &Look<'_>) -> Outcome {
    let mut findings = Vec::new();
    for host in &look.hosts {
        let place = look.project.cluster.proxmox.on(host);
        let all = look.client.storages(host).unwrap_or_default();
        let find = |name: &str| all.iter().find(|s| s.storage == name);
        let free = |name: &str| find(name).map(|s| s.avail);
        // LVM takes a disk's whole size at once; the others take what is written.
        let thick = find(&place.storage).is_some_and(|s| s.kind == "lvm");
        let disk = if thick { look.load.grown } else { look.load.disk };
        let wants = [(&place.import_storage, look.load.bytes), (&place.storage, disk)];
        for (name, bytes) in wants {
            // One that is not seen was told already.
            let Some(free) = free(name).filter(|free| *free < bytes + SPARE) else { continue };
            let text = format!("{name} on {host} has {} free, {}", mib(free), needed(bytes));
            findings.push(Finding::new(text, "remove what is not needed, or take another storage"));
        }
        findings.extend(root_of(look, host));
    }
    let found = match look.load.bytes {
        0 => format!("at least {} free", mib(SPARE)),
        bytes => format!("the upload takes {}, the disk {}", mib(bytes), mib(look.load.disk)),
    };
    (found, findings)
}

/// An upload lies in /var/tmp first, whatever its storage.
fn root_of(look: &Look<'_>, host: &str) -> Option<Finding> {
    let bytes = look.load.bytes;
    match look.client.root_space(host) {
        Ok(free) if free < bytes + SPARE => Some(Finding::new(
            format!("/var/tmp of {host} has {} free, {}", mib(free), needed(bytes)),
            format!("make room on {host}; refused uploads stay in /var/tmp/pveupload-*"),
        )),
        Ok(_) => None,
        Err(error) if is_blind(&error) => Some(blind(host, bytes)),
        Err(error) => Some(Error::into(error)),
    }
}

fn blind(host: &str, bytes: u64) -> Finding {
    let text = format!(
        "the free space of /var/tmp on {host} is not visible; an upload lies there first, {}",
        needed(bytes)
    );
    let fix = format!("look yourself, or grant Sys.Audit on /nodes/{host} to have it checked");
    Finding::new(text, fix).of(Kind::Warning)
}

fn needed(bytes: u64) -> String {
    match bytes {
        0 => format!("and {} should be", mib(SPARE)),
        _ => format!("and {} are needed, with {} to spare", mib(bytes), mib(SPARE)),
    }
}

/// Rounded to what people compare.
fn mib(bytes: u64) -> String {
    Size::from_bytes(bytes.div_ceil(1 << 20) << 20).to_string()
}
