//! Trees and configurations for the unit tests.

use std::net::Ipv4Addr;

use node::config::{Birth, NodeConfig, NodeFact, Role};
use tempfile::TempDir;

use crate::boot::{Boot, Machine};

/// A boot of the agent `k3s-worker-01` on a temporary tree.
pub fn agent() -> (TempDir, Boot) {
    boot("agent", "k3s-worker-01")
}

/// A boot of the only server, `k3s-master`.
pub fn server() -> (TempDir, Boot) {
    boot("server", "k3s-master")
}

/// Writes a file of the boot's tree.
pub fn put(boot: &Boot, path: &str, text: &str) {
    node::files::ensure_file(&boot.path(path), text.as_bytes(), 0o644).unwrap();
}

/// A file of the boot's tree, if it is there.
pub fn get(boot: &Boot, path: &str) -> Option<String> {
    fs_err::read_to_string(boot.path(path)).ok()
}

/// A boot of `k3s-m1`, the first of three servers.
pub fn servers() -> (TempDir, Boot) {
    let (dir, mut boot) = boot("server", "k3s-m1");
    let server = |n: u8| NodeFact {
        name: format!("k3s-m{n}").parse().unwrap(),
        address: Ipv4Addr::new(127, 0, 0, n),
        role: Role::Server,
    };
    boot.config.cluster.nodes = (1..=3).map(server).collect();
    boot.config.cluster.birth = Birth::from([("cluster-cidr".into(), "10.42.0.0/16".into())]);
    (dir, boot)
}

fn boot(role: &str, name: &str) -> (TempDir, Boot) {
    let dir = tempfile::tempdir().unwrap();
    let put = |path: &str, text: &str| {
        node::files::ensure_file(&dir.path().join(path), text.as_bytes(), 0o644).unwrap();
    };
    put(node::config::PATH, &config(role));
    put("proc/sys/kernel/hostname", name);
    put("proc/sys/kernel/random/boot_id", "boot-1");
    let _: NodeConfig = serde_json::from_str(&config(role)).unwrap();
    let wait = std::time::Duration::from_millis(20);
    let machine = Machine::open(dir.path().to_owned(), Some(wait));
    let boot = Boot::open(machine).unwrap();
    (dir, boot)
}

fn config(role: &str) -> String {
    let profile = if role == "server" { "master" } else { "worker" };
    serde_json::json!({
        "schema": 1,
        "image_id": format!("{profile}-0123456789ab"),
        "built_at": 1_789_200_000,
        "role": role,
        "k3s_version": "v1.36.4+k3s1",
        "labels": {"node.homelab/class": "general"},
        "taints": ["dedicated=dev:NoSchedule"],
        "cluster": {
            "name": "home", "domain": "home.example.net", "api": "127.0.0.1",
            "network": "127.0.0.0/8", "gateway": "127.0.0.254",
            "nodes": [
                {"name": "k3s-master", "address": "127.0.0.1", "role": "server"},
                {"name": "k3s-worker-01", "address": "127.0.0.1", "role": "agent"},
            ],
        },
    })
    .to_string()
}
