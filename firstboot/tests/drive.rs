//! The join secret on a drive of its own label: read when it is there, never waited for, taken once.

#![allow(clippy::unwrap_used, reason = "a test ends at what cannot be")]

mod node;

use ::node::join::Bootstrap;
use ::node::report::State;
use node::Node;

const LINK: &str = "dev/disk/by-label/FIRSTBOOT";
const PERMISSION: &str = "var/lib/firstboot/may-initialise";

/// Puts a drive with this payload into the VM. What stands for `mount` copies it, as a test has no
/// devices.
fn insert(node: &Node, payload: &[u8]) {
    node.put(LINK, "");
    ::node::files::ensure_file(&node.path("iso/payload"), payload, 0o444).unwrap();
    node.stub("mount", "eval last=\\${$#}; cp \"$ROOT/iso/payload\" \"$last\"");
    node.stub("umount", "rm \"$1/payload\"");
}

#[test]
fn the_drive_is_read_once_and_an_old_permission_on_it_does_not_come_back() {
    let node = Node::master();
    insert(&node, &node.join().encode().unwrap());
    let ran = node.run(&["host"]);
    assert_eq!((ran.code, node.report().state), (0, State::Starting), "{}", ran.stderr);
    assert!(ran.stderr.contains("stored, from the drive"), "{}", ran.stderr);
    let calls = node.calls();
    let mount = "mount -t iso9660 -o ro,nosuid,nodev,noexec ";
    assert!(calls[0].starts_with(mount) && calls[1].starts_with("umount "), "{calls:?}");
    assert!(!node.path("run/firstboot/join/drive/payload").exists());
    // The cluster stands, the permission is used up, and the drive is still there.
    node.put("var/lib/rancher/k3s/server/db/etcd/member/snap/db", "");
    fs_err::remove_file(node.path(PERMISSION)).unwrap();
    node.boot("2");
    let before = node.lasting(true);
    assert_eq!(node.run(&["host"]).code, 0);
    assert!(node.get(PERMISSION).is_none());
    assert!(!node.get("etc/rancher/k3s/config.yaml.d/50-node.yaml").unwrap().contains("init"));
    node.boot("3");
    let second = node.lasting(true);
    assert_ne!(before, second, "cluster-init is gone from K3s' configuration");
    assert_eq!(node.run(&["host"]).code, 0);
    assert_eq!(node.lasting(true), second, "a drive that was taken changes nothing");
}

#[test]
fn absent_broken_and_contradictory_are_told_apart_there_too() {
    let node = Node::worker();
    assert_eq!(node.run(&["host"]).code, 0);
    assert_eq!(node.report().failure.unwrap().cause, "no join secret");
    assert!(node.calls().is_empty(), "nothing is mounted when there is no drive");

    let whole = node.join().encode().unwrap();
    insert(&node, &whole[..whole.len() / 2]);
    assert_eq!((node.run(&["host"]).code, node.report().state), (0, State::Waiting));
    let cause = node.report().failure.unwrap().cause;
    assert!(cause.starts_with("the join secret on the drive FIRSTBOOT is incomplete: "), "{cause}");

    insert(&node, b"token=x\n");
    assert_eq!(node.run(&["host"]).code, 1);
    let cause = node.report().failure.unwrap().cause;
    assert!(cause.starts_with("the join secret on the drive FIRSTBOOT is broken: "), "{cause}");

    node.stub("mount", "echo 'wrong fs type' >&2; exit 32");
    assert_eq!(node.run(&["host"]).code, 1);
    let cause = node.report().failure.unwrap().cause;
    assert!(cause.starts_with("failed to read the join secret on the drive FIRSTBOOT"), "{cause}");
    assert!(cause.contains("wrong fs type"), "{cause}");

    insert(&node, &whole);
    assert_eq!(node.run(&["host"]).code, 0);
    node.put("var/lib/rancher/k3s/agent/client-kubelet.crt", "");
    let mut other = node.join();
    other.token.push('2');
    insert(&node, &other.encode().unwrap());
    assert_eq!(node.run(&["host"]).code, 1);
    let cause = node.report().failure.unwrap().cause;
    let want =
        "the join secret on the drive FIRSTBOOT contradicts /etc/rancher/k3s/secrets/agent-token";
    assert!(cause.starts_with(want), "{cause}");
    // A drive that cannot be read keeps no node down that has its secret.
    node.stub("mount", "exit 32");
    assert_eq!(node.run(&["host"]).code, 0);
}

#[test]
fn what_the_guest_agent_brings_comes_before_the_drive() {
    let node = Node::master();
    let mut on_drive = node.join();
    on_drive.bootstrap = Bootstrap::No;
    insert(&node, &on_drive.encode().unwrap());
    node.give_secret();
    assert_eq!(node.run(&["host"]).code, 0);
    assert!(node.get(PERMISSION).is_some());
}
