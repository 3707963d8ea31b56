//! What makes a clone the VM of one node: its card, address, size and tags. One table, by which a clone
//! is configured and by which is seen whether it was.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::calls::Config;
use super::changes::Settings;
use super::{parse, tags};
use crate::boot::plan::{mac_of, mac_text};
use crate::config::{Cluster, NodeSpec};

/// The disk that grows to the node's size.
pub const DISK: &str = "scsi0";
/// The network card.
pub const CARD: &str = "net0";
/// Where a drive with a join secret is put.
pub const DRIVE: &str = "ide3";

/// The settings of a node's VM beyond those of its template, in the order they are sent.
pub fn settings(cluster: &Cluster, node: &NodeSpec, template: &Config) -> Settings {
    let network = &cluster.network;
    let servers: Vec<_> = network.nameservers.iter().map(ToString::to_string).collect();
    let mut all = vec![
        ("cores", node.vm.cores.to_string()),
        ("memory", node.vm.memory.mib_ceil().to_string()),
        ("cpu", node.vm.cpu.clone()),
        (CARD, card(cluster, node)),
        (
            "ipconfig0",
            format!("ip={}/{},gw={}", node.address, network.cidr.prefix(), network.gateway),
        ),
        ("nameserver", servers.join(" ")),
        ("searchdomain", cluster.domain.to_string()),
        ("ciupgrade", "0".to_owned()),
        ("tags", tags::text(&with_name(template.tags(), node))),
    ];
    if !cluster.proxmox.ssh_keys.is_empty() {
        all.push(("sshkeys", percent(&cluster.proxmox.ssh_keys.join("\n"))));
    }
    all.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// A card of the node's own address: Proxmox gives every clone a new one, and with it another lease
/// and another name for what the node is (traps J6).
fn card(cluster: &Cluster, node: &NodeSpec) -> String {
    let mac = mac_text(mac_of(cluster.name.as_str(), &node.name)).to_uppercase();
    format!("virtio={mac},bridge={}", cluster.proxmox.bridge)
}

fn with_name(mut all: BTreeSet<String>, node: &NodeSpec) -> BTreeSet<String> {
    all.retain(|tag| tags::node_of(tag).is_none());
    all.insert(tags::of_node(&node.name));
    all
}

/// Whether everything of [`settings`] stands there, and the disk has its size.
pub fn is_configured(cluster: &Cluster, node: &NodeSpec, config: &Config) -> bool {
    let all = settings(cluster, node, config);
    let disk = parse::drive_size(config.get(DISK)).unwrap_or(0);
    all.iter().all(|(key, value)| super::changes::is_set(config, key, value))
        && disk >= node.vm.disk.bytes()
}

/// Whether the card's cable is in.
pub fn is_linked(config: &Config) -> bool {
    let pulled = |part: &str| part.strip_prefix("link_down=").is_some_and(parse::flag_of);
    !config.get(CARD).split(',').any(pulled)
}

/// The card with its cable in or out.
pub fn with_link(config: &Config, linked: bool) -> String {
    let parts = config.get(CARD).split(',').filter(|part| !part.starts_with("link_down="));
    let mut card = parts.collect::<Vec<_>>().join(",");
    if !linked {
        card += ",link_down=1";
    }
    card
}

/// Percent-encoded as Proxmox wants keys to be, once: the form encodes it once more.
fn percent(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Project;
    use std::path::Path;

    fn project() -> Project {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config/valid");
        let mut project = Project::load(&root).unwrap();
        project.cluster.proxmox.ssh_keys =
            vec!["ssh-ed25519 AA+/= me@x".into(), "ssh-rsa B".into()];
        project
    }

    #[test]
    fn a_clone_becomes_the_node_of_the_clusters_file() {
        let project = project();
        let (cluster, node) = (&project.cluster, &project.cluster.nodes[1]);
        let tags = "cluster-lab;img-worker-000000000001;node-old;node-image";
        let template = Config([("tags".to_owned(), tags.to_owned())].into());
        let all = settings(cluster, node, &template);
        let lines: Vec<_> = all.iter().map(|(k, v)| format!("{k}: {v}")).collect();
        insta::assert_snapshot!(lines.join("\n"));
        let mut made = Config(all.into_iter().collect());
        assert!(!is_configured(cluster, node, &made), "the disk has no size yet");
        made.0.insert(DISK.into(), format!("x,size={}", node.vm.disk.bytes()));
        assert!(is_configured(cluster, node, &made));
        made.0.insert("memory".into(), "1".into());
        assert!(!is_configured(cluster, node, &made));
    }

    #[test]
    fn a_cable_is_pulled_and_put_back() {
        let config = |card: &str| Config([(CARD.to_owned(), card.to_owned())].into());
        let card = "virtio=BC:24:11:00:00:01,bridge=vmbr0";
        assert!(is_linked(&config(card)));
        let pulled = with_link(&config(card), false);
        assert_eq!(pulled, format!("{card},link_down=1"));
        assert!(!is_linked(&config(&pulled)));
        assert_eq!(with_link(&config(&pulled), false), pulled);
        assert_eq!(with_link(&config(&pulled), true), card);
    }
}
